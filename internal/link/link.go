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
)

// Farewell is how long the last packet of a link may take to go out.
const Farewell = time.Second

// lastWord is how long the server's last packets may take to come when it takes no more of ours.
const lastWord = 250 * time.Millisecond

// never is a duration after which nothing happens.
const never = time.Duration(1<<63 - 1)

var (
	// ErrServerSilent ends a connection on which the server neither answered a PINGREQ nor took a byte in time.
	ErrServerSilent = errors.New("the server is silent")
	// ErrServerClosed ends a connection that the server closed.
	ErrServerClosed = errors.New("the server closed the connection")
)

// Config says how a link behaves. It does not change while the link lives.
type Config struct {
	Version codec.Version
	// MaximumPacketSize bounds packets from the server, in bytes; 0: no bound.
	MaximumPacketSize int
	// Patience is how long the server may take to answer a PINGREQ.
	Patience time.Duration
	// Trace, if it is not nil, is called with every packet, without the mutex: before it is written, and before the handler
	// gets it. It is called by the goroutine that reads or writes.
	Trace func(sent bool, h codec.Header, packet []byte)
}

// Handler takes what a link receives. Its methods are called by the link's reader and writer.
type Handler interface {
	// Packet takes one packet, with the mutex held; body is good until it returns. It may release the mutex in
	// between. An error ends the link.
	Packet(h codec.Header, body []byte) error
	// Oversized takes the start of a PUBLISH that exceeds MaximumPacketSize, at least its topic name and packet
	// identifier, with the mutex held. The rest is thrown away. An error ends the link.
	Oversized(h codec.Header, start []byte) error
	// Flush comes after some calls of Packet, without the mutex.
	Flush()
	// Room is called with the mutex held when the writer has taken a buffer for which Full had said yes.
	Room()
	// Idle is called with the mutex held when nothing has been sent, or nothing received, for the keep alive interval.
	Idle()
	// Refused is called with the mutex held when the link ends itself over a packet that breaks the specification. Nothing
	// that is appended goes out any more.
	Refused()
}

// Link is one connection.
type Link struct {
	conn    net.Conn
	mu      *sync.Mutex // the owner's; guards the fields marked with mu
	config  Config
	handler Handler   // set by Start
	began   time.Time // times below count from here

	// Owned by the goroutine that runs the handshake, then by the reader.
	in   readBuffer
	need int // length of the packet that has come in part; 0: not known
	skip int // bytes of an oversized packet to throw away

	out        *writeBuffer  // mu; packets that wait for the writer; nil: none
	full       bool          // mu; Full said yes since the writer took a buffer
	answers    int           // mu; bytes that the handler has appended to out
	taken      chan struct{} // mu; closed when the writer takes the buffer; nil: nobody waits for that
	written    chan struct{} // mu; closed when out is written; nil: nobody waits for that
	writing    bool          // mu; the writer has taken a buffer and not written it yet
	underWay   chan struct{} // mu; closed when that buffer is written; nil: nobody waits for that
	last       bool          // mu; Finish was called
	pings      []ping        // mu; PINGREQs without PINGRESP, oldest first
	pingsTaken int           // mu; how many of pings the writer has taken

	// Owned by the writer.
	spare     *writeBuffer
	keepAlive time.Duration // set by Start; 0: off
	lastSent  time.Duration // when the latest bytes were written
	tickAt    time.Duration // there is nothing to do for tick before

	ear      ear
	bytesIn  atomic.Uint64
	bytesOut atomic.Uint64

	kick       chan struct{} // capacity 1: out has something for the writer
	ended      chan struct{} // closed by the first Finish or Close
	closing    chan struct{} // closed by the first Close
	goroutines sync.WaitGroup
	endOnce    sync.Once
	closeOnce  sync.Once
	cause      error // written before ended is closed
}

// New returns a link over conn, on which a Write fails with os.ErrDeadlineExceeded when the server has accepted no byte
// for too long. Until Start the link belongs to one goroutine, which runs the handshake with Write and ReadPacket.
func New(conn net.Conn, mu *sync.Mutex, config Config) *Link {
	return &Link{
		conn: conn, mu: mu, config: config,
		began:   time.Now(),
		kick:    make(chan struct{}, 1),
		ended:   make(chan struct{}),
		closing: make(chan struct{}),
	}
}

// Start begins reading and writing. A PINGREQ is due when nothing was sent, or nothing received, for keepAlive; 0:
// never.
func (l *Link) Start(h Handler, keepAlive time.Duration) {
	l.handler, l.keepAlive = h, keepAlive
	l.goroutines.Go(l.read)
	l.goroutines.Go(l.write)
}

// Ended is closed when the link is of no more use: it was closed, or its last packet is on the way out.
func (l *Link) Ended() <-chan struct{} { return l.ended }

// Close ends the link at once. The cause counts if it is the first. It does not wait and may be called at any time.
func (l *Link) Close(cause error) {
	l.end(cause)
	l.closeOnce.Do(func() { close(l.closing) })
}

func (l *Link) end(cause error) {
	l.endOnce.Do(func() {
		l.cause = cause
		close(l.ended)
	})
}

// Wait waits until the link has ended, closes the connection and returns the cause when both goroutines are gone.
// Exactly one goroutine must call it.
func (l *Link) Wait() error {
	<-l.ended
	farewell := time.NewTimer(Farewell)
	defer farewell.Stop()
	select {
	case <-l.closing:
	case <-farewell.C:
		l.Close(nil)
	}
	l.conn.Close()
	l.goroutines.Wait()
	return l.cause
}

// Bytes returns how many bytes were read and written.
func (l *Link) Bytes() (in, out uint64) { return l.bytesIn.Load(), l.bytesOut.Load() }

// The methods below are called with the mutex held.

// Buffer returns the buffer to append packets to; Commit must follow.
func (l *Link) Buffer() []byte {
	if l.out == nil {
		l.out = writeBuffers.Get().(*writeBuffer)
	}
	return l.out.bytes
}

// Commit takes the buffer back, with what was appended, and wakes the writer.
func (l *Link) Commit(b []byte) {
	if l.last || len(b) == len(l.out.bytes) {
		return // after Finish nothing goes out any more [MQTT-3.14.4-1]
	}
	first := len(l.out.bytes) == 0
	l.out.bytes = b
	if first {
		l.wake() // for what follows the writer has been woken, and not taken the buffer yet
	}
}

func (l *Link) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Full reports whether so much waits for the writer that only acknowledgements and the like should be appended. After
// it was true, the handler's Room tells when there is room.
func (l *Link) Full() bool {
	if l.out != nil && len(l.out.bytes) >= bufferBound {
		l.full = true
	}
	return l.full
}

// Written returns a channel that is closed when everything that was appended by now is written. If the link ends before,
// it need not be.
func (l *Link) Written() <-chan struct{} {
	var done *chan struct{}
	switch {
	case l.out != nil && len(l.out.bytes) > 0:
		done = &l.written
	case l.writing:
		done = &l.underWay
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
// is written, or after Farewell.
// [MQTT-3.14.4-1] [MQTT-4.13.2-1] [MQTT311-3.14.4-2]
func (l *Link) Finish(cause error, packet []byte) {
	if l.last {
		return
	}
	l.Commit(append(l.Buffer(), packet...))
	l.last = true
	l.wake()
	l.end(cause)
}

// Finishing reports whether Finish was called: nothing that is appended goes out any more.
func (l *Link) Finishing() bool { return l.last }
