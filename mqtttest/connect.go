package mqtttest

import (
	"fmt"
	"math"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// neverExpires is the session expiry interval of a session that does not expire.
const neverExpires = math.MaxUint32

// refusal refuses CONNECTs to come.
type refusal struct {
	left   int // how many; negative: all
	code   codec.ReasonCode
	silent bool // the connection ends without CONNACK
}

// next reports whether the next CONNECT is refused.
func (r *refusal) next() bool {
	if r.left > 0 {
		r.left--
		return true
	}
	return r.left < 0
}

// greet notes which client a connection is of, before anything looks at its CONNECT.
func (c *conn) greet(p *codec.Connect) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.admission.greeted {
		return // a second CONNECT, for the referee
	}
	c.admission.greeted = true
	c.version = p.Version
	c.clientID = p.ClientID
}

// connect answers a CONNECT.
func (c *conn) connect(p *codec.Connect) {
	if r := &c.b.entrance.refusal; r.next() {
		if r.silent {
			c.finish()
		} else {
			c.refuse(r.code)
		}
		return
	}
	if code := c.judge(p); code != codec.Success {
		c.refuse(code)
		return
	}
	if p.Properties.AuthenticationMethod != "" && !c.authenticated(p) {
		return
	}
	c.accept(p)
}

// judge says why a CONNECT is refused.
func (c *conn) judge(p *codec.Connect) codec.ReasonCode {
	set := c.settings
	switch {
	case c.admission.verdict.Failed():
		return c.admission.verdict
	case p.Will != nil && p.Will.QoS > set.maximumQoS && c.version == codec.V5: // [MQTT-3.2.2-12]
		return codec.QoSNotSupported
	case p.Will != nil && p.Will.Retain && set.noRetain && c.version == codec.V5: // [MQTT-3.2.2-13]
		return codec.RetainNotSupported
	}
	return codec.Success
}

// accept begins or resumes the session and sends CONNACK.
func (c *conn) accept(p *codec.Connect) {
	b := c.b
	if c.clientID == "" {
		b.names++
		c.clientID = fmt.Sprintf("assigned-%d", b.names)
	}
	c.client = termsOf(p)
	if p.Will != nil {
		c.will = newWill(c.clientID, p.Will)
		c.will.publish.Retain = p.Will.Retain && !c.settings.noRetain
	}
	s, present := b.enter(c, p.CleanStart)
	s.expiry = c.settings.expiryOf(p)
	c.referee.begin(s, present)
	c.send(c.connack(p, present))
	c.startKeepAlive(p.KeepAlive)
	s.resume()
	b.content.endSubscriptionWaits(s)
}

// termsOf fills in what a CONNECT leaves out.
func termsOf(p *codec.Connect) terms {
	t := terms{
		receiveMaximum:    int(p.Properties.ReceiveMaximum),
		maximumPacketSize: int(p.Properties.MaximumPacketSize),
		topicAliasMaximum: p.Properties.TopicAliasMaximum,
		expirySet:         p.Properties.SessionExpiry != nil && *p.Properties.SessionExpiry != 0,
	}
	if t.receiveMaximum == 0 {
		t.receiveMaximum = math.MaxUint16
	}
	return t
}

// expiryOf returns the session expiry interval that a client gets.
func (s *settings) expiryOf(p *codec.Connect) uint32 {
	switch {
	case p.Version != codec.V5 && p.CleanStart:
		return 0
	case p.Version != codec.V5:
		return neverExpires
	case p.Properties.SessionExpiry == nil:
		return 0
	}
	return s.limitExpiry(*p.Properties.SessionExpiry)
}

func (s *settings) limitExpiry(seconds uint32) uint32 {
	if limit := s.sessionExpiry; limit != nil {
		return min(seconds, *limit)
	}
	return seconds
}

