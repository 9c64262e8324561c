package mqtttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/petrel-mqtt/mqtt/codec"
)

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// way is a way to reach a broker.
type way struct {
	name   string
	dial   func(b *Broker) dialer
	listen func(b *Broker) string
}

var ways = []way{
	{"plain", func(b *Broker) dialer { return b.DialContext }, (*Broker).Listen},
	{"TLS", func(b *Broker) dialer { return b.DialTLS }, (*Broker).ListenTLS},
	{"WS", func(b *Broker) dialer { return b.DialWS }, (*Broker).ListenWS},
	{"WSS", func(b *Broker) dialer { return b.DialWSS }, (*Broker).ListenWSS},
}

// open connects to where a URL says, over what a dialer gives, as a client library would.
func open(t *testing.T, b *Broker, dial dialer, target string, config *tls.Config) (net.Conn, error) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme == "ws" || u.Scheme == "wss" {
		d := websocket.Dialer{NetDialContext: dial, TLSClientConfig: config, Subprotocols: []string{"mqtt"}}
		ws, answer, err := d.DialContext(t.Context(), target, http.Header{"Authorization": {"Bearer token"}})
		if err == nil && answer.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
			t.Errorf("subprotocol %q", answer.Header.Get("Sec-WebSocket-Protocol"))
		}
		if err != nil {
			return nil, err
		}
		return &webSocketClient{Conn: ws}, nil
	}
	nc, err := dial(t.Context(), "tcp", u.Host)
	if err != nil || u.Scheme == "mqtt" {
		return nc, err
	}
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = u.Hostname()
	}
	secure := tls.Client(nc, config)
	return secure, secure.HandshakeContext(t.Context())
}

// webSocketClient is a client's end of a WebSocket as a stream.
type webSocketClient struct {
	*websocket.Conn
	frame  io.Reader
	frames int // how many have been read
}

func (w *webSocketClient) Read(b []byte) (int, error) {
	for {
		if w.frame == nil {
			_, frame, err := w.NextReader()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			w.frame = frame
			w.frames++
		}
		n, err := w.frame.Read(b)
		if err == io.EOF {
			w.frame, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (w *webSocketClient) Write(b []byte) (int, error) {
	return len(b), w.WriteMessage(websocket.BinaryMessage, b)
}

func (w *webSocketClient) SetDeadline(t time.Time) error {
	_ = w.SetReadDeadline(t)
	return w.SetWriteDeadline(t)
}

// exchange connects, publishes a message to itself, and disconnects or is kicked.
func exchange(t *testing.T, b *Broker, nc net.Conn) {
	t.Helper()
	defer nc.Close()
	large := make([]byte, 3*window)
	send := func(p codec.Packet) {
		t.Helper()
		packet, err := p.Append(nil, codec.V5)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range [][]byte{packet[:1], packet[1:]} {
			if _, err := nc.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
	}
	receive := func(want codec.Type) {
		t.Helper()
		p, err := codec.ReadPacket(nc, codec.V5, 0)
		if err != nil || p.Type() != want {
			t.Fatalf("%v comes, error %v, want %v", p, err, want)
		}
		if p, ok := p.(*codec.Publish); ok && len(p.Payload) != len(large) {
			t.Errorf("payload of %d bytes", len(p.Payload))
		}
	}
	send(&codec.Connect{ClientID: "c", CleanStart: true})
	receive(codec.CONNACK)
	send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "a")}})
	receive(codec.SUBACK)
	send(&codec.Publish{Topic: "a", Payload: large})
	receive(codec.PUBLISH)
	b.Kick("c", 0x98)
	receive(codec.DISCONNECT)
	if n, err := nc.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("after DISCONNECT %d bytes come, %v", n, err)
	}
}

// In memory, each way works in virtual time.
func TestBrokerDialWays(t *testing.T) {
	for i, w := range ways {
		for _, fragment := range []int{0, 100} {
			t.Run(fmt.Sprint(w.name, "/", fragment), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := NewBroker(t, Fragment(fragment))
					start := time.Now()
					target := []string{"mqtt", "mqtts", "ws", "wss"}[i] + "://localhost/mqtt"
					nc, err := open(t, b, w.dial(b), target, b.ClientTLS())
					if err != nil {
						t.Fatal(err)
					}
					exchange(t, b, nc)
					if took := time.Since(start); took != 0 {
						t.Errorf("takes %v of virtual time", took)
					}
				})
			})
		}
	}
}

// On the loopback interface, a URL is all a client needs.
func TestBrokerListen(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			b := NewBroker(t)
			target := w.listen(b)
			dial := new(net.Dialer).DialContext
			nc, err := open(t, b, dial, target, b.ClientTLS())
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, b, nc)
			b.Close()
			if nc, err := open(t, b, dial, target, b.ClientTLS()); err == nil {
				nc.Close()
				t.Error("the listener is open after Close")
			}
			w.listen(b)
		})
	}
}

