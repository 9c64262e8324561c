package mqtt_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// [MQTT-4.6.0-2], [MQTT-4.6.0-3]: PUBACKs and PUBRECs leave in the order of their messages, each kind on its
// own, whatever the order in which the application acknowledges.
// [MQTT311-4.6.0-2] [MQTT311-4.6.0-3]
func TestReceiveAcknowledgementOrder(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.ManualAck, mqtt.Buffer(3))
		auto, _ := subscribed(t, c, s, "b", mqtt.ExactlyOnce)
		for id := range uint16(6) {
			s.Send(message("a", byte(1+id%2), id+1))
		}
		s.Send(message("b", 1, 7), message("b", 2, 8))
		wantArrived(t, auto, "b=7 q1", "b=8 q2")
		m := byPayload(arrived(sub))
		ack := func(payload string) {
			for range 2 { // once counts
				if err := m[payload].Ack(); err != nil {
					t.Error(err)
				}
			}
		}
		wantAnswers(t, s)
		ack("6")
		ack("5")
		ack("3")
		wantAnswers(t, s)
		ack("2")
		wantAnswers(t, s, "PUBREC 2")
		ack("4")
		wantAnswers(t, s, "PUBREC 4", "PUBREC 6", "PUBREC 8")
		ack("1")
		wantAnswers(t, s, "PUBACK 1", "PUBACK 3", "PUBACK 5", "PUBACK 7")
		if n := c.Stats().Unacknowledged; n != 4 {
			t.Errorf("%d messages are not completely acknowledged", n)
		}
		s.Send(&codec.Pubrel{PacketID: 2}, &codec.Pubrel{PacketID: 4}, &codec.Pubrel{PacketID: 6}, &codec.Pubrel{PacketID: 8})
		wantAnswers(t, s, "PUBCOMP 2", "PUBCOMP 4", "PUBCOMP 6", "PUBCOMP 8")
		if n := c.Stats().Unacknowledged; n != 0 {
			t.Errorf("%d messages are not completely acknowledged", n)
		}
	})
}

// A resend of a message that still waits for its Ack is joined to it, and Ack on the old Message
// acknowledges it. Once more after a second cut, and with what is in the channel and in line at AutoAck.
func TestJoinedResend(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for _, qos := range []byte{1, 2} {
			p := newPair(t, v)
			sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.QoS(qos), mqtt.ManualAck)
			m := &codec.Publish{Topic: "t", PacketID: 10, QoS: qos, Payload: []byte("x")}
			p.Send(m)
			messages := wantArrived(t, sub, fmt.Sprintf("t=x q%d", qos))
			m.Dup = true
			for range 2 {
				p.resume()
				if v == codec.V5 {
					p.wantPackets(fmt.Sprintf("SUBSCRIBE t q%d rh1", qos))
				}
				p.Send(m)
				wantArrived(t, sub)
				p.wantSilence()
			}
			ack := map[byte]string{1: "PUBACK 10", 2: "PUBREC 10"}[qos]
			if err := messages[0].Ack(); err != nil {
				t.Error(err)
			}
			p.wantPackets(ack)
			if qos == 2 { // acknowledged, and cut again: PUBREC is sent again, and then it is over
				p.resume()
				if v == codec.V5 {
					p.wantPackets("SUBSCRIBE t q2 rh1")
				}
				p.Send(m)
				p.wantPackets("PUBREC 10")
				p.Send(&codec.Pubrel{PacketID: 10})
				p.wantPackets("PUBCOMP 10")
			}
			wantArrived(t, sub)
			if got := p.client.Stats().Unacknowledged; got != 0 {
				t.Errorf("%d messages unacknowledged", got)
			}
			p.client.Close()
		}
	})
}

// A message that the server sends as a resend, and that has other content than the message of the same packet identifier
// that still waits for its Ack, is another message: the server has lost its state and used the identifier again.
func TestResendWithOtherContent(t *testing.T) {
	for name, other := range map[string]codec.Publish{
		"payload": {Topic: "t/a", Payload: []byte("y")},
		"topic":   {Topic: "t/b", Payload: []byte("x")},
	} {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("%s/QoS %d", name, qos), func(t *testing.T) {
				inBothVersions(t, func(t *testing.T, v codec.Version) {
					p := newPair(t, v)
					sub, _ := subscribed(t, p.client, p.Script, "t/+", mqtt.QoS(qos), mqtt.ManualAck)
					p.Send(&codec.Publish{Topic: "t/a", PacketID: 10, QoS: qos, Payload: []byte("x")})
					old := wantArrived(t, sub, fmt.Sprintf("t/a=x q%d", qos))
					p.resume()
					if v == codec.V5 {
						p.wantPackets(fmt.Sprintf("SUBSCRIBE t/+ q%d rh1", qos))
					}
					m := other
					m.PacketID, m.QoS, m.Dup = 10, qos, true
					p.Send(&m)
					synctest.Wait()
					another := wantArrived(t, sub, fmt.Sprintf("%s=%s q%d dup", m.Topic, m.Payload, qos))
					if err := old[0].Ack(); !errors.Is(err, mqtt.ErrSessionLost) {
						t.Errorf("Ack of the old message returns %v", err)
					}
					p.wantSilence()
					if len(another) == 1 {
						noErr(t, another[0].Ack())
						p.wantPackets(map[byte]string{1: "PUBACK 10", 2: "PUBREC 10"}[qos])
					}
				})
			})
		}
	}
}

