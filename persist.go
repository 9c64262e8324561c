package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/session"
)

// storeRetry is how long a store that has failed is left alone, at first and at most.
const (
	storeRetry        = 100 * time.Millisecond
	storeRetryMaximum = 5 * time.Second
)

// lastApply bounds what a client waits for its store when it ends.
const lastApply = 5 * time.Second

// keepJournal hands the journal to the store until the client ends, and then what is left.
func (out *outbox) keepJournal() {
	j := out.journal
	pause := storeRetry
	for j.await(out.ctx) {
		err := out.commit(out.ctx)
		if err == nil {
			pause = storeRetry
			continue
		}
		sleep(out.ctx, pause)
		pause = min(2*pause, storeRetryMaximum)
		notify(j.urgent)
	}
	<-out.done // the fates of all messages are decided
	ctx, cancel := context.WithTimeout(context.Background(), lastApply)
	defer cancel()
	// What is left after that is not lost: the messages are in the store. But those that were withdrawn or acknowledged would
	// be there too, and would be published again.
	for pause := storeRetry; out.commit(ctx) != nil && ctx.Err() == nil; pause = min(2*pause, storeRetryMaximum) {
		sleep(ctx, pause)
	}
	_ = j.store.Release()
}

// sleep waits for a time, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// commit writes one batch and does what was waiting for it.
func (out *outbox) commit(ctx context.Context) error {
	out.mu.Lock()
	changes, steps := out.journal.take()
	out.mu.Unlock()
	err := out.apply(ctx, changes)
	if err != nil {
		changes, steps = out.notStored(changes, steps, err)
	}
	if errors.Is(err, ErrQueueFull) { // only the new messages were too much, and the rest may make room for others
		err = out.apply(ctx, changes)
	}
	out.mu.Lock()
	var toWake []*Delivery
	if err != nil {
		out.journal.putBack(changes, steps)
		if !errors.Is(err, context.Canceled) { // otherwise the client ends, and the batch is written then
			out.notices.log(slog.LevelError, "mqtt: the store fails", "error", err)
		}
	} else {
		toWake = out.proceed(steps)
	}
	out.mu.Unlock()
	wake(toWake)
	return err
}

// apply makes changes in the store, if there are some.
func (out *outbox) apply(ctx context.Context, changes []StoreChange) error {
	if len(changes) == 0 {
		return nil
	}
	return out.journal.store.Apply(ctx, changes)
}

// notStored fails the messages of a batch that the store did not take. It returns the rest, which is tried again: what that is
// about has happened.
func (out *outbox) notStored(changes []StoreChange, steps []step, err error) ([]StoreChange, []step) {
	failed := &StoreError{"storing a message", err}
	var toWake []*Delivery
	out.mu.Lock()
	for i := range steps {
		d := steps[i].d
		if steps[i].kind != stepStored || d.resolved.Load() {
			continue
		}
		if !out.session.Withdraw(d.ticket) && d.id != 0 {
			out.session.Cancel(d.id) // otherwise it waits to be published afresh, and is dropped in its turn
		}
		toWake = d.resolve(toWake, Success, failed)
	}
	out.queueChanged()
	out.mu.Unlock()
	wake(toWake)
	return withoutMessages(changes, steps)
}

// proceed does what was waiting for a batch that is on disk.
// The caller holds mu.
func (out *outbox) proceed(steps []step) []*Delivery {
	for i := range steps {
		switch s := &steps[i]; s.kind {
		case stepStored:
			close(s.d.details.stored)
		case stepSend:
			if s.d.id == s.id && !s.d.resolved.Load() {
				out.session.Confirm(s.id)
			}
		case stepRelease:
			out.release(s)
		case stepReceived:
			out.append(func(b []byte) []byte { return out.session.Recorded(b, s.id) })
		case stepEnded:
			if s.link == out.link { // otherwise the server sends PUBREL again
				out.append(func(b []byte) []byte { return out.session.Pubrel(b, s.id) })
			}
		case stepBarrier:
			close(s.done)
		}
	}
	return out.sendQueued(nil)
}

// append lets the session append packets to the connection, or nowhere if there is none.
// The caller holds mu.
func (out *outbox) append(packets func([]byte) []byte) {
	if l := out.live(); l != nil {
		l.Commit(packets(l.Buffer()))
	} else {
		packets(nil)
	}
}

// awaitRecords waits until no PUBREC waits for the store any more, or ctx or the client ends.
func (out *outbox) awaitRecords(ctx context.Context) error {
	out.mu.Lock()
	if !out.session.Recording() {
		out.mu.Unlock()
		return nil
	}
	recorded := out.journal.barrier()
	out.mu.Unlock()
	select {
	case <-recorded:
	case <-out.done:
	case <-ctx.Done():
		return fmt.Errorf("mqtt: waiting for the store before acknowledging messages: %w", ctx.Err())
	}
	return nil
}

