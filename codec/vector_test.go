package codec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vector is a packet and its bytes, written by hand from the specification.
type vector struct {
	name   string
	v      Version
	bytes  string // hexadecimal digits and blanks
	packet Packet
	longer bool // a form that may be read; the encoder writes another
}

// malformed is a packet that no decoder may accept.
type malformed struct {
	name  string
	v     Version
	bytes string
	code  ReasonCode
	rule  string
}

// forbidden is a packet that no encoder may write.
type forbidden struct {
	name   string
	v      Version
	packet Packet
	code   ReasonCode
	rule   string
}

func pointer[T any](v T) *T { return &v }

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// encode is Append for packets that are known to be good.
func encode(tb testing.TB, p Packet, v Version) []byte {
	tb.Helper()
	b, err := p.Append(nil, v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// split parses the header of a packet that is known to be good.
func split(tb testing.TB, b []byte, v Version) (Header, []byte) {
	tb.Helper()
	h, n, err := ParseHeader(b, v)
	if err != nil || n == 0 || len(b) != n+h.Length {
		tb.Fatalf("ParseHeader(%x) = %+v, %d, %v; the packet has %d bytes", b, h, n, err, len(b))
	}
	return h, b[n:]
}

// parse decodes a whole packet.
func parse(b []byte, v Version) (Packet, error) {
	h, n, err := ParseHeader(b, v)
	if err != nil {
		return nil, err
	}
	return Decode(h, b[n:], v)
}

func testVectors(t *testing.T, vectors []vector) {
	for _, c := range vectors {
		t.Run(c.v.String()+" "+c.name, func(t *testing.T) {
			b := unhex(t, c.bytes)
			h, body := split(t, b, c.v)
			if h.Type != c.packet.Type() {
				t.Fatalf("type %v, want %v", h.Type, c.packet.Type())
			}
			got, err := Decode(h, body, c.v)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.packet, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
			if !c.longer {
				testAppend(t, c.packet, c.v, b)
			}
			testCuts(t, h, body, c.v)
		})
	}
}

// testAppend checks that p becomes want, behind what was there before and without allocating.
func testAppend(t *testing.T, p Packet, v Version, want []byte) {
	t.Helper()
	got, err := p.Append([]byte("before"), v)
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte("before"), want...); !bytes.Equal(got, want) {
		t.Errorf("encoded\n%x, want\n%x", got, want)
	}
	if n := testing.AllocsPerRun(10, func() { got, _ = p.Append(got[:0], v) }); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
}

// testCuts checks every shorter body, and one with a byte too many. Only what still has the form of a packet may be accepted.
func testCuts(t *testing.T, h Header, body []byte, v Version) {
	t.Helper()
	for n := range body {
		cut := Header{h.Type, h.Flags, n}
		p, err := Decode(cut, slices.Clone(body[:n]), v)
		checkError(t, err)
		if err == nil && !slices.Contains(cuttable[v], h.Type) {
			t.Errorf("accepted %d of %d bytes: %+v", n, len(body), p)
		}
		if _, err := Decode(h, body[:n], v); err == nil {
			t.Errorf("accepted %d bytes instead of the %d that the header says", n, len(body))
		}
	}
	if h.Type == PUBLISH {
		return
	}
	long := append(slices.Clone(body), 0xFF)
	if p, err := Decode(Header{h.Type, h.Flags, len(long)}, long, v); err == nil {
		t.Errorf("accepted a byte too many: %+v", p)
	}
}

// cuttable are the types whose body may still be good when its end is missing.
var cuttable = map[Version][]Type{
	V5:   {PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, DISCONNECT, AUTH},
	V311: {PUBLISH, SUBSCRIBE, SUBACK, UNSUBSCRIBE},
}

// checkError checks that err, if there is one, is an Error with all that it promises.
func checkError(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is of type %T", err, err)
	}
	if e == nil || !e.Code.in(inConnack|inDisconnect) || !e.Code.Failed() || e.Rule == "" || e.Detail == "" {
		t.Fatalf("incomplete error %+v", e)
	}
}

