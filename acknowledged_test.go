package mqtt_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Acknowledgements of unknown identifiers are ignored and counted, but PUBREC and PUBREL get their answer. For
// those of identifiers that are in use for something else see TestHostileServer
// [MQTT-4.3.3-4] [MQTT-4.3.3-11] [MQTT-3.6.2-1] [MQTT-3.7.2-1].
// [MQTT-4.3.3-6] [MQTT311-4.3.3-1] [MQTT311-4.3.3-2]
func TestLateAcknowledgements(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		var notFound codec.ReasonCode
		if v == codec.V5 {
			notFound = codec.PacketIdentifierNotFound
		}
		one := p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		two := p.client.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		p.Expect(toT(1, 1, ""))
		p.Expect(toT(2, 2, ""))

		p.Send(&codec.Puback{PacketID: 7}, &codec.Pubcomp{PacketID: 7}, &codec.Suback{PacketID: 7, Codes: []codec.ReasonCode{0}})
		p.Send(&codec.Pubrec{PacketID: 7})
		p.Expect(&codec.Pubrel{PacketID: 7, Code: notFound})
		p.Send(&codec.Pubrel{PacketID: 7})
		p.Expect(&codec.Pubcomp{PacketID: 7, Code: notFound})

		synctest.Wait()
		if one.Err() != nil || two.Err() != nil || p.client.Stats().InFlight != 2 {
			t.Error("a message was acknowledged by one of an unknown identifier")
		}
		if got := p.client.Stats().LateAcks; got != 4 {
			t.Errorf("%d late acknowledgements were counted, want 4", got)
		}
		if v == codec.V5 { // a refusal is not answered
			p.Send(&codec.Pubrec{PacketID: 9, Code: codec.QuotaExceeded})
			p.ExpectSilence(time.Second)
		}
		p.Send(&codec.Puback{PacketID: 1}, &codec.Puback{PacketID: 1}, &codec.Pubrec{PacketID: 2})
		p.Expect(&codec.Pubrel{PacketID: 2})
		p.Send(&codec.Pubrec{PacketID: 2}) // again: PUBREL, and never PUBLISH [MQTT-4.3.3-6]
		p.Expect(&codec.Pubrel{PacketID: 2})
		p.Send(&codec.Pubcomp{PacketID: 2})
		noErr(t, one.Wait(t.Context()))
		noErr(t, two.Wait(t.Context()))
		p.Send(&codec.Pubrec{PacketID: 2})
		p.Expect(&codec.Pubrel{PacketID: 2, Code: notFound})
	})
}

// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.7.2-1]: a refusal is a *PublishError with the whole reason of the
// server.
// [MQTT-2.4] [MQTT-4.13.2]
func TestPublishRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		said := codec.UserProperties{{Key: "k", Value: "1"}, {Key: "k", Value: "2"}}
		id := uint16(0)
		for _, code := range []codec.ReasonCode{0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99} {
			for qos := mqtt.AtLeastOnce; qos <= mqtt.ExactlyOnce; qos++ {
				id++
				result := calling(func() error { return p.v5.Publish(t.Context(), "t", nil, qos) })
				p.Expect(toT(byte(qos), id, ""))
				if qos == mqtt.AtLeastOnce {
					p.Send(&codec.Puback{PacketID: id, Code: code, ReasonString: "no", UserProperties: said})
				} else {
					p.Send(&codec.Pubrec{PacketID: id, Code: code, ReasonString: "no", UserProperties: said})
				}
				err := outcome(t, result)
				wantErr(t, err, mqtt.ReasonCode(code), false)
				var refused *mqtt.PublishError
				if !errors.As(err, &refused) || refused.Topic != "t" || refused.Local || refused.Reason != "no" ||
					len(refused.UserProperties) != 2 || refused.UserProperties[1].Value != "2" {
					t.Errorf("error %+v", err)
				}
				if !strings.Contains(err.Error(), "no") || !strings.Contains(err.Error(), `"t"`) {
					t.Errorf("the error says %q", err)
				}
			}
		}
		p.ExpectSilence(time.Second) // no PUBREL
		id++
		lost := p.v5.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		p.Expect(toT(2, id, ""))
		p.Send(&codec.Pubrec{PacketID: id})
		p.Expect(&codec.Pubrel{PacketID: id})
		p.Send(&codec.Pubcomp{PacketID: id, Code: codec.PacketIdentifierNotFound})
		noErr(t, lost.Wait(t.Context())) // PUBREC has said that the server took the message
		if lost.Reason() != mqtt.Success {
			t.Error("reason", lost.Reason())
		}
		id++
		nobody := p.v5.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, id, ""))
		p.Send(&codec.Puback{PacketID: id, Code: codec.NoMatchingSubscribers})
		noErr(t, nobody.Wait(t.Context()))
		if nobody.Reason() != mqtt.NoMatchingSubscribers {
			t.Error("reason", nobody.Reason())
		}
		id++
		nobody = p.v5.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		p.Expect(toT(2, id, ""))
		p.Send(&codec.Pubrec{PacketID: id, Code: codec.NoMatchingSubscribers, ReasonString: "nobody"})
		p.Expect(&codec.Pubrel{PacketID: id})
		p.Send(&codec.Pubcomp{PacketID: id})
		noErr(t, nobody.Wait(t.Context()))
		if nobody.Reason() != mqtt.NoMatchingSubscribers || nobody.ReasonString() != "nobody" {
			t.Errorf("what PUBREC said is %v, %q after PUBCOMP", nobody.Reason(), nobody.ReasonString())
		}
		if got := p.v5.Stats().Published; got != 3 {
			t.Errorf("%d messages count as published", got)
		}
	})
}

