package mqtttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// The writer must not say goodbye between the two steps of a cut.
func TestCutIsNoGoodbye(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "1")
		conns := b.abandon([]string{"1"})
		s.end.SetReadDeadline(time.Now().Add(time.Second))
		_, err := s.end.Read(make([]byte, 1))
		wantError(t, "read in the middle of Cut", err, os.ErrDeadlineExceeded)
		conns[0].cut()
	})
}

func TestBrokerCut(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		one, two, three := connect(t, b, v, "1"), connect(t, b, v, "2"), connect(t, b, v, "3")
		b.Cut("1", "nobody")
		_, err := one.read()
		wantError(t, "read after Cut", err, syscall.ECONNRESET)
		two.barrier()
		three.barrier()
		if got := b.Clients(); fmt.Sprint(got) != "[2 3]" {
			t.Errorf("Clients %v", got)
		}
		b.Cut()
		for _, s := range []*Script{two, three} {
			_, err := s.read()
			wantError(t, "read after Cut of all", err, syscall.ECONNRESET)
		}
	})
}

func TestBrokerKick(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		b.Kick("nobody", 0x98)
		b.Kick("c", 0x98)
		if v == codec.V5 {
			s.Expect(&codec.Disconnect{Code: codec.AdministrativeAction})
		}
		s.ExpectEOF()
		if got := b.Clients(); len(got) > 0 {
			t.Errorf("Clients %v", got)
		}
	})
}

// Who does not close after the end is closed.
func TestBrokerLingers(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		b.Kick("c", 0x98)
		time.Sleep(linger - 1)
		s.Send(&codec.Pingreq{})
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		_, err := s.end.Write([]byte{0xC0, 0})
		wantError(t, "write", err, syscall.EPIPE)
	})
}

func TestBrokerOffline(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		s := resume(t, b, v)
		b.Offline()
		_, err := s.read()
		wantError(t, "read", err, syscall.ECONNRESET)
		_, err = b.DialContext(t.Context(), "tcp", "x")
		wantError(t, "DialContext", err, syscall.ECONNREFUSED)
		b.Online()
		resume(t, b, v)
	})
}

func TestBrokerForget(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		b.Forget("nobody")
		s := resume(t, b, v)
		b.Forget("sub")
		_, err := s.read()
		wantError(t, "read", err, syscall.ECONNRESET)
		for _, state := range []string{"connected", "away"} {
			if _, ack := connectAs(t, b, v, persistent(v, "sub", false)); ack.SessionPresent {
				t.Errorf("forgotten while %s, the session is still there", state)
			}
			b.Cut()
			b.Forget("sub")
		}
	})
}

func TestBrokerForgetAll(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		s, _ := connectAs(t, b, v, persistent(v, "c", false))
		b.Publish(Message{Topic: "a", Payload: []byte("x"), Retain: true})
		b.Forget()
		_, err := s.read()
		wantError(t, "read", err, syscall.ECONNRESET)
		for _, id := range []string{"sub", "c"} {
			if _, ack := connectAs(t, b, v, persistent(v, id, false)); ack.SessionPresent {
				t.Errorf("the session of %s is still there", id)
			}
		}
		s = connect(t, b, v, "other")
		s.subscribe(at(0, "a"))
		s.wantPublish("a=x q0 retain")
	})
}

func TestBrokerThrottle(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		slow, fast := connect(t, b, v, "slow"), connect(t, b, v, "fast")
		took := func(s *Script) time.Duration {
			start := time.Now()
			s.barrier()
			return time.Since(start)
		}
		b.Throttle(10, "slow")
		if got := took(slow); got != 200*time.Millisecond { // two bytes there and back, all but the first wait
			t.Errorf("slow after %v", got)
		}
		if got := took(fast); got != 0 {
			t.Errorf("fast after %v", got)
		}
		b.Throttle(0)
		if got := took(slow); got != 0 {
			t.Errorf("after Throttle(0): %v", got)
		}
	})
}

func TestBrokerHalfOpen(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s, _ := connectAs(t, b, v, &codec.Connect{ClientID: "c", CleanStart: true, KeepAlive: 10})
		other := connect(t, b, v, "other")
		b.HalfOpen("c")
		s.Send(&codec.Pingreq{})
		s.ExpectSilence(time.Hour)
		if got := b.Clients(); fmt.Sprint(got) != "[other]" {
			t.Errorf("Clients %v after the keep alive", got)
		}
		other.barrier()
	})
}

