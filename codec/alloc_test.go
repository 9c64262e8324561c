package codec

import (
	"strings"
	"testing"
)

func wantAllocs(t *testing.T, want float64, f func()) {
	t.Helper()
	if got := testing.AllocsPerRun(100, f); got != want {
		t.Errorf("%v allocations, want %v", got, want)
	}
}

func TestAllocations(t *testing.T) {
	h, body := split(t, encode(t, publish64(1), V5), V5)
	block := []byte{0x23, 0, 3, 0x0B, 7, 0x02, 0, 0, 0, 60, 0x09, 0, 1, 1} // no strings
	long := strings.Repeat("日", 100)
	t.Run("ParseHeader", func(t *testing.T) {
		b := []byte{0x30, 0xFF, 0x7F}
		wantAllocs(t, 0, func() { _, _, _ = ParseHeader(b, V5) })
	})
	t.Run("Append PUBLISH of 64 bytes", func(t *testing.T) {
		var p Packet = publish64(1)
		buf := encode(t, p, V5)
		wantAllocs(t, 0, func() { buf, _ = p.Append(buf[:0], V5) })
	})
	t.Run("Append PUBLISH with properties", func(t *testing.T) {
		var p Packet = publishWithProperties()
		buf := encode(t, p, V5)
		wantAllocs(t, 0, func() { buf, _ = p.Append(buf[:0], V5) })
	})
	t.Run("grow once for a PUBLISH", func(t *testing.T) {
		p := publishWithProperties()
		p.Payload = make([]byte, 1<<20)
		n := testing.AllocsPerRun(10, func() { _, _ = p.Append(nil, V5) })
		if n > 2 { // the race detector makes two of one
			t.Errorf("%v allocations", n)
		}
	})
	t.Run("Split, CheckTopic and properties without strings", func(t *testing.T) {
		var view PublishView
		var p PublishProperties
		ids := make([]uint32, 0, 4)
		wantAllocs(t, 0, func() {
			if view.Split(h, body, V5) != nil || view.CheckTopic() != nil {
				t.Error("refused")
			}
			if _, got, err := DecodePublishProperties(block, &p, ids); err != nil || len(got) != 1 {
				t.Error(err)
			}
		})
	})
	t.Run("Decode PUBLISH", func(t *testing.T) { // the topic
		wantAllocs(t, 1, func() {
			var p Publish
			if p.Decode(h, body, V5) != nil {
				t.Error("refused")
			}
		})
	})
	t.Run("Decode PUBLISH with the topic of the one before", func(t *testing.T) {
		var p Publish
		wantAllocs(t, 0, func() { _ = p.Decode(h, body, V5) })
	})
	t.Run("Decode acknowledgements", func(t *testing.T) {
		var p Puback
		short, long := []byte{0, 1}, []byte{0, 1, 0x97, 0}
		wantAllocs(t, 0, func() { _ = p.Decode(Header{PUBACK, 0, 2}, short, V311) })
		wantAllocs(t, 0, func() { _ = p.Decode(Header{PUBACK, 0, 4}, long, V5) })
	})
	t.Run("check strings that are not ASCII", func(t *testing.T) {
		view := PublishView{Topic: []byte(long)}
		wantAllocs(t, 0, func() {
			if !ValidString(long) || CheckTopicName(long) != nil || view.CheckTopic() != nil {
				t.Error("refused")
			}
		})
	})
}
