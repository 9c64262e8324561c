package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/broker"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

// endpoint is one way to reach a server.
type endpoint struct {
	url  string
	opts []mqtt.Option
}

// withOptions returns e with more options.
func (e endpoint) withOptions(opts ...mqtt.Option) endpoint {
	return endpoint{e.url, append(e.opts[:len(e.opts):len(e.opts)], opts...)}
}

// fortress is a Mosquitto that listens in every way, with certificates for localhost. Its certificate authority is ca.
type fortress struct {
	*mosquitto
	ca        *mqtttest.Authority
	folder    string
	endpoints map[string]endpoint // by name
	lines     []string
	lastPort  int // of the listener that is opened last
}

// startFortress starts it; lines are added to its configuration, before the listeners.
func startFortress(t *testing.T, lines ...string) *fortress {
	f := &fortress{ca: mqtttest.NewAuthority(), folder: t.TempDir(), endpoints: map[string]endpoint{}, lines: lines}
	good := f.ca.Certificate()
	caOption := mqtt.WithCAData(f.ca.PEM())
	socket := filepath.Join(f.shortFolder(t), "socket")
	f.lines = append(f.lines, "listener 0 "+socket)
	f.endpoints["unix"] = endpoint{url: "unix://" + socket}
	f.listenTLS(t, "mqtts", "mqtts", good, caOption)
	f.listenTLS(t, "mqtts, another host's certificate", "mqtts", f.ca.Certificate(elsewhere), caOption)
	f.listenTLS(t, "mqtts, an expired certificate", "mqtts", f.ca.Certificate(expired), caOption)
	f.endpoints["ws"] = endpoint{url: fmt.Sprintf("ws://localhost:%d", f.listen(t))}
	f.lines = append(f.lines, "protocol websockets")
	f.listenTLS(t, "wss", "wss", good, caOption)
	f.lines = append(f.lines, "protocol websockets")
	f.listenTLS(t, "mqtts with a client certificate", "mqtts", good, caOption, mqtt.WithCertificateData(mqtttest.PEM(f.ca.Certificate())))
	f.requireCertificate()
	f.mosquitto = startMosquitto(t, f.lines...)
	awaitListener(t, f.lastPort, f.exited)
	f.endpoints["mqtt"] = endpoint{url: f.mosquitto.url()}
	return f
}

