package session

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// restored returns a session with the state of another, as after the death of the process.
func restored(t *testing.T, s *Session) *Session {
	t.Helper()
	n := New(s.limits)
	st := s.State()
	if err := n.Restore(st); err != nil {
		t.Fatal(err)
	}
	if again := n.State(); !reflect.DeepEqual(st, again) {
		t.Errorf("the state\n%+v becomes\n%+v", st, again)
	}
	n.Serve(Connection{Version: s.version, PeerReceiveMaximum: 10, PeerMayForget: s.mayForget})
	return n
}

// busy returns a session with something of everything: messages 1 to 5 in flight, of which 2 and 4 have a PUBREC, in the
// other order, 5 is prepared and 6 given up; and a SUBSCRIBE, which is no part of a session.
func busy(t *testing.T) *Session {
	s := connected(codec.V5, 10)
	for i, topic := range []string{"q1", "q2", "r1", "r2"} {
		publish(t, s, topic, byte(1+i%2))
	}
	s.Prepare(&Message{Topic: "p", QoS: 2, Owner: "p"})
	publish(t, s, "g", 1)
	s.TakeID("subscribe")
	s.Pubrec(nil, 4, codec.Success)
	s.Pubrec(nil, 2, codec.Success)
	s.out.giveUp(s.out.sent.get(6))
	s.Queue(&Message{Topic: "w1", QoS: 1})
	s.Queue(&Message{Topic: "w0"})
	s.Queue(&Message{Topic: "w2", QoS: 2})
	arrive(t, s, 9, 2)
	s.Accept(nil, view(9, 2, false), nil)
	arrive(t, s, 8, 2)
	s.Accept(nil, view(8, 2, false), nil)
	s.Pubrel(nil, 8)
	return s
}

func TestRestore(t *testing.T) {
	s := restored(t, busy(t))
	if messages, _ := s.Queued(); s.InFlight() != 5 || messages != 3 {
		t.Errorf("%d in flight, %d wait", s.InFlight(), messages)
	}
	b := s.Resumed(nil)
	b = append(b, resendAll(t, s)...)
	for s.Front() != nil {
		b, _, _ = s.SendFront(b, 0)
	}
	wantPackets(t, s, b, "PUBREL 4", "PUBREL 2", "PUBLISH 1 true q1", "PUBLISH 3 true r1", "PUBLISH 5 false p",
		"PUBLISH 8 false w1", "PUBLISH 9 false w2") // 6 is reserved, 7 was the SUBSCRIBE's
	if m := s.FrontQoS0(); m == nil || m.Topic != "w0" {
		t.Errorf("at QoS 0 waits %v", m)
	}
	for id, want := range map[uint16]Verdict{9: Repeated, 8: Deliver} {
		if _, verdict := s.Arrive(nil, view(id, 2, true)); verdict != want {
			t.Errorf("[MQTT-4.3.3-10] message %d comes again: verdict %v, want %v", id, verdict, want)
		}
	}
	if !s.Withdraw(3) || s.Withdraw(2) { // the third ticket is that of w0
		t.Error("tickets do not follow the order")
	}
}

// A session that the server has lost meanwhile.
func TestRestoreAndRenew(t *testing.T) {
	s := restored(t, busy(t))
	var lost []string
	for _, m := range s.Renewed() {
		lost = append(lost, m.Topic)
	}
	var b []byte
	for s.Front() != nil {
		b, _, _ = s.SendFront(b, 0)
	}
	wantPackets(t, s, b, "PUBLISH 8 false q1", "PUBLISH 9 false r1", "PUBLISH 10 false p", "PUBLISH 11 false w1", "PUBLISH 12 false w2")
	if fmt.Sprint(lost) != "[r2 q2]" {
		t.Errorf("lost %q", lost)
	}
	if _, verdict := s.Arrive(nil, view(9, 2, true)); verdict != Deliver {
		t.Error("an identifier of the lost session is in use")
	}
}

// What was to be published afresh after a loss waits in front.
func TestStateAfterALoss(t *testing.T) {
	s := busy(t)
	s.Lost()
	renew(s, 0)
	b := restored(t, s)
	b.Renewed()
	var all []byte
	for b.Front() != nil {
		all, _, _ = b.SendFront(all, 0)
	}
	wantPackets(t, b, all, "PUBLISH 8 false q1", "PUBLISH 9 false r1", "PUBLISH 10 false p", "PUBLISH 11 false w1", "PUBLISH 12 false w2")
}

