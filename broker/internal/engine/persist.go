package engine

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
)

// This file says what waits for the store. Everything here is for sessions that outlive their connection, which have a
// ledger, and for retained messages.
//
//	PUBACK, PUBREC                 the message, and for PUBREC its identifier
//	PUBCOMP                        the identifier's removal: a new message under it would be swallowed after a crash
//	a QoS 2 PUBLISH                its identifier
//	PUBREL                         that PUBREC came: otherwise the PUBLISH would come again as a new one
//	SUBACK, UNSUBACK, CONNACK      the session
//
// What is acknowledged at QoS 1, and what is removed, is written with the next commit.

// stores reports whether a run has to wait for the store: because somebody needs its messages after a crash, or because
// earlier messages of the publisher wait.
func (c *conn) stores(r *run) bool {
	if c.engine.journal == nil {
		return false
	}
	if r.retain || c.session.unreleased.Load() > 0 || r.qos == 2 && c.session.ledger != nil {
		return true
	}
	return r.qos > 0 && len(r.match.storedTargets()) > 0
}

// storedTargets returns those of a match that outlive the process, by their numbers. They are looked up once.
func (m *match) storedTargets() []storedTarget {
	m.once.Do(func() {
		for i := range m.targets {
			if t := &m.targets[i]; t.qos > 0 && t.session.ledger != nil {
				m.stored = append(m.stored, storedTarget{t.session.ledger.number, t.qos, t.retainAsPublished, t.ids})
			}
		}
		for _, g := range m.groups {
			if l := g.ledger.Load(); l != nil {
				m.stored = append(m.stored, storedTarget{number: l.number})
			}
		}
		slices.SortFunc(m.stored, func(a, b storedTarget) int { return cmp.Compare(a.number, b.number) })
	})
	return m.stored
}

// store lets a run be committed. It is routed and acknowledged then.
func (c *conn) store(r *run) {
	j := c.engine.journal
	later := &run{match: r.match, qos: r.qos, retain: r.retain, items: slices.Clone(r.items)}
	later.makeMessages(later.items, c.engine.now())
	for i := range later.items {
		it := &later.items[i]
		it.payload, it.properties = nil, nil // they were the reader's
		if it.message != nil {
			it.payload, it.properties = it.message.payload, it.message.properties
		}
	}
	c.session.unreleased.Add(1)
	j.submitRun(c.session.ledger, later, func(err error) { c.release(later, err) })
	c.full = true
}

