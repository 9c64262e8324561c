package transport_test

import (
	"bufio"
	"bytes"
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
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

// through makes the Proxy of a Dialer.
func through(t *testing.T, proxy string) func(*url.URL) (*url.URL, error) {
	t.Helper()
	u, err := url.Parse(proxy)
	check(t, err)
	f, err := transport.ProxyURL(u)
	check(t, err)
	return f
}

// hearConnect reads a CONNECT as a proxy does.
func hearConnect(conn net.Conn) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return &http.Request{}
	}
	return r
}

// Through each kind of proxy goes each scheme; the proxy gets its credentials, and the name of the server.
func TestProxies(t *testing.T) {
	ca := mqtttest.NewAuthority()
	config := &tls.Config{Certificates: []tls.Certificate{issue(ca, "proxy and server", "proxy", "host")}}
	asked := make(chan string, 10)
	tunnel := func(conn net.Conn) {
		r := hearConnect(conn)
		asked <- fmt.Sprint(r.Method, " ", r.RequestURI, " ", r.Host, " ", r.Header.Get("Proxy-Authorization"))
		io.WriteString(conn, "HTTP/1.0 200 Connection established\r\n\r\n")
	}
	// say checks what comes and answers it, in hexadecimal.
	exchanges := func(conn net.Conn, steps ...string) {
		for i := 0; i < len(steps); i += 2 {
			got := make([]byte, len(steps[i])/2)
			io.ReadFull(conn, got)
			if fmt.Sprintf("%x", got) != steps[i] {
				t.Errorf("the proxy hears %x, want %s", got, steps[i])
			}
			var answer []byte
			fmt.Sscanf(steps[i+1], "%x", &answer)
			conn.Write(answer)
		}
	}
	name := fmt.Sprintf("%x", "host")
	for _, c := range []struct {
		proxy, dialled string
		serve          func(net.Conn) net.Conn // up to where the server is reached
		asked          string
	}{
		{"http://proxy", "proxy:80", func(c net.Conn) net.Conn { tunnel(c); return c }, "CONNECT host:7 host:7 "},
		{"http://user:se%3Acret@proxy:3128", "proxy:3128", func(c net.Conn) net.Conn { tunnel(c); return c },
			"CONNECT host:7 host:7 Basic dXNlcjpzZTpjcmV0"},
		{"https://proxy", "proxy:443", func(c net.Conn) net.Conn {
			s := tls.Server(c, config)
			tunnel(s)
			return s
		}, "CONNECT host:7 host:7 "},
		{"socks5://proxy", "proxy:1080", func(c net.Conn) net.Conn {
			exchanges(c, "050100", "0500", "05010003"+"04"+name+"0007", "05000001"+"c00002010007")
			return c
		}, ""},
		{"socks5h://user:secret@[::1]:9", "[::1]:9", func(c net.Conn) net.Conn {
			exchanges(c, "05020002", "0502", "01"+"0475736572"+"06736563726574", "0100",
				"05010003"+"04"+name+"0007", "05000003"+"026162"+"0007")
			return c
		}, ""},
		{"socks5://user:secret@proxy", "proxy:1080", func(c net.Conn) net.Conn {
			exchanges(c, "05020002", "0500", "05010003"+"04"+name+"0007", "05000004"+strings.Repeat("00", 18))
			return c
		}, ""},
	} {
		for _, scheme := range []string{"mqtt", "mqtts", "ws", "wss"} {
			t.Run(c.proxy+" "+scheme, func(t *testing.T) {
				network := loopback(t, func(conn net.Conn) {
					conn = c.serve(conn)
					if scheme == "mqtts" || scheme == "wss" {
						conn = tls.Server(conn, config)
					}
					if scheme == "ws" || scheme == "wss" {
						acceptWebSocket(conn).echoFrames()
						return
					}
					io.Copy(conn, conn)
				})
				d := transport.Dialer{
					Proxy: through(t, c.proxy), TLS: &tls.Config{RootCAs: ca.Pool()}, Patience: patience,
					NetDial: func(ctx context.Context, network_, address string) (net.Conn, error) {
						if address != c.dialled {
							t.Errorf("dials %s, want %s", address, c.dialled)
						}
						return network(ctx, network_, address)
					},
				}
				conn, err := d.Dial(t.Context(), parse(t, scheme+"://host:7"))
				check(t, err)
				defer conn.Close()
				exchange(t, conn)
				if c.asked != "" {
					if got := <-asked; got != c.asked {
						t.Errorf("the proxy is asked %q, want %q", got, c.asked)
					}
				}
			})
		}
	}
}

