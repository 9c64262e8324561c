package mqtt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Lifecycle has the methods of every client, of either version. Later versions of the library may add methods to this
// interface and to those below, so embed them in fakes.
type Lifecycle interface {
	// ClientID returns the client identifier in force: given, generated, or assigned by the server.
	ClientID() string
	// State returns what the client is doing.
	State() State
	// SessionPresent reports whether the server resumed a session at the latest connect.
	SessionPresent() bool
	// Stats returns a snapshot of the client's counters.
	Stats() Stats
	// WaitConnected returns nil once the client is connected, ctx's error, or the error the client ended with.
	WaitConnected(ctx context.Context) error
	// Reconnect closes the connection, if there is one, and connects without waiting for the backoff. It returns the
	// outcome of that attempt. After a failure the client keeps trying as its policy says. Concurrent calls share an
	// attempt. The end of ctx ends only the waiting.
	Reconnect(ctx context.Context) error
	// Outstanding returns the messages in the store whose outcomes are not known, in the order in which they were published:
	// those of earlier processes as well, see WithStore.
	Outstanding() []Outstanding
	// Outcomes returns what became of messages in the store, in the order in which the outcomes became known: of each message
	// that was not delivered, with the message (a dead letter), and of each that the application has given a StoreName. The
	// latest 1,000 outcomes are kept, for 7 days, with at most 16 MiB together.
	Outcomes() []StoredMessage
	// ForgetOutcomes removes from the store what Outcomes has returned, and waits until that is on disk, or ctx ends. The
	// error is ErrClosed, or a *StoreError with ctx's.
	ForgetOutcomes(ctx context.Context, messages ...StoredMessage) error
	// Ping measures a round trip to the server. ctx bounds the wait; the answer to a Ping whose ctx has ended is
	// ignored when it comes.
	Ping(ctx context.Context) (time.Duration, error)
	// Unsubscribe removes filters that an earlier client left in the session. It refuses filters of this client's
	// subscriptions. It waits for UNSUBACK until ctx ends. The error is a *SubscribeError if the server refused.
	Unsubscribe(ctx context.Context, filters ...string) error
	// Done is closed when the client has ended for good.
	Done() <-chan struct{}
	// Err returns nil while the client lives, then why it ended: ErrClosed after Disconnect and Close.
	Err() error
	// Flush waits until the outcome of every message that was published before is known, and until those at QoS 0 are
	// written. Flush does not say which messages failed: Publish and Delivery do. It does not wait for messages whose
	// Publish has returned, for calls of Publish that wait for room in the queue, or for messages of an earlier process in
	// a store. The error is ctx's, ErrConnectionLost if messages at QoS 0 may not have been written, or why the client
	// ended.
	Flush(ctx context.Context) error
	// Drain ends the client when its work is done: it unsubscribes all subscriptions, waits until the loops of All,
	// Batches, Handle and Respond have finished what was delivered and the channels of Messages are empty, and then does
	// what Disconnect does. Handlers may publish meanwhile. It is for members of a shared subscription whose session is
	// kept: without Drain the server goes on giving them messages, which nobody handles until they come back. With
	// ManualAck, Drain does not wait for messages that the application holds outside of a loop. These messages stay
	// unacknowledged, so that the server gives them to the session's next client, or to another member of a shared
	// subscription: what nobody has processed when ctx ends, what waits where there is no loop, and what the server still
	// sends after it has answered UNSUBSCRIBE. Do not call Drain from a loop's body or a handler: it waits for them.
	Drain(ctx context.Context) error
	// Ready returns nil if the client is connected and the server has granted every subscription since it connected.
	// Otherwise the error says in words what is missing, for a readiness probe. A subscription counts from the call of
	// Subscribe: before that, a connected client is ready.
	Ready() error
	// Status returns what the client is doing, and since when.
	Status() Status
	// Close ends the client now. It sends a last DISCONNECT, which takes a second at most, and does not wait for
	// messages in flight. The server does not publish the will. With a store, what has become of messages is written
	// first; while the store fails that is tried for five seconds at most. Close waits for the client's goroutines, and
	// so for the functions and the logger in its options, which therefore must not call it. It returns nil, also if the
	// client had ended before.
	Close() error
}

