package mqtttest

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// offline makes a session with subscriptions at each QoS whose client is not connected.
func offline(t *testing.T, b *Broker, v codec.Version) {
	s, ack := connectAs(t, b, v, persistent(v, "sub", true))
	if ack.SessionPresent {
		t.Error("Session Present in a new session")
	}
	s.subscribe(at(2, "a/#"))
	s.Send(&codec.Disconnect{})
	s.ExpectEOF()
	s.Close()
}

// resume connects to a session that must be there.
func resume(t *testing.T, b *Broker, v codec.Version) *Script {
	t.Helper()
	s, ack := connectAs(t, b, v, persistent(v, "sub", false))
	if !ack.SessionPresent {
		t.Fatal("no session present")
	}
	return s
}

// Messages at QoS 1 and 2 wait for a client [MQTT311-3.1.2-5] in 3.1.1, others do not.
func TestBrokerQueuesOffline(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		for i := range 6 {
			b.Publish(Message{Topic: "a/b", Payload: fmt.Append(nil, i), QoS: byte(i % 3)})
		}
		s := resume(t, b, v)
		var exactlyOnce []*codec.Publish
		for _, i := range []int{1, 2, 4, 5} {
			if p := s.wantPublish(fmt.Sprintf("a/b=%d q%d", i, i%3)); p.QoS == 2 {
				exactlyOnce = append(exactlyOnce, p)
			}
		}
		s.complete(exactlyOnce...)
		s.barrier()
	})
}

// A resumed session goes on where each message was [MQTT-4.4.0-1].
func TestBrokerResends(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		s := resume(t, b, v)
		for i, qos := range []byte{1, 2, 2, 1} {
			b.Publish(Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: qos})
		}
		var ids []uint16
		for range 4 {
			ids = append(ids, ReceiveAs[*codec.Publish](s).PacketID)
		}
		s.Send(&codec.Pubrec{PacketID: ids[1]})
		s.Expect(&codec.Pubrel{PacketID: ids[1]})
		b.Cut("sub")
		s = resume(t, b, v)
		b.Publish(Message{Topic: "a", Payload: []byte("new"), QoS: 1})
		s.Expect(&codec.Pubrel{PacketID: ids[1]})
		s.Send(&codec.Pubcomp{PacketID: ids[1]})
		var again []uint16
		for _, want := range []string{"a=0 q1 dup", "a=2 q2 dup", "a=3 q1 dup", "a=new q1"} {
			again = append(again, s.wantPublish(want).PacketID)
		}
		if want := []uint16{ids[0], ids[2], ids[3]}; !slices.Equal(again[:3], want) {
			t.Errorf("packet identifiers %v, were %v", again[:3], want)
		}
		s.complete(&codec.Publish{PacketID: ids[2]})
		s.barrier()
		b.Cut("sub")
		resume(t, b, v).barrier() // all is acknowledged
	})
}

// A message at QoS 2 is taken once, also when it comes again in a later connection [MQTT-4.3.3-10].
func TestBrokerTakesQoS2Once(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		s := resume(t, b, v)
		p := publishOf(2, "x")
		s.Send(p)
		ReceiveAs[*codec.Pubrec](s)
		b.Cut("sub")
		s = resume(t, b, v)
		p.Dup = true
		s.Send(p)
		s.Expect(&codec.Pubrec{PacketID: 1})
		s.Send(&codec.Pubrel{PacketID: 1})
		s.Expect(&codec.Pubcomp{PacketID: 1})
		if got := b.Received("x"); len(got) != 1 {
			t.Errorf("Received %v", got)
		}
		s.publish(publishOf(2, "x")) // [MQTT-4.3.3-12]
		if got := b.Received("x"); len(got) != 2 {
			t.Errorf("after PUBCOMP the packet identifier is not new: %v", got)
		}
	})
}

func TestBrokerSessionExpiry(t *testing.T) {
	for _, c := range []struct {
		name           string
		asked, changed int64 // -1: absent
		after          time.Duration
		want           bool
	}{
		{"before", 100, -1, 99 * time.Second, true},
		{"after", 100, -1, 100*time.Second + time.Millisecond, false},
		{"none", -1, -1, 0, false},
		{"zero", 0, -1, 0, false},
		{"longer by DISCONNECT", 10, 1000, 999 * time.Second, true},
		{"zero by DISCONNECT", 100, 0, 0, false},
		{"never", math.MaxUint32, -1, 200 * 365 * 24 * time.Hour, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			forV5(t, func(t *testing.T, b *Broker) {
				p := &codec.Connect{ClientID: "c", Properties: codec.ConnectProperties{SessionExpiry: seconds(c.asked)}}
				s, _ := connectAs(t, b, codec.V5, p)
				s.Send(&codec.Disconnect{SessionExpiry: seconds(c.changed)})
				s.ExpectEOF()
				s.Close()
				time.Sleep(c.after)
				s, ack := connectAs(t, b, codec.V5, p)
				if ack.SessionPresent != c.want {
					t.Errorf("Session Present %v", ack.SessionPresent)
				}
				s.barrier()
			})
		})
	}
}

