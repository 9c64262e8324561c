package mqtt

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// Trace is a set of hooks that observe a client; any may be nil, and then costs nothing. Hooks only observe, except that
// Publish may add properties and Process may replace a ctx. Decisions are made by ReconnectPolicy.Decide and the functions
// of WithAttemptFunc and WithCredentialsFunc.
//
// All hooks except Publish, Process and Packet run one at a time, in the order of the events, in a goroutine that exists
// while a hook waits to run. A hook that blocks holds up the other hooks, and also Close and Disconnect, which wait for the
// hooks. So a hook must not call Close or Disconnect.
type Trace struct {
	// Publish is called by Publish and PublishAsync, by Request when replies can come, and by Respond for each reply, before
	// the message is composed. It runs in the goroutine of the call, with its ctx; for a reply with the values of the
	// handler's. It may block, which holds up that call alone, and it may call the client. An invalid topic name or QoS fails
	// before.
	//
	// The function that it returns, if that is not nil, is called once, when the outcome is known. Publish, Request and
	// Respond call it themselves before they return or go on, so it may block there too. After PublishAsync it runs among
	// the other hooks, when the Delivery is done, or in the call if the Delivery is done by then. No such call is ever left
	// out, so one that blocks costs memory with each message.
	Publish func(ctx context.Context, p *PublishTrace) func(PublishOutcome)
	// Process is called before the application processes a message: before each call of the function of Handle or Respond,
	// and before each body of All and Batches, there for every message of the slice. It runs in the goroutine of that
	// call or loop, and may block, which holds up that goroutine alone.
	//
	// The function of Handle or Respond gets the ctx that Process returns, which must come from the one that it got. A body
	// has no ctx. The function that Process returns, if that is not nil, is called when the processing is over, and before
	// the message is acknowledged: with the error of the function, or with nil after a body. If a loop is left by break,
	// return or a panic, and the message stays unacknowledged and is delivered again, it gets an error that says so. It is
	// not called when the function of Handle or Respond panics. Next and Messages do not show when the processing
	// is over, and do not call Process.
	Process func(ctx context.Context, s *Subscription, m Message) (context.Context, func(error))
	// ConnectStart and ConnectDone are called before and after every attempt to connect. attempt is the number of the
	// attempt since the last stable connection, from 1. server has no password. err is nil if the attempt succeeded.
	ConnectStart func(server string, attempt int)
	ConnectDone  func(server string, attempt int, err error)
	// Disconnected is called when a connection has ended: err is an ErrClosed after Close and Disconnect.
	Disconnected func(err error)
	// Retrying is called before the client waits for the next attempt.
	Retrying     func(f Failure, delay time.Duration)
	StateChanged func(from, to State)
	// Dropped is called for every message that Subscription.Dropped counts. Stalled is called when a message of a subscription
	// has held up all acknowledgements for 10 s, with its topic name and since when it has. While 1,000 hooks wait to run, further calls of Dropped are left out.
	Dropped func(s *Subscription, m Message)
	Stalled func(s *Subscription, topic string, since time.Time)
	// Packet is called before a packet is written and after one was read, except for a message that is too large for
	// WithMaximumPacketSize. The reading and the writing goroutine of the connection call it, so two calls may run at
	// the same time, one for each direction. The connection waits for it. It must not call the client.
	Packet func(p PacketTrace)
}

// PublishTrace is a message that is to be published.
type PublishTrace struct {
	Topic   string
	Payload []byte // valid until the hook returns; it must not be changed
	QoS     QoS
	Retain  bool
	// Properties are those of the message, and the hook may change them. ResponseTopic and CorrelationData stay if they are
	// set, because a reply depends on them. The elements of slices belong to the publisher: to change some, replace the
	// slice; Add is safe. On MQTT 3.1.1 they are empty, and changes mean nothing.
	Properties PublishProperties
}

// PublishOutcome is what became of a publish.
type PublishOutcome struct {
	Queued time.Time  // when the message began to wait in the queue; zero: it did not
	Sent   time.Time  // when it was handed to the connection, for the last time; zero: it was not
	Resent bool       // it was handed over more than once
	Reason ReasonCode // as Delivery.Reason says
	Err    error      // what Publish or Request returns, or the Err of the Delivery; nil: success
}

// publishing is a publish whose outcome a hook wants to know.
type publishing struct {
	done  func(PublishOutcome)
	async bool // the hook is called when the Delivery is resolved; otherwise the publisher calls it

	// Guarded by mu once the message was submitted.
	outcome PublishOutcome
}

// sent notes that the message was handed to the connection. p may be nil.
func (p *publishing) sent() {
	if p != nil {
		p.sentNow()
	}
}

