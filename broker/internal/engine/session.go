package engine

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/session"
)

// never is the Session Expiry Interval of a session that does not expire.
const never = 0xFFFF_FFFF

// Session is one client's session. It outlives connections.
// [MQTT-4.1.0-1] [MQTT-4.1.0-2] [MQTT311-4.1.0-1]
type Session struct {
	engine *Engine
	id     string
	ledger *ledger                // nil: the session is not stored
	owner  string                 // the user name that it belongs to; "": of clients without one
	client atomic.Pointer[Client] // the latest

	// ingress is held by the reader of a connection over one batch: a client's messages are routed in the order in which it
	// published them, although the reader of its earlier connection may still be busy.
	ingress sync.Mutex

	removed    atomic.Bool  // it has ended, and a commit is to remove it from the store, or has done so
	unreleased atomic.Int32 // runs of the client that wait for the store

	mu            sync.Mutex // guards the fields below
	conn          *conn      // nil: away. Whoever acts for a connection looks whether it is still this one
	state         *session.Session
	ended         bool
	expiry        uint32        // seconds after the end of the connection; 0: at once
	will          *will         // nil: none
	endsAt        time.Duration // of a session that is away, on the engine's clock; 0: it is not away, or does not expire
	subscriptions map[string]*subscription
	unsubscribed  uint64        // generation of the index after the latest UNSUBSCRIBE
	groups        []*group      // it is a member of
	cursors       []*cursor     // retained messages on their way, in the order of the SUBSCRIBEs
	kept          int           // bytes of the messages that are queued or in flight
	pumping       bool          // somebody runs pump
	missed        bool          // there was something for the client meanwhile
	swept         time.Duration // when the full queue was last searched for what has expired
	told          time.Duration // when the log was last told that messages were dropped; 0: never
	timers        sessionTimers
	leftover      []Change // that remove from the store what belonged to a session that has ended
}

// sessionTimers are those of a session that is away.
type sessionTimers struct{ expiry, will *timer }

// newSession returns an empty session, which is not stored.
func (e *Engine) newSession(id, owner string) *Session {
	s := &Session{engine: e, id: id, owner: owner}
	s.state = session.New(session.Limits{
		InFlight:      maxInFlight,
		QueueMessages: math.MaxInt, // the bounds are the engine's: see room
		QueueBytes:    math.MaxInt,
	})
	s.timers.expiry = newTimer(func() { e.expire(s) })
	s.timers.will = newTimer(func() { e.willIsDue(s) })
	return s
}

// maxInFlight bounds the messages in flight to one client, whatever its Receive Maximum.
const maxInFlight = 4096

// room reports whether so many more messages, of so many bytes, may wait for the client. A message larger than the whole
// bound may wait alone.
func (s *Session) room(messages, bytes int) bool {
	e := s.engine
	waiting, kept := s.waiting()
	switch {
	case waiting+messages > e.config.MaxQueuedMessages:
		return false
	case kept > 0 && kept+bytes > e.config.MaxQueuedBytes:
		return false
	}
	return !e.full()
}

// waiting returns how many messages wait for the client, and the bytes of all that are kept for it.
func (s *Session) waiting() (messages, bytes int) {
	messages, _ = s.state.Queued()
	bytes = s.kept
	if c := s.conn; c != nil {
		messages += c.waiting.messages + c.underway.messages
		bytes += c.waiting.bytes + c.underway.bytes
	}
	return messages, bytes
}

// entrySize is what a session takes for each message that is queued or in flight, about, beside the message.
const entrySize = 160

// keep counts a message that is queued or in flight from now on.
func (s *Session) keep(m *message) {
	s.engine.hold(m)
	s.engine.memory.Add(entrySize)
	s.kept += m.size
}

// done counts the message behind owner as no longer kept: it was acknowledged, or dropped.
func (s *Session) done(owner any) {
	message := messageOf(owner)
	if message == nil {
		return
	}
	s.unkeep(message)
	if message.sequence != 0 {
		s.settle(owner, message)
	}
}

// unkeep counts a message that is no longer kept, and says nothing about the store.
func (s *Session) unkeep(m *message) {
	s.engine.letGo(m)
	s.engine.memory.Add(-entrySize)
	s.kept -= m.size
}

// settle says that the store need not keep a message any more, for the session or for the group that it came through.
func (s *Session) settle(owner any, m *message) {
	if _, ok := owner.(replayed); ok {
		return
	}
	o, ok := owner.(*shared)
	if !ok {
		if s.ledger != nil {
			s.ledger.settle(m)
		}
		return
	}
	o.group.mu.Lock()
	defer o.group.mu.Unlock()
	if l := o.group.ledger.Load(); l != nil {
		l.settle(m)
	}
}

// toldEvery is how often the log is told that a client is too slow.
const toldEvery = time.Minute

// drop counts messages that the client will never see.
func (s *Session) drop(n int, topic string) {
	s.engine.stats.dropped.Add(uint64(n))
	if now := s.engine.now(); s.told == 0 || now > s.told+toldEvery {
		s.told = now
		s.engine.log.Warn("client is too slow, so messages to it are dropped", "client", logged{s.client.Load()}, "topic", brief(topic), "away", s.conn == nil)
	}
}
