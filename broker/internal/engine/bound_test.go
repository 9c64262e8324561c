package engine

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

const mebi = 1 << 20

// small lets the engine have one MiB.
func small(c *Config) { c.MaxMemory = mebi }

// Retained messages are bounded: one that is too many is refused, and counted.
func TestRetainedBound(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprint(qos), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := newLab(t, small)
				p := l.client("p")
				code := codec.Success
				for i := range 200 {
					p.send(&codec.Publish{Topic: fmt.Sprint("t/", i), QoS: qos, PacketID: uint16(i+1) * uint16(min(qos, 1)), Retain: true, Payload: make([]byte, 10_000)})
					switch qos {
					case 1:
						code = receive[*codec.Puback](p).Code
					case 2:
						if code = receive[*codec.Pubrec](p).Code; code == codec.Success {
							p.send(&codec.Pubrel{PacketID: uint16(i + 1)})
							receive[*codec.Pubcomp](p)
						}
					}
				}
				synctest.Wait()
				if qos > 0 && code != codec.QuotaExceeded {
					t.Errorf("%v", code)
				}
				s := l.Stats()
				if s.Memory > mebi+20_000 || s.Retained+int64(s.Dropped) != 200 || s.Dropped == 0 {
					t.Errorf("%d bytes, %d are retained, %d dropped", s.Memory, s.Retained, s.Dropped)
				}
				p.send(&codec.Publish{Topic: "t/0", Retain: true}) // makes room
				p.send(&codec.Publish{Topic: "room", Retain: true, Payload: []byte("x")})
				late := l.client("late")
				late.subscribe(0, "room", "t/0")
				late.want("x")
			})
		})
	}
}

// Subscriptions are bounded: one that is too many is refused, and they give back what they took.
func TestSubscriptionBound(t *testing.T) {
	for v, refused := range map[codec.Version]codec.ReasonCode{codec.V5: codec.QuotaExceeded, codec.V311: codec.UnspecifiedError} {
		bubble(t, func(t *testing.T) {
			l := newLab(t, small)
			before := l.memory.Load()
			p, _ := l.join(v, &codec.Connect{CleanStart: true, ClientID: "x"})
			var granted []string
			for i := range 100 {
				var filters []string
				for n := range 100 {
					filters = append(filters, fmt.Sprintf("some/topic/%d/%d", i, n), fmt.Sprintf("$share/g/%d/%d", i, n))
				}
				for n, code := range p.subscribe(1, filters...).Codes {
					switch code {
					case 1:
						granted = append(granted, filters[n])
					case refused:
					default:
						t.Fatal(code)
					}
				}
			}
			if n := l.memory.Load(); n > mebi+10_000 || len(granted) < 500 {
				t.Errorf("%d bytes, %d subscriptions", n, len(granted))
			}
			if code := p.subscribe(0, granted[0]).Codes[0]; code != 0 {
				t.Errorf("a subscription cannot be replaced: %v", code)
			}
			p.send(&codec.Unsubscribe{PacketID: 1, Filters: granted[:100]})
			receive[*codec.Unsuback](p)
			if code := p.subscribe(1, "new").Codes[0]; code != 1 {
				t.Errorf("%v", code)
			}
			p.leave(true)
			if n := l.memory.Load(); n != before {
				t.Errorf("%d bytes are left", n-before)
			}
		})
	}
}

// A filter of very many levels counts for what it takes.
func TestDeepFilterBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.MaxMemory = 8 * mebi })
		p := l.client("x")
		granted := 0
		for i := range 30 {
			filter := append(fmt.Append(nil, i), bytes.Repeat([]byte("/"), 60_000)...)
			if p.subscribe(1, string(filter)).Codes[0] == 1 {
				granted++
			}
		}
		if granted > 3 {
			t.Errorf("%d are granted", granted)
		}
	})
}

// Sessions that outlive their connections are bounded, with their wills. They give back what they took.
func TestSessionBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, small)
		refused := false
		n := 0
		for ; n < 100 && !refused; n++ {
			connect := kept5(fmt.Sprint(n), true)
			connect.Will = &codec.Will{Topic: "w", Payload: make([]byte, 50_000), Properties: codec.WillProperties{WillDelay: time.Hour}}
			p, ack := l.join(codec.V5, connect)
			refused = ack.Code == codec.QuotaExceeded
			p.conn.Close()
			synctest.Wait()
		}
		if n < 10 || n > 30 {
			t.Errorf("%d sessions", n)
		}
		if _, ack := l.join(codec.V5, kept5("0", false)); !ack.SessionPresent {
			t.Error("a session that is there cannot be resumed")
		}
		l.client("another").leave(true)
		time.Sleep(time.Hour)
		if n := l.memory.Load(); n > 2*sessionSize {
			t.Errorf("%d bytes are left", n)
		}
	})
}

