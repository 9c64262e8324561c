package mqtt

import (
	"time"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// inbox is the incoming half of a client: its subscriptions, and the messages that wait for them.
type inbox struct {
	*core
	notices *notices

	// Guarded by mu.
	router          *route.Router
	subs            map[*Subscription]struct{}
	stopping        bool                    // Drain was called: what nobody has processed stays unacknowledged
	leaving         bool                    // a message has come since that nobody will process
	subscribeCount  uint64                  // counts subscriptions
	subscribing     fifo.Queue[subscribing] // SUBSCRIBEs that wait for their turn, after a connect
	suspicion       suspicion
	acknowledges    bool            // a subscription to more than QoS 0 was made, except to replies
	unsubscribes    []*filterPacket // UNSUBSCRIBEs to be sent, or sent again, at the next connect
	lineBytes       int             // bytes of memory in the lines of subscriptions that have not ended
	stalls          [2]stall        // for QoS 1 and for QoS 2
	watchingStalls  bool            // the supervisor looks for stalls, or will do so at once
	parking         parkingLot
	unmatchedLogged time.Duration // on the client's clock: when the log spoke of such messages last; 0: never
	unmatched       callbacks     // calls of the function of WithUnmatched

	fillings fillings // slices of Batches that are complete as soon as the window is exhausted
}

func (in *inbox) init(c *core, n *notices) {
	in.core, in.notices = c, n
	in.subs = make(map[*Subscription]struct{})
	in.fillings = make(fillings)
	in.unmatched.core = c
	in.router = route.New(c.config.filterPrefixes)
}

// watchStalls makes the supervisor look for stalls until no message waits for its acknowledgement.
// The caller holds mu.
func (in *inbox) watchStalls() {
	if in.watchingStalls {
		return
	}
	in.watchingStalls = true
	in.callSupervisor()
}

// settle records that holder accepted the message, or refused it, and appends the acknowledgements that this allows. r
// may be nil: a message at QoS 0.
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