// Client has the methods that both versions share. A ClientV311 is a Client; Common makes a Client from a ClientV5.
type Client interface {
	Lifecycle
	// Publish sends a message. At QoS 1 and 2 it waits for PUBACK or PUBCOMP, and nil says that the server accepted the
	// message. At QoS 0, the default, it returns once the message is handed to the connection.
	//
	// Without a connection a message at QoS 1 or 2 waits in the queue, see WithQueue; when that is full the error is
	// ErrQueueFull at once. At QoS 0 it is ErrNotConnected, unless QueueOffline is given.
	//
	// If ctx ends before a message at QoS 1 or 2 was sent, the message is withdrawn and SafeToRetry reports true. A
	// message that was sent stays in flight, and the error is an ErrOutcomeUnknown. A refusal is a *PublishError, a bad
	// topic a *TopicError.
	//
	// The payload may be used again when Publish has returned. With topic and properties it has at most 268,435,455
	// bytes. Messages of one goroutine are sent in the order of its calls: those at QoS 0 among themselves, and those
	// at QoS 1 and 2 among themselves.
	Publish(ctx context.Context, topic string, payload []byte, opts ...PublishOption) error
	// PublishAsync sends or queues a message and returns without waiting for an acknowledgement. It waits for room in
	// the queue until ctx ends. After it has returned ctx has no effect. The payload belongs to the client until the
	// Delivery is done.
	PublishAsync(ctx context.Context, topic string, payload []byte, opts ...PublishOption) *Delivery
	// Subscribe waits for SUBACK until ctx ends. The subscription lasts until Unsubscribe or the client's end. If the
	// server refuses one of the filters, the error is a *SubscribeError and no filter stays subscribed.
	Subscribe(ctx context.Context, filter string, opts ...SubscribeOption) (*Subscription, error)
	// Disconnect refuses new publishes, also those that wait for room. It waits until all messages in the queue and in
	// flight are acknowledged, if necessary through reconnects, and messages at QoS 0 are written, or until ctx ends.
	// Then it does what Close does. It returns nil if all messages were acknowledged and written. Otherwise it returns
	// ctx's error, or why the client or its connection ended first. The outcome of each message is that of its Publish
	// or Delivery.
	Disconnect(ctx context.Context) error
}

// ClientV311 is an MQTT 3.1.1 client.
type ClientV311 interface {
	Client
}

// ClientV5 is an MQTT 5 client.
type ClientV5 interface {
	Lifecycle
	// Publish, see Client.
	Publish(ctx context.Context, topic string, payload []byte, opts ...PublishOptionV5) error
	// PublishAsync, see Client.
	PublishAsync(ctx context.Context, topic string, payload []byte, opts ...PublishOptionV5) *Delivery
	// Subscribe, see Client.
	Subscribe(ctx context.Context, filter string, opts ...SubscribeOptionV5) (*Subscription, error)
	// Disconnect, see Client. Without options it sends reason code 0x00, and sets the session expiry interval to 0
	// unless WithSessionExpiry was given.
	Disconnect(ctx context.Context, opts ...DisconnectOption) error
	// Request publishes a request and waits for the reply until ctx ends; see ResponseError for failures that the
	// responder reports. A reply belongs to the request with the same correlation data, so replies may come in any
	// order. A reply that no request waits for is dropped and counted in Stats.LateReplies. Like every message at QoS
	// 1, a request may be delivered more than once.
	//
	// The QoS is 1 unless given. ctx's deadline becomes the message expiry, so that the server drops a request that
	// nobody waits for. MessageExpiry, ResponseTopic and CorrelationData of *PublishProperties are used where they are
	// set. Two requests that wait for replies on the same response topic must have different correlation data.
	//
	// Request may be called from a consumer or a handler, also of Respond, while messages that are not acknowledged fill the
	// Receive Maximum: replies to a client with subscriptions at QoS 1 or 2 come at QoS 0, see WithReplyQoS. Such a reply is
	// lost if the connection is down when it is published, and then ctx bounds the wait.
	//
	// The client subscribes to the response topic before the first request is sent. It keeps the
	// subscription through reconnects, and between requests for the 64 topics that were used last. The default topic is
	// "petrel/reply/{client identifier}" or, if the server gives Response Information, "{Response Information}/{client
	// identifier}". The server's access control must allow the client to subscribe to it, and responders to publish to
	// it. In the identifier, percent signs, slashes, pluses and number signs are replaced by %25, %2F, %2B and %23.
	//
	// SafeToRetry reports true for the error if the request was not sent: the reply subscription was refused (a
	// *SubscribeError), ctx ended first, or one of the reasons of Publish. A *PublishError says that the server refused
	// the request or, with NoMatchingSubscribers, that it had no subscriber, if the server reports that. After the
	// request was sent, the end of ctx, of the client or of the reply subscription (which a server may refuse after it
	// has lost the session) is an ErrOutcomeUnknown with the cause: the request may have been carried out. A lost
	// session alone does not end the waiting. A reply that came before the subscription was made again is lost, and ctx
	// bounds the wait. Disconnect does not wait for replies.
	//
	// The payload may be used again when Request has returned.
	Request(ctx context.Context, topic string, payload []byte, opts ...PublishOptionV5) (Message, error)
	// Respond answers the requests that arrive on sub, as Subscription.Handle handles messages, with the same options, until
	// ctx, sub or the client ends. It returns when all calls of handler have: nil when ctx has ended or after Unsubscribe,
	// otherwise why sub or the client ended. Several responders may share the work by a shared subscription,
	// "$share/{group}/{filter}". sub may be another client's.
	//
	// What handler returns is published to the request's response topic with its correlation data and what is left of its
	// expiry, at QoS 1 unless ReplyOptions, which may give further properties too, say otherwise. An error is sent with the
	// payload, if any, as ResponseError says: its text, 1,024 bytes at most, is for the requester to read. It is sent at
	// once, or, with a RetryPolicy, when that is over; a DeadLetter is called before. A request without response topic is
	// handled too, and what handler returns is dropped. A reply that cannot be sent is logged.
	//
	// handler's ctx ends when the request has expired, counted from its arrival, or when the client ends. A request
	// that has expired gets no reply and is counted in Stats.Expired; if it expired before its turn, handler is not
	// called. When ctx ends no more requests are taken, but handlers that run finish, and their replies may take 10 s
	// more to be acknowledged. A panic of handler is not recovered.
	//
	// A request is acknowledged when its reply is, with ManualAck too, so that one that was not answered comes again to the
	// next client of the session, or to another one of a shared subscription. So handler may run twice for a request.
	Respond(ctx context.Context, sub *Subscription, handler func(context.Context, Message) ([]byte, error), opts ...RespondOption) error
	// Reauthenticate runs the Authenticator on the live connection (section 4.12.1) and waits for the outcome. Other
	// traffic continues during the exchange. Concurrent calls share one exchange, also one that a RenewingAuthenticator
	// has begun. The end of ctx ends only the waiting: the exchange continues, within the connect timeout.
	//
	// The error is ErrNotConnected, or an *AuthError that wraps the cause: the Authenticator's error, a
	// *DisconnectError if the server refused, ErrConnectionLost or ErrClosed. After an *AuthError the connection has
	// ended or is about to end, and the client connects again as its policy says. The exception is a failure of Start:
	// nothing was sent then, and the connection stays.
	Reauthenticate(ctx context.Context) error
	// ConnAck returns the server's CONNACK of the latest connect, with defaults filled in.
	ConnAck() ConnAck
}

