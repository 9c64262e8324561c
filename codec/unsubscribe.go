package codec

// Unsubscribe ends subscriptions, section 3.10.
type Unsubscribe struct {
	PacketID       uint16 // not 0
	UserProperties UserProperties
	Filters        []string // at least one, none of them empty; where wildcards stand is not checked
}

// Type returns UNSUBSCRIBE.
func (p *Unsubscribe) Type() Type { return UNSUBSCRIBE }

// Append implements Packet.
func (p *Unsubscribe) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, UNSUBSCRIBE, v)
	w.packetID(p.PacketID, "MQTT-2.2.1-3", "MQTT-2.3.1-1")
	w.properties()
	w.userProperties(p.UserProperties)
	w.endProperties()
	p.check(&w.latch)
	for _, filter := range p.Filters {
		w.filter(filter)
	}
	return w.end()
}

func (p *Unsubscribe) check(l *latch) {
	if len(p.Filters) == 0 {
		l.fail(ProtocolError, "MQTT-3.10.3-2", "MQTT-3.10.3-2", "no topic filter")
	}
}

// Decode implements Packet.
func (p *Unsubscribe) Decode(h Header, body []byte, v Version) error {
	r := newReader(UNSUBSCRIBE, h, body, v)
	*p = Unsubscribe{UserProperties: p.UserProperties[:0], Filters: p.Filters[:0]}
	p.PacketID = r.packetID("MQTT-2.2.1-3", "MQTT-2.3.1-1")
	r.properties(inUnsubscribe)
	for r.next() {
		p.UserProperties = r.userProperty(p.UserProperties)
	}
	for len(r.b) > 0 && r.err == nil {
		p.Filters = append(p.Filters, r.filter())
	}
	p.check(&r.latch)
	return r.end()
}
