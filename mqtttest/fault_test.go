package mqtttest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/petrel-mqtt/mqtt/codec"
)

// A dropped acknowledgement does not come; the broker has the message all the same.
func TestFaultDropOutbound(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		remove := b.Fault(Fault{ClientID: "c", Packet: "PUBACK", Outbound: true, Skip: 1, Times: 2, Drop: true})
		s, other := connect(t, b, v, "c"), connect(t, b, v, "other")
		for id := range uint16(5) {
			s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: id + 1})
			other.publish(publishOf(1, "a"))
		}
		for _, id := range []uint16{1, 4, 5} {
			if ack := ReceiveAs[*codec.Puback](s); ack.PacketID != id {
				t.Errorf("PUBACK %d, want %d", ack.PacketID, id)
			}
		}
		s.barrier()
		remove()
		if got := len(b.Received()); got != 10 {
			t.Errorf("%d messages have come", got)
		}
	})
}

func TestFaultDropInbound(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		remove := b.Fault(Fault{Packet: "PUBLISH", Drop: true})
		s := connect(t, b, v, "c")
		s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1})
		s.barrier()
		remove()
		s.publish(&codec.Publish{Topic: "b", QoS: 1, PacketID: 2})
		if got := b.Received(); len(got) != 1 || got[0].Topic != "b" {
			t.Errorf("Received %v", got)
		}
	})
}

// A delayed packet is late, and no other.
func TestFaultDelay(t *testing.T) {
	for _, outbound := range []bool{true, false} {
		forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
			f := Fault{Packet: "PUBLISH", Delay: time.Second, Times: 2}
			if outbound {
				f = Fault{Packet: "PUBACK", Outbound: true, Delay: time.Second, Times: 2}
			}
			b.Fault(f)
			s := connect(t, b, v, "c")
			start := time.Now()
			for id := range uint16(4) {
				s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: id + 1})
			}
			for _, id := range []uint16{3, 4, 1, 2} {
				if ack := ReceiveAs[*codec.Puback](s); ack.PacketID != id {
					t.Errorf("PUBACK %d, want %d", ack.PacketID, id)
				}
				if late := time.Since(start) == time.Second; late != (id < 3) {
					t.Errorf("PUBACK %d after %v", id, time.Since(start))
				}
			}
		})
	}
}

// What is delayed beyond the end of its connection is lost.
func TestFaultDelayEnds(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Fault(Fault{Packet: "PUBLISH", Delay: time.Second})
		s := connect(t, b, v, "c")
		s.Send(publishOf(0, "a"))
		s.barrier()
		b.Cut()
		time.Sleep(2 * time.Second)
		if got := b.Received(); len(got) > 0 {
			t.Errorf("Received %v", got)
		}
	})
}

func TestFaultCutOutbound(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		b.Fault(Fault{Packet: "PUBLISH", Outbound: true, Skip: 1, Times: 1, Cut: true})
		s := resume(t, b, v)
		for i := range 3 {
			b.Publish(Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: 1})
		}
		for i := range 2 { // it has been sent before the cut
			if p := ReceiveAs[*codec.Publish](s); brief(p) != fmt.Sprintf("a=%d q1", i) {
				t.Errorf("%s comes", brief(p))
			}
		}
		s.ExpectEOF()
		s = resume(t, b, v)
		for _, want := range []string{"a=0 q1 dup", "a=1 q1 dup"} {
			s.wantPublish(want)
		}
		if p := ReceiveAs[*codec.Publish](s); string(p.Payload) != "2" {
			t.Errorf("%s comes", brief(p))
		}
	})
}

// A connection that is cut after a PUBLISH has come ends without an answer, and the message has been taken.
func TestFaultCutInbound(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Fault(Fault{Packet: "PUBLISH", Cut: true})
		s := connect(t, b, v, "c")
		s.Send(publishOf(1, "a"))
		s.ExpectEOF()
		synctest.Wait() // both directions are closed, one after the other
		_, err := s.end.Write([]byte{0xC0, 0})
		wantError(t, "write", err, syscall.EPIPE)
		if got := b.Received(); len(got) != 1 {
			t.Errorf("Received %v", got)
		}
	})
}

