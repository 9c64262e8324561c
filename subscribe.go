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

// request is one SUBSCRIBE or UNSUBSCRIBE that waits for its answer. The client's mutex guards it.
type request struct {
	call    *call // nil: nobody waits
	filters []string
	user    UserProperties // of an UNSUBSCRIBE
	routes  []*route       // of a SUBSCRIBE
	sent    []*subscribe   // of a SUBSCRIBE, as routes
	encode  func(b []byte, id uint16) ([]byte, error)
	again   int // how often it was sent again
}

// call is a Subscribe or Unsubscribe that waits for the answers to its requests. The client's mutex guards it.
type call struct {
	sub      *Subscription // of a Subscribe
	pending  int           // requests without an answer
	rest     []*route      // of a Subscribe, which are to be sent when answers have come
	failures []FilterError
	user     UserProperties // of the answers
	err      error
	done     chan struct{} // closed when pending is 0, or with err
}

func newCall(s *Subscription) *call { return &call{sub: s, done: make(chan struct{})} }

// finish ends the call, if it has not ended; nobody waits if k is nil.
func (k *call) finish(err error) {
	if k == nil {
		return
	}
	select {
	case <-k.done:
	default:
		k.err = err
		close(k.done)
		switch {
		case k.sub == nil || k.sub.replies == nil:
		case err != nil:
			k.sub.client.abandon(k.sub, err) // no call of Subscribe does that
		default:
			k.sub.replies.granting.wakeAll() // there may have been nothing to send, and so no SUBACK
		}
	}
}

// waiting reports whether the call has not ended.
func (k *call) waiting() bool {
	select {
	case <-k.done:
		return false
	default:
		return true
	}
}

// answered notes the answer to one request of the call, and the user properties that it came with; nobody waits if k is
// nil.
func (k *call) answered(user UserProperties) {
	if k == nil {
		return
	}
	k.pending--
	k.user = append(k.user, user...)
	if len(k.failures) > 0 {
		k.rest = nil
	}
	switch {
	case k.pending > 0 || len(k.rest) > 0:
	case len(k.failures) > 0:
		k.finish(&SubscribeError{k.failures, k.user})
	default:
		k.finish(nil)
	}
}

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

