package mqtttest

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/petrel-mqtt/mqtt/codec"
)

// dialWS makes a WebSocket handshake in memory.
func dialWS(t *testing.T, b *Broker, path string, h http.Header, protocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	d := websocket.Dialer{NetDialContext: b.DialWS, Subprotocols: protocols}
	ws, answer, err := d.DialContext(t.Context(), "ws://test"+path, h)
	if err == nil {
		t.Cleanup(func() { ws.Close() })
	}
	return ws, answer, err
}

var pingBytes, connectBytes = []byte{0xC0, 0}, func() []byte {
	b, _ := (&codec.Connect{ClientID: "c", CleanStart: true}).Append(nil, codec.V311)
	return b
}()

// Packets are split over frames, and a frame has several [MQTT-6.0.0-2].
func TestWebSocketFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t, Fragment(3))
		ws, _, err := dialWS(t, b, "/mqtt", nil, "other", "mqtt")
		if err != nil {
			t.Fatal(err)
		}
		stream := append(append([]byte{}, connectBytes...), append(pingBytes, pingBytes...)...)
		for _, frame := range [][]byte{stream[:1], nil, stream[1:7], stream[7:]} {
			if err := ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
				t.Fatal(err)
			}
		}
		if err := ws.WriteControl(websocket.PingMessage, []byte("x"), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < 8 {
			kind, frame, err := ws.ReadMessage()
			if err != nil || kind != websocket.BinaryMessage || len(frame) > 3 {
				t.Fatalf("frame % x of kind %d, error %v", frame, kind, err)
			}
			got = append(got, frame...)
		}
		if want := "\x20\x02\x00\x00\xD0\x00\xD0\x00"; string(got) != want {
			t.Errorf("% x comes", got)
		}
	})
}

// A client that says goodbye by a Close frame has closed.
func TestWebSocketClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t)
		ws, _, err := dialWS(t, b, "/mqtt", nil, "mqtt")
		if err != nil {
			t.Fatal(err)
		}
		for _, packet := range [][]byte{connectBytes, {0xE0, 0}} {
			if err := ws.WriteMessage(websocket.BinaryMessage, packet); err != nil {
				t.Fatal(err)
			}
		}
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		if err := ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _, err = ws.ReadMessage() // CONNACK
		if err == nil {
			_, _, err = ws.ReadMessage()
		}
		if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("the broker ends with %v", err)
		}
	})
}

// What a client of MQTT must not do in a WebSocket is a violation.
func TestWebSocketViolations(t *testing.T) {
	for name, c := range map[string]struct {
		protocols []string
		kind      int
		rule      string
		status    int
	}{
		"text frame":        {[]string{"mqtt"}, websocket.TextMessage, "MQTT-6.0.0-1", http.StatusSwitchingProtocols},
		"no subprotocol":    {nil, websocket.BinaryMessage, "MQTT-6.0.0-3", http.StatusBadRequest},
		"other subprotocol": {[]string{"mqttv3.1"}, websocket.BinaryMessage, "MQTT-6.0.0-3", http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := New()
				defer b.Close()
				ws, answer, err := dialWS(t, b, "/mqtt", nil, c.protocols...)
				if answer == nil || answer.StatusCode != c.status {
					t.Fatalf("handshake: %+v, %v", answer, err)
				}
				if ws != nil {
					if err := ws.WriteMessage(c.kind, connectBytes); err != nil {
						t.Fatal(err)
					}
					if _, _, err := ws.ReadMessage(); err == nil {
						t.Error("the connection does not end")
					}
					ws.Close()
				}
				b.Close()
				if got := b.Violations(); len(got) != 1 || got[0].Rule != c.rule {
					t.Errorf("violations %v, want %s", got, c.rule)
				}
			})
		})
	}
}

// A test may refuse a handshake by what the request says.
func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t, Upgrade(func(r *http.Request) int {
			if r.Header.Get("Authorization") != "Bearer fresh" {
				return http.StatusUnauthorized
			}
			if r.URL.Path != "/broker" {
				return http.StatusNotFound
			}
			return 0
		}))
		for _, c := range []struct {
			path, token string
			want        int
		}{
			{"/broker", "stale", http.StatusUnauthorized},
			{"/mqtt", "fresh", http.StatusNotFound},
			{"/broker", "fresh", http.StatusSwitchingProtocols},
		} {
			_, answer, _ := dialWS(t, b, c.path, http.Header{"Authorization": {"Bearer " + c.token}}, "mqtt")
			if answer == nil || answer.StatusCode != c.want {
				t.Fatalf("%v: %+v", c, answer)
			}
			if body, _ := io.ReadAll(answer.Body); c.want != http.StatusSwitchingProtocols && len(body) == 0 {
				t.Error("no body says why")
			}
		}
	})
}

// Requests that are no WebSocket handshakes, and other bytes, end the connection.
func TestWebSocketGarbage(t *testing.T) {
	for request, want := range map[string]string{
		"GET /mqtt HTTP/1.1\r\nHost: test\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n": "HTTP/1.1 400 Bad Request",
		string(connectBytes) + "\r\n\r\n":                                          "",
	} {
		synctest.Test(t, func(t *testing.T) {
			b := NewBroker(t)
			nc, err := b.DialWS(context.Background(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if _, err := io.WriteString(nc, request); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(nc)
			if err != nil || len(answer) < len(want) || string(answer[:len(want)]) != want {
				t.Errorf("%q, %v, want %q", answer, err, want)
			}
		})
	}
}

// Close does not wait for a client that has not finished its handshake.
func TestCloseDuringHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t)
		for _, dial := range []dialer{b.DialTLS, b.DialWS, b.DialWSS} {
			nc, err := dial(context.Background(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
		}
		synctest.Wait()
		start := time.Now()
		b.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("takes %v", took)
		}
	})
}
