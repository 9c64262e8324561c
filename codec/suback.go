package codec

// Suback answers a SUBSCRIBE, section 3.9.
type Suback struct {
	PacketID       uint16 // not 0
	ReasonString   string // "": absent; MQTT 5.0 only
	UserProperties UserProperties
	Codes          []ReasonCode // one for each filter, in their order; in MQTT 3.1.1 0, 1, 2 and 0x80 only
}

// Type returns SUBACK.
func (p *Suback) Type() Type { return SUBACK }

// Append implements Packet.
func (p *Suback) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, SUBACK, v)
	w.packetID(p.PacketID, "MQTT-2.2.1-6", "MQTT-2.3.1-7")
	w.properties()
	w.textProperty(propReasonString, p.ReasonString)
	w.userProperties(p.UserProperties)
	w.endProperties()
	checkSubackCodes(&w.latch, p.Codes)
	for _, c := range p.Codes {
		w.byte(byte(c))
	}
	return w.end()
}

func checkSubackCodes(l *latch, codes []ReasonCode) {
	if len(codes) == 0 {
		l.fail(ProtocolError, "MQTT-3.9.3-1", "MQTT-3.9.3-1", "no reason code")
	}
	for _, c := range codes {
		if !c.in(inSuback) || l.v != V5 && c > GrantedQoS2 && c != UnspecifiedError {
			l.fail(ProtocolError, "MQTT-3.9.3-2", "MQTT-3.9.3-2", "reason code that the packet does not have")
		}
	}
}

// Decode implements Packet.
func (p *Suback) Decode(h Header, body []byte, v Version) error {
	r := newReader(SUBACK, h, body, v)
	*p = Suback{UserProperties: p.UserProperties[:0], Codes: p.Codes[:0]}
	p.PacketID = r.packetID("MQTT-2.2.1-6", "MQTT-2.3.1-7")
	r.properties(inSuback)
	for r.next() {
		switch r.id {
		case propReasonString:
			p.ReasonString = string(r.data)
		case propUserProperty:
			p.UserProperties = r.userProperty(p.UserProperties)
		}
	}
	p.Codes = r.reasonCodes(p.Codes)
	checkSubackCodes(&r.latch, p.Codes)
	return r.end()
}

// reasonCodes reads the rest of the packet, a reason code in every byte.
func (r *reader) reasonCodes(to []ReasonCode) []ReasonCode {
	for _, c := range r.take(len(r.b)) {
		to = append(to, ReasonCode(c))
	}
	return to
}
