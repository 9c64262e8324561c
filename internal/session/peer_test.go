package session

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/petrel-mqtt/mqtt/codec"
)

// server returns a server's session with a client that has a connection.
func server(v codec.Version) *Session {
	s := New(Limits{InFlight: 10, QueueMessages: 10, QueueBytes: 1000})
	s.Serve(Connection{Version: v, PeerReceiveMaximum: 10})
	return s
}

// cut ends the connection and continues the session on another, perhaps in another version.
func cut(s *Session, v codec.Version) []byte {
	s.Lost()
	s.Serve(Connection{Version: v, PeerReceiveMaximum: 10, PeerMayForget: s.mayForget})
	return s.Resumed(nil)
}

// other is a PUBLISH under the identifier with another content than view gives it.
func other(id uint16, qos byte, dup bool) *codec.PublishView {
	p := view(id, qos, dup)
	p.Payload = []byte("other")
	return p
}

// [MQTT-4.3.3-10] [MQTT311-4.3.3-2]: to a server an identifier of QoS 2 in use is a duplicate, whatever the content. A client
// tells its server's new messages by their content, because servers lose sessions without a word.
func TestIdentifierInUse(t *testing.T) {
	for _, c := range []struct {
		name      string
		mayForget bool
		content   func(id uint16, qos byte, dup bool) *codec.PublishView
		want      Verdict
	}{
		{"server, same content", false, view, Repeated},
		{"server, other content", false, other, Repeated},
		{"client, same content", true, view, Repeated},
		{"client, other content", true, other, Deliver},
	} {
		for _, dup := range []bool{false, true} {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				s := server(v)
				s.mayForget = c.mayForget
				arrive(t, s, 7, 2)
				s.Accept(nil, view(7, 2, false), nil)
				cut(s, v)
				b, verdict := s.Arrive(nil, c.content(7, 2, dup))
				if verdict != c.want {
					t.Errorf("%s, DUP %v: verdict %v, want %v", c.name, dup, verdict, c.want)
				}
				if c.want == Repeated {
					wantBytes(t, c.name, b, "5002 0007")
				}
			})
		}
	}
}

// The same before PUBREC: the identifier is claimed from Hold on.
func TestIdentifierClaimedBeforePubrec(t *testing.T) {
	s := server(codec.V5)
	arrive(t, s, 7, 2)
	r := s.Hold(view(7, 2, false)) // the owner routes the message now, without its mutex
	cut(s, codec.V5)
	if b, verdict := s.Arrive(nil, other(7, 2, false)); verdict != Repeated || len(b) > 0 {
		t.Errorf("verdict %v, % X", verdict, b)
	}
	wantBytes(t, "after the routing", s.Release(nil, r, true), "5002 0007")

	arrive(t, s, 8, 1)
	s.Hold(view(8, 1, false))
	cut(s, codec.V5)
	if _, verdict := s.Arrive(nil, view(8, 1, false)); verdict != Deliver {
		t.Error("at QoS 1 a message without DUP is new") // [MQTT-4.3.2-5]
	}
}

// What the acknowledgement says other than success: a server knows that nobody subscribes, which is no failure.
func TestReasons(t *testing.T) {
	nobody := &Reason{Code: codec.NoMatchingSubscribers}
	full := &Reason{Code: codec.QuotaExceeded, String: "r"}
	for _, c := range []struct {
		name     string
		qos      byte
		reason   *Reason
		v5, v311 string
		open     int // messages that occupy the window afterwards
	}{
		{"nothing", 1, nil, "4002 0001", "4002 0001", 0},
		{"nobody subscribes", 1, nobody, "4003 0001 10", "4002 0001", 0},
		{"nobody subscribes", 2, nobody, "5003 0001 10", "5002 0001", 1},
		{"full", 1, full, "4008 0001 97 04 1F 0001 72", "4002 0001", 0},
		{"full", 2, full, "5008 0001 97 04 1F 0001 72", "5002 0001", 0},
	} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			open := c.open
			if v < codec.V5 && c.qos == 2 {
				open = 1
			}
			want := perVersion(v, c.v5, c.v311)
			s := server(v)
			arrive(t, s, 1, c.qos)
			wantBytes(t, c.name+", accepted", s.Accept(nil, view(1, c.qos, false), c.reason), want)
			if s.Unacknowledged() != open {
				t.Errorf("%s: %d messages occupy the window, want %d", c.name, s.Unacknowledged(), open)
			}
			s = server(v)
			arrive(t, s, 1, c.qos)
			r := s.Hold(view(1, c.qos, false))
			r.SetReason(c.reason)
			wantBytes(t, c.name+", released", s.Release(nil, r, false), want)
		})
	}
}

