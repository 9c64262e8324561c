package session

import (
	"sort"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// queue holds the messages that wait to be sent for the first time, in the order in which they were published.
// Each has a ticket by which it can be withdrawn. That leaves an empty place, without a topic, until the place comes to
// the front or most places are empty.
type queue struct {
	entries fifo.Queue[entry]
	length  int // entries that were not withdrawn
	bytes   int // of their topics and payloads
}

type entry struct {
	ticket  uint64 // greater than those before it
	message Message
}

// spareEntries is how many empty places may stand in a queue that is otherwise empty.
const spareEntries = 16

// push adds a message; its ticket is greater than those before it.
func (q *queue) push(ticket uint64, m Message) {
	q.entries.Push(entry{ticket, m})
	q.length++
	q.bytes += m.size()
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

// pop removes the message that front returned.
func (q *queue) pop() Message {
	m := q.entries.Pop().message
	q.length--
	q.bytes -= m.size()
	return m
}

// remove takes the message with this ticket out. It reports false if it is not in the queue.
func (q *queue) remove(ticket uint64) bool {
	n := q.entries.Len()
	i := sort.Search(n, func(i int) bool { return q.entries.At(i).ticket >= ticket })
	if i == n || q.entries.At(i).ticket != ticket || q.entries.At(i).message.Topic == "" {
		return false
	}
	m := &q.entries.At(i).message
	q.length--
	q.bytes -= m.size()
	*m = Message{}
	if n > 2*q.length+spareEntries {
		q.compact()
	}
	return true
}

// compact removes the empty places.
func (q *queue) compact() {
	for range q.entries.Len() {
		if e := q.entries.Pop(); e.message.Topic != "" {
			q.entries.Push(e)
		}
	}
}
