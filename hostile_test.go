package mqtt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// hostile is what a server must not send to a client that has a PUBLISH at QoS 1, identifier 1, one at QoS 2, identifier
// 2, a SUBSCRIBE for one filter, identifier 3, and an UNSUBSCRIBE for one, identifier 4, unanswered; whose Maximum Packet
// Size is 200 and, with MQTT 5, whose Receive Maximum is 2.
type hostile struct {
	name  string
	only  codec.Version // both if 0
	bytes string
	code  mqtt.ReasonCode // of the DISCONNECT that MQTT 5 has for it
}

const (
	malformed = mqtt.MalformedPacket
	illegal   = mqtt.ProtocolError
)

var hostiles = []hostile{
	// Packets that are not for a client, or not now.
	{"second CONNACK [MQTT-3.2.0-2]", codec.V5, "\x20\x03\x00\x00\x00", illegal},
	{"second CONNACK [3.2]", codec.V311, "\x20\x02\x00\x00", illegal},
	{"CONNECT", codec.V5, "\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00", illegal},
	{"CONNECT", codec.V311, "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", illegal},
	{"SUBSCRIBE", codec.V5, "\x82\x07\x00\x01\x00\x00\x01t\x00", illegal},
	{"SUBSCRIBE", codec.V311, "\x82\x06\x00\x01\x00\x01t\x00", illegal},
	{"UNSUBSCRIBE", codec.V5, "\xa2\x06\x00\x01\x00\x00\x01t", illegal},
	{"UNSUBSCRIBE", codec.V311, "\xa2\x05\x00\x01\x00\x01t", illegal},
	{"PINGREQ", 0, "\xc0\x00", illegal},
	{"AUTH that was not asked for [MQTT-4.12.0-6]", codec.V5, "\xf0\x00", illegal},
	{"AUTH with a method", codec.V5, "\xf0\x06\x18\x04\x15\x00\x01m", illegal},
	{"type 15 [2.2.1]", codec.V311, "\xf0\x00", malformed},
	{"type 0 [2.1.2]", 0, "\x00\x00", malformed},

	// Fixed headers [MQTT-2.1.3-1] [MQTT-2.2.2-2].
	{"flags of CONNACK", 0, "\x21\x00", malformed},
	{"flags of PUBACK", 0, "\x41\x02\x00\x01", malformed},
	{"flags of PUBREC", 0, "\x52\x02\x00\x02", malformed},
	{"flags of PUBREL, none", 0, "\x60\x02\x00\x01", malformed},
	{"flags of PUBREL, too many [MQTT-3.6.1-1]", 0, "\x6a\x02\x00\x01", malformed},
	{"flags of PUBCOMP", 0, "\x74\x02\x00\x02", malformed},
	{"flags of SUBACK", 0, "\x92\x03\x00\x03\x00", malformed},
	{"flags of UNSUBACK", 0, "\xb2\x02\x00\x04", malformed},
	{"flags of PINGRESP", 0, "\xd1\x00", malformed},
	{"flags of DISCONNECT [MQTT-3.14.1-1]", 0, "\xe8\x00", malformed},
	{"flags of AUTH [MQTT-3.15.1-1]", codec.V5, "\xf1\x00", malformed},
	{"QoS 3 [MQTT-3.3.1-4]", 0, "\x36\x06\x00\x01t\x00\x01\x00", malformed},
	{"DUP at QoS 0 [MQTT-3.3.1-2]", 0, "\x38\x04\x00\x01t\x00", malformed},
	{"length of five bytes [1.5.5]", 0, "\x30\xff\xff\xff\xff\x7f", malformed},
	{"length of four bytes and another [1.5.5]", 0, "\x30\x80\x80\x80\x80", malformed},
	{"length not minimal [MQTT-1.5.5-1]", 0, "\xd0\x80\x00", malformed},
	{"larger than Maximum Packet Size, by its header alone [MQTT-3.1.2-24]", codec.V5, "\x30\xff\xff\xff\x7f", mqtt.PacketTooLarge},
	{"one byte larger than Maximum Packet Size [MQTT-3.1.2-24]", codec.V5, "\x30\xc6\x01", mqtt.PacketTooLarge},
	{"SUBACK larger than WithMaximumPacketSize", codec.V311, "\x90\xc6\x01", mqtt.PacketTooLarge},

	// PUBLISH.
	{"PUBLISH, empty", 0, "\x30\x00", malformed},
	{"PUBLISH, topic beyond the end", 0, "\x30\x04\x00\x09tt", malformed},
	{"PUBLISH, no room for the identifier", codec.V311, "\x32\x04\x00\x01t\x00", malformed},
	{"PUBLISH, no properties", codec.V5, "\x30\x03\x00\x01t", malformed},
	{"PUBLISH, properties beyond the end", codec.V5, "\x30\x05\x00\x01t\x02\x01", malformed},
	{"PUBLISH, property cut off", codec.V5, "\x30\x06\x00\x01t\x02\x02\x00", malformed},
	{"PUBLISH, property length not minimal", codec.V5, "\x30\x05\x00\x01t\x80\x00", malformed},
	{"PUBLISH, identifier 0 at QoS 1 [MQTT-2.2.1-3]", codec.V5, "\x32\x06\x00\x01t\x00\x00\x00", illegal},
	{"PUBLISH, identifier 0 at QoS 2 [MQTT-2.3.1-1]", codec.V311, "\x34\x05\x00\x01t\x00\x00", illegal},
	{"PUBLISH, topic with # [MQTT-3.3.2-2]", codec.V5, "\x30\x06\x00\x03a/#\x00", mqtt.TopicNameInvalid},
	{"PUBLISH, topic with + [MQTT-3.3.2-2]", codec.V311, "\x30\x05\x00\x03+/a", mqtt.TopicNameInvalid},
	{"PUBLISH, topic not UTF-8 [MQTT-1.5.4-1]", codec.V5, "\x30\x04\x00\x01\xff\x00", malformed},
	{"PUBLISH, topic with a surrogate [MQTT-1.5.3-1]", codec.V311, "\x30\x05\x00\x03\xed\xa0\x80", malformed},
	{"PUBLISH, topic with U+0000 [MQTT-1.5.4-2]", codec.V5, "\x30\x06\x00\x03a\x00b\x00", malformed},
	{"PUBLISH, topic with U+0000 [MQTT-1.5.3-2]", codec.V311, "\x30\x05\x00\x03a\x00b", malformed},
	{"PUBLISH, no topic and no alias [MQTT-4.7.3-1]", codec.V5, "\x30\x03\x00\x00\x00", illegal},
	{"PUBLISH, no topic, no alias, but a property", codec.V5, "\x30\x05\x00\x00\x02\x01\x00", illegal},
	{"PUBLISH, no topic [MQTT-4.7.3-1]", codec.V311, "\x30\x02\x00\x00", illegal},
	{"PUBLISH, alias above our maximum [MQTT-3.1.2-26]", codec.V5, "\x30\x07\x00\x01t\x03\x23\x00\x21", mqtt.TopicAliasInvalid},
	{"PUBLISH, alias that stands for nothing", codec.V5, "\x30\x06\x00\x00\x03\x23\x00\x01", mqtt.ProtocolError},
	{"PUBLISH, alias 0 [MQTT-3.3.2-8]", codec.V5, "\x30\x07\x00\x01t\x03\x23\x00\x00", mqtt.TopicAliasInvalid},
	{"PUBLISH, alias twice", codec.V5, "\x30\x0a\x00\x01t\x06\x23\x00\x01\x23\x00\x01", illegal},
	{"PUBLISH, Subscription Identifier 0 [3.3.2.3.8]", codec.V5, "\x30\x06\x00\x01t\x02\x0b\x00", illegal},
	{"PUBLISH, Response Topic with + [MQTT-3.3.2-14]", codec.V5, "\x30\x08\x00\x01t\x04\x08\x00\x01+", illegal},
	{"PUBLISH, Content Type not UTF-8 [MQTT-3.3.2-19]", codec.V5, "\x30\x08\x00\x01t\x04\x03\x00\x01\xff", malformed},
	{"PUBLISH, user property not UTF-8 [MQTT-1.5.7-1]", codec.V5, "\x30\x0a\x00\x01t\x06\x26\x00\x01\xff\x00\x00", malformed},
	{"PUBLISH, Payload Format Indicator 2 [3.3.2.3.2]", codec.V5, "\x30\x06\x00\x01t\x02\x01\x02", illegal},
	{"PUBLISH, Payload Format Indicator twice", codec.V5, "\x30\x08\x00\x01t\x04\x01\x01\x01\x01", illegal},
	{"PUBLISH, property of CONNACK [2.2.2.2]", codec.V5, "\x30\x06\x00\x01t\x02\x25\x01", malformed},
	{"PUBLISH, unknown property [2.2.2.2]", codec.V5, "\x30\x06\x00\x01t\x02\x7f\x01", malformed},
	{"PUBLISH beyond our Receive Maximum [MQTT-3.3.4-9]", codec.V5,
		"\x34\x06\x00\x01t\x00\x07\x00" + "\x34\x06\x00\x01t\x00\x08\x00" + "\x34\x06\x00\x01t\x00\x09\x00", mqtt.ReceiveMaximumExceeded},

	// Acknowledgements.
	{"PUBACK, one byte", 0, "\x40\x01\x00", malformed},
	{"PUBACK, identifier 0", 0, "\x40\x02\x00\x00", illegal},
	{"PUBACK, code of PUBREL [MQTT-3.4.2-1]", codec.V5, "\x40\x03\x00\x01\x92", illegal},
	{"PUBACK, code of SUBACK [MQTT-3.4.2-1]", codec.V5, "\x40\x03\x00\x01\x01", illegal},
	{"PUBACK, too long", codec.V311, "\x40\x03\x00\x01\x00", malformed},
	{"PUBACK, Reason String twice", codec.V5, "\x40\x0a\x00\x01\x00\x06\x1f\x00\x00\x1f\x00\x00", illegal},
	{"PUBREC, empty", 0, "\x50\x00", malformed},
	{"PUBREC, unknown code [MQTT-3.5.2-1]", codec.V5, "\x50\x03\x00\x02\x7f", illegal},
	{"PUBREL, code of PUBACK [MQTT-3.6.2-1]", codec.V5, "\x62\x03\x00\x02\x80", illegal},
	{"PUBREL, too long", codec.V311, "\x62\x03\x00\x02\x00", malformed},
	{"PUBCOMP, code of PUBREC [MQTT-3.7.2-1]", codec.V5, "\x70\x03\x00\x02\x10", illegal},
	{"PUBCOMP, identifier 0", 0, "\x70\x02\x00\x00", illegal},
	{"SUBACK, no codes [MQTT-3.8.4-6]", codec.V5, "\x90\x03\x00\x03\x00", illegal},
	{"SUBACK, no codes [MQTT-3.8.4-5]", codec.V311, "\x90\x02\x00\x03", illegal},
	{"SUBACK, a code too many", codec.V5, "\x90\x05\x00\x03\x00\x00\x00", illegal},
	{"SUBACK, a code too many", codec.V311, "\x90\x04\x00\x03\x00\x00", illegal},
	{"SUBACK, code 3 [MQTT-3.9.3-2]", codec.V5, "\x90\x04\x00\x03\x00\x03", illegal},
	{"SUBACK, code 3 [MQTT-3.9.3-2]", codec.V311, "\x90\x03\x00\x03\x03", illegal},
	{"SUBACK, code of MQTT 5", codec.V311, "\x90\x03\x00\x03\x87", illegal},
	{"SUBACK, identifier 0", codec.V5, "\x90\x04\x00\x00\x00\x00", illegal},
	{"SUBACK to UNSUBSCRIBE", codec.V5, "\x90\x04\x00\x04\x00\x00", illegal},
	{"SUBACK to UNSUBSCRIBE", codec.V311, "\x90\x03\x00\x04\x00", illegal},
	{"UNSUBACK to SUBSCRIBE", codec.V5, "\xb0\x04\x00\x03\x00\x00", illegal},
	{"UNSUBACK to SUBSCRIBE", codec.V311, "\xb0\x02\x00\x03", illegal},
	{"UNSUBACK, no codes [MQTT-3.11.3-1]", codec.V5, "\xb0\x03\x00\x04\x00", illegal},
	{"UNSUBACK, a code too many", codec.V5, "\xb0\x05\x00\x04\x00\x00\x00", illegal},
	{"UNSUBACK, unknown code [MQTT-3.11.3-2]", codec.V5, "\xb0\x04\x00\x04\x00\x01", illegal},
	{"UNSUBACK with a payload [3.11.3]", codec.V311, "\xb0\x03\x00\x04\x00", malformed},
	{"PINGRESP with a body", 0, "\xd0\x01\x00", malformed},

	// DISCONNECT.
	{"DISCONNECT, with MQTT 3.1.1", codec.V311, "\xe0\x00", illegal},
	{"DISCONNECT, Session Expiry Interval [MQTT-3.14.2-2]", codec.V5, "\xe0\x07\x00\x05\x11\x00\x00\x00\x01", illegal},
	{"DISCONNECT, unknown code [MQTT-3.14.2-1]", codec.V5, "\xe0\x01\x05", illegal},
	{"DISCONNECT, code of CONNACK [MQTT-3.14.2-1]", codec.V5, "\xe0\x01\x85", illegal},
	{"DISCONNECT, too long", codec.V5, "\xe0\x03\x00\x00\x00", malformed},
}

