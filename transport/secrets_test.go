package transport_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/transport"
)

// TestRefusalsShowNoSecrets has servers and proxies that repeat the request in their refusal.
func TestRefusalsShowNoSecrets(t *testing.T) {
	header := http.Header{"Authorization": {"Bearer SECRET-TOKEN"}}
	refuse := func(status int, extra, body string) string {
		return fmt.Sprintf("HTTP/1.1 %d No\r\n%sContent-Length: %d\r\n\r\n%s", status, extra, len(body), body)
	}
	for name, answer := range map[string]func(r *http.Request) string{
		"body": func(r *http.Request) string {
			return refuse(404, "", "no such resource: "+r.URL.String()+" "+r.Header.Get("Authorization")+r.Header.Get("Proxy-Authorization"))
		},
		"decoded": func(r *http.Request) string { return refuse(404, "", r.URL.Query().Get("token")) },
		"header":  func(r *http.Request) string { return refuse(301, "Location: /elsewhere?"+r.URL.RawQuery+"\r\n", "") },
		"cut": func(r *http.Request) string {
			return refuse(400, "", strings.Repeat("x", 1024-8)+r.URL.RawQuery+r.Header.Get("Proxy-Authorization"))
		},
		"not HTTP": func(r *http.Request) string {
			return "what is " + r.URL.RawQuery + r.Header.Get("Proxy-Authorization") + "\r\n\r\n"
		},
		"subprotocol": func(r *http.Request) string {
			if r.Method == http.MethodConnect {
				return refuse(403, "", r.Header.Get("Proxy-Authorization"))
			}
			s := &wsServer{request: r}
			var b strings.Builder
			s.Conn = writerConn{Writer: &b}
			s.answerUpgrade("Sec-WebSocket-Protocol: " + r.URL.RawQuery)
			return b.String()
		},
	} {
		serve := func(conn net.Conn) {
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.WriteString(conn, answer(r))
			}
		}
		t.Run(name+" of a server", func(t *testing.T) {
			d := transport.Dialer{NetDial: loopback(t, serve), Header: header}
			_, err := d.Dial(t.Context(), parse(t, "ws://server/mqtt?token=SECRET%2FQUERY&b=c"))
			showsNoSecret(t, err)
		})
		t.Run(name+" of a proxy", func(t *testing.T) {
			d := transport.Dialer{NetDial: loopback(t, serve), Proxy: through(t, "http://user:SECRET@proxy:3128")}
			_, err := d.Dial(t.Context(), parse(t, "mqtt://server"))
			showsNoSecret(t, err)
		})
	}
}

// showsNoSecret fails the test if err, however it is printed, shows a part of a secret: dXNlcjpTRUNSRVQ is one in base64.
func showsNoSecret(t *testing.T, err error) {
	t.Helper()
	text := fmt.Sprintf("%v %+v", err, err)
	for e := err; e != nil; {
		if refused, ok := e.(*transport.UpgradeError); ok {
			text += fmt.Sprintf("%s %v", refused.Body, refused.Header)
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	for _, secret := range []string{"SECR", "dXNl"} {
		if err == nil || strings.Contains(text, secret) {
			t.Errorf("the error shows a secret: %s", text)
		}
	}
}

// writerConn is a connection that is only written to.
type writerConn struct {
	net.Conn
	io.Writer
}

func (c writerConn) Write(b []byte) (int, error) { return c.Writer.Write(b) }
