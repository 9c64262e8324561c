package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// unsubscribed is the answer to an UNSUBSCRIBE, with success for each filter.
func unsubscribed(v codec.Version, p *codec.Unsubscribe) *codec.Unsuback {
	ack := &codec.Unsuback{PacketID: p.PacketID}
	if v == codec.V5 {
		ack.Codes = make([]codec.ReasonCode, len(p.Filters))
	}
	return ack
}

// Unsubscribe ends the channel after UNSUBACK. Messages may come until then and are delivered
// [MQTT-3.10.4-2]; later ones belong to nobody, but are acknowledged.
// [MQTT-3.10.4-3] [MQTT-3.10.4-4] [MQTT-4.5.0-2] [MQTT311-3.10.4-2] [MQTT311-3.10.4-3] [MQTT311-3.10.4-4]
// [MQTT311-4.5.0-2]
func TestUnsubscribe(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, p := subscribed(t, c, s, "a", mqtt.AtLeastOnce)
		publish := func(payload string, id uint16) {
			m := &codec.Publish{Topic: "a", Payload: []byte(payload), QoS: 1, PacketID: id}
			if v == codec.V5 {
				m.SubscriptionIdentifiers = []uint32{p.SubscriptionIdentifier}
			}
			s.Send(m)
			s.Expect(&codec.Puback{PacketID: id})
		}
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		publish("between", 1)
		leaving.pending(t, "UNSUBACK has not come")
		wantArrived(t, sub, "a=between q1")
		s.Send(unsubscribed(v, u))
		leaving.value(t)
		wantClosed(t, sub)
		if err := sub.Err(); err != nil {
			t.Errorf("Err: %v", err)
		}
		publish("after", 2)
		if got := c.Stats().Unmatched; got != 1 {
			t.Errorf("%d messages are unmatched", got)
		}
		if err := sub.Unsubscribe(t.Context()); err != nil {
			t.Errorf("again: %v", err)
		}
		s.ExpectSilence(time.Second)
	})
}

// Messages that wait in line are delivered before the channel ends.
// [MQTT-3.10.4-3] [MQTT-4.6.0-6] [MQTT311-3.10.4-3] [MQTT311-4.6.0-6]
func TestUnsubscribeDeliversFirst(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "a", mqtt.ExactlyOnce, mqtt.Buffer(2))
		var want []string
		for i := range 20 {
			b.Publish(text("a", fmt.Sprint(i), byte(1+i%2)))
			want = append(want, fmt.Sprintf("a=%d q%d", i, 1+i%2))
		}
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		leaving.pending(t, "messages wait")
		wantArrived(t, sub, want...)
		leaving.value(t)
		wantClosed(t, sub)
		if sub.Dropped() != 0 || c.Stats().Unacknowledged != 0 {
			t.Errorf("%d dropped, %d unacknowledged", sub.Dropped(), c.Stats().Unacknowledged)
		}
	})
}

// When ctx ends, what waits is acknowledged and counted as dropped. What is in the channel can still be
// received.
func TestUnsubscribeOutOfTime(t *testing.T) {
	for _, waiting := range []int{1, 2, 10} { // the first is in the pump's hands, the others in line
		for _, ack := range []mqtt.AckMode{mqtt.AutoAck, mqtt.ManualAck} {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				b := mqtttest.NewBroker(t)
				c := dialAs(t, v, b.DialContext)
				sub := subscribe(t, c, "a", mqtt.ExactlyOnce, mqtt.Buffer(1), ack)
				for i := range 1 + waiting {
					b.Publish(text("a", fmt.Sprint(i), 1))
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := sub.Unsubscribe(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v", err)
				}
				if got := sub.Dropped(); got != uint64(waiting) {
					t.Errorf("%d dropped, want %d", got, waiting)
				}
				for _, m := range wantArrived(t, sub, "a=0 q1") {
					m.Ack()
				}
				wantClosed(t, sub)
				if n := c.Stats().Unacknowledged; n != 0 {
					t.Errorf("%d are not acknowledged", n)
				}
			})
		}
	}
}

