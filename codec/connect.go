package codec

import "time"

// Connect is the first packet of a client, section 3.1.
type Connect struct {
	// Version is the version that Decode found in the packet, not the one that it was called with. Append ignores it.
	Version Version

	CleanStart  bool   // Clean Session in MQTT 3.1.1
	KeepAlive   uint16 // seconds; 0 switches it off
	ClientID    string // may be empty; in MQTT 3.1.1 with CleanStart only
	Will        *Will  // nil: none
	HasUsername bool
	HasPassword bool   // in MQTT 3.1.1 with HasUsername only
	Username    string // counts with HasUsername only, and may then be empty
	Password    []byte // counts with HasPassword only, and may then be empty
	Properties  ConnectProperties
}

// ConnectProperties are those of a CONNECT, section 3.1.2.11. MQTT 3.1.1 has none of them.
type ConnectProperties struct {
	SessionExpiry              *uint32 // seconds; nil: absent, which means 0
	ReceiveMaximum             uint16  // 0: absent, which means 65,535
	MaximumPacketSize          uint32  // bytes; 0: absent, no limit
	TopicAliasMaximum          uint16
	RequestResponseInformation *bool
	RequestProblemInformation  *bool
	AuthenticationMethod       string // "": absent
	AuthenticationData         []byte // nil: absent; only with a method
	UserProperties             UserProperties
}

// Will is the message that the server publishes when the connection ends without a DISCONNECT, section 3.1.2.5.
type Will struct {
	Topic      string // a topic name, not empty
	Payload    []byte
	QoS        byte
	Retain     bool
	Properties WillProperties
}

// WillProperties are those of a will, section 3.1.3.2. MQTT 3.1.1 has none of them.
type WillProperties struct {
	WillDelay       time.Duration // rounded up to seconds; 0: absent
	UTF8Payload     bool
	MessageExpiry   time.Duration // as in PublishProperties
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UserProperties  UserProperties
}

// The connect flags, section 3.1.2.3.
const (
	connectReserved   = 0x01
	connectCleanStart = 0x02
	connectWill       = 0x04
	connectWillQoS    = 0x18
	connectWillRetain = 0x20
	connectPassword   = 0x40
	connectUsername   = 0x80
)

const protocolName = "MQTT"

// Type returns CONNECT.
func (p *Connect) Type() Type { return CONNECT }

// Append implements Packet.
// [MQTT-3.1.2-9] [MQTT-3.1.3-1] [MQTT-3.1.3-3] [MQTT-3.1.3-4] [MQTT-3.1.3-12] [MQTT311-3.1.2-9] [MQTT311-3.1.3-1]
// [MQTT311-3.1.3-3] [MQTT311-3.1.3-4] [MQTT311-3.1.3-11]
func (p *Connect) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, CONNECT, v)
	p.check(&w)
	w.rawText(protocolName)
	w.byte(byte(v))
	w.byte(p.flags())
	w.uint16(p.KeepAlive)
	p.Properties.append(&w)
	w.text(p.ClientID) // [MQTT-3.1.3-1] gives the order
	if p.Will != nil {
		p.Will.append(&w)
	}
	if p.HasUsername {
		w.text(p.Username)
	}
	if p.HasPassword {
		w.binary(p.Password)
	}
	return w.end()
}

// check refuses what the fields allow and the specification does not.
func (p *Connect) check(w *writer) {
	if w.v != V5 && w.v != V311 {
		w.fail(UnsupportedProtocolVersion, "MQTT-3.1.2-2", "MQTT-3.1.2-2", "protocol version is neither 5.0 nor 3.1.1")
	}
	if !p.HasUsername && p.Username != "" {
		w.fail(ProtocolError, "MQTT-3.1.2-16", "MQTT-3.1.2-18", "user name without its flag")
	}
	if !p.HasPassword && len(p.Password) > 0 {
		w.fail(ProtocolError, "MQTT-3.1.2-18", "MQTT-3.1.2-20", "password without its flag")
	}
	p.check311(&w.latch)
}

