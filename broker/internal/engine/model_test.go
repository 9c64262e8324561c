package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// TestModel plays random scripts on the engine and on a model of it, which is as simple as the specification, and compares
// what each client gets after each step. The model scans everything and keeps nothing ready.
func TestModel(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/stored=%v", seed, stored), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					g := &game{t: t, random: rand.New(rand.NewPCG(seed, 7)), model: newModel(), peers: map[string]*peer{}}
					var change func(*Config)
					if stored {
						g.store = newMemoryStore()
						g.store.takes = time.Microsecond // nothing that the model knows happens meanwhile
						change = with(g.store)
					}
					g.lab = newLab(t, change)
					for range 120 {
						g.step()
					}
				})
			})
		}
	}
}

// modelSession is a session as the specification has it.
type modelSession struct {
	id        string
	version   codec.Version
	connected bool
	expiry    uint32
	endsAt    time.Time
	will      *codec.Will
	willAt    time.Time
	subs      map[string]codec.SubscribeFilter
	ids       map[string]uint32
	queue     []func(codec.Version) string // what waits, as told
}

type modelRetained struct {
	payload string
	qos     byte
}

type model struct {
	sessions map[string]*modelSession
	retained map[string]modelRetained
	groups   map[string][]string // what waits for the members of a group, by filter
	out      map[string][]string // what each connected client gets in this step
	either   []choice            // what one of several clients gets
}

// choice is a message that one of several members gets.
type choice struct{ by map[string]string }

func newModel() *model {
	return &model{sessions: map[string]*modelSession{}, retained: map[string]modelRetained{}, groups: map[string][]string{}, out: map[string][]string{}}
}

// told is a message as it is compared.
func told(v codec.Version, topic, payload string, qos byte, retain bool, ids []uint32) string {
	if v != codec.V5 {
		ids = nil
	}
	ids = slices.Sorted(slices.Values(ids))
	return fmt.Sprintf("%s=%s qos %d retain %v ids %v", topic, payload, qos, retain, ids)
}

// publish delivers a message to all plain subscriptions and to one member of each group.
func (m *model) publish(from, name, payload string, qos byte, retain bool) {
	if retain {
		delete(m.retained, name)
		if payload != "" {
			m.retained[name] = modelRetained{payload, qos}
		}
	}
	members := map[string]map[string]string{}
	for id, s := range m.sessions {
		best, asPublished, found := byte(0), false, false
		var ids []uint32
		for filter, f := range s.subs {
			if !topic.Match(topic.Inner(filter, nil), name) {
				continue
			}
			if topic.Shared(filter) {
				if members[filter] == nil {
					members[filter] = map[string]string{}
				}
				if s.connected {
					members[filter][id] = told(s.version, name, payload, min(qos, f.QoS), retain && f.RetainAsPublished, idsOf(s.ids[filter]))
				}
				continue
			}
			if f.NoLocal && id == from {
				continue
			}
			found = true
			best = max(best, f.QoS)
			asPublished = asPublished || f.RetainAsPublished
			ids = append(ids, idsOf(s.ids[filter])...)
		}
		if found {
			m.deliver(s, min(qos, best), func(v codec.Version) string {
				return told(v, name, payload, min(qos, best), retain && asPublished, ids)
			})
		}
	}
	for _, by := range members {
		if len(by) > 0 { // groups whose members are all away keep no messages at QoS 0; scripts publish only those to them
			m.either = append(m.either, choice{by})
		}
	}
}

func idsOf(id uint32) []uint32 {
	if id == 0 {
		return nil
	}
	return []uint32{id}
}

func (m *model) deliver(s *modelSession, qos byte, what func(codec.Version) string) {
	switch {
	case s.connected:
		m.out[s.id] = append(m.out[s.id], what(s.version))
	case qos > 0:
		s.queue = append(s.queue, what)
	}
}

// end ends a session, with its will.
func (m *model) end(s *modelSession) {
	delete(m.sessions, s.id)
	m.sendWill(s)
}

func (m *model) sendWill(s *modelSession) {
	if w := s.will; w != nil {
		s.will = nil
		m.publish(s.id, w.Topic, string(w.Payload), w.QoS, w.Retain)
	}
}

// lose ends a connection.
func (m *model) lose(s *modelSession, orderly bool) {
	s.connected = false
	if orderly {
		s.will = nil
	}
	if s.expiry == 0 {
		m.end(s)
		return
	}
	s.endsAt = time.Now().Add(time.Duration(s.expiry) * time.Second)
	if s.will != nil {
		s.willAt = time.Now().Add(min(s.will.Properties.WillDelay, time.Duration(s.expiry)*time.Second))
		if s.will.Properties.WillDelay == 0 {
			m.sendWill(s)
		}
	}
}

