package engine

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// group is the members of a shared subscription, and the messages that wait for one of them, section 4.8.2. What has not
// been sent is nobody's yet: whichever member has room takes it. It ends with its last member.
type group struct {
	engine *Engine
	filter string                 // with $share/{name}/
	entry  *subscription          // in the index, for all members
	ledger atomic.Pointer[ledger] // nil: it is not stored

	mu      sync.Mutex      // guards the fields below
	members []*subscription // in a new slice after each change
	turn    int             // of members
	first   []*message      // come back from a member whose session has ended; the next one is the last
	queue   fifo.Queue[*message]
	bytes   int           // of messages in first and queue
	told    bool          // that messages were dropped
	swept   time.Duration // when the full queue was last searched for what has expired
}

// groups are those of the engine, by filter. A group is made and ended with mu held.
type groups struct {
	mu sync.Mutex // comes before group.mu and index.mu
	of map[string]*group
}

// join makes a session a member. The session's lock is held.
// [MQTT-4.8.2b]
func (s *Session) join(by *subscription) {
	gs := &s.engine.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.of[by.filter]
	if g == nil {
		g = &group{engine: s.engine, filter: by.filter}
		g.entry = &subscription{group: g, filter: by.filter, inner: by.inner}
		if gs.of == nil {
			gs.of = map[string]*group{}
		}
		gs.of[by.filter] = g
		s.engine.stats.shares.Add(1)
	}
	g.mu.Lock()
	g.persist(s)
	first := len(g.members) == 0
	g.members = append(g.without(s), by)
	g.mu.Unlock()
	if first {
		s.engine.index.replace(nil, g.entry)
	}
	if !slices.Contains(s.groups, g) {
		s.groups = append(s.groups, g)
	}
}

// persist has the group stored once it has a member that is.
func (g *group) persist(s *Session) {
	if s.ledger == nil || g.ledger.Load() != nil {
		return
	}
	j := g.engine.journal
	if j.restoring {
		return // it has a number already
	}
	l := &ledger{journal: j, number: j.newNumber(), lock: &g.mu}
	j.lazily(Change{bucketGroups, number(l.number), []byte(g.filter)})
	g.ledger.Store(l)
	g.engine.index.renew()
}

// without returns the members other than a session, in a new slice.
func (g *group) without(s *Session) []*subscription {
	return slices.DeleteFunc(slices.Clone(g.members), func(m *subscription) bool { return m.session == s })
}

// quit ends a membership. The session's lock is held. The group ends with its last member, and what waited in it is lost.
func (s *Session) quit(filter string) {
	gs := &s.engine.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.of[filter]
	s.groups = slices.DeleteFunc(slices.Clone(s.groups), func(other *group) bool { return other == g }) // pump may be looking
	g.mu.Lock()
	g.members = g.without(s)
	last := len(g.members) == 0
	if last {
		g.clear()
	}
	g.mu.Unlock()
	if last {
		delete(gs.of, filter)
		s.engine.stats.shares.Add(-1)
		s.engine.index.replace(g.entry, nil)
	}
}

// clear drops everything that waits.
func (g *group) clear() {
	for m := g.pop(); m != nil; m = g.pop() {
		g.lose(m)
		g.engine.stats.dropped.Add(1)
	}
	if l := g.ledger.Load(); l != nil {
		l.gone = true
		l.journal.lazily(Change{bucketGroups, number(l.number), nil})
		l.journal.lazily(Change{bucketLedgers, number(l.number), nil})
	}
}

// lose lets go of a message that waited and that no member will get. The lock is held.
func (g *group) lose(m *message) {
	g.engine.letGo(m)
	if l := g.ledger.Load(); l != nil && m.sequence != 0 {
		l.settle(m)
	}
}

// front returns the message that is next, or nil. The lock is held.
func (g *group) front() *message {
	if n := len(g.first); n > 0 {
		return g.first[n-1]
	}
	if g.queue.Len() > 0 {
		return *g.queue.At(0)
	}
	return nil
}

