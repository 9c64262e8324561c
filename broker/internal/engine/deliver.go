package engine

import (
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// sheets are the messages of a run at QoS 0 as they go over the wire, once for each version of the protocol. Those of
// another QoS have an identifier for each client.
type sheets struct {
	v5, v311 sheet
}

// sheet is what one write buffer after the other gets.
type sheet struct {
	bytes    []byte
	messages int
	payload  int // bytes of all payloads
	largest  int // the largest packet in it, in bytes
	made     bool
}

// shareFrom is from how many bytes on a sheet is not copied into write buffers.
const shareFrom = 8 << 10

// sheet returns the run for clients of a version.
func (r *run) sheet(items []item, v codec.Version) *sheet {
	s := &r.v5
	if v != codec.V5 {
		s = &r.v311
	}
	if s.made {
		return s
	}
	s.made = true
	for i := range items {
		if items[i].skip() {
			continue
		}
		before := len(s.bytes)
		s.bytes = r.encode(s.bytes, &items[i], v, false, nil)
		s.messages++
		s.payload += len(items[i].payload)
		s.largest = max(s.largest, len(s.bytes)-before)
	}
	return s
}

// encode appends an item at QoS 0.
// [MQTT-3.3.1-3] [MQTT311-3.3.1-3] [MQTT311-4.3.1-1] [MQTT-3.3.4-5] [MQTT-3.3.2.3]
// [MQTT311-3.3.1-9]
func (r *run) encode(dst []byte, it *item, v codec.Version, retain bool, ids []uint32) []byte {
	if v != codec.V5 || it.properties == nil && ids == nil {
		b, err := codec.AppendPlainPublish(dst, codec.PublishFlags(false, 0, retain), r.match.topic, 0, it.payload, v)
		return encoded(b, err)
	}
	p := codec.Publish{Retain: retain, Topic: r.match.topic, Payload: it.payload, SubscriptionIdentifiers: ids}
	if it.properties != nil {
		p.Properties = *it.properties
	}
	b, err := p.Append(dst, v)
	return encoded(b, err)
}

// encoded is for packets whose parts have been checked. Only one that becomes too long for the protocol fails: by a
// subscription identifier more, near 256 MiB. It is left out.
func encoded(b []byte, _ error) []byte { return b }

// take gives a run to the session. A message that is not for it after all, because the session has ended, or has unsubscribed,
// or is away and wants QoS 0, does not lack room.
func (s *Session) take(r *run, items []item, t *target, wakes *[]*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !t.isWanted(r.match.generation) {
		r.forgive(s, items)
		keepAll(items)
		return
	}
	if qos := min(r.qos, t.qos); qos > 0 { // [MQTT-3.8.4-8] [MQTT311-3.8.4-6]
		s.takeKept(r, items, t, qos)
	} else if s.conn != nil && s.serves(s.conn) {
		s.takeAtOnce(r, items, t)
	} else {
		keepAll(items)
	}
	if c := s.conn; c != nil && c.out.Waiting() > 0 {
		c.wakeLater(wakes)
	}
}

// takeAtOnce takes messages at QoS 0: they go into the write buffer, or nowhere.
// [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-4.3.1-1]
func (s *Session) takeAtOnce(r *run, items []item, t *target) {
	c := s.conn
	retain := r.retain && t.retainAsPublished
	if c.aliasing > 0 {
		s.takeAliased(r, items, t, retain)
		return
	}
	if t.ids == nil && !retain {
		if sheet := r.sheet(items, c.version); s.fits(sheet) {
			c.append(sheet, len(r.match.targets))
			keepAll(items)
			return
		}
	}
	for i := range items {
		it := &items[i]
		if it.skip() {
			continue
		}
		buffer := c.out.Buffer()
		b := r.encode(buffer, it, c.version, retain, t.ids)
		n := len(b) - len(buffer)
		switch {
		case c.largest > 0 && n > c.largest: // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
			s.engine.stats.dropped.Add(1)
			it.kept = true
		case !s.room(1, n):
			s.drop(1, r.match.topic)
		default:
			c.out.Commit(b)
			c.charge(1, n)
			s.engine.stats.countSent(1, len(it.payload))
			it.kept = true
		}
	}
}

// takeAliased is takeAtOnce for a client that takes topic aliases. What is encoded is sent: the client would not know an alias
// that comes with a packet that is left out. [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11]
func (s *Session) takeAliased(r *run, items []item, t *target, retain bool) {
	c := s.conn
	for i := range items {
		it := &items[i]
		if it.skip() {
			continue
		}
		m := session.Message{Topic: r.match.topic, Payload: it.payload, Properties: it.properties, Retain: retain, SubscriptionIdentifiers: t.ids}
		n := c.sizeOf(&m)
		if c.largest > 0 && n > c.largest { // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
			s.engine.stats.dropped.Add(1)
			it.kept = true
			continue
		}
		if !s.room(1, n) {
			s.drop(1, r.match.topic)
			continue
		}
		before := len(c.out.Buffer())
		b, err := s.state.AppendPublish(c.out.Buffer(), &m, 0, false, s.engine.now())
		if err != nil {
			continue // it became too long for the protocol
		}
		c.out.Commit(b)
		c.charge(1, len(b)-before)
		s.engine.stats.countSent(1, len(it.payload))
		it.kept = true
	}
}

// fits reports whether a whole sheet may be appended.
func (s *Session) fits(sheet *sheet) bool {
	return (s.conn.largest == 0 || sheet.largest <= s.conn.largest) && s.room(sheet.messages, len(sheet.bytes))
}

// append appends a sheet that goes to so many clients.
func (c *conn) append(s *sheet, clients int) {
	n := len(s.bytes)
	c.engine.stats.countSent(s.messages, s.payload)
	if n < shareFrom || clients == 1 {
		c.out.Commit(append(c.out.Buffer(), s.bytes...))
		c.charge(s.messages, n)
		return
	}
	c.out.Share(s.bytes)
	c.charge(s.messages, n/clients+1)
}

func keepAll(items []item) {
	for i := range items {
		items[i].kept = true
	}
}

// takeKept takes messages at QoS 1 and 2: they are sent at once if nothing waits before them, otherwise they are queued.
// [MQTT-3.3.4-9] [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-3.1.2-5] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]
func (s *Session) takeKept(r *run, items []item, t *target, qos byte) {
	retain := r.retain && t.retainAsPublished
	owed := s.ledger != nil && r.owes(s.ledger.number)
	for i := range items {
		it := &items[i]
		if it.skip() {
			continue
		}
		copied := it.message.copyOf(qos, retain, t.ids, it.message)
		if owed {
			s.ledger.enter(it.message)
		}
		switch {
		case s.ready() && s.room(0, it.message.size):
			s.sendNow(&copied)
		case s.makeRoom(it.message):
			s.keep(it.message)
			s.state.Queue(&copied)
		default:
			s.neverSent(it.message)
			continue
		}
		it.kept = true
	}
}

// serves reports whether a connection is the session's, and has not ended.
func (s *Session) serves(c *conn) bool { return s.conn == c && !c.over.Load() }

// ready reports whether a message may go straight to the client: nothing waits before it. While somebody runs pump, which may
// have let go of the lock, pump looks again.
func (s *Session) ready() bool {
	s.missed = s.missed || s.pumping
	return s.conn != nil && s.serves(s.conn) && !s.pumping && len(s.cursors) == 0 && s.state.Ready() && !s.conn.out.Full()
}

// sendNow sends a message at QoS 1 or 2. The session must be ready.
func (s *Session) sendNow(m *session.Message) {
	c := s.conn
	if c.exceeds(m) {
		s.engine.stats.dropped.Add(1)
		s.neverSent(m.Owner)
		return
	}
	s.keep(messageOf(m.Owner))
	s.engine.stats.countSent(1, len(m.Payload))
	if s.isStored(m.QoS, m.Owner) {
		if id, err := s.state.Prepare(m); err == nil {
			s.prepare(id, m.Owner)
			return
		}
	} else if b, _, err := s.state.Send(c.out.Buffer(), m, s.engine.now()); err == nil {
		c.commitCopy(b)
		return
	}
	s.engine.stats.dropped.Add(1)
	s.done(m.Owner)
}
