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

// subscribeAgain sends, on a new connection, the SUBSCRIBEs for filters that the server does not have or may not have.
// Subscribe calls that already wait for the connection are treated like new ones.
//
// On MQTT 5 it does so even if the server has kept the session: a server that was killed may have restored an older
// state of the session, without the subscriptions (seen with Mosquitto). On MQTT 3.1.1 the server would send all
// retained messages again.
// The caller holds mu.
func (in *inbox) subscribeAgain() {
	present := in.connAck.SessionPresent
	if !present {
		in.router.Lose()
	}
	in.subscribing, in.suspicion.line = fifo.Queue[subscribing]{}, nil
	for _, s := range in.inOrder() {
		if s.call.unfinished() {
			in.subscribing.Push(subscribing{sub: s})
		} else {
			in.resubscribe(s, present)
		}
	}
	in.subscribeMore()
}

// subscribing is a SUBSCRIBE to be sent on a new connection: for some routes of a subscription that was granted before,
// or for one whose Subscribe call waits.
type subscribing struct {
	sub    *Subscription
	routes []*route.Route // nil: its Subscribe call waits
}

// maxUnanswered bounds the SUBSCRIBEs and UNSUBSCRIBEs without an answer. Beyond it, SUBSCRIBEs wait for their turn, because
// there are few packet identifiers.
const maxUnanswered = 1000

// subscribeMore sends SUBSCRIBEs that wait for their turn, after a connect, as many as may be without an answer.
// The caller holds mu.
func (in *inbox) subscribeMore() {
	for in.live() != nil && in.subscribing.Len() > 0 && in.session.TakenIDs() < maxUnanswered {
		next := *in.subscribing.At(0)
		if next.sub.call.unfinished() {
			in.sendSubscribes(next.sub, true)
		} else if !in.subscribeRoutes(next) {
			return
		}
		in.subscribing.Pop()
	}
}

// inOrder returns the subscriptions in the order in which they were made, except that those for replies come first:
// requests that are published again must not wait for the others.
// The caller holds mu.
func (in *inbox) inOrder() []*Subscription {
	return slices.SortedFunc(maps.Keys(in.subs), func(a, b *Subscription) int {
		switch first, second := a.sink != nil, b.sink != nil; {
		case first && !second:
			return -1
		case second && !first:
			return 1
		}
		return cmp.Compare(a.number, b.number)
	})
}

// resubscribe queues SUBSCRIBEs for the routes of s, except for those that an older subscription also holds, because
// that one subscribes them. No call waits for the answers.
// The caller holds mu.
func (in *inbox) resubscribe(s *Subscription, present bool) {
	if err := in.unavailable(s); err != nil {
		in.abandon(s, err)
		return
	}
	all := in.version >= codec.V5 || in.config.resubscribeResumed
	var mine []*route.Route
	for _, rt := range s.holder.Routes() {
		if oldestHolder(rt) == s && (all || !rt.Confirmed()) {
			mine = append(mine, rt)
		}
	}
	for some := range slices.Chunk(in.suspicion.lineUp(s, mine), in.filtersAtOnce(s)) {
		in.subscribing.Push(subscribing{s, some})
	}
}

// subscribeRoutes sends the SUBSCRIBE for routes whose turn it is. It reports false if no packet identifier is free:
// the next answer frees one.
// The caller holds mu.
func (in *inbox) subscribeRoutes(next subscribing) bool {
	var mine []*route.Route
	for _, rt := range next.routes {
		switch eldest := oldestHolder(rt); eldest {
		case next.sub:
			mine = append(mine, rt)
		case nil: // no subscription holds it any more
		default:
			in.subscribing.Push(subscribing{eldest, []*route.Route{rt}})
		}
	}
	present := in.connAck.SessionPresent
	handling := func(rt *route.Route) RetainHandling { return retainHandlingAgain(rt, present) }
	err := inPackets(mine, filtersPerPacket, func(routes []*route.Route) error {
		return in.sendSubscribe(&filterPacket{routes: routes}, next.sub, nil, handling)
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

// noteLostAnswer notes a packet whose connection ended before the answer. An UNSUBSCRIBE is sent again. Whether the server has
// received a SUBSCRIBE is unknown: filters that subscriptions hold are subscribed again, and the others are
// unsubscribed.
// The caller holds mu.
func (in *inbox) noteLostAnswer(q *filterPacket) {
	if q.routes == nil {
		in.unsubscribes = append(in.unsubscribes, q) // it is in its call's pending already
		return
	}
	var unwanted []string
	for _, rt := range q.routes {
		rt.Cut()
		if !in.router.Holds(rt.Filter()) {
			unwanted = append(unwanted, rt.Filter())
		}
	}
	in.sendUnsubscribe(&filterPacket{filters: unwanted})
}

// oldestHolder returns the first holder of the route that is granted and is not unsubscribing.
// The caller holds mu.
func oldestHolder(rt *route.Route) *Subscription {
	if h := rt.Eldest(); h != nil {
		return h.Owner.(*Subscription)
	}
	return nil
}

// retainHandlingAgain is the Retain Handling of a SUBSCRIBE that is sent again. In a kept session it asks for no retained
// messages that the subscription had before. In a new session it asks for what the holders asked for, because the
// retained messages may have changed.
func retainHandlingAgain(rt *route.Route, present bool) RetainHandling {
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
