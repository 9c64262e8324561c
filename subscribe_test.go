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

// PROTOCOL 11: a filter is subscribed once, at the highest QoS its holders ask for. Raising it sends SUBSCRIBE again
// with Retain Handling 2, leaving never lowers it, and UNSUBSCRIBE goes out with the last holder.
// [MQTT-3.8.4-3]
func TestSubscribeSameFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		subscribes, unsubscribes := watchSubscribes(b), watchUnsubscribes(b)

		first := subscribeV5(t, c, "a", mqtt.AtMostOnce)
		subscribes.want(t, "a q0 rh0")
		second := subscribeV5(t, c, "a", mqtt.AtMostOnce, mqtt.SkipRetained)
		subscribes.want(t)
		third := subscribeV5(t, c, "a", mqtt.ExactlyOnce, mqtt.SendRetainedIfNew)
		subscribes.want(t, "a q2 rh2")
		third.Unsubscribe(t.Context())
		fourth := subscribeV5(t, c, "a", mqtt.AtLeastOnce, mqtt.SendRetainedIfNew)
		subscribes.want(t)
		fifth := subscribeV5(t, c, "a", mqtt.AtMostOnce)
		subscribes.want(t, "a q2 rh0")

		b.Publish(text("a", "x", 2))
		wantArrived(t, first, "a=x q0")
		wantArrived(t, second, "a=x q0")
		wantArrived(t, fourth, "a=x q1")
		wantArrived(t, fifth, "a=x q0")

		for _, sub := range []*mqtt.Subscription{first, fourth, second} {
			sub.Unsubscribe(t.Context())
			unsubscribes.want(t)
		}
		fifth.Unsubscribe(t.Context())
		unsubscribes.want(t, "[a]")
	})
}

// PROTOCOL 11 on MQTT 3.1.1, where every SUBSCRIBE brings retained messages: a later holder sends one to get them, and
// at the highest QoS, because it replaces the first.
// [MQTT311-3.8.4-3]
func TestSubscribeSameFilterV311(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, codec.V311, b.DialContext)
		subscribes, unsubscribes := watchSubscribes(b), watchUnsubscribes(b)

		first := subscribe(t, c, "a", mqtt.AtLeastOnce)
		second := subscribe(t, c, "a", mqtt.AtMostOnce)
		subscribes.want(t, "a q1 rh0", "a q1 rh0")
		third := subscribe(t, c, "a", mqtt.ExactlyOnce)
		subscribes.want(t, "a q2 rh0")
		b.Publish(text("a", "x", 2))
		wantArrived(t, first, "a=x q1")
		wantArrived(t, second, "a=x q0")
		wantArrived(t, third, "a=x q2")
		third.Unsubscribe(t.Context())
		first.Unsubscribe(t.Context())
		unsubscribes.want(t)
		second.Unsubscribe(t.Context())
		unsubscribes.want(t, "[a]")
	})
}

// PROTOCOL 11: the retained messages that a later holder's SUBSCRIBE brings go to it alone, by identifier, and without
// identifiers because they come after its SUBACK.
// [MQTT-3.3.1-9] [MQTT-3.3.1-12] [MQTT-3.8.4-4] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8] [MQTT311-3.3.1-9]
func TestSubscribeRetainedForLaterHolder(t *testing.T) {
	test := func(t *testing.T, v codec.Version, opts ...mqtttest.Option) {
		b := mqtttest.NewBroker(t, opts...)
		b.Publish(retained("a/1", "old", 1))
		c := dialAs(t, v, b.DialContext)
		first := subscribe(t, c, "a/+", mqtt.AtLeastOnce)
		wantArrived(t, first, "a/1=old q1 retain")
		second := subscribe(t, c, "a/+", mqtt.AtLeastOnce)
		wantArrived(t, first)
		wantArrived(t, second, "a/1=old q1 retain")
		b.Publish(text("a/1", "new", 1))
		wantArrived(t, first, "a/1=new q1")
		wantArrived(t, second, "a/1=new q1")
	}
	inBothVersions(t, func(t *testing.T, v codec.Version) { test(t, v) })
	t.Run("5.0 without identifiers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, codec.V5, mqtttest.NoSubscriptionIdentifiers()) })
	})
}

