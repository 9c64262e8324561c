package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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

// The acknowledgements of short bodies leave together, and do not wait for a long body behind them.
func TestAllAcknowledgesInGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startConsuming(t, codec.V5)
		packets := 0
		c.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if _, ok := p.(*codec.Puback); ok && !outbound {
				packets++
			}
			return true
		})
		for i := range 200 {
			c.Publish(text("a", fmt.Sprint(i), 1))
		}
		synctest.Wait()
		const slow = "150"
		taken(t, c.sub, func(m mqtt.Message) bool {
			if string(m.Payload) == slow {
				time.Sleep(2 * time.Millisecond) // longer than a group may wait
				synctest.Wait()
				if packets != 150 {
					t.Errorf("%d messages are acknowledged during the long body, want 150", packets)
				}
			}
			return string(m.Payload) != "199"
		})
		c.wantUnacknowledged(t, "199")
	})
}

// Where a loop is left the message at hand is the first of the next loop, of whatever form, unless it was acknowledged.
func TestLeavingALoop(t *testing.T) {
	leave := map[string]func(t *testing.T, sub *mqtt.Subscription){
		"break": func(t *testing.T, sub *mqtt.Subscription) { taken(t, sub, until("2")) },
		"return": func(t *testing.T, sub *mqtt.Subscription) {
			func() {
				for m := range sub.All(t.Context()) {
					if string(m.Payload) == "2" {
						return
					}
				}
			}()
		},
		"panic": func(t *testing.T, sub *mqtt.Subscription) {
			defer func() {
				if recover() == nil {
					t.Error("the panic does not come through")
				}
			}()
			for m := range sub.All(t.Context()) {
				if string(m.Payload) == "2" {
					panic("out of the body")
				}
			}
		},
		"Handle": func(t *testing.T, sub *mqtt.Subscription) {
			err := sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
				if string(m.Payload) == "2" {
					return mqtt.Permanent(errors.New("cannot be handled"))
				}
				return nil
			})
			var failed *mqtt.HandleError
			if !errors.As(err, &failed) || failed.Topic != "a" || failed.Attempts != 1 {
				t.Errorf("Handle returns %v", err)
			}
		},
		"Batches": func(t *testing.T, sub *mqtt.Subscription) {
			for batch := range sub.Batches(t.Context(), 1, 0) {
				if string(batch[0].Payload) == "2" {
					break
				}
			}
		},
	}
	next := map[string]func(t *testing.T, sub *mqtt.Subscription) string{
		"All": func(t *testing.T, sub *mqtt.Subscription) string { return taken(t, sub, until("5")) },
		"Batches": func(t *testing.T, sub *mqtt.Subscription) string {
			for batch := range sub.Batches(t.Context(), 4, time.Second) {
				var got []string
				for _, m := range batch {
					got = append(got, string(m.Payload))
				}
				return strings.Join(got, " ")
			}
			return ""
		},
		"Next": func(t *testing.T, sub *mqtt.Subscription) string {
			var got []string
			for range 4 {
				m, err := sub.Next(t.Context())
				noErr(t, err)
				got = append(got, string(m.Payload))
			}
			return strings.Join(got, " ")
		},
		"Handle": func(t *testing.T, sub *mqtt.Subscription) string {
			var got []string
			ctx, cancel := context.WithCancel(t.Context())
			noErr(t, sub.Handle(ctx, func(_ context.Context, m mqtt.Message) error {
				if got = append(got, string(m.Payload)); len(got) == 4 {
					cancel()
				}
				return nil
			}))
			return strings.Join(got, " ")
		},
		"Messages": func(t *testing.T, sub *mqtt.Subscription) string {
			var got []string
			for _, m := range arrived(sub) {
				got = append(got, string(m.Payload))
			}
			return strings.Join(got, " ")
		},
	}
	for how, leave := range leave {
		for form, next := range next {
			t.Run(how+" and "+form, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := startConsuming(t, codec.V5)
					c.send("a", 1, 5)
					leave(t, c.sub)
					c.wantUnacknowledged(t, "2 3 4 5")
					if got := next(t, c.sub); got != "2 3 4 5" {
						t.Errorf("the next loop gets %q", got)
					}
				})
			})
		}
	}
}