// With ManualAck, what nobody has taken out of the channel waits as well: Unsubscribe waits for the consumer, and acknowledges
// it when ctx ends. Otherwise it would hold up all later acknowledgements for ever.
func TestUnsubscribeManualAck(t *testing.T) {
	for _, reads := range []bool{true, false} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			b := mqtttest.NewBroker(t)
			c := dialAs(t, v, b.DialContext)
			sub := subscribe(t, c, "m", mqtt.ExactlyOnce, mqtt.ManualAck)
			other := subscribe(t, c, "o", mqtt.AtLeastOnce)
			messages := sub.Messages()
			b.Publish(text("m", "1", 1))
			b.Publish(text("m", "2", 2))
			b.Publish(text("m", "3", 1))
			inHand := <-messages
			unsubscribing := calling(func() error { return sub.Unsubscribe(endingIn(t, time.Minute)) })
			stillWaits(t, unsubscribing)
			if reads {
				for range 2 {
					noErr(t, (<-messages).Ack())
				}
				noErr(t, outcome(t, unsubscribing))
			} else {
				wantErr(t, outcome(t, unsubscribing), context.DeadlineExceeded, false)
				for _, m := range wantArrived(t, sub, "m=2 q2", "m=3 q1") {
					noErr(t, m.Ack())
				}
			}
			if m, ok := <-messages; ok {
				t.Errorf("after Unsubscribe: %v", m)
			}
			noErr(t, inHand.Ack())
			b.Publish(text("o", "x", 1))
			wantArrived(t, other, "o=x q1")
			if n := c.Stats().Unacknowledged; n != 0 {
				t.Errorf("%d messages wait for their acknowledgement", n)
			}
		})
	}
}

// A ctx that ends before UNSUBACK ends the subscription all the same.
func TestUnsubscribeCancelled(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a")
		ctx, cancel := context.WithCancel(t.Context())
		leaving := startErr(func() error { return sub.Unsubscribe(ctx) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		cancel()
		if err := leaving.wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		wantClosed(t, sub)
		again, q := subscribing(t, c, s, "a")
		if q.PacketID == u.PacketID {
			t.Error("the packet identifier is used again before UNSUBACK")
		}
		s.Send(unsubscribed(v, u), granted(q))
		again.value(t)
	})
}

// A Subscribe to a filter whose UNSUBSCRIBE is on its way sends SUBSCRIBE behind it.
func TestUnsubscribeThenSubscribe(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		first, _ := subscribed(t, c, s, "a")
		leaving := startErr(func() error { return first.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		second, p := subscribing(t, c, s, "a")
		s.Send(unsubscribed(v, u), granted(p))
		leaving.value(t)
		wantClosed(t, first)
		m := &codec.Publish{Topic: "a", Payload: []byte("x")}
		if v == codec.V5 {
			m.SubscriptionIdentifiers = []uint32{p.SubscriptionIdentifier}
		}
		s.Send(m)
		wantArrived(t, second.value(t), "a=x q0")
		leaving = startErr(func() error { return second.result.Unsubscribe(t.Context()) })
		s.Send(unsubscribed(v, mqtttest.ReceiveAs[*codec.Unsubscribe](s)))
		leaving.value(t)
	})
}

// The last two holders of a filter may leave it at the same time: one UNSUBSCRIBE goes out. A filter that only such
// holders have does not count as held.
func TestUnsubscribeTogether(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		unsubscribes := watchUnsubscribes(b)
		for range 50 {
			var leaving []*running[struct{}]
			subs := []*mqtt.Subscription{subscribe(t, c, "a"), subscribe(t, c, "a"), subscribe(t, c, "a")}
			for range 150 {
				b.Publish(text("a", "", 0)) // so that each takes its time
			}
			synctest.Wait()
			for _, sub := range subs {
				leaving = append(leaving, startErr(func() error { return sub.Unsubscribe(t.Context()) }))
			}
			for i, sub := range subs {
				arrived(sub)
				leaving[i].value(t)
			}
			unsubscribes.want(t, "[a]")
		}
	})
}

