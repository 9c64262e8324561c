package session

import (
	"hash/maphash"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// Receipt is a QoS 1 or 2 message from the server that could not be acknowledged when it came: a subscription has no
// room for it, the application acknowledges it itself, or the acknowledgement of an earlier message is still to come
// [MQTT-4.6.0-2] [MQTT-4.6.0-3].
// [MQTT311-4.6.0-2] [MQTT311-4.6.0-3]
type Receipt struct {
	id       uint16
	qos      byte
	place    place
	arriving bool  // Release is still to come
	holders  []any // subscriptions that have neither accepted nor refused it
	accepted bool
	repeated bool     // its PUBREC was sent on an earlier connection, and is owed again
	refusal  *Refusal // the latest, which counts if nobody accepts
	content  uint64   // hash of topic and payload, by which a resend is recognised
}

// Refusal is a holder's word that it does not accept a message. Code is one that PUBACK and PUBREC have, of 0x80 or more;
// the rest are strings that a packet can hold.
type Refusal struct {
	Code           codec.ReasonCode
	Reason         string
	UserProperties codec.UserProperties
}

// place is where a receipt is.
type place uint8

const (
	inOrder   place = iota // waits for its acknowledgement to go out, on this connection
	away                   // came on an earlier connection; the server has not sent it again yet
	forgotten              // the session it belongs to is gone, or the server has given its identifier to another message
)

// pending reports whether somebody has still to accept or refuse it.
func (r *Receipt) pending() bool { return r.arriving || len(r.holders) > 0 }

// Holders returns the subscriptions that have neither accepted nor refused it. They belong to the session.
func (r *Receipt) Holders() []any { return r.holders }

// OnlyFor reports whether a holder is the only one, and nobody has accepted the message.
func (r *Receipt) OnlyFor(holder any) bool {
	return !r.accepted && len(r.holders) == 1 && r.holders[0] == holder
}

// QoS is the message's own.
func (r *Receipt) QoS() byte { return r.qos }

// Forgotten reports whether nobody waits for the acknowledgement any more.
func (r *Receipt) Forgotten() bool { return r.place == forgotten }

// order is the acknowledgements of one kind that wait, in the order in which their messages came.
type order struct{ waiting fifo.Queue[*Receipt] }

func (o *order) empty() bool { return o.waiting.Len() == 0 }

// ready removes and returns the first receipt if nobody holds it any more.
func (o *order) ready() *Receipt {
	if o.empty() || (*o.waiting.At(0)).pending() {
		return nil
	}
	return o.waiting.Pop()
}

// awayKey identifies a message of an earlier connection.
type awayKey struct {
	id  uint16
	qos byte
}

// completing is a QoS 2 message with PUBREC sent and PUBREL to come.
type completing struct {
	counted bool   // towards our Receive Maximum: it came on this connection
	content uint64 // as Receipt's
}

// Verdict is what is to be done with an arriving PUBLISH at QoS 1 or 2.
type Verdict uint8

const (
	Deliver  Verdict = iota // a new message
	Repeated                // delivered before; what had to be answered is appended
	Exceeded                // the server broke our Receive Maximum [MQTT-3.3.4-9]
)

// Arrive takes a PUBLISH at QoS 1 or 2. A message to Deliver is followed by Accept or by Hold.
// [MQTT-4.3.2-5] [MQTT311-4.3.3-2]
func (s *Session) Arrive(dst []byte, p *codec.PublishView) ([]byte, Verdict) {
	if p.QoS == 2 {
		if s.held.get(p.PacketID) != nil {
			return dst, Repeated // its PUBREC is still to come
		}
		switch c := s.received.get(p.PacketID); {
		case c != nil && c.counted: // a server that sends it again on the same connection
			return s.appendAck(dst, p.PacketID, 2, nil), Repeated // [MQTT-4.3.3-10]
		case c != nil && c.content == s.content(p):
			s.enter(&Receipt{id: p.PacketID, qos: 2, repeated: true})
			return s.flush(dst, 2), Repeated // [MQTT-4.3.3-10] [MQTT-4.6.0-3]
		case c != nil:
			s.received.delete(p.PacketID) // the server has forgotten the old one: its session is another
		}
	}
	if len(s.away) > 0 {
		if r := s.rejoin(p); r != nil {
			return s.flush(dst, r.qos), Repeated
		}
	}
	if s.exceeds(p.Dup) {
		return dst, Exceeded
	}
	s.unsettled++
	return dst, Deliver
}

// rejoin finds the message of an earlier connection that the server sends again, and puts it in order. A new message
// under the same identifier means that the server has forgotten the old one.
func (s *Session) rejoin(p *codec.PublishView) *Receipt {
	key := awayKey{p.PacketID, p.QoS}
	r := s.away[key]
	if r == nil {
		return nil
	}
	delete(s.away, key)
	if !p.Dup || r.content != s.content(p) {
		r.place = forgotten
		return nil
	}
	s.unsettled++
	s.enter(r)
	return r
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

// content hashes what tells one message from another.
func (s *Session) content(p *codec.PublishView) uint64 {
	return maphash.Bytes(s.seed, p.Topic) ^ 31*maphash.Bytes(s.seed, p.Payload)
}

// Accept acknowledges a message that arrived just now: at once, or in its turn if earlier ones wait.
// [MQTT-3.3.4-1] [MQTT-4.3.3-13] [MQTT311-3.3.4-1]
func (s *Session) Accept(dst []byte, p *codec.PublishView) []byte {
	if s.order(p.QoS).empty() {
		r := Receipt{id: p.PacketID, qos: p.QoS}
		if p.QoS == 2 {
			r.content = s.content(p)
		}
		return s.acknowledge(dst, &r)
	}
	return s.Release(dst, s.Hold(p), true)
}

// Hold keeps a message that arrived just now unacknowledged until Release and until each holder that was added has
// settled it.
func (s *Session) Hold(p *codec.PublishView) *Receipt {
	r := &Receipt{id: p.PacketID, qos: p.QoS, arriving: true, content: s.content(p)}
	s.enter(r)
	return r
}

// enter puts r at the end of the order of acknowledgements.
func (s *Session) enter(r *Receipt) {
	r.place = inOrder
	s.order(r.qos).waiting.Push(r)
	if r.qos == 2 {
		*s.held.put(r.id) = r
	}
}

// AddHolder notes that one more subscription has to settle the message.
func (r *Receipt) AddHolder(holder any) { r.holders = append(r.holders, holder) }

// Pass replaces one holder by another.
func (r *Receipt) Pass(from, to any) {
	if i := slices.Index(r.holders, from); i >= 0 {
		r.holders[i] = to
	}
}

// Release ends the arrival of a message for which Hold was called: no holder will be added. accepted says that a
// subscription accepted it without ever holding it.
func (s *Session) Release(dst []byte, r *Receipt, accepted bool) []byte {
	r.arriving = false
	r.accepted = r.accepted || accepted
	return s.settled(dst, r)
}

// Settle is one holder's word on a message: accepted, when refusal is nil, or refused. After the last holder's the acknowledgement goes out,
// unless an earlier one waits; a refusal only if nobody accepted. For a message of an earlier connection it goes out
// when the server sends the message again. A holder's second word does not count.
func (s *Session) Settle(dst []byte, r *Receipt, holder any, refusal *Refusal) []byte {
	i := slices.Index(r.holders, holder)
	if i < 0 {
		return dst
	}
	r.holders = slices.Delete(r.holders, i, i+1)
	if refusal != nil {
		r.refusal = refusal
	} else {
		r.accepted = true
	}
	return s.settled(dst, r)
}

// SettleAll settles everything that a holder holds.
func (s *Session) SettleAll(dst []byte, holder any, refusal *Refusal) []byte {
	var held []*Receipt
	for _, o := range []*order{&s.pubacks, &s.pubrecs} {
		for i := range o.waiting.Len() {
			held = append(held, *o.waiting.At(i))
		}
	}
	for _, r := range s.away {
		held = append(held, r)
	}
	for _, r := range held {
		dst = s.Settle(dst, r, holder, refusal)
	}
	return dst
}

func (s *Session) settled(dst []byte, r *Receipt) []byte {
	if r.pending() || r.place != inOrder {
		return dst
	}
	return s.flush(dst, r.qos)
}

// Oldest returns the message at this QoS that has waited longest for its acknowledgement, and holds up those of all
// that came after it; nil if none waits.
func (s *Session) Oldest(qos byte) *Receipt {
	o := s.order(qos)
	if o.empty() {
		return nil
	}
	return *o.waiting.At(0)
}

// flush appends the acknowledgements whose turn it is.
func (s *Session) flush(dst []byte, qos byte) []byte {
	o := s.order(qos)
	for r := o.ready(); r != nil; r = o.ready() {
		switch {
		case r.repeated:
			s.held.delete(r.id)
			dst = s.appendAck(dst, r.id, 2, nil)
			continue
		case r.accepted:
			r.refusal = nil
		}
		dst = s.acknowledge(dst, r)
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
// [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT311-4.3.2-2] [MQTT311-4.3.3-2]
func (s *Session) acknowledge(dst []byte, r *Receipt) []byte {
	refusal := r.refusal
	if s.version < codec.V5 {
		refusal = nil // 3.1.1 cannot refuse
	}
	if r.qos == 1 {
		s.unsettled--
		return s.appendAck(dst, r.id, 1, refusal)
	}
	if s.held.get(r.id) != nil {
		s.held.delete(r.id)
	}
	if refusal != nil {
		s.unsettled-- // [MQTT-4.3.3-9]
	} else {
		*s.received.put(r.id) = completing{counted: true, content: r.content}
	}
	return s.appendAck(dst, r.id, 2, refusal)
}

// appendAck leaves out what is for people where it would make the packet too large for the server [MQTT-3.4.2-2]
// [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3].
func (s *Session) appendAck(dst []byte, id uint16, qos byte, refusal *Refusal) []byte {
	p := codec.Puback{PacketID: id}
	if refusal != nil {
		p.Code, p.ReasonString, p.UserProperties = refusal.Code, refusal.Reason, refusal.UserProperties
	}
	encode := func() []byte {
		if qos == 2 {
			return must((*codec.Pubrec)(&p).Append(dst, s.version))
		}
		return must(p.Append(dst, s.version))
	}
	b := encode()
	if refusal != nil && s.largest > 0 && len(b)-len(dst) > s.largest {
		p.ReasonString, p.UserProperties = "", nil
		b = encode()
	}
	return b
}

// Pubrel takes a PUBREL and appends the PUBCOMP, for an unknown identifier too [MQTT-4.3.3-11].
func (s *Session) Pubrel(dst []byte, id uint16) []byte {
	code := codec.Success
	if r := s.received.get(id); r != nil {
		if r.counted {
			s.unsettled--
		}
		s.received.delete(id) // [MQTT-4.3.3-12]
	} else if s.version >= codec.V5 {
		code = codec.PacketIdentifierNotFound
	}
	return must((&codec.Pubcomp{PacketID: id, Code: code}).Append(dst, s.version))
}

// Leave ends the connection for what the server sent, because nothing that is appended goes out any more: its
// unacknowledged messages will come again. Lost does the same.
func (s *Session) Leave() {
	for _, o := range []*order{&s.pubacks, &s.pubrecs} {
		for !o.empty() {
			r := o.waiting.Pop()
			if r.repeated {
				continue // received says enough
			}
			r.place = away
			if s.away == nil {
				s.away = make(map[awayKey]*Receipt)
			}
			s.away[awayKey{r.id, r.qos}] = r
		}
	}
	s.held = ring[*Receipt]{}
	s.received.all(func(_ uint16, c *completing) { c.counted = false })
	s.unsettled, s.excess = 0, 0
}

// forgetIncoming drops what only a session that the server has too is good for.
func (s *Session) forgetIncoming() {
	for _, r := range s.away {
		r.place = forgotten
	}
	s.away = nil
	s.received = ring[completing]{}
}
