package mqtttest

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt/codec"
)

func TestBrokerUnsubscribe(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		s.subscribe(at(0, "a"), at(0, "b"))
		s.Send(&codec.Unsubscribe{PacketID: 5, Filters: []string{"a", "x"}})
		want := &codec.Unsuback{PacketID: 5}
		if v == codec.V5 { // [MQTT-3.11.3-1]
			want.Codes = []codec.ReasonCode{codec.Success, codec.NoSubscriptionExisted}
		}
		s.Expect(want)
		b.Publish(Message{Topic: "a", Payload: []byte("x")})
		b.Publish(Message{Topic: "b", Payload: []byte("x")})
		s.wantPublish("b=x q0")
		s.barrier()
	})
}

// Wildcards do not match topics that begin with $ [MQTT-4.7.2-1].
func TestBrokerDollarTopics(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		s.subscribe(at(0, "#"), at(0, "+/x"))
		b.Publish(Message{Topic: "$SYS/x"})
		s.barrier()
		s.subscribe(at(0, "$SYS/#"))
		b.Publish(Message{Topic: "$SYS/x", Payload: []byte("1")})
		s.wantPublish("$SYS/x=1 q0")
		s.barrier()
	})
}

// Subscribing to a filter again replaces the subscription [MQTT-3.8.4-3].
func TestBrokerSubscribesAgain(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		s.subscribe(at(0, "a"))
		s.subscribe(at(1, "a"))
		b.Publish(Message{Topic: "a", Payload: []byte("x"), QoS: 2})
		s.wantPublish("a=x q1")
		s.barrier()
	})
}

// subscribeWithIdentifiers subscribes to overlapping filters, each with an identifier of its own.
func subscribeWithIdentifiers(s *Script) {
	for id, f := range []codec.SubscribeFilter{at(0, "a/b"), at(2, "a/+"), at(1, "a/#")} {
		s.Send(&codec.Subscribe{PacketID: 1, SubscriptionIdentifier: uint32(id + 1), Filters: []codec.SubscribeFilter{f}})
		ReceiveAs[*codec.Suback](s)
	}
}

// Each of the subscriptions that match gets a copy, with its own identifier [MQTT-3.3.4-2] [MQTT-3.3.4-5].
func TestBrokerOverlapping(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		subscribeWithIdentifiers(s)
		b.Publish(Message{Topic: "a/b", QoS: 2})
		var got []string
		for range 3 {
			p := ReceiveAs[*codec.Publish](s)
			got = append(got, fmt.Sprint(p.SubscriptionIdentifiers, p.QoS))
		}
		slices.Sort(got)
		if fmt.Sprint(got) != "[[1] 0 [2] 2 [3] 1]" {
			t.Errorf("copies %v", got)
		}
		s.barrier()
	})
}

// One copy for all, with the highest QoS [MQTT-3.3.4-2] and all the identifiers [MQTT-3.3.4-4].
func TestBrokerMergeOverlapping(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		subscribeWithIdentifiers(s)
		b.Publish(Message{Topic: "a/b", QoS: 2, Payload: []byte("x")})
		p := s.wantPublish("a/b=x q2")
		s.complete(p)
		slices.Sort(p.SubscriptionIdentifiers)
		if !slices.Equal(p.SubscriptionIdentifiers, []uint32{1, 2, 3}) {
			t.Errorf("identifiers %v", p.SubscriptionIdentifiers)
		}
		s.barrier()
	}, MergeOverlapping())
}

func TestBrokerNoLocal(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		alice, bob := connect(t, b, codec.V5, "alice"), connect(t, b, codec.V5, "bob")
		for _, s := range []*Script{alice, bob} {
			s.subscribe(codec.SubscribeFilter{Filter: "a", NoLocal: true}) // [MQTT-3.8.3-3]
		}
		alice.publish(publishOf(0, "a"))
		bob.wantPublish("a=x q0")
		alice.barrier()
	})
}

// The members of a shared subscription take turns, and who is not connected is passed over.
func TestBrokerShared(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		var members []*Script
		for i := range 3 {
			s := connect(t, b, v, fmt.Sprint(i))
			s.subscribe(at(1, "$share/group/a/+"))
			members = append(members, s)
		}
		other := connect(t, b, v, "other")
		other.subscribe(at(1, "a/b"), at(1, "$share/alone/#"))
		for range 3 {
			b.Publish(Message{Topic: "a/b", Payload: []byte("x"), QoS: 1})
		}
		for _, s := range members {
			s.wantPublish("a/b=x q1")
			s.barrier()
		}
		for range 6 {
			other.wantPublish("a/b=x q1")
		}
		members[1].Send(&codec.Disconnect{})
		members[1].ExpectEOF()
		for range 2 {
			b.Publish(Message{Topic: "a/b", Payload: []byte("y"), QoS: 1})
		}
		members[0].wantPublish("a/b=y q1")
		members[2].wantPublish("a/b=y q1")
	})
}

// A message for a share whose members are all away waits for one of them.
func TestBrokerSharedOffline(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s, _ := connectAs(t, b, v, persistent(v, "sub", true))
		s.subscribe(at(1, "$share/group/a"))
		b.Cut("sub")
		b.Publish(Message{Topic: "a", Payload: []byte("x"), QoS: 1})
		resume(t, b, v).wantPublish("a=x q1")
	})
}

