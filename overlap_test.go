package mqtt_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Each subscription receives each message once, also with overlapping filters, whether the server sends a
// copy for each filter or one for all [MQTT-3.3.4-2].
// [MQTT-3.3.2-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5]
func TestSubscribeOverlapping(t *testing.T) {
	for _, opts := range [][]mqtttest.Option{nil, {mqtttest.MergeOverlapping()}} {
		t.Run(fmt.Sprint("merge ", len(opts) > 0), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t, opts...)
				c := dialV5(t, b.DialContext)
				wide := subscribeV5(t, c, "a/#", mqtt.AtMostOnce)
				both := subscribeV5(t, c, "a/#", mqtt.AtMostOnce, mqtt.Also(mqtt.AtLeastOnce, "a/+", "a/b"))
				narrow := subscribeV5(t, c, "a/b", mqtt.ExactlyOnce)
				b.Publish(text("a/b", "1", 2))
				b.Publish(text("a/c", "2", 2))
				b.Publish(text("a/b/c", "3", 2))
				b.Publish(text("a", "4", 2))
				wantArrived(t, wide, "a/b=1 q0", "a/c=2 q0", "a/b/c=3 q0", "a=4 q0")
				wantArrived(t, both, "a/b=1 q1", "a/c=2 q1", "a/b/c=3 q0", "a=4 q0")
				wantArrived(t, narrow, "a/b=1 q2")
				if got := c.Stats(); got.Unacknowledged != 0 || got.Unmatched != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// A subscription goes on taking messages for the same one of its filters when another one raises the QoS of a filter
// they share: copies of one message may come before and after.
func TestSubscribeOverlappingWhileRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		both, wide := twoFilters(t, c, s, mqtt.AtLeastOnce, mqtt.AtMostOnce)
		narrow := both[1]
		// The copies of a message that was published before: that for the filter a/b, which is not wanted …
		publish := func(id uint32, packetID uint16) {
			s.Send(&codec.Publish{Topic: "a/b", Payload: []byte("x"), QoS: 1, PacketID: packetID, SubscriptionIdentifiers: []uint32{id}})
			s.Expect(&codec.Puback{PacketID: packetID})
		}
		publish(narrow, 1)
		raising := start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(t.Context(), "a/b", mqtt.ExactlyOnce, mqtt.SkipRetained)
		})
		s.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](s)))
		raising.value(t)
		publish(both[0], 2) // … and that for a/#
		wantArrived(t, wide, "a/b=x q1")
		if n := c.Stats().Unmatched; n != 0 {
			t.Errorf("%d copies count as unmatched", n)
		}
	})
}

// twoFilters subscribes to a/# and a/b at once and returns the two identifiers.
func twoFilters(t *testing.T, c mqtt.ClientV5, s *mqtttest.Script, wide, narrow mqtt.QoS) ([2]uint32, *mqtt.Subscription) {
	t.Helper()
	sub := start(func() (*mqtt.Subscription, error) {
		return c.Subscribe(t.Context(), "a/#", wide, mqtt.Also(narrow, "a/b"))
	})
	first := mqtttest.ReceiveAs[*codec.Subscribe](s)
	second := mqtttest.ReceiveAs[*codec.Subscribe](s)
	s.Send(granted(second), granted(first)) // in reverse order [MQTT-2.2.1-6]
	both := sub.value(t)
	both.Messages()
	return [2]uint32{first.SubscriptionIdentifier, second.SubscriptionIdentifier}, both
}

// A message comes once also before SUBACK: the server may send it so early, or the SUBACK may have been cut off.
func TestSubscribeOverlappingBeforeSuback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		subscribing := start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(t.Context(), "a/#", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/b"))
		})
		both := []*codec.Subscribe{mqtttest.ReceiveAs[*codec.Subscribe](s), mqtttest.ReceiveAs[*codec.Subscribe](s)}
		for i := range uint16(4) {
			s.Send(&codec.Publish{
				Topic: "a/b", Payload: []byte{'0' + byte(i/2)}, QoS: 2, PacketID: 1 + i,
				SubscriptionIdentifiers: []uint32{both[i%2].SubscriptionIdentifier},
			})
		}
		s.Send(granted(both[0]), granted(both[1]))
		wantArrived(t, subscribing.value(t), "a/b=0 q2", "a/b=1 q2")
		for i := range uint16(4) {
			s.Expect(&codec.Pubrec{PacketID: 1 + i})
		}
	})
}