// An Accept behind a message that waits keeps its reason.
func TestReasonWaitsItsTurn(t *testing.T) {
	s := server(codec.V5)
	first := hold(t, s, 1, 1, 1)
	arrive(t, s, 2, 1)
	wantBytes(t, "waits", s.Accept(nil, view(2, 1, false), &Reason{Code: codec.NoMatchingSubscribers}), "")
	wantBytes(t, "both", settle(s, nil, first, codec.Success, ""), "4002 0001 4003 0002 10")
}

// A server shares a message between sessions: what is each one's own stands beside what is common, and a session of
// MQTT 3.1.1 leaves out what that has not.
// [MQTT-3.3.4-3]
func TestSharedMessage(t *testing.T) {
	common := &codec.PublishProperties{ContentType: "t", MessageExpiry: time.Hour}
	m := Message{Topic: "a", Properties: common, Expires: 90 * time.Second, QoS: 1, SubscriptionIdentifiers: []uint32{3, 300}}
	for v, want := range map[codec.Version]string{
		codec.V5:   "32 14 0001 61 0001 0E 0B 03 0B AC02 02 0000003C 03 0001 74",
		codec.V311: "32 05 0001 61 0001",
	} {
		s := server(v)
		b, _, err := s.Send(nil, &m, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, v.String(), b, want)
	}
	m.Properties = nil
	b, _, _ := server(codec.V5).Send(nil, &m, 0)
	wantBytes(t, "identifiers alone", b, "32 0B 0001 61 0001 05 0B 03 0B AC02")
	if common.MessageExpiry != time.Hour {
		t.Error("the common properties were changed")
	}
}

// A session goes from one version to the other.
func TestOtherVersion(t *testing.T) {
	s := server(codec.V5)
	m := Message{Topic: "a", QoS: 1, Properties: &codec.PublishProperties{ContentType: "t"}}
	s.Send(nil, &m, 0)
	cut(s, codec.V311)
	b, err := s.Resend(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "on 3.1.1", b, "3A 05 0001 61 0001")
	cut(s, codec.V5)
	b, _ = s.Resend(nil, 0)
	wantBytes(t, "and back", b, "3A 0A 0001 61 0001 04 03 0001 74")
}

func TestDropOldest(t *testing.T) {
	s := server(codec.V5)
	if _, ok := s.DropOldest(); ok {
		t.Error("an empty session drops something")
	}
	s.Lost() // then nothing may be sent, and Front returns nothing
	for _, topic := range []string{"a", "b"} {
		s.Queue(&Message{Topic: topic, QoS: 1})
	}
	s.Queue(&Message{Topic: "qos0"})
	for _, want := range []string{"a", "b"} {
		if m, ok := s.DropOldest(); !ok || m.Topic != want {
			t.Errorf("drops %q, %v, want %q", m.Topic, ok, want)
		}
	}
	if _, ok := s.DropOldest(); ok {
		t.Error("a message at QoS 0 is dropped")
	}
	if n, bytes := s.Queued(); n != 1 || bytes != 4 {
		t.Errorf("%d messages of %d bytes wait", n, bytes)
	}
}

func TestDropExpired(t *testing.T) {
	s := server(codec.V5)
	if s.DropExpired(0) != nil {
		t.Error("an empty session drops something")
	}
	s.Send(nil, &Message{Topic: "sent", QoS: 1, Expires: 1}, 0)
	for topic, expires := range map[string]time.Duration{"soon": 5, "now": 10, "later": 11, "never": 0} {
		s.Queue(&Message{Topic: topic, QoS: 1, Expires: expires})
		s.Queue(&Message{Topic: topic, QoS: 0, Expires: expires})
	}
	if at := s.NextExpiry(); at != 5 {
		t.Errorf("the next expires at %d", at)
	}
	var dropped []string
	for _, m := range s.DropExpired(10) {
		dropped = append(dropped, m.Topic)
	}
	slices.Sort(dropped)
	if want := []string{"now", "now", "soon", "soon"}; !slices.Equal(dropped, want) {
		t.Errorf("dropped %q, want %q", dropped, want)
	}
	if n, bytes := s.Queued(); n != 4 || bytes != 2*len("laternever") || s.InFlight() != 1 {
		t.Errorf("%d messages of %d bytes wait, %d are in flight", n, bytes, s.InFlight())
	}
	if at := s.NextExpiry(); at != 11 {
		t.Errorf("then the next expires at %d", at)
	}
	if s.DropExpired(11); s.NextExpiry() != 0 {
		t.Errorf("in the end the next expires at %d", s.NextExpiry())
	}
}

