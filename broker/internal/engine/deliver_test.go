package engine

import (
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// One subscriber that takes nothing holds up neither the publisher nor the others. It is disconnected, and its session kept.
func TestStalledSubscriber(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.MaxQueuedBytes = 100 << 10 })
		deaf := l.dialDeaf(codec.V5)
		deaf.send(kept5("deaf", true), &codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "a", QoS: 1}}})
		others := make([]*peer, 10)
		for i := range others {
			others[i] = l.client(fmt.Sprint("other ", i))
			others[i].subscribe(1, "a")
		}
		pub := l.client("p")
		began := time.Now()
		for i := range 1000 {
			if code := pub.publish("a", "%1000d", i); code != codec.Success {
				t.Fatal(code)
			}
			for _, p := range others {
				p.want("%1000d", i)
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("took %v", took)
		}
		if kept := l.memory.Load(); kept > 300<<10 {
			t.Errorf("%d bytes are kept", kept)
		}
		if n := l.Stats().Dropped; n < 800 || n > 1000 {
			t.Errorf("%d dropped", n)
		}
	})
}

// A SUBSCRIBE brings all retained messages once, at the client's pace, in the order of their topics; those that are
// published meanwhile come once too, and messages that must wait do.
func TestManyRetained(t *testing.T) {
	for _, qos := range []byte{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			const n = 20_000
			bubble(t, func(t *testing.T) {
				l := newLab(t, func(c *Config) { c.MaxQueuedMessages = 100 })
				for i := range n {
					l.Publish(fmt.Sprintf("r/%05d", i), []byte("old"), 1, true)
				}
				p := l.dialDeaf(codec.V5)
				connect := kept5("x", true)
				connect.Properties.ReceiveMaximum = 10
				subscribe := &codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "r/#", QoS: qos}}}
				p.send(connect, subscribe)
				synctest.Wait()
				l.Publish("r/00007", []byte("new"), 1, true) // one that comes live as well as one that was on its way
				l.Publish("r/x", []byte("new"), 1, true)
				go p.read()
				receive[*codec.Connack](p)
				receive[*codec.Suback](p)
				seen := map[string]int{}
				retained, fresh := 0, 0
				for retained+fresh < n+2 {
					m := p.take()
					seen[m.Topic]++
					if string(m.Payload) == "new" {
						fresh++
						if m.Retain {
							t.Errorf("%s is new, and marked as retained", m.Topic)
						}
						continue
					}
					retained++
					if !m.Retain || m.QoS != qos {
						t.Fatalf("%+v", m)
					}
				}
				p.quiet()
				if fresh != 2 || len(seen) != n+1 {
					t.Errorf("%d new, %d topics", fresh, len(seen))
				}
			})
		})
	}
}

// When retained messages are sent again. [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
func TestRetainHandling(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		l.Publish("a", []byte("x"), 1, true)
		p := l.client("x")
		for i, c := range []struct {
			handling byte
			want     bool
		}{{1, true}, {1, false}, {2, false}, {0, true}, {0, true}} {
			p.send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "a", RetainHandling: c.handling}}})
			receive[*codec.Suback](p)
			if c.want {
				p.want("x")
			}
			p.quiet()
			_ = i
		}
		p.send(&codec.Unsubscribe{PacketID: 1, Filters: []string{"a"}})
		receive[*codec.Unsuback](p)
		p.send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "a", RetainHandling: 1}}})
		receive[*codec.Suback](p)
		p.want("x")
		p.subscribe(1, "$share/g/a") // never for a group
		p.quiet()
	})
}

// Retained messages and messages that wait expire, and what is left of their time is told. [MQTT-3.3.2-5] [MQTT-3.3.2-6]
func TestExpiry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		away, _ := l.join(codec.V5, kept5("away", true))
		away.subscribe(1, "#")
		away.leave(true)
		pub := l.client("p")
		expiring := func(topic string, d time.Duration, retain bool) {
			pub.send(&codec.Publish{
				Topic: topic, QoS: 1, PacketID: 1, Retain: retain, Payload: []byte(topic), Properties: codec.PublishProperties{MessageExpiry: d},
			})
			receive[*codec.Puback](pub)
		}
		expiring("short", 3*time.Second, false)
		expiring("long", 10*time.Second, true)
		expiring("retained short", 3*time.Second, true)
		time.Sleep(4500 * time.Millisecond)
		away, _ = l.join(codec.V5, kept5("away", false))
		if m := away.want("long"); m.Properties.MessageExpiry < 5*time.Second || m.Properties.MessageExpiry > 6*time.Second {
			t.Errorf("%v are left", m.Properties.MessageExpiry)
		}
		away.quiet()
		late := l.client("late")
		late.subscribe(0, "#")
		late.want("long")
		late.quiet()
		time.Sleep(10 * time.Second)
		later := l.client("later")
		later.subscribe(0, "#")
		later.quiet()
		if n := l.Stats().Retained; n != 0 {
			t.Errorf("%d retained messages", n)
		}
	})
}