// A message comes once also between UNSUBSCRIBE and UNSUBACK.
func TestSubscribeOverlappingWhileLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		both, sub := twoFilters(t, c, s, mqtt.ExactlyOnce, mqtt.ExactlyOnce)
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		p := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		for i, id := range both {
			s.Send(&codec.Publish{Topic: "a/b", Payload: []byte("x"), QoS: 2, PacketID: uint16(1 + i), SubscriptionIdentifiers: []uint32{id}})
			s.Expect(&codec.Pubrec{PacketID: uint16(1 + i)})
		}
		s.Send(unsubscribed(codec.V5, p))
		leaving.value(t)
		wantArrived(t, sub, "a/b=x q2")
	})
}

// The same when the SUBSCRIBEs, made again on a new session, have no answer yet.
func TestSubscribeOverlappingWhileLeavingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		defer func() { p.client.Close() }()
		subscribing := start(func() (*mqtt.Subscription, error) {
			return p.client.Subscribe(t.Context(), "a/#", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/b"))
		})
		for range 2 {
			p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
		}
		sub := subscribing.value(t)
		sub.Messages()
		p.renew()
		again := []*codec.Subscribe{mqtttest.ReceiveAs[*codec.Subscribe](p.Script), mqtttest.ReceiveAs[*codec.Subscribe](p.Script)}
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](p.Script)
		for i, s := range again {
			p.Send(&codec.Publish{Topic: "a/b", Payload: []byte("x"), SubscriptionIdentifiers: []uint32{s.SubscriptionIdentifier}})
			p.Send(granted(again[i]))
		}
		p.Send(unsubscribed(codec.V5, u))
		leaving.value(t)
		wantArrived(t, sub, "a/b=x q0")
	})
}

// A shared subscription gets only some of the messages that match it: a subscription that holds one beside an ordinary
// filter must not rely on it (section 4.8.2).
func TestSubscribeSharedOverlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c, other := dialV5(t, b.DialContext), dialV5(t, b.DialContext)
		mixed := subscribeV5(t, c, "$share/g/a/#", mqtt.ExactlyOnce, mqtt.Also(mqtt.AtLeastOnce, "a/b"))
		shares := subscribeV5(t, c, "$share/g/a/#", mqtt.ExactlyOnce, mqtt.Also(mqtt.AtLeastOnce, "$share/h/a/b"))
		group := subscribeV5(t, other, "$share/g/a/#", mqtt.ExactlyOnce)
		otherGroup := subscribeV5(t, other, "$share/h/a/b", mqtt.ExactlyOnce)
		for i := range 4 {
			b.Publish(text("a/b", fmt.Sprint(i), 1))
		}
		wantArrived(t, mixed, "a/b=0 q1", "a/b=1 q1", "a/b=2 q1", "a/b=3 q1")
		if n := len(arrived(shares)) + len(arrived(group)) + len(arrived(otherGroup)); n != 8 {
			t.Errorf("two groups get %d copies of 4 messages", n)
		}
	})
}

// Shared subscriptions are routed by what follows $share/{name}/, in both versions, as are the filters of servers with
// prefixes of their own. The filter is sent whole.
func TestSubscribePrefixes(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v, mqtt.WithFilterPrefixes("$queue/", "$special/"))
		for _, filter := range []string{"$share/g/a/+", "$queue/a/+", "$special/a/#", "$share/g/$queue/a/b"} {
			sub, p := subscribed(t, c, s, filter)
			if p.Filters[0].Filter != filter {
				t.Errorf("SUBSCRIBE %q", p.Filters[0].Filter)
			}
			m := &codec.Publish{Topic: "a/b", Payload: []byte("x")}
			if v == codec.V5 {
				m.SubscriptionIdentifiers = []uint32{p.SubscriptionIdentifier}
			}
			s.Send(m)
			wantArrived(t, sub, "a/b=x q0")
			left := startErr(func() error { return sub.Unsubscribe(t.Context()) })
			u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
			if u.Filters[0] != filter {
				t.Errorf("UNSUBSCRIBE %q", u.Filters[0])
			}
			s.Send(unsubscribed(v, u))
			left.value(t)
		}
	})
}