// pop takes the message that front returned, or nil. The lock is held.
func (g *group) pop() *message {
	m := g.front()
	switch n := len(g.first); {
	case m == nil:
		return nil
	case n > 0:
		g.first = g.first[:n-1]
	default:
		g.queue.Pop()
	}
	g.bytes -= m.size
	return m
}

// unshift puts a message back to the front: a member had it, and has not acknowledged it when its session ended.
func (g *group) unshift(m *message) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.members) == 0 {
		return false
	}
	g.engine.hold(m)
	g.first = append(g.first, m)
	g.bytes += m.size
	return true
}

// take gives a run to the group: each message to one member, in turn.
func (g *group) take(r *run, items []item, wakes *[]*conn) {
	for i := range items {
		it := &items[i]
		if it.skip() {
			continue
		}
		if r.qos == 0 { // whoever has room now, or nobody
			m := newMessage(r.match.topic, it.payload, it.properties, 0, r.retain, g.engine.now())
			it.kept = g.hand(m, wakes)
			continue
		}
		if g.push(it.message) {
			it.kept = true
			g.handOut(wakes)
		}
	}
}

// push queues a message at QoS 1 or 2, and reports whether there was room.
func (g *group) push(m *message) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.engine
	l := g.ledger.Load()
	if l != nil && m.owes(l.number) {
		l.enter(m)
	}
	if !g.room(m) {
		g.dropExpired()
	}
	for !g.room(m) {
		if e.config.Overflow != DropOldest || g.front() == nil {
			g.drop(m)
			if l != nil && m.sequence != 0 {
				l.settle(m)
			}
			return false
		}
		oldest := g.pop()
		g.lose(oldest)
		g.drop(oldest)
	}
	e.hold(m)
	g.queue.Push(m)
	g.bytes += m.size
	return true
}

// dropExpired drops what has expired.
func (g *group) dropExpired() {
	now := g.engine.now()
	if g.swept != 0 && now < g.swept+sweepEvery {
		return
	}
	g.swept = now
	keep := func(m *message) bool {
		if !m.expired(now) {
			return true
		}
		g.bytes -= m.size
		g.lose(m)
		g.engine.stats.expired.Add(1)
		return false
	}
	g.first = slices.DeleteFunc(g.first, func(m *message) bool { return !keep(m) })
	for range g.queue.Len() {
		if m := g.queue.Pop(); keep(m) {
			g.queue.Push(m)
		}
	}
}

func (g *group) room(m *message) bool {
	c := &g.engine.config
	n := g.queue.Len() + len(g.first)
	return len(g.members) > 0 && n < c.MaxQueuedMessages && (n == 0 || g.bytes+m.size <= c.MaxQueuedBytes) && !g.engine.full()
}

func (g *group) drop(m *message) {
	g.engine.stats.dropped.Add(1)
	if !g.told {
		g.told = true
		g.engine.log.Warn("a shared subscription is too slow, so messages to it are dropped", "filter", g.filter, "topic", m.topic)
	}
}

// serve gives what waits to members that have room.
func (g *group) serve() {
	var wakes []*conn
	g.handOut(&wakes)
	wakeAll(wakes)
}

// handOut gives messages away until none waits, or no member has room.
func (g *group) handOut(wakes *[]*conn) {
	for g.handNext(wakes) {
	}
}

// handNext gives the next message to the next member that takes it, and reports whether there was one. One that no member
// may receive is dropped.
func (g *group) handNext(wakes *[]*conn) bool {
	m, members := g.inTurn()
	denied := 0
	for _, by := range members {
		switch {
		case !g.engine.authorized(by.session.client.Load(), Receive, m.topic):
			denied++
		case by.session.takeShared(by, m, g, wakes):
			g.served(by)
			return true
		}
	}
	if m == nil || denied < len(members) || !g.remove(m) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lose(m)
	g.engine.stats.denied.Add(1)
	return true
}

// inTurn returns the message that is next, and the members, the one whose turn it is first; nothing if none waits.
// [MQTT-4.8.2c]
func (g *group) inTurn() (*message, []*subscription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.front()
	if m == nil || len(g.members) == 0 {
		return nil, nil
	}
	return m, g.rotated()
}

