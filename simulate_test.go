package mqtt_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// The simulator plays random exchanges of clients with the broker in memory, in virtual time, while connections break in
// all ways that a network knows, and then checks the promises of DESIGN.md 4: at QoS 1 nothing is lost, at QoS 2 nothing
// is lost or comes twice, each topic keeps its publisher's order, the broker sees no violation, and everything ends.
//
// A seed decides all that is random here. What goroutines do at the same virtual moment is the scheduler's, so a seed that
// fails may have to be played several times: go test -run 'TestSimulate$' -seed N -count 20

var (
	simulateSeed  = flag.Uint64("seed", 0, "play only this seed of TestSimulate")
	simulateSeeds = flag.Uint64("seeds", 300, "how many seeds TestSimulate plays")
)

func TestSimulate(t *testing.T) {
	first, last := uint64(1), *simulateSeeds
	switch {
	case *simulateSeed != 0:
		first, last = *simulateSeed, *simulateSeed
	case testing.Short():
		last = min(last, 30)
	}
	for seed := first; seed <= last; seed++ {
		ok := t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newSimulation(t, seed).run() })
		})
		if !ok {
			t.Fatalf("to replay: go test -run 'TestSimulate$' -seed %d -count 20 .", seed)
		}
	}
}

// simulation is one seed's.
type simulation struct {
	t       *testing.T
	random  *rand.Rand // of the test's goroutine
	broker  *mqtttest.Broker
	exact   bool // the broker knows subscription identifiers
	merging bool // it sends a message that matches several filters once
	clients []*simulated
	subs    []*listener
	started sync.WaitGroup // consumers
	faults  []string       // what was done, for the report
}

// simulated is a client, which publishes to a topic of its own at each QoS.
type simulated struct {
	mqtt.Client
	id      string
	version codec.Version
	sent    [3][]*published // by QoS
}

type published struct {
	number   int
	delivery *mqtt.Delivery // nil at QoS 0
	err      error
}

// listener is a subscription and what came.
type listener struct {
	name string
	sub  *mqtt.Subscription
	qos  mqtt.QoS
	once bool             // the broker sends what it got once no more than once
	got  map[string][]int // by topic
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{t: t, random: rand.New(rand.NewPCG(seed, 0))}
	var opts []mqtttest.Option
	chosen := func(opt mqtttest.Option) bool {
		if s.random.IntN(3) > 0 {
			return false
		}
		opts = append(opts, opt)
		return true
	}
	chosen(mqtttest.ReceiveMaximum(uint16(1 + s.random.IntN(20))))
	chosen(mqtttest.Fragment(1 + s.random.IntN(50)))
	chosen(mqtttest.ServerKeepAlive(time.Duration(5+s.random.IntN(50)) * time.Second))
	s.exact = !chosen(mqtttest.NoSubscriptionIdentifiers())
	s.merging = chosen(mqtttest.MergeOverlapping())
	s.broker = mqtttest.NewBroker(t, opts...)
	return s
}

func (s *simulation) run() {
	for i := range 2 + s.random.IntN(3) {
		s.addClient(i)
	}
	for _, c := range s.clients {
		s.subscribe(c)
	}
	for range 20 + s.random.IntN(80) {
		s.step()
	}
	s.settle()
	s.end()
	s.check()
}

func (s *simulation) addClient(i int) {
	c := &simulated{id: fmt.Sprintf("client-%d", i), version: codec.V5}
	if s.random.IntN(2) == 0 {
		c.version = codec.V311
	}
	opts := mqtt.Options{
		mqtt.WithClientID(c.id), keptSession(c.version),
		mqtt.WithKeepAlive(time.Duration(10+s.random.IntN(50)) * time.Second),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: 10 * time.Second}),
		mqtt.WithMaxInFlight(1 + s.random.IntN(30)),
		mqtt.WithPoisonLimit(0), // so many faults look like a message that a server cannot take
	}
	if c.version == codec.V5 {
		c.Client = mqtt.Common(reconnectingV5(s.t, s.broker.DialContext, opts, mqtt.WithSessionExpiry(time.Hour)))
	} else {
		c.Client = reconnectingAs(s.t, c.version, s.broker.DialContext, opts)
	}
	s.clients = append(s.clients, c)
}

