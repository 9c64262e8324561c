package engine

import (
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// pump sends what waits for the client, as far as the window and the write buffer go: first what has to be sent again, then
// retained messages, then what is queued, then what waits in groups. The session's lock is held; it is released while the
// application is asked. c is the caller's connection: after a takeover nothing happens.
// [MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.6.0-1] [MQTT-4.9.0-1] [MQTT311-4.6.0-1]
func (s *Session) pump(c *conn) {
	if s.pumping {
		return
	}
	s.pumping = true
	for s.serves(c) && !c.out.Full() && (s.pumpOne(c) || s.missed) {
		s.missed = false
	}
	s.pumping = false
	if next := s.conn; next != nil && next != c && next.claim() { // it was turned away above
		go next.write()
	}
}

// pumpOne sends or drops the next message, and reports whether there was one.
func (s *Session) pumpOne(c *conn) bool {
	if m := s.state.Resending(); m != nil {
		s.resend(c, m)
		return true
	}
	if len(s.cursors) > 0 {
		return s.pumpRetained(c)
	}
	if m := s.state.Front(); m != nil {
		s.sendFront(c, m)
		return true
	}
	return s.state.Ready() && s.pumpGroups(c)
}

// resend sends a message again, which an earlier connection has sent. It is sent although it may have expired since
// [MQTT-4.4.0-1]. One that has become too large for the client counts as delivered [MQTT-3.1.2-25].
func (s *Session) resend(c *conn, m *session.Message) {
	if !c.exceeds(m) {
		if b, err := s.state.Resend(c.out.Buffer(), s.engine.now()); err == nil {
			c.commitCopy(b)
			return
		}
	}
	given := s.state.GiveUpResend()
	s.done(given.Owner)
	s.engine.stats.dropped.Add(1)
}

// sendFront sends the first message of the queue, unless it may not go out any more.
// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
func (s *Session) sendFront(c *conn, m *session.Message) {
	e := s.engine
	owner := m.Owner
	dropped := &e.stats.dropped
	switch {
	case m.Expires != 0 && m.Expires <= e.now():
		dropped = &e.stats.expired
	case c.exceeds(m):
	case !s.mayStillReceive(c, m.Topic):
		dropped = &e.stats.denied
		if front := s.state.Front(); !s.serves(c) || front == nil || front.Owner != owner {
			return // it is another one's turn now
		}
	default:
		if front := s.state.Front(); !s.serves(c) || front == nil || front.Owner != owner {
			return
		}
		payload := len(m.Payload)
		if s.sendQueued(c) {
			e.stats.countSent(1, payload)
			return
		}
	}
	dropped.Add(1)
	gone := s.state.DropFront()
	s.done(gone.Owner)
}

// sendQueued sends the message in front, or prepares it, if its identifier has to be stored before.
func (s *Session) sendQueued(c *conn) bool {
	if m := s.state.Front(); s.isStored(m.QoS, m.Owner) {
		owner := m.Owner
		id, err := s.state.PrepareFront()
		if err == nil {
			s.prepare(id, owner)
		}
		return err == nil
	}
	b, _, err := s.state.SendFront(c.out.Buffer(), s.engine.now())
	if err == nil {
		c.commitCopy(b)
	}
	return err == nil
}

// mayStillReceive asks again about a message that has waited: a right may have been taken away since. The lock is released
// while the application is asked; if the connection is another one then, nothing was asked.
func (s *Session) mayStillReceive(c *conn, name string) bool {
	e := s.engine
	if !e.policy.Asks() {
		return e.policy.Allows(c.client, Receive, name)
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	return e.authorized(c.client, Receive, name)
}

// exceeds reports whether a message is too large for the client [MQTT-3.1.2-24].
func (c *conn) exceeds(m *session.Message) bool {
	return c.largest > 0 && c.sizeOf(m) > c.largest
}

// sizeOf returns the bytes of a message's PUBLISH, without a topic alias.
func (c *conn) sizeOf(m *session.Message) int {
	p := codec.Publish{QoS: m.QoS, Topic: m.Topic, PacketID: 1, Payload: m.Payload}
	if c.version == codec.V5 {
		p.SubscriptionIdentifiers = m.SubscriptionIdentifiers
		if m.Properties != nil {
			p.Properties = *m.Properties
		}
	}
	return p.Size(c.version)
}

// acknowledgement takes PUBACK, PUBREC or PUBCOMP. One for an identifier that is not in use can cross a reconnect, and is
// ignored, except that PUBREC is always answered.
// [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.4.0-2] [MQTT-4.9.0-2] [MQTT311-4.3.2-1]
// [MQTT311-4.3.3-1] [MQTT-4.3.3] [MQTT311-2.3.1]
func (c *conn) acknowledgement(p *packet) error {
	var ack codec.Puback // all three look the same
	if err := decodeAck(&ack, p, c.version); err != nil {
		return err
	}
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return takenOver
	}
	if p.Type == codec.PUBREC && !ack.Code.Failed() {
		if m, released := s.state.InFlightMessage(ack.PacketID); m != nil && !released && s.isStored(m.QoS, m.Owner) {
			s.storeSent(ack.PacketID, m.Owner, true, func(err error) { c.received(err, &ack) })
			return nil
		}
	}
	before := c.out.Waiting()
	if m, done := s.acknowledged(p.Type, &ack); done {
		stored := p.Type != codec.PUBACK && s.isStored(2, m.Owner)
		s.done(m.Owner)
		if stored {
			s.forgetSent(ack.PacketID) // after the ledger: a commit may come in between, and a crash after it
		}
		s.pump(c)
	}
	c.answered(before)
	return nil
}

// received answers a PUBREC that is stored. If it cannot be stored the client has to send it again, on another connection.
func (c *conn) received(err error, ack *codec.Puback) {
	c.act(func() {
		if err != nil {
			c.finish(serverUnavailable)
			return
		}
		c.session.acknowledged(codec.PUBREC, ack)
	})
}

func decodeAck(ack *codec.Puback, p *packet, v codec.Version) error {
	switch p.Type {
	case codec.PUBREC:
		return (*codec.Pubrec)(ack).Decode(p.Header, p.Body(), v)
	case codec.PUBCOMP:
		return (*codec.Pubcomp)(ack).Decode(p.Header, p.Body(), v)
	}
	return ack.Decode(p.Header, p.Body(), v)
}

// acknowledged returns the message that is complete now; done is false if none is.
func (s *Session) acknowledged(t codec.Type, ack *codec.Puback) (m session.Settled, done bool) {
	switch t {
	case codec.PUBACK:
		return s.state.Puback(ack.PacketID)
	case codec.PUBCOMP:
		return s.state.Pubcomp(ack.PacketID)
	}
	out := &s.conn.out
	b, m, done, _ := s.state.Pubrec(out.Buffer(), ack.PacketID, ack.Code)
	out.Commit(b)
	return m, done
}