// An Ack while offline goes out when the server has sent the message again; one for a message that the
// server does not know any more is an ErrSessionLost.
func TestAckAcrossConnections(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.AtLeastOnce, mqtt.ManualAck)
		m := &codec.Publish{Topic: "t", PacketID: 10, QoS: 1, Payload: []byte("x")}
		p.Send(m)
		got := wantArrived(t, sub, "t=x q1")
		p.Cut()
		synctest.Wait()
		if err := got[0].Ack(); err != nil {
			t.Error(err)
		}
		p.accept(&codec.Connack{SessionPresent: true})
		if v == codec.V5 {
			p.wantPackets("SUBSCRIBE t q1 rh1")
		}
		p.wantSilence()
		m.Dup = true
		p.Send(m)
		p.wantPackets("PUBACK 10")
		wantArrived(t, sub)

		// The session is lost while a message waits.
		p.Send(&codec.Publish{Topic: "t", PacketID: 11, QoS: 1, Payload: []byte("y")})
		got = wantArrived(t, sub, "t=y q1")
		p.renew()
		p.wantPackets("SUBSCRIBE t q1 rh0")
		synctest.Wait()
		if err := got[0].Ack(); !errors.Is(err, mqtt.ErrSessionLost) {
			t.Errorf("Ack returns %v", err)
		}
		p.wantSilence()
		// The same identifier stands for another message now.
		p.Send(&codec.Publish{Topic: "t", PacketID: 11, QoS: 1, Payload: []byte("y"), Dup: true})
		again := wantArrived(t, sub, "t=y q1 dup")
		if err := got[0].Ack(); !errors.Is(err, mqtt.ErrSessionLost) {
			t.Errorf("Ack returns %v", err)
		}
		p.wantSilence()
		if err := again[0].Ack(); err != nil {
			t.Error(err)
		}
		p.wantPackets("PUBACK 11")
	})
}

// An Ack between our DISCONNECT and the end of the connection is not thrown away: the message comes again and
// is acknowledged, and reaches nobody.
func TestAckWhileReconnecting(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		subscribing := start(func() (*mqtt.Subscription, error) {
			return p.client.Subscribe(t.Context(), "t", mqtt.AtLeastOnce, mqtt.ManualAck)
		})
		q := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		p.Send(&codec.Suback{PacketID: q.PacketID, Codes: []codec.ReasonCode{1}})
		sub := subscribing.value(t)
		p.Send(&codec.Publish{Topic: "t", QoS: 1, PacketID: 7})
		m, err := sub.Next(t.Context())
		noErr(t, err)
		reconnecting := calling(func() error { return p.client.Reconnect(t.Context()) })
		mqtttest.ReceiveAs[*codec.Disconnect](p.Script)
		noErr(t, m.Ack())
		p.accept(&codec.Connack{SessionPresent: true})
		noErr(t, outcome(t, reconnecting))
		p.Send(&codec.Publish{Topic: "t", QoS: 1, PacketID: 7, Dup: true})
		if v == codec.V5 { // which need not ask for the retained messages again
			mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		}
		p.Expect(&codec.Puback{PacketID: 7})
		wantArrived(t, sub)
	})
}

// An Ack that comes when the connection is about to end over a broken packet cannot go out any more: it goes out when the
// server sends the message again, which is not delivered again.
func TestAckAfterRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.AtLeastOnce, mqtt.ManualAck)
		message := &codec.Publish{Topic: "t", QoS: 1, PacketID: 1}
		p.Send(message)
		m := <-sub.Messages()
		p.SendBytes(0, 0)
		p.Expect(&codec.Disconnect{Code: codec.MalformedPacket})
		noErr(t, m.Ack())
		p.ExpectEOF()
		p.Close()
		p.accept(&codec.Connack{SessionPresent: true})
		p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
		message.Dup = true
		p.Send(message)
		p.Expect(&codec.Puback{PacketID: 1})
		wantArrived(t, sub)
	})
}

// An inbound QoS 2 message whose PUBREC was sent is not delivered again, whatever cuts the handshake.
// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT311-4.3.3-2]
func TestInboundQoS2AcrossCuts(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.ExactlyOnce)
		for i, f := range []mqtttest.Fault{
			{Packet: "PUBLISH", Outbound: true, Cut: true},
			{Packet: "PUBREC", Drop: true, Cut: true},
			{Packet: "PUBREC", Cut: true},
			{Packet: "PUBREL", Outbound: true, Drop: true, Cut: true},
			{Packet: "PUBREL", Outbound: true, Cut: true},
			{Packet: "PUBCOMP", Drop: true, Cut: true},
			{Packet: "PUBCOMP", Cut: true},
		} {
			f.ClientID, f.Times = "c", 1
			remove := b.Fault(f)
			b.Publish(text("t", fmt.Sprint(i), 2))
			time.Sleep(time.Minute)
			remove()
			for _, m := range arrived(sub) {
				if string(m.Payload) != fmt.Sprint(i) {
					t.Errorf("%+v: %s", f, shown(m))
				}
			}
			if s := c.Stats(); s.Unacknowledged != 0 {
				t.Errorf("%+v: %+v", f, s)
			}
		}
		if s := c.Stats(); s.Received != 7 || s.Connects != 8 {
			t.Errorf("%+v", s)
		}
	})
}
