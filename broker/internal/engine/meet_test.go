package engine

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// The tests of this file are about places where two features meet.

// A session has one message twice in flight at QoS 2, for itself and as the member of a group. After a crash it still has both.
func TestSharedAndPlainInFlight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(2, "a", "$share/g/a")
		pub := l.client("p")
		pub.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 1, Payload: []byte("m")})
		receive[*codec.Pubrec](pub)
		first := map[uint16]bool{receive[*codec.Publish](p).PacketID: true, receive[*codec.Publish](p).PacketID: true}

		s = s.crash()
		l = newLab(t, with(s))
		p, _ = l.join(codec.V5, kept5("x", false))
		for range 2 {
			m := receive[*codec.Publish](p)
			if !m.Dup || !first[m.PacketID] {
				t.Errorf("%+v", m)
			}
			p.send(&codec.Pubrec{PacketID: m.PacketID})
		}
		for range 2 {
			p.send(&codec.Pubcomp{PacketID: receive[*codec.Pubrel](p).PacketID})
		}
		p.quiet()
		time.Sleep(2 * lazyCommit)
		for _, bucket := range []byte{bucketMessages, bucketSent} {
			if n := s.count(bucket); n != 0 {
				t.Errorf("bucket %c still has %d values", bucket, n)
			}
		}
	})
}

// One session has a message in flight at QoS 2 that also waits in a group. After a crash the group still has it.
func TestSharedBesideInFlight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		plain, _ := l.join(codec.V5, kept5("plain", true))
		plain.subscribe(2, "a")
		member, _ := l.join(codec.V5, kept5("member", true))
		member.subscribe(2, "$share/g/a")
		member.leave(false)
		pub := l.client("p")
		pub.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 1, Payload: []byte("m")})
		receive[*codec.Pubrec](pub)
		receive[*codec.Publish](plain)

		l = newLab(t, with(s.crash()))
		member, _ = l.join(codec.V5, kept5("member", false))
		member.want("m")
		plain, _ = l.join(codec.V5, kept5("plain", false))
		plain.want("m")
	})
}

// Whoever subscribes while a retained message is on its way to the store gets it, and takes it away from nobody else.
func TestSubscribeWhileStoring(t *testing.T) {
	for _, filter := range []string{"a", "$share/g/a"} {
		t.Run(strings.ReplaceAll(filter, "/", " "), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newMemoryStore()
				l := newLab(t, with(s))
				away, _ := l.join(codec.V5, kept5("away", true))
				away.subscribe(1, "a")
				away.leave(false)
				other, _ := l.join(codec.V5, &codec.Connect{CleanStart: true, ClientID: "other", Properties: codec.ConnectProperties{ReceiveMaximum: 1}})
				other.subscribe(1, "$share/g/a", "fill") // a group that is not stored, with a member that has no room
				l.client("filler").publish("fill", "x")
				late, _ := l.join(codec.V5, kept5("late", true))
				pub := l.client("p")
				s.setTakes(time.Second)
				pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Retain: true, Payload: []byte("m")})
				synctest.Wait()
				late.send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: filter, QoS: 1}}})
				receive[*codec.Puback](pub)
				for wait := time.After(5 * time.Second); ; {
					select {
					case packet := <-late.packets:
						if m, ok := packet.(*codec.Publish); ok {
							late.send(&codec.Puback{PacketID: m.PacketID})
						}
						continue
					case <-wait:
					}
					break
				}
				l = newLab(t, with(s.crash()))
				away, ack := l.join(codec.V5, kept5("away", false))
				if !ack.SessionPresent {
					t.Fatal("no session")
				}
				away.want("m")
			})
		})
	}
}

// Whoever unsubscribes, or ends, while a retained message is on its way to the store leaves nothing there.
func TestUnsubscribeWhileStoring(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "a", "$share/g/a")
		pub := l.client("p")
		s.setTakes(time.Second)
		pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Retain: true, Payload: []byte("m")})
		synctest.Wait()
		p.send(&codec.Unsubscribe{PacketID: 1, Filters: []string{"a", "$share/g/a"}})
		time.Sleep(5 * time.Second)
		if n := s.count(bucketMessages); n != 0 {
			t.Errorf("%d messages are still stored", n)
		}
	})
}

// What sessions leave behind that ended while something of theirs was on its way to the store is removed at the next start.
func TestStoreTidied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		err := s.Commit([]Change{
			{bucketReceived, identifier(7, 1), []byte{1}},
			{bucketSent, identifier(7, 2), append(append(number(5), 0), number(7)...)},
			{bucketLedgers, number(7), []byte{9, 1}},
			{bucketLedgers, number(8), []byte{9, 1}},
			{bucketGroups, number(8), []byte("$share/g/a")},
		})
		if err != nil {
			t.Fatal(err)
		}
		newLab(t, with(s))
		time.Sleep(2 * lazyCommit)
		for i := range len(Buckets) {
			if n := s.count(Buckets[i]); n != 0 {
				t.Errorf("bucket %c still has %d values", Buckets[i], n)
			}
		}
	})
}