// connect returns Session Present.
func (m *model) connect(c *codec.Connect, v codec.Version) bool {
	expiry := expiryOf(&codec.Connect{Version: v, CleanStart: c.CleanStart, Properties: c.Properties})
	old := m.sessions[c.ClientID]
	if old != nil && old.connected {
		old.connected = false
		switch {
		case old.expiry == 0 || c.CleanStart:
			m.end(old)
			old = nil
		case old.will != nil && old.will.Properties.WillDelay == 0:
			m.sendWill(old)
		}
	}
	if old != nil && c.CleanStart {
		m.end(old)
		old = nil
	}
	present := old != nil
	if old == nil {
		old = &modelSession{id: c.ClientID, subs: map[string]codec.SubscribeFilter{}, ids: map[string]uint32{}}
		m.sessions[c.ClientID] = old
	}
	old.connected, old.version, old.expiry, old.will = true, v, expiry, c.Will
	for _, what := range old.queue {
		m.out[old.id] = append(m.out[old.id], what(v))
	}
	old.queue = nil
	return present
}

// pass lets time pass.
func (m *model) pass() {
	for {
		var next *modelSession
		var at time.Time
		for _, s := range m.sessions {
			if s.connected {
				continue
			}
			if s.will != nil && !s.willAt.After(time.Now()) && (next == nil || s.willAt.Before(at)) {
				next, at = s, s.willAt
			}
			if s.expiry != never && !s.endsAt.After(time.Now()) && (next == nil || s.endsAt.Before(at)) {
				next, at = s, s.endsAt
			}
		}
		switch {
		case next == nil:
			return
		case next.will != nil && at.Equal(next.willAt):
			m.sendWill(next)
		default:
			m.end(next)
		}
	}
}

// game plays on both.
type game struct {
	t      *testing.T
	random *rand.Rand
	lab    *lab
	store  *memoryStore
	model  *model
	peers  map[string]*peer
	number int
	log    []string
}

