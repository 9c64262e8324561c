package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

type netDial func(ctx context.Context, network, address string) (net.Conn, error)

// pipes is a network in memory without buffers: NetDial hands the other end of the connection to serve.
func pipes(t testing.TB, serve func(net.Conn)) netDial {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		runServer(t, server, serve)
		t.Cleanup(func() { client.Close() })
		return client, nil
	}
}

// loopback serves each connection, whatever its address, with serve.
func loopback(t testing.TB, serve func(net.Conn)) netDial {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		server, err := l.Accept()
		if err != nil {
			return nil, err
		}
		runServer(t, server, serve)
		t.Cleanup(func() { client.Close() })
		return client, nil
	}
}

// runServer runs serve, which is over when the test is.
func runServer(t testing.TB, conn net.Conn, serve func(net.Conn)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		serve(conn)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
}

// tlsEcho serves TLS and answers every byte with itself; what it negotiated goes to states.
func tlsEcho(config *tls.Config, states chan<- tls.ConnectionState) func(net.Conn) {
	return func(conn net.Conn) {
		c := tls.Server(conn, config)
		if c.Handshake() != nil {
			return
		}
		if states != nil {
			states <- c.ConnectionState()
		}
		io.Copy(c, c)
	}
}

// issue makes a certificate for a server of these hosts, names or addresses, or for a client.
func issue(a *mqtttest.Authority, name string, hosts ...string) tls.Certificate {
	return a.Certificate(func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames, c.IPAddresses = name, nil, nil
		for _, host := range hosts {
			if ip := net.ParseIP(host); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, host)
			}
		}
	})
}

// exchange checks that bytes come back.
func exchange(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); string(got) != "ping" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestDialTLS(t *testing.T) {
	ca := mqtttest.NewAuthority()
	server := &tls.Config{
		Certificates: []tls.Certificate{issue(ca, "server", "broker.example.com", "::1")},
		NextProtos:   []string{"mqtt", "x-amzn-mqtt-ca"},
	}
	for _, c := range []struct {
		url, protocol string
		config        *tls.Config
	}{
		{"mqtts://user:secret@broker.example.com", "", &tls.Config{}},
		{"ssl://[::1]:8884", "", &tls.Config{}},
		{"mqtts://broker.example.com:443", "mqtt", &tls.Config{}},
		{"mqtts://broker.example.com:443", "x-amzn-mqtt-ca", &tls.Config{NextProtos: []string{"x-amzn-mqtt-ca"}}},
		{"mqtts://broker.example.com", "mqtt", &tls.Config{NextProtos: []string{"mqtt"}}},
		{"mqtts://192.0.2.1", "", &tls.Config{ServerName: "broker.example.com"}},
	} {
		t.Run(c.url, func(t *testing.T) {
			c.config.RootCAs = ca.Pool()
			protocols, name := slices.Clone(c.config.NextProtos), c.config.ServerName
			states := make(chan tls.ConnectionState, 1)
			d := transport.Dialer{TLS: c.config, NetDial: loopback(t, tlsEcho(server, states))}
			ctx, cancel := context.WithCancel(t.Context())
			conn, err := d.Dial(ctx, parse(t, c.url))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			cancel() // bounds the dial only
			exchange(t, conn)
			if state := <-states; state.NegotiatedProtocol != c.protocol || state.Version != tls.VersionTLS13 {
				t.Errorf("protocol %q of TLS %x, want %q", state.NegotiatedProtocol, state.Version, c.protocol)
			}
			if !slices.Equal(c.config.NextProtos, protocols) || c.config.ServerName != name || c.config.MinVersion != 0 {
				t.Error("the configuration was changed")
			}
		})
	}
}

func TestDialTLSFails(t *testing.T) {
	ca, other := mqtttest.NewAuthority(), mqtttest.NewAuthority()
	serve := func(c tls.Certificate) func(net.Conn) {
		return tlsEcho(&tls.Config{Certificates: []tls.Certificate{c}}, nil)
	}
	expired := ca.Certificate(func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Hour) })
	good := issue(ca, "server", "host")
	for name, c := range map[string]struct {
		serve func(net.Conn)
		want  any // a pointer for errors.As
		text  string
	}{
		"another CA":         {serve(issue(other, "server", "host")), new(x509.UnknownAuthorityError), "unknown authority"},
		"another host":       {serve(issue(ca, "server", "elsewhere")), new(x509.HostnameError), "elsewhere"},
		"an old certificate": {serve(expired), new(x509.CertificateInvalidError), "expired"},
		"no TLS":             {func(c net.Conn) { io.WriteString(c, "\x20\x02\x00\x00\x00") }, new(tls.RecordHeaderError), "TLS"},
		"an old version": {
			tlsEcho(&tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, nil),
			new(*net.OpError), "protocol version",
		},
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{})
			d := transport.Dialer{
				TLS: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS10}, // 1.2 is the least all the same
				NetDial: loopback(t, func(conn net.Conn) {
					defer close(closed)
					c.serve(conn)
					io.Copy(io.Discard, conn)
				}),
			}
			_, err := d.Dial(t.Context(), parse(t, "mqtts://user:secret@host"))
			if err == nil || !errors.As(err, c.want) {
				t.Fatalf("error %v", err)
			}
			if text := err.Error(); !strings.HasPrefix(text, "TLS handshake: ") || !strings.Contains(text, c.text) || strings.Contains(text, "secret") {
				t.Errorf("error %q", err)
			}
			<-closed // the connection is not left behind
		})
	}
}

