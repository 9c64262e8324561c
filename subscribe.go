package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// packetFilters is how many filters one SUBSCRIBE or UNSUBSCRIBE carries: some servers take no more.
const packetFilters = 8

// subscribe makes a subscription and waits for SUBACK.
func (c *client) subscribe(ctx context.Context, o subscribeOptions, filters []filterRequest) (*Subscription, error) {
	if ctx.Err() != nil {
		return nil, &notSent{fmt.Errorf("mqtt: waiting to subscribe: %w", ctx.Err())}
	}
	s := newSubscription(c, o)
	k, err := c.startSubscribe(s, filters)
	if err != nil {
		return nil, err
	}
	select {
	case <-k.done:
		err = k.err
	case <-ctx.Done():
		err = fmt.Errorf("mqtt: waiting for SUBACK: %w", ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && s.ended {
		err = s.err // it was granted, and ended before we got to know that
	}
	if err == nil {
		s.openGate()
		return s, nil
	}
	c.abandon(s, err)
	c.settleAll(s, nil) // nobody can acknowledge what is in its channel
	return nil, err
}

// startSubscribe adds the subscription's routes, so that no message comes too early, and sends its SUBSCRIBEs.
// [MQTT-3.8.4-1] [MQTT311-3.8.4-1]
func (c *client) startSubscribe(s *Subscription, filters []filterRequest) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.beginSubscribe(s, filters)
}

// beginSubscribe is startSubscribe with mu held.
func (c *client) beginSubscribe(s *Subscription, filters []filterRequest) (*call, error) {
	if c.err != nil || c.draining || c.live() == nil && c.config.withoutReconnect {
		return nil, c.notConnected()
	}
	for _, f := range filters {
		rt, err := c.router.join(s, f)
		if err != nil {
			s.leave()
			return nil, err
		}
		s.routes = append(s.routes, rt)
		s.filters = append(s.filters, Filter{Filter: f.filter, QoS: f.qos})
	}
	c.born++
	c.subs[s], s.born = struct{}{}, c.born
	s.call = newCall(s)
	if s.sink == nil {
		c.claim(s)
	} else {
		c.unpark([]string{s.filters[0].Filter}) // replies to an earlier client
	}
	c.sendSubscribes(s)
	if s.options.stalled != nil {
		c.callSupervisor() // which may be about to look again too late
	}
	return s.call, nil
}

// unavailable checks a subscription against what the server announced; mu is held.
// [MQTT-3.2.2.3.11] [MQTT-3.2.2.3.12] [MQTT-3.2.2.3.13]
func (c *client) unavailable(s *Subscription) error {
	a := &c.connAck
	var failures []FilterError
	for _, f := range s.filters {
		switch {
		case !a.SubscriptionIdentifiers && s.options.identifier != nil:
			failures = append(failures, FilterError{Filter: f.Filter, Code: SubscriptionIdentifiersNotSupported})
		case !a.SharedSubscriptions && topic.Shared(f.Filter):
			failures = append(failures, FilterError{Filter: f.Filter, Code: SharedSubscriptionsNotSupported})
		case !a.WildcardSubscriptions && strings.ContainsAny(f.Filter, "+#"):
			failures = append(failures, FilterError{Filter: f.Filter, Code: WildcardSubscriptionsNotSupported})
		}
	}
	if failures != nil {
		return &notSent{&SubscribeError{Failures: failures}}
	}
	return nil
}

// sendSubscribes sends the SUBSCRIBEs that a new subscription needs, if there is a connection; mu is held.
//
// A filter that others hold is subscribed again only if that raises its QoS, if retained messages are wanted, or if it
// is not certain that the server has it. Where the server knows subscription identifiers each filter has its own, and so
// a packet of its own: then a message says which filter it is for.
func (c *client) sendSubscribes(s *Subscription) {
	if c.live() == nil {
		return
	}
	s.call.pending, s.call.failures, s.call.user = 0, nil, nil
	if err := c.unavailable(s); err != nil {
		s.call.finish(err)
		return
	}
	var needed []*route
	for i, rt := range s.routes {
		if !rt.confirmed || rt.pending() || rt.qos > rt.asked() || s.options.retain == SendRetained {
			needed = append(needed, rt)
		} else {
			s.filters[i].Granted = min(s.filters[i].QoS, rt.granted)
		}
	}
	s.call.rest = needed
	c.sendRest(s)
}

// sendRest sends as many SUBSCRIBEs of a Subscribe as may be without an answer: there may be more than packet identifiers.
// mu is held.
func (c *client) sendRest(s *Subscription) {
	k, n := s.call, c.filtersAtOnce(s)
	var err error
	for err == nil && len(k.rest) > 0 && k.pending < atOnce {
		some := k.rest[:min(n, len(k.rest))]
		k.rest = k.rest[len(some):]
		err = inPackets(some, n, func(routes []*route) error {
			return c.sendSubscribe(&request{call: k, routes: routes}, s, s, s.retainHandling)
		})
	}
	if err != nil && k.pending > 0 {
		err = errors.Unwrap(err) // some filters were sent: not safe to retry
	}
	if err != nil || k.pending == 0 {
		k.finish(err)
	}
}

// filtersAtOnce is how many filters of s may share a packet; mu is held.
func (c *client) filtersAtOnce(s *Subscription) int {
	if c.connAck.SubscriptionIdentifiers && s.options.identifier == nil {
		return 1
	}
	return packetFilters
}

// sendSubscribe sends one SUBSCRIBE, as the options of s ask for it. Retained messages that it brings are for retainTo
// alone, or for all holders if that is nil. mu is held.
func (c *client) sendSubscribe(r *request, s, retainTo *Subscription, handling func(*route) RetainHandling) error {
	p := codec.Subscribe{
		SubscriptionIdentifier: c.identifierFor(s),
		UserProperties:         s.options.properties.UserProperties,
	}
	for _, rt := range r.routes {
		r.filters = append(r.filters, rt.filter)
		f := codec.SubscribeFilter{Filter: rt.filter, QoS: byte(rt.qos)}
		if c.version >= codec.V5 {
			f.NoLocal = rt.flags&NoLocal != 0
			f.RetainAsPublished = rt.flags&RetainAsPublished != 0
			f.RetainHandling = byte(handling(rt))
		}
		p.Filters = append(p.Filters, f)
	}
	err := c.sendRequest(r, func(b []byte, id uint16) ([]byte, error) {
		p.PacketID = id
		return p.Append(b, c.version)
	})
	if err != nil {
		return err
	}
	if r.call != nil {
		r.call.pending++
	}
	for _, rt := range r.routes {
		sent := &subscribe{
			identifier: p.SubscriptionIdentifier,
			qos:        rt.qos,
			retained:   handling(rt) != SkipRetained,
			retainTo:   retainTo,
		}
		rt.subscribes = remember(rt.subscribes, sent, rememberedSubscribes)
		r.sent = append(r.sent, sent)
	}
	return nil
}

// identifierFor returns the subscription identifier of one more SUBSCRIBE, or 0; mu is held.
func (c *client) identifierFor(s *Subscription) uint32 {
	switch {
	case s.options.identifier != nil:
		return uint32(*s.options.identifier)
	case c.connAck.SubscriptionIdentifiers:
		return c.router.nextIdentifier()
	}
	return 0
}

// retainHandling is as asked, but a SUBSCRIBE that only raises the QoS brings nobody retained messages.
// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4] [MQTT311-3.3.1-6]
func (s *Subscription) retainHandling(rt *route) RetainHandling {
	if rt.confirmed && s.options.retain != SendRetained {
		return SkipRetained
	}
	return s.options.retain
}

// mostAgain bounds how often a request is sent again.
const mostAgain = 10

// granted tells those whom a SUBSCRIBE was for what the server granted; mu is held.
func (q *request) granted(rt *route, granted QoS, said *words) {
	if q.call != nil {
		q.call.sub.grant(rt, granted, said)
		return
	}
	for _, h := range rt.holders {
		h.sub.grant(rt, granted, said)
	}
}

// grant notes what the server granted; mu is held.
// [MQTT-3.8.4-8] [MQTT311-3.8.4-6]
func (s *Subscription) grant(rt *route, granted QoS, said *words) {
	s.words = said
	if i := slices.Index(s.routes, rt); i >= 0 {
		s.filters[i].Granted = min(s.filters[i].QoS, granted)
	}
	if s.sink != nil {
		s.sink.granted()
	}
}

// refused notes a filter that the server refused.
func (q *request) refused(i int, code ReasonCode, reason string) {
	if q.call != nil {
		q.call.failures = append(q.call.failures, FilterError{q.filters[i], code, reason})
	}
}
