package mqtttest

import (
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// late are the packets of a connection that faults hold back. The broker's lock guards it.
type late struct {
	packets []latePacket // the earliest due first
	alarm   alarm
	handle  func(p codec.Packet) // does what a packet of the client asks
}

type latePacket struct {
	due      time.Time
	packet   codec.Packet
	outbound bool
}

// delay holds a packet back.
func (c *conn) delay(d time.Duration, p codec.Packet, outbound bool) {
	due := time.Now().Add(d)
	i := len(c.late.packets)
	for i > 0 && c.late.packets[i-1].due.After(due) {
		i--
	}
	c.late.packets = slices.Insert(c.late.packets, i, latePacket{due, p, outbound})
	c.awaitLate()
}

func (c *conn) awaitLate() {
	c.late.alarm.set(c.b, time.Until(c.late.packets[0].due), c.deliverLate)
}

// deliverLate lets go the packets that are due.
func (c *conn) deliverLate() {
	now := time.Now()
	for len(c.late.packets) > 0 && !c.late.packets[0].due.After(now) {
		p := c.late.packets[0]
		c.late.packets = c.late.packets[1:]
		c.letGo(p.packet, p.outbound)
	}
	if len(c.late.packets) > 0 && !c.ended {
		c.awaitLate()
	}
}

// keepBack delays or holds a packet, if a fault says so, and reports whether it does.
func (c *conn) keepBack(e effect, p codec.Packet, outbound bool) bool {
	switch {
	case e.holder != nil:
		e.holder.held = append(e.holder.held, heldPacket{c, p, outbound})
	case e.Delay > 0:
		c.delay(e.Delay, p, outbound)
	default:
		return false
	}
	return true
}

// letGo lets a packet that was kept back go on.
func (c *conn) letGo(p codec.Packet, outbound bool) {
	switch {
	case c.ended:
	case outbound:
		c.sendSettled(p)
	default:
		c.late.handle(p)
	}
}
