package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// pumps counts the goroutines that carry messages from a line into a channel.
func pumps() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), ".(*Subscription).pump(")
}

// Beyond the channel, a buffer's worth of QoS 0 messages waits in line, and the oldest of them makes room.
// Every one that is not delivered is counted.
func TestDeliverDropOldest(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		for _, buffer := range []int{1, 3, 100} {
			topic := fmt.Sprint("a/", buffer)
			sub := subscribe(t, c, topic, mqtt.Buffer(buffer))
			const n = 1000
			for i := range n {
				b.Publish(text(topic, fmt.Sprint(i), 0))
			}
			synctest.Wait()
			dropped := int(sub.Dropped())
			got := numbers(t, arrived(sub))
			if len(got)+dropped != n || int(sub.Dropped()) != dropped {
				t.Errorf("buffer %d: %d arrived and %d were dropped of %d", buffer, len(got), dropped, n)
			}
			if !slices.IsSorted(got) || !slices.Equal(got[len(got)-buffer:], upTo(n-buffer, n)) {
				t.Errorf("buffer %d: %v", buffer, got)
			}
			inFront := min(buffer, 64) // in the channel; one more may be in the pump's hands
			if waited := len(got) - buffer - inFront; waited < 0 || waited > 1 || !slices.Equal(got[:inFront], upTo(0, inFront)) {
				t.Errorf("buffer %d: %v", buffer, got)
			}
			sub.Unsubscribe(t.Context())
		}
		if got := c.Stats().Dropped; got == 0 {
			t.Error("Stats knows nothing of it")
		}
	})
}

// With DropNewest what waits is kept, and the new message dropped.
func TestDeliverDropNewest(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "a", mqtt.Buffer(3), mqtt.DropNewest)
		const n = 100
		for i := range n {
			b.Publish(text("a", fmt.Sprint(i), 0))
		}
		synctest.Wait()
		dropped := int(sub.Dropped())
		got := numbers(t, arrived(sub))
		// Three in the channel, three in line, and a seventh if the pump had taken one when it came.
		if len(got)+dropped != n || len(got) < 6 || len(got) > 7 || !slices.Equal(got[:6], upTo(0, 6)) {
			t.Errorf("%v arrived, %d were dropped", got, dropped)
		}
		b.Publish(text("a", "100", 0)) // there is room again
		if got := numbers(t, arrived(sub)); !slices.Equal(got, []int{100}) {
			t.Errorf("%v", got)
		}
	})
}

// Messages at QoS 1 and 2 are never the victim, and all messages keep their order.
func TestDeliverMixed(t *testing.T) {
	for _, policy := range []mqtt.Overflow{mqtt.DropOldest, mqtt.DropNewest, mqtt.Block} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			b := mqtttest.NewBroker(t)
			c := dialAs(t, v, b.DialContext)
			sub := subscribe(t, c, "a", mqtt.ExactlyOnce, mqtt.Buffer(2), policy)
			const n = 300
			var certain []int
			for i := range n {
				b.Publish(text("a", fmt.Sprint(i), byte(i%3)))
				if i%3 > 0 {
					certain = append(certain, i)
				}
			}
			synctest.Wait()
			messages := arrived(sub)
			got := numbers(t, messages)
			if !slices.IsSorted(got) || len(got)+int(sub.Dropped()) != n {
				t.Errorf("%v, %d dropped", got, sub.Dropped())
			}
			if policy == mqtt.Block && sub.Dropped() > 0 {
				t.Errorf("%d dropped although the connection waits", sub.Dropped())
			}
			got = slices.DeleteFunc(got, func(i int) bool { return i%3 == 0 })
			if !slices.Equal(got, certain) {
				t.Errorf("at QoS 1 and 2: %v", got)
			}
			if got := c.Stats(); got.Unacknowledged != 0 || got.Dropped != sub.Dropped() {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A subscription has a goroutine only while messages wait in its line.
func TestDeliverPump(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "a", mqtt.AtLeastOnce, mqtt.Buffer(64))
		var count atomic.Int32
		go func() {
			for range sub.Messages() {
				count.Add(1)
			}
		}()
		for i := range 1000 {
			b.Publish(text("a", "", byte(i%2)))
			synctest.Wait()
		}
		if count.Load() != 1000 || pumps() != 0 {
			t.Errorf("%d handled, %d pumps", count.Load(), pumps())
		}
		for round := range 3 {
			slow := subscribe(t, c, "slow", mqtt.AtLeastOnce, mqtt.Buffer(1))
			for range 5 {
				b.Publish(text("slow", "", 1))
			}
			synctest.Wait()
			if n := pumps(); n != 1 {
				t.Errorf("round %d: %d pumps", round, n)
			}
			arrived(slow)
			if n := pumps(); n != 0 {
				t.Errorf("round %d: %d pumps after all", round, n)
			}
			slow.Unsubscribe(t.Context())
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
