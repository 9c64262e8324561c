package codec

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// allVectors are those of every packet.
func allVectors() []vector {
	var all []vector
	for _, vectors := range [][]vector{
		connectVectors, connackVectors, publishVectors, pubackVectors, pubrecVectors, pubrelVectors, pubcompVectors, subscribeVectors,
		subackVectors, unsubscribeVectors, unsubackVectors, pingreqVectors, pingrespVectors, disconnectVectors, authVectors,
	} {
		all = append(all, vectors...)
	}
	return all
}

func TestReadPacket(t *testing.T) {
	for _, v := range []Version{V5, V311} {
		var stream []byte
		var want []Packet
		for _, c := range allVectors() {
			if c.v == v {
				stream = append(stream, unhex(t, c.bytes)...)
				want = append(want, c.packet)
			}
		}
		r := iotest.OneByteReader(bytes.NewReader(stream))
		for _, p := range want {
			got, err := ReadPacket(r, v, 0)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p, got); diff != "" {
				t.Fatal(diff)
			}
		}
		if _, err := ReadPacket(r, v, 0); err != io.EOF {
			t.Errorf("behind the last packet: %v", err)
		}
	}
}

func TestReadPacketCut(t *testing.T) {
	b := unhex(t, "30 82 01 0001 61 00")
	b = append(b, make([]byte, 126)...)
	for n := range b {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, err := ReadPacket(bytes.NewReader(b[:n]), V5, 0); err != want {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
	if _, err := ReadPacket(bytes.NewReader(b), V5, 0); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	for _, n := range []int{0, 1, 2, 5} {
		r := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken))
		if _, err := ReadPacket(r, V5, 0); err != broken {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// The limit counts the whole packet [MQTT-3.1.2-24].
func TestReadPacketLimit(t *testing.T) {
	b := unhex(t, "30 05 0001 61 00 78")
	if _, err := ReadPacket(bytes.NewReader(b), V5, len(b)); err != nil {
		t.Error(err)
	}
	r := bytes.NewReader(b)
	_, err := ReadPacket(r, V5, len(b)-1)
	wantError(t, err, PUBLISH, PacketTooLarge, "MQTT-3.1.2-24")
	if r.Len() != len(b)-2 {
		t.Errorf("read %d bytes of the body", len(b)-2-r.Len())
	}
}

// A length field does not make anyone allocate.
func TestLengthFieldsAllocateNothing(t *testing.T) {
	for _, s := range []string{
		"30 FFFFFF7F 0001 61",                    // a packet of 256 MiB
		"30 0A 0001 61 FFFFFF7F 09 FFFF",         // a property block of 256 MiB
		"32 04 FFFF 6161",                        // a topic name of 64 KiB
		"82 06 0001 00 FFFF 61",                  // a topic filter
		"20 06 00 00 03 16 FFFF",                 // Authentication Data
		"10 0D 0004 4D515454 05 02 0000 00 FFFF", // a client identifier
	} {
		b := unhex(t, s)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ReadPacket(bytes.NewReader(b), V5, 0)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%x: accepted", b)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<10 {
			t.Errorf("%x: %d bytes allocated", b, n)
		}
	}
}

func FuzzReadPacket(f *testing.F) {
	for _, c := range allVectors() {
		f.Add(unhex(f, c.bytes), c.v == V5, uint16(0))
	}
	f.Add(unhex(f, "30 FFFFFF7F 0001 61"), true, uint16(100))
	f.Fuzz(func(t *testing.T, b []byte, v5 bool, limit uint16) {
		v := V311
		if v5 {
			v = V5
		}
		r := bytes.NewReader(b)
		got, err := ReadPacket(r, v, int(limit))
		h, n, wantErr := ParseHeader(b, v)
		var e *Error
		switch {
		case wantErr != nil:
		case n == 0 && len(b) == 0:
			wantErr = io.EOF
		case n == 0:
			wantErr = io.ErrUnexpectedEOF
		case limit > 0 && n+h.Length > int(limit):
			if !errors.As(err, &e) || e.Code != PacketTooLarge {
				t.Fatalf("%d bytes and a limit of %d: %v", n+h.Length, limit, err)
			}
			return
		case n+h.Length > len(b):
			wantErr = io.ErrUnexpectedEOF
		default:
			testRead(t, got, err, h, b[n:n+h.Length], v)
			if len(b)-r.Len() != n+h.Length {
				t.Fatalf("read %d bytes of %d", len(b)-r.Len(), n+h.Length)
			}
			return
		}
		if err == nil || err.Error() != wantErr.Error() {
			t.Fatalf("%v, want %v", err, wantErr)
		}
	})
}

// testRead compares what ReadPacket returned with what Decode says.
func testRead(t *testing.T, got Packet, err error, h Header, body []byte, v Version) {
	want, wantErr := Decode(h, body, v)
	checkError(t, err)
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
		t.Fatalf("%v, want %v", err, wantErr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}