// submitRun gives the messages of a run their sequence, and lets them be committed. publisher is the ledger of the session
// that they come from; nil: it has none.
func (j *journal) submitRun(publisher *ledger, r *run, done func(error)) {
	n := &entry{done: done}
	var targets []storedTarget
	if r.qos > 0 {
		targets = r.match.storedTargets()
		r.stored = targets
	}
	for i := range r.items {
		it := &r.items[i]
		if it.skip() {
			continue
		}
		if r.qos == 2 && publisher != nil && it.id != 0 {
			n.changes = append(n.changes, Change{bucketReceived, identifier(publisher.number, it.id), []byte{1}})
		}
		n.size += it.message.size
		if len(targets) > 0 {
			it.message.debts.Store(int32(len(targets)))
			n.changes = append(n.changes, Change{bucketMessages, nil, j.engine.messageRecord(it.message, targets)})
		}
		if r.retain {
			n.changes = append(n.changes, j.engine.retainedChange(it.message))
		}
	}
	if r.retain {
		n.done = func(err error) {
			done(err)
			j.retained(r.match.topic)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.retain {
		j.retaining[r.match.topic]++
	}
	if len(targets) > 0 {
		j.enumerate(n, r)
	}
	j.add(n)
}

// retained notes that a run of retained messages of a topic is no longer under way.
func (j *journal) retained(topic string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.retaining[topic]--; j.retaining[topic] == 0 {
		delete(j.retaining, topic)
	}
}

// forgetRetained removes a retained message that has expired, with the next commit. Where a later one of its topic is under
// way that one takes its place in the store, and may have done so already.
func (j *journal) forgetRetained(topic string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.retaining[topic] == 0 {
		j.later = append(j.later, Change{Bucket: bucketRetained, Key: retainedKey(topic)})
	}
}

// enumerate gives the messages of a run their sequence, which is that of the commits. The lock is held.
func (j *journal) enumerate(n *entry, r *run) {
	at := 0
	for i := range r.items {
		if r.items[i].skip() {
			continue
		}
		for n.changes[at].Bucket != bucketMessages {
			at++
		}
		j.sequence++
		r.items[i].message.sequence = j.sequence
		n.changes[at].Key = number(j.sequence)
		at++
	}
}

// retainedChange stores a retained message, or removes the one of its topic.
func (e *Engine) retainedChange(m *message) Change {
	c := Change{Bucket: bucketRetained, Key: retainedKey(m.topic)}
	if len(m.payload) > 0 {
		c.Value = e.messageRecord(m, nil)
	}
	return c
}

// longestKey is how many bytes a key has at most.
const longestKey = 32 << 10

// retainedKey is the topic, or stands for it if it is too long for a key: no topic begins with U+0000.
func retainedKey(topic string) []byte {
	if len(topic) < longestKey {
		return []byte(topic)
	}
	sum := sha256.Sum256([]byte(topic))
	return append([]byte{0}, sum[:]...)
}

// identifier is the key of a packet identifier of a session.
func identifier(session uint64, id uint16) []byte {
	return binary.BigEndian.AppendUint16(number(session), id)
}

// release routes and acknowledges a run that was committed, or refuses it.
func (c *conn) release(r *run, err error) {
	var wakes []*conn
	if err != nil {
		for i := range r.items {
			if it := &r.items[i]; r.qos == 0 && !it.skip() {
				c.engine.stats.dropped.Add(1) // nobody else is told
			}
			r.items[i].refused = codec.QuotaExceeded
		}
	} else {
		c.engine.route(c.client, r, &wakes)
	}
	c.session.unreleased.Add(-1)
	if err != nil && c.version != codec.V5 {
		c.end(serverUnavailable) // MQTT 3.1.1 has no other way to refuse a message [MQTT311-4.8.0-2]
	}
	if r.qos == 2 && err == nil && c.session.ledger != nil {
		c.forgetRefused(r)
	}
	if r.qos > 0 {
		c.acknowledgeRun(r, &wakes)
	}
	wakeAll(wakes)
}

// forgetRefused removes the identifiers of messages that were stored, and that nobody had room for: the next message under
// one is another message. [MQTT-4.3.3-9]
func (c *conn) forgetRefused(r *run) {
	for i := range r.items {
		it := &r.items[i]
		if reason := it.reason(); !it.skip() && reason != nil && reason.Code.Failed() {
			c.engine.journal.lazily(Change{Bucket: bucketReceived, Key: identifier(c.session.ledger.number, it.id)})
		}
	}
}

// end ends the connection.
func (c *conn) end(err error) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	c.finish(err)
}

// whenSaved calls f with the session's lock held once the session is stored as it is now, or at once if it is not stored at
// all. After a takeover f is not called; when the store fails the connection ends.
func (c *conn) whenSaved(f func()) {
	s := c.session
	if s.ledger == nil {
		f()
		return
	}
	s.engine.journal.submit(s, nil, func(err error) {
		c.act(func() {
			if err != nil {
				c.finish(serverUnavailable)
				return
			}
			f()
		})
	})
}

// act calls f with the session's lock held, if the connection still has the session, and sends what waits.
func (c *conn) act(f func()) {
	var wakes []*conn
	s := c.session
	s.mu.Lock()
	if s.conn == c {
		f()
		s.pump(c)
		if c.out.Waiting() > 0 {
			c.wakeLater(&wakes)
		}
	}
	s.mu.Unlock()
	wakeAll(wakes)
}

// changes is the record of the session, or its removal.
func (s *Session) changes() []Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := number(s.ledger.number)
	if !s.ended {
		return []Change{{bucketSessions, key, s.record()}}
	}
	s.removed.Store(true)
	return append(s.leftover, Change{bucketSessions, key, nil}, Change{bucketLedgers, key, nil})
}

