package engine

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// index finds the subscriptions for a topic.
type index struct {
	generation atomic.Uint64 // raised whenever an answer may have changed

	mu   sync.RWMutex // guards tree, and raising generation
	tree topic.Index[*subscription]
}

// subscription is one filter of a session, or what stands for all members of a group. It does not change, except for hungry.
type subscription struct {
	session *Session
	group   *group // nil: not shared
	filter  string // with $share/{name}/ if it is shared
	inner   string // what topics match
	hungry  bool   // guarded by the lock of the group that it makes a member of
	options
}

// size is what a subscription takes, about: in the session, and in the index for each level.
func (s *subscription) size() int { return 300 + len(s.filter) + 120*strings.Count(s.filter, "/") }

// options are those of a subscription.
type options struct {
	qos               byte
	noLocal           bool
	retainAsPublished bool
	id                uint32 // 0: none
}

// replace puts a subscription in place of another one, without a gap; either may be nil. [MQTT-3.8.4-3]
func (x *index) replace(old, by *subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.generation.Add(1)
	if by != nil {
		x.tree.Add(by.inner, by)
	}
	if old != nil {
		x.tree.Remove(old.inner, old)
	}
}

// removeAll takes subscriptions away.
func (x *index) removeAll(all []*subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.generation.Add(1)
	for _, s := range all {
		x.tree.Remove(s.inner, s)
	}
}

// renew makes every match be looked up again.
func (x *index) renew() { x.generation.Add(1) }

// find appends the subscriptions that match a topic.
func (x *index) find(to []*subscription, name string) (_ []*subscription, generation uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.tree.AppendMatches(to, name), x.generation.Load()
}

// match says whom a message of one publisher to one topic is for. It does not change.
type match struct {
	topic      string
	generation uint64
	publish    bool // the rules let the publisher publish to the topic
	targets    []target
	groups     []*group

	once   sync.Once // guards stored
	stored []storedTarget
}

// target is a session that a message is for: one copy, at the highest QoS of its subscriptions that match, with the
// identifiers of all of them. [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT311-3.3.5-1]
type target struct {
	session           *Session
	qos               byte
	retainAsPublished bool
	receive           bool // the rules let the client receive from the topic
	ids               []uint32
	by                *subscription
	also              []*subscription // others of the session that match
}

// isWanted reports whether the client still has a subscription that the message is for, which was matched in a generation of
// the index. Otherwise it has unsubscribed while the message was on its way to the store, and may have been told so. The
// session's lock is held. [MQTT-3.10.4-2] [MQTT311-3.10.4-2]
func (t *target) isWanted(generation uint64) bool {
	s := t.session
	return s.unsubscribed <= generation || s.subscriptions[t.by.filter] != nil ||
		slices.ContainsFunc(t.also, func(by *subscription) bool { return s.subscriptions[by.filter] != nil })
}

// match looks up whom a message is for, which client publishes to a topic. It may be nil: the server itself.
func (e *Engine) match(client *Client, name string) *match {
	subscriptions, generation := e.index.find(nil, name)
	m := &match{topic: name, generation: generation, publish: true}
	if client != nil {
		m.publish = e.policy.Allows(client, Publish, name)
	}
	var at map[*Session]int // the place of a session's target; nil while there are few
	for _, s := range subscriptions {
		switch {
		case s.group != nil:
			m.groups = append(m.groups, s.group)
			continue
		case s.noLocal && client != nil && s.session.id == client.ID: // [MQTT-3.8.3-3]
			continue
		}
		if at == nil && len(m.targets) > few {
			at = make(map[*Session]int, len(subscriptions))
			for i := range m.targets {
				at[m.targets[i].session] = i
			}
		}
		m.add(s, at)
	}
	return m.allowed(e)
}

// few is how many targets are searched one by one.
const few = 16

// add merges a subscription into the targets.
func (m *match) add(s *subscription, at map[*Session]int) {
	i := -1
	if at == nil {
		i = slices.IndexFunc(m.targets, func(t target) bool { return t.session == s.session })
	} else if n, ok := at[s.session]; ok {
		i = n
	}
	if i < 0 {
		i = len(m.targets)
		m.targets = append(m.targets, target{session: s.session, by: s})
		if at != nil {
			at[s.session] = i
		}
	} else {
		m.targets[i].also = append(m.targets[i].also, s)
	}
	t := &m.targets[i]
	t.qos = max(t.qos, s.qos)
	t.retainAsPublished = t.retainAsPublished || s.retainAsPublished
	if s.id != 0 {
		t.ids = append(t.ids, s.id)
	}
}

// allowed looks up what the rules say about the targets. Those that may not receive are left out, unless the application
// may think otherwise.
func (m *match) allowed(e *Engine) *match {
	asks := e.policy.Asks()
	kept := m.targets[:0]
	for i := range m.targets {
		t := &m.targets[i]
		t.receive = e.policy.Allows(t.session.client.Load(), Receive, m.topic)
		if t.receive || asks {
			kept = append(kept, *t)
		}
	}
	m.targets = kept
	return m
}

// mayReceive asks the application about a target, then the rules. They may be others than when the match was made, if that
// is stale.
func (m *match) mayReceive(e *Engine, t *target, stale bool) bool {
	if e.policy.Asks() {
		switch e.policy.Ask(t.session.client.Load(), Receive, m.topic) {
		case Allow:
			return true
		case Deny:
			return false
		}
	}
	if stale {
		return e.policy.Allows(t.session.client.Load(), Receive, m.topic)
	}
	return t.receive
}

// What a reader remembers is bounded, because it does not count as memory.
const (
	maxMatches = 256
	maxTargets = 4096 // of them all, except for the latest match
)

// lookUp returns the match for a topic that the client publishes to. The name is checked when it is not remembered.
func (c *conn) lookUp(name []byte) *match {
	m := c.matches[string(name)]
	if m != nil && m.generation == c.engine.index.generation.Load() {
		return m
	}
	return c.remember(c.engine.match(c.client, string(name)))
}

func (c *conn) remember(m *match) *match {
	switch {
	case c.matches == nil:
		c.matches = make(map[string]*match)
	case len(c.matches) >= maxMatches || c.targets+len(m.targets) > maxTargets:
		clear(c.matches)
		c.targets = 0
	}
	if old := c.matches[m.topic]; old != nil {
		c.targets -= len(old.targets)
	}
	c.targets += len(m.targets)
	c.matches[m.topic] = m
	return m
}
