package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/internal/certs"
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
	ca        *certs.Pair
	folder    string
	endpoints map[string]endpoint // by name
	lines     []string
	lastPort  int // of the listener that is opened last
}

// startFortress starts it; lines are added to its configuration, before the listeners.
func startFortress(t *testing.T, lines ...string) *fortress {
	f := &fortress{ca: certs.NewAuthority(t), folder: t.TempDir(), endpoints: map[string]endpoint{}, lines: lines}
	good := f.ca.Issue(t, "server", "localhost", "127.0.0.1")
	caOption := mqtt.WithCAData(f.ca.Certificate)
	socket := filepath.Join(f.shortFolder(t), "socket")
	f.lines = append(f.lines, "listener 0 "+socket)
	f.endpoints["unix"] = endpoint{url: "unix://" + socket}
	f.listenTLS(t, "mqtts", "mqtts", good, caOption)
	f.listenTLS(t, "mqtts, another host's certificate", "mqtts", f.ca.Issue(t, "server", "elsewhere"), caOption)
	f.listenTLS(t, "mqtts, an expired certificate", "mqtts", f.ca.IssueExpired(t, "server", "localhost"), caOption)
	client := f.ca.Issue(t, "client")
	f.listenTLS(t, "mqtts with a client certificate", "mqtts", good, caOption, mqtt.WithCertificateData(client.Certificate, client.Key))
	f.requireCertificate()
	f.mosquitto = startMosquitto(t, f.lines...)
	awaitListener(t, f.lastPort, f.exited)
	f.endpoints["mqtt"] = endpoint{url: f.mosquitto.url()}
	return f
}

// shortFolder makes a folder with a name short enough for a socket.
func (f *fortress) shortFolder(t *testing.T) string {
	folder, err := os.MkdirTemp("", "petrel")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func (f *fortress) listenTLS(t *testing.T, name, scheme string, server *certs.Pair, opts ...mqtt.Option) {
	port := f.listen(t)
	ca, _ := f.ca.Files(t, f.folder, "ca")
	certificate, key := server.Files(t, f.folder, fmt.Sprint(port))
	f.lines = append(f.lines, "cafile "+ca, "certfile "+certificate, "keyfile "+key)
	f.endpoints[name] = endpoint{fmt.Sprintf("%s://localhost:%d", scheme, port), opts}
}

func (f *fortress) requireCertificate() { f.lines = append(f.lines, "require_certificate true") }

// listen begins a listener on a free port.
func (f *fortress) listen(t *testing.T) int {
	f.lastPort = freePort(t)
	f.lines = append(f.lines, fmt.Sprintf("listener %d 127.0.0.1", f.lastPort))
	return f.lastPort
}

// usable are the endpoints that a client can use.
var usable = []string{"mqtt", "mqtts", "mqtts with a client certificate", "unix"}

// Each scheme carries each QoS in each version, messages that are larger than what one write, record or frame holds too.
func TestSchemes(t *testing.T) {
	server := startFortress(t)
	for _, name := range usable {
		for _, v := range versions {
			for _, qos := range levels {
				t.Run(fmt.Sprintf("%s/%s/%v", name, v.name, qos), func(t *testing.T) {
					ctx := within(t, 10*time.Second)
					e := server.endpoints[name]
					c, err := v.connect(ctx, e.url, e.opts...)
					check(t, err)
					defer c.Close()
					sub, err := c.Subscribe(ctx, "a/+", qos)
					check(t, err)
					for _, payload := range []string{"", "one", strings.Repeat("0123456789", 30_000)} {
						check(t, c.Publish(ctx, "a/1", []byte(payload), qos))
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
	other := certs.NewAuthority(t)
	stranger := other.Issue(t, "client")
	secure := server.endpoints["mqtts"]
	demanding := server.endpoints["mqtts with a client certificate"]
	for name, c := range map[string]struct {
		endpoint
		want any // for errors.As
		text string
	}{
		"another CA":                 {endpoint{secure.url, []mqtt.Option{mqtt.WithCAData(other.Certificate)}}, new(x509.UnknownAuthorityError), "unknown authority"},
		"the system's CAs":           {endpoint{url: secure.url}, new(x509.UnknownAuthorityError), "unknown authority"},
		"another host":               {server.endpoints["mqtts, another host's certificate"], new(x509.HostnameError), "elsewhere"},
		"another name":               {secure.withOptions(mqtt.WithTLS(&tls.Config{ServerName: "other"})), new(x509.HostnameError), "other"},
		"an expired certificate":     {server.endpoints["mqtts, an expired certificate"], new(x509.CertificateInvalidError), "expired"},
		"no client certificate":      {endpoint{demanding.url, secure.opts}, new(*net.OpError), "certificate required"},
		"another client certificate": {demanding.withOptions(mqtt.WithCertificateData(stranger.Certificate, stranger.Key)), new(*net.OpError), "unknown certificate authority"},
		"no TLS":                     {endpoint{strings.Replace(server.url(), "mqtt:", "mqtts:", 1), nil}, new(error), "TLS handshake"},
	} {
		for _, v := range versions {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				began := time.Now()
				client, err := v.connect(within(t, 10*time.Second), c.url, c.opts...)
				if err == nil {
					client.Close()
					t.Fatal("connects")
				}
				var failed *mqtt.ConnectError
				if !errors.As(err, &failed) || !errors.As(err, c.want) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("after %v", took)
				}
			})
		}
	}
}

// certificates of WithTLSFiles are read again at each attempt.
func TestCertificateFilesChange(t *testing.T) {
	server := startFortress(t, "use_identity_as_username true")
	ctx := within(t, 20*time.Second)
	e := server.endpoints["mqtts with a client certificate"]
	folder := t.TempDir()
	ca, _ := server.ca.Files(t, folder, "ca")
	crt, key := certs.NewAuthority(t).Issue(t, "client").Files(t, folder, "client")
	_, err := mqtt.NewClient(ctx, e.url, mqtt.WithTLSFiles(ca, crt, key))
	if err == nil {
		t.Fatal("connects with a certificate of another authority")
	}
	server.ca.Issue(t, "client").Files(t, folder, "client")
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
	ctx := within(t, 10*time.Second)
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
		for _, name := range []string{"mqtt", "mqtts"} {
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
					client, err := v.connect(within(t, 10*time.Second), c.url, c.opts...)
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
