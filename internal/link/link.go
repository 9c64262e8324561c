// Package link drives one live connection: it reads and frames packets, gathers outgoing packets into few writes and
// keeps the connection alive. It knows packets only by their headers; what they mean is its owner's business.
//
// A link has two goroutines, a reader and a writer. It shares its owner's mutex: the owner changes its own state and
// appends the packet that follows from it in one critical section, so that the order on the wire is the order of the
// state. The mutex is never held over I/O.
package link

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/wire"
)

// answerBound is how many bytes of answers to the server may wait, beyond wire.Bound. A server that sends and does not
// read must not fill our memory: the reader then waits for the writer.
const answerBound = 16 << 20

// lastWord is how long the link waits for the last packets of a server that accepts nothing any more.
const lastWord = 250 * time.Millisecond

// never is a duration after which nothing happens.
const never = time.Duration(1<<63 - 1)

var (
	// ErrServerSilent ends a connection on which the server did not answer a PINGREQ, or did not accept a byte, in time.
	ErrServerSilent = errors.New("the server is silent")
	// ErrServerClosed ends a connection that the server closed.
	ErrServerClosed = errors.New("the server closed the connection")
)

// Config says how a link behaves. It does not change while the link lives.
type Config struct {
	Version codec.Version
	// MaximumPacketSize bounds packets from the server, in bytes; 0: no bound.
	MaximumPacketSize int
	// Patience is how long the server may take to answer a PINGREQ; 0: half the keep alive interval, from 2 s to 10 s.
	Patience time.Duration
	// Trace, if it is not nil, is called with every packet, without the mutex: before it is written, and before the handler
	// gets it. It is called by the goroutine that reads or writes.
	Trace func(sent bool, h codec.Header, packet []byte)
}

// Handler takes what a link receives. Its methods are called by the link's reader and writer.
type Handler interface {
	// Packet takes one packet. The caller holds mu. body is good until Packet returns. Packet may release mu in between.
	// An error ends the link.
	Packet(h codec.Header, body []byte) error
	// Oversized takes the start of a PUBLISH that exceeds MaximumPacketSize, at least its topic name and packet
	// identifier. The rest is thrown away. The caller holds mu. An error ends the link.
	Oversized(h codec.Header, start []byte) error
	// Flush is called after some calls of Packet, without mu.
	Flush()
	// Room is called when the writer has taken a buffer for which Full was true. The caller holds mu.
	Room()
	// Idle is called when nothing was sent, or nothing received, for the keep alive interval. The caller holds mu.
	Idle()
	// Awaiting reports whether the server has something to acknowledge. The caller holds mu.
	Awaiting() bool
	// Refused is called when the link ends because of a packet that breaks the specification: what is appended from now on
	// is not sent. The caller holds mu.
	Refused()
}

// Link is one connection.
type Link struct {
	conn    net.Conn
	mu      *sync.Mutex // the owner's; guards the fields marked with mu
	config  Config
	handler Handler   // set by Start
	began   time.Time // times of type time.Duration count from here

	in    incoming
	out   outgoing
	alive keepAlive
	end   end

	goroutines sync.WaitGroup
}

// incoming is what the reader works with.
type incoming struct {
	wire.Reader // owned by the goroutine that runs the handshake, then by the reader
	ear         ear
	came        time.Duration // when the latest bytes came; owned as Reader is
	bytes       atomic.Uint64
}

// outgoing is what the writer works with.
type outgoing struct {
	wire.Writer               // mu
	answers     int           // mu; bytes that the handler has appended and the writer has not taken
	taken       chan struct{} // mu; closed when the writer takes what waits; nil: the reader does not wait for that
	written     chan struct{} // mu; closed when what waits is written; nil: nobody waits for that
	underWay    chan struct{} // mu; closed when what the writer has taken is written; nil: nobody waits for that
	kick        chan struct{} // capacity 1: there is something to take
	bytes       atomic.Uint64
}

// end is how a link ends.
type end struct {
	cause     error         // written before began is closed
	began     chan struct{} // closed by the first Finish or Close
	closing   chan struct{} // closed by the first Close
	beginOnce sync.Once
	closeOnce sync.Once
}

// begin keeps the first cause.
func (e *end) begin(cause error) {
	e.beginOnce.Do(func() {
		e.cause = cause
		close(e.began)
	})
}