// A session gets one copy, at the highest QoS, with the identifiers of all of its subscriptions that match.
// [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.8.3-3] [MQTT-3.3.1-13]
func TestOverlappingSubscriptions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		p := l.client("x")
		for _, s := range []codec.Subscribe{
			{SubscriptionIdentifier: 1, Filters: []codec.SubscribeFilter{{Filter: "a/+", QoS: 0}}},
			{SubscriptionIdentifier: 2, Filters: []codec.SubscribeFilter{{Filter: "a/b", QoS: 2, NoLocal: true}}},
			{SubscriptionIdentifier: 3, Filters: []codec.SubscribeFilter{{Filter: "#", QoS: 1, RetainAsPublished: true}}},
			{Filters: []codec.SubscribeFilter{{Filter: "+/b", QoS: 1}}},
		} {
			s.PacketID = 1
			p.send(&s)
			receive[*codec.Suback](p)
		}
		l.client("p").send(&codec.Publish{Topic: "a/b", QoS: 2, PacketID: 1, Retain: true, Payload: []byte("other")})
		m := p.want("other")
		if m.QoS != 2 || !m.Retain || len(m.SubscriptionIdentifiers) != 3 {
			t.Errorf("%+v", m)
		}
		p.send(&codec.Publish{Topic: "a/b", Payload: []byte("own")})
		if m := p.want("own"); m.QoS != 0 || len(m.SubscriptionIdentifiers) != 2 {
			t.Errorf("%+v", m)
		}
		p.quiet()
	})
}

// Messages cross between the versions.
func TestBothVersions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		three, _ := l.join(codec.V311, &codec.Connect{CleanStart: true, ClientID: "three"})
		three.subscribe(2, "a")
		five := l.client("five")
		five.subscribe(2, "a")
		for qos := range byte(3) {
			p := codec.PublishProperties{ContentType: "t", MessageExpiry: time.Hour, UserProperties: codec.UserProperties{{Key: "k", Value: "v"}}}
			five.send(&codec.Publish{Topic: "a", QoS: qos, PacketID: uint16(qos), Payload: []byte("5"), Properties: p})
			for _, to := range []*peer{three, five} {
				for {
					packet := to.next()
					if m, ok := packet.(*codec.Publish); ok {
						if string(m.Payload) != "5" || m.QoS != qos || to == five && m.Properties.ContentType != "t" {
							t.Errorf("%+v", m)
						}
						switch qos {
						case 1:
							to.send(&codec.Puback{PacketID: m.PacketID})
						case 2:
							to.send(&codec.Pubrec{PacketID: m.PacketID, Code: codec.Success})
						}
						break
					}
				}
			}
		}
	})
}

// A right that was taken away is gone for what waits, for retained messages and for wills.
func TestRightsAreAskedAgain(t *testing.T) {
	for _, byRules := range []bool{true, false} {
		t.Run(fmt.Sprint("by rules: ", byRules), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var taken atomic.Bool
				forbidden := func(c *Client, topic string) bool { return taken.Load() && c.ID == "x" && topic == "secret" }
				l := newLab(t, func(c *Config) {
					r := new(rules)
					if byRules {
						r.allows = func(c *Client, _ Access, topic string) bool { return !forbidden(c, topic) }
					} else {
						r.ask = func(c *Client, _ Access, topic string) Decision {
							if forbidden(c, topic) {
								return Deny
							}
							return Abstain
						}
					}
					c.Policy = r
				})
				watcher := l.client("watcher")
				watcher.subscribe(0, "secret")
				connect := kept5("x", true)
				connect.Will = &codec.Will{Topic: "secret", Payload: []byte("will"), Properties: codec.WillProperties{WillDelay: 10 * time.Second}}
				p, _ := l.join(codec.V5, connect)
				p.subscribe(1, "secret", "open")
				p.leave(false)
				pub := l.client("p")
				pub.publish("secret", "1")
				watcher.want("1")
				pub.publish("open", "2")
				pub.send(&codec.Publish{Topic: "secret", QoS: 1, PacketID: 1, Retain: true, Payload: []byte("3")})
				receive[*codec.Puback](pub)
				watcher.want("3")
				taken.Store(true)
				l.Recheck()
				time.Sleep(time.Minute)
				watcher.quiet() // no will
				p, _ = l.join(codec.V5, kept5("x", false))
				p.want("2")
				p.subscribe(1, "#")
				p.quiet()
				pub.publish("secret", "4")
				p.quiet()
			})
		})
	}
}

