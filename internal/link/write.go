package link

import (
	"errors"
	"net"
	"os"
	"runtime"
	"time"
)

// Write writes b, before Start.
func (l *Link) Write(b []byte) error {
	l.traceOut(b)
	return l.writeAll(b)
}

// write is the writer: it writes what was appended, and it sends a PINGREQ when one is due.
func (l *Link) write() {
	err := l.transmit()
	if err == nil {
		err = l.closeWrite()
	} else {
		l.awaitLastWord(err)
	}
	if err != nil {
		l.Close(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.releaseBuffers()
}

// awaitLastWord lets the reader get to a DISCONNECT that says why the server takes nothing any more: then that is the
// cause, and not the failed write.
func (l *Link) awaitLastWord(err error) {
	if errors.Is(err, ErrServerSilent) {
		return
	}
	patience := time.NewTimer(lastWord)
	defer patience.Stop()
	select {
	case <-l.closing:
	case <-patience.C:
	}
}

// transmit returns nil when the last packet is out.
func (l *Link) transmit() error {
	timer := time.NewTimer(never)
	defer timer.Stop()
	for {
		if err := l.await(timer); err != nil {
			return err
		}
		// Goroutines that were woken by the same acknowledgements get to append their next packets first: this single
		// yield halves the time per message with many publishers, and costs a lone one nothing.
		runtime.Gosched()
		out, last := l.take()
		l.traceOut(out)
		if err := l.writeAll(out); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
}

// await waits until there is something to write.
func (l *Link) await(timer *time.Timer) error {
	select {
	case <-l.closing:
		return net.ErrClosed
	default:
	}
	if l.lastSent >= l.tickAt { // a writer that never rests sees to it in passing
		if err := l.tick(); err != nil {
			return err
		}
	}
	select {
	case <-l.kick:
		return nil
	default:
	}
	for {
		timer.Reset(l.rest())
		select {
		case <-l.kick:
			return nil
		case <-timer.C:
			if err := l.tick(); err != nil {
				return err
			}
		case <-l.closing:
			return net.ErrClosed
		}
	}
}

// rest returns how long the writer may rest. Buffers in which nothing waits are kept for a moment, because a busy link
// wants them again at once, and then given back.
func (l *Link) rest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote()
	now := time.Since(l.began)
	l.tickAt = l.nextTick(now)
	wait := l.tickAt - now
	if l.out != nil && len(l.out.bytes) > 0 || l.out == nil && l.spare == nil {
		return wait
	}
	if idle := now - l.lastSent; idle < bufferRest {
		return min(wait, bufferRest-idle)
	}
	l.releaseBuffers()
	return wait
}

func (l *Link) releaseBuffers() {
	l.out.release()
	l.spare.release()
	l.out, l.spare = nil, nil
}

// take swaps the buffers.
func (l *Link) take() (out []byte, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote()
	l.writing, l.underWay, l.written = true, l.written, nil
	l.pingsTaken = len(l.pings)
	l.out, l.spare = l.spare.emptied(), l.out
	l.answers = 0
	if l.taken != nil {
		close(l.taken)
		l.taken = nil
	}
	if l.full {
		l.full = false
		l.handler.Room()
	}
	if l.spare == nil {
		return nil, l.last
	}
	return l.spare.bytes, l.last
}

// writeAll writes b. It is the connection that gives up when not a single byte is accepted for too long, however long
// the whole takes.
func (l *Link) writeAll(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := l.conn.Write(b)
	l.bytesOut.Add(uint64(n))
	if n > 0 {
		l.lastSent = time.Since(l.began)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrServerSilent
	}
	return err
}

// closeWrite tells the server that no more will come. The reader goes on until the server has closed: closing while
// bytes from the server are unread could destroy our last ones on their way.
// [MQTT-3.14.4-2] [MQTT311-3.14.4-1]
func (l *Link) closeWrite() error {
	conn, ok := l.conn.(interface{ CloseWrite() error })
	if !ok {
		return ErrServerClosed
	}
	return conn.CloseWrite()
}
