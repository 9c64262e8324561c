package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// A consumer that does not move stalls neither another subscription's QoS 0, nor publishes, pings,
// subscribing and unsubscribing, also when the server's window is full; and when it moves everything comes.
// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]
func TestDeliverStalledConsumer(t *testing.T) {
	for _, ack := range []mqtt.AckMode{mqtt.AutoAck, mqtt.ManualAck} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			b := mqtttest.NewBroker(t)
			var c mqtt.Client
			if v == codec.V5 {
				c = mqtt.Common(dialV5(t, b.DialContext, mqtt.WithReceiveMaximum(10)))
			} else {
				c = dialAs(t, v, b.DialContext)
			}
			stalled := subscribe(t, c, "stalled", mqtt.ExactlyOnce, mqtt.Buffer(1), ack)
			moving := subscribe(t, c, "moving", mqtt.ExactlyOnce)
			const n = 200
			for i := range n {
				b.Publish(text("stalled", fmt.Sprint(i), byte(1+i%2)))
			}
			synctest.Wait()
			if v == codec.V5 {
				if got := c.Stats().Unacknowledged; got != 10 {
					t.Errorf("%d messages occupy the window of 10", got)
				}
			}
			before := time.Now()
			for qos := range mqtt.QoS(3) {
				if err := c.Publish(t.Context(), "$out", nil, qos); err != nil {
					t.Error(err)
				}
			}
			if _, err := c.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			subscribe(t, c, "another").Unsubscribe(t.Context())
			b.Publish(text("moving", "0", 0))
			wantArrived(t, moving, "moving=0 q0")
			b.Publish(text("moving", "1", 1)) // behind the window
			synctest.Wait()
			if took := time.Since(before); took != 0 {
				t.Errorf("something waited %v", took)
			}
			for i := range n {
				m, err := stalled.Next(t.Context())
				if err != nil || string(m.Payload) != fmt.Sprint(i) {
					t.Fatalf("message %d: %v, %v", i, m, err)
				}
				m.Ack()
			}
			wantArrived(t, moving, "moving=1 q1")
			if got := c.Stats().Unacknowledged; got != 0 {
				t.Errorf("%d are not acknowledged", got)
			}
		})
	}
}

// Many messages wait, and the consumer publishes and waits for each: it comes to an end, nothing is lost, and order is
// kept.
func TestDeliverPublishInsideLoop(t *testing.T) {
	for qos := range mqtt.QoS(3) {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			b := mqtttest.NewBroker(t)
			c := dialAs(t, v, b.DialContext)
			sub := subscribe(t, c, "in", qos, mqtt.Buffer(1))
			n := 10_000
			if raceEnabled {
				n = 1000 // the detector makes it ten times slower
			}
			for i := range n {
				b.Publish(text("in", fmt.Sprint(i), byte(qos)))
			}
			synctest.Wait()
			if qos == 0 {
				n -= int(sub.Dropped()) // the channel and the newest
			}
			count := 0
			for m := range sub.Messages() {
				if qos > 0 && string(m.Payload) != fmt.Sprint(count) {
					t.Fatalf("message %s in place %d", m.Payload, count)
				}
				if err := c.Publish(t.Context(), "$out", m.Payload, mqtt.AtLeastOnce); err != nil {
					t.Fatal(err)
				}
				if count++; count == n {
					break
				}
			}
			if got := len(b.Received("$out")); got != n {
				t.Errorf("%d messages come back, want %d", got, n)
			}
			synctest.Wait()
			if got := c.Stats(); got.Unacknowledged != 0 || got.InFlight != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// With Block the connection waits for the consumer. The keep alive and the end of the client do not wait.
func TestDeliverBlock(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext, mqtt.WithKeepAlive(30*time.Second))
		sub := subscribe(t, c, "a", mqtt.AtLeastOnce, mqtt.Buffer(1), mqtt.Block)
		for i := range 10 {
			b.Publish(text("a", fmt.Sprint(i), byte(i%5/4))) // 4 and 9 at QoS 1
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := c.Publish(ctx, "$out", nil, mqtt.AtLeastOnce); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, although the connection waits", err)
		}
		if err := c.Err(); err != nil {
			t.Fatal(err)
		}
		if got := numbers(t, arrived(sub)); !slices.Equal(got, upTo(0, 10)) || sub.Dropped() != 0 {
			t.Errorf("%v, %d dropped", got, sub.Dropped())
		}
		if err := c.Publish(t.Context(), "$out", nil, mqtt.AtLeastOnce); err != nil {
			t.Error(err)
		}
	})
}

