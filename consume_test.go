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

// What the tests of consuming share.

// consuming is a client with a broker and a subscription to everything, whose form is not decided yet.
type consuming struct {
	*mqtttest.Broker
	client mqtt.Client
	sub    *mqtt.Subscription
}

func startConsuming(t *testing.T, v codec.Version, opts ...mqtt.SubscribeOption) *consuming {
	t.Helper()
	b := mqtttest.NewBroker(t)
	c := dialAs(t, v, b.DialContext, mqtt.WithClientID("consumer"))
	sub, err := c.Subscribe(t.Context(), "#", append(opts, mqtt.ExactlyOnce)...)
	noErr(t, err)
	return &consuming{b, c, sub}
}

// send publishes messages whose payloads are numbers, alternately at QoS 1 and 2.
func (c *consuming) send(topic string, from, to int) {
	for i := from; i <= to; i++ {
		c.Publish(text(topic, fmt.Sprint(i), byte(1+i%2)))
	}
	synctest.Wait()
}

// wantUnacknowledged compares the payloads of what the broker waits for.
func (c *consuming) wantUnacknowledged(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	var got []string
	for _, m := range c.Unacknowledged("consumer") {
		got = append(got, string(m.Payload))
	}
	slices.Sort(got)
	if s := strings.Join(got, " "); s != want {
		t.Errorf("unacknowledged are %q, want %q", s, want)
	}
}

// taken runs a loop of All until f returns false, and returns the payloads that it got.
func taken(t *testing.T, sub *mqtt.Subscription, f func(m mqtt.Message) bool) string {
	t.Helper()
	var got []string
	for m, err := range sub.All(t.Context()) {
		if err != nil {
			t.Error(err)
			break
		}
		got = append(got, string(m.Payload))
		if !f(m) {
			break
		}
	}
	return strings.Join(got, " ")
}

// until returns a condition that ends a loop at a payload.
func until(payload string) func(mqtt.Message) bool {
	return func(m mqtt.Message) bool { return string(m.Payload) != payload }
}

// A message is acknowledged when the loop comes back for the next one, and not before.
func TestAllAcknowledgesAfterTheBody(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		c.send("a", 1, 3)
		c.wantUnacknowledged(t, "1 2 3") // nobody consumes yet
		taken(t, c.sub, func(m mqtt.Message) bool {
			switch string(m.Payload) {
			case "1":
				c.wantUnacknowledged(t, "1 2 3")
			case "2":
				time.Sleep(time.Second)
				c.wantUnacknowledged(t, "2 3")
			case "3":
				time.Sleep(time.Second)
				c.wantUnacknowledged(t, "3")
				return false
			}
			return true
		})
		c.wantUnacknowledged(t, "3")
	})
}

// With ManualAck a message is acknowledged by Ack alone, and the one at hand stays with the application.
func TestManualAckInLoops(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v, mqtt.ManualAck)
		c.send("a", 1, 4)
		var held mqtt.Message
		taken(t, c.sub, func(m mqtt.Message) bool {
			held = m
			return string(m.Payload) != "2"
		})
		c.wantUnacknowledged(t, "1 2 3 4")
		noErr(t, held.Ack())
		c.wantUnacknowledged(t, "1 3 4")
		if got := taken(t, c.sub, until("4")); got != "3 4" {
			t.Errorf("the next loop gets %q", got)
		}
	})
}

// What was not acknowledged outlives a reconnect in the hands of the body, and is not delivered twice.
func TestBodyThroughAReconnect(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		opts := []mqtt.Option{mqtt.WithClientID("consumer"), mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Second})}
		if v == codec.V311 {
			opts = append(opts, mqtt.WithCleanStart(false))
		}
		client := reconnectingAs(t, v, b.DialContext, opts...)
		sub, err := client.Subscribe(t.Context(), "#", mqtt.ExactlyOnce)
		noErr(t, err)
		c := &consuming{b, client, sub}
		c.send("a", 1, 3)
		got := taken(t, sub, func(m mqtt.Message) bool {
			if string(m.Payload) == "1" {
				b.Cut("consumer")
				time.Sleep(10 * time.Second)
			}
			return string(m.Payload) != "3"
		})
		if got != "1 2 3" {
			t.Errorf("the loop gets %q", got)
		}
		c.wantUnacknowledged(t, "3")
	})
}

// A slice of Batches is complete when it is full, or a time after its first message, and acknowledged as a whole.
func TestBatches(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		c.send("a", 1, 5)
		var sizes []int
		began := time.Now()
		for batch, err := range c.sub.Batches(t.Context(), 3, time.Minute) {
			noErr(t, err)
			sizes = append(sizes, len(batch))
			switch len(sizes) {
			case 1:
				c.wantUnacknowledged(t, "1 2 3 4 5")
				continue
			case 2:
				c.wantUnacknowledged(t, "4 5")
				if waited := time.Since(began); waited != time.Minute {
					t.Errorf("the second slice came after %v", waited)
				}
				noErr(t, batch[0].Ack())
			}
			break
		}
		if !slices.Equal(sizes, []int{3, 2}) {
			t.Errorf("slices of %v", sizes)
		}
		c.wantUnacknowledged(t, "5")
		if got := taken(t, c.sub, until("5")); got != "5" {
			t.Errorf("the next loop gets %q", got)
		}
		for _, err := range c.sub.Batches(t.Context(), 0, 0) {
			if err == nil {
				t.Error("slices of nothing are accepted")
			}
		}
	})
}

