package codec

// Puback answers a PUBLISH at QoS 1, section 3.4. Only MQTT 5.0 has what goes beyond the packet identifier.
type Puback struct {
	PacketID       uint16 // not 0
	Code           ReasonCode
	ReasonString   string // "" is absent
	UserProperties UserProperties
}

// Type returns PUBACK.
func (p *Puback) Type() Type { return PUBACK }

// Append implements Packet. It writes the shortest form.
func (p *Puback) Append(dst []byte, v Version) ([]byte, error) {
	return (*ack)(p).append(dst, PUBACK, v)
}

// Decode implements Packet.
func (p *Puback) Decode(h Header, body []byte, v Version) error {
	return (*ack)(p).decode(PUBACK, h, body, v)
}
