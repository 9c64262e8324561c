package mqtt_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// connectTo is connecting with either version, in common options.
func connectTo(ctx context.Context, v codec.Version, url string, opts ...mqtt.Option) (mqtt.Client, error) {
	if v == codec.V311 {
		return mqtt.NewClientV311(ctx, url, opts...)
	}
	c, err := mqtt.NewClient(ctx, url, mqtt.Options(opts))
	if err != nil {
		return nil, err
	}
	return mqtt.Common(c), nil
}

// files writes a certificate and its key, in place of what was there.
func files(t *testing.T, folder string, c tls.Certificate) (certificate, key string) {
	certificate, key = filepath.Join(folder, "client.crt"), filepath.Join(folder, "client.key")
	certificatePEM, keyPEM := mqtttest.PEM(c)
	noErr(t, os.WriteFile(certificate, certificatePEM, 0o600))
	noErr(t, os.WriteFile(key, keyPEM, 0o600))
	return certificate, key
}

// Files are read again for each attempt, and an attempt without them fails as any other.
func TestTLSFilesAreReadAgain(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		names := make(chan string, 10)
		broker := mqtttest.NewBroker(t, mqtttest.ServerTLS(func(c *tls.Config) {
			c.ClientAuth = tls.RequireAndVerifyClientCert
			c.VerifyConnection = func(s tls.ConnectionState) error {
				names <- s.PeerCertificates[0].Subject.CommonName
				return nil
			}
		}))
		client := func(name string) tls.Certificate {
			return broker.Authority().Certificate(func(c *x509.Certificate) { c.Subject.CommonName = name })
		}
		folder := t.TempDir()
		ca := filepath.Join(folder, "ca")
		noErr(t, os.WriteFile(ca, broker.Authority().PEM(), 0o600))
		certificate, key := files(t, folder, client("first"))
		c, err := connectTo(t.Context(), v, "mqtts://localhost", mqtt.WithDialer(broker.DialTLS), mqtt.WithTLSFiles(ca, certificate, key))
		noErr(t, err)
		defer c.Close()
		if got := <-names; got != "first" {
			t.Errorf("connects as %s", got)
		}
		noErr(t, os.Remove(key))
		if err := c.Reconnect(t.Context()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without the key: %v", err)
		}
		files(t, folder, client("second"))
		noErr(t, c.WaitConnected(t.Context()))
		if got := <-names; got != "second" {
			t.Errorf("connects again as %s", got)
		}
	})
}

// An attempt function gets the options' configuration, for itself.
func TestAttemptFuncChangesTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := mqtttest.NewBroker(t)
		given := &tls.Config{ServerName: "given", NextProtos: []string{"p"}}
		c, err := connectTo(t.Context(), codec.V5, "mqtt://test", mqtt.WithDialer(broker.DialTLS),
			mqtt.WithCAData(broker.Authority().PEM()), mqtt.WithTLS(given),
			mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
				if a.TLS.ServerName != "given" || a.TLS.RootCAs == nil || a.TLS.NextProtos[0] != "p" {
					t.Errorf("TLS is %+v", a.TLS)
				}
				a.URL.Scheme = "mqtts"
				a.TLS.ServerName, a.TLS.NextProtos = "localhost", nil
				return nil
			}))
		noErr(t, err)
		noErr(t, c.Reconnect(t.Context()))
		noErr(t, c.Close())
		if given.ServerName != "given" || given.RootCAs != nil {
			t.Error("the application's configuration was changed")
		}
	})
}

