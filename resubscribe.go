package mqtt

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// subscribeAgain makes, on a new connection, the subscriptions that the server does not have or may not have, and those
// that have been waiting for a connection.
//
// On MQTT 5 that is done even when the server has kept the session: one that was killed may come back with an older
// snapshot of the session, without the subscriptions (seen with Mosquitto). On MQTT 3.1.1 it would bring all retained
// messages again.
// The caller holds mu.
func (in *inbox) subscribeAgain() {
	present := in.connAck.SessionPresent
	if !present {
		in.router.Lose()
	}
	in.subscribing = fifo.Queue[subscribing]{}
	for _, s := range in.inOrder() {
		if s.call.waiting() {
			in.subscribing.Push(subscribing{sub: s})
		} else {
			in.resubscribe(s, present)
		}
	}
	in.subscribeMore()
}

// subscribing is a SUBSCRIBE to be sent on a new connection: for some of the routes of a subscription that was granted
// before, or for one whose Subscribe waits.
type subscribing struct {
	sub    *Subscription
	routes []*route.Route // nil: its Subscribe waits
}

// atOnce is how many SUBSCRIBEs and UNSUBSCRIBEs may be without an answer before those that are made again wait for
// their turn: packet identifiers are few.
const atOnce = 1000

// subscribeMore sends, after a connect, as many SUBSCRIBEs as may be without an answer.
// The caller holds mu.
func (in *inbox) subscribeMore() {
	for in.live() != nil && in.subscribing.Len() > 0 && in.session.TakenIDs() < atOnce {
		next := *in.subscribing.At(0)
		if next.sub.call.waiting() {
			in.sendSubscribes(next.sub)
		} else if !in.subscribeRoutes(next) {
			return
		}
		in.subscribing.Pop()
	}
}

// inOrder returns the subscriptions in the order in which they were made, but those to replies first: requests that are
// published again do not wait for the others' turn.
// The caller holds mu.
func (in *inbox) inOrder() []*Subscription {
	return slices.SortedFunc(maps.Keys(in.subs), func(a, b *Subscription) int {
		switch first, second := a.sink != nil, b.sink != nil; {
		case first && !second:
			return -1
		case second && !first:
			return 1
		}
		return cmp.Compare(a.born, b.born)
	})
}

// resubscribe puts the routes of s in line, but for those that an older subscription sees to. Nobody waits for the
// answers.
// The caller holds mu.
func (in *inbox) resubscribe(s *Subscription, present bool) {
	if err := in.unavailable(s); err != nil {
		in.abandon(s, err)
		return
	}
	all := in.version >= codec.V5 || in.config.resubscribeResumed
	var mine []*route.Route
	for _, rt := range s.holder.Routes() {
		if eldest(rt) == s && (all || !rt.Confirmed()) {
			mine = append(mine, rt)
		}
	}
	for some := range slices.Chunk(mine, in.filtersAtOnce(s)) {
		in.subscribing.Push(subscribing{s, some})
	}
}

// subscribeRoutes sends the SUBSCRIBE for routes whose turn it is. It reports false if no packet identifier is free;
// one will be with the next answer.
// The caller holds mu.
func (in *inbox) subscribeRoutes(next subscribing) bool {
	var mine []*route.Route
	for _, rt := range next.routes {
		switch eldest := eldest(rt); eldest {
		case next.sub:
			mine = append(mine, rt)
		case nil: // nobody wants it any more
		default:
			in.subscribing.Push(subscribing{eldest, []*route.Route{rt}})
		}
	}
	present := in.connAck.SessionPresent
	handling := func(rt *route.Route) RetainHandling { return retainAgain(rt, present) }
	err := inPackets(mine, packetFilters, func(routes []*route.Route) error {
		return in.sendSubscribe(&request{routes: routes}, next.sub, nil, handling)
	})
	if errors.Is(err, session.ErrNoIdentifier) {
		return false
	}
	if err != nil {
		for _, rt := range mine {
			in.endHolders(rt, err)
		}
	}
	return true
}

// noteCut notes a request whose answer was cut off. An UNSUBSCRIBE is sent again. Nobody knows whether the server has
// seen a SUBSCRIBE: those who want its filters send another, and what nobody wants is unsubscribed.
// The caller holds mu.
func (in *inbox) noteCut(q *request) {
	if q.routes == nil {
		in.unsubscribes = append(in.unsubscribes, q) // its call counts it already
		return
	}
	var unwanted []string
	for _, rt := range q.routes {
		rt.Cut()
		if !in.router.Holds(rt.Filter()) {
			unwanted = append(unwanted, rt.Filter())
		}
	}
	in.sendUnsubscribe(&request{filters: unwanted})
}

// eldest returns the route's first holder that is granted and not about to leave.
// The caller holds mu.
func eldest(rt *route.Route) *Subscription {
	if h := rt.Eldest(); h != nil {
		return h.Owner.(*Subscription)
	}
	return nil
}

// retainAgain is what a SUBSCRIBE that is made again asks for: on a kept session no retained messages that the
// subscription had before, on a new one what its holders asked for, because the state may have changed meanwhile.
func retainAgain(rt *route.Route, present bool) RetainHandling {
	least := SkipRetained
	for _, h := range rt.Holders() {
		if o := &h.Owner.(*Subscription).options; o.flags&NoRetainedOnResubscribe == 0 {
			least = min(least, o.retain)
		}
	}
	if present {
		return max(least, SendRetainedIfNew)
	}
	return least
}
