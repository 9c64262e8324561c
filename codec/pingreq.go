package codec

// Pingreq asks the server for a sign of life, section 3.12.
type Pingreq struct{}

// Type returns PINGREQ.
func (p *Pingreq) Type() Type { return PINGREQ }

// Append implements Packet.
func (p *Pingreq) Append(dst []byte, _ Version) ([]byte, error) {
	return append(dst, byte(PINGREQ)<<4, 0), nil
}

// Decode implements Packet.
func (p *Pingreq) Decode(h Header, body []byte, v Version) error {
	r := newReader(PINGREQ, h, body, v)
	return r.end()
}
