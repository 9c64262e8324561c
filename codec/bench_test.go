package codec

import (
	"testing"
	"time"
)

func publish64(qos byte) *Publish {
	p := &Publish{Topic: "sensors/7/temp", QoS: qos, Payload: make([]byte, 64)}
	if qos > 0 {
		p.PacketID = 4711
	}
	return p
}

func publishWithProperties() *Publish {
	p := publish64(1)
	p.TopicAlias = 3
	p.Properties = PublishProperties{
		MessageExpiry:   time.Minute,
		ContentType:     "application/json",
		ResponseTopic:   "replies/17",
		CorrelationData: []byte("0123456789abcdef"),
		UserProperties:  UserProperties{{"trace", "00-4bf92f3577b34da6"}},
	}
	return p
}

func benchmarkAppend(b *testing.B, p Packet, v Version) {
	buf := encode(b, p, v)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = p.Append(buf[:0], v); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkDecode(b *testing.B, p Packet, v Version) {
	h, body := split(b, encode(b, p, v), v)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Decode(h, body, v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPublish64(b *testing.B)         { benchmarkAppend(b, publish64(0), V5) }
func BenchmarkAppendPublish64QoS1(b *testing.B)     { benchmarkAppend(b, publish64(1), V5) }
func BenchmarkAppendPublish64V311(b *testing.B)     { benchmarkAppend(b, publish64(1), V311) }
func BenchmarkAppendPublishProperties(b *testing.B) { benchmarkAppend(b, publishWithProperties(), V5) }
func BenchmarkAppendPuback(b *testing.B)            { benchmarkAppend(b, &Puback{PacketID: 4711}, V5) }
func BenchmarkAppendPubackReason(b *testing.B) {
	benchmarkAppend(b, &Puback{PacketID: 4711, Code: QuotaExceeded, ReasonString: "enough"}, V5)
}

// BenchmarkDecodePublish decodes the same topic again and again, which is not copied again.
func BenchmarkDecodePublish(b *testing.B)           { benchmarkDecode(b, publish64(1), V5) }
func BenchmarkDecodePublishProperties(b *testing.B) { benchmarkDecode(b, publishWithProperties(), V5) }
func BenchmarkDecodePuback(b *testing.B)            { benchmarkDecode(b, &Puback{PacketID: 4711}, V5) }
func BenchmarkDecodePubackReason(b *testing.B) {
	benchmarkDecode(b, &Puback{PacketID: 4711, Code: QuotaExceeded, ReasonString: "enough"}, V5)
}

func BenchmarkDecodePublishNewTopic(b *testing.B) {
	h, body := split(b, encode(b, publish64(1), V5), V5)
	b.ReportAllocs()
	for b.Loop() {
		var p Publish
		if err := p.Decode(h, body, V5); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSplitPublish64(b *testing.B) {
	h, body := split(b, encode(b, publish64(1), V5), V5)
	var view PublishView
	b.ReportAllocs()
	for b.Loop() {
		if err := view.Split(h, body, V5); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckTopic(b *testing.B) {
	view := PublishView{Topic: []byte("sensors/7/temp")}
	b.ReportAllocs()
	for b.Loop() {
		if err := view.CheckTopic(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodePublishPropertiesInPlace decodes a block without strings.
func BenchmarkDecodePublishPropertiesInPlace(b *testing.B) {
	block := []byte{0x23, 0, 3, 0x0B, 7, 0x02, 0, 0, 0, 60}
	var p PublishProperties
	var ids [4]uint32
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodePublishProperties(block, &p, ids[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseHeader(b *testing.B) {
	packet := []byte{0x32, 0x52}
	for b.Loop() {
		if _, n, _ := ParseHeader(packet, V5); n != 2 {
			b.Fatal(n)
		}
	}
}

func BenchmarkParseHeaderLong(b *testing.B) {
	packet := []byte{0x32, 0xFF, 0xFF, 0x7F}
	for b.Loop() {
		if _, n, _ := ParseHeader(packet, V5); n != 4 {
			b.Fatal(n)
		}
	}
}