// New returns a link over conn, on which a Write fails with os.ErrDeadlineExceeded when the server has accepted no byte
// for too long. Until Start the link belongs to one goroutine, which runs the handshake with Write and ReadPacket.
func New(conn net.Conn, mu *sync.Mutex, config Config) *Link {
	rule := "MQTT-3.1.2-24"
	if config.Version < codec.V5 {
		rule = "2.2.3" // which has no limit except its own: the limit is the application's
	}
	return &Link{
		conn: conn, mu: mu, config: config,
		began: time.Now(),
		in:    incoming{Reader: wire.Reader{Version: config.Version, Limit: config.MaximumPacketSize, LimitRule: rule}},
		out:   outgoing{Writer: wire.Writer{Bound: wire.Bound}, kick: make(chan struct{}, 1)},
		alive: keepAlive{asked: notAsked},
		end:   end{began: make(chan struct{}), closing: make(chan struct{})},
	}
}

// Start begins reading and writing. A PINGREQ is due when nothing was sent, or nothing received, for keepAlive; 0:
// never.
func (l *Link) Start(h Handler, keepAlive time.Duration) {
	l.handler, l.alive.interval, l.alive.patience = h, keepAlive, l.config.patience(keepAlive)
	if l.config.Version < codec.V5 { // which cannot announce a limit
		l.in.Oversized = l.oversized
	}
	l.goroutines.Go(l.read)
	l.goroutines.Go(l.write)
}

// Ended is closed when the link can send nothing more: it was closed, or its last packet was appended.
func (l *Link) Ended() <-chan struct{} { return l.end.began }

// Close ends the link at once. The cause counts if it is the first. It does not wait and may be called at any time.
func (l *Link) Close(cause error) {
	l.end.begin(cause)
	l.end.closeOnce.Do(func() { close(l.end.closing) })
}

// Wait waits until the link has ended, closes the connection and returns the cause when both goroutines are gone.
// Exactly one goroutine must call it.
func (l *Link) Wait() error {
	<-l.end.began
	farewell := time.NewTimer(wire.Farewell)
	defer farewell.Stop()
	select {
	case <-l.end.closing:
	case <-farewell.C:
		l.Close(nil)
	}
	l.conn.Close()
	l.goroutines.Wait()
	return l.end.cause
}

// Bytes returns how many bytes were read and written.
func (l *Link) Bytes() (in, out uint64) { return l.in.bytes.Load(), l.out.bytes.Load() }

// The caller of the methods below holds mu.

// Buffer returns the buffer to append packets to; Commit must follow.
func (l *Link) Buffer() []byte { return l.out.Buffer() }

// Commit takes the buffer back, with what was appended, and wakes the writer.
func (l *Link) Commit(b []byte) {
	if l.out.Commit(b) {
		l.wake() // for what follows the writer has been woken, and has not taken it yet
	}
}

func (l *Link) wake() {
	select {
	case l.out.kick <- struct{}{}:
	default:
	}
}

// Full reports whether so much waits for the writer that only acknowledgements and the like should be appended. After
// it was true, the handler's Room is called when there is room again.
func (l *Link) Full() bool { return l.out.Full() }

// Written returns a channel that is closed when everything that was appended by now is written. If the link ends before,
// it need not be.
func (l *Link) Written() <-chan struct{} {
	var done *chan struct{}
	switch {
	case l.out.Waiting() > 0:
		done = &l.out.written
	case l.out.Writing():
		done = &l.out.underWay
	default:
		nothing := make(chan struct{})
		close(nothing)
		return nothing
	}
	if *done == nil {
		*done = make(chan struct{})
	}
	return *done
}

// Finish ends the link with this cause after a last packet, a DISCONNECT: the link closes once all that was appended
// is written, or after wire.Farewell.
// [MQTT-3.14.4-1] [MQTT-4.13.2-1] [MQTT311-3.14.4-2]
func (l *Link) Finish(cause error, packet []byte) {
	if !l.out.Finish(packet) {
		return
	}
	l.wake()
	l.end.begin(cause)
}

// Finishing reports whether Finish was called: nothing that is appended goes out any more.
func (l *Link) Finishing() bool { return l.out.Finishing() }