// connack says what was granted.
func (c *conn) connack(p *codec.Connect, present bool) *codec.Connack {
	ack := &codec.Connack{SessionPresent: present}
	if c.version != codec.V5 {
		return ack
	}
	set := c.settings
	ack.Properties = codec.ConnackProperties{
		ReceiveMaximum:                   set.receiveMaximum,
		MaximumPacketSize:                set.maximumPacketSize,
		TopicAliasMaximum:                set.topicAliasMaximum,
		RetainAvailable:                  unless(set.noRetain),
		WildcardSubscriptionAvailable:    unless(set.noWildcards),
		SharedSubscriptionAvailable:      unless(set.noShared),
		SubscriptionIdentifiersAvailable: unless(set.noIdentifiers),
		ServerKeepAlive:                  set.keepAlive,
	}
	if set.maximumQoS < 2 {
		ack.Properties.MaximumQoS = &set.maximumQoS
	}
	if p.ClientID == "" {
		ack.Properties.AssignedClientID = c.clientID
	}
	if asked := p.Properties.SessionExpiry; asked != nil && *asked != c.sess.expiry {
		granted := c.sess.expiry
		ack.Properties.SessionExpiry = &granted
	}
	if asked := p.Properties.RequestResponseInformation; asked != nil && *asked {
		ack.Properties.ResponseInformation = set.responseInfo
	}
	if c.admission.auth != nil {
		ack.Properties.AuthenticationMethod, ack.Properties.AuthenticationData = c.admission.auth.method, c.admission.auth.answer
	}
	return ack
}

// unless returns a property that says false if something is missing, and otherwise no property: true is the default.
func unless(missing bool) *bool {
	if !missing {
		return nil
	}
	return new(bool)
}

// startKeepAlive watches the client, for one and a half times its keep alive.
func (c *conn) startKeepAlive(seconds uint16) {
	if c.version == codec.V5 && c.settings.keepAlive != nil {
		seconds = *c.settings.keepAlive
	}
	if seconds > 0 {
		c.watch(time.Duration(seconds) * time.Second * 3 / 2)
	}
}

// watch ends the connection once nothing has been heard for so long [MQTT-3.1.2-22].
func (c *conn) watch(limit time.Duration) {
	left := limit - time.Since(c.vigil.heard)
	if left <= 0 {
		e, ok := c.raw.(*endpoint)
		c.vigil.overdue = ok && c.referee.acceptedFor(limit) && e.silent(limit)
		c.end(codec.KeepAliveTimeout)
		return
	}
	c.vigil.alarm.set(c.b, left, func() { c.watch(limit) })
}

// enter puts a connection in the session of its client identifier, which is a new one if the client wants that or there is
// none. The client's former connection ends.
func (b *Broker) enter(c *conn, clean bool) (s *session, present bool) {
	if s = b.sessions[c.clientID]; s != nil && s.conn != nil {
		s.conn.end(codec.SessionTakenOver) // [MQTT-3.1.4-3]
		s = b.sessions[c.clientID]
	}
	if s != nil && clean {
		b.endSession(s)
		s = nil
	}
	present = s != nil
	if !present {
		s = &session{
			b:        b,
			id:       c.clientID,
			subs:     make(map[string]*subscription),
			received: make(map[uint16]bool),
			outgoing: newOutgoing(),
			ledger:   newLedger(),
		}
		b.sessions[s.id] = s
	}
	s.stopAlarms()
	s.will = nil // [MQTT-3.1.3-9]
	s.conn, c.sess = c, s
	return s, present
}

// authenticate goes on with an AUTH of the client.
func (c *conn) authenticate(*codec.Auth) {
	connect := c.admission.auth.waiting
	if connect == nil {
		c.reauthenticate()
		return
	}
	if c.authenticated(connect) {
		c.admission.auth.waiting = nil
		c.accept(connect)
	}
}

func (c *conn) reauthenticate() {
	if c.admission.auth.code.Failed() {
		c.end(c.admission.auth.code)
		return
	}
	c.sendAuth()
}