// Addresses go to a SOCKS proxy as such.
func TestSOCKSAddresses(t *testing.T) {
	for server, want := range map[string]string{
		"192.0.2.1:258":     "05010001c00002010102",
		"[2001:db8::1]:258": "0501000420010db80000000000000000000000010102",
	} {
		requests := make(chan string, 1)
		d := transport.Dialer{Proxy: through(t, "socks5://proxy"), NetDial: loopback(t, func(conn net.Conn) {
			io.ReadFull(conn, make([]byte, 3))
			conn.Write([]byte{5, 0})
			got := make([]byte, len(want)/2)
			io.ReadFull(conn, got)
			requests <- fmt.Sprintf("%x", got)
			conn.Write([]byte{5, 1, 0, 1})
		})}
		_, err := d.Dial(t.Context(), parse(t, server))
		var failed transport.SOCKSError
		if got := <-requests; got != want || !errors.As(err, &failed) || failed != 1 {
			t.Errorf("%s: asks %s, want %s; %v", server, got, want, err)
		}
	}
}

func TestProxyFails(t *testing.T) {
	ca := mqtttest.NewAuthority()
	say := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			hearConnect(conn)
			io.WriteString(conn, text)
		}
	}
	// socks answers the greeting, and what comes after it.
	socks := func(answers ...string) func(net.Conn) {
		return func(conn net.Conn) {
			for _, answer := range answers {
				conn.Read(make([]byte, 1000))
				io.WriteString(conn, answer)
			}
		}
	}
	user := "socks5://user:secret@proxy"
	for name, c := range map[string]struct {
		proxy  string
		serve  func(net.Conn)
		status int // of an UpgradeError; 0: another error
		text   string
	}{
		"407": {"http://user:secret@proxy", say("HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\nContent-Length: 4\r\n\r\nwho?"), 407,
			`proxy http://***@proxy: connecting to host:1883: the answer is 407 Proxy Authentication Required: "who?"`},
		"403 without an end":  {"http://proxy", say("HTTP/1.0 403 x\r\n\r\nno"), 403, `403 Forbidden: "no"`},
		"more than was asked": {"http://proxy", say("HTTP/1.1 200 OK\r\n\r\n\x20\x02"), 0, "says more"},
		"a header for ever":   {"http://proxy", say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70_000)), 0, "EOF"},
		"not HTTP":            {"http://proxy", say("\x05\x00"), 0, "malformed"},
		"no word":             {"http://proxy", say(""), 0, "EOF"},
		"no TLS":              {"https://proxy", say("HTTP/1.1 400 Bad Request\r\n\r\n"), 0, "TLS handshake: "},
		"another CA": {"https://proxy", func(c net.Conn) {
			tls.Server(c, &tls.Config{Certificates: []tls.Certificate{issue(ca, "p", "proxy")}}).Handshake()
		}, 0, "unknown authority"},
		"not SOCKS":              {user, socks("HTTP"), 0, "no SOCKS 5 proxy"},
		"SOCKS 4":                {user, socks("\x04\x00"), 0, "no SOCKS 5 proxy"},
		"wants credentials":      {"socks5://proxy", socks("\x05\xff"), 0, "wants a user name and password"},
		"wants others":           {user, socks("\x05\xff"), 0, "takes no user name and password"},
		"a method not offered":   {user, socks("\x05\x01"), 0, "authentication method 1"},
		"credentials not wanted": {"socks5://proxy", socks("\x05\x02"), 0, "authentication method 2"},
		"credentials refused":    {user, socks("\x05\x02", "\x01\x01"), 0, "refuses the user name and password"},
		"half an answer":         {user, socks("\x05\x02", "\x01"), 0, "EOF"},
		"an empty password":      {"socks5://user@proxy", socks("\x05\x02"), 0, "1 to 255 bytes"},
		"a refusal":              {user, socks("\x05\x00", "\x05\x05\x00\x01"), 0, "the proxy says: connection refused"},
		"an unknown refusal":     {user, socks("\x05\x00", "\x05\x09\x00\x01"), 0, "the proxy says: failure 9"},
		"an unknown address":     {user, socks("\x05\x00", "\x05\x00\x00\x02"), 0, "address of type 2"},
		"half a reply":           {user, socks("\x05\x00", "\x05\x00\x00\x01\x00"), 0, "EOF"},
		"another version":        {user, socks("\x05\x00", "\x04\x00\x00\x01"), 0, "no SOCKS 5 proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			d := transport.Dialer{Proxy: through(t, c.proxy), NetDial: loopback(t, c.serve)}
			_, err := d.Dial(t.Context(), parse(t, "mqtt://user:secret@host"))
			var failed *transport.ProxyError
			var refused *transport.UpgradeError
			switch {
			case !errors.As(err, &failed) || errors.As(err, &refused) != (c.status != 0) || c.status != 0 && refused.StatusCode != c.status:
				t.Errorf("error %v", err)
			case !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "secret"):
				t.Errorf("error %q does not say %q", err, c.text)
			}
		})
	}
	t.Run("dial", func(t *testing.T) {
		d := transport.Dialer{Proxy: through(t, "http://user:secret@proxy"), NetDial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no route")
		}}
		_, err := d.Dial(t.Context(), parse(t, "mqtt://host"))
		var failed *transport.ProxyError
		if !errors.As(err, &failed) || err.Error() != "proxy http://***@proxy: no route" {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a long name", func(t *testing.T) {
		d := transport.Dialer{Proxy: through(t, "socks5://proxy"), NetDial: loopback(t, func(net.Conn) {})}
		if _, err := d.Dial(t.Context(), parse(t, "mqtt://"+strings.Repeat("x", 256))); err == nil || !strings.Contains(err.Error(), "more than 255") {
			t.Errorf("error %v", err)
		}
	})
}

