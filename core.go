package mqtt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// now is the time on the clock of the session.
func (c *client) now() time.Duration { return time.Since(c.began) }

// nowFor is now for a message that expires, and 0 for others: looking at the clock is a tenth of what publishing costs.
func (c *client) nowFor(m *session.Message) time.Duration {
	if m.Expires == 0 {
		return 0
	}
	return c.now()
}

func (c *client) ClientID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connAck.ClientID
}

func (c *client) setState(s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moveTo(s)
}

// current returns the link; only the supervisor changes it.
func (c *client) current() *link.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

func (c *client) sessionNumber() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions
}

func (c *client) WaitConnected(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		return c.Err()
	case <-ctx.Done():
		return fmt.Errorf("mqtt: waiting for a connection: %w", ctx.Err())
	}
}

func (c *client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// notConnected is the error of a call that finds no connection; mu is held.
func (c *client) notConnected() error {
	switch {
	case c.err != nil:
		return &notSent{c.err}
	case c.draining, c.ctx.Err() != nil:
		return &notSent{ErrClosed}
	}
	return &notSent{ErrNotConnected}
}

// lost is the error of a call whose connection ended under it.
func (c *client) lost() error {
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

// connectionError makes the public error of what ended a connection.
func (c *client) connectionError(cause error) error {
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

// largest is the length of the largest packet that the server takes; mu is held.
func (c *client) largest() int {
	if most := c.connAck.MaximumPacketSize; most != 0 && most < maxPacketSize {
		return int(most)
	}
	return maxPacketSize // also of what an int of 32 bits cannot hold
}

// tooLarge reports whether the server takes no packet of that size; mu is held.
func (c *client) tooLarge(size int) bool { return size > c.largest() }

// live returns the link if packets that are appended to it go out, or nil; mu is held.
func (c *client) live() *link.Link {
	if c.link == nil || c.link.Finishing() {
		return nil
	}
	return c.link
}

// protocolError makes the error for a packet that breaks a rule: v5, or v311 in that version.
func (c *client) protocolError(t codec.Type, v5, v311, detail string) error {
	rule := v5
	if c.version < codec.V5 {
		rule = v311
	}
	return &codec.Error{Packet: t, Code: codec.ProtocolError, Rule: rule, Detail: detail}
}

// checkProblem refuses what WithoutProblemInformation asked the server not to send [MQTT-3.1.2-29].
func (c *client) checkProblem(h codec.Header, reason string, u UserProperties) error {
	if !c.config.noProblemInformation || reason == "" && len(u) == 0 {
		return nil
	}
	return c.protocolError(h.Type, "MQTT-3.1.2-29", "", "a reason string or user properties, although this client asked for none")
}

// callSupervisor makes the supervisor look what is new.
func (c *client) callSupervisor() {
	select {
	case c.attention <- struct{}{}:
	default: // an earlier call was not taken yet
	}
}

// watchStalls makes the supervisor look for stalls, from now on until no message waits; mu is held.
func (c *client) watchStalls() {
	if c.looking {
		return
	}
	c.looking = true
	c.callSupervisor()
}
