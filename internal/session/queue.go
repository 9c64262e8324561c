package session

import "github.com/petrel-mqtt/mqtt/internal/fifo"

// queue holds the messages that wait to be sent for the first time, in the order in which they were published.
// Each has a ticket by which it is found again at once: tickets count up from the first message ever queued. A message
// that was withdrawn leaves an empty place, without a topic, until that comes to the front.
type queue struct {
	entries fifo.Queue[Message]
	ticket  uint64 // of the first entry
	length  int    // entries that were not withdrawn
	bytes   int    // of their topics and payloads
}

func (q *queue) push(m Message) (ticket uint64) {
	q.entries.Push(m)
	q.length++
	q.bytes += m.size()
	return q.ticket + uint64(q.entries.Len()) - 1
}

// front returns the first message that was not withdrawn, or nil. The pointer is good until the next change.
func (q *queue) front() *Message {
	for q.entries.Len() > 0 {
		if m := q.entries.At(0); m.Topic != "" {
			return m
		}
		q.advance()
	}
	return nil
}

// pop removes the message that front returned.
func (q *queue) pop() Message {
	m := q.advance()
	q.length--
	q.bytes -= m.size()
	return m
}

func (q *queue) advance() Message {
	q.ticket++
	return q.entries.Pop()
}

// remove takes the message with this ticket out. It reports false if it is not in the queue.
func (q *queue) remove(ticket uint64) bool {
	i := ticket - q.ticket // wraps around, to a large number, for what has left the queue
	if i >= uint64(q.entries.Len()) {
		return false
	}
	m := q.entries.At(int(i))
	if m.Topic == "" {
		return false
	}
	q.length--
	q.bytes -= m.size()
	*m = Message{}
	return true
}
