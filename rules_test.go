package mqtt_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Statements of the specification that no other test is about. docs/CONFORMANCE.md says where the others are tested.

// [MQTT-3.1.2-4] [MQTT311-3.1.2-6]: with a clean start at every connect, nothing of one connection's session is used on the
// next: no DUP, no old packet identifier, and what came at QoS 2 may come again.
func TestCleanStartDiscardsTheSession(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		server := mqtttest.NewServer(t, v)
		connecting := start(func() (mqtt.Client, error) {
			if v == codec.V5 {
				return mqtt.Common(reconnectingV5(t, server.DialContext, mqtt.WithSessionExpiry(0))), nil
			}
			return reconnectingAs(t, v, server.DialContext), nil
		})
		p := &pair{t: t, server: server}
		if !p.accept(&codec.Connack{}).CleanStart {
			t.Error("CONNECT asks for the old session")
		}
		p.client = connecting.value(t)
		sub, _ := subscribed(t, p.client, p.Script, "in", mqtt.ExactlyOnce) // identifier 1
		one, two := p.publish("one", 1), p.publish("two", 2)
		p.wantPackets("PUBLISH 2 one q1", "PUBLISH 3 two q2")
		p.Send(message("in", 2, 7))
		p.wantPackets("PUBREC 7")
		wantArrived(t, sub, "in=7 q2")
		if !p.renew().CleanStart {
			t.Error("CONNECT asks for the old session")
		}
		p.wantPackets("SUBSCRIBE in q2 rh0", "PUBLISH 5 one q1")
		wantFate(t, two, mqtt.ErrSessionLost)
		wantOpen(t, one)
		p.Send(message("in", 2, 7))
		p.wantPackets("PUBREC 7")
		wantArrived(t, sub, "in=7 q2")
	})
}

// [MQTT-3.3.1-3] [MQTT311-3.3.1-3]: a message that came again is no duplicate when it is published in its turn.
func TestDuplicateIsNotHandedOn(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "in", mqtt.AtLeastOnce)
		again := message("in", 1, 9)
		again.Dup = true
		s.Send(again)
		s.Expect(&codec.Puback{PacketID: 9})
		m := wantArrived(t, sub, "in=9 q1 dup")[0]
		for qos := range mqtt.QoS(3) {
			c.PublishAsync(t.Context(), "out", m.Payload, qos)
			if p := mqtttest.ReceiveAs[*codec.Publish](s); p.Dup || string(p.Payload) != "9" {
				t.Errorf("%v: %+v", qos, p)
			}
		}
	})
}

// [MQTT-4.4.0-2]: what the server has refused is not sent again when the session is resumed.
func TestRefusedIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		one, two := p.publish("one", 1), p.publish("two", 2)
		p.wantPackets("PUBLISH 1 one q1", "PUBLISH 2 two q2")
		p.Send(&codec.Puback{PacketID: 1, Code: codec.QuotaExceeded}, &codec.Pubrec{PacketID: 2, Code: codec.NotAuthorized})
		wantFate(t, one, mqtt.QuotaExceeded)
		wantFate(t, two, mqtt.NotAuthorized)
		p.resume()
		p.wantSilence()
	})
}

// [MQTT-1.5.4-3] [MQTT311-1.5.3-3]: what looks like a byte order mark is part of a topic, in both directions.
func TestByteOrderMark(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		const topic = "\xef\xbb\xbfa"
		sub, p := subscribed(t, c, s, topic)
		if p.Filters[0].Filter != topic {
			t.Errorf("SUBSCRIBE for %q", p.Filters[0].Filter)
		}
		s.Send(&codec.Publish{Topic: "a"}, &codec.Publish{Topic: topic})
		if got := arrived(sub); len(got) != 1 || got[0].Topic != topic {
			t.Errorf("%+v", got)
		}
		noErr(t, c.Publish(t.Context(), topic, nil))
		s.Expect(&codec.Publish{Topic: topic})
	})
}

// [MQTT-3.1.2-27]: a server uses no topic alias if the client announces none.
func TestNoTopicAliasAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil, mqtt.WithTopicAliasMaximum(0))
		p.Send(&codec.Publish{Topic: "t", TopicAlias: 1})
		p.Expect(&codec.Disconnect{Code: codec.TopicAliasInvalid})
		p.ExpectEOF()
	})
}

// [MQTT311-3.3.5-1]: with overlapping subscriptions a server of MQTT 3.1.1 may send one copy of a message or one for each.
// Whatever it does, each copy is acknowledged, and no subscription goes without.
func TestOverlappingV311(t *testing.T) {
	for _, opts := range [][]mqtttest.Option{nil, {mqtttest.MergeOverlapping()}} {
		t.Run(fmt.Sprint("merge ", len(opts) > 0), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t, opts...)
				c := dialAs(t, codec.V311, b.DialContext)
				wide, narrow := subscribe(t, c, "a/#", mqtt.AtLeastOnce), subscribe(t, c, "a/b", mqtt.AtLeastOnce)
				copies := 2 - len(opts)
				b.Publish(text("a/b", "x", 1))
				for _, sub := range []*mqtt.Subscription{wide, narrow} {
					if got := arrived(sub); len(got) != copies {
						t.Errorf("%d copies, want %d", len(got), copies)
					}
				}
				if got := c.Stats(); got.Unacknowledged != 0 || int(got.Received) != copies {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}
