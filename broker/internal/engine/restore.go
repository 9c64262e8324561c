package engine

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// restoring is what has been read of a store. Buckets come in the order of their letters.
type restoring struct {
	engine   *Engine
	groups   map[uint64]string             // filter by number
	received map[uint64][]session.Received // packet identifiers by session
	ledgers  map[uint64]*restoredLedger    // by session or group
	sent     map[flightKey]flight
	messages []restoredMessage // in the order of their sequence
	sessions map[uint64]*Session
	useless  []Change // that remove what nobody needs
}

// flight is a message at QoS 2 that is on its way to a session.
type flight struct {
	session  uint64 // its number
	id       uint16
	released bool
}

type restoredMessage struct {
	*message
	targets []storedTarget
}

// restore reads everything that the store has.
func (e *Engine) restore(s Store) error {
	e.journal = newJournal(e, s)
	e.journal.restoring = true
	r := &restoring{
		engine: e, groups: map[uint64]string{}, received: map[uint64][]session.Received{}, ledgers: map[uint64]*restoredLedger{},
		sent: map[flightKey]flight{}, sessions: map[uint64]*Session{},
	}
	if err := s.Load(r.read); err != nil {
		return err
	}
	if err := r.restoreMessages(); err != nil {
		return err
	}
	r.tidy()
	e.journal.restoring = false
	for _, c := range r.useless {
		e.journal.lazily(c)
	}
	for _, s := range r.sessions {
		s.awaitClient()
	}
	return nil
}

// read takes one value.
func (r *restoring) read(bucket byte, key, value []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("bucket %c, key %x: %w", bucket, key, err)
		}
	}()
	if bucket == bucketRetained {
		return r.readRetained(key, value)
	}
	if len(key) < 8 {
		return errRecord
	}
	n := binary.BigEndian.Uint64(key)
	if bucket != bucketMessages {
		r.engine.journal.number = max(r.engine.journal.number, n)
	}
	switch bucket {
	case bucketGroups:
		r.groups[n] = string(value)
	case bucketLedgers:
		return r.readLedger(n, value)
	case bucketMessages:
		return r.readMessage(n, value)
	case bucketReceived, bucketSent:
		if len(key) != 10 {
			return errRecord
		}
		return r.readIdentifier(bucket, n, binary.BigEndian.Uint16(key[8:]), value)
	case bucketSessions:
		return r.readSession(n, value)
	}
	return nil
}

func (r *restoring) readRetained(key, value []byte) error {
	m, _, err := r.engine.readMessage(value)
	if err != nil {
		return err
	}
	if m.expired(r.engine.now()) {
		r.useless = append(r.useless, Change{Bucket: bucketRetained, Key: bytes.Clone(key)})
		return nil
	}
	r.engine.retain(nil, m)
	return nil
}

func (r *restoring) readLedger(n uint64, value []byte) (err error) {
	if r.ledgers[n], err = newRestoredLedger(value); err == nil {
		r.engine.journal.sequence = max(r.engine.journal.sequence, r.ledgers[n].last)
	}
	return err
}

func (r *restoring) readMessage(sequence uint64, value []byte) error {
	m, targets, err := r.engine.readMessage(value)
	if err != nil {
		return err
	}
	m.sequence = sequence
	r.engine.journal.sequence = max(r.engine.journal.sequence, sequence)
	r.messages = append(r.messages, restoredMessage{m, targets})
	return nil
}

func (r *restoring) readIdentifier(bucket byte, n uint64, id uint16, value []byte) error {
	if bucket == bucketReceived {
		r.received[n] = append(r.received[n], session.Received{ID: id})
		return nil
	}
	flightOf, released, err := readFlight(value)
	r.sent[flightOf] = flight{n, id, released}
	return err
}

// readSession makes a session of its record, without messages.
func (r *restoring) readSession(n uint64, value []byte) error {
	var of storedSession
	if err := json.Unmarshal(value, &of); err != nil {
		return err
	}
	if of.Form != recordForm || of.ID == "" {
		return errRecord
	}
	e := r.engine
	s := e.newSession(of.ID, of.Owner)
	s.ledger = s.ledgerOf(n)
	s.ledger.resume(r.ledgers[n])
	client := &Client{ID: of.ID, Username: of.Owner, Version: of.Version, Listener: of.Listener}
	s.client.Store(client)
	s.expiry, s.endsAt = of.Expiry, e.engineTime(of.EndsAt)
	if w := of.Will; w != nil {
		s.keepWill(&will{client, w.Topic, w.Payload, w.Properties, w.QoS, w.Retain, w.Delay})
	}
	e.enroll(e.sessions.shard(s.id), s)
	r.sessions[n] = s
	for _, sub := range of.Subscriptions {
		s.subscribe(&codec.SubscribeFilter{
			Filter: sub.Filter, QoS: sub.QoS, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished, RetainHandling: 2,
		}, sub.ID)
	}
	return nil
}

