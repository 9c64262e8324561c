package mqtttest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// The broker stops reading from a client that does not read, and loses nothing.
func TestBrokerHoldsBackWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t, KeepReceived(0))
		s := connect(t, b, codec.V5, "c")
		written := 0
		s.end.SetWriteDeadline(time.Now().Add(time.Minute))
		for id := uint16(1); ; id++ {
			publish, _ := (&codec.Publish{Topic: "a", QoS: 1, PacketID: id}).Append(nil, codec.V5)
			if _, err := s.end.Write(publish); err != nil {
				wantError(t, "Write", err, os.ErrDeadlineExceeded)
				break
			}
			written++
		}
		b.mu.Lock()
		waiting := len(b.sessions["c"].conn.outbox.packets)
		b.mu.Unlock()
		if waiting != maxWaiting+1 {
			t.Errorf("%d packets wait", waiting)
		}
		for range written {
			ReceiveAs[*codec.Puback](s)
		}
	})
}

// A client that never stops sending after the end does not keep its connection.
func TestBrokerEndsFlood(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := connect(t, b, v, "c")
		b.Kick("c", 0x98)
		for {
			if _, err := s.end.Write(bytes.Repeat([]byte{0xC0, 0}, 500)); err != nil {
				wantError(t, "Write", err, syscall.EPIPE)
				return
			}
		}
	})
}

// Messages at QoS 0 for a client that does not read are dropped when too many bytes wait.
func TestBrokerDropsQoS0(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBroker(t, func(s *settings) { s.waiting = 10_000 })
		s := connect(t, b, codec.V5, "c")
		s.subscribe(at(1, "#"))
		b.Publish(Message{Topic: "first", Payload: make([]byte, 2*window)}) // keeps the writer busy
		synctest.Wait()
		const size, count = 1000, 10
		for range count + 3 {
			b.Publish(Message{Topic: "a", Payload: make([]byte, size)})
		}
		b.Publish(Message{Topic: "last", QoS: 1})
		come := (&codec.Publish{Topic: "first", Payload: make([]byte, 2*window)}).Size(codec.V5)
		come += count * (&codec.Publish{Topic: "a", Payload: make([]byte, size)}).Size(codec.V5)
		if _, err := io.CopyN(io.Discard, s.end, int64(come)); err != nil {
			t.Fatal(err)
		}
		if p := ReceiveAs[*codec.Publish](s); p.Topic != "last" {
			t.Errorf("%q comes, want the message at QoS 1", p.Topic)
		}
	})
}

// Packets may come in pieces and several at a time [MQTT-4.2.0-1].
func TestBrokerPieces(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s := dial(t, b, v)
		var all []byte
		for _, p := range []codec.Packet{&codec.Connect{ClientID: "c", CleanStart: true}, &codec.Pingreq{}, publishOf(1, "a"), publishOf(1, "b")} {
			all, _ = p.Append(all, v)
		}
		for i := range all {
			s.SendBytes(all[i])
			synctest.Wait()
		}
		buffer := make([]byte, 100)
		if n, err := s.end.Read(buffer); n != 1 || err != nil {
			t.Errorf("Read returns %d, %v", n, err)
		}
		if got := b.Received(); len(got) != 2 {
			t.Errorf("Received %v", got)
		}
	}, Fragment(1))
}

// A message that nobody gets is acknowledged with 0x10, unless the test gets it.
func TestSubscribers(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		for topic, want := range map[string]codec.ReasonCode{"a": 0, "b/c": 0, "b": codec.NoMatchingSubscribers} {
			s.Send(publishOf(1, topic))
			s.Expect(&codec.Puback{PacketID: 1, Code: want})
		}
	}, Subscribers("a"), Subscribers("b/+"))
}

func TestNetworkAddresses(t *testing.T) {
	b := NewBroker(t)
	s, other := dial(t, b, codec.V5), dial(t, b, codec.V5)
	if s.end.LocalAddr().String() == other.end.LocalAddr().String() {
		t.Error("two clients have the same address")
	}
	if a := s.end.RemoteAddr(); a.Network() != "mqtttest" || a.String() == "" {
		t.Errorf("remote address %v of network %q", a, a.Network())
	}
}

// The broker's methods and its clients do not get in each other's way. The race detector watches.
func TestBrokerConcurrent(t *testing.T) {
	b := NewBroker(t)
	var wg sync.WaitGroup
	for i := range 4 {
		v := []codec.Version{codec.V311, codec.V5}[i%2]
		wg.Go(func() {
			s := connect(t, b, v, fmt.Sprint(i))
			s.subscribe(at(2, "none/#"))
			for id := range uint16(200) {
				s.publish(&codec.Publish{Topic: fmt.Sprint("t/", i), QoS: byte(id % 3), PacketID: min(id%3, 1) * (id + 1)})
			}
			s.Send(&codec.Disconnect{})
			s.end.Close()
		})
	}
	wg.Go(func() {
		for range 200 {
			remove := b.Fault(Fault{Packet: "SUBACK", Drop: true})
			unhook := b.Intercept(func(string, bool, codec.Packet) bool { return true })
			b.Publish(Message{Topic: "t/x", QoS: 1, Retain: true})
			b.Clients()
			b.Received("t/+")
			b.Cut("nobody")
			b.Forget("nobody")
			unhook()
			remove()
		}
	})
	wg.Go(func() { b.Await(t.Context(), "t/+", 800) })
	wg.Wait()
	if got := len(b.Received()); got != 800 {
		t.Errorf("%d messages", got)
	}
}