func (g *group) rotated() []*subscription {
	next := g.turn % len(g.members)
	return slices.Concat(g.members[next:], g.members[:next])
}

// served says who took a message: it is the turn of the member after it.
func (g *group) served(by *subscription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn = slices.Index(g.members, by) + 1
}

// hand gives a message at QoS 0 to the next member that has room and may receive it.
func (g *group) hand(m *message, wakes *[]*conn) bool {
	g.mu.Lock()
	var members []*subscription
	if len(g.members) > 0 {
		members = g.rotated()
	}
	g.mu.Unlock()
	for _, by := range members {
		if g.engine.authorized(by.session.client.Load(), Receive, m.topic) && by.session.takeShared(by, m, nil, wakes) {
			g.served(by)
			return true
		}
	}
	g.engine.stats.dropped.Add(1)
	return false
}

// takeShared sends a message that came through a group, which loses it then, if the client is there and has room. At QoS 0
// there is no group that has it.
// [MQTT-4.8.2-3] [MQTT-4.8.2-6]
func (s *Session) takeShared(by *subscription, m *message, g *group, wakes *[]*conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conn
	if !s.ready() || c.over.Load() {
		return false
	}
	if g != nil && !g.remove(m) {
		return true // another member was faster; look again
	}
	s.sendShared(by, m, g)
	if c.out.Waiting() > 0 {
		c.wakeLater(wakes)
	}
	return true
}

// remove takes the message away that was in front, and reports whether it still was.
func (g *group) remove(m *message) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.front() != m {
		return false
	}
	g.pop()
	g.told = g.told && g.front() != nil
	return true
}

// sendShared sends a message of a group; the session is ready.
func (s *Session) sendShared(by *subscription, m *message, g *group) {
	e := s.engine
	if g != nil {
		defer e.letGo(m) // the group's; sendNow holds it for the session
	}
	var owner any = m
	if g != nil {
		owner = &shared{m, g}
	}
	if m.expired(e.now()) {
		e.stats.expired.Add(1)
		s.neverSent(owner)
		return
	}
	copied := m.copyOf(min(m.qos, by.qos), m.retain && by.retainAsPublished, by.ids(), owner)
	if copied.QoS == 0 {
		s.sendAtOnce(&copied)
		s.neverSent(owner)
		return
	}
	s.sendNow(&copied)
}

// neverSent settles what was stored of a message that needs no acknowledgement, because it is not sent, or sent at QoS 0.
func (s *Session) neverSent(owner any) {
	if m := messageOf(owner); m.sequence != 0 {
		s.settle(owner, m)
	}
}

// sendAtOnce sends a message at QoS 0.
func (s *Session) sendAtOnce(m *session.Message) {
	c := s.conn
	if c.exceeds(m) {
		s.engine.stats.dropped.Add(1)
		return
	}
	buffer := c.out.Buffer()
	b, err := s.state.AppendPublish(buffer, m, 0, false, s.engine.now())
	if err == nil {
		n := len(b) - len(buffer)
		c.out.Commit(b)
		c.charge(1, n)
		s.engine.stats.countSent(1, len(m.Payload))
	}
}

// pumpGroups takes the next message of one of the session's groups, and reports whether there was one. The lock is released
// while the application is asked.
func (s *Session) pumpGroups(c *conn) bool {
	for _, g := range s.groups {
		g.mu.Lock()
		m := g.front()
		i := slices.IndexFunc(g.members, func(by *subscription) bool { return by.session == s })
		var by *subscription
		if i >= 0 {
			by = g.members[i]
		}
		g.mu.Unlock()
		if m == nil || by == nil || !s.mayStillReceive(c, m.topic) {
			continue
		}
		if s.conn != c || !s.state.Ready() || len(s.cursors) > 0 {
			return s.conn == c
		}
		if g.remove(m) {
			s.sendShared(by, m, g)
		}
		return true
	}
	return false
}
