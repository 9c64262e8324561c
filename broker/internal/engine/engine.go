// Package engine is the broker's MQTT: sessions, subscriptions, retained messages, and what travels between them. It knows
// no listener, no file and no configuration format; it is given connections, and a Policy that says who may do what.
//
// # Goroutines
//
// A connection has a reader, the goroutine that calls Serve, and a writer while there is something to write. One goroutine
// watches the clock. There is none for a message, and none for a session that is away.
//
// # Locks
//
// In this order, and never two of one kind at once: Session.ingress, the shard of a client identifier, Session.mu; then
// those of groups, group, retained, index and timers, of which only neighbours are nested:
// timers.mu. None is held over I/O, over code of the application, or while waiting for anything else.
//
// # Ways of a message
//
// The reader of a publisher splits packets in place, looks the topic up in its cache of matches, and collects consecutive
// packets of one topic and QoS into a run. At its end the run is given to each target under one lock of that target's
// session. What cannot go into the connection's write buffer at once waits in the session's queue. Who makes room, be it an
// acknowledgement or the writer, lets the session go on (Session.pump).
package engine

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Overflow says what happens to a message for a session whose queue is full, after what has expired was dropped.
type Overflow int

const (
	DropNewest Overflow = iota // it is dropped
	DropOldest                 // those that have waited longest make room for it
	EndSession                 // the session ends, and the client learns so: its next CONNECT finds no session
)

// Config says how an engine behaves.
type Config struct {
	Policy Policy
	Log    *slog.Logger

	MaxPacketSize     int      // of packets from clients, in bytes, header included
	MaxQueuedMessages int      // that wait for one session, or for one group of a shared subscription
	MaxQueuedBytes    int      // of them, and of what is in flight or in the write buffer
	MaxMemory         int      // of all messages, sessions and subscriptions together, in bytes
	Overflow          Overflow // what happens beyond these bounds

	// Grace is how long a client may be silent beyond its keep alive; 0: half the keep alive.
	Grace time.Duration

	// ConnectTimeout bounds authentication.
	ConnectTimeout time.Duration

	// Store keeps sessions and retained messages; nil: they end with the engine. The engine closes it.
	Store Store

	// LazySync acknowledges what has to be stored before it is. It is within a second.
	LazySync bool
}

// Engine serves clients. Its methods may be called concurrently.
type Engine struct {
	config Config
	policy Policy
	log    *slog.Logger
	began  time.Time // times of type Duration count from here
	traces bool      // packets are logged

	sessions registry
	index    index
	retained retained
	groups   groups
	timers   timers
	journal  *journal     // nil: nothing is stored
	failing  atomic.Bool  // the store does not take anything
	memory   atomic.Int64 // bytes of messages, of sessions, of subscriptions, and of what waits to be written or has come in part
	told     atomic.Int64 // when the log was last told that memory is used up, as a Duration; 0: never
	stats    counters

	closing atomic.Bool // no client is let in any more
	running sync.WaitGroup
}

// New returns an engine with the sessions and retained messages that the store has, and without clients. Close ends it.
func New(c Config) (*Engine, error) {
	e := &Engine{config: c, policy: c.Policy, log: c.Log, began: time.Now(), traces: traces(c.Log)}
	e.sessions.init()
	e.timers.init()
	if c.Store != nil {
		if err := e.restore(c.Store); err != nil {
			return nil, err
		}
		e.journal.run()
	}
	e.running.Go(e.watchClock)
	return e, nil
}

// now is the time on the engine's clock. It is never 0, which stands for no time at all.
func (e *Engine) now() time.Duration { return time.Since(e.began) + 1 }

// Close disconnects every client with this reason (0x8B), and lets no other in. The goroutines that run Serve return on
// their own; Wait waits for the rest.
func (e *Engine) Close() {
	e.closing.Store(true)
	e.sessions.each(func(s *Session) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn != nil {
			s.conn.finish(serverShuttingDown)
		}
	})
}

// Wait waits, after Close and after every Serve has returned, until nothing of the engine runs any more. The error is that
// of the store.
func (e *Engine) Wait() error {
	e.timers.stop()
	e.running.Wait()
	if e.journal == nil {
		return nil
	}
	return e.journal.close()
}

// Recheck asks the policy again about everything that it was asked before: rules are looked up anew, and clients whose
// credential is no longer valid are disconnected.
func (e *Engine) Recheck() {
	e.index.renew()
	e.sessions.each(func(s *Session) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if c := s.conn; c != nil && !e.policy.Valid(c.credential) {
			c.finish(notAuthorized)
		}
	})
}

// Publish publishes a message of the server itself.
func (e *Engine) Publish(topic string, payload []byte, qos byte, retain bool) {
	e.publish(nil, &message{topic: topic, payload: payload, qos: qos, retain: retain, size: len(topic) + len(payload)})
}
