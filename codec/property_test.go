package codec

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
)

const will Type = 0 // stands for the will properties of a CONNECT below

// specifiedProperties is the table of section 2.2.2.2: the packets of each property, and a value for it that is legal.
var specifiedProperties = map[byte]struct {
	packets []Type
	value   string
}{
	0x01: {[]Type{PUBLISH, will}, "01"},
	0x02: {[]Type{PUBLISH, will}, "00000001"},
	0x03: {[]Type{PUBLISH, will}, "0001 61"},
	0x08: {[]Type{PUBLISH, will}, "0001 61"},
	0x09: {[]Type{PUBLISH, will}, "0001 FF"},
	0x0B: {[]Type{PUBLISH, SUBSCRIBE}, "FF7F"},
	0x11: {[]Type{CONNECT, CONNACK, DISCONNECT}, "00000001"},
	0x12: {[]Type{CONNACK}, "0001 61"},
	0x13: {[]Type{CONNACK}, "0001"},
	0x15: {[]Type{CONNECT, CONNACK, AUTH}, "0001 61"},
	0x16: {[]Type{CONNECT, CONNACK, AUTH}, "0001 FF"},
	0x17: {[]Type{CONNECT}, "01"},
	0x18: {[]Type{will}, "00000001"},
	0x19: {[]Type{CONNECT}, "01"},
	0x1A: {[]Type{CONNACK}, "0001 61"},
	0x1C: {[]Type{CONNACK, DISCONNECT}, "0001 61"},
	0x1F: {[]Type{CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH}, "0001 61"},
	0x21: {[]Type{CONNECT, CONNACK}, "0001"},
	0x22: {[]Type{CONNECT, CONNACK}, "0001"},
	0x23: {[]Type{PUBLISH}, "0001"},
	0x24: {[]Type{CONNACK}, "01"},
	0x25: {[]Type{CONNACK}, "01"},
	0x26: {[]Type{CONNECT, CONNACK, PUBLISH, will, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, DISCONNECT, AUTH}, "0001 61 0001 62"},
	0x27: {[]Type{CONNECT, CONNACK}, "00000001"},
	0x28: {[]Type{CONNACK}, "01"},
	0x29: {[]Type{CONNACK}, "01"},
	0x2A: {[]Type{CONNACK}, "01"},
}

// propertied are packets around a property block: what comes before it, and behind.
var propertied = map[Type][2]string{
	CONNECT:     {"0004 4D515454 05 02 0000", "0000"},
	will:        {"0004 4D515454 05 06 0000 00 0000", "0001 61 0000"},
	CONNACK:     {"00 00", ""},
	PUBLISH:     {"0001 61", ""},
	PUBACK:      {"0001 00", ""},
	PUBREC:      {"0001 00", ""},
	PUBREL:      {"0001 00", ""},
	PUBCOMP:     {"0001 00", ""},
	SUBSCRIBE:   {"0001", "0001 61 00"},
	SUBACK:      {"0001", "00"},
	UNSUBSCRIBE: {"0001", "0001 61"},
	UNSUBACK:    {"0001", "00"},
	DISCONNECT:  {"00", ""},
	AUTH:        {"18", ""},
}

// decodeProperties decodes a packet with the properties, given in hexadecimal.
func decodeProperties(t *testing.T, typ Type, properties string) (Packet, error) {
	around := propertied[typ]
	block := unhex(t, properties)
	body := slices.Concat(unhex(t, around[0]), appendVarint(nil, uint32(len(block))), block, unhex(t, around[1]))
	if typ == will {
		typ = CONNECT
	}
	return Decode(Header{typ, flagsOf[typ], len(body)}, body, V5)
}

func TestPropertyTable(t *testing.T) {
	rows := 0
	for id, row := range propertyTable {
		if row.kind == kindNone {
			continue
		}
		rows++
		if row.name == "" || row.section == "" {
			t.Errorf("property 0x%02X lacks a name or a section", id)
		}
	}
	if rows != 27 || len(specifiedProperties) != 27 {
		t.Errorf("%d properties in the table and %d in the test; MQTT 5.0 has 27", rows, len(specifiedProperties))
	}
}

// Every property in every packet, once and twice, section 2.2.2.2.
// [MQTT-2.2.2.2a] [MQTT-2.2.2.2b]
func TestPropertyPlaces(t *testing.T) {
	for id, p := range specifiedProperties {
		property := fmt.Sprintf("%02X %s", id, p.value)
		for typ := range propertied {
			name := fmt.Sprintf("%v %s", typ, propertyTable[id].name)
			if typ == will {
				name = "will " + propertyTable[id].name
			}
			t.Run(name, func(t *testing.T) {
				testPropertyPlace(t, typ, id, property)
			})
		}
		for _, typ := range []Type{PINGREQ, PINGRESP} {
			body := append([]byte{byte(len(unhex(t, property)))}, unhex(t, property)...)
			_, err := Decode(Header{typ, 0, len(body)}, body, V5)
			wantError(t, err, typ, MalformedPacket, "2.1.4")
		}
	}
}

