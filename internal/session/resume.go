package session

import (
	"cmp"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// Lost ends the connection. It returns the owners of the SUBSCRIBEs and UNSUBSCRIBEs that were not answered, oldest
// first: those are no part of the session, and have to be made again.
func (s *Session) Lost() (owners []any) {
	for _, o := range s.oldestFirst() {
		if o.value.stage == stageRequest {
			owners = append(owners, o.value.message.Owner)
			s.sent.delete(o.id)
			s.requests--
		}
	}
	s.window, s.inFlight = 0, 0
	s.resends = nil
	s.Leave()
	return owners
}

// oldestFirst returns what is in sent in the order in which it was sent; PUBRELs in the order of their PUBRECs
// [MQTT-4.6.0-4].
// [MQTT311-4.6.0-4]
func (s *Session) oldestFirst() []*slot[outgoing] {
	var all []*slot[outgoing]
	for i := range s.sent.slots {
		if s.sent.slots[i].id != 0 {
			all = append(all, &s.sent.slots[i])
		}
	}
	slices.SortFunc(all, func(a, b *slot[outgoing]) int { return cmp.Compare(a.value.seq, b.value.seq) })
	return all
}

// Resumed begins a connection on the session as it is, because the server has it too: it appends the PUBRELs that were
// not answered, and prepares the PUBLISHes to be sent again [MQTT-4.4.0-1] [MQTT-4.6.0-1]. Those follow by Resend, no
// more than the window lets go out, before anything new.
// [MQTT-3.1.2-23] [MQTT311-2.3.1-3] [MQTT311-3.1.2-4] [MQTT311-4.4.0-1] [MQTT311-4.6.0-1]
func (s *Session) Resumed(dst []byte, receiveMaximum int) []byte {
	s.window = min(s.limits.InFlight, receiveMaximum)
	s.suspect.begin()
	for _, o := range s.oldestFirst() {
		o.value.counted = false
		switch o.value.stage {
		case stageRelease:
			dst = s.pubrel(dst, o.id, codec.Success) // takes no place in the window
		case stagePublish:
			s.resends = append(s.resends, o.id)
		}
	}
	return dst
}

// Renewed begins a connection on a new session, because the server has lost the old one. Messages at QoS 1 that were in
// flight go to the front of the queue, to be published afresh [MQTT-3.2.2-5]. Of those at QoS 2 nobody can know whether
// they arrived: they are returned.
// [MQTT-3.1.2-4] [MQTT311-3.1.2-6] [MQTT311-3.2.2-3]
func (s *Session) Renewed(receiveMaximum int) (lost []Message) {
	s.window = min(s.limits.InFlight, receiveMaximum)
	s.suspect.begin()
	newer := s.again // what an earlier loss left to be published afresh was sent after what is in flight now
	s.again = fifo.Queue[outgoing]{}
	for _, o := range s.oldestFirst() {
		switch m := o.value.message; {
		case o.value.stage == stageReserved:
		case m.QoS == 1:
			s.again.Push(o.value)
		default:
			lost = append(lost, m)
		}
	}
	for newer.Len() > 0 {
		s.again.Push(newer.Pop())
	}
	s.sent = ring[outgoing]{}
	s.messages = 0
	s.forgetIncoming()
	return lost
}

// Resending returns the message to be sent again next, or nil: there is none, or the window is full.
func (s *Session) Resending() *Message {
	for len(s.resends) > 0 {
		if o := s.sent.get(s.resends[0]); o != nil && o.stage == stagePublish && !o.counted {
			if s.inFlight >= s.window {
				return nil
			}
			return &o.message
		}
		s.resends = s.resends[1:] // a late acknowledgement has completed it
	}
	s.resends = nil
	return nil
}

// Resend appends the message that Resending returned, under its old identifier.
// [MQTT-3.3.1-1] [MQTT311-2.3.1-3] [MQTT311-3.3.1-1]
func (s *Session) Resend(dst []byte, now time.Duration) ([]byte, error) {
	id := s.resends[0]
	o := s.sent.get(id)
	dst, err := s.AppendPublish(dst, &o.message, id, true, now)
	if err == nil {
		s.resends = s.resends[1:]
		o.counted = true
		s.inFlight++
		s.suspect.resent(o.seq)
	}
	return dst, err
}

// GiveUpResend lets go of the message that Resending returned: it is not sent again. Its identifier stays reserved,
// because the server may have the message.
func (s *Session) GiveUpResend() Message {
	o := s.sent.get(s.resends[0])
	s.resends = s.resends[1:]
	return s.giveUp(o)
}

func (s *Session) giveUp(o *outgoing) Message {
	m := o.message
	*o = outgoing{seq: o.seq, stage: stageReserved}
	s.messages--
	return m
}