// A later holder that wants no retained messages takes none away from those who do.
func TestSubscribeSkipRetainedTakesNoneAway(t *testing.T) {
	for _, identifiers := range []bool{true, false} {
		t.Run(fmt.Sprint("identifiers ", identifiers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := scriptedV5(t, codec.ConnackProperties{SubscriptionIdentifiersAvailable: &identifiers})
				first, p := subscribed(t, mqtt.Common(c), s, "a")
				raising := start(func() (*mqtt.Subscription, error) {
					return c.Subscribe(t.Context(), "a", mqtt.AtLeastOnce, mqtt.SkipRetained)
				})
				q := mqtttest.ReceiveAs[*codec.Subscribe](s)
				late := &codec.Publish{Topic: "a", Payload: []byte("old"), Retain: true} // of the first SUBSCRIBE
				if identifiers {
					late.SubscriptionIdentifiers = []uint32{p.SubscriptionIdentifier}
				}
				s.Send(granted(q), late)
				second := raising.value(t)
				wantArrived(t, first, "a=old q0 retain")
				if identifiers {
					wantArrived(t, second)
				}
			})
		})
	}
}

// SendRetainedIfNew and SkipRetained say what they do, also to a filter that overlaps one that is not new.
// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
func TestSubscribeRetainHandling(t *testing.T) {
	for _, merge := range []bool{false, true} {
		t.Run(fmt.Sprint("merge ", merge), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opts []mqtttest.Option
				if merge {
					opts = append(opts, mqtttest.MergeOverlapping())
				}
				b := mqtttest.NewBroker(t, opts...)
				b.Publish(retained("a/b", "old", 1))
				c := dialV5(t, b.DialContext)
				wantArrived(t, subscribeV5(t, c, "a/b", mqtt.AtLeastOnce, mqtt.SkipRetained))
				wantArrived(t, subscribeV5(t, c, "a/b", mqtt.AtLeastOnce, mqtt.SendRetainedIfNew))
				wantArrived(t, subscribeV5(t, c, "a/+", mqtt.AtLeastOnce, mqtt.SendRetainedIfNew), "a/b=old q1 retain")
				both := subscribeV5(t, c, "a/#", mqtt.AtMostOnce, mqtt.Also(mqtt.AtLeastOnce, "a/b"), mqtt.SendRetainedIfNew)
				wantArrived(t, both, "a/b=old q0 retain")
				b.Publish(text("a/b", "new", 1))
				wantArrived(t, both, "a/b=new q1")
			})
		})
	}
}

// PROTOCOL 11: No Local and Retain As Published hold for all subscriptions to a filter; nothing is sent for one that
// wants others.
func TestSubscribeOtherFlags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		first := subscribeV5(t, c, "a", mqtt.NoLocal)
		subscribes := watchSubscribes(b)
		for _, flags := range []mqtt.SubscribeFlag{0, mqtt.RetainAsPublished, mqtt.NoLocal | mqtt.RetainAsPublished} {
			sub, err := c.Subscribe(t.Context(), "b", mqtt.Also(mqtt.ExactlyOnce, "a"), flags)
			if sub != nil || err == nil || !mqtt.SafeToRetry(err) || !strings.Contains(err.Error(), `"a"`) {
				t.Errorf("flags %d: %v, %v", flags, sub, err)
			}
		}
		subscribes.want(t)
		if err := c.Publish(t.Context(), "a", nil, mqtt.AtLeastOnce); err != nil {
			t.Error(err)
		}
		wantArrived(t, first)
		// A failed subscription leaves nothing behind: neither its filters, nor its QoS.
		subscribeV5(t, c, "b")
		subscribes.want(t, "b q0 rh0")
		if _, err := c.Subscribe(t.Context(), "a", mqtt.ExactlyOnce, mqtt.Also(0, "b"), mqtt.NoLocal); err == nil {
			t.Error("b is subscribed with other flags")
		}
		subscribeV5(t, c, "a", mqtt.NoLocal, mqtt.AtLeastOnce, mqtt.SkipRetained)
		subscribes.want(t, "a q1 rh2")
	})
}

