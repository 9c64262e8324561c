package mqtttest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// What a conformant client may do, however odd, is no violation.
func TestNoViolation(t *testing.T) {
	dup := func(qos byte) *codec.Publish {
		p := publishOf(qos, "a")
		p.Dup = true
		return p
	}
	for name, do := range map[string]func(t *testing.T, b *Broker, s *Script){
		"resend of what was lost on the way": func(t *testing.T, b *Broker, s *Script) {
			reconnect(t, b, s).sent(dup(1))
			s.sent(publishOf(1, "a"))
		},
		"resend after a lost PUBACK": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBACK", Outbound: true, Drop: true, Times: 1})
			s.sent(publishOf(1, "a"))
			reconnect(t, b, s).sent(dup(1))
			s.sent(publishOf(1, "b"))
		},
		"resends in order, of which the first was acknowledged": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBACK", Outbound: true, Drop: true, Skip: 1, Times: 2})
			message := func(id uint16, dup bool) *codec.Publish {
				return &codec.Publish{Topic: "a", QoS: 1, PacketID: id, Dup: dup}
			}
			s.sent(message(1, false), message(2, false))
			reconnect(t, b, s).sent(message(1, true))
			reconnect(t, b, s).sent(message(1, true), message(2, true))
		},
		"new message after as much as Receive Maximum allows was sent again": func(t *testing.T, b *Broker, s *Script) {
			release := b.Fault(Fault{Packet: "PUBACK", Outbound: true, Drop: true})
			var again []codec.Packet
			for id := range uint16(2) {
				s.sent(&codec.Publish{Topic: "a", QoS: 1, PacketID: id + 1})
				again = append(again, &codec.Publish{Topic: "a", QoS: 1, PacketID: id + 1, Dup: true})
			}
			release()
			b.Reconfigure(ReceiveMaximum(1))
			reconnect(t, b, s)
			for _, p := range append(again, &codec.Publish{Topic: "a", QoS: 1, PacketID: 3}) {
				s.sent(p)
			}
		},
		"message at QoS 0 before those sent again": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBACK", Outbound: true, Drop: true, Times: 1})
			s.sent(publishOf(1, "a"))
			reconnect(t, b, s).sent(publishOf(0, "b"), dup(1), &codec.Publish{Topic: "a", QoS: 1, PacketID: 2})
		},
		"resend that the new limits forbid is left out": func(t *testing.T, b *Broker, s *Script) {
			if s.version != codec.V5 {
				return
			}
			b.Fault(Fault{Packet: "PUBACK", Outbound: true, Drop: true, Times: 2})
			b.Fault(Fault{Packet: "PUBREC", Outbound: true, Drop: true, Times: 1})
			large := &codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: make([]byte, 100)}
			retained := &codec.Publish{Topic: "a", QoS: 1, PacketID: 2, Retain: true}
			s.sent(large)
			s.sent(retained)
			b.Reconfigure(MaximumPacketSize(100), NoRetain())
			reconnect(t, b, s).sent(&codec.Publish{Topic: "a", QoS: 1, PacketID: 3})
			s.sent(&codec.Publish{Topic: "a", QoS: 2, PacketID: 4})
			b.Reconfigure(MaximumPacketSize(100), NoRetain(), MaximumQoS(1))
			reconnect(t, b, s).sent(&codec.Publish{Topic: "a", QoS: 1, PacketID: 5})
		},
		"keep alive with PINGREQ that a fault loses": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PINGREQ", Drop: true, Times: 1})
			b.Reconfigure(ServerKeepAlive(10 * time.Second))
			reconnect(t, b, s)
			s.ExpectSilence(10 * time.Second)
			s.Send(&codec.Pingreq{})
			if s.version != codec.V5 {
				return
			}
			s.ExpectSilence(5*time.Second - 1)
			s.Expect(&codec.Disconnect{Code: codec.KeepAliveTimeout}) // the broker has seen nothing, but it was sent
			s.Close()
			reconnect(t, b, s)
		},
		"silence behind a CONNACK that comes late": func(t *testing.T, b *Broker, s *Script) {
			b.Reconfigure(ServerKeepAlive(10 * time.Second))
			b.Fault(Fault{Packet: "CONNACK", Outbound: true, Delay: 14 * time.Second, Times: 1})
			s.Patience(15 * time.Second)
			b.Cut()
			s.end = dial(t, b, s.version).end
			s.Send(persistent(s.version, "c", false))
			if ReceiveAs[*codec.Connack](s); s.version == codec.V5 {
				s.ExpectSilence(time.Second - 1)
				s.Expect(&codec.Disconnect{Code: codec.KeepAliveTimeout})
				s.Close()
				b.Reconfigure()
				reconnect(t, b, s)
			}
		},
		"resend of what a hook has changed": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBACK", Outbound: true, Drop: true, Times: 1})
			b.Intercept(func(_ string, _ bool, p codec.Packet) bool {
				if p, ok := p.(*codec.Publish); ok {
					p.Topic = "changed"
				}
				return true
			})
			s.sent(publishOf(1, "a"))
			reconnect(t, b, s).sent(dup(1))
		},
		"resend of PUBREL after a lost PUBCOMP": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBCOMP", Outbound: true, Drop: true, Times: 1})
			s.sent(publishOf(2, "a"))
			s.sent(&codec.Pubrel{PacketID: 1})
			reconnect(t, b, s).sent(&codec.Pubrel{PacketID: 1})
			s.sent(publishOf(2, "b"))
		},
		"resend of PUBREL after a finished flow": func(t *testing.T, b *Broker, s *Script) {
			s.sent(publishOf(2, "a"))
			s.sent(&codec.Pubrel{PacketID: 1})
			reconnect(t, b, s).sent(&codec.Pubrel{PacketID: 1})
		},
		"acknowledgement of a PUBLISH that a fault has lost before": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBLISH", Outbound: true, Drop: true, Times: 1})
			s.subscribe(at(1, "given"))
			b.Publish(Message{Topic: "given", QoS: 1})
			b.Publish(Message{Topic: "given", QoS: 1})
			s.sent(&codec.Puback{PacketID: ReceiveAs[*codec.Publish](s).PacketID})
		},
		"acknowledgements of messages that came in another order": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBLISH", Outbound: true, Delay: time.Second, Times: 1})
			s.subscribe(at(1, "given"))
			b.Publish(Message{Topic: "given", QoS: 1})
			b.Publish(Message{Topic: "given", QoS: 1})
			ids := []uint16{ReceiveAs[*codec.Publish](s).PacketID, ReceiveAs[*codec.Publish](s).PacketID}
			s.sent(&codec.Puback{PacketID: ids[0]}, &codec.Puback{PacketID: ids[1]})
		},
		"acknowledgement that a fault loses": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBACK", Drop: true, Times: 1})
			for _, id := range given(t, b, s, 1, 3) {
				s.sent(&codec.Puback{PacketID: id})
			}
			again := ReceiveAs[*codec.Publish](reconnect(t, b, s))
			s.sent(&codec.Puback{PacketID: again.PacketID})
		},
		"late acknowledgement in a resumed session": func(t *testing.T, b *Broker, s *Script) {
			ids := given(t, b, s, 1, 2)
			reconnect(t, b, s)
			for _, id := range ids {
				s.Send(&codec.Puback{PacketID: id})
			}
			for range 2 {
				ReceiveAs[*codec.Publish](s)
			}
			s.barrier()
		},
		"same packet identifier in both directions": func(t *testing.T, b *Broker, s *Script) {
			id := given(t, b, s, 2, 1)[0]
			s.sent(&codec.Publish{Topic: "a", QoS: 2, PacketID: id})
			s.sent(&codec.Pubrec{PacketID: id}, &codec.Pubrel{PacketID: id})
			s.sent(&codec.Pubcomp{PacketID: id})
		},
		"PUBREL with 0x92 for a PUBREC nobody knows": func(t *testing.T, b *Broker, s *Script) {
			rel := &codec.Pubrel{PacketID: 9}
			if s.version == codec.V5 {
				rel.Code = codec.PacketIdentifierNotFound
			}
			reconnect(t, b, s).sent(rel)
		},
		"second use of an identifier after a refusal": func(t *testing.T, b *Broker, s *Script) {
			if s.version == codec.V5 {
				b.Fault(Fault{Packet: "PUBLISH", Reason: 0x87, Times: 1})
				s.sent(publishOf(2, "a"))
				s.sent(publishOf(1, "b"))
			}
		},
		"more than Receive Maximum over two connections": func(t *testing.T, b *Broker, s *Script) {
			b.Fault(Fault{Packet: "PUBREC", Outbound: true, Drop: true, Times: 2})
			for _, again := range []bool{false, true} {
				for id := range uint16(2) {
					s.sent(&codec.Publish{Topic: "a", QoS: 2, PacketID: id + 1, Dup: again})
				}
				reconnect(t, b, s)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
				s, _ := connectAs(t, b, v, persistent(v, "c", false))
				do(t, b, s)
				s.barrier()
			}, ReceiveMaximum(2))
		})
	}
}

// MQTT 3.1.1 lets a client send a message again on the same connection.
func TestNoViolationV311(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t)
		holdBack(b, codec.PUBACK)
		s := connect(t, b, codec.V311, "c")
		again := publishOf(1, "a")
		again.Dup = true
		s.Send(publishOf(1, "a"), again)
		s.barrier()
	})
}
