package broker

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
)

// conn is a connection as the engine sees it: with TLS and WebSocket taken off.
type conn struct {
	net.Conn
	socket *socket
}

// connected is called when CONNECT has come. It returns what the network knows of the client.
func (c *conn) connected() engine.Client {
	c.socket.connected.Store(true)
	c.socket.known.Do(c.socket.listener.crowd.leave)
	c.socket.SetReadDeadline(time.Time{})
	return engine.Client{Remote: c.RemoteAddr(), TLS: c.tlsState()}
}

// Hurry gives what is being written, and what will be, until d from now.
func (c *conn) Hurry(d time.Duration) { c.socket.end(d) }

// SetReadDeadline goes past TLS and WebSocket, which would do the same.
func (c *conn) SetReadDeadline(t time.Time) error { return c.socket.SetReadDeadline(t) }

// WriteBuffers writes several pieces.
func (c *conn) WriteBuffers(pieces net.Buffers) error {
	if c.Conn == net.Conn(c.socket) {
		return c.socket.WriteBuffers(pieces)
	}
	_, err := pieces.WriteTo(c.Conn)
	return err
}

// CloseWrite tells the client that this is the end.
func (c *conn) CloseWrite() error {
	c.socket.end(lingerTimeout)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// tlsState returns the state of TLS, or nil.
func (c *conn) tlsState() *tls.ConnectionState {
	below := c.Conn
	if ws, ok := below.(*wsConn); ok {
		below = ws.Conn
	}
	t, ok := below.(*tls.Conn)
	if !ok {
		return nil
	}
	state := t.ConnectionState()
	return &state
}
