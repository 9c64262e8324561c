package codec

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// Lengths take one byte more at each of these sizes. What was written before the length was known has to move up.
func TestLengthsMoveUp(t *testing.T) {
	for _, n := range []int{0, 100, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16374, 16375, 16376, 16377, 16378, 16379, 16380, 16381, 16382, 16383, 16384, 65535} {
		p := &Suback{PacketID: 1, ReasonString: strings.Repeat("r", n), Codes: []ReasonCode{GrantedQoS2}}
		block := slices.Concat([]byte{0x1F, byte(n >> 8), byte(n)}, []byte(p.ReasonString))
		if n == 0 {
			block = nil
		}
		body := slices.Concat([]byte{0, 1}, appendVarint(nil, uint32(len(block))), block, []byte{2})
		want := slices.Concat([]byte{0x90}, appendVarint(nil, uint32(len(body))), body)
		if got := encode(t, p, V5); !bytes.Equal(got, want) {
			t.Errorf("Reason String of %d bytes: %d bytes that begin with %x, want %d that begin with %x",
				n, len(got), got[:8], len(want), want[:8])
		}
	}
}

func TestRemainingLengthTooLong(t *testing.T) {
	for _, v := range []Version{V5, V311} {
		dst := []byte("before")
		w := newWriter(dst, SUBACK, v)
		w.b = make([]byte, len(w.b)+MaxRemainingLength+1)
		b, err := w.end()
		wantError(t, err, SUBACK, PacketTooLarge, map[Version]string{V5: "2.1.4", V311: "2.2.3"}[v])
		if string(b) != "before" {
			t.Errorf("dst became %d bytes", len(b))
		}
	}
}