func TestBrokerRefusesFilters(t *testing.T) {
	for _, opt := range []Option{NoWildcards(), NoSharedSubscriptions()} {
		b := NewBroker(t, opt)
		s := connect(t, b, codec.V311, "c") // which has not been told
		if ack := s.subscribe(at(1, "$share/g/#"), at(1, "a")); fmt.Sprint(ack.Codes) != fmt.Sprint([]codec.ReasonCode{0x80, 1}) {
			t.Errorf("SUBACK %v", ack.Codes)
		}
	}
}

func TestBrokerRetained(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s, publisher := connect(t, b, v, "c"), connect(t, b, v, "publisher")
		s.subscribe(at(0, "a/1"))
		for i, payload := range []string{"old", "1", "2", "gone", ""} {
			topic := fmt.Sprintf("a/%d", max(i, 1))
			if payload == "" {
				topic = "a/3"
			}
			publisher.publish(&codec.Publish{Topic: topic, Retain: true, QoS: 1, PacketID: 1, Payload: []byte(payload)})
		}
		s.wantPublish("a/1=old q0") // RETAIN is 0 for a subscription that exists [MQTT-3.3.1-12], [MQTT311-3.3.1-9]
		s.wantPublish("a/1=1 q0")
		late := connect(t, b, v, "late")
		late.subscribe(at(1, "a/+"))
		late.wantPublish("a/1=1 q1 retain") // [MQTT-3.3.1-9], [MQTT311-3.3.1-8]
		late.wantPublish("a/2=2 q1 retain")
		late.barrier()
		late.subscribe(at(0, "a/2"), at(0, "$share/g/#"))
		late.wantPublish("a/2=2 q0 retain")
		late.barrier()
	})
}

// Without retained messages none is kept; clients of 3.1.1, which are not told, lose nothing else.
func TestBrokerNoRetain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t, NoRetain())
		p := &codec.Connect{ClientID: "dying", CleanStart: true, Will: &codec.Will{Topic: "will", Retain: true, Payload: []byte("x")}}
		s, _ := connectAs(t, b, codec.V311, p)
		s.publish(&codec.Publish{Topic: "a", Retain: true, QoS: 1, PacketID: 1, Payload: []byte("x")})
		b.Publish(Message{Topic: "b", Retain: true, Payload: []byte("x")})
		b.Cut()
		if got := b.Received(); len(got) != 2 || got[0].Retain || got[1].Retain {
			t.Errorf("Received %v", got)
		}
		s = connect(t, b, codec.V311, "c")
		s.subscribe(at(0, "#"))
		s.barrier()
	})
}

// [MQTT-3.3.1-9] to [MQTT-3.3.1-11]
func TestBrokerRetainHandling(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		b.Publish(Message{Topic: "a", Payload: []byte("x"), Retain: true})
		s := connect(t, b, codec.V5, "c")
		for _, step := range []struct {
			handling byte
			want     bool
		}{{2, false}, {1, false}, {0, true}, {0, true}} {
			s.subscribe(codec.SubscribeFilter{Filter: "a", RetainHandling: step.handling})
			if step.want {
				s.wantPublish("a=x q0 retain")
			}
			s.barrier()
		}
		s.subscribe(codec.SubscribeFilter{Filter: "+", RetainHandling: 1})
		s.wantPublish("a=x q0 retain")
	})
}

// [MQTT-3.3.1-12], [MQTT-3.3.1-13]
func TestBrokerRetainAsPublished(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		s.subscribe(codec.SubscribeFilter{Filter: "a", RetainAsPublished: true})
		b.Publish(Message{Topic: "a", Payload: []byte("x"), Retain: true})
		s.wantPublish("a=x q0 retain")
		b.Publish(Message{Topic: "a", Payload: []byte("x")})
		s.wantPublish("a=x q0")
	})
}

// Properties arrive as they were sent.
func TestBrokerProperties(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		s.subscribe(at(0, "a"))
		p := publishOf(0, "a")
		p.Properties = codec.PublishProperties{
			UTF8Payload: true, ContentType: "text/plain", ResponseTopic: "reply", CorrelationData: []byte{},
			UserProperties: codec.UserProperties{{Key: "k", Value: "1"}, {Key: "k", Value: "2"}},
		}
		s.publish(p)
		s.Expect(p)
		if got := b.Received("a"); len(got) != 1 || got[0].Properties.ContentType != "text/plain" {
			t.Errorf("Received %+v", got)
		}
	})
}

func TestBrokerMessagesBeforeSuback(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Publish(Message{Topic: "a", Payload: []byte("x"), QoS: 1, Retain: true})
		s := connect(t, b, v, "c")
		s.Send(&codec.Subscribe{PacketID: 9, Filters: []codec.SubscribeFilter{at(1, "#")}})
		s.wantPublish("a=x q1 retain")
		s.Expect(&codec.Suback{PacketID: 9, Codes: []codec.ReasonCode{1}})
		s.barrier()
	}, MessagesBeforeSuback())
}