// A session that has to end because its queue was full is not there any more for a client that comes at once.
func TestOverflowBeforeReconnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.Overflow, c.MaxQueuedMessages = EndSession, 1 })
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "a")
		p.leave(false)
		l.timers.stop() // the clock is late
		pub := l.client("p")
		pub.publish("a", "1")
		pub.publish("a", "2")
		if _, ack := l.join(codec.V5, kept5("x", false)); ack.SessionPresent {
			t.Error("the session is still there, without a message")
		}
	})
}

// In the full queue of a group, too, what has expired makes room.
func TestGroupDropsExpired(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.MaxQueuedMessages = 3 })
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "$share/g/a")
		p.leave(false)
		pub := l.client("p")
		pub.publish("a", "first")
		for range 2 {
			pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("expired"), Properties: codec.PublishProperties{MessageExpiry: time.Second}})
			receive[*codec.Puback](pub)
		}
		time.Sleep(2 * time.Second)
		pub.publish("a", "second")
		if code := pub.publish("a", "third"); code != codec.Success {
			t.Errorf("refused: %v", code)
		}
		if n := l.Stats().Expired; n != 2 {
			t.Errorf("%d are counted as expired", n)
		}
		p, _ = l.join(codec.V5, kept5("x", false))
		for _, want := range []string{"first", "second", "third"} {
			p.want("%s", want)
		}
		synctest.Wait()
		if n := l.Stats().Stored; n != 0 {
			t.Errorf("%d messages are kept", n)
		}
	})
}

// A client whose packets wait for a slow application is not silent.
func TestKeepAliveWhileBusy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slow := &rules{ask: func(_ *Client, access Access, _ string) Decision {
			if access == Publish {
				time.Sleep(30 * time.Second)
			}
			return Abstain
		}}
		l := newLab(t, func(c *Config) { c.Policy = slow })
		p, _ := l.join(codec.V5, &codec.Connect{CleanStart: true, ClientID: "x", KeepAlive: 10})
		p.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1})
		go func() { // it comes meanwhile, and lies in the buffer of the socket
			p.send(&codec.Pingreq{})
		}()
		receive[*codec.Puback](p)
		receive[*codec.Pingresp](p)
	})
}

// What comes for a client while the application is asked about another message for it, which it may not receive, is sent.
func TestMessageWhileAsked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slow := &rules{ask: func(c *Client, access Access, topic string) Decision {
			if access != Receive || topic != "shared" || c.ID != "x" {
				return Abstain
			}
			time.Sleep(time.Second)
			return Deny
		}}
		l := newLab(t, func(c *Config) { c.Policy = slow })
		other, _ := l.join(codec.V5, kept5("other", true))
		other.subscribe(1, "$share/g/shared")
		other.leave(false)
		p := l.client("x")
		p.subscribe(1, "$share/h/plain", "$share/g/shared", "plain")
		pub := l.client("p")
		pub.publish("plain", "first")
		first := receive[*codec.Publish](p)
		p.want("first")
		pub.publish("shared", "for the other")
		time.Sleep(10 * time.Second)
		p.send(&codec.Puback{PacketID: first.PacketID}) // lets the broker look what there is for p
		time.Sleep(100 * time.Millisecond)
		pub.publish("plain", "second")
		p.want("second")
		p.want("second")
	})
}

// Members that are away do not slow a group down, however many they are.
func TestManyMembersAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var asked atomic.Int32
		l := newLab(t, func(c *Config) {
			c.Policy = &rules{allows: func(_ *Client, access Access, _ string) bool {
				if access == Receive {
					asked.Add(1)
				}
				return true
			}}
		})
		for i := range 200 {
			p, _ := l.join(codec.V5, kept5(fmt.Sprint(i), true))
			p.subscribe(1, "$share/g/a")
			p.leave(false)
		}
		here := l.client("here")
		here.subscribe(1, "$share/g/a")
		pub := l.client("p")
		for i := range 100 {
			pub.publish("a", "%d", i)
			here.want("%d", i)
		}
		if n := asked.Load(); n > 1000 {
			t.Errorf("%d members were looked at for 100 messages", n)
		}
	})
}

