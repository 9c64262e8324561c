package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

func seconds32(n uint32) *uint32 { return &n }

// The will goes out once, at the right time, for every way in which a connection can end. Expiry and delay are in seconds.
// [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.3-9] [MQTT-3.14.4-3] [MQTT311-3.1.2-8]
func TestWills(t *testing.T) {
	const forever = 0xFFFF_FFFF
	disconnect := func(code codec.ReasonCode) func(*lab, *peer) {
		return func(l *lab, p *peer) { p.send(&codec.Disconnect{Code: code}); p.conn.Close() }
	}
	lose := func(l *lab, p *peer) { p.conn.Close() }
	for _, c := range []struct {
		name          string
		v             codec.Version
		delay, expiry uint32
		end           func(*lab, *peer)
		want          time.Duration // after the end; negative: never
	}{
		{"lost", codec.V5, 0, 0, lose, 0},
		{"lost", codec.V311, 0, 0, lose, 0},
		{"lost, kept session", codec.V5, 0, 10, lose, 0},
		{"DISCONNECT", codec.V5, 0, 0, disconnect(0), -1},
		{"DISCONNECT", codec.V311, 0, 0, disconnect(0), -1},
		{"DISCONNECT, delay", codec.V5, 5, 10, disconnect(0), -1},
		{"DISCONNECT with will", codec.V5, 0, 0, disconnect(codec.DisconnectWithWill), 0},
		{"DISCONNECT with will and delay", codec.V5, 5, 10, disconnect(codec.DisconnectWithWill), 5 * time.Second},
		{"DISCONNECT with an error", codec.V5, 0, 0, disconnect(codec.UnspecifiedError), 0},
		{"delay without a session", codec.V5, 5, 0, lose, 0},
		{"delay", codec.V5, 5, 10, lose, 5 * time.Second},
		{"delay longer than the session", codec.V5, 10, 5, lose, 5 * time.Second},
		{"longest delay", codec.V5, forever, 5, lose, 5 * time.Second},
		{"delay of a session for ever", codec.V5, 5, forever, lose, 5 * time.Second},
	} {
		t.Run(c.name+" "+c.v.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := newLab(t, nil)
				watcher := l.client("watcher")
				watcher.subscribe(1, "will")
				will := &codec.Will{Topic: "will", Payload: []byte("w"), QoS: 1}
				connect := &codec.Connect{CleanStart: true, ClientID: "x", Will: will}
				if c.v == codec.V5 {
					will.Properties = codec.WillProperties{
						WillDelay: time.Duration(c.delay) * time.Second, MessageExpiry: 20 * time.Second, ContentType: "text",
						ResponseTopic: "r", CorrelationData: []byte{1}, UserProperties: codec.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}},
					}
					connect.Properties.SessionExpiry = &c.expiry
				}
				p, _ := l.join(c.v, connect)
				c.end(l, p)
				if c.want > 0 {
					time.Sleep(c.want - time.Second)
					watcher.quiet()
					time.Sleep(2 * time.Second)
				}
				if c.want >= 0 {
					m := watcher.want("w")
					if pr := m.Properties; c.v == codec.V5 && (pr.MessageExpiry != 20*time.Second || pr.ContentType != "text" || pr.ResponseTopic != "r" ||
						len(pr.CorrelationData) != 1 || len(pr.UserProperties) != 2 || pr.UserProperties[0].Key != "b") {
						t.Errorf("%+v", pr)
					}
				}
				time.Sleep(time.Minute)
				watcher.quiet()
			})
		})
	}
}

// A takeover sends the old will, unless it has a delay, the session is kept, and the new connection wants it. A connection
// that comes back in time stops a will that is delayed. Section 3.1.4.
func TestWillsAtTakeover(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * time.Second} {
		for _, expiry := range []uint32{0, 10} {
			for _, clean := range []bool{false, true} {
				for _, connected := range []bool{true, false} {
					name := fmt.Sprintf("delay %v, expiry %d, clean %v, connected %v", delay, expiry, clean, connected)
					t.Run(name, func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							l := newLab(t, nil)
							watcher := l.client("watcher")
							watcher.subscribe(0, "will")
							will := &codec.Will{Topic: "will", Payload: []byte("w"), Properties: codec.WillProperties{WillDelay: delay}}
							old, _ := l.join(codec.V5, &codec.Connect{
								CleanStart: true, ClientID: "x", Will: will, Properties: codec.ConnectProperties{SessionExpiry: &expiry},
							})
							if !connected {
								old.leave(false)
							}
							sent := delay == 0 || expiry == 0 || clean
							_, ack := l.join(codec.V5, kept5("x", clean))
							if want := expiry > 0 && !clean; ack.SessionPresent != want {
								t.Errorf("Session Present %v", ack.SessionPresent)
							}
							if connected {
								if d := receive[*codec.Disconnect](old); d.Code != codec.SessionTakenOver {
									t.Errorf("%v", d.Code)
								}
								old.ended()
							}
							time.Sleep(time.Minute)
							if sent {
								watcher.want("w")
							}
							watcher.quiet()
						})
					})
				}
			}
		}
	}
}