var (
	modelClients = []string{"a", "b", "c", "d"}
	modelTopics  = []string{"x", "x/y", "x/z", "w/y", "/y", "$s/y"}
	modelFilters = []string{"x", "x/y", "x/#", "+/y", "#", "+", "x/+", "$s/#", "$share/g/x/#", "$share/h/+/y"}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func (g *game) step() {
	r := g.random
	id := pick(r, modelClients)
	p, s := g.peers[id], g.model.sessions[id]
	connected := s != nil && s.connected
	var present *bool
	n := r.IntN(12)
	if n == 0 && connected && g.store != nil && s.will != nil {
		n = 2 // a will waits for the store, and so comes before or after its client is there again
	}
	switch {
	case !connected || n == 0:
		present = g.connect(id)
	case n == 1:
		g.note("%s is lost", id)
		p.conn.Close()
		g.model.lose(s, false)
	case n == 2:
		g.note("%s disconnects", id)
		p.send(&codec.Disconnect{})
		p.conn.Close()
		g.model.lose(s, true)
	case n < 6:
		g.subscribe(p, s)
	case n == 6:
		filter := pick(r, modelFilters)
		g.note("%s unsubscribes from %s", id, filter)
		p.send(&codec.Unsubscribe{PacketID: 9, Filters: []string{filter}})
		delete(s.subs, filter)
		delete(s.ids, filter)
	case n == 7:
		g.note("time passes")
		time.Sleep(time.Duration(r.IntN(4)) * time.Second)
		g.settle()
		g.model.pass()
	default:
		g.publish(p, s)
	}
	g.compare(present)
}

func (g *game) note(format string, args ...any) { g.log = append(g.log, fmt.Sprintf(format, args...)) }

func (g *game) connect(id string) *bool {
	r := g.random
	v := pick(r, []codec.Version{codec.V5, codec.V311})
	c := &codec.Connect{ClientID: id, CleanStart: r.IntN(3) == 0}
	if r.IntN(3) == 0 {
		g.number++
		c.Will = &codec.Will{Topic: pick(r, []string{"v", "$s/y"}), Payload: fmt.Append(nil, "will ", g.number), QoS: byte(r.IntN(3)), Retain: r.IntN(4) == 0}
	}
	if v == codec.V5 {
		expiry := pick(r, []uint32{0, 2, 5, never})
		c.Properties.SessionExpiry = &expiry
		if c.Will != nil {
			c.Will.Properties.WillDelay = time.Duration(pick(r, []int{0, 1, 3})) * time.Second
		}
	}
	g.note("%s connects: %v clean %v %+v will %+v", id, v, c.CleanStart, c.Properties.SessionExpiry, c.Will)
	if old := g.peers[id]; old != nil {
		g.settle()
	}
	p := g.lab.dial(v)
	p.send(c)
	g.peers[id] = p
	present := g.model.connect(c, v)
	return &present
}

func (g *game) subscribe(p *peer, s *modelSession) {
	r := g.random
	f := codec.SubscribeFilter{Filter: pick(r, modelFilters), QoS: byte(r.IntN(3))}
	packet := &codec.Subscribe{PacketID: 9}
	if s.version == codec.V5 {
		f.NoLocal = r.IntN(3) == 0 && !topic.Shared(f.Filter)
		f.RetainAsPublished, f.RetainHandling = r.IntN(2) == 0, byte(r.IntN(3))
		packet.SubscriptionIdentifier = uint32(r.IntN(4))
	}
	packet.Filters = []codec.SubscribeFilter{f}
	g.note("%s subscribes: %+v id %d", s.id, f, packet.SubscriptionIdentifier)
	p.send(packet)
	_, old := s.subs[f.Filter]
	s.subs[f.Filter], s.ids[f.Filter] = f, packet.SubscriptionIdentifier
	if topic.Shared(f.Filter) || f.RetainHandling == 2 || f.RetainHandling == 1 && old {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(g.model.retained)) {
		if kept := g.model.retained[name]; topic.Match(f.Filter, name) {
			qos := min(kept.qos, f.QoS)
			g.model.out[s.id] = append(g.model.out[s.id], told(s.version, name, kept.payload, qos, true, idsOf(packet.SubscriptionIdentifier)))
		}
	}
}

func (g *game) publish(p *peer, s *modelSession) {
	r := g.random
	g.number++
	m := &codec.Publish{Topic: pick(r, modelTopics), QoS: byte(r.IntN(3)), Retain: r.IntN(4) == 0, Payload: fmt.Append(nil, g.number)}
	if m.Retain && r.IntN(3) == 0 {
		m.Payload = nil
	}
	if g.sharedAway(m.Topic) {
		m.QoS = 0 // what waits for whoever comes first is another test's
	}
	if m.QoS > 0 {
		m.PacketID = 9
	}
	g.note("%s publishes %s=%s qos %d retain %v", s.id, m.Topic, m.Payload, m.QoS, m.Retain)
	p.send(m)
	g.model.publish(s.id, m.Topic, string(m.Payload), m.QoS, m.Retain)
}

// sharedAway reports whether a topic is for a group of which nobody is connected.
func (g *game) sharedAway(name string) bool {
	here := map[string]bool{}
	for _, s := range g.model.sessions {
		for filter := range s.subs {
			if topic.Shared(filter) && topic.Match(topic.Inner(filter, nil), name) {
				here[filter] = here[filter] || s.connected
			}
		}
	}
	for _, yes := range here {
		if !yes {
			return true
		}
	}
	return false
}

// settle lets the engine finish, also what waits for the store.
func (g *game) settle() {
	synctest.Wait()
	if g.store != nil {
		time.Sleep(10 * time.Microsecond)
		synctest.Wait()
	}
}

// got acknowledges and returns what a client has got, until nothing comes any more.
func (g *game) got(p *peer, present *bool) (messages []string) {
	for {
		g.settle()
		select {
		case packet := <-p.packets:
			switch m := packet.(type) {
			case nil:
				return messages
			case *codec.Connack:
				if m.Code != codec.Success || present != nil && m.SessionPresent != *present {
					g.fail("CONNACK %+v, want Session Present %v", m, present)
				}
			case *codec.Publish:
				if m.Dup {
					g.fail("%s is marked as a duplicate", m.Topic)
				}
				messages = append(messages, told(p.version, m.Topic, string(m.Payload), m.QoS, m.Retain, m.SubscriptionIdentifiers))
				switch m.QoS {
				case 1:
					p.send(&codec.Puback{PacketID: m.PacketID})
				case 2:
					p.send(&codec.Pubrec{PacketID: m.PacketID})
				}
			case *codec.Pubrel:
				p.send(&codec.Pubcomp{PacketID: m.PacketID})
			case *codec.Pubrec:
				p.send(&codec.Pubrel{PacketID: m.PacketID})
			case *codec.Puback, *codec.Pubcomp, *codec.Suback, *codec.Unsuback:
			default:
				g.fail("%s got %T %+v", p.conn, m, m)
			}
		default:
			return messages
		}
	}
}

// compare compares what everybody has got in a step. Where QoS differ the order is nobody's promise.
func (g *game) compare(present *bool) {
	g.t.Helper()
	g.settle()
	got := map[string][]string{}
	for id, s := range g.model.sessions {
		if s.connected {
			got[id] = g.got(g.peers[id], present)
		}
	}
	for id, s := range g.model.sessions {
		for _, want := range g.model.out[id] {
			i := slices.Index(got[id], want)
			if i < 0 && s.connected {
				g.fail("%s\n got %s\nbut not %s", id, strings.Join(got[id], "\n     "), want)
			}
			if i >= 0 {
				got[id] = slices.Delete(got[id], i, i+1)
			}
		}
	}
	if !assign(g.model.either, got) {
		g.fail("besides what is theirs, the clients got %v; of the groups one member each was to get %v", got, g.model.either)
	}
	clear(g.model.out)
	g.model.either = nil
}

// assign reports whether got is one message of each choice, and nothing else.
func assign(choices []choice, got map[string][]string) bool {
	if len(choices) == 0 {
		for _, left := range got {
			if len(left) > 0 {
				return false
			}
		}
		return true
	}
	for id, what := range choices[0].by {
		if i := slices.Index(got[id], what); i >= 0 {
			before := got[id]
			got[id] = slices.Delete(slices.Clone(before), i, i+1)
			if assign(choices[1:], got) {
				return true
			}
			got[id] = before
		}
	}
	return false
}

func (g *game) fail(format string, args ...any) {
	g.t.Helper()
	g.t.Fatalf("%s\nafter\n%s", fmt.Sprintf(format, args...), strings.Join(g.log, "\n"))
}
