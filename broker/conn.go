package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/petrel-mqtt/mqtt/codec"
)

// conn is a connection as mochi sees it: with TLS and WebSocket taken off.
type conn struct {
	net.Conn
	socket   *socket
	listener *listener

	silence atomic.Int64  // nanoseconds without a byte after which the connection ends; 0 before CONNECT, or for ever
	closed  chan struct{} // closed by Close
	once    sync.Once

	greeting greeting // owned by the goroutine that reads

	answered  chan struct{}        // closed when CONNACK is on its way: mochi knows the client by then
	answer    sync.Once            // closes answered
	successor atomic.Pointer[conn] // the connection that takes over the session

	// Written by OnConnect, before other goroutines know the client.
	client    Client
	user      string // the one whose password was checked, if it was
	hash      string // what it was checked against
	onSilence func()
	flow
}

func newConn(l *listener, s *socket, c net.Conn) *conn {
	return &conn{Conn: c, socket: s, listener: l, closed: make(chan struct{}), answered: make(chan struct{})}
}

// Read ends the connection after the silence that is allowed.
func (c *conn) Read(p []byte) (int, error) {
	silence := time.Duration(c.silence.Load())
	if silence > 0 {
		c.socket.SetReadDeadline(time.Now().Add(silence))
	}
	if c.isClosed() { // looked at after the deadline was set: Close sets it after closing
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p)
	if wrong := c.greeting.check(p[:n]); wrong != nil {
		return 0, wrong
	}
	if silence > 0 && errors.Is(err, os.ErrDeadlineExceeded) && !c.isClosed() {
		c.onSilence()
	}
	return n, err
}

// greeting looks at the beginning of what a client sends, when nobody has asked yet who it is. Mochi would set aside as
// much memory as the length of any packet says, before that has come.
type greeting struct {
	header []byte // the fixed header, as far as it has come
	passed bool   // it is that of a CONNECT of a sensible size
}

// maxConnect bounds CONNECT, in bytes without its fixed header. The largest that makes sense has a will of 64 KiB.
const maxConnect = 128 << 10

func (g *greeting) check(p []byte) error {
	if g.passed {
		return nil
	}
	const longest = 5
	g.header = append(g.header, p[:min(len(p), longest-len(g.header))]...)
	h, n, err := codec.ParseHeader(g.header, codec.V5)
	switch {
	case err != nil:
		return err
	case len(g.header) > 0 && h.Type != codec.CONNECT: // [MQTT-3.1.0-1]
		return errors.New("the first packet is not CONNECT")
	case n > 0 && h.Length > maxConnect:
		return fmt.Errorf("a CONNECT of %d bytes", h.Length)
	}
	g.passed = n > 0
	return nil
}

// Write hides errors from mochi, which would forget to pass on the message whose acknowledgement it could not write.
// They end the connection all the same.
func (c *conn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(p); err != nil {
		c.listener.log.Debug("cannot write", "client", c.client, "error", err)
		c.unblock()
	}
	return len(p), nil
}

// Close sends what tells the client that this is the end, and stops reading. The socket is closed by whoever serves the
// connection.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.socket.end(lingerTimeout)
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
		c.unblock()
	})
	return nil
}

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// unblock ends a Read.
func (c *conn) unblock() { c.socket.SetReadDeadline(time.Unix(1, 0)) }

// SetDeadline and its kin do nothing: mochi's idea of deadlines overflows with a long keep alive and knows no delay.
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

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

// wsConn is the stream of bytes in the binary messages of a WebSocket connection.
type wsConn struct {
	net.Conn // what is below it
	ws       *websocket.Conn
	message  io.Reader // the one being read, or nil
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.ws.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("a WebSocket message that is not binary") // [MQTT-6.0.0-1]
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite says goodbye.
func (c *wsConn) CloseWrite() error {
	text := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	return c.ws.WriteControl(websocket.CloseMessage, text, time.Now().Add(lingerTimeout))
}
