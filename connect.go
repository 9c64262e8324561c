package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
)

// supervise is the client's supervisor: it makes the connection, waits for its end and ends the client. ctx bounds the
// connecting alone; connected is told the outcome of that.
func (c *client) supervise(ctx context.Context, connected chan<- error) {
	l, err := c.connect(ctx)
	if err != nil {
		c.end(err)
		connected <- err
		return
	}
	connected <- nil
	select {
	case <-l.Ended():
	case <-c.ctx.Done():
		c.sayGoodbye(l)
	}
	cause := l.Wait()
	if c.ctx.Err() != nil {
		cause = ErrClosed
	}
	c.end(c.connectionError(cause))
}

// sayGoodbye sends the last DISCONNECT. The link lets go of the connection when it is out, or after a second.
func (c *client) sayGoodbye(l *link.Link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.farewell
	if c.version >= codec.V5 && c.connAck.SessionExpiry > 0 && !c.config.keepsSession && d.SessionExpiry == nil {
		d.SessionExpiry = new(uint32)
	}
	// What does not fit is left out, what is for people first [MQTT-3.14.2-3] [MQTT-3.14.2-4].
	for _, d := range []codec.Disconnect{d, {Code: d.Code, SessionExpiry: d.SessionExpiry}, {Code: d.Code}} {
		packet, err := d.Append(nil, c.version)
		if err == nil && !c.tooLarge(len(packet)) {
			l.Finish(ErrClosed, packet)
			return
		}
	}
	l.Close(ErrClosed)
}

// connectionError makes the public error of what ended a connection.
func (c *client) connectionError(cause error) error {
	var broken *codec.Error
	var disconnect *DisconnectError
	switch {
	case errors.Is(cause, ErrClosed), errors.As(cause, &disconnect):
		return cause
	case errors.As(cause, &broken) && c.version >= codec.V5:
		return &DisconnectError{Refusal: Refusal{Code: ReasonCode(broken.Code)}, Err: packetError(broken)}
	case errors.As(cause, &broken):
		cause = packetError(broken)
	}
	return fmt.Errorf("%w: %w", ErrConnectionLost, cause)
}

// end ends the client: it tells everybody who waits.
func (c *client) end(err error) {
	c.mu.Lock()
	c.state, c.err = StateClosed, err
	c.cancel() // after err is set, which lost relies on
	if c.link != nil {
		c.stats.BytesIn, c.stats.BytesOut = c.link.Bytes()
	}
	c.link = nil
	sent, unsent := c.session.Discard()
	var told []*Delivery
	for i := range sent {
		switch owner := sent[i].Owner.(type) {
		case *Delivery:
			told = owner.settle(told, Success, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err))
		case *request:
			owner.fail(err)
		}
	}
	for i := range unsent {
		if d, ok := unsent[i].Owner.(*Delivery); ok {
			told = d.settle(told, Success, &notSent{err})
		}
	}
	for s := range c.subs {
		s.end(err)
	}
	c.room.wakeAll()
	c.queue.wakeAll()
	c.mu.Unlock()
	wake(told)
	close(c.done)
}

// connect makes one attempt, within the connect timeout.
func (c *client) connect(ctx context.Context) (*link.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.connectTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	server := c.config.server
	conn, err := c.config.dialer.Dial(ctx, server)
	if err != nil {
		return nil, &ConnectError{Server: server.Redacted(), Err: err}
	}
	l := link.New(conn, &c.mu, link.Config{
		Version:           c.version,
		MaximumPacketSize: c.config.maximumPacketSize,
		Patience:          c.config.pingTimeout,
	})
	ack, err := within(ctx, conn, func() (*codec.Connack, error) { return c.handshake(l) })
	if err != nil {
		conn.Close()
		return nil, c.connectError(err)
	}
	c.begin(l, ack)
	return l, nil
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
		err = fmt.Errorf("no CONNACK: %w", ctx.Err())
	}
	return v, err
}

// connectError makes the public error of a failed handshake.
func (c *client) connectError(err error) error {
	var refused *ConnectError
	if errors.As(err, &refused) {
		return err
	}
	var broken *codec.Error
	if errors.As(err, &broken) {
		err = packetError(broken)
	}
	return &ConnectError{Server: c.config.server.Redacted(), Err: err}
}

// handshake sends CONNECT and waits for CONNACK.
func (c *client) handshake(l *link.Link) (*codec.Connack, error) {
	packet, err := c.connectPacket(c.config.clientID).Append(nil, c.version)
	if err != nil {
		return nil, err
	}
	if err := l.Write(packet); err != nil {
		return nil, err
	}
	ack, err := c.readConnack(l)
	var broken *codec.Error
	if c.version >= codec.V5 && errors.As(err, &broken) {
		if packet, err := (&codec.Disconnect{Code: broken.Code}).Append(nil, c.version); err == nil {
			_ = l.Write(packet) // [MQTT-4.13.1-1] as far as it goes: the connection ends anyway
		}
	}
	return ack, err
}

