package session

import (
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// Receipt is a QoS 1 or 2 message from the server that could not be acknowledged when it came: a subscription has no
// room for it, the application acknowledges it itself, or the acknowledgement of an earlier message is still to come
// [MQTT-4.6.0-2] [MQTT-4.6.0-3].
type Receipt struct {
	id       uint16
	qos      byte
	holders  int // who have neither accepted nor refused it: the arrival itself while it lasts, and subscriptions
	accepted bool
	code     codec.ReasonCode // of the refusal, if nobody accepts
	reason   string
}

// order is the acknowledgements of one kind that wait, in the order in which their messages came.
type order struct{ waiting fifo.Queue[*Receipt] }

func (o *order) empty() bool { return o.waiting.Len() == 0 }

// ready removes and returns the first receipt if nobody holds it any more.
func (o *order) ready() *Receipt {
	if o.empty() || (*o.waiting.At(0)).holders > 0 {
		return nil
	}
	return o.waiting.Pop()
}

// Verdict is what is to be done with an arriving PUBLISH at QoS 1 or 2.
type Verdict uint8

const (
	Deliver  Verdict = iota // a new message
	Repeated                // delivered before; what had to be answered is appended
	Exceeded                // the server broke our Receive Maximum [MQTT-3.3.4-9]
)

// Arrive takes the identifier of a PUBLISH at QoS 1 or 2. A message to Deliver is followed by Accept or by Hold.
func (s *Session) Arrive(dst []byte, id uint16, qos byte, dup bool) ([]byte, Verdict) {
	if qos == 2 {
		if s.held.get(id) != nil {
			return dst, Repeated // its PUBREC is still to come
		}
		if s.received.get(id) != nil {
			return s.pubrec(dst, id, codec.Success, ""), Repeated // [MQTT-4.3.3-10]
		}
	}
	if s.exceeds(dup) {
		return dst, Exceeded
	}
	s.unsettled++
	return dst, Deliver
}

// exceeds reports whether one more message breaks our Receive Maximum. Resends do not count: a server may resume with
// the window of an earlier connection, and then fills places in that window with new messages.
func (s *Session) exceeds(dup bool) bool {
	switch {
	case s.unsettled < s.limits.ReceiveMaximum+s.excess:
		return false
	case !dup || s.unsettled >= maxID:
		return true
	}
	s.excess++
	return false
}

// Accept acknowledges a message that arrived just now: at once, or in its turn if earlier ones wait.
func (s *Session) Accept(dst []byte, id uint16, qos byte) []byte {
	if s.order(qos).empty() {
		return s.acknowledge(dst, id, qos, codec.Success, "")
	}
	return s.Release(dst, s.Hold(id, qos), true)
}

// Hold keeps a message that arrived just now unacknowledged until Release and until each holder that was added has
// settled it.
func (s *Session) Hold(id uint16, qos byte) *Receipt {
	r := &Receipt{id: id, qos: qos, holders: 1}
	s.order(qos).waiting.Push(r)
	if qos == 2 && s.held.get(id) == nil {
		*s.held.put(id) = r
	}
	return r
}

// AddHolder notes that one more subscription has to settle the message.
func (r *Receipt) AddHolder() { r.holders++ }

// Release ends the arrival of a message for which Hold was called: no holder will be added. accepted says that a
// subscription accepted it without ever holding it.
func (s *Session) Release(dst []byte, r *Receipt, accepted bool) []byte {
	r.accepted = r.accepted || accepted
	return s.settle(dst, r)
}

// Settle is one holder's word on a message: accepted, when code is Success, or refused, with a code that PUBACK and
// PUBREC have and a reason that is a string a packet can hold. After the last holder's the acknowledgement goes out,
// unless an earlier one waits; a refusal only if nobody accepted.
func (s *Session) Settle(dst []byte, r *Receipt, code codec.ReasonCode, reason string) []byte {
	if code.Failed() {
		r.code, r.reason = code, reason
	} else {
		r.accepted = true
	}
	return s.settle(dst, r)
}

func (s *Session) settle(dst []byte, r *Receipt) []byte {
	r.holders--
	if r.holders > 0 {
		return dst
	}
	return s.flush(dst, r.qos)
}

// flush appends the acknowledgements whose turn it is.
func (s *Session) flush(dst []byte, qos byte) []byte {
	o := s.order(qos)
	for r := o.ready(); r != nil; r = o.ready() {
		if r.accepted {
			r.code, r.reason = codec.Success, ""
		}
		dst = s.acknowledge(dst, r.id, r.qos, r.code, r.reason)
	}
	return dst
}

func (s *Session) order(qos byte) *order {
	if qos == 2 {
		return &s.pubrecs
	}
	return &s.pubacks
}

// acknowledge appends PUBACK or PUBREC. A QoS 2 message that was accepted occupies our window until PUBCOMP.
func (s *Session) acknowledge(dst []byte, id uint16, qos byte, code codec.ReasonCode, reason string) []byte {
	if s.version < codec.V5 {
		code, reason = codec.Success, "" // 3.1.1 cannot refuse
	}
	if qos == 1 {
		s.unsettled--
		return must((&codec.Puback{PacketID: id, Code: code, ReasonString: reason}).Append(dst, s.version))
	}
	if s.held.get(id) != nil {
		s.held.delete(id)
	}
	if code.Failed() {
		s.unsettled-- // [MQTT-4.3.3-9]
	} else {
		s.received.put(id)
	}
	return s.pubrec(dst, id, code, reason)
}

func (s *Session) pubrec(dst []byte, id uint16, code codec.ReasonCode, reason string) []byte {
	return must((&codec.Pubrec{PacketID: id, Code: code, ReasonString: reason}).Append(dst, s.version))
}

// Pubrel takes a PUBREL and appends the PUBCOMP, for an unknown identifier too [MQTT-4.3.3-11].
func (s *Session) Pubrel(dst []byte, id uint16) []byte {
	code := codec.Success
	if s.received.get(id) != nil {
		s.received.delete(id) // [MQTT-4.3.3-12]
		s.unsettled--
	} else if s.version >= codec.V5 {
		code = codec.PacketIdentifierNotFound
	}
	return must((&codec.Pubcomp{PacketID: id, Code: code}).Append(dst, s.version))
}
