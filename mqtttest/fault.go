package mqtttest

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Fault says which packets something happens to, and what. Fields that are zero match everything and do nothing. If several
// faults match a packet, all of them apply.
type Fault struct {
	ClientID string
	Packet   string // its type, "PUBACK", "PUBLISH" …
	Outbound bool   // from the broker to the client
	Skip     int    // how many matching packets to leave alone first
	Times    int    // how many to treat then; 0: every one

	// Drop loses the packet.
	Drop bool
	// Delay keeps back this packet only: later ones overtake it.
	Delay time.Duration
	// Hold keeps back this packet only, until the fault is removed; then all packets that are held go on, in their order.
	// Packets of a connection that has ended meanwhile are lost.
	Hold bool
	// Reason is a reason code of 0x80 or above. The broker does not act on a packet of the client, and answers with this code. In
	// a packet of the broker that has a reason code, it takes the place of that code. Where MQTT 3.1.1 cannot say it, the
	// connection is cut.
	Reason byte
	// Cut drops the connection, without a DISCONNECT: after a packet of the broker has been sent, or one of the client has
	// been acted on and before it is answered. It does not wait for Delay or Hold.
	Cut bool
	// Bytes, where it is not 0, lets Cut end the connection in the middle of a packet of the broker: no more than so many of
	// its bytes are sent.
	Bytes int
}

// matches looks at everything except the counts.
func (f *Fault) matches(clientID string, p codec.Packet, outbound bool) bool {
	return f.Outbound == outbound && (f.ClientID == "" || f.ClientID == clientID) &&
		(f.Packet == "" || f.Packet == p.Type().String())
}

// hooks are the faults and intercepts in force. The broker's lock guards them.
type hooks struct {
	faults     []*activeFault
	intercepts intercepts // never changed in place: connections use it without the lock
}

type activeFault struct {
	Fault
	seen int // packets that matched
	held []heldPacket
}

type heldPacket struct {
	conn     *conn
	packet   codec.Packet
	outbound bool
}

// effect is what faults do to a packet together.
type effect struct {
	Fault
	holder *activeFault // nil: it is not held
}

// match counts a packet and returns what its faults do.
func (h *hooks) match(clientID string, p codec.Packet, outbound bool) (effect effect) {
	for _, f := range h.faults {
		if !f.matches(clientID, p, outbound) {
			continue
		}
		f.seen++
		if f.seen <= f.Skip || f.Times > 0 && f.seen > f.Skip+f.Times {
			continue
		}
		effect.Drop = effect.Drop || f.Drop
		effect.Cut = effect.Cut || f.Cut
		effect.Delay += f.Delay
		if f.Reason != 0 {
			effect.Reason = f.Reason
		}
		if f.Bytes != 0 {
			effect.Bytes = f.Bytes
		}
		if f.Hold {
			effect.holder = f
		}
	}
	return effect
}

type intercept struct {
	keep func(clientID string, outbound bool, p codec.Packet) bool
}

type intercepts []*intercept

// keep asks one after the other, until one loses the packet.
func (list intercepts) keep(clientID string, outbound bool, p codec.Packet) bool {
	for _, i := range list {
		if !i.keep(clientID, outbound, p) {
			return false
		}
	}
	return true
}

// intercepts returns the hooks in force and the connection's client identifier.
func (b *Broker) intercepts(c *conn) (intercepts, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hooks.intercepts, c.clientID
}

// setReason replaces the reason code of a packet of the broker, if it has one in MQTT 5.0, and reports whether version v can
// say it.
func setReason(p codec.Packet, v codec.Version, code codec.ReasonCode) bool {
	switch p := p.(type) {
	case *codec.Connack:
		*p = codec.Connack{Code: code}
		return v == codec.V5 || code.ReturnCode() != 0xFF
	case *codec.Suback:
		if v != codec.V5 {
			code = codec.UnspecifiedError
		}
		for i := range p.Codes {
			p.Codes[i] = code
		}
		return true
	case *codec.Unsuback:
		for i := range p.Codes {
			p.Codes[i] = code
		}
	case *codec.Puback:
		p.Code = code
	case *codec.Pubrec:
		p.Code = code
	case *codec.Pubrel:
		p.Code = code
	case *codec.Pubcomp:
		p.Code = code
	case *codec.Disconnect:
		p.Code = code
	default:
		return true
	}
	return v == codec.V5
}

// answer returns what a broker answers a packet of a client with that it refuses; nil if there is no answer that has a
// reason code.
func answer(p codec.Packet) codec.Packet {
	switch p := p.(type) {
	case *codec.Connect:
		return &codec.Connack{}
	case *codec.Publish:
		switch p.QoS {
		case 1:
			return &codec.Puback{PacketID: p.PacketID}
		case 2:
			return &codec.Pubrec{PacketID: p.PacketID}
		}
	case *codec.Pubrel:
		return &codec.Pubcomp{PacketID: p.PacketID}
	case *codec.Subscribe:
		return &codec.Suback{PacketID: p.PacketID, Codes: make([]codec.ReasonCode, len(p.Filters))}
	case *codec.Unsubscribe:
		return &codec.Unsuback{PacketID: p.PacketID, Codes: make([]codec.ReasonCode, len(p.Filters))}
	}
	return nil
}
