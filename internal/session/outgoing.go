package session

import (
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// outgoing is the half of a session that sends. Everything that has a packet identifier of ours is in sent.
type outgoing struct {
	sent     ring[flight]
	seq      uint64 // of the latest entry in sent
	ticket   uint64 // of the latest message that was queued
	lastID   uint16
	window   int       // how many PUBLISHes this connection allows in flight
	inFlight int       // PUBLISHes that count against window
	messages int       // in sent: PUBLISH or PUBREL
	taken    int       // in sent: SUBSCRIBE or UNSUBSCRIBE
	resends  []uint16  // PUBLISHes that go out by Resend on this connection, in this order
	queues   *queues   // nil: nothing waits
	aliases  *aliases  // nil: the peer takes none
	recovery *recovery // nil: nothing was sent again
}

// stage is how far an outgoing packet has come.
type stage uint8

const (
	stagePublish   stage = iota + 1 // PUBLISH sent; PUBACK or PUBREC to come
	stageRelease                    // PUBREL sent; PUBCOMP to come
	stagePrepared                   // PUBLISH to be sent after Confirm
	stageReserved                   // given up; the peer may still know the identifier
	stageSubscribe                  // SUBSCRIBE or UNSUBSCRIBE sent; SUBACK or UNSUBACK to come
)

// flight is what has a packet identifier.
type flight struct {
	message Message // of SUBSCRIBE and UNSUBSCRIBE only Owner
	seq     uint64  // order of the first send; identifiers wrap around
	stage   stage
	counted bool // against the window of this connection
	unsent  bool // its PUBLISH was prepared and not sent yet
}

// trim lets memory go that nothing is in.
func (o *outgoing) trim() {
	o.sent.trim()
	if q := o.queues; q != nil && q.length() == 0 {
		o.queues = nil
	}
	if r := o.recovery; r != nil && r.again.Len() == 0 && r.suspect == (suspect{}) {
		o.recovery = nil
	}
}

// Ready reports whether a new message at QoS 1 or 2 may be sent at once: the window has room, an identifier is free, and
// no message waits.
// [MQTT-3.3.4-7] [MQTT-4.9.0-1]
func (s *Session) Ready() bool {
	o := &s.out
	return s.HasRoom() && (o.queues == nil || o.queues.acked.length == 0)
}

// HasRoom is Ready for a message that may go before those in the queue.
func (s *Session) HasRoom() bool {
	o := &s.out
	return o.inFlight < o.window && !o.exhausted() && len(o.resends) == 0 && (o.recovery == nil || o.recovery.again.Len() == 0)
}

// Send appends m, at QoS 1 or 2, to dst and keeps it in flight. Ready must have said yes. On an error nothing has
// changed.
// [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1]
func (s *Session) Send(dst []byte, m *Message, now time.Duration) ([]byte, uint16, error) {
	id, err := s.out.nextID()
	if err != nil {
		return dst, 0, err
	}
	dst, err = s.AppendPublish(dst, m, id, false, now)
	if err != nil {
		return dst, 0, err
	}
	s.out.launch(id, stagePublish, m)
	return dst, id, nil
}

// launch puts m in flight.
func (o *outgoing) launch(id uint16, st stage, m *Message) *flight {
	f := o.put(id, st)
	f.message = *m
	f.counted = true
	o.inFlight++
	o.messages++
	return f
}

// put makes an entry whose message the caller fills in, in place: a message is copied once.
func (o *outgoing) put(id uint16, st stage) *flight {
	o.seq++
	f := o.sent.put(id)
	f.seq, f.stage = o.seq, st
	return f
}

// AppendPublish appends m as a PUBLISH packet. For a message that expires it sends the seconds that are left,
// at least one: the owner has checked that the message has not expired. On an error nothing has changed.
// [MQTT-4.3.3-7]
func (s *Session) AppendPublish(dst []byte, m *Message, id uint16, dup bool, now time.Duration) ([]byte, error) {
	v5 := s.version >= codec.V5
	if s.out.aliases == nil && (!v5 || m.Properties == nil && len(m.SubscriptionIdentifiers) == 0) {
		return codec.AppendPlainPublish(dst, codec.PublishFlags(dup, m.QoS, m.Retain), m.Topic, id, m.Payload, s.version)
	}
	p := codec.Publish{Dup: dup, QoS: m.QoS, Retain: m.Retain, Topic: m.Topic, PacketID: id, Payload: m.Payload}
	p.SubscriptionIdentifiers = m.SubscriptionIdentifiers
	if m.Properties != nil {
		p.Properties = *m.Properties
		if m.Expires != 0 {
			p.Properties.MessageExpiry = max(m.Expires-now, time.Second)
		}
	}
	if s.out.aliases == nil {
		return p.Append(dst, s.version)
	}
	return s.appendAliased(dst, &p)
}

// appendAliased appends p with a topic alias: the first packet with one says what it stands for. Where that would make
// the packet too large for the peer it goes without.
func (s *Session) appendAliased(dst []byte, p *codec.Publish) ([]byte, error) {
	a := s.out.aliases
	n := a.find(p.Topic)
	switch {
	case n > 0:
		p.TopicAlias, p.Topic = uint16(n), ""
	case len(p.Topic) < shortest || s.largest > 0 && p.Size(s.version)+aliasSize > s.largest:
	default:
		n = a.assign(p.Topic)
		p.TopicAlias = uint16(n)
	}
	dst, err := p.Append(dst, s.version)
	if err != nil && n > 0 {
		a.forget(n)
	}
	return dst, err
}

// Front returns the message to be sent next, or nil: none waits, the window is full, no identifier is free, or others must
// be sent again first. It is good until the next call.
func (s *Session) Front() *Message {
	o := &s.out
	switch {
	case o.inFlight >= o.window || o.exhausted() || len(o.resends) > 0:
		return nil
	case o.recovery != nil && o.recovery.again.Len() > 0:
		return &o.recovery.again.At(0).message
	case o.queues == nil:
		return nil
	}
	return o.queues.acked.front()
}

// SendFront sends the message that Front returned. On an error it still waits.
func (s *Session) SendFront(dst []byte, now time.Duration) ([]byte, uint16, error) {
	dst, id, err := s.Send(dst, s.Front(), now)
	if err == nil {
		s.fronted(id)
	}
	return dst, id, err
}

// fronted moves the message that Front returned, which is in flight under id now, out of the queue.
func (s *Session) fronted(id uint16) {
	if r := s.out.recovery; r != nil && r.again.Len() > 0 {
		f, first := s.out.sent.get(id), r.again.At(0)
		if f.seq = first.seq; !first.unsent {
			r.suspect.resent(f.seq)
		}
	}
	if r := s.out.recovery; r != nil && r.again.Len() > 0 {
		r.again.Drop()
	} else {
		s.out.queues.acked.drop()
	}
}

// DropFront removes the message that Front returned, and returns it.
func (s *Session) DropFront() Message {
	if r := s.out.recovery; r != nil && r.again.Len() > 0 {
		return r.again.Pop().message
	}
	return s.out.queues.acked.pop()
}

// Keep makes a message that was sent, last under id, independent of its publisher, which does not wait any longer: it copies
// what the publisher owns and forgets the owner.
func (s *Session) Keep(id uint16, owner any) {
	if f := s.out.sent.get(id); f != nil && f.message.Owner == owner {
		f.message.keep()
		return
	}
	if r := s.out.recovery; r != nil {
		for i := range r.again.Len() {
			if m := &r.again.At(i).message; m.Owner == owner {
				m.keep()
			}
		}
	}
}

func (m *Message) keep() {
	m.Owner = nil
	m.Payload = slices.Clone(m.Payload)
	if m.Properties != nil {
		p := *m.Properties
		p.CorrelationData = slices.Clone(p.CorrelationData)
		p.UserProperties = slices.Clone(p.UserProperties)
		m.Properties = &p
	}
}

// Settled is what is left of a message that the peer has acknowledged. It fits in registers: with another field each
// acknowledgement costs a tenth more.
type Settled struct {
	Topic string
	Owner any
}

// Puback takes a PUBACK. It returns the message that is complete now; ok is false for an unknown identifier, which is
// to be ignored.
// [MQTT-4.3.2-3] [MQTT311-4.3.2-1]
func (s *Session) Puback(id uint16) (m Settled, ok bool) {
	f := s.out.sent.get(id)
	if f == nil || f.stage != stagePublish || f.message.QoS != 1 || f.unsent {
		return Settled{}, false
	}
	return s.out.complete(id, f), true
}

// PubackForQoS2 takes a PUBACK for a message at QoS 2, which completes it: the peer has taken the message as one at QoS 1.
// ok is false for every other PUBACK.
func (s *Session) PubackForQoS2(id uint16) (m Settled, ok bool) {
	f := s.out.sent.get(id)
	if f == nil || f.stage != stagePublish || f.message.QoS != 2 || f.unsent {
		return Settled{}, false
	}
	return s.out.complete(id, f), true
}

// Pubrec takes a PUBREC for m and appends the PUBREL that answers it. After a reason code of 0x80 or more the message is
// complete, and done is true. After PUBREL the PUBLISH is never sent again [MQTT-4.3.3-6], so the session
// drops what the publisher owns. An unknown identifier is answered as well, and ok is false.
// [MQTT-4.3.3-3] [MQTT311-4.3.3-1]
func (s *Session) Pubrec(dst []byte, id uint16, code codec.ReasonCode) (_ []byte, m Settled, done, ok bool) {
	f := s.out.sent.get(id)
	if f == nil || f.message.QoS != 2 || f.unsent {
		if code.Failed() {
			return dst, Settled{}, false, false
		}
		return s.pubrel(dst, id, codec.PacketIdentifierNotFound), Settled{}, false, false // [MQTT-4.3.3-4]
	}
	if code.Failed() && f.stage == stagePublish {
		return dst, s.out.complete(id, f), true, true
	}
	s.out.acknowledged()
	f.stage = stageRelease
	s.out.seq++
	f.seq = s.out.seq
	m = f.settled()
	sent := &f.message // field by field: to make a new Message and copy it takes twice as long
	sent.Payload, sent.Properties, sent.SubscriptionIdentifiers, sent.Expires, sent.Retain = nil, nil, nil, 0, false
	return s.pubrel(dst, id, codec.Success), m, false, true
}

func (s *Session) pubrel(dst []byte, id uint16, code codec.ReasonCode) []byte {
	if s.version < codec.V5 {
		code = codec.Success
	}
	return must((&codec.Pubrel{PacketID: id, Code: code}).Append(dst, s.version))
}

// Pubcomp takes a PUBCOMP. It returns the message that is complete now; ok is false for an unknown identifier.
// [MQTT-4.3.3-5] [MQTT311-4.3.3-1]
func (s *Session) Pubcomp(id uint16) (m Settled, ok bool) {
	f := s.out.sent.get(id)
	if f == nil || f.stage != stageRelease {
		return Settled{}, false
	}
	return s.out.complete(id, f), true
}

// [MQTT-4.4.0-2] [MQTT-4.9.0-2]
func (o *outgoing) complete(id uint16, f *flight) Settled {
	m := f.settled()
	o.acknowledged()
	o.land(id, f)
	return m
}

func (f *flight) settled() Settled {
	return Settled{Topic: f.message.Topic, Owner: f.message.Owner}
}

// land takes what is in flight out.
func (o *outgoing) land(id uint16, f *flight) {
	if f.counted {
		o.inFlight--
	}
	o.messages--
	o.sent.delete(id)
}

// InFlightMessage returns the message that was sent under id, or nil, and whether its PUBREC has been taken: then it is only
// what Pubrec returned. It is good until the next call.
func (s *Session) InFlightMessage(id uint16) (m *Message, released bool) {
	f := s.out.sent.get(id)
	if f == nil || f.stage == stageReserved || f.stage == stageSubscribe || f.unsent {
		return nil, false
	}
	return &f.message, f.stage == stageRelease
}

// Misplaced reports whether a packet of type t, an acknowledgement, has an identifier that is in use for what such a
// packet does not acknowledge, or not now.
func (s *Session) Misplaced(t codec.Type, id uint16) bool {
	f := s.out.sent.get(id)
	if f == nil || f.stage == stageReserved || f.unsent {
		return false // it is late, which is not the peer's fault
	}
	switch t {
	case codec.PUBACK:
		return f.stage != stagePublish || f.message.QoS != 1
	case codec.PUBREC:
		return f.message.QoS != 2
	case codec.PUBCOMP:
		return f.stage != stageRelease
	}
	return f.stage != stageSubscribe
}

// Discard empties the session and returns what was in it: the messages that were sent and the owners of SUBSCRIBEs and
// UNSUBSCRIBEs, then the messages that were not sent, each in the order of the calls. To settle earlier receipts has no
// effect any more.
func (s *Session) Discard() (sent, unsent []Message) {
	for _, f := range s.out.oldestFirst() {
		sent = append(sent, f.value.message)
	}
	if r := s.out.recovery; r != nil {
		for r.again.Len() > 0 {
			sent = append(sent, r.again.Pop().message)
		}
	}
	unsent = s.waiting()
	s.out = outgoing{seq: s.out.seq, ticket: s.out.ticket, lastID: s.out.lastID}
	s.EndIncoming()
	s.ForgetIncoming()
	return sent, unsent
}

// waiting empties the queues and returns what was in them.
func (s *Session) waiting() (messages []Message) {
	if s.out.queues == nil {
		return nil
	}
	for _, q := range []*queue{&s.out.queues.acked, &s.out.queues.qos0} {
		for q.front() != nil {
			messages = append(messages, q.pop())
		}
	}
	return messages
}

// must is for packets whose content the session made itself or was promised to be right: encoding those cannot fail.
func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