// Each packet of the client that has an answer gets it with the reason, and is not acted on.
func TestFaultReasonInbound(t *testing.T) {
	const denied = codec.NotAuthorized
	for _, c := range []struct {
		send, want5, want3 codec.Packet // nil: the connection ends instead
	}{
		{publishOf(1, "a"), &codec.Puback{PacketID: 1, Code: denied}, nil},
		{publishOf(2, "a"), &codec.Pubrec{PacketID: 1, Code: denied}, nil},
		{publishOf(0, "a"), &codec.Disconnect{Code: denied}, nil},
		{&codec.Pingreq{}, &codec.Disconnect{Code: denied}, nil},
		{
			&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "a"), at(1, "b")}},
			&codec.Suback{PacketID: 1, Codes: []codec.ReasonCode{denied, denied}},
			&codec.Suback{PacketID: 1, Codes: []codec.ReasonCode{codec.UnspecifiedError, codec.UnspecifiedError}},
		},
		{
			&codec.Unsubscribe{PacketID: 1, Filters: []string{"a", "b"}},
			&codec.Unsuback{PacketID: 1, Codes: []codec.ReasonCode{denied, denied}}, nil,
		},
		{&codec.Connect{ClientID: "c", CleanStart: true}, &codec.Connack{Code: denied}, &codec.Connack{Code: denied}},
	} {
		t.Run(c.send.Type().String(), func(t *testing.T) {
			forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
				b.Fault(Fault{Packet: c.send.Type().String(), Reason: byte(denied)})
				s := dial(t, b, v)
				if c.send.Type() != codec.CONNECT {
					s = connect(t, b, v, "c")
				}
				s.Send(c.send)
				want := c.want3
				if v == codec.V5 {
					want = c.want5
				}
				if want == nil {
					s.ExpectEOF()
				} else {
					s.Expect(want)
				}
				if got := b.Received(); len(got) > 0 {
					t.Errorf("Received %v", got)
				}
			})
		})
	}
}

func TestFaultReasonOutbound(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Fault(Fault{Packet: "SUBACK", Outbound: true, Reason: 0x97})
		b.Fault(Fault{Packet: "PUBREC", Outbound: true, Reason: 0x97, Times: 1})
		s := connect(t, b, v, "c")
		ack := s.subscribe(at(1, "a"))
		if v == codec.V311 {
			if ack.Codes[0] != codec.UnspecifiedError {
				t.Errorf("SUBACK %v", ack.Codes)
			}
			s.Send(publishOf(2, "b"))
			s.ExpectEOF() // there is no other way to say so
			return
		}
		if ack.Codes[0] != codec.QuotaExceeded {
			t.Errorf("SUBACK %v", ack.Codes)
		}
		s.Send(publishOf(2, "b"))
		s.Expect(&codec.Pubrec{PacketID: 1, Code: codec.QuotaExceeded})
		s.publish(publishOf(2, "b"))
		if got := b.Received("b"); len(got) != 2 { // the packet identifier was new again [MQTT-4.3.3-9]
			t.Errorf("Received %v", got)
		}
	})
}

// A CONNACK that refuses is the last packet [MQTT-3.2.2-7], [MQTT311-3.2.2-5].
func TestFaultReasonConnack(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Fault(Fault{Packet: "CONNACK", Outbound: true, Reason: 0x87, Times: 1})
		s := dial(t, b, v)
		s.Send(&codec.Connect{ClientID: "c", CleanStart: true})
		s.Expect(&codec.Connack{Code: codec.NotAuthorized})
		s.ExpectEOF()
		connect(t, b, v, "c")
	})
}

// A reason does nothing to packets of the broker that have none.
func TestFaultReasonNone(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Fault(Fault{Packet: "PUBLISH", Outbound: true, Reason: 0x87})
		b.Fault(Fault{Packet: "PINGRESP", Outbound: true, Reason: 0x87})
		s := connect(t, b, v, "c")
		s.subscribe(at(0, "a"))
		b.Publish(Message{Topic: "a", Payload: []byte("x")})
		s.wantPublish("a=x q0")
		s.barrier()
	})
}

// Every packet of the broker that has a reason code can get another.
func TestFaultReasonOfEach(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		for _, c := range []struct {
			send, want codec.Packet
			reason     byte
		}{
			{&codec.Unsubscribe{PacketID: 1, Filters: []string{"a"}}, &codec.Unsuback{PacketID: 1, Codes: []codec.ReasonCode{0x87}}, 0x87},
			{publishOf(1, "a"), &codec.Puback{PacketID: 1, Code: 0x97}, 0x97},
			{&codec.Pubrec{PacketID: 9}, &codec.Pubrel{PacketID: 9, Code: 0x92}, 0x92},
		} {
			defer b.Fault(Fault{Packet: c.want.Type().String(), Outbound: true, Reason: c.reason})()
			if c.want.Type() == codec.PUBREL {
				s = reconnectV5(t, b)
			}
			s.Send(c.send)
			s.Expect(c.want)
		}
		b.Fault(Fault{Packet: "DISCONNECT", Outbound: true, Reason: 0x8B})
		b.Kick("c", 0x98)
		s.Expect(&codec.Disconnect{Code: codec.ServerShuttingDown})
	})
}

