package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// frameSize is how many bytes of a Write go into one frame. Each frame is a message of its own: some servers do not
	// put fragments together.
	frameSize = 64 << 10

	// answerSize bounds what a server or proxy may answer to an HTTP request, in bytes.
	answerSize = 64 << 10

	// closePatience is how long a close frame may wait for a Write that is under way.
	closePatience = time.Second
)

// frames is where the buffers are that frames are made in: a connection that is at rest holds none.
var frames sync.Pool

// upgrade makes a WebSocket connection of conn: one with the subprotocol mqtt and nothing else.
// [MQTT-6.0.0-3] [MQTT-6.0.0-4] [MQTT311-6.0.0-3] [MQTT311-6.0.0-4]
func upgrade(ctx context.Context, conn net.Conn, server *url.URL, header http.Header) (net.Conn, error) {
	u := *server
	u.User = nil // it is for CONNECT
	if u.Path == "" {
		u.Path = "/mqtt"
	}
	w := &wire{Conn: conn, answer: answerSize}
	given := func(context.Context, string, string) (net.Conn, error) { return w, nil }
	dialer := websocket.Dialer{
		NetDialContext:    given,
		NetDialTLSContext: given,
		Subprotocols:      []string{"mqtt"},
		WriteBufferSize:   frameSize,
		WriteBufferPool:   &frames,
	}
	secrets := secretsOf(&u, header)
	ws, response, err := dialer.DialContext(ctx, u.String(), header)
	if err != nil {
		return nil, upgradeError(&u, secrets, response, err)
	}
	w.answer = -1
	switch {
	case ws.Subprotocol() != "mqtt":
		return nil, fmt.Errorf("the server chose the subprotocol %q, not mqtt", secrets.hide(ws.Subprotocol()))
	case response.Header.Get("Sec-Websocket-Extensions") != "":
		return nil, errors.New("the server uses an extension that was not asked for")
	}
	c := &webSocket{Conn: conn, ws: ws, secrets: secrets}
	ws.SetPingHandler(c.pinged)
	return c, nil
}

// upgradeError makes the error of an upgrade that failed.
func upgradeError(u *url.URL, secrets secrets, response *http.Response, err error) error {
	switch {
	case response == nil || !errors.Is(err, websocket.ErrBadHandshake):
		return secrets.hideError(err)
	case response.StatusCode == http.StatusSwitchingProtocols:
		return errors.New("the server switches to something that is not the WebSocket asked for")
	}
	body, _ := io.ReadAll(response.Body) // it is in memory, and short
	return secrets.refusal(u, response, body)
}

// wire is a connection as gorilla/websocket sees it, which sets deadlines for every write: they are not its business.
type wire struct {
	net.Conn
	answer int // how many bytes may still come; negative: any number
}

func (w *wire) Read(b []byte) (int, error) {
	switch {
	case w.answer == 0:
		return 0, fmt.Errorf("an answer of more than %d bytes", answerSize)
	case w.answer > 0:
		b = b[:min(len(b), w.answer)]
	}
	n, err := w.Conn.Read(b)
	if w.answer > 0 {
		w.answer -= n
	}
	return n, kept(err)
}

func (w *wire) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	return n, kept(err)
}

func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// kept keeps an error from gorilla/websocket, which replaces each net.Error by one of its own.
func kept(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return keptError{err}
}

type keptError struct{ err error }

func (e keptError) Error() string { return e.err.Error() }
func (e keptError) Unwrap() error { return e.err }

// webSocket is a stream of bytes in binary frames, over Conn. One goroutine may read while others write.
type webSocket struct {
	net.Conn // whose deadlines and addresses it has; read and written by ws alone
	ws       *websocket.Conn
	secrets  secrets // of the request for the upgrade

	// Owned by the reader.
	message io.Reader // what has come in part; nil: nothing
	readErr error     // of ws: then it must be read no more

	writing sync.Mutex             // held by a Write, whose frames follow each other; only another Write waits for it
	ping    atomic.Pointer[string] // what the latest ping that was not answered said; nil: none
}

