package simulate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// plan says what a subscription is to be like.
type plan struct {
	filters  []string
	qos      mqtt.QoS
	base     bool // the one subscription of a mortal
	careful  bool // its consumer uses the forms that acknowledge after the work
	manual   bool
	stalled  time.Duration // of EndIfStalled; 0: not given
	overflow mqtt.Overflow
	buffer   int
	pace     time.Duration // a pause after each message
	sleeps   time.Duration // a long one, once
}

// listener is a subscription and its consumer.
type listener struct {
	plan
	client   *simulated
	instance *instance
	name     string
	sub      *mqtt.Subscription
	asked    time.Time // Subscribe was called
	since    time.Time // it had returned
	left     time.Time // Unsubscribe was called; zero: it was not
	ended    time.Time // Done was closed
	echo     *publisher

	// Its consumer's, until the end.
	random *rand.Rand
	got    map[string][]receipt // by topic
	have   map[*published]bool  // made in the end
	open   []mqtt.Message       // not acknowledged yet
	asleep bool                 // has been

	work     *work
	handlers *rand.Rand // of handlers; the work's mutex guards it
}

// receipt is a message that a subscription got.
type receipt struct {
	number            int
	retain, duplicate bool
}

// churn makes subscriptions and ends them, and does what else may disturb.
func (c *simulated) churn(r *rand.Rand) {
	gap := []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second}[r.IntN(3)]
	var live []*listener
	live = c.subscribe(live, r)
	for range 60 {
		if !c.s.pause(below(r, gap)) {
			return
		}
		live = stillLive(live)
		switch n := r.IntN(10); {
		case n < 3 && len(live) < 4:
			live = c.subscribe(live, r)
		case n < 5 && len(live) > 1:
			i := r.IntN(len(live))
			live[i].unsubscribe(r)
			live = append(live[:i:i], live[i+1:]...)
		case n < 6:
			c.disturb(r)
		}
	}
}

// stillLive returns those subscriptions that have not ended by themselves.
func stillLive(all []*listener) (live []*listener) {
	for _, l := range all {
		select {
		case <-l.sub.Done():
		default:
			live = append(live, l)
		}
	}
	return live
}

// disturb calls what else there is. The outcome depends on the weather.
func (c *simulated) disturb(r *rand.Rand) {
	now, timeout := c.current(), below(r, 5*time.Second)
	calls := []struct {
		name string
		f    func(context.Context) error
	}{
		{"Reconnect", now.Reconnect},
		{"WaitConnected", now.WaitConnected},
		{"Ping", func(ctx context.Context) error { _, err := now.Ping(ctx); return err }},
		{"Unsubscribe", func(ctx context.Context) error { return now.Unsubscribe(ctx, "nobody/has/this") }},
		{"Request", func(context.Context) error { return c.request(now, r, timeout) }},
		{"Reauthenticate", func(context.Context) error { return c.reauthenticate(now, timeout) }},
	}
	if now.v5 == nil {
		calls = calls[:4]
	}
	call := calls[r.IntN(len(calls))]
	err := c.s.lasting(timeout, 0, c.id+" "+call.name, call.f)
	c.s.note(c.id, "%s: %v", call.name, err)
}

// The filters of shared subscriptions.
const (
	sharedFilter      = "$share/workers/+/+/q1"
	otherSharedFilter = "$share/others/+/+/q2"
)

// filters are the topic filters that a client may use. Those that do not overlap are for clients that would get copies.
func (c *simulated) filters() []string {
	overlapping := []string{"#", "+/+/+", "+/+/q1", "+/+/q2", "c0/#", "c1/+/q0", "kept/#", "+/p0/#"}
	switch {
	case c.overlap && c.s.merging && !c.told(): // the copy of a shared subscription would come beside the merged one
		return overlapping
	case c.overlap:
		return append(overlapping, sharedFilter, otherSharedFilter)
	case c.number%2 == 0:
		return []string{"+/+/q0", sharedFilter, otherSharedFilter, "kept/+/+", "echo/#"}
	}
	return []string{"+/+/q0", "+/+/q1", "+/+/q2", "kept/+/+", "echo/#"}
}