func (c *client) readConnack(l *link.Link) (*codec.Connack, error) {
	h, body, err := l.ReadPacket()
	if err != nil {
		return nil, err
	}
	if h.Type != codec.CONNACK {
		return nil, &codec.Error{
			Packet: h.Type, Code: codec.ProtocolError, Rule: "MQTT-3.2.0-1",
			Detail: "the first packet from a server is CONNACK",
		}
	}
	ack := new(codec.Connack)
	if err := ack.Decode(h, body, c.version); err != nil {
		return nil, err
	}
	switch {
	case ack.Code != codec.Success:
		p := &ack.Properties
		return nil, &ConnectError{
			Server:          c.config.server.Redacted(),
			ServerReference: p.ServerReference,
			Refusal:         Refusal{Code: ReasonCode(ack.Code), Reason: p.ReasonString, UserProperties: p.UserProperties},
		}
	case ack.SessionPresent && c.config.cleanStart:
		return nil, &codec.Error{
			Packet: codec.CONNACK, Code: codec.ProtocolError, Rule: "MQTT-3.2.2-2",
			Detail: "a session is present although a clean start was asked for",
		}
	case ack.Properties.AuthenticationMethod != "":
		return nil, &codec.Error{
			Packet: codec.CONNACK, Code: codec.ProtocolError, Rule: "MQTT-4.12.0-6",
			Detail: "an authentication method that was not asked for",
		}
	}
	return ack, nil
}

// begin makes l the client's connection.
func (c *client) begin(l *link.Link, ack *codec.Connack) {
	c.mu.Lock()
	c.connAck = c.config.connAck(ack)
	c.session.Connected(int(c.connAck.ReceiveMaximum))
	c.state = StateConnected
	c.link = l
	keepAlive := c.connAck.KeepAlive
	c.mu.Unlock()
	l.Start(newReceiver(c, l), keepAlive)
}

// connectPacket is what the options ask for.
func (c *config) connectPacket(clientID string) *codec.Connect {
	p := &codec.Connect{
		CleanStart:  c.cleanStart,
		KeepAlive:   uint16(c.keepAlive / time.Second),
		ClientID:    clientID,
		Will:        c.will,
		HasUsername: c.hasUsername,
		HasPassword: c.hasPassword,
		Username:    c.username,
	}
	if c.hasPassword {
		p.Password = []byte(c.password)
	}
	if c.version < codec.V5 {
		return p
	}
	if c.sessionExpiry > 0 {
		expiry := uint32(c.sessionExpiry / time.Second)
		p.Properties.SessionExpiry = &expiry
	}
	p.Properties.ReceiveMaximum = uint16(c.receiveMaximum)
	p.Properties.MaximumPacketSize = uint32(c.maximumPacketSize)
	p.Properties.UserProperties = c.userProperties
	return p
}

func (c *client) connectPacket(clientID string) *codec.Connect {
	return c.config.connectPacket(clientID)
}

// connAck fills in what CONNACK leaves out.
func (c *config) connAck(ack *codec.Connack) ConnAck {
	p := &ack.Properties
	a := ConnAck{
		SessionPresent:          ack.SessionPresent,
		ClientID:                c.clientID,
		KeepAlive:               c.keepAlive,
		SessionExpiry:           c.sessionExpiry,
		ReceiveMaximum:          65_535,
		MaximumQoS:              ExactlyOnce,
		MaximumPacketSize:       p.MaximumPacketSize,
		TopicAliasMaximum:       p.TopicAliasMaximum,
		RetainAvailable:         isTrue(p.RetainAvailable),
		WildcardSubscriptions:   isTrue(p.WildcardSubscriptionAvailable),
		SubscriptionIdentifiers: c.version >= codec.V5 && isTrue(p.SubscriptionIdentifiersAvailable),
		SharedSubscriptions:     isTrue(p.SharedSubscriptionAvailable),
		ResponseInformation:     p.ResponseInformation,
		ServerReference:         p.ServerReference,
		ReasonString:            p.ReasonString,
		AuthenticationMethod:    p.AuthenticationMethod,
		AuthenticationData:      p.AuthenticationData,
		UserProperties:          p.UserProperties,
	}
	if p.AssignedClientID != "" {
		a.ClientID = p.AssignedClientID // [MQTT-3.2.2-16]
	}
	if p.ServerKeepAlive != nil {
		a.KeepAlive = time.Duration(*p.ServerKeepAlive) * time.Second // [MQTT-3.1.2-21]
	}
	if p.SessionExpiry != nil {
		a.SessionExpiry = time.Duration(*p.SessionExpiry) * time.Second
	}
	if p.ReceiveMaximum != 0 {
		a.ReceiveMaximum = p.ReceiveMaximum
	}
	if p.MaximumQoS != nil {
		a.MaximumQoS = QoS(*p.MaximumQoS)
	}
	return a
}

// isTrue reads a feature flag of CONNACK, whose default is yes.
func isTrue(b *bool) bool { return b == nil || *b }
