package mqtttest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// foul is something that a client does wrong.
type foul struct {
	name    string
	v5, v3  string // the rule; "": the version has none, and the step is not run
	code    codec.ReasonCode
	opts    []Option
	connect *codec.Connect // nil: "c" with a clean start
	session bool           // the session is kept
	do      func(t *testing.T, b *Broker, s *Script)
}

// sends is what a foul does that is a packet or some.
func sends(packets ...codec.Packet) func(*testing.T, *Broker, *Script) {
	return func(_ *testing.T, _ *Broker, s *Script) { s.Send(packets...) }
}

func sendsBytes(b ...byte) func(*testing.T, *Broker, *Script) {
	return func(_ *testing.T, _ *Broker, s *Script) { s.SendBytes(b...) }
}

// sent sends packets that are in order and waits until the broker has them.
func (s *Script) sent(packets ...codec.Packet) {
	s.Send(packets...)
	s.Send(&codec.Pingreq{})
	for s.Receive().Type() != codec.PINGRESP {
	}
}

// given has the client receive n messages at a QoS and returns their packet identifiers.
func given(t *testing.T, b *Broker, s *Script, qos byte, n int) []uint16 {
	s.subscribe(at(qos, "given"))
	var ids []uint16
	for range n {
		b.Publish(Message{Topic: "given", QoS: qos})
		ids = append(ids, ReceiveAs[*codec.Publish](s).PacketID)
	}
	return ids
}

// holdBack is a fault that loses a broker's packet.
func holdBack(b *Broker, packet codec.Type) {
	b.Fault(Fault{Packet: packet.String(), Outbound: true, Drop: true})
}

// reconnect cuts the connection and resumes the session.
func reconnect(t *testing.T, b *Broker, s *Script) *Script {
	t.Helper()
	b.Cut()
	next, ack := connectAs(t, b, s.version, persistent(s.version, "c", false))
	if !ack.SessionPresent {
		t.Fatal("no session present")
	}
	s.end = next.end
	return s
}

var (
	twoFilters = []codec.SubscribeFilter{at(0, "a"), at(0, "b")}
)