// sentNow does the work of sent.
func (p *publishing) sentNow() {
	p.outcome.Resent = !p.outcome.Sent.IsZero()
	p.outcome.Sent = time.Now()
}

// queued notes that the message begins to wait in the queue. p may be nil.
func (p *publishing) queued() {
	if p != nil {
		p.outcome.Queued = time.Now()
	}
}

// tracePublish calls the hook Publish with a message, and sets the properties that it wants.
func (c *config) tracePublish(ctx context.Context, m *session.Message, o *publishOptions) {
	t := &PublishTrace{Topic: m.Topic, Payload: m.Payload, QoS: QoS(m.QoS), Retain: m.Retain}
	var given PublishProperties
	if o.properties != nil {
		given = *o.properties
		t.Properties = given
		t.Properties.UserProperties = slices.Clip(given.UserProperties)
	}
	if done := c.trace.Publish(ctx, t); done != nil {
		o.publishing = &publishing{done: done}
	}
	if c.version < codec.V5 {
		return
	}
	p := t.Properties
	p.ResponseTopic = cmp.Or(given.ResponseTopic, p.ResponseTopic)
	if given.CorrelationData != nil {
		p.CorrelationData = given.CorrelationData
	}
	m.Properties = (*codec.PublishProperties)(&p)
}

// resolved notes the outcome of a message. After a PublishAsync it has the hook called.
// The caller holds mu.
func (n *notices) resolved(p *publishing, reason ReasonCode, err error) {
	p.outcome.Reason = reason
	if p.async {
		o := p.outcome
		o.Err = err
		n.run(func() { p.done(o) })
	}
}

// end calls the hook with the outcome of a publish. p may be nil.
func (n *notices) end(p *publishing, err error) {
	if p == nil {
		return
	}
	n.mu.Lock()
	o := p.outcome
	n.mu.Unlock()
	o.Err = err
	p.done(o)
}

// PacketTrace is a packet on the wire.
type PacketTrace struct {
	Sent   bool
	Type   string     // "PUBLISH"
	ID     uint16     // packet identifier; 0: none
	Size   int        // of the whole packet, in bytes
	Topic  string     // of a PUBLISH; empty where an alias stands for it
	Reason ReasonCode // of a packet that has one
	// Packet is the whole packet, for package codec to decode, with "***" for the password, for a user name without
	// one, which is a token, and for authentication data; nil if it breaks the specification. It is valid until the
	// hook returns, and must not be changed.
	Packet []byte
}

// WithTrace sets hooks that observe the client.
func WithTrace(t *Trace) Option {
	return option(func(c *config) error {
		c.trace = &untraced
		if t != nil {
			hooks := *t
			c.trace = &hooks
		}
		return nil
	})
}

// untraced is the Trace of clients that have none.
var untraced Trace

// callbacks are calls of the application's functions that wait to be made, in order. While some wait, a goroutine makes
// them.
type callbacks struct {
	*core

	// Guarded by mu.
	line    fifo.Queue[func()]
	running bool
}

// maxCallbacks bounds the calls that wait. Beyond it, calls that are not essential are left out.
const maxCallbacks = 1000

// full reports whether calls that are not essential should be left out.
// The caller holds mu.
func (e *callbacks) full() bool { return e.line.Len() >= maxCallbacks }

// run has f called without the mutex, after all earlier ones. The client must not have ended.
// The caller holds mu.
func (e *callbacks) run(f func()) {
	e.line.Push(f)
	if !e.running {
		e.running = true
		e.goroutines.Go(e.runAll)
	}
}

func (e *callbacks) runAll() {
	for f := e.next(); f != nil; f = e.next() {
		f()
	}
}

// next returns the call to be made next; nil ends the goroutine.
func (e *callbacks) next() func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.line.Len() == 0 {
		e.running = false
		return nil
	}
	return e.line.Pop()
}

// notices are the calls of the logger and of the hooks of Trace, one after another, and the client's state, whose
// changes are reported to a hook.
type notices struct {
	callbacks

	// Guarded by mu.
	state    State     // of the connection
	reported State     // passed to the latest StateChanged
	since    time.Time // of Status
}

func (n *notices) init(c *core) { n.core, n.since = c, c.began }

// log reports an event that is not the error of any call to the logger, if the application has given one.
// The caller holds mu.
func (n *notices) log(level slog.Level, text string, args ...any) {
	if n.config.logger != nil && !n.full() {
		n.run(func() { n.config.logger.Log(context.Background(), level, text, args...) })
	}
}

// report is log for those who do not hold the mutex.
func (n *notices) report(level slog.Level, text string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.log(level, text, args...)
	}
}

