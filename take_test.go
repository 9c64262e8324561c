package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

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
