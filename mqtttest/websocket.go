package mqtttest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/petrel-mqtt/mqtt/codec"
)

// subprotocol is what a client of MQTT asks for [MQTT-6.0.0-3].
const subprotocol = "mqtt"

// Upgrade asks f about the request of each WebSocket handshake: its path, its headers. An HTTP status of 400 and above refuses
// it; 0 does not. Calls may be concurrent.
func Upgrade(f func(r *http.Request) (status int)) Option {
	return func(s *settings) { s.upgrade = f }
}

// webSocket carries MQTT in the binary frames of a WebSocket (section 6). The first Read makes the handshake. One goroutine
// may read while another writes; the rest may be called by any.
type webSocket struct {
	net.Conn // below
	settings *settings
	upgraded atomic.Pointer[websocket.Conn] // nil before the handshake
	frame    io.Reader                      // the frame that is being read, or nil; the reader's
}

// Read returns bytes of frames, whose borders mean nothing [MQTT-6.0.0-2].
func (w *webSocket) Read(b []byte) (int, error) {
	ws := w.upgraded.Load()
	if ws == nil {
		var err error
		if ws, err = w.upgrade(); err != nil {
			return 0, err
		}
		w.upgraded.Store(ws)
	}
	for {
		if w.frame == nil {
			kind, frame, err := ws.NextReader()
			if err != nil {
				return 0, ending(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, &codec.Error{Code: codec.ProtocolError, Rule: "MQTT-6.0.0-1", Detail: "WebSocket frame that is not binary"}
			}
			w.frame = frame
		}
		n, err := w.frame.Read(b)
		if err == io.EOF {
			w.frame, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, ending(err)
		}
	}
}

// ending makes a client's Close frame the end of what can be read.
func ending(err error) error {
	var closed *websocket.CloseError
	if errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
		return io.EOF
	}
	return err
}

// upgrade makes the handshake.
func (w *webSocket) upgrade() (*websocket.Conn, error) {
	reader := bufio.NewReader(w.Conn)
	r, err := http.ReadRequest(reader)
	if err != nil {
		return nil, err
	}
	response := &response{ResponseRecorder: httptest.NewRecorder(), conn: w.Conn, reader: reader}
	ws, err := w.judge(response, r)
	if ws == nil {
		_ = response.Result().Write(w.Conn)
	}
	return ws, err
}

// judge answers a request.
func (w *webSocket) judge(response *response, r *http.Request) (*websocket.Conn, error) {
	if f := w.settings.upgrade; f != nil {
		if status := f(r); status >= http.StatusBadRequest {
			http.Error(response, http.StatusText(status), status)
			return nil, errRefused
		}
	}
	if !slices.Contains(websocket.Subprotocols(r), subprotocol) {
		http.Error(response, "no subprotocol mqtt", http.StatusBadRequest)
		return nil, &codec.Error{Code: codec.ProtocolError, Rule: "MQTT-6.0.0-3", Detail: "WebSocket without subprotocol mqtt"}
	}
	anyOrigin := func(*http.Request) bool { return true }
	upgrader := websocket.Upgrader{Subprotocols: []string{subprotocol}, CheckOrigin: anyOrigin}
	return upgrader.Upgrade(response, r, nil)
}

var errRefused = errors.New("WebSocket handshake refused")

// Write sends b in a binary frame, or in several if the option Fragment says so.
func (w *webSocket) Write(b []byte) (n int, err error) {
	ws := w.upgraded.Load()
	if ws == nil {
		return 0, net.ErrClosed
	}
	size := len(b)
	if w.settings.shape.fragment > 0 {
		size = w.settings.shape.fragment
	}
	for n < len(b) {
		piece := b[n:min(n+size, len(b))]
		if err := ws.WriteMessage(websocket.BinaryMessage, piece); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// CloseWrite sends a Close frame.
func (w *webSocket) CloseWrite() error {
	ws := w.upgraded.Load()
	if ws == nil {
		return w.Close()
	}
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	return ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(linger))
}

// response is a ResponseWriter whose connection can be taken over.
type response struct {
	*httptest.ResponseRecorder
	conn   net.Conn
	reader *bufio.Reader
}

func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc := withoutDeadlines{r.conn}
	return nc, bufio.NewReadWriter(r.reader, bufio.NewWriter(nc)), nil
}

// withoutDeadlines keeps the WebSocket library from moving deadlines: the broker sets them.
type withoutDeadlines struct{ net.Conn }

func (withoutDeadlines) SetDeadline(time.Time) error      { return nil }
func (withoutDeadlines) SetWriteDeadline(time.Time) error { return nil }
