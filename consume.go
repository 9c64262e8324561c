package mqtt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// This file has the ways of consuming a subscription, except Handle.

// All returns the messages of the subscription, for a loop:
//
//	for m, err := range sub.All(ctx) {
//		if err != nil {
//			return err
//		}
//		store(m)
//	}
//
// A message is acknowledged when the body is done with it and the loop comes back for the next one. If the loop is left
// by break, return or a panic, the current message stays unacknowledged and is the first of the next All, Batches, Next
// or Handle of the subscription, unless Ack was called on it. If the process is killed, the messages that it was not
// done with are not acknowledged, and the server sends them again. So a message at QoS 1 or 2 may be processed more
// than once, and is never lost. A message at QoS 0 is not acknowledged, and not delivered again.
//
// The acknowledgements of short bodies are sent together; that of a body that takes a millisecond or more is sent at
// once. With ManualAck the body calls Ack, and if the loop is left, the current message still belongs to the
// application.
//
// The loop ends without an error when ctx ends, and then what is in line stays unacknowledged, or after Unsubscribe, and then
// what is in line is delivered first. When the subscription ends for another reason the last pair has no message and an error that says
// why. Several loops over one subscription, in goroutines of their own, share its messages.
func (s *Subscription) All(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if s.each(ctx, func(m *Message) bool { return yield(*m, nil) }) {
			if err := s.reason(ctx); err != nil {
				yield(Message{}, err)
			}
		}
	}
}

// each calls f with each message until it returns false. It returns true if there are no more messages.
func (s *Subscription) each(ctx context.Context, f func(*Message) bool) bool {
	t := newTaker(s)
	defer t.stop()
	f = traceBody(ctx, s, f)
	for {
		w, result := t.take(ctx, nil)
		if result == finished {
			return true
		}
		if !f(&w.message) {
			return false
		}
		t.did()
	}
}

// Batches returns the messages of the subscription in slices of up to most, in their order. A slice is complete when it
// has most messages, or when wait has gone by since its first message came. One that has messages at QoS 1 or 2 is also
// complete when as many messages of the client are unacknowledged as the Receive Maximum allows, because the server sends
// no more of them before it has an acknowledgement (section 4.9). All messages of a slice are acknowledged together when
// the body is done with it and the loop comes back, so a body can store them in one transaction:
//
//	for batch, err := range sub.Batches(ctx, 500, 100*time.Millisecond) {
//		if err != nil {
//			return err
//		}
//		if err := insert(ctx, batch); err != nil {
//			return err
//		}
//	}
//
// If the loop is left, no message of the current slice is acknowledged, except those on which Ack was called. The
// others are the first of the next All, Batches, Next or Handle. At QoS 1 and 2 a slice is never larger than the
// Receive Maximum, and on MQTT 3.1.1 not larger than the server's own window. The slice is valid until the body
// returns; its payloads belong to the application. In all other respects Batches works as All.
func (s *Subscription) Batches(ctx context.Context, most int, wait time.Duration) iter.Seq2[[]Message, error] {
	return func(yield func([]Message, error) bool) {
		if most < 1 || wait < 0 {
			yield(nil, fmt.Errorf("mqtt: Batches: of %d messages, within %v", most, wait))
			return
		}
		if s.eachBatch(ctx, most, wait, func(batch []Message) bool { return yield(batch, nil) }) {
			if err := s.reason(ctx); err != nil {
				yield(nil, err)
			}
		}
	}
}

// eachBatch calls f with each slice of messages until it returns false. It returns true if there are no more messages.
func (s *Subscription) eachBatch(ctx context.Context, most int, wait time.Duration, f func([]Message) bool) bool {
	t := newTaker(s)
	defer t.stop()
	f = traceBatch(ctx, s, f)
	var batch []Message
	for t.collect(ctx, most, wait) {
		batch = batch[:0]
		for i := range t.batch {
			batch = append(batch, t.batch[i].message)
		}
		t.out = len(t.batch)
		more := f(batch)
		if !more {
			return false
		}
		t.did()
		clear(batch)
	}
	return true
}

// errLeft is what the hook Process is told of a message that stays unacknowledged because its loop was left.
var errLeft = errors.New("mqtt: the loop was left, and the message will be delivered again")

// traceBody returns f with the calls of the hook Process around it.
func traceBody(ctx context.Context, s *Subscription, f func(*Message) bool) func(*Message) bool {
	hook := processHook(s)
	if hook == nil {
		return f
	}
	return func(m *Message) (more bool) {
		if _, done := hook(ctx, s, *m); done != nil {
			defer func() { done(leftOver(s, *m, more)) }()
		}
		return f(m)
	}
}