// wantError checks that err is an Error with the code and the rule.
func wantError(t *testing.T, err error, packet Type, code ReasonCode, rule string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v [%s]", code, rule)
	}
	checkError(t, err)
	var e *Error
	errors.As(err, &e)
	if e.Packet != packet || e.Code != code || e.Rule != rule {
		t.Errorf("error %q with code %v, want one about %v with %v [%s]", e, e.Code, packet, code, rule)
	}
}

func testMalformed(t *testing.T, table []malformed) {
	for _, c := range table {
		t.Run(c.v.String()+" "+c.rule+" "+c.name, func(t *testing.T) {
			b := unhex(t, c.bytes)
			h, n, err := ParseHeader(b, c.v)
			if err == nil {
				if n == 0 || n+h.Length != len(b) {
					t.Fatalf("the Remaining Length is %d and there are %d bytes", h.Length, len(b)-n)
				}
				_, err = Decode(h, b[n:], c.v)
			}
			wantError(t, err, Type(b[0]>>4), c.code, c.rule)
		})
	}
}

func testForbidden(t *testing.T, table []forbidden) {
	for _, c := range table {
		t.Run(c.v.String()+" "+c.rule+" "+c.name, func(t *testing.T) {
			before := append(make([]byte, 0, 64), "before"...)
			got, err := c.packet.Append(before, c.v)
			wantError(t, err, c.packet.Type(), c.code, c.rule)
			if string(got) != "before" || &got[0] != &before[0] {
				t.Errorf("dst became %q", got)
			}
		})
	}
}

// fuzzPacket fuzzes the decoder of one type, with the tables of its tests as seeds.
func fuzzPacket(f *testing.F, typ Type, vectors []vector, bad []malformed) {
	seed := func(b []byte, v Version) {
		if h, n, err := ParseHeader(b, v); err == nil && n > 0 {
			f.Add(h.Flags, b[n:], v == V5)
		}
	}
	for _, c := range vectors {
		seed(unhex(f, c.bytes), c.v)
	}
	for _, c := range bad {
		seed(unhex(f, c.bytes), c.v)
	}
	used := newPacket(typ) // decoded into again and again
	f.Fuzz(func(t *testing.T, flags byte, body []byte, v5 bool) {
		v := V311
		if v5 {
			v = V5
		}
		fuzzDecode(t, Header{typ, flags & 0x0F, len(body)}, body, v, used)
	})
}

// fuzzDecode decodes body, and checks that what is accepted stays the same when it is encoded and decoded again.
func fuzzDecode(t *testing.T, h Header, body []byte, v Version, used Packet) {
	before := bytes.Clone(body)
	p := newPacket(h.Type)
	err := p.Decode(h, body, v)
	if !bytes.Equal(before, body) {
		t.Fatal("Decode wrote to the body")
	}
	errUsed := used.Decode(h, body, v)
	if checkError(t, err); err != nil {
		if errUsed == nil || errUsed.Error() != err.Error() {
			t.Fatalf("errors differ: %v, and in a used packet %v", err, errUsed)
		}
		return
	}
	if c, ok := p.(*Connect); ok {
		v = c.Version
	}
	b := encode(t, p, v)
	h, body = split(t, b, v)
	q := newPacket(h.Type)
	if err := q.Decode(h, body, v); err != nil {
		t.Fatalf("encoded as %x: %v", b, err)
	}
	if diff := cmp.Diff(p, q); diff != "" {
		t.Fatalf("another packet after encoding it (-first +second):\n%s", diff)
	}
	if again := encode(t, q, v); !bytes.Equal(b, again) {
		t.Fatalf("encoded as %x, then as %x", b, again)
	}
	if errUsed != nil || !bytes.Equal(b, encode(t, used, v)) {
		t.Fatalf("decoded into a used packet: %v, %+v; want %+v", errUsed, used, p)
	}
	if p, ok := p.(*Publish); ok && p.Size(v) != len(b) {
		t.Fatalf("Size %d, and %d bytes", p.Size(v), len(b))
	}
}