var fouls = []foul{
	{name: "second CONNECT", v5: "MQTT-3.1.0-2", v3: "MQTT-3.1.0-2", code: codec.ProtocolError, do: func(_ *testing.T, _ *Broker, s *Script) {
		s.Send(&codec.Connect{ClientID: "c", CleanStart: true})
	}},
	{name: "server's packet", v5: "2.1.2", v3: "2.2.1", code: codec.ProtocolError, do: sends(&codec.Pingresp{})},
	{name: "malformed packet", v5: "MQTT-2.1.3-1", v3: "MQTT-2.2.2-2", code: codec.MalformedPacket, do: sendsBytes(0xC1, 0)},
	{name: "AUTH without a method", v5: "MQTT-4.12.0-6", code: codec.ProtocolError, do: sends(&codec.Auth{})},
	{
		name: "larger than Maximum Packet Size", v5: "MQTT-3.2.2-15", code: codec.PacketTooLarge, opts: []Option{MaximumPacketSize(20)},
		do: sends(&codec.Publish{Topic: "a", Payload: make([]byte, 15)}),
	},

	// PUBLISH
	{
		name: "Subscription Identifier", v5: "MQTT-3.3.4-6", code: codec.ProtocolError,
		do: sends(&codec.Publish{Topic: "a", SubscriptionIdentifiers: []uint32{1}}),
	},
	{name: "above Maximum QoS", v5: "MQTT-3.2.2-11", code: codec.QoSNotSupported, opts: []Option{MaximumQoS(1)}, do: sends(publishOf(2, "a"))},
	{
		name: "RETAIN not available", v5: "MQTT-3.2.2-14", code: codec.RetainNotSupported, opts: []Option{NoRetain()},
		do: sends(&codec.Publish{Topic: "a", Retain: true}),
	},
	{name: "topic alias too high", v5: "MQTT-3.2.2-17", code: codec.TopicAliasInvalid, do: sends(&codec.Publish{Topic: "a", TopicAlias: 11})},
	{
		name: "no topic aliases", v5: "MQTT-3.2.2-17", code: codec.TopicAliasInvalid, opts: []Option{TopicAliasMaximum(0)},
		do: sends(&codec.Publish{Topic: "a", TopicAlias: 1}),
	},
	{name: "unknown topic alias", v5: "MQTT-3.3.2-7", code: codec.ProtocolError, do: sends(&codec.Publish{TopicAlias: 1})},
	{
		name: "topic alias of an earlier connection", v5: "MQTT-3.3.2-7", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			s.sent(&codec.Publish{Topic: "a", TopicAlias: 1}, &codec.Publish{TopicAlias: 1})
			reconnect(t, b, s).Send(&codec.Publish{TopicAlias: 1})
		},
	},
	{
		name: "more than Receive Maximum", v5: "MQTT-3.3.4-7", code: codec.ReceiveMaximumExceeded, opts: []Option{ReceiveMaximum(2)},
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			for id := range uint16(3) {
				s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: id + 1})
			}
		},
	},
	{
		name: "more than Receive Maximum at QoS 2", v5: "MQTT-3.3.4-7", code: codec.ReceiveMaximumExceeded, opts: []Option{ReceiveMaximum(2)},
		do: func(t *testing.T, b *Broker, s *Script) { // PUBREC frees nothing
			for id := range uint16(2) {
				s.sent(&codec.Publish{Topic: "a", QoS: 2, PacketID: id + 1})
			}
			s.Send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 3})
		},
	},
	{
		name: "more than Receive Maximum sent again", v5: "MQTT-3.3.4-7", code: codec.ReceiveMaximumExceeded, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			first, second := publishOf(1, "a"), &codec.Publish{Topic: "b", QoS: 1, PacketID: 2}
			s.sent(first, second)
			first.Dup, second.Dup = true, true
			b.Reconfigure(ReceiveMaximum(1))
			reconnect(t, b, s).Send(first, second)
		},
	},
	{
		name: "topic alias 0", v5: "MQTT-3.3.2-8", code: codec.TopicAliasInvalid,
		do: sendsBytes(0x30, 7, 0, 1, 'a', 3, 0x23, 0, 0),
	},
	{
		name: "wildcard in a topic name", v5: "MQTT-3.3.2-2", v3: "MQTT-3.3.2-2", code: codec.MalformedPacket,
		do: func(_ *testing.T, _ *Broker, s *Script) {
			if s.version == codec.V5 {
				s.SendBytes(0x30, 4, 0, 1, '+', 0)
			} else {
				s.SendBytes(0x30, 3, 0, 1, '+')
			}
		},
	},
	{
		name: "wildcard in a Response Topic", v5: "MQTT-3.3.2-14", code: codec.ProtocolError,
		do: sendsBytes(0x30, 8, 0, 1, 'a', 4, 0x08, 0, 1, '#'),
	},
	{
		name: "DUP at QoS 0", v5: "MQTT-3.3.1-2", v3: "MQTT-3.3.1-2", code: codec.MalformedPacket,
		do: sendsBytes(0x38, 4, 0, 1, 'a', 0),
	},
	{
		name: "QoS 3", v5: "MQTT-3.3.1-4", v3: "MQTT-3.3.1-4", code: codec.MalformedPacket,
		do: sendsBytes(0x36, 6, 0, 1, 'a', 0, 1, 0),
	},
	{
		name: "packet identifier in use", v5: "MQTT-2.2.1-3", v3: "MQTT-2.3.1-2", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			s.Send(publishOf(1, "a"), publishOf(1, "b"))
		},
	},
	{
		name: "packet identifier in use by a PUBREL", v5: "MQTT-2.2.1-3", v3: "MQTT-2.3.1-2", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBCOMP)
			s.sent(publishOf(2, "a"))
			s.Send(&codec.Pubrel{PacketID: 1}, publishOf(1, "a"))
		},
	},
	{
		name: "packet identifier in use by a SUBSCRIBE", v5: "MQTT-2.2.1-3", v3: "MQTT-2.3.1-2", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.SUBACK)
			s.Send(&codec.Subscribe{PacketID: 1, Filters: twoFilters}, publishOf(1, "a"))
		},
	},
	{
		name: "packet identifier of another message in a resumed session", v5: "MQTT-2.2.1-3", v3: "MQTT-2.3.1-2", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			s.sent(publishOf(1, "a"))
			reconnect(t, b, s).Send(&codec.Publish{Topic: "b", QoS: 1, PacketID: 1})
		},
	},
	{
		name: "DUP in a new session", v5: "MQTT-3.3.1-3", v3: "MQTT-3.3.1-3", code: codec.ProtocolError,
		do: sends(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Dup: true}),
	},
	{
		name: "sent again on a live connection", v5: "MQTT-4.4.0-1", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			again := publishOf(1, "a")
			again.Dup = true
			s.Send(publishOf(1, "a"), again)
		},
	},
	{
		name: "sent again without DUP", v5: "MQTT-3.3.1-1", v3: "MQTT-3.3.1-1", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			s.sent(publishOf(1, "a"))
			reconnect(t, b, s).Send(publishOf(1, "a"))
		},
	},
	{
		name: "sent again in another order", v5: "MQTT-4.6.0-1", v3: "MQTT-4.6.0-1", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			var again []codec.Packet
			for _, id := range []uint16{7, 3} {
				s.sent(&codec.Publish{Topic: "a", QoS: 1, PacketID: id})
				again = append([]codec.Packet{&codec.Publish{Topic: "a", QoS: 1, PacketID: id, Dup: true}}, again...)
			}
			reconnect(t, b, s).Send(again...)
		},
	},
	{
		name: "PUBLISH after PUBREL", v5: "MQTT-4.3.3-6", v3: "MQTT-4.3.3-1", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBCOMP)
			s.sent(publishOf(2, "a"))
			s.sent(&codec.Pubrel{PacketID: 1})
			again := publishOf(2, "a")
			again.Dup = true
			reconnect(t, b, s).Send(again)
		},
	},

	{
		name: "new message before those sent again", v5: "MQTT-4.4.0-1", v3: "MQTT-4.4.0-1", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			first, second := publishOf(1, "a"), &codec.Publish{Topic: "b", QoS: 1, PacketID: 2}
			s.sent(first, second)
			first.Dup = true
			reconnect(t, b, s).Send(first, &codec.Publish{Topic: "c", QoS: 1, PacketID: 3})
		},
	},
	{
		name: "new message before PUBREL is sent again", v5: "MQTT-4.4.0-1", v3: "MQTT-4.4.0-1", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBCOMP)
			s.sent(publishOf(2, "a"))
			s.sent(&codec.Pubrel{PacketID: 1})
			reconnect(t, b, s).Send(&codec.Publish{Topic: "c", QoS: 1, PacketID: 3})
		},
	},
	{
		name: "sent again with RETAIN", v5: "MQTT-2.2.1-3", v3: "MQTT-2.3.1-2", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			again := publishOf(1, "a")
			s.sent(again)
			again.Dup, again.Retain = true, true
			reconnect(t, b, s).Send(again)
		},
	},

	// PUBREL
	{name: "PUBREL for nothing", v5: "MQTT-4.3.3-4", v3: "MQTT-4.3.3-1", code: codec.ProtocolError, do: sends(&codec.Pubrel{PacketID: 1})},
	{
		name: "PUBREL before PUBREC", v5: "MQTT-4.3.3-4", v3: "MQTT-4.3.3-1", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBREC)
			s.Send(publishOf(2, "a"), &codec.Pubrel{PacketID: 1})
		},
	},
	{
		name: "PUBREL at QoS 1", v5: "MQTT-4.3.3-4", v3: "MQTT-4.3.3-1", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			s.Send(publishOf(1, "a"), &codec.Pubrel{PacketID: 1})
		},
	},
	{
		name: "PUBREL again on a live connection", v5: "MQTT-4.4.0-1", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBCOMP)
			s.sent(publishOf(2, "a"))
			s.Send(&codec.Pubrel{PacketID: 1}, &codec.Pubrel{PacketID: 1})
		},
	},
	{
		name: "PUBREL out of order", v5: "MQTT-4.6.0-4", v3: "MQTT-4.6.0-4", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			s.sent(&codec.Publish{Topic: "a", QoS: 2, PacketID: 1}, &codec.Publish{Topic: "a", QoS: 2, PacketID: 2})
			s.Send(&codec.Pubrel{PacketID: 2})
		},
	},

	// answers to messages
	{
		name: "PUBACK out of order", v5: "MQTT-4.6.0-2", v3: "MQTT-4.6.0-2", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			s.Send(&codec.Puback{PacketID: given(t, b, s, 1, 2)[1]})
		},
	},
	{
		name: "PUBREC out of order", v5: "MQTT-4.6.0-3", v3: "MQTT-4.6.0-3", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			s.Send(&codec.Pubrec{PacketID: given(t, b, s, 2, 2)[1]})
		},
	},
	{name: "PUBACK for nothing", v5: "MQTT-2.2.1-5", v3: "MQTT-2.3.1-6", code: codec.ProtocolError, do: sends(&codec.Puback{PacketID: 1})},
	{name: "PUBREC for nothing", v5: "MQTT-2.2.1-5", v3: "MQTT-2.3.1-6", code: codec.ProtocolError, do: sends(&codec.Pubrec{PacketID: 1})},
	{name: "PUBCOMP for nothing", v5: "MQTT-2.2.1-5", v3: "MQTT-2.3.1-6", code: codec.ProtocolError, do: sends(&codec.Pubcomp{PacketID: 1})},
	{
		name: "PUBACK twice", v5: "MQTT-2.2.1-5", v3: "MQTT-2.3.1-6", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			id := given(t, b, s, 1, 1)[0]
			s.Send(&codec.Puback{PacketID: id}, &codec.Puback{PacketID: id})
		},
	},
	{
		name: "PUBCOMP before PUBREL", v5: "MQTT-2.2.1-5", v3: "MQTT-2.3.1-6", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			s.Send(&codec.Pubcomp{PacketID: given(t, b, s, 2, 1)[0]})
		},
	},

	{
		name: "PUBACK at QoS 2", v5: "MQTT-4.3.3-8", v3: "MQTT-4.3.3-2", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			s.Send(&codec.Puback{PacketID: given(t, b, reconnect(t, b, s), 2, 1)[0]})
		},
	},
	{
		name: "PUBREC at QoS 1", v5: "MQTT-4.3.2-4", v3: "MQTT-4.3.2-2", code: codec.ProtocolError, session: true,
		do: func(t *testing.T, b *Broker, s *Script) {
			s.Send(&codec.Pubrec{PacketID: given(t, b, reconnect(t, b, s), 1, 1)[0]})
		},
	},

	// keep alive
	{
		name: "silence", v5: "MQTT-3.1.2-20", v3: "MQTT-3.1.2-23", code: codec.KeepAliveTimeout,
		connect: &codec.Connect{ClientID: "c", CleanStart: true, KeepAlive: 10},
		do:      func(_ *testing.T, _ *Broker, s *Script) { s.ExpectSilence(15*time.Second - 1) },
	},

	// SUBSCRIBE and UNSUBSCRIBE
	{
		name: "# not last", v5: "MQTT-4.7.1-1", v3: "MQTT-4.7.1-2", code: codec.TopicFilterInvalid,
		do: sends(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "a"), at(0, "#/a")}}),
	},
	{
		name: "+ in a level", v5: "MQTT-4.7.1-2", v3: "MQTT-4.7.1-3", code: codec.TopicFilterInvalid,
		do: sends(&codec.Unsubscribe{PacketID: 1, Filters: []string{"a", "a+"}}),
	},
	{
		name: "No Local on a shared subscription", v5: "MQTT-3.8.3-4", code: codec.ProtocolError,
		do: sendsBytes(0x82, 17, 0, 1, 0, 0, 11, '$', 's', 'h', 'a', 'r', 'e', '/', 'a', '/', 'b', 'c', 4),
	},
	{name: "no topic filter", v5: "MQTT-3.8.3-2", code: codec.ProtocolError, do: sendsBytes(0x82, 3, 0, 1, 0)},
	{
		name: "share name", v5: "MQTT-4.8.2-2", code: codec.TopicFilterInvalid,
		do: sends(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "$share/+/a")}}),
	},
	{
		name: "wildcard not available", v5: "3.2.2.3.11", code: codec.WildcardSubscriptionsNotSupported, opts: []Option{NoWildcards()},
		do: sends(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "+")}}),
	},
	{
		name: "shared subscription not available", v5: "3.2.2.3.13", code: codec.SharedSubscriptionsNotSupported, opts: []Option{NoSharedSubscriptions()},
		do: sends(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "$share/a/b")}}),
	},
	{
		name: "subscription identifier not available", v5: "3.2.2.3.12", code: codec.SubscriptionIdentifiersNotSupported,
		opts: []Option{NoSubscriptionIdentifiers()}, do: sends(&codec.Subscribe{PacketID: 1, SubscriptionIdentifier: 1, Filters: twoFilters}),
	},
	{
		name: "SUBSCRIBE with a packet identifier in use", v5: "MQTT-2.2.1-3", v3: "MQTT-2.3.1-2", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.UNSUBACK)
			s.Send(&codec.Unsubscribe{PacketID: 1, Filters: []string{"a"}}, &codec.Subscribe{PacketID: 1, Filters: twoFilters})
		},
	},
	{
		name: "UNSUBSCRIBE with a packet identifier in use", v5: "MQTT-2.2.1-3", v3: "MQTT-2.3.1-2", code: codec.ProtocolError,
		do: func(t *testing.T, b *Broker, s *Script) {
			holdBack(b, codec.PUBACK)
			s.Send(publishOf(1, "a"), &codec.Unsubscribe{PacketID: 1, Filters: []string{"a"}})
		},
	},

	// DISCONNECT
	{name: "server's reason code", v5: "MQTT-3.14.2-1", code: codec.ProtocolError, do: sends(&codec.Disconnect{Code: codec.SessionTakenOver})},
	{name: "Server Reference", v5: "3.14.2.2.5", code: codec.ProtocolError, do: sends(&codec.Disconnect{ServerReference: "x"})},
	{name: "Session Expiry from 0", v5: "3.14.2.2.2", code: codec.ProtocolError, do: sends(&codec.Disconnect{SessionExpiry: ptr[uint32](1)})},
}

