package simulate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// simulated is a client identifier of the simulation. A mortal one is used by one client after another, as a service is
// that restarts; its only subscription is made again by each.
type simulated struct {
	s       *simulation
	number  int
	id      string
	version codec.Version
	mortal  bool
	exact   bool // each subscription gets one copy of a message, though filters overlap
	overlap bool // filters may overlap
	largest int  // packet that it takes, in bytes; 0: any
	inbound int  // bytes of messages that may wait; 0: many
	common  mqtt.Options
	v5      []mqtt.OptionV5

	authenticates bool
	stored        bool // its clients keep a store
	disk          *disk

	refused atomic.Bool // a fault has refused something
	denied  atomic.Bool // one of its messages, perhaps
	slow    atomic.Bool // it has had connections with little bandwidth

	mu        sync.Mutex
	now       *instance
	instances int
	listeners []*listener // of all instances
}

// instance is one client.
type instance struct {
	mqtt.Client
	v5     mqtt.ClientV5 // nil with MQTT 3.1.1
	number int
	dead   *atomic.Bool // it was killed
	killed time.Time
}

func (s *simulation) addClient(i int) *simulated {
	r := s.random(forClient, i)
	c := &simulated{s: s, number: i, id: fmt.Sprintf("c%d", i), version: codec.V5, mortal: oneIn(r, 4), overlap: oneIn(r, 2)}
	if oneIn(r, 3) {
		c.version = codec.V311
	}
	c.keepStore(s.random(forStore, i))
	c.exact = s.merging || !c.overlap || c.told()
	c.common = c.options(r)
	if c.version == codec.V5 {
		c.v5 = c.optionsV5(r)
	}
	return c
}

func (c *simulated) options(r *rand.Rand) mqtt.Options {
	backoff := c.s.random(forBackoff, c.number)
	opts := mqtt.Options{
		mqtt.WithClientID(c.id),
		mqtt.WithDialer(c.s.weather.dialer(c.number)),
		mqtt.WithServers(c.s.network.hostsFor(c)[1:]...),
		mqtt.WithKeepAlive(time.Duration(10+r.IntN(50)) * time.Second),
		mqtt.WithConnectTimeout(time.Duration(1+r.IntN(20)) * time.Second),
		mqtt.WithMaxInFlight(1 + r.IntN(30)),
		mqtt.WithPoisonLimit(0), // so many faults look like a message that a server cannot take
		mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
			if f.Permanent {
				return 0, f.Err
			}
			return below(backoff, 10*time.Second), nil
		}}),
	}
	if oneIn(r, 3) {
		opts = append(opts, mqtt.WithQueue(1+r.IntN(20), 1000))
	}
	if !c.mortal && oneIn(r, 5) {
		c.inbound = 500 + r.IntN(20_000)
		opts = append(opts, mqtt.WithInboundLimit(c.inbound))
	}
	switch {
	case c.mortal:
		opts = append(opts, mqtt.WithCleanStart(false), mqtt.WithParking(10_000, 30*time.Second))
	case c.version == codec.V311:
		opts = append(opts, mqtt.WithCleanStart(oneIn(r, 4)))
	}
	return opts
}

func (c *simulated) optionsV5(r *rand.Rand) (opts []mqtt.OptionV5) {
	expiry := time.Hour
	if !c.mortal {
		expiry = []time.Duration{time.Hour, time.Hour, time.Hour, 30 * time.Second, 0}[r.IntN(5)]
	}
	opts = append(opts, mqtt.WithSessionExpiry(expiry))
	if oneIn(r, 3) {
		opts = append(opts, mqtt.WithReceiveMaximum(1+r.IntN(20)))
	}
	if oneIn(r, 3) {
		opts = append(opts, mqtt.WithTopicAliasMaximum(r.IntN(3)))
	}
	if c.authenticates = oneIn(r, 3); c.authenticates {
		opts = append(opts, mqtt.WithAuthenticator(riddle{}))
	}
	if oneIn(r, 5) {
		c.largest = 150
		opts = append(opts, mqtt.WithMaximumPacketSize(c.largest))
	}
	return opts
}

// begin makes the first client of this identifier, and lets it be used.
func (c *simulated) begin() {
	for n := range 1 + c.s.random(forClient, c.number, 1).IntN(2) {
		p := &publisher{client: c, name: fmt.Sprintf("%s/p%d", c.id, n)}
		c.s.work.Go(func() { p.run(c.s.random(forPublisher, c.number, n)) })
	}
	r := c.s.random(forLife, c.number)
	if c.mortal {
		c.s.work.Go(func() { c.live(r) })
		return
	}
	if err := c.connect(mqtt.Options{mqtt.WithConnectRetry()}); err != nil {
		c.s.t.Fatal(err)
	}
	if c.s.responder == nil && c.version == codec.V5 && c.largest == 0 && c.inbound == 0 {
		c.s.responder = c
		c.serve(c.current())
	}
	c.s.work.Go(func() { c.churn(c.s.random(forSubscriber, c.number)) })
}

