package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/transport"
)

// sendDisconnect sends a DISCONNECT: because the client ends, or before Reconnect makes another connection. The link
// closes the connection when the packet is written, and after a second at the latest.
// [MQTT-3.14.4-3] [MQTT311-3.14.4-3]
func (c *client) sendDisconnect(l *link.Link, final bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var d codec.Disconnect
	cause := errReconnecting
	if final {
		cause = ErrClosed
		if c.attempts.farewell != nil {
			d = *c.attempts.farewell
		}
		if c.connAck.SessionExpiry > 0 && !c.config.keepsSession && d.SessionExpiry == nil {
			d.SessionExpiry = new(uint32)
		}
	}
	// If the packet is too large, drop the human-readable properties first [MQTT-3.14.2-3] [MQTT-3.14.2-4].
	for _, d := range []codec.Disconnect{d, {Code: d.Code, SessionExpiry: d.SessionExpiry}, {Code: d.Code}} {
		packet, err := d.Append(nil, c.version)
		if err == nil && !c.tooLarge(len(packet)) {
			l.Finish(cause, packet)
			c.session.EndIncoming()
			return
		}
	}
	l.Close(cause)
}

// shutDown ends the client: every call that waits returns.
func (c *client) shutDown(err error) {
	c.mu.Lock()
	c.err = err
	c.notices.moveTo(StateClosed)
	c.cancel() // only after err is set: lost relies on that order
	c.attempts.noteUp()
	c.outbox.stopExpiry()
	if c.journal != nil {
		c.journal.ended = true // what is in the store stays there
	}
	sent, unsent := c.session.Discard()
	var toWake []*Delivery
	for i := range sent {
		if d, ok := sent[i].Owner.(*Delivery); ok {
			toWake = d.resolve(toWake, Success, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err))
		}
	}
	for i := range unsent {
		if d, ok := unsent[i].Owner.(*Delivery); ok {
			toWake = d.resolve(toWake, Success, unsentError(d, err))
		}
	}
	for s := range c.inbox.subs {
		s.end(err)
	}
	for _, q := range c.inbox.unsubscribes {
		q.call.finish(err)
	}
	c.outbox.room.wakeAll()
	c.outbox.queue.wakeAll()
	c.requests.slots.wakeAll()
	c.attempts.tellReconnects(err)
	c.mu.Unlock()
	wake(toWake)
	close(c.done)
}

// unsentError is the error of a message that was not sent when the client ended. One in a store will be sent by the next client.
// The caller holds mu.
func unsentError(d *Delivery, err error) error {
	if d.number() == 0 {
		return &notSent{err}
	}
	select {
	case <-d.details.stored:
		return fmt.Errorf("%w: the message stays in the store: %w", ErrOutcomeUnknown, err)
	default:
		return fmt.Errorf("%w: the store may have taken the message: %w", ErrOutcomeUnknown, err)
	}
}

// detach makes the client one without a connection. Messages in flight and in the queue stay. SUBSCRIBEs and
// UNSUBSCRIBEs without an answer are noted, and sent again at the next connect. It reports whether a message or a filter
// was given up because connections are lost over it.
func (c *client) detach(err error) (gaveUp bool) {
	toWake, gaveUp := c.detachLink(err)
	wake(toWake)
	return gaveUp
}

func (c *client) detachLink(err error) (toWake []*Delivery, gaveUp bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in, out := c.link.Bytes()
	c.stats.BytesIn += in
	c.stats.BytesOut += out
	if !errors.Is(err, ErrClosed) && !errors.Is(err, errReconnecting) { // otherwise this client ended the connection
		c.stats.Losses++
		toWake, gaveUp = c.blame(err)
	}
	c.link = nil
	c.attempts.lastErr = err
	c.auth.loseAuth(err)
	c.notices.traceDisconnected(err)
	c.notices.moveTo(StateWaiting)
	c.attempts.up = make(chan struct{})
	c.inbox.pauseStalls()
	unanswered := c.session.Lost()
	gaveUp = c.inbox.blameSubscribe(unanswered, err) || gaveUp
	for _, owner := range unanswered {
		c.inbox.noteLostAnswer(owner.(*filterPacket))
	}
	if !c.config.withoutReconnect {
		c.outbox.room.wakeAll() // they return ErrNotConnected; without reconnecting the client ends in a moment, and they return why
		c.outbox.queue.wakeAll()
	}
	return toWake, gaveUp
}

// blame gives up a poison message: one after which the connection was lost each time that it was sent.
// The caller holds mu.
func (c *client) blame(err error) (toWake []*Delivery, gaveUp bool) {
	m, guilty := c.session.Blame(c.config.poisonLimit)
	if !guilty {
		return nil, false
	}
	c.notices.log(slog.LevelError, "mqtt: a message was given up: connections are lost whenever it is sent again",
		"topic", m.Topic, "bytes", packetSize(&m, c.version), "connections", c.config.poisonLimit, "because", err)
	c.outbox.checkDrained()
	toWake = resolveOwner(nil, m.Owner, fmt.Errorf("%w: connections are lost whenever this message to %q, a packet of %d bytes, is sent: %w",
		ErrOutcomeUnknown, m.Topic, packetSize(&m, c.version), err))
	c.journal.reserve(m)
	return toWake, true
}