func seconds(n int64) *uint32 {
	if n < 0 {
		return nil
	}
	s := uint32(n)
	return &s
}

// A client that comes back in time stops the clock of its session.
func TestBrokerSessionExpiryStops(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		offline(t, b, codec.V5)
		time.Sleep(99 * time.Second)
		s := resume(t, b, codec.V5)
		time.Sleep(time.Hour)
		s.Send(&codec.Disconnect{})
		s.ExpectEOF()
		s.Close()
		time.Sleep(99 * time.Second)
		resume(t, b, codec.V5)
	})
}

func TestBrokerSessionExpiryLimit(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		_, ack := connectAs(t, b, codec.V5, persistent(codec.V5, "c", true))
		if got := ack.Properties.SessionExpiry; got == nil || *got != 7 {
			t.Errorf("Session Expiry Interval %v in CONNACK", got)
		}
		b.Cut()
		time.Sleep(8 * time.Second)
		if _, ack := connectAs(t, b, codec.V5, persistent(codec.V5, "c", false)); ack.SessionPresent {
			t.Error("the session has outlived the limit")
		}
	}, SessionExpiryLimit(7*time.Second))
}

func TestBrokerCleanStart(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		b.Publish(Message{Topic: "a", QoS: 1})
		s, ack := connectAs(t, b, v, &codec.Connect{ClientID: "sub", CleanStart: true})
		if ack.SessionPresent { // [MQTT-3.2.2-2], [MQTT311-3.2.2-1]
			t.Error("Session Present after a clean start")
		}
		b.Publish(Message{Topic: "a", QoS: 1})
		s.barrier()
	})
}

// A second connection with the same client identifier ends the first [MQTT-3.1.4-3], [MQTT311-3.1.4-2].
func TestBrokerTakeover(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		offline(t, b, v)
		old := resume(t, b, v)
		s := resume(t, b, v)
		if v == codec.V5 {
			old.Expect(&codec.Disconnect{Code: codec.SessionTakenOver})
		}
		old.ExpectEOF()
		old.Close()
		b.Publish(Message{Topic: "a", Payload: []byte("x")})
		s.wantPublish("a=x q0")
		if got := b.Clients(); fmt.Sprint(got) != "[sub]" {
			t.Errorf("Clients %v", got)
		}
	})
}

func TestBrokerMessageExpiry(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		offline(t, b, codec.V5)
		for i, d := range []time.Duration{10 * time.Second, 30 * time.Second} {
			b.Publish(Message{
				Topic: "a", Payload: fmt.Append(nil, i), QoS: 1, Retain: true, Properties: codec.PublishProperties{MessageExpiry: d},
			})
		}
		time.Sleep(20 * time.Second)
		s := resume(t, b, codec.V5)
		if p := s.wantPublish("a=1 q1"); p.Properties.MessageExpiry != 10*time.Second { // [MQTT-3.3.2-6]
			t.Errorf("Message Expiry Interval %v", p.Properties.MessageExpiry)
		}
		s.barrier()
		time.Sleep(10 * time.Second)
		s.subscribe(at(1, "#"))
		s.barrier() // the retained message has expired too
	})
}