func (c *simulated) plan(r *rand.Rand) plan {
	all := c.filters()
	p := plan{qos: mqtt.QoS(r.IntN(3)), manual: oneIn(r, 3), buffer: 1 + r.IntN(100), careful: oneIn(r, 2)}
	for _, i := range r.Perm(len(all))[:1+r.IntN(6)/5] {
		p.filters = append(p.filters, all[i])
	}
	if slices.ContainsFunc(p.filters, topic.Shared) {
		p.qos = max(p.qos, mqtt.AtLeastOnce) // what a member misses at QoS 0 nobody gets
	}
	if oneIn(r, 2) {
		p.pace = below(r, 50*time.Millisecond)
	}
	if oneIn(r, 4) {
		p.sleeps = below(r, time.Minute)
	}
	if oneIn(r, 4) {
		p.stalled = 5*time.Second + below(r, 10*time.Second)
	}
	p.overflow = mqtt.Overflow(r.IntN(2))
	if p.pace == 0 && p.sleeps == 0 && oneIn(r, 4) {
		p.overflow = mqtt.Block
	}
	return p
}

func (p *plan) options() []mqtt.SubscribeOption {
	opts := []mqtt.SubscribeOption{p.qos, mqtt.Also(p.qos, p.filters[1:]...), mqtt.Buffer(max(1, p.buffer)), p.overflow}
	if p.manual {
		opts = append(opts, mqtt.ManualAck)
	}
	if p.stalled > 0 {
		opts = append(opts, mqtt.EndIfStalled(p.stalled))
	}
	return opts
}

// subscribe tries to make one more subscription.
func (c *simulated) subscribe(live []*listener, r *rand.Rand) []*listener {
	timeout := time.Hour
	if oneIn(r, 3) {
		timeout = below(r, time.Second)
	}
	l, err := c.listen(c.current(), c.plan(r), timeout)
	switch refused := new(mqtt.SubscribeError); {
	case err == nil:
		return append(live, l)
	case errors.As(err, &refused) && c.refused.Load():
	case errors.Is(err, context.DeadlineExceeded) && timeout < time.Hour:
	case errors.Is(err, mqtt.ErrSlowConsumer) && l.mayBeSlow(): // what came before SUBACK waited for too long
	default:
		c.s.problem("%s: Subscribe: %v", l.name, err)
	}
	return live
}

// subscribeAgain makes the subscription of a mortal, at once, as a service does when it starts.
func (c *simulated) subscribeAgain(now *instance, p plan, r *rand.Rand) {
	for {
		l, err := c.listen(now, p, time.Hour)
		if err == nil || now.Err() != nil {
			return
		}
		if refused := new(mqtt.SubscribeError); !errors.As(err, &refused) || !c.refused.Load() {
			c.s.problem("%s: Subscribe: %v", l.name, err)
		}
	}
}

// listen subscribes, and starts a consumer.
func (c *simulated) listen(now *instance, p plan, timeout time.Duration) (*listener, error) {
	c.mu.Lock()
	n := len(c.listeners)
	l := &listener{
		plan: p, client: c, instance: now, name: fmt.Sprintf("%s/l%d %q %v", c.id, n, p.filters, p.qos),
		random: c.s.random(forListener, c.number, n), got: make(map[string][]receipt),
		asked: time.Now(), work: newWork(), handlers: c.s.random(forHandlers, c.number, n),
	}
	l.echo = &publisher{client: c, name: fmt.Sprintf("echo/%s/l%d", c.id, n)}
	c.listeners = append(c.listeners, l)
	c.mu.Unlock()
	err := c.s.lasting(timeout, 0, l.name+" Subscribe", func(ctx context.Context) (err error) {
		l.sub, err = now.Subscribe(ctx, p.filters[0], p.options()...)
		return err
	})
	c.s.note(l.name, "Subscribe: %v", err)
	if err != nil {
		return l, err
	}
	l.since = time.Now()
	l.work.mu.Lock()
	l.work.ready = l.since
	l.work.mu.Unlock()
	if p.careful {
		c.s.consumers.Go(l.consumeForms)
	} else {
		c.s.consumers.Go(l.consume)
	}
	c.s.consumers.Go(func() {
		<-l.sub.Done()
		l.ended = time.Now()
	})
	return l, nil
}

// mayBeSlow reports whether the subscription may be ended because of what waits for it.
func (l *listener) mayBeSlow() bool { return l.stalled > 0 || l.client.inbound > 0 }

func (l *listener) unsubscribe(r *rand.Rand) {
	timeout := time.Hour
	if l.sleeps > 0 || oneIn(r, 3) { // who sleeps may hold it up for long
		timeout = below(r, 2*time.Second)
	}
	l.left = time.Now()
	l.work.mu.Lock()
	l.work.leaving = true
	l.work.mu.Unlock()
	err := l.client.s.lasting(timeout, 0, l.name+" Unsubscribe", l.sub.Unsubscribe)
	l.client.s.note(l.name, "Unsubscribe: %v", err)
	if err != nil && !(errors.Is(err, context.DeadlineExceeded) && timeout < time.Hour) {
		l.client.s.problem("%s: Unsubscribe: %v", l.name, err)
	}
}

