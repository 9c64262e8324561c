package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// arrive takes a new message that is to be delivered.
func arrive(t *testing.T, s *Session, id uint16, qos byte) {
	t.Helper()
	if b, verdict := s.Arrive(nil, view(id, qos, false)); verdict != Deliver || len(b) != 0 {
		t.Fatalf("message %d at QoS %d: verdict %v, % X", id, qos, verdict, b)
	}
}

// hold takes a new message that so many holders have to settle.
func hold(t *testing.T, s *Session, id uint16, qos byte, holders int) *Receipt {
	t.Helper()
	arrive(t, s, id, qos)
	r := s.Hold(view(id, qos, false))
	for range holders {
		r.AddHolder(new(int))
	}
	wantBytes(t, "while a message is held", s.Release(nil, r, false), "")
	return r
}

// accept is an acknowledgement of a message, in hexadecimal digits.
func accept(qos byte, id uint16) string {
	if qos == 2 {
		return fmt.Sprintf("5002%04X", id)
	}
	return fmt.Sprintf("4002%04X", id)
}

func TestAcceptAcknowledgesAtOnce(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		s := serving(v, Limits{}, 0)
		arrive(t, s, 1, 1)
		wantBytes(t, "[MQTT-4.3.2-4]", s.Accept([]byte{0xEE}, view(1, 1, false), nil), "EE 4002 0001")
		arrive(t, s, 2, 2)
		wantBytes(t, "[MQTT-4.3.3-8]", s.Accept([]byte{0xEE}, view(2, 2, false), nil), "EE 5002 0002")
		wantBytes(t, "[MQTT-4.3.3-11]", s.Pubrel([]byte{0xEE}, 2), "EE 7002 0002")
		if s.Unacknowledged() != 0 {
			t.Errorf("%d messages are unacknowledged", s.Unacknowledged())
		}
	})
}

func TestUnknownPubrel(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		s := serving(v, Limits{}, 0)
		want := perVersion(v, "7003 0009 92", "7002 0009")
		wantBytes(t, "[MQTT-4.3.3-11]", s.Pubrel(nil, 9), want)
		arrive(t, s, 9, 2)
		s.Accept(nil, view(9, 2, false), nil)
		wantBytes(t, "the first PUBREL", s.Pubrel(nil, 9), "7002 0009")
		wantBytes(t, "[MQTT-4.3.3-12] the second PUBREL", s.Pubrel(nil, 9), want)
		arrive(t, s, 9, 2)
		r := s.Hold(view(9, 2, false))
		wantBytes(t, "PUBREL before our PUBREC", s.Pubrel(nil, 9), want)
		wantBytes(t, "PUBREC", s.Release(nil, r, true), "5002 0009")
		if s.Unacknowledged() != 1 {
			t.Errorf("%d messages are unacknowledged, want 1", s.Unacknowledged())
		}
	})
}

// A message at QoS 2 whose PUBREC was sent leaves the window without anything that we do, so it does not exhaust the window.
func TestExhausted(t *testing.T) {
	s := server(codec.V5)
	s.Serve(Connection{Version: codec.V5, PeerReceiveMaximum: 10, ReceiveMaximum: 2})
	want := func(when string, want bool) {
		t.Helper()
		if got := s.Exhausted(); got != want {
			t.Errorf("%s: exhausted %v, want %v", when, got, want)
		}
	}
	want("at first", false)
	first := hold(t, s, 1, 1, 1)
	want("one waits", false)
	second := hold(t, s, 2, 2, 1)
	want("one waits at QoS 1 and one at QoS 2", true)
	s.Settle(nil, second, second.Holders()[0], nil)
	want("the message at QoS 2 is accepted", false)
	s.Pubrel(nil, 2)
	third := hold(t, s, 3, 1, 1)
	want("two wait at QoS 1", true)
	s.Settle(nil, third, third.Holders()[0], nil)
	want("the acknowledgement of one has to wait for that of the other", true)
	s.Settle(nil, first, first.Holders()[0], nil)
	want("all are acknowledged", false)
	hold(t, s, 4, 1, 1)
	hold(t, s, 5, 1, 1)
	s.EndIncoming()
	want("the connection has ended", false)
}

