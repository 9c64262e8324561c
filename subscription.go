package mqtt

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/route"
)

// Subscription delivers the messages of its filters, in the order in which they came. Its methods may be called
// concurrently.
//
// A message that matches several filters of a subscription comes once, if the server knows subscription identifiers. If it
// does not, as in MQTT 3.1.1, it may send a copy for each filter of the client's that matches, and every subscription
// with such a filter gets them all (section 3.3.5 of MQTT 3.1.1).
//
// A slow consumer holds up no other subscription's QoS 0 and no acknowledgement of a publish. Its messages at QoS 1 and
// 2 wait without acknowledgement; once as many as the Receive Maximum do, the server pauses QoS 1 and 2 for the whole
// client until the consumer moves. Servers bound what they keep meanwhile, and some drop the rest silently after they
// have told its publisher that all is well: Mosquitto does beyond 1,000 messages (max_queued_messages).
type Subscription struct {
	inbox    *inbox // nil: made by NewSubscription
	options  subscribeOptions
	sink     sink // takes its messages instead of the channel; nil: as usual
	messages <-chan Message
	channel  chan Message // messages, for those who send; closed by the last of them
	done     chan struct{}
	left     chan struct{} // closed by the first Unsubscribe; nil without Block
	fake     sync.Once     // closes done of one made by NewSubscription

	// Guarded by mu.
	born    uint64 // order of the Subscribes
	call    *call  // its Subscribe; done once the server has granted all filters
	leaving *call  // set by the first Unsubscribe
	holder  route.Holder
	filters []Filter // as the holder's routes
	origin  *origin  // of messages that have nothing but the one identifier that came last
	ended   bool
	err     error
	words   *words // of the latest SUBACK that granted something
	dropped uint64
	line    line
}

// line is where a subscription's messages wait that found no room in its channel.
type line struct {
	// Guarded by mu.
	gated   bool                // its line stands: there is parking, and it is not granted yet
	sending bool                // somebody sends without holding the mutex: the pump, or the reader with Block
	idle    chan struct{}       // closed when nobody does; nil: nobody waits for that
	place   uint64              // of the latest message in line
	bytes   int                 // of memory that the messages in line take
	loose   fifo.Queue[waiting] // at QoS 0
	held    fifo.Queue[waiting] // at QoS 1 and 2
}

// sink is the inside of a subscription that delivers to no channel. Its methods are called with mu held.
type sink interface {
	take(m Message)
	granted()          // the server has granted the filters, or one of them again
	refused(err error) // the Subscribe has failed, and nobody waits for it
	ended(err error)   // the subscription has ended
}

// Filter is one topic filter of a subscription.
type Filter struct {
	Filter  string
	QoS     QoS // asked for
	Granted QoS // by the server
}

// NewSubscription returns a subscription that delivers what is sent to messages, for fakes of the client in tests.
// Unsubscribe ends it; closing messages is the sender's business.
func NewSubscription(filter string, messages <-chan Message) *Subscription {
	return &Subscription{
		messages: messages,
		done:     make(chan struct{}),
		filters:  []Filter{{Filter: filter}},
	}
}

func newSubscription(in *inbox, o subscribeOptions) *Subscription {
	ch := make(chan Message, min(o.buffer, channelCapacity))
	s := &Subscription{inbox: in, options: o, messages: ch, channel: ch, done: make(chan struct{})}
	s.holder = route.Holder{Owner: s, Options: o.server()}
	if o.overflow == Block {
		s.left = make(chan struct{})
	}
	return s
}

// Messages returns the channel of messages. It is closed when the subscription ends; what is in it by then can still be
// received. See Err for why it ended.
func (s *Subscription) Messages() <-chan Message { return s.messages }

// Next returns the next message. The error is ctx's, or why the subscription ended: ErrClosed after Unsubscribe.
func (s *Subscription) Next(ctx context.Context) (Message, error) {
	select {
	case m, ok := <-s.messages:
		if ok {
			return m, nil
		}
	case <-ctx.Done():
		return Message{}, fmt.Errorf("mqtt: waiting for a message: %w", ctx.Err())
	}
	if err := s.Err(); err != nil {
		return Message{}, err
	}
	return Message{}, ErrClosed
}

// Handle calls f for each message, in up to workers goroutines at a time, until ctx or the subscription ends; with one
// worker messages are handled in order. It returns when all calls of f have, with ctx's error or the subscription's
// Err. Acknowledging is not its business: with ManualAck f must call Ack.
func (s *Subscription) Handle(ctx context.Context, workers int, f func(Message)) error {
	if workers < 1 {
		return fmt.Errorf("mqtt: Handle: %d workers", workers)
	}
	var g errgroup.Group
	for range workers {
		g.Go(func() error { return s.work(ctx, f) })
	}
	return g.Wait()
}

func (s *Subscription) work(ctx context.Context, f func(Message)) error {
	for ctx.Err() == nil {
		select {
		case m, ok := <-s.messages:
			if !ok {
				return s.Err()
			}
			f(m)
		case <-ctx.Done():
		}
	}
	return ctx.Err()
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
	return s.words.reasonString()
}

// UserProperties returns those of the latest SUBACK; nil if there were none.
func (s *Subscription) UserProperties() UserProperties {
	s.lock()
	defer s.unlock()
	return s.words.userProperties()
}

// Dropped returns how many messages were dropped: at QoS 0 because the buffer was full, at any QoS because they waited
// in line when an Unsubscribe ran out of time.
func (s *Subscription) Dropped() uint64 {
	s.lock()
	defer s.unlock()
	return s.dropped
}

// Done is closed when the subscription has ended.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Err returns nil while the subscription lives and after Unsubscribe, else why it ended.
func (s *Subscription) Err() error {
	s.lock()
	defer s.unlock()
	return s.err
}

func (s *Subscription) lock() {
	if s.inbox != nil {
		s.inbox.mu.Lock()
	}
}

func (s *Subscription) unlock() {
	if s.inbox != nil {
		s.inbox.mu.Unlock()
	}
}

// end ends the subscription: nothing goes into its channel any more. What is in line stays there, for the caller to
// deal with.
// The caller holds mu.
func (s *Subscription) end(err error) {
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	s.call.finish(err) // a Subscribe that waits for SUBACK
	delete(s.inbox.subs, s)
	close(s.done)
	if !s.line.sending {
		close(s.channel)
	}
	if s.sink != nil {
		s.sink.ended(err)
	}
}

// originOf returns an origin with these identifiers. Most messages come with the same few, and share it. s may be nil.
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