// traceBatch does for slices what traceBody does.
func traceBatch(ctx context.Context, s *Subscription, f func([]Message) bool) func([]Message) bool {
	hook := processHook(s)
	if hook == nil {
		return f
	}
	return func(batch []Message) (more bool) {
		for _, m := range batch {
			if _, done := hook(ctx, s, m); done != nil {
				defer func() { done(leftOver(s, m, more)) }()
			}
		}
		return f(batch)
	}
}

// leftOver returns an error if a loop was left and the message will be the first of the next one.
func leftOver(s *Subscription, m Message, more bool) error {
	o := m.origin
	if more || o == nil || o.receipt == nil || s.options.ack == ManualAck {
		return nil
	}
	s.lock()
	defer s.unlock()
	if o.fate == fateOpen {
		return errLeft
	}
	return nil
}

// collect exchanges the batch for the next one, which it fills for a while once there is a message. It reports false if
// there will be no more.
func (t *taker) collect(ctx context.Context, most int, wait time.Duration) bool {
	t.exchange(most)
	f := filling{sub: t.sub, complete: make(chan struct{}, 1)}
	defer f.stop()
	for len(t.batch) < most {
		f.look(t.batch, wait)
		switch t.wait(ctx, f.complete) {
		case took:
			t.add(most)
		case woken:
			t.add(most)
			return true
		case finished:
			return ctx.Err() == nil && len(t.batch) > 0
		}
	}
	return ctx.Err() == nil
}

// filling is a slice of Batches that has room for more messages.
type filling struct {
	sub      *Subscription
	complete chan struct{} // capacity 1: receives when no more messages are waited for
	timer    *time.Timer   // of the while; nil: there is no message yet
	seen     int           // how many messages were looked at
	expects  bool          // to be told when the window is exhausted, because one of them is in it
}

// look looks at the messages that were added.
func (f *filling) look(batch []entry, wait time.Duration) {
	if len(batch) > 0 && f.timer == nil {
		f.timer = time.AfterFunc(wait, func() { notify(f.complete) })
	}
	for ; f.seen < len(batch) && !f.expects; f.seen++ {
		if o := batch[f.seen].message.origin; o != nil && o.receipt != nil {
			f.expect()
		}
	}
}

func (f *filling) stop() {
	if f.timer != nil {
		f.timer.Stop()
	}
	if f.expects {
		f.sub.lock()
		defer f.sub.unlock()
		delete(f.sub.inbox.fillings, f)
	}
}

// expect makes the reader complete the slice as soon as the window is exhausted.
func (f *filling) expect() {
	in := f.sub.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	f.expects = true
	in.fillings[f] = struct{}{}
	if in.session.Exhausted() {
		in.fillings.complete()
	}
}

// fillings are the slices that hold messages of the window.
type fillings map[*filling]struct{}

// complete completes them, because the window is exhausted: nothing would be gained by waiting.
// The caller holds mu.
func (all fillings) complete() {
	for f := range all {
		notify(f.complete)
	}
}

// Next returns the next message, which is acknowledged by then, except with ManualAck: a process that is killed while it
// works on the message has lost it. All does not have that weakness. The error is ctx's, or why the subscription ended:
// ErrClosed after Unsubscribe.
func (s *Subscription) Next(ctx context.Context) (Message, error) {
	t := taker{sub: s}
	for t.exchange(1); len(t.batch) == 0; t.add(1) {
		if t.wait(ctx, nil) == finished {
			break
		}
	}
	s.lock()
	defer s.unlock()
	if len(t.batch) > 0 {
		m := t.batch[0].message
		s.finish(&t.batch[0])
		return m, nil
	}
	switch {
	case ctx.Err() != nil:
		return Message{}, fmt.Errorf("mqtt: waiting for a message: %w", ctx.Err())
	case s.err != nil:
		return Message{}, s.err
	}
	return Message{}, ErrClosed
}

// reason returns why a loop has ended; nil if it ended by ctx or Unsubscribe.
func (s *Subscription) reason(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return s.Err()
}

// Messages returns the channel of messages.
//
// A message is acknowledged when it enters the channel, except with ManualAck. **What is in the channel, and the
// message that the application works on, is lost when the process is killed**, up to 65 messages. All, Batches and
// Handle acknowledge after the work. Use the channel only if select is needed, which they do not offer.
//
// The channel is made by the first call. From then on all messages go through it, also for the other forms of consuming,
// with its rule for acknowledgements; before, they wait unacknowledged. It is closed when the subscription ends; what
// is in it by then can still be received. See Err for why it ended.
func (s *Subscription) Messages() <-chan Message {
	if s.inbox == nil {
		return s.messages
	}
	s.lock()
	defer s.unlock()
	if s.channel == nil {
		s.channel = make(chan Message, s.capacity())
		if s.ended {
			close(s.channel)
		} else {
			s.line.callLoop()
			s.advance()
		}
	}
	return s.channel
}