// consume takes messages until the subscription ends.
func (l *listener) consume() {
	for {
		var idle <-chan time.Time
		if len(l.open) > 0 {
			idle = time.After(time.Second)
		}
		select {
		case m, ok := <-l.sub.Messages():
			if !ok {
				l.acknowledge(0)
				return
			}
			l.take(m)
		case <-idle:
			l.acknowledge(0)
		}
	}
}

// take takes a message, and its time.
func (l *listener) take(m mqtt.Message) {
	p := l.lookUp(m)
	if p == nil {
		return
	}
	l.record(m, p)
	if l.manual && m.QoS > 0 {
		l.checkJoined(m, p)
		l.open = append(l.open, m)
		l.acknowledge(l.random.IntN(6))
	}
	if !l.client.s.pause(l.pace) {
		l.acknowledge(0)
	}
	l.spendTime(m)
}

// lookUp returns what was published, or nil if the witness does not follow the message.
func (l *listener) lookUp(m mqtt.Message) *published {
	if unobserved(m.Topic) {
		_ = m.Ack()
		return nil
	}
	p := l.client.s.witness.lookUp(m.Topic, m.Payload)
	if p == nil {
		l.problem("gets what nobody has published: %s %.20q", m.Topic, m.Payload)
	}
	return p
}

// record notes that a message has come.
func (l *listener) record(m mqtt.Message, p *published) {
	if *simulateSeeds == 1 {
		l.client.s.note(l.name, "gets %v, sent again: %v", p, m.Duplicate)
	}
	l.got[m.Topic] = append(l.got[m.Topic], receipt{p.number, m.Retain, m.Duplicate})
	if want := min(p.qos, l.qos); m.QoS > want {
		l.problem("gets %v at %v", p, m.QoS)
	}
}

// spendTime does what consumers do with a message.
func (l *listener) spendTime(m mqtt.Message) {
	s := l.client.s
	if l.careful {
		s.pause(l.pace)
	}
	if !l.asleep && l.sleeps > 0 && oneIn(l.random, 10) {
		l.asleep = true
		s.note(l.name, "sleeps for %v", l.sleeps)
		s.pause(l.sleeps)
	}
	if oneIn(l.random, 20) && !strings.HasPrefix(m.Topic, "echo/") {
		l.answer()
	}
}

// answer publishes and waits, as consumers may.
func (l *listener) answer() {
	if l.client.s.isCalm() {
		return
	}
	m := &published{publisher: l.echo, topic: l.echo.name + "/q1", qos: mqtt.AtLeastOnce}
	l.echo.add(m)
	l.echo.publish(l.instance, m, 2*time.Second)
}

// acknowledge acknowledges messages in any order, or refuses them, until no more than most are left.
func (l *listener) acknowledge(most int) {
	for len(l.open) > most {
		i := l.random.IntN(len(l.open))
		m := l.open[i]
		l.open = append(l.open[:i], l.open[i+1:]...)
		l.answerServer(m, oneIn(l.random, 10))
	}
}

// answerServer acknowledges a message, or refuses it.
func (l *listener) answerServer(m mqtt.Message, refuse bool) {
	var err error
	if refuse {
		err = m.Reject(mqtt.QuotaExceeded, "for no reason")
		l.client.s.witness.denied(l.client.id, m)
	} else {
		err = m.Ack()
	}
	if err != nil && !l.mayFailToSettle(err) {
		l.problem("Ack: %v", err)
	}
}

// mayFailToSettle reports whether there is a reason that a message cannot be acknowledged.
func (l *listener) mayFailToSettle(err error) bool {
	lost := errors.Is(err, mqtt.ErrSessionLost) && l.client.s.witness.sessions(l.client.id) > 1
	return lost || l.instance.Err() != nil
}

// checkJoined checks that what the server sends again is not delivered again while it waits for its Ack.
func (l *listener) checkJoined(m mqtt.Message, p *published) {
	if !l.client.exact || p.retain {
		return
	}
	came := 1
	for _, other := range l.open {
		if other.Topic == m.Topic && string(other.Payload) == string(m.Payload) {
			came++
		}
	}
	if most := l.client.s.witness.copies(p); came > most && !l.mayComeTwice(p) {
		l.client.s.problem("%s: %v is delivered %d times without an Ack, and was published %d times", l.name, p, came, most)
	}
}