// Faults of the network and limits reach through what lies above it.
func TestBrokerDialWaysFaults(t *testing.T) {
	for i, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBroker(t, Tolerate("MQTT-3.1.2-20"))
				target := []string{"mqtt", "mqtts", "ws", "wss"}[i] + "://localhost/mqtt"
				connect := func() net.Conn {
					nc, err := open(t, b, w.dial(b), target, b.ClientTLS())
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { nc.Close() })
					hello, _ := (&codec.Connect{ClientID: "c", CleanStart: true, KeepAlive: 10}).Append(nil, codec.V5)
					if _, err := nc.Write(hello); err != nil {
						t.Fatal(err)
					}
					if _, err := codec.ReadPacket(nc, codec.V5, 0); err != nil {
						t.Fatal(err)
					}
					return nc
				}
				nc := connect()
				b.Cut("c")
				if _, err := nc.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("read after Cut: %v", err)
				}
				nc = connect()
				b.HalfOpen("c")
				if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				_, err := nc.Read(make([]byte, 1))
				var netErr net.Error
				if !errors.As(err, &netErr) || !netErr.Timeout() {
					t.Errorf("read after HalfOpen: %v", err)
				}
				if got := b.Clients(); len(got) > 0 {
					t.Errorf("Clients %v after the keep alive", got)
				}
				nc = connect()
				b.Throttle(1)
				start := time.Now()
				if _, err := nc.Write([]byte{0xC0, 0}); err != nil {
					t.Fatal(err)
				}
				if _, err := codec.ReadPacket(nc, codec.V5, 0); err != nil || time.Since(start) < 2*time.Second {
					t.Errorf("PINGRESP at 1 byte/s after %v, %v", time.Since(start), err)
				}
				b.Throttle(0)
			})
		})
	}
}

// tlsResult makes a handshake in memory and returns what each side makes of it.
func tlsResult(t *testing.T, b *Broker, change func(*tls.Config)) error {
	t.Helper()
	config := b.ClientTLS()
	if change != nil {
		change(config)
	}
	nc, err := open(t, b, b.DialTLS, "mqtts://localhost", config)
	if err != nil {
		return err
	}
	defer nc.Close()
	hello, _ := (&codec.Connect{ClientID: "c", CleanStart: true}).Append(nil, codec.V5)
	_, _ = nc.Write(hello) // in TLS 1.3 the client learns by reading that its certificate was refused
	_, err = codec.ReadPacket(nc, codec.V5, 0)
	return err
}

// Each mistake that a set-up of TLS can have fails, and what is right works.
func TestBrokerTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t)
		other := NewAuthority()
		show := func(change func(*x509.Certificate)) Option {
			return ServerTLS(func(c *tls.Config) { c.Certificates = []tls.Certificate{b.Authority().Certificate(change)} })
		}
		ask := ServerTLS(func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert })
		for _, c := range []struct {
			name   string
			server []Option
			client func(c *tls.Config)
			want   string // in the error; "": none
		}{
			{name: "right"},
			{name: "wrong authority", client: func(c *tls.Config) { c.RootCAs = other.Pool() }, want: "unknown authority"},
			{
				name: "expired", server: []Option{show(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })},
				want: "expired",
			},
			{
				name: "wrong host", server: []Option{show(func(c *x509.Certificate) { c.DNSNames = []string{"example.com"} })},
				want: "example.com, not localhost",
			},
			{name: "client certificate", server: []Option{ask}},
			{name: "no client certificate", server: []Option{ask}, client: func(c *tls.Config) { c.Certificates = nil }, want: "certificate required"},
			{
				name: "client certificate of another authority", server: []Option{ask}, want: "certificate",
				client: func(c *tls.Config) { c.Certificates = []tls.Certificate{other.Certificate()} },
			},
			{
				name: "both options", want: "certificate required",
				server: []Option{ask, show(func(c *x509.Certificate) {})}, client: func(c *tls.Config) { c.Certificates = nil },
			},
		} {
			b.Reconfigure(c.server...)
			err := tlsResult(t, b, c.client)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.want)
			}
		}
	})
}

// What PEM gives is what files have.
func TestPEM(t *testing.T) {
	a := NewAuthority()
	certificate, key := PEM(a.Certificate(func(c *x509.Certificate) { c.Subject.CommonName = "billing" }))
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.PEM()) {
		t.Fatal("the authority's PEM is none")
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	if pair.Leaf.Subject.CommonName != "billing" {
		t.Errorf("subject %v", pair.Leaf.Subject)
	}
}

// Sessions of TLS are resumed, as with other servers.
func TestBrokerTLSResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t)
		config := b.ClientTLS()
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for _, want := range []bool{false, true} {
			nc, err := open(t, b, b.DialTLS, "mqtts://localhost", config)
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, b, nc)
			if got := nc.(*tls.Conn).ConnectionState().DidResume; got != want {
				t.Errorf("resumed: %v, want %v", got, want)
			}
		}
	})
}