func TestProxyEndsWithCtx(t *testing.T) {
	for _, proxy := range []string{"http://proxy", "https://proxy", "socks5://proxy"} {
		inBubble(t, proxy, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			d := transport.Dialer{Proxy: through(t, proxy), NetDial: pipes(t, func(c net.Conn) { io.Copy(io.Discard, c) })}
			began := time.Now()
			_, err := d.Dial(ctx, parse(t, "mqtt://host"))
			var failed *transport.ProxyError
			if !errors.As(err, &failed) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	}
}

// An https proxy does not get the certificate that is for the server.
func TestProxyGetsNoClientCertificate(t *testing.T) {
	ca := mqtttest.NewAuthority()
	seen := make(chan int, 1)
	config := &tls.Config{
		Certificates: []tls.Certificate{issue(ca, "proxy", "proxy")}, ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(s tls.ConnectionState) error {
			seen <- len(s.PeerCertificates)
			return nil
		},
	}
	d := transport.Dialer{
		Proxy: through(t, "https://proxy"),
		TLS: &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{issue(ca, "client")}, ServerName: "host",
			VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { return errors.New("not the server") }},
		NetDial: loopback(t, func(conn net.Conn) {
			s := tls.Server(conn, config)
			hearConnect(s)
			io.WriteString(s, "HTTP/1.1 200 OK\r\n\r\n")
			s.Read(make([]byte, 1))
		}),
	}
	conn, err := d.Dial(t.Context(), parse(t, "mqtt://host"))
	check(t, err)
	defer conn.Close()
	if n := <-seen; n != 0 {
		t.Errorf("the proxy sees %d certificates", n)
	}
}