// PROTOCOL 20: a SUBSCRIBE carries at most 8 filters; with subscription identifiers each filter has a packet of its own.
// [MQTT-3.2.2.3.12] [MQTT-3.8.4-5] [MQTT311-3.8.4-4]
func TestSubscribeManyFilters(t *testing.T) {
	filters := func(n int) (f []string) {
		for i := range n {
			f = append(f, fmt.Sprintf("f/%02d", i))
		}
		return f
	}
	test := func(t *testing.T, v codec.Version, want []int, opts ...mqtttest.Option) {
		b := mqtttest.NewBroker(t, opts...)
		c := dialAs(t, v, b.DialContext)
		var packets []int
		w := watch(b, func(p *codec.Subscribe) string { packets = append(packets, len(p.Filters)); return "" })
		unsubscribes := watch(b, func(p *codec.Unsubscribe) string { return fmt.Sprint(len(p.Filters)) })
		f := filters(19)
		sub := subscribe(t, c, f[0], mqtt.AtLeastOnce, mqtt.Also(mqtt.ExactlyOnce, f[1:]...))
		w.take()
		if !slices.Equal(packets, want) {
			t.Errorf("SUBSCRIBEs of %v filters, want %v", packets, want)
		}
		for i, got := range sub.Filters() {
			qos := mqtt.ExactlyOnce
			if i == 0 {
				qos = mqtt.AtLeastOnce
			}
			if want := (mqtt.Filter{Filter: f[i], QoS: qos, Granted: qos}); got != want {
				t.Errorf("filter %+v, want %+v", got, want)
			}
		}
		if err := sub.Unsubscribe(t.Context()); err != nil {
			t.Error(err)
		}
		unsubscribes.want(t, "8", "8", "3")
	}
	t.Run("3.1.1", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, codec.V311, []int{8, 8, 3}) })
	})
	t.Run("5.0", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, codec.V5, slices.Repeat([]int{1}, 19)) })
	})
	t.Run("5.0 without identifiers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, codec.V5, []int{8, 8, 3}, mqtttest.NoSubscriptionIdentifiers()) })
	})
}

// A message may come before SUBACK [MQTT-3.8.4-1], and none is lost then.
// [MQTT311-3.8.4-1]
func TestSubscribeMessageBeforeSuback(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, p := subscribing(t, c, s, "a", mqtt.AtLeastOnce)
		m := &codec.Publish{Topic: "a", Payload: []byte("early"), QoS: 1, PacketID: 7, Retain: true}
		if v == codec.V5 {
			m.SubscriptionIdentifiers = []uint32{p.SubscriptionIdentifier}
		}
		s.Send(m)
		s.Send(granted(p))
		wantArrived(t, sub.value(t), "a=early q1 retain")
		s.Expect(&codec.Puback{PacketID: 7})
	})
}

// SUBACKs are matched by packet identifier [MQTT-2.2.1-6], in whatever order they come; Granted is the lower of what was
// asked for and what was granted.
// [MQTT-3.8.4-2] [MQTT-3.8.4-8] [MQTT311-2.3.1-7] [MQTT311-3.8.4-2] [MQTT311-3.8.4-6]
func TestSubscribeReverseSubacks(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		first, p1 := subscribing(t, c, s, "a", mqtt.AtLeastOnce)
		second, p2 := subscribing(t, c, s, "b", mqtt.ExactlyOnce)
		third, p3 := subscribing(t, c, s, "a", mqtt.ExactlyOnce) // raises the first
		s.Send(granted(p3), &codec.Suback{PacketID: p2.PacketID, Codes: []codec.ReasonCode{1}})
		if got := third.value(t).Filters()[0]; got != (mqtt.Filter{Filter: "a", QoS: 2, Granted: 2}) {
			t.Errorf("%+v", got)
		}
		if got := second.value(t).Filters()[0]; got != (mqtt.Filter{Filter: "b", QoS: 2, Granted: 1}) {
			t.Errorf("%+v", got)
		}
		first.pending(t, "its SUBACK has not come")
		s.Send(granted(p1))
		if got := first.value(t).Filters()[0]; got != (mqtt.Filter{Filter: "a", QoS: 1, Granted: 1}) {
			t.Errorf("%+v", got)
		}
		if v != codec.V5 {
			return
		}
		// What the server has is what the last SUBSCRIBE said, so a fourth one needs no more.
		fourth := start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(t.Context(), "a", mqtt.ExactlyOnce)
		})
		s.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](s)))
		if got := fourth.value(t).Filters()[0].Granted; got != 2 {
			t.Errorf("granted %v", got)
		}
	})
}

// While a SUBSCRIBE that raises the QoS is on its way, it is unknown what the server will grant. A Subscribe that
// relies on it sends a SUBSCRIBE too.
func TestSubscribeDuringRaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		subscribed(t, mqtt.Common(c), s, "a", mqtt.AtMostOnce)
		raise := func() *running[*mqtt.Subscription] {
			return start(func() (*mqtt.Subscription, error) {
				return c.Subscribe(t.Context(), "a", mqtt.AtLeastOnce, mqtt.SkipRetained)
			})
		}
		first := raise()
		p1 := mqtttest.ReceiveAs[*codec.Subscribe](s)
		second := raise()
		second.pending(t, "nothing is granted yet")
		p2 := mqtttest.ReceiveAs[*codec.Subscribe](s)
		s.Send(granted(p1), granted(p2))
		for _, r := range []*running[*mqtt.Subscription]{first, second} {
			if got := r.value(t).Filters()[0].Granted; got != 1 {
				t.Errorf("granted %v", got)
			}
		}
	})
}