// shortFolder makes a folder with a name short enough for a socket, whatever TMPDIR says.
func (f *fortress) shortFolder(t *testing.T) string {
	folder, err := os.MkdirTemp("/tmp", "petrel")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func (f *fortress) listenTLS(t *testing.T, name, scheme string, server tls.Certificate, opts ...mqtt.Option) {
	port := f.listen(t)
	ca, certificate, key := files(t, f.folder, fmt.Sprint(port), f.ca, server)
	f.lines = append(f.lines, "cafile "+ca, "certfile "+certificate, "keyfile "+key)
	f.endpoints[name] = endpoint{fmt.Sprintf("%s://localhost:%d", scheme, port), opts}
}

// files writes the certificate of an authority, another certificate and its key into a folder, in place of what was
// there.
func files(t *testing.T, folder, name string, a *mqtttest.Authority, c tls.Certificate) (ca, certificate, key string) {
	certificatePEM, keyPEM := mqtttest.PEM(c)
	write := func(suffix string, data []byte) string {
		path := filepath.Join(folder, name+suffix)
		check(t, os.WriteFile(path, data, 0o600))
		return path
	}
	return write(".ca", a.PEM()), write(".crt", certificatePEM), write(".key", keyPEM)
}

// Changes of a certificate.
func elsewhere(c *x509.Certificate) { c.DNSNames = []string{"elsewhere"} }
func expired(c *x509.Certificate)   { c.NotAfter = time.Now().Add(-time.Hour) }
func named(c *x509.Certificate)     { c.Subject.CommonName = "client" }

func (f *fortress) requireCertificate() { f.lines = append(f.lines, "require_certificate true") }

// listen begins a listener on a free port.
func (f *fortress) listen(t *testing.T) int {
	f.lastPort = freeport.Take(t)
	f.lines = append(f.lines, fmt.Sprintf("listener %d 127.0.0.1", f.lastPort))
	return f.lastPort
}

// usable are the endpoints that a client can use.
var usable = []string{"mqtt", "mqtts", "mqtts with a client certificate", "ws", "wss", "unix"}

// Each scheme carries each QoS in each version, messages that are larger than what one write, record or frame holds too.
func TestSchemes(t *testing.T) {
	server := startFortress(t)
	for _, name := range usable {
		for _, v := range versions {
			for _, qos := range levels {
				t.Run(fmt.Sprintf("%s/%s/%v", name, v.name, qos), func(t *testing.T) {
					t.Parallel() // Mosquitto takes from a WebSocket 4 KiB in 100 ms
					ctx := within(t)
					e := server.endpoints[name]
					c, err := v.connect(ctx, e.url, e.opts...)
					check(t, err)
					defer c.Close()
					sub, err := c.Subscribe(ctx, t.Name()+"/+", qos)
					check(t, err)
					for _, payload := range []string{"", "one", strings.Repeat("0123456789", 7000)} {
						check(t, c.Publish(ctx, t.Name()+"/1", []byte(payload), qos))
						m, err := sub.Next(ctx)
						check(t, err)
						if string(m.Payload) != payload || m.QoS != qos {
							t.Errorf("got %d bytes at QoS %v, want %d", len(m.Payload), m.QoS, len(payload))
						}
					}
					check(t, c.Disconnect(ctx))
				})
			}
		}
	}
}

// Whatever is wrong with certificates is an error of its own type, at once, and says what is wrong.
func TestCertificatesRefused(t *testing.T) {
	server := startFortress(t)
	other := mqtttest.NewAuthority()
	secure := server.endpoints["mqtts"]
	demanding := server.endpoints["mqtts with a client certificate"]
	for name, c := range map[string]struct {
		endpoint
		want any // for errors.As
		text string
	}{
		"another CA":                 {endpoint{secure.url, []mqtt.Option{mqtt.WithCAData(other.PEM())}}, new(x509.UnknownAuthorityError), "unknown authority"},
		"the system's CAs":           {endpoint{url: secure.url}, new(x509.UnknownAuthorityError), "unknown authority"},
		"another host":               {server.endpoints["mqtts, another host's certificate"], new(x509.HostnameError), "elsewhere"},
		"another name":               {secure.withOptions(mqtt.WithTLS(&tls.Config{ServerName: "other"})), new(x509.HostnameError), "other"},
		"an expired certificate":     {server.endpoints["mqtts, an expired certificate"], new(x509.CertificateInvalidError), "expired"},
		"no client certificate":      {endpoint{demanding.url, secure.opts}, new(*net.OpError), "certificate required"},
		"another client certificate": {demanding.withOptions(mqtt.WithCertificateData(mqtttest.PEM(other.Certificate()))), new(*net.OpError), "unknown certificate authority"},
		"another CA, WebSocket":      {endpoint{server.endpoints["wss"].url, []mqtt.Option{mqtt.WithCAData(other.PEM())}}, new(x509.UnknownAuthorityError), "unknown authority"},
		"no TLS":                     {endpoint{strings.Replace(server.url(), "mqtt:", "mqtts:", 1), nil}, new(error), "TLS handshake"},
	} {
		for _, v := range versions {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				began := time.Now()
				client, err := v.connect(within(t), c.url, c.opts...)
				if err == nil {
					client.Close()
					t.Fatal("connects")
				}
				var failed *mqtt.ConnectError
				if !errors.As(err, &failed) || !errors.As(err, c.want) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(began); took > patience/2 { // it does not try again
					t.Errorf("after %v", took)
				}
			})
		}
	}
}

// certificates of WithTLSFiles are read again at each attempt.
func TestCertificateFilesChange(t *testing.T) {
	server := startFortress(t, "use_identity_as_username true")
	ctx := within(t)
	e := server.endpoints["mqtts with a client certificate"]
	folder := t.TempDir()
	ca, crt, key := files(t, folder, "client", server.ca, mqtttest.NewAuthority().Certificate())
	_, err := mqtt.NewClient(ctx, e.url, mqtt.WithTLSFiles(ca, crt, key))
	if err == nil {
		t.Fatal("connects with a certificate of another authority")
	}
	files(t, folder, "client", server.ca, server.ca.Certificate(named))
	c, err := mqtt.NewClient(ctx, e.url, mqtt.WithTLSFiles(ca, crt, key))
	check(t, err)
	defer c.Close()
	check(t, c.Reconnect(ctx))
	check(t, os.Remove(key))
	if err := c.Reconnect(ctx); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its key the client connects again: %v", err)
	}
}

// Sessions of TLS are resumed at a reconnect, as Mosquitto offers that.
func TestTLSSessionIsResumed(t *testing.T) {
	server := startFortress(t)
	ctx := within(t)
	e := server.endpoints["mqtts"]
	resumed := make(chan bool, 10)
	c, err := mqtt.NewClient(ctx, e.url, mqtt.Options(e.opts), mqtt.WithTLS(&tls.Config{
		VerifyConnection: func(s tls.ConnectionState) error {
			resumed <- s.DidResume
			return nil
		},
	}))
	check(t, err)
	defer c.Close()
	check(t, c.Reconnect(ctx))
	if first, second := <-resumed, <-resumed; first || !second {
		t.Errorf("resumed %v, then %v", first, second)
	}
}