// reconnectV5 makes a session and resumes it, where an answer to a message of the past is no violation.
func reconnectV5(t *testing.T, b *Broker) *Script {
	t.Helper()
	s, _ := connectAs(t, b, codec.V5, persistent(codec.V5, "c", false))
	return reconnect(t, b, s)
}

// Packets that are delayed come when they are due, the same in the order in which they were delayed.
func TestFaultDelayOrder(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		s.subscribe(at(0, "a"))
		for i, d := range []time.Duration{3, 1, 2, 1, 3, 2} {
			defer b.Fault(Fault{Packet: "PUBLISH", Outbound: true, Delay: d * time.Second, Times: 1})()
			b.Publish(Message{Topic: "a", Payload: fmt.Append(nil, i)})
			s.barrier()
		}
		start := time.Now()
		var got []string
		for range 6 {
			p := ReceiveAs[*codec.Publish](s)
			got = append(got, fmt.Sprintf("%s at %v", p.Payload, time.Since(start)))
		}
		if want := []string{"1 at 1s", "3 at 1s", "2 at 2s", "5 at 2s", "0 at 3s", "4 at 3s"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// PUBCOMP with 0x92 ends the flow, and the packet identifier is new.
func TestFaultReasonPubcomp(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		b.Fault(Fault{Packet: "PUBREL", Reason: 0x92, Times: 1})
		s := connect(t, b, codec.V5, "c")
		s.Send(publishOf(2, "b"))
		ReceiveAs[*codec.Pubrec](s)
		s.Send(&codec.Pubrel{PacketID: 1})
		s.Expect(&codec.Pubcomp{PacketID: 1, Code: codec.PacketIdentifierNotFound})
		s.publish(publishOf(2, "b"))
		if got := b.Received("b"); len(got) != 2 {
			t.Errorf("Received %v", got)
		}
	})
}

// Topic aliases belong to the connection: a PUBLISH that a fault loses still defines one.
func TestFaultKeepsAliases(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		b.Fault(Fault{Packet: "PUBLISH", Times: 1, Drop: true})
		s := connect(t, b, codec.V5, "c")
		s.Send(&codec.Publish{Topic: "a", TopicAlias: 10})
		s.publish(&codec.Publish{TopicAlias: 10, QoS: 1, PacketID: 1})
		if got := b.Received("a"); len(got) != 1 {
			t.Errorf("Received %v", got)
		}
	})
}

// A hook sees both directions, may change packets, and lose them.
func TestIntercept(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		var mu sync.Mutex
		var seen []string
		remove := b.Intercept(func(clientID string, outbound bool, p codec.Packet) bool {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %v %v", clientID, outbound, p.Type()))
			if p, ok := p.(*codec.Publish); ok && outbound {
				p.Topic = "changed"
			}
			if p, ok := p.(*codec.Publish); ok && !outbound && p.Topic == "lost" {
				return false
			}
			return p.Type() != codec.PINGRESP
		})
		s := connect(t, b, v, "c")
		s.subscribe(at(0, "a"))
		s.Send(publishOf(0, "lost"), publishOf(0, "a"), &codec.Pingreq{})
		s.wantPublish("changed=x q0")
		s.ExpectSilence(time.Second)
		remove()
		s.barrier()
		want := []string{
			"c false CONNECT", "c true CONNACK", "c false SUBSCRIBE", "c true SUBACK", "c false PUBLISH", "c false PUBLISH",
			"c false PINGREQ", "c true PUBLISH", "c true PINGRESP",
		}
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != len(want) || cmp.Diff(want[:6], seen[:6]) != "" { // then the two directions are concurrent
			t.Errorf("seen %q", seen)
		}
		if got := b.Received(); len(got) != 1 {
			t.Errorf("Received %v", got)
		}
	})
}

