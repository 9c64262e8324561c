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
	o := &s.out
	if o.taken > 0 {
		for _, f := range o.oldestFirst() {
			if f.value.stage == stageSubscribe {
				owners = append(owners, f.value.message.Owner)
				o.sent.delete(f.id)
			}
		}
	}
	o.taken, o.window, o.inFlight = 0, 0, 0
	o.sent.all(func(_ uint16, f *flight) { f.counted = false }) // what is taken back before the next connection gives no place
	o.resends = nil
	s.EndIncoming()
	return owners
}

// oldestFirst returns what is in sent in the order in which it was sent; PUBRELs in the order of their PUBRECs
// [MQTT-4.6.0-4].
// [MQTT311-4.6.0-4]
func (o *outgoing) oldestFirst() []*slot[flight] {
	var all []*slot[flight]
	for i := range o.sent.slots {
		if o.sent.slots[i].id != 0 {
			all = append(all, &o.sent.slots[i])
		}
	}
	slices.SortFunc(all, func(a, b *slot[flight]) int { return cmp.Compare(a.value.seq, b.value.seq) })
	return all
}

// Resumed continues the session on a new connection, because the peer has it too: it appends the PUBRELs that were
// not answered, and puts the PUBLISHes in line that are to be sent again, or for the first time after Confirm [MQTT-4.4.0-1]
// [MQTT-4.6.0-1]. Those follow by Resend, no more than the window lets go out, before anything new.
// [MQTT-3.1.2-23] [MQTT311-2.3.1-3] [MQTT311-3.1.2-4] [MQTT311-4.4.0-1] [MQTT311-4.6.0-1]
func (s *Session) Resumed(dst []byte) []byte {
	s.out.resends = s.out.resends[:0]
	s.out.recovery.begin()
	for _, f := range s.out.oldestFirst() {
		switch f.value.stage {
		case stageRelease:
			dst = s.pubrel(dst, f.id, codec.Success) // takes no place in the window
		case stagePublish, stagePrepared:
			s.out.resends = append(s.out.resends, f.id)
		}
	}
	return dst
}

// Renewed begins a new session on a new connection, because the peer has lost the old one. Messages at QoS 1 that were in
// flight, and those that were only prepared, go to the front of the queue, to be published afresh [MQTT-3.2.2-5]. Of those
// at QoS 2 that were sent nobody can know whether they arrived: they are returned.
// [MQTT-3.1.2-4] [MQTT311-3.1.2-6] [MQTT311-3.2.2-3]
func (s *Session) Renewed() (lost []Message) {
	o := &s.out
	o.recovery.begin()
	var again fifo.Queue[flight]
	for _, f := range o.oldestFirst() {
		switch m := f.value.message; {
		case f.value.stage == stageReserved:
		case m.QoS == 1 || f.value.unsent:
			again.Push(f.value)
		default:
			lost = append(lost, m)
		}
	}
	o.publishAfresh(again)
	o.sent = ring[flight]{}
	o.messages, o.inFlight, o.taken, o.resends = 0, 0, 0, nil
	s.ForgetIncoming()
	return lost
}

// publishAfresh puts what was in flight before what an earlier loss has left: that was sent later.
func (o *outgoing) publishAfresh(again fifo.Queue[flight]) {
	if again.Len() == 0 {
		return
	}
	r := o.needRecovery()
	for r.again.Len() > 0 {
		again.Push(r.again.Pop())
	}
	r.again = again
}

// Resending returns the message to be sent next by Resend, or nil: there is none, it waits for Confirm, or the window is full.
func (s *Session) Resending() *Message {
	o := &s.out
	for len(o.resends) > 0 {
		switch f := o.sent.get(o.resends[0]); {
		case f == nil: // a late acknowledgement has completed it
		case f.stage == stagePrepared:
			return nil
		case f.stage == stagePublish && (f.unsent || !f.counted):
			if !f.counted && o.inFlight >= o.window {
				return nil
			}
			return &f.message
		}
		o.resends = o.resends[1:]
	}
	o.resends = nil
	return nil
}

// Resend appends the message that Resending returned: one of an earlier connection under its old identifier, with DUP, or
// one that was confirmed, for the first time.
// [MQTT-3.3.1-1] [MQTT311-2.3.1-3] [MQTT311-3.3.1-1]
func (s *Session) Resend(dst []byte, now time.Duration) ([]byte, error) {
	o := &s.out
	id := o.resends[0]
	f := o.sent.get(id)
	dst, err := s.AppendPublish(dst, &f.message, id, !f.unsent, now)
	if err != nil {
		return dst, err
	}
	o.resends = o.resends[1:]
	if !f.counted {
		f.counted = true
		o.inFlight++
	}
	if !f.unsent {
		o.needRecovery().suspect.resent(f.seq)
	}
	f.unsent = false
	return dst, nil
}

// GiveUpResend removes the message that Resending returned: it is not sent, or not again. If it was sent before, its
// identifier stays reserved, because the peer may have the message.
func (s *Session) GiveUpResend() Message {
	o := &s.out
	id := o.resends[0]
	o.resends = o.resends[1:]
	f := o.sent.get(id)
	if f.unsent {
		m := f.message
		o.land(id, f)
		return m
	}
	return o.giveUp(f)
}

func (o *outgoing) giveUp(f *flight) Message {
	m := f.message
	*f = flight{seq: f.seq, stage: stageReserved}
	o.messages--
	return m
}