// restoreMessages gives each message to the sessions and groups that still need it.
func (r *restoring) restoreMessages() error {
	states := map[uint64]*session.State{}
	for n := range r.sessions {
		states[n] = &session.State{Received: r.received[n]}
	}
	groups := r.groupsByNumber()
	for _, m := range r.messages {
		m.message.debts.Store(1) // until all have been asked
		for i := range m.targets {
			t := &m.targets[i]
			switch g, s := groups[t.number], r.sessions[t.number]; {
			case s == nil && g == nil:
			case !r.ledgers[t.number].needs(m.sequence):
				ledgerOfEither(s, g).enterSettled(m.message)
			case s != nil:
				m.message.debts.Add(1)
				r.give(s, states[t.number], m.message, t)
			default:
				m.message.debts.Add(1)
				r.giveGroup(g, states, m.message)
			}
		}
		r.engine.journal.settle(m.message)
	}
	for n, s := range r.sessions {
		st := states[n]
		slices.SortStableFunc(st.Sent, func(a, b session.Sent) int { return order(a.Released, b.Released) })
		st.LastID = r.ledgers[n].startAt()
		if err := s.state.Restore(*st); err != nil {
			return err
		}
	}
	return nil
}

func ledgerOfEither(s *Session, g *group) *ledger {
	if s != nil {
		return s.ledger
	}
	return g.ledger.Load()
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// groupsByNumber returns the groups that still have members; those that have none are removed from the store.
func (r *restoring) groupsByNumber() map[uint64]*group {
	groups := map[uint64]*group{}
	for n, filter := range r.groups {
		g := r.engine.groups.of[filter]
		if g == nil {
			r.useless = append(r.useless, Change{bucketGroups, number(n), nil}, Change{bucketLedgers, number(n), nil})
			continue
		}
		l := &ledger{journal: r.engine.journal, number: n, lock: &g.mu}
		l.resume(r.ledgers[n])
		g.ledger.Store(l)
		groups[n] = g
	}
	return groups
}

// give puts a message into the state of a session.
func (r *restoring) give(s *Session, st *session.State, m *message, t *storedTarget) {
	s.ledger.enter(m)
	s.keep(m)
	copied := m.copyOf(min(m.qos, t.qos), m.retain && t.retainAsPublished, t.ids, m)
	if f, ok := r.takeFlight(m, t.number); ok && copied.QoS == 2 {
		st.Sent = append(st.Sent, session.Sent{ID: f.id, Message: copied, Released: f.released})
		return
	}
	st.Waiting = append(st.Waiting, copied)
}

// giveGroup lets a message wait in a group, unless a member has it at QoS 2.
func (r *restoring) giveGroup(g *group, states map[uint64]*session.State, m *message) {
	g.ledger.Load().enter(m)
	if f, ok := r.takeFlight(m, g.ledger.Load().number); ok {
		r.sessions[f.session].keep(m)
		st := states[f.session]
		st.Sent = append(st.Sent, session.Sent{ID: f.id, Message: m.copyOf(2, m.retain, nil, &shared{m, g}), Released: f.released})
		return
	}
	r.engine.hold(m)
	g.queue.Push(m)
	g.bytes += m.size
}

// takeFlight returns how far a message has come, which the store has for a session or group.
func (r *restoring) takeFlight(m *message, number uint64) (flight, bool) {
	k := flightKey{m.sequence, number}
	f, ok := r.sent[k]
	if ok = ok && r.sessions[f.session] != nil; ok {
		delete(r.sent, k)
	}
	return f, ok
}

// tidy removes records that mean nothing any more: the sessions that they belonged to had ended by the time that they came
// into the store.
func (r *restoring) tidy() {
	for _, f := range r.sent {
		r.useless = append(r.useless, Change{bucketSent, identifier(f.session, f.id), nil})
	}
	for n, received := range r.received {
		if r.sessions[n] == nil {
			for _, m := range received {
				r.useless = append(r.useless, Change{bucketReceived, identifier(n, m.ID), nil})
			}
		}
	}
	for n := range r.ledgers {
		if r.sessions[n] == nil && r.groups[n] == "" {
			r.useless = append(r.useless, Change{bucketLedgers, number(n), nil})
		}
	}
}

// awaitClient sets the timers of a session that was restored. The time that the broker was away counts.
func (s *Session) awaitClient() {
	e := s.engine
	if s.endsAt == 0 && s.expiry != never {
		s.endsAt = e.now() + seconds(s.expiry)
	}
	if s.endsAt != 0 {
		e.timers.set(s.timers.expiry, s.endsAt)
	}
	if s.will != nil {
		e.timers.set(s.timers.will, e.now()+min(s.will.delay, seconds(s.expiry)))
	}
	s.save()
	e.journal.spoil(s.ledger) // the next process must not begin where this one does
}