// check311 is what MQTT 3.1.1 alone forbids.
// [MQTT-3.1.2.9] [MQTT311-3.1.2-22]
func (p *Connect) check311(l *latch) {
	if l.v == V5 {
		return
	}
	if p.HasPassword && !p.HasUsername {
		l.fail(ProtocolError, "", "MQTT-3.1.2-22", "password without user name")
	}
	if p.ClientID == "" && !p.CleanStart {
		l.fail(ClientIdentifierNotValid, "", "MQTT-3.1.3-8", "empty client identifier without Clean Session")
	}
}

// [MQTT-3.1.2-3] [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-17] [MQTT-3.1.2-19] [MQTT311-3.1.2-3] [MQTT311-3.1.2-11]
// [MQTT311-3.1.2-13] [MQTT311-3.1.2-15] [MQTT311-3.1.2-19] [MQTT311-3.1.2-21]
func (p *Connect) flags() byte {
	var f byte
	if p.CleanStart {
		f |= connectCleanStart
	}
	if p.Will != nil {
		f |= connectWill | p.Will.QoS<<3&connectWillQoS
		if p.Will.Retain {
			f |= connectWillRetain
		}
	}
	if p.HasPassword {
		f |= connectPassword
	}
	if p.HasUsername {
		f |= connectUsername
	}
	return f
}

// [MQTT-3.1.2.11]
func (p *ConnectProperties) append(w *writer) {
	w.properties()
	w.pointer32Property(propSessionExpiryInterval, p.SessionExpiry)
	w.uint16Property(propReceiveMaximum, p.ReceiveMaximum)
	w.uint32Property(propMaximumPacketSize, p.MaximumPacketSize)
	w.uint16Property(propTopicAliasMaximum, p.TopicAliasMaximum)
	w.flagProperty(propRequestResponseInformation, p.RequestResponseInformation)
	w.flagProperty(propRequestProblemInformation, p.RequestProblemInformation)
	w.userProperties(p.UserProperties)
	w.textProperty(propAuthenticationMethod, p.AuthenticationMethod)
	w.binaryProperty(propAuthenticationData, p.AuthenticationData)
	w.checkAuthentication(p.AuthenticationMethod, p.AuthenticationData, "3.1.2.11.10")
	w.endProperties()
}

// [MQTT-3.1.3-11] [MQTT-3.1.3.2] [MQTT311-3.1.3-10]
func (p *Will) append(w *writer) {
	if p.QoS > 2 {
		w.fail(MalformedPacket, "MQTT-3.1.2-12", "MQTT-3.1.2-14", "will at a QoS above 2")
	}
	w.properties()
	if p.Properties.WillDelay != 0 {
		w.secondsProperty(propWillDelayInterval, p.Properties.WillDelay)
	}
	message := p.Properties.message()
	message.append(w)
	w.endProperties()
	if f := topicFlaw(p.Topic); f != sound {
		w.failText(f)
	} else {
		w.rawText(p.Topic)
	}
	w.binary(p.Payload)
}

// message returns the properties that a will shares with a PUBLISH.
func (p *WillProperties) message() PublishProperties {
	return PublishProperties{
		UTF8Payload:     p.UTF8Payload,
		MessageExpiry:   p.MessageExpiry,
		ContentType:     p.ContentType,
		ResponseTopic:   p.ResponseTopic,
		CorrelationData: p.CorrelationData,
		UserProperties:  p.UserProperties,
	}
}

