package session

import (
	"errors"
	"fmt"
)

// State is what of a session must survive the process. Messages that came from the peer and are not acknowledged are not
// part of it: the peer sends them again.
type State struct {
	// LastID is the packet identifier that was handed out last.
	LastID uint16
	// Sent are the messages in flight, in the order in which they were sent; those with a PUBREC in the order of those.
	Sent []Sent
	// Waiting are the messages that wait to be sent: at QoS 1 and 2 in their order, then at QoS 0 in theirs.
	Waiting []Message
	// Received are the messages at QoS 2 from the peer whose PUBREL has not come.
	Received []Received
}

// Received is a message at QoS 2 that has been accepted. Where the peer may forget, Content tells whether a message that comes
// with its packet identifier is the same: the peer may have begun another session since, of which nobody was told.
type Received struct {
	ID      uint16
	Content uint64
}

// Sent is a message in flight.
type Sent struct {
	ID       uint16
	Message  Message // once released only Topic, QoS and Owner matter
	Released bool    // PUBREC has come
	Unsent   bool    // it was prepared, and has never been sent
	GivenUp  bool    // it is not sent again; only the identifier matters, which the peer may still know
}

// State returns the state. Its messages share their content with the session.
func (s *Session) State() State {
	st := State{LastID: s.out.lastID}
	for _, f := range s.out.oldestFirst() {
		if v := &f.value; v.stage != stageSubscribe {
			st.Sent = append(st.Sent, Sent{f.id, v.message, v.stage == stageRelease, v.unsent, v.stage == stageReserved})
		}
	}
	if r := s.out.recovery; r != nil {
		for i := range r.again.Len() {
			st.Waiting = append(st.Waiting, r.again.At(i).message)
		}
	}
	if q := s.out.queues; q != nil {
		st.Waiting = q.qos0.appendTo(q.acked.appendTo(st.Waiting))
	}
	s.in.received.all(func(id uint16, c *completing) { st.Received = append(st.Received, Received{id, c.content}) })
	return st
}

func (q *queue) appendTo(messages []Message) []Message {
	for i := range q.entries.Len() {
		if m := &q.entries.At(i).message; m.Topic != "" {
			messages = append(messages, *m)
		}
	}
	return messages
}

// Restore fills a new session, before its first connection, with the state of an earlier one. Messages that wait get the
// tickets 1, 2 and so on, in their order; limits on the queue do not hold for them. An error says that the state contradicts
// itself; the session is of no use then.
func (s *Session) Restore(st State) error {
	s.out.lastID = st.LastID
	for i := range st.Sent {
		if err := s.restoreSent(&st.Sent[i]); err != nil {
			return err
		}
	}
	for _, m := range st.Waiting {
		if m.Topic == "" || m.QoS > 2 {
			return fmt.Errorf("session: a message at QoS %d to topic %q cannot wait", m.QoS, m.Topic)
		}
		s.Queue(&m)
	}
	for _, m := range st.Received {
		if m.ID == 0 || s.in.received.get(m.ID) != nil {
			return fmt.Errorf("session: packet identifier %d cannot be received", m.ID)
		}
		*s.in.received.put(m.ID) = completing{content: m.Content}
	}
	return nil
}

func (s *Session) restoreSent(m *Sent) error {
	st, err := m.stage()
	if err == nil && (m.ID == 0 || s.out.sent.get(m.ID) != nil) {
		err = errors.New("the packet identifier is 0 or in use")
	}
	if err != nil {
		return fmt.Errorf("session: message %d cannot be in flight: %w", m.ID, err)
	}
	f := s.out.put(m.ID, st)
	if st != stageReserved {
		f.message, f.unsent = m.Message, m.Unsent
		s.out.messages++
	}
	return nil
}

func (m *Sent) stage() (stage, error) {
	switch {
	case m.GivenUp:
		return stageReserved, nil
	case m.Released && (m.Message.QoS != 2 || m.Unsent):
		return 0, errors.New("no PUBREC can have come for it")
	case m.Released:
		return stageRelease, nil
	case m.Message.Topic == "" || m.Message.QoS < 1 || m.Message.QoS > 2:
		return 0, fmt.Errorf("QoS %d, topic %q", m.Message.QoS, m.Message.Topic)
	}
	return stagePublish, nil
}
