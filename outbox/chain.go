package outbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// publish publishes the messages of a batch, all keys at the same time, and returns what became of them.
func (r *Relay) publish(ctx context.Context, messages []Message) []Result {
	hold, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Hold)
	defer cancel()
	var mu sync.Mutex
	var all []Result
	var chains sync.WaitGroup
	for _, key := range byKey(messages) {
		chains.Go(func() {
			c := chain{relay: r, stop: ctx, hold: hold}
			c.publish(key)
			mu.Lock()
			all = append(all, c.results...)
			mu.Unlock()
		})
	}
	chains.Wait()
	return all
}

// byKey sorts messages by their keys and keeps the order within each.
func byKey(messages []Message) map[string][]*Message {
	keys := make(map[string][]*Message)
	for i := range messages {
		m := &messages[i]
		keys[m.Key] = append(keys[m.Key], m)
	}
	return keys
}

// chain is the messages of one key. What comes behind a message that is not settled stays where it is.
type chain struct {
	relay   *Relay
	stop    context.Context // ends: nothing more is published
	hold    context.Context // ends: nothing is waited for any more
	results []Result
}

// publish publishes the messages of the key, as far as they go.
func (c *chain) publish(messages []*Message) {
	if c.relay.Pipelined {
		c.pipeline(messages)
		return
	}
	for _, m := range messages {
		d := c.start(m)
		if d == nil || !c.finish(m, d) {
			return
		}
	}
}

// pipeline publishes the messages of the key without waiting in between.
func (c *chain) pipeline(messages []*Message) {
	var started []*mqtt.Delivery
	for _, m := range messages {
		d := c.start(m)
		if d == nil {
			break
		}
		started = append(started, d)
	}
	for i, d := range started {
		c.finish(messages[i], d)
	}
}

// start publishes a message, unless it was published already and its fate was not stored. nil says that it is too late.
func (c *chain) start(m *Message) *mqtt.Delivery {
	r := c.relay
	r.mu.Lock()
	d := r.fates[m.Seq]
	r.mu.Unlock()
	switch {
	case d != nil:
		return d
	case c.stop.Err() != nil || c.hold.Err() != nil:
		return nil
	}
	d = c.send(m)
	r.mu.Lock()
	r.fates[m.Seq] = d
	r.mu.Unlock()
	return d
}

func (c *chain) send(m *Message) *mqtt.Delivery {
	if err := m.check(); err != nil {
		return mqtt.NewDelivery(mqtt.Success, &flaw{err})
	}
	var left time.Duration
	if !m.Expires.IsZero() {
		if left = time.Until(m.Expires); left < time.Millisecond {
			return mqtt.NewDelivery(mqtt.Success, mqtt.ErrExpired)
		}
	}
	properties := m.properties(left)
	return c.relay.Client.PublishAsync(c.hold, m.Topic, m.Payload, m.QoS, mqtt.RetainFlag(m.Retain), &properties)
}

// flaw marks the error of a message that cannot be published by anybody.
type flaw struct{ error }

func (f *flaw) Unwrap() error { return f.error }

// finish waits for the fate of a message and notes it. It reports whether the key may go on.
func (c *chain) finish(m *Message, d *mqtt.Delivery) bool {
	select {
	case <-d.Done():
	case <-c.hold.Done():
		if !d.Withdraw() {
			select {
			case <-d.Done(): // just now
			default:
				return false // it stays in flight, and its fate is waited for when it is claimed again
			}
		}
	}
	result, settled := c.relay.judge(m, d.Err())
	if !settled {
		c.relay.unsettled(m) // nothing became of it: it is published again
		return false
	}
	c.results = append(c.results, result)
	return result.Outcome != Retry
}

// unsettled forgets that a message was handed to the client.
func (r *Relay) unsettled(m *Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.fates, m.Seq)
}

// judge makes a result of how a publish has ended. settled is false if that says nothing about the message.
func (r *Relay) judge(m *Message, err error) (result Result, settled bool) {
	result = Result{Seq: m.Seq}
	switch {
	case err == nil:
	case errors.Is(err, mqtt.ErrExpired):
		result.expired = true
	case permanent(err), m.Attempts+1 >= r.Attempts && counts(err):
		result.Outcome, result.Reason = Dead, err.Error()
		r.Logger.Error("outbox: dead letter", "seq", m.Seq, "id", m.ID, "topic", m.Topic, "error", err)
	case counts(err):
		result.Outcome, result.Reason = Retry, err.Error()
		result.Again = time.Now().Add(backoff(r.RetryDelay, r.RetryMaximum, m.Attempts+1))
	default:
		return result, false
	}
	return result, true
}

// permanent reports whether another try would have the same end.
func permanent(err error) bool {
	var broken *flaw
	var topic *mqtt.TopicError
	if errors.As(err, &broken) || errors.As(err, &topic) {
		return true
	}
	var refused *mqtt.PublishError
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Code {
	case mqtt.NotAuthorized, mqtt.TopicNameInvalid, mqtt.PayloadFormatInvalid, mqtt.PacketTooLarge, mqtt.QoSNotSupported,
		mqtt.RetainNotSupported:
		return true
	}
	return false
}

// counts reports whether the failure is the message's, and not that of a connection or of a client that ends.
func counts(err error) bool {
	var refused *mqtt.PublishError
	switch {
	case errors.As(err, &refused):
		return true
	case errors.Is(err, mqtt.ErrClosed):
		return false
	}
	return errors.Is(err, mqtt.ErrOutcomeUnknown)
}
