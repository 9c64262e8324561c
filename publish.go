package mqtt

import (
	"context"
	"errors"
	"fmt"

	"github.com/petrel-mqtt/mqtt/internal/session"
)

// queues reports whether a message at QoS 0 waits in the queue after publishing it failed with err.
func (o *publishOptions) queues(err error) bool {
	return o.flags&QueueOffline != 0 && errors.Is(err, ErrNotConnected)
}

// publish sends a message. At QoS 1 and 2 it waits for the acknowledgement.
func (out *outbox) publish(ctx context.Context, topicName string, payload []byte, o *publishOptions) error {
	err := out.publishAndWait(ctx, topicName, payload, o)
	if o.publishing != nil {
		out.notices.end(o.publishing, err)
	}
	return err
}

func (out *outbox) publishAndWait(ctx context.Context, topicName string, payload []byte, o *publishOptions) error {
	var m session.Message
	if err := out.compose(ctx, &m, topicName, payload, o); err != nil {
		return err
	}
	if m.QoS == 0 {
		if err := out.publishQoS0(ctx, &m, o.publishing); !o.queues(err) {
			return err
		}
	}
	if out.journal != nil && m.QoS > 0 {
		return out.publishStored(ctx, &m, o)
	}
	d := out.waiter()
	defer out.reuse(d)
	d.observe(o.publishing)
	m.Owner = d
	if err := out.submit(ctx, d, &m); err != nil {
		return err
	}
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return out.stopWaiting(ctx, d)
	}
}

// waiter returns a Delivery for a Publish to wait with.
func (out *outbox) waiter() *Delivery {
	if d, ok := out.waiters.Get().(*Delivery); ok {
		return d
	}
	return &Delivery{outbox: out, done: make(chan struct{}, 1)}
}

// reuse keeps a Delivery for a later Publish. Nothing refers to it any more.
func (out *outbox) reuse(d *Delivery) {
	*d = Delivery{outbox: out, done: d.done}
	out.waiters.Put(d)
}

// stopWaiting returns the error of a Publish whose ctx has ended.
func (out *outbox) stopWaiting(ctx context.Context, d *Delivery) error {
	switch settled, sent := out.letGo(d); {
	case settled:
		return d.err
	case !sent:
		return notPublished(ctx)
	}
	return fmt.Errorf("%w: waiting for an acknowledgement: %w", ErrOutcomeUnknown, ctx.Err())
}

// letGo separates a message from its publisher, who does not wait any longer. A message that was sent stays in flight;
// one that was not sent is withdrawn. After that nothing refers to d. If d was resolved before, it has the outcome.
func (out *outbox) letGo(d *Delivery) (resolved, sent bool) {
	out.mu.Lock()
	switch {
	case d.resolved.Load():
		out.mu.Unlock()
		<-d.done
		return true, d.sends > 0 || d.err == nil // one at QoS 0 that went out of the queue is not counted in sends
	case d.sends == 0:
		out.session.Withdraw(d.ticket)
		out.queueChanged()
	default:
		out.session.Keep(d.id, d)
	}
	d.leaveWave()
	out.mu.Unlock()
	return false, d.sends > 0
}

// publishAsync sends or queues a message.
func (out *outbox) publishAsync(ctx context.Context, topicName string, payload []byte, o *publishOptions) *Delivery {
	d := out.publishNow(ctx, topicName, payload, o)
	if o.publishing != nil && d.publishing() == nil { // it was not submitted, and d is done
		out.notices.end(o.publishing, d.err)
	}
	return d
}

func (out *outbox) publishNow(ctx context.Context, topicName string, payload []byte, o *publishOptions) *Delivery {
	var m session.Message
	if err := out.compose(ctx, &m, topicName, payload, o); err != nil {
		return NewDelivery(Success, err)
	}
	if m.QoS == 0 {
		switch err := out.publishQoS0(ctx, &m, o.publishing); {
		case err == nil:
			return delivered
		case !o.queues(err):
			return NewDelivery(Success, err)
		}
	}
	if o.publishing != nil {
		o.publishing.async = true
	}
	if out.journal != nil && m.QoS > 0 {
		return out.publishStoredAsync(ctx, &m, o)
	}
	if m.Properties != nil {
		p := *m.Properties // the caller may change its struct for the next message
		m.Properties = &p
	}
	d := &Delivery{outbox: out}
	d.observe(o.publishing)
	m.Owner = d
	if err := out.submit(ctx, d, &m); err != nil {
		return NewDelivery(Success, err)
	}
	return d
}

