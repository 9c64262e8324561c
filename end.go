package mqtt

import (
	"errors"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// endHolders ends the subscriptions to a filter that was granted before and cannot be subscribed again. A server that
// has kept the session still has the filter, and gets an UNSUBSCRIBE.
// The caller holds mu.
func (in *inbox) endHolders(rt *route.Route, err error) {
	for _, h := range rt.Holders() {
		if s := h.Owner.(*Subscription); !s.call.unfinished() {
			in.abandon(s, err)
		}
	}
}

// endSlow ends a subscription that holds up the others. All messages that it holds are refused.
// The caller holds mu.
func (in *inbox) endSlow(s *Subscription) {
	in.unsubscribeFor(s, nil, in.router.Leave(&s.holder))
	s.end(ErrSlowConsumer)
	for w, ok := s.line.next(); ok; w, ok = s.line.next() {
		s.drop(w.message)
	}
	in.settleAll(s, &session.Reason{Code: codec.QuotaExceeded})
}

// abandon ends a subscription that failed. Filters that were granted and that no other subscription holds are
// unsubscribed. If a SUBACK has not come yet, its filters are unsubscribed when it comes.
// The caller holds mu.
func (in *inbox) abandon(s *Subscription, err error) {
	in.unsubscribeFor(s, nil, in.router.Leave(&s.holder))
	s.end(err)
	in.giveBackParked(s)
	s.discardLine()
}

// unsubscribeUnheld unsubscribes the filters of a SUBSCRIBE that were granted when no subscription held them any more.
// The caller holds mu.
func (in *inbox) unsubscribeUnheld(q *filterPacket) {
	var filters []string
	for _, rt := range q.routes {
		if in.router.GiveBack(rt) {
			filters = append(filters, rt.Filter())
		}
	}
	in.sendUnsubscribe(&filterPacket{filters: filters})
}

// unsubscribeFor unsubscribes filters of s that no other subscription holds. k may be nil: then no call waits.
// The caller holds mu.
func (in *inbox) unsubscribeFor(s *Subscription, k *call, filters []string) {
	in.sendUnsubscribe(&filterPacket{call: k, filters: filters, user: s.options.unsubscribe.UserProperties})
}

// sendUnsubscribe sends the UNSUBSCRIBEs for the filters in all. Without a connection they are sent at the next
// connect.
// The caller holds mu.
func (in *inbox) sendUnsubscribe(all *filterPacket) {
	switch {
	case len(all.filters) == 0 || in.err != nil:
		return
	case in.live() == nil:
		in.noteUnsubscribe(all)
		return
	}
	err := inPackets(all.filters, filtersPerPacket, func(some []string) error {
		err := in.unsubscribe(&filterPacket{call: all.call, filters: some, user: all.user})
		if len(some) == 1 && errors.Is(err, PacketTooLarge) {
			err = in.unsubscribe(&filterPacket{call: all.call, filters: some}) // otherwise it could not be sent at all
		}
		return err
	})
	if err != nil {
		all.call.finish(err)
	}
}

// unsubscribe sends one UNSUBSCRIBE.
// The caller holds mu.
func (in *inbox) unsubscribe(q *filterPacket) error {
	p := codec.Unsubscribe{Filters: q.filters, UserProperties: q.user}
	err := in.sendFilterPacket(q, func(b []byte, id uint16) ([]byte, error) {
		p.PacketID = id
		return p.Append(b, in.version)
	})
	if err == nil && q.call != nil {
		q.call.pending++
	}
	return err
}

// noteUnsubscribe keeps filters that are unsubscribed at the next connect.
// The caller holds mu.
func (in *inbox) noteUnsubscribe(q *filterPacket) {
	if q.call != nil {
		q.call.pending++
	}
	in.unsubscribes = append(in.unsubscribes, q)
}
