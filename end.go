package mqtt

import (
	"errors"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// endHolders ends the subscriptions to a filter that had been granted and cannot be subscribed again. A server that has kept
// the session has the filter still, and is told that nobody wants it; mu is held.
func (c *client) endHolders(rt *route, err error) {
	for _, h := range slices.Clone(rt.holders) {
		if !h.sub.call.waiting() {
			c.abandon(h.sub, err)
		}
	}
}

// endSlow ends a subscription that holds up the others: everything it holds is refused; mu is held.
func (c *client) endSlow(s *Subscription) {
	c.unsubscribeFor(s, nil, s.leave())
	s.end(ErrSlowConsumer)
	for w, ok := s.next(); ok; w, ok = s.next() {
		s.drop(w.message)
	}
	c.settleAll(s, &session.Refusal{Code: codec.QuotaExceeded})
}

// abandon ends a subscription that did not come about. Filters that were granted and that nobody else holds are
// unsubscribed; those whose SUBACK is still to come, when that has come. mu is held.
func (c *client) abandon(s *Subscription, err error) {
	c.unsubscribeFor(s, nil, s.leave())
	s.end(err)
	c.giveBackParked(s)
	c.discardLine(s)
}

// giveBack unsubscribes the filters of a SUBSCRIBE that nobody holds any more, now that they are granted; mu is held.
func (c *client) giveBack(q *request) {
	var filters []string
	for _, rt := range q.routes {
		if rt.confirmed && c.router.routes[rt.filter] == nil {
			rt.unsubscribed()
			filters = append(filters, rt.filter)
		}
	}
	c.sendUnsubscribe(&request{filters: filters})
}

// discardLine acknowledges what waits in the line of a subscription that has ended; mu is held.
func (c *client) discardLine(s *Subscription) {
	for w, ok := s.next(); ok; w, ok = s.next() {
		s.giveUp(w)
	}
}

// unsubscribeFor unsubscribes filters of s that nobody wants any more; nobody waits if k is nil. mu is held.
func (c *client) unsubscribeFor(s *Subscription, k *call, filters []string) {
	c.sendUnsubscribe(&request{call: k, filters: filters, user: s.options.unsubscribe.UserProperties})
}

// sendUnsubscribe sends the UNSUBSCRIBEs that all says, at the next connect if there is no connection; mu is held.
func (c *client) sendUnsubscribe(all *request) {
	switch {
	case len(all.filters) == 0 || c.err != nil:
		return
	case c.live() == nil:
		c.noteUnsubscribe(all)
		return
	}
	err := inPackets(all.filters, packetFilters, func(some []string) error {
		err := c.unsubscribe(&request{call: all.call, filters: some, user: all.user})
		if len(some) == 1 && errors.Is(err, PacketTooLarge) {
			err = c.unsubscribe(&request{call: all.call, filters: some}) // rather than not at all
		}
		return err
	})
	if err != nil {
		all.call.finish(err)
	}
}

// unsubscribe sends one UNSUBSCRIBE; mu is held.
func (c *client) unsubscribe(q *request) error {
	p := codec.Unsubscribe{Filters: q.filters, UserProperties: q.user}
	err := c.sendRequest(q, func(b []byte, id uint16) ([]byte, error) {
		p.PacketID = id
		return p.Append(b, c.version)
	})
	if err == nil && q.call != nil {
		q.call.pending++
	}
	return err
}

// noteUnsubscribe keeps filters to be unsubscribed at the next connect; mu is held.
func (c *client) noteUnsubscribe(q *request) {
	if q.call != nil {
		q.call.pending++
	}
	c.unsubscribes = append(c.unsubscribes, q)
}
