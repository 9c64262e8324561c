package mqtt

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// This file is about requests (section 4.10). Each response topic has one Subscription. Its messages do not go into a
// channel, but under the mutex to the requests that wait for them.

// requests is the state of a client's requests.
type requests struct {
	*core
	notices  *notices
	outbox   *outbox
	inbox    *inbox
	attempts *attempts

	pool sync.Pool // of exchanges; see outbox.waiters

	// Guarded by mu.
	topics  map[string]*replies
	clock   uint64   // counts uses of response topics
	own     string   // the client's own response topic, made from basis
	basis   string   // the server's Response Information
	pending int      // requests that have a slot
	slots   waitlist // requests that wait for a slot
}

func (q *requests) init(c *client) {
	q.core, q.notices, q.outbox, q.inbox, q.attempts = &c.core, &c.notices, &c.outbox, &c.inbox, &c.attempts
}

const (
	maxResponseTopics = 64
	replyPrefix       = "petrel/reply"
	errorProperty     = "petrel-error" // see ResponseError
	maxMessageExpiry  = math.MaxUint32 * time.Second
)

// replies is the subscription to a response topic.
type replies struct {
	requests *requests
	topic    string
	sub      *Subscription

	// Guarded by mu.
	exchanges map[string]*exchange // requests that wait for a reply, by correlation data
	users     int                  // number of exchanges, and of requests that wait for the subscription
	used      uint64               // the latest use, on requests.clock
	granting  waitlist             // requests that wait for the subscription
}

// exchange is a request and the reply to it.
type exchange struct {
	properties PublishProperties // of the request
	random     *randomness       // for correlation data, if the application gives none
	key        string            // the correlation data
	done       chan struct{}     // capacity 1: receives a value when reply or err is known
	reply      Message           // written before done receives a value, as err is
	err        error             // why there will be no reply
	concluded  bool              // the call has received from done

	// Guarded by mu.
	replies *replies // where it waits; nil: it does not wait
}

// ResponseError is a failure that the responder sent instead of an answer. Request returns it if the reply has a user
// property with the name "petrel-error"; Text is the value. Any program may send such a reply.
//
// A handler of Respond may return a ResponseError to choose what is sent: the payload, the content type, UTF8Payload
// and the user properties of Reply. So a failure can be passed on unchanged. For any other error its text is sent.
type ResponseError struct {
	Text  string
	Reply Message
}

func (e *ResponseError) Error() string { return "mqtt: the responder failed: " + e.Text }

// WithMaxRequests bounds the requests that wait for replies at the same time, from 1. The default is 1,000. Further
// calls of Request wait for their turn.
func WithMaxRequests(n int) OptionV5 {
	return optionV5(func(c *config) error {
		c.maxRequests = n
		return between("WithMaxRequests", n, 1, math.MaxInt)
	})
}

// WithReplyQoS sets the QoS at which the client subscribes to replies. Without it, replies come at QoS 0 once the client has
// made a subscription at QoS 1 or 2, and before that at QoS 1.
//
// The reason is that MQTT has one window for all messages at QoS 1 and 2 to a client: the server's own limit and the Receive
// Maximum. When messages that the application has not acknowledged fill the window, no reply at QoS 1 can come. A handler that
// waits for one keeps its own message unacknowledged, so that the window would stay full. A reply at QoS 0 needs no
// room in the window. But it is lost if the connection is down when it is published, and then the request waits until its
// ctx ends. AtLeastOnce is for clients whose handlers make no requests. When the Receive Maximum has been exhausted for 10 s
// without any acknowledgement, requests whose replies would come at QoS 1 or 2 fail with an error that says so.
func WithReplyQoS(qos QoS) OptionV5 {
	return optionV5(func(c *config) error {
		c.replyQoS = &qos
		return between("WithReplyQoS", int(qos), 0, 2)
	})
}

func (c clientV5) Request(ctx context.Context, topic string, payload []byte, opts ...PublishOptionV5) (Message, error) {
	o := publishOptions{qos: AtLeastOnce} // an option, here or in topic defaults, overrides it
	addOptions(&o, opts)
	return c.requests.request(ctx, topic, payload, &o)
}

