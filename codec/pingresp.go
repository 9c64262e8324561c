package codec

// Pingresp answers a PINGREQ, section 3.13.
type Pingresp struct{}

// Type returns PINGRESP.
func (p *Pingresp) Type() Type { return PINGRESP }

// Append implements Packet.
func (p *Pingresp) Append(dst []byte, _ Version) ([]byte, error) {
	return append(dst, byte(PINGRESP)<<4, 0), nil
}

// Decode implements Packet.
func (p *Pingresp) Decode(h Header, body []byte, v Version) error {
	r := newReader(PINGRESP, h, body, v)
	return r.end()
}