// busyPeer starts a client as hostile describes it. settled waits for its calls and checks what they say.
func busyPeer(t *testing.T, v codec.Version) (p *peer, settled func()) {
	opts := []mqtt.OptionV5{mqtt.WithMaximumPacketSize(200)}
	if v == codec.V5 {
		opts = append(opts, mqtt.WithReceiveMaximum(2))
	}
	p = startPeer(t, v, nil, opts...)
	ctx := t.Context()
	publishes := []<-chan error{publishing(p, nil, mqtt.AtLeastOnce), publishing(p, nil, mqtt.ExactlyOnce)}
	requests := []<-chan error{calling(func() error { _, err := p.client.Subscribe(ctx, "s"); return err })}
	synctest.Wait()
	requests = append(requests, calling(func() error { return p.client.Unsubscribe(ctx, "u") }))
	for range 4 {
		p.Receive()
	}
	return p, func() {
		t.Helper()
		for _, call := range publishes {
			wantErr(t, outcome(t, call), mqtt.ErrOutcomeUnknown, false)
		}
		for _, call := range requests {
			if err := outcome(t, call); err == nil || mqtt.SafeToRetry(err) {
				t.Errorf("a request gets %v", err)
			}
		}
	}
}

// DESIGN 4.6, [MQTT-4.13.1-1] [MQTT-4.8.0-1]: what the specification forbids ends the connection at once, with MQTT 5
// after a DISCONNECT that says why; everybody is told, and nothing panics or hangs.
func TestHostileServer(t *testing.T) {
	for _, h := range hostiles {
		for _, v := range []codec.Version{codec.V5, codec.V311} {
			if h.only != 0 && h.only != v {
				continue
			}
			t.Run(h.name+" "+v.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testHostile(t, h, v) })
			})
		}
	}
}

