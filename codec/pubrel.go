package codec

// Pubrel answers a PUBREC, section 3.6. Only MQTT 5.0 has what goes beyond the packet identifier.
type Pubrel struct {
	PacketID       uint16 // not 0
	Code           ReasonCode
	ReasonString   string // "" is absent
	UserProperties UserProperties
}

// Type returns PUBREL.
func (p *Pubrel) Type() Type { return PUBREL }

// Append implements Packet. It writes the shortest form.
func (p *Pubrel) Append(dst []byte, v Version) ([]byte, error) {
	return (*ack)(p).append(dst, PUBREL, v)
}

// Decode implements Packet.
func (p *Pubrel) Decode(h Header, body []byte, v Version) error {
	return (*ack)(p).decode(PUBREL, h, body, v)
}
