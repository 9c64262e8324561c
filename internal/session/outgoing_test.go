package session

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

func TestNewPublish(t *testing.T) {
	for _, c := range []struct {
		name     string
		qos      byte
		retain   bool
		v5, v311 string
	}{
		{"[MQTT-4.3.2-2]", 1, false, "32 07 000161 0001 00 78", "32 06 000161 0001 78"},
		{"[MQTT-4.3.3-2]", 2, false, "34 07 000161 0001 00 78", "34 06 000161 0001 78"},
		{"RETAIN", 1, true, "33 07 000161 0001 00 78", "33 06 000161 0001 78"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				s := connected(v, 10)
				m := Message{Topic: "a", Payload: []byte("x"), QoS: c.qos, Retain: c.retain}
				b, id, err := s.Send([]byte{0xEE}, &m, 0)
				if id != 1 || err != nil {
					t.Fatalf("identifier %d, error %v", id, err)
				}
				wantBytes(t, "PUBLISH", b, "EE"+perVersion(v, c.v5, c.v311))
			})
		})
	}
}

// What becomes of a message after an acknowledgement.
type fate int

const (
	underWay fate = iota
	done
	unknown // there is no such message
)

// ack is an acknowledgement from the server and what has to follow.
type ack struct {
	packet codec.Type
	id     uint16
	code   codec.ReasonCode
	answer string // in hexadecimal digits
	fate   fate
}

const (
	unknownReleaseV5   = "62 03 0007 92"
	unknownReleaseV311 = "62 02 0007"
)

var handshakes = []struct {
	name string
	qos  byte
	acks []ack
}{
	{"[MQTT-4.3.2-3] QoS 1 until PUBACK", 1, []ack{
		{codec.PUBACK, 1, codec.Success, "", done},
		{codec.PUBACK, 1, codec.Success, "", unknown},
	}},
	{"[MQTT-3.4.2-1] QoS 1 refused", 1, []ack{
		{codec.PUBACK, 1, codec.NotAuthorized, "", done},
		{codec.PUBACK, 1, codec.Success, "", unknown},
	}},
	{"QoS 1 and strange acknowledgements", 1, []ack{
		{codec.PUBACK, 7, codec.Success, "", unknown},
		{codec.PUBCOMP, 1, codec.Success, "", unknown},
		{codec.PUBREC, 7, codec.UnspecifiedError, "", unknown},
		{codec.PUBACK, 0, codec.Success, "", unknown},
		{codec.PUBACK, 1, codec.Success, "", done},
	}},
	{"[MQTT-4.3.3-4] PUBREC is answered", 2, []ack{
		{codec.PUBREC, 1, codec.Success, "62 02 0001", underWay},
		{codec.PUBCOMP, 1, codec.Success, "", done},
		{codec.PUBCOMP, 1, codec.Success, "", unknown},
	}},
	{"[MQTT-4.3.3-4] PUBREC without subscribers is a success", 2, []ack{
		{codec.PUBREC, 1, codec.NoMatchingSubscribers, "62 02 0001", underWay},
		{codec.PUBCOMP, 1, codec.Success, "", done},
	}},
	{"[MQTT-4.3.3-6] repeated PUBREC", 2, []ack{
		{codec.PUBREC, 1, codec.Success, "62 02 0001", underWay},
		{codec.PUBREC, 1, codec.Success, "62 02 0001", underWay},
		{codec.PUBREC, 1, codec.QuotaExceeded, "62 02 0001", underWay}, // too late to refuse
		{codec.PUBCOMP, 1, codec.Success, "", done},
	}},
	{"[MQTT-3.5.2-1] refused by PUBREC", 2, []ack{
		{codec.PUBREC, 1, codec.QuotaExceeded, "", done},
		{codec.PUBREC, 1, codec.QuotaExceeded, "", unknown},
	}},
	{"[MQTT-3.7.2-1] PUBCOMP 0x92", 2, []ack{
		{codec.PUBREC, 1, codec.Success, "62 02 0001", underWay},
		{codec.PUBCOMP, 1, codec.PacketIdentifierNotFound, "", done},
	}},
	{"QoS 2 and strange acknowledgements", 2, []ack{
		{codec.PUBACK, 1, codec.Success, "", unknown},
		{codec.PUBCOMP, 1, codec.Success, "", unknown}, // before PUBREC
		{codec.PUBREC, 7, codec.Success, unknownReleaseV5, unknown},
		{codec.PUBREC, 7, codec.QuotaExceeded, "", unknown},
		{codec.PUBREC, 1, codec.Success, "62 02 0001", underWay},
		{codec.PUBACK, 1, codec.Success, "", unknown},
		{codec.PUBCOMP, 7, codec.Success, "", unknown},
		{codec.PUBCOMP, 1, codec.Success, "", done},
	}},
}