// A refusal to raise the QoS ends the subscription that asked for it, not those that are there, and the next one that
// needs the higher QoS asks again.
func TestSubscribeRaiseRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		first, p := subscribed(t, mqtt.Common(c), s, "a", mqtt.AtMostOnce)
		for _, code := range []codec.ReasonCode{codec.QuotaExceeded, codec.GrantedQoS1} {
			if _, err := c.Subscribe(t.Context(), "a", mqtt.SkipRetained); err != nil { // that QoS holds, before and after
				t.Error(err)
			}
			raising := start(func() (*mqtt.Subscription, error) {
				return c.Subscribe(t.Context(), "a", mqtt.AtLeastOnce, mqtt.SkipRetained)
			})
			q := mqtttest.ReceiveAs[*codec.Subscribe](s)
			s.Send(&codec.Suback{PacketID: q.PacketID, Codes: []codec.ReasonCode{code}})
			if err := raising.wait(); (err != nil) != code.Failed() {
				t.Errorf("SUBACK %v: %v", code, err)
			}
		}
		s.Send(&codec.Publish{Topic: "a", Payload: []byte("x"), SubscriptionIdentifiers: []uint32{p.SubscriptionIdentifier}})
		wantArrived(t, first, "a=x q0")
		if _, err := c.Subscribe(t.Context(), "a", mqtt.AtLeastOnce, mqtt.SkipRetained); err != nil {
			t.Error(err)
		}
		s.ExpectSilence(time.Second) // nobody has to ask for what holds
	})
}

// PROTOCOL 18: one refused filter fails the whole subscription, and those granted are unsubscribed, unless others hold
// them.
// [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2]
func TestSubscribeRefused(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		kept := subscribe(t, c, "kept")
		unsubscribes := watchUnsubscribes(b)
		refuse := b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if s, ok := p.(*codec.Suback); ok {
				for i := range s.Codes {
					if s.Codes[i] == codec.GrantedQoS2 {
						s.Codes[i] = codec.UnspecifiedError
						s.ReasonString = "not today"
						if v != codec.V5 {
							s.ReasonString = ""
						}
					}
				}
			}
			return true
		})
		sub, err := c.Subscribe(t.Context(), "x", mqtt.AtLeastOnce, mqtt.Also(mqtt.ExactlyOnce, "y", "z"), mqtt.Also(0, "kept", "w"))
		refuse()
		var refusal *mqtt.SubscribeError
		if sub != nil || !errors.As(err, &refusal) || !errors.Is(err, mqtt.UnspecifiedError) || mqtt.SafeToRetry(err) {
			t.Fatalf("%v, %v", sub, err)
		}
		want := []mqtt.FilterError{{Filter: "y", Code: mqtt.UnspecifiedError}, {Filter: "z", Code: mqtt.UnspecifiedError}}
		if v == codec.V5 {
			want[0].Reason, want[1].Reason = "not today", "not today"
		}
		if !slices.Equal(refusal.Failures, want) {
			t.Errorf("failures %+v, want %+v", refusal.Failures, want)
		}
		unsubscribes.want(t, "[x w]")
		b.Publish(text("kept", "1", 0))
		wantArrived(t, kept, "kept=1 q0")
		// Nothing keeps the filters from being subscribed again.
		again := subscribe(t, c, "x", mqtt.Also(mqtt.ExactlyOnce, "y"))
		b.Publish(text("y", "1", 2))
		wantArrived(t, again, "y=1 q2")
	})
}

// With a ctx that has ended nothing is sent, as with a publish.
func TestSubscribeCancelledBefore(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Subscribe(ctx, "a")
		wantErr(t, err, context.Canceled, true)
		s.ExpectSilence(time.Second)
	})
}

// PROTOCOL 18: when ctx ends before SUBACK the subscription is gone, its packet identifier is taken until SUBACK comes,
// and what that grants and nobody else holds is unsubscribed.
func TestSubscribeCancelled(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		abandoned := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a", mqtt.AtLeastOnce) })
		p := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		if err := abandoned.wait(); !errors.Is(err, context.Canceled) || mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
		s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1}) // nobody's: acknowledged and counted
		s.Expect(&codec.Puback{PacketID: 1})
		if n := c.Stats().Unmatched; n != 1 {
			t.Errorf("%d messages unmatched", n)
		}
		other, _ := subscribed(t, c, s, "b")
		_, q := subscribing(t, c, s, "c")
		if q.PacketID == p.PacketID {
			t.Error("the packet identifier is used again before SUBACK")
		}
		s.Send(granted(p))
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		if !slices.Equal(u.Filters, []string{"a"}) {
			t.Errorf("UNSUBSCRIBE %v", u.Filters)
		}
		s.Send(unsubscribed(v, u))
		s.Send(&codec.Publish{Topic: "b", Payload: []byte("x")})
		wantArrived(t, other, "b=x q0")
	})
}

