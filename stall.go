package mqtt

import (
	"log/slog"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/session"
)

// This file finds the subscription that holds up the others. Acknowledgements are sent in the order in which their
// messages came. So the message that has waited longest holds up all others, and the subscription that has not settled
// it is the cause.

// stallWarning is how long a message may hold up the others before that is logged.
const stallWarning = 10 * time.Second

// stall is the message that has waited longest for its acknowledgement.
type stall struct {
	// Guarded by mu.
	receipt *session.Receipt // nil: none waits
	since   time.Duration    // on the client's clock: when it became the oldest, later by all time without a connection
	paused  bool             // there is no connection, or its message has not come again
	lost    time.Duration    // on the client's clock: when the connection was lost, if it is paused
	warned  bool
	told    bool // slog's default logger, where the application has set none
}

// longStall is how long a message may wait for its acknowledgement before an application that has set no logger is told of
// it: a message that was forgotten stops all subscriptions of a client without any other sign.
const longStall = time.Minute

// topic is the topic name of the message.
// The caller holds mu.
func (st *stall) topic() string {
	if st.receipt == nil || st.receipt.Topic == nil {
		return ""
	}
	return *st.receipt.Topic
}

// leastPatience bounds how often the supervisor looks for stalls.
const leastPatience = 4 * time.Millisecond

// checkStalls ends subscriptions that have held up the others for longer than they may, and warns of others that do for
// a long time. It returns after which time to look again; 0 if no message waits.
func (in *inbox) checkStalls() time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.watchingStalls = false
	for i := range in.stalls {
		if st := in.stalled(i); st != nil {
			in.watchingStalls = true
			in.checkStall(st)
		}
	}
	if !in.watchingStalls {
		return 0
	}
	for s := range in.subs {
		if s.sink != nil {
			s.sink.stalled()
		}
	}
	return max(in.shortestStall(), leastPatience) / 4
}

// stalled returns the stall of one kind of acknowledgement, up to date; nil if no message waits. One whose message is to
// come again goes on when it has come, as if there had been a connection all the time.
// The caller holds mu.
func (in *inbox) stalled(i int) *stall {
	st := &in.stalls[i]
	oldest := in.session.Oldest(byte(i + 1))
	switch {
	case oldest == nil && st.receipt != nil && st.receipt.Away():
		return nil
	case oldest != st.receipt:
		*st = stall{receipt: oldest, since: in.now()}
	case st.paused:
		st.since += in.now() - st.lost
		st.paused = false
	}
	if oldest == nil {
		return nil
	}
	return st
}

// pauseStalls notes that the connection was lost.
// The caller holds mu.
func (in *inbox) pauseStalls() {
	for i := range in.stalls {
		if st := &in.stalls[i]; st.receipt != nil && !st.paused {
			st.paused, st.lost = true, in.now()
		}
	}
}

// checkStall looks at one stall.
// The caller holds mu.
func (in *inbox) checkStall(st *stall) {
	lasts := in.now() - st.since
	for _, h := range slices.Clone(st.receipt.Holders()) {
		s, ok := h.(*Subscription)
		switch {
		case !ok:
		case s.options.stalled != nil && lasts >= *s.options.stalled:
			in.endSlow(s)
		case lasts >= stallWarning && !st.warned:
			in.warnOfStall(s, st)
		}
	}
	st.warned = st.warned || lasts >= stallWarning
	if lasts >= longStall && !st.told {
		st.told = true
		in.tellDefaultLogger(st, lasts)
	}
}

// tellDefaultLogger warns of a message that is not acknowledged.
// The caller holds mu.
func (in *inbox) tellDefaultLogger(st *stall, lasts time.Duration) {
	if in.config.logger != nil {
		return
	}
	for _, h := range st.receipt.Holders() {
		if s, ok := h.(*Subscription); ok {
			filter, topic := s.filters[0].Filter, st.topic()
			in.notices.run(func() {
				slog.Default().Warn("mqtt: a message is not acknowledged and holds up all others: is it forgotten, or its consumer stuck?",
					"client", in.ClientID(), "topic", topic, "filter", filter, "for", lasts)
			})
		}
	}
}

// The caller holds mu.
func (in *inbox) warnOfStall(s *Subscription, st *stall) {
	topic, since := st.topic(), in.began.Add(st.since)
	in.notices.log(slog.LevelWarn, "mqtt: a slow consumer holds up all acknowledgements; the server may pause, and drop what it cannot keep",
		"topic", topic, "filter", s.filters[0].Filter, "for", stallWarning)
	if f := in.config.trace.Stalled; f != nil {
		in.notices.run(func() { f(s, topic, since) })
	}
}

// Held describes the message that was the first to come of those that are not acknowledged. It holds up the acknowledgements
// of all others. The zero value says that there is none.
type Held struct {
	Filters []Filter // of the subscription that is not done with it
	Topic   string
	For     time.Duration // how long it has been the first
}

// longestStall returns the message that holds up all acknowledgements. With a subscription, it must be one of that.
// The caller holds mu.
func (in *inbox) longestStall(of *Subscription) (held Held) {
	for i := range in.stalls {
		st := in.stalled(i)
		if st == nil {
			continue
		}
		lasts := in.now() - st.since
		for _, h := range st.receipt.Holders() {
			s, ok := h.(*Subscription)
			if ok && (of == nil || s == of) && lasts >= held.For {
				held = Held{slices.Clone(s.filters), st.topic(), lasts}
			}
		}
	}
	return held
}

// shortestStall is the shortest time after which a stall has a consequence.
// The caller holds mu.
func (in *inbox) shortestStall() time.Duration {
	d := stallWarning
	for s := range in.subs {
		if s.options.stalled != nil {
			d = min(d, *s.options.stalled)
		}
	}
	return d
}

// boundInbound is called when all lines together exceed WithInboundLimit. Of the subscription with the most bytes in
// its line it drops messages at QoS 0. If that is not enough, or its policy is Block, it ends the subscription.
// The caller holds mu.
func (in *inbox) boundInbound() {
	var most *Subscription
	for s := range in.subs {
		if most == nil || s.line.bytes > most.line.bytes {
			most = s
		}
	}
	if most != nil && !in.trim(most) {
		in.endSlow(most)
	}
}

// trim drops messages at QoS 0 that wait in a line, and reports whether that is enough.
// The caller holds mu.
func (in *inbox) trim(s *Subscription) bool {
	if s.options.overflow == Block {
		return false
	}
	for s.line.qos0.Len() > 0 && in.lineBytes > in.config.inboundLimit {
		s.dropQoS0()
	}
	return in.lineBytes <= in.config.inboundLimit
}