func TestProxyURL(t *testing.T) {
	for proxy, want := range map[string]string{
		"ftp://user:secret@proxy": `transport: proxy ftp://***@proxy: unknown scheme "ftp"`,
		"//proxy":                 "unknown scheme",
		"http:///path":            "the host is missing",
		"socks5://user:secret@":   "the host is missing",
	} {
		u, err := url.Parse(proxy)
		check(t, err)
		if _, err := transport.ProxyURL(u); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", proxy, err)
		}
		d := transport.Dialer{Proxy: func(*url.URL) (*url.URL, error) { return u, nil }}
		if _, err := d.Dial(t.Context(), parse(t, "mqtt://host")); err == nil || !strings.HasPrefix(err.Error(), "choosing a proxy: ") {
			t.Errorf("%s: dials: %v", proxy, err)
		}
	}
	none, err := transport.ProxyURL(nil)
	check(t, err)
	if proxy, err := none(parse(t, "host")); proxy != nil || err != nil {
		t.Errorf("none is %v, %v", proxy, err)
	}
	failed := errors.New("failed")
	d := transport.Dialer{Proxy: func(*url.URL) (*url.URL, error) { return nil, failed }}
	if _, err := d.Dial(t.Context(), parse(t, "mqtt://host")); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
}

// withoutProxies takes proxies out of the environment.
func withoutProxies(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"} {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
}