// The same with ManualAck, when a message has come for it because another subscription has the filter: nobody else can
// acknowledge that.
func TestSubscribeCancelledWithManualAck(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		subscribed(t, c, s, "a", mqtt.AtLeastOnce)
		ctx, cancel := context.WithCancel(t.Context())
		abandoned := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a", mqtt.AtLeastOnce, mqtt.ManualAck) })
		mqtttest.ReceiveAs[*codec.Subscribe](s)
		for id := uint16(1); id <= 2; id++ {
			s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: id})
		}
		abandoned.pending(t, "SUBACK has not come")
		cancel()
		_ = abandoned.wait()
		s.Expect(&codec.Puback{PacketID: 1})
		s.Expect(&codec.Puback{PacketID: 2})
	})
}

// As before, except that another subscription takes the filter before the SUBACK: it stays.
func TestSubscribeCancelledAndTakenOver(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		abandoned := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a") })
		p := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		abandoned.wait()
		second, q := subscribing(t, c, s, "a")
		s.Send(granted(p), granted(q))
		second.value(t)
		s.ExpectSilence(time.Second)
		s.Send(&codec.Publish{Topic: "a", Payload: []byte("x")})
		wantArrived(t, second.value(t), "a=x q0")
	})
}

// A SUBACK does not mean that the filter is subscribed if an UNSUBSCRIBE was sent after its SUBSCRIBE.
func TestSubscribeAfterLateSuback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		first, _ := subscribed(t, mqtt.Common(c), s, "a")
		ctx, cancel := context.WithCancel(t.Context())
		second := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a") })
		late := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		second.wait()
		leaving := startErr(func() error { return first.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(granted(late))
		synctest.Wait()
		third := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "a", mqtt.SkipRetained) })
		third.pending(t, "the filter is not subscribed")
		q := mqtttest.ReceiveAs[*codec.Subscribe](s)
		s.Send(unsubscribed(codec.V5, u), granted(q))
		leaving.value(t)
		third.value(t)
		s.ExpectSilence(time.Second) // the third holds it
	})
}

// PROTOCOL 18: what a cancelled Subscribe was granted is unsubscribed also if its only other holder leaves just then.
func TestSubscribeCancelledWhileOtherLeaves(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		first, _ := subscribed(t, c, s, "a")
		leaving := startErr(func() error { return first.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		ctx, cancel := context.WithCancel(t.Context())
		second := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a") })
		p := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		second.wait()
		s.Send(unsubscribed(v, u), granted(p))
		leaving.value(t)
		u = mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(unsubscribed(v, u))
		s.ExpectSilence(time.Second)
	})
}

// The client's end fails a Subscribe that waits for SUBACK.
func TestSubscribeAtTheEnd(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribing(t, c, s, "a")
		s.Cut()
		if err := sub.wait(); !errors.Is(err, mqtt.ErrConnectionLost) || mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
		if _, err := c.Subscribe(t.Context(), "a"); !errors.Is(err, mqtt.ErrConnectionLost) || !mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
	})
}

// Features that the server announced not to have are errors here (sections 3.2.2.3.11 to 3.2.2.3.13).
// [MQTT-3.2.2.3.11] [MQTT-3.2.2.3.12] [MQTT-3.2.2.3.13]
func TestSubscribeUnavailable(t *testing.T) {
	no := false
	for _, test := range []struct {
		filter string
		ack    codec.ConnackProperties
		opt    mqtt.SubscribeOptionV5
		want   mqtt.ReasonCode
	}{
		{"a/+", codec.ConnackProperties{WildcardSubscriptionAvailable: &no}, mqtt.AtLeastOnce, mqtt.WildcardSubscriptionsNotSupported},
		{"#", codec.ConnackProperties{WildcardSubscriptionAvailable: &no}, mqtt.AtLeastOnce, mqtt.WildcardSubscriptionsNotSupported},
		{"$share/g/a", codec.ConnackProperties{SharedSubscriptionAvailable: &no}, mqtt.AtLeastOnce, mqtt.SharedSubscriptionsNotSupported},
		{"a", codec.ConnackProperties{SubscriptionIdentifiersAvailable: &no}, mqtt.SubscriptionIdentifier(5), mqtt.SubscriptionIdentifiersNotSupported},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, s := scriptedV5(t, test.ack)
			_, err := c.Subscribe(t.Context(), test.filter, test.opt)
			var refusal *mqtt.SubscribeError
			if !errors.As(err, &refusal) || !errors.Is(err, test.want) || !mqtt.SafeToRetry(err) {
				t.Errorf("%q: %v", test.filter, err)
			}
			s.ExpectSilence(time.Second)
			subscribed(t, mqtt.Common(c), s, "plain")
		})
	}
}

