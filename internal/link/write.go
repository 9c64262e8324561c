package link

import (
	"errors"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/wire"
)

// Write writes b, before Start.
func (l *Link) Write(b []byte) error {
	return l.writeAll(net.Buffers{b})
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
	l.out.Release()
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
	case <-l.end.closing:
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
	case <-l.end.closing:
		return net.ErrClosed
	default:
	}
	if l.alive.lastSent >= l.alive.nextTick { // a writer that never rests sees to it in passing
		if err := l.tick(); err != nil {
			return err
		}
	}
	select {
	case <-l.out.kick:
		return nil
	default:
	}
	for {
		timer.Reset(l.rest())
		select {
		case <-l.out.kick:
			return nil
		case <-timer.C:
			if err := l.tick(); err != nil {
				return err
			}
		case <-l.end.closing:
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
	l.alive.nextTick = l.nextTick(now)
	wait := l.alive.nextTick - now
	if !l.out.Idle() {
		return wait
	}
	if idle := now - l.alive.lastSent; idle < wire.BufferRest {
		return min(wait, wire.BufferRest-idle)
	}
	l.out.Release()
	return wait
}

// take takes everything that waits.
func (l *Link) take() (out net.Buffers, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote()
	out, room := l.out.Take()
	l.out.underWay, l.out.written = l.out.written, nil
	l.alive.taken = len(l.alive.pings)
	l.out.answers = 0
	if l.out.taken != nil {
		close(l.out.taken)
		l.out.taken = nil
	}
	if room {
		l.handler.Room()
	}
	return out, l.out.Finishing()
}

// writeAll writes what was taken. It is the connection that gives up when not a single byte is accepted for too long,
// however long the whole takes.
func (l *Link) writeAll(out net.Buffers) error {
	for _, b := range out {
		l.traceOut(b)
		began := time.Since(l.began)
		n, err := l.conn.Write(b)
		l.out.bytes.Add(uint64(n))
		if n > 0 {
			l.alive.lastSent = time.Since(l.began)
		}
		if l.alive.lastSent-began >= heldUp {
			l.alive.progress = l.alive.lastSent
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ErrServerSilent
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// closeWrite tells the server that no more will come. The reader goes on until the server has closed.
// [MQTT-3.14.4-2] [MQTT311-3.14.4-1]
func (l *Link) closeWrite() error {
	err := wire.CloseWrite(l.conn)
	if errors.Is(err, errors.ErrUnsupported) {
		return ErrServerClosed
	}
	return err
}
