package route

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// modelFilters and modelTopics are few, so that most messages match several filters.
var (
	modelFilters = []string{"a", "a/b", "a/+", "+/b", "#", "+", "$share/g/a/b", "$share/g/#"}
	modelTopics  = []string{"a", "a/b", "c/b", "d"}
)

// packet is one packet on its way between the model of a server and the Router.
type packet struct {
	filters   []string    // of an UNSUBSCRIBE
	subscribe *Subscribe  // of a SUBSCRIBE and its SUBACK
	route     *Route      // as subscribe
	holder    *subscriber // who waits for the answer; nil: nobody
	message   int         // of a copy: its number, from 1
	repeated  bool        // it came before
	id        uint32
}

// subscriber is a holder of the model.
type subscriber struct {
	Holder
	filters []string
	pending int // SUBSCRIBEs or UNSUBSCRIBEs without an answer
	settled int // how many messages had been published when its SUBACKs had come; -1: they have not
	left    int // how many had been published when the copies of all that came before were taken; -1: it has not left
	got     map[int]int
}

// model is a server and a client with a Router between which packets travel in order. The server sends a copy of a message
// for each filter that matches, with its identifier, and keeps its session through cuts.
type model struct {
	t        *testing.T
	rng      *rand.Rand
	r        *Router
	up, down []packet
	server   map[string]uint32 // identifiers by filter
	unacked  []packet          // copies that have come and will come again after a cut
	topics   []string          // of the messages, in order
	holders  []*subscriber
	sent     map[uint32]packet // SUBSCRIBEs by identifier
	excused  map[int]bool      // messages that may come twice
	doubt    int               // how many messages had been published at the latest doubt
}

// TestModel checks that every holder gets every message that matches one of its filters once, if it was published after the
// SUBACKs of the holder, and never twice, whatever other holders do to the same filters meanwhile. Twice it may come if its
// identifier is forgotten, and if it was published after a CONNECT without an answer and a copy of it comes before
// anything shows that the server has kept the session: then no filter can be relied on for the other copies.
func TestModel(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := &model{
				t: t, rng: rand.New(rand.NewPCG(seed, 0)), r: New(nil),
				server: map[string]uint32{}, sent: map[uint32]packet{}, excused: map[int]bool{},
			}
			for range 600 {
				m.act()
			}
			m.settle()
			m.check()
		})
	}
}

func (m *model) act() {
	switch n := m.rng.IntN(100); {
	case n < 4:
		m.join()
	case n < 8:
		m.startLeaving()
	case n < 30:
		m.publish()
	case n == 30:
		m.cut()
	case n < 66:
		m.serve()
	default:
		m.receive()
	}
}

// settle lets everything arrive.
func (m *model) settle() {
	for len(m.up)+len(m.down) > 0 {
		m.serve()
		m.receive()
	}
}

func (m *model) join() {
	if len(m.holders) >= 25 {
		return
	}
	s := &subscriber{settled: -1, left: -1, got: map[int]int{}}
	s.Owner = s
	for _, i := range m.rng.Perm(len(modelFilters))[:1+m.rng.IntN(3)] {
		s.filters = append(s.filters, modelFilters[i])
		m.r.Join(&s.Holder, modelFilters[i], byte(m.rng.IntN(3)))
	}
	m.holders = append(m.holders, s)
	for _, rt := range s.Routes() {
		if !rt.Complete() {
			m.subscribe(rt, s)
		}
	}
	m.granted(s)
}

// granted notes that s waits for nothing any more, if that is so.
func (m *model) granted(s *subscriber) {
	if s.pending == 0 && s.settled < 0 {
		s.Settle()
		s.settled = len(m.topics)
	}
}

func (m *model) subscribe(rt *Route, s *subscriber) {
	id := m.r.NextIdentifier()
	p := packet{subscribe: m.r.Sent(rt, id, false, nil), route: rt, holder: s, id: id}
	if s != nil {
		s.pending++
	}
	m.sent[id] = p
	m.up = append(m.up, p)
}

func (m *model) startLeaving() {
	if len(m.holders) == 0 {
		return
	}
	s := m.holders[m.rng.IntN(len(m.holders))]
	if s.settled < 0 || s.phase == leaving {
		return
	}
	m.unsubscribe(m.r.StartLeaving(&s.Holder), s)
	m.leave(s)
}

func (m *model) unsubscribe(filters []string, s *subscriber) {
	if len(filters) == 0 {
		return
	}
	if s != nil {
		s.pending++
	}
	m.up = append(m.up, packet{filters: filters, holder: s})
}

// leave ends s if it waits for no UNSUBACK.
func (m *model) leave(s *subscriber) {
	if s.pending == 0 && s.left < 0 {
		s.left = len(m.topics)
		for _, p := range m.down {
			if p.message > 0 {
				s.left = min(s.left, p.message-1)
			}
		}
		m.unsubscribe(m.r.Leave(&s.Holder), nil)
	}
}

// publish lets the server send copies of a message.
func (m *model) publish() {
	name := modelTopics[m.rng.IntN(len(modelTopics))]
	m.topics = append(m.topics, name)
	for _, f := range modelFilters {
		if id := m.server[f]; id != 0 && topic.Match(topic.Inner(f, nil), name) && (!topic.Shared(f) || m.rng.IntN(2) == 0) {
			m.down = append(m.down, packet{message: len(m.topics), id: id})
		}
	}
}

