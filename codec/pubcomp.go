package codec

// Pubcomp answers a PUBREL and ends the exchange at QoS 2, section 3.7. Only MQTT 5.0 has what goes beyond the packet
// identifier.
type Pubcomp struct {
	PacketID       uint16 // not 0
	Code           ReasonCode
	ReasonString   string // "" is absent
	UserProperties UserProperties
}

// Type returns PUBCOMP.
func (p *Pubcomp) Type() Type { return PUBCOMP }

// Append implements Packet. It writes the shortest form.
func (p *Pubcomp) Append(dst []byte, v Version) ([]byte, error) {
	return (*ack)(p).append(dst, PUBCOMP, v)
}

// Decode implements Packet.
func (p *Pubcomp) Decode(h Header, body []byte, v Version) error {
	return (*ack)(p).decode(PUBCOMP, h, body, v)
}