// A message at QoS 1 over which the connection waits has arrived when the client says goodbye, and is not acknowledged
// any more.
func TestDeliverBlockAtTheEnd(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		subscribed(t, c, s, "t", mqtt.AtMostOnce, mqtt.Buffer(1), mqtt.Block)
		s.Send(toT(1, 1, "fills the channel"), toT(1, 2, "blocks"))
		synctest.Wait()
		if got := c.Stats().Unacknowledged; got != 1 {
			t.Errorf("%d messages are not acknowledged", got)
		}
		s.Expect(&codec.Puback{PacketID: 1})
		closed := startErr(c.Close)
		mqtttest.ReceiveAs[*codec.Disconnect](s)
		synctest.Wait()
		if got := c.Stats().Unacknowledged; got != 0 {
			t.Errorf("%d messages are not acknowledged at the end", got)
		}
		s.Close()
		noErr(t, closed.wait())
	})
}

// An acknowledgement that came before the message over which the connection waits reaches its publisher, whose ctx bounds
// its call in any case.
func TestDeliverBlockTellsPublishers(t *testing.T) {
	for _, line := range []bool{false, true} { // whether a message at QoS 1 is in line before the one that blocks
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			c, s := scripted(t, v)
			sub, _ := subscribed(t, c, s, "t", mqtt.AtLeastOnce, mqtt.Buffer(1), mqtt.Block)
			s.Send(toT(0, 0, "fills the channel"))
			if line {
				s.Send(toT(1, 1, "in line"))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			publishing := startErr(func() error { return c.Publish(ctx, "t", nil, mqtt.AtLeastOnce) })
			p := mqtttest.ReceiveAs[*codec.Publish](s)
			s.Send(&codec.Puback{PacketID: p.PacketID}, toT(0, 0, "blocks"))
			began := time.Now()
			if err := publishing.wait(); err != nil || time.Since(began) > 0 {
				t.Errorf("Publish returns %v after %v", err, time.Since(began))
			}
			arrived(sub)
		})
	}
}

// Nobody can consume before Subscribe has returned: messages that come before SUBACK, because another subscription has the
// filter already, must not block the connection.
func TestDeliverBlockBeforeSuback(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		subscribed(t, c, s, "t", mqtt.Buffer(100))
		second, p := subscribing(t, c, s, "t", mqtt.Buffer(1), mqtt.Block)
		for i := range 4 {
			s.Send(toT(0, 0, fmt.Sprint(i)))
			synctest.Wait()
		}
		s.Send(granted(p))
		sub := second.value(t)
		s.Send(toT(0, 0, "4"))
		wantArrived(t, sub, "t=3 q0", "t=4 q0") // 3 was in line
		if sub.Dropped() != 3 {
			t.Errorf("%d messages dropped", sub.Dropped())
		}
	})
}

// The consumer of a subscription with Block may end it itself, although the connection waits for it.
func TestDeliverBlockUnsubscribe(t *testing.T) {
	for _, qos := range []byte{0, 1} { // of the message in line before the one that blocks
		for _, shared := range []bool{false, true} { // whether another subscription keeps the filter
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				b := mqtttest.NewBroker(t)
				c := dialAs(t, v, b.DialContext)
				sub := subscribe(t, c, "a", mqtt.AtLeastOnce, mqtt.Buffer(3), mqtt.Block)
				if shared {
					subscribe(t, c, "a", mqtt.AtLeastOnce)
				}
				for i := range 3 { // fill the channel
					b.Publish(text("a", fmt.Sprint(i), 0))
				}
				b.Publish(text("a", "3", qos))
				b.Publish(text("a", "4", 0))
				b.Publish(text("a", "5", 0))
				synctest.Wait()
				leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
				leaving.pending(t, "messages wait")
				if err := c.Publish(t.Context(), "$out", nil, mqtt.AtLeastOnce); err != nil {
					t.Error(err)
				}
				got := numbers(t, arrived(sub))
				// Nothing tells when a filter that another holds ends: what the reader had not seen need not come.
				least := 6
				if shared {
					least = 4
				}
				if !slices.Equal(got, upTo(0, len(got))) || len(got) < least || sub.Dropped() != 0 {
					t.Errorf("%v, %d dropped", got, sub.Dropped())
				}
				leaving.value(t)
				wantClosed(t, sub)
			})
		}
	}
}

