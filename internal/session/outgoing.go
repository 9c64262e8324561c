package session

import (
	"errors"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// stage is how far an outgoing packet has come.
type stage uint8

const (
	stagePublish  stage = iota + 1 // PUBLISH sent; PUBACK or PUBREC to come
	stageRelease                   // PUBREL sent; PUBCOMP to come
	stageRequest                   // SUBSCRIBE or UNSUBSCRIBE sent; SUBACK or UNSUBACK to come
	stageReserved                  // given up; the server may still know the identifier
)

type outgoing struct {
	message Message // of a request only Owner
	seq     uint64  // order of the first send; identifiers wrap around
	stage   stage
	counted bool // against the window of this connection
}

// ErrNoIdentifier means that all 65,535 packet identifiers are taken.
var ErrNoIdentifier = errors.New("mqtt: no packet identifier is free")

// nextID returns an identifier that is not in use [MQTT-2.2.1-3]. Identifiers are handed out cyclically, never lowest
// first, so that a late acknowledgement finds no new packet under its number. One whose slot is crowded is passed
// over, since a ring that holds two identifiers which differ only in a high bit has to be enormous; but a ring that is
// half full doubles first.
// [MQTT311-2.3.1-1] [MQTT311-2.3.1-2]
func (s *Session) nextID() (uint16, error) {
	if s.exhausted() {
		return 0, ErrNoIdentifier
	}
	for {
		s.lastID++
		if s.lastID == 0 {
			continue
		}
		if s.sent.crowded(s.lastID) {
			s.sent.widen()
		}
		if !s.sent.crowded(s.lastID) {
			return s.lastID, nil
		}
	}
}

// exhausted reports whether no identifier is free.
func (s *Session) exhausted() bool { return s.sent.used >= maxID }

// Ready reports whether a new message at QoS 1 or 2 may be sent at once: the window has room, an identifier is free, and
// none waits.
// [MQTT-3.3.4-7] [MQTT-4.9.0-1]
func (s *Session) Ready() bool {
	return s.inFlight < s.window && !s.exhausted() && len(s.resends) == 0 && s.again.Len() == 0 && s.queue.length == 0
}

// Send appends m, at QoS 1 or 2, to dst and keeps it in flight. Ready must have said yes. On an error nothing has
// changed.
// [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1]
func (s *Session) Send(dst []byte, m *Message, now time.Duration) ([]byte, uint16, error) {
	id, err := s.nextID()
	if err != nil {
		return dst, 0, err
	}
	dst, err = s.AppendPublish(dst, m, id, false, now)
	if err != nil {
		return dst, 0, err
	}
	o := s.put(id, stagePublish)
	o.message = *m
	o.counted = true
	s.inFlight++
	s.messages++
	return dst, id, nil
}

// put makes an entry whose message the caller fills in, in place: a message is copied once.
func (s *Session) put(id uint16, st stage) *outgoing {
	s.seq++
	o := s.sent.put(id)
	o.seq, o.stage = s.seq, st
	return o
}

// AppendPublish appends m as a PUBLISH packet. Of a message that expires it says how long it still has, in seconds,
// at least one: whoever sends it has decided that it goes out. On an error nothing has changed.
// [MQTT-4.3.3-7]
func (s *Session) AppendPublish(dst []byte, m *Message, id uint16, dup bool, now time.Duration) ([]byte, error) {
	if m.Properties == nil && s.aliases == nil {
		return codec.AppendPlainPublish(dst, codec.PublishFlags(dup, m.QoS, m.Retain), m.Topic, id, m.Payload, s.version)
	}
	p := codec.Publish{Dup: dup, QoS: m.QoS, Retain: m.Retain, Topic: m.Topic, PacketID: id, Payload: m.Payload}
	if m.Properties != nil {
		p.Properties = *m.Properties
		if m.Expires != 0 {
			p.Properties.MessageExpiry = max(m.Expires-now, time.Second)
		}
	}
	if s.aliases == nil {
		return p.Append(dst, s.version)
	}
	return s.appendAliased(dst, &p)
}

// appendAliased appends p with a topic alias: the first packet with one says what it stands for. Where that would make
// the packet too large for the server it goes without.
func (s *Session) appendAliased(dst []byte, p *codec.Publish) ([]byte, error) {
	a := s.aliases
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

// CanQueue reports whether the queue takes one more message of size bytes. A message larger than the whole queue is
// taken when it is empty.
func (s *Session) CanQueue(size int) bool {
	length := s.queue.length + s.offline.length
	if length == 0 {
		return s.limits.QueueMessages > 0
	}
	return length < s.limits.QueueMessages && s.queue.bytes+s.offline.bytes+size <= s.limits.QueueBytes
}

// Queue lets m wait to be sent. CanQueue must have said yes. The ticket finds it again while it waits.
func (s *Session) Queue(m Message) (ticket uint64) {
	s.ticket++
	if m.QoS == 0 {
		s.offline.push(s.ticket, m)
	} else {
		s.queue.push(s.ticket, m)
	}
	return s.ticket
}

// Offline returns the message at QoS 0 to be sent next, or nil. It is good until the next call.
func (s *Session) Offline() *Message { return s.offline.front() }

// DropOffline lets go of the message that Offline returned.
func (s *Session) DropOffline() Message { return s.offline.pop() }

// Front returns the message to be sent next, or nil: none waits, the window is full, no identifier is free, or others must
// be sent again first. It is good until the next call.
func (s *Session) Front() *Message {
	switch {
	case s.inFlight >= s.window || s.exhausted() || len(s.resends) > 0:
		return nil
	case s.again.Len() > 0:
		return &s.again.At(0).message
	}
	return s.queue.front()
}

// SendFront sends the message that Front returned. On an error it still waits.
func (s *Session) SendFront(dst []byte, now time.Duration) ([]byte, uint16, error) {
	dst, id, err := s.Send(dst, s.Front(), now)
	if err != nil {
		return dst, id, err
	}
	if s.again.Len() > 0 {
		o := s.sent.get(id)
		o.seq = s.again.At(0).seq
		s.suspect.resent(o.seq)
	}
	s.DropFront()
	return dst, id, nil
}

// DropFront lets go of the message that Front returned.
func (s *Session) DropFront() Message {
	if s.again.Len() > 0 {
		return s.again.Pop().message
	}
	return s.queue.pop()
}

// Withdraw takes a message out of the queue. It reports false if the message was sent or withdrawn already.
func (s *Session) Withdraw(ticket uint64) bool {
	return s.queue.remove(ticket) || s.offline.remove(ticket)
}

// Keep makes a message that was sent, last under id, independent of its publisher, who stops waiting: it copies what
// the publisher owns and forgets the owner.
func (s *Session) Keep(id uint16, owner any) {
	if o := s.sent.get(id); o != nil && o.message.Owner == owner {
		o.message.keep()
		return
	}
	for i := range s.again.Len() {
		if m := &s.again.At(i).message; m.Owner == owner {
			m.keep()
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

// Puback takes a PUBACK. It returns the message that is complete now; ok is false for an unknown identifier, which is
// to be ignored.
// [MQTT-4.3.2-3] [MQTT311-4.3.2-1]
func (s *Session) Puback(id uint16) (m Message, ok bool) {
	o := s.sent.get(id)
	if o == nil || o.stage != stagePublish || o.message.QoS != 1 {
		return Message{}, false
	}
	s.suspect.acknowledged = true
	return s.complete(id, o), true
}

// Pubrec takes a PUBREC for m and appends the PUBREL that answers it. After a reason code of 0x80 or more the message is
// complete, and done is true. PUBREL is never followed by the PUBLISH again [MQTT-4.3.3-6], so what the publisher owned
// is let go here. An unknown identifier is answered as well, and ok is false.
// [MQTT-4.3.3-3] [MQTT311-4.3.3-1]
func (s *Session) Pubrec(dst []byte, id uint16, code codec.ReasonCode) (_ []byte, m Message, done, ok bool) {
	o := s.sent.get(id)
	switch {
	case o == nil || o.message.QoS != 2:
		if code.Failed() {
			return dst, Message{}, false, false
		}
		return s.pubrel(dst, id, codec.PacketIdentifierNotFound), Message{}, false, false // [MQTT-4.3.3-4]
	}
	s.suspect.acknowledged = true
	if code.Failed() && o.stage == stagePublish {
		return dst, s.complete(id, o), true, true
	}
	o.stage = stageRelease
	s.seq++
	o.seq = s.seq
	o.message = Message{Topic: o.message.Topic, QoS: 2, Owner: o.message.Owner}
	return s.pubrel(dst, id, codec.Success), o.message, false, true
}

func (s *Session) pubrel(dst []byte, id uint16, code codec.ReasonCode) []byte {
	if s.version < codec.V5 {
		code = codec.Success
	}
	return must((&codec.Pubrel{PacketID: id, Code: code}).Append(dst, s.version))
}

// Released reports whether the server took the message under id on an earlier connection: its PUBREL was sent again.
func (s *Session) Released(id uint16) bool {
	o := s.sent.get(id)
	return o != nil && o.stage == stageRelease && !o.counted
}

// Pubcomp takes a PUBCOMP. It returns the message that is complete now; ok is false for an unknown identifier.
// [MQTT-4.3.3-5] [MQTT311-4.3.3-1]
func (s *Session) Pubcomp(id uint16) (m Message, ok bool) {
	o := s.sent.get(id)
	if o == nil || o.stage != stageRelease {
		return Message{}, false
	}
	s.suspect.acknowledged = true
	return s.complete(id, o), true
}

// [MQTT-4.4.0-2] [MQTT-4.9.0-2]
func (s *Session) complete(id uint16, o *outgoing) Message {
	m := o.message
	if o.counted {
		s.inFlight--
	}
	s.messages--
	s.sent.delete(id)
	return m
}

// Misplaced reports whether a packet of type t, an acknowledgement, has an identifier that is in use for what such a
// packet does not acknowledge, or not now.
func (s *Session) Misplaced(t codec.Type, id uint16) bool {
	o := s.sent.get(id)
	if o == nil || o.stage == stageReserved {
		return false // it is late, which is not the server's fault
	}
	switch t {
	case codec.PUBACK:
		return o.stage != stagePublish || o.message.QoS != 1
	case codec.PUBREC:
		return o.message.QoS != 2
	case codec.PUBCOMP:
		return o.stage != stageRelease
	}
	return o.stage != stageRequest
}

// Request reserves an identifier for a SUBSCRIBE or UNSUBSCRIBE of owner.
// [MQTT-4.9.0-3]
func (s *Session) Request(owner any) (uint16, error) {
	id, err := s.nextID()
	if err == nil {
		s.put(id, stageRequest).message.Owner = owner
		s.requests++
	}
	return id, err
}

// Answer takes the identifier of a SUBACK or UNSUBACK and returns the owner of the request; ok is false for one that
// was not made.
func (s *Session) Answer(id uint16) (owner any, ok bool) {
	o := s.sent.get(id)
	if o == nil || o.stage != stageRequest {
		return nil, false
	}
	owner = o.message.Owner
	s.sent.delete(id)
	s.requests--
	return owner, true
}

// Discard empties the session and returns what was in it: the requests' owners and the messages that were sent, then
// those that were not, each in the order of the calls. What is said of earlier receipts has no effect any more.
func (s *Session) Discard() (sent, unsent []Message) {
	for _, o := range s.oldestFirst() {
		sent = append(sent, o.value.message)
	}
	for s.again.Len() > 0 {
		sent = append(sent, s.again.Pop().message)
	}
	for _, q := range []*queue{&s.queue, &s.offline} {
		for m := q.front(); m != nil; m = q.front() {
			unsent = append(unsent, q.pop())
		}
	}
	s.sent, s.inFlight, s.messages, s.requests, s.window = ring[outgoing]{}, 0, 0, 0, 0
	s.Leave()
	s.forgetIncoming()
	return sent, unsent
}

// must is for packets whose content the session made itself or was promised to be right: encoding those cannot fail.
func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