// moveTo changes the state of the connection, and reports it if the application sees a change.
// The caller holds mu.
func (n *notices) moveTo(s State) {
	n.state = s
	from, to := n.reported, n.visible()
	n.reported = to
	if from != to && !(from == StateConnecting && to == StateWaiting || from == StateWaiting && to == StateConnecting) {
		n.since = time.Now()
	}
	if f := n.config.trace.StateChanged; f != nil && from != to {
		n.run(func() { f(from, to) })
	}
}

// visible is the state that the application sees.
// The caller holds mu.
func (n *notices) visible() State {
	if n.draining && n.state != StateClosed {
		return StateDisconnecting
	}
	return n.state
}

// traceDropped reports a message that a subscription drops.
// The caller holds mu.
func (n *notices) traceDropped(s *Subscription, m Message) {
	if f := n.config.trace.Dropped; f != nil && !n.full() {
		n.run(func() { f(s, m) })
	}
}

// traceDisconnected reports the end of a connection.
// The caller holds mu.
func (n *notices) traceDisconnected(err error) {
	if f := n.config.trace.Disconnected; f != nil {
		n.run(func() { f(err) })
	}
}

// notice is like run, for callers that do not hold mu.
func (n *notices) notice(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.run(f)
}

func (n *notices) traceConnectStart(server string, attempt int) {
	if f := n.config.trace.ConnectStart; f != nil {
		n.notice(func() { f(server, attempt) })
	}
}

func (n *notices) traceConnectDone(server string, attempt int, err error) {
	if f := n.config.trace.ConnectDone; f != nil {
		n.notice(func() { f(server, attempt, err) })
	}
}

func (n *notices) traceRetrying(failure Failure, delay time.Duration) {
	if f := n.config.trace.Retrying; f != nil {
		n.notice(func() { f(failure, delay) })
	}
}

// packetHook returns the function that a link calls with each packet; nil if there is no hook.
func (c *config) packetHook() func(sent bool, h codec.Header, packet []byte) {
	f := c.trace.Packet
	if f == nil {
		return nil
	}
	return func(sent bool, h codec.Header, packet []byte) { f(describe(sent, h, packet, c.version)) }
}

// describe makes the PacketTrace of a packet. If the packet cannot be decoded, only type and size are set.
func describe(sent bool, h codec.Header, packet []byte, v codec.Version) PacketTrace {
	t := PacketTrace{Sent: sent, Type: h.Type.String(), Size: len(packet)}
	p, err := codec.Decode(h, packet[len(packet)-h.Length:], v)
	if err != nil {
		return t
	}
	t.Packet = packet
	switch p := p.(type) {
	case *codec.Connect:
		t.Packet = withoutSecrets(p, v)
	case *codec.Auth:
		t.Reason, t.Packet = ReasonCode(p.Code), withoutSecrets(p, v)
	case *codec.Connack:
		t.Reason, t.Packet = ReasonCode(p.Code), withoutSecrets(p, v)
	case *codec.Disconnect:
		t.Reason = ReasonCode(p.Code)
	case *codec.Publish:
		t.ID, t.Topic = p.PacketID, p.Topic
	case *codec.Subscribe:
		t.ID = p.PacketID
	case *codec.Suback:
		t.ID = p.PacketID
	case *codec.Unsubscribe:
		t.ID = p.PacketID
	case *codec.Unsuback:
		t.ID = p.PacketID
	default:
		t.ID, t.Reason = acknowledgement(p)
	}
	return t
}

// acknowledgement returns what PUBACK, PUBREC, PUBREL and PUBCOMP have in common.
func acknowledgement(p codec.Packet) (id uint16, code ReasonCode) {
	switch p := p.(type) {
	case *codec.Puback:
		return p.PacketID, ReasonCode(p.Code)
	case *codec.Pubrec:
		return p.PacketID, ReasonCode(p.Code)
	case *codec.Pubrel:
		return p.PacketID, ReasonCode(p.Code)
	case *codec.Pubcomp:
		return p.PacketID, ReasonCode(p.Code)
	}
	return 0, 0
}

// hidden replaces a secret in everything that may be printed.
const hidden = "***"

// withoutSecrets encodes a packet again, with the secrets replaced.
func withoutSecrets(p codec.Packet, v codec.Version) []byte {
	hide := func(secret *[]byte) {
		if *secret != nil {
			*secret = []byte(hidden)
		}
	}
	switch p := p.(type) {
	case *codec.Connect:
		switch {
		case p.HasPassword:
			p.Password = []byte(hidden)
		case p.HasUsername:
			p.Username = hidden
		}
		hide(&p.Properties.AuthenticationData)
	case *codec.Connack:
		hide(&p.Properties.AuthenticationData)
	case *codec.Auth:
		hide(&p.Data)
	}
	b, _ := p.Append(nil, v) // cannot fail: the packet was decoded before
	return b
}

func (n *notices) setState(s State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.moveTo(s)
}

func (n *notices) current() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.visible()
}