// While UNSUBACK is awaited the line of such a subscription has a bound.
func TestDeliverBlockUnsubscribeBound(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a", mqtt.Buffer(5), mqtt.Block)
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		const n = 1000
		for range n {
			s.Send(message("a", 0, 0))
		}
		s.Send(unsubscribed(v, u))
		leaving.pending(t, "messages wait")
		dropped := int(sub.Dropped())
		if got := len(arrived(sub)); got < 10 || got > 11 || got+dropped != n {
			t.Errorf("%d arrived, %d were dropped", got, dropped)
		}
		leaving.value(t)
	})
}

// trial is a client with random subscriptions, whose consumers take random time, and what they get.
type trial struct {
	rng       *rand.Rand
	consumers []*consumer
	published []mqtttest.Message
}

type consumer struct {
	sub     *mqtt.Subscription
	filters map[string]mqtt.QoS
	ack     mqtt.AckMode
	rng     *rand.Rand
	pace    time.Duration
	publish func() error // while it consumes; nil: nothing
	got     []mqtt.Message
	open    []mqtt.Message // not acknowledged
}

var trialFilters = []string{"#", "a/#", "a/+", "a/b", "+/b", "c"}
var trialTopics = []string{"a/b", "a/c", "a/b/c", "c", "d/b"}

// matches says which filters match a topic, written down by hand.
var matches = map[string]string{
	"a/b": "# a/# a/+ a/b +/b", "a/c": "# a/# a/+", "a/b/c": "# a/#", "c": "# c", "d/b": "# +/b",
}

// Whatever the consumers do, nothing at QoS 1 and 2 is lost or comes twice, what is lost at QoS 0 is
// counted, order is kept, every message is acknowledged in its turn (the broker looks) and no goroutine is left.
func TestDeliverRandomly(t *testing.T) {
	seeds := uint64(200)
	if raceEnabled {
		seeds = 30
	}
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		t.Run(v.String(), func(t *testing.T) {
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					runTrial(t, v, rand.New(rand.NewPCG(seed, 7)))
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				})
			}
		})
	}
}

