package mqtttest

import (
	"bytes"
	"errors"
	"net"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
)

// newConn is called with the broker's lock. Its caller calls serve.
func (b *Broker) newConn(raw net.Conn, f framing) *conn {
	nc := f.over(raw, b.settings)
	b.entrance.accepted++
	c := &conn{b: b, number: b.entrance.accepted, raw: raw, nc: nc, settings: b.settings, frames: frames{r: nc}, version: codec.V5}
	c.outbox.changed.L = &b.mu
	c.late.handle = c.handle
	b.entrance.conns[c] = true
	b.wg.Add(2)
	return c
}

// serve reads until the connection has ended, and closes it.
func (c *conn) serve() {
	defer c.b.wg.Done()
	go c.write()
	err := c.read()
	v, bad := violationOf(err)
	switch {
	case bad:
		c.fail(v)
		c.drain()
	case err == nil:
		c.drain()
	default:
		c.lose()
	}
	_ = c.nc.Close()
	c.b.mu.Lock()
	delete(c.b.entrance.conns, c)
	overdue := c.vigil.overdue
	c.b.mu.Unlock()
	if overdue && !slices.Contains(c.settings.tolerated, c.rule("MQTT-3.1.2-20", "MQTT-3.1.2-23")) {
		c.b.report(Violation{
			ClientID: c.clientID, Rule: c.rule("MQTT-3.1.2-20", "MQTT-3.1.2-23"), Detail: "sends nothing for 1.5 times its keep alive",
		})
	}
}

// read handles packets until the connection ends, and returns why reading failed, if it did.
func (c *conn) read() error {
	for {
		limit := 0
		if c.admission.greeted && c.version == codec.V5 { // no other client knows of it
			limit = int(c.settings.maximumPacketSize)
		}
		h, body, err := c.frames.next(c.version, limit)
		if err != nil {
			return err
		}
		if h.Type == codec.PUBLISH || h.Type == codec.CONNECT || h.Type == codec.AUTH {
			body = bytes.Clone(body) // the packet keeps it
		}
		p, err := codec.Decode(h, body, c.version)
		if err != nil {
			c.garbled(h, body)
			return err
		}
		if !c.receive(p) {
			return nil
		}
	}
}

// garbled finds out the version of a CONNECT that cannot be decoded, so that it can be refused.
func (c *conn) garbled(h codec.Header, body []byte) {
	const versionAt = 6 // behind the protocol name
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if h.Type != codec.CONNECT || c.admission.greeted {
		return
	}
	c.admission.greeted = true
	if len(body) > versionAt && body[versionAt] < byte(codec.V5) {
		c.version = codec.V311
	}
}

// drain reads on until the client closes, or does not.
func (c *conn) drain() {
	extra, buffer := c.frames.waiting(), make([]byte, 512)
	for {
		n, err := c.nc.Read(buffer)
		extra += n
		if err != nil || extra >= maxExtra {
			c.checkSilence(extra, err)
			return
		}
	}
}

// checkSilence reports a client that has sent extra bytes after its DISCONNECT, or has not closed. err is how the connection
// ended.
func (c *conn) checkSilence(extra int, err error) {
	c.b.mu.Lock()
	watch := c.silent && !c.b.closed
	v := Violation{ClientID: c.clientID}
	c.b.mu.Unlock()
	var netErr net.Error
	switch {
	case !watch:
		return
	case extra > 0:
		v.Rule, v.Detail = c.rule("MQTT-3.14.4-1", "MQTT-3.14.4-2"), "sends after DISCONNECT"
	case errors.As(err, &netErr) && netErr.Timeout():
		v.Rule, v.Detail = c.rule("MQTT-3.14.4-2", "MQTT-3.14.4-1"), "does not close after DISCONNECT"
	default:
		return
	}
	c.b.report(v)
}