func TestBrokerAwait(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			for i := range 5 {
				time.Sleep(100 * time.Millisecond)
				s.Send(&codec.Publish{Topic: fmt.Sprintf("%d/x", i%2)})
			}
		}()
		start := time.Now()
		if got := b.Await(ctx, "0/+", 2); len(got) != 2 || time.Since(start) != 300*time.Millisecond {
			t.Errorf("%v after %v", got, time.Since(start))
		}
		if got := b.Await(ctx, "0/+", 2); len(got) != 2 {
			t.Errorf("what has come is not returned: %v", got)
		}
		if got := b.Await(ctx, "0/+", 4); len(got) != 3 || ctx.Err() == nil {
			t.Errorf("%v, want what came until ctx ended", got)
		}
		if got := b.Received("0/x", "1/x"); len(got) != 5 {
			t.Errorf("Received %v", got)
		}
	})
}

func TestBrokerKeepReceived(t *testing.T) {
	b := NewBroker(t, KeepReceived(3))
	s := connect(t, b, codec.V5, "c")
	for i := range 10 {
		s.publish(&codec.Publish{Topic: fmt.Sprint(i), QoS: 1, PacketID: 1})
	}
	if got := b.Received(); len(got) != 3 || got[0].Topic != "7" || got[2].Topic != "9" {
		t.Errorf("Received %v", got)
	}
}

// Publish does not keep the caller's payload.
func TestBrokerPublishCopies(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		offline(t, b, codec.V5)
		payload := []byte("x")
		b.Publish(Message{Topic: "a", Payload: payload, QoS: 1})
		payload[0] = 'y'
		resume(t, b, codec.V5).wantPublish("a=x q1")
	})
}

func TestBrokerPanics(t *testing.T) {
	b := NewBroker(t)
	for name, f := range map[string]func(){
		"Publish to a wildcard": func() { b.Publish(Message{Topic: "#"}) },
		"Publish at QoS 3":      func() { b.Publish(Message{Topic: "a", QoS: 3}) },
		"Received":              func() { b.Received("a#") },
		"Await":                 func() { b.Await(t.Context(), "", 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			f()
		}()
	}
}

func TestBrokerServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := New()
	served := make(chan error)
	go func() { served <- b.Serve(l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	hello, _ := (&codec.Connect{ClientID: "c", CleanStart: true}).Append(nil, codec.V5)
	if _, err := nc.Write(hello); err != nil {
		t.Fatal(err)
	}
	if p, err := codec.ReadPacket(nc, codec.V5, 0); err != nil || p.Type() != codec.CONNACK {
		t.Fatalf("%v, %v", p, err)
	}
	b.Kick("c", 0x98)
	rest, err := io.ReadAll(nc)
	if want := []byte{0xE0, 1, 0x98}; !bytes.Equal(rest, want) || err != nil {
		t.Errorf("after Kick comes % x, %v", rest, err)
	}
	b.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open after Close: %v", err)
	}
}

func TestBrokerServeConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t)
		client, server := net.Pipe()
		go func() {
			hello, _ := (&codec.Connect{ClientID: "c", CleanStart: true}).Append(nil, codec.V311)
			client.Write(hello)
			io.ReadFull(client, make([]byte, 4))
			client.Close()
		}()
		b.ServeConn(server)
		if _, err := server.Write([]byte{0}); err != io.ErrClosedPipe {
			t.Errorf("the connection is not closed: %v", err)
		}
	})
}

// After Close nothing works, and Close may be called again.
func TestBrokerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t)
		offline(t, b, codec.V5) // its session must not wait for its end
		s := connect(t, b, codec.V5, "c")
		start := time.Now()
		b.Close()
		b.Close()
		s.ExpectEOF()
		_, err := b.DialContext(t.Context(), "tcp", "x")
		wantError(t, "DialContext", err, syscall.ECONNREFUSED)
		client, server := net.Pipe()
		b.ServeConn(server)
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("ServeConn: %v", err)
		}
		if time.Since(start) != 0 {
			t.Errorf("takes %v", time.Since(start))
		}
	})
}