func testHostile(t *testing.T, h hostile, v codec.Version) {
	p, settled := busyPeer(t, v)
	start := time.Now()
	// What follows must not be looked at any more.
	p.SendBytes([]byte(h.bytes + "\x30\x04\x00\x01t\x00")...)
	if v == codec.V5 {
		got := p.Receive()
		for got.Type() == codec.PUBREC {
			got = p.Receive()
		}
		if d, ok := got.(*codec.Disconnect); !ok || d.Code != codec.ReasonCode(h.code) {
			t.Fatalf("answered with %+v, want DISCONNECT %v", got, h.code)
		}
	}
	p.ExpectEOF()
	p.Close()
	err := p.ends(time.Minute)
	settled()
	var packet *mqtt.PacketError
	if !errors.As(err, &packet) || packet.Code != h.code || packet.Rule == "" || !errors.Is(err, h.code) {
		t.Errorf("the client ends with %v", err)
	}
	var disconnect *mqtt.DisconnectError
	if v == codec.V5 && (!errors.As(err, &disconnect) || disconnect.ByServer || disconnect.Code != h.code) {
		t.Errorf("the client ends with %v", err)
	}
	if v == codec.V311 && !errors.Is(err, mqtt.ErrConnectionLost) {
		t.Errorf("the client ends with %v", err)
	}
	if took := time.Since(start); took > 0 {
		t.Errorf("it took %v", took)
	}
	if received := p.client.Stats().Received; h.code != mqtt.ReceiveMaximumExceeded && received > 0 {
		t.Errorf("%d messages were taken", received)
	}
}

