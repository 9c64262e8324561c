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

// stall is the message that has waited longest for its acknowledgement. The client's mutex guards it.
type stall struct {
	receipt *session.Receipt // nil: none waits
	since   time.Duration    // on the client's clock: when it came to be the oldest
	warned  bool
}

// checkStalls ends the subscriptions that have held up the others for too long, and warns of those that hold them up
// for long. It returns when to look again, 0 if nothing waits.
func (c *client) checkStalls() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looking = false
	for i := range c.stalls {
		st := &c.stalls[i]
		if oldest := c.session.Oldest(byte(i + 1)); st.receipt != oldest {
			*st = stall{receipt: oldest, since: c.now()}
		}
		if st.receipt != nil {
			c.looking = true
			c.checkStall(st)
		}
	}
	if !c.looking {
		return 0
	}
	return c.stallPatience() / 4
}

// checkStall looks at one stall; mu is held.
func (c *client) checkStall(st *stall) {
	lasts := c.now() - st.since
	for _, h := range slices.Clone(st.receipt.Holders()) {
		s, ok := h.(*Subscription)
		switch {
		case !ok:
		case s.options.stalled != nil && lasts >= *s.options.stalled:
			c.endSlow(s)
		case lasts >= stallWarning && !st.warned:
			c.warnOfStall(s, c.began.Add(st.since))
		}
	}
	st.warned = st.warned || lasts >= stallWarning
}

func (c *client) warnOfStall(s *Subscription, since time.Time) {
	c.log(slog.LevelWarn, "mqtt: a slow consumer holds up all acknowledgements; the server may pause, and drop what it cannot keep",
		"filter", s.filters[0].Filter, "for", stallWarning)
	if f := c.config.trace.Stalled; f != nil {
		c.run(&c.notices, func() { f(s, since) })
	}
}

// holdup returns the filters of the subscription that holds up all acknowledgements, and for how long it has; mu is held.
func (c *client) holdup() (filters []Filter, lasts time.Duration) {
	for i := range c.stalls {
		st := &c.stalls[i]
		if st.receipt == nil || st.receipt != c.session.Oldest(byte(i+1)) {
			continue
		}
		for _, h := range st.receipt.Holders() {
			if s, ok := h.(*Subscription); ok && c.now()-st.since >= lasts {
				filters, lasts = slices.Clone(s.filters), c.now()-st.since
			}
		}
	}
	return filters, lasts
}

// stallPatience is the shortest time after which a stall is of interest; mu is held.
func (c *client) stallPatience() time.Duration {
	d := stallWarning
	for s := range c.subs {
		if s.options.stalled != nil {
			d = min(d, *s.options.stalled)
		}
	}
	return d
}

// boundInbound ends the subscription that has most in line when all lines together hold too much; mu is held.
func (c *client) boundInbound() {
	if c.waiting <= c.config.inboundLimit {
		return
	}
	var most *Subscription
	for s := range c.subs {
		if most == nil || s.bytes > most.bytes {
			most = s
		}
	}
	if most != nil {
		c.endSlow(most)
	}
}
