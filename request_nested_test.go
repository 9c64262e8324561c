package mqtt_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// nesting is a front service that asks a backend for each of its own messages, in 8 handlers.
type nesting struct {
	broker *mqtttest.Broker
	front  mqtt.ClientV5
}

func startNesting(t *testing.T, opts ...mqtt.OptionV5) *nesting {
	b := mqtttest.NewBroker(t)
	backend := reconnectingV5(t, b.DialContext)
	sub := subscribeV5(t, backend, "back", mqtt.AtLeastOnce)
	go backend.Respond(t.Context(), sub, echo, mqtt.Workers(8))
	n := &nesting{b, reconnectingV5(t, b.DialContext, append(opts, mqtt.WithClientID("front"))...)}
	_, err := n.front.Request(t.Context(), "back", nil) // the reply subscription exists before the other
	noErr(t, err)
	return n
}

// A handler waits for a reply while its own message and more than a thousand others are not acknowledged.
func TestRequestInsideHandler(t *testing.T) {
	for _, burst := range []int{1, 1000, 1500} {
		t.Run(fmt.Sprint(burst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNesting(t)
				sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce)
				for i := range burst {
					n.broker.Publish(text("front", fmt.Sprint(i), 1))
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				handled := 0
				began := time.Now()
				noErr(t, sub.Handle(ctx, func(ctx context.Context, m mqtt.Message) error {
					_, err := n.front.Request(endingIn(t, 10*time.Second), "back", m.Payload)
					if err != nil {
						t.Error(err)
					}
					if handled++; handled == burst {
						cancel()
					}
					return nil
				}))
				if took := time.Since(began); handled != burst || took > time.Second {
					t.Errorf("%d of %d are handled in %v", handled, burst, took)
				}
			})
		})
	}
}

// The same one level further out: a Respond handler asks another service.
func TestRequestInsideRespond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNesting(t)
		sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce)
		go n.front.Respond(t.Context(), sub, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
			r, err := n.front.Request(ctx, "back", m.Payload)
			return r.Payload, err
		}, mqtt.Workers(8))
		user := reconnectingV5(t, n.broker.DialContext, mqtt.WithMaxRequests(5000))
		var all sync.WaitGroup
		for range 1500 {
			all.Go(func() {
				if _, err := user.Request(endingIn(t, time.Minute), "front", nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
}

// WithReplyQoS decides, whatever the client subscribes to; the error of a request that got no reply for that reason says so.
func TestReplyQoS(t *testing.T) {
	for name, c := range map[string]struct {
		opts         []mqtt.OptionV5
		before, with byte // QoS of the reply subscription without another subscription, and with one at QoS 1
	}{
		"by default":  {nil, 1, 0},
		"AtMostOnce":  {[]mqtt.OptionV5{mqtt.WithReplyQoS(mqtt.AtMostOnce)}, 0, 0},
		"AtLeastOnce": {[]mqtt.OptionV5{mqtt.WithReplyQoS(mqtt.AtLeastOnce)}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNesting(t, c.opts...)
				reply := func() byte {
					m, err := n.front.Request(t.Context(), "back", nil)
					noErr(t, err)
					return byte(m.QoS)
				}
				if got := reply(); got != c.before {
					t.Errorf("the reply comes at QoS %d, want %d", got, c.before)
				}
				subscribeV5(t, n.front, "zero", mqtt.AtMostOnce)
				if got := reply(); got != c.before {
					t.Errorf("beside a subscription at QoS 0 it comes at QoS %d, want %d", got, c.before)
				}
				subscribeV5(t, n.front, "one", mqtt.AtLeastOnce)
				if got := reply(); got != c.with {
					t.Errorf("beside a subscription at QoS 1 it comes at QoS %d, want %d", got, c.with)
				}
				n.broker.Cut("front")
				time.Sleep(time.Minute)
				if got := reply(); got != c.with {
					t.Errorf("after a reconnect it comes at QoS %d, want %d", got, c.with)
				}
			})
		})
	}
	t.Run("full", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce), mqtt.WithReceiveMaximum(2))
			subscribeV5(t, n.front, "front", mqtt.AtLeastOnce, mqtt.ManualAck)
			for range 2 {
				n.broker.Publish(text("front", "", 1))
			}
			synctest.Wait()
			_, err := n.front.Request(endingIn(t, time.Second), "back", nil)
			wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
			wantText(t, err, "cannot come while 2 messages wait for this client's acknowledgement")
		})
	})
	t.Run("full at the server, perhaps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce))
			subscribeV5(t, n.front, "front", mqtt.AtLeastOnce, mqtt.ManualAck)
			subscribeV5(t, n.front, "silent")
			n.broker.Publish(text("front", "", 1))
			synctest.Wait()
			_, err := n.front.Request(endingIn(t, time.Second), "silent", nil)
			wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
			wantText(t, err, "cannot come if the server allows no more messages than wait for this client's acknowledgement (1)")
		})
	})
}

// Where replies need room in the window, a handler that waits for one with a ctx that ends late gets an error all the same,
// and so does every request after it, without being sent, until something is acknowledged.
func TestRequestStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce), mqtt.WithReceiveMaximum(2))
		sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce, mqtt.ManualAck)
		for range 2 {
			n.broker.Publish(text("front", "", 1))
		}
		first, second := <-sub.Messages(), <-sub.Messages()
		began := time.Now()
		_, err := n.front.Request(endingIn(t, time.Hour), "back", nil)
		wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
		wantText(t, err, "2 wait for this client's acknowledgement")
		if took := time.Since(began); took < 10*time.Second || took > 15*time.Second {
			t.Errorf("the request fails after %v", took)
		}
		again := time.Now()
		_, err = n.front.Request(endingIn(t, time.Hour), "back", nil)
		if !mqtt.SafeToRetry(err) || time.Since(again) > 0 {
			t.Errorf("the next one fails after %v: %v", time.Since(again), err)
		}
		wantText(t, err, "2 wait for this client's acknowledgement")
		noErr(t, first.Ack())
		noErr(t, second.Ack())
		_, err = n.front.Request(endingIn(t, time.Second), "back", nil)
		noErr(t, err)
	})
}

// As long as something is acknowledged the requests wait.
func TestRequestWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce), mqtt.WithReceiveMaximum(1))
		sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce)
		for range 10 {
			n.broker.Publish(text("front", "", 1))
		}
		synctest.Wait()
		asking := start(func() (mqtt.Message, error) { return n.front.Request(t.Context(), "back", nil) })
		ctx, cancel := context.WithCancel(t.Context())
		handling := startErr(func() error {
			return sub.Handle(ctx, func(context.Context, mqtt.Message) error { time.Sleep(9 * time.Second); return nil })
		})
		asking.value(t)
		cancel()
		handling.wait()
	})
}

func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("the error does not say %q: %v", text, err)
	}
}