// What has come of a packet counts. When memory is used up a large packet that is not complete yet ends its connection.
func TestPartialBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.MaxMemory = 3 * mebi })
		packet, err := (&codec.Publish{Topic: "a", Payload: make([]byte, mebi-100)}).Append(nil, codec.V5)
		if err != nil {
			t.Fatal(err)
		}
		before := l.memory.Load()
		var all []*peer
		for i := range 3 {
			p := l.client(fmt.Sprint(i))
			all = append(all, p)
			go p.conn.Write(packet[:600_000])
			synctest.Wait()
		}
		if d := receive[*codec.Disconnect](all[2]); d.Code != codec.QuotaExceeded {
			t.Errorf("%v", d.Code)
		}
		all[0].write(packet[600_000:]) // it was let in, and is complete now
		all[0].quiet()
		for _, p := range all {
			p.leave(false)
		}
		if n := l.memory.Load(); n != before {
			t.Errorf("%d bytes are left", n-before)
		}
	})
}

// A small message that waits for many sessions takes memory in each of them.
func TestEntriesCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, small)
		for i := range 20 {
			p, _ := l.join(codec.V5, kept5(fmt.Sprint(i), true))
			p.subscribe(1, "a")
			p.leave(false)
		}
		pub := l.client("p")
		for range 1000 {
			pub.publish("a", "x")
		}
		if s := l.Stats(); s.Dropped == 0 || s.Memory > mebi+10_000 {
			t.Errorf("%d bytes, %d were dropped", s.Memory, s.Dropped)
		}
		if s := l.Stats(); s.StoredBytes < s.Stored*messageSize || s.StoredBytes > s.Memory/2 {
			t.Errorf("%d messages of %d bytes, and %d bytes in all", s.Stored, s.StoredBytes, s.Memory)
		}
		time.Sleep(time.Hour) // the sessions end
		if n := l.memory.Load(); n > 2*sessionSize {
			t.Errorf("%d bytes are left", n)
		}
	})
}

// A connection that has been busy, or has sent a packet in part, and is silent then holds no large buffer, and what it holds
// counts.
func TestSilentBuffers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.MaxMemory = 2 * mebi })
		p := l.client("busy")
		p.send(&codec.Publish{Topic: "a", Payload: make([]byte, 2000)}, &codec.Publish{Topic: "a", Payload: make([]byte, 2000)})
		p.quiet()
		packet, err := (&codec.Publish{Topic: "a", Payload: make([]byte, 60_000)}).Append(nil, codec.V5)
		if err != nil {
			t.Fatal(err)
		}
		before := l.memory.Load()
		ended := 0
		var all []*peer
		for i := range 50 {
			p := l.client(fmt.Sprint(i))
			all = append(all, p)
			p.write(packet[:50_000])
			time.Sleep(2 * rest)
		}
		if n := l.memory.Load() - before; n < mebi || n > 2*mebi+60_000 {
			t.Errorf("%d bytes for 2.5 MB", n)
		}
		for _, p := range all {
			select {
			case d := <-p.packets:
				ended++
				if d, ok := d.(*codec.Disconnect); !ok || d.Code != codec.QuotaExceeded {
					t.Errorf("%+v", d)
				}
			default:
				p.write(packet[50_000:])
				p.quiet()
			}
		}
		if ended == 0 || ended > 15 {
			t.Errorf("%d connections were ended", ended)
		}
	})
}

// What comes for a client whose connection has ended, before its reader has noticed, does not count for ever.
func TestEndedConnectionCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		decide := make(chan struct{})
		l := newLab(t, func(c *Config) {
			c.MaxQueuedBytes, c.Overflow = 5000, EndSession
			c.Policy = &rules{ask: func(c *Client, _ Access, topic string) Decision {
				if topic == "slow" {
					<-decide
				}
				return Abstain
			}}
		})
		pub := l.client("p")
		before := l.memory.Load()
		p, _ := l.join(codec.V5, &codec.Connect{CleanStart: true, ClientID: "x", Properties: codec.ConnectProperties{ReceiveMaximum: 1}})
		p.subscribe(1, "a")
		p.subscribe(0, "z")
		p.send(&codec.Publish{Topic: "slow"})
		synctest.Wait() // the reader is busy
		for range 2 {   // the second one is too much
			pub.publish("a", "%3000d", 1)
		}
		receive[*codec.Publish](p)
		receive[*codec.Disconnect](p)
		synctest.Wait()
		for range 10 {
			pub.send(&codec.Publish{Topic: "z", Payload: make([]byte, 100)})
		}
		pub.quiet()
		close(decide)
		p.ended()
		synctest.Wait()
		if n := l.memory.Load(); n != before {
			t.Errorf("%d bytes are counted, %d before", n, before)
		}
	})
}