func testPropertyPlace(t *testing.T, typ Type, id byte, property string) {
	method := "" // what must come along
	switch {
	case id == propAuthenticationMethod:
	case typ == AUTH, id == propAuthenticationData && (typ == CONNECT || typ == CONNACK):
		method = "15 0001 6D"
	}
	packet := typ
	if typ == will {
		packet = CONNECT
	}
	first, err := decodeProperties(t, typ, method+property)
	if !slices.Contains(specifiedProperties[id].packets, typ) {
		wantError(t, err, packet, MalformedPacket, "2.2.2.2")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	testPropertyKept(t, typ, first)
	_, err = decodeProperties(t, typ, method+property+property)
	switch {
	case id == propUserProperty, id == propSubscriptionIdentifier && typ == PUBLISH:
		if err != nil {
			t.Errorf("twice: %v", err)
		}
	default:
		wantError(t, err, packet, ProtocolError, propertyTable[id].section)
	}
}

// testPropertyKept checks that the property, whose value is not the default, made the packet another one.
func testPropertyKept(t *testing.T, typ Type, with Packet) {
	method := ""
	if typ == AUTH {
		method = "15 0001 6D"
	}
	without, err := decodeProperties(t, typ, method)
	if err != nil {
		t.Fatal(err)
	}
	a, b := encode(t, with, V5), encode(t, without, V5)
	if typ != AUTH && len(a) <= len(b) || len(a) < len(b) {
		t.Errorf("the property is lost: %x", a)
	}
}

// Values that are cut, in every property of a string or a number, are never read beyond the block.
func TestPropertyCut(t *testing.T) {
	for id, p := range specifiedProperties {
		typ := p.packets[0]
		whole := unhex(t, fmt.Sprintf("%02X %s", id, p.value))
		for n := 1; n < len(whole); n++ {
			_, err := decodeProperties(t, typ, fmt.Sprintf("%X", whole[:n]))
			if err == nil {
				t.Errorf("%s: accepted %x", propertyTable[id].name, whole[:n])
			}
			checkError(t, err)
		}
	}
}

// Properties may come in any order [MQTT-2.2.2.2c].
func TestPropertyOrder(t *testing.T) {
	for _, typ := range []Type{CONNECT, CONNACK, PUBLISH, DISCONNECT, AUTH} {
		var up, down string
		for id := range byte(0x2B) {
			p, ok := specifiedProperties[id]
			if ok && slices.Contains(p.packets, typ) {
				property := fmt.Sprintf("%02X %s", id, p.value)
				up, down = up+property, property+down
			}
		}
		want, err := decodeProperties(t, typ, up)
		checkError(t, err)
		got, err2 := decodeProperties(t, typ, down)
		if err != nil || err2 != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %+v, %v; want %+v, %v", typ, got, err2, want, err)
		}
	}
}

// Identifiers that no property has are malformed in every packet.
// [MQTT-2.2.2.2a]
func TestUnknownProperties(t *testing.T) {
	for id := range 256 {
		if _, ok := specifiedProperties[byte(id)]; ok {
			continue
		}
		for typ := range propertied {
			packet := typ
			if typ == will {
				packet = CONNECT
			}
			_, err := decodeProperties(t, typ, fmt.Sprintf("%02X 00000000", id))
			wantError(t, err, packet, MalformedPacket, "2.2.2.2")
		}
	}
}

func TestUserPropertiesGet(t *testing.T) {
	u := UserProperties{{"a", "1"}, {"b", ""}, {"a", "2"}}
	for key, want := range map[string]string{"a": "1", "b": ""} {
		if got, ok := u.Get(key); got != want || !ok {
			t.Errorf("%s: %q, %v", key, got, ok)
		}
	}
	if got, ok := u.Get("A"); got != "" || ok {
		t.Errorf("A: %q, %v", got, ok)
	}
}

// A packet has at most MaxProperties, both ways, whatever they are.
func TestMaxProperties(t *testing.T) {
	for n, want := range map[int]bool{MaxProperties: true, MaxProperties + 1: false} {
		user := make(UserProperties, n)
		b, err := (&Publish{Topic: "a", Properties: PublishProperties{UserProperties: user}}).Append(nil, V5)
		if (err == nil) != want {
			t.Errorf("%d user properties are written with error %v", n, err)
		}
		_, _, err = DecodePublishProperties(bytes.Repeat([]byte{propUserProperty, 0, 0, 0, 0}, n), new(PublishProperties), nil)
		if (err == nil) != want {
			t.Errorf("%d user properties are read with error %v", n, err)
		}
		_, _, err = DecodeRelayedProperties(bytes.Repeat([]byte{propSubscriptionIdentifier, 1}, n), new(PublishProperties), nil)
		var tooMany *Error
		if (err == nil) != want || err != nil && (!errors.As(err, &tooMany) || tooMany.Code != PacketTooLarge) {
			t.Errorf("%d subscription identifiers are read with error %v", n, err)
		}
		if !want && len(b) != 0 {
			t.Errorf("%d bytes are written before the error", len(b))
		}
	}
}