// [MQTT-3.2.2-15]: a SUBSCRIBE or UNSUBSCRIBE that the server would not take is not sent, but filters that fit in
// several packets are not refused because they do not fit in one.
func TestSubscribeMaximumPacketSize(t *testing.T) {
	const limit = 50 // SUBSCRIBE: 2 + 2 + 1 + 2 for the identifier + 2 + filter + 1
	long := strings.Repeat("x", limit-10)
	for _, identifiers := range []bool{true, false} {
		t.Run(fmt.Sprint("identifiers ", identifiers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []mqtttest.Option{mqtttest.MaximumPacketSize(limit)}
				if !identifiers {
					opts = append(opts, mqtttest.NoSubscriptionIdentifiers())
				}
				b := mqtttest.NewBroker(t, opts...)
				c := dialV5(t, b.DialContext)
				packets := watch(b, func(p *codec.Subscribe) string { return fmt.Sprint(len(p.Filters)) })
				unsubscribes := watch(b, func(p *codec.Unsubscribe) string { return fmt.Sprint(len(p.Filters)) })
				_, err := c.Subscribe(t.Context(), long+"yyy")
				if !errors.Is(err, mqtt.PacketTooLarge) || !mqtt.SafeToRetry(err) {
					t.Errorf("%v", err)
				}
				packets.want(t)
				sub := subscribeV5(t, c, long, mqtt.Also(0, "a/aaaaaaaaaaaaaa", "b/bbbbbbbbbbbbb", "c/cccccccccccccc", "d"))
				b.Publish(text("d", "x", 0))
				wantArrived(t, sub, "d=x q0")
				if err := sub.Unsubscribe(t.Context()); err != nil {
					t.Error(err)
				}
				if got := len(unsubscribes.take()); got < 2 || got > 4 {
					t.Errorf("%d UNSUBSCRIBEs", got)
				}
				wantClosed(t, sub)
			})
		})
	}
}

// What no packet can say is an error before anything is sent.
// [MQTT-3.8.2.1.2] [MQTT-3.8.3-1] [MQTT-3.8.3-5] [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
func TestSubscribeOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		for _, test := range []struct {
			filter string
			opts   []mqtt.SubscribeOptionV5
			topic  bool // the error is a *TopicError
		}{
			{"", nil, true},
			{"a#", nil, true},
			{"a/#/b", nil, true},
			{"+a", nil, true},
			{"a\x00", nil, true},
			{"\xff", nil, true},
			{strings.Repeat("x", 65_536), nil, true},
			{"$share//a", nil, true},
			{"$share/g", nil, true},
			{"$share/g/", nil, true},
			{"$share/+/a", nil, true},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "b", "c+")}, true},
			{"a", []mqtt.SubscribeOptionV5{mqtt.QoS(3)}, false}, // [MQTT-3.8.3-5]
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(3, "b")}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "a")}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "b", "b")}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Buffer(0)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Buffer(-1)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.AckMode(2)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Overflow(3)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.SubscribeFlag(8)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.RetainHandling(3)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.SubscriptionIdentifier(0)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.SubscriptionIdentifier(268_435_456)}, false},
			{"$share/g/a", []mqtt.SubscribeOptionV5{mqtt.NoLocal}, false}, // [MQTT-3.8.3-4]
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "$share/g/a"), mqtt.NoLocal}, false},
			{"a", []mqtt.SubscribeOptionV5{&mqtt.SubscribeProperties{UserProperties: mqtt.UserProperties{{Key: "\xff"}}}}, false},
		} {
			sub, err := c.Subscribe(t.Context(), test.filter, test.opts...)
			var topicError *mqtt.TopicError
			if sub != nil || err == nil || errors.As(err, &topicError) != test.topic {
				t.Errorf("%.20q %v: %v, %v", test.filter, test.opts, sub, err)
			}
		}
		s.ExpectSilence(time.Second)
	})
}