// release sends the PUBREL of a message whose PUBREC is on disk. Without a connection PUBREL follows at the next one. On a newer
// connection PUBLISH was sent again, and PUBRELs follow the PUBRECs of that connection, in their order [MQTT-4.6.0-4].
// The caller holds mu.
func (out *outbox) release(s *step) {
	if out.link != nil && out.link != s.link {
		return
	}
	if m, released := out.session.InFlightMessage(s.id); m == nil || released || m.Owner != s.d {
		return // the server has lost the session since
	}
	out.append(func(b []byte) []byte {
		b, _, _, _ = out.session.Pubrec(b, s.id, 0)
		return b
	})
}

// restore fills a new client with what its store has.
func (out *outbox) restore(ctx context.Context, cfg *config) error {
	r := newRecovery(out.now())
	if err := cfg.store.Load(ctx, r.take); err != nil {
		if errors.Is(err, ErrStoreInUse) {
			return err
		}
		return &StoreError{"loading the store", err}
	}
	out.journal = newJournal(cfg.store)
	out.mu.Lock()
	defer out.mu.Unlock()
	if err := out.adopt(r, cfg); err != nil {
		return errors.Join(&StoreError{"loading the store", err}, cfg.store.Release())
	}
	out.session.RecordReceived(out.recordReceived)
	return nil
}

// recordReceived has it written that a message at QoS 2 from the server was accepted.
// The caller holds mu.
func (out *outbox) recordReceived(m session.Received) {
	out.journal.put(receivedKey(m.ID), encodeReceived(m))
	out.journal.then(step{kind: stepReceived, id: m.ID})
}

// recovery is what a store has. It is loaded without the mutex, and then adopted with it.
type recovery struct {
	now      time.Duration // on the client's clock
	identity *identity     // nil: the store is new
	messages map[uint64]*restored
	flights  map[uint64]flight
	received []session.Received
	outcomes map[uint64]*outcome
	lenient  bool // for tools: records of another client in the same store, see ForwardingStores, are nothing
}

// restored is a message in a store.
type restored struct {
	message session.Message
	name    string
	record  []byte
}

func newRecovery(now time.Duration) *recovery {
	return &recovery{
		now: now, flights: make(map[uint64]flight), messages: make(map[uint64]*restored), outcomes: make(map[uint64]*outcome),
	}
}

// take takes one record.
func (r *recovery) take(key, value []byte) (err error) {
	number, id := numberOf(key)
	switch {
	case r.lenient && len(key) > 1 && key[0] == keyForwarding:
	case len(key) == 1 && key[0] == keyIdentity:
		r.identity, err = decodeIdentity(value)
	case number > 0 && key[0] == keyMessage:
		r.messages[number], err = r.restore(value)
	case number > 0 && key[0] == keyFlight:
		r.flights[number], err = decodeFlight(value)
	case id > 0 && key[0] == keyReceived:
		var m session.Received
		m, err = decodeReceived(id, value)
		r.received = append(r.received, m)
	case number > 0 && key[0] == keyOutcome:
		r.outcomes[number], err = decodeOutcome(value)
	default:
		err = fmt.Errorf("%w: key %x", ErrStoreForeign, key)
	}
	return err
}

// restore takes the record of a message. What has expired since is found out in its turn.
func (r *recovery) restore(value []byte) (*restored, error) {
	m, name, expires, err := decodeMessage(value)
	if expires != 0 {
		m.Expires = r.now + time.Until(time.UnixMilli(expires))
		if m.Expires == 0 {
			m.Expires = -1 // 0 would be never
		}
	}
	return &restored{m, name, value}, err
}

// adopt makes what was loaded the client's.
// The caller holds mu.
func (out *outbox) adopt(r *recovery, cfg *config) error {
	if r.identity == nil && len(r.messages)+len(r.flights)+len(r.received)+len(r.outcomes) > 0 {
		return fmt.Errorf("%w: it does not say whose it is", ErrStoreForeign)
	}
	if err := out.identify(r.identity, cfg); err != nil {
		return err
	}
	for number, m := range r.messages {
		d := &Delivery{outbox: out, details: &details{number: number, name: m.name, stored: closed, restored: true, record: m.record}}
		m.message.Owner = d
		out.journal.stored[number] = d
		out.journal.number = max(out.journal.number, number)
	}
	for number, o := range r.outcomes {
		out.journal.outcomes[number] = o
		out.journal.number = max(out.journal.number, number)
	}
	out.journal.tidyOutcomes()
	st := out.restoredState(r)
	if slices.ContainsFunc(st.Waiting, func(m session.Message) bool { return m.QoS == 2 }) ||
		slices.ContainsFunc(st.Sent, func(m session.Sent) bool { return m.Message.QoS == 2 }) {
		out.session.ExpectQoS2()
	}
	if err := out.session.Restore(st); err != nil {
		return err
	}
	out.watchExpiry()
	return nil
}

