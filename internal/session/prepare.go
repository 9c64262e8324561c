package session

// Prepare puts m, at QoS 1 or 2, in flight without sending it yet: the owner first has a record written that the packet
// identifier is in use. Ready must have said yes. Confirm or Cancel follows, on this connection or a later one.
func (s *Session) Prepare(m *Message) (uint16, error) {
	id, err := s.out.nextID()
	if err == nil {
		s.out.launch(id, stagePrepared, m).unsent = true
	}
	return id, err
}

// PrepareFront prepares the message that Front returned. On an error it still waits.
func (s *Session) PrepareFront() (uint16, error) {
	id, err := s.Prepare(s.Front())
	if err == nil {
		s.fronted(id)
	}
	return id, err
}

// Confirm lets a prepared message be sent: Resending returns it in its turn, without DUP. It reports false if the message is
// gone: Renewed has put it back among those that wait, or Discard was called.
func (s *Session) Confirm(id uint16) bool {
	f := s.out.sent.get(id)
	if f == nil || f.stage != stagePrepared {
		return false
	}
	f.stage = stagePublish
	if f.counted { // otherwise it is of an earlier connection, and Resumed puts it in line
		s.out.resends = append(s.out.resends, id)
	}
	return true
}

// Cancel takes back a message that was prepared and not sent. ok is false if it was sent, or is gone.
func (s *Session) Cancel(id uint16) (m Message, ok bool) {
	f := s.out.sent.get(id)
	if f == nil || !f.unsent {
		return Message{}, false
	}
	m = f.message
	s.out.land(id, f)
	return m, true
}
