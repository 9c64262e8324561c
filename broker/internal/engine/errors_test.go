package engine

import (
	"bytes"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Every packet that breaks the specification ends the connection, and no other; MQTT 5 says why, 3.1.1 says nothing. What came
// before it in the same write counts, and what comes after it does not. [MQTT-4.13.1-1] [MQTT311-4.8.0-1]
func TestMalformedPackets(t *testing.T) {
	const malformed, protocol = codec.MalformedPacket, codec.ProtocolError
	for _, c := range []struct {
		name string
		v    codec.Version
		raw  string
		want codec.ReasonCode
	}{
		{"SUBSCRIBE without its options", codec.V5, "\x82\x06\x00\x01\x00\x00\x01a", malformed},
		{"SUBSCRIBE without filters", codec.V5, "\x82\x03\x00\x01\x00", protocol},
		{"SUBSCRIBE with identifier 0", codec.V5, "\x82\x07\x00\x00\x00\x00\x01a\x00", protocol},
		{"SUBSCRIBE with reserved options", codec.V5, "\x82\x07\x00\x01\x00\x00\x01a\x40", malformed},
		{"SUBSCRIBE with QoS 3", codec.V5, "\x82\x07\x00\x01\x00\x00\x01a\x03", protocol},
		{"SUBSCRIBE with wrong flags", codec.V5, "\x80\x07\x00\x01\x00\x00\x01a\x00", malformed},
		{"No Local on a shared filter", codec.V5, "\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04", protocol},
		{"UNSUBSCRIBE without filters", codec.V5, "\xa2\x03\x00\x01\x00", protocol},
		{"PUBLISH at QoS 3", codec.V5, "\x36\x06\x00\x01a\x00\x01\x00", malformed},
		{"PUBLISH with identifier 0", codec.V5, "\x32\x06\x00\x01a\x00\x00\x00", protocol},
		{"PUBLISH with a wildcard", codec.V5, "\x30\x06\x00\x03a/+\x00", malformed},
		{"PUBLISH without topic and alias", codec.V5, "\x30\x03\x00\x00\x00", protocol},
		{"PUBLISH with alias 0", codec.V5, "\x30\x07\x00\x01a\x03\x23\x00\x00", codec.TopicAliasInvalid},
		{"PUBLISH with alias 65", codec.V5, "\x30\x07\x00\x01a\x03\x23\x00\x41", codec.TopicAliasInvalid},
		{"PUBLISH with a Subscription Identifier", codec.V5, "\x30\x06\x00\x01a\x02\x0b\x01", protocol},
		{"PUBLISH with bad UTF-8", codec.V5, "\x30\x04\x00\x01\xff\x00", malformed},
		{"PUBLISH with U+0000", codec.V5, "\x30\x04\x00\x01\x00\x00", malformed},
		{"second CONNECT", codec.V5, "\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01x", protocol},
		{"CONNACK", codec.V5, "\x20\x03\x00\x00\x00", protocol},
		{"PINGRESP", codec.V5, "\xd0\x00", protocol},
		{"PINGREQ with a body", codec.V5, "\xc0\x01\x00", malformed},
		{"type 0", codec.V5, "\x00\x00", malformed},
		{"length of five bytes", codec.V5, "\x30\x80\x80\x80\x80\x01", malformed},
		{"too large a packet", codec.V5, "\x30\xff\xff\xff\x7f", codec.PacketTooLarge},
		{"AUTH without a method", codec.V5, "\xf0\x00", protocol},
		{"DISCONNECT with wrong flags", codec.V5, "\xe1\x00", malformed},
		{"DISCONNECT with a server's code", codec.V5, "\xe0\x02\x8e\x00", protocol},
		{"DISCONNECT that raises the expiry from 0", codec.V5, "\xe0\x07\x00\x05\x11\x00\x00\x00\x05", protocol},
		{"PUBREL with wrong flags", codec.V5, "\x60\x02\x00\x01", malformed},
		{"PUBACK with a code that it does not have", codec.V5, "\x40\x03\x00\x01\x7f", protocol},
		{"SUBSCRIBE without its options", codec.V311, "\x82\x05\x00\x01\x00\x01a", 0},
		{"UNSUBSCRIBE without filters", codec.V311, "\xa2\x02\x00\x01", 0},
		{"PUBLISH with a wildcard", codec.V311, "\x30\x03\x00\x01#", 0},
		{"AUTH", codec.V311, "\xf0\x00", 0},
		{"PUBREL with wrong flags", codec.V311, "\x60\x02\x00\x01", 0},
	} {
		t.Run(c.v.String()+"/"+c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := newLab(t, nil)
				watcher := l.client("watcher")
				watcher.subscribe(0, "#")
				connect := &codec.Connect{CleanStart: true, ClientID: "bad", Will: &codec.Will{Topic: "will", Payload: []byte("w")}}
				p, _ := l.join(c.v, connect)
				good, err := (&codec.Publish{Topic: "before", Payload: []byte("b")}).Append(nil, c.v)
				if err != nil {
					t.Fatal(err)
				}
				after := bytes.ReplaceAll(good, []byte("before"), []byte("after!"))
				p.write(append(append(good, c.raw...), after...))
				if c.v == codec.V5 {
					if got := receive[*codec.Disconnect](p); got.Code != c.want {
						t.Errorf("got %v, want %v", got.Code, c.want)
					}
				}
				p.ended()
				watcher.want("b")
				watcher.want("w") // an end like this is not an orderly one
				watcher.quiet()
			})
		})
	}
}

// What comes instead of CONNECT gets no answer. A bad CONNECT gets one where there is one. [MQTT-3.1.0-1] [MQTT-3.1.4-1]
// [MQTT311-3.1.0-1] [MQTT311-3.1.4-1]
func TestMalformedConnect(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"PUBLISH", "\x30\x04\x00\x01a\x00", ""},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", ""},
		{"TLS", "\x16\x03\x01\x02\x00", ""},
		{"reserved flag, 5.0", "\x10\x0e\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x01x", "\x20\x03\x00\x81\x00"},
		{"reserved flag, 3.1.1", "\x10\x0d\x00\x04MQTT\x04\x03\x00\x00\x00\x01x", ""},
		{"will QoS 3", "\x10\x0e\x00\x04MQTT\x05\x1e\x00\x00\x00\x00\x01x", "\x20\x03\x00\x81\x00"},
		{"version 6", "\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x01x", "\x20\x02\x00\x01"},
		{"version 3", "\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01x", "\x20\x02\x00\x01"},
		{"no identifier, not clean, 3.1.1", "\x10\x0c\x00\x04MQTT\x04\x00\x00\x00\x00\x00", "\x20\x02\x00\x02"},
		{"password without user name, 3.1.1", "\x10\x10\x00\x04MQTT\x04\x42\x00\x00\x00\x01x\x00\x01p", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newLab(t, nil).dialDeaf(codec.V5)
				p.write([]byte(c.raw))
				var got bytes.Buffer
				got.ReadFrom(p.conn)
				if got.String() != c.want {
					t.Errorf("got % x, want % x", got.String(), c.want)
				}
			})
		})
	}
}
