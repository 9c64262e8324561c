package mqtttest

import (
	"time"
)

// session is what the broker keeps of a client between connections. The broker's lock guards it.
type session struct {
	b      *Broker
	id     string // client identifier
	conn   *conn  // nil: the client is not connected
	expiry uint32 // seconds, 0: ends with the connection
	end    alarm  // while not connected
	will   *will  // waits for its delay
	willAt alarm

	subs     map[string]*subscription // by topic filter, as in SUBSCRIBE
	received map[uint16]bool          // QoS 2 messages of the client whose PUBREL has not come
	outgoing
	ledger ledger
}

// leave takes a connection out of its session.
func (c *conn) leave() {
	c.vigil.alarm.stop()
	c.late.alarm.stop()
	s := c.sess
	if s == nil {
		return
	}
	c.sess, s.conn = nil, nil
	s.leaveWill(c.will)
	switch s.expiry {
	case 0:
		s.b.endSession(s)
	case neverExpires:
	default:
		s.end.set(s.b, time.Duration(s.expiry)*time.Second, func() { s.b.endSession(s) })
	}
}

func (s *session) stopAlarms() {
	s.end.stop()
	s.willAt.stop()
}

// endSession forgets a session that is not connected.
func (b *Broker) endSession(s *session) {
	s.stopAlarms()
	for _, sub := range s.subs {
		b.content.router.remove(sub)
	}
	delete(b.sessions, s.id)
	s.publishWill()
}