// Read reads the content of frames. It does not matter where one ends [MQTT-6.0.0-2] [MQTT311-6.0.0-2].
func (c *webSocket) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	for c.readErr == nil {
		if c.message == nil {
			c.message, c.readErr = c.next()
			continue
		}
		n, err := c.message.Read(b)
		switch {
		case err == io.EOF:
			c.message = nil
		case err != nil:
			c.readErr = c.closed(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, c.readErr
}

// next waits for a message, which must be binary [MQTT-6.0.0-1] [MQTT311-6.0.0-1].
func (c *webSocket) next() (io.Reader, error) {
	kind, message, err := c.ws.NextReader()
	if err != nil {
		return nil, c.closed(err)
	}
	if kind != websocket.BinaryMessage {
		c.sendClose(websocket.CloseUnsupportedData, "binary frames only")
		return nil, errors.New("the server sends a WebSocket text frame [MQTT-6.0.0-1]")
	}
	return message, nil
}

// closed makes the error of the end of a connection: io.EOF where the server says no more about it.
func (c *webSocket) closed(err error) error {
	var end *websocket.CloseError
	if !errors.As(err, &end) {
		return err
	}
	switch end.Code {
	case websocket.CloseNormalClosure, websocket.CloseNoStatusReceived, websocket.CloseAbnormalClosure:
		return io.EOF
	}
	return fmt.Errorf("the server closed the WebSocket with code %d %q", end.Code, c.secrets.hide(end.Text))
}

// Write writes b in frames.
func (c *webSocket) Write(b []byte) (n int, err error) {
	c.writing.Lock()
	for n < len(b) && err == nil {
		part := b[n:min(len(b), n+frameSize)]
		if err = c.ws.WriteMessage(websocket.BinaryMessage, part); err == nil {
			n += len(part)
			c.pong()
		}
	}
	c.writing.Unlock()
	c.answer() // a ping that came at the last moment
	return n, err
}

// pinged takes a ping. The reader calls it, and must not wait for a Write, which may be waiting for the server to read
// what it sends: then it is the writer who answers.
func (c *webSocket) pinged(text string) error {
	c.ping.Store(&text)
	c.answer()
	return nil
}

// answer answers the latest ping, unless a Write is under way.
func (c *webSocket) answer() {
	for c.ping.Load() != nil && c.writing.TryLock() {
		c.pong()
		c.writing.Unlock()
	}
}

// pong answers the latest ping. Where that fails, so will the next Write.
func (c *webSocket) pong() {
	if text := c.ping.Swap(nil); text != nil {
		_ = c.ws.WriteControl(websocket.PongMessage, []byte(*text), time.Time{})
	}
}

// CloseWrite tells the server that the connection is over. It closes the network connection in turn.
func (c *webSocket) CloseWrite() error { return c.sendClose(websocket.CloseNormalClosure, "") }

func (c *webSocket) sendClose(code int, text string) error {
	return c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(closePatience))
}

// UpgradeError is the refusal of a WebSocket upgrade by a server, or of CONNECT by a proxy. Where the refusal repeats the
// query or a header of the request, *** stands in the place of its value.
type UpgradeError struct {
	URL        string // of the server or the proxy; neither user name nor query are shown
	StatusCode int
	Header     http.Header
	Body       []byte // its start, at most 1 KiB of what came
}

func (e *UpgradeError) Error() string {
	text := strings.TrimSpace(fmt.Sprintf("the answer is %d %s", e.StatusCode, http.StatusText(e.StatusCode)))
	line, _, _ := bytes.Cut(bytes.TrimSpace(e.Body), []byte("\n"))
	if len(line) == 0 {
		return text
	}
	return fmt.Sprintf("%s: %q", text, line[:min(len(line), 200)])
}