// subscribe makes one or two subscriptions. Those with different filters may overlap, where the broker does not send a
// message twice without saying for which filter.
func (s *simulation) subscribe(c *simulated) {
	var filter string
	var mine []*listener
	for i := range 1 + s.random.IntN(2) {
		l := &listener{
			name: fmt.Sprintf("%s/%d (%v)", c.id, i, c.version), qos: mqtt.QoS(s.random.IntN(3)),
			got: make(map[string][]int),
		}
		opts := []mqtt.SubscribeOption{l.qos, mqtt.Buffer(1 + s.random.IntN(100))}
		if i == 0 || s.merging || s.exact && c.version == codec.V5 {
			filter = []string{"#", "+/+", "+/q1", "+/q2", "client-0/#"}[s.random.IntN(5)]
		}
		manual := s.random.IntN(3) == 0
		if manual {
			opts = append(opts, mqtt.ManualAck)
		}
		sub, err := c.Subscribe(s.t.Context(), filter, opts...)
		if err != nil {
			s.t.Fatal(err)
		}
		l.sub = sub
		mine = append(mine, l)
		s.started.Add(1)
		go s.consume(l, manual, time.Duration(s.random.IntN(3))*10*time.Millisecond)
	}
	// A subscription at QoS 0 may get what the broker sends at the QoS of another one.
	repeats := slices.ContainsFunc(mine, func(l *listener) bool { return l.qos == mqtt.AtLeastOnce })
	for _, l := range mine {
		l.once = l.qos == mqtt.ExactlyOnce || l.qos == mqtt.AtMostOnce && !repeats
	}
	s.subs = append(s.subs, mine...)
}

// consume takes a subscription's messages until it ends.
func (s *simulation) consume(l *listener, manual bool, pause time.Duration) {
	defer s.started.Done()
	for m := range l.sub.Messages() {
		var n int
		if _, err := fmt.Sscan(string(m.Payload), &n); err != nil {
			s.t.Errorf("%s gets %q", l.name, m.Payload)
		}
		l.got[m.Topic] = append(l.got[m.Topic], n)
		time.Sleep(pause)
		if manual {
			if err := m.Ack(); err != nil {
				s.t.Errorf("%s: Ack returns %v", l.name, err)
			}
		}
	}
}

// step lets one thing happen.
func (s *simulation) step() {
	c := s.clients[s.random.IntN(len(s.clients))]
	switch n := s.random.IntN(20); {
	case n < 12:
		for range 1 + s.random.IntN(20) {
			s.publish(c, mqtt.QoS(s.random.IntN(3)))
		}
	case n < 15:
		time.Sleep(time.Duration(s.random.IntN(1000)) * time.Millisecond)
	case n < 16:
		time.Sleep(time.Duration(s.random.IntN(60)) * time.Second)
	default:
		s.harm(c)
	}
}

func (s *simulation) publish(c *simulated, qos mqtt.QoS) {
	list := &c.sent[qos]
	p := &published{number: len(*list)}
	*list = append(*list, p)
	topic := fmt.Sprintf("%s/q%d", c.id, qos)
	payload := fmt.Append(nil, p.number)
	if qos > 0 && s.random.IntN(5) == 0 {
		// The publisher does not wait for it, and uses its payload again.
		ctx, cancel := context.WithCancel(s.t.Context())
		done := startErr(func() error { return c.Publish(ctx, topic, payload, qos) })
		synctest.Wait()
		cancel()
		p.err = done.wait()
		copy(payload, "xxxxxxxx")
		return
	}
	d := c.PublishAsync(s.t.Context(), topic, payload, qos)
	if qos > 0 {
		p.delivery = d
	}
	p.err = d.Err()
}

