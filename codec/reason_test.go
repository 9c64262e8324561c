package codec

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// specifiedCodes are the reason codes of MQTT 5.0, by packet, from the tables of sections 3.2.2.2, 3.4.2.1, 3.5.2.1, 3.6.2.1, 3.7.2.1, 3.9.3,
// 3.11.3, 3.14.2.1 and 3.15.2.1. Section 2.4 alone lists 0x8C for DISCONNECT.
var specifiedCodes = map[Type][]byte{
	CONNACK: {
		0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C,
		0x9D, 0x9F,
	},
	PUBACK:   {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	PUBREC:   {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	PUBREL:   {0x00, 0x92},
	PUBCOMP:  {0x00, 0x92},
	SUBACK:   {0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
	UNSUBACK: {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
	DISCONNECT: {
		0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
		0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
	},
	AUTH: {0x00, 0x18, 0x19},
}

// Every reason code in every packet, both ways, section 2.4.
// [MQTT-2.4]
func TestReasonCodes(t *testing.T) {
	rules := map[Type]string{
		CONNACK: "MQTT-3.2.2-8", PUBACK: "MQTT-3.4.2-1", PUBREC: "MQTT-3.5.2-1", PUBREL: "MQTT-3.6.2-1", PUBCOMP: "MQTT-3.7.2-1",
		SUBACK: "MQTT-3.9.3-2", UNSUBACK: "MQTT-3.11.3-2", DISCONNECT: "MQTT-3.14.2-1", AUTH: "MQTT-3.15.2-1",
	}
	for typ, codes := range specifiedCodes {
		for code := range 256 {
			t.Run(fmt.Sprintf("%s %v 0x%02X", rules[typ], typ, code), func(t *testing.T) {
				body, packet := coded(typ, byte(code))
				_, err := Decode(Header{typ, flagsOf[typ], len(body)}, body, V5)
				_, encodeErr := packet.Append(nil, V5)
				if slices.Contains(codes, byte(code)) {
					if err != nil || encodeErr != nil {
						t.Errorf("%v, %v", err, encodeErr)
					}
					return
				}
				wantError(t, err, typ, ProtocolError, rules[typ])
				wantError(t, encodeErr, typ, ProtocolError, rules[typ])
			})
		}
	}
}

// coded returns the body of a packet with a reason code, and the packet.
func coded(typ Type, code byte) ([]byte, Packet) {
	r := ReasonCode(code)
	switch typ {
	case CONNACK:
		return []byte{0, code, 0}, &Connack{Code: r}
	case SUBACK:
		return []byte{0, 1, 0, code}, &Suback{PacketID: 1, Codes: []ReasonCode{r}}
	case UNSUBACK:
		return []byte{0, 1, 0, code}, &Unsuback{PacketID: 1, Codes: []ReasonCode{r}}
	case DISCONNECT:
		return []byte{code}, &Disconnect{Code: r}
	case AUTH:
		return []byte{code, 4, 0x15, 0, 1, 'm'}, &Auth{Code: r, Method: "m"}
	}
	return []byte{0, 1, code}, newAck(typ, ack{PacketID: 1, Code: r})
}

func TestReasonCodeNames(t *testing.T) {
	named := 0
	for code := range 256 {
		r := ReasonCode(code)
		if number := fmt.Sprintf("0x%02X", code); r.String() != number {
			named++
		}
		if r.Failed() != (code >= 128) {
			t.Errorf("%v: Failed is %v", r, r.Failed())
		}
	}
	if named != 43 {
		t.Errorf("%d codes have names; MQTT 5.0 has 43", named)
	}
	for r, want := range map[ReasonCode]string{
		0x00: "Success", 0x04: "Disconnect with Will Message", 0x81: "Malformed Packet", 0xA2: "Wildcard Subscriptions not supported",
		0x7F: "0x7F", 0x03: "0x03", 0xFF: "0xFF",
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Return codes of MQTT 3.1.1, section 3.2.2.3.
func TestReturnCodes(t *testing.T) {
	want := []ReasonCode{0x00, 0x84, 0x85, 0x88, 0x86, 0x87}
	for code := range 256 {
		r := FromReturnCode(byte(code))
		if code >= len(want) {
			if r != UnspecifiedError {
				t.Errorf("return code %d became %v", code, r)
			}
			continue
		}
		if r != want[code] || r.ReturnCode() != byte(code) {
			t.Errorf("return code %d became %v, and then %d", code, r, r.ReturnCode())
		}
	}
	if got := Banned.ReturnCode(); got != 0xFF {
		t.Errorf("Banned became return code %d", got)
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  Error
		want string
	}{
		{Error{PUBLISH, MalformedPacket, "MQTT-3.3.1-4", "QoS 3"}, "codec: PUBLISH: QoS 3 [MQTT-3.3.1-4]"},
		{Error{0, MalformedPacket, "2.1.2", "no such type"}, "codec: no such type [2.1.2]"},
		{Error{Detail: "x"}, "codec: x"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	var e *Error
	if _, err := (&Publish{}).Append(nil, V5); !errors.As(err, &e) {
		t.Errorf("%T is not an *Error", err)
	}
}