// publishQoS0 hands a message at QoS 0 to the connection. It waits for room in the write buffer. p may be nil.
func (out *outbox) publishQoS0(ctx context.Context, m *session.Message, p *publishing) error {
	if ctx.Err() != nil {
		return notPublished(ctx)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	woken := false
	for {
		l := out.live()
		if l == nil || out.draining {
			return out.notConnected()
		}
		if !l.Full() && out.session.FrontQoS0() == nil && (woken || out.room.empty()) {
			return out.writeQoS0(l, m, p)
		}
		if out.room.wait(ctx, &out.mu, woken) != nil {
			return notPublished(ctx)
		}
		woken = true
	}
}

// notPublished is the error of a publish whose ctx ended before the message was sent.
func notPublished(ctx context.Context) error {
	return &notSent{fmt.Errorf("mqtt: waiting to publish: %w", ctx.Err())}
}

// submit sends a message at QoS 1 or 2, or puts it in the queue. If neither has room it waits, as long as the client is
// connected.
func (out *outbox) submit(ctx context.Context, d *Delivery, m *session.Message) error {
	if ctx.Err() != nil {
		return notPublished(ctx)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	woken := false
	for {
		if out.err != nil || out.draining {
			return out.notConnected()
		}
		if woken || out.queue.empty() {
			if placed, err := out.sendOrQueue(d, m); placed || err != nil {
				if err == nil && !d.resolved.Load() {
					d.wave = out.waves.enter()
				}
				out.queueChanged()
				return err
			}
		}
		if out.link == nil {
			return &notSent{ErrQueueFull}
		}
		if out.queue.wait(ctx, &out.mu, woken) != nil {
			return notPublished(ctx)
		}
		woken = true
	}
}

// publishStored publishes with a store, and waits for the acknowledgement. When ctx ends the message stays.
func (out *outbox) publishStored(ctx context.Context, m *session.Message, o *publishOptions) error {
	d, err := out.submitStored(ctx, m, o)
	if err != nil {
		return err
	}
	select {
	case <-d.Done():
		return d.err
	case <-ctx.Done():
		out.mu.Lock()
		d.leaveWave()
		out.mu.Unlock()
		return fmt.Errorf("%w: waiting for an acknowledgement: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// publishStoredAsync publishes with a store, and waits until the message is on disk.
func (out *outbox) publishStoredAsync(ctx context.Context, m *session.Message, o *publishOptions) *Delivery {
	d, err := out.submitStored(ctx, m, o)
	if err != nil {
		return NewDelivery(Success, err)
	}
	select {
	case <-d.details.stored:
	case <-d.Done(): // the store has failed, or the client has ended
	case <-ctx.Done():
	}
	return d
}

// submitStored hands a message to the store and to the queue. Its bytes are the store's from then on.
func (out *outbox) submitStored(ctx context.Context, m *session.Message, o *publishOptions) (*Delivery, error) {
	if n := len(o.name); n > maxStoreName {
		return nil, &notSent{fmt.Errorf("mqtt: publishing to %q: a StoreName of %d bytes is too long", m.Topic, n)}
	}
	d := &Delivery{outbox: out, details: &details{name: string(o.name), forwards: o.forwards, stored: make(chan struct{})}}
	d.observe(o.publishing)
	m.Owner = d
	return d, out.submit(ctx, d, m)
}

// Withdraw takes back a message that was not sent. It reports whether it did: then the Delivery is done, with an error
// that is SafeToRetry. A store removes the message soon after; if the process dies before, the next client sends it.
func (d *Delivery) Withdraw() bool {
	if d.resolved.Load() {
		return false
	}
	d.outbox.mu.Lock()
	if d.resolved.Load() || d.sends > 0 || !d.outbox.session.Withdraw(d.ticket) {
		d.outbox.mu.Unlock()
		return false
	}
	toWake := d.resolve(nil, Success, &notSent{errWithdrawn}) // the store forgets it soon
	d.outbox.queueChanged()
	d.outbox.mu.Unlock()
	wake(toWake)
	return true
}
