package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

// overNetworks are the schemes with a framing of their own, and how to reach a broker in memory with them.
var overNetworks = map[string]struct {
	dial   func(*mqtttest.Broker) dialFunc
	listen func(*mqtttest.Broker) string
}{
	"mqtts": {func(b *mqtttest.Broker) dialFunc { return b.DialTLS }, (*mqtttest.Broker).ListenTLS},
	"ws":    {func(b *mqtttest.Broker) dialFunc { return b.DialWS }, (*mqtttest.Broker).ListenWS},
	"wss":   {func(b *mqtttest.Broker) dialFunc { return b.DialWSS }, (*mqtttest.Broker).ListenWSS},
}

// trusting is what a client needs to know of the broker.
func trusting(scheme string, broker *mqtttest.Broker) mqtt.Options {
	if scheme == "ws" {
		return nil
	}
	return mqtt.Options{mqtt.WithCAData(broker.Authority().PEM())}
}

// A custom dialer makes the network; TLS and WebSocket are spoken on top of it, in virtual time.
func TestSchemesOverAnyNetwork(t *testing.T) {
	for scheme, way := range overNetworks {
		t.Run(scheme, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				broker := mqtttest.NewBroker(t, mqtttest.Fragment(1000))
				c, err := connectTo(t.Context(), v, scheme+"://localhost", mqtt.WithDialer(way.dial(broker)), trusting(scheme, broker))
				noErr(t, err)
				sub, err := c.Subscribe(t.Context(), "a", mqtt.ExactlyOnce)
				noErr(t, err)
				payload := strings.Repeat("x", 200_000) // more than a record or a frame
				noErr(t, c.Publish(t.Context(), "a", []byte(payload), mqtt.ExactlyOnce))
				m, err := sub.Next(t.Context())
				noErr(t, err)
				if string(m.Payload) != payload {
					t.Errorf("%d other bytes", len(m.Payload))
				}
				noErr(t, c.Disconnect(t.Context()))
			})
		})
	}
}

// The header is asked for at every attempt, so that a token can be a fresh one; WithHeader is what it starts from.
func TestHeaderOfEachAttempt(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		tokens := []string{}
		status := func(r *http.Request) int {
			tokens = append(tokens, r.Header.Get("Authorization")+r.Header.Get("X-Fixed"))
			if len(tokens) == 1 {
				return http.StatusUnauthorized
			}
			return 0
		}
		fixed := http.Header{"X-Fixed": {"!"}}
		c, err := connectTo(t.Context(), v, "ws://test", mqtt.WithHeader(fixed), mqtt.WithConnectRetry(),
			mqtt.WithDialer(mqtttest.NewBroker(t, mqtttest.Upgrade(status)).DialWS),
			mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
				a.Header.Set("Authorization", fmt.Sprint("token ", a.Number))
				return nil
			}))
		noErr(t, err)
		noErr(t, c.Reconnect(t.Context()))
		noErr(t, c.Close())
		if want := []string{"token 1!", "token 2!", "token 3!"}; !slices.Equal(tokens, want) {
			t.Errorf("tokens %q, want %q", tokens, want)
		}
		if len(fixed) != 1 {
			t.Error("the application's header was changed")
		}
	})
}

// 401 and 403 end the client, unless an attempt function may bring another token; what else a server
// answers is tried again.
func TestUpgradeRefused(t *testing.T) {
	nothing := mqtt.WithAttemptFunc(func(context.Context, *mqtt.Attempt) error { return nil })
	for _, c := range []struct {
		status    int
		opt       mqtt.Option
		permanent bool
	}{
		{401, nil, true}, {403, nil, true}, {401, nothing, false}, {403, nothing, false}, {404, nil, false}, {503, nil, false}, {407, nil, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var failures []mqtt.Failure
			opts := mqtt.Options{
				mqtt.WithConnectRetry(),
				mqtt.WithDialer(mqtttest.NewBroker(t, mqtttest.Upgrade(func(*http.Request) int { return c.status })).DialWS),
				mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
					if failures = append(failures, f); f.Permanent || len(failures) == 3 {
						return 0, f.Err
					}
					return f.Delay, nil
				}}),
			}
			if c.opt != nil {
				opts = append(opts, c.opt)
			}
			_, err := mqtt.NewClient(t.Context(), "ws://test/?token=secret", opts)
			var failed *mqtt.ConnectError
			var refused *transport.UpgradeError
			if !errors.As(err, &failed) || !errors.As(err, &refused) || refused.StatusCode != c.status || strings.Contains(err.Error(), "secret") {
				t.Errorf("%d: error %v", c.status, err)
			}
			if n := len(failures); (n == 1) != c.permanent {
				t.Errorf("%d: %d attempts", c.status, n)
			}
		})
	}
}

// A large flow both ways at once loses and mixes nothing.
func TestLargeFlow(t *testing.T) {
	const messages = 4000
	for scheme, way := range overNetworks {
		t.Run(scheme, func(t *testing.T) {
			broker := mqtttest.NewBroker(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, err := mqtt.NewClient(ctx, way.listen(broker), trusting(scheme, broker))
			noErr(t, err)
			defer c.Close()
			sub, err := c.Subscribe(ctx, "flow", mqtt.AtLeastOnce)
			noErr(t, err)
			payload := func(i int) string { return fmt.Sprint(i, strings.Repeat("x", i*7919%3000)) }
			go func() {
				for i := range messages {
					c.PublishAsync(ctx, "flow", []byte(payload(i)), mqtt.AtLeastOnce)
				}
			}()
			for i := range messages {
				m, err := sub.Next(ctx)
				noErr(t, err)
				if want := payload(i); string(m.Payload) != want {
					t.Fatalf("message %d is %.10q… of %d bytes, want %d", i, m.Payload, len(m.Payload), len(want))
				}
			}
			noErr(t, c.Disconnect(ctx))
		})
	}
}