// dial makes one connection, from the network to CONNACK, within the connect timeout. prepare fills in the attempt. ctx
// may be that of the caller of NewClient.
func (c *client) dial(ctx context.Context, a *connectAttempt, prepare func(context.Context, *connectAttempt) error) (*link.Link, *codec.Connack, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.connectTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	if err := prepare(ctx, a); err != nil {
		return nil, nil, a.error(err)
	}
	packet, err := c.config.connectPacket(a).Append(nil, c.version)
	if err != nil {
		return nil, nil, a.error(err)
	}
	dialer := c.config.dialer
	dialer.TLS, dialer.Header = a.TLS, a.Header
	conn, err := dialer.Dial(ctx, a.URL)
	if err != nil {
		return nil, nil, a.error(err)
	}
	l := link.New(conn, &c.mu, link.Config{
		Version:           c.version,
		MaximumPacketSize: c.config.maximumPacketSize,
		Patience:          c.config.pingTimeout,
		Trace:             c.config.packetHook(),
	})
	ack, err := within(ctx, conn, func() (*codec.Connack, error) {
		return (&handshake{&c.core, l, a}).run(ctx, packet)
	})
	if err != nil {
		conn.Close()
		return nil, nil, a.error(err)
	}
	if dialer.Addresses != nil {
		dialer.Addresses.Confirm(conn.RemoteAddr())
	}
	return l, ack, nil
}

// within runs f, and closes conn to stop it when ctx ends.
func within[T any](ctx context.Context, conn net.Conn, f func() (T, error)) (T, error) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.Close()
		close(closed)
	})
	v, err := f()
	if !stop() {
		<-closed
		if !errors.Is(err, ctx.Err()) { // otherwise err already names the timeout and its cause
			err = fmt.Errorf("no CONNACK: %w", ctx.Err())
		}
	}
	return v, err
}

// error makes the public error of a failed attempt.
func (a *connectAttempt) error(err error) error {
	var failed *AuthError // checked first: the errors below may be inside it, and are not meant then
	var refused *ConnectError
	var broken *codec.Error
	switch {
	case errors.As(err, &failed):
	case errors.As(err, &refused):
		return err
	case errors.As(err, &broken):
		err = packetError(broken)
	}
	return &ConnectError{Server: transport.Redact(a.URL), Err: err}
}

// attach makes l the client's connection. It appends, in this order: PUBRELs of messages in flight, UNSUBSCRIBEs,
// SUBSCRIBEs, PUBLISHes that are sent again, and messages from the queue. It returns the number of the session.
func (c *client) attach(l *link.Link, ack *codec.Connack) int {
	c.mu.Lock()
	c.announce(c.config.connAck(ack, c.connAck.ClientID))
	c.outbox.identifyStore()
	c.attempts.failed = 0
	c.notices.moveTo(StateConnected)
	c.link = l
	c.stats.Connects++
	c.inbox.openParking()
	toWake := c.beginSession(l)
	c.inbox.unsubscribeAgain()
	c.inbox.subscribeAgain()
	toWake = c.outbox.sendQueued(toWake)
	c.inbox.probe()
	c.outbox.room.wake()
	c.attempts.noteUp()
	c.attempts.tellReconnects(nil)
	number, keepAlive := c.attempts.sessions, c.connAck.KeepAlive
	c.mu.Unlock()
	wake(toWake)
	l.Start(newReceiver(c, l), c.config.pingAfter(keepAlive))
	return number
}

// beginSession continues the session if the server has it, and otherwise begins a new one.
// The caller holds mu.
// [MQTT-3.2.2-3] [MQTT-3.2.2-4] [MQTT311-3.2.2-2] [MQTT311-3.2.2.2]
func (c *client) beginSession(l *link.Link) (toWake []*Delivery) {
	c.session.Serve(session.Connection{
		Version:            c.version,
		PeerReceiveMaximum: int(c.connAck.ReceiveMaximum),
		PeerPacketSize:     c.largest(),
		PeerTopicAliases:   int(c.connAck.TopicAliasMaximum),
		PeerMayForget:      true,
		ReceiveMaximum:     c.config.receiveBound,
		Announced:          c.config.receiveMaximum,
	})
	if c.connAck.SessionPresent {
		if c.attempts.sessions == 0 { // the session of an earlier client, for which the application asked
			c.attempts.sessions = 1
			if !c.config.restored {
				c.session.StartAt(uint16(rand.Uint32()))
			}
			c.inbox.router.StartAt(rand.Uint32N(maxIdentifier)) // to not use the identifiers of its subscriptions
		}
		if c.attempts.doubtful {
			c.inbox.router.Doubt()
		}
		c.attempts.doubtful = false
		l.Commit(c.session.Resumed(l.Buffer()))
		return nil
	}
	c.attempts.sessions++
	c.attempts.doubtful = false
	for _, m := range c.session.Renewed() {
		if d, ok := m.Owner.(*Delivery); ok {
			toWake = d.resolve(toWake, Success, ErrSessionLost)
		}
	}
	return toWake
}