// What a conformant client does not send is a violation and ends the connection: in MQTT 5.0 with a DISCONNECT that says why
// [MQTT-4.13.1-1], and in 3.1.1 without [MQTT311-4.8.0-1].
func TestViolations(t *testing.T) {
	for _, f := range fouls {
		for v, rule := range map[codec.Version]string{codec.V5: f.v5, codec.V311: f.v3} {
			if rule == "" {
				continue
			}
			t.Run(f.name+"/"+v.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { f.test(t, v, rule) })
			})
		}
	}
}

func (f *foul) test(t *testing.T, v codec.Version, rule string) {
	b := New(f.opts...)
	defer b.Close()
	p := f.connect
	switch {
	case f.session:
		p = persistent(v, "c", false)
	case p == nil:
		p = &codec.Connect{ClientID: "c", CleanStart: true}
	}
	s, _ := connectAs(t, b, v, p)
	f.do(t, b, s)
	last := s.untilEnd()
	if v == codec.V5 {
		if d, ok := last.(*codec.Disconnect); !ok || d.Code != f.code {
			t.Errorf("the connection ends with %+v, want %v", last, f.code)
		}
	}
	s.Close()
	synctest.Wait()
	got := b.Violations()
	if len(got) != 1 || got[0].Rule != rule || got[0].ClientID != "c" {
		t.Errorf("violations %v, want %s", got, rule)
	}
}

