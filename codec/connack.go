package codec

// Connack is the server's answer to a CONNECT, section 3.2.
type Connack struct {
	SessionPresent bool       // only with Success
	Code           ReasonCode // in MQTT 3.1.1 translated from and to the return code
	Properties     ConnackProperties
}

// ConnackProperties are those of a CONNACK, section 3.2.2.3. MQTT 3.1.1 has none of them.
type ConnackProperties struct {
	SessionExpiry                    *uint32 // seconds
	ReceiveMaximum                   uint16  // 0: absent, which means 65,535
	MaximumQoS                       *byte   // 0 or 1; nil: absent, which means 2
	RetainAvailable                  *bool
	MaximumPacketSize                uint32 // bytes; 0: absent, no limit
	AssignedClientID                 string
	TopicAliasMaximum                uint16
	ReasonString                     string
	UserProperties                   UserProperties
	WildcardSubscriptionAvailable    *bool
	SubscriptionIdentifiersAvailable *bool
	SharedSubscriptionAvailable      *bool
	ServerKeepAlive                  *uint16 // seconds
	ResponseInformation              string
	ServerReference                  string
	AuthenticationMethod             string // "": absent
	AuthenticationData               []byte // nil: absent; only with a method
}

// Type returns CONNACK.
func (p *Connack) Type() Type { return CONNACK }

// Append implements Packet.
func (p *Connack) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, CONNACK, v)
	p.checkSession(&w.latch)
	if p.SessionPresent {
		w.byte(1)
	} else {
		w.byte(0)
	}
	if v == V5 {
		w.reasonCode(p.Code, "MQTT-3.2.2-8")
	} else {
		w.returnCode(p.Code)
	}
	p.Properties.append(&w)
	return w.end()
}

func (p *Connack) checkSession(l *latch) {
	if p.SessionPresent && p.Code != Success {
		l.fail(ProtocolError, "MQTT-3.2.2-6", "MQTT-3.2.2-4", "Session Present in a refusal")
	}
}

// returnCode writes a reason code as a return code of MQTT 3.1.1.
func (w *writer) returnCode(c ReasonCode) {
	code := c.ReturnCode()
	if code == noReturnCode {
		w.fail(ProtocolError, "", "MQTT-3.2.2-6", "reason code that MQTT 3.1.1 has no return code for")
	}
	w.byte(code)
}

func (p *ConnackProperties) append(w *writer) {
	w.properties()
	w.pointer32Property(propSessionExpiryInterval, p.SessionExpiry)
	w.uint16Property(propReceiveMaximum, p.ReceiveMaximum)
	if p.MaximumQoS != nil {
		w.property(propMaximumQoS)
		if *p.MaximumQoS > 1 {
			w.fail(ProtocolError, "3.2.2.3.4", "", "Maximum QoS is neither 0 nor 1")
		}
		w.byte(*p.MaximumQoS)
	}
	w.flagProperty(propRetainAvailable, p.RetainAvailable)
	w.uint32Property(propMaximumPacketSize, p.MaximumPacketSize)
	w.textProperty(propAssignedClientIdentifier, p.AssignedClientID)
	w.uint16Property(propTopicAliasMaximum, p.TopicAliasMaximum)
	w.textProperty(propReasonString, p.ReasonString)
	w.userProperties(p.UserProperties)
	w.flagProperty(propWildcardSubscriptionAvailable, p.WildcardSubscriptionAvailable)
	w.flagProperty(propSubscriptionIdentifierAvailable, p.SubscriptionIdentifiersAvailable)
	w.flagProperty(propSharedSubscriptionAvailable, p.SharedSubscriptionAvailable)
	w.pointer16Property(propServerKeepAlive, p.ServerKeepAlive)
	w.textProperty(propResponseInformation, p.ResponseInformation)
	w.textProperty(propServerReference, p.ServerReference)
	w.textProperty(propAuthenticationMethod, p.AuthenticationMethod)
	w.binaryProperty(propAuthenticationData, p.AuthenticationData)
	w.checkAuthentication(p.AuthenticationMethod, p.AuthenticationData, "3.2.2.3.18")
	w.endProperties()
}

// Decode implements Packet.
func (p *Connack) Decode(h Header, body []byte, v Version) error {
	r := newReader(CONNACK, h, body, v)
	flags := r.byte()
	if flags > 1 {
		r.fail(MalformedPacket, "MQTT-3.2.2-1", "3.2.2.1", "reserved connect acknowledge flags")
	}
	*p = Connack{
		SessionPresent: flags == 1,
		Properties:     ConnackProperties{UserProperties: p.Properties.UserProperties[:0]},
	}
	if v == V5 {
		p.Code = r.reasonCode("MQTT-3.2.2-8")
	} else {
		p.Code = r.returnCode()
	}
	p.checkSession(&r.latch)
	p.Properties.decode(&r)
	return r.end()
}

// returnCode reads a return code of MQTT 3.1.1.
func (r *reader) returnCode() ReasonCode {
	code := r.byte()
	if int(code) >= len(returnCodes) {
		r.fail(ProtocolError, "", "MQTT-3.2.2-6", "reserved return code")
	}
	return FromReturnCode(code)
}

func (p *ConnackProperties) decode(r *reader) {
	r.properties(inConnack)
	for r.next() {
		p.set(r)
	}
	r.checkAuthentication(p.AuthenticationMethod, p.AuthenticationData, "3.2.2.3.18")
}

func (p *ConnackProperties) set(r *reader) {
	switch r.id {
	case propSessionExpiryInterval:
		p.SessionExpiry = r.pointer32()
	case propReceiveMaximum:
		p.ReceiveMaximum = uint16(r.notZero(ProtocolError, "3.2.2.3.3"))
	case propMaximumQoS:
		qos := byte(r.number)
		p.MaximumQoS = &qos
	case propRetainAvailable:
		p.RetainAvailable = r.flag()
	case propMaximumPacketSize:
		p.MaximumPacketSize = r.notZero(ProtocolError, "3.2.2.3.6")
	case propAssignedClientIdentifier:
		p.AssignedClientID = string(r.data)
	case propTopicAliasMaximum:
		p.TopicAliasMaximum = uint16(r.number)
	case propReasonString:
		p.ReasonString = string(r.data)
	case propUserProperty:
		p.UserProperties = r.userProperty(p.UserProperties)
	case propWildcardSubscriptionAvailable:
		p.WildcardSubscriptionAvailable = r.flag()
	case propSubscriptionIdentifierAvailable:
		p.SubscriptionIdentifiersAvailable = r.flag()
	case propSharedSubscriptionAvailable:
		p.SharedSubscriptionAvailable = r.flag()
	case propServerKeepAlive:
		p.ServerKeepAlive = r.pointer16()
	case propResponseInformation:
		p.ResponseInformation = string(r.data)
	case propServerReference:
		p.ServerReference = string(r.data)
	case propAuthenticationMethod:
		p.AuthenticationMethod = string(r.data)
	case propAuthenticationData:
		p.AuthenticationData = r.data
	}
}