// The options are in the packet as they were given [MQTT-3.8.3-3], and SubscribeOptions is one of them.
// [MQTT-3.8.2.1.2] [MQTT-3.8.3-5]
func TestSubscribePacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		var none *mqtt.SubscribeProperties
		start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(t.Context(), "a/+", mqtt.SubscribeOptions{mqtt.AtLeastOnce, mqtt.Buffer(5)}, mqtt.NoLocal, mqtt.RetainAsPublished,
				mqtt.SendRetainedIfNew, mqtt.SubscriptionIdentifier(77), none,
				&mqtt.SubscribeProperties{UserProperties: mqtt.UserProperties{{Key: "n", Value: "1"}, {Key: "n", Value: "2"}}})
		})
		s.Expect(&codec.Subscribe{
			PacketID: 1, SubscriptionIdentifier: 77, UserProperties: codec.UserProperties{{Key: "n", Value: "1"}, {Key: "n", Value: "2"}},
			Filters: []codec.SubscribeFilter{{Filter: "a/+", QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 1}},
		})
		s.Send(&codec.Suback{PacketID: 1, Codes: []codec.ReasonCode{1}})
	})
}

// With Retain As Published the RETAIN flag says nothing about why a message came: every holder gets it.
// [MQTT-3.3.1-13]
func TestSubscribeRetainAsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		first := subscribeV5(t, c, "a", mqtt.RetainAsPublished)
		second := subscribeV5(t, c, "a", mqtt.RetainAsPublished)
		b.Publish(retained("a", "x", 0))
		wantArrived(t, first, "a=x q0 retain")
		wantArrived(t, second, "a=x q0 retain")
	})
}

// A SUBACK or UNSUBACK that does not answer its request ends the connection: too few or too many codes [MQTT-3.9.3-1],
// the wrong kind. One that answers nothing is ignored.
// [MQTT-3.8.4-6] [MQTT311-3.8.4-5]
func TestSubscribeWrongAnswers(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for name, answer := range map[string]func(id uint16) codec.Packet{
			"too few":  func(id uint16) codec.Packet { return &codec.Suback{PacketID: id, Codes: make([]codec.ReasonCode, 1)} },
			"too many": func(id uint16) codec.Packet { return &codec.Suback{PacketID: id, Codes: make([]codec.ReasonCode, 3)} },
			"UNSUBACK": func(id uint16) codec.Packet {
				return unsubscribed(v, &codec.Unsubscribe{PacketID: id, Filters: []string{"a", "b"}})
			},
		} {
			var c mqtt.Client
			var s *mqtttest.Script
			if v == codec.V5 {
				no := false
				var c5 mqtt.ClientV5
				c5, s = scriptedV5(t, codec.ConnackProperties{SubscriptionIdentifiersAvailable: &no})
				c = mqtt.Common(c5)
			} else {
				c, s = scripted(t, v)
			}
			s.Send(&codec.Suback{PacketID: 999, Codes: make([]codec.ReasonCode, 1)}, unsubscribed(v, &codec.Unsubscribe{PacketID: 998, Filters: []string{"a"}}))
			sub, p := subscribing(t, c, s, "a", mqtt.Also(0, "b"))
			sub.pending(t, "other requests were answered")
			if n := c.Stats().LateAcks; n != 2 {
				t.Errorf("%d late acknowledgements", n)
			}
			s.Send(answer(p.PacketID))
			var bad *mqtt.PacketError
			if err := sub.wait(); !errors.As(err, &bad) {
				t.Errorf("%s: %v", name, err)
			}
			if v == codec.V5 {
				s.Expect(&codec.Disconnect{Code: codec.ProtocolError})
			}
			s.ExpectEOF()
			s.Close()
			<-c.Done()
			var packet *mqtt.PacketError
			if !errors.As(c.Err(), &packet) {
				t.Errorf("%s: the client ends with %v", name, c.Err())
			}
		}
	})
}

