package mqtttest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// backlog is how many connections may wait for Accept.
const backlog = 64

// Server is the other end for tests that decide every byte which a client gets: it knows no protocol, and the test drives each
// connection step by step, as a Script. It starts no goroutines.
//
//	server := mqtttest.NewServer(t, codec.V5)
//	go connectTheClient(server.DialContext)
//	s := server.Accept()
//	s.Expect(&codec.Connect{CleanStart: true, ClientID: "billing"})
//	s.Send(&codec.Connack{})
type Server struct {
	tb      testing.TB
	version codec.Version
	waiting chan *endpoint // dialled and not accepted

	mu    sync.Mutex // guards what is below
	dials int
	ends  []*endpoint // to be closed when the test ends
}

// NewServer returns a server for a test whose client speaks version v. Its connections are closed when the test ends.
func NewServer(tb testing.TB, v codec.Version) *Server {
	s := &Server{tb: tb, version: v, waiting: make(chan *endpoint, backlog)}
	tb.Cleanup(s.close)
	return s
}

func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.ends {
		_ = e.Close()
	}
}

// DialContext connects a client through memory. Network and address do not matter. It fits the dialer option of clients, and
// may be called concurrently. It does not wait for Accept. When 64 connections wait for Accept, it refuses.
func (s *Server) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, dialError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	client, server := newConnection(addr(fmt.Sprintf("client:%d", s.dials)), "server:1883", shape{})
	select {
	case s.waiting <- server:
		s.ends = append(s.ends, server)
		return client, nil
	default:
		return nil, dialError(syscall.ECONNREFUSED)
	}
}

// Accept returns the next connection. It fails the test when none comes in ten seconds. Like the methods of Script, it must
// be called from the goroutine that runs the test.
func (s *Server) Accept() *Script {
	s.tb.Helper()
	timeout := time.NewTimer(defaultPatience)
	defer timeout.Stop()
	select {
	case e := <-s.waiting:
		return &Script{tb: s.tb, end: e, version: s.version, patience: defaultPatience}
	case <-timeout.C:
		s.tb.Fatalf("mqtttest: no connection within %v", defaultPatience)
		return nil
	}
}