func TestBrokerDialContext(t *testing.T) {
	b := NewBroker(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.DialContext(ctx, "tcp", "x")
	wantError(t, "DialContext", err, context.Canceled)
}

// The broker's limits change between connections, and each connection is held to those that its CONNACK announced.
func TestBrokerReconfigure(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		limits := func(s *Script, ack *codec.Connack) [3]uint16 {
			qos := uint16(2)
			if ack.Properties.MaximumQoS != nil {
				qos = uint16(*ack.Properties.MaximumQoS)
			}
			return [3]uint16{ack.Properties.ReceiveMaximum, qos, ack.Properties.TopicAliasMaximum}
		}
		connectNew := func(id string) (*Script, *codec.Connack) {
			return connectAs(t, b, codec.V5, &codec.Connect{ClientID: id, CleanStart: true})
		}
		first, ack := connectNew("first")
		if got, want := limits(first, ack), [3]uint16{7, 2, 10}; got != want {
			t.Errorf("limits %v, want %v", got, want)
		}
		b.Reconfigure(MaximumQoS(1), TopicAliasMaximum(0))
		second, ack := connectNew("second")
		if got, want := limits(second, ack), [3]uint16{7, 1, 0}; got != want {
			t.Errorf("limits %v, want %v", got, want)
		}
		if got := second.subscribe(at(2, "#")); got.Codes[0] != 1 {
			t.Errorf("SUBACK %v above the limit", got.Codes)
		}
		first.publish(publishOf(2, "a")) // this one was told that it may
		first.publish(&codec.Publish{Topic: "b", TopicAlias: 1})
		for _, want := range []string{"a=x q1", "b= q0"} {
			second.wantPublish(want)
		}
		b.Reconfigure()
		third, ack := connectNew("third")
		if got, want := limits(third, ack), [3]uint16{7, 2, 10}; got != want {
			t.Errorf("limits %v, want %v", got, want)
		}
	}, ReceiveMaximum(7))
}

// Authentication methods are added to those that there are, and taken away again.
func TestBrokerReconfigureAuthentication(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		try := func(method string) codec.ReasonCode {
			s := dial(t, b, codec.V5)
			defer s.Close()
			s.Send(&codec.Connect{ClientID: "c", CleanStart: true, Properties: codec.ConnectProperties{AuthenticationMethod: method}})
			ack, ok := s.Receive().(*codec.Connack)
			if !ok {
				return codec.Success
			}
			return ack.Code
		}
		b.Reconfigure(Authentication("other", echo))
		if one, other := try("echo"), try("other"); one != 0 || other != 0 {
			t.Errorf("echo %v, other %v, want both", one, other)
		}
		b.Reconfigure()
		if one, other := try("echo"), try("other"); one != 0 || other != codec.BadAuthenticationMethod {
			t.Errorf("echo %v, other %v, want echo alone", one, other)
		}
	}, Authentication("echo", echo))
}

// A client that was told that retained messages are available may go on with them.
func TestBrokerReconfigureRetain(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		b.Reconfigure(NoRetain())
		s.publish(&codec.Publish{Topic: "a", Retain: true})
		s.barrier()
		b.Publish(Message{Topic: "b", Retain: true, Payload: []byte("x")})
		s.publish(&codec.Publish{Topic: "c", Retain: true, Payload: []byte("x")})
		s.subscribe(at(0, "#"))
		s.wantPublish("c=x q0 retain")
		s.barrier()
	})
}

func TestBrokerAwaitSubscription(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		await := func(filter string, want error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := b.AwaitSubscription(ctx, filter); err != want {
				t.Errorf("AwaitSubscription(%q): %v, want %v", filter, err, want)
			}
		}
		later := func(f func()) {
			go func() {
				time.Sleep(time.Second)
				f()
			}()
		}
		offline(t, b, v)
		await("a/#", context.DeadlineExceeded) // its client is away
		later(func() { resume(t, b, v) })
		await("a/#", nil)
		await("a/#", nil)
		s := connect(t, b, v, "c")
		later(func() {
			s.Send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "x"), at(0, "y")}})
		})
		await("y", nil)
		await("z", context.DeadlineExceeded)
	})
}