// A server that neither reads nor closes after its offence does not keep the client.
func TestHostileServerThatStays(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p, settled := busyPeer(t, v)
		fill(p)
		start := time.Now()
		p.SendBytes(0, 0)
		p.ends(time.Minute)
		settled()
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

// feed is a connection whose other end takes everything and says what it is fed, then what is endless. It closes when the
// client has closed its direction, unless it is endless.
type feed struct {
	net.Conn // nil
	feed     chan []byte
	rest     []byte
	endless  []byte
	gone     chan struct{} // the client has closed its direction
	closed   chan struct{}
	once     [2]sync.Once
}

// newFeed returns a feed that begins with CONNACK.
func newFeed(v codec.Version) *feed {
	connack, _ := (&codec.Connack{}).Append(nil, v)
	return &feed{feed: make(chan []byte, 1), rest: connack, gone: make(chan struct{}), closed: make(chan struct{})}
}

func (f *feed) dial(context.Context, string, string) (net.Conn, error) { return f, nil }

func (f *feed) Read(b []byte) (int, error) {
	var more <-chan time.Time
	gone := f.gone
	if f.endless != nil {
		more, gone = time.After(time.Millisecond), nil
	}
	for len(f.rest) == 0 {
		select {
		case f.rest = <-f.feed:
		case <-more:
			f.rest = f.endless
		case <-gone:
			return 0, io.EOF
		case <-f.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *feed) Write(b []byte) (int, error)      { return len(b), nil }
func (f *feed) SetWriteDeadline(time.Time) error { return nil }
func (f *feed) CloseWrite() error                { f.once[0].Do(func() { close(f.gone) }); return nil }
func (f *feed) Close() error                     { f.once[1].Do(func() { close(f.closed) }); return nil }

// What is strange but not forbidden does no harm.
func TestHarmlessPackets(t *testing.T) {
	for _, c := range []struct {
		name  string
		only  codec.Version
		bytes string
	}{
		{"PINGRESP that nobody asked for [MQTT-3.12.4-1]", 0, "\xd0\x00\xd0\x00\xd0\x00"},
		{"PUBACK, PUBCOMP of unknown identifiers", 0, "\x40\x02\xff\xff\x70\x02\xff\xff"},
		{"PUBACK, PUBREC, PUBCOMP with properties", codec.V5, "\x40\x07\xff\xff\x00\x03\x1f\x00\x00\x50\x07\xff\xff\x80\x03\x1f\x00\x00\x70\x07\xff\xff\x92\x03\x1f\x00\x00"},
		{"SUBACK and UNSUBACK to nothing", codec.V5, "\x90\x04\x00\x09\x00\x00\xb0\x04\x00\x09\x00\x00"},
		{"SUBACK and UNSUBACK to nothing", codec.V311, "\x90\x03\x00\x09\x00\xb0\x02\x00\x09"},
		{"SUBACK with the identifier of a PUBLISH", codec.V5, "\x90\x04\x00\x01\x00\x00"},
		{"PUBACK with the identifier of a SUBSCRIBE", 0, "\x40\x02\x00\x03"},
		{"PUBLISH to a topic that nobody wants", codec.V5, "\x31\x07\x00\x01z\x00\xff\xfe\xfd"},
		{"PUBLISH to a topic that nobody wants", codec.V311, "\x31\x06\x00\x01z\xff\xfe\xfd"},
		{"PUBLISH, topic with control and non-characters [1.5.4]", codec.V5, "\x30\x07\x00\x04\x01\xef\xbf\xbf\x00"},
		{"PUBLISH, topic with U+FEFF [MQTT-1.5.3-3]", codec.V311, "\x30\x05\x00\x03\xef\xbb\xbf"},
		{"PUBLISH, payload that is not the UTF-8 it says [3.3.2.3.2]", codec.V5, "\x30\x07\x00\x01z\x02\x01\x01\xff"},
		{"PUBLISH, expired", codec.V5, "\x30\x09\x00\x01z\x05\x02\x00\x00\x00\x00"},
		{"PUBLISH, unknown identifier of a subscription", codec.V5, "\x30\x06\x00\x01z\x02\x0b\x7f"},
	} {
		for _, v := range []codec.Version{codec.V5, codec.V311} {
			if c.only != 0 && c.only != v {
				continue
			}
			t.Run(c.name+" "+v.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, settled := busyPeer(t, v)
					p.SendBytes([]byte(c.bytes)...)
					p.ExpectSilence(time.Second)
					if p.client.State() != mqtt.StateConnected || p.client.Stats().InFlight != 2 {
						t.Error(p.client.State(), p.client.Err(), p.client.Stats())
					}
					go p.client.Ping(t.Context())
					mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
					p.Cut()
					settled()
				})
			})
		}
	}
}

