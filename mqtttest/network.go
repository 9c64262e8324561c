package mqtttest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// networkName is what the addresses of the in-memory network say.
const networkName = "mqtttest"

// window is how many bytes one direction of a connection holds before a writer waits for the reader, as in TCP.
const window = 64 << 10

// addr is the address of an end of a connection: a name.
type addr string

func (a addr) Network() string { return networkName }
func (a addr) String() string  { return string(a) }

// endpoint is one end of a connection of the in-memory network. It behaves like TCP. Its methods may be called concurrently.
type endpoint struct {
	in, out       *pipe // in is the peer's out
	local, remote addr
}

// shape is how a connection carries bytes. The zero shape lets all bytes through, at once.
type shape struct {
	fragment int           // the largest number of bytes that one Read of the client's end returns; 0 is no limit
	coalesce time.Duration // how long what arrives at the client's end is gathered
	rate     int           // bytes per second in each direction; 0 is no limit
}

// newConnection returns the two ends of a connection.
func newConnection(client, server addr, s shape) (clientEnd, serverEnd *endpoint) {
	up, down := newPipe(), newPipe()
	up.rate, down.rate = s.rate, s.rate
	down.fragment, down.coalesce = s.fragment, s.coalesce
	clientEnd = &endpoint{in: down, out: up, local: client, remote: server}
	serverEnd = &endpoint{in: up, out: down, local: server, remote: client}
	return clientEnd, serverEnd
}

func (e *endpoint) LocalAddr() net.Addr  { return e.local }
func (e *endpoint) RemoteAddr() net.Addr { return e.remote }

// Read implements net.Conn. The error is io.EOF once the peer has closed and all it wrote has been read.
func (e *endpoint) Read(b []byte) (int, error) {
	n, err := e.in.read(b)
	return n, e.opError("read", err)
}

// Write implements net.Conn. It waits while the peer leaves a window of bytes unread.
func (e *endpoint) Write(b []byte) (int, error) {
	n, err := e.out.write(b)
	return n, e.opError("write", err)
}

// Close implements net.Conn. The peer reads what was written before, then io.EOF.
func (e *endpoint) Close() error {
	e.out.closeWrite()
	return e.opError("close", e.in.closeRead())
}

// CloseWrite ends this direction only.
func (e *endpoint) CloseWrite() error {
	e.out.closeWrite()
	return nil
}

// reset breaks the connection at once: what is unread is lost, and both ends get an error.
func (e *endpoint) reset() {
	e.in.reset()
	e.out.reset()
}

// vanish makes the connection half-open: bytes, and the closing of either end, no longer reach the other end, and nobody is told.
func (e *endpoint) vanish() {
	e.in.vanish()
	e.out.vanish()
}

// throttle limits the connection to a rate, as in shape.
func (e *endpoint) throttle(rate int) {
	e.in.throttle(rate)
	e.out.throttle(rate)
}

// silent reports whether the peer, which could have, has written nothing for d. On a slow or broken connection nobody can say.
func (e *endpoint) silent(d time.Duration) bool {
	p := e.in
	p.mu.Lock()
	defer p.mu.Unlock()
	cannot := p.writerClosed || p.broken || p.vanished || p.writing || p.rate > 0
	return !cannot && time.Since(p.written) >= d
}

// SetDeadline implements net.Conn.
func (e *endpoint) SetDeadline(t time.Time) error {
	_ = e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (e *endpoint) SetReadDeadline(t time.Time) error {
	return e.opError("set", e.in.setDeadline(&e.in.readDeadline, t))
}

// SetWriteDeadline implements net.Conn.
func (e *endpoint) SetWriteDeadline(t time.Time) error {
	return e.opError("set", e.out.setDeadline(&e.out.writeDeadline, t))
}

func (e *endpoint) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: networkName, Source: e.local, Addr: e.remote, Err: err}
}

// pipe carries bytes in one direction. Its lock is never held while something waits, except by the condition, so that its waits
// are durable in the sense of testing/synctest.
type pipe struct {
	fragment int           // limit of one read, 0 is none; not changed after the pipe is in use
	coalesce time.Duration // the same

	mu      sync.Mutex
	changed sync.Cond // a field below has changed; its L is &mu
	unread  []byte    // at most window bytes
	spare   []byte    // the whole buffer that unread lies in
	writing bool      // a write is under way: others wait, so that writes do not mix
	written time.Time // the start of the latest write
	rate    int       // bytes per second, 0 is no limit
	ready   time.Time // unread can be read from then on; zero: always
	wake    *time.Timer

	writerClosed, readerClosed  bool
	broken                      bool // reset
	vanished                    bool // half-open
	readDeadline, writeDeadline deadline
}