// The client's Receive Maximum bounds what is sent at QoS 1 and 2, and nothing else [MQTT-3.3.4-9].
func TestBrokerReceiveMaximumOfClient(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		p := persistent(codec.V5, "sub", false)
		p.Properties.ReceiveMaximum = 2
		s, _ := connectAs(t, b, codec.V5, p)
		s.subscribe(at(2, "a"))
		for i := range 5 {
			b.Publish(Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: 2})
		}
		first, second := ReceiveAs[*codec.Publish](s), ReceiveAs[*codec.Publish](s)
		b.Publish(Message{Topic: "a", Payload: []byte("x")})
		s.wantPublish("a=x q0")
		s.Send(&codec.Pubrec{PacketID: first.PacketID})
		s.Expect(&codec.Pubrel{PacketID: first.PacketID})
		s.barrier() // PUBREC frees nothing
		s.Send(&codec.Pubcomp{PacketID: first.PacketID})
		third := ReceiveAs[*codec.Publish](s)
		s.Send(&codec.Pubrec{PacketID: second.PacketID, Code: codec.QuotaExceeded})
		fourth := ReceiveAs[*codec.Publish](s) // but a refusal does
		s.barrier()
		if got := brief(third) + brief(fourth); got != "a=2 q2a=3 q2" {
			t.Errorf("then comes %s", got)
		}
		b.Cut("sub")
		p.Properties.ReceiveMaximum = 1
		s, _ = connectAs(t, b, codec.V5, p)
		for _, want := range []string{"a=2 q2 dup", "a=3 q2 dup", "a=4 q2"} {
			again := ReceiveAs[*codec.Publish](s)
			if brief(again) != want {
				t.Errorf("%s comes, want %s", brief(again), want)
			}
			s.barrier()
			s.Send(&codec.Pubrec{PacketID: again.PacketID})
			s.Expect(&codec.Pubrel{PacketID: again.PacketID})
			s.Send(&codec.Pubcomp{PacketID: again.PacketID})
		}
	})
}

// A message that is too large for a client is not sent to it [MQTT-3.1.2-24], as if it had been delivered [MQTT-3.1.2-25].
func TestBrokerMaximumPacketSizeOfClient(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s, _ := connectAs(t, b, codec.V5, &codec.Connect{
			ClientID: "c", CleanStart: true, Properties: codec.ConnectProperties{MaximumPacketSize: 20, ReceiveMaximum: 1},
		})
		s.subscribe(at(1, "a"))
		for _, n := range []int{14, 15, 1} { // the rest of the packet takes 6 bytes, and 2 more at QoS 1
			b.Publish(Message{Topic: "a", Payload: make([]byte, n)})
			b.Publish(Message{Topic: "a", Payload: make([]byte, n-2+n%2), QoS: 1})
		}
		for range 4 {
			p := ReceiveAs[*codec.Publish](s)
			if size := p.Size(codec.V5); size != 20 && len(p.Payload) > 1 {
				t.Errorf("a packet of %d bytes comes", size)
			}
			if p.QoS == 1 {
				s.Send(&codec.Puback{PacketID: p.PacketID})
			}
		}
		s.barrier()
	})
}

// Packet identifiers in the two directions have nothing to do with each other [MQTT-2.2.1-4], and those in use are skipped
// [MQTT-2.2.1-3].
func TestBrokerPacketIdentifiers(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		s.subscribe(at(1, "a"))
		b.Publish(Message{Topic: "a", Payload: []byte("held"), QoS: 1})
		held := ReceiveAs[*codec.Publish](s)
		s.publish(&codec.Publish{Topic: "x", QoS: 2, PacketID: held.PacketID})
		b.mu.Lock()
		b.sessions["c"].lastID = math.MaxUint16
		b.mu.Unlock()
		b.Publish(Message{Topic: "a", QoS: 1})
		if p := ReceiveAs[*codec.Publish](s); p.PacketID == held.PacketID || p.PacketID == 0 {
			t.Errorf("packet identifier %d", p.PacketID)
		}
	})
}

// What was sent and not acknowledged is known, in order, in whichever connection it was sent.
func TestUnacknowledged(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		want := func(want ...string) {
			t.Helper()
			var got []string
			for _, m := range b.Unacknowledged("sub") {
				got = append(got, fmt.Sprintf("%s=%s q%d", m.Topic, m.Payload, m.QoS))
			}
			if !slices.Equal(got, want) {
				t.Errorf("unacknowledged are %q, want %q", got, want)
			}
		}
		want()
		offline(t, b, v)
		for i, qos := range []byte{0, 1, 2, 1} {
			b.Publish(Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: qos})
		}
		want() // nothing was sent
		s := resume(t, b, v)
		first, second := ReceiveAs[*codec.Publish](s), ReceiveAs[*codec.Publish](s)
		want("a=1 q1", "a=2 q2", "a=3 q1")
		s.Send(&codec.Pubrec{PacketID: second.PacketID})
		synctest.Wait()
		want("a=1 q1", "a=3 q1") // PUBREC acknowledges, although the flow is not complete
		s.Cut()
		synctest.Wait()
		want("a=1 q1", "a=3 q1")
		s = resume(t, b, v)
		s.Send(&codec.Puback{PacketID: first.PacketID})
		synctest.Wait()
		want("a=3 q1")
		b.Forget("sub")
		want()
	})
}
