package mqtttest

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// maxQueued is how many messages at QoS 1 and 2 wait for a client; those that come when it is reached are dropped.
const maxQueued = 1_000_000

// outgoing are the messages at QoS 1 and 2 for a client.
type outgoing struct {
	queue   []delivery // not sent yet
	resend  []*flight  // sent on an earlier connection, to be sent again before queue
	flights map[uint16]*flight
	lastID  uint16
	sent    uint64
}

// flight is a message on its way to the client, from the first PUBLISH to PUBACK or PUBCOMP.
type flight struct {
	delivery
	id       uint16
	number   uint64 // in the order of sending
	released bool   // PUBREC has come
	on       *conn  // where PUBLISH was last sent; nil: to be sent again
}

func newOutgoing() outgoing {
	return outgoing{flights: make(map[uint16]*flight)}
}

// deliver sends a message to the client, or keeps it for later if its QoS is not 0.
func (s *session) deliver(d delivery) {
	if d.qos == 0 {
		if c := s.conn; c != nil && c.outbox.bytes < c.settings.waiting && !d.message.expired() {
			c.sendMessage(d, 0, false)
		}
		return
	}
	if len(s.queue) < maxQueued {
		s.queue = append(s.queue, d)
	}
	s.pump()
}

// pump sends what the client's Receive Maximum allows [MQTT-3.3.4-9].
func (s *session) pump() {
	c := s.conn
	for c != nil && c.unacked < c.client.receiveMaximum && len(s.flights) < math.MaxUint16 {
		switch {
		case len(s.resend) > 0:
			f := s.resend[0]
			s.resend = s.resend[1:]
			if s.flights[f.id] == f && !f.released { // it may have been acknowledged meanwhile
				s.send(f, true)
			}
		case len(s.queue) > 0:
			d := s.queue[0]
			s.queue[0] = delivery{}
			s.queue = s.queue[1:]
			if !d.message.expired() {
				s.sent++
				s.send(&flight{delivery: d, id: s.newID(), number: s.sent}, false)
			}
		default:
			return
		}
	}
}

// send sends a PUBLISH. What is too large for the client counts as delivered [MQTT-3.1.2-25].
func (s *session) send(f *flight, again bool) {
	c := s.conn
	if !c.sendMessage(f.delivery, f.id, again) {
		delete(s.flights, f.id)
		return
	}
	s.flights[f.id] = f
	f.on = c
	c.unacked++
}

// newID returns a packet identifier that is not in use. There is one: pump has seen to it.
func (s *session) newID() uint16 {
	for {
		s.lastID++
		if _, used := s.flights[s.lastID]; !used && s.lastID != 0 {
			return s.lastID
		}
	}
}

// sendMessage queues a PUBLISH, and reports false if the client does not take one so large.
func (c *conn) sendMessage(d delivery, id uint16, dup bool) bool {
	m := d.message
	p := &codec.Publish{Dup: dup, QoS: d.qos, Retain: d.retain, Topic: m.topic, PacketID: id, Payload: m.payload}
	if c.version == codec.V5 {
		p.SubscriptionIdentifiers = d.ids
		p.Properties = m.props
		if !m.expires.IsZero() { // [MQTT-3.3.2-6]
			p.Properties.MessageExpiry = max(time.Until(m.expires), time.Nanosecond)
		}
	}
	if c.client.tooSmallFor(p, c.version) {
		return false
	}
	c.outbox.bytes += len(m.payload)
	c.send(p)
	return true
}

// tooSmallFor reports whether a PUBLISH is larger than the client takes.
func (t *terms) tooSmallFor(p *codec.Publish, v codec.Version) bool {
	return t.maximumPacketSize > 0 && p.Size(v) > t.maximumPacketSize
}

// inOrder returns the messages that are on their way, in the order of sending.
func (o *outgoing) inOrder() []*flight {
	return slices.SortedFunc(maps.Values(o.flights), func(a, b *flight) int { return cmp.Compare(a.number, b.number) })
}

// resume goes on where the last connection ended: PUBREL and PUBLISH are sent again, in order [MQTT-4.4.0-1].
func (s *session) resume() {
	s.resend = nil
	for _, f := range s.inOrder() {
		f.on = nil
		if f.released {
			s.conn.send(&codec.Pubrel{PacketID: f.id})
		} else {
			s.resend = append(s.resend, f)
		}
	}
	s.pump()
}

func (s *session) puback(id uint16) {
	if f := s.flights[id]; f != nil && f.qos == 1 {
		s.finish(f)
	}
}

// pubrec handles a PUBREC. One that belongs to nothing is answered all the same, so that the client gets rid of it.
func (c *conn) pubrec(p *codec.Pubrec) {
	f := c.sess.flights[p.PacketID]
	known := f != nil && f.qos == 2
	if p.Code.Failed() {
		if known {
			c.sess.finish(f)
		}
		return
	}
	ack := &codec.Pubrel{PacketID: p.PacketID}
	if known {
		f.released = true
	} else if c.version == codec.V5 {
		ack.Code = codec.PacketIdentifierNotFound
	}
	c.send(ack)
}

func (s *session) pubcomp(id uint16) {
	if f := s.flights[id]; f != nil && f.released {
		s.finish(f)
	}
}

// finish forgets a message that the client has.
func (s *session) finish(f *flight) {
	delete(s.flights, f.id)
	if f.on == s.conn {
		s.conn.unacked--
	}
	s.pump()
}