// A message may wait at the server for so long that its filter, and many others, are unsubscribed. Then no subscription
// gets it.
func TestLateMessageOfAFilterThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, codec.V5)
		stays, _ := subscribed(t, c, s, "#")
		var first uint32
		for range 200 {
			sub, p := subscribed(t, c, s, "a/+")
			if first == 0 {
				first = p.SubscriptionIdentifier
			}
			left := calling(func() error { return sub.Unsubscribe(t.Context()) })
			s.Send(unsubscribed(codec.V5, mqtttest.ReceiveAs[*codec.Unsubscribe](s)))
			noErr(t, outcome(t, left))
		}
		s.Send(&codec.Publish{Topic: "a/b", Payload: []byte("x"), SubscriptionIdentifiers: []uint32{first}})
		wantArrived(t, stays)
	})
}

// A message goes to every holder of a filter that carries one of its identifiers and matches its topic.
// One of a replaced SUBSCRIBE still counts, one of a filter that was unsubscribed reaches no subscription, and without
// one that is known the topic decides.
func TestSubscribeIdentifiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		common := mqtt.Common(c)
		wide, wideP := subscribed(t, common, s, "a/#")
		narrow, narrowP := subscribed(t, common, s, "a/b")
		elsewhere, elsewhereP := subscribed(t, common, s, "c")
		later, laterP := subscribed(t, common, s, "a/b") // replaces narrow's
		gone, goneP := subscribed(t, common, s, "a/+")
		leaving := startErr(func() error { return gone.Unsubscribe(t.Context()) })
		s.Send(unsubscribed(codec.V5, mqtttest.ReceiveAs[*codec.Unsubscribe](s)))
		leaving.value(t)

		ids := []uint32{wideP.SubscriptionIdentifier, narrowP.SubscriptionIdentifier, elsewhereP.SubscriptionIdentifier,
			laterP.SubscriptionIdentifier, goneP.SubscriptionIdentifier}
		const nobody = ""
		for _, test := range []struct {
			ids  []uint32
			want string // who gets it
		}{
			{ids[0:1], "wide"},
			{ids[1:2], "narrow later"},
			{ids[3:4], "narrow later"},
			{[]uint32{ids[0], ids[3]}, "wide narrow later"},
			{[]uint32{ids[4], ids[0]}, "wide"},
			{ids[4:5], nobody},
			{ids[2:3], "wide narrow later"}, // that filter does not match
			{[]uint32{99_999}, "wide narrow later"},
			{nil, "wide narrow later"},
		} {
			s.Send(&codec.Publish{Topic: "a/b", SubscriptionIdentifiers: test.ids})
			var got []string
			for i, sub := range []*mqtt.Subscription{wide, narrow, later, elsewhere} {
				for range arrived(sub) {
					got = append(got, []string{"wide", "narrow", "later", "elsewhere"}[i])
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("identifiers %v go to %q, want %q", test.ids, got, test.want)
			}
		}
	})
}

// An identifier of the application's choice goes with all filters of the subscription, in one packet.
func TestSubscribeIdentifierGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		w := watch(b, func(p *codec.Subscribe) string { return fmt.Sprint(p.SubscriptionIdentifier, " ", len(p.Filters)) })
		sub := subscribeV5(t, c, "a", mqtt.Also(0, "b", "c"), mqtt.SubscriptionIdentifier(268_435_455))
		again := subscribeV5(t, c, "d", mqtt.SubscriptionIdentifier(268_435_455))
		w.want(t, "268435455 3", "268435455 1")
		for _, name := range []string{"a", "b", "c", "d"} {
			b.Publish(text(name, "x", 0))
		}
		messages := wantArrived(t, sub, "a=x q0", "b=x q0", "c=x q0")
		wantArrived(t, again, "d=x q0")
		for _, m := range messages {
			if got := m.SubscriptionIdentifiers(); !slices.Equal(got, []uint32{268_435_455}) {
				t.Errorf("identifiers %v", got)
			}
		}
	})
}
