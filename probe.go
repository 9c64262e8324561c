package mqtt

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/petrel-mqtt/mqtt/internal/route"
)

// This file is about SUBSCRIBEs that the server answers by closing the connection, as some do when the client is not
// allowed to subscribe. Filters whose SUBSCRIBEs were without an answer at two losses in a row are under suspicion. From then
// on they are subscribed last, each in a packet of its own, and the next one only after the answer: so it is known which one
// ends the connection, and everything else lives. Those that ended more connections come later. At the poison limit
// whoever waits for the filter, or holds it, gets an error.

// suspects is how many filters one loss can put under suspicion. Servers take packets in order, so the reason is among the
// oldest without an answer.
const suspects = 50

// probe sends the next SUBSCRIBE that is under suspicion, if no other request waits for its answer, and no message is
// under suspicion either.
// The caller holds mu.
func (in *inbox) probe() {
	for len(in.suspicion.line) > 0 && in.live() != nil && in.session.TakenIDs() == 0 && !in.session.Unproved() {
		next := in.suspicion.next()
		switch {
		case next.sub.ended:
		case next.sub.call.unfinished():
			in.probeFor(next.sub, next.routes)
		default:
			in.subscribeRoutes(next)
			in.subscribeMore() // another subscription may have to do it
		}
	}
}

// probeFor sends the SUBSCRIBE for a route of a Subscribe that waits. The call counts it already as one without an answer.
// The caller holds mu.
func (in *inbox) probeFor(s *Subscription, routes []*route.Route) {
	s.call.pending--
	err := in.sendSubscribe(&filterPacket{call: s.call, routes: routes}, s, &s.holder, s.retainHandling)
	if err != nil {
		s.call.finish(err)
	}
}

// blameSubscribe looks for the reason of a connection's loss among the requests without an answer, oldest first. It reports
// whether it gave up a filter.
// The caller holds mu.
func (in *inbox) blameSubscribe(unanswered []any, err error) (gaveUp bool) {
	in.suspicion.blamed = false
	if in.config.poisonLimit == 0 || errors.Is(err, ErrClosed) || errors.Is(err, errReconnecting) {
		return false
	}
	noted := 0
	for _, owner := range unanswered {
		q := owner.(*filterPacket)
		for _, rt := range q.routes {
			if noted++; noted <= suspects && in.router.Holds(rt.Filter()) {
				in.suspicion.blamed = true
				gaveUp = in.blameFilter(rt, len(unanswered) == 1 && len(q.routes) == 1, err) || gaveUp
			}
		}
	}
	return gaveUp
}

// blameFilter notes that the connection was lost before the answer to the SUBSCRIBE for a route. alone says that no other
// request was without an answer. It reports whether it gave the filter up.
// The caller holds mu.
func (in *inbox) blameFilter(rt *route.Route, alone bool, err error) (gaveUp bool) {
	losses := in.suspicion.note(rt.Filter())
	var d *DisconnectError
	refused := errors.As(err, &d) && d.ByServer && d.Code == NotAuthorized
	isAnswer := refused && (losses > suspicious || in.session.InFlight() == 0) // it can be the answer to nothing else
	gaveUp = alone && (isAnswer || losses >= in.config.poisonLimit)
	if gaveUp {
		in.giveUpFilter(rt, losses, err)
	}
	return gaveUp
}

// giveUpFilter ends the subscriptions to a filter, and the Subscribes that wait for it.
// The caller holds mu.
func (in *inbox) giveUpFilter(rt *route.Route, losses int, err error) {
	delete(in.suspicion.losses, rt.Filter())
	in.notices.log(slog.LevelError, "mqtt: a filter was given up: the server closes the connection instead of answering its SUBSCRIBE",
		"filter", rt.Filter(), "connections", losses, "because", err)
	err = fmt.Errorf("mqtt: filter %q: the server closes the connection instead of answering SUBSCRIBE (connections lost: %d): %w",
		rt.Filter(), losses, err)
	in.endHolders(rt, err)
	for _, h := range rt.Holders() {
		h.Owner.(*Subscription).call.finish(err)
	}
}

// subscribeBlamed reports whether the latest connection was lost while a SUBSCRIBE waited for its answer.
func (in *inbox) subscribeBlamed() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.suspicion.blamed
}