// identify compares client and server with those of the store.
// The caller holds mu.
func (out *outbox) identify(stored *identity, cfg *config) error {
	own := identity{recordVersion, cfg.clientID, address(cfg.servers[0])}
	if stored == nil {
		out.journal.put([]byte{keyIdentity}, own.encode())
		return nil
	}
	if stored.Server != own.Server || cfg.clientIDGiven && own.ClientID != "" && stored.ClientID != own.ClientID {
		return fmt.Errorf("%w: it has the messages of client %q to %s: use another store for client %q to %s",
			ErrStoreForeign, stored.ClientID, stored.Server, own.ClientID, own.Server)
	}
	cfg.clientID = stored.ClientID
	cfg.restored = true
	return nil
}

// restoredState orders what was loaded: messages that were sent and have no PUBREC, those that have one in the order in which it
// came, and messages that wait.
// The caller holds mu.
func (out *outbox) restoredState(r *recovery) (st session.State) {
	j := out.journal
	st.Received = r.received
	released := make(map[uint64]session.Sent)
	for _, number := range sortedKeys(r.flights) {
		f, m := r.flights[number], r.messages[number]
		j.number = max(j.number, number)
		st.LastID = f.id
		switch {
		case f.givenUp:
			j.reserved[number] = true
			st.Sent = append(st.Sent, session.Sent{ID: f.id, GivenUp: true})
			continue
		case m == nil: // the end of the message was written, and that of its flight was not
			j.put(numberKey(keyFlight, number), nil)
			continue
		case f.released > 0:
			released[f.released] = session.Sent{ID: f.id, Message: m.message, Released: true}
			j.released = max(j.released, f.released)
		default:
			st.Sent = append(st.Sent, session.Sent{ID: f.id, Message: m.message})
		}
		d := m.message.Owner.(*Delivery)
		d.id, d.sends = f.id, 1
		delete(r.messages, number)
	}
	for _, place := range sortedKeys(released) {
		st.Sent = append(st.Sent, released[place])
	}
	for _, number := range sortedKeys(r.messages) {
		m := r.messages[number].message
		st.Waiting = append(st.Waiting, m)
		m.Owner.(*Delivery).ticket = uint64(len(st.Waiting))
	}
	if r.identity != nil {
		st.LastID += 1 << 15 // far from those of requests, which are not stored and which the server may still know
	}
	return st
}

func sortedKeys[V any](m map[uint64]V) []uint64 { return slices.Sorted(maps.Keys(m)) }

// Outstanding is a message in the store whose outcome is not known.
type Outstanding struct {
	Name     string // see StoreName
	Delivery *Delivery
}