// harm breaks something.
func (s *simulation) harm(c *simulated) {
	b := s.broker
	packets := []string{"PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "CONNECT", "CONNACK"}
	var what string
	switch n := s.random.IntN(10); n {
	case 0:
		what = "cut"
		b.Cut(c.id)
	case 1:
		what = "half-open"
		b.HalfOpen(c.id)
	case 2:
		what = "kick"
		b.Kick(c.id, byte(mqtt.ServerBusy))
	case 3:
		times := 1 + s.random.IntN(3)
		what = fmt.Sprint("refuse ", times)
		b.Refuse(times, byte(mqtt.ServerUnavailable))
		b.Cut(c.id)
	case 4:
		what = "offline"
		b.Offline()
		time.Sleep(time.Duration(s.random.IntN(100)) * time.Second)
		b.Online()
	case 5:
		what = "reconnect"
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		_ = c.Reconnect(ctx) // its outcome depends on the other faults
		cancel()
	default:
		f := mqtttest.Fault{
			ClientID: c.id, Packet: packets[s.random.IntN(len(packets))], Outbound: s.random.IntN(2) == 0,
			Skip: s.random.IntN(5), Times: 1 + s.random.IntN(3), Cut: true, Drop: s.random.IntN(2) == 0,
		}
		what = fmt.Sprintf("%+v", f)
		b.Fault(f)
	}
	s.faults = append(s.faults, c.id+": "+what)
}

// settle waits until every publish has its outcome.
func (s *simulation) settle() {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Hour)
	defer cancel()
	for _, c := range s.clients {
		for _, list := range c.sent {
			for _, p := range list {
				if p.delivery == nil {
					continue
				}
				if p.err = p.delivery.Wait(ctx); p.err != nil {
					s.t.Errorf("%s: message %d: %v", c.id, p.number, p.err)
				}
			}
		}
	}
	time.Sleep(10 * time.Minute) // what is on the way to subscriptions arrives
}

// end ends the clients, each in its way.
func (s *simulation) end() {
	for _, c := range s.clients {
		if left := c.Stats(); left.InFlight != 0 || left.Queued != 0 || left.QueueBytes != 0 || left.Unacknowledged != 0 {
			s.t.Errorf("%s: something is left: %+v", c.id, left)
		}
		if err := c.Err(); err != nil {
			s.t.Errorf("%s has ended: %v", c.id, err)
		}
		if s.random.IntN(2) == 0 {
			c.Close()
			continue
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Hour)
		if err := c.Disconnect(ctx); err != nil {
			s.t.Errorf("%s: Disconnect returns %v", c.id, err)
		}
		cancel()
	}
	s.started.Wait()
}

// check compares what was sent with what came.
func (s *simulation) check() {
	for _, l := range s.subs {
		if err := l.sub.Err(); err != nil && !errors.Is(err, mqtt.ErrClosed) {
			s.t.Errorf("%s ends with %v", l.name, err)
		}
		for _, c := range s.clients {
			for qos, list := range c.sent {
				topic := fmt.Sprintf("%s/q%d", c.id, qos)
				if simulatedMatch(l.sub.Filters()[0].Filter, topic) {
					s.compare(l, topic, mqtt.QoS(qos), list)
				}
			}
		}
	}
	if s.t.Failed() {
		s.t.Logf("faults:\n%s", strings.Join(s.faults, "\n"))
	}
}

// simulatedMatch is for the few filters that the simulation uses.
func simulatedMatch(filter, topic string) bool {
	client, level, _ := strings.Cut(topic, "/")
	return filter == "#" || filter == "+/+" || filter == "+/"+level || filter == client+"/#"
}

// compare looks at one topic of one subscription.
func (s *simulation) compare(l *listener, topic string, qos mqtt.QoS, sent []*published) {
	got := l.got[topic]
	seen := make(map[int]int)
	highest, twice, backwards := -1, false, false
	for _, n := range got {
		seen[n]++
		twice = twice || seen[n] > 1
		backwards = backwards || seen[n] == 1 && n < highest
		highest = max(highest, n)
	}
	if twice && qos != mqtt.AtLeastOnce && l.once {
		s.t.Errorf("%s (%v): a message on %s comes twice: %v", l.name, l.qos, topic, got)
	}
	if backwards && (l.qos > 0 || qos != mqtt.AtLeastOnce && l.once) {
		s.t.Errorf("%s (%v): messages on %s come out of order: %v", l.name, l.qos, topic, got)
	}
	for _, p := range sent {
		switch n := seen[p.number]; {
		case n > 0 && mqtt.SafeToRetry(p.err):
			s.t.Errorf("%s: message %d on %s comes although it was not sent: %v", l.name, p.number, topic, p.err)
		case n == 0 && qos > 0 && l.qos > 0 && !mqtt.SafeToRetry(p.err):
			s.t.Errorf("%s (%v): message %d on %s is lost (%v): %v", l.name, l.qos, p.number, topic, p.err, got)
		}
	}
}
