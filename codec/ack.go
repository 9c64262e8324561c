package codec

// ack is what PUBACK, PUBREC, PUBREL and PUBCOMP have in common: everything. Their types convert to it.
type ack struct {
	PacketID       uint16
	Code           ReasonCode
	ReasonString   string
	UserProperties UserProperties
}

// ackCodeRule are the statements about the reason codes of the four packets.
var ackCodeRule = [...]string{
	PUBACK: "MQTT-3.4.2-1", PUBREC: "MQTT-3.5.2-1", PUBREL: "MQTT-3.6.2-1", PUBCOMP: "MQTT-3.7.2-1",
}

// The statements about the packet identifier of the four packets.
const (
	ackIDRule     = "MQTT-2.2.1-5"
	ackIDRuleV311 = "MQTT-2.3.1-6"
)

// append appends the short form if it is enough: that has neither code nor properties.
func (a *ack) append(dst []byte, t Type, v Version) ([]byte, error) {
	if a.PacketID == 0 || a.Code != Success || a.ReasonString != "" || len(a.UserProperties) > 0 {
		return a.appendLong(dst, t, v)
	}
	return append(dst, byte(t)<<4|flagsOf[t&0x0F], 2, byte(a.PacketID>>8), byte(a.PacketID)), nil
}

func (a *ack) appendLong(dst []byte, t Type, v Version) ([]byte, error) {
	w := newWriter(dst, t, v)
	w.packetID(a.PacketID, ackIDRule, ackIDRuleV311)
	w.reasonCode(a.Code, ackCodeRule[t])
	if a.ReasonString != "" || len(a.UserProperties) > 0 {
		w.properties()
		w.textProperty(propReasonString, a.ReasonString)
		w.userProperties(a.UserProperties)
		w.endProperties()
	}
	return w.end()
}

func (a *ack) decode(t Type, h Header, body []byte, v Version) error {
	if len(body) == 2 && h.fits(t, 2, v) && (body[0]|body[1]) != 0 {
		*a = ack{PacketID: uint16(body[0])<<8 | uint16(body[1]), UserProperties: a.UserProperties[:0]}
		return nil
	}
	return a.decodeLong(t, h, body, v)
}

func (a *ack) decodeLong(t Type, h Header, body []byte, v Version) error {
	r := newReader(t, h, body, v)
	*a = ack{UserProperties: a.UserProperties[:0]}
	a.PacketID = r.packetID(ackIDRule, ackIDRuleV311)
	if v == V5 && len(r.b) > 0 {
		a.Code = r.reasonCode(ackCodeRule[t])
	}
	if v == V5 && len(r.b) > 0 {
		r.properties(1 << t)
		for r.next() {
			switch r.id {
			case propReasonString:
				a.ReasonString = string(r.data)
			case propUserProperty:
				a.UserProperties = r.userProperty(a.UserProperties)
			}
		}
	}
	return r.end()
}