// untilEnd reads until the broker closes, and returns the last packet.
func (s *Script) untilEnd() (last codec.Packet) {
	s.tb.Helper()
	for {
		p, err := s.read()
		if err != nil && err.Error() != "EOF" {
			s.tb.Fatal(err)
		}
		if err != nil {
			return last
		}
		last = p
	}
}

// What is tolerated is no violation.
func TestTolerate(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		s.sent(&codec.Puback{PacketID: 1})
		b.Reconfigure()
		s.sent(&codec.Pubrec{PacketID: 1})
	}, Tolerate("MQTT-2.2.1-5"), Tolerate("MQTT-2.3.1-6"))
}

func TestViolationDuringAuthentication(t *testing.T) {
	for _, c := range []struct {
		name string
		send codec.Packet
		rule string
	}{
		{"PUBLISH", publishOf(0, "a"), "MQTT-3.1.2-30"},
		{"other method", &codec.Auth{Code: codec.ContinueAuthentication, Method: "other"}, "MQTT-4.12.0-5"},
		{"early re-authentication", &codec.Auth{Code: codec.ReAuthenticate, Method: "echo"}, "MQTT-3.15.2-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := New(Authentication("echo", echo))
			defer b.Close()
			s := dial(t, b, codec.V5)
			s.Send(&codec.Connect{ClientID: "c", Properties: codec.ConnectProperties{AuthenticationMethod: "echo"}})
			ReceiveAs[*codec.Auth](s)
			s.Send(c.send)
			s.Expect(&codec.Connack{Code: codec.ProtocolError})
			s.ExpectEOF()
			s.Close()
			b.Close()
			if got := b.Violations(); len(got) != 1 || got[0].Rule != c.rule {
				t.Errorf("violations %v, want %s", got, c.rule)
			}
		})
	}
}

