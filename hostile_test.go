package mqtt_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// busy is a client that has a PUBLISH at QoS 1, identifier 1, one at QoS 2, identifier 2, a SUBSCRIBE for one filter,
// identifier 3, and an UNSUBSCRIBE for one, identifier 4, unanswered; whose Maximum Packet Size is 200 and, with MQTT 5,
// whose Receive Maximum is 2.
type busy struct {
	*peer
	server     *mqtttest.Server
	unanswered []codec.Packet
	publishes  []<-chan error
	requests   []<-chan error
}

func newBusy(t *testing.T, v codec.Version, opts ...mqtt.OptionV5) *busy {
	t.Helper()
	opts = append(opts, mqtt.WithMaximumPacketSize(200))
	if v == v5 {
		opts = append(opts, mqtt.WithReceiveMaximum(2), mqtt.WithTopicAliasMaximum(32))
	} else {
		opts = append(opts, mqtt.WithCleanStart(false)) // else the session would end with the connection
	}
	b := &busy{server: mqtttest.NewServer(t, v)}
	b.peer = startPeerAt(t, v, b.server, nil, opts...)
	b.publishes = []<-chan error{publishing(b.peer, nil, mqtt.AtLeastOnce), publishing(b.peer, nil, mqtt.ExactlyOnce)}
	subscribing := calling(func() error { _, err := b.client.Subscribe(t.Context(), "s"); return err })
	synctest.Wait()
	b.requests = []<-chan error{subscribing, calling(func() error { return b.client.Unsubscribe(t.Context(), "u") })}
	for range 4 {
		b.unanswered = append(b.unanswered, b.Receive())
	}
	return b
}

// wantFailed checks what the calls return when the connection ends, and the client with it.
func (b *busy) wantFailed(check func(error)) {
	b.t.Helper()
	for _, call := range b.publishes {
		err := outcome(b.t, call)
		wantErr(b.t, err, mqtt.ErrOutcomeUnknown, false)
		check(err)
	}
	for _, call := range b.requests {
		err := outcome(b.t, call)
		if err == nil || mqtt.SafeToRetry(err) {
			b.t.Errorf("a request gets %v", err)
		}
		check(err)
	}
}

// complete answers all that the client sends until its calls have returned, which must be without an error.
func (b *busy) complete() {
	b.t.Helper()
	calls := append(b.publishes, b.requests...)
	for len(calls) > 0 {
		select {
		case err := <-calls[0]:
			noErr(b.t, err)
			calls = calls[1:]
			continue
		default:
		}
		b.answer(b.Receive())
		synctest.Wait()
	}
}

// answer is how an honest server answers.
func (b *busy) answer(packet codec.Packet) {
	b.t.Helper()
	switch p := packet.(type) {
	case *codec.Publish:
		if p.QoS == 1 {
			b.Send(&codec.Puback{PacketID: p.PacketID})
		} else {
			b.Send(&codec.Pubrec{PacketID: p.PacketID})
		}
	case *codec.Pubrel:
		b.Send(&codec.Pubcomp{PacketID: p.PacketID})
	case *codec.Subscribe:
		b.Send(&codec.Suback{PacketID: p.PacketID, Codes: make([]codec.ReasonCode, len(p.Filters))})
	case *codec.Unsubscribe:
		b.Send(unsubscribed(b.v, p))
	default:
		b.t.Fatalf("the client sends %+v", p)
	}
}

// offend sends what a server must not send, and something behind it that must not be looked at any more. It checks, byte by
// byte, what the client says, and that it says no more and hangs up at once.
func offend(t *testing.T, s *mqtttest.Script, h hostile, v codec.Version) {
	t.Helper()
	start := time.Now()
	before, bad := h.split()
	s.SendBytes([]byte(before)...)
	s.ExpectBytes([]byte(h.first)...)
	s.SendBytes([]byte(bad + "\x30\x04\x00\x01t\x00")...)
	if v == v5 {
		s.ExpectBytes(0xe0, 1, byte(h.code))
	}
	s.ExpectEOF()
	s.Close()
	if took := time.Since(start); took > 0 {
		t.Errorf("it took %v", took)
	}
}