func TestHandshakes(t *testing.T) {
	for _, c := range handshakes {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				s := connected(v, 10)
				send(t, s, c.qos, "x")
				for i, a := range c.acks {
					a.take(t, s, i)
				}
				if s.InFlight() != 0 {
					t.Errorf("%d messages stay in flight", s.InFlight())
				}
			})
		})
	}
}

func (a ack) take(t *testing.T, s *Session, step int) {
	t.Helper()
	var m Settled
	var ok, complete bool
	b := []byte{0xEE}
	before := s.InFlight()
	switch a.packet {
	case codec.PUBACK:
		m, ok = s.Puback(a.id)
		complete = ok
	case codec.PUBREC:
		b, m, complete, ok = s.Pubrec(b, a.id, a.code)
	case codec.PUBCOMP:
		m, ok = s.Pubcomp(a.id)
		complete = ok
	}
	answer := a.answer
	if answer == unknownReleaseV5 {
		answer = perVersion(s.version, unknownReleaseV5, unknownReleaseV311)
	}
	wantBytes(t, "answer", b, "EE"+answer)
	if ok != (a.fate != unknown) || complete != (a.fate == done) {
		t.Errorf("step %d, %v: known %v, complete %v", step, a.packet, ok, complete)
	}
	if complete && (m.Owner != "x" || m.Topic != "a") {
		t.Errorf("step %d, %v: completes %+v", step, a.packet, m)
	}
	if want := before - map[bool]int{true: 1}[complete]; s.InFlight() != want {
		t.Errorf("step %d, %v: %d in flight, want %d", step, a.packet, s.InFlight(), want)
	}
}

// After PUBREC the PUBLISH is never sent again, so its payload need not be kept [MQTT-4.3.3-6].
func TestPubrecLetsThePayloadGo(t *testing.T) {
	s := connected(codec.V5, 10)
	m := Message{
		Topic: "a", Payload: []byte("x"), QoS: 2, Retain: true, Properties: &codec.PublishProperties{ContentType: "t"},
		SubscriptionIdentifiers: []uint32{1}, Expires: time.Hour, Owner: "x",
	}
	_, id, err := s.Send(nil, &m, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.Pubrec(nil, id, codec.Success)
	sent, _ := s.Discard()
	if want := []Message{{Topic: "a", QoS: 2, Owner: "x"}}; !reflect.DeepEqual(sent, want) {
		t.Errorf("after PUBREC the session has %+v", sent)
	}
}

// Never more than the server's Receive Maximum; a successful PUBREC frees no place [MQTT-4.9.0-1].
func TestWindow(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		s := connected(v, 2)
		one, _ := send(t, s, 1, "1")
		two, _ := send(t, s, 2, "2")
		if s.Ready() {
			t.Fatal("ready with a full window")
		}
		s.Queue(&Message{Topic: "a", QoS: 1, Owner: "3"})
		s.Pubrec(nil, two, codec.Success)
		if s.Ready() || s.Front() != nil {
			t.Error("PUBREC freed a place in the window")
		}
		s.Pubcomp(two)
		if m := s.Front(); m == nil || m.Owner != "3" {
			t.Fatalf("after PUBCOMP the front is %v", m)
		}
		if s.Ready() {
			t.Error("ready although a message waits before")
		}
		if _, id, err := s.SendFront(nil, 0); id != 3 || err != nil {
			t.Errorf("SendFront: identifier %d, error %v", id, err)
		}
		s.Pubcomp(two) // late ones never raise the quota
		s.Puback(two)
		s.Puback(7)
		if s.Ready() || s.InFlight() != 2 {
			t.Errorf("a late acknowledgement freed a place: %d in flight", s.InFlight())
		}
		s.Puback(one)
		if !s.Ready() {
			t.Error("not ready although there is room")
		}
	})
}

