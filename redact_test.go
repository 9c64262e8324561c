package mqtt_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Secrets show nowhere, however an attempt is printed.
func TestAttemptHidesSecrets(t *testing.T) {
	ca := mqtttest.NewAuthority()
	u, err := url.Parse("wss://secret-user:secret-word@host/mqtt?token=secret-token")
	noErr(t, err)
	a := mqtt.Attempt{
		Number: 7, URL: u, LastErr: errors.New("the reason"), Username: "secret-name", Password: "secret-pass",
		Header: http.Header{"Authorization": {"Bearer secret"}},
	}
	for _, config := range []*tls.Config{nil, {Certificates: []tls.Certificate{ca.Certificate()}}} {
		a.TLS = config
		var texts []string
		for _, v := range []any{a, &a, []mqtt.Attempt{a}, struct{ A *mqtt.Attempt }{&a}, struct{ A mqtt.Attempt }{a}, map[string]mqtt.Attempt{"a": a}} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
				texts = append(texts, fmt.Sprintf(verb, v))
			}
			data, err := json.Marshal(v)
			noErr(t, err)
			var log lines
			slog.New(slog.NewTextHandler(&log, nil)).Error("failed", "attempt", v)
			slog.New(slog.NewJSONHandler(&log, nil)).Error("failed", "attempt", v)
			texts = append(texts, string(data), log.String())
		}
		for _, text := range texts {
			if strings.Contains(text, "secret") || strings.Contains(text, "PRIVATE") {
				t.Errorf("shows %s", text)
			}
		}
	}
	if got, want := a.String(), "attempt 7 to wss://***@host/mqtt?*** with credentials ***, because of: the reason"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if got := new(mqtt.Attempt).String(); got != "attempt 0" {
		t.Errorf("String() of nothing = %q", got)
	}
}

// No error, log line, or client that is printed shows a password, a user name of a URL, or a query.
func TestSecretsShowNowhere(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		broker := mqtttest.NewBroker(t)
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "test:1883" {
				return nil, fmt.Errorf("no route to %s", address)
			}
			return broker.DialContext(ctx, network, address)
		}
		log := new(lines)
		var mu sync.Mutex
		var texts []string
		show := func(what ...any) {
			mu.Lock()
			defer mu.Unlock()
			for _, w := range what {
				texts = append(texts, fmt.Sprintf("%v %+v %#v %q", w, w, w, w))
			}
		}
		options := []mqtt.Option{
			mqtt.WithCredentials("name", "secret-pass"),
			mqtt.WithServers("mqtts://secret-user:secret-word@other", "wss://secret-user:secret-word@other/?token=secret"),
			mqtt.WithHeader(http.Header{"Authorization": {"secret"}}),
			mqtt.WithLogger(slog.New(slog.NewTextHandler(log, nil))),
			mqtt.WithTrace(&mqtt.Trace{
				ConnectStart: func(server string, _ int) { show(server) },
				ConnectDone:  func(server string, _ int, err error) { show(server, err) },
				Disconnected: func(err error) { show(err) },
				Retrying:     func(f mqtt.Failure, _ time.Duration) { show(f) },
			}),
			mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
				show(f, f.Err, f.Server)
				return f.Delay, nil
			}}),
			mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
				show(a, *a)
				return nil
			}),
		}
		for _, o := range options {
			show(o)
		}
		broker.Refuse(3, 0x88)
		c, err := connectTo(t.Context(), v, "mqtt://secret-user:secret-word@test",
			append(options, mqtt.WithConnectRetry(), mqtt.WithDialer(dial))...)
		noErr(t, err)
		broker.Offline()
		time.Sleep(time.Hour)
		noErr(t, c.Close())
		show(c, c.Err())
		show(log.text.String())

		for _, host := range []string{
			"mqtt://secret-user:secret-word@", "http://secret-user:secret-word@test", "mqtt://user:secret/word@test",
			"ws://test/#secret@", "mqtt://user:secret%zz@test", "user:secret@test", "mqtts://user:secret@test",
			"https://test/mqtt?token=secret", "wss://test:99999/mqtt?token=secret",
		} {
			_, err := connectTo(t.Context(), v, host, append(options, mqtt.WithDialer(dial))...)
			if err == nil {
				t.Errorf("%s is taken", host)
			}
			show(err)
		}
		for _, text := range texts {
			if strings.Contains(text, "secret") {
				t.Errorf("shows %s", text)
			}
		}
		if !strings.Contains(strings.Join(texts, ""), "***") || !strings.Contains(log.text.String(), "connecting again") {
			t.Error("the test shows nothing of interest")
		}
	})
}
