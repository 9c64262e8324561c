package mqtt

import (
	"errors"
	"fmt"
	"time"
)

// Status is what a client is doing.
type Status struct {
	State   State
	Since   time.Time // when the client became connected, or ceased to be
	Failed  int       // attempts to connect that failed in a row
	LastErr error     // why the latest attempt failed, or the latest connection ended; nil: neither happened

	// RoundTrip is how long the server took to answer the last PINGREQ, or to send something when it had something to
	// acknowledge, whichever was measured last on this connection. It is 0 if nothing was, or without a connection.
	RoundTrip time.Duration
}

func (c *client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status()
}

// The caller holds mu.
func (c *client) status() Status {
	s := Status{
		State:   c.notices.visible(),
		Since:   c.notices.since,
		Failed:  c.attempts.failed,
		LastErr: c.attempts.lastErr,
	}
	if c.link != nil {
		s.RoundTrip = c.link.RoundTrip()
	}
	return s
}

func (c *client) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status()
	switch {
	case c.err != nil:
		return fmt.Errorf("mqtt: not ready: the client has ended: %w", c.err)
	case s.State == StateDisconnecting:
		return errors.New("mqtt: not ready: the client is disconnecting")
	case c.live() == nil && s.LastErr != nil:
		return fmt.Errorf("mqtt: not ready: not connected since %s, %d attempts failed: %w", s.Since.UTC().Format(time.RFC3339), s.Failed, s.LastErr)
	case c.live() == nil:
		return fmt.Errorf("mqtt: not ready: not connected since %s", s.Since.UTC().Format(time.RFC3339))
	}
	for s := range c.inbox.subs {
		if f := s.missing(); f != "" {
			return fmt.Errorf("mqtt: not ready: subscription %q is not granted yet", f)
		}
	}
	return nil
}

// missing returns a filter that the server has not granted, or not yet again; "" if there is none.
// The caller holds mu.
func (s *Subscription) missing() string {
	for _, rt := range s.holder.Routes() {
		if !rt.Complete() {
			return rt.Filter()
		}
	}
	return ""
}

// Active reports whether the client is connected and the server has granted all filters of the subscription, since the
// latest connect if they had to be subscribed again. Messages that are published while it is not may not arrive.
func (s *Subscription) Active() bool {
	s.lock()
	defer s.unlock()
	return s.inbox != nil && !s.ended && s.inbox.live() != nil && s.missing() == ""
}

// SubscriptionStats are totals of one subscription, and gauges of the moment.
type SubscriptionStats struct {
	Dropped   uint64 // as Dropped says
	Waiting   int    // messages in line, which no consumer has
	WaitBytes int    // memory of those, of those that are asleep, and of those that a loop has and is not done with, in bytes
	Asleep    int    // messages that wait for their redelivery
	Held      Held   // by a message of this subscription
}

// Stats returns a snapshot of the subscription's counters.
func (s *Subscription) Stats() SubscriptionStats {
	s.lock()
	defer s.unlock()
	st := SubscriptionStats{
		Dropped:   s.dropped,
		Waiting:   s.line.length(),
		WaitBytes: s.line.bytes,
		Asleep:    len(s.line.asleep),
	}
	if s.inbox == nil {
		return st
	}
	st.Held = s.inbox.longestStall(s)
	return st
}