// Several calls of Unsubscribe wait for the same UNSUBACK.
func TestUnsubscribeTwice(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a")
		one := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		two := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		one.pending(t, "UNSUBACK has not come")
		two.pending(t, "UNSUBACK has not come")
		s.Send(unsubscribed(v, u))
		one.value(t)
		two.value(t)
		wantClosed(t, sub)
		s.ExpectSilence(time.Second)
	})
}

// A refused UNSUBSCRIBE is an error that names the filters [MQTT-3.11.3-1]; the subscription ends anyway.
func TestUnsubscribeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		sub, _ := subscribed(t, mqtt.Common(c), s, "a")
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(&codec.Unsuback{PacketID: u.PacketID, Codes: []codec.ReasonCode{codec.NotAuthorized}, ReasonString: "stay"})
		err := leaving.wait()
		var refusal *mqtt.SubscribeError
		if !errors.As(err, &refusal) || !errors.Is(err, mqtt.NotAuthorized) ||
			!slices.Equal(refusal.Failures, []mqtt.FilterError{{Filter: "a", Code: mqtt.NotAuthorized, Reason: "stay"}}) {
			t.Errorf("%v", err)
		}
		wantClosed(t, sub)
	})
}

// The client's end fails an Unsubscribe that waits, and one that comes later.
func TestUnsubscribeAtTheEnd(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a")
		late, _ := subscribed(t, c, s, "b")
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Cut()
		if err := leaving.wait(); !errors.Is(err, mqtt.ErrConnectionLost) {
			t.Errorf("%v", err)
		}
		if err := late.Unsubscribe(t.Context()); !errors.Is(err, mqtt.ErrConnectionLost) {
			t.Errorf("late: %v", err)
		}
		wantClosed(t, sub)
		wantClosed(t, late)
	})
}

// Client.Unsubscribe removes filters that have no subscription here, and no others.
// [MQTT-3.10.3-1] [MQTT-3.10.3-2] [MQTT-3.10.4-5] [MQTT311-3.10.3-1] [MQTT311-3.10.3-2] [MQTT311-3.10.4-5]
func TestUnsubscribeFilters(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		unsubscribes := watchUnsubscribes(b)
		subscribe(t, c, "mine")
		for _, filters := range [][]string{nil, {""}, {"ok", "a#"}, {"ok", "mine"}} {
			if err := c.Unsubscribe(t.Context(), filters...); err == nil || len(filters) > 0 && !mqtt.SafeToRetry(err) {
				t.Errorf("%q: %v", filters, err)
			}
		}
		unsubscribes.want(t)
		if err := c.Unsubscribe(t.Context(), "a", "b", "c", "d", "e", "f", "g", "h", "i"); err != nil {
			t.Error(err)
		}
		unsubscribes.want(t, "[a b c d e f g h]", "[i]")
		c.Close()
		if err := c.Unsubscribe(t.Context(), "a"); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}

// A ctx that ends before UNSUBACK ends only the waiting.
func TestUnsubscribeFiltersCancelled(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		leaving := startErr(func() error { return c.Unsubscribe(ctx, "a") })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		cancel()
		if err := leaving.wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		s.Send(unsubscribed(v, u))
		synctest.Wait()
		if n := c.Stats().LateAcks; n != 0 {
			t.Errorf("%d late acknowledgements", n)
		}
	})
}

// The ctx of Unsubscribe may end at the moment when the pump has put a message into the channel: that one is acknowledged, and not
// the one that the application works on.
func TestUnsubscribeWhileThePumpSends(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for range 100 {
			c := startConsuming(t, v, mqtt.ManualAck, mqtt.Buffer(1))
			messages := c.sub.Messages()
			for _, payload := range []string{"1", "2"} {
				c.Publish(text("t", payload, 1))
				synctest.Wait()
			}
			over, cancel := context.WithCancel(t.Context())
			cancel()
			m := <-messages // the pump goes on
			_ = c.sub.Unsubscribe(over)
			c.wantUnacknowledged(t, "1 2") // the second acknowledgement waits for the first
			noErr(t, m.Ack())
			c.wantUnacknowledged(t, "")
			c.client.Close()
		}
	})
}
