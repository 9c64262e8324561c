// Package codec turns the Control Packets of MQTT 5.0 and 3.1.1 into bytes and back.
//
// The protocol version is a parameter of every call; there is one set of packet types for both. Encoders append to a
// slice and allocate only what it needs to grow. Decoders refuse everything that the specification calls malformed or a
// protocol error for the packet by itself. They never allocate memory because a length field says so: what they allocate is
// bounded by the bytes that they are given. The caller checks what depends on the state of the connection: which end may send
// a packet, limits that were announced, packet identifiers in use. The caller also checks where wildcards stand in topic
// filters.
//
// The package does no I/O, except for [ReadPacket]. Packets hold no locks: one may not be used concurrently with a Decode
// into it.
package codec

import "strconv"

// Version is a protocol version, as its byte in CONNECT. Every version other than V5 is treated as V311, except by Connect, which
// refuses it.
type Version byte

// The versions of the protocol.
const (
	V311 Version = 4
	V5   Version = 5
)

// String returns the version's name, "3.1.1" or "5.0".
func (v Version) String() string {
	switch v {
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return "version " + strconv.Itoa(int(v))
}

// Type is a Control Packet type, section 2.1.2.
type Type byte

// The types of Control Packets. AUTH exists in MQTT 5.0 only.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [...]string{
	"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
	"UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

// String returns the type's name, "CONNECT".
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return "type " + strconv.Itoa(int(t))
}

// Packet is any Control Packet.
type Packet interface {
	// Type returns the type of the packet.
	Type() Type

	// Append appends the whole packet, fixed header included, to dst. It allocates only what dst needs to grow. A
	// packet that the specification forbids is an [*Error], and then dst is returned as it was. A field that is set and
	// does not exist in version v is such an error; nothing is left out in silence.
	Append(dst []byte, v Version) ([]byte, error)

	// Decode reads the bytes behind the fixed header, exactly h.Length of them. Every field is overwritten; slices that
	// the packet owns (user properties, filters, reason codes, subscription identifiers) are reused. Byte slices in the
	// packet alias body, which still belongs to the caller; strings are copies. Errors are of type [*Error], and the packet's fields
	// mean nothing after one.
	Decode(h Header, body []byte, v Version) error
}

// Decode decodes body into a new packet of the header's type. Packet says who owns which bytes.
func Decode(h Header, body []byte, v Version) (Packet, error) {
	p := newPacket(h.Type)
	if p == nil {
		return nil, headerError(h, v)
	}
	if err := p.Decode(h, body, v); err != nil {
		return nil, err
	}
	return p, nil
}

// newPacket returns an empty packet, nil if there is no such type.
func newPacket(t Type) Packet {
	switch t {
	case CONNECT:
		return new(Connect)
	case CONNACK:
		return new(Connack)
	case PUBLISH:
		return new(Publish)
	case PUBACK:
		return new(Puback)
	case PUBREC:
		return new(Pubrec)
	case PUBREL:
		return new(Pubrel)
	case PUBCOMP:
		return new(Pubcomp)
	case SUBSCRIBE:
		return new(Subscribe)
	case SUBACK:
		return new(Suback)
	case UNSUBSCRIBE:
		return new(Unsubscribe)
	case UNSUBACK:
		return new(Unsuback)
	case PINGREQ:
		return new(Pingreq)
	case PINGRESP:
		return new(Pingresp)
	case DISCONNECT:
		return new(Disconnect)
	case AUTH:
		return new(Auth)
	}
	return nil
}