// A server that uses the packet identifier itself is asked again with another one, a few times.
func TestRequestIdentifierInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		subscribing, p := subscribing(t, mqtt.Common(c), s, "t", mqtt.ExactlyOnce)
		for range 3 {
			s.Send(&codec.Suback{PacketID: p.PacketID, Codes: []codec.ReasonCode{codec.PacketIdentifierInUse}})
			again := mqtttest.ReceiveAs[*codec.Subscribe](s)
			if again.PacketID == p.PacketID || !slices.Equal(again.Filters, p.Filters) || again.SubscriptionIdentifier != p.SubscriptionIdentifier {
				t.Errorf("asked again with %+v after %+v", again, p)
			}
			p = again
		}
		s.Send(granted(p))
		sub := subscribing.value(t)
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(&codec.Unsuback{PacketID: u.PacketID, Codes: []codec.ReasonCode{codec.PacketIdentifierInUse}})
		u = mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(&codec.Unsuback{PacketID: u.PacketID, Codes: []codec.ReasonCode{0}})
		noErr(t, leaving.wait())

		refused := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "u") })
		for range 11 {
			s.Send(&codec.Suback{PacketID: mqtttest.ReceiveAs[*codec.Subscribe](s).PacketID, Codes: []codec.ReasonCode{codec.PacketIdentifierInUse}})
		}
		if err := refused.wait(); !errors.Is(err, mqtt.PacketIdentifierInUse) {
			t.Errorf("refused for ever: %v", err)
		}
	})
}

// A Subscribe with more filters than there are packet identifiers sends a thousand SUBSCRIBEs at a time, and tells what
// became of each; when one is refused it does not go on.
func TestSubscribeThousandsOfFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		filters := make([]string, 2500)
		for n := range filters {
			filters[n] = fmt.Sprint("f/", n)
		}
		b := mqtttest.NewBroker(t)
		var mu sync.Mutex
		var unanswered, most, all int
		refuses := false
		b.Intercept(func(_ string, _ bool, p codec.Packet) bool {
			mu.Lock()
			defer mu.Unlock()
			switch p := p.(type) {
			case *codec.Subscribe:
				all++
				unanswered++
				most = max(most, unanswered)
			case *codec.Suback:
				unanswered--
				if all >= 3000 && !refuses {
					refuses = true
					p.Codes[0] = codec.NotAuthorized
				}
			}
			return true
		})
		c := dialV5(t, b.DialContext)
		sub := subscribeV5(t, c, "last", mqtt.AtLeastOnce, mqtt.Also(mqtt.AtLeastOnce, filters...))
		if all != len(filters)+1 || most > 1000 {
			t.Errorf("%d SUBSCRIBEs, at most %d without an answer", all, most)
		}
		for _, f := range sub.Filters() {
			if f.Granted != mqtt.AtLeastOnce {
				t.Fatalf("%+v", f)
			}
		}
		noErr(t, sub.Unsubscribe(t.Context()))
		_, err := c.Subscribe(t.Context(), "last", mqtt.Also(mqtt.AtLeastOnce, filters...))
		var refused *mqtt.SubscribeError
		if !errors.As(err, &refused) || len(refused.Failures) != 1 || all > 4500 {
			t.Errorf("refused with %v after %d SUBSCRIBEs", err, all)
		}
		c.Close()
	})
}

// A code from 0x80 refuses only the filter and does not end the connection, also a code that the specification does not list
// for SUBACK or UNSUBACK, or that MQTT 3.1.1 does not have.
// [MQTT-2.4]
func TestSubscribeRefusedWithAnyCode(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		refusal := func(err error) mqtt.ReasonCode {
			var refused *mqtt.SubscribeError
			if !errors.As(err, &refused) || len(refused.Failures) != 1 || refused.Failures[0].Filter != "b" {
				t.Errorf("the error is %v", err)
				return 0
			}
			return refused.Failures[0].Code
		}
		properties := []byte{6, 0x1F, 0, 3, 'n', 'o', '!'} // a Reason String
		if v < codec.V5 {
			properties = nil
		}
		answer := func(first byte, id uint16, codes ...byte) {
			body := append(append([]byte{byte(id >> 8), byte(id)}, properties...), codes...)
			s.SendBytes(append([]byte{first, byte(len(body))}, body...)...)
		}
		for _, code := range []byte{0x80, 0x81, 0x87, 0x90, 0x95, 0xFF} {
			made, p := subscribing(t, c, s, "b", mqtt.AtLeastOnce)
			answer(0x90, p.PacketID, code)
			if got := refusal(made.wait()); got != mqtt.ReasonCode(code) {
				t.Errorf("refused with %v, not %#x", got, code)
			}
			if v < codec.V5 {
				continue // UNSUBACK has no codes
			}
			leaving := calling(func() error { return c.Unsubscribe(t.Context(), "a", "b") })
			u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
			answer(0xB0, u.PacketID, 0, code)
			if got := refusal(outcome(t, leaving)); got != mqtt.ReasonCode(code) {
				t.Errorf("not unsubscribed with %v, not %#x", got, code)
			}
		}
		if st := c.Stats(); st.Losses != 0 || c.Err() != nil {
			t.Errorf("%d connections were lost, error %v", st.Losses, c.Err())
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