// permutations calls f with every order of 0 to n-1.
func permutations(n int, f func(order []int)) {
	var extend func(order []int, used int)
	extend = func(order []int, used int) {
		if len(order) == n {
			f(order)
			return
		}
		for i := range n {
			if used&(1<<i) == 0 {
				extend(append(order[:len(order):len(order)], i), used|1<<i)
			}
		}
	}
	extend(nil, 0)
}

// [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT311-4.6.0-2] [MQTT311-4.6.0-3]: acknowledgements of each kind leave in the order in which their messages
// came, whatever the order in which they are settled.
func TestAcknowledgementsKeepTheirOrder(t *testing.T) {
	const messages = 5
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			permutations(messages, func(order []int) {
				s := serving(codec.V5, Limits{}, 0)
				var receipts []*Receipt
				for i := range messages {
					receipts = append(receipts, hold(t, s, uint16(9-i), qos, 1))
				}
				other := 3 - qos // is in no way held up
				arrive(t, s, 3, other)
				wantBytes(t, "the other QoS", s.Accept(nil, view(3, other, false), nil), accept(other, 3))

				settled, acknowledged := map[int]bool{}, 0
				for _, i := range order {
					settled[i] = true
					want := ""
					for ; settled[acknowledged]; acknowledged++ {
						want += accept(qos, uint16(9-acknowledged))
					}
					wantBytes(t, fmt.Sprint("settled ", order), settle(s, nil, receipts[i], codec.Success, ""), want)
				}
			})
		})
	}
}

func TestAcceptWaitsItsTurn(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		s := serving(codec.V5, Limits{}, 0)
		r := hold(t, s, 1, qos, 1)
		arrive(t, s, 2, qos)
		wantBytes(t, "accepted behind a message that waits", s.Accept(nil, view(2, qos, false), nil), "")
		wantBytes(t, "after the first", settle(s, nil, r, codec.Success, ""), accept(qos, 1)+accept(qos, 2))
	}
}

// A message is acknowledged when its last holder has settled it, and refused only if nobody accepted.
func TestHolders(t *testing.T) {
	const refused = codec.QuotaExceeded
	for _, c := range []struct {
		name     string
		verdicts []codec.ReasonCode // of the holders, in the order in which they settle
		accepted bool               // by one that never held it
		v5, v311 string             // for QoS 1; PUBREC differs in its first digit alone
	}{
		{"nobody holds it", nil, true, "4002 0001", "4002 0001"},
		{"one accepts", []codec.ReasonCode{codec.Success}, false, "4002 0001", "4002 0001"},
		{"three accept", []codec.ReasonCode{0, 0, 0}, false, "4002 0001", "4002 0001"},
		{"one refuses", []codec.ReasonCode{refused}, false, "4008 0001 97 04 1F 0001 72", "4002 0001"},
		{"the last of two refuses", []codec.ReasonCode{0, refused}, false, "4002 0001", "4002 0001"},
		{"the first of two refuses", []codec.ReasonCode{refused, 0}, false, "4002 0001", "4002 0001"},
		{"all refuse: the last one's word", []codec.ReasonCode{codec.NotAuthorized, refused}, false, "4008 0001 97 04 1F 0001 72", "4002 0001"},
		{"refused, but accepted before", []codec.ReasonCode{refused}, true, "4002 0001", "4002 0001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				for qos := byte(1); qos <= 2; qos++ {
					s := serving(v, Limits{}, 0)
					arrive(t, s, 1, qos)
					r := s.Hold(view(1, qos, false))
					for range c.verdicts {
						r.AddHolder(new(int))
					}
					b := s.Release(nil, r, c.accepted)
					for _, code := range c.verdicts {
						wantBytes(t, "before the last holder", b, "")
						b = settle(s, b, r, code, map[bool]string{true: "r"}[code.Failed()])
					}
					want := perVersion(v, c.v5, c.v311)
					if qos == 2 {
						want = strings.Replace(want, "4", "5", 1)
					}
					wantBytes(t, fmt.Sprintf("QoS %d", qos), b, want)
					checkOccupied(t, s, qos, len(b) > 4)
				}
			})
		})
	}
}

