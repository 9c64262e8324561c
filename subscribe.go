package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// filtersPerPacket bounds the filters of one SUBSCRIBE or UNSUBSCRIBE, because some servers do not accept more.
const filtersPerPacket = 8

// subscribe makes a subscription and waits for SUBACK.
func (in *inbox) subscribe(ctx context.Context, o subscribeOptions, filters []filterRequest) (*Subscription, error) {
	if ctx.Err() != nil {
		return nil, &notSent{fmt.Errorf("mqtt: waiting to subscribe: %w", ctx.Err())}
	}
	s := newSubscription(in, o)
	k, err := in.startSubscribe(s, filters)
	if err != nil {
		return nil, err
	}
	select {
	case <-k.done:
		err = k.err
	case <-ctx.Done():
		err = fmt.Errorf("mqtt: waiting for SUBACK: %w", ctx.Err())
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if err == nil && s.ended {
		err = s.err // it was granted, and ended before this goroutine ran
	}
	if err == nil {
		s.openGate()
		return s, nil
	}
	in.abandon(s, err)
	in.settleAll(s, nil) // the application never gets the subscription, and so cannot acknowledge the messages in its channel
	return nil, err
}

// startSubscribe adds the subscription's routes and then sends its SUBSCRIBEs. In this order no message can come too
// early.
// [MQTT-3.8.4-1] [MQTT311-3.8.4-1]
func (in *inbox) startSubscribe(s *Subscription, filters []filterRequest) (*call, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.beginSubscribe(s, filters)
}

// beginSubscribe is startSubscribe for callers that hold the mutex.
// The caller holds mu.
func (in *inbox) beginSubscribe(s *Subscription, filters []filterRequest) (*call, error) {
	if in.err != nil || in.draining || in.live() == nil && in.config.withoutReconnect {
		return nil, in.notConnected()
	}
	for _, f := range filters {
		if !in.router.Join(&s.holder, f.filter, byte(f.qos)) {
			in.router.Leave(&s.holder)
			return nil, &notSent{fmt.Errorf(
				"mqtt: filter %q is subscribed already with other options: No Local and Retain As Published hold for all of a client's subscriptions to it",
				f.filter)}
		}
		s.filters = append(s.filters, Filter{Filter: f.filter, QoS: f.qos})
		in.acknowledges = in.acknowledges || f.qos > 0 && s.sink == nil
	}
	in.subscribeCount++
	in.subs[s], s.number = struct{}{}, in.subscribeCount
	s.call = newCall(s)
	if s.sink == nil {
		in.claim(s)
	} else {
		in.unpark([]string{s.filters[0].Filter}) // replies to requests of an earlier client
	}
	in.sendSubscribes(s, false)
	if s.options.stalled != nil {
		in.callSupervisor() // its next look at stalls may be too late for this subscription
	}
	return s.call, nil
}

// unavailable checks a subscription against the features that the server announced in CONNACK.
// The caller holds mu.
// [MQTT-3.2.2.3.11] [MQTT-3.2.2.3.12] [MQTT-3.2.2.3.13]
func (in *inbox) unavailable(s *Subscription) error {
	a := &in.connAck
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

// sendSubscribes sends the SUBSCRIBEs that a new subscription needs, if there is a connection.
//
// A filter that other subscriptions hold is subscribed again only if that raises its QoS, if retained messages are
// wanted, or if the server may not have it. If the server supports subscription identifiers, each filter has an
// identifier of its own and therefore a packet of its own. Then each message says which filter it is for. With again,
// filters under suspicion wait for their turn.
// The caller holds mu.
func (in *inbox) sendSubscribes(s *Subscription, again bool) {
	if in.live() == nil {
		return
	}
	s.call.pending, s.call.failures, s.call.user = 0, nil, nil
	if err := in.unavailable(s); err != nil {
		s.call.finish(err)
		return
	}
	var needed []*route.Route
	for i, rt := range s.holder.Routes() {
		if !rt.Complete() || s.options.retain == SendRetained {
			needed = append(needed, rt)
		} else {
			s.filters[i].Granted = min(s.filters[i].QoS, QoS(rt.GrantedQoS()))
		}
	}
	s.call.rest = needed
	if again {
		s.call.rest = in.suspicion.lineUp(s, needed)
		s.call.pending = len(needed) - len(s.call.rest)
	}
	in.sendRest(s)
}

// sendRest sends the next SUBSCRIBEs of a Subscribe, as many as may be without an answer. There may be more filters
// than packet identifiers.
// The caller holds mu.
func (in *inbox) sendRest(s *Subscription) {
	k, n := s.call, in.filtersAtOnce(s)
	var err error
	for err == nil && len(k.rest) > 0 && k.pending < maxUnanswered {
		some := k.rest[:min(n, len(k.rest))]
		k.rest = k.rest[len(some):]
		err = inPackets(some, n, func(routes []*route.Route) error {
			return in.sendSubscribe(&filterPacket{call: k, routes: routes}, s, &s.holder, s.retainHandling)
		})
	}
	if err != nil && k.pending > 0 {
		err = errors.Unwrap(err) // some filters were sent, so it is not safe to retry
	}
	if err != nil || k.pending == 0 {
		k.finish(err)
	}
}

// filtersAtOnce is the number of filters of s that may share a packet.
// The caller holds mu.
func (in *inbox) filtersAtOnce(s *Subscription) int {
	if in.connAck.SubscriptionIdentifiers && s.options.identifier == nil {
		return 1
	}
	return filtersPerPacket
}

// sendSubscribe sends one SUBSCRIBE with the options of s. Retained messages that it brings are for retainTo only, or
// for all holders if that is nil.
// The caller holds mu.
func (in *inbox) sendSubscribe(r *filterPacket, s *Subscription, retainTo *route.Holder, handling func(*route.Route) RetainHandling) error {
	p := codec.Subscribe{
		SubscriptionIdentifier: in.identifierFor(s),
		UserProperties:         s.options.properties.UserProperties,
	}
	for _, rt := range r.routes {
		r.filters = append(r.filters, rt.Filter())
		f := codec.SubscribeFilter{Filter: rt.Filter(), QoS: rt.QoS()}
		if in.version >= codec.V5 {
			o := rt.Options()
			f.NoLocal, f.RetainAsPublished = o.NoLocal, o.RetainAsPublished
			f.RetainHandling = byte(handling(rt))
		}
		p.Filters = append(p.Filters, f)
	}
	err := in.sendFilterPacket(r, func(b []byte, id uint16) ([]byte, error) {
		p.PacketID = id
		return p.Append(b, in.version)
	})
	if err != nil {
		return err
	}
	if r.call != nil {
		r.call.pending++
	}
	for _, rt := range r.routes {
		r.sent = append(r.sent, in.router.Sent(rt, p.SubscriptionIdentifier, handling(rt) != SkipRetained, retainTo))
	}
	return nil
}

// identifierFor returns the subscription identifier for one more SUBSCRIBE; 0 means none.
// The caller holds mu.
func (in *inbox) identifierFor(s *Subscription) uint32 {
	switch {
	case s.options.identifier != nil:
		return uint32(*s.options.identifier)
	case in.connAck.SubscriptionIdentifiers:
		return in.router.NextIdentifier()
	}
	return 0
}

// retainHandling is what the application asked for, except that a SUBSCRIBE that only raises the QoS asks for no
// retained messages.
// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4] [MQTT311-3.3.1-6]
func (s *Subscription) retainHandling(rt *route.Route) RetainHandling {
	if rt.Confirmed() && s.options.retain != SendRetained {
		return SkipRetained
	}
	return s.options.retain
}

// maxResends bounds how many times a packet is sent again.
const maxResends = 10

// granted notes what the server granted in the subscriptions that the SUBSCRIBE was for.
// The caller holds mu.
func (q *filterPacket) granted(rt *route.Route, granted QoS, said *explanation) {
	if q.call != nil {
		q.call.sub.grant(rt, granted, said)
		return
	}
	for _, h := range rt.Holders() {
		h.Owner.(*Subscription).grant(rt, granted, said)
	}
}

// grant notes what the server granted.
// The caller holds mu.
// [MQTT-3.8.4-8] [MQTT311-3.8.4-6]
func (s *Subscription) grant(rt *route.Route, granted QoS, said *explanation) {
	s.explanation = said
	if i := slices.Index(s.holder.Routes(), rt); i >= 0 {
		s.filters[i].Granted = min(s.filters[i].QoS, granted)
	}
	if s.sink != nil {
		s.sink.granted()
	}
}

// refused notes a filter that the server refused.
// The caller holds mu.
func (q *filterPacket) refused(i int, code ReasonCode, reason string) {
	if q.call != nil {
		q.call.failures = append(q.call.failures, FilterError{q.filters[i], code, reason})
	}
}