// Decode implements Packet. It takes the version from the packet and not from its parameter.
func (p *Connect) Decode(h Header, body []byte, v Version) error {
	r := newReader(CONNECT, h, body, v)
	name := r.take(2 + len(protocolName))
	if name != nil && string(name) != "\x00\x04"+protocolName {
		r.stop(UnsupportedProtocolVersion, "MQTT-3.1.2-1", "MQTT-3.1.2-1", "protocol name is not MQTT")
	}
	version := Version(r.byte())
	if version != V5 && version != V311 {
		r.stop(UnsupportedProtocolVersion, "MQTT-3.1.2-2", "MQTT-3.1.2-2", "protocol version is neither 5.0 nor 3.1.1")
	}
	r.v = version
	flags := r.byte()
	r.checkConnectFlags(flags)
	*p = Connect{
		Version:     version,
		CleanStart:  flags&connectCleanStart != 0,
		HasPassword: flags&connectPassword != 0,
		HasUsername: flags&connectUsername != 0,
		KeepAlive:   r.uint16(),
		Properties:  ConnectProperties{UserProperties: p.Properties.UserProperties[:0]},
	}
	p.Properties.decode(&r)
	p.ClientID = string(r.text())
	if flags&connectWill != 0 {
		p.Will = r.will(flags)
	}
	if p.HasUsername {
		p.Username = string(r.text())
	}
	if p.HasPassword {
		p.Password = r.binary()
	}
	p.check311(&r.latch)
	return r.end()
}

func (r *reader) checkConnectFlags(flags byte) {
	if flags&connectReserved != 0 {
		r.fail(MalformedPacket, "MQTT-3.1.2-3", "MQTT-3.1.2-3", "reserved connect flag is 1")
	}
	switch {
	case flags&connectWillQoS == connectWillQoS:
		r.fail(MalformedPacket, "MQTT-3.1.2-12", "MQTT-3.1.2-14", "will at QoS 3")
	case flags&connectWill == 0 && flags&connectWillQoS != 0:
		r.fail(ProtocolError, "MQTT-3.1.2-11", "MQTT-3.1.2-13", "will QoS without a will")
	case flags&connectWill == 0 && flags&connectWillRetain != 0:
		r.fail(ProtocolError, "MQTT-3.1.2-13", "MQTT-3.1.2-15", "will retain without a will")
	}
}

func (p *ConnectProperties) decode(r *reader) {
	r.properties(inConnect)
	for r.next() {
		switch r.id {
		case propSessionExpiryInterval:
			p.SessionExpiry = r.pointer32()
		case propReceiveMaximum:
			p.ReceiveMaximum = uint16(r.notZero(ProtocolError, "3.1.2.11.3"))
		case propMaximumPacketSize:
			p.MaximumPacketSize = r.notZero(ProtocolError, "3.1.2.11.4")
		case propTopicAliasMaximum:
			p.TopicAliasMaximum = uint16(r.number)
		case propRequestResponseInformation:
			p.RequestResponseInformation = r.flag()
		case propRequestProblemInformation:
			p.RequestProblemInformation = r.flag()
		case propUserProperty:
			p.UserProperties = r.userProperty(p.UserProperties)
		case propAuthenticationMethod:
			p.AuthenticationMethod = string(r.data)
		case propAuthenticationData:
			p.AuthenticationData = r.data
		}
	}
	r.checkAuthentication(p.AuthenticationMethod, p.AuthenticationData, "3.1.2.11.10")
}

// checkAuthentication refuses data without a method. An empty name names no method.
func (l *latch) checkAuthentication(method string, data []byte, rule string) {
	if method == "" && data != nil {
		l.fail(ProtocolError, rule, "", "Authentication Data without an Authentication Method")
	}
}

// will reads the will properties, topic and payload.
func (r *reader) will(flags byte) *Will {
	w := &Will{QoS: flags & connectWillQoS >> 3, Retain: flags&connectWillRetain != 0}
	w.Properties.decode(r)
	w.Topic = string(r.topic())
	w.Payload = r.binary()
	return w
}

func (p *WillProperties) decode(r *reader) {
	var message PublishProperties
	r.properties(inWill)
	for r.next() {
		if r.id == propWillDelayInterval {
			p.WillDelay = time.Duration(r.number) * time.Second
		} else {
			message.set(r)
		}
	}
	p.UTF8Payload = message.UTF8Payload
	p.MessageExpiry = message.MessageExpiry
	p.ContentType = message.ContentType
	p.ResponseTopic = message.ResponseTopic
	p.CorrelationData = message.CorrelationData
	p.UserProperties = message.UserProperties
}