// [MQTT-3.14.4-3] and 3.14.4: after the server's DISCONNECT nothing is sent; what it said reaches everybody.
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

// FuzzClient lets a server send anything after CONNACK, to a client that is busy. It must not panic, must end or go on,
// and must close in time, with every call answered and, which synctest sees, no goroutine left.
func FuzzClient(f *testing.F) {
	for _, h := range hostiles {
		f.Add(h.only != codec.V311, []byte(h.bytes))
	}
	f.Add(true, []byte("\x30\x04\x00\x01s\x00\x32\x06\x00\x01s\x00\x01\x00\x34\x06\x00\x01s\x00\x02\x00\x62\x02\x00\x02"))
	f.Add(true, []byte("\x90\x04\x00\x03\x00\x02\x30\x06\x00\x01s\x02\x0b\x01\x34\x08\x00\x01s\x00\x02\x02\x0b\x01\x40\x02\x00\x01\x50\x02\x00\x02\x70\x02\x00\x02"))
	f.Add(false, []byte("\x90\x03\x00\x03\x02\x30\x03\x00\x01s\x32\x05\x00\x01s\x00\x01\x34\x05\x00\x01s\x00\x02\x40\x02\x00\x01\x50\x02\x00\x02\x70\x02\x00\x02\xb0\x02\x00\x04"))
	f.Fuzz(func(t *testing.T, v5 bool, stream []byte) {
		v := codec.V311
		if v5 {
			v = codec.V5
		}
		synctest.Test(t, func(t *testing.T) { fuzzClient(t, v, stream) })
	})
}