// What a full queue does. [MQTT-3.3.4-9]
func TestOverflow(t *testing.T) {
	for _, c := range []struct {
		overflow Overflow
		present  bool
		want     []string
	}{
		{DropNewest, true, []string{"0", "1", "2"}},
		{DropOldest, true, []string{"3", "4", "5"}},
		{EndSession, false, nil},
	} {
		bubble(t, func(t *testing.T) {
			l := newLab(t, func(g *Config) { g.MaxQueuedMessages, g.Overflow = 3, c.overflow })
			p, _ := l.join(codec.V5, kept5("x", true))
			p.subscribe(1, "a")
			p.leave(true)
			pub := l.client("p")
			for i := range 6 {
				code := pub.publish("a", "%d", i)
				if want := codec.QuotaExceeded; (code == want) != (i >= 3 && c.overflow == DropNewest || i == 3 && c.overflow == EndSession) {
					t.Errorf("%v: %d: %v", c.overflow, i, code)
				}
				synctest.Wait()
			}
			p, ack := l.join(codec.V5, kept5("x", false))
			if ack.SessionPresent != c.present {
				t.Errorf("%v: Session Present %v", c.overflow, ack.SessionPresent)
			}
			for _, want := range c.want {
				p.want("%s", want)
			}
			p.quiet()
			if n := l.Stats().Dropped; n != 3 && c.overflow != EndSession {
				t.Errorf("%v: %d dropped", c.overflow, n)
			}
		})
	}
}

// A client that publishes and never reads is not read from for ever.
func TestAnswersAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		p := l.dialDeaf(codec.V5)
		p.send(&codec.Connect{CleanStart: true, ClientID: "x"})
		batch, err := (&codec.Publish{Topic: "a", QoS: 1, PacketID: 1}).Append(nil, codec.V5)
		if err != nil {
			t.Fatal(err)
		}
		for len(batch) < 64<<10 {
			batch = append(batch, batch...)
		}
		p.conn.SetWriteDeadline(time.Now().Add(time.Minute))
		n := 0
		for err == nil && n < 1000 {
			_, err = p.conn.Write(batch)
			n++
		}
		if err == nil {
			t.Error("64 MB were read from a client that reads nothing")
		}
		go io.Copy(io.Discard, p.conn)
	})
}

// The members of a group take turns when none of them is busy, and one that is away or full has no share.
func TestSharedTurns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		var members []*peer
		for i := range 3 {
			m, _ := l.join(codec.V5, kept5(fmt.Sprint("m", i), true))
			m.subscribe(1, "$share/g/a")
			members = append(members, m)
		}
		members[2].leave(false)
		pub := l.client("p")
		for i := range 10 {
			pub.publish("a", "%d", i)
			synctest.Wait() // a member that is still writing looks for the next message too
		}
		for _, m := range members[:2] {
			for range 5 {
				m.take()
			}
			m.quiet()
		}
	})
}

// What a member has not acknowledged when its session ends goes to another one at QoS 1, and to nobody at QoS 2. What
// nobody has room for waits for the group. [MQTT-4.8.2-4] [MQTT-4.8.2-5]
func TestSharedMemberEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		connect := kept5("a", true)
		connect.Properties.ReceiveMaximum = 5
		a, _ := l.join(codec.V5, connect)
		a.subscribe(2, "$share/g/t")
		pub := l.client("p")
		for i := range 10 {
			pub.publish("t", "%d", i)
		}
		pub.send(&codec.Publish{Topic: "t", QoS: 2, PacketID: 1, Payload: []byte("two")})
		receive[*codec.Pubrec](pub)
		for range 5 {
			receive[*codec.Publish](a)
		}
		a.quiet()
		b, _ := l.join(codec.V5, kept5("b", true))
		b.subscribe(2, "$share/g/t")
		synctest.Wait()
		for i := 5; i < 10; i++ {
			b.want("%d", i) // what waited for the group
		}
		b.want("two")
		a.leave(false)
		time.Sleep(301 * time.Second) // a's session is over
		for i := range 5 {
			b.want("%d", i)
		}
		b.quiet()
	})
}

