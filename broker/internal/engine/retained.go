package engine

import (
	"slices"
	"sync"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// retained has the retained message of each topic.
type retained struct {
	mu       sync.Mutex // guards the fields below
	messages topic.Names[*kept]
	sequence uint64 // of the latest message that was stored
}

// kept is a retained message.
type kept struct {
	*message
	sequence uint64
	timer    *timer // of its expiry; nil: it does not expire
}

// retain stores a message, or removes the one of its topic if it is empty, and looks up its subscribers in the same moment.
// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT311-3.3.1-5] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11]
func (e *Engine) retain(publisher *Client, m *message) *match {
	r := &e.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence++
	r.remove(e, m.topic)
	if len(m.payload) > 0 {
		r.store(e, m)
	}
	return e.match(publisher, m.topic)
}

// store keeps a message until its time is over. [MQTT-3.3.1.3]
func (r *retained) store(e *Engine, m *message) {
	k := &kept{message: m, sequence: r.sequence}
	r.messages.Set(m.topic, k)
	e.hold(m)
	e.stats.retained.Add(1)
	if m.expires != 0 {
		k.timer = newTimer(func() { e.forgetRetained(k) })
		e.timers.set(k.timer, m.expires)
	}
}

func (r *retained) remove(e *Engine, name string) {
	if old, ok := r.messages.Delete(name); ok {
		e.timers.unset(old.timer)
		e.letGo(old.message)
		e.stats.retained.Add(-1)
	}
}

// forgetRetained removes a retained message that has expired, unless there is another one by now.
func (e *Engine) forgetRetained(k *kept) {
	r := &e.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, _ := r.messages.Get(k.topic); now == k {
		r.remove(e, k.topic)
		if e.journal != nil {
			e.journal.forgetRetained(k.topic)
		}
	}
}

// cursor is the way of retained messages to one subscription. Messages that were stored after the SUBSCRIBE are not its:
// they came as they were published. Its size does not depend on how many there are.
type cursor struct {
	subscription *subscription
	sequence     uint64
	walk         topic.Cursor
	batch        []*message // to be sent next; held, because they may have been replaced since
}

const (
	// cursorBatch is how many messages a cursor takes from the store at a time.
	cursorBatch = 64
	// cursorLook is how many topics it looks at for them under one lock.
	cursorLook = 256
)

// open returns a cursor over what matches a subscription now. The lock is held.
func (r *retained) open(s *subscription) *cursor {
	return &cursor{subscription: s, sequence: r.sequence, walk: topic.NewCursor(s.inner)}
}

// next appends the next messages of a cursor, and holds them; none need come although it is not at its end.
func (r *retained) next(e *Engine, to []*message, c *cursor) (_ []*message, end bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end = r.messages.Walk(&c.walk, cursorLook, func(_ string, k *kept) bool {
		if len(to) == cursorBatch {
			return false
		}
		if k.sequence <= c.sequence {
			e.hold(k.message)
			to = append(to, k.message)
		}
		return true
	})
	return to, end
}

// pumpRetained sends the next retained message, and reports whether there may be more to do.
// [MQTT-3.3.1-9] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8]
func (s *Session) pumpRetained(c *conn) bool {
	cur := s.cursors[0]
	if len(cur.batch) == 0 && !s.refill(c, cur) {
		return s.serves(c)
	}
	m := cur.batch[0]
	now := s.engine.now()
	copied := m.copyOf(min(m.qos, cur.subscription.qos), true, cur.subscription.ids(), replayed{m})
	switch {
	case m.expired(now), c.exceeds(&copied):
	case copied.QoS == 0:
		b, err := s.state.AppendPublish(c.out.Buffer(), &copied, 0, false, now)
		if err == nil {
			n := len(b) - len(c.out.Buffer())
			c.out.Commit(b)
			c.charge(0, n) // outside of the bound on messages that wait
			s.engine.stats.countSent(1, len(m.payload))
		}
	case !s.state.HasRoom():
		return false
	default:
		s.sendNow(&copied)
	}
	cur.batch = cur.batch[1:]
	s.engine.letGo(m)
	return true
}

// drop lets go of what a cursor has taken.
func (c *cursor) drop(e *Engine) {
	for _, m := range c.batch {
		e.letGo(m)
	}
	c.batch = nil
}

// refill gets the next messages of a cursor, and asks whether the client may receive them; the lock is released meanwhile.
// At the cursor's end it is taken away. It reports whether there is something to send.
func (s *Session) refill(c *conn, cur *cursor) bool {
	batch, end := s.nextRetained(c.client, cur)
	cur.batch = batch
	if len(s.cursors) == 0 || s.cursors[0] != cur {
		cur.drop(s.engine) // unsubscribed meanwhile
		return false
	}
	if end && len(batch) == 0 {
		s.cursors = slices.Delete(s.cursors, 0, 1)
	}
	return len(batch) > 0 && s.serves(c)
}

// nextRetained is the engine's, without the lock.
func (s *Session) nextRetained(c *Client, cur *cursor) (batch []*message, end bool) {
	s.mu.Unlock()
	defer s.mu.Lock()
	return s.engine.nextRetained(c, cur)
}

// nextRetained returns the next messages of a cursor that a client may receive; end says that there are no more.
func (e *Engine) nextRetained(c *Client, cur *cursor) (batch []*message, end bool) {
	for len(batch) == 0 && !end {
		batch, end = e.retained.next(e, batch, cur)
		batch = slices.DeleteFunc(batch, func(m *message) bool {
			denied := !e.authorized(c, Receive, m.topic)
			if denied {
				e.letGo(m)
			}
			return denied
		})
	}
	return batch, end
}