// Mosquitto reads a password file of petrel passwd.
func TestOurPasswordFile(t *testing.T) {
	hash, err := broker.NewHash(broker.Schemes()[0], []byte("secret word"))
	check(t, err)
	file := filepath.Join(t.TempDir(), "passwords")
	check(t, os.WriteFile(file, []byte("user:"+hash+"\n"), 0o644))
	server := startFortress(t, "allow_anonymous false", "password_file "+file)
	for password, want := range map[string]error{"secret word": nil, "secret": mqtt.NotAuthorized} {
		e := server.endpoints["mqtt"].withOptions(mqtt.WithCredentials("user", password))
		c, err := mqtt.NewClient(within(t), e.url, mqtt.Options(e.opts))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", password, err, want)
		}
		if err == nil {
			check(t, c.Close())
		}
	}
}

func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwords")
	out, err := exec.Command(find(t, "mosquitto_passwd"), "-c", "-b", file, "user", "secret word").CombinedOutput()
	if err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	server := startFortress(t, "allow_anonymous false", "password_file "+file)
	fresh := mqtt.WithCredentialsFunc(func(context.Context) (username, password string, err error) {
		return "user", "secret word", nil
	})
	withUser := func(e endpoint) endpoint {
		return endpoint{strings.Replace(e.url, "://", "://user:secret%20word@", 1), e.opts}
	}
	for _, v := range versions {
		for _, name := range []string{"mqtt", "mqtts", "wss"} {
			e := server.endpoints[name]
			for how, c := range map[string]struct {
				endpoint
				code mqtt.ReasonCode
			}{
				"an option":       {e.withOptions(mqtt.WithCredentials("user", "secret word")), 0},
				"the URL":         {withUser(e), 0},
				"a function":      {e.withOptions(fresh), 0},
				"nothing":         {e, mqtt.NotAuthorized},
				"a wrong user":    {e.withOptions(mqtt.WithCredentials("other", "secret word")), mqtt.NotAuthorized},
				"a wrong word":    {e.withOptions(mqtt.WithCredentials("user", "secret")), mqtt.NotAuthorized},
				"an option again": {withUser(e).withOptions(mqtt.WithCredentials("user", "secret")), mqtt.NotAuthorized},
			} {
				t.Run(v.name+"/"+name+"/"+how, func(t *testing.T) {
					client, err := v.connect(within(t), c.url, c.opts...)
					switch {
					case err == nil && c.code == 0:
						check(t, client.Close())
					case err == nil:
						client.Close()
						t.Error("connects")
					case c.code == 0 || !errors.Is(err, c.code) || strings.Contains(err.Error(), "secret"):
						t.Errorf("error %v, want %v", err, c.code)
					}
				})
			}
		}
	}
}

// A reverse proxy that wants a token, in front of Mosquitto: without one it is an error that shows what the proxy says;
// a fresh token for each attempt, as a token that has expired needs it, gets through.
func TestTokenForAReverseProxy(t *testing.T) {
	server := startFortress(t)
	target, err := url.Parse(strings.Replace(server.endpoints["ws"].url, "ws:", "http:", 1))
	check(t, err)
	var valid atomic.Int64 // the token that is good, once
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != fmt.Sprint("Bearer ", valid.Load()) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token has expired", http.StatusUnauthorized)
			return
		}
		valid.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	address := strings.Replace(front.URL, "http:", "ws:", 1) + "/mqtt?secret"
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			ctx := within(t)
			_, err := v.connect(ctx, address, mqtt.WithConnectRetry(), mqtt.WithHeader(http.Header{"Authorization": {"Bearer x"}}))
			var refused *transport.UpgradeError
			if !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized || refused.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("error %v", err)
			}
			if text := fmt.Sprint(err); !strings.HasSuffix(text, `the answer is 401 Unauthorized: "the token has expired"`) || strings.Contains(text, "secret") {
				t.Errorf("error %s", text)
			}
			c, err := v.connect(ctx, address, mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
				a.Header.Set("Authorization", fmt.Sprint("Bearer ", valid.Load()))
				return nil
			}))
			check(t, err)
			check(t, c.Reconnect(ctx))
			check(t, c.Publish(ctx, "a", nil, mqtt.AtLeastOnce))
			check(t, c.Disconnect(ctx))
		})
	}
}