// What a hook makes that cannot be sent ends the connection and fails the test.
func TestInterceptNonsense(t *testing.T) {
	tb := &recorder{TB: t}
	b := NewBroker(tb)
	b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
		if p, ok := p.(*codec.Suback); ok {
			p.PacketID = 0
		}
		return true
	})
	s := connect(t, b, codec.V5, "c")
	s.Send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{at(0, "a")}})
	s.ExpectEOF()
	s.Close()
	b.Close()
	if len(tb.failures) != 1 || !bytes.Contains([]byte(tb.failures[0]), []byte("SUBACK")) {
		t.Errorf("failures %q", tb.failures)
	}
}

// What is held goes on in its order when the fault is removed, and nothing before; the others pass by.
func TestFaultHold(t *testing.T) {
	for _, f := range []Fault{{Packet: "PUBLISH", Hold: true, Skip: 1, Times: 2}, {Packet: "PUBACK", Outbound: true, Hold: true, Skip: 1, Times: 2}} {
		forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
			release := b.Fault(f)
			s := connect(t, b, v, "c")
			for id := range uint16(4) {
				s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: id + 1})
			}
			for _, id := range []uint16{1, 4, 2, 3} {
				if id == 2 {
					s.ExpectSilence(time.Hour)
					release()
				}
				if got := ReceiveAs[*codec.Puback](s).PacketID; got != id {
					t.Errorf("PUBACK %d, want %d", got, id)
				}
			}
			release() // does nothing more
			s.barrier()
		})
	}
}

// What is held beyond the end of its connection is lost.
func TestFaultHoldEnds(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		release := b.Fault(Fault{Packet: "PUBLISH", Hold: true})
		s, _ := connectAs(t, b, v, persistent(v, "c", false))
		s.Send(publishOf(1, "a"))
		s.barrier()
		reconnect(t, b, s)
		release()
		s.barrier()
		if got := b.Received(); len(got) > 0 {
			t.Errorf("Received %v", got)
		}
	})
}

// A connection can break at each byte of a packet; what has not come whole has not come.
func TestFaultCutBytes(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		b.Publish(Message{Topic: "a", QoS: 2, Payload: []byte("x")})
		whole, err := (&codec.Publish{Topic: "a", QoS: 2, PacketID: 1, Payload: []byte("x")}).Append(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= len(whole)+1; n++ {
			remove := b.Fault(Fault{Packet: "PUBLISH", Outbound: true, Cut: true, Bytes: n})
			s := resume(t, b, v)
			got, err := io.ReadAll(s.end)
			if len(got) != min(n, len(whole)) || err != nil {
				t.Errorf("% x comes, %v, want %d bytes", got, err, n)
			}
			s.Close()
			remove()
		}
		s := resume(t, b, v)
		s.complete(s.wantPublish("a=x q2 dup"))
		s.barrier()
	})
}

// A hook answers in the broker's place, also before CONNACK.
func TestInterceptAnswers(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Intercept(func(clientID string, outbound bool, p codec.Packet) bool {
			switch p := p.(type) {
			case *codec.Connect:
				b.Send(clientID, &codec.Connack{SessionPresent: !p.CleanStart})
				return p.CleanStart || outbound
			case *codec.Connack:
				return false
			case *codec.Publish:
				b.Send(clientID, &codec.Puback{PacketID: p.PacketID}, &codec.Publish{Topic: "answer", QoS: 1, PacketID: 1})
				return false
			}
			return true
		})
		s := dial(t, b, v)
		s.Send(persistent(v, "c", false))
		s.Expect(&codec.Connack{SessionPresent: true})
		s.Send(publishOf(1, "a"))
		s.Expect(&codec.Puback{PacketID: 1})
		s.wantPublish("answer= q1")
		b.Cut()
		s.Close()

		s = connect(t, b, v, "c") // this CONNECT reaches the broker too
		s.Send(publishOf(1, "a"))
		s.Expect(&codec.Puback{PacketID: 1})
		s.wantPublish("answer= q1")
		s.barrier()
		if got := b.Received(); len(got) > 0 {
			t.Errorf("Received %v", got)
		}
	})
}

// Send reaches the client's latest connection.
func TestBrokerSend(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		b.Send("c", &codec.Pingresp{})
		old := connect(t, b, v, "c")
		b.Fault(Fault{Packet: "CONNECT", Drop: true})
		s := dial(t, b, v)
		s.Send(&codec.Connect{ClientID: "c", CleanStart: true})
		synctest.Wait()
		b.Send("c", &codec.Connack{})
		s.Expect(&codec.Connack{})
		old.barrier()
	})
}
