package mqtt

import (
	"time"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// This file is a subscription's line: the messages that were not consumed yet, or that were taken out and given back.
// The loops of All, Batches, Next and Handle take messages out of the line themselves. For the channel of Messages a
// goroutine does that, the pump, which exists while messages are in line.

// line is the messages of a subscription that wait for a consumer.
type line struct {
	// Guarded by mu.
	gated        bool                // no message leaves the line: the parking lot is open, and the subscription is not granted yet
	sending      bool                // the pump, or the reader with Block, sends to the channel without the mutex
	moved        chan struct{}       // closed when sending ends or messages were taken; nil: no goroutine waits for that
	place        uint64              // number of the latest message in line
	bytes        int                 // of memory that the messages in line, those asleep, and those taken out and not finished, take
	total        *int                // the bytes of all lines of the client; nil: the subscription has ended
	returned     fifo.Queue[entry]   // taken out and given back, in the order of their places; they are before all others
	qos0         fifo.Queue[entry]   // at QoS 0
	acknowledged fifo.Queue[entry]   // at QoS 1 and 2
	asleep       []*sleeper          // until their redelivery
	loops        int                 // of All, Batches and Handle that run
	awaiting     int                 // loops that wait for arrived
	arrived      chan struct{}       // capacity 1: something may be in line
	sent         fifo.Queue[*origin] // with ManualAck: of the messages that went into the channel last, as many as it has room for
}

// entry is a message in line, or one that was taken out of it and is not finished.
type entry struct {
	message Message
	place   uint64           // in the subscription's line
	turn    uint32           // the origin's, when the message was put in line
	bytes   int              // its memory, as it is counted; 0: it is not
	parked  *parked          // what it was before its subscription claimed it; nil: it came for the subscription
	receipt *session.Receipt // to be settled when the message is consumed, except with ManualAck; nil at QoS 0
}

// sleeper is a message that waits for its redelivery.
type sleeper struct {
	entry
	timer *time.Timer
}

// origin is the state that the copies of a message share.
type origin struct {
	ids     []uint32         // subscription identifiers
	receipt *session.Receipt // nil: nothing to acknowledge
	sub     *Subscription    // the subscription that has to settle it

	// Guarded by mu.
	place uint64 // in the subscription's line
	turn  uint32 // how often it was put back in line for its redelivery
	fate  fate
}

// fate is what the application has said of a message.
type fate uint8

const (
	fateOpen    fate = iota // nothing
	fateSettled             // it is acknowledged or rejected
	fateAsleep              // it is to be delivered again later
	fateTooLate             // it is acknowledged or rejected, after its session was lost
)

func (o *origin) identifiers() []uint32 {
	if o == nil {
		return nil
	}
	return o.ids
}

// number gives a message its place at the end of the line.
// The caller holds mu.
func (l *line) number(w *entry) {
	l.place++
	w.place = l.place
	if o := w.message.origin; o != nil && o.receipt != nil {
		o.place = w.place
	}
	l.count(w)
}

// count adds the memory of a message.
// The caller holds mu.
func (l *line) count(w *entry) {
	w.bytes = w.size()
	l.addBytes(w.bytes)
}

// addBytes changes the memory of the line.
// The caller holds mu.
func (l *line) addBytes(n int) {
	l.bytes += n
	if l.total != nil {
		*l.total += n
	}
}

// detach takes the line's memory out of the total, for good. What the loops of an ended subscription still hold does not
// count there: to end other subscriptions would not free it.
// The caller holds mu.
func (l *line) detach() {
	*l.total -= l.bytes
	l.total = nil
}

// release subtracts the memory of a message that has left the line.
// The caller holds mu.
func (l *line) release(w *entry) {
	l.addBytes(-w.bytes)
	w.bytes = 0
}

// size is about how much memory the message takes.
func (w *entry) size() int {
	p := &w.message.Properties
	n := messageSize + len(w.message.Topic) + len(w.message.Payload) + len(p.ContentType) + len(p.ResponseTopic) + len(p.CorrelationData)
	for i := range p.UserProperties {
		n += userPropertySize + len(p.UserProperties[i].Key) + len(p.UserProperties[i].Value)
	}
	return n + identifierSize*len(w.message.origin.identifiers())
}

// The sizes of a Message in line, of a user property and of a subscription identifier, without what they point to.
const (
	messageSize      = 200
	userPropertySize = 32
	identifierSize   = 4
)

// enqueue puts a message at the end of the line. receipt is nil at QoS 0, and p unless the message was parked.
// The caller holds mu.
func (s *Subscription) enqueue(m *Message, receipt *session.Receipt, p *parked) {
	q := &s.line.acknowledged
	if receipt == nil {
		q = &s.line.qos0
	}
	w := q.Add()
	w.message, w.receipt, w.parked = *m, receipt, p
	s.line.number(w)
	s.advance()
}

// giveBack puts a message that was taken out of line back in its place, before all that were not taken out.
// The caller holds mu.
func (s *Subscription) giveBack(w entry) {
	i := s.line.returned.Len()
	for i > 0 && s.line.returned.At(i-1).place > w.place {
		i--
	}
	s.line.returned.Insert(i, w)
	if s.channel == nil || w.receipt != nil { // otherwise it has been in the channel, and is for loops
		s.advance()
	}
}

// lineRetained is the capacity that a line keeps while messages come, in messages. It is more than a window.
const lineRetained = 2048

// trim gives back the memory of an empty line.
// The caller holds mu.
func (l *line) trim() {
	l.qos0.Trim()
	l.acknowledged.Trim()
}

// length is how many messages are in line.
// The caller holds mu.
func (l *line) length() int { return l.returned.Len() + l.qos0.Len() + l.acknowledged.Len() }

// first returns the queue whose first message is the first in line; nil if the line is empty.
// The caller holds mu.
func (l *line) first() *fifo.Queue[entry] {
	switch loose, held := l.qos0.Len() > 0, l.acknowledged.Len() > 0; {
	case l.returned.Len() > 0:
		return &l.returned
	case loose && (!held || l.qos0.At(0).place < l.acknowledged.At(0).place):
		return &l.qos0
	case held:
		return &l.acknowledged
	}
	return nil
}

// next takes the first message out of line, for good.
// The caller holds mu.
func (l *line) next() (w entry, ok bool) {
	q := l.first()
	if q == nil {
		return w, false
	}
	w = q.Pop()
	l.release(&w)
	return w, true
}

// drop counts and reports a message that no consumer gets.
// The caller holds mu.
func (s *Subscription) drop(m Message) {
	s.dropped++
	s.inbox.stats.Dropped++
	s.inbox.notices.traceDropped(s, m)
}

// dropQoS0 drops the message at QoS 0 in line that the subscription's policy says: the newest, or otherwise the oldest.
// The caller holds mu.
func (s *Subscription) dropQoS0() {
	var w entry
	if s.options.overflow == DropNewest {
		w = s.line.qos0.PopLast()
	} else {
		w = s.line.qos0.Pop()
	}
	s.line.release(&w)
	s.drop(w.message)
}

// past reports whether the message was put back in line for its redelivery since w was taken out of it.
// The caller holds mu.
func (w *entry) past() bool { return w.receipt != nil && w.turn != w.message.origin.turn }

// finish notes that the consumer is done with a message that was taken out of the line. It acknowledges the message,
// except with ManualAck, and except if the application has settled it or is to get it again.
// The caller holds mu.
func (s *Subscription) finish(w *entry) {
	s.line.release(w)
	if w.receipt == nil || w.past() || s.options.ack == ManualAck || s.inbox.err != nil {
		return
	}
	if o := w.message.origin; o != nil && o.receipt != nil {
		if o.fate != fateOpen {
			return
		}
		o.fate = fateSettled
	}
	s.inbox.settle(w.receipt, s, nil)
}

// discard acknowledges a message that no consumer will take, and counts it as dropped, unless the client has ended or is to
// end: then the server gives the message to the session's next client, or to another one of a shared subscription.
// The caller holds mu.
func (s *Subscription) discard(w entry) {
	if s.inbox.err != nil || s.inbox.stopping {
		return
	}
	s.drop(w.message)
	if o := w.message.origin; o != nil && o.receipt != nil {
		o.fate = fateSettled
	}
	s.inbox.settle(w.receipt, s, nil)
}

// discardLine acknowledges the messages in the line of a subscription that has ended.
// The caller holds mu.
func (s *Subscription) discardLine() {
	for w, ok := s.line.next(); ok; w, ok = s.line.next() {
		s.discard(w)
	}
}

// acknowledgeLine acknowledges what waits in the line of a subscription that has ended without a loop. It can still be
// taken, as what is in a channel.
// The caller holds mu.
func (s *Subscription) acknowledgeLine() {
	if s.inbox.stopping {
		return
	}
	var kept []entry
	for w, ok := s.line.next(); ok; w, ok = s.line.next() {
		if w.receipt != nil && s.inbox.err == nil {
			w.message.origin.fate = fateSettled
			s.inbox.settle(w.receipt, s, nil)
		}
		kept = append(kept, entry{message: w.message, place: w.place})
	}
	for _, w := range kept {
		s.line.returned.Push(w)
	}
}

// wakeAll puts the messages that wait for their redelivery back in line.
// The caller holds mu.
func (s *Subscription) wakeAll() {
	for _, w := range s.line.asleep {
		w.timer.Stop()
		s.redeliver(&w.entry)
	}
	s.line.asleep = nil
}

// redeliver puts a message that was asleep back in line.
// The caller holds mu.
func (s *Subscription) redeliver(w *entry) {
	o := w.message.origin
	o.fate = fateOpen
	o.turn++
	w.turn = o.turn
	s.giveBack(*w)
}

// busy reports whether messages of a subscription that ends are still on their way to a consumer.
// The caller holds mu.
func (s *Subscription) busy() bool {
	if s.channel != nil {
		return s.line.sending || s.unread() > 0
	}
	return s.line.loops > 0 && s.line.length()+len(s.line.asleep) > 0
}

// unread returns the number of messages in the channel that only the application can acknowledge.
// The caller holds mu.
func (s *Subscription) unread() int {
	if s.options.ack != ManualAck {
		return 0
	}
	return len(s.channel)
}

// noteSent notes that a message went into the channel.
// The caller holds mu.
func (s *Subscription) noteSent(m *Message) {
	if s.options.ack == ManualAck {
		s.keepSent(m)
	}
}

// keepSent keeps the origin of a message that only the application can acknowledge, while it may be in the channel.
// The caller holds mu.
func (s *Subscription) keepSent(m *Message) {
	if s.line.sent.Len() == cap(s.channel) {
		s.line.sent.Pop()
	}
	s.line.sent.Push(m.origin)
}

// acknowledgeUnread acknowledges what only the application could acknowledge and has not taken out of the channel. It can still
// take it.
// The caller holds mu.
func (s *Subscription) acknowledgeUnread() {
	if s.inbox.stopping {
		return
	}
	for n := s.unread(); n > 0; n-- {
		o := *s.line.sent.At(s.line.sent.Len() - n)
		if o != nil && o.receipt != nil && o.fate == fateOpen && s.inbox.err == nil {
			o.fate = fateSettled
			s.inbox.settle(o.receipt, s, nil)
		}
	}
}

// capacity is how many messages may wait for the consumer before Block makes the reader wait.
func (s *Subscription) capacity() int { return min(s.options.buffer, channelCapacity) }

// advance starts what carries messages from the line to the consumer.
// The caller holds mu.
func (s *Subscription) advance() {
	switch {
	case s.line.gated:
	case s.channel == nil:
		s.line.callLoop()
	case !s.line.sending && !s.ended && s.line.length() > 0:
		s.line.sending = true
		s.inbox.goroutines.Go(s.pump)
	}
}

// callLoop wakes a loop that waits for a message.
// The caller holds mu.
func (l *line) callLoop() {
	if l.awaiting == 0 {
		return
	}
	select {
	case l.arrived <- struct{}{}:
	default:
	}
}

// pump carries what is in line into the channel, until the line is empty or the subscription has ended.
// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]
func (s *Subscription) pump() {
	mu := &s.inbox.mu
	mu.Lock()
	defer mu.Unlock()
	for !s.ended {
		w, ok := s.line.next()
		if !ok {
			break
		}
		mu.Unlock()
		sent := false
		select {
		case s.channel <- w.message:
			sent = true
		case <-s.done:
		}
		mu.Lock()
		if !sent {
			s.discard(w)
			break
		}
		s.noteSent(&w.message)
		s.finish(&w)
	}
	s.stopSending()
}

// stopSending notes that the goroutine that sent to the channel without the mutex has stopped.
// The caller holds mu.
func (s *Subscription) stopSending() {
	s.line.sending = false
	s.line.noteMove()
	if s.ended {
		close(s.channel)
	}
}

// noteMove wakes the goroutines that wait for the end of sending, or for messages to be taken out of the line.
// The caller holds mu.
func (l *line) noteMove() {
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

// nextMove returns a channel that is closed when whoever sends now has stopped, or messages have been taken out of line.
// The caller holds mu.
func (l *line) nextMove() <-chan struct{} {
	if l.moved == nil {
		l.moved = make(chan struct{})
	}
	return l.moved
}