// The names of sessions count: user names too, which may be as long as client identifiers.
func TestLongNamesBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, small)
		long := strings.Repeat("u", 60_000)
		n := 0
		for ; n < 100; n++ {
			connect := kept5(fmt.Sprint(n), true)
			connect.HasUsername, connect.Username = true, long
			p, ack := l.join(codec.V5, connect)
			p.conn.Close()
			if ack.Code == codec.QuotaExceeded {
				break
			}
		}
		if n < 5 || n > 20 {
			t.Errorf("%d sessions", n)
		}
		time.Sleep(time.Hour)
		if n := l.memory.Load(); n != 0 {
			t.Errorf("%d bytes are left", n)
		}
	})
}

// What a publisher's connection remembers of whom its topics are for is bounded.
func TestMatchesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const subscribers = 300
		l := newLab(t, nil)
		for i := range subscribers {
			p, _ := l.join(codec.V5, kept5(fmt.Sprint(i), true))
			p.subscribe(0, "#")
			p.leave(true)
		}
		c := &conn{engine: l.Engine, client: &Client{ID: "p"}}
		for i := range 100 {
			c.lookUp(strconv.AppendInt(nil, int64(i%50), 10))
			n := 0
			for _, m := range c.matches {
				n += len(m.targets)
			}
			if n < subscribers || n > maxTargets || n != c.targets {
				t.Errorf("%d targets, %d are counted", n, c.targets)
			}
			if i%7 == 0 {
				l.index.renew()
			}
		}
	})
}

// What waits in write buffers counts, at QoS 1 and 2 as well: a copy for each client that does not read, while the message
// itself is there once.
func TestWriteBuffersCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const clients, messages, payload = 20, 100, 1000
		l := newLab(t, nil)
		pub := l.client("p")
		before := l.memory.Load()
		for i := range clients {
			p := l.dialDeaf(codec.V5)
			connect := &codec.Connect{CleanStart: true, ClientID: fmt.Sprint(i)}
			p.send(connect, &codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "a", QoS: 1}}})
		}
		synctest.Wait()
		for range messages {
			pub.publish("a", "%*d", payload, 1)
		}
		if n := l.memory.Load() - before; n < clients*messages*payload {
			t.Errorf("%d bytes are counted", n)
		}
		time.Sleep(time.Minute)
		l.sessions.each(func(s *Session) { s.conn.end(takenOver) })
		time.Sleep(time.Minute)
		if n := l.memory.Load(); n != 0 {
			t.Errorf("%d bytes are left", n)
		}
	})
}

// Retained messages that a cursor has taken count until they are sent, although others have taken their place; and not
// after the client has unsubscribed, or its session has ended.
func TestCursorsCount(t *testing.T) {
	for _, unsubscribe := range []bool{false, true} {
		t.Run(fmt.Sprint("unsubscribe: ", unsubscribe), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const topics, payload = 40, 100_000
				l := newLab(t, nil)
				pub := l.client("p")
				retain := func(payload int) {
					for i := range topics {
						pub.send(&codec.Publish{Topic: fmt.Sprint("r/", i), QoS: 1, PacketID: 1, Retain: true, Payload: make([]byte, payload)})
						receive[*codec.Puback](pub)
					}
				}
				retain(payload)
				p, _ := l.join(codec.V5, kept5("x", true))
				p.conn.Close()
				p = l.dialDeaf(codec.V5)
				p.send(kept5("x", false), &codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: "r/#", QoS: 1}}})
				synctest.Wait()
				retain(0) // they are removed
				if n := l.memory.Load(); n < topics/2*payload {
					t.Errorf("%d bytes are counted", n)
				}
				if unsubscribe {
					p.send(&codec.Unsubscribe{PacketID: 1, Filters: []string{"r/#"}})
				}
				synctest.Wait()
				p.conn.Close()
				time.Sleep(time.Hour)
				pub.leave(true)
				if n := l.memory.Load(); n != 0 {
					t.Errorf("%d bytes are left", n)
				}
			})
		})
	}
}
