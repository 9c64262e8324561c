package transport_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

// dialBench dials a server on the loopback interface with each scheme.
func dialBench(b *testing.B, serve func(net.Conn), f func(b *testing.B, conn net.Conn)) {
	ca := mqtttest.NewAuthority()
	config := &tls.Config{Certificates: []tls.Certificate{issue(ca, "server", "host")}}
	for _, scheme := range []string{"mqtt", "mqtts", "ws", "wss"} {
		b.Run(scheme, func(b *testing.B) {
			d := transport.Dialer{
				TLS: &tls.Config{RootCAs: ca.Pool()}, Patience: patience,
				NetDial: loopback(b, func(conn net.Conn) {
					if scheme == "mqtts" || scheme == "wss" {
						conn = tls.Server(conn, config)
					}
					if scheme == "ws" || scheme == "wss" {
						conn = acceptWebSocket(conn)
					}
					serve(conn)
				}),
			}
			u, err := transport.ParseURL(scheme + "://host")
			if err != nil {
				b.Fatal(err)
			}
			conn, err := d.Dial(b.Context(), u)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			b.ReportAllocs()
			f(b, conn)
		})
	}
}

var benchSizes = []int{64, 4 << 10, 64 << 10}

// Writes of one batch each, to a server that throws away what comes.
func BenchmarkWrite(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			dialBench(b, func(c net.Conn) { io.Copy(io.Discard, c) }, func(b *testing.B, conn net.Conn) {
				b.SetBytes(int64(size))
				batch := make([]byte, size)
				for b.Loop() {
					if _, err := conn.Write(batch); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// Reads from a server that sends batches of one size, each a frame of its own.
func BenchmarkRead(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			serve := func(c net.Conn) {
				batch := make([]byte, size)
				if s, ok := c.(*wsServer); ok {
					c, batch = s.Conn, frame(binaryBit, string(batch))
				}
				for err := error(nil); err == nil; {
					_, err = c.Write(batch)
				}
			}
			dialBench(b, serve, func(b *testing.B, conn net.Conn) {
				b.SetBytes(int64(size))
				space := make([]byte, 64<<10)
				surplus := 0 // a read may bring more than a batch
				for b.Loop() {
					for surplus < size {
						n, err := conn.Read(space)
						if err != nil {
							b.Fatal(err)
						}
						surplus += n
					}
					surplus -= size
				}
			})
		})
	}
}