func TestProxyFromEnvironment(t *testing.T) {
	for _, c := range []struct {
		env    string // name=value, with spaces between
		server string
		want   string // empty: none
	}{
		{"", "mqtt://host", ""},
		{"HTTP_PROXY=http://p", "mqtt://host", "http://p"},
		{"http_proxy=p:3128", "ws://host", "http://p:3128"},
		{"HTTP_PROXY=http://p", "mqtts://host", ""},
		{"HTTPS_PROXY=http://p", "mqtts://host", "http://p"},
		{"https_proxy=https://u:secret@p", "wss://host", "https://u:secret@p"},
		{"HTTPS_PROXY=http://p", "mqtt://host", ""},
		{"ALL_PROXY=socks5://p", "mqtt://host", "socks5://p"},
		{"all_proxy=socks5h://p", "wss://host", "socks5h://p"},
		{"ALL_PROXY=socks5://p HTTP_PROXY=http://q", "mqtt://host", "http://q"},
		{"HTTP_PROXY=http://p REQUEST_METHOD=GET", "mqtt://host", ""},
		{"HTTPS_PROXY=http://p REQUEST_METHOD=GET", "mqtts://host", "http://p"},
		{"ALL_PROXY=http://p", "mqtt://localhost", ""},
		{"ALL_PROXY=http://p", "mqtt://LOCALHOST.", ""},
		{"ALL_PROXY=http://p", "mqtt://127.1.2.3", ""},
		{"ALL_PROXY=http://p", "mqtt://[::1]", ""},
		{"ALL_PROXY=http://p", "mqtt://[::ffff:127.0.0.1]", ""},
		{"ALL_PROXY=http://p NO_PROXY=*", "mqtt://host", ""},
		{"ALL_PROXY=http://p NO_PROXY=example.com", "mqtt://example.com", ""},
		{"ALL_PROXY=http://p NO_PROXY=Example.com", "mqtt://a.EXAMPLE.com", ""},
		{"ALL_PROXY=http://p NO_PROXY=example.com", "mqtt://notexample.com", "http://p"},
		{"ALL_PROXY=http://p NO_PROXY=.example.com", "mqtt://example.com", "http://p"},
		{"ALL_PROXY=http://p NO_PROXY=.example.com", "mqtt://a.example.com", ""},
		{"ALL_PROXY=http://p NO_PROXY=*.example.com", "mqtt://a.example.com", ""},
		{"ALL_PROXY=http://p no_proxy=other,,example.com:1883", "mqtt://example.com", ""},
		{"ALL_PROXY=http://p NO_PROXY=example.com:1884", "mqtt://example.com", "http://p"},
		{"ALL_PROXY=http://p NO_PROXY=192.0.2.1", "mqtt://192.0.2.1", ""},
		{"ALL_PROXY=http://p NO_PROXY=192.0.2.1", "mqtt://[::ffff:192.0.2.1]", ""},
		{"ALL_PROXY=http://p NO_PROXY=192.0.2.1:1883", "mqtt://192.0.2.1", ""},
		{"ALL_PROXY=http://p NO_PROXY=192.0.2.0/24", "mqtt://192.0.2.1", ""},
		{"ALL_PROXY=http://p NO_PROXY=192.0.2.0/24", "mqtt://192.0.3.1", "http://p"},
		{"ALL_PROXY=http://p NO_PROXY=2001:db8::/32", "mqtt://[2001:db8::7]", ""},
		{"ALL_PROXY=http://p NO_PROXY=2001:db8::7", "mqtt://[2001:db8::7]", ""},
		{"ALL_PROXY=http://p NO_PROXY=[2001:db8::7]:1883", "mqtt://[2001:db8::7]", ""},
		{"ALL_PROXY=http://p NO_PROXY=2.1", "mqtt://192.0.2.1", "http://p"},
		{"ALL_PROXY=http://u:sec%ret@p", "mqtt://host", "error ALL_PROXY"},
		{"https_proxy=ftp://u:secret@p", "mqtts://host", "error https_proxy"},
	} {
		t.Run(c.env+" "+c.server, func(t *testing.T) {
			withoutProxies(t)
			for setting := range strings.FieldsSeq(c.env) {
				name, value, _ := strings.Cut(setting, "=")
				t.Setenv(name, value)
			}
			proxy, err := transport.ProxyFromEnvironment(parse(t, c.server))
			if name, bad := strings.CutPrefix(c.want, "error "); bad {
				if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "sec") {
					t.Errorf("error %v", err)
				}
				return
			}
			got := ""
			if proxy != nil {
				got = proxy.String()
			}
			if got != c.want || err != nil {
				t.Errorf("proxy %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// A network of one's own is not the one that the environment's proxy is for.
func TestEnvironmentIsForTheSystemsNetwork(t *testing.T) {
	withoutProxies(t)
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	d := transport.Dialer{NetDial: loopback(t, func(c net.Conn) { io.Copy(c, c) })}
	conn, err := d.Dial(t.Context(), parse(t, "mqtt://host"))
	check(t, err)
	exchange(t, conn)
	conn.Close()
	var failed *transport.ProxyError
	if _, err := new(transport.Dialer).Dial(t.Context(), parse(t, "mqtt://host")); !errors.As(err, &failed) {
		t.Errorf("the system's network: %v", err)
	}
}

// FuzzProxy answers what a proxy is asked with anything: nothing panics, hangs, or takes bytes that are the server's.
func FuzzProxy(f *testing.F) {
	f.Add("http", []byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add("http", []byte("HTTP/1.1 407 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Add("socks5", []byte("\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00rest"))
	f.Add("socks5", []byte("\x05\x00\x05\x00\x00\x03\x01a\x00\x00"))
	f.Add("socks5", []byte("\x05\x00\x05\x05\x00\x01"))
	f.Fuzz(func(t *testing.T, scheme string, answer []byte) {
		if scheme != "socks5" {
			scheme = "http"
		}
		conn := &answering{left: bytes.NewReader(answer)}
		d := transport.Dialer{
			Proxy: func(*url.URL) (*url.URL, error) {
				return &url.URL{Scheme: scheme, Host: "p", User: url.UserPassword("u", "p")}, nil
			},
			NetDial: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		}
		_, err := d.Dial(t.Context(), &url.URL{Scheme: "mqtt", Host: "host"})
		read := len(answer) - conn.left.Len()
		if err != nil {
			return
		}
		if end := bytes.Index(answer, []byte("\n\r\n")); scheme == "http" && end < 0 && !bytes.Contains(answer, []byte("\n\n")) {
			t.Errorf("%q is an answer", answer)
		}
		if scheme == "socks5" && (read < 2+4+1+2 || read > 2+2+4+1+255+2) {
			t.Errorf("%d bytes of %q are read", read, answer)
		}
	})
}

// answering is a connection to a proxy that answers without listening.
type answering struct {
	net.Conn
	left *bytes.Reader
}

func (a *answering) Read(b []byte) (int, error)  { return a.left.Read(b) }
func (a *answering) Write(b []byte) (int, error) { return len(b), nil }
func (a *answering) Close() error                { return nil }
