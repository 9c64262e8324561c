package engine

import (
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// aftermath is what follows from the end of a connection or session, and is done without a lock.
type aftermath struct {
	will         *will
	groups       []*group // that have messages to give away again
	unsubscribed []string
	client       *Client
}

func (a *aftermath) run(e *Engine) {
	if a.will != nil {
		e.publishWill(a.will)
	}
	for _, g := range a.groups {
		g.serve()
	}
	for _, filter := range a.unsubscribed {
		e.policy.Unsubscribed(a.client, filter)
	}
}

// attach gives a connection its session, and appends CONNACK. An older connection of the client ends before, with its will,
// and so does a session that the client does not want any more.
func (e *Engine) attach(c *conn, connect *codec.Connect, ack *codec.Connack) error {
	var before *Session
	for c.session == nil {
		old, after, err := e.tryAttach(c, connect, ack)
		after.run(e)
		if err != nil {
			return err
		}
		if old != nil {
			before = old
			c.awaitStore = c.awaitStore || old.ledger != nil
		}
	}
	if before != nil { // its last batch comes before the first one of this connection
		before.ingress.Lock()
		//lint:ignore SA2001 nothing is to be done in between
		before.ingress.Unlock()
	}
	e.welcome(c, connect)
	return nil
}

// tryAttach does one step of attach. It returns a session that has ended in it.
// [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.3-2] [MQTT-3.1.4-3] [MQTT-3.1.4-4] [MQTT311-3.1.2-4]
// [MQTT311-3.1.2-6] [MQTT311-3.1.3-2] [MQTT311-3.1.4-2] [MQTT311-3.1.4-3] [MQTT-3.2.2-2] [MQTT-3.2.2-3]
// [MQTT311-3.2.2-1] [MQTT311-3.2.2-2]
func (e *Engine) tryAttach(c *conn, connect *codec.Connect, ack *codec.Connack) (ended *Session, after aftermath, err error) {
	sh := e.sessions.shard(c.client.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.sessions[c.client.ID]
	foreign := s != nil && s.owner != c.client.Username
	switch {
	case e.closing.Load():
		return nil, after, &refusal{codec.ServerUnavailable}
	case foreign && s.owner != "":
		return nil, after, &refusal{codec.ClientIdentifierNotValid}
	case s == nil && expiryOf(connect) > 0 && e.full():
		return nil, after, &refusal{codec.QuotaExceeded}
	case s == nil:
		s = e.newSession(c.client.ID, c.client.Username)
		if e.journal != nil {
			if expiryOf(connect) > 0 {
				s.ledger = s.ledgerOf(e.journal.newNumber())
			}
			c.awaitStore = c.awaitStore || s.ledger != nil || e.journal.isEnding(s.id)
		}
		e.enroll(sh, s)
		return nil, after, s.begin(c, connect, ack)
	}
	connected, kept := s.takeOver()
	switch {
	case connect.CleanStart || foreign || !kept:
		return s, e.end(sh, s), nil
	case connected:
		return nil, s.partForGood(), nil
	}
	ack.SessionPresent = true
	return nil, after, s.begin(c, connect, ack)
}

// takeOver ends the connection that the session has, if it has one. kept says that the session outlives it; one that
// overflow has to end does not.
func (s *Session) takeOver() (connected, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if connected = s.conn != nil; connected {
		s.conn.finish(takenOver)
	}
	return connected, s.expiry > 0
}

// partForGood parts the session from a connection that another one follows. A will with a delay is not needed any more,
// section 3.1.4.
// [MQTT-3.1.4a]
func (s *Session) partForGood() (after aftermath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.part()
	if w := s.takeWill(); w != nil && w.delay == 0 {
		after.will = w
	}
	return after
}

// part takes the connection away.
func (s *Session) part() {
	if s.conn != nil {
		s.conn = nil
		s.state.Lost()
		s.engine.stats.connected.Add(-1)
	}
}

// begin attaches a connection to the session, in one critical section: what is delivered to the session goes to the old
// connection or to the new one. CONNACK is the first packet [MQTT-3.2.0-1] [MQTT311-3.2.0-1].
func (s *Session) begin(c *conn, connect *codec.Connect, ack *codec.Connack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	packet, err := ack.Append(nil, c.version)
	if err != nil {
		return err
	}
	s.conn, c.session = c, s
	s.client.Store(c.client)
	s.expiry = expiryOf(connect)
	s.keepWill(willOf(connect, c.client))
	s.stopTimers()
	c.heard = s.engine.now()
	c.keepAlive(connect.KeepAlive)
	c.written = make(chan struct{})
	c.out.Bound = writeBound
	s.endsAt = 0
	s.state.Serve(c.terms(connect))
	c.out.Commit(s.state.Resumed(append(c.out.Buffer(), packet...)))
	s.engine.stats.connects.Add(1)
	raise(&s.engine.stats.maxConnected, s.engine.stats.connected.Add(1))
	c.claim()
	if !c.awaitStore {
		s.save()
		go c.write()
		return nil
	}
	var record saver // what has ended is in the commit too
	if s.ledger != nil {
		record = s
	}
	s.engine.journal.submit(record, nil, c.confirm)
	return nil
}

// confirm lets CONNACK go out, because the session is stored; until then the connection has a writer that does nothing.
func (c *conn) confirm(err error) {
	if err != nil {
		c.session.mu.Lock()
		c.mute = true
		c.finish(serverUnavailable)
		c.session.mu.Unlock()
	}
	go c.write() // not here: a client that reads nothing must not hold up what others wait for
}

// terms are what holds on the connection.
func (c *conn) terms(connect *codec.Connect) session.Connection {
	t := session.Connection{Version: c.version, PeerReceiveMaximum: 0xFFFF, PeerPacketSize: c.largest}
	if n := connect.Properties.ReceiveMaximum; n > 0 {
		t.PeerReceiveMaximum = int(n)
	}
	if c.version == codec.V5 {
		t.ReceiveMaximum = ReceiveMaximum // MQTT 3.1.1 cannot be told, so it may have as many as there are identifiers
		t.PeerTopicAliases = c.aliasing
	}
	return t
}

// expiryOf returns the Session Expiry Interval. What MQTT 3.1.1 calls a session that is not clean does not expire.
// [MQTT-3.1.2-23]
func expiryOf(connect *codec.Connect) uint32 {
	switch {
	case connect.Version != codec.V5 && !connect.CleanStart:
		return never
	case connect.Properties.SessionExpiry != nil:
		return *connect.Properties.SessionExpiry
	}
	return 0
}

// welcome tells everybody about a client that has connected.
func (e *Engine) welcome(c *conn, connect *codec.Connect) {
	e.log.Info("client connected", "client", logged{c.client}, "listener", c.client.Listener, "version", c.version.String(),
		"clean", connect.CleanStart, "keepalive", connect.KeepAlive)
	e.policy.Connected(c.client)
	if !e.policy.Valid(c.credential) { // Recheck may have been too early to see this client
		c.session.mu.Lock()
		defer c.session.mu.Unlock()
		c.finish(notAuthorized)
	}
}

// detach parts the session from a connection that has ended: the session waits for the next one, or ends.
// [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.2-23] [MQTT311-3.1.2-8] [MQTT-4.5.0-1] [MQTT311-4.5.0-1] [MQTT-3.14.4]
// [MQTT311-3.14.4]
func (e *Engine) detach(c *conn) {
	after := e.detachLocked(c)
	after.run(e)
}

func (e *Engine) detachLocked(c *conn) aftermath {
	sh := e.sessions.shard(c.session.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	ends, after := c.session.detach(c)
	if ends {
		return e.end(sh, c.session)
	}
	return after
}

// detach reports whether the session has to end.
func (s *Session) detach(c *conn) (ends bool, after aftermath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return false, after // taken over
	}
	s.part()
	if s.expiry == 0 {
		return true, after
	}
	now := s.engine.now()
	if s.expiry != never {
		s.endsAt = now + seconds(s.expiry)
		s.engine.timers.set(s.timers.expiry, s.endsAt)
	}
	if s.will != nil && s.will.delay > 0 {
		s.engine.timers.set(s.timers.will, now+min(s.will.delay, seconds(s.expiry)))
	} else {
		after.will = s.takeWill()
	}
	s.save()
	return false, after
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

func (s *Session) stopTimers() {
	s.engine.timers.unset(s.timers.expiry)
	s.engine.timers.unset(s.timers.will)
}

// expire ends a session whose time is over. [MQTT-4.1.0-2]
func (e *Engine) expire(s *Session) {
	after := e.expireLocked(s)
	after.run(e)
}

func (e *Engine) expireLocked(s *Session) (after aftermath) {
	sh := e.sessions.shard(s.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s.isDue() {
		e.stats.expiredSessions.Add(1)
		after = e.end(sh, s)
	}
	return after
}

// isDue reports whether the time of a session that is away is over.
func (s *Session) isDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn == nil && !s.ended && !s.engine.timers.isSet(s.timers.expiry)
}

// end ends a session, with everything that belongs to it. The shard's lock is held, the session's is not. Its will is due
// then, whatever its delay [MQTT-3.1.3-9].
// [MQTT-4.1] [MQTT311-3.1.2-7]
func (e *Engine) end(sh *shard, s *Session) (after aftermath) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return after
	}
	s.part()
	s.ended = true
	s.stopTimers()
	e.dismiss(sh, s)
	after.will = s.takeWill()
	after.client = s.client.Load()
	after.unsubscribed = s.unsubscribeAll()
	s.unsave()
	after.groups = s.giveBack()
	for _, c := range s.cursors {
		c.drop(e)
	}
	s.cursors = nil
	return after
}

// giveBack drops everything that the session keeps. Messages at QoS 1 that it had as the member of a group, and that were
// not acknowledged, go back to the group [MQTT-4.8.2-4] [MQTT-4.8.2-5].
func (s *Session) giveBack() (groups []*group) {
	sent, unsent := s.state.Discard()
	for i := len(sent) - 1; i >= 0; i-- { // the oldest comes to the front last
		o, ok := sent[i].Owner.(*shared)
		if ok && sent[i].QoS == 1 && o.group.unshift(o.message) {
			s.unkeep(o.message)
			if !slices.Contains(groups, o.group) {
				groups = append(groups, o.group)
			}
			continue
		}
		s.done(sent[i].Owner)
	}
	for i := range unsent {
		s.done(unsent[i].Owner)
	}
	return groups
}
