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

	mu      sync.Mutex // guards the fields below
	members []*subscription
	hungry  []*subscription // members that take a message when it comes, as far as is known
	turn    int             // of hungry
	asked   *message        // the rights of all members were looked up for it, and it waits for one of them
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
	if i := slices.IndexFunc(g.members, func(m *subscription) bool { return m.session == s }); i >= 0 {
		g.remove(g.members[i])
	}
	g.members = append(g.members, by)
	g.feed(by)
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

// remove takes a member away. The lock is held.
func (g *group) remove(by *subscription) {
	g.members = slices.DeleteFunc(g.members, func(m *subscription) bool { return m == by })
	g.sate(by)
}

// feed notes that a member takes the next message. The lock is held, and that of the member's session.
func (g *group) feed(by *subscription) {
	if !by.hungry {
		by.hungry = true
		g.hungry = append(g.hungry, by)
	}
}

// sate notes that a member takes nothing for now. It says when it does again: see Session.pumpGroups. The lock is held.
func (g *group) sate(by *subscription) {
	if !by.hungry {
		return
	}
	by.hungry = false
	i := slices.Index(g.hungry, by)
	g.hungry = slices.Delete(g.hungry, i, i+1)
	if i < g.turn {
		g.turn--
	}
}

// quit ends a membership. The session's lock is held. The group ends with its last member, and what waited in it is lost.
func (s *Session) quit(by *subscription) {
	filter := by.filter
	gs := &s.engine.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.of[filter]
	s.groups = slices.DeleteFunc(slices.Clone(s.groups), func(other *group) bool { return other == g }) // pump may be looking
	g.mu.Lock()
	g.remove(by)
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
		if g.push(r, it.message) {
			it.kept = true
			g.handOut(wakes)
		}
	}
}

// push queues a message at QoS 1 or 2, and reports whether there was room. A group that has ended does not lack it.
func (g *group) push(r *run, m *message) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.engine
	l := g.ledger.Load()
	if l != nil && r.owes(l.number) {
		l.enter(m)
	}
	settle := func() {
		if l != nil && m.sequence != 0 {
			l.settle(m)
		}
	}
	if len(g.members) == 0 {
		settle()
		return true
	}
	if !g.room(m) {
		g.dropExpired()
	}
	for !g.room(m) {
		if e.config.Overflow != DropOldest || g.front() == nil {
			g.drop(m)
			settle()
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
	return n < c.MaxQueuedMessages && (n == 0 || g.bytes+m.size <= c.MaxQueuedBytes) && !g.engine.full()
}

func (g *group) drop(m *message) {
	g.engine.stats.dropped.Add(1)
	if !g.told {
		g.told = true
		g.engine.log.Warn("a shared subscription is too slow, so messages to it are dropped", "filter", brief(g.filter), "topic", brief(m.topic))
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
// [MQTT-4.8.2c]
func (g *group) handNext(wakes *[]*conn) bool {
	for denied := 0; ; {
		m, by := g.next(denied)
		switch {
		case m == nil:
			return false
		case by == nil:
			return g.dropUnwanted(m)
		case !g.engine.authorized(by.session.client.Load(), Receive, m.topic):
			denied++
		case by.session.takeShared(by, m, g, true, wakes):
			return true
		}
	}
}

// next returns the message that is next, and the member whose turn it is, or the one so many turns later; nil for none.
func (g *group) next(later int) (*message, *subscription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.front(), g.inTurn(later)
}

func (g *group) inTurn(later int) *subscription {
	if later >= len(g.hungry) {
		return nil
	}
	return g.hungry[(g.turn+later)%len(g.hungry)]
}

// dropUnwanted drops the message that is next if no member may receive it, and reports whether that is so. Otherwise it
// waits for one that may.
func (g *group) dropUnwanted(m *message) bool {
	g.mu.Lock()
	known := g.asked == m
	g.asked = m
	g.mu.Unlock()
	if known || g.isWanted(m) || !g.pull(m) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lose(m)
	g.engine.stats.denied.Add(1)
	return true
}

// isWanted reports whether any member may receive a message.
func (g *group) isWanted(m *message) bool {
	for i := 0; ; i++ {
		g.mu.Lock()
		if i >= len(g.members) {
			g.mu.Unlock()
			return false
		}
		client := g.members[i].session.client.Load()
		g.mu.Unlock()
		if g.engine.authorized(client, Receive, m.topic) {
			return true
		}
	}
}

// hand gives a message at QoS 0 to the next member that has room and may receive it, if the group has not ended.
func (g *group) hand(m *message, wakes *[]*conn) bool {
	for denied := 0; ; {
		g.mu.Lock()
		by, ended := g.inTurn(denied), len(g.members) == 0
		g.mu.Unlock()
		switch {
		case ended:
			return true
		case by == nil:
			g.engine.stats.dropped.Add(1)
			return false
		case !g.engine.authorized(by.session.client.Load(), Receive, m.topic):
			denied++
		case by.session.takeShared(by, m, g, false, wakes):
			return true
		}
	}
}

// takeShared sends a message that came through a group, if the client is there and has room; otherwise it is not hungry any
// more. A message that waits in the group is taken out of it, unless another member was faster.
// [MQTT-4.8.2-3] [MQTT-4.8.2-6]
func (s *Session) takeShared(by *subscription, m *message, g *group, waits bool, wakes *[]*conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conn
	if !s.ready() || s.subscriptions[g.filter] != by {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.sate(by)
		return false
	}
	from := g
	if !waits {
		from = nil
	} else if !g.pull(m) {
		return true // another member was faster; look again
	}
	g.served(by)
	s.sendShared(by, m, from)
	if c.out.Waiting() > 0 {
		c.wakeLater(wakes)
	}
	return true
}

// served says who took a message: it is the turn of the member after it.
func (g *group) served(by *subscription) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn = slices.Index(g.hungry, by) + 1
}

// pull takes the message away that was in front, and reports whether it still was.
func (g *group) pull(m *message) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.front() != m {
		return false
	}
	g.pop()
	g.asked = nil
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

// pumpGroups takes the next message of one of the session's groups, and reports whether there was one. Groups that have none
// learn that the client is hungry. The lock is released while the application is asked.
func (s *Session) pumpGroups(c *conn) bool {
	for _, g := range s.groups {
		by := s.subscriptions[g.filter]
		m := g.frontFor(by)
		if m == nil || by == nil || !s.mayStillReceive(c, m.topic) {
			continue
		}
		if !s.serves(c) || !s.state.Ready() || len(s.cursors) > 0 || s.subscriptions[g.filter] != by {
			return s.serves(c)
		}
		if g.pull(m) {
			s.sendShared(by, m, g)
		}
		return true
	}
	return false
}

// frontFor returns the message that is next; if there is none, the member gets the next one that comes.
func (g *group) frontFor(by *subscription) *message {
	g.mu.Lock()
	defer g.mu.Unlock()
	if by != nil {
		g.feed(by)
	}
	return g.front()
}
