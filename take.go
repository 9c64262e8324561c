package mqtt

import (
	"context"
	"sync/atomic"
	"time"
)

// This file is how a loop over a subscription takes messages out of the line and finishes them.

// taker takes messages for one loop. Its fields belong to the loop's goroutine, except where they say otherwise.
//
// Messages are taken in batches, so that the mutex is taken once for many and their acknowledgements are sent together.
// A batch is never larger than what the loop finishes in a moment: the next batch is larger only if this one was
// finished in time. While a body is slow, the timer settles the messages that were done before it. Its own message is
// settled when the body returns.
type taker struct {
	sub     *Subscription
	batch   []entry
	out     int          // how many of them the loop has received
	size    int          // of the next batch
	done    atomic.Int64 // how many of them the loop is done with
	late    atomic.Bool  // the batch was taken longer than a moment ago
	settled int          // mu; how many of them are finished
	timer   *time.Timer  // of the moment; nil: never needed yet
}

const (
	// batchSize is how many messages a loop takes at a time at most.
	batchSize = 64

	// moment is how long the first acknowledgement of a batch may wait for the others.
	moment = time.Millisecond
)

// taking is the result of a wait for messages.
type taking uint8

const (
	took     taking = iota // there is a message
	woken                  // the loop was called for another reason
	finished               // there will be no more
)

// processHook returns the hook Process of the client's Trace; nil if there is none.
func processHook(s *Subscription) func(context.Context, *Subscription, Message) (context.Context, func(error)) {
	if s.inbox == nil {
		return nil
	}
	return s.inbox.config.trace.Process
}

// newTaker begins a loop over s. stop ends it.
func newTaker(s *Subscription) *taker {
	s.lock()
	s.line.loops++
	s.unlock()
	return &taker{sub: s, size: 1}
}

// stop ends the loop. The messages of the batch that the loop is not done with go back in line.
func (t *taker) stop() {
	s := t.sub
	s.lock()
	defer s.unlock()
	t.release()
	s.line.loops--
	s.line.noteMove()
}

// release settles what the loop is done with, and gives the rest of the batch back.
// The caller holds mu.
func (t *taker) release() {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.settle()
	for i := t.settled; i < len(t.batch); i++ {
		t.sub.handBack(&t.batch[i], i < t.out)
	}
	t.batch, t.out, t.settled = nil, 0, 0
	t.done.Store(0)
}

// handBack puts a message that was taken and is not finished back in line. Where the application was given it, it is
// finished at QoS 0, because it has no acknowledgement, and with ManualAck it stays with the application.
// The caller holds mu.
func (s *Subscription) handBack(w *entry, given bool) {
	o := w.message.origin
	switch {
	case given && (w.message.QoS == 0 || s.options.ack == ManualAck), o != nil && o.fate != fateOpen, w.past():
		s.finish(w)
	case s.inbox != nil && s.ended:
		s.line.release(w)
		s.discard(*w)
	default:
		s.giveBack(*w)
	}
}

// take returns the next message. It waits until there is one, something comes from call, ctx ends, or there will be no
// more. The message is valid until the next take.
func (t *taker) take(ctx context.Context, call <-chan struct{}) (*entry, taking) {
	for t.out == len(t.batch) {
		if t.fill() {
			break
		}
		if result := t.wait(ctx, call); result != took {
			return nil, result
		}
	}
	select {
	case <-ctx.Done():
		return nil, finished
	default:
	}
	if t.late.Load() && !t.catchUp() {
		return nil, finished
	}
	t.out++
	return &t.batch[t.out-1], took
}

// did notes that the loop is done with the latest message.
func (t *taker) did() { t.done.Store(int64(t.out)) }

// keep gives the latest message of the loop to the caller, who finishes it.
func (t *taker) keep() entry {
	w := t.batch[t.out-1]
	t.batch[t.out-1] = entry{}
	t.did()
	return w
}

// settle finishes the messages that the loop is done with.
// The caller holds mu.
func (t *taker) settle() {
	for done := int(t.done.Load()); t.settled < done; t.settled++ {
		t.sub.finish(&t.batch[t.settled])
	}
}

// catchUp settles what the loop is done with while a batch takes long. It reports false if the client has ended.
func (t *taker) catchUp() bool {
	s := t.sub
	s.lock()
	defer s.unlock()
	t.settle()
	return s.inbox == nil || s.inbox.err == nil
}