// A ticket finds no other message after Trim.
func TestTicketsGrow(t *testing.T) {
	s := server(codec.V5)
	first := s.Queue(&Message{Topic: "a", QoS: 1})
	s.SendFront(nil, 0)
	s.Trim()
	if second := s.Queue(&Message{Topic: "b", QoS: 1}); second <= first {
		t.Errorf("ticket %d follows %d", second, first)
	}
	if s.Withdraw(first) {
		t.Error("a message that was sent can be withdrawn")
	}
}

// An idle session is small, whatever it did before: a server holds thousands.
func TestIdleSessionIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Session{}); size > 256 {
		t.Errorf("a session takes %d bytes", size)
	}
	s := server(codec.V5)
	r := hold(t, s, 1, 1, 1)
	s.Queue(&Message{Topic: "a", QoS: 1})
	s.SendFront(nil, 0)
	cut(s, codec.V5)
	s.Resend(nil, 0)
	s.Puback(1)
	s.Arrive(nil, view(1, 1, true))
	settle(s, nil, r, codec.Success, "")
	s.Lost()
	s.Serve(Connection{Version: codec.V5, PeerReceiveMaximum: 10})
	s.Resumed(nil)
	s.Trim()
	if o := &s.out; o.queues != nil || o.recovery != nil || o.sent.slots != nil || s.in.pending != nil || s.in.received.slots != nil {
		t.Errorf("memory is held: %+v %+v", s.out, s.in)
	}
}

// A Store lets nothing out before it is on disk: Prepare takes the identifier, Confirm sends.
func TestPrepare(t *testing.T) {
	s := server(codec.V5)
	m := Message{Topic: "a", QoS: 2, Owner: "first"}
	id, err := s.Prepare(&m)
	if err != nil || id != 1 || s.InFlight() != 1 || s.Resending() != nil {
		t.Fatalf("identifier %d, error %v, %d in flight", id, err, s.InFlight())
	}
	if _, known := s.Puback(1); known || s.Misplaced(codec.PUBREC, 1) {
		t.Error("an acknowledgement of what was not sent has an effect")
	}
	b, _, done, known := s.Pubrec(nil, 1, codec.Success)
	if done || known {
		t.Errorf("PUBREC of what was not sent: %v, %v", done, known)
	}
	wantBytes(t, "its answer", b, "62 03 0001 92") // [MQTT-4.3.3-4]

	send(t, s, 1, "other") // is not held up
	if !s.Confirm(1) || s.Confirm(1) || s.Confirm(2) || s.Confirm(99) {
		t.Error("Confirm is good once, for what was prepared")
	}
	if s.Ready() {
		t.Error("a new message may overtake one that is confirmed")
	}
	b, err = s.Resend(nil, 0)
	if err != nil || s.Resending() != nil || !s.Ready() {
		t.Fatalf("error %v", err)
	}
	wantBytes(t, "[MQTT-3.3.1-1] sent without DUP", b, "34 06 0001 61 0001 00")
	if s.InFlight() != 2 || s.out.inFlight != 2 {
		t.Errorf("%d in flight, %d count", s.InFlight(), s.out.inFlight)
	}
	if _, ok := s.Cancel(1); ok {
		t.Error("a message that was sent is cancelled")
	}
	cut(s, codec.V5)
	b, _ = s.Resend(nil, 0)
	wantBytes(t, "[MQTT-3.3.1-1] sent again with DUP", b, "3C 06 0001 61 0001 00")
}