// What was acknowledged or rejected in the body does not come again, though the loop is left.
func TestAckAndLeave(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		c.send("a", 1, 4)
		taken(t, c.sub, func(m mqtt.Message) bool {
			noErr(t, m.Ack())
			return false
		})
		c.wantUnacknowledged(t, "2 3 4")
		taken(t, c.sub, func(m mqtt.Message) bool {
			noErr(t, m.Reject(mqtt.UnspecifiedError, "no"))
			return false
		})
		c.wantUnacknowledged(t, "3 4")
		if got := taken(t, c.sub, until("4")); got != "3 4" {
			t.Errorf("the next loop gets %q", got)
		}
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

// The end of ctx and Unsubscribe are no errors; the client's end is one.
func TestEndsOfLoops(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		forms := map[string]func(ctx context.Context, sub *mqtt.Subscription) error{
			"All": func(ctx context.Context, sub *mqtt.Subscription) (last error) {
				for _, err := range sub.All(ctx) {
					last = err
				}
				return last
			},
			"Batches": func(ctx context.Context, sub *mqtt.Subscription) (last error) {
				for _, err := range sub.Batches(ctx, 3, time.Second) {
					last = err
				}
				return last
			},
			"Handle": func(ctx context.Context, sub *mqtt.Subscription) error {
				return sub.Handle(ctx, func(context.Context, mqtt.Message) error { return nil })
			},
			"Handle with workers": func(ctx context.Context, sub *mqtt.Subscription) error {
				return sub.Handle(ctx, func(context.Context, mqtt.Message) error { return nil }, mqtt.Workers(4))
			},
		}
		for form, run := range forms {
			c := startConsuming(t, v)
			ctx, cancel := context.WithCancel(t.Context())
			loop := startErr(func() error { return run(ctx, c.sub) })
			c.send("a", 1, 5)
			loop.pending(t, form+" ends by itself")
			cancel()
			if err := loop.wait(); err != nil {
				t.Errorf("%s at the end of ctx: %v", form, err)
			}
			time.Sleep(time.Second)
			loop = startErr(func() error { return run(t.Context(), c.sub) })
			c.send("a", 6, 10)
			noErr(t, c.sub.Unsubscribe(t.Context()))
			if err := loop.wait(); err != nil {
				t.Errorf("%s after Unsubscribe: %v", form, err)
			}
			c.wantUnacknowledged(t, "")

			other, err := c.client.Subscribe(t.Context(), "b")
			noErr(t, err)
			loop = startErr(func() error { return run(t.Context(), other) })
			synctest.Wait()
			c.client.Close()
			if err := loop.wait(); !errors.Is(err, mqtt.ErrClosed) {
				t.Errorf("%s after Close: %v", form, err)
			}
		}
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

// Several loops share the messages, and none comes twice or is left.
func TestSeveralLoops(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		var mu sync.Mutex
		got := make(map[string]int)
		loops := make(map[int]int)
		for loop := range 5 {
			go func() {
				for m := range c.sub.All(t.Context()) {
					mu.Lock()
					got[string(m.Payload)]++
					loops[loop]++
					mu.Unlock()
					time.Sleep(time.Millisecond)
				}
			}()
		}
		c.send("a", 1, 500)
		time.Sleep(time.Minute)
		c.wantUnacknowledged(t, "")
		if len(got) != 500 || len(loops) != 5 {
			t.Errorf("%d messages came, to %d loops", len(got), len(loops))
		}
		for payload, n := range got {
			if n != 1 {
				t.Errorf("%s came %d times", payload, n)
			}
		}
		for loop, n := range loops {
			if n < 50 {
				t.Errorf("loop %d got %d of 500", loop, n)
			}
		}
	})
}

// Until a form is chosen messages wait unacknowledged; the channel's rule holds from the first call of Messages on.
func TestUndecided(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		c.send("a", 1, 3)
		time.Sleep(time.Minute)
		c.wantUnacknowledged(t, "1 2 3")
		messages := c.sub.Messages()
		c.wantUnacknowledged(t, "") // they are in the channel
		if len(messages) != 3 {
			t.Errorf("%d messages in the channel", len(messages))
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

// A message is delivered again after a time, before the others, and holds back their acknowledgements meanwhile.
func TestRedeliver(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		for i := 1; i <= 4; i++ {
			c.Publish(text("a", fmt.Sprint(i), 1))
		}
		began, again := time.Now(), false
		got := taken(t, c.sub, func(m mqtt.Message) bool {
			switch string(m.Payload) {
			case "1":
				if !again {
					again = true
					noErr(t, m.Redeliver(5*time.Second))
					noErr(t, m.Redeliver(time.Second)) // the first one counts
				} else if d := time.Since(began); d != 5*time.Second {
					t.Errorf("it comes again after %v", d)
				}
			case "4":
				c.wantUnacknowledged(t, "1 2 3 4")
				go func() { // something that comes later
					time.Sleep(6 * time.Second)
					c.Publish(text("a", "5", 1))
				}()
			}
			return string(m.Payload) != "5"
		})
		if got != "1 2 3 4 1 5" {
			t.Errorf("the loop gets %q", got)
		}
		c.wantUnacknowledged(t, "5")
	})
}

// The time until the redelivery may be over before the body is: the message is not acknowledged then, and comes again once.
func TestRedeliverBeforeTheBodyEnds(t *testing.T) {
	for _, leave := range []bool{false, true} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			c := startConsuming(t, v)
			c.send("a", 1, 1)
			c.send("a", 2, 2)
			rounds := 0
			body := func(m mqtt.Message) bool {
				switch rounds++; rounds {
				case 1:
					noErr(t, m.Redeliver(time.Second))
					time.Sleep(5 * time.Second)
					return !leave
				case 2:
					c.wantUnacknowledged(t, "1 2")
				}
				return string(m.Payload) != "2"
			}
			got := taken(t, c.sub, body)
			if leave {
				got += " " + taken(t, c.sub, body)
			}
			if got != "1 1 2" && got != "1 2 1" {
				t.Errorf("the loop gets %q", got)
			}
		})
	}
}

