package session

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// forSeeds runs f with many seeds. The name of a subtest replays it.
func forSeeds(t *testing.T, f func(t *testing.T, rng *rand.Rand)) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { f(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

// pick returns an element of s and its index.
func pick[T any](rng *rand.Rand, s []T) (T, int) {
	i := rng.IntN(len(s))
	return s[i], i
}

// exchange is a PUBLISH as the model of a server sees it.
type exchange struct {
	id       uint16
	qos      byte
	number   int  // of the call, as the payload says
	received bool // PUBREC was sent
}

// sender drives a session that publishes, and the model of its server. It checks the packets that the session makes
// against what the specification allows.
type sender struct {
	t       *testing.T
	rng     *rand.Rand
	s       *Session
	maximum int // the server's Receive Maximum

	calls    int // publishes that were accepted
	lastSent int // number of the latest message that arrived at the server

	open     []exchange     // not completely acknowledged
	requests []uint16       // not answered
	tickets  map[int]uint64 // of messages that wait, by their numbers
	kept     map[int]bool   // their publishers have gone
	done     map[int]int    // how often a message completed
	gone     map[int]bool   // withdrawn
}

func newSender(t *testing.T, rng *rand.Rand) *sender {
	d := &sender{
		t: t, rng: rng, maximum: 1 + rng.IntN(40), lastSent: -1,
		tickets: map[int]uint64{}, kept: map[int]bool{}, done: map[int]int{}, gone: map[int]bool{},
	}
	v := []codec.Version{codec.V5, codec.V311}[rng.IntN(2)]
	d.s = serving(v, Limits{InFlight: 1 + rng.IntN(60), QueueMessages: 30, QueueBytes: 1 << 20}, 0)
	d.s.out.lastID = uint16(rng.IntN(1 << 16))
	renew(d.s, d.maximum)
	return d
}

// publish does what a client does: it sends at once or queues.
func (d *sender) publish() {
	m := Message{Topic: "a", Payload: []byte(strconv.Itoa(d.calls)), QoS: byte(1 + d.rng.IntN(2)), Owner: d.calls}
	switch {
	case d.s.Ready():
		b, _, err := d.s.Send(nil, &m, 0)
		d.take(b, err)
	case d.s.CanQueue(len(m.Payload) + 1):
		d.tickets[d.calls] = d.s.Queue(&m)
	default:
		return
	}
	d.calls++
}

// take is the server's: it reads a PUBLISH.
func (d *sender) take(b []byte, err error) {
	d.t.Helper()
	p, ok := decode(d.t, d.s.version, b, err).(*codec.Publish)
	if !ok || p.Dup || p.QoS == 0 {
		d.t.Fatalf("the server gets %+v instead of a new message", p)
	}
	number, _ := strconv.Atoi(string(p.Payload))
	if number <= d.lastSent {
		d.t.Fatalf("message %d leaves after %d", number, d.lastSent)
	}
	if d.inUse(p.PacketID) {
		d.t.Fatalf("MQTT-2.2.1-3: identifier %d is in use", p.PacketID)
	}
	d.lastSent = number
	delete(d.tickets, number)
	d.open = append(d.open, exchange{id: p.PacketID, qos: p.QoS, number: number})
	if len(d.open) > d.maximum {
		d.t.Fatalf("%d messages are in flight, the server takes %d", len(d.open), d.maximum)
	}
}

func (d *sender) inUse(id uint16) bool {
	return slices.Contains(d.requests, id) || slices.ContainsFunc(d.open, func(e exchange) bool { return e.id == id })
}

func decode(t *testing.T, v codec.Version, b []byte, err error) codec.Packet {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	h, n, err := codec.ParseHeader(b, v)
	if err != nil || n+h.Length != len(b) {
		t.Fatalf("not one packet: % X (%v)", b, err)
	}
	p, err := codec.Decode(h, b[n:], v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// drain sends what waits, as a client does after every acknowledgement.
func (d *sender) drain() {
	for m := d.s.Front(); m != nil; m = d.s.Front() {
		if d.rng.IntN(20) == 0 {
			m := d.s.DropFront()
			d.finish(m.Owner, true)
			continue
		}
		b, _, err := d.s.SendFront(nil, 0)
		d.take(b, err)
	}
}

// finish notes that a message is complete.
func (d *sender) finish(owner any, ok bool) {
	d.t.Helper()
	if !ok {
		d.t.Fatal("an open message is unknown")
	}
	if owner == nil { // Keep was called
		return
	}
	d.done[owner.(int)]++
	delete(d.tickets, owner.(int))
}

// acknowledge lets the server take the next step of any message.
func (d *sender) acknowledge() {
	if len(d.open) == 0 {
		return
	}
	e, i := pick(d.rng, d.open)
	switch {
	case e.qos == 1:
		m, ok := d.s.Puback(e.id)
		d.complete(i, m, ok)
	case !e.received && d.s.version == codec.V5 && d.rng.IntN(4) == 0:
		_, m, done, ok := d.s.Pubrec(nil, e.id, codec.QuotaExceeded)
		d.complete(i, m, ok && done)
	case !e.received || d.rng.IntN(3) == 0:
		b, _, done, ok := d.s.Pubrec(nil, e.id, codec.Success)
		p, isPubrel := decode(d.t, d.s.version, b, nil).(*codec.Pubrel)
		if !ok || done || !isPubrel || p.PacketID != e.id || p.Code != codec.Success {
			d.t.Fatalf("PUBREC %d is answered by %+v", e.id, p)
		}
		d.open[i].received = true
	default:
		m, ok := d.s.Pubcomp(e.id)
		d.complete(i, m, ok)
	}
	d.drain()
}

func (d *sender) complete(i int, m Settled, ok bool) {
	d.t.Helper()
	number := d.open[i].number
	d.open = slices.Delete(d.open, i, i+1)
	d.finish(m.Owner, ok)
	if kept := m.Owner == nil; kept != d.kept[number] || !kept && m.Owner != number {
		d.t.Fatalf("message %d completes as %v", number, m.Owner)
	}
}

// stray lets the server acknowledge what it should not.
func (d *sender) stray() {
	id := uint16(d.rng.IntN(1 << 16))
	if d.inUse(id) {
		return
	}
	before := d.s.InFlight()
	_, puback := d.s.Puback(id)
	_, pubcomp := d.s.Pubcomp(id)
	_, suback := d.s.ReturnID(id)
	_, _, done, pubrec := d.s.Pubrec(nil, id, codec.Success)
	if puback || pubcomp || suback || pubrec || done || d.s.InFlight() != before {
		d.t.Fatalf("an acknowledgement of %d, which is not in use, has an effect", id)
	}
}

func (d *sender) withdraw() {
	if len(d.tickets) == 0 {
		return
	}
	number, _ := pick(d.rng, slices.Sorted(maps.Keys(d.tickets)))
	if !d.s.Withdraw(d.tickets[number]) || d.s.Withdraw(d.tickets[number]) {
		d.t.Fatalf("message %d cannot be withdrawn once", number)
	}
	delete(d.tickets, number)
	d.gone[number] = true
}

func (d *sender) keep() {
	if len(d.open) > 0 {
		e, _ := pick(d.rng, d.open)
		d.s.Keep(e.id, e.number)
		d.kept[e.number] = true
	}
}

func (d *sender) request() {
	id, err := d.s.TakeID(d)
	if err != nil || d.inUse(id) || id == 0 {
		d.t.Fatalf("SUBSCRIBE gets identifier %d, error %v", id, err)
	}
	d.requests = append(d.requests, id)
}

func (d *sender) answer() {
	if len(d.requests) == 0 {
		return
	}
	id, i := pick(d.rng, d.requests)
	d.requests = slices.Delete(d.requests, i, i+1)
	if owner, ok := d.s.ReturnID(id); !ok || owner != d {
		d.t.Fatalf("SUBACK %d: owner %v, known %v", id, owner, ok)
	}
}

// check compares what the session says of itself with the model.
func (d *sender) check() {
	d.t.Helper()
	queued, _ := d.s.Queued()
	if d.s.InFlight() != len(d.open) || queued != len(d.tickets) {
		d.t.Fatalf("%d in flight and %d queued, want %d and %d", d.s.InFlight(), queued, len(d.open), len(d.tickets))
	}
	if want := queued > 0; d.s.Waits() != want {
		d.t.Fatalf("something waits: %v, with %d queued", d.s.Waits(), queued)
	}
	if !d.s.Waits() && (d.s.Resending() != nil || d.s.Front() != nil || d.s.FrontQoS0() != nil) {
		d.t.Fatal("nothing waits, and there is a message to be sent")
	}
	if ready := len(d.open) < min(d.maximum, d.s.limits.InFlight) && queued == 0; d.s.Ready() != ready {
		d.t.Fatalf("ready is %v with %d in flight and %d queued", d.s.Ready(), len(d.open), queued)
	}
}

// Whatever the server answers, in whatever order: the window is kept, no identifier is used twice, messages leave in
// the order of the calls, and each completes once.
func TestSenderModel(t *testing.T) {
	forSeeds(t, func(t *testing.T, rng *rand.Rand) {
		d := newSender(t, rng)
		steps := []func(){d.publish, d.publish, d.publish, d.acknowledge, d.acknowledge, d.stray, d.withdraw, d.keep, d.request, d.answer}
		for range 2000 {
			step, _ := pick(rng, steps)
			step()
			d.check()
		}
		for len(d.open)+len(d.tickets) > 0 {
			d.acknowledge()
			d.check()
		}
		for number := range d.calls {
			want := 1
			if d.gone[number] || d.kept[number] {
				want = 0
			}
			if d.done[number] != want {
				t.Errorf("message %d completed %d times, want %d", number, d.done[number], want)
			}
		}
	})
}

// arrival is a message as the model of a server sees it.
type arrival struct {
	id      uint16
	qos     byte
	receipt *Receipt
	holders int  // who have not settled it
	accepts bool // somebody accepted it
	acked   bool // at QoS 2: PUBREC has gone out
}

// taker drives a session that receives, and the model of its server.
type taker struct {
	t    *testing.T
	rng  *rand.Rand
	s    *Session
	open []*arrival // not completely acknowledged, in the order of their arrival
}

// arrive sends a message that some have to settle, or nobody.
func (d *taker) arrive() {
	id, qos := uint16(1+d.rng.IntN(200)), byte(1+d.rng.IntN(2))
	if i := slices.IndexFunc(d.open, func(a *arrival) bool { return a.id == id && a.qos == 2 }); i >= 0 && qos == 2 {
		d.repeat(d.open[i])
		return
	}
	full := len(d.open) >= int(d.s.in.maximum)
	b, verdict := d.s.Arrive(nil, view(id, qos, false))
	if full != (verdict == Exceeded) || len(b) > 0 {
		d.t.Fatalf("MQTT-3.3.4-9: %d messages occupy the window, verdict %v", len(d.open), verdict)
	}
	if full {
		return
	}
	a := &arrival{id: id, qos: qos, holders: d.rng.IntN(4)}
	d.open = append(d.open, a)
	if a.holders == 0 && d.rng.IntN(2) == 0 {
		a.accepts = true
		d.wantAcks(d.s.Accept(nil, view(id, qos, false), nil))
		return
	}
	a.receipt = d.s.Hold(view(id, qos, false))
	for range a.holders {
		a.receipt.AddHolder(new(int))
	}
	a.accepts = a.holders == 0 || d.rng.IntN(3) == 0
	d.wantAcks(d.s.Release(nil, a.receipt, a.accepts))
}

// repeat sends a QoS 2 message again.
func (d *taker) repeat(a *arrival) {
	b, verdict := d.s.Arrive(nil, view(a.id, 2, true))
	if verdict != Repeated || (len(b) > 0) != a.acked {
		d.t.Fatalf("MQTT-4.3.3-10: repeating %+v: verdict %v, % X", a, verdict, b)
	}
}

// settle is the word of any holder of any message.
func (d *taker) settle() {
	var held []*arrival
	for _, a := range d.open {
		if a.holders > 0 {
			held = append(held, a)
		}
	}
	if len(held) == 0 {
		return
	}
	a, _ := pick(d.rng, held)
	a.holders--
	code := codec.QuotaExceeded
	if d.rng.IntN(2) == 0 {
		code, a.accepts = codec.Success, true
	}
	d.wantAcks(settle(d.s, nil, a.receipt, code, ""))
}

// wantAcks checks that b has the acknowledgements of all messages whose turn it is, in each kind's order.
func (d *taker) wantAcks(b []byte) {
	d.t.Helper()
	var want []byte
	for qos := byte(1); qos <= 2; qos++ {
		for _, a := range slices.Clone(d.open) {
			if a.qos != qos || a.acked {
				continue
			}
			if a.holders > 0 {
				break
			}
			want = d.appendAck(want, a)
		}
	}
	if !slices.Equal(b, want) {
		d.t.Fatalf("MQTT-4.6.0-2, MQTT-4.6.0-3: acknowledgements % X, want % X", b, want)
	}
	if d.s.Unacknowledged() != len(d.open) {
		d.t.Fatalf("%d messages occupy the window, want %d", d.s.Unacknowledged(), len(d.open))
	}
}

// appendAck is the acknowledgement that a needs; a is closed, if it is the last.
func (d *taker) appendAck(dst []byte, a *arrival) []byte {
	code := codec.QuotaExceeded
	if a.accepts || d.s.version < codec.V5 {
		code = codec.Success
	}
	a.acked = a.qos == 2 && code == codec.Success
	if !a.acked {
		d.open = slices.DeleteFunc(d.open, func(o *arrival) bool { return o == a })
	}
	if a.qos == 1 {
		return must((&codec.Puback{PacketID: a.id, Code: code}).Append(dst, d.s.version))
	}
	return must((&codec.Pubrec{PacketID: a.id, Code: code}).Append(dst, d.s.version))
}

// pubrel releases any identifier.
func (d *taker) pubrel() {
	id := uint16(1 + d.rng.IntN(200))
	i := slices.IndexFunc(d.open, func(a *arrival) bool { return a.id == id && a.acked })
	p := decode(d.t, d.s.version, d.s.Pubrel(nil, id), nil).(*codec.Pubcomp)
	if (p.Code == codec.Success) != (i >= 0 || d.s.version < codec.V5) || p.PacketID != id {
		d.t.Fatalf("PUBREL %d is answered by %+v", id, p)
	}
	if i >= 0 {
		d.open = slices.Delete(d.open, i, i+1)
	}
	d.wantAcks(nil)
}

// Whoever settles what, in whatever order: acknowledgements keep their order, and nobody's is lost or comes twice.
func TestReceiverModel(t *testing.T) {
	forSeeds(t, func(t *testing.T, rng *rand.Rand) {
		v := []codec.Version{codec.V5, codec.V311}[rng.IntN(2)]
		d := &taker{t: t, rng: rng, s: serving(v, Limits{}, 1+rng.IntN(60))}
		steps := []func(){d.arrive, d.arrive, d.settle, d.settle, d.settle, d.pubrel, d.pubrel}
		for range 3000 {
			step, _ := pick(rng, steps)
			step()
		}
		for slices.ContainsFunc(d.open, func(a *arrival) bool { return a.holders > 0 }) {
			d.settle()
		}
		for len(d.open) > 0 {
			d.pubrel()
		}
		if s := d.s; s.in.waits(1) || s.in.waits(2) || s.in.pending.held.used+s.in.received.used+s.in.unsettled != 0 {
			t.Errorf("the session is not empty: %+v", s)
		}
	})
}
