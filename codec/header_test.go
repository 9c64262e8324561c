package codec

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// Every first byte, in both versions [MQTT-2.1.3-1], [MQTT311-2.2.2-1] [MQTT311-2.2.2-2].
func TestHeaderFirstByte(t *testing.T) {
	// legal are the flags of section 2.1.3, by type.
	legal := map[Type][]byte{
		CONNECT: {0}, CONNACK: {0}, PUBACK: {0}, PUBREC: {0}, PUBREL: {2}, PUBCOMP: {0}, SUBSCRIBE: {2}, SUBACK: {0},
		UNSUBSCRIBE: {2}, UNSUBACK: {0}, PINGREQ: {0}, PINGRESP: {0}, DISCONNECT: {0}, AUTH: {0},
		PUBLISH: {0x0, 0x1, 0x2, 0x3, 0xA, 0xB, 0x4, 0x5, 0xC, 0xD},
	}
	for _, v := range []Version{V5, V311} {
		for first := range 256 {
			typ, flags := Type(first>>4), byte(first&0x0F)
			want := bytes.IndexByte(legal[typ], flags) >= 0 && (typ != AUTH || v == V5)
			for _, b := range [][]byte{{byte(first)}, {byte(first), 0}} {
				h, n, err := ParseHeader(b, v)
				checkError(t, err)
				if (err == nil) != want {
					t.Errorf("%v %x: %v", v, b, err)
				}
				if want && (h != Header{typ, flags, 0} || n != (len(b)-1)*2) {
					t.Errorf("%v %x: %+v, %d", v, b, h, n)
				}
			}
		}
	}
}

// remainingLengths are the values on both sides of every step of the encoding [MQTT-1.5.5-1].
var remainingLengths = []struct {
	n     int
	bytes []byte
}{
	{0, []byte{0x00}},
	{127, []byte{0x7F}},
	{128, []byte{0x80, 0x01}},
	{16383, []byte{0xFF, 0x7F}},
	{16384, []byte{0x80, 0x80, 0x01}},
	{2097151, []byte{0xFF, 0xFF, 0x7F}},
	{2097152, []byte{0x80, 0x80, 0x80, 0x01}},
	{MaxRemainingLength, []byte{0xFF, 0xFF, 0xFF, 0x7F}},
}

// [MQTT-1.5.5-1] [MQTT311-2.2.3]
func TestRemainingLength(t *testing.T) {
	for _, v := range []Version{V5, V311} {
		for _, c := range remainingLengths {
			b := append([]byte{0x30}, c.bytes...)
			for cut := range b {
				if h, n, err := ParseHeader(b[:cut], v); n != 0 || err != nil {
					t.Errorf("%x, and more to come: %+v, %d, %v", b[:cut], h, n, err)
				}
			}
			h, n, err := ParseHeader(append(b, 0xFF), v)
			if err != nil || n != len(b) || h != (Header{PUBLISH, 0, c.n}) {
				t.Errorf("%x: %+v, %d, %v", b, h, n, err)
			}
		}
	}
}

func TestVarint(t *testing.T) {
	for _, c := range remainingLengths {
		if got := appendVarint(nil, uint32(c.n)); !bytes.Equal(got, c.bytes) {
			t.Errorf("%d became %x, want %x", c.n, got, c.bytes)
		}
		if got := varintSize(uint32(c.n)); got != len(c.bytes) {
			t.Errorf("%d takes %d bytes, want %d", c.n, got, len(c.bytes))
		}
	}
}

// [MQTT-1.5.5-1] [MQTT311-2.2.3]
func TestMalformedRemainingLength(t *testing.T) {
	for _, c := range []struct {
		bytes string
		rule  string
		v311  string
	}{
		{"8000", "MQTT-1.5.5-1", "2.2.3"},
		{"FF00", "MQTT-1.5.5-1", "2.2.3"},
		{"808000", "MQTT-1.5.5-1", "2.2.3"},
		{"80808000", "MQTT-1.5.5-1", "2.2.3"},
		{"80808080", "1.5.5", "2.2.3"},
		{"8080808001", "1.5.5", "2.2.3"},
		{"FFFFFFFF", "1.5.5", "2.2.3"},
		{"FFFFFFFF7F", "1.5.5", "2.2.3"},
	} {
		b := unhex(t, "C0"+c.bytes)
		_, n, err := ParseHeader(b, V5)
		wantError(t, err, PINGREQ, MalformedPacket, c.rule)
		_, n311, err := ParseHeader(b, V311)
		wantError(t, err, PINGREQ, MalformedPacket, c.v311)
		if n != 0 || n311 != 0 {
			t.Errorf("%x: %d and %d bytes", b, n, n311)
		}
	}
}

// A decoder does not rely on its caller to have checked the header.
func TestDecodeChecksHeader(t *testing.T) {
	for typ := CONNECT; typ <= AUTH; typ++ {
		t.Run(typ.String(), func(t *testing.T) {
			body := []byte{0, 1, 0}
			p := newPacket(typ)
			wantError(t, p.Decode(Header{typ%AUTH + 1, 0, 3}, body, V5), typ, MalformedPacket, "2.1.2")
			wantError(t, p.Decode(Header{typ, flagsOf[typ], 4}, body, V5), typ, MalformedPacket, "2.1.4")
			wantError(t, p.Decode(Header{typ, flagsOf[typ], 2}, body, V5), typ, MalformedPacket, "2.1.4")
			if typ != PUBLISH {
				wantError(t, p.Decode(Header{typ, 0xF, 3}, body, V5), typ, MalformedPacket, "MQTT-2.1.3-1")
			}
		})
	}
	for _, typ := range []Type{0, 16, 255} {
		_, err := Decode(Header{Type: typ}, nil, V5)
		var e *Error
		if !errors.As(err, &e) || e.Code != MalformedPacket || e.Rule != "2.1.2" {
			t.Errorf("%v: %v", typ, err)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, c := range remainingLengths {
		f.Add(append([]byte{0x32}, c.bytes...), true)
	}
	f.Add([]byte{0xF0, 0x80, 0x80, 0x80, 0x80}, false)
	f.Add([]byte{0x00}, true)
	f.Fuzz(func(t *testing.T, b []byte, v5 bool) {
		v := V311
		if v5 {
			v = V5
		}
		h, n, err := ParseHeader(b, v)
		checkError(t, err)
		switch {
		case err != nil && n != 0, n < 0, n == 1, n > min(5, len(b)):
			t.Fatalf("%x: %d bytes, %v", b, n, err)
		case err != nil:
		case n == 0 && len(b) >= 5:
			t.Fatalf("%x: a header does not need more", b)
		case n > 0:
			again := append([]byte{byte(h.Type)<<4 | h.Flags}, appendVarint(nil, uint32(h.Length))...)
			if !bytes.Equal(again, b[:n]) {
				t.Fatalf("%x became %+v and then %x", b[:n], h, again)
			}
		}
		for cut := range min(n, len(b)) {
			if _, short, err := ParseHeader(b[:cut], v); short != 0 || err != nil {
				t.Fatalf("%x is a header, and of %x it says %d, %v", b[:n], b[:cut], short, err)
			}
		}
	})
}

func TestNames(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		V5: "5.0", V311: "3.1.1", Version(3): "version 3",
		CONNECT: "CONNECT", UNSUBACK: "UNSUBACK", AUTH: "AUTH", Type(0): "reserved", Type(16): "type 16",
	} {
		if got.String() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
