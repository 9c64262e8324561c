package mqtttest

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// recorder is a test whose failures are the subject of a test.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

// fails runs f, which has to fail, and returns how.
func fails(t *testing.T, f func(tb testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	if len(r.failures) != 1 {
		t.Fatalf("failures %q", r.failures)
	}
	return r.failures[0]
}

// inScript runs a test in virtual time with a server and both ends of a connection to it.
func inScript(t *testing.T, f func(t *testing.T, s *Script, client *endpoint)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := NewServer(t, codec.V5)
		nc, err := server.DialContext(t.Context(), "tcp", "x")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		f(t, server.Accept(), nc.(*endpoint))
	})
}

func TestScript(t *testing.T) {
	inScript(t, func(t *testing.T, s *Script, client *endpoint) {
		c := &Script{tb: t, end: client, version: codec.V5, patience: time.Second}
		c.Send(&codec.Connect{ClientID: "c", Properties: codec.ConnectProperties{UserProperties: codec.UserProperties{}}}, &codec.Pingreq{})
		s.Expect(&codec.Connect{ClientID: "c", Password: []byte{}})
		s.ExpectBytes(0xC0, 0)
		s.SendBytes(0x20, 3, 0)
		s.SendBytes(0, 0)
		c.Expect(&codec.Connack{})
		s.Send(&codec.Publish{Topic: "a", Payload: []byte("x")}, &codec.Pingresp{})
		if p := ReceiveAs[*codec.Publish](c); brief(p) != "a=x q0" {
			t.Errorf("%s", brief(p))
		}
		if p := c.Receive(); p.Type() != codec.PINGRESP {
			t.Errorf("%s", p.Type())
		}
		start := time.Now()
		s.ExpectSilence(time.Minute)
		if time.Since(start) != time.Minute {
			t.Errorf("silence of %v", time.Since(start))
		}
		client.Close()
		s.ExpectEOF()
	})
}

// What does not come as expected fails the test, in time, and says what came.
func TestScriptFails(t *testing.T) {
	for _, c := range []struct {
		name string
		send []byte // by the client; nil: nothing, empty: it closes
		run  func(s *Script)
		want string
	}{
		{"other packet", []byte{0xC0, 0}, func(s *Script) { s.Expect(&codec.Disconnect{}) }, "Pingreq"},
		{"other field", []byte{0x40, 2, 0, 7}, func(s *Script) { s.Expect(&codec.Puback{PacketID: 8}) }, "7"},
		{"no packet", nil, func(s *Script) { s.Expect(&codec.Pingreq{}) }, "PINGREQ"},
		{"no packet for Receive", nil, func(s *Script) { s.Receive() }, "no packet"},
		{"part of a packet", []byte{0x40, 2, 0}, func(s *Script) { s.Receive() }, "timeout"},
		{"other type", []byte{0xC0, 0}, func(s *Script) { ReceiveAs[*codec.Publish](s) }, "PINGREQ"},
		{"malformed", []byte{0xC1, 0}, func(s *Script) { s.Receive() }, "MQTT-2.1.3-1"},
		{"other bytes", []byte{1, 2}, func(s *Script) { s.ExpectBytes(1, 3) }, "01 02"},
		{"too few bytes", []byte{1}, func(s *Script) { s.ExpectBytes(1, 3) }, "timeout"},
		{"no end", nil, func(s *Script) { s.ExpectEOF() }, "timeout"},
		{"packet before the end", []byte{0xC0, 0}, func(s *Script) { s.ExpectEOF() }, "PINGREQ"},
		{"no silence", []byte{1}, func(s *Script) { s.ExpectSilence(time.Second) }, "silence"},
		{"end and no silence", []byte{}, func(s *Script) { s.ExpectSilence(time.Second) }, "EOF"},
		{"packet that cannot be", nil, func(s *Script) { s.Send(&codec.Puback{}) }, "SendBytes"},
		{"client that does not read", nil, func(s *Script) { s.SendBytes(make([]byte, window+1)...) }, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inScript(t, func(t *testing.T, s *Script, client *endpoint) {
				client.Write(c.send)
				if c.send != nil && len(c.send) == 0 {
					client.Close()
				}
				start := time.Now()
				if got := fails(t, func(tb testing.TB) { s.tb = tb; c.run(s) }); !strings.Contains(got, c.want) {
					t.Errorf("fails with %q, want %q in it", got, c.want)
				}
				if d := time.Since(start); d > defaultPatience {
					t.Errorf("takes %v", d)
				}
			})
		})
	}
}

// An absent property and an empty one are told apart.
func TestScriptEmptyData(t *testing.T) {
	inScript(t, func(t *testing.T, s *Script, client *endpoint) {
		auth := &codec.Auth{Code: codec.ContinueAuthentication, Method: "m", Data: []byte{}}
		b, err := auth.Append(nil, codec.V5)
		if err != nil {
			t.Fatal(err)
		}
		client.Write(append(b, b...))
		s.Expect(auth)
		fails(t, func(tb testing.TB) {
			s.tb = tb
			s.Expect(&codec.Auth{Code: codec.ContinueAuthentication, Method: "m"})
		})
	})
}

func TestScriptEnds(t *testing.T) {
	inScript(t, func(t *testing.T, s *Script, client *endpoint) {
		s.Send(&codec.Pingresp{})
		s.Close()
		if got, err := io.ReadAll(client); len(got) != 2 || err != nil {
			t.Errorf("after Close: %v, %v", got, err)
		}
	})
	inScript(t, func(t *testing.T, s *Script, client *endpoint) {
		s.Send(&codec.Pingresp{})
		s.Cut()
		_, err := client.Read(make([]byte, 2))
		wantError(t, "read after Cut", err, syscall.ECONNRESET)
	})
	inScript(t, func(t *testing.T, s *Script, client *endpoint) {
		s.HalfOpen()
		s.Close()
		client.SetReadDeadline(time.Now().Add(time.Hour))
		_, err := client.Read(make([]byte, 2))
		wantTimeout(t, "read after HalfOpen", err)
	})
}

func TestServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := NewServer(t, codec.V311)
		start := time.Now()
		fails(t, func(tb testing.TB) {
			server.tb = tb
			server.Accept()
		})
		if time.Since(start) != defaultPatience {
			t.Errorf("Accept waits %v", time.Since(start))
		}
		server.tb = t
		for range backlog {
			if _, err := server.DialContext(t.Context(), "tcp", "x"); err != nil {
				t.Fatal(err)
			}
		}
		_, err := server.DialContext(t.Context(), "tcp", "x")
		wantError(t, "DialContext with a full backlog", err, syscall.ECONNREFUSED)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		server.Accept()
		_, err = server.DialContext(ctx, "tcp", "x")
		wantError(t, "DialContext", err, context.Canceled)
	})
}

// Connections are accepted in the order in which they were made.
func TestServerOrder(t *testing.T) {
	server := NewServer(t, codec.V5)
	for i := range byte(3) {
		nc, err := server.DialContext(t.Context(), "tcp", "x")
		if err != nil {
			t.Fatal(err)
		}
		nc.Write([]byte{i})
	}
	for i := range byte(3) {
		server.Accept().ExpectBytes(i)
	}
}