func TestTLSOptionsRefused(t *testing.T) {
	ca := mqtttest.NewAuthority()
	certificate, _ := mqtttest.PEM(ca.Certificate())
	for _, c := range []struct {
		url  string
		opt  mqtt.Option
		want string
	}{
		{"mqtts://test", mqtt.WithTLS(nil), "WithTLS: nil"},
		{"mqtts://test", mqtt.WithCAData(nil), "WithCAData: empty"},
		{"mqtts://test", mqtt.WithCAData([]byte("junk")), "WithCAData: CA certificates: the data has none"},
		{"mqtts://test", mqtt.WithCertificateData(nil, nil), "WithCertificateData: empty"},
		{"mqtts://test", mqtt.WithCertificateData(certificate, nil), "WithCertificateData: client certificate: "},
		{"mqtts://test", mqtt.WithTLSFiles("", "", "key"), "a key without a certificate"},
		{"test", mqtt.WithTLS(new(tls.Config)), "WithTLS: no server has a URL of scheme mqtts or wss"},
		{"mqtt://test", mqtt.WithTLSFiles("ca", "", ""), "WithTLSFiles: no server"},
		{"mqtts://test", mqtt.WithHeader(nil), "WithHeader: no server has a URL of scheme ws or wss"},
		{"unix:test", mqtt.WithCAData(ca.PEM()), "WithCAData: no server"},
	} {
		dial := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("was dialled") }
		_, err := mqtt.NewClient(t.Context(), c.url, c.opt, mqtt.WithDialer(dial))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", c.url, err, c.want)
		}
	}
}

// An attempt that fails in TLS is followed by another one.
func TestTLSErrorsAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := mqtttest.NewBroker(t)
		var failures []mqtt.Failure
		_, err := mqtt.NewClient(t.Context(), "mqtts://localhost", mqtt.WithDialer(broker.DialTLS),
			mqtt.WithCAData(mqtttest.NewAuthority().PEM()), mqtt.WithConnectRetry(),
			mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
				if failures = append(failures, f); len(failures) == 3 {
					return 0, f.Err
				}
				return f.Delay, nil
			}}))
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unknown) || len(failures) != 3 || failures[0].Permanent {
			t.Errorf("%v after %d failures", err, len(failures))
		}
	})
}

// One deadline bounds dial, TLS and CONNACK.
func TestOneDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(20 * time.Second)
			client, server := net.Pipe()
			go io.Copy(io.Discard, server) // until the client closes
			return client, nil
		}
		began := time.Now()
		_, err := mqtt.NewClient(t.Context(), "mqtts://test", mqtt.WithDialer(dial))
		var failed *mqtt.ConnectError
		if !errors.As(err, &failed) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 30*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		synctest.Wait()
	})
}

// A file that cannot be read is a failed attempt that names it.
func TestTLSFileIsMissing(t *testing.T) {
	_, err := mqtt.NewClient(t.Context(), "mqtts://test", mqtt.WithTLSFiles(filepath.Join(t.TempDir(), "absent"), "", ""))
	var failed *mqtt.ConnectError
	if !errors.As(err, &failed) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("error %v", err)
	}
}

// gone is a connection to a server that has spoken and closed.
type gone struct {
	net.Conn
	said *strings.Reader
}

func (c gone) Write([]byte) (int, error)  { return 0, syscall.ECONNRESET }
func (c gone) Read(b []byte) (int, error) { return c.said.Read(b) }

// A server may refuse a client before it reads CONNECT, as with a certificate in TLS 1.3. Its reason is in the error.
func TestServerIsGoneBeforeConnect(t *testing.T) {
	refusals := map[codec.Version]string{codec.V5: "\x20\x03\x00\x8a\x00", codec.V311: "\x20\x02\x00\x05"}
	welcomes := map[codec.Version]string{codec.V5: "\x20\x03\x00\x00\x00", codec.V311: "\x20\x02\x00\x00"}
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		connect := func(said string) error {
			_, err := connectTo(t.Context(), v, "mqtt://test", mqtt.WithDialer(func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				server.Close()
				return gone{client, strings.NewReader(said)}, nil
			}))
			return err
		}
		if err := connect(""); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("no word: %v", err)
		}
		if err := connect(welcomes[v]); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a CONNACK: %v", err)
		}
		want := map[codec.Version]mqtt.ReasonCode{codec.V5: mqtt.Banned, codec.V311: mqtt.NotAuthorized}[v]
		if err := connect(refusals[v]); !errors.Is(err, want) {
			t.Errorf("a refusal: %v", err)
		}
	})
}
