package mqtttest

import (
	"bufio"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// BenchmarkPublish is what the broker costs per message that a client publishes and another receives, clients that do
// nothing else included.
func BenchmarkPublish(b *testing.B) {
	for qos, name := range []string{"QoS0", "QoS1"} {
		b.Run(name, func(b *testing.B) { benchmarkPublish(b, byte(qos)) })
	}
}

func benchmarkPublish(b *testing.B, qos byte) {
	broker := New(KeepReceived(0))
	defer broker.Close()
	publisher, subscriber := benchClient(b, broker, "p"), benchClient(b, broker, "s")
	hello, _ := (&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "a"}}}).Append(nil, codec.V5)
	if _, err := subscriber.Write(hello); err != nil {
		b.Fatal(err)
	}
	skip(b, bufio.NewReader(subscriber), 6) // SUBACK
	packet, _ := (&codec.Publish{Topic: "a", QoS: qos, PacketID: uint16(qos), Payload: make([]byte, 64)}).Append(nil, codec.V5)
	size := (&codec.Publish{Topic: "a", Payload: make([]byte, 64)}).Size(codec.V5)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		acks := bufio.NewReader(publisher)
		for i := range b.N {
			if qos > 0 {
				packet[5], packet[6] = byte(i>>8|0x80), byte(i)
			}
			if _, err := publisher.Write(packet); err != nil {
				return
			}
			if qos > 0 && i%1000 == 999 {
				_, _ = acks.Discard(4 * 1000) // it fails when the subscriber has everything and the broker closes
			}
		}
	}()
	skip(b, bufio.NewReaderSize(subscriber, 64<<10), b.N*size)
}

func benchClient(b *testing.B, broker *Broker, id string) *endpoint {
	nc, err := broker.DialContext(b.Context(), "", "")
	if err != nil {
		b.Fatal(err)
	}
	hello, _ := (&codec.Connect{ClientID: id, CleanStart: true}).Append(nil, codec.V5)
	if _, err := nc.Write(hello); err != nil {
		b.Fatal(err)
	}
	if _, err := codec.ReadPacket(nc, codec.V5, 0); err != nil {
		b.Fatal(err)
	}
	return nc.(*endpoint)
}

func skip(b *testing.B, r *bufio.Reader, n int) {
	if _, err := r.Discard(n); err != nil {
		b.Error(err)
	}
}