// save stores the session with the next commit.
func (s *Session) save() {
	if s.ledger != nil {
		s.engine.journal.spoil(s)
	}
}

// unsave removes the session from the store, with the next commit. It has ended, and its state is still there.
func (s *Session) unsave() {
	if s.ledger == nil {
		return
	}
	s.ledger.gone = true
	st := s.state.State()
	for _, m := range st.Received {
		s.leftover = append(s.leftover, Change{bucketReceived, identifier(s.ledger.number, m.ID), nil})
	}
	for i := range st.Sent {
		if st.Sent[i].Message.QoS == 2 {
			s.leftover = append(s.leftover, Change{bucketSent, identifier(s.ledger.number, st.Sent[i].ID), nil})
		}
	}
	j := s.engine.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ending[s.id] = s
	j.dirty[s] = true
}

// The handshakes of QoS 2, with records between cause and packet.

// prepare puts a message at QoS 2 in flight, which is sent when its identifier is stored. id is the one that it has.
func (s *Session) prepare(id uint16, owner any) {
	s.storeSent(id, owner, false, func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			again := newTimer(func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if !s.ended { // otherwise its records are gone
					s.prepare(id, owner)
				}
			})
			s.engine.timers.set(again, s.engine.now()+lazyCommit)
			return
		}
		s.state.Confirm(id) // on a later connection too
		if s.conn != nil && s.conn.claim() {
			go s.conn.write()
		}
	})
}

// storeSent stores how far a message at QoS 2 has come. The session's lock is held.
func (s *Session) storeSent(id uint16, owner any, released bool, done func(error)) {
	value := flightKey{messageOf(owner).sequence, s.debtor(owner)}.record(released)
	s.engine.journal.submit(nil, []Change{{bucketSent, identifier(s.ledger.number, id), value}}, done)
}

// debtor returns the number of whoever the store has a message for: the session, or the group that it came through. 0: it
// is not there for either.
func (s *Session) debtor(owner any) uint64 {
	l := s.ledger
	if o, ok := owner.(*shared); ok {
		o.group.mu.Lock()
		defer o.group.mu.Unlock()
		l = o.group.ledger.Load()
	}
	if _, ok := owner.(replayed); ok || l == nil || !l.has(messageOf(owner)) {
		return 0
	}
	return l.number
}

// isStored reports whether a message at QoS 2 needs records of how far it has come.
func (s *Session) isStored(qos byte, owner any) bool {
	return qos == 2 && s.ledger != nil && s.debtor(owner) != 0
}

// forgetSent removes the record of a message at QoS 2 that is complete.
func (s *Session) forgetSent(id uint16) {
	s.engine.journal.lazily(Change{Bucket: bucketSent, Key: identifier(s.ledger.number, id)})
}

// owes reports whether the store has the messages of the run for a session or group.
func (r *run) owes(number uint64) bool { return isAmong(r.stored, number) }

func isAmong(targets []storedTarget, number uint64) bool {
	_, ok := slices.BinarySearchFunc(targets, number, func(t storedTarget, n uint64) int { return cmp.Compare(t.number, n) })
	return ok
}

// forgive settles what was stored for a session that does not get it after all.
func (r *run) forgive(s *Session, items []item) {
	if s.ledger == nil || !r.owes(s.ledger.number) {
		return
	}
	for i := range items {
		if !items[i].skip() {
			s.engine.journal.settle(items[i].message)
		}
	}
}

// forgiveOthers settles what was stored for those who do not get a message after all, because it is not for them any more by
// the time of its delivery.
func (r *run) forgiveOthers(e *Engine, m *message) {
	if len(r.stored) == 0 {
		return
	}
	now := r.match.storedTargets()
	for i := range r.stored {
		if !isAmong(now, r.stored[i].number) {
			e.journal.settle(m)
		}
	}
}
