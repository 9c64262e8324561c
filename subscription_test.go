package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// However a subscription ends, and whatever it is doing, its channel is closed, once, and what is in it can be received.
// Waiting messages are not counted as dropped because the client ends.
func TestDeliverEnd(t *testing.T) {
	states := map[string][]mqtt.SubscribeOption{
		"idle":   nil,
		"line":   {mqtt.Buffer(1)},
		"block":  {mqtt.Buffer(1), mqtt.Block},
		"manual": {mqtt.Buffer(1), mqtt.ManualAck},
	}
	ends := map[string]struct {
		end func(b *mqtttest.Broker, c mqtt.Client)
		err error
	}{
		"Close":      {func(b *mqtttest.Broker, c mqtt.Client) { c.Close() }, mqtt.ErrClosed},
		"Disconnect": {func(b *mqtttest.Broker, c mqtt.Client) { c.Disconnect(context.Background()) }, mqtt.ErrClosed},
		"cut":        {func(b *mqtttest.Broker, c mqtt.Client) { b.Cut(); <-c.Done() }, mqtt.ErrConnectionLost},
	}
	for state, opts := range states {
		for name, test := range ends {
			t.Run(state+"/"+name, func(t *testing.T) {
				inBothVersions(t, func(t *testing.T, v codec.Version) {
					b := mqtttest.NewBroker(t)
					c := dialAs(t, v, b.DialContext)
					sub := subscribe(t, c, "a", append(opts, mqtt.AtLeastOnce)...)
					n := 0
					if state != "idle" {
						n = 10
					}
					for i := range n {
						b.Publish(text("a", fmt.Sprint(i), 1))
					}
					if state == "block" {
						b.Publish(text("a", "", 0))
					}
					synctest.Wait()
					test.end(b, c)
					if got := numbers(t, arrived(sub)); !slices.Equal(got, upTo(0, min(n, 1))) {
						t.Errorf("%v in the channel", got)
					}
					wantClosed(t, sub)
					if err := sub.Err(); !errors.Is(err, test.err) {
						t.Errorf("%v", err)
					}
					if _, err := sub.Next(t.Context()); !errors.Is(err, test.err) {
						t.Errorf("Next: %v", err)
					}
					if got := sub.Dropped(); got != 0 {
						t.Errorf("%d dropped", got)
					}
				})
			})
		}
	}
}

// NewSubscription makes what a fake client hands out.
func TestDeliverFake(t *testing.T) {
	messages := make(chan mqtt.Message, 1)
	sub := mqtt.NewSubscription("a/+", messages)
	messages <- mqtt.Message{Topic: "a/b", Payload: []byte("x")}
	if m, err := sub.Next(t.Context()); err != nil || shown(m) != "a/b=x q0" || m.Ack() != nil {
		t.Errorf("%v, %v", m, err)
	}
	if got := sub.Filters(); !slices.Equal(got, []mqtt.Filter{{Filter: "a/+"}}) || sub.Dropped() != 0 || sub.Err() != nil {
		t.Errorf("%v", got)
	}
	for range 2 {
		if err := sub.Unsubscribe(t.Context()); err != nil {
			t.Error(err)
		}
	}
	<-sub.Done()
	close(messages)
	if _, err := sub.Next(t.Context()); !errors.Is(err, mqtt.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// The loops work with what NewSubscription makes for fakes.
func TestLoopsOfAFake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		messages := make(chan mqtt.Message, 10)
		sub := mqtt.NewSubscription("a", messages)
		for i := 1; i <= 6; i++ {
			messages <- mqtt.Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: 1}
		}
		if got := taken(t, sub, until("2")); got != "1 2" {
			t.Errorf("All gets %q", got)
		}
		for batch := range sub.Batches(t.Context(), 2, time.Second) {
			if string(batch[0].Payload) != "2" || len(batch) != 2 {
				t.Errorf("Batches gets %d from %s on", len(batch), batch[0].Payload)
			}
			break
		}
		close(messages)
		var handled []string
		noErr(t, sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
			handled = append(handled, string(m.Payload))
			return nil
		}))
		if got := strings.Join(handled, " "); got != "2 3 4 5 6" {
			t.Errorf("Handle gets %q", got)
		}
		other := mqtt.NewSubscription("a", make(chan mqtt.Message))
		loop := startErr(func() error { return other.Handle(t.Context(), nil, mqtt.Workers(3)) })
		loop.pending(t, "nothing has come")
		noErr(t, other.Unsubscribe(t.Context()))
		noErr(t, loop.wait())
	})
}
