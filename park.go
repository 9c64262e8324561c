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

// parkingLot holds such messages. The client's mutex guards it.
type parkingLot struct {
	closes  time.Time // zero: it never opened
	waiting []*parked
	opened  bool     // at the first connect, if then
	count   uint64   // of messages that were parked
	gone    []string // filters that were unsubscribed since, as topics match them
}

type parked struct {
	message Message
	receipt *session.Receipt
	number  uint64 // in the order in which they came
}

// openParking opens the lot at the first connect, if the server had a session. Those who have been waiting for the connection
// to subscribe are no different from those who come now; mu is held.
func (c *client) openParking() {
	if !c.parking.opened && c.connAck.SessionPresent && c.config.parkingPlaces > 0 {
		c.parking.closes = time.Now().Add(c.config.parkingTime)
		for s := range c.subs {
			s.gated = s.call.waiting()
		}
	}
	c.parking.opened = true
}

// takes reports whether a message may be parked.
func (lot *parkingLot) takes(name string, places int) bool {
	return !lot.closes.IsZero() && len(lot.waiting) < places &&
		!slices.ContainsFunc(lot.gone, func(f string) bool { return topic.Match(f, name) })
}

// claim puts the parked messages that match the filters of a new subscription in its line, before everything that is
// still to come. While there is parking the line stands until the server has granted the filters; mu is held.
func (c *client) claim(s *Subscription) {
	s.gated = !c.parking.closes.IsZero()
	c.parking.waiting = slices.DeleteFunc(c.parking.waiting, func(p *parked) bool {
		qos, ok := s.wants(c.router.lookup(p.message.Topic).routes)
		if ok {
			s.take(p, qos)
		}
		return ok
	})
}

// giveBackParked parks again what a subscription had claimed that did not come about, and what came for it alone; mu is
// held.
func (c *client) giveBackParked(s *Subscription) {
	if !s.gated {
		return
	}
	var back []*parked
	for range s.held.Len() {
		w := s.held.Pop()
		p := w.parked
		if p == nil {
			p = c.parkLater(s, w)
		}
		if p == nil {
			s.held.Push(w)
			continue
		}
		s.leaveLine(w)
		w.receipt.Pass(s, &c.parking)
		back = append(back, p)
	}
	if c.parking.closes.IsZero() {
		c.clearParked(back)
		return
	}
	c.parking.waiting = append(c.parking.waiting, back...)
	slices.SortFunc(c.parking.waiting, func(a, b *parked) int { return cmp.Compare(a.number, b.number) })
}

// parkLater makes a parked message of one that came for s, or returns nil: others have it, or it must not be parked; mu is
// held.
func (c *client) parkLater(s *Subscription, w waiting) *parked {
	lot := &c.parking
	if !w.receipt.OnlyFor(s) || !lot.takes(w.message.Topic, c.config.parkingPlaces) {
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

// openGate lets the line of a subscription move, now that its filters are granted; mu is held.
func (s *Subscription) openGate() {
	if s.gated && !s.ended {
		s.gated = false
		s.startPump()
	}
}

// wants returns the highest QoS that s asked for on these routes, and whether it holds one of them.
func (s *Subscription) wants(routes []*route) (qos QoS, ok bool) {
	for _, rt := range routes {
		for _, h := range rt.holders {
			if h.sub == s {
				qos, ok = max(qos, h.qos), true
			}
		}
	}
	return qos, ok
}

// take puts a parked message in line; mu is held.
func (s *Subscription) take(p *parked, qos QoS) {
	m := p.message
	m.QoS = min(m.QoS, qos)
	p.receipt.Pass(&s.client.parking, s)
	if s.options.ack == ManualAck {
		m.origin = &origin{sub: s, receipt: p.receipt, ids: m.origin.identifiers()}
	}
	s.held.Push(s.inLine(waiting{message: m, receipt: p.receipt, parked: p}))
	s.startPump()
}

// closeParking acknowledges what nobody has claimed. It is called when the time is over.
func (c *client) closeParking() {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.parking.waiting
	c.parking = parkingLot{opened: true}
	c.clearParked(left)
}

// clearParked acknowledges parked messages that nobody will claim, unless the client has ended; mu is held.
func (c *client) clearParked(list []*parked) {
	if c.err != nil {
		return
	}
	for _, p := range list {
		c.settle(p.receipt, &c.parking, nil)
		c.stats.Unmatched++
		if c.config.unmatched != nil {
			c.giveAway(p.message)
		}
	}
}

// unpark clears the parked messages for filters that the application has unsubscribed, and sees to it that no more are
// parked; mu is held.
func (c *client) unpark(filters []string) {
	lot := &c.parking
	if lot.closes.IsZero() {
		return
	}
	for _, f := range filters {
		inner := topic.Inner(f, c.router.prefixes)
		lot.gone = append(lot.gone, inner)
		var gone []*parked
		lot.waiting = slices.DeleteFunc(lot.waiting, func(p *parked) bool {
			match := topic.Match(inner, p.message.Topic)
			if match {
				gone = append(gone, p)
			}
			return match
		})
		c.clearParked(gone)
	}
}

// parkingClosed returns a channel that gets a value when the parking lot is to be closed, and a function that lets go of
// it.
func (c *client) parkingClosed() (<-chan time.Time, func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parking.closes.IsZero() {
		return nil, func() bool { return true }
	}
	timer := time.NewTimer(time.Until(c.parking.closes))
	return timer.C, timer.Stop
}

// giveAway hands a message that nobody subscribed to to the application's function; mu is held.
func (c *client) giveAway(m Message) {
	if c.unclaimed.full() {
		return
	}
	c.run(&c.unclaimed, func() {
		if c.Err() == nil {
			c.config.unmatched(m)
		}
	})
}
