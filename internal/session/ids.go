package session

import "errors"

// ErrNoIdentifier means that all 65,535 packet identifiers are taken.
var ErrNoIdentifier = errors.New("mqtt: no packet identifier is free")

// nextID returns an identifier that is not in use [MQTT-2.2.1-3]. Identifiers are handed out cyclically, never lowest
// first, so that a late acknowledgement finds no new packet under its number. An identifier whose slot is taken by
// another one is skipped, because a ring that holds two identifiers which differ only in a high bit must be very large. A ring
// that is half full doubles before an identifier is skipped.
// [MQTT311-2.3.1-1] [MQTT311-2.3.1-2]
func (o *outgoing) nextID() (uint16, error) {
	if o.exhausted() {
		return 0, ErrNoIdentifier
	}
	for {
		o.lastID++
		if o.lastID == 0 {
			continue
		}
		if o.sent.crowded(o.lastID) {
			o.sent.widen()
		}
		if !o.sent.crowded(o.lastID) {
			return o.lastID, nil
		}
	}
}

// exhausted reports whether no identifier is free.
func (o *outgoing) exhausted() bool { return o.sent.used >= maxID }

// StartAt sets the packet identifier before the first one that is handed out. A client that resumes the session of an
// earlier one picks it at random, in order not to use identifiers which that one had in flight.
func (s *Session) StartAt(id uint16) { s.out.lastID = id }

// LastID returns the packet identifier that was handed out last.
func (s *Session) LastID() uint16 { return s.out.lastID }

// TakeID takes a packet identifier for a SUBSCRIBE or UNSUBSCRIBE of owner.
// [MQTT-4.9.0-3]
func (s *Session) TakeID(owner any) (uint16, error) {
	id, err := s.out.nextID()
	if err == nil {
		s.out.put(id, stageSubscribe).message.Owner = owner
		s.out.taken++
	}
	return id, err
}

// ReturnID takes back the identifier of a SUBACK or UNSUBACK and returns the owner that TakeID got; ok is false for one
// that TakeID has not given.
func (s *Session) ReturnID(id uint16) (owner any, ok bool) {
	f := s.out.sent.get(id)
	if f == nil || f.stage != stageSubscribe {
		return nil, false
	}
	owner = f.message.Owner
	s.out.sent.delete(id)
	s.out.taken--
	return owner, true
}

// TakenIDs returns the number of SUBSCRIBEs and UNSUBSCRIBEs without an answer.
func (s *Session) TakenIDs() int { return s.out.taken }
