package session

import (
	"hash/maphash"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// incoming is the half of a session that receives.
type incoming struct {
	received  ring[completing]
	pending   *pending             // nil: nothing waits for its acknowledgement
	away      map[awayKey]*Receipt // unacknowledged messages of earlier connections
	recording *recording           // nil: PUBREC does not wait for a record
	unsettled int                  // QoS 1 and 2 messages that occupy our Receive Maximum
	maximum   uint16               // Connection.ReceiveMaximum
	announced uint16               // Connection.Announced
	excess    int32                // by how much the peer's resends have exceeded it on this connection
}

// pending is what waits for its acknowledgement on this connection.
type pending struct {
	pubacks order
	pubrecs order
	held    ring[*Receipt] // those of pubrecs
}

// orderRetained is the capacity that an order of acknowledgements keeps while messages come. It is more than a window.
const orderRetained = 2048

func newPending() *pending {
	p := new(pending)
	p.pubacks.receipts.Keep = orderRetained
	p.pubrecs.receipts.Keep = orderRetained
	return p
}

func (p *pending) order(qos byte) *order {
	if qos == 2 {
		return &p.pubrecs
	}
	return &p.pubacks
}

// waits reports whether messages at this QoS wait for their acknowledgement.
func (in *incoming) waits(qos byte) bool {
	return in.pending != nil && !in.pending.order(qos).empty()
}

// held returns the message at QoS 2 under id that waits for its PUBREC, or nil.
func (in *incoming) held(id uint16) *Receipt {
	if in.pending == nil {
		return nil
	}
	if r := in.pending.held.get(id); r != nil {
		return *r
	}
	return nil
}

// trim lets memory go that nothing is in.
func (in *incoming) trim() {
	in.received.trim()
	if !in.waits(1) && !in.waits(2) {
		in.pending = nil
	}
}

// Receipt is a QoS 1 or 2 message from the peer that could not be acknowledged when it came: a subscription has no
// room for it, the application acknowledges it itself, it is not on disk yet, or the acknowledgement of an earlier message
// is still to come [MQTT-4.6.0-2] [MQTT-4.6.0-3].
// [MQTT311-4.6.0-2] [MQTT311-4.6.0-3]
type Receipt struct {
	id       uint16
	qos      byte
	state    receiptState
	arriving bool // Release is still to come
	accepted bool
	repeated bool    // its PUBREC was sent on an earlier connection, and has to be sent again
	holders  []any   // subscriptions that have neither accepted nor rejected it
	only     [1]any  // the memory of holders while there is one
	reason   *Reason // the latest, which counts if nobody accepts
	content  uint64  // of topic and payload, by which a resend is recognised
	Topic    *string // the message's, for its owner's reports; nil: not set
}

// Reason is what an acknowledgement says other than success. Code is one that PUBACK and PUBREC have; the rest are
// strings that a packet can hold. On MQTT 3.1.1 it is left out.
type Reason struct {
	Code           codec.ReasonCode
	String         string
	UserProperties codec.UserProperties
}

func (r *Reason) failed() bool { return r != nil && r.Code.Failed() }

type receiptState uint8

const (
	inOrder   receiptState = iota // waits for its acknowledgement to be sent, on this connection
	away                          // came on an earlier connection; the peer has not sent it again yet
	forgotten                     // its session is gone, or the peer has given its identifier to another message
)

// undecided reports whether somebody has still to accept or reject it.
func (r *Receipt) undecided() bool { return r.arriving || len(r.holders) > 0 }

// Holders returns the subscriptions that have neither accepted nor rejected it. They belong to the session.
func (r *Receipt) Holders() []any { return r.holders }

// OnlyFor reports whether a holder is the only one, and nobody has accepted the message.
func (r *Receipt) OnlyFor(holder any) bool {
	return !r.accepted && len(r.holders) == 1 && r.holders[0] == holder
}

// LastFor reports whether a holder is the only one that has to settle the message, now that it has arrived.
func (r *Receipt) LastFor(holder any) bool {
	return !r.arriving && len(r.holders) == 1 && r.holders[0] == holder
}

// Received is what is recorded of a message at QoS 2 when it is accepted.
func (r *Receipt) Received() Received { return Received{r.id, r.content} }

// QoS is the message's own.
func (r *Receipt) QoS() byte { return r.qos }

// Away reports whether the message came on an earlier connection, and the peer has not sent it again yet.
func (r *Receipt) Away() bool { return r.state == away }

// Forgotten reports whether nobody waits for the acknowledgement any more.
func (r *Receipt) Forgotten() bool { return r.state == forgotten }

// SetReason says what the acknowledgement tells the peer if nobody accepts the message.
func (r *Receipt) SetReason(reason *Reason) { r.reason = reason }

// order is the acknowledgements of one kind that wait, in the order in which their messages came.
type order struct{ receipts fifo.Queue[*Receipt] }

func (o *order) empty() bool { return o.receipts.Len() == 0 }

// ready removes and returns the first receipt if everybody has decided.
func (o *order) ready() *Receipt {
	if o.empty() || (*o.receipts.At(0)).undecided() {
		return nil
	}
	return o.receipts.Pop()
}

// awayKey identifies a message of an earlier connection.
type awayKey struct {
	id  uint16
	qos byte
}

// completing is a QoS 2 message with PUBREC sent and PUBREL to come.
type completing struct {
	counted bool   // towards our Receive Maximum: it came on this connection
	unsaved bool   // Recorded has not been called
	content uint64 // as Receipt's
}

// Verdict is what is to be done with an arriving PUBLISH at QoS 1 or 2.
type Verdict uint8

const (
	Deliver  Verdict = iota // a new message
	Repeated                // delivered before; what had to be answered is appended
	Exceeded                // the peer broke our Receive Maximum [MQTT-3.3.4-9]
)

// Arrive takes a PUBLISH at QoS 1 or 2. A message to Deliver is followed by Accept or by Hold. An owner that lets go of its
// mutex in between, to route the message, calls Hold first at QoS 2: that claims the packet identifier.
// [MQTT-4.3.2-5] [MQTT311-4.3.3-2]
func (s *Session) Arrive(dst []byte, p *codec.PublishView) ([]byte, Verdict) {
	if p.QoS == 2 {
		if s.in.held(p.PacketID) != nil {
			return dst, Repeated // its PUBREC is still to come
		}
		switch c := s.in.received.get(p.PacketID); {
		case c == nil:
		case c.counted && c.unsaved:
			return dst, Repeated // its PUBREC is still to come
		case c.counted: // the peer sends it again on the same connection
			return s.appendAck(dst, p.PacketID, 2, nil), Repeated // [MQTT-4.3.3-10]
		case !s.mayForget || c.content == s.content(p):
			s.enter(&Receipt{id: p.PacketID, qos: 2, repeated: true})
			return s.flush(dst, 2), Repeated // [MQTT-4.3.3-10] [MQTT-4.6.0-3]
		default:
			s.in.received.delete(p.PacketID) // the peer has forgotten the old one: its session is another
		}
	}
	if len(s.in.away) > 0 {
		if r := s.rejoin(p); r != nil {
			return s.flush(dst, r.qos), Repeated
		}
	}
	if s.in.exceeds(p.Dup) {
		return dst, Exceeded
	}
	s.in.unsettled++
	return dst, Deliver
}

// rejoin finds the message of an earlier connection that the peer sends again, and puts it in order. A new message
// under the same identifier means that the peer has forgotten the old one.
func (s *Session) rejoin(p *codec.PublishView) *Receipt {
	key := awayKey{p.PacketID, p.QoS}
	r := s.in.away[key]
	if r == nil {
		return nil
	}
	delete(s.in.away, key)
	if !s.resends(p, r) {
		r.state = forgotten
		return nil
	}
	s.in.unsettled++
	s.enter(r)
	return r
}

// resends reports whether p is r again.
func (s *Session) resends(p *codec.PublishView, r *Receipt) bool {
	if s.mayForget {
		return p.Dup && r.content == s.content(p)
	}
	return p.Dup || p.QoS == 2 // [MQTT-4.3.3-10]
}

// exceeds reports whether one more message breaks our Receive Maximum. Resends do not count: a peer may resume with
// the window of an earlier connection, and then fills places in that window with new messages.
func (in *incoming) exceeds(dup bool) bool {
	switch {
	case in.unsettled < int(in.maximum)+int(in.excess):
		return false
	case !dup || in.unsettled >= maxID:
		return true
	}
	in.excess++
	return false
}

// seed makes contents hard to forge.
var seed = maphash.MakeSeed()

// content hashes what tells one message from another, where that matters.
func (s *Session) content(p *codec.PublishView) uint64 {
	switch {
	case !s.mayForget:
		return 0
	case s.in.recording != nil:
		return lastingContent(p)
	}
	return maphash.Bytes(seed, p.Topic) ^ 31*maphash.Bytes(seed, p.Payload)
}

// Accept acknowledges a message that arrived just now: at once, or in its turn if earlier ones wait. reason is nil, or what
// the acknowledgement says. Of p it uses the identifier and the QoS, and the content if the peer may forget.
// [MQTT-3.3.4-1] [MQTT-4.3.3-13] [MQTT311-3.3.4-1]
func (s *Session) Accept(dst []byte, p *codec.PublishView, reason *Reason) []byte {
	r := Receipt{id: p.PacketID, qos: p.QoS, reason: reason}
	if p.QoS == 2 {
		r.content = s.content(p)
	}
	if !s.in.waits(p.QoS) {
		return s.acknowledge(dst, &r)
	}
	waits := r
	s.enter(&waits)
	return dst
}

// Hold keeps a message that arrived just now unacknowledged until Release and until each holder that was added has
// settled it.
func (s *Session) Hold(p *codec.PublishView) *Receipt {
	r := new(Receipt)
	s.HoldIn(r, p)
	return r
}

// HoldIn is Hold with memory of the caller's, which belongs to the session from then on.
func (s *Session) HoldIn(r *Receipt, p *codec.PublishView) {
	*r = Receipt{id: p.PacketID, qos: p.QoS, arriving: true, content: s.content(p)}
	s.enter(r)
}

// enter puts r at the end of the order of acknowledgements.
func (s *Session) enter(r *Receipt) {
	if s.in.pending == nil {
		s.in.pending = newPending()
	}
	r.state = inOrder
	s.in.pending.order(r.qos).receipts.Push(r)
	if r.qos == 2 {
		*s.in.pending.held.put(r.id) = r
	}
}

// AddHolder notes that one more subscription has to settle the message.
func (r *Receipt) AddHolder(holder any) {
	if r.holders == nil {
		r.holders = r.only[:0]
	}
	r.holders = append(r.holders, holder)
}

// Pass replaces one holder by another.
func (r *Receipt) Pass(from, to any) {
	if i := slices.Index(r.holders, from); i >= 0 {
		r.holders[i] = to
	}
}

// Release ends the arrival of a message for which Hold was called: no holder will be added. accepted says that the owner,
// or a subscription that never held it, accepted the message. If the connection has ended, the acknowledgement is sent
// when the peer sends the message again.
func (s *Session) Release(dst []byte, r *Receipt, accepted bool) []byte {
	r.arriving = false
	r.accepted = r.accepted || accepted
	return s.decided(dst, r)
}

// Settle records that holder accepted the message, when reason is nil, or rejected it. When the last holder has settled,
// the acknowledgement is sent in its turn; it is a refusal only if nobody accepted. For a message of an earlier connection it
// is sent when the peer sends the message again. A holder settles a message once: later calls have no effect.
func (s *Session) Settle(dst []byte, r *Receipt, holder any, reason *Reason) []byte {
	i := slices.Index(r.holders, holder)
	if i < 0 {
		return dst
	}
	r.holders = slices.Delete(r.holders, i, i+1)
	if reason != nil {
		r.reason = reason
	} else {
		r.accepted = true
	}
	return s.decided(dst, r)
}

// SettleAll settles everything that a holder holds, messages of earlier connections included.
func (s *Session) SettleAll(dst []byte, holder any, reason *Reason) []byte {
	var held []*Receipt
	for qos := byte(1); qos <= 2 && s.in.pending != nil; qos++ {
		receipts := &s.in.pending.order(qos).receipts
		for i := range receipts.Len() {
			held = append(held, *receipts.At(i))
		}
	}
	for _, r := range s.in.away {
		held = append(held, r)
	}
	for _, r := range held {
		dst = s.Settle(dst, r, holder, reason)
	}
	return dst
}

// decided sends the acknowledgement of r and those behind it, if r has no holder left and its turn has come.
func (s *Session) decided(dst []byte, r *Receipt) []byte {
	if r.undecided() || r.state != inOrder {
		return dst
	}
	return s.flush(dst, r.qos)
}

// Oldest returns the message at this QoS that has waited longest for its acknowledgement, or nil. The acknowledgements of all
// later messages wait for it.
func (s *Session) Oldest(qos byte) *Receipt {
	if !s.in.waits(qos) {
		return nil
	}
	return *s.in.pending.order(qos).receipts.At(0)
}

// flush appends the acknowledgements whose turn it is.
func (s *Session) flush(dst []byte, qos byte) []byte {
	o := s.in.pending.order(qos)
	for r := o.ready(); r != nil; r = o.ready() {
		if qos == 2 {
			s.in.pending.held.delete(r.id)
		}
		if r.repeated {
			dst = s.sendPubrec(dst, r.id, nil)
			continue
		}
		if r.accepted {
			r.reason = nil
		}
		dst = s.acknowledge(dst, r)
	}
	return dst
}

// acknowledge appends PUBACK or PUBREC. A QoS 2 message that was accepted occupies our window until PUBCOMP.
// [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT311-4.3.2-2] [MQTT311-4.3.3-2]
func (s *Session) acknowledge(dst []byte, r *Receipt) []byte {
	reason := r.reason
	if s.version < codec.V5 {
		reason = nil // 3.1.1 knows success only
	}
	if r.qos == 1 || reason.failed() {
		s.in.unsettled-- // [MQTT-4.3.3-9]
	} else {
		*s.in.received.put(r.id) = completing{counted: true, content: r.content, unsaved: s.in.recording != nil}
		if s.in.recording != nil {
			s.in.recording.record(Received{r.id, r.content})
		}
	}
	if r.qos == 1 {
		return s.appendAck(dst, r.id, 1, reason)
	}
	return s.sendPubrec(dst, r.id, reason)
}

// appendAck drops the reason string and the user properties if they make the packet too large for the peer [MQTT-3.4.2-2]
// [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3].
func (s *Session) appendAck(dst []byte, id uint16, qos byte, reason *Reason) []byte {
	p := codec.Puback{PacketID: id}
	if reason != nil {
		p.Code, p.ReasonString, p.UserProperties = reason.Code, reason.String, reason.UserProperties
	}
	encode := func() []byte {
		if qos == 2 {
			return must((*codec.Pubrec)(&p).Append(dst, s.version))
		}
		return must(p.Append(dst, s.version))
	}
	b := encode()
	if reason != nil && s.largest > 0 && len(b)-len(dst) > s.largest {
		p.ReasonString, p.UserProperties = "", nil
		b = encode()
	}
	return b
}

// Pubrel takes a PUBREL and appends the PUBCOMP, for an unknown identifier too [MQTT-4.3.3-11].
func (s *Session) Pubrel(dst []byte, id uint16) []byte {
	code := codec.Success
	if r := s.in.received.get(id); r != nil {
		if r.counted {
			s.in.unsettled--
		}
		s.in.received.delete(id) // [MQTT-4.3.3-12]
	} else if s.version >= codec.V5 {
		code = codec.PacketIdentifierNotFound
	}
	return must((&codec.Pubcomp{PacketID: id, Code: code}).Append(dst, s.version))
}

// EndIncoming marks all unacknowledged messages of the peer as those of an earlier connection: nothing that is appended
// will be written any more, so the peer will send them again. Lost does the same.
func (s *Session) EndIncoming() {
	if s.in.pending != nil {
		for qos := byte(1); qos <= 2; qos++ {
			for o := s.in.pending.order(qos); !o.empty(); {
				s.in.sendAway(o.receipts.Pop())
			}
		}
		s.in.pending = nil
	}
	s.in.recording.forget()
	s.in.received.all(func(_ uint16, c *completing) { c.counted = false })
	s.in.unsettled, s.in.excess = 0, 0
}

func (in *incoming) sendAway(r *Receipt) {
	if r.repeated {
		return // received says enough
	}
	r.state = away
	if in.away == nil {
		in.away = make(map[awayKey]*Receipt)
	}
	in.away[awayKey{r.id, r.qos}] = r
}

// ForgetIncoming drops state that is useless once the peer has lost the session. Renewed does the same; this is for an owner
// that needs it earlier, after Lost.
func (s *Session) ForgetIncoming() {
	for _, r := range s.in.away {
		r.state = forgotten
	}
	s.in.away = nil
	s.in.received = ring[completing]{}
}