func runTrial(t *testing.T, v codec.Version, rng *rand.Rand) {
	tr := &trial{rng: rng}
	var opts []mqtttest.Option
	if v != codec.V5 || rng.IntN(3) == 0 {
		opts = append(opts, mqtttest.MergeOverlapping()) // 3.1.1 does not tell copies from messages
	}
	if rng.IntN(4) == 0 {
		opts = append(opts, mqtttest.Fragment(1+rng.IntN(50)))
	}
	b := mqtttest.NewBroker(t, opts...)
	var c mqtt.Client
	if v == codec.V5 && rng.IntN(2) == 0 {
		c = mqtt.Common(dialV5(t, b.DialContext, mqtt.WithReceiveMaximum(1+rng.IntN(20))))
	} else {
		c = dialAs(t, v, b.DialContext)
	}
	for range 1 + rng.IntN(5) {
		tr.subscribe(t, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	running := make([]*running[struct{}], len(tr.consumers))
	for i, one := range tr.consumers {
		running[i] = startErr(func() error { return one.run(ctx) })
	}
	for i := range 20 + rng.IntN(100) {
		m := text(trialTopics[rng.IntN(len(trialTopics))], fmt.Sprint(i), byte(rng.IntN(3)))
		tr.published = append(tr.published, m)
		b.Publish(m)
		if rng.IntN(3) == 0 {
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
	}
	for received, before := uint64(0), uint64(1); received != before || c.Stats().Unacknowledged > 0; {
		time.Sleep(10 * time.Second)
		before, received = received, c.Stats().Received
	}
	cancel()
	for _, r := range running {
		r.value(t)
	}
	for _, one := range tr.consumers {
		tr.check(t, one)
	}
	if got := c.Stats(); got.Unacknowledged != 0 || got.InFlight != 0 {
		t.Errorf("%+v", got)
	}
	c.Close()
	if n := pumps(); n != 0 {
		t.Errorf("%d pumps after Close", n)
	}
}

// subscribe makes a random subscription.
func (tr *trial) subscribe(t *testing.T, c mqtt.Client) {
	rng := tr.rng
	one := &consumer{
		filters: make(map[string]mqtt.QoS),
		ack:     mqtt.AckMode(rng.IntN(2)),
		rng:     rand.New(rand.NewPCG(rng.Uint64(), 1)),
		pace:    time.Duration(rng.IntN(3)*rng.IntN(20)) * time.Millisecond,
	}
	policy := mqtt.Overflow(rng.IntN(2))
	if rng.IntN(4) == 0 {
		policy = mqtt.Block
	} else if rng.IntN(2) == 0 {
		one.publish = func() error { return c.Publish(t.Context(), "$out", nil, mqtt.QoS(one.rng.IntN(3))) }
	}
	opts := []mqtt.SubscribeOption{mqtt.Buffer(1 + rng.IntN(5)), one.ack, policy}
	first := ""
	for _, i := range rng.Perm(len(trialFilters))[:1+rng.IntN(3)] {
		f, qos := trialFilters[i], mqtt.QoS(rng.IntN(3))
		one.filters[f] = qos
		if first == "" {
			first = f
			opts = append(opts, qos)
		} else {
			opts = append(opts, mqtt.Also(qos, f))
		}
	}
	one.sub = subscribe(t, c, first, opts...)
	tr.consumers = append(tr.consumers, one)
}

// run consumes until ctx ends, and acknowledges in random order; all of it when nothing has come for a while.
func (one *consumer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		soon, cancel := context.WithTimeout(ctx, time.Second)
		m, err := one.sub.Next(soon)
		cancel()
		if err == nil {
			one.got = append(one.got, m)
			one.open = append(one.open, m)
		}
		for len(one.open) > 0 && (err != nil || one.rng.IntN(len(one.open)+1) > 1) {
			i := one.rng.IntN(len(one.open))
			if err := one.open[i].Ack(); err != nil {
				return err
			}
			one.open = slices.Delete(one.open, i, i+1)
		}
		if one.publish != nil && one.rng.IntN(3) == 0 {
			if err := one.publish(); err != nil {
				return err
			}
		}
		time.Sleep(time.Duration(one.rng.Int64N(int64(one.pace) + 1)))
	}
	return nil
}

// qos returns the QoS at which the consumer is to get a message, and whether it is.
func (one *consumer) qos(m mqtttest.Message) (qos mqtt.QoS, matched bool) {
	for f, asked := range one.filters {
		if slices.Contains(strings.Fields(matches[m.Topic]), f) {
			qos, matched = max(qos, asked), true
		}
	}
	return min(qos, mqtt.QoS(m.QoS)), matched
}

func (tr *trial) check(t *testing.T, one *consumer) {
	var certain []int // at QoS 1 and 2
	loose := 0        // at QoS 0
	for i, m := range tr.published {
		switch qos, matched := one.qos(m); {
		case matched && qos > 0:
			certain = append(certain, i)
		case matched:
			loose++
		}
	}
	var got, gotLoose []int
	for _, i := range numbers(t, one.got) {
		switch qos, _ := one.qos(tr.published[i]); {
		case qos > 0:
			got = append(got, i)
		case tr.published[i].QoS == 0:
			gotLoose = append(gotLoose, i)
		}
	}
	for _, m := range one.got {
		i, _ := strconv.Atoi(string(m.Payload))
		if qos, matched := one.qos(tr.published[i]); !matched || m.QoS != qos {
			t.Errorf("%v: %s, want %v", one.filters, shown(m), qos)
		}
	}
	if !slices.Equal(got, certain) {
		t.Errorf("%v: at QoS 1 and 2\n got %v\nwant %v", one.filters, got, certain)
	}
	if n := len(one.got) - len(got); n+int(one.sub.Dropped()) != loose {
		t.Errorf("%v: %d arrived and %d were dropped of %d at QoS 0", one.filters, n, one.sub.Dropped(), loose)
	}
	if !slices.IsSorted(gotLoose) {
		t.Errorf("%v: at QoS 0 %v", one.filters, gotLoose)
	}
}