func TestPrepareKeepsTheWindow(t *testing.T) {
	s := server(codec.V5)
	for range 10 {
		if !s.Ready() {
			t.Fatal("not ready")
		}
		if _, err := s.Prepare(&Message{Topic: "a", QoS: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if s.Ready() {
		t.Error("ready with a full window")
	}
	if m, ok := s.Cancel(3); !ok || m.Topic != "a" || !s.Ready() || s.InFlight() != 9 {
		t.Errorf("cancelled %v, %v; %d in flight", m, ok, s.InFlight())
	}
	s.Lost()
	s.Serve(Connection{Version: codec.V5, PeerReceiveMaximum: 2})
	s.Resumed(nil)
	for id := uint16(1); id <= 10; id++ {
		s.Confirm(id)
	}
	n := 0
	for ; s.Resending() != nil; n++ {
		s.Resend(nil, 0)
	}
	if n != 2 {
		t.Errorf("%d messages are sent in a window of 2", n)
	}
}

// A cut between Prepare and Confirm, and between Confirm and Resend.
func TestPreparedAcrossACut(t *testing.T) {
	for _, confirmed := range []bool{false, true} {
		s := server(codec.V5)
		s.Queue(&Message{Topic: "a", QoS: 2})
		id, err := s.PrepareFront()
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := s.Queued(); n != 0 || s.Front() != nil {
			t.Error("a message that was prepared still waits")
		}
		if confirmed {
			s.Confirm(id)
		}
		s.Lost()
		if !confirmed {
			s.Confirm(id) // the disk has no part in the connection
		}
		cut(s, codec.V5)
		b, err := s.Resend(nil, 0)
		if err != nil || s.Resending() != nil {
			t.Errorf("confirmed %v: error %v, then %v", confirmed, err, s.Resending())
		}
		wantBytes(t, "[MQTT-3.3.1-1] sent for the first time", b, "34 06 0001 61 0001 00")
	}
}

// A session that the peer has lost: what was never sent is published afresh, at QoS 2 too.
func TestPreparedInALostSession(t *testing.T) {
	s := server(codec.V5)
	for _, topic := range []string{"prepared", "confirmed", "sent"} {
		s.Prepare(&Message{Topic: topic, QoS: 2, Owner: topic})
	}
	s.Confirm(3)
	s.Resend(nil, 0)
	s.Confirm(2)
	s.Lost()
	s.Serve(Connection{Version: codec.V5, PeerReceiveMaximum: 10})
	if lost := s.Renewed(); owners(lost) != "sent" {
		t.Errorf("lost %q", owners(lost))
	}
	if s.Confirm(1) {
		t.Error("the identifier of a lost session is confirmed")
	}
	var order []string
	for m := s.Front(); m != nil; m = s.Front() {
		order = append(order, m.Topic)
		s.SendFront(nil, 0)
	}
	if !slices.Equal(order, []string{"prepared", "confirmed"}) {
		t.Errorf("published afresh: %q", order)
	}
	if _, guilty := s.Blame(1); guilty {
		t.Error("a message that was sent for the first time is blamed")
	}
}

// A message that cannot be sent is let go; its identifier was never used.
func TestGiveUpPrepared(t *testing.T) {
	s := server(codec.V5)
	s.Prepare(&Message{Topic: strings.Repeat("a", 1<<16), QoS: 1})
	s.Confirm(1)
	s.Resending()
	if _, err := s.Resend(nil, 0); err == nil {
		t.Fatal("a topic that is too long is sent")
	}
	s.GiveUpResend()
	if s.InFlight() != 0 || s.out.inFlight != 0 || s.out.sent.used != 0 || !s.Ready() {
		t.Errorf("%d in flight, %d count, %d entries", s.InFlight(), s.out.inFlight, s.out.sent.used)
	}
}

func TestInFlightMessage(t *testing.T) {
	s := server(codec.V5)
	id, _ := send(t, s, 2, "x")
	if m, released := s.InFlightMessage(id); m == nil || m.Owner != "x" || released {
		t.Errorf("%v, released %v", m, released)
	}
	s.Pubrec(nil, id, codec.Success)
	if m, released := s.InFlightMessage(id); m == nil || m.Owner != "x" || !released {
		t.Errorf("after PUBREC %v, released %v", m, released)
	}
	s.Pubcomp(id)
	sub, _ := s.TakeID("subscribe")
	for _, id := range []uint16{id, sub, 99} {
		if m, _ := s.InFlightMessage(id); m != nil {
			t.Errorf("identifier %d: %v", id, m)
		}
	}
}

// Whoever settles everything settles messages of earlier connections too: they are acknowledged when they come again.
func TestSettleAllOfEarlierConnections(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		s := server(codec.V5)
		for id := uint16(1); id <= 2; id++ {
			arrive(t, s, id, qos)
			r := s.Hold(view(id, qos, false))
			r.AddHolder("h")
			s.Release(nil, r, false)
			if id == 1 {
				cut(s, codec.V5)
			}
		}
		wantBytes(t, "of this connection", s.SettleAll(nil, "h", nil), accept(qos, 2))
		b, verdict := s.Arrive(nil, view(1, qos, true))
		if verdict != Repeated {
			t.Errorf("verdict %v", verdict)
		}
		wantBytes(t, "of the earlier one", b, accept(qos, 1))
	}
}
