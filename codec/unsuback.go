package codec

// Unsuback answers an UNSUBSCRIBE, section 3.11. In MQTT 3.1.1 it is the packet identifier alone.
type Unsuback struct {
	PacketID       uint16 // not 0
	ReasonString   string // "": absent
	UserProperties UserProperties
	Codes          []ReasonCode // one for each filter, in their order
}

// Type returns UNSUBACK.
func (p *Unsuback) Type() Type { return UNSUBACK }

// Append implements Packet.
func (p *Unsuback) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, UNSUBACK, v)
	w.packetID(p.PacketID, "MQTT-2.2.1-6", "MQTT-2.3.1-7")
	w.properties()
	w.textProperty(propReasonString, p.ReasonString)
	w.userProperties(p.UserProperties)
	w.endProperties()
	p.checkCodes(&w.latch)
	for _, c := range p.Codes {
		w.byte(byte(c))
	}
	return w.end()
}

func (p *Unsuback) checkCodes(l *latch) {
	if l.v != V5 {
		if len(p.Codes) > 0 {
			l.fail(MalformedPacket, "", "3.11.3", "reason codes do not exist in MQTT 3.1.1")
		}
		return
	}
	if len(p.Codes) == 0 {
		l.fail(ProtocolError, "MQTT-3.11.3-1", "", "no reason code")
	}
	for _, c := range p.Codes {
		if !c.in(inUnsuback) {
			l.fail(ProtocolError, "MQTT-3.11.3-2", "", "reason code that the packet does not have")
		}
	}
}

// Decode implements Packet.
func (p *Unsuback) Decode(h Header, body []byte, v Version) error {
	r := newReader(UNSUBACK, h, body, v)
	*p = Unsuback{UserProperties: p.UserProperties[:0], Codes: p.Codes[:0]}
	p.PacketID = r.packetID("MQTT-2.2.1-6", "MQTT-2.3.1-7")
	r.properties(inUnsuback)
	for r.next() {
		switch r.id {
		case propReasonString:
			p.ReasonString = string(r.data)
		case propUserProperty:
			p.UserProperties = r.userProperty(p.UserProperties)
		}
	}
	p.Codes = r.reasonCodes(p.Codes)
	p.checkCodes(&r.latch)
	return r.end()
}