// A code from 0x80 refuses only the message and does not end the connection, also a code that the specification does
// not list for the packet: Mosquitto 2.0.11 sends Packet too large (seen).
// [MQTT-2.4]
func TestPublishRefusedWithAnyCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		id := byte(0)
		for _, code := range []byte{0x81, 0x8E, 0x92, 0x95, 0xA2, 0xFF} {
			for qos := mqtt.AtLeastOnce; qos <= mqtt.ExactlyOnce; qos++ {
				id++
				result := calling(func() error { return p.v5.Publish(t.Context(), "t", nil, qos) })
				p.Expect(toT(byte(qos), uint16(id), ""))
				p.SendBytes(0x30+0x10*byte(qos), 3, 0, id, code)
				wantErr(t, outcome(t, result), mqtt.ReasonCode(code), false)
			}
		}
		if s := p.v5.Stats(); s.Losses != 0 || p.v5.Err() != nil {
			t.Errorf("%d connections were lost, error %v", s.Losses, p.v5.Err())
		}
	})
}

// A PUBREC that refuses a message after another PUBREC has accepted it changes nothing: PUBLISH cannot be taken back then.
func TestPubrecRefusesAfterPubrel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		d := p.publish("t", mqtt.ExactlyOnce)
		p.wantPackets("PUBLISH 1 t q2")
		p.Send(&codec.Pubrec{PacketID: 1})
		p.wantPackets("PUBREL 1")
		p.Send(&codec.Pubrec{PacketID: 1, Code: codec.QuotaExceeded, ReasonString: "too much"})
		p.wantPackets("PUBREL 1")
		p.Send(&codec.Pubcomp{PacketID: 1})
		wantFate(t, d, nil)
		if d.Reason() != mqtt.Success || d.ReasonString() != "" {
			t.Errorf("the reason is %v, %q", d.Reason(), d.ReasonString())
		}
	})
}

// A PUBREL that is sent again may find that the server has completed the message: its PUBCOMP says 0x92, which is no
// error then (section 3.7.2.1), because a PUBREC had said that the server took the message.
func TestPubcompOfCompletedMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
		b.Fault(mqtttest.Fault{Packet: "PUBCOMP", Outbound: true, Drop: true, Cut: true, Times: 1})
		if err := c.Publish(t.Context(), "t", nil, mqtt.ExactlyOnce); err != nil {
			t.Errorf("the message arrived, and Publish returns %v", err)
		}
		if got := len(b.Received("t")); got != 1 {
			t.Errorf("%d messages arrived", got)
		}
	})
}

// A server of MQTT 3.1.1 that knows no QoS 2 answers with PUBACK; RabbitMQ does. The publish fails, the connection stays, and the
// packet identifier is free.
func TestPubackForQoS2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, codec.V311, mqtt.WithMaxInFlight(1))
		result := calling(func() error { return c.Publish(t.Context(), "t/2", nil, mqtt.ExactlyOnce) })
		s.Expect(&codec.Publish{Topic: "t/2", QoS: 2, PacketID: 1})
		next := calling(func() error { return c.Publish(t.Context(), "next", nil, mqtt.AtLeastOnce) })
		s.Send(&codec.Puback{PacketID: 1})
		err := outcome(t, result)
		wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
		if !errors.Is(err, mqtt.QoSNotSupported) || !strings.Contains(err.Error(), `publishing to "t/2": the server answered QoS 2 with PUBACK`) {
			t.Error(err)
		}
		s.Expect(&codec.Publish{Topic: "next", QoS: 1, PacketID: 2})
		s.Send(&codec.Puback{PacketID: 2})
		noErr(t, outcome(t, next))
		if losses := c.Stats().Losses; losses != 0 {
			t.Errorf("%d connections were lost", losses)
		}
	})
}
