package engine

import "time"

// makeRoom reports whether one more message may be queued. A full queue loses what has expired, and then what the
// configuration says. Whatever is lost is counted.
func (s *Session) makeRoom(m *message) bool {
	if s.room(1, m.size) {
		return true
	}
	s.dropExpired()
	for !s.room(1, m.size) {
		if s.engine.config.Overflow != DropOldest || !s.dropOldest() {
			s.drop(1, m.topic)
			s.overflow()
			return false
		}
	}
	return true
}

// sweepEvery is how often a full queue is searched for what has expired.
const sweepEvery = time.Second

// dropExpired drops what has expired in the queue.
func (s *Session) dropExpired() {
	now := s.engine.now()
	if s.swept != 0 && now < s.swept+sweepEvery {
		return
	}
	s.swept = now
	expired := s.state.DropExpired(now)
	for i := range expired {
		s.done(expired[i].Owner)
	}
	s.engine.stats.expired.Add(uint64(len(expired)))
}

// dropOldest drops the message that has waited longest, and reports whether there was one.
func (s *Session) dropOldest() bool {
	m, ok := s.state.DropOldest()
	if ok {
		s.done(m.Owner)
		s.drop(1, m.Topic)
	}
	return ok
}

// overflow ends the session, if the configuration says so.
func (s *Session) overflow() {
	if s.engine.config.Overflow != EndSession {
		return
	}
	s.expiry = 0
	if s.conn != nil {
		s.conn.finish(sessionEnded)
		return
	}
	s.engine.timers.set(s.timers.expiry, s.engine.now()) // not here: the lock of the registry comes before the session's
}
