package mqtt

import (
	"cmp"
	"log/slog"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// This file is about messages at QoS 1 and 2 that match no subscription. A server that resumes the session of an
// earlier client sends its messages at once, before the application has subscribed. For some time they are parked
// without acknowledgement, until a subscription claims them. At any other time such messages are acknowledged, because
// otherwise one forgotten filter in the session would hold up every acknowledgement.

// parkingLot holds parked messages.
type parkingLot struct {
	// Guarded by mu.
	closes   time.Time // zero: it is not open
	messages []*parked
	bytes    int      // about how much memory they take
	opened   bool     // the first connect is over; only then it could open
	count    uint64   // number of messages that were parked
	gone     []string // filters that were unsubscribed since it opened, in the form that topics are matched against
}

type parked struct {
	message Message
	receipt *session.Receipt
	number  uint64 // in the order in which they came
	size    int    // about how many bytes of memory it takes
}

// openParking opens the parking lot at the first connect, if the server had a session. Subscribe calls that already
// wait for the connection are treated like new ones.
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

// takes reports whether a message of some size on a topic may be parked.
// The caller holds mu.
func (lot *parkingLot) takes(name string, size int, c *config) bool {
	return !lot.closes.IsZero() && len(lot.messages) < c.parkingPlaces && lot.bytes+size <= c.inboundLimit &&
		!slices.ContainsFunc(lot.gone, func(f string) bool { return topic.Match(f, name) })
}

// keep replaces the parked messages.
// The caller holds mu.
func (lot *parkingLot) keep(messages []*parked) {
	lot.messages, lot.bytes = messages, 0
	for _, p := range messages {
		lot.bytes += p.size
	}
}

// claim moves the parked messages that match a new subscription into its line, before all later messages. While the
// parking lot is open, no message leaves the line until the server has granted the filters.
// The caller holds mu.
func (in *inbox) claim(s *Subscription) {
	s.line.gated = !in.parking.closes.IsZero()
	in.parking.keep(slices.DeleteFunc(in.parking.messages, func(p *parked) bool {
		qos, ok := s.holder.Wants(in.router.Lookup(p.message.Topic))
		if ok {
			s.take(p, QoS(qos))
		}
		return ok
	}))
}

// giveBackParked parks the messages of a subscription that failed again: those that it had claimed, and those that came
// only for it.
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
		s.line.release(&w)
		w.receipt.Pass(s, &in.parking)
		back = append(back, p)
	}
	if in.parking.closes.IsZero() {
		in.clearParked(back)
		return
	}
	in.parking.keep(append(in.parking.messages, back...))
	slices.SortFunc(in.parking.messages, func(a, b *parked) int { return cmp.Compare(a.number, b.number) })
}

// parkLater makes a parked message from one that came for s. It returns nil if other subscriptions have the message as
// well, or if it must not be parked.
// The caller holds mu.
func (in *inbox) parkLater(s *Subscription, w entry) *parked {
	lot := &in.parking
	if !w.receipt.OnlyFor(s) || !lot.takes(w.message.Topic, w.size(), in.config) {
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
	return &parked{m, w.receipt, lot.count, w.size()}
}

// openGate lets messages leave the line of a subscription whose filters are granted.
// The caller holds mu.
func (s *Subscription) openGate() {
	if s.line.gated && !s.ended {
		s.line.gated = false
		s.advance()
	}
}

// take puts a parked message into the line.
// The caller holds mu.
func (s *Subscription) take(p *parked, qos QoS) {
	m := p.message
	m.QoS = min(m.QoS, qos)
	p.receipt.Pass(&s.inbox.parking, s)
	m.origin = &origin{sub: s, receipt: p.receipt, ids: m.origin.identifiers()}
	s.enqueue(&m, p.receipt, p)
}

// closeParking acknowledges the messages that no subscription has claimed. It is called when the parking time is over.
func (in *inbox) closeParking() {
	in.mu.Lock()
	defer in.mu.Unlock()
	left := in.parking.messages
	in.parking = parkingLot{opened: true}
	in.clearParked(left)
}

// clearParked acknowledges parked messages that no subscription will claim, unless the client has ended or is to end.
// The caller holds mu.
func (in *inbox) clearParked(list []*parked) {
	if in.err != nil || in.stopping {
		return
	}
	for _, p := range list {
		in.settle(p.receipt, &in.parking, nil)
		in.noteUnmatched(p.message.Topic, p.message.origin.identifiers())
		if in.config.unmatched != nil {
			in.passUnmatched(p.message)
		}
	}
}

// unpark acknowledges the parked messages for filters that the application has unsubscribed, and prevents that more are
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
		lot.keep(slices.DeleteFunc(lot.messages, func(p *parked) bool {
			match := topic.Match(inner, p.message.Topic)
			if match {
				gone = append(gone, p)
			}
			return match
		}))
		in.clearParked(gone)
	}
}

// parkingClosed returns a channel that receives a value when the parking time is over, and a function that releases its
// timer.
func (in *inbox) parkingClosed() (<-chan time.Time, func() bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.parking.closes.IsZero() {
		return nil, func() bool { return true }
	}
	timer := time.NewTimer(time.Until(in.parking.closes))
	return timer.C, timer.Stop
}

// unmatchedSilence is how long the log says no more about messages that match no subscription.
const unmatchedSilence = time.Minute

// noteUnmatched counts a message at QoS 1 or 2 that matched no subscription, and logs it now and then: a session that the
// server has kept may have a filter that nobody wants any more. Messages that were on their way when their filter was
// unsubscribed are not worth a line.
// The caller holds mu.
func (in *inbox) noteUnmatched(name string, ids []uint32) {
	in.stats.Unmatched++
	now := in.now()
	if !in.connAck.SessionPresent || in.router.Retired(ids) || in.unmatchedLogged != 0 && now-in.unmatchedLogged < unmatchedSilence {
		return
	}
	in.unmatchedLogged = max(now, 1)
	in.notices.log(slog.LevelWarn, "mqtt: messages match no subscription; has the session a filter that the application does not subscribe to any more?",
		"topic", name, "unmatched", in.stats.Unmatched)
}

// passUnmatched passes a message that matched no subscription to the function of WithUnmatched.
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