// fill settles the batch and takes the next one, if something is in line. It reports whether there is a message.
func (t *taker) fill() bool {
	t.nextSize()
	t.exchange(t.size)
	if len(t.batch) > 1 {
		t.expectIn(moment)
	}
	return len(t.batch) > 0
}

// exchange settles the batch, and takes up to most messages in its place.
func (t *taker) exchange(most int) {
	t.sub.lock()
	defer t.sub.unlock()
	t.settle()
	clear(t.batch)
	t.batch, t.out, t.settled = t.batch[:0], 0, 0
	t.done.Store(0)
	t.batch = t.sub.grab(t.batch, most)
}

// add takes more messages, until the batch has most.
func (t *taker) add(most int) {
	t.sub.lock()
	defer t.sub.unlock()
	t.batch = t.sub.grab(t.batch, most)
}

// nextSize decides how large the next batch may be.
func (t *taker) nextSize() {
	if t.timer != nil {
		t.timer.Stop()
	}
	switch {
	case t.late.Load():
		t.size = 1
	case len(t.batch) == t.size:
		t.size = min(2*t.size, batchSize)
	}
	t.late.Store(false)
}

// expectIn makes the timer settle what the loop is done with after d.
func (t *taker) expectIn(d time.Duration) {
	if t.timer == nil {
		t.timer = time.AfterFunc(d, func() {
			t.late.Store(true)
			t.catchUp()
		})
		return
	}
	t.timer.Reset(d)
}

// grab takes messages out of line until a batch has most. Several loops share what there is.
// The caller holds mu.
func (s *Subscription) grab(batch []entry, most int) []entry {
	if s.line.gated || s.inbox != nil && s.inbox.err != nil {
		return batch
	}
	before := len(batch)
	if s.line.loops > 1 {
		most = min(most, before+1+s.line.length()/s.line.loops)
	}
	for len(batch) < most && s.inReach() {
		q := s.line.first()
		batch = append(batch, *q.At(0))
		q.Drop()
	}
	if incoming := s.incoming(); incoming != nil {
		batch = receive(batch, incoming, most)
	}
	if len(batch) > before {
		s.line.noteMove()
		if s.line.length() > 0 {
			s.line.callLoop()
		}
	}
	return batch
}

// inReach reports whether a loop may take a message out of the line. If there is a channel, only the pump may, except
// for messages that a loop has given back.
// The caller holds mu.
func (s *Subscription) inReach() bool {
	if s.channel != nil {
		return s.line.returned.Len() > 0 && !s.line.sending
	}
	return s.line.length() > 0 && !s.line.gated
}

// receive takes messages out of a channel until a batch has most.
func receive(batch []entry, incoming <-chan Message, most int) []entry {
	for len(batch) < most {
		select {
		case m, ok := <-incoming:
			if !ok {
				return batch
			}
			batch = append(batch, entry{message: m})
		default:
			return batch
		}
	}
	return batch
}

// incoming is the channel that messages come through: of Messages, or of NewSubscription. It is nil for others.
// The caller holds mu.
func (s *Subscription) incoming() <-chan Message {
	if s.channel != nil {
		return s.channel
	}
	return s.messages
}

// wait waits until something may be in line. It returns finished when there will be no more.
func (t *taker) wait(ctx context.Context, call <-chan struct{}) taking {
	s := t.sub
	s.lock()
	switch over := s.ended || s.inbox != nil && s.inbox.err != nil; {
	case s.inReach() && !over: // it came since the lock was held last
		s.unlock()
		return took
	case over && s.channel == nil:
		s.unlock()
		return finished
	}
	s.line.awaiting++
	incoming := s.incoming()
	s.unlock()
	result := took
	select {
	case <-s.line.arrived:
	case m, ok := <-incoming:
		if ok {
			t.batch = append(t.batch, entry{message: m})
		} else {
			result = finished
		}
	case <-s.ending(incoming):
		if s.inbox == nil {
			result = finished
		}
	case <-call:
		result = woken
	case <-ctx.Done():
		result = finished
	}
	s.lock()
	s.line.awaiting--
	if s.channel != nil && incoming == nil {
		s.line.callLoop() // the channel was made meanwhile: the other loops must look at it, too
	}
	s.unlock()
	return result
}

// ending is closed when s has ended, except where its channel says so after what is in it.
func (s *Subscription) ending(incoming <-chan Message) <-chan struct{} {
	if incoming != nil && s.inbox != nil {
		return nil
	}
	return s.done
}
