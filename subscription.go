package mqtt

import (
	"slices"
	"sync"

	"github.com/petrel-mqtt/mqtt/internal/route"
)

// Subscription delivers the messages of its filters, in the order in which they came. Its methods may be called
// concurrently.
//
// A message that matches several filters of a subscription is delivered once, if the server supports subscription
// identifiers. A server that does not, as in MQTT 3.1.1, may send a copy for each matching filter of the client, and
// every subscription with such a filter gets all copies (section 3.3.5 of MQTT 3.1.1).
//
// A slow consumer does not hold up messages at QoS 0 of other subscriptions, and not the acknowledgements of publishes.
// Its messages at QoS 1 and 2 wait without acknowledgement. When as many wait as the Receive Maximum allows, the server
// sends the whole client no more messages at QoS 1 and 2 until the consumer continues. Servers limit how many messages
// they keep meanwhile. Some silently drop the rest, although they have acknowledged them to the publishers: Mosquitto
// does so beyond 1,000 messages (max_queued_messages).
type Subscription struct {
	inbox    *inbox // nil: made by NewSubscription
	options  subscribeOptions
	sink     sink           // takes its messages instead of the channel; nil: as usual
	messages <-chan Message // of one made by NewSubscription
	done     chan struct{}
	left     chan struct{} // closed by the first Unsubscribe; nil without Block
	fake     sync.Once     // closes done of one made by NewSubscription
	own      sync.Mutex    // guards the line of one made by NewSubscription

	// Guarded by mu.
	channel     chan Message // of Messages; closed by the last of those who send; nil until Messages is called
	number      uint64       // order of the Subscribes
	call        *call        // its Subscribe; done once the server has granted all filters
	leaving     *call        // set by the first Unsubscribe
	holder      route.Holder
	filters     []Filter // as the holder's routes
	origin      *origin  // of messages with no receipt, and with the identifiers that came last
	ended       bool
	err         error
	explanation *explanation // of the latest SUBACK that granted something
	dropped     uint64
	line        line
}

// sink receives the messages of a subscription that has no consumer of its own: that for replies to requests. Its
// methods are called with the mutex held.
type sink interface {
	take(m Message)
	granted()          // the server has granted the filters, or granted one of them again
	refused(err error) // the SUBSCRIBE has failed, and no call of Subscribe waits
	stalled()          // messages wait for their acknowledgement, maybe for long
	ended(err error)   // the subscription has ended
}

// Filter is one topic filter of a subscription.
type Filter struct {
	Filter  string
	QoS     QoS // asked for
	Granted QoS // by the server
}

// NewSubscription returns a subscription that delivers what is sent to messages, for fakes of the client in tests.
// Unsubscribe ends it. The sender closes messages.
func NewSubscription(filter string, messages <-chan Message) *Subscription {
	return &Subscription{
		messages: messages,
		done:     make(chan struct{}),
		filters:  []Filter{{Filter: filter}},
	}
}

func newSubscription(in *inbox, o subscribeOptions) *Subscription {
	s := &Subscription{inbox: in, options: o, done: make(chan struct{}), line: line{total: &in.lineBytes}}
	s.holder = route.Holder{Owner: s, Options: o.server()}
	s.line.arrived = make(chan struct{}, 1)
	s.line.qos0.Keep = lineRetained
	s.line.acknowledged.Keep = lineRetained
	if o.overflow == Block {
		s.left = make(chan struct{})
	}
	return s
}

// Filters returns the subscription's filters, with what the server granted.
func (s *Subscription) Filters() []Filter {
	s.lock()
	defer s.unlock()
	return slices.Clone(s.filters)
}

// ReasonString returns the Reason String of the latest SUBACK, for people; "" if there was none.
func (s *Subscription) ReasonString() string {
	s.lock()
	defer s.unlock()
	return s.explanation.reasonString()
}

// UserProperties returns those of the latest SUBACK; nil if there were none.
func (s *Subscription) UserProperties() UserProperties {
	s.lock()
	defer s.unlock()
	return s.explanation.userProperties()
}

// Dropped returns how many messages were dropped: at QoS 0 because the buffer was full; at any QoS because they waited in
// line when the ctx of Unsubscribe ended, or when the subscription ended with an error while the client lived.
func (s *Subscription) Dropped() uint64 {
	s.lock()
	defer s.unlock()
	return s.dropped
}

// Done is closed when the subscription has ended.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Err returns nil until the subscription has ended, and after Unsubscribe; otherwise it returns why the subscription
// ended.
func (s *Subscription) Err() error {
	s.lock()
	defer s.unlock()
	return s.err
}

func (s *Subscription) lock() {
	if s.inbox != nil {
		s.inbox.mu.Lock()
	} else {
		s.own.Lock()
	}
}

func (s *Subscription) unlock() {
	if s.inbox != nil {
		s.inbox.mu.Unlock()
	} else {
		s.own.Unlock()
	}
}

// end ends the subscription: no more messages go into its channel. Messages in line stay there, and the caller must
// settle them.
// The caller holds mu.
func (s *Subscription) end(err error) {
	if s.ended {
		return
	}
	s.line.detach()
	s.ended, s.err = true, err
	s.call.finish(err) // a Subscribe that waits for SUBACK
	delete(s.inbox.subs, s)
	s.wakeAll()
	close(s.done)
	if s.channel != nil && !s.line.sending {
		close(s.channel)
	}
	if s.sink != nil {
		s.sink.ended(err)
	}
}

// originOf returns an origin with these identifiers. Most messages have the same ones, and share it. s may be nil.
// The caller holds mu.
func (s *Subscription) originOf(ids []uint32) *origin {
	if s == nil || len(ids) > manyProperties {
		return &origin{ids: slices.Clone(ids)}
	}
	if s.origin == nil || !slices.Equal(s.origin.ids, ids) {
		s.origin = &origin{ids: slices.Clone(ids)}
	}
	return s.origin
}