// serve lets the server take a packet.
func (m *model) serve() {
	if len(m.up) == 0 {
		return
	}
	p := m.up[0]
	m.up = m.up[1:]
	if p.subscribe != nil {
		m.server[p.route.Filter()] = p.id
	}
	for _, f := range p.filters {
		delete(m.server, f)
	}
	m.down = append(m.down, p)
}

// receive lets the client take a packet.
func (m *model) receive() {
	if len(m.down) == 0 {
		return
	}
	p := m.down[0]
	m.down = m.down[1:]
	switch {
	case p.message > 0:
		m.deliver(p)
	case p.subscribe != nil:
		p.route.Granted(p.subscribe, 2)
		if m.r.GiveBack(p.route) {
			m.unsubscribe([]string{p.route.Filter()}, nil)
		}
		if p.holder != nil {
			p.holder.pending--
			m.granted(p.holder)
		}
	case p.holder != nil:
		p.holder.pending--
		m.leave(p.holder)
	}
}

func (m *model) deliver(p packet) {
	name := m.topics[p.message-1]
	m.unacked = remember(m.unacked, p, 5)
	if p.repeated {
		m.r.Prove(m.r.Lookup(name), []uint32{p.id})
		return
	}
	inDoubt := m.r.doubted > 0 && p.message > m.doubt
	targets, known := m.r.Targets(m.r.Lookup(name), []uint32{p.id}, false)
	if inDoubt || !known && len(targets) > 0 {
		m.excused[p.message] = true
	}
	for _, to := range targets {
		to.Holder.Owner.(*subscriber).got[p.message]++
	}
	m.r.Clear()
	m.checkPlain(name)
}

// checkPlain compares who gets a message without an identifier with whose filters match.
func (m *model) checkPlain(name string) {
	targets, _ := m.r.Targets(m.r.Lookup(name), nil, false)
	want := 0
	for _, s := range m.holders {
		qos, matches := byte(0), false
		for i, f := range s.filters {
			if s.left < 0 && topic.Match(topic.Inner(f, nil), name) {
				qos, matches = max(qos, s.holds[i].qos), true
			}
		}
		if matches {
			want++
			if !slices.Contains(targets, Target{&s.Holder, qos}) {
				m.t.Fatalf("%s: a holder of %q does not get it at QoS %d: %v", name, s.filters, qos, targets)
			}
		}
	}
	if len(targets) != want {
		m.t.Fatalf("%s: %d holders get it, want %d", name, len(targets), want)
	}
}

// cut ends the connection and resumes the session, sometimes after a CONNECT without an answer: packets of the client are
// lost, answers too, messages come again. The client subscribes everything again, and unsubscribes again what was not
// answered.
func (m *model) cut() {
	lost := append(m.down, m.up...)
	messages := slices.DeleteFunc(slices.Clone(m.down), func(p packet) bool { return p.message == 0 })
	m.up, m.down = nil, nil
	for _, p := range m.unacked {
		p.repeated = true
		m.down = append(m.down, p)
	}
	m.down, m.unacked = append(m.down, messages...), nil
	var again []packet
	waits := map[*subscriber][]*Route{} // for a SUBACK
	for _, p := range lost {
		switch {
		case p.subscribe != nil:
			p.route.Cut()
			if p.holder != nil {
				waits[p.holder] = append(waits[p.holder], p.route)
				p.holder.pending--
			}
			if !m.r.Holds(p.route.Filter()) {
				again = append(again, packet{filters: []string{p.route.Filter()}})
			}
		case p.filters != nil:
			if p.holder != nil {
				p.holder.pending--
			}
			again = append(again, p)
		}
	}
	if m.rng.IntN(2) == 0 {
		m.r.Doubt()
		m.doubt = len(m.topics)
	}
	for _, p := range again {
		p.filters = slices.DeleteFunc(slices.Clone(p.filters), m.r.Has)
		m.unsubscribe(p.filters, p.holder)
		if p.holder != nil {
			m.leave(p.holder)
		}
	}
	for _, s := range m.holders {
		for _, rt := range s.Routes() {
			switch {
			case s.settled < 0 && slices.Contains(waits[s], rt):
				m.subscribe(rt, s)
			case rt.Eldest() == &s.Holder:
				m.subscribe(rt, nil)
			}
		}
	}
}

// check counts what every holder got.
func (m *model) check() {
	for _, s := range m.holders {
		for i, name := range m.topics {
			n := s.got[i+1]
			certain, matches := false, false
			for _, f := range s.filters {
				match := topic.Match(topic.Inner(f, nil), name)
				matches = matches || match
				certain = certain || match && !topic.Shared(f)
			}
			after := s.settled >= 0 && i >= s.settled
			before := s.left < 0 || i < s.left
			switch {
			case n > 0 && !matches:
				m.t.Errorf("%q got %s", s.filters, name)
			case n > 1 && after && certain && !m.excused[i+1]:
				m.t.Errorf("%q got message %d, %s, %d times (settled %d, left %d)", s.filters, i+1, name, n, s.settled, s.left)
			case n == 0 && after && before && certain && s.phase != leaving:
				m.t.Errorf("%q did not get message %d, %s (settled %d)", s.filters, i+1, name, s.settled)
			}
		}
	}
}