func fuzzClient(t *testing.T, v codec.Version, stream []byte) {
	conn := newFeed(v)
	c, _, err := dialClient(t.Context(), v, conn.dial, mqtt.WithKeepAlive(5*time.Second), mqtt.WithMaximumPacketSize(100_000))
	if err != nil {
		t.Fatal(err)
	}
	ctx := endingIn(t, time.Minute)
	var calls sync.WaitGroup
	call := func(f func() error) {
		calls.Go(func() {
			if err := f(); err != nil && err.Error() == "" {
				t.Error("an error says nothing")
			}
		})
		synctest.Wait()
	}
	call(func() error { return c.Publish(ctx, "t", nil, mqtt.AtLeastOnce) })
	call(func() error { return c.Publish(ctx, "t", nil, mqtt.ExactlyOnce) })
	call(func() error {
		sub, err := c.Subscribe(ctx, "s", mqtt.ExactlyOnce, mqtt.Buffer(1))
		if err != nil {
			return err
		}
		m, err := sub.Next(ctx)
		if err == nil {
			err = c.Publish(ctx, "t", m.Payload, m.QoS)
		}
		return errors.Join(err, sub.Unsubscribe(ctx))
	})
	call(func() error { return c.Unsubscribe(ctx, "u") })
	call(func() error { _, err := c.Ping(ctx); return err })
	conn.feed <- stream
	time.Sleep(3 * time.Second)
	start := time.Now()
	if err := c.Close(); err != nil || time.Since(start) > time.Second {
		t.Errorf("Close: %v, after %v", err, time.Since(start))
	}
	calls.Wait()
	if time.Since(start) > time.Second || c.Err() == nil {
		t.Errorf("calls return %v after Close; %v", time.Since(start), c.Err())
	}
}
