package mqtt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Lifecycle is what every client has, whatever its version. Methods may be added to this interface and to those below:
// embed them in fakes.
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
	// Reconnect drops the connection, if there is one, and connects without waiting for the backoff. It returns the
	// outcome of that attempt; after a failure the client goes on trying as its policy says. Concurrent calls share an
	// attempt. ctx ends only the waiting.
	Reconnect(ctx context.Context) error
	// Ping measures a round trip to the server. ctx bounds the wait; the answer to a Ping whose ctx has ended is
	// ignored when it comes.
	Ping(ctx context.Context) (time.Duration, error)
	// Unsubscribe removes filters that an earlier client left in the session; it refuses those of subscriptions that
	// live. It waits for UNSUBACK until ctx ends. The error is a *SubscribeError if the server refused.
	Unsubscribe(ctx context.Context, filters ...string) error
	// Done is closed when the client has ended for good.
	Done() <-chan struct{}
	// Err returns nil while the client lives, then why it ended: ErrClosed after Disconnect and Close.
	Err() error
	// Close ends the client now: a last DISCONNECT, for which it takes a second at most, without waiting for what is
	// in flight. The server does not publish the will. Close waits for the client's goroutines, and so for the functions
	// and the logger that its options name: those must not call it. It returns nil, also when the client had ended
	// before.
	Close() error
}

// Client is what both versions can do. A ClientV311 is one; Common makes one of a ClientV5.
type Client interface {
	Lifecycle
	// Publish sends a message. At QoS 1 and 2 it waits for PUBACK or PUBCOMP, and nil says that the server took the
	// message; at QoS 0, the default, it returns once the message is handed to the connection.
	//
	// If ctx ends before a message at QoS 1 or 2 was sent, it is withdrawn: SafeToRetry reports true. After that it
	// stays in flight, and the error is an ErrOutcomeUnknown. A refusal is a *PublishError, a bad topic a *TopicError.
	//
	// The payload, at most 268,435,455 bytes with topic and properties, may be used again when Publish has returned.
	// Messages of one goroutine leave in the order of its calls, those at QoS 0 among themselves and those at QoS 1
	// and 2 among themselves.
	Publish(ctx context.Context, topic string, payload []byte, opts ...PublishOption) error
	// PublishAsync sends or queues a message and returns without waiting for an acknowledgement. It waits for room in
	// the queue until ctx ends; ctx has no say after it has returned. The payload is the client's until the Delivery
	// is done.
	PublishAsync(ctx context.Context, topic string, payload []byte, opts ...PublishOption) *Delivery
	// Subscribe waits for SUBACK until ctx ends. The subscription lives until Unsubscribe or the client's end. If the
	// server refuses one of the filters the error is a *SubscribeError, and no filter stays subscribed.
	Subscribe(ctx context.Context, filter string, opts ...SubscribeOption) (*Subscription, error)
	// Disconnect refuses new publishes, also those that wait for room, waits until all messages queued and in flight are
	// acknowledged, through reconnects if need be, and those at QoS 0 are written, or ctx ends, and then does what Close
	// does. It returns nil if none was left to wait for, else ctx's error or why the client or its connection ended first;
	// what became of each message is for its Publish or Delivery to say.
	Disconnect(ctx context.Context) error
}