// Messages at QoS 1 that the member of a group has not acknowledged when its session ends go to another one, in their order:
// whether the session expires, is taken over by a clean start, or the broker is killed before or after that.
func TestSharedEndsAndCrashes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		first, _ := l.join(codec.V5, kept5("first", true))
		first.subscribe(1, "$share/g/a")
		pub := l.client("p")
		for i := range 5 {
			pub.publish("a", "%d", i)
			receive[*codec.Publish](first)
		}
		second := func(l *lab) *peer {
			p, _ := l.join(codec.V5, kept5("second", true))
			p.send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "$share/g/a", QoS: 1}}})
			return p
		}
		all := func(p *peer) {
			t.Helper()
			time.Sleep(time.Second)
			p.send(&codec.Pingreq{})
			n := 0
			for over := false; !over; {
				switch m := p.next().(type) {
				case *codec.Publish:
					if string(m.Payload) != fmt.Sprint(n) {
						t.Errorf("got %s, want %d", m.Payload, n)
					}
					n++
					p.send(&codec.Puback{PacketID: m.PacketID})
				case *codec.Pingresp:
					over = true
				case *codec.Suback: // messages may come before it
				default:
					t.Fatalf("got %+v", m)
				}
			}
			if n != 5 {
				t.Errorf("%d messages came", n)
			}
		}
		inFlight, owing := s.crash(), newLab(t, with(s.crash()))
		all(second(owing)) // nobody knows that the first has had them

		other, _ := l.join(codec.V5, kept5("other", true))
		other.subscribe(1, "$share/g/a")
		taken, _ := l.join(codec.V5, kept5("first", true)) // a clean start
		taken.quiet()
		time.Sleep(2 * lazyCommit)
		ended := s.crash()
		all(other)
		time.Sleep(2 * lazyCommit)
		if n := s.count(bucketMessages); n != 0 {
			t.Errorf("%d messages are still stored", n)
		}

		l = newLab(t, with(ended)) // killed after the session had ended, before the other one had acknowledged
		other, _ = l.join(codec.V5, kept5("other", false))
		all(other)

		l = newLab(t, with(inFlight))
		p := second(l)
		all(p)
		p.leave(false)
		time.Sleep(time.Hour) // both sessions expire
		if n := inFlight.count(bucketMessages); n != 0 {
			t.Errorf("%d messages are still stored", n)
		}
		if st := l.Stats(); st.Sessions != 0 || st.SharedSubscriptions != 0 || st.Stored != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A queue that is longer than the bound after a restart is kept, and takes more once it is short enough.
func TestLowerBoundAfterRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "a")
		p.leave(false)
		pub := l.client("p")
		for i := range 50 {
			pub.publish("a", "%d", i)
		}
		l = newLab(t, func(c *Config) { c.Store, c.MaxQueuedMessages = s.crash(), 10 })
		pub = l.client("p")
		if code := pub.publish("a", "too many"); code != codec.QuotaExceeded {
			t.Error(code)
		}
		p, _ = l.join(codec.V5, kept5("x", false))
		for i := range 50 {
			p.want("%d", i)
		}
		if code := pub.publish("a", "last"); code != codec.Success {
			t.Error(code)
		}
		p.want("last")
	})
}

// A session has a message in flight that came live, and gets the same one again because it is retained. What it acknowledges of
// the second says nothing about the first, which it gets again after a crash.
func TestReplayedBesideLive(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		bubble(t, func(t *testing.T) {
			s := newMemoryStore()
			l := newLab(t, with(s))
			p, _ := l.join(codec.V5, kept5("x", true))
			p.subscribe(qos, "a")
			pub := l.client("p")
			pub.send(&codec.Publish{Topic: "a", QoS: qos, PacketID: 1, Retain: true, Payload: []byte("m")})
			live := receive[*codec.Publish](p)
			p.send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "a", QoS: qos}}})
			for subscribed, done := false, false; !subscribed || !done; {
				switch m := p.next().(type) {
				case *codec.Suback: // the message may come before it
					subscribed = true
				case *codec.Publish:
					if !m.Retain || m.PacketID == live.PacketID {
						t.Errorf("%+v", m)
					}
					if done = qos == 1; done {
						p.send(&codec.Puback{PacketID: m.PacketID})
					} else {
						p.send(&codec.Pubrec{PacketID: m.PacketID})
					}
				case *codec.Pubrel:
					p.send(&codec.Pubcomp{PacketID: m.PacketID})
					done = true
				default:
					t.Fatalf("got %+v", m)
				}
			}
			time.Sleep(2 * lazyCommit)
			l = newLab(t, with(s.crash()))
			p, _ = l.join(codec.V5, kept5("x", false))
			if m := p.want("m"); qos == 2 && m.PacketID != live.PacketID {
				t.Errorf("%+v", m)
			}
			p.quiet()
		})
	}
}

// Who is told that there is no session has none after a crash either, although the earlier one has ended only just now.
func TestEndedJustBeforeConnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "a")
		p.send(&codec.Disconnect{SessionExpiry: new(uint32)})
		p.ended()
		synctest.Wait()
		if _, ack := l.join(codec.V5, &codec.Connect{ClientID: "x"}); ack.SessionPresent {
			t.Fatal("the session has not ended")
		}
		l = newLab(t, with(s.crash()))
		if _, ack := l.join(codec.V5, &codec.Connect{ClientID: "x"}); ack.SessionPresent {
			t.Error("the session is back")
		}
		time.Sleep(2 * lazyCommit)
		if n := len(l.journal.ending); n != 0 {
			t.Errorf("%d sessions are still ending", n)
		}
	})
}

