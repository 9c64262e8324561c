package session

import (
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// The message over which five connections in a row are lost is given up.
func TestSuspect(t *testing.T) {
	const limit = 5
	for _, c := range []struct {
		name  string
		spoil func(s *Session, connection int)
		after int // connections after which "a" is given up; 0: never
	}{
		{"nothing else", func(*Session, int) {}, 5},
		{"an acknowledgement on the third", func(s *Session, connection int) {
			if connection == 3 {
				s.Puback(2)
			}
		}, 8},
		{"an acknowledgement on each", func(s *Session, connection int) {
			s.Pubrec(nil, uint16(connection+2), codec.Success)
		}, 0},
		{"an acknowledgement of something unknown", func(s *Session, _ int) {
			s.Puback(4711)
			s.Pubrec(nil, 4711, codec.Success)
			s.Pubcomp(4711)
		}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := connected(codec.V5, 100)
			publish(t, s, "a", 1)
			publish(t, s, "b", 1)
			for range 20 {
				publish(t, s, "c", 2)
			}
			if _, guilty := s.Blame(limit); guilty {
				t.Fatal("a message is blamed that was never sent again")
			}
			s.Lost()
			for connection := 1; connection <= 20; connection++ {
				resume(s, nil, 100)
				resendAll(t, s)
				c.spoil(s, connection)
				m, guilty := s.Blame(limit)
				s.Lost()
				if want := !guilty && !s.out.recovery.suspect.acknowledged && s.out.recovery.suspect.losses > 0; s.Suspects() != want {
					t.Errorf("after connection %d a message is suspected: %v", connection, !want)
				}
				switch {
				case !guilty && connection == c.after:
					t.Fatalf("nothing is given up after %d connections", connection)
				case guilty && connection != c.after:
					t.Fatalf("%q is given up after %d connections", m.Topic, connection)
				case guilty:
					checkGivenUp(t, s, m)
					return
				}
			}
		})
	}
}

func checkGivenUp(t *testing.T, s *Session, m Message) {
	t.Helper()
	if m.Owner != "a" || s.out.sent.get(1) == nil {
		t.Errorf("%q is given up; its identifier is reserved: %v", m.Topic, s.out.sent.get(1) != nil)
	}
	resume(s, nil, 100)
	if m := s.Resending(); m == nil || m.Topic == "a" {
		t.Errorf("then %v is sent again", m)
	}
}

// 0 is no limit, and the next message gets a count of its own.
func TestSuspectOfAnotherMessage(t *testing.T) {
	s := connected(codec.V5, 100)
	publish(t, s, "a", 1)
	publish(t, s, "b", 1)
	s.Lost()
	lose := func(limit int) (Message, bool) {
		resume(s, nil, 100)
		resendAll(t, s)
		m, guilty := s.Blame(limit)
		s.Lost()
		return m, guilty
	}
	for range 10 {
		if m, guilty := lose(0); guilty {
			t.Fatalf("%q is given up without a limit", m.Topic)
		}
	}
	if m, guilty := lose(3); !guilty || m.Topic != "a" {
		t.Fatalf("%q is given up: %v", m.Topic, guilty)
	}
	for n := 1; n <= 3; n++ {
		if m, guilty := lose(3); guilty != (n == 3) || guilty && m.Topic != "b" {
			t.Fatalf("after %d connections more %q is given up: %v", n, m.Topic, guilty)
		}
	}
}

// The connections are in a row only if none of them had an acknowledgement, also one that nobody lost.
func TestSuspectAcquitted(t *testing.T) {
	s := connected(codec.V5, 100)
	publish(t, s, "a", 1)
	publish(t, s, "b", 1)
	s.Lost()
	for connection := range 4 {
		resume(s, nil, 100)
		resendAll(t, s)
		if connection == 1 {
			s.Puback(2) // and the client leaves by itself
		} else if m, guilty := s.Blame(3); guilty {
			t.Fatalf("%q is given up after connection %d", m.Topic, connection)
		}
		s.Lost()
	}
}

// Messages at QoS 0 that wait for a connection are queued apart, within the same bounds.
func TestOffline(t *testing.T) {
	s := serving(codec.V5, Limits{InFlight: 10, QueueMessages: 3, QueueBytes: 100}, 0)
	one := s.Queue(&Message{Topic: "a", QoS: 1})
	none := s.Queue(&Message{Topic: "b"})
	last := s.Queue(&Message{Topic: "c", Payload: make([]byte, 10)})
	if s.CanQueue(1) {
		t.Error("a fourth message has room")
	}
	if n, bytes := s.Queued(); n != 3 || bytes != 13 {
		t.Errorf("%d messages, %d bytes", n, bytes)
	}
	if !s.Withdraw(none) || s.Withdraw(none) || s.FrontQoS0().Topic != "c" {
		t.Errorf("after a withdrawal %v is next", s.FrontQoS0())
	}
	if !s.CanQueue(88) || s.CanQueue(89) {
		t.Error("the bytes of both queues do not count together")
	}
	renew(s, 10)
	if m := s.Front(); m.Topic != "a" {
		t.Errorf("the window is for %v", m)
	}
	if m := s.DropQoS0(); m.Topic != "c" || s.FrontQoS0() != nil {
		t.Errorf("dropped %v", m)
	}
	if s.Withdraw(last) || !s.Withdraw(one) {
		t.Error("what was sent is withdrawn, or what was not is not")
	}
	s.Queue(&Message{Topic: "d"})
	if _, unsent := s.Discard(); len(unsent) != 1 || unsent[0].Topic != "d" {
		t.Errorf("discarded %v", unsent)
	}
}
