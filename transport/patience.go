package transport

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// patient bounds how long a Write may make no progress, not how long it takes. It lies beneath TLS and WebSocket, which
// cannot go on after a write that failed half-way.
type patient struct {
	net.Conn
	patience time.Duration

	mu       sync.Mutex
	deadline time.Time // mu; the user's for writes; zero: none
}

func (c *patient) Write(b []byte) (n int, err error) {
	for {
		_ = c.extend() // a connection that knows no deadlines waits for ever
		progress, err := c.Conn.Write(b[n:])
		n += progress
		if progress == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || c.over() {
			return n, err
		}
	}
}

// extend gives the peer time to accept a byte.
func (c *patient) extend() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := time.Now().Add(c.patience)
	if !c.deadline.IsZero() && c.deadline.Before(t) {
		t = c.deadline
	}
	return c.Conn.SetWriteDeadline(t)
}

// over reports whether the user's deadline has come.
func (c *patient) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

func (c *patient) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.extend()
}

func (c *patient) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite ends this direction only, if the network can.
func (c *patient) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
