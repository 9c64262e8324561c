package simulate_test

import (
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// A server gives a message of a shared subscription to one of its members. If that member leaves or loses its session, the
// message is lost with it: the specification allows that. So nothing may be missing of what a server took after the last time
// that a member left.

// share is what is known of a shared subscription at a server.
type share struct {
	server  int
	filter  string
	begun   time.Time // the first member's subscription; zero: there is no member
	left    time.Time // the last time that a member has left
	gaps    []span    // in which a member was given messages, and no subscription of its client had asked for them
	members []*listener
	unsure  bool // a member is gone without a word, or may be, and is still given messages
}

// checkShare checks that the members of a shared subscription lost nothing together.
func (s *simulation) checkShare(server int, filter string) {
	h := &share{server: server, filter: filter}
	for _, c := range s.clients {
		h.add(c)
	}
	if h.unsure || h.begun.IsZero() {
		return
	}
	var missing []*published
	for _, m := range s.messages {
		has := func(l *listener) bool { return l.has(m) || l.client.mayNotTake(m) }
		if h.owes(m) && !slices.ContainsFunc(h.members, has) {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		s.problem("%v are lost by the members of %s at server %d", missing, filter, server)
	}
}

// add notes the part of a client.
func (h *share) add(c *simulated) {
	w := c.s.witness
	account := w.account(h.server, c.id)
	h.left = later(h.left, account.left[h.filter])
	if c.hasAsked(h.filter) { // a CONNECT without an answer leaves it open whether there was a subscription
		h.left = later(h.left, account.renewed)
	}
	held := time.Now() // since then a subscription of the client has held the filter
	for _, l := range c.sharing(h.filter) {
		h.members = append(h.members, l)
		switch {
		case l.survived():
			held = earlier(held, l.since)
		case !c.mortal || l.failed(): // a mortal's next client goes on with its session
			h.left = later(h.left, l.ended)
		}
	}
	h.unsure = h.unsure || account.mayStand(h.filter)
	st := account.standing[h.filter]
	if st == nil {
		return
	}
	if _, now := w.at(c.id); now != h.server || w.client(c.id).astray {
		h.unsure = true
	}
	if h.begun.IsZero() {
		h.begun = st.since
	}
	h.begun = earlier(h.begun, st.since)
	if !c.mortal {
		h.gaps = append(h.gaps, span{from: st.since, to: held})
	}
}

// owes reports whether a member must have a message.
func (h *share) owes(m *published) bool {
	if m.qos == 0 || m.expiry > 0 || m.retain || !topic.Match(topic.Inner(h.filter, nil), m.topic) {
		return false
	}
	return slices.ContainsFunc(m.accepted, func(a span) bool {
		inGap := func(gap span) bool { return !a.to.Before(gap.from) && !a.from.After(gap.to) }
		return a.server == h.server && a.from.After(h.begun) && a.from.After(h.left) && !slices.ContainsFunc(h.gaps, inGap)
	})
}

// checkSharedOnce checks that members did not get more copies of a message together than servers took.
func (s *simulation) checkSharedOnce(filter string) {
	for _, m := range s.messages {
		if m.qos != mqtt.ExactlyOnce || m.publisher.client.denied.Load() || !topic.Match(topic.Inner(filter, nil), m.topic) {
			continue
		}
		came := 0
		for _, c := range s.clients {
			if p := m.passage(c); p.repeat || p.denied || s.witness.client(c.id).astray {
				came = -1 // at QoS 1, or refused: it may have come again
				break
			}
			came += c.copiesOf(m, filter)
		}
		if most := s.witness.copies(m); came > most {
			s.problem("%v came to %d members of %s, and may come to %d", m, came, filter, most)
		}
	}
}

// copiesOf returns how often a message came to the subscriptions of a client to one shared filter and no other. All holders of
// a filter get a message together.
func (c *simulated) copiesOf(m *published, filter string) (most int) {
	for _, l := range c.sharing(filter) {
		came := 0
		for _, r := range l.got[m.topic] {
			if r.number == m.number {
				came++
			}
		}
		if len(l.filters) == 1 && c.exact {
			most = max(most, came)
		}
	}
	return most
}

// hasAsked reports whether a client has ever called Subscribe with a filter.
func (c *simulated) hasAsked(filter string) bool {
	return slices.ContainsFunc(c.listeners, func(l *listener) bool { return slices.Contains(l.filters, filter) })
}

// sharing returns the subscriptions of a client that have a shared filter.
func (c *simulated) sharing(filter string) (all []*listener) {
	for _, l := range c.listeners {
		if l.sub != nil && slices.Contains(l.filters, filter) {
			all = append(all, l)
		}
	}
	return all
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
