package mqtttest

import (
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// receive takes a packet that has come, and reports whether the connection goes on.
func (c *conn) receive(p codec.Packet) (more bool) {
	if connect, ok := p.(*codec.Connect); ok {
		c.greet(connect)
	}
	v, hooks, clientID := c.inspect(p)
	if v != nil {
		c.fail(*v)
		return false
	}
	keep := hooks.keep(clientID, false, p)
	if keep {
		c.consult(p)
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	hangUp := !c.ended && keep && c.act(p)
	for len(c.outbox.packets) > maxWaiting && !c.ended {
		c.outbox.changed.Wait()
	}
	if hangUp {
		c.abandon()
		_ = c.raw.Close()
	}
	return !c.ended
}

// inspect asks the referee about a packet, and returns the hooks that want to see it.
func (c *conn) inspect(p codec.Packet) (*Violation, intercepts, string) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.ended {
		return nil, nil, ""
	}
	v := c.referee.received(c, p)
	if v != nil && slices.Contains(c.settings.tolerated, v.Rule) {
		v = nil
	}
	return v, c.b.hooks.intercepts, c.clientID
}

// act handles a packet, unless a fault says otherwise, and reports whether to cut the connection now.
func (c *conn) act(p codec.Packet) (cut bool) {
	effect := c.b.hooks.match(c.clientID, p, false)
	switch {
	case effect.Drop:
	case c.keepBack(effect, p, false):
	case effect.Reason != 0:
		c.answer(p, codec.ReasonCode(effect.Reason))
	default:
		c.handle(p)
	}
	return effect.Cut
}

// answer refuses a packet. If its answer has no reason code, the connection ends instead.
func (c *conn) answer(p codec.Packet, code codec.ReasonCode) {
	a := answer(p)
	switch {
	case p.Type() == codec.AUTH && c.sess == nil: // [MQTT-4.12.0-1]
		c.refuse(code)
	case a == nil || !setReason(a, c.version, code):
		c.end(code)
	case p.Type() == codec.CONNECT:
		c.refuse(code)
	default:
		c.vigil.heard = time.Now()
		c.send(a)
	}
}

// handle does what a packet asks.
func (c *conn) handle(p codec.Packet) {
	c.vigil.heard = time.Now()
	if connect, ok := p.(*codec.Connect); ok {
		c.connect(connect)
		return
	}
	if auth, ok := p.(*codec.Auth); ok {
		c.authenticate(auth)
		return
	}
	if c.sess == nil { // it came before CONNACK: during authentication, or CONNECT has been held back or lost
		if p.Type() == codec.DISCONNECT {
			c.silent = true
			c.finish()
		}
		return
	}
	switch p := p.(type) {
	case *codec.Publish:
		c.publish(p)
	case *codec.Puback:
		c.sess.puback(p.PacketID)
	case *codec.Pubrec:
		c.pubrec(p)
	case *codec.Pubrel:
		c.pubrel(p.PacketID)
	case *codec.Pubcomp:
		c.sess.pubcomp(p.PacketID)
	case *codec.Subscribe:
		c.subscribe(p)
	case *codec.Unsubscribe:
		c.unsubscribe(p)
	case *codec.Pingreq:
		c.send(&codec.Pingresp{})
	case *codec.Disconnect:
		c.disconnect(p)
	}
}

// disconnect ends the connection because the client says so.
func (c *conn) disconnect(p *codec.Disconnect) {
	c.silent = true
	if p.Code != codec.DisconnectWithWill { // [MQTT-3.14.4-3]
		c.will = nil
	}
	if p.SessionExpiry != nil {
		c.sess.expiry = c.settings.limitExpiry(*p.SessionExpiry)
	}
	c.finish()
}