// After UNSUBACK nothing comes that did not wait for the client already, although it was published, and matched, before and
// waited for the store meanwhile. What another subscription of the client matches comes all the same.
// [MQTT-3.10.4-2] [MQTT311-3.10.4-2]
func TestNothingAfterUnsuback(t *testing.T) {
	for _, retain := range []bool{false, true} {
		for qos := range byte(3) {
			t.Run(fmt.Sprintf("QoS %d, retained %v", qos, retain), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := newMemoryStore()
					l := newLab(t, with(s))
					away, _ := l.join(codec.V5, kept5("away", true))
					away.subscribe(1, "a/b")
					away.leave(false)
					p, more := l.client("x"), l.client("more")
					p.subscribe(qos, "a/+")
					more.subscribe(qos, "a/+", "a/#")
					pub := l.client("p")
					s.setTakes(time.Second)
					pub.send(&codec.Publish{Topic: "a/b", QoS: 1, PacketID: 1, Retain: retain, Payload: []byte("m")})
					synctest.Wait()
					for _, p := range []*peer{p, more} {
						p.send(&codec.Unsubscribe{PacketID: 1, Filters: []string{"a/+"}})
						if ack := receive[*codec.Unsuback](p); ack.Codes[0] != codec.Success {
							t.Fatal(ack.Codes)
						}
					}
					receive[*codec.Puback](pub)
					p.quiet()
					more.want("m")
					time.Sleep(2 * lazyCommit)
					if n := s.count(bucketMessages); n != 1 {
						t.Errorf("%d messages are stored", n)
					}
				})
			})
		}
	}
}

// A right that is taken away while a message waits for the store holds for it.
func TestRightGoneWhileStoring(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		var taken atomic.Bool
		l := newLab(t, func(c *Config) {
			c.Store = s
			c.Policy = &rules{allows: func(c *Client, access Access, _ string) bool {
				return access != Receive || c.ID != "x" || !taken.Load()
			}}
		})
		away, _ := l.join(codec.V5, kept5("away", true))
		away.subscribe(1, "a")
		away.leave(false)
		p := l.client("x")
		p.subscribe(1, "a")
		pub := l.client("p")
		s.setTakes(time.Second)
		pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("m")})
		synctest.Wait()
		taken.Store(true)
		l.Recheck()
		receive[*codec.Puback](pub)
		p.quiet()
	})
}

// A message at QoS 2 that was refused because a queue was full leaves no identifier in the store: after a crash the next message
// under it would be taken for the same one, acknowledged, and lost. [MQTT-4.3.3-9]
func TestRefusedAndCrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		one := func(c *Config) { c.Store, c.MaxQueuedMessages = s, 1 }
		l := newLab(t, one)
		away, _ := l.join(codec.V5, kept5("away", true))
		away.subscribe(2, "a")
		away.leave(true)
		pub, _ := l.join(codec.V5, kept5("p", true))
		pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("first")}, &codec.Publish{Topic: "a", QoS: 2, PacketID: 2, Payload: []byte("refused")})
		receive[*codec.Puback](pub)
		if ack := receive[*codec.Pubrec](pub); ack.Code != codec.QuotaExceeded {
			t.Fatal(ack.Code)
		}
		time.Sleep(2 * lazyCommit)
		s = s.crash()
		l = newLab(t, one)
		away, _ = l.join(codec.V5, kept5("away", false))
		away.want("first")
		pub, _ = l.join(codec.V5, kept5("p", false))
		pub.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 2, Payload: []byte("second")}, &codec.Pubrel{PacketID: 2})
		receive[*codec.Pubrec](pub)
		away.want("second")
	})
}

// A group that has ended while a message for it was on its way to the store is not one whose queue is full.
func TestGroupEndsWhileStoring(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newMemoryStore()
		l := newLab(t, with(s))
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "$share/g/a")
		pub := l.client("p")
		s.setTakes(time.Second)
		pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("m")})
		synctest.Wait()
		p.send(&codec.Unsubscribe{PacketID: 1, Filters: []string{"$share/g/a"}})
		if ack := receive[*codec.Puback](pub); ack.Code != codec.Success {
			t.Errorf("%v", ack.Code)
		}
		if n := l.Stats().Dropped; n != 0 {
			t.Errorf("%d are counted as dropped", n)
		}
		time.Sleep(5 * time.Second)
		if n := s.count(bucketMessages); n != 0 {
			t.Errorf("%d messages are still stored", n)
		}
	})
}