// blames fails the test unless err names the packet that was bad and the rule that it breaks.
func (h *hostile) blames(t *testing.T, v codec.Version, err error) {
	t.Helper()
	var packet *mqtt.PacketError
	if !errors.As(err, &packet) || packet.Code != h.code || !errors.Is(err, h.code) {
		t.Errorf("error %v, want %v", err, h.code)
		return
	}
	if !h.breaks(packet.Rule, v) {
		t.Errorf("the rule is %q: %v", packet.Rule, err)
	}
	_, bad := h.split()
	if want := codec.Type(bad[0] >> 4).String(); packet.Packet != want {
		t.Errorf("the packet is %q, want %q", packet.Packet, want)
	}
}

// eachHostile runs f with each case in the tables, in its versions.
func eachHostile(t *testing.T, tables [][]hostile, f func(t *testing.T, h hostile, v codec.Version)) {
	n := 0
	for _, table := range tables {
		for _, h := range table {
			for _, v := range []codec.Version{v5, v311} {
				if h.only != 0 && h.only != v {
					continue
				}
				n++
				t.Run(h.name+" "+v.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { f(t, h, v) })
				})
			}
		}
	}
	t.Logf("%d cases", n)
}

var (
	beforeConnack = [][]hostile{hostileHeaders, hostileConnacks}
	afterConnack  = [][]hostile{hostileHeaders, hostileTypes, hostilePublishes, hostileAcks, hostileAnswers}
)

// [MQTT-4.13.1] [MQTT311-4.8.0-1]: what is not a right CONNACK ends the attempt with an error that names the
// packet, and with MQTT 5 a DISCONNECT that says why.
func TestHostileServerBeforeConnack(t *testing.T) {
	eachHostile(t, beforeConnack, func(t *testing.T, h hostile, v codec.Version) {
		server := mqtttest.NewServer(t, v)
		connecting := calling(func() error {
			_, _, err := dialClient(t.Context(), v, server.DialContext, mqtt.WithMaximumPacketSize(200))
			return err
		})
		s := server.Accept()
		s.Receive()
		offend(t, s, h, v)
		err := outcome(t, connecting)
		h.blames(t, v, err)
		var failed *mqtt.ConnectError
		if !errors.As(err, &failed) || failed.Server != "mqtt://test" {
			t.Errorf("error %v", err)
		}
	})
}

// [MQTT-4.13.1] [MQTT311-4.8.0-1]: what the specification forbids ends the connection at once, with MQTT 5
// after a DISCONNECT that says why. A client that does not connect again ends with it, and tells everybody.
func TestHostileServer(t *testing.T) {
	eachHostile(t, afterConnack, func(t *testing.T, h hostile, v codec.Version) {
		b := newBusy(t, v)
		offend(t, b.Script, h, v)
		err := b.ends(time.Minute)
		h.blames(t, v, err)
		var disconnect *mqtt.DisconnectError
		if v == v5 && (!errors.As(err, &disconnect) || disconnect.ByServer || disconnect.Code != h.code) {
			t.Errorf("the client ends with %v", err)
		}
		if v == v311 && !errors.Is(err, mqtt.ErrConnectionLost) {
			t.Errorf("the client ends with %v", err)
		}
		b.wantFailed(func(err error) { h.blames(t, v, err) })
		if received := b.client.Stats().Received; h.code != tooMany && received > 0 {
			t.Errorf("%d messages were taken", received)
		}
	})
}

// A client that connects again goes on after a server's offence, and completes what it had begun.
func TestHostileServerIsLeft(t *testing.T) {
	eachHostile(t, afterConnack, func(t *testing.T, h hostile, v codec.Version) {
		var lost failures
		b := newBusy(t, v, mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: lost.decide}))
		offend(t, b.Script, h, v)
		b.Script = b.server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](b.Script)
		b.Send(&codec.Connack{SessionPresent: true})
		b.complete()
		list := lost.take()
		if len(list) != 1 || list[0].Permanent {
			t.Fatalf("failures %+v", list)
		}
		h.blames(t, v, list[0].Err)
	})
}

