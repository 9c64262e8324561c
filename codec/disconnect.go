package codec

// Disconnect is the last packet, section 3.14. In MQTT 3.1.1 it is empty and comes from clients only.
type Disconnect struct {
	Code            ReasonCode
	SessionExpiry   *uint32 // seconds; nil: absent
	ReasonString    string  // "": absent
	UserProperties  UserProperties
	ServerReference string // "": absent
}

// Type returns DISCONNECT.
func (p *Disconnect) Type() Type { return DISCONNECT }

// Append implements Packet. It writes the shortest form.
func (p *Disconnect) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, DISCONNECT, v)
	properties := p.SessionExpiry != nil || p.ReasonString != "" || len(p.UserProperties) > 0 || p.ServerReference != ""
	if properties || p.Code != NormalDisconnection {
		w.reasonCode(p.Code, "MQTT-3.14.2-1")
	}
	if properties {
		w.properties()
		w.pointer32Property(propSessionExpiryInterval, p.SessionExpiry)
		w.textProperty(propReasonString, p.ReasonString)
		w.userProperties(p.UserProperties)
		w.textProperty(propServerReference, p.ServerReference)
		w.endProperties()
	}
	return w.end()
}

// Decode implements Packet.
func (p *Disconnect) Decode(h Header, body []byte, v Version) error {
	r := newReader(DISCONNECT, h, body, v)
	*p = Disconnect{UserProperties: p.UserProperties[:0]}
	if v == V5 && len(r.b) > 0 {
		p.Code = r.reasonCode("MQTT-3.14.2-1")
	}
	if v == V5 && len(r.b) > 0 {
		r.properties(inDisconnect)
	}
	for r.next() {
		switch r.id {
		case propSessionExpiryInterval:
			p.SessionExpiry = r.pointer32()
		case propReasonString:
			p.ReasonString = string(r.data)
		case propUserProperty:
			p.UserProperties = r.userProperty(p.UserProperties)
		case propServerReference:
			p.ServerReference = string(r.data)
		}
	}
	return r.end()
}
