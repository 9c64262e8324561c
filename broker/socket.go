package broker

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// socket is an accepted TCP connection.
type socket struct {
	net.Conn
	listener *listener
	surplus  bool // it is beyond max-connections

	connected atomic.Bool // CONNECT has come
	known     sync.Once   // it has, or the connection has ended
	gone      sync.Once

	mu      sync.Mutex // guards the fields below, and deadlines against who would move them
	ending  bool       // the write deadline stays as it is
	hurried bool       // the read deadline too, unless the client is connected
}

// Write gives up when the client takes nothing for writeTimeout.
func (s *socket) Write(p []byte) (n int, err error) {
	for err == nil && n < len(p) {
		s.extend()
		var m int
		m, err = s.Conn.Write(p[n:min(n+writeChunk, len(p))])
		n += m
	}
	return n, err
}

func (s *socket) extend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
}

// WriteBuffers is Write for several pieces, in as few system calls as it takes.
func (s *socket) WriteBuffers(pieces net.Buffers) error {
	for len(pieces) > 0 {
		s.extend()
		n, err := pieces.WriteTo(s.Conn)
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
	}
	return nil
}

// end gives what is being written, and what will be, until d from now.
func (s *socket) end(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.ending = true
		s.Conn.SetWriteDeadline(time.Now().Add(d))
	}
}

// SetDeadline and SetWriteDeadline leave the write deadline to Write.
func (s *socket) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing after hurry: an upgrade that goes on would wait for CONNECT from then on.
func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hurried && !s.connected.Load() {
		return nil
	}
	return s.Conn.SetReadDeadline(t)
}

// bury closes the connection once the client has closed its side, or after a second: closing a socket with unread bytes
// resets the connection, which can destroy the last packets on their way.
func (s *socket) bury() {
	s.end(lingerTimeout)
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	s.Conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.Copy(io.Discard, s.Conn)
	s.Close()
}

// hurry ends the wait for CONNECT, if the connection still waits for it.
func (s *socket) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurried = true
	if !s.connected.Load() {
		s.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (s *socket) Close() error {
	err := s.Conn.Close()
	s.known.Do(s.listener.crowd.leave)
	s.gone.Do(func() { s.listener.forget(s) })
	return err
}