// A slice that is not complete when ctx ends is given back.
func TestBatchesGiveBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startConsuming(t, codec.V5)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.send("a", 1, 2)
		for batch := range c.sub.Batches(ctx, 10, time.Minute) {
			t.Errorf("%d messages come", len(batch))
		}
		c.wantUnacknowledged(t, "1 2")
		if got := taken(t, c.sub, until("2")); got != "1 2" {
			t.Errorf("the next loop gets %q", got)
		}
	})
}

// windowed is a client whose window for messages at QoS 1 and 2 is 4, and its broker.
func windowed(t *testing.T) (mqtt.ClientV5, *mqtttest.Broker) {
	b := mqtttest.NewBroker(t)
	return dialV5(t, b.DialContext, mqtt.WithReceiveMaximum(4)), b
}

// A slice of Batches is complete when the window is exhausted: to wait longer would bring nothing.
func TestBatchesOfAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, b := windowed(t)
		sub, err := client.Subscribe(t.Context(), "#", mqtt.ExactlyOnce)
		noErr(t, err)
		for i := range 10 {
			b.Publish(text("a", fmt.Sprint(i), byte(1+i%2)))
		}
		var sizes []int
		var times []time.Duration
		began, number := time.Now(), 0
		for batch, err := range sub.Batches(t.Context(), 100, time.Hour) {
			noErr(t, err)
			sizes, times = append(sizes, len(batch)), append(times, time.Since(began))
			for _, m := range batch {
				if string(m.Payload) != fmt.Sprint(number) {
					t.Errorf("message %d is %s", number, m.Payload)
				}
				number++
			}
			if number == 10 {
				break
			}
		}
		if !slices.Equal(sizes, []int{4, 4, 2}) || !slices.Equal(times, []time.Duration{0, 0, time.Hour}) {
			t.Errorf("slices of %v after %v", sizes, times)
		}
	})
}

// That holds for the Receive Maximum that the client announces by default too, although the client does not insist on it.
func TestBatchesOfTheDefaultWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		client := dialV5(t, b.DialContext)
		sub, err := client.Subscribe(t.Context(), "#", mqtt.AtLeastOnce)
		noErr(t, err)
		for range 1100 {
			b.Publish(text("a", "", 1))
		}
		began := time.Now()
		for batch, err := range sub.Batches(t.Context(), 5000, time.Hour) {
			noErr(t, err)
			if waited := time.Since(began); len(batch) != 1024 || waited != 0 {
				t.Errorf("%d messages come after %v", len(batch), waited)
			}
			break
		}
	})
}

// The window is exhausted by the messages of all subscriptions together.
func TestBatchesAndOthersInTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, b := windowed(t)
		sub, err := client.Subscribe(t.Context(), "batches", mqtt.AtLeastOnce)
		noErr(t, err)
		_, err = client.Subscribe(t.Context(), "held", mqtt.AtLeastOnce, mqtt.ManualAck)
		noErr(t, err)
		b.Publish(text("batches", "1", 1))
		go func() {
			for range 3 {
				time.Sleep(time.Minute)
				b.Publish(text("held", "", 1))
			}
		}()
		began := time.Now()
		for batch, err := range sub.Batches(t.Context(), 100, time.Hour) {
			noErr(t, err)
			if waited := time.Since(began); len(batch) != 1 || waited != 3*time.Minute {
				t.Errorf("%d messages come after %v", len(batch), waited)
			}
			break
		}
	})
}

// Messages at QoS 0 are not in the window, and come however full it is.
func TestBatchesOutsideTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, b := windowed(t)
		sub, err := client.Subscribe(t.Context(), "batches", mqtt.AtLeastOnce)
		noErr(t, err)
		_, err = client.Subscribe(t.Context(), "held", mqtt.AtLeastOnce, mqtt.ManualAck)
		noErr(t, err)
		for range 5 {
			b.Publish(text("held", "", 1))
		}
		go func() {
			for range 3 {
				time.Sleep(time.Minute)
				b.Publish(text("batches", "", 0))
			}
		}()
		began := time.Now()
		for batch, err := range sub.Batches(t.Context(), 3, time.Hour) {
			noErr(t, err)
			if waited := time.Since(began); len(batch) != 3 || waited != 3*time.Minute {
				t.Errorf("%d messages come after %v", len(batch), waited)
			}
			break
		}
	})
}

// Next acknowledges what it returns, and nothing else.
func TestNextAcknowledges(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		c.send("a", 1, 3)
		m, err := c.sub.Next(t.Context())
		noErr(t, err)
		c.wantUnacknowledged(t, "2 3")
		if string(m.Payload) != "1" {
			t.Errorf("the first is %s", m.Payload)
		}
		noErr(t, c.sub.Unsubscribe(t.Context())) // does not wait for a Next that may never come
		c.wantUnacknowledged(t, "")
		for _, want := range []string{"2", "3"} { // as from a channel
			if m, err := c.sub.Next(t.Context()); err != nil || string(m.Payload) != want {
				t.Errorf("%s, %v; want %s", m.Payload, err, want)
			}
		}
		if _, err := c.sub.Next(t.Context()); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("at the end: %v", err)
		}
	})
}

// Next ends with its ctx, with the subscription, and with the client, and otherwise waits.
func TestDeliverNext(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "a")
		next := start(func() (mqtt.Message, error) { return sub.Next(t.Context()) })
		next.pending(t, "there is no message")
		b.Publish(text("a", "x", 0))
		if m := next.value(t); shown(m) != "a=x q0" {
			t.Errorf("%s", shown(m))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := sub.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		sub.Unsubscribe(t.Context())
		if _, err := sub.Next(t.Context()); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}
