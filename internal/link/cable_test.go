package link

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// write is what one Write brought.
type write struct {
	at    time.Time // of its end
	bytes []byte
}

var (
	pingreq  = []byte{0xC0, 0}
	pingresp = []byte{0xD0, 0}
)

// cable is a connection in memory whose other end is the test: it says what each Read brings and how much each Write
// gets rid of. Its waits are durable in the sense of testing/synctest.
type cable struct {
	mu       sync.Mutex
	changed  *sync.Cond
	incoming [][]byte // one for each Read
	eof      bool     // the server has closed
	room     int      // how many bytes the server takes, or unlimited
	writes   []write
	gaveUp   bool   // Write waits no longer
	answers  bool   // every PINGREQ gets a PINGRESP
	onWrite  func() // called by every Write before it begins; nil: nothing
	closed   bool
	halved   bool // CloseWrite was called
}

const unlimited = 1 << 30

func newCable() *cable {
	w := &cable{room: unlimited}
	w.changed = sync.NewCond(&w.mu)
	return w
}

// change does f and lets those who wait look again.
func (w *cable) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.changed.Broadcast()
}

// feed lets each Read bring one of the chunks.
func (w *cable) feed(chunks ...[]byte) {
	w.change(func() { w.incoming = append(w.incoming, chunks...) })
}

// hangUp closes the server's end.
func (w *cable) hangUp() { w.change(func() { w.eof = true }) }

// limit lets the server take n bytes from now on.
func (w *cable) limit(n int) { w.change(func() { w.room = n }) }

// take lets the server take n more bytes.
func (w *cable) take(n int) { w.change(func() { w.room += n }) }

// answer says whether PINGREQs are answered from now on.
func (w *cable) answer(pings bool) { w.change(func() { w.answers = pings }) }

// written returns the writes since the last call.
func (w *cable) written() []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	writes := w.writes
	w.writes = nil
	return writes
}

func (w *cable) Read(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.closed:
			return 0, net.ErrClosed
		case len(w.incoming) > 0:
			n := copy(b, w.incoming[0])
			if w.incoming[0] = w.incoming[0][n:]; len(w.incoming[0]) == 0 {
				w.incoming = w.incoming[1:]
			}
			return n, nil
		case w.eof:
			return 0, io.EOF
		}
		w.changed.Wait()
	}
}

func (w *cable) Write(b []byte) (n int, err error) {
	w.mu.Lock()
	onWrite := w.onWrite
	w.mu.Unlock()
	if onWrite != nil {
		onWrite()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.writes = append(w.writes, write{time.Now(), bytes.Clone(b[:n])}) }()
	for {
		k := min(w.room, len(b)-n)
		w.room -= k
		n += k
		switch {
		case w.closed || w.halved:
			return n, net.ErrClosed
		case n == len(b):
			if w.answers && bytes.HasSuffix(b, pingreq) {
				w.incoming = append(w.incoming, pingresp)
				w.changed.Broadcast()
			}
			return n, nil
		case w.gaveUp:
			return n, os.ErrDeadlineExceeded
		}
		w.changed.Wait()
	}
}

// giveUp ends the Writes that wait for the server.
func (w *cable) giveUp() { w.change(func() { w.gaveUp = true }) }

func (w *cable) Close() error {
	w.change(func() { w.closed = true })
	return nil
}

func (w *cable) CloseWrite() error {
	w.change(func() { w.halved = true })
	return nil
}

func (w *cable) LocalAddr() net.Addr              { return nil }
func (w *cable) RemoteAddr() net.Addr             { return nil }
func (w *cable) SetDeadline(time.Time) error      { return nil }
func (w *cable) SetReadDeadline(time.Time) error  { return nil }
func (w *cable) SetWriteDeadline(time.Time) error { return nil }

// ends reports whether the link has closed the connection, and whether it has closed its direction.
func (w *cable) ends() (closed, halved bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed, w.halved
}

// received is a packet that the handler got.
type received struct {
	header codec.Header
	body   string
}

// owner is what a link serves: the mutex and a handler that writes down what comes.
type owner struct {
	mu        sync.Mutex
	packets   []received
	oversized []received
	flushes   int
	rooms     int
	refused   int
	idle      int
	awaiting  bool                                    // something is to be acknowledged; with mu held
	onPacket  func(h codec.Header, body []byte) error // nil: nothing more; with mu held
	onRoom    func()                                  // nil: nothing more; with mu held
}

func (o *owner) Packet(h codec.Header, body []byte) error {
	o.packets = append(o.packets, received{h, string(body)})
	if o.onPacket != nil {
		return o.onPacket(h, body)
	}
	return nil
}

func (o *owner) Oversized(h codec.Header, start []byte) error {
	o.oversized = append(o.oversized, received{h, string(start)})
	return nil
}

func (o *owner) Flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushes++
}

func (o *owner) Refused() { o.refused++ }
func (o *owner) Idle()    { o.idle++ }

func (o *owner) Awaiting() bool { return o.awaiting }

func (o *owner) Room() {
	o.rooms++
	if o.onRoom != nil {
		o.onRoom()
	}
}

// got returns the packets that came since the last call.
func (o *owner) got() []received {
	o.mu.Lock()
	defer o.mu.Unlock()
	packets := o.packets
	o.packets = nil
	return packets
}

// patience is the Patience of the links in tests.
const patience = 10 * time.Second

// station is a link that runs, with both its ends.
type station struct {
	*Link
	t     *testing.T
	cable *cable
	owner *owner
	began time.Time
}

// newStation returns a link that has not been started.
func newStation(t *testing.T, config Config) *station {
	s := &station{t: t, cable: newCable(), owner: new(owner), began: time.Now()}
	if config.Version == 0 {
		config.Version = codec.V5
	}
	if config.Patience == 0 {
		config.Patience = patience
	}
	s.Link = New(s.cable, &s.owner.mu, config)
	return s
}

func start(t *testing.T, config Config, keepAlive time.Duration) *station {
	s := newStation(t, config)
	s.Start(s.owner, keepAlive)
	return s
}

// send appends packets as an owner does.
func (s *station) send(packets ...[]byte) {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	for _, p := range packets {
		s.Commit(append(s.Buffer(), p...))
	}
}

func (s *station) finish(cause error, packet []byte) {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	s.Finish(cause, packet)
}

// stop closes the link and waits for its end.
func (s *station) stop() {
	s.Close(nil)
	_ = s.Wait()
}

// at waits until so much time has passed since the station was made.
func (s *station) at(d time.Duration) { time.Sleep(time.Until(s.began.Add(d))) }

// silent is a handler that does nothing.
type silent struct{}

func (silent) Packet(codec.Header, []byte) error    { return nil }
func (silent) Oversized(codec.Header, []byte) error { return nil }
func (silent) Flush()                               {}
func (silent) Room()                                {}
func (silent) Refused()                             {}
func (silent) Idle()                                {}
func (silent) Awaiting() bool                       { return false }
