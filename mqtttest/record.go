package mqtttest

import (
	"context"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// Message is one that the broker took from a client or gives to clients. QoS is a plain number because this package does not
// import mqtt. Payload and properties are shared: do not write into them.
type Message struct {
	Topic, ClientID string // ClientID is the publisher's; it does not matter in Publish
	Payload         []byte
	QoS             byte
	Retain          bool
	Dup             bool                    // it came as a re-delivery; does not matter in Publish
	Properties      codec.PublishProperties // MQTT 5.0
}

// record keeps the messages that came from clients, wills too. The broker's lock guards it.
type record struct {
	limit    int
	messages []Message // at most 2*limit
	waits    []*wait
}

// wait is a call of Await.
type wait struct {
	filter string
	left   int           // messages that are still missing
	done   chan struct{} // closed when there are none
}

func (r *record) add(m Message) {
	if len(r.messages) >= 2*r.limit {
		n := copy(r.messages, r.messages[len(r.messages)-r.limit:])
		clear(r.messages[n:])
		r.messages = r.messages[:n]
	}
	if r.limit > 0 {
		r.messages = append(r.messages, m)
	}
	r.waits = slices.DeleteFunc(r.waits, func(w *wait) bool { return w.sees(m) })
}

// sees reports whether m is the last message that was missing.
func (w *wait) sees(m Message) bool {
	if !topic.Match(w.filter, m.Topic) {
		return false
	}
	if w.left--; w.left == 0 {
		close(w.done)
	}
	return w.left == 0
}

// matching returns the latest messages, at most limit, whose topics match one of the filters.
func (r *record) matching(filters ...string) []Message {
	var found []Message
	for _, m := range r.messages[max(0, len(r.messages)-r.limit):] {
		if len(filters) == 0 || matchesAny(filters, m.Topic) {
			found = append(found, m)
		}
	}
	return found
}

func matchesAny(filters []string, name string) bool {
	return slices.ContainsFunc(filters, func(f string) bool { return topic.Match(f, name) })
}

// Received returns the messages that clients have published, wills included, whose topics match one of the filters, in
// order; without filters it returns all. A message at QoS 2 is there once; one at QoS 1 as often as it came. See
// KeepReceived for how many are kept.
func (b *Broker) Received(filters ...string) []Message {
	checkFilters(filters)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.record.matching(filters...)
}

// Await waits until clients have published n messages that match filter, since the broker was made, and returns all that
// match. It returns what there is, fewer than n, when ctx ends first.
func (b *Broker) Await(ctx context.Context, filter string, n int) []Message {
	checkFilters([]string{filter})
	w, found := b.startWait(filter, n)
	if w == nil {
		return found
	}
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.content.record.waits = slices.DeleteFunc(b.content.record.waits, func(other *wait) bool { return other == w })
	return b.content.record.matching(filter)
}

// startWait returns either a wait or, if there is nothing to wait for, the messages.
func (b *Broker) startWait(filter string, n int) (*wait, []Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := b.content.record.matching(filter)
	if len(found) >= n {
		return nil, found
	}
	w := &wait{filter: filter, left: n - len(found), done: make(chan struct{})}
	b.content.record.waits = append(b.content.record.waits, w)
	return w, nil
}

// AwaitSubscription waits until a client that is connected has subscribed to filter: before that, a message that a test
// publishes is lost, unless it is retained. The error is ctx's, when it ends first.
func (b *Broker) AwaitSubscription(ctx context.Context, filter string) error {
	checkFilters([]string{filter})
	done := b.startSubscriptionWait(filter)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.content.subscriptionWaits = slices.DeleteFunc(b.content.subscriptionWaits, func(w subscriptionWait) bool { return w.done == done })
	return ctx.Err()
}

// subscriptionWait is a call of AwaitSubscription.
type subscriptionWait struct {
	filter string
	done   chan struct{} // closed when there is such a subscription
}

func (b *Broker) startSubscriptionWait(filter string) (done chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := subscriptionWait{filter: filter, done: make(chan struct{})}
	b.content.subscriptionWaits = append(b.content.subscriptionWaits, w)
	for _, s := range b.sessions {
		b.content.endSubscriptionWaits(s)
	}
	return w.done
}

// endSubscriptionWaits ends the waits for the subscriptions of a session.
func (all *content) endSubscriptionWaits(s *session) {
	if s.conn == nil || len(all.subscriptionWaits) == 0 {
		return
	}
	all.subscriptionWaits = slices.DeleteFunc(all.subscriptionWaits, func(w subscriptionWait) bool {
		found := s.subs[w.filter] != nil
		if found {
			close(w.done)
		}
		return found
	})
}

// checkFilters panics on a filter that is not one, which is a mistake in the test.
func checkFilters(filters []string) {
	for _, f := range filters {
		if err := topic.CheckFilter(f); err != nil {
			panic("mqtttest: " + err.Error())
		}
	}
}
