package session

import "github.com/petrel-mqtt/mqtt/internal/fifo"

// recovery is what a session needs only after a connection with messages in flight was lost.
type recovery struct {
	again   fifo.Queue[flight] // of a lost session, to be published afresh before the queue
	suspect suspect
}

// needRecovery returns the recovery to work with.
func (o *outgoing) needRecovery() *recovery {
	if o.recovery == nil {
		o.recovery = new(recovery)
	}
	return o.recovery
}

// begin begins a connection.
func (r *recovery) begin() {
	if r != nil {
		r.suspect.begin()
	}
}

// acknowledged notes that the peer has acknowledged something.
func (o *outgoing) acknowledged() {
	if o.recovery != nil {
		o.recovery.suspect.acknowledged = true
	}
}

// Acknowledged notes an acknowledgement that the session is told of later, because it has to be on disk before.
func (s *Session) Acknowledged() { s.out.acknowledged() }

// suspect is the message that may be the cause of lost connections: the peer fails whenever it is sent again.
type suspect struct {
	seq    uint64 // of the oldest message that was sent again; 0: none was
	losses int    // connections in a row that ended after it, without any acknowledgement

	// On this connection.
	oldest       uint64 // seq of the first message that was sent again, or published afresh; 0: none was
	acknowledged bool   // something was
}

// begin begins a connection.
func (p *suspect) begin() {
	if p.acknowledged {
		p.seq, p.losses = 0, 0
	}
	p.oldest, p.acknowledged = 0, false
}

// resent notes a message that was sent again, the oldest first.
func (p *suspect) resent(seq uint64) {
	if p.oldest == 0 {
		p.oldest = seq
	}
}

// blame counts a connection that was lost.
func (p *suspect) blame() {
	switch {
	case p.acknowledged, p.oldest == 0:
	case p.oldest == p.seq:
		p.losses++
	default:
		p.seq, p.losses = p.oldest, 1
	}
	p.begin()
}

// Blame looks for the cause of a lost connection; Lost follows. When limit connections in a row have ended without
// any acknowledgement after the same oldest message was sent again, Blame gives that message up and returns it. The packet
// identifier stays reserved, because the peer may have the message. A limit of 0 means that no message is given up.
func (s *Session) Blame(limit int) (m Message, guilty bool) {
	if s.out.recovery == nil {
		return Message{}, false
	}
	p := &s.out.recovery.suspect
	p.blame()
	if limit == 0 || p.losses < limit {
		return Message{}, false
	}
	for i := range s.out.sent.slots {
		if f := &s.out.sent.slots[i].value; f.stage == stagePublish && f.seq == p.seq {
			*p = suspect{}
			return s.out.giveUp(f), true
		}
	}
	return Message{}, false
}

// Suspects reports whether the latest connections were lost without any acknowledgement after a message was sent again.
// Blame has looked at the latest.
func (s *Session) Suspects() bool { return s.out.recovery != nil && s.out.recovery.suspect.losses > 0 }

// Unproved reports whether messages were sent again on this connection and nothing has been acknowledged since: the peer may
// be about to fail over them.
func (s *Session) Unproved() bool {
	r := s.out.recovery
	return r != nil && r.suspect.oldest != 0 && !r.suspect.acknowledged
}