// A message that is acknowledged while it waits for its redelivery does not come again, and nothing waits for it.
func TestAckInsteadOfRedelivery(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		c.send("a", 1, 1)
		ended := startErr(func() error {
			for m := range c.sub.All(t.Context()) {
				noErr(t, m.Redeliver(time.Hour))
				noErr(t, m.Ack())
			}
			return nil
		})
		c.wantUnacknowledged(t, "")
		began := time.Now()
		noErr(t, c.sub.Unsubscribe(t.Context()))
		noErr(t, ended.wait())
		if d := time.Since(began); d >= time.Hour || c.sub.Dropped() != 0 {
			t.Errorf("it takes %v; %d are dropped", d, c.sub.Dropped())
		}
	})
}

// What waits for its redelivery when the subscription ends is acknowledged; it is delivered first where a loop runs.
func TestRedeliverAndUnsubscribe(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		c.send("a", 1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		loop := startErr(func() error {
			for m := range c.sub.All(ctx) {
				noErr(t, m.Redeliver(time.Hour))
			}
			return nil
		})
		synctest.Wait()
		leave, end := context.WithTimeout(t.Context(), time.Minute)
		defer end()
		if err := c.sub.Unsubscribe(leave); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Unsubscribe returns %v", err)
		}
		cancel()
		noErr(t, loop.wait())
		c.wantUnacknowledged(t, "")
		if n := c.sub.Dropped(); n != 1 {
			t.Errorf("%d dropped", n)
		}
	})
}

// A subscription without a channel has no goroutine, however much waits.
func TestLoopsHaveNoPump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startConsuming(t, codec.V5)
		c.send("a", 1, 500)
		if n := pumps(); n != 0 {
			t.Errorf("%d pumps", n)
		}
		taken(t, c.sub, until("250"))
		if n := pumps(); n != 0 {
			t.Errorf("%d pumps after a loop", n)
		}
	})
}

// QoS 0 has no acknowledgement: the body that begins has had the message, and those behind it are not lost.
func TestLoopsAtQoS0(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startConsuming(t, codec.V5, mqtt.Buffer(100))
		for i := 1; i <= 200; i++ {
			c.Publish(text("a", fmt.Sprint(i), 0))
			synctest.Wait()
		}
		if n := c.sub.Dropped(); n != 100 {
			t.Errorf("%d dropped of 200, with room for 100", n)
		}
		if got := taken(t, c.sub, until("103")); got != "101 102 103" {
			t.Errorf("the loop gets %q", got)
		}
		if got := taken(t, c.sub, until("105")); got != "104 105" {
			t.Errorf("the next loop gets %q", got)
		}
	})
}

// Block makes the reader wait for the loop.
func TestLoopsWithBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startConsuming(t, codec.V5, mqtt.Buffer(5), mqtt.Block)
		for i := 1; i <= 500; i++ {
			c.Publish(text("a", fmt.Sprint(i), 0))
		}
		n := 0
		taken(t, c.sub, func(m mqtt.Message) bool {
			n++
			if string(m.Payload) != fmt.Sprint(n) {
				t.Fatalf("message %d is %s", n, m.Payload)
			}
			return n < 500
		})
		if n := c.sub.Dropped(); n != 0 {
			t.Errorf("%d dropped", n)
		}
	})
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

// A message on which Ack was called is not delivered again, although its session was lost before.
func TestAckAfterLostSession(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for name, sleeps := range map[string]bool{"in a loop": false, "until its redelivery": true} {
			p := newPair(t, v)
			sub := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(t.Context(), "t", mqtt.AtLeastOnce) })
			p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
			p.Send(toT(1, 1, "x"))
			for m := range sub.value(t).All(t.Context()) {
				if sleeps {
					noErr(t, m.Redeliver(time.Second))
				}
				p.renew()
				synctest.Wait()
				wantErr(t, m.Ack(), mqtt.ErrSessionLost, false)
				wantErr(t, m.Ack(), mqtt.ErrSessionLost, false)
				break
			}
			for m := range sub.value(t).All(endingIn(t, time.Minute)) {
				t.Errorf("%s: %s is delivered again", name, shown(m))
			}
			noErr(t, p.client.Disconnect(t.Context()))
		}
	})
}

// Loops that wait when the channel is made go on with what comes through it.
func TestMessagesWhileLoopsWait(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		var loops []*running[mqtt.Message]
		for range 3 {
			loops = append(loops, start(func() (mqtt.Message, error) {
				for m, err := range c.sub.All(t.Context()) {
					return m, err
				}
				return mqtt.Message{}, errors.New("the loop has ended")
			}))
		}
		synctest.Wait()
		c.sub.Messages()
		c.send("a", 1, 3)
		for _, l := range loops {
			l.value(t)
		}
		noErr(t, c.client.Close())
	})
}