// connect makes a client, and tells what became of it.
func (c *simulated) connect(extra mqtt.Options) error {
	var client mqtt.Client
	var v5 mqtt.ClientV5
	first, dead := c.s.network.hostsFor(c)[0], new(atomic.Bool)
	if c.stored {
		var stored mqtt.Options
		stored, dead = c.open()
		extra = append(stored, extra...)
	}
	err := c.s.lasting(time.Hour, 0, c.id+" NewClient", func(ctx context.Context) (err error) {
		opts := append(append(mqtt.Options{}, c.common...), extra...)
		if c.version == codec.V311 {
			client, err = mqtt.NewClientV311(ctx, first, opts)
			return err
		}
		if v5, err = mqtt.NewClient(ctx, first, append([]mqtt.OptionV5{opts}, c.v5...)...); err == nil {
			client = mqtt.Common(v5)
		}
		return err
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instances++
	c.now = &instance{Client: client, v5: v5, number: c.instances, dead: dead}
	return nil
}

// current returns the client in use, or nil.
func (c *simulated) current() *instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// listenersOf returns the listeners of one of its clients.
func (c *simulated) listenersOf(now *instance) (all []*listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.listeners {
		if now != nil && l.instance == now {
			all = append(all, l)
		}
	}
	return all
}

// live is the life of a mortal one: clients that come and go, until it is calm.
func (c *simulated) live(r *rand.Rand) {
	plan := plan{filters: []string{[]string{"#", "+/+/q1", "+/+/q2", sharedFilter}[r.IntN(4)]}, qos: mqtt.QoS(1 + r.IntN(2)), base: true, careful: oneIn(r, 2)}
	for {
		c.revive(r)
		now := c.current()
		c.subscribeAgain(now, plan, r)
		calm := !c.s.pause(below(r, 30*time.Second))
		if calm {
			time.Sleep(2 * time.Minute) // what was to end it may be on its way
		}
		select {
		case <-now.Done():
			c.s.note(c.id, "client %d has ended: %v", now.number, now.Err())
		default:
			if calm {
				return
			}
			if c.stored && oneIn(r, 2) {
				c.kill(now)
			} else {
				c.s.note(c.id, "client %d ends", now.number)
				c.leave(now, r)
			}
		}
		c.s.pause(below(r, 20*time.Second))
		if !c.stored {
			c.s.network.each(func(s *server) { s.Restarted(c.id) })
		}
	}
}

// revive makes the next client, and tries until there is one.
func (c *simulated) revive(r *rand.Rand) {
	for {
		var extra mqtt.Options
		switch r.IntN(3) {
		case 0:
			extra = mqtt.Options{mqtt.WithConnectRetry()}
		case 1:
			extra = mqtt.Options{mqtt.WithConnectInBackground()}
		}
		err := c.connect(extra)
		if err == nil {
			return
		}
		var failed *mqtt.ConnectError
		if !errors.As(err, &failed) {
			c.s.problem("%s: NewClient: %v", c.id, err)
		}
		time.Sleep(below(r, time.Second))
	}
}

// closing is how long a client may take to close: a second for its last packet, and five for a store that fails.
func (c *simulated) closing() time.Duration {
	most := time.Second + 3*maxLatency
	if c.stored {
		most += 5 * time.Second
	}
	return most
}

// leave ends a client.
func (c *simulated) leave(now *instance, r *rand.Rand) {
	if oneIn(r, 2) {
		began := time.Now()
		if err := now.Close(); err != nil {
			c.s.problem("%s: Close: %v", c.id, err)
		}
		if took := time.Since(began); took > c.closing() {
			c.s.problem("%s: Close takes %v", c.id, took)
		}
		return
	}
	err := c.s.lasting(below(r, 10*time.Second), c.closing(), c.id+" Disconnect", func(ctx context.Context) error {
		return now.Disconnect(ctx)
	})
	cut := errors.Is(err, mqtt.ErrConnectionLost) // before all messages at QoS 0 were written
	if err != nil && !cut && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, now.Err()) {
		c.s.problem("%s: Disconnect: %v", c.id, err)
	}
}

// end ends the last client, in peace.
func (c *simulated) end(r *rand.Rand) {
	now := c.current()
	if oneIn(r, 2) {
		now.Close()
		return
	}
	err := c.s.lasting(time.Hour, time.Second, c.id+" Disconnect", func(ctx context.Context) error { return now.Disconnect(ctx) })
	if err != nil {
		c.s.problem("%s: Disconnect returns %v", c.id, err)
	}
}

// checkQuiet checks that nothing is left under way.
func (c *simulated) checkQuiet() {
	now := c.current()
	if err := now.Err(); err != nil || now.State() != mqtt.StateConnected {
		c.s.problem("%s is %v in the end: %v", c.id, now.State(), err)
	}
	left := now.Stats()
	if left.InFlight != 0 || left.Queued != 0 || left.QueueBytes != 0 || left.Unacknowledged != 0 || left.Parked != 0 {
		c.s.problem("%s: something is left: %+v", c.id, left)
	}
}

// publisher publishes in one goroutine, to topics of its own.
type publisher struct {
	client *simulated
	name   string
	calls  int // at QoS 1 and 2
}

func (p *publisher) run(r *rand.Rand) {
	gap := []time.Duration{50 * time.Millisecond, 500 * time.Millisecond, 5 * time.Second}[r.IntN(3)]
	for range 80 {
		if !p.client.s.pause(below(r, gap)) {
			return
		}
		if now := p.client.current(); now != nil {
			p.step(now, r)
		}
	}
}

func (p *publisher) step(now *instance, r *rand.Rand) {
	switch r.IntN(10) {
	case 0:
		p.publish(now, p.message(r), below(r, time.Second))
	case 1:
		p.publish(now, p.message(r), time.Hour)
	case 2:
		m := p.message(r)
		p.publishAsync(now, m)
		p.client.s.pause(below(r, time.Second))
		if m.delivery != nil && m.delivery.Withdraw() && !mqtt.SafeToRetry(m.delivery.Err()) {
			p.client.s.problem("%v is withdrawn: %v", m, m.delivery.Err())
		}
	default:
		for range 1 + r.IntN(8) {
			p.publishAsync(now, p.message(r))
		}
	}
}

// message makes the next one, and lets the witness know of it.
func (p *publisher) message(r *rand.Rand) *published {
	m := &published{publisher: p, qos: mqtt.QoS(r.IntN(3))}
	m.topic = fmt.Sprintf("%s/q%d", p.name, m.qos)
	m.offline = oneIn(r, 4)
	switch r.IntN(12) {
	case 0:
		m.size = 1 + r.IntN(500)
	case 1:
		m.retain = true
		m.topic, m.qos = "kept/"+p.name, mqtt.AtLeastOnce
	case 2:
		if p.client.version == codec.V5 {
			m.expiry = time.Duration(1+r.IntN(20_000)) * time.Millisecond
		}
	}
	p.add(m)
	return m
}

// add lets the witness know of a message that is about to be published.
func (p *publisher) add(m *published) {
	if m.qos > 0 {
		p.calls++
		m.call = p.calls
	}
	p.client.s.witness.add(m)
}

// publish publishes and waits. The payload is used again at once when the call has returned.
func (p *publisher) publish(now *instance, m *published, timeout time.Duration) {
	m.instance, m.timeout, m.began = now, timeout, time.Now()
	payload := m.payload()
	err := p.client.s.lasting(timeout, 0, "publishing "+m.String(), func(ctx context.Context) error {
		if now.v5 != nil {
			return now.v5.Publish(ctx, m.topic, payload, m.optionsV5()...)
		}
		return now.Publish(ctx, m.topic, payload, m.options()...)
	})
	m.settle(err)
	clear(payload)
}

// publishAsync publishes and does not wait, except for room in the queue.
func (p *publisher) publishAsync(now *instance, m *published) {
	m.instance, m.timeout, m.began = now, 10*time.Second, time.Now()
	_ = p.client.s.lasting(m.timeout, 0, "publishing "+m.String(), func(ctx context.Context) error {
		if now.v5 != nil {
			m.delivery = now.v5.PublishAsync(ctx, m.topic, m.payload(), m.optionsV5()...)
		} else {
			m.delivery = now.PublishAsync(ctx, m.topic, m.payload(), m.options()...)
		}
		return nil
	})
	m.accept()
}

func (m *published) options() []mqtt.PublishOption {
	opts := []mqtt.PublishOption{m.qos, mqtt.RetainFlag(m.retain)}
	if m.offline {
		opts = append(opts, mqtt.QueueOffline)
	}
	return opts
}

func (m *published) optionsV5() []mqtt.PublishOptionV5 {
	opts := []mqtt.PublishOptionV5{mqtt.PublishOptions(m.options())}
	if m.expiry > 0 {
		opts = append(opts, &mqtt.PublishProperties{MessageExpiry: m.expiry})
	}
	return opts
}