func TestRestoreRefuses(t *testing.T) {
	m := Message{Topic: "a", QoS: 1}
	q2 := Message{Topic: "a", QoS: 2}
	for name, st := range map[string]State{
		"identifier 0":              {Sent: []Sent{{Message: m}}},
		"an identifier twice":       {Sent: []Sent{{ID: 1, Message: m}, {ID: 1, GivenUp: true}}},
		"QoS 0 in flight":           {Sent: []Sent{{ID: 1, Message: Message{Topic: "a"}}}},
		"QoS 3 in flight":           {Sent: []Sent{{ID: 1, Message: Message{Topic: "a", QoS: 3}}}},
		"no topic":                  {Sent: []Sent{{ID: 1, Message: Message{QoS: 1}}}},
		"PUBREC at QoS 1":           {Sent: []Sent{{ID: 1, Message: m, Released: true}}},
		"PUBREC of nothing":         {Sent: []Sent{{ID: 1, Message: q2, Released: true, Unsent: true}}},
		"no topic that waits":       {Waiting: []Message{{QoS: 1}}},
		"QoS 3 that waits":          {Waiting: []Message{{Topic: "a", QoS: 3}}},
		"identifier 0 received":     {Received: []Received{{}}},
		"an identifier, both times": {Received: []Received{{ID: 5}, {ID: 5, Content: 1}}},
	} {
		if New(Limits{}).Restore(st) == nil {
			t.Errorf("%s is restored", name)
		}
	}
}

// However often the process dies, and whatever the server has got by then: QoS 2 arrives once, in order, and nothing is lost.
func TestRestoreModel(t *testing.T) {
	forSeeds(t, func(t *testing.T, rng *rand.Rand) {
		s := connected(codec.V5, 5)
		got, received, next := []string{}, map[uint16]bool{}, 0
		// The server reads what was sent, up to a cut, and answers.
		var wire []byte
		deliver := func() {
			for len(wire) > 0 {
				h, n, _ := codec.ParseHeader(wire, codec.V5)
				body := wire[n : n+h.Length]
				wire = wire[n+h.Length:]
				p, err := codec.Decode(h, body, codec.V5)
				if err != nil {
					t.Fatal(err)
				}
				switch p := p.(type) {
				case *codec.Publish:
					if !received[p.PacketID] {
						got = append(got, p.Topic)
						received[p.PacketID] = true
					}
					if rng.IntN(3) > 0 {
						wire, _, _, _ = s.Pubrec(wire, p.PacketID, codec.Success)
					}
				case *codec.Pubrel:
					delete(received, p.PacketID)
					if rng.IntN(3) > 0 {
						s.Pubcomp(p.PacketID)
					}
				}
			}
		}
		send := func() {
			for s.Resending() != nil {
				wire, _ = s.Resend(wire, 0)
			}
			for s.Front() != nil {
				if rng.IntN(2) == 0 {
					wire, _, _ = s.SendFront(wire, 0)
				} else if id, err := s.PrepareFront(); err != nil || !s.Confirm(id) {
					t.Fatal(err)
				} else {
					wire, _ = s.Resend(wire, 0)
				}
			}
		}
		for range 300 {
			switch rng.IntN(4) {
			case 0:
				s.Queue(&Message{Topic: fmt.Sprint(next), QoS: 2})
				next++
			case 1:
				send()
			case 2:
				deliver()
			default:
				if rng.IntN(2) == 0 {
					wire = nil // the packets on their way are lost too
				}
				deliver()
				s = restored(t, s)
				wire = s.Resumed(nil)
			}
		}
		for messages, _ := s.Queued(); messages+s.InFlight() > 0; messages, _ = s.Queued() {
			s = restored(t, s)
			wire = s.Resumed(nil)
			send()
			deliver()
		}
		for i, topic := range got {
			if topic != fmt.Sprint(i) {
				t.Fatalf("the server gets %q as message %d", topic, i)
			}
		}
		if len(got) != next {
			t.Errorf("the server gets %d of %d messages", len(got), next)
		}
	})
}