// One ctx bounds dial and handshake together.
func TestTLSHandshakeEndsWithCtx(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		d := transport.Dialer{NetDial: pipes(t, func(c net.Conn) { io.Copy(io.Discard, c) })} // hears, and says nothing
		began := time.Now()
		_, err := d.Dial(ctx, parse(t, "mqtts://host"))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "TLS handshake: ") || time.Since(began) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestClientCertificate(t *testing.T) {
	ca, other := mqtttest.NewAuthority(), mqtttest.NewAuthority()
	server := &tls.Config{
		Certificates: []tls.Certificate{issue(ca, "server", "host")},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	}
	for name, c := range map[string]struct {
		from *mqtttest.Authority
		want string
	}{
		"good":   {from: ca},
		"absent": {want: "certificate required"},
		"bad":    {from: other, want: "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{RootCAs: ca.Pool()}
			if c.from != nil {
				config.Certificates = []tls.Certificate{issue(c.from, "client")}
			}
			d := transport.Dialer{TLS: config, NetDial: loopback(t, tlsEcho(server, nil))}
			conn, err := d.Dial(t.Context(), parse(t, "mqtts://host"))
			if err != nil {
				t.Fatal(err) // in TLS 1.3 a client learns only afterwards that it is refused
			}
			defer conn.Close()
			if c.want == "" {
				exchange(t, conn)
				return
			}
			_, err = conn.Read(make([]byte, 1))
			var op *net.OpError
			if !errors.As(err, &op) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A session is resumed by the same client only.
func TestSessionsAreResumed(t *testing.T) {
	ca := mqtttest.NewAuthority()
	one, two := issue(ca, "one"), issue(ca, "two")
	choose := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &one, nil }
	see := func([][]byte, [][]*x509.Certificate) error { return nil }
	for version, name := range map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"} {
		t.Run(name, func(t *testing.T) {
			states := make(chan tls.ConnectionState, 1)
			dial := loopback(t, tlsEcho(&tls.Config{
				Certificates: []tls.Certificate{issue(ca, "server", "host")},
				ClientAuth:   tls.RequestClientCert, MaxVersion: version,
			}, states))
			cache := tls.NewLRUClientSessionCache(0)
			for i, c := range []struct {
				config  *tls.Config
				cache   tls.ClientSessionCache
				resumed bool
			}{
				{&tls.Config{}, cache, false},
				{&tls.Config{}, cache, true},
				{&tls.Config{}, nil, false},
				{&tls.Config{Certificates: []tls.Certificate{one}}, cache, false},
				{&tls.Config{Certificates: []tls.Certificate{one}}, cache, true},
				{&tls.Config{Certificates: []tls.Certificate{two}}, cache, false},
				{&tls.Config{Certificates: []tls.Certificate{one}}, cache, true},
				{&tls.Config{GetClientCertificate: choose}, cache, false},
				{&tls.Config{GetClientCertificate: choose}, cache, false},
				{&tls.Config{VerifyPeerCertificate: see}, cache, false},
				{&tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0)}, cache, false},
				{&tls.Config{}, cache, true},
			} {
				c.config.RootCAs = ca.Pool()
				d := transport.Dialer{TLS: c.config, Sessions: c.cache, NetDial: dial}
				conn, err := d.Dial(t.Context(), parse(t, "mqtts://host"))
				if err != nil {
					t.Fatal(err)
				}
				exchange(t, conn) // TLS 1.3 brings sessions with the data
				conn.Close()
				if state := <-states; state.DidResume != c.resumed {
					t.Errorf("connection %d: resumed %v", i, state.DidResume)
				}
			}
		})
	}
}

func TestTLSEnds(t *testing.T) {
	ca := mqtttest.NewAuthority()
	config := &tls.Config{
		Certificates:           []tls.Certificate{issue(ca, "server", "host")},
		SessionTicketsDisabled: true, // which a server writes without being asked
	}
	dial := func(t *testing.T, serve func(*tls.Conn)) net.Conn {
		d := transport.Dialer{TLS: &tls.Config{RootCAs: ca.Pool()}, Patience: time.Minute, NetDial: pipes(t, func(conn net.Conn) {
			c := tls.Server(conn, config)
			if err := c.Handshake(); err != nil {
				t.Error(err)
			}
			serve(c)
		})}
		conn, err := d.Dial(t.Context(), parse(t, "mqtts://host"))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	t.Run("CloseWrite says so", func(t *testing.T) {
		heard := make(chan error, 1)
		conn := dial(t, func(c *tls.Conn) {
			got, err := io.ReadAll(c)
			if string(got) != "last" {
				err = fmt.Errorf("read %q, %w", got, err)
			}
			heard <- err
			io.WriteString(c, "answer")
		})
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, "last")
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if err := <-heard; err != nil {
			t.Error(err)
		}
		got := make([]byte, 6)
		if _, err := io.ReadFull(conn, got); string(got) != "answer" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("Close does not wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			conn := dial(t, func(c *tls.Conn) { <-release })
			defer close(release)
			began := time.Now()
			if err := conn.Close(); err != nil || time.Since(began) != 0 {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	})
}