// A server that neither reads nor closes after its offence does not keep the client.
// [MQTT-4.13.2-1]
func TestHostileServerThatStays(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := newBusy(t, v)
		fill(b.peer)
		start := time.Now()
		b.SendBytes(0, 0)
		b.ends(time.Minute)
		b.wantFailed(func(error) {})
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A server that goes on sending for ever after its offence does not either.
func TestHostileServerThatFloods(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		conn := newFeed(v)
		conn.endless = bytes.Repeat([]byte("\x30\x04\x00\x01t\x00"), 1000)
		c, _, err := dialClient(t.Context(), v, conn.dial)
		noErr(t, err)
		defer c.Close()
		start := time.Now()
		conn.feed <- []byte{0, 0}
		<-c.Done()
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// harmless are packets that are strange and not forbidden, with the client's answers.
var harmless = []hostile{
	{"PINGRESP that nobody asked for [MQTT-3.12.4-1] [MQTT311-3.12.4-1]", 0, "\xd0\x00\xd0\x00\xd0\x00", 0, ""},
	{"PUBACK, PUBCOMP of unknown identifiers", 0, "\x40\x02\xff\xff\x70\x02\xff\xff", 0, ""},
	{"PUBACK, PUBREC, PUBCOMP with properties", v5, "\x40\x07\xff\xff\x00\x03\x1f\x00\x00\x50\x07\xff\xff\x80\x03\x1f\x00\x00\x70\x07\xff\xff\x92\x03\x1f\x00\x00", 0, ""},
	{"PUBACK, PUBREC with a code below 0x80 that they do not have [MQTT-2.4]", v5, "\x40\x03\xff\xff\x01\x50\x03\xff\xff\x7f", 0, "\x62\x03\xff\xff\x92"},
	{"PUBACK, long form", v5, "\x40\x04\xff\xff\x00\x00", 0, ""},
	{"PUBREC of an unknown identifier [MQTT-3.6.2-1]", v5, "\x50\x02\xff\xff", 0, "\x62\x03\xff\xff\x92"},
	{"PUBREC of an unknown identifier", v311, "\x50\x02\xff\xff", 0, "\x62\x02\xff\xff"},
	{"PUBREL of an unknown identifier [MQTT-4.3.3-11]", v5, "\x62\x02\x00\x02", 0, "\x70\x03\x00\x02\x92"},
	{"PUBREL of an unknown identifier [MQTT311-4.3.3-2]", v311, "\x62\x02\x00\x02", 0, "\x70\x02\x00\x02"},
	{"PUBREC again [MQTT-4.3.3-6] [MQTT311-4.3.3-1]", 0, "\x50\x02\x00\x02\x50\x02\x00\x02", 0, "\x62\x02\x00\x02\x62\x02\x00\x02"},
	{"SUBACK and UNSUBACK to nothing", v5, "\x90\x04\x00\x09\x00\x00\xb0\x04\x00\x09\x00\x00", 0, ""},
	{"SUBACK and UNSUBACK to nothing", v311, "\x90\x03\x00\x09\x00\xb0\x02\x00\x09", 0, ""},
	{"PUBLISH to a topic that nobody wants", v5, "\x31\x07\x00\x01z\x00\xff\xfe\xfd", 0, ""},
	{"PUBLISH to a topic that nobody wants", v311, "\x31\x06\x00\x01z\xff\xfe\xfd", 0, ""},
	{"PUBLISH at QoS 1 with an identifier of ours [MQTT-2.2.1-4] [MQTT-3.3.4-1] [MQTT-4.5.0-2]", v5, "\x32\x06\x00\x01z\x00\x01\x00", 0, "\x40\x02\x00\x01"},
	{"PUBLISH at QoS 1 with an identifier of ours [MQTT311-2.3.1-4] [MQTT311-3.3.4-1] [MQTT311-4.5.0-2]", v311, "\x32\x05\x00\x01z\x00\x01", 0, "\x40\x02\x00\x01"},
	{"PUBLISH at QoS 2, again and again [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.5.0-2]", v5,
		"\x34\x06\x00\x01z\x00\x03\x00" + "\x3c\x06\x00\x01z\x00\x03\x00" + "\x34\x06\x00\x01z\x00\x03\x00" + "\x62\x02\x00\x03", 0,
		"\x50\x02\x00\x03" + "\x50\x02\x00\x03" + "\x50\x02\x00\x03" + "\x70\x02\x00\x03"},
	{"PUBLISH at QoS 2, again [MQTT311-4.3.3-2] [MQTT311-4.5.0-2]", v311, "\x34\x05\x00\x01z\x00\x03" + "\x3c\x05\x00\x01z\x00\x03" + "\x62\x02\x00\x03", 0,
		"\x50\x02\x00\x03" + "\x50\x02\x00\x03" + "\x70\x02\x00\x03"},
	{"PUBLISH, topic with control and non-characters [MQTT-1.5.4]", v5, "\x30\x07\x00\x04\x01\xef\xbf\xbf\x00", 0, ""},
	{"PUBLISH, topic with control and non-characters [MQTT311-1.5.3a]", v311, "\x30\x06\x00\x04\x01\xef\xbf\xbf", 0, ""},
	{"PUBLISH, payload that is not the UTF-8 it says [MQTT-3.3.2.3.2]", v5, "\x30\x07\x00\x01z\x02\x01\x01\xff", 0, ""},
	{"PUBLISH, expired at QoS 2 [MQTT-4.3.3-13]", v5, "\x34\x0b\x00\x01z\x00\x03\x05\x02\x00\x00\x00\x00" + "\x62\x02\x00\x03", 0, "\x50\x02\x00\x03\x70\x02\x00\x03"},
	{"PUBLISH, unknown Subscription Identifiers, the largest among them", v5, "\x30\x0b\x00\x01z\x07\x0b\x7f\x0b\xff\xff\xff\x7f", 0, ""},
	{"PUBLISH, user property thrice", v5, "\x30\x13\x00\x01z\x0f\x26\x00\x00\x00\x00\x26\x00\x00\x00\x00\x26\x00\x00\x00\x00", 0, ""},
	{"PUBLISH, the highest Topic Alias [MQTT-3.3.2-10]", v5, "\x32\x09\x00\x01z\x00\x05\x03\x23\x00\x20" + "\x32\x08\x00\x00\x00\x06\x03\x23\x00\x20", 0,
		"\x40\x02\x00\x05\x40\x02\x00\x06"},
	{"PUBLISH that fills Maximum Packet Size", v5, "\x30\xc5\x01\x00\x01z\x00" + strings.Repeat("x", 193), 0, ""},
}

// A packet that is strange and not forbidden does no harm: it is answered if an answer is due, and the connection
// works.
func TestHarmlessPackets(t *testing.T) {
	eachHostile(t, [][]hostile{harmless}, func(t *testing.T, h hostile, v codec.Version) {
		b := newBusy(t, v)
		b.SendBytes([]byte(h.bytes)...)
		b.ExpectBytes([]byte(h.first)...)
		b.ExpectSilence(time.Second)
		if b.client.State() != mqtt.StateConnected || b.client.Stats().InFlight != 2 {
			t.Error(b.client.State(), b.client.Err(), b.client.Stats())
		}
		pinging := calling(func() error { _, err := b.client.Ping(t.Context()); return err })
		mqtttest.ReceiveAs[*codec.Pingreq](b.Script)
		b.Send(&codec.Pingresp{})
		noErr(t, outcome(t, pinging))
		for _, packet := range b.unanswered {
			b.answer(packet)
		}
		b.complete()
	})
}

// After the server's DISCONNECT nothing is sent, and its reason is in the error of every call that waits.
// [MQTT-3.2.2.3.16] [MQTT-3.14.4]
func TestServerDisconnects(t *testing.T) {
	for _, code := range []codec.ReasonCode{
		0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B,
		0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
	} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPeer(t, codec.V5, nil)
				waiting := publishing(p, nil, mqtt.AtLeastOnce)
				p.Receive()
				p.Send(&codec.Disconnect{
					Code: code, ReasonString: "why", ServerReference: "there", UserProperties: codec.UserProperties{{Key: "k", Value: "v"}},
				})
				p.ExpectEOF()
				err := p.ends(time.Second)
				var said *mqtt.DisconnectError
				if !errors.As(err, &said) || !said.ByServer || said.Code != mqtt.ReasonCode(code) || said.Reason != "why" ||
					said.ServerReference != "there" || len(said.UserProperties) != 1 || !strings.Contains(err.Error(), "why") {
					t.Errorf("error %+v", err)
				}
				if code != 0 && !errors.Is(err, mqtt.ReasonCode(code)) {
					t.Errorf("error %v is not %v", err, code)
				}
				err = outcome(t, waiting)
				wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
				if !errors.As(err, &said) || said.Code != mqtt.ReasonCode(code) {
					t.Errorf("a publish gets %v", err)
				}
				if err := p.v5.Publish(t.Context(), "t", nil); !errors.As(err, &said) || !mqtt.SafeToRetry(err) {
					t.Errorf("a later publish gets %v", err)
				}
			})
		})
	}
}