func TestPubrecThatRefusesFreesAPlace(t *testing.T) {
	s := connected(codec.V5, 1)
	id, _ := send(t, s, 2, "1")
	s.Pubrec(nil, id, codec.QuotaExceeded) // [MQTT-4.9.0-1]
	if !s.Ready() {
		t.Error("the window is still full")
	}
}

func TestWindowIsTheSmallerOfBothLimits(t *testing.T) {
	for _, c := range []struct{ ours, servers, want int }{{5, 10, 5}, {10, 5, 5}, {100_000, 65_535, MaxInFlight}} {
		s := serving(codec.V5, Limits{InFlight: c.ours}, 0)
		if s.Ready() {
			t.Error("ready before a connection")
		}
		renew(s, c.servers)
		n := 0
		for ; s.Ready(); n++ {
			send(t, s, 1, "")
		}
		if n != c.want {
			t.Errorf("our limit %d, the server's %d: %d in flight, want %d", c.ours, c.servers, n, c.want)
		}
	}
}

func TestSendThatFailsChangesNothing(t *testing.T) {
	s := connected(codec.V311, 10)
	bad := Message{Topic: strings.Repeat("a", 1<<16), QoS: 1, Owner: "bad"}
	b, id, err := s.Send([]byte{0xEE}, &bad, 0)
	if err == nil || id != 0 || s.InFlight() != 0 {
		t.Errorf("a topic that is too long: identifier %d, error %v, %d in flight", id, err, s.InFlight())
	}
	wantBytes(t, "buffer", b, "EE")
	s.Queue(&bad)
	s.Queue(&Message{Topic: "a", QoS: 1, Owner: "good"})
	if b, _, err = s.SendFront(b, 0); err == nil || s.Front().Owner != "bad" {
		t.Errorf("SendFront: error %v, front %v", err, s.Front())
	}
	wantBytes(t, "buffer", b, "EE")
	if m := s.DropFront(); m.Owner != "bad" || s.Front().Owner != "good" {
		t.Errorf("DropFront took %v and left %v", m.Owner, s.Front())
	}
}

func TestExpiryIsWhatRemains(t *testing.T) {
	for _, c := range []struct {
		name         string
		expires, now time.Duration
		want         string // Message Expiry Interval
	}{
		{"whole seconds", 100 * time.Second, 90 * time.Second, "0000000A"},
		{"rounded up", 100 * time.Second, 90*time.Second - 1, "0000000B"},
		{"at least one", 100 * time.Second, 100*time.Second - 1, "00000001"},
		{"[MQTT-4.3.3-7] resent after it expired", 100 * time.Second, time.Hour, "00000001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := codec.PublishProperties{MessageExpiry: time.Minute}
			m := Message{Topic: "a", QoS: 1, Properties: &p, Expires: c.expires}
			b, err := serving(codec.V5, Limits{}, 0).AppendPublish(nil, &m, 1, true, c.now)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "PUBLISH", b, "3A 0B 000161 0001 05 02"+c.want)
			if p.MessageExpiry != time.Minute {
				t.Error("the publisher's properties were changed")
			}
		})
	}
	m := Message{Topic: "a", Properties: &codec.PublishProperties{ContentType: "t"}}
	b, err := serving(codec.V5, Limits{}, 0).AppendPublish(nil, &m, 0, false, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "PUBLISH that never expires", b, "30 08 000161 04 03000174")
}

