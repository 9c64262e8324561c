package codec

// Pubrec is the first answer to a PUBLISH at QoS 2, section 3.5. Only MQTT 5.0 has what goes beyond the packet identifier.
type Pubrec struct {
	PacketID       uint16 // not 0
	Code           ReasonCode
	ReasonString   string // "" is absent
	UserProperties UserProperties
}

// Type returns PUBREC.
func (p *Pubrec) Type() Type { return PUBREC }

// Append implements Packet. It writes the shortest form.
func (p *Pubrec) Append(dst []byte, v Version) ([]byte, error) {
	return (*ack)(p).append(dst, PUBREC, v)
}

// Decode implements Packet.
func (p *Pubrec) Decode(h Header, body []byte, v Version) error {
	return (*ack)(p).decode(PUBREC, h, body, v)
}
