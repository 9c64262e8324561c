package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// core is the state that every part of a client needs: options, mutex, session and connection.
type core struct {
	config  *config
	version codec.Version
	amends  bool      // defaults or a hook may change what is published; otherwise compose need not look for them
	began   time.Time // when the client's clock started; Expires of a message counts from here

	journal *journal // nil: no store

	ctx        context.Context // ends when the client is to end
	cancel     context.CancelFunc
	goroutines sync.WaitGroup // all goroutines of the client except those of its link
	done       chan struct{}  // closed when the client has ended
	attention  chan struct{}  // capacity 1: full when the supervisor has to look at the client's state

	// mu guards the session, the link's write buffer, and in all structs of this package the fields below the words
	// "Guarded by mu". It is never held over I/O, over a send that can block, or over the application's code.
	mu sync.Mutex

	// Guarded by mu.
	draining bool  // Disconnect was called
	limited  bool  // connAck sets limits to what may be published
	err      error // why the client ended
	session  *session.Session
	link     *link.Link // nil: not connected
	connAck  ConnAck
	stats    Stats
}

// errReconnecting ends a connection because a Reconnect wants another one.
var errReconnecting = errors.New("another connection was asked for")

func (c *core) init(cfg *config) {
	c.config = cfg
	c.version = cfg.version
	c.amends = len(cfg.topicDefaults) > 0 || cfg.trace.Publish != nil
	c.began = time.Now()
	c.done = make(chan struct{})
	c.attention = make(chan struct{}, 1)
	c.session = session.New(cfg.limits)
	c.ctx, c.cancel = context.WithCancel(context.Background())
}

// announce keeps what the server has announced.
// The caller holds mu.
func (c *core) announce(a ConnAck) {
	c.connAck = a
	c.limited = a.MaximumQoS < ExactlyOnce || !a.RetainAvailable || a.MaximumPacketSize != 0
}

// now is the time on the client's clock.
func (c *core) now() time.Duration { return time.Since(c.began) }

// nowFor is now for a message that expires, and 0 for any other: reading the clock is a tenth of the cost of
// publishing.
func (c *core) nowFor(m *session.Message) time.Duration {
	if m.Expires == 0 {
		return 0
	}
	return c.now()
}

func (c *core) ClientID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connAck.ClientID
}

// currentLink returns the link. Only the supervisor changes it.
func (c *core) currentLink() *link.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

func (c *core) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// notConnected is the error of a call that needs a connection when there is none.
// The caller holds mu.
func (c *core) notConnected() error {
	switch {
	case c.err != nil:
		return &notSent{c.err}
	case c.draining, c.ctx.Err() != nil:
		return &notSent{ErrClosed}
	}
	return &notSent{ErrNotConnected}
}

// lost is the error of a call whose connection ended while it waited.
func (c *core) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.ctx.Err() != nil:
		return ErrClosed
	}
	return ErrConnectionLost
}

// connectionError makes the public error for the cause of a connection's end.
func (c *core) connectionError(cause error) error {
	var broken *codec.Error
	var disconnect *DisconnectError
	switch {
	case errors.As(cause, &disconnect), errors.Is(cause, ErrClosed):
		return cause
	case errors.As(cause, &broken) && c.version >= codec.V5:
		return &DisconnectError{Refusal: Refusal{Code: ReasonCode(broken.Code)}, Err: packetError(broken)}
	case errors.As(cause, &broken):
		cause = packetError(broken)
	}
	return fmt.Errorf("%w: %w", ErrConnectionLost, cause)
}

// largest is the length of the largest packet that the server accepts.
// The caller holds mu.
func (c *core) largest() int {
	if most := c.connAck.MaximumPacketSize; most != 0 && most < maxPacketSize {
		return int(most)
	}
	return maxPacketSize // also if the value does not fit into an int of 32 bits
}

// tooLarge reports whether a packet of that size is larger than the server accepts.
// The caller holds mu.
func (c *core) tooLarge(size int) bool { return size > c.largest() }

// live returns the link, or nil if there is none or it sends nothing more.
// The caller holds mu.
func (c *core) live() *link.Link {
	if c.link == nil || c.link.Finishing() {
		return nil
	}
	return c.link
}

// protocolError makes the error for a packet that breaks a rule. v5 and v311 are the rule's numbers in the two
// versions.
func (c *core) protocolError(t codec.Type, v5, v311, detail string) error {
	rule := v5
	if c.version < codec.V5 {
		rule = v311
	}
	return &codec.Error{Packet: t, Code: codec.ProtocolError, Rule: rule, Detail: detail}
}

// misplaced makes the error for an acknowledgement whose packet identifier is in use for something else. If it were
// ignored, the call that waits for the right acknowledgement would wait for ever.
func (c *core) misplaced(h codec.Header) error {
	const detail = "the packet identifier is in use for something else"
	if h.Type == codec.SUBACK || h.Type == codec.UNSUBACK {
		return c.protocolError(h.Type, "MQTT-2.2.1-6", "MQTT-2.3.1-7", detail)
	}
	return c.protocolError(h.Type, "MQTT-2.2.1-5", "MQTT-2.3.1-6", detail)
}

// checkProblem returns an error for a Reason String or user properties that WithoutProblemInformation asked the server
// not to send [MQTT-3.1.2-29].
func (c *core) checkProblem(h codec.Header, reason string, u UserProperties) error {
	if !c.config.noProblemInformation || reason == "" && len(u) == 0 {
		return nil
	}
	return c.protocolError(h.Type, "MQTT-3.1.2-29", "", "a reason string or user properties, although this client asked for none")
}

// callSupervisor makes the supervisor look at the client's state.
func (c *core) callSupervisor() {
	select {
	case c.attention <- struct{}{}:
	default: // the supervisor has not reacted to an earlier call yet: it will see both
	}
}

func (c *core) SessionPresent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connAck.SessionPresent
}

func (c *core) Done() <-chan struct{} { return c.done }

func (c *core) countExpired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Expired++
}

// address identifies a server.
func address(u *url.URL) string { return u.Host + u.Path }