func newPipe() *pipe {
	p := new(pipe)
	p.changed.L = &p.mu
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.readerClosed:
			return 0, net.ErrClosed
		case p.broken:
			return 0, syscall.ECONNRESET
		case p.readDeadline.over():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case len(p.unread) > 0 && !p.ready.IsZero() && p.wakeWhenReady():
		case len(p.unread) > 0:
			return p.take(b), nil
		case p.writerClosed && !p.vanished:
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

// take moves unread bytes to b.
func (p *pipe) take(b []byte) int {
	if p.fragment > 0 && len(b) > p.fragment {
		b = b[:p.fragment]
	}
	if p.rate > 0 {
		b = b[:min(len(b), 1+p.rate/100)] // what comes in 10 ms
	}
	if len(p.unread) == window {
		p.changed.Broadcast()
	}
	n := copy(b, p.unread)
	p.unread = p.unread[n:]
	if p.rate > 0 {
		p.ready = time.Now().Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	}
	return n
}

// wakeWhenReady sees to it that a reader wakes up when unread can be read, and reports false if it can already.
func (p *pipe) wakeWhenReady() bool {
	left := time.Until(p.ready)
	if left > 0 && p.wake == nil {
		p.wake = time.AfterFunc(left, p.awake)
	}
	return left > 0
}

func (p *pipe) awake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake = nil
	p.changed.Broadcast()
}

func (p *pipe) throttle(rate int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.ready = rate, time.Time{}
	p.stopWake()
	p.changed.Broadcast()
}

func (p *pipe) stopWake() {
	if p.wake != nil {
		p.wake.Stop()
		p.wake = nil
	}
}

func (p *pipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.writing {
		if err := p.writeError(); err != nil {
			return 0, err
		}
		p.changed.Wait()
	}
	p.writing = true
	p.written = time.Now()
	defer func() {
		p.writing = false
		p.changed.Broadcast()
	}()
	for {
		if err := p.writeError(); err != nil {
			return n, err
		}
		n += p.put(b[n:])
		if n == len(b) {
			return n, nil
		}
		p.changed.Wait()
	}
}

// writeError says why nothing can be written.
func (p *pipe) writeError() error {
	switch {
	case p.writerClosed:
		return net.ErrClosed
	case p.broken:
		return syscall.ECONNRESET
	case p.readerClosed && !p.vanished:
		return syscall.EPIPE
	case p.writeDeadline.over():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// put takes as much of b as there is room for.
func (p *pipe) put(b []byte) int {
	if p.vanished {
		return len(b)
	}
	if len(p.unread) == 0 {
		p.unread = p.spare[:0]
		if p.coalesce > 0 && len(b) > 0 {
			p.ready = later(p.ready, time.Now().Add(p.coalesce))
		}
		p.changed.Broadcast()
	}
	n := min(len(b), window-len(p.unread))
	if cap(p.unread)-len(p.unread) < n && cap(p.spare)-len(p.unread) >= n {
		p.unread = append(p.spare[:0], p.unread...) // to the front of the buffer
	}
	grows := cap(p.unread)-len(p.unread) < n
	p.unread = append(p.unread, b[:n]...)
	if grows {
		p.spare = p.unread
	}
	return n
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// closeWrite ends the writing end. The reader gets the rest.
func (p *pipe) closeWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writerClosed = true
	p.writeDeadline.stop()
	p.changed.Broadcast()
}

// closeRead ends the reading end. It reports whether it had ended before.
func (p *pipe) closeRead() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readerClosed {
		return net.ErrClosed
	}
	p.readerClosed = true
	p.readDeadline.stop()
	p.discard()
	return nil
}

func (p *pipe) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vanished {
		return
	}
	p.broken = true
	p.discard()
}

func (p *pipe) vanish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writerClosed || p.readerClosed || p.broken {
		return
	}
	p.vanished = true
	p.discard()
}

// discard throws away what is unread, and wakes the goroutines that wait.
func (p *pipe) discard() {
	p.unread, p.spare = nil, nil
	p.stopWake()
	p.changed.Broadcast()
}

// setDeadline sets d, a deadline of this pipe.
func (p *pipe) setDeadline(d *deadline, t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d == &p.readDeadline && p.readerClosed || d == &p.writeDeadline && p.writerClosed {
		return net.ErrClosed
	}
	d.stop()
	d.at, d.passed = t, false
	if t.IsZero() {
		return nil
	}
	left := time.Until(t)
	if left <= 0 {
		p.changed.Broadcast()
		return nil
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if d.timer == timer {
			d.passed = true
			p.changed.Broadcast()
		}
	})
	d.timer = timer
	return nil
}

// deadline is a moment after which reads or writes fail. The pipe's lock guards it.
type deadline struct {
	at     time.Time   // zero: none
	timer  *time.Timer // sets passed, if it is still this one; nil: none
	passed bool        // says so even if the clock has been set back
}

// over reports whether the deadline has come. It does not wait for the timer, which may be about to run.
func (d *deadline) over() bool {
	return d.passed || !d.at.IsZero() && !time.Now().Before(d.at)
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
