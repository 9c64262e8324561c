package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// Unsubscribe ends the subscription. Filters that no other subscription holds are unsubscribed at the server; after
// UNSUBACK, messages that wait in line are still delivered to the loops of All, Batches and Handle, and to the channel, as
// far as they take them, and then loops and channel end. When ctx ends first they end at once, and messages in line are
// acknowledged and counted as dropped. With ManualAck what nobody has taken out of the channel yet waits as well, and when
// ctx ends it is acknowledged, although it can still be received. So a body that calls Unsubscribe needs a ctx that ends. Where there is neither a
// loop nor a channel, messages in line are acknowledged, and Next and All still return them.
//
// The error is ctx's, a *SubscribeError if the server refused, or why the client ended. The subscription ends anyway.
func (s *Subscription) Unsubscribe(ctx context.Context) error {
	if s.inbox == nil {
		s.fake.Do(func() { close(s.done) })
		return nil
	}
	k := s.startUnsubscribe()
	err := k.wait(ctx, "UNSUBACK")
	if !s.drain(ctx) && err == nil {
		err = fmt.Errorf("mqtt: waiting for a consumer: %w", ctx.Err())
	}
	return err
}

// startUnsubscribe sends the UNSUBSCRIBEs that are needed. All calls of Unsubscribe wait for the same ones.
func (s *Subscription) startUnsubscribe() *call {
	in := s.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	if s.leaving != nil {
		return s.leaving
	}
	k := newCall(s)
	s.leaving = k
	if s.left != nil {
		close(s.left)
	}
	unwanted := in.router.StartLeaving(&s.holder)
	in.unpark(unwanted)
	in.unsubscribeFor(s, k, unwanted)
	if k.pending == 0 {
		k.finish(in.err)
	}
	return k
}

// drain ends the subscription when its line is empty or ctx ends. It reports whether the line was empty.
// [MQTT-3.10.4-2] [MQTT-3.10.4-3] [MQTT311-3.10.4-2] [MQTT311-3.10.4-3]
func (s *Subscription) drain(ctx context.Context) bool {
	s.lock()
	defer s.unlock()
	s.inbox.unsubscribeFor(s, nil, s.inbox.router.Leave(&s.holder))
	for s.busy() && !s.ended && ctx.Err() == nil {
		s.awaitMove(ctx.Done())
	}
	empty := !s.busy() || s.ended
	s.end(nil)
	if empty && s.channel == nil {
		s.acknowledgeLine()
	} else {
		s.discardLine()
	}
	for s.line.sending {
		s.awaitMove(nil)
	}
	s.acknowledgeUnread() // not before: whoever sends notes what went into the channel only after that
	return empty
}

// glance is how often Unsubscribe looks whether the consumer has taken the rest out of the channel. Go has no signal for that:
// a receive from a buffered channel wakes nobody except a goroutine that sends to the full channel, and what would be sent
// for that purpose would be received too. Without a buffer there would be a goroutine switch for each message.
const glance = 10 * time.Millisecond

// awaitMove waits until whoever sends has stopped, messages were taken out of line or perhaps out of the channel, or enough
// is closed.
// The caller holds mu. It is free meanwhile.
func (s *Subscription) awaitMove(enough <-chan struct{}) {
	moved := s.line.nextMove()
	var look <-chan time.Time
	if s.unread() > 0 {
		look = time.After(glance)
	}
	s.unlock()
	select {
	case <-moved:
	case <-look:
	case <-enough:
	}
	s.lock()
}

// unsubscribeAgain sends, on a new connection, the UNSUBSCRIBEs without an answer. In a new session there is nothing to
// unsubscribe. A filter that was subscribed again and granted since then is left out.
// The caller holds mu.
func (in *inbox) unsubscribeAgain() {
	list := in.unsubscribes
	in.unsubscribes = nil
	for _, q := range list {
		if q.call != nil {
			q.call.pending--
		}
		q.filters = slices.DeleteFunc(slices.Clone(q.filters), in.router.Has)
		switch {
		case in.connAck.SessionPresent && len(q.filters) > 0:
			in.sendUnsubscribe(q)
		case q.call != nil && q.call.pending == 0:
			q.call.finish(nil)
		}
	}
}

// removeFilters unsubscribes filters that no subscription of this client holds.
func (in *inbox) removeFilters(ctx context.Context, filters []string) error {
	if len(filters) == 0 {
		return errors.New("mqtt: Unsubscribe: no filters") // [MQTT-3.10.3-2]
	}
	for _, f := range filters {
		if err := topic.CheckFilter(f); err != nil {
			return topicError(f, true, err)
		}
	}
	k, err := in.startUnsubscribe(filters)
	if err != nil {
		return err
	}
	err = k.wait(ctx, "UNSUBACK")
	if err != nil {
		in.forget(k)
	}
	return err
}

// forget drops the packets of a call whose ctx has ended, if they are not sent yet.
func (in *inbox) forget(k *call) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.unsubscribes = slices.DeleteFunc(in.unsubscribes, func(q *filterPacket) bool { return q.call == k })
}

func (in *inbox) startUnsubscribe(filters []string) (*call, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err != nil || in.draining {
		return nil, in.notConnected()
	}
	for _, f := range filters {
		if in.router.Holds(f) {
			return nil, &notSent{fmt.Errorf("mqtt: filter %q belongs to a subscription: use its own Unsubscribe", f)}
		}
	}
	in.unpark(filters)
	k := newCall(nil)
	in.sendUnsubscribe(&filterPacket{call: k, filters: filters})
	return k, nil
}
