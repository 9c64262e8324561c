package mqtt

import (
	"context"
	"log/slog"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// Trace is a set of hooks that observe a client; any may be nil. They decide nothing: that is for ReconnectPolicy.Decide
// and the functions of WithAttemptFunc and WithCredentialsFunc.
//
// All hooks but Packet run one at a time, in the order of what they tell, in a goroutine that exists while there is
// something to tell. A hook that blocks holds up the other hooks, and Close and Disconnect, which wait for them: it must call
// neither.
type Trace struct {
	// ConnectStart and ConnectDone come before and after every attempt to connect, whose number counts from 1 since the
	// last stable connection. server is without password. A nil err says that CONNACK has come.
	ConnectStart func(server string, attempt int)
	ConnectDone  func(server string, attempt int, err error)
	// Disconnected comes when a connection has ended: err is an ErrClosed after Close and Disconnect.
	Disconnected func(err error)
	// Retrying comes before the wait for the next attempt.
	Retrying     func(f Failure, delay time.Duration)
	StateChanged func(from, to State)
	// Dropped comes with every message that Subscription.Dropped counts, and Stalled when a subscription has held up all
	// acknowledgements for 10 s. When 1,000 hooks wait to run, further calls of Dropped are left out.
	Dropped func(s *Subscription, m Message)
	Stalled func(s *Subscription, since time.Time)
	// Packet comes before a packet is written and when one has been read, but not with a message that is too large for
	// WithMaximumPacketSize. The goroutines that read and write call it, so that two calls may be concurrent, one for each
	// direction. The connection waits for it. It must not call the client.
	Packet func(p PacketTrace)
}

// PacketTrace is a packet on the wire.
type PacketTrace struct {
	Sent   bool
	Type   string     // "PUBLISH"
	ID     uint16     // packet identifier; 0: none
	Size   int        // of the whole packet, in bytes
	Topic  string     // of a PUBLISH; empty where an alias stands for it
	Reason ReasonCode // of a packet that has one
	// Packet is the whole packet, for package codec to decode, with "***" for the password, for a user name without one,
	// which is a token, and for authentication data; nil if it breaks the specification. It is good until the hook
	// returns, and must not be changed.
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

// errands are calls of the application's functions that wait to be made. A goroutine exists while there are some. The
// client's mutex guards it.
type errands struct {
	line    fifo.Queue[func()]
	running bool
}

// mostErrands is how many calls may wait that can be left out.
const mostErrands = 1000

// full reports whether a call that can be left out should be.
func (e *errands) full() bool { return e.line.Len() >= mostErrands }

// run has f called without the mutex, after what was to be run before; mu is held. The client must not have ended.
func (c *client) run(e *errands, f func()) {
	e.line.Push(f)
	if !e.running {
		e.running = true
		c.goroutines.Go(func() { c.runAll(e) })
	}
}

func (c *client) runAll(e *errands) {
	for f := c.nextErrand(e); f != nil; f = c.nextErrand(e) {
		f()
	}
}

// nextErrand returns the call to be made next; nil ends the goroutine.
func (c *client) nextErrand(e *errands) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.line.Len() == 0 {
		e.running = false
		return nil
	}
	return e.line.Pop()
}

// log reports what no call can return; mu is held.
func (c *client) log(level slog.Level, text string, args ...any) {
	if !c.notices.full() {
		c.run(&c.notices, func() { c.config.logger.Log(context.Background(), level, text, args...) })
	}
}

// moveTo changes what the client is doing; mu is held.
func (c *client) moveTo(s State) {
	c.state = s
	from, to := c.shown, c.visible()
	c.shown = to
	if f := c.config.trace.StateChanged; f != nil && from != to {
		c.run(&c.notices, func() { f(from, to) })
	}
}

// visible is the state as the application sees it; mu is held.
func (c *client) visible() State {
	if c.draining && c.state != StateClosed {
		return StateDisconnecting
	}
	return c.state
}

// traceDropped is told of a message that a subscription drops; mu is held.
func (c *client) traceDropped(s *Subscription, m Message) {
	if f := c.config.trace.Dropped; f != nil && !c.notices.full() {
		c.run(&c.notices, func() { f(s, m) })
	}
}

// traceDisconnected is told of a connection's end; mu is held.
func (c *client) traceDisconnected(err error) {
	if f := c.config.trace.Disconnected; f != nil {
		c.run(&c.notices, func() { f(err) })
	}
}

// notice is run for those who do not hold mu.
func (c *client) notice(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run(&c.notices, f)
}

func (c *client) traceConnectStart(server string, attempt int) {
	if f := c.config.trace.ConnectStart; f != nil {
		c.notice(func() { f(server, attempt) })
	}
}

func (c *client) traceConnectDone(server string, attempt int, err error) {
	if f := c.config.trace.ConnectDone; f != nil {
		c.notice(func() { f(server, attempt, err) })
	}
}

func (c *client) traceRetrying(failure Failure, delay time.Duration) {
	if f := c.config.trace.Retrying; f != nil {
		c.notice(func() { f(failure, delay) })
	}
}

// packetHook returns what a link calls with each packet; nil if nobody wants to see them.
func (c *config) packetHook() func(sent bool, h codec.Header, packet []byte) {
	f := c.trace.Packet
	if f == nil {
		return nil
	}
	return func(sent bool, h codec.Header, packet []byte) { f(describe(sent, h, packet, c.version)) }
}

// describe says what a packet is. One that cannot be decoded has its type and size only.
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

// acknowledgement returns what the four acknowledgements of a message have.
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

// hidden stands for a secret in everything that may be printed.
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
	b, _ := p.Append(nil, v) // of a packet that was decoded
	return b
}