// checkOccupied checks that an acknowledged message with identifier 1 occupies our window exactly if it is an accepted
// one at QoS 2, and that only that one is known to PUBREL.
func checkOccupied(t *testing.T, s *Session, qos byte, refused bool) {
	t.Helper()
	want := 0
	if qos == 2 && !refused {
		want = 1
	}
	if s.Unacknowledged() != want {
		t.Errorf("QoS %d: %d messages occupy our window, want %d", qos, s.Unacknowledged(), want)
	}
	if qos == 2 && refused { // [MQTT-4.3.3-9]
		arrive(t, s, 1, 2)
		wantBytes(t, "after the refusal the identifier is new", s.Accept(nil, view(1, 2, false), nil), "5002 0001")
	}
}

// A holder may settle while the arrival is not over: the mutex is free in between.
func TestSettleBeforeRelease(t *testing.T) {
	s := serving(codec.V5, Limits{}, 0)
	arrive(t, s, 1, 1)
	r := s.Hold(view(1, 1, false))
	r.AddHolder(new(int))
	wantBytes(t, "settled before the next holder is known", settle(s, nil, r, codec.Success, ""), "")
	r.AddHolder(new(int))
	wantBytes(t, "released", s.Release(nil, r, false), "")
	wantBytes(t, "settled by the second", settle(s, nil, r, codec.QuotaExceeded, ""), "4002 0001")
}

func TestRepeatedMessages(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		s := serving(v, Limits{}, 0)
		wantVerdict := func(what string, qos byte, want Verdict, answer string) {
			t.Helper()
			b, verdict := s.Arrive([]byte{0xEE}, view(1, qos, true))
			if verdict != want {
				t.Errorf("%s: verdict %v, want %v", what, verdict, want)
			}
			wantBytes(t, what, b, "EE"+answer)
		}
		wantVerdict("new", 2, Deliver, "")
		r := s.Hold(view(1, 2, false))
		wantVerdict("repeated before PUBREC", 2, Repeated, "")
		if s.Unacknowledged() != 1 {
			t.Error("a repeated message counts twice")
		}
		wantBytes(t, "one PUBREC for both", s.Release(nil, r, true), "5002 0001")
		wantVerdict("[MQTT-4.3.3-10] repeated after PUBREC", 2, Repeated, "5002 0001")
		wantVerdict("and again", 2, Repeated, "5002 0001")
		wantVerdict("QoS 1 with an identifier of QoS 2", 1, Deliver, "")
		wantBytes(t, "its PUBACK", s.Accept(nil, view(1, 1, false), nil), "4002 0001")
		wantBytes(t, "PUBREL", s.Pubrel(nil, 1), "7002 0001")
		wantVerdict("[MQTT-4.3.3-12] new after PUBCOMP", 2, Deliver, "")
		s.Accept(nil, view(1, 2, false), nil)
		wantVerdict("QoS 1", 1, Deliver, "")
		s.Accept(nil, view(1, 1, false), nil)
		wantVerdict("[MQTT-4.3.2-5] new after PUBACK, whatever DUP says", 1, Deliver, "")
	})
}

func TestReceiveMaximum(t *testing.T) {
	s := serving(codec.V5, Limits{}, 2)
	want := func(what string, full bool) {
		t.Helper()
		if s.in.exceeds(false) != full {
			t.Errorf("%s: %d messages occupy our window, full should be %v", what, s.Unacknowledged(), full)
		}
	}
	one := hold(t, s, 1, 1, 1)
	want("one waits", false)
	arrive(t, s, 2, 2)
	s.Accept(nil, view(2, 2, false), nil)
	want("PUBREC empties no place", true)
	for qos := byte(1); qos <= 2; qos++ {
		if b, verdict := s.Arrive([]byte{0xEE}, view(9, qos, false)); verdict != Exceeded || len(b) != 1 { // [MQTT-3.3.4-9]
			t.Errorf("a third message at QoS %d: verdict %v, % X", qos, verdict, b)
		}
	}
	if _, verdict := s.Arrive(nil, view(2, 2, true)); verdict != Repeated {
		t.Errorf("a repeated message with a full window: verdict %v", verdict)
	}
	settle(s, nil, one, codec.Success, "")
	want("PUBACK empties one", false)
	three := hold(t, s, 3, 2, 1)
	want("PUBREC of another is to come", true)
	s.Pubrel(nil, 2)
	want("PUBCOMP empties one", false)
	s.Pubrel(nil, 2)
	want("an unknown PUBREL empties none", false)
	hold(t, s, 4, 1, 1)
	want("two wait", true)
	settle(s, nil, three, codec.UnspecifiedError, "") // [MQTT-4.3.3-9]
	want("PUBREC that refuses empties one", false)
	if s.Unacknowledged() != 1 {
		t.Errorf("%d messages are unacknowledged, want 1", s.Unacknowledged())
	}
}