func (q *requests) request(ctx context.Context, topicName string, payload []byte, o *publishOptions) (Message, error) {
	reply, err := q.exchange(ctx, topicName, payload, o)
	q.notices.end(o.publishing, err)
	return reply, err
}

func (q *requests) exchange(ctx context.Context, topicName string, payload []byte, o *publishOptions) (Message, error) {
	if err := topic.CheckName(topicName); err != nil {
		return Message{}, topicError(topicName, false, err)
	}
	x := q.newExchange(o.properties)
	defer q.recycleExchange(x)
	if err := q.openExchange(ctx, x); err != nil {
		return Message{}, err
	}
	x.expireWith(ctx)
	o.properties = &x.properties
	var m session.Message
	if err := q.outbox.compose(ctx, &m, topicName, payload, o); err != nil {
		return Message{}, err
	}
	if m.QoS == 0 {
		err := q.outbox.publishQoS0(ctx, &m, o.publishing)
		switch {
		case err == nil:
			return q.awaitReply(ctx, x, &m, nil)
		case !o.queues(err):
			return Message{}, err
		}
	}
	d := q.outbox.waiter()
	defer q.outbox.reuse(d)
	d.observe(o.publishing)
	m.Owner = d
	if err := q.outbox.submit(ctx, d, &m); err != nil {
		return Message{}, err
	}
	return q.awaitReply(ctx, x, &m, d)
}

func (q *requests) newExchange(p *PublishProperties) *exchange {
	x, ok := q.pool.Get().(*exchange)
	if !ok {
		x = &exchange{done: make(chan struct{}, 1), random: new(randomness)}
	}
	if p != nil {
		x.properties = *p
	}
	if x.properties.CorrelationData == nil {
		x.properties.CorrelationData = x.random.next()
	}
	x.key = string(x.properties.CorrelationData)
	return x
}

// randomness is correlation data for several requests: random, so that another client that may publish to the response topic
// cannot forge a reply. To make them together costs half as much.
type randomness struct {
	bytes [256]byte
	left  int
}

// next returns 16 bytes, which the next request that uses r may overwrite.
func (r *randomness) next() []byte {
	if r.left == 0 {
		rand.Read(r.bytes[:])
		r.left = len(r.bytes)
	}
	r.left -= 16
	return r.bytes[r.left : r.left+16]
}

// expireWith makes the request expire when ctx ends, unless it has an expiry already.
func (x *exchange) expireWith(ctx context.Context) {
	deadline, ok := ctx.Deadline()
	if ok && x.properties.MessageExpiry == 0 {
		x.properties.MessageExpiry = min(max(time.Until(deadline), time.Millisecond), maxMessageExpiry)
	}
}

