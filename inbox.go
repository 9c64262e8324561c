package mqtt

import (
	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// inbox is the incoming half of a client: its subscriptions, and the messages on their way to them.
type inbox struct {
	*core
	notices *notices

	// Guarded by mu.
	router       *route.Router
	subs         map[*Subscription]struct{}
	born         uint64                  // counts subscriptions
	subscribing  fifo.Queue[subscribing] // SUBSCRIBEs that wait for their turn after a connect
	unsubscribes []*request              // UNSUBSCRIBEs to be sent, or sent again, at the next connect
	waiting      int                     // bytes of memory in the subscriptions' lines
	stalls       [2]stall                // of PUBACKs and of PUBRECs
	looking      bool                    // the supervisor looks for stalls, or is about to
	parking      parkingLot
	unclaimed    callbacks // calls with messages that nobody subscribed to
}

func (in *inbox) init(c *core, n *notices) {
	in.core, in.notices = c, n
	in.subs = make(map[*Subscription]struct{})
	in.unclaimed.core = c
	in.router = route.New(c.config.filterPrefixes)
}

// watchStalls makes the supervisor look for stalls, from now on until no message waits.
// The caller holds mu.
func (in *inbox) watchStalls() {
	if in.looking {
		return
	}
	in.looking = true
	in.callSupervisor()
}

// settle is a holder's word on a message, if that needs one: it sends the acknowledgements that may go out now.
// The caller holds mu.
func (in *inbox) settle(r *session.Receipt, holder any, reason *session.Reason) {
	if r == nil {
		return // QoS 0
	}
	if l := in.live(); l != nil {
		l.Commit(in.session.Settle(l.Buffer(), r, holder, reason))
	} else {
		in.session.Settle(nil, r, holder, reason)
	}
}

// settleAll is a subscription's word on everything that it holds: accepted if reason is nil.
// The caller holds mu.
func (in *inbox) settleAll(s *Subscription, reason *session.Reason) {
	if l := in.live(); l != nil {
		l.Commit(in.session.SettleAll(l.Buffer(), s, reason))
	} else {
		in.session.SettleAll(nil, s, reason)
	}
}
