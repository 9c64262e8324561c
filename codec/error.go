package codec

// Error is a packet that breaks the specification.
type Error struct {
	Packet Type       // 0: not known
	Code   ReasonCode // to answer with in MQTT 5.0; in 3.1.1 the only answer is to close the connection
	Rule   string     // the statement, "MQTT-3.3.1-4", or the section where none is numbered, "3.8.2.1.2"
	Detail string     // for people
}

// Error returns the packet's name, what is wrong and the rule.
func (e *Error) Error() string {
	s := "codec: "
	if e.Packet != 0 {
		s += e.Packet.String() + ": "
	}
	s += e.Detail
	if e.Rule != "" {
		s += " [" + e.Rule + "]"
	}
	return s
}

// manyProperties is the detail of the error for more properties than MaxProperties.
const manyProperties = "more than 16,384 properties"

// newError picks the rule of version v.
//
//go:noinline
func newError(t Type, v Version, code ReasonCode, v5, v311, detail string) *Error {
	rule := v5
	if v != V5 {
		rule = v311
	}
	return &Error{Packet: t, Code: code, Rule: rule, Detail: detail}
}

// latch keeps the first error of one packet.
type latch struct {
	packet Type
	v      Version
	err    *Error
}

// fail keeps an error with the rule of the packet's version, v5 or v311, unless there is one already.
//
//go:noinline
func (l *latch) fail(code ReasonCode, v5, v311, detail string) {
	if l.err == nil {
		l.err = newError(l.packet, l.v, code, v5, v311, detail)
	}
}
