package link

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// sink is a connection that takes everything and brings the same bytes again and again, or nothing.
type sink struct {
	net.Conn
	brings []byte
	closed chan struct{}
}

func (s *sink) Read(b []byte) (int, error) {
	select {
	case <-s.closed:
		return 0, io.EOF
	default:
	}
	if s.brings == nil {
		<-s.closed
		return 0, io.EOF
	}
	return copy(b, s.brings), nil
}

func (s *sink) Write(b []byte) (int, error)      { return len(b), nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) Close() error                     { close(s.closed); return nil }

// A packet of 64 bytes from Buffer to the connection.
func BenchmarkCommit(b *testing.B) {
	var mu sync.Mutex
	l := New(&sink{closed: make(chan struct{})}, &mu, Config{Patience: time.Minute})
	l.Start(silent{}, time.Minute)
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		mu.Lock()
		for l.Full() {
			mu.Unlock()
			runtime.Gosched()
			mu.Lock()
		}
		l.Commit(append(l.Buffer(), p...))
		mu.Unlock()
	}
	l.Close(io.EOF)
	_ = l.Wait()
}

// A packet of 64 bytes from the connection to the handler.
func BenchmarkPacket(b *testing.B) {
	var mu sync.Mutex
	const perRead = 900
	l := New(&sink{brings: bytes.Repeat(packet(0x30, 62), perRead)}, &mu, Config{})
	l.conn.(*sink).closed = make(chan struct{})
	l.handler = silent{}
	b.ReportAllocs()
	for b.Loop() {
		if err := l.fill(); err != nil {
			b.Fatal(err)
		}
		for more := true; more; {
			var err error
			if more, err = l.dispatch(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*perRead), "ns/packet")
}