// A client may give up during authentication.
func TestDisconnectDuringAuthentication(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := dial(t, b, codec.V5)
		s.Send(&codec.Connect{ClientID: "c", Properties: codec.ConnectProperties{AuthenticationMethod: "echo"}})
		ReceiveAs[*codec.Auth](s)
		s.Send(&codec.Disconnect{})
		s.ExpectEOF()
		s.Close()
	}, Authentication("echo", echo))
}

// After DISCONNECT a client sends nothing and closes.
func TestViolationAfterDisconnect(t *testing.T) {
	for v, rules := range map[codec.Version][]string{
		codec.V5:   {"MQTT-3.14.4-1", "MQTT-3.14.4-2"},
		codec.V311: {"MQTT-3.14.4-2", "MQTT-3.14.4-1"},
	} {
		for i, do := range []func(s *Script){
			func(s *Script) {
				s.Send(&codec.Disconnect{}, &codec.Pingreq{})
				s.ExpectEOF()
				s.Close()
			},
			func(s *Script) {
				s.Send(&codec.Disconnect{})
				time.Sleep(time.Minute)
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				b := New()
				defer b.Close()
				do(connect(t, b, v, "c"))
				synctest.Wait()
				if got := b.Violations(); len(got) != 1 || got[0].Rule != rules[i] {
					t.Errorf("violations %v, want %s", got, rules[i])
				}
			})
		}
	}
}

// NewBroker fails the test that it is for.
func TestViolationFailsTest(t *testing.T) {
	tb := &recorder{TB: t}
	b := NewBroker(tb)
	s := connect(t, b, codec.V5, "culprit")
	s.Send(&codec.Pingresp{})
	s.untilEnd()
	s.Close()
	b.Close()
	if len(tb.failures) != 1 || !strings.Contains(tb.failures[0], `"culprit"`) || !strings.Contains(tb.failures[0], "[2.1.2]") {
		t.Errorf("failures %q", tb.failures)
	}
}
