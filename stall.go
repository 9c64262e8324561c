package mqtt

import (
	"log/slog"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/session"
)

// This file finds out which subscription holds everybody up. Acknowledgements leave in the order in which their messages
// came, so the message that has waited longest holds back all others, and whoever has it in hand is to blame.

// stallWarning is how long a message may wait for its acknowledgement before the log says so.
const stallWarning = 10 * time.Second

// stall is the message that has waited longest for its acknowledgement.
type stall struct {
	// Guarded by mu.
	receipt *session.Receipt // nil: none waits
	since   time.Duration    // on the client's clock: when it came to be the oldest
	warned  bool
}

// checkStalls ends the subscriptions that have held up the others for too long, and warns of those that hold them up
// for long. It returns when to look again, 0 if nothing waits.
func (in *inbox) checkStalls() time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.looking = false
	for i := range in.stalls {
		st := &in.stalls[i]
		if oldest := in.session.Oldest(byte(i + 1)); st.receipt != oldest {
			*st = stall{receipt: oldest, since: in.now()}
		}
		if st.receipt != nil {
			in.looking = true
			in.checkStall(st)
		}
	}
	if !in.looking {
		return 0
	}
	return in.stallPatience() / 4
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
			in.warnOfStall(s, in.began.Add(st.since))
		}
	}
	st.warned = st.warned || lasts >= stallWarning
}

// The caller holds mu.
func (in *inbox) warnOfStall(s *Subscription, since time.Time) {
	in.notices.log(slog.LevelWarn, "mqtt: a slow consumer holds up all acknowledgements; the server may pause, and drop what it cannot keep",
		"filter", s.filters[0].Filter, "for", stallWarning)
	if f := in.config.trace.Stalled; f != nil {
		in.notices.run(func() { f(s, since) })
	}
}

// holdup returns the filters of the subscription that holds up all acknowledgements, and for how long it has.
// The caller holds mu.
func (in *inbox) holdup() (filters []Filter, lasts time.Duration) {
	for i := range in.stalls {
		st := &in.stalls[i]
		if st.receipt == nil || st.receipt != in.session.Oldest(byte(i+1)) {
			continue
		}
		for _, h := range st.receipt.Holders() {
			if s, ok := h.(*Subscription); ok && in.now()-st.since >= lasts {
				filters, lasts = slices.Clone(s.filters), in.now()-st.since
			}
		}
	}
	return filters, lasts
}

// stallPatience is the shortest time after which a stall is of interest.
// The caller holds mu.
func (in *inbox) stallPatience() time.Duration {
	d := stallWarning
	for s := range in.subs {
		if s.options.stalled != nil {
			d = min(d, *s.options.stalled)
		}
	}
	return d
}

// boundInbound ends the subscription that has most in line when all lines together hold too much.
// The caller holds mu.
func (in *inbox) boundInbound() {
	if in.waiting <= in.config.inboundLimit {
		return
	}
	var most *Subscription
	for s := range in.subs {
		if most == nil || s.line.bytes > most.line.bytes {
			most = s
		}
	}
	if most != nil {
		in.endSlow(most)
	}
}
