package session

import (
	"fmt"
	"slices"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// publish sends a message and returns its identifier.
func publish(t *testing.T, s *Session, topic string, qos byte) uint16 {
	t.Helper()
	_, id, err := s.Send(nil, &Message{Topic: topic, QoS: qos, Owner: topic}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// packets describes packets in short: type, identifier, DUP, topic.
func packets(t *testing.T, v codec.Version, b []byte) (all []string) {
	t.Helper()
	for len(b) > 0 {
		h, n, err := codec.ParseHeader(b, v)
		if err != nil || n == 0 {
			t.Fatalf("%x: %v", b, err)
		}
		p, err := codec.Decode(h, b[n:n+h.Length], v)
		if err != nil {
			t.Fatal(err)
		}
		switch p := p.(type) {
		case *codec.Publish:
			all = append(all, fmt.Sprintf("PUBLISH %d %v %s", p.PacketID, p.Dup, p.Topic))
		case *codec.Pubrel:
			all = append(all, fmt.Sprintf("PUBREL %d", p.PacketID))
		default:
			all = append(all, p.Type().String())
		}
		b = b[n+h.Length:]
	}
	return all
}

func wantPackets(t *testing.T, s *Session, b []byte, want ...string) {
	t.Helper()
	if got := packets(t, s.version, b); !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// resendAll resends what the window lets go out.
func resendAll(t *testing.T, s *Session) (b []byte) {
	t.Helper()
	for s.Resending() != nil {
		var err error
		if b, err = s.Resend(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1] [MQTT-4.3.3-6]: PUBRELs at once, PUBLISHes with DUP in their order, and
// nothing else.
// [MQTT311-3.3.1-1] [MQTT311-4.4.0-1] [MQTT311-4.6.0-1] [MQTT311-4.6.0-4]
func TestResumed(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		s := connected(v, 10)
		for i, topic := range []string{"a", "b", "c", "d", "e"} {
			publish(t, s, topic, byte(1+i%2))
		}
		subscribe, _ := s.TakeID("subscribe")
		s.Pubrec(nil, 4, codec.Success) // d
		s.Pubrec(nil, 2, codec.Success) // b
		s.Puback(3)                     // c
		if owners := s.Lost(); !slices.Equal(owners, []any{"subscribe"}) {
			t.Errorf("requests %v", owners)
		}
		if _, ok := s.ReturnID(subscribe); ok {
			t.Error("a SUBSCRIBE outlives its connection")
		}
		wantPackets(t, s, resume(s, nil, 10), "PUBREL 4", "PUBREL 2") // [MQTT-4.6.0-4]
		if s.Ready() {
			t.Error("new messages may overtake those sent again")
		}
		wantPackets(t, s, resendAll(t, s), "PUBLISH 1 true a", "PUBLISH 5 true e")
		if !s.Ready() || s.InFlight() != 4 {
			t.Errorf("ready %v, %d in flight", s.Ready(), s.InFlight())
		}
		for _, id := range []uint16{4, 2} {
			if _, ok := s.Pubcomp(id); !ok {
				t.Errorf("PUBCOMP %d is unknown", id)
			}
		}
		for _, id := range []uint16{1, 5} {
			if m, ok := s.Puback(id); !ok || m.Owner == nil {
				t.Errorf("PUBACK %d: %v", id, m)
			}
		}
		if s.InFlight() != 0 || s.out.inFlight != 0 {
			t.Errorf("%d in flight, %d count", s.InFlight(), s.out.inFlight)
		}
	})
}

// Never more than the server's Receive Maximum, resends included; PUBRELs take no place, and their PUBCOMPs
// give none.
func TestResumedWithASmallerWindow(t *testing.T) {
	s := connected(codec.V5, 10)
	for _, topic := range []string{"a", "b", "c", "d"} {
		publish(t, s, topic, 1)
	}
	publish(t, s, "r", 2)
	s.Pubrec(nil, 5, codec.Success)
	s.Queue(&Message{Topic: "new", QoS: 1})
	s.Lost()
	wantPackets(t, s, resume(s, nil, 2), "PUBREL 5")
	wantPackets(t, s, resendAll(t, s), "PUBLISH 1 true a", "PUBLISH 2 true b")
	s.Pubcomp(5)
	wantPackets(t, s, resendAll(t, s))
	if s.Front() != nil {
		t.Error("a new message goes out before those sent again [MQTT-4.6.0-1]")
	}
	s.Puback(1)
	s.Puback(4) // late, of the earlier connection: no need to send it again
	wantPackets(t, s, resendAll(t, s), "PUBLISH 3 true c")
	s.Puback(2)
	if m := s.Front(); m == nil || m.Topic != "new" {
		t.Errorf("then %v", m)
	}
}

// A message that may not be sent again keeps its identifier while the session lives.
func TestGiveUpResend(t *testing.T) {
	s := connected(codec.V5, 10)
	publish(t, s, "a", 1)
	publish(t, s, "b", 1)
	s.Lost()
	resume(s, nil, 10)
	if m := s.Resending(); m.Topic != "a" {
		t.Fatalf("first %v", m)
	}
	if m := s.GiveUpResend(); m.Owner != "a" {
		t.Errorf("gave up %v", m)
	}
	wantPackets(t, s, resendAll(t, s), "PUBLISH 2 true b")
	if s.InFlight() != 1 || s.out.sent.get(1) == nil {
		t.Errorf("%d in flight; identifier 1 is reserved: %v", s.InFlight(), s.out.sent.get(1) != nil)
	}
	if _, ok := s.Puback(1); ok {
		t.Error("what was given up is completed")
	}
	s.Lost()
	renew(s, 10)
	if s.out.sent.get(1) != nil {
		t.Error("the identifier is reserved for ever")
	}
}

// [MQTT-3.2.2-5]: on a new session QoS 1 is published afresh, before what is queued; QoS 2 is given back.
func TestRenewed(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		s := connected(v, 10)
		publish(t, s, "a", 1)
		publish(t, s, "lost", 2)
		publish(t, s, "released", 2)
		publish(t, s, "b", 1)
		s.Pubrec(nil, 3, codec.Success)
		s.Queue(&Message{Topic: "queued", QoS: 1})
		s.Lost()
		var lost []any
		for _, m := range renew(s, 10) {
			lost = append(lost, m.Owner)
		}
		if !slices.Equal(lost, []any{"lost", "released"}) && !slices.Equal(lost, []any{"released", "lost"}) {
			t.Errorf("lost %v", lost)
		}
		s.Keep(1, "a") // its publisher stops waiting while it has no identifier
		var sent []byte
		for s.Front() != nil {
			var err error
			if sent, _, err = s.SendFront(sent, 0); err != nil {
				t.Fatal(err)
			}
		}
		wantPackets(t, s, sent, "PUBLISH 5 false a", "PUBLISH 6 false b", "PUBLISH 7 false queued")
		if m, _ := s.Puback(5); m.Owner != nil {
			t.Errorf("a completes for %v", m.Owner)
		}
		if m, _ := s.Puback(6); m.Owner != "b" {
			t.Errorf("b completes for %v", m.Owner)
		}
	})
}

// What the server sends again is joined to what still waits, and acknowledged in the order of this
// connection.
func TestRejoin(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		s := connected(codec.V5, 10)
		waiting, settled := hold(t, s, 1, qos, 1), hold(t, s, 2, qos, 1)
		s.Lost()
		if s.Unacknowledged() != 0 {
			t.Errorf("%d unacknowledged without a connection", s.Unacknowledged())
		}
		if b := settle(s, nil, settled, codec.Success, ""); len(b) > 0 {
			t.Errorf("acknowledged %x before the server sends it again", b)
		}
		resume(s, nil, 10)
		b, verdict := s.Arrive(nil, view(1, qos, true))
		if verdict != Repeated || len(b) > 0 {
			t.Errorf("QoS %d: verdict %v, sent %x", qos, verdict, b)
		}
		b, verdict = s.Arrive(nil, view(2, qos, true))
		if verdict != Repeated || len(b) > 0 {
			t.Errorf("QoS %d: verdict %v, sent %x before its turn", qos, verdict, b)
		}
		b = settle(s, nil, waiting, codec.Success, "")
		if len(b) != 8 {
			t.Errorf("QoS %d: acknowledged %x, want both", qos, b)
		}
	}
}

// Other content under the same identifier is a new message, and so is one without DUP.
func TestNoRejoin(t *testing.T) {
	other := view(1, 1, true)
	other.Payload = []byte("other")
	for name, p := range map[string]*codec.PublishView{"content": other, "no DUP": view(1, 1, false)} {
		s := connected(codec.V5, 10)
		old := hold(t, s, 1, 1, 1)
		s.Lost()
		resume(s, nil, 10)
		if _, verdict := s.Arrive(nil, p); verdict != Deliver {
			t.Errorf("%s: verdict %v", name, verdict)
		}
		if !old.Forgotten() {
			t.Errorf("%s: the old message is still waited for", name)
		}
		if b := settle(s, nil, old, codec.Success, ""); len(b) > 0 {
			t.Errorf("%s: acknowledged %x for the old message", name, b)
		}
		if b := s.Accept(nil, p, nil); len(b) != 4 {
			t.Errorf("%s: acknowledged %x for the new one", name, b)
		}
	}
}

// [MQTT-4.3.3-10]: a QoS 2 message is delivered once in a session, through reconnects, and again in a new session.
func TestReceivedOutlivesTheConnection(t *testing.T) {
	s := connected(codec.V311, 10)
	if _, verdict := s.Arrive(nil, view(7, 2, false)); verdict != Deliver {
		t.Fatal(verdict)
	}
	s.Accept(nil, view(7, 2, false), nil)
	s.Lost()
	resume(s, nil, 10)
	if b, verdict := s.Arrive(nil, view(7, 2, true)); verdict != Repeated || len(b) != 4 {
		t.Errorf("verdict %v, sent %x", verdict, b)
	}
	s.Lost()
	renew(s, 10)
	if _, verdict := s.Arrive(nil, view(7, 2, false)); verdict != Deliver {
		t.Errorf("on a new session: verdict %v", verdict)
	}
}

// Receipts of a lost session are forgotten.
func TestRenewedForgetsReceipts(t *testing.T) {
	s := connected(codec.V5, 10)
	r := hold(t, s, 1, 1, 1)
	s.Lost()
	if r.Forgotten() {
		t.Error("forgotten while the session may still be there")
	}
	renew(s, 10)
	if !r.Forgotten() {
		t.Error("not forgotten with the session")
	}
}

// A second loss, before everything was published afresh, keeps the order.
func TestRenewedTwice(t *testing.T) {
	s := connected(codec.V5, 10)
	for _, topic := range []string{"a", "b", "c", "d"} {
		publish(t, s, topic, 1)
	}
	s.Lost()
	renew(s, 2)
	for range 2 {
		if _, _, err := s.SendFront(nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	s.Lost()
	renew(s, 10)
	var order []string
	for m := s.Front(); m != nil; m = s.Front() {
		order = append(order, m.Topic)
		if _, _, err := s.SendFront(nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(order, []string{"a", "b", "c", "d"}) {
		t.Errorf("published afresh in the order %q", order)
	}
}

// [MQTT-4.6.0-3]: a PUBREC that is owed again does not overtake that of a message which comes anew, because its refusal was
// lost.
func TestRepeatedPubrecKeepsItsOrder(t *testing.T) {
	s := serving(codec.V5, Limits{}, 0)
	first := hold(t, s, 1, 2, 1)
	wantBytes(t, "a refusal", s.Settle(nil, first, first.Holders()[0], &Reason{Code: codec.QuotaExceeded}), "5003 0001 97")
	arrive(t, s, 2, 2)
	wantBytes(t, "PUBREC", s.Accept(nil, view(2, 2, false), nil), "5002 0002")
	for range 2 { // what waits then is no different after another cut
		s.Lost()
		resume(s, nil, 10)
		b, verdict := s.Arrive(nil, view(1, 2, true))
		if verdict == Deliver {
			first = s.Hold(view(1, 2, true))
			first.AddHolder(s)
			b = s.Release(b, first, false)
		}
		wantBytes(t, "the refused one again", b, "")
		for range 2 {
			b, verdict = s.Arrive(nil, view(2, 2, true))
			wantBytes(t, "the other one again", b, "")
			if verdict != Repeated {
				t.Errorf("verdict %v", verdict)
			}
		}
	}
	wantBytes(t, "both", s.Settle(nil, first, s, nil), "5002 0001 5002 0002")
	for id := uint16(1); id <= 2; id++ {
		s.Pubrel(nil, id)
	}
	if s.Unacknowledged() != 0 {
		t.Errorf("%d messages are unacknowledged", s.Unacknowledged())
	}
}

// A server may have begun a new session without our knowledge: its CONNACK was lost. A message with the identifier of one
// whose PUBREL has not come, and with other content, is a new one, though it may say DUP: else it would be swallowed.
func TestIdentifierOfAnotherSession(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for _, dup := range []bool{false, true} {
			s := serving(v, Limits{}, 0)
			arrive(t, s, 1, 2)
			wantBytes(t, "PUBREC", s.Accept(nil, view(1, 2, false), nil), "5002 0001")
			s.Lost()
			resume(s, nil, 10)
			p := view(1, 2, dup)
			if b, verdict := s.Arrive(nil, p); verdict != Repeated {
				t.Fatalf("the same content: verdict %v, % X", verdict, b)
			}
			p.Payload = []byte("other")
			if b, verdict := s.Arrive(nil, p); verdict != Deliver || len(b) != 0 {
				t.Fatalf("other content, dup %v: verdict %v, % X", dup, verdict, b)
			}
			wantBytes(t, "PUBREC of the new one", s.Accept(nil, p, nil), "5002 0001")
			s.Pubrel(nil, 1)
			if s.Unacknowledged() != 0 {
				t.Errorf("%d messages are unacknowledged", s.Unacknowledged())
			}
		}
	})
}