// openExchange waits for a slot, and for the subscription to the response topic. After that x waits for its reply. If
// it returns an error, nothing was sent.
func (q *requests) openExchange(ctx context.Context, x *exchange) error {
	if ctx.Err() != nil {
		return notPublished(ctx)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if x.properties.ResponseTopic == "" && q.attempts.sessions == 0 { // CONNACK may determine the topic
		q.mu.Unlock()
		err := q.attempts.wait(ctx)
		q.mu.Lock()
		if err != nil {
			return &notSent{err}
		}
	}
	if err := q.takeSlot(ctx); err != nil {
		return err
	}
	err := q.joinReplies(ctx, x)
	if err != nil {
		q.freeSlot()
	}
	return err
}

// takeSlot waits for a slot among the requests.
// The caller holds mu. It is free meanwhile.
func (q *requests) takeSlot(ctx context.Context) error {
	woken := false
	for {
		switch {
		case q.err != nil || q.draining:
			return q.notConnected()
		case q.pending < q.config.maxRequests && (woken || q.slots.empty()):
			q.pending++
			return nil
		case q.slots.wait(ctx, &q.mu, woken) != nil:
			return notPublished(ctx)
		}
		woken = true
	}
}

// The caller holds mu.
func (q *requests) freeSlot() {
	q.pending--
	q.slots.wake()
}

// joinReplies waits until the server has granted the subscription to x's response topic.
// The caller holds mu. It is free meanwhile.
func (q *requests) joinReplies(ctx context.Context, x *exchange) error {
	r, err := q.repliesTo(x.properties.ResponseTopic)
	if err != nil {
		return err
	}
	x.properties.ResponseTopic = r.topic
	r.users++
	if err := r.awaitGrant(ctx); err != nil {
		r.users--
		return err
	}
	if err := r.checkRoom(); err != nil {
		r.users--
		return &notSent{fmt.Errorf("mqtt: a reply could not come: %w", err)}
	}
	if r.exchanges[x.key] != nil {
		r.users--
		return &notSent{fmt.Errorf("mqtt: a request with correlation data %q waits for its reply already", x.key)}
	}
	x.replies, r.exchanges[x.key] = r, x
	return nil
}

// checkRoom returns an error if no reply can come because messages without acknowledgement have filled the Receive Maximum
// for some time.
// The caller holds mu.
func (r *replies) checkRoom() error {
	if q := r.requests; q.session.Unacknowledged() >= q.config.receiveMaximum && r.needRoom() {
		return q.starved()
	}
	return nil
}

// needRoom reports whether the replies need room in the Receive Maximum.
// The caller holds mu.
func (r *replies) needRoom() bool { return r.sub.holder.Routes()[0].QoS() > 0 }

// awaitGrant waits until the server has the subscription in its current session. Without a connection the state of the
// latest connection counts, because the subscription is made again before anything is sent.
// The caller holds mu. It is free meanwhile.
func (r *replies) awaitGrant(ctx context.Context) error {
	for {
		switch {
		case r.sub.ended:
			return &notSent{fmt.Errorf("mqtt: subscribing to replies: %w", r.sub.err)}
		case !r.sub.call.unfinished() && r.sub.holder.Routes()[0].Confirmed():
			return nil
		case r.granting.wait(ctx, &r.requests.mu, false) != nil:
			return notPublished(ctx)
		}
	}
}

// repliesTo returns the subscription to a response topic, and makes it if there is none. "" is the client's own topic.
// The caller holds mu.
func (q *requests) repliesTo(name string) (*replies, error) {
	if name == "" {
		name = q.responseTopic()
	}
	r := q.topics[name]
	if r == nil {
		var err error
		if r, err = q.subscribeReplies(name); err != nil {
			return nil, err
		}
	} else if err := r.lower(); err != nil {
		return nil, err
	}
	q.clock++
	r.used = q.clock
	return r, nil
}

// responseTopic returns the client's own response topic: the server's Response Information or a fixed prefix, and then
// the client identifier. So no two clients of a server have the same topic, and rules of access control can name it.
// The caller holds mu.
func (q *requests) responseTopic() string {
	if info := q.connAck.ResponseInformation; q.own == "" || q.basis != info {
		q.basis, q.own = info, replyPrefix
		if info != "" {
			q.own = strings.TrimSuffix(info, "/")
		}
		q.own += "/" + topicLevel.Replace(q.connAck.ClientID)
	}
	return q.own
}

// topicLevel makes one level of a topic name from a client identifier. Different identifiers give different levels.
var topicLevel = strings.NewReplacer("%", "%25", "/", "%2F", "+", "%2B", "#", "%23")

// subscribeReplies makes the subscription to a response topic. It does not wait for SUBACK. If the server refuses,
// replies.ended wakes the requests that wait.
// The caller holds mu.
func (q *requests) subscribeReplies(name string) (*replies, error) {
	if err := topic.CheckName(name); err != nil {
		return nil, topicError(name, false, err)
	}
	if q.inbox.router.Inner(name) != name {
		return nil, &notSent{fmt.Errorf("mqtt: a subscription to the response topic %q would be one to another topic", name)}
	}
	if err := q.dropIdleReplies(); err != nil {
		return nil, err
	}
	s := newSubscription(q.inbox, subscribeOptions{retain: SkipRetained, buffer: 1})
	r := &replies{requests: q, topic: name, sub: s, exchanges: make(map[string]*exchange)}
	s.sink = r
	if _, err := q.inbox.beginSubscribe(s, []filterRequest{{name, q.replyQoS()}}); err != nil {
		return nil, err
	}
	if s.ended { // refused at once; awaitGrant returns the error
		return r, nil
	}
	if q.topics == nil {
		q.topics = make(map[string]*replies)
	}
	q.topics[name] = r
	return r, nil
}

// replyQoS is the QoS for replies, see WithReplyQoS.
// The caller holds mu.
func (q *requests) replyQoS() QoS {
	switch {
	case q.config.replyQoS != nil:
		return *q.config.replyQoS
	case q.inbox.acknowledges:
		return AtMostOnce
	}
	return AtLeastOnce
}

// lower lowers the QoS of the subscription, if the client has made others at QoS 1 or 2 since. The server has the SUBSCRIBE
// before the request.
// The caller holds mu.
func (r *replies) lower() error {
	if r.sub.ended {
		return nil
	}
	in, rt := r.requests.inbox, r.sub.holder.Routes()[0]
	if !in.router.Lower(&r.sub.holder, rt, byte(r.requests.replyQoS())) || in.live() == nil {
		return nil // without a connection: the next one subscribes
	}
	skip := func(*route.Route) RetainHandling { return SkipRetained }
	if err := in.sendSubscribe(&filterPacket{routes: []*route.Route{rt}}, r.sub, nil, skip); err != nil {
		return &notSent{fmt.Errorf("mqtt: subscribing to replies: %w", err)}
	}
	return nil
}

// dropIdleReplies makes room for one more response topic: if there are too many, it unsubscribes the one that was not
// used for the longest time.
// The caller holds mu.
func (q *requests) dropIdleReplies() error {
	if len(q.topics) < maxResponseTopics {
		return nil
	}
	var idle *replies
	for _, r := range q.topics {
		if r.users == 0 && (idle == nil || r.used < idle.used) {
			idle = r
		}
	}
	if idle == nil {
		return &notSent{fmt.Errorf("mqtt: requests wait on %d response topics already", maxResponseTopics)}
	}
	q.inbox.abandon(idle.sub, ErrClosed)
	return nil
}

// take gives a reply to the request that waits for it.
// The caller holds mu.
func (r *replies) take(m Message) {
	x := r.exchanges[string(m.Properties.CorrelationData)]
	if x == nil {
		r.requests.stats.LateReplies++
		return
	}
	x.finish(&m, nil)
}

// granted wakes the requests that wait for the subscription.
// The caller holds mu.
func (r *replies) granted() { r.granting.wakeAll() }

// refused ends the subscription. For an ordinary one the call of Subscribe does that.
// The caller holds mu.
func (r *replies) refused(err error) { r.requests.inbox.abandon(r.sub, err) }

// stalled fails the requests that wait, if their replies cannot come. A handler that waits for one may be the reason.
// The caller holds mu.
func (r *replies) stalled() {
	if err := r.checkRoom(); err != nil {
		r.fail(err)
	}
}

// ended wakes the requests that wait: there will be no replies.
// The caller holds mu.
func (r *replies) ended(err error) {
	if r.requests.topics[r.topic] == r {
		delete(r.requests.topics, r.topic)
	}
	r.fail(err)
	r.granting.wakeAll()
}

// fail ends the waiting for replies.
// The caller holds mu.
func (r *replies) fail(err error) {
	for _, x := range r.exchanges {
		x.finish(new(Message), err)
	}
}

// The caller holds mu.
func (x *exchange) finish(reply *Message, err error) {
	x.reply, x.err = *reply, err
	x.stopWaiting()
	x.done <- struct{}{} // the last use: whoever waits may use x again at once
}

// stopWaiting removes x from the exchanges that wait.
// The caller holds mu.
func (x *exchange) stopWaiting() {
	r := x.replies
	if r == nil {
		return
	}
	x.replies = nil
	delete(r.exchanges, x.key)
	r.users--
	r.requests.freeSlot()
}

// recycleExchange keeps the exchange of a call that returns for another call.
func (q *requests) recycleExchange(x *exchange) {
	if !x.concluded { // otherwise finish has taken x out of its replies, and is done with it
		q.mu.Lock()
		x.stopWaiting()
		q.mu.Unlock()
		select {
		case <-x.done:
		default:
		}
	}
	*x = exchange{done: x.done, random: x.random}
	q.pool.Put(x)
}

// awaitReply waits for the reply to m. It also waits for the acknowledgement of m, because that may say that there will
// be no reply. d is nil at QoS 0, and once m is acknowledged.
func (q *requests) awaitReply(ctx context.Context, x *exchange, m *session.Message, d *Delivery) (Message, error) {
	var acknowledged chan struct{}
	if d != nil {
		acknowledged = d.done
	}
	for {
		select {
		case <-x.done:
			return q.conclude(x, d)
		case <-acknowledged:
			switch {
			case d.err != nil:
				return Message{}, d.err
			case d.reason == NoMatchingSubscribers && d.sends < 2 && !m.Retain:
				return Message{}, &PublishError{Topic: m.Topic, Refusal: Refusal{Code: d.reason}}
			}
			d, acknowledged = nil, nil
		case <-ctx.Done():
			return q.stopWaitingForReply(ctx, x, d)
		}
	}
}

// conclude returns the outcome of a request that is done. It does not wait for the acknowledgement of the request.
func (q *requests) conclude(x *exchange, d *Delivery) (Message, error) {
	x.concluded = true
	resolved, sent := true, true
	if d != nil {
		resolved, sent = q.outbox.letGo(d)
	}
	switch {
	case x.err == nil:
		return x.result()
	case d != nil && resolved && d.err != nil:
		return Message{}, d.err
	case !sent:
		return Message{}, &notSent{x.err}
	}
	return Message{}, fmt.Errorf("%w: waiting for a reply: %w", ErrOutcomeUnknown, x.err)
}

// stopWaitingForReply returns the outcome of a request whose ctx has ended.
func (q *requests) stopWaitingForReply(ctx context.Context, x *exchange, d *Delivery) (Message, error) {
	select {
	case <-x.done:
		return q.conclude(x, d)
	default:
	}
	if d != nil {
		if err := q.outbox.stopWaiting(ctx, d); err != nil {
			return Message{}, err
		}
	}
	return Message{}, fmt.Errorf("%w: waiting for a reply%s: %w", ErrOutcomeUnknown, q.obstacle(x), ctx.Err())
}

// obstacle says why the server could not send the reply for x; "" if there is no reason. The server's own window is not
// known: Mosquitto's has 20 messages.
func (q *requests) obstacle(x *exchange) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.session.Unacknowledged()
	switch {
	case n == 0 || x.replies == nil || !x.replies.needRoom():
		return ""
	case n >= q.config.receiveMaximum:
		return fmt.Sprintf(", which cannot come while %d messages wait for this client's acknowledgement", n)
	}
	return fmt.Sprintf(", which cannot come if the server allows no more messages than wait for this client's acknowledgement (%d)", n)
}

// starved returns an error if the Receive Maximum, which must be exhausted now, has been exhausted for stallWarning, and
// nothing was acknowledged meanwhile: then messages at QoS 1 and 2 cannot come, and probably for long.
// The caller holds mu.
func (q *requests) starved() error {
	waiting := 0
	for i := range q.inbox.stalls {
		st := q.inbox.stalled(i)
		if st == nil {
			continue
		}
		if waiting++; q.now()-st.since < stallWarning {
			return nil
		}
	}
	if waiting == 0 {
		return nil // PUBRELs of the server will make room
	}
	return fmt.Errorf("no message at QoS 1 or 2 can come: %d wait for this client's acknowledgement, and for %v it has acknowledged none",
		q.session.Unacknowledged(), stallWarning)
}

// result returns the reply, or the failure in it.
func (x *exchange) result() (Message, error) {
	if text, failed := x.reply.Properties.UserProperties.Get(errorProperty); failed {
		return Message{}, &ResponseError{Text: text, Reply: x.reply}
	}
	return x.reply, nil
}