// A session lasts as long as the newest CONNECT or DISCONNECT says. [MQTT-4.1.0-2] [MQTT-3.1.2-23]
func TestSessionExpiry(t *testing.T) {
	for _, c := range []struct {
		connect uint32
		change  *uint32
		wait    time.Duration
		present bool
	}{
		{10, nil, 9 * time.Second, true},
		{10, nil, 11 * time.Second, false},
		{0, nil, 0, false},
		{never, nil, 1000 * time.Hour, true},
		{10, seconds32(0), 0, false},
		{10, seconds32(100), 99 * time.Second, true},
		{10, seconds32(never), 1000 * time.Hour, true},
	} {
		bubble(t, func(t *testing.T) {
			l := newLab(t, nil)
			connect := kept5("x", true)
			connect.Properties.SessionExpiry = &c.connect
			p, _ := l.join(codec.V5, connect)
			time.Sleep(time.Hour) // while it is connected nothing counts
			p.send(&codec.Disconnect{SessionExpiry: c.change})
			p.ended()
			time.Sleep(c.wait)
			if _, ack := l.join(codec.V5, kept5("x", false)); ack.SessionPresent != c.present {
				t.Errorf("%+v: Session Present %v", c, ack.SessionPresent)
			}
		})
	}
}

// A session belongs to its user name: another user's CONNECT is refused, and where it was nobody's it begins anew.
func TestSessionsBelongToUsers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		join := func(v codec.Version, user string) (*peer, *codec.Connack) {
			connect := &codec.Connect{ClientID: "x", HasUsername: user != "", Username: user}
			if v == codec.V5 {
				connect.Properties.SessionExpiry = seconds32(100)
			}
			return l.join(v, connect)
		}
		p, _ := join(codec.V5, "ada")
		p.subscribe(1, "a")
		p.leave(true)
		l.client("p").publish("a", "secret")
		for _, user := range []string{"eve", ""} {
			eve, ack := join(codec.V5, user)
			if ack.Code != codec.ClientIdentifierNotValid {
				t.Errorf("%q: %v", user, ack.Code)
			}
			eve.ended()
			if _, ack := join(codec.V311, user); ack.Code != codec.ClientIdentifierNotValid {
				t.Errorf("%q: %v", user, ack.Code)
			}
		}
		p, ack := join(codec.V5, "ada")
		if !ack.SessionPresent {
			t.Error("the owner has lost the session")
		}
		p.want("secret")

		anonymous, _ := l.join(codec.V5, kept5("y", true))
		anonymous.subscribe(1, "a")
		anonymous.leave(true)
		l.client("p").publish("a", "secret")
		connect := kept5("y", false)
		connect.HasUsername, connect.Username = true, "eve"
		if _, ack := l.join(codec.V5, connect); ack.Code != codec.Success || ack.SessionPresent {
			t.Errorf("%+v", ack)
		}
	})
}

// What waits for a session that comes back arrives whole and in order, whatever its number.
func TestManyQueued(t *testing.T) {
	const n = 7000
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		p, _ := l.join(codec.V5, kept5("x", true))
		p.subscribe(1, "a")
		p.leave(true)
		pub := l.client("p")
		for i := range n {
			pub.publish("a", "%d", i)
		}
		p, _ = l.join(codec.V5, kept5("x", false))
		for i := range n {
			p.want("%d", i)
		}
		p.quiet()
	})
}

// Messages that are published while a session is taken over again and again all arrive, in their order; the client
// acknowledges each, so that nothing comes twice except what was in flight.
func TestTakeoverUnderLoad(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprint(qos), func(t *testing.T) {
			const n = 3000
			bubble(t, func(t *testing.T) {
				l := newLab(t, nil)
				connect := kept5("x", true)
				connect.Properties.ReceiveMaximum = 20
				sub, _ := l.join(codec.V5, connect)
				sub.subscribe(qos, "a")
				connect.CleanStart = false
				pub := l.client("p")
				go func() {
					for i := range n {
						id := uint16(i%500 + 1)
						pub.send(&codec.Publish{Topic: "a", QoS: qos, PacketID: id, Payload: fmt.Append(nil, i)})
						if qos == 2 {
							pub.send(&codec.Pubrel{PacketID: id})
						}
					}
				}()
				next := 0
				for next < n {
					if next%7 == 3 {
						sub, _ = l.join(codec.V5, connect)
					}
					switch m := sub.next().(type) {
					case *codec.Publish:
						var i int
						fmt.Sscan(string(m.Payload), &i)
						if i > next {
							t.Fatalf("got %d, want %d", i, next)
						}
						if i == next {
							next++
						}
						if qos == 1 {
							sub.send(&codec.Puback{PacketID: m.PacketID})
						} else {
							sub.send(&codec.Pubrec{PacketID: m.PacketID})
						}
					case *codec.Pubrel:
						sub.send(&codec.Pubcomp{PacketID: m.PacketID})
					default:
						t.Fatalf("got %T %+v", m, m)
					}
				}
				synctest.Wait()
			})
		})
	}
}

// The packet identifiers of the two directions have nothing to do with each other, for clients that publish what they
// subscribe to at QoS 2.
func TestQoS2BothWays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLab(t, nil)
		p := l.client("x")
		p.subscribe(2, "a")
		const n = 320
		published, got, done := 0, 0, 0
		for range 8 {
			published++
			p.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: uint16(published), Payload: fmt.Append(nil, published)})
		}
		for got < n || done < n {
			switch m := p.next().(type) {
			case *codec.Pubrec:
				p.send(&codec.Pubrel{PacketID: m.PacketID})
			case *codec.Pubcomp:
				if done++; published < n {
					published++
					p.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: m.PacketID, Payload: fmt.Append(nil, published)})
				}
			case *codec.Publish:
				got++
				p.send(&codec.Pubrec{PacketID: m.PacketID})
			case *codec.Pubrel:
				p.send(&codec.Pubcomp{PacketID: m.PacketID})
			default:
				t.Fatalf("%T", m)
			}
		}
		p.quiet()
	})
}
