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

// checkShare checks that the members of a shared subscription lost nothing together.
func (s *simulation) checkShare(server int, filter string) {
	var begun, since time.Time // the first member's subscription; the last time that one has left
	var members []*listener
	for _, c := range s.clients {
		account := s.witness.account(server, c.id)
		if len(c.sharing(filter)) > 0 { // a CONNECT without an answer leaves it open whether there was a subscription
			since = later(since, account.renewed)
		}
		since = later(since, account.left[filter])
		if st := account.standing[filter]; st != nil {
			if _, now := s.witness.at(c.id); now != server || s.witness.client(c.id).astray {
				return // gone without a word, and still given messages
			}
			if begun.IsZero() || st.since.Before(begun) {
				begun = st.since
			}
		}
		for _, l := range c.sharing(filter) {
			members = append(members, l)
			if !l.survived() && (!c.mortal || l.failed()) { // a mortal's next client goes on with its session
				since = later(since, l.ended)
			}
		}
	}
	if begun.IsZero() {
		return
	}
	var missing []*published
	for _, m := range s.messages {
		has := func(l *listener) bool { return l.has(m) || l.client.mayNotTake(m) }
		owed := m.qos > 0 && m.expiry == 0 && !m.retain && topic.Match(topic.Inner(filter, nil), m.topic)
		if owed && m.wasAccepted(server, begun, since) && !slices.ContainsFunc(members, has) {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		s.problem("%v are lost by the members of %s at server %d", missing, filter, server)
	}
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