// State is the state of a client.
type State uint8

const (
	StateConnecting    State = iota // it dials or waits for CONNACK
	StateConnected                  // it has received a CONNACK that accepts the connection
	StateWaiting                    // it waits before the next attempt to connect
	StateDisconnecting              // Disconnect waits for messages in flight
	StateClosed                     // it has ended; see Err
)

func (s State) String() string {
	switch s {
	case StateConnecting:
		return "connecting"
	case StateConnected:
		return "connected"
	case StateWaiting:
		return "waiting"
	case StateDisconnecting:
		return "disconnecting"
	}
	return "closed"
}

// MarshalText returns the text of String, for logs.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Stats are totals since the client was made, and current values.
type Stats struct {
	Connects, Losses  uint64 // connections made, connections lost
	BytesIn, BytesOut uint64
	Published         uint64 // messages that were acknowledged or, at QoS 0, handed to the connection
	Failed            uint64 // messages that were sent or queued, and then failed; not those that were withdrawn
	Received          uint64 // messages that arrived
	Dropped           uint64 // messages dropped by all subscriptions, see Subscription.Dropped
	Unmatched         uint64 // messages at QoS 1 and 2 that matched no subscription
	Oversized         uint64 // messages discarded because of their size or their number of properties, see WithMaximumPacketSize
	InvalidTopics     uint64 // messages discarded because of their topic names, see WithDropInvalidTopics
	LateAcks          uint64 // acknowledgements with a packet identifier that is not in use
	LateReplies       uint64 // messages on response topics that no request waits for, see ClientV5.Request
	Expired           uint64 // messages not sent, and requests not answered, because they had expired

	InFlight, Queued, QueueBytes int // current, outgoing
	Unacknowledged, Parked       int // current, incoming at QoS 1 and 2

	Held Held // by the message that holds up all acknowledgements
}

// client is a client of either version: the core, and the parts that own the rest of its state. One mutex, the core's,
// guards them all.
type client struct {
	core
	notices  notices
	outbox   outbox
	inbox    inbox
	attempts attempts
	requests requests
	auth     authentication
}

