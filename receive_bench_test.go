package mqtt_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// floodWindow is how many messages at QoS 1 a flood keeps on their way, and floodBatch how many it writes at once.
const (
	floodWindow = 1024
	floodBatch  = 256
)

// startFlood starts a server too cheap to be the limit: it sends its only client messages of 64 bytes as fast as they
// are taken.
func startFlood(tb testing.TB, v codec.Version, qos byte) (url string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			flood(conn, v, qos)
		}
	}()
	tb.Cleanup(func() {
		l.Close()
		<-done
	})
	return "mqtt://" + l.Addr().String()
}

// flood serves a client: CONNECT, SUBSCRIBE, and then messages until it goes.
func flood(conn net.Conn, v codec.Version, qos byte) {
	defer conn.Close()
	if _, err := codec.ReadPacket(conn, v, 0); err != nil {
		return
	}
	out, _ := (&codec.Connack{}).Append(nil, v)
	conn.Write(out)
	p, err := codec.ReadPacket(conn, v, 0)
	if err != nil {
		return
	}
	subscribe := p.(*codec.Subscribe)
	out, _ = granted(subscribe).Append(out[:0], v)
	m := codec.Publish{Topic: "bench/topic", QoS: qos, Payload: payload64}
	if v == codec.V5 {
		m.SubscriptionIdentifiers = []uint32{subscribe.SubscriptionIdentifier}
	}
	conn.Write(out)

	var acknowledged atomic.Int64
	more := make(chan struct{}, 1)
	go func() { // until the writer closes the connection
		defer close(more)
		buffer := make([]byte, 64<<10)
		for bytes := 0; ; {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			bytes += n
			acknowledged.Store(int64(bytes / 4)) // a PUBACK has 4
			select {
			case more <- struct{}{}:
			default:
			}
		}
	}()
	var batch []byte
	for sent := int64(0); ; sent += floodBatch {
		for qos > 0 && sent+floodBatch-acknowledged.Load() > floodWindow {
			if _, ok := <-more; !ok {
				return
			}
		}
		if qos > 0 || batch == nil {
			batch = batch[:0]
			for i := range int64(floodBatch) {
				if qos > 0 {
					m.PacketID = uint16((sent+i)%floodWindow) + 1
				}
				batch, _ = m.Append(batch, v)
			}
		}
		if _, err := conn.Write(batch); err != nil {
			return
		}
	}
}

// eachFlood runs f with a subscription for each version and QoS. The policy is Block, so that all messages count.
func eachFlood(tb testing.TB, f func(name string, sub *mqtt.Subscription)) {
	ctx := context.Background()
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		for _, qos := range []mqtt.QoS{mqtt.AtMostOnce, mqtt.AtLeastOnce} {
			server := startFlood(tb, v, byte(qos))
			var c mqtt.Client
			if v == codec.V5 {
				c5, err := mqtt.NewClient(ctx, server)
				if err != nil {
					tb.Fatal(err)
				}
				c = mqtt.Common(c5)
			} else {
				c3, err := mqtt.NewClientV311(ctx, server)
				if err != nil {
					tb.Fatal(err)
				}
				c = c3
			}
			sub, err := c.Subscribe(ctx, "bench/topic", qos, mqtt.Block)
			if err != nil {
				tb.Fatal(err)
			}
			f(v.String()+"/"+qos.String(), sub)
			c.Close()
		}
	}
}

func BenchmarkReceive(b *testing.B) {
	eachFlood(b, func(name string, sub *mqtt.Subscription) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			messages := sub.Messages()
			for b.Loop() {
				<-messages
			}
		})
	})
}

// BenchmarkConsume has the forms of consuming that acknowledge after the work.
func BenchmarkConsume(b *testing.B) {
	forms := []struct {
		name    string
		consume func(b *testing.B, sub *mqtt.Subscription)
	}{
		{"All", func(b *testing.B, sub *mqtt.Subscription) {
			for range sub.All(context.Background()) {
				if !b.Loop() {
					return
				}
			}
		}},
		{"Batches", func(b *testing.B, sub *mqtt.Subscription) {
			for batch := range sub.Batches(context.Background(), 100, time.Millisecond) {
				for range batch {
					if !b.Loop() {
						return
					}
				}
			}
		}},
		{"Handle", func(b *testing.B, sub *mqtt.Subscription) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			sub.Handle(ctx, func(context.Context, mqtt.Message) error {
				if !b.Loop() {
					cancel()
				}
				return nil
			})
		}},
	}
	for _, form := range forms {
		eachFlood(b, func(name string, sub *mqtt.Subscription) {
			b.Run(form.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				form.consume(b, sub)
			})
		})
	}
}

// BenchmarkReceiveBare is what the same bytes cost without MQTT.
func BenchmarkReceiveBare(b *testing.B) {
	server := startFlood(b, codec.V311, 0)
	conn, err := net.Dial("tcp", server[len("mqtt://"):])
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for _, p := range []codec.Packet{
		&codec.Connect{ClientID: "bare", CleanStart: true},
		&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "bench/topic"}}},
	} {
		packet, _ := p.Append(nil, codec.V311)
		conn.Write(packet)
		if _, err := codec.ReadPacket(conn, codec.V311, 0); err != nil {
			b.Fatal(err)
		}
	}
	size := (&codec.Publish{Topic: "bench/topic", Payload: payload64}).Size(codec.V311)
	buffer := make([]byte, 1000*size)
	have := 0
	for b.Loop() {
		if have == 0 {
			if _, err := io.ReadFull(conn, buffer); err != nil {
				b.Fatal(err)
			}
			have = 1000
		}
		have--
	}
}
