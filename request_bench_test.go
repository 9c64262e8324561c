package mqtt_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// appendReply appends a reply at QoS 1 to a request whose properties are Response Topic and Correlation Data, without
// allocating.
func appendReply(out []byte, request *codec.PublishView) []byte {
	topic := request.Properties[1:]
	topic = topic[:2+int(topic[0])<<8+int(topic[1])]
	properties := request.Properties[1+len(topic):]
	out = append(out, 0x32, byte(len(topic)+2+1+len(properties)+len(request.Payload)))
	out = append(out, topic...)
	out = append(out, byte(request.PacketID>>8), byte(request.PacketID), byte(len(properties)))
	out = append(out, properties...)
	return append(out, request.Payload...)
}

// requestBench is a client and a server that answers its requests.
func requestBench(tb testing.TB) (request func() error) {
	c, err := mqtt.NewClient(context.Background(), (&ackServer{version: codec.V5, reply: appendReply}).start(tb),
		mqtt.WithClientID("bench"), mqtt.WithTopicAliasMaximum(0))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return func() error {
		m, err := c.Request(context.Background(), "service", payload64[:32])
		if err == nil && len(m.Payload) != 32 {
			err = fmt.Errorf("the reply is %q", m.Payload)
		}
		return err
	}
}

func BenchmarkRequest(b *testing.B) {
	for _, inFlight := range []int{1, 64} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			request := requestBench(b)
			if err := request(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var wait sync.WaitGroup
			for worker := range inFlight {
				wait.Go(func() {
					for i := worker; i < b.N; i += inFlight {
						if err := request(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wait.Wait()
		})
	}
}