// ClientV311 is an MQTT 3.1.1 client.
type ClientV311 interface {
	Client
	// ReturnCode returns the return code of the latest CONNACK, also of one that refused (section 3.2.2.3); 0 before the
	// first.
	ReturnCode() byte
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
	// Disconnect, see Client. Without options it says reason code 0x00, and a session expiry interval that was not
	// asked for becomes 0.
	Disconnect(ctx context.Context, opts ...DisconnectOption) error
	// Request publishes a request and waits for the reply, as long as ctx lets it; see ResponseError for failures that
	// the responder reports. Replies are told apart by correlation data and may come in any order; one that no request
	// waits for is dropped and counted in Stats.LateReplies. Like every message at QoS 1, a request may be delivered more
	// than once.
	//
	// The QoS is 1 unless given. ctx's deadline becomes the message expiry, so that the server drops a request nobody
	// waits for. Of *PublishProperties, MessageExpiry, ResponseTopic and CorrelationData win where they are set; of two
	// requests that wait for replies on one response topic the correlation data must differ.
	//
	// The client subscribes to the response topic, at QoS 1, before the first request goes out, and keeps that up:
	// through reconnects, and between requests for the 64 topics used last. Its own topic is
	// "petrel/reply/{client identifier}" or, where the server gives Response Information, "{that}/{client identifier}".
	// The server's access control has to let the client subscribe to it, and responders publish to it. In the
	// identifier, percent signs, slashes, pluses and number signs are replaced by %25, %2F, %2B and %23.
	//
	// The error is SafeToRetry if the request was not sent: the reply subscription was refused (a *SubscribeError), ctx
	// ended first, or as with Publish. A *PublishError says that the server refused the request or, with
	// NoMatchingSubscribers, that nobody was there to get it, as far as the server tells. After it was sent, the end of ctx,
	// of the client and of the reply subscription, which a server may refuse when it has lost the session, is an
	// ErrOutcomeUnknown with the cause: the request may have been carried out. A lost session alone does not end the
	// waiting; a reply that came in between is lost, and ctx bounds the wait. Disconnect does not wait for replies.
	//
	// The payload may be used again when Request has returned.
	Request(ctx context.Context, topic string, payload []byte, opts ...PublishOptionV5) (Message, error)
	// Respond answers the requests that arrive on sub, with up to workers calls of handler at a time, until ctx, sub or
	// the client ends. It returns when all calls have, with ctx's error, sub's Err or the client's. Several responders
	// may share the work by a shared subscription, "$share/{group}/{filter}". sub may be another client's.
	//
	// What handler returns is published to the request's response topic with its correlation data and what is left of its
	// expiry, at QoS 1 unless replyOpts, which also may give further properties, say otherwise. An error is sent with the
	// payload, if any, as ResponseError says: its text, 1,024 bytes at most, is for the requester to read. A request
	// without response topic is handled too, and what handler returns is dropped. A reply that cannot be sent is logged.
	//
	// handler's ctx ends when the request has expired, counted from its arrival, or the client ends; a request that has
	// expired gets no reply, is not handled if it has waited that long, and is counted in Stats.Expired. ctx ends only the
	// intake: handlers that run finish, and their replies may then take 10 s to be acknowledged. A panic of handler is not
	// recovered.
	//
	// With AutoAck a request is acknowledged when it enters sub's channel, and those that are in it when Respond ends are
	// lost with it. With ManualAck it is acknowledged when its reply is, so that one that was not answered comes again to
	// the next client of the session, or to another of a shared subscription. Either way handler may run twice for a
	// request, as at QoS 1 it may be delivered twice.
	Respond(ctx context.Context, sub *Subscription, workers int, handler func(context.Context, Message) ([]byte, error), replyOpts ...PublishOptionV5) error
	// Reauthenticate runs the Authenticator on the live connection (section 4.12.1) and waits for the outcome. Everything
	// else goes on meanwhile. Concurrent calls share one exchange, also one that a RenewingAuthenticator has begun. ctx
	// ends only the waiting: the exchange goes on, for as long as a connect may take.
	//
	// The error is ErrNotConnected, or an *AuthError that wraps why: the Authenticator's error, a *DisconnectError if
	// the server has refused, ErrConnectionLost, ErrClosed. After such an error the connection has ended, or is about to,
	// and the client connects again as its policy says; but if Start failed nothing was sent, and all stays as it is.
	Reauthenticate(ctx context.Context) error
	// ConnAck returns what the server said at the latest connect, defaults filled in.
	ConnAck() ConnAck
}

// State is what a client is doing.
type State uint8

const (
	StateConnecting    State = iota // dialling, or waiting for CONNACK
	StateConnected                  // CONNACK has come
	StateWaiting                    // before the next attempt
	StateDisconnecting              // waiting for what is in flight, before it disconnects
	StateClosed                     // ended; see Err
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

// Stats are totals since the client was made, and gauges of the moment.
type Stats struct {
	Connects, Losses  uint64 // connections made, connections lost
	BytesIn, BytesOut uint64
	Published         uint64 // messages acknowledged or, at QoS 0, handed to the connection
	Received          uint64 // messages that arrived
	Dropped           uint64 // messages dropped by all subscriptions, see Subscription.Dropped
	Unmatched         uint64 // messages at QoS 1 and 2 that no subscription wanted
	Oversized         uint64 // messages thrown away for their size, see WithMaximumPacketSize
	LateAcks          uint64 // acknowledgements with a packet identifier that is not in use
	LateReplies       uint64 // messages on response topics that no request waits for, see ClientV5.Request
	Expired           uint64 // messages not sent, and requests not answered, because they had expired

	InFlight, Queued, QueueBytes int // gauges, outgoing
	Unacknowledged, Parked       int // gauges, incoming at QoS 1 and 2

	// Who holds up all acknowledgements: the filters of the subscription that has the oldest unacknowledged message, and
	// for how long that has been the oldest; nil and 0 if there is none.
	HeldBy  []Filter
	HeldFor time.Duration
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
	c.connAck = cfg.connAck(&codec.Connack{}, cfg.clientID) // nothing is forbidden before a server forbids it
	c.notices.init(&c.core)
	c.outbox.core = &c.core
	c.inbox.init(&c.core, &c.notices)
	c.attempts.init(&c.core)
	c.requests.init(c)
	c.auth.init(&c.core)
	s := &supervisor{client: c, servers: cfg.servers, down: time.Now()}
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
	s.Parked = len(c.inbox.parking.waiting)
	s.HeldBy, s.HeldFor = c.inbox.holdup()
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

// disconnect waits for what is in flight and closes.
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
	c.outbox.room.wakeAll() // to be refused
	c.outbox.queue.wakeAll()
	c.requests.slots.wakeAll()
	c.outbox.checkDrained()
	c.mu.Unlock()

	var err error
	select {
	case <-drained:
		err = c.flush(ctx)
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

// flush waits until what was handed to the connection is written.
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
