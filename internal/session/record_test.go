package session

import (
	"fmt"
	"slices"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// recorded is a session whose PUBRECs wait for records, and what it has asked to be recorded.
func recorded(t *testing.T) (*Session, *[]uint16) {
	s := New(Limits{InFlight: 10})
	var asked []uint16
	s.RecordReceived(func(m Received) { asked = append(asked, m.ID) })
	s.Serve(Connection{Version: codec.V5, PeerReceiveMaximum: 10, PeerMayForget: true})
	s.Resumed(nil)
	return s, &asked
}

// came takes a message at QoS 2 and accepts it if it is new. It returns what is sent.
func came(t *testing.T, s *Session, id uint16, dup bool) (pubrecs []uint16, verdict Verdict) {
	t.Helper()
	p := &codec.PublishView{QoS: 2, Dup: dup, PacketID: id, Topic: []byte("t"), Payload: []byte{byte(id)}}
	b, verdict := s.Arrive(nil, p)
	if verdict == Deliver {
		b = s.Accept(b, p, nil)
	}
	return pubrecIDs(t, b), verdict
}

func pubrecIDs(t *testing.T, b []byte) (ids []uint16) {
	t.Helper()
	for ; len(b) >= 4; b = b[2+int(b[1]):] {
		if b[0] != 0x50 {
			t.Fatalf("packet %x is no PUBREC", b)
		}
		ids = append(ids, uint16(b[2])<<8|uint16(b[3]))
	}
	return ids
}

func want(t *testing.T, got []uint16, want ...uint16) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%v, not %v", got, want)
	}
}

// PUBREC waits for the record, and goes out in order whatever is recorded first [MQTT-4.6.0-3].
func TestPubrecWaitsForRecord(t *testing.T) {
	s, asked := recorded(t)
	for id := uint16(1); id <= 3; id++ {
		got, _ := came(t, s, id, false)
		want(t, got)
	}
	want(t, *asked, 1, 2, 3)
	want(t, pubrecIDs(t, s.Recorded(nil, 2)))
	want(t, pubrecIDs(t, s.Recorded(nil, 1)), 1, 2)
	want(t, pubrecIDs(t, s.Recorded(nil, 3)), 3)
	got, verdict := came(t, s, 1, true) // on the same connection
	want(t, got, 1)
	if verdict != Repeated {
		t.Error(verdict)
	}
}

// A refusal does not overtake a PUBREC that waits.
func TestRefusalBehindRecord(t *testing.T) {
	s, _ := recorded(t)
	came(t, s, 1, false)
	p := &codec.PublishView{QoS: 2, PacketID: 2, Topic: []byte("t")}
	s.Arrive(nil, p)
	want(t, pubrecIDs(t, s.Accept(nil, p, &Reason{Code: codec.NotAuthorized})))
	want(t, pubrecIDs(t, s.Recorded(nil, 1)), 1, 2)
}

// What is sent again before it was recorded is not delivered again, and its PUBREC still waits.
func TestResentBeforeRecord(t *testing.T) {
	for _, reconnect := range []bool{false, true} {
		t.Run(fmt.Sprint(reconnect), func(t *testing.T) {
			s, asked := recorded(t)
			came(t, s, 1, false)
			if reconnect {
				s.Lost()
				s.Serve(Connection{Version: codec.V5, PeerReceiveMaximum: 10, PeerMayForget: true})
				s.Resumed(nil)
			}
			got, verdict := came(t, s, 1, true)
			want(t, got)
			if verdict != Repeated {
				t.Error(verdict)
			}
			want(t, *asked, 1)
			want(t, pubrecIDs(t, s.Recorded(nil, 1)), 1)
		})
	}
}

// A record that comes after the connection has ended sends nothing; the message is sent again, and acknowledged then.
func TestRecordedTooLate(t *testing.T) {
	s, _ := recorded(t)
	came(t, s, 1, false)
	s.Lost()
	want(t, pubrecIDs(t, s.Recorded(nil, 1)))
	s.Serve(Connection{Version: codec.V5, PeerReceiveMaximum: 10, PeerMayForget: true})
	s.Resumed(nil)
	got, verdict := came(t, s, 1, true)
	want(t, got, 1)
	if verdict != Repeated {
		t.Error(verdict)
	}
}

// After the death of the process too, a message that comes with an identifier in use is the one that the peer sends again if it
// has the same content. Otherwise it is new, also with DUP: the peer has begun another session, and its first copy was lost.
func TestRestoredIdentifier(t *testing.T) {
	for _, dup := range []bool{false, true} {
		s, _ := recorded(t)
		came(t, s, 7, false)
		s.Recorded(nil, 7)
		next, _ := recorded(t)
		if err := next.Restore(s.State()); err != nil {
			t.Fatal(err)
		}
		if _, verdict := came(t, next, 7, dup); verdict != Repeated {
			t.Errorf("DUP %v: %v", dup, verdict)
		}
		next, _ = recorded(t)
		if err := next.Restore(s.State()); err != nil {
			t.Fatal(err)
		}
		other := &codec.PublishView{QoS: 2, Dup: dup, PacketID: 7, Topic: []byte("t"), Payload: []byte("another")}
		if _, verdict := next.Arrive(nil, other); verdict != Deliver {
			t.Errorf("another message, DUP %v: %v", dup, verdict)
		}
	}
}

// A prepared message that is taken back between two connections takes no place in the window of the next one, and gives none
// [MQTT-3.3.4-7].
func TestCancelWithoutConnection(t *testing.T) {
	s := New(Limits{InFlight: 10})
	c := Connection{Version: codec.V5, PeerReceiveMaximum: 1, PeerMayForget: true}
	s.Serve(c)
	s.Resumed(nil)
	id, err := s.Prepare(&Message{Topic: "t", QoS: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.Lost()
	if _, ok := s.Cancel(id); !ok {
		t.Fatal("the message is gone")
	}
	s.Serve(c)
	s.Resumed(nil)
	if _, err := s.Prepare(&Message{Topic: "t", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if s.HasRoom() {
		t.Error("there is room for a second message")
	}
}
