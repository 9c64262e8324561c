package mqtt_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// A filter is subscribed once, at the highest QoS its holders ask for. Raising it sends SUBSCRIBE again
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

// On MQTT 3.1.1 every SUBSCRIBE brings retained messages: a later holder sends one to get them, and
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

// The retained messages that a later holder's SUBSCRIBE brings go to it alone, by identifier, and without
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

// No Local and Retain As Published hold for all subscriptions to a filter; nothing is sent for one that
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