func TestKeepCopiesWhatIsThePublishers(t *testing.T) {
	payload := []byte("payload")
	p := &codec.PublishProperties{
		CorrelationData: []byte("data"),
		UserProperties:  codec.UserProperties{{Key: "k", Value: "v"}},
	}
	s := connected(codec.V5, 10)
	_, id, err := s.Send(nil, &Message{Topic: "a", Payload: payload, Properties: p, QoS: 1, Owner: "o"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.Keep(id, "o")
	s.Keep(99, "o") // is not there
	clear(payload)
	clear(p.CorrelationData)
	clear(p.UserProperties)
	p.ContentType = "changed"
	m, _ := s.InFlightMessage(id)
	if m.Owner != nil || string(m.Payload) != "payload" {
		t.Errorf("kept %q, owner %v", m.Payload, m.Owner)
	}
	k := m.Properties
	if string(k.CorrelationData) != "data" || k.UserProperties[0].Key != "k" || k.ContentType != "" {
		t.Errorf("kept properties %+v", k)
	}
	if m, ok := s.Puback(id); !ok || m != (Settled{Topic: "a"}) {
		t.Errorf("PUBACK completes %v, known %v", m, ok)
	}
}

func TestCanQueue(t *testing.T) {
	s := serving(codec.V5, Limits{QueueMessages: 3, QueueBytes: 10}, 0)
	if !s.CanQueue(1000) {
		t.Error("an empty queue does not take a large message")
	}
	big := s.Queue(&Message{Topic: "a", Payload: make([]byte, 999)})
	if s.CanQueue(0) {
		t.Error("a queue with too many bytes takes more")
	}
	s.Withdraw(big)
	s.Queue(&Message{Topic: "a", Payload: make([]byte, 3)})
	if !s.CanQueue(6) || s.CanQueue(7) {
		t.Error("the queue does not take exactly its bytes")
	}
	s.Queue(&Message{Topic: "a"})
	s.Queue(&Message{Topic: "a"})
	if s.CanQueue(0) {
		t.Error("the queue takes a fourth message")
	}
	if n, bytes := s.Queued(); n != 3 || bytes != 6 {
		t.Errorf("%d messages of %d bytes are queued", n, bytes)
	}
	if serving(codec.V5, Limits{QueueBytes: 10}, 0).CanQueue(0) {
		t.Error("a queue of no messages takes one")
	}
}

func TestWithdraw(t *testing.T) {
	s := connected(codec.V5, 10)
	one := s.Queue(&Message{Topic: "a", QoS: 1, Owner: "1"})
	two := s.Queue(&Message{Topic: "a", QoS: 1, Owner: "2"})
	if _, _, err := s.SendFront(nil, 0); err != nil {
		t.Fatal(err)
	}
	if s.Withdraw(one) {
		t.Error("a message that was sent is withdrawn")
	}
	if !s.Withdraw(two) || s.Withdraw(two) {
		t.Error("a message that waits cannot be withdrawn exactly once")
	}
	if s.Front() != nil || !s.Ready() {
		t.Error("what was withdrawn is still in the way")
	}
}

func TestRequests(t *testing.T) {
	s := connected(codec.V5, 10)
	id, err := s.TakeID("subscribe")
	if err != nil || id != 1 {
		t.Fatalf("identifier %d, error %v", id, err)
	}
	if s.InFlight() != 0 {
		t.Error("a request takes a place in the window") // [MQTT-4.9.0-3]
	}
	publish, _ := send(t, s, 1, "x")
	if _, ok := s.ReturnID(publish); ok {
		t.Error("SUBACK answers a PUBLISH")
	}
	if _, ok := s.Puback(id); ok {
		t.Error("PUBACK answers a SUBSCRIBE")
	}
	if _, ok := s.Pubcomp(id); ok {
		t.Error("PUBCOMP answers a SUBSCRIBE")
	}
	b, _, done, ok := s.Pubrec(nil, id, codec.Success)
	wantBytes(t, "answer to PUBREC for a SUBSCRIBE", b, "62 03 0001 92")
	if done || ok {
		t.Error("PUBREC answers a SUBSCRIBE")
	}
	owner, ok := s.ReturnID(id) // [MQTT-2.2.1-6]
	if !ok || owner != "subscribe" {
		t.Errorf("SUBACK: owner %v, known %v", owner, ok)
	}
	if _, ok := s.ReturnID(id); ok {
		t.Error("a second SUBACK is known")
	}
}

// An acknowledgement of an identifier that is in use must fit what it is in use for [MQTT-2.2.1-5] [MQTT-2.2.1-6]
// [MQTT311-2.3.1-6] [MQTT311-2.3.1-7]; one of an identifier that is not, or that was given up, is late.
func TestMisplaced(t *testing.T) {
	s := connected(codec.V5, 10)
	all := []codec.Type{codec.PUBACK, codec.PUBREC, codec.PUBCOMP, codec.SUBACK, codec.UNSUBACK}
	check := func(name string, id uint16, fits ...codec.Type) {
		t.Helper()
		for _, typ := range all {
			if got := s.Misplaced(typ, id); got == slices.Contains(fits, typ) {
				t.Errorf("%s: %v is misplaced: %v", name, typ, got)
			}
		}
	}
	one, _ := send(t, s, 1, "x")
	two, _ := send(t, s, 2, "x")
	request, err := s.TakeID("owner")
	if err != nil {
		t.Fatal(err)
	}
	check("QoS 1", one, codec.PUBACK)
	check("QoS 2", two, codec.PUBREC)
	check("a request", request, codec.SUBACK, codec.UNSUBACK)
	check("nothing", 9, all...)
	s.Pubrec(nil, two, codec.Success)
	check("QoS 2, released", two, codec.PUBREC, codec.PUBCOMP)
	s.Lost()
	resume(s, nil, 10)
	s.Resending()
	s.GiveUpResend()
	check("QoS 1, given up", one, all...)
}

func TestDiscardKeepsTheOrderOfTheCalls(t *testing.T) {
	s := connected(codec.V5, 6)
	s.out.lastID = maxID - 2 // identifiers wrap around between the messages
	var first uint16
	for _, payload := range []string{"1", "2", "3"} {
		id, _ := send(t, s, 1, payload)
		if payload == "1" {
			first = id
		}
	}
	s.Puback(first)
	if _, err := s.TakeID("4"); err != nil {
		t.Fatal(err)
	}
	send(t, s, 2, "5")
	var ticket uint64
	for _, owner := range []string{"6", "7", "8"} {
		s.Queue(&Message{Topic: "a", QoS: 1, Owner: owner})
		ticket = s.Queue(&Message{Topic: "a", QoS: 1, Owner: "withdrawn"})
		s.Withdraw(ticket)
	}
	sent, unsent := s.Discard()
	if owners(sent) != "2 3 4 5" || owners(unsent) != "6 7 8" {
		t.Errorf("sent %s, unsent %s", owners(sent), owners(unsent))
	}
	queued, bytes := s.Queued()
	if s.InFlight() != 0 || queued != 0 || bytes != 0 || s.Ready() {
		t.Error("the session is not empty")
	}
	renew(s, 10)
	if id, _ := send(t, s, 1, "9"); id != 4 {
		t.Errorf("after Discard the next identifier is %d, want 4: a late acknowledgement could find it", id)
	}
}

// [MQTT-2.2.1-3] [MQTT311-2.3.1-1] [MQTT311-2.3.1-2]
func TestIdentifiersAreCyclic(t *testing.T) {
	s := connected(codec.V5, 10)
	busy, _ := send(t, s, 2, "stays")
	previous := busy
	for i := range 150_000 {
		id, _ := send(t, s, 1, "x")
		// 0 does not exist, busy is in use [MQTT-2.2.1-3], and so may be the slot that would be next.
		if step := id - previous; id == 0 || id == busy || step == 0 || step > 3 {
			t.Fatalf("message %d has identifier %d after %d", i, id, previous)
		}
		if _, ok := s.Puback(id); !ok {
			t.Fatalf("identifier %d is unknown", id)
		}
		previous = id
	}
}

// The identifiers beyond 64,511 are there for SUBSCRIBE and UNSUBSCRIBE.
// [MQTT-2.2.1-3] [MQTT311-2.3.1-1] [MQTT311-2.3.1-2]
func TestIdentifiersRunOut(t *testing.T) {
	s := connected(codec.V5, 65_535)
	used := map[uint16]bool{}
	for s.Ready() {
		id, _ := send(t, s, 1, "x")
		if used[id] || id == 0 {
			t.Fatalf("identifier %d is given out again", id)
		}
		used[id] = true
	}
	if len(used) != 64_511 {
		t.Fatalf("%d messages are in flight", len(used))
	}
	for range 65_535 - 64_511 {
		id, err := s.TakeID("subscribe")
		if used[id] || err != nil {
			t.Fatalf("identifier %d for a SUBSCRIBE, error %v", id, err)
		}
		used[id] = true
	}
	if _, err := s.TakeID("one more"); !errors.Is(err, ErrNoIdentifier) {
		t.Errorf("error %v without a free identifier", err)
	}
	b, id, err := s.Send([]byte{0xEE}, &Message{Topic: "a", QoS: 1}, 0)
	if !errors.Is(err, ErrNoIdentifier) || id != 0 || len(b) != 1 || s.InFlight() != 64_511 {
		t.Errorf("sending without a free identifier: %v, %d in flight", err, s.InFlight())
	}
	s.Puback(30_000)
	if id, err := s.TakeID("again"); id != 30_000 || err != nil {
		t.Errorf("identifier %d, error %v: want the only one that is free", id, err)
	}
}

// A message waits for an identifier as it waits for the window.
func TestMessageWaitsForIdentifier(t *testing.T) {
	s := connected(codec.V5, 65_535)
	s.limits.QueueMessages, s.limits.QueueBytes = 1, 1
	for range maxID {
		if _, err := s.TakeID("subscribe"); err != nil {
			t.Fatal(err)
		}
	}
	if s.Ready() {
		t.Error("a message may be sent although no identifier is free")
	}
	s.Queue(&Message{Topic: "a", QoS: 1})
	if s.Front() != nil {
		t.Error("a message is next although no identifier is free")
	}
	s.ReturnID(7)
	if s.Front() == nil {
		t.Error("an identifier is free, and no message next")
	}
	if _, id, err := s.SendFront(nil, 0); id != 7 || err != nil {
		t.Errorf("sent under identifier %d, error %v", id, err)
	}
}

// One message that is never acknowledged must not make the table large: its identifier and those of a burst may differ
// in their highest bit alone.
func TestOldIdentifierDoesNotBlowUpTheTable(t *testing.T) {
	s := connected(codec.V5, 100)
	send(t, s, 1, "stays")
	var ids []uint16
	for i := range 100_000 {
		id, _ := send(t, s, 1, "x")
		ids = append(ids, id)
		if quiet := i%1000 < 990; quiet || len(ids) == 20 {
			for _, id := range ids {
				s.Puback(id)
			}
			ids = ids[:0]
		}
	}
	if n := len(s.out.sent.slots); n > 64 {
		t.Errorf("at most 21 messages in flight take %d slots", n)
	}
}