func (out *outbox) outstanding() []Outstanding {
	if out.journal == nil {
		return nil
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	var all []Outstanding
	for _, number := range sortedKeys(out.journal.stored) {
		d := out.journal.stored[number]
		all = append(all, Outstanding{d.details.name, d})
	}
	return all
}

// keptOutcomes returns what became of messages, in the order in which that was known.
func (out *outbox) keptOutcomes() []StoredMessage {
	if out.journal == nil {
		return nil
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	out.journal.tidyOutcomes()
	return publicOutcomes(out.journal.outcomes)
}

func publicOutcomes(all outcomes) []StoredMessage {
	var messages []StoredMessage
	for _, number := range slices.Backward(all.latestFirst()) {
		if m, err := all[number].public(number); err == nil {
			m.Message.Payload = slices.Clone(m.Message.Payload)
			messages = append(messages, m)
		}
	}
	return messages
}

// forgetOutcomes removes outcomes, and waits until that is on disk.
func (out *outbox) forgetOutcomes(ctx context.Context, messages []StoredMessage) error {
	if out.journal == nil {
		return nil
	}
	out.mu.Lock()
	for i := range messages {
		if out.journal.outcomes[messages[i].Number] != nil {
			out.journal.dropOutcome(messages[i].Number)
		}
	}
	done := out.journal.barrier()
	out.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-out.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return &StoreError{"forgetting outcomes", ctx.Err()}
	}
}

// StoreContents is what a store keeps of a client.
type StoreContents struct {
	ClientID    string          // "": the server has not assigned one yet
	Server      string          // host, port and path
	Outstanding []StoredMessage // in the order in which they were published
	Outcomes    []StoredMessage // in the order in which they were known
}

// ReadStore returns what a store keeps, for tools: no client may use the store. Of one with ForwardingStores it is what the
// publishing client has. ctx bounds the reading. The error is
// ErrStoreInUse or a *StoreError.
func ReadStore(ctx context.Context, s Store) (*StoreContents, error) {
	r, err := inspectStore(ctx, s)
	if err != nil {
		return nil, err
	}
	defer s.Release()
	c := &StoreContents{Outcomes: publicOutcomes(r.outcomes)}
	if r.identity != nil {
		c.ClientID, c.Server = r.identity.ClientID, r.identity.Server
	}
	for _, number := range sortedKeys(r.messages) {
		m, err := publicMessage(number, r.messages[number].record)
		if err != nil {
			return nil, &StoreError{"reading the store", err}
		}
		_, m.Sent = r.flights[number]
		c.Outstanding = append(c.Outstanding, m)
	}
	return c, nil
}

// DropStored removes messages and outcomes with these numbers from a store that no client uses, and returns how many it has found. A
// message that was sent may be delivered in spite of that. The error is ErrStoreInUse or a *StoreError, and then nothing is removed.
func DropStored(ctx context.Context, s Store, numbers ...uint64) (dropped int, err error) {
	r, err := inspectStore(ctx, s)
	if err != nil {
		return 0, err
	}
	defer s.Release()
	var changes []StoreChange
	for _, number := range slices.Compact(slices.Sorted(slices.Values(numbers))) {
		if r.messages[number] == nil && r.outcomes[number] == nil {
			continue
		}
		dropped++
		changes = append(changes, StoreChange{Key: numberKey(keyMessage, number)}, StoreChange{Key: numberKey(keyOutcome, number)})
		if f, ok := r.flights[number]; ok { // the server may know the identifier
			f.givenUp = true
			changes = append(changes, StoreChange{Key: numberKey(keyFlight, number), Value: f.encode()})
		}
	}
	if err := s.Apply(ctx, changes); err != nil {
		return 0, &StoreError{"dropping messages", err}
	}
	return dropped, nil
}

func inspectStore(ctx context.Context, s Store) (*recovery, error) {
	r := newRecovery(0)
	r.lenient = true
	switch err := s.Load(ctx, r.take); {
	case errors.Is(err, ErrStoreInUse):
		return nil, err
	case err != nil:
		return nil, &StoreError{"reading the store", err}
	}
	return r, nil
}

// renewStore writes that the server has lost the session: before anything is sent in the new one, because messages may come in it
// under identifiers that the store knows from the old one. It waits until that is on disk, and returns ctx's error if ctx ends first.
// ping is called each time that it has waited for so long; 0: never.
func (out *outbox) renewStore(ctx context.Context, interval time.Duration, ping func()) error {
	j := out.journal
	out.mu.Lock()
	st := out.session.State()
	out.session.ForgetIncoming() // whatever is forwarded from now on, see ForwardingStores, says nothing of the new session
	if h, ok := j.store.(*half); ok && h.receiving {
		j.put([]byte{keyRenewal}, nil)
	}
	for i := range st.Sent {
		s := &st.Sent[i]
		d, ok := s.Message.Owner.(*Delivery)
		switch {
		case !ok || d.number() == 0:
			continue
		case s.Message.QoS == 2 && !s.Unsent && !s.GivenUp:
			j.put(numberKey(keyMessage, d.number()), nil) // its fate is ErrSessionLost in a moment
			j.keep(d.details, ErrSessionLost)
		}
		j.put(numberKey(keyFlight, d.number()), nil)
	}
	for number := range j.reserved {
		j.put(numberKey(keyFlight, number), nil)
	}
	clear(j.reserved)
	for _, m := range st.Received {
		j.put(receivedKey(m.ID), nil)
	}
	done := j.barrier()
	out.mu.Unlock()
	var due <-chan time.Time
	if interval > 0 {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		due = tick.C
	}
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return &StoreError{"beginning a session", ctx.Err()}
		case <-due:
			ping()
		}
	}
}

// identifyStore writes the client identifier that the server has assigned.
// The caller holds mu.
func (out *outbox) identifyStore() {
	if out.journal != nil && out.config.clientID == "" {
		id := identity{recordVersion, out.connAck.ClientID, address(out.config.servers[0])}
		out.journal.put([]byte{keyIdentity}, id.encode())
	}
}
