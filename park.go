package mqtt

import (
	"cmp"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// This file is about messages at QoS 1 and 2 that no subscription wants. A server that resumes the session of an earlier
// client sends its messages at once, before the application has subscribed. For a while they are parked, not
// acknowledged, until a subscription claims them. At any other time they are acknowledged: one forgotten filter in the
// session would else hold up every acknowledgement.

// parkingLot holds such messages.
type parkingLot struct {
	// Guarded by mu.
	closes   time.Time // zero: it never opened
	messages []*parked
	opened   bool     // at the first connect, if then
	count    uint64   // of messages that were parked
	gone     []string // filters that were unsubscribed since, as topics match them
}

type parked struct {
	message Message
	receipt *session.Receipt
	number  uint64 // in the order in which they came
}

// openParking opens the lot at the first connect, if the server had a session. Those who have been waiting for the
// connection to subscribe are no different from those who come now.
// The caller holds mu.
func (in *inbox) openParking() {
	if !in.parking.opened && in.connAck.SessionPresent && in.config.parkingPlaces > 0 {
		in.parking.closes = time.Now().Add(in.config.parkingTime)
		for s := range in.subs {
			s.line.gated = s.call.unfinished()
		}
	}
	in.parking.opened = true
}

// takes reports whether a message may be parked.
// The caller holds mu.
func (lot *parkingLot) takes(name string, places int) bool {
	return !lot.closes.IsZero() && len(lot.messages) < places &&
		!slices.ContainsFunc(lot.gone, func(f string) bool { return topic.Match(f, name) })
}

// claim puts the parked messages that match the filters of a new subscription in its line, before everything that is
// still to come. While there is parking the line stands until the server has granted the filters.
// The caller holds mu.
func (in *inbox) claim(s *Subscription) {
	s.line.gated = !in.parking.closes.IsZero()
	in.parking.messages = slices.DeleteFunc(in.parking.messages, func(p *parked) bool {
		qos, ok := s.holder.Wants(in.router.Lookup(p.message.Topic))
		if ok {
			s.take(p, QoS(qos))
		}
		return ok
	})
}

// giveBackParked parks again what a subscription had claimed that did not come about, and what came for it alone.
// The caller holds mu.
func (in *inbox) giveBackParked(s *Subscription) {
	if !s.line.gated {
		return
	}
	var back []*parked
	for range s.line.acknowledged.Len() {
		w := s.line.acknowledged.Pop()
		p := w.parked
		if p == nil {
			p = in.parkLater(s, w)
		}
		if p == nil {
			s.line.acknowledged.Push(w)
			continue
		}
		s.leaveLine(&w)
		w.receipt.Pass(s, &in.parking)
		back = append(back, p)
	}
	if in.parking.closes.IsZero() {
		in.clearParked(back)
		return
	}
	in.parking.messages = append(in.parking.messages, back...)
	slices.SortFunc(in.parking.messages, func(a, b *parked) int { return cmp.Compare(a.number, b.number) })
}

// parkLater makes a parked message of one that came for s, or returns nil: others have it, or it must not be parked.
// The caller holds mu.
func (in *inbox) parkLater(s *Subscription, w entry) *parked {
	lot := &in.parking
	if !w.receipt.OnlyFor(s) || !lot.takes(w.message.Topic, in.config.parkingPlaces) {
		return nil
	}
	m := w.message
	m.QoS = QoS(w.receipt.QoS())
	if ids := m.origin.identifiers(); ids != nil {
		m.origin = &origin{ids: ids}
	} else {
		m.origin = nil
	}
	lot.count++
	return &parked{m, w.receipt, lot.count}
}

// openGate lets the line of a subscription move, now that its filters are granted.
// The caller holds mu.
func (s *Subscription) openGate() {
	if s.line.gated && !s.ended {
		s.line.gated = false
		s.advance()
	}
}

// take puts a parked message in line.
// The caller holds mu.
func (s *Subscription) take(p *parked, qos QoS) {
	m := p.message
	m.QoS = min(m.QoS, qos)
	p.receipt.Pass(&s.inbox.parking, s)
	m.origin = &origin{sub: s, receipt: p.receipt, ids: m.origin.identifiers()}
	s.enqueue(entry{message: m, receipt: p.receipt, parked: p})
}

// closeParking acknowledges what nobody has claimed. It is called when the time is over.
func (in *inbox) closeParking() {
	in.mu.Lock()
	defer in.mu.Unlock()
	left := in.parking.messages
	in.parking = parkingLot{opened: true}
	in.clearParked(left)
}

// clearParked acknowledges parked messages that nobody will claim, unless the client has ended.
// The caller holds mu.
func (in *inbox) clearParked(list []*parked) {
	if in.err != nil {
		return
	}
	for _, p := range list {
		in.settle(p.receipt, &in.parking, nil)
		in.stats.Unmatched++
		if in.config.unmatched != nil {
			in.passUnmatched(p.message)
		}
	}
}

// unpark clears the parked messages for filters that the application has unsubscribed, and sees to it that no more are
// parked.
// The caller holds mu.
func (in *inbox) unpark(filters []string) {
	lot := &in.parking
	if lot.closes.IsZero() {
		return
	}
	for _, f := range filters {
		inner := in.router.Inner(f)
		lot.gone = append(lot.gone, inner)
		var gone []*parked
		lot.messages = slices.DeleteFunc(lot.messages, func(p *parked) bool {
			match := topic.Match(inner, p.message.Topic)
			if match {
				gone = append(gone, p)
			}
			return match
		})
		in.clearParked(gone)
	}
}

// parkingClosed returns a channel that gets a value when the parking lot is to be closed, and a function that lets go of
// it.
func (in *inbox) parkingClosed() (<-chan time.Time, func() bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.parking.closes.IsZero() {
		return nil, func() bool { return true }
	}
	timer := time.NewTimer(time.Until(in.parking.closes))
	return timer.C, timer.Stop
}

// passUnmatched hands a message that nobody subscribed to to the application's function.
// The caller holds mu.
func (in *inbox) passUnmatched(m Message) {
	if in.unmatched.full() {
		return
	}
	in.unmatched.run(func() {
		if in.Err() == nil {
			in.config.unmatched(m)
		}
	})
}
