package session

import (
	"sort"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// queues holds the messages that wait to be sent for the first time. A session has them only while it uses them.
type queues struct {
	acked queue // messages at QoS 1 and 2
	qos0  queue // messages at QoS 0, which take no place in the window
}

func (q *queues) length() int { return q.acked.length + q.qos0.length }
func (q *queues) bytes() int  { return q.acked.bytes + q.qos0.bytes }

// Waits reports whether anything may wait to be sent, for the first time or again. If nothing waits, Resending, Front and
// FrontQoS0 return nil. What was acknowledged before it was sent again counts until Resending has passed it.
func (s *Session) Waits() bool {
	o := &s.out
	return len(o.resends) > 0 || o.queues != nil && o.queues.length() > 0 || o.recovery != nil && o.recovery.again.Len() > 0
}

// CanQueue reports whether the queue takes one more message of size bytes. A message larger than the whole queue is
// taken when it is empty.
func (s *Session) CanQueue(size int) bool {
	q := s.out.queues
	if q == nil || q.length() == 0 {
		return s.limits.QueueMessages > 0
	}
	return q.length() < s.limits.QueueMessages && q.bytes()+size <= s.limits.QueueBytes
}

// Queue lets a copy of m wait to be sent. CanQueue must have said yes. The ticket finds it again while it waits; tickets grow.
func (s *Session) Queue(m *Message) (ticket uint64) {
	if s.out.queues == nil {
		s.out.queues = new(queues)
		s.out.queues.acked.entries.Keep = min(2*s.limits.QueueMessages, keptEntries)
	}
	s.out.ticket++
	if m.QoS == 0 {
		s.out.queues.qos0.push(s.out.ticket, m)
	} else {
		s.out.queues.acked.push(s.out.ticket, m)
	}
	return s.out.ticket
}

// Withdraw takes a message out of the queue. It reports false if the message was sent or withdrawn already.
func (s *Session) Withdraw(ticket uint64) bool {
	q := s.out.queues
	return q != nil && (q.acked.remove(ticket) || q.qos0.remove(ticket))
}

// FrontQoS0 returns the message at QoS 0 that has waited longest, or nil. It is good until the next call.
func (s *Session) FrontQoS0() *Message {
	if s.out.queues == nil {
		return nil
	}
	return s.out.queues.qos0.front()
}

// DropQoS0 removes the message that FrontQoS0 returned.
func (s *Session) DropQoS0() Message { return s.out.queues.qos0.pop() }

// DropOldest removes the message at QoS 1 or 2 that has waited longest, whether or not it could be sent now. It does not
// touch what was sent before. ok is false when none waits.
func (s *Session) DropOldest() (m Message, ok bool) {
	if s.out.queues == nil || s.out.queues.acked.front() == nil {
		return Message{}, false
	}
	return s.out.queues.acked.pop(), true
}

// DropExpired removes the messages that have expired while they waited to be sent for the first time, and returns them.
func (s *Session) DropExpired(now time.Duration) (expired []Message) {
	q := s.out.queues
	if q == nil {
		return nil
	}
	return q.qos0.dropExpired(now, q.acked.dropExpired(now, nil))
}

// NextExpiry returns when the next message that waits to be sent for the first time expires, or an earlier time; 0: none
// of them expires.
func (s *Session) NextExpiry() time.Duration {
	q := s.out.queues
	if q == nil {
		return 0
	}
	return earlier(q.acked.expires, q.qos0.expires)
}

// earlier returns the earlier of two times, of which 0 means never.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// queue holds messages in the order in which they were published. Each has a ticket by which it can be withdrawn. That
// leaves an empty place, without a topic, until the place comes to the front or most places are empty.
type queue struct {
	entries fifo.Queue[waiting]
	length  int           // entries that were not withdrawn
	bytes   int           // of their topics and payloads
	expires time.Duration // no message in it expires before; 0: none expires
}

type waiting struct {
	ticket  uint64 // greater than those before it
	message Message
}

// keptEntries is for how many entries an emptied queue keeps memory until Trim, at most. A publisher that is faster than the
// server fills and empties the queue again and again, and growing it each time costs a tenth of the time per message.
const keptEntries = 1 << 14

// spareEntries is how many empty places may stand in a queue that is otherwise empty.
const spareEntries = 16

// push adds a message; its ticket is greater than those before it.
func (q *queue) push(ticket uint64, m *Message) {
	e := q.entries.Add()
	e.ticket, e.message = ticket, *m
	q.length++
	q.bytes += m.size()
	q.expires = earlier(q.expires, m.Expires)
}

// front returns the first message that was not withdrawn, or nil. The pointer is good until the next change.
func (q *queue) front() *Message {
	for q.entries.Len() > 0 {
		if m := &q.entries.At(0).message; m.Topic != "" {
			return m
		}
		q.entries.Pop()
	}
	return nil
}

// pop removes the message that front returned, and returns it.
func (q *queue) pop() Message {
	m := q.entries.At(0).message
	q.drop()
	return m
}

// drop removes the message that front returned.
func (q *queue) drop() {
	q.length--
	q.bytes -= q.entries.At(0).message.size()
	q.entries.Drop()
}

// remove takes the message with this ticket out. It reports false if it is not in the queue.
func (q *queue) remove(ticket uint64) bool {
	n := q.entries.Len()
	i := sort.Search(n, func(i int) bool { return q.entries.At(i).ticket >= ticket })
	if i == n || q.entries.At(i).ticket != ticket || q.entries.At(i).message.Topic == "" {
		return false
	}
	q.empty(&q.entries.At(i).message)
	q.compact()
	return true
}

// dropExpired removes what has expired and appends it to expired.
func (q *queue) dropExpired(now time.Duration, expired []Message) []Message {
	q.expires = 0
	for i := range q.entries.Len() {
		m := &q.entries.At(i).message
		if m.Topic != "" && m.Expires != 0 && m.Expires <= now {
			expired = append(expired, *m)
			q.empty(m)
		}
		q.expires = earlier(q.expires, m.Expires)
	}
	q.compact()
	return expired
}

// empty leaves an empty place where m is.
func (q *queue) empty(m *Message) {
	q.length--
	q.bytes -= m.size()
	*m = Message{}
}

// compact removes the empty places when most places are.
func (q *queue) compact() {
	if q.entries.Len() <= 2*q.length+spareEntries {
		return
	}
	for range q.entries.Len() {
		if e := q.entries.Pop(); e.message.Topic != "" {
			q.entries.Push(e)
		}
	}
}
