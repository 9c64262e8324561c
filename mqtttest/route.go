package mqtttest

import (
	"slices"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// router finds subscriptions by topic. The broker's lock guards it.
type router struct {
	index   topic.Index[*subscription]
	shares  map[string]*share // by topic filter, as in SUBSCRIBE
	matches []*subscription   // memory for the next look-up
	merged  []copyFor
}

// share is a shared subscription: the members take turns.
type share struct {
	members []*subscription
	next    int
}

// copyFor is what a session gets of a message.
type copyFor struct {
	session *session
	delivery
}

func newRouter() router {
	return router{shares: make(map[string]*share)}
}

func (r *router) add(sub *subscription) {
	r.index.Add(sub.inner, sub)
	if !topic.Shared(sub.options.Filter) {
		return
	}
	sub.shared = r.shares[sub.options.Filter]
	if sub.shared == nil {
		sub.shared = new(share)
		r.shares[sub.options.Filter] = sub.shared
	}
	sub.shared.members = append(sub.shared.members, sub)
}

func (r *router) remove(sub *subscription) {
	r.index.Remove(sub.inner, sub)
	if sub.shared == nil {
		return
	}
	sub.shared.members = slices.DeleteFunc(sub.shared.members, func(other *subscription) bool { return other == sub })
	if len(sub.shared.members) == 0 {
		delete(r.shares, sub.options.Filter)
	}
}

// pick returns the member whose turn it is; one that is connected, if there is one.
func (s *share) pick() *subscription {
	for i := range s.members {
		at := (s.next + i) % len(s.members)
		if s.members[at].session.conn != nil {
			s.next = at + 1
			return s.members[at]
		}
	}
	s.next = (s.next + 1) % len(s.members)
	return s.members[s.next]
}

// route gives a message to the subscriptions that match, and reports whether there are any.
func (b *Broker) route(m *message) (matched bool) {
	r := &b.content.router
	r.matches = r.index.AppendMatches(r.matches[:0], m.topic)
	r.merged = r.merged[:0]
	for _, sub := range r.matches {
		if sub.shared != nil {
			if sub != sub.shared.members[0] { // once for the share
				continue
			}
			sub = sub.shared.pick()
		}
		matched = true
		if sub.options.NoLocal && sub.session.id == m.from { // [MQTT-3.8.3-3]
			continue
		}
		if b.settings.merge && sub.shared == nil {
			r.merge(sub, m)
		} else {
			sub.session.deliver(sub.delivery(m, false))
		}
	}
	for _, c := range r.merged {
		c.session.deliver(c.delivery)
	}
	return matched
}

// merge adds what a subscription gets to what its session gets already [MQTT-3.3.4-2] [MQTT-3.3.4-3].
func (r *router) merge(sub *subscription, m *message) {
	d := sub.delivery(m, false)
	for i := range r.merged {
		if have := &r.merged[i]; have.session == sub.session {
			have.qos = max(have.qos, d.qos)
			have.retain = have.retain || d.retain
			have.ids = append(have.ids, d.ids...)
			return
		}
	}
	r.merged = append(r.merged, copyFor{sub.session, d})
}
