package mqtt_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// ackServer is a server too cheap to be the limit: it answers CONNECT, acknowledges what is published and, when it
// gets a SUBSCRIBE, sends a message as often as flood says.
type ackServer struct {
	listener net.Listener
	version  codec.Version
	flood    func(w io.Writer)
	reply    func(out []byte, p *codec.PublishView) []byte // appends a packet after PUBACK; nil: none
	view     codec.PublishView
}

func startAckServer(tb testing.TB, v codec.Version, flood func(w io.Writer)) string {
	tb.Helper()
	return (&ackServer{version: v, flood: flood}).start(tb)
}

func (s *ackServer) start(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.listener = l
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(conn)
		}
	}()
	tb.Cleanup(func() {
		l.Close()
		<-done
	})
	return "mqtt://" + l.Addr().String()
}

// serve answers one client until its connection ends.
func (s *ackServer) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	w := bufio.NewWriterSize(conn, 64<<10)
	var body, out []byte
	for {
		h, err := readHeader(r, s.version)
		if err != nil {
			return
		}
		if cap(body) < h.Length {
			body = make([]byte, h.Length)
		}
		body = body[:h.Length]
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		out = s.answer(out[:0], w, h, body)
		w.Write(out)
		if r.Buffered() == 0 {
			w.Flush()
		}
	}
}

func (s *ackServer) answer(out []byte, w *bufio.Writer, h codec.Header, body []byte) []byte {
	switch h.Type {
	case codec.CONNECT:
		out, _ = (&codec.Connack{}).Append(out, s.version)
	case codec.PUBLISH:
		p := &s.view
		p.Split(h, body, s.version)
		switch p.QoS {
		case 1:
			out, _ = (&codec.Puback{PacketID: p.PacketID}).Append(out, s.version)
			if s.reply != nil {
				out = s.reply(out, p)
			}
		case 2:
			out, _ = (&codec.Pubrec{PacketID: p.PacketID}).Append(out, s.version)
		}
	case codec.PUBREL:
		var p codec.Pubrel
		p.Decode(h, body, s.version)
		out, _ = (&codec.Pubcomp{PacketID: p.PacketID}).Append(out, s.version)
	case codec.SUBSCRIBE:
		var p codec.Subscribe
		p.Decode(h, body, s.version)
		out, _ = (&codec.Suback{PacketID: p.PacketID, Codes: []codec.ReasonCode{codec.ReasonCode(p.Filters[0].QoS)}}).Append(out, s.version)
		w.Write(out)
		out = out[:0]
		if s.flood != nil {
			go s.flood(w)
		}
	}
	return out
}

func readHeader(r *bufio.Reader, v codec.Version) (codec.Header, error) {
	for n := 2; ; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return codec.Header{}, err
		}
		h, size, err := codec.ParseHeader(b, v)
		if err != nil {
			return h, err
		}
		if size > 0 {
			_, err = r.Discard(size)
			return h, err
		}
	}
}

// benchClient is what the benchmarks do with a client of either version, without anything in between.
type benchClient struct {
	publishQoS0 func() error
	publish     func(mqtt.QoS) error
	async       func(mqtt.QoS) *mqtt.Delivery
}

var payload64 = make([]byte, 64)

func eachVersion(tb testing.TB, f func(version string, c benchClient)) {
	ctx := context.Background()
	c5, err := mqtt.NewClient(ctx, startAckServer(tb, codec.V5, nil))
	if err != nil {
		tb.Fatal(err)
	}
	defer c5.Close()
	c3, err := mqtt.NewClientV311(ctx, startAckServer(tb, codec.V311, nil))
	if err != nil {
		tb.Fatal(err)
	}
	defer c3.Close()
	const topic = "bench/topic"
	f("5.0", benchClient{
		publishQoS0: func() error { return c5.Publish(ctx, topic, payload64) },
		publish:     func(qos mqtt.QoS) error { return c5.Publish(ctx, topic, payload64, qos) },
		async:       func(qos mqtt.QoS) *mqtt.Delivery { return c5.PublishAsync(ctx, topic, payload64, qos) },
	})
	f("3.1.1", benchClient{
		publishQoS0: func() error { return c3.Publish(ctx, topic, payload64) },
		publish:     func(qos mqtt.QoS) error { return c3.Publish(ctx, topic, payload64, qos) },
		async:       func(qos mqtt.QoS) *mqtt.Delivery { return c3.PublishAsync(ctx, topic, payload64, qos) },
	})
}

func BenchmarkPublishQoS0(b *testing.B) {
	eachVersion(b, func(version string, c benchClient) {
		b.Run(version, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.publishQoS0(); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

func BenchmarkPublishQoS1Serial(b *testing.B) {
	eachVersion(b, func(version string, c benchClient) {
		b.Run(version, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.publish(mqtt.AtLeastOnce); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

func BenchmarkPublishAsync(b *testing.B) {
	eachVersion(b, func(version string, c benchClient) {
		for _, qos := range []mqtt.QoS{mqtt.AtLeastOnce, mqtt.ExactlyOnce} {
			b.Run(version+"/"+qos.String(), func(b *testing.B) {
				b.ReportAllocs()
				var last *mqtt.Delivery
				for b.Loop() {
					last = c.async(qos)
				}
				if err := last.Wait(context.Background()); err != nil {
					b.Fatal(err)
				}
			})
		}
	})
}

// What the hook Publish costs: "none" must be what BenchmarkPublishQoS0 is, without an allocation.
func BenchmarkTracePublish(b *testing.B) {
	done := func(mqtt.PublishOutcome) {}
	for name, trace := range map[string]*mqtt.Trace{
		"none": {},
		"hook": {Publish: func(context.Context, *mqtt.PublishTrace) func(mqtt.PublishOutcome) { return done }},
	} {
		b.Run(name, func(b *testing.B) {
			c, err := mqtt.NewClient(context.Background(), startAckServer(b, codec.V5, nil), mqtt.WithTrace(trace))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Publish(context.Background(), "bench/topic", payload64); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