func newClient(ctx context.Context, cfg *config) (*client, error) {
	c := new(client)
	c.core.init(cfg)
	c.outbox.core, c.outbox.notices = &c.core, &c.notices
	if cfg.store != nil {
		if err := c.outbox.restore(ctx, cfg); err != nil {
			c.cancel()
			return nil, err
		}
	}
	c.announce(cfg.connAck(&codec.Connack{}, cfg.clientID)) // the defaults, until a server says otherwise
	c.notices.init(&c.core)
	c.inbox.init(&c.core, &c.notices)
	c.attempts.init(&c.core)
	c.requests.init(c)
	c.auth.init(&c.core, &c.notices)
	if c.journal != nil {
		c.goroutines.Go(c.outbox.keepJournal)
	}
	s := &supervisor{client: c, servers: cfg.servers, original: cfg.servers, down: time.Now()}
	if cfg.inBackground {
		c.goroutines.Go(s.run)
		return c, nil
	}
	outcome := make(chan error, 1)
	s.first = &firstConnect{ctx, outcome}
	c.goroutines.Go(s.run)
	if err := <-outcome; err != nil {
		c.goroutines.Wait()
		return nil, err
	}
	return c, nil
}

func (c *client) State() State { return c.notices.current() }

func (c *client) WaitConnected(ctx context.Context) error { return c.attempts.wait(ctx) }

func (c *client) Reconnect(ctx context.Context) error { return c.attempts.reconnect(ctx) }

func (c *client) Unsubscribe(ctx context.Context, filters ...string) error {
	return c.inbox.removeFilters(ctx, filters)
}

func (c *client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	if c.link != nil {
		in, out := c.link.Bytes()
		s.BytesIn += in
		s.BytesOut += out
	}
	s.InFlight = c.session.InFlight()
	s.Queued, s.QueueBytes = c.session.Queued()
	s.Unacknowledged = c.session.Unacknowledged()
	s.Parked = len(c.inbox.parking.messages)
	s.Held = c.inbox.longestStall(nil)
	return s
}

func (c *client) Ping(ctx context.Context) (time.Duration, error) {
	c.mu.Lock()
	l := c.link
	if l == nil {
		defer c.mu.Unlock()
		return 0, c.notConnected()
	}
	answered := make(chan struct{})
	start := time.Now()
	l.Ping(answered)
	c.mu.Unlock()
	select {
	case <-answered:
		return time.Since(start), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("mqtt: waiting for PINGRESP: %w", ctx.Err())
	case <-l.Ended():
		return 0, fmt.Errorf("mqtt: waiting for PINGRESP: %w", c.lost())
	}
}

func (c *client) Close() error {
	c.cancel()
	c.goroutines.Wait()
	return nil
}

// disconnect waits for messages in flight and closes.
func (c *client) disconnect(ctx context.Context, farewell *codec.Disconnect) error {
	c.mu.Lock()
	if c.notices.state == StateClosed {
		c.mu.Unlock()
		c.goroutines.Wait()
		return c.Err()
	}
	c.draining = true
	c.notices.moveTo(c.notices.state)
	c.attempts.farewell = farewell
	if c.outbox.drained == nil {
		c.outbox.drained = make(chan struct{})
	}
	drained := c.outbox.drained
	c.outbox.room.wakeAll() // they return ErrClosed
	c.outbox.queue.wakeAll()
	c.requests.slots.wakeAll()
	c.outbox.checkDrained()
	c.mu.Unlock()

	var err error
	select {
	case <-drained:
		if err = c.outbox.awaitRecords(ctx); err == nil {
			err = c.flush(ctx)
		}
	case <-c.done:
	case <-ctx.Done():
		err = fmt.Errorf("mqtt: waiting for acknowledgements: %w", ctx.Err())
	}
	c.cancel()
	c.goroutines.Wait()
	select {
	case <-drained:
		if errors.Is(c.Err(), ErrClosed) {
			return err
		}
	default:
	}
	if err == nil {
		err = c.Err()
	}
	return err
}

// flush waits until everything that was handed to the connection is written.
func (c *client) flush(ctx context.Context) error {
	c.mu.Lock()
	l := c.live()
	if l == nil {
		c.mu.Unlock()
		return nil
	}
	written := l.Written()
	c.mu.Unlock()
	select {
	case <-written:
		return nil
	case <-l.Ended():
		select {
		case <-written:
			return nil
		default:
		}
		return fmt.Errorf("mqtt: disconnecting before everything was written: %w", ErrConnectionLost)
	case <-ctx.Done():
		return fmt.Errorf("mqtt: disconnecting before everything was written: %w", ctx.Err())
	}
}

func (c *client) Outstanding() []Outstanding { return c.outbox.outstanding() }

func (c *client) Outcomes() []StoredMessage { return c.outbox.keptOutcomes() }

func (c *client) ForgetOutcomes(ctx context.Context, messages ...StoredMessage) error {
	return c.outbox.forgetOutcomes(ctx, messages)
}
