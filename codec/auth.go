package codec

// Auth is a step of an extended authentication, section 3.15. MQTT 3.1.1 does not have it.
type Auth struct {
	Code           ReasonCode // Success, ContinueAuthentication or ReAuthenticate
	Method         string     // "" only if all the rest is zero too
	Data           []byte     // nil: absent
	ReasonString   string     // "": absent
	UserProperties UserProperties
}

// Type returns AUTH.
func (p *Auth) Type() Type { return AUTH }

// Append implements Packet. It writes the shortest form.
func (p *Auth) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, AUTH, v)
	if v != V5 {
		w.fail(MalformedPacket, "", "2.2.1", "AUTH does not exist in MQTT 3.1.1")
	}
	p.check(&w.latch)
	if p.Method != "" {
		w.reasonCode(p.Code, "MQTT-3.15.2-1")
		w.properties()
		w.textProperty(propAuthenticationMethod, p.Method)
		w.binaryProperty(propAuthenticationData, p.Data)
		w.textProperty(propReasonString, p.ReasonString)
		w.userProperties(p.UserProperties)
		w.endProperties()
	}
	return w.end()
}

// check refuses a packet that has no method and a reason code other than Success.
func (p *Auth) check(l *latch) {
	if p.Method == "" && (p.Code != Success || p.Data != nil || p.ReasonString != "" || len(p.UserProperties) > 0) {
		l.fail(ProtocolError, "3.15.2.2.2", "", "no Authentication Method")
	}
}

// Decode implements Packet.
func (p *Auth) Decode(h Header, body []byte, v Version) error {
	r := newReader(AUTH, h, body, v)
	*p = Auth{UserProperties: p.UserProperties[:0]}
	if len(r.b) > 0 {
		p.Code = r.reasonCode("MQTT-3.15.2-1")
		r.properties(inAuth)
	}
	for r.next() {
		switch r.id {
		case propAuthenticationMethod:
			p.Method = string(r.data)
		case propAuthenticationData:
			p.Data = r.data
		case propReasonString:
			p.ReasonString = string(r.data)
		case propUserProperty:
			p.UserProperties = r.userProperty(p.UserProperties)
		}
	}
	p.check(&r.latch)
	return r.end()
}