// abandon ends a subscription that did not come about. Filters that were granted and that nobody else holds are
// unsubscribed; those whose SUBACK is still to come, when that has come. mu is held.
func (c *client) abandon(s *Subscription, err error) {
	c.unsubscribeFor(s, nil, s.leave())
	s.end(err)
	c.giveBackParked(s)
	c.discardLine(s)
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
	if s.replies == nil {
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

// inPackets sends packets that carry most of list each, or fewer where those would be larger than the server takes.
// [MQTT-3.8.4-5] [MQTT311-3.8.4-4]
func inPackets[T any](list []T, most int, send func([]T) error) error {
	for some := range slices.Chunk(list, most) {
		err := send(some)
		if n := len(some); n > 1 && errors.Is(err, PacketTooLarge) {
			err = inPackets(some, (n+1)/2, send)
		}
		if err != nil {
			return err
		}
	}
	return nil
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

// sendRequest appends the packet that encode makes, with an identifier of its own, and keeps r until the answer; mu is
// held.
func (c *client) sendRequest(r *request, encode func(b []byte, id uint16) ([]byte, error)) error {
	r.encode = encode
	l := c.live()
	if l == nil {
		return c.notConnected()
	}
	id, err := c.session.Request(r)
	if err != nil {
		return &notSent{err}
	}
	b := l.Buffer()
	packet, err := encode(b, id)
	switch {
	case err != nil:
		c.session.Answer(id)
		return &notSent{fmt.Errorf("mqtt: %w", err)}
	case c.tooLarge(len(packet) - len(b)):
		c.session.Answer(id)
		return &notSent{fmt.Errorf("mqtt: filters %q: %w", r.filters, PacketTooLarge)}
	}
	l.Commit(packet)
	return nil
}

// mostAgain bounds how often a request is sent again.
const mostAgain = 10

// refusedIdentifier reports whether the server refused a request because it uses the packet identifier itself, and sends
// it again with another: mochi 2.7.9 has one table of identifiers for both directions (seen).
func (r *receiver) refusedIdentifier(q *request, codes []codec.ReasonCode) bool {
	if q.again == mostAgain || !slices.Contains(codes, codec.PacketIdentifierInUse) {
		return false
	}
	q.again++
	return r.client.sendRequest(q, q.encode) == nil
}

// suback takes the answer to a SUBSCRIBE.
// [MQTT-3.8.4-2] [MQTT-3.8.4-7] [MQTT311-3.8.4-2]
func (r *receiver) suback(h codec.Header, body []byte) error {
	var p codec.Suback
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	q, err := r.answer(h, p.PacketID, len(p.Codes), "MQTT-3.8.4-6", "MQTT-3.8.4-5")
	if q == nil || err != nil || r.refusedIdentifier(q, p.Codes) {
		return err
	}
	for i, rt := range q.routes {
		switch code := p.Codes[i]; {
		case !code.Failed():
			rt.accepted(q.sent[i], QoS(code))
			q.granted(rt, QoS(code), newWords(p.ReasonString, p.UserProperties))
		case q.call != nil:
			rt.refused(q.sent[i])
			q.refused(i, ReasonCode(code), p.ReasonString)
		default:
			rt.refused(q.sent[i])
			failed := FilterError{rt.filter, ReasonCode(code), p.ReasonString}
			r.client.endHolders(rt, &SubscribeError{[]FilterError{failed}, p.UserProperties})
		}
	}
	r.client.giveBack(q)
	q.call.answered(p.UserProperties)
	if q.call != nil && len(q.call.rest) > 0 && !q.call.sub.ended {
		r.client.sendRest(q.call.sub)
	}
	return nil
}

// giveBack unsubscribes the filters of a SUBSCRIBE that nobody holds any more, now that they are granted; mu is held.
func (c *client) giveBack(q *request) {
	var filters []string
	for _, rt := range q.routes {
		if rt.confirmed && c.router.routes[rt.filter] == nil {
			rt.unsubscribed()
			filters = append(filters, rt.filter)
		}
	}
	c.sendUnsubscribe(&request{filters: filters})
}

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
	if s.replies != nil {
		s.replies.granting.wakeAll()
	}
}

// unsuback takes the answer to an UNSUBSCRIBE.
// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT311-3.10.4-4] [MQTT311-3.10.4-5]
func (r *receiver) unsuback(h codec.Header, body []byte) error {
	var p codec.Unsuback
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	codes := len(p.Codes)
	if r.client.version < codec.V5 {
		codes = -1 // an UNSUBACK of MQTT 3.1.1 says nothing more
	}
	q, err := r.answer(h, p.PacketID, codes, "MQTT-3.11.3-1", "")
	if q == nil || err != nil || r.refusedIdentifier(q, p.Codes) {
		return err
	}
	for i, code := range p.Codes {
		if code.Failed() {
			q.refused(i, ReasonCode(code), p.ReasonString)
		}
	}
	q.call.answered(p.UserProperties)
	return nil
}

// answer finds the request that a SUBACK or UNSUBACK answers; nil if there is none. It must have one reason code for
// each filter, which is what the rules ask for; -1 stands for packets without codes.
func (r *receiver) answer(h codec.Header, id uint16, codes int, v5, v311 string) (*request, error) {
	if r.client.session.Misplaced(h.Type, id) {
		return nil, r.misplaced(h)
	}
	owner, ok := r.client.session.Answer(id)
	if !ok {
		r.client.stats.LateAcks++
		return nil, nil
	}
	r.client.subscribeMore()
	r.told = r.client.sendQueued(r.told) // the identifier is free, which a message may have waited for
	q := owner.(*request)
	var err error
	switch {
	case (h.Type == codec.SUBACK) != (q.routes != nil):
		err = r.misplaced(h)
	case codes >= 0 && codes != len(q.filters):
		err = r.client.protocolError(h.Type, v5, v311, fmt.Sprintf("%d reason codes do not answer the request for %d filters", codes, len(q.filters)))
	default:
		return q, nil
	}
	if q.routes == nil {
		r.client.unsubscribes = append(r.client.unsubscribes, q)
	} // a subscription is found by its call, which goes on waiting
	return nil, err
}

// refused notes a filter that the server refused.
func (q *request) refused(i int, code ReasonCode, reason string) {
	if q.call != nil {
		q.call.failures = append(q.call.failures, FilterError{q.filters[i], code, reason})
	}
}
