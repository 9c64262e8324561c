package mqtttest

import (
	"github.com/petrel-mqtt/mqtt/codec"
)

// chunk is how many bytes the writer collects before it writes them.
const chunk = 64 << 10

// write sends what is queued until the connection ends, and then closes its direction.
func (c *conn) write() {
	defer c.b.wg.Done()
	var batch []parcel
	var buffer []byte
	for {
		var more, cut bool
		if batch, more = c.next(batch); !more {
			break
		}
		batch = c.intercept(batch)
		batch, cut = c.settle(batch)
		var err error
		if buffer, err = c.writeBatch(buffer, batch); err != nil {
			_ = c.nc.Close() // which the reader notices
			return
		}
		if cut {
			c.hangUp()
			return
		}
	}
	if c.isBroken() {
		return
	}
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = c.nc.Close()
}

func (c *conn) isBroken() bool {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	return c.broken
}

// next waits for packets and returns them, and takes batch's memory in return. There are no more after the end.
func (c *conn) next(batch []parcel) ([]parcel, bool) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for len(c.outbox.packets) == 0 && !c.ended {
		c.outbox.changed.Wait()
	}
	clear(batch)
	next := c.outbox.packets
	c.outbox.packets, c.outbox.bytes = batch[:0], 0
	c.outbox.changed.Broadcast() // the reader may wait for room
	return next, len(next) > 0
}

// intercept shows the packets to the hooks.
func (c *conn) intercept(batch []parcel) []parcel {
	hooks, clientID := c.b.intercepts(c)
	if len(hooks) == 0 {
		return batch
	}
	kept := batch[:0]
	for _, parcel := range batch {
		if parcel.settled || hooks.keep(clientID, true, parcel.packet) {
			kept = append(kept, parcel)
		}
	}
	return kept
}

// settle applies the faults and notes what really goes out. It returns the packets to write and whether to drop the
// connection then.
func (c *conn) settle(batch []parcel) (kept []parcel, cut bool) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	kept = batch[:0]
	for _, parcel := range batch {
		goes := true
		if !parcel.settled {
			goes, cut = c.suffer(&parcel)
		}
		if goes {
			if parcel.bytes == 0 {
				c.leaving(parcel.packet)
			}
			kept = append(kept, parcel)
		}
		if cut {
			break
		}
	}
	clear(batch[len(kept):])
	return kept, cut
}

// suffer applies the faults to a packet of the broker.
func (c *conn) suffer(parcel *parcel) (goes, cut bool) {
	p := parcel.packet
	effect := c.b.hooks.match(c.clientID, p, true)
	if effect.Reason != 0 && !setReason(p, c.version, codec.ReasonCode(effect.Reason)) {
		return false, true
	}
	if effect.Cut && effect.Bytes > 0 && effect.Bytes < sizeOf(p, c.version) {
		parcel.bytes = effect.Bytes
	}
	refused := effect.Reason != 0 && p.Type() == codec.CONNACK // [MQTT-3.2.2-7]
	goes = !effect.Drop && !c.keepBack(effect, p, true)
	return goes, effect.Cut || refused
}

// sizeOf returns the number of bytes of a packet on the wire, without a topic alias.
func sizeOf(p codec.Packet, v codec.Version) int {
	b, _ := p.Append(nil, v)
	return len(b)
}

// leaving notes that a packet is about to be written.
func (c *conn) leaving(p codec.Packet) {
	switch p := p.(type) {
	case *codec.Publish:
		c.alias(p)
	case *codec.Pubrec:
		if p.Code.Failed() {
			c.b.forgetReceived(c.clientID, p.PacketID) // [MQTT-4.3.3-9]
		}
	case *codec.Pubcomp:
		c.b.forgetReceived(c.clientID, p.PacketID)
	}
	c.referee.sent(c, p)
}

// alias puts a topic alias in the place of the topic, if the option and the client allow it.
func (c *conn) alias(p *codec.Publish) {
	if !c.settings.aliases || c.client.topicAliasMaximum == 0 || p.TopicAlias != 0 {
		return
	}
	if known := c.outbox.aliases[p.Topic]; known != 0 {
		p.TopicAlias, p.Topic = known, ""
		return
	}
	if len(c.outbox.aliases) == int(c.client.topicAliasMaximum) {
		return
	}
	p.TopicAlias = uint16(len(c.outbox.aliases) + 1)
	if c.client.tooSmallFor(p, c.version) {
		p.TopicAlias = 0
		return
	}
	if c.outbox.aliases == nil {
		c.outbox.aliases = make(map[string]uint16)
	}
	c.outbox.aliases[p.Topic] = p.TopicAlias
}

// writeBatch writes the packets and returns the buffer for the next time.
func (c *conn) writeBatch(buffer []byte, batch []parcel) ([]byte, error) {
	var err error
	buffer = buffer[:0]
	for _, parcel := range batch {
		start := len(buffer)
		if buffer, err = parcel.packet.Append(buffer, c.version); err != nil {
			c.b.complain("client %q: %v", c.clientID, err)
			return buffer, err
		}
		if parcel.bytes > 0 {
			buffer = buffer[:start+parcel.bytes]
		}
		if len(buffer) >= chunk {
			if _, err := c.nc.Write(buffer); err != nil {
				return buffer, err
			}
			buffer = buffer[:0]
		}
	}
	if len(buffer) == 0 {
		return buffer, nil
	}
	_, err = c.nc.Write(buffer)
	return buffer, err
}

// hangUp closes the connection without a DISCONNECT; what has been written arrives.
func (c *conn) hangUp() {
	c.lose()
	_ = c.nc.Close()
}