// Resends do not count. A server that resumes with an older, larger window keeps to that window: what it
// sends after an acknowledgement is new.
func TestReceiveMaximumAndResends(t *testing.T) {
	s := serving(codec.V5, Limits{}, 2)
	var receipts []*Receipt
	for id := range uint16(5) {
		if _, verdict := s.Arrive(nil, view(id+1, 1, true)); verdict != Deliver {
			t.Fatalf("resend %d: verdict %v", id+1, verdict)
		}
		r := s.Hold(view(id+1, 1, false))
		r.AddHolder(new(int))
		s.Release(nil, r, false)
		receipts = append(receipts, r)
	}
	if _, verdict := s.Arrive(nil, view(6, 1, false)); verdict != Exceeded {
		t.Errorf("a new message beyond the resends: verdict %v", verdict)
	}
	settle(s, nil, receipts[0], codec.Success, "")
	if _, verdict := s.Arrive(nil, view(6, 1, false)); verdict != Deliver {
		t.Errorf("a new message in the place of a resend: verdict %v", verdict)
	}
	s.Accept(nil, view(6, 1, false), nil)
	for _, r := range receipts[1:] {
		settle(s, nil, r, codec.Success, "")
	}
	s.Lost()
	renew(s, 65_535)
	hold(t, s, 1, 1, 1)
	hold(t, s, 2, 1, 1)
	if _, verdict := s.Arrive(nil, view(3, 1, false)); verdict != Exceeded {
		t.Errorf("the next connection keeps the larger window: verdict %v", verdict)
	}
}

// Without a Receive Maximum, and with DUP on everything, there are still no more than 65,535 packet identifiers.
func TestIdentifiersBoundWhatWaits(t *testing.T) {
	for _, dup := range []bool{false, true} {
		s := serving(codec.V311, Limits{}, 0)
		for range 65_535 {
			if _, verdict := s.Arrive(nil, view(1, 1, dup)); verdict != Deliver {
				t.Fatalf("DUP %v: verdict %v with %d waiting", dup, verdict, s.Unacknowledged())
			}
		}
		if _, verdict := s.Arrive(nil, view(1, 1, dup)); verdict != Exceeded {
			t.Errorf("DUP %v: verdict %v for one more than there are identifiers", dup, verdict)
		}
	}
}

func TestDiscardForgetsWhatCame(t *testing.T) {
	s := serving(codec.V5, Limits{}, 3)
	old := hold(t, s, 1, 2, 1)
	arrive(t, s, 2, 2)
	s.Accept(nil, view(2, 2, false), nil)
	hold(t, s, 3, 1, 1)
	s.Discard()
	if s.Unacknowledged() != 0 {
		t.Fatalf("%d messages are unacknowledged", s.Unacknowledged())
	}
	wantBytes(t, "PUBREL of the old session", s.Pubrel(nil, 2), "7003 0002 92")
	r := hold(t, s, 1, 2, 1)
	arrive(t, s, 4, 1)
	wantBytes(t, "PUBACK, which nothing precedes now", s.Accept(nil, view(4, 1, false), nil), "4002 0004")
	wantBytes(t, "settling an old message", settle(s, nil, old, codec.Success, ""), "")
	wantBytes(t, "settling a new one", settle(s, nil, r, codec.Success, ""), "5002 0001")
	if s.Unacknowledged() != 1 {
		t.Errorf("%d messages are unacknowledged, want 1", s.Unacknowledged())
	}
}