// A group with nobody connected keeps its messages for whoever comes first.
func TestSharedAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		a, _ := l.join(codec.V5, kept5("a", true))
		a.subscribe(1, "$share/g/t")
		b, _ := l.join(codec.V5, kept5("b", true))
		b.subscribe(1, "$share/g/t")
		a.leave(true)
		b.leave(true)
		l.client("p").publish("t", "x")
		b, _ = l.join(codec.V5, kept5("b", false))
		b.want("x")
		a, _ = l.join(codec.V5, kept5("a", false))
		a.quiet()
	})
}

// A client that takes aliases gets them, never more than it takes; after a reconnect it knows none any more. What has an
// alias is measured as it is sent. [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-7]
func TestAliasesToClients(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		connect := kept5("x", true)
		connect.Properties.TopicAliasMaximum = 1
		p, _ := l.join(codec.V5, connect)
		p.subscribe(1, "#")
		pub := l.client("p")
		for _, c := range []struct {
			topic string
			known bool
			alias uint16
		}{{"a/long/topic", false, 1}, {"a/long/topic", true, 1}, {"another/topic", false, 1}, {"a/long/topic", false, 1}, {"x", false, 0}} {
			pub.publish(c.topic, "m")
			if m := p.want("m"); (m.Topic == "") != c.known || m.TopicAlias != c.alias {
				t.Errorf("%+v: %+v", c, m)
			}
		}
		pub.publish("a/long/topic", "m")
		if m := receive[*codec.Publish](p); m.Topic != "" {
			t.Errorf("%+v", m)
		}
		p.leave(false)
		connect.CleanStart = false
		p, _ = l.join(codec.V5, connect)
		if m := p.want("m"); m.Topic != "a/long/topic" || !m.Dup {
			t.Errorf("%+v", m)
		}
		p.leave(false)
		p, _ = l.join(codec.V5, kept5("x", false))
		pub.publish("a/long/topic", "m")
		if m := p.want("m"); m.TopicAlias != 0 {
			t.Errorf("%+v", m)
		}
	})
}

// Who is away and has subscribed at QoS 0 gets nothing, and that is not for want of room.
func TestAwayAtQoS0(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(0, "a")
		p.leave(true)
		if code := l.client("p").publish("a", "x"); code != codec.Success {
			t.Errorf("%v", code)
		}
	})
}

// A publisher hears at once that nobody gets its message: because nobody has subscribed, or nobody who may receive it, whether
// it is retained or has to be stored. [MQTT-3.4.2.1]
func TestNobodyGets(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("stored: ", stored), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var asked atomic.Bool
				l := newLab(t, func(c *Config) {
					c.Policy = &rules{
						allows: func(c *Client, access Access, topic string) bool { return access != Receive || topic != "secret" },
						ask: func(c *Client, access Access, topic string) Decision {
							if asked.Load() && access == Receive && topic == "plugin's" {
								return Deny
							}
							return Abstain
						},
					}
					if stored {
						c.Store = newMemoryStore()
					}
				})
				p, _ := l.join(codec.V5, kept5("x", true))
				p.subscribe(2, "secret", "plugin's", "open")
				p.leave(true)
				asked.Store(true)
				pub, _ := l.join(codec.V5, kept5("p", true))
				for topic, want := range map[string]codec.ReasonCode{
					"secret": codec.NoMatchingSubscribers, "plugin's": codec.NoMatchingSubscribers, "nobody's": codec.NoMatchingSubscribers, "open": codec.Success,
				} {
					for _, retain := range []bool{false, true} {
						pub.send(&codec.Publish{Topic: topic, QoS: 1, PacketID: 1, Retain: retain, Payload: []byte("x")})
						if ack := receive[*codec.Puback](pub); ack.Code != want {
							t.Errorf("%s, retained: %v: %v", topic, retain, ack.Code)
						}
						pub.send(&codec.Publish{Topic: topic, QoS: 2, PacketID: 2, Retain: retain, Payload: []byte("x")})
						if ack := receive[*codec.Pubrec](pub); ack.Code != want {
							t.Errorf("%s, retained: %v: %v", topic, retain, ack.Code)
						}
						pub.send(&codec.Pubrel{PacketID: 2})
						if ack := receive[*codec.Pubcomp](pub); ack.Code != codec.Success {
							t.Error(ack.Code)
						}
					}
				}
			})
		})
	}
}
