package mqtttest

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// end ends the connection from the broker's side. In MQTT 5.0 a DISCONNECT says why.
func (c *conn) end(code codec.ReasonCode) {
	if c.version == codec.V5 && c.sess != nil {
		c.send(&codec.Disconnect{Code: code})
	}
	c.finish()
}

// finish takes the connection out of its session; what is queued is still sent.
func (c *conn) finish() {
	if c.ended {
		return
	}
	c.leave()
	c.ended = true
	c.outbox.changed.Broadcast()
	_ = c.raw.SetDeadline(time.Now().Add(linger))
}

// abandon is finish for a connection that is, or is about to be, broken: what is queued is thrown away.
func (c *conn) abandon() {
	c.outbox.packets = nil
	if c.ended {
		return
	}
	c.leave()
	c.ended, c.broken = true, true
	c.outbox.changed.Broadcast()
}

// lose ends a connection that is broken or that the client has closed.
func (c *conn) lose() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.abandon()
}

// cut breaks the connection as a fault of the network would. It is called without the lock.
func (c *conn) cut() {
	switch nc := c.raw.(type) {
	case interface{ reset() }:
		nc.reset()
	case interface{ SetLinger(int) error }:
		_ = nc.SetLinger(0)
	}
	_ = c.raw.Close()
}

// leaveAll takes all connections out of their sessions and returns them. What they still had to send is thrown away.
func (b *Broker) leaveAll() []*conn {
	var conns []*conn
	for c := range b.entrance.conns {
		c.abandon()
		conns = append(conns, c)
	}
	return conns
}

// refuse answers CONNECT with a reason code and ends the connection. In MQTT 3.1.1, a reason that has no return code becomes
// "server unavailable".
func (c *conn) refuse(code codec.ReasonCode) {
	if c.version != codec.V5 && code.ReturnCode() == 0xFF {
		code = codec.ServerUnavailable
	}
	c.send(&codec.Connack{Code: code})
	c.finish()
}

// refuseOrEnd ends the connection because of a violation.
func (c *conn) refuseOrEnd(code codec.ReasonCode) {
	switch {
	case c.sess != nil && sayable(&codec.Disconnect{Code: code}, c.version):
		c.end(code)
	case c.sess != nil:
		c.end(codec.ProtocolError)
	case c.admission.greeted && sayable(&codec.Connack{Code: code}, c.version):
		c.refuse(code)
	default:
		c.finish()
	}
}

// sayable reports whether a packet exists in version v.
func sayable(p codec.Packet, v codec.Version) bool {
	_, err := p.Append(nil, v)
	return err == nil
}

// fail reports a violation and ends the connection because of it.
func (c *conn) fail(v Violation) {
	c.b.mu.Lock()
	v.ClientID = c.clientID
	if !c.ended {
		c.refuseOrEnd(v.code)
	}
	closed := c.b.closed
	c.b.mu.Unlock()
	if !closed {
		c.b.report(v)
	}
}
