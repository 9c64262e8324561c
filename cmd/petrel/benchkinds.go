package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/petrel-mqtt/mqtt"
)

func newBenchConn() *cobra.Command {
	b := bench{kind: "conn", clients: 100}
	return b.benchCommand("Connect many clients", func(g *group) {
		g.IntVar(&b.clients, "clients", b.clients, "`NUMBER` of clients that connect and stay")
		g.Float64Var(&b.rate, "rate", 0, "`CONNECTS` per second (default as fast as possible, 50 at a time)")
		g.Var(&b.duration, "duration", "the longest that may take")
	}, b.connects)
}

// connects connects all clients, and disconnects them when the last is there.
func (b *bench) connects(ctx context.Context, cmd *cobra.Command) error {
	const atOnce = 50
	var mu sync.Mutex
	var clients []*client
	defer func() { closeAll(clients) }()
	turns := make(chan struct{}, atOnce)
	return b.during(ctx, cmd, 1, func(ctx context.Context, _ int) error {
		p := b.newPace(0, 1)
		var g errgroup.Group
		for i := 0; i < b.clients; i++ {
			due, err := p.wait(ctx)
			if err != nil {
				break
			}
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				continue // the next wait ends the loop
			}
			g.Go(func() error {
				defer func() { <-turns }()
				b.meter.sent.Add(1)
				c, err := b.connectWithin(ctx, cmd, i)
				switch {
				case err != nil && ctx.Err() != nil:
					return nil // it has not failed, but the time is up
				case err != nil:
					b.meter.failure(err)
					return nil
				}
				b.meter.received.Add(1)
				b.meter.latency(time.Since(due))
				mu.Lock()
				defer mu.Unlock()
				clients = append(clients, c)
				return nil
			})
		}
		return g.Wait()
	})
}

// connectWithin makes a client; ctx bounds the connecting.
func (b *bench) connectWithin(ctx context.Context, cmd *cobra.Command, i int) (*client, error) {
	server, o, err := b.options(cmd, fmt.Sprintf("-%d", i))
	if err != nil {
		return nil, err
	}
	return dial(ctx, server, b.server.version, o)
}

func newBenchPub() *cobra.Command {
	b := bench{kind: "pub", clients: 1}
	return b.benchCommand("Publish, and measure how long acknowledgements take", func(g *group) {
		g.IntVar(&b.clients, "clients", b.clients, "`NUMBER` of clients that publish")
		b.messageFlags(g)
	}, b.publishes)
}

func (b *bench) publishes(ctx context.Context, cmd *cobra.Command) error {
	clients, err := b.connectAll(cmd, b.clients, "")
	if err != nil {
		return err
	}
	defer closeAll(clients)
	return b.during(ctx, cmd, b.clients, func(limited context.Context, i int) error {
		err := b.publishAll(ctx, limited, clients[i], i, b.qos > 0)
		if err == nil && b.qos == 0 {
			err = b.flush(ctx, clients[i])
		}
		return err
	})
}

// flush waits until the server has got what a client has sent at QoS 0, which counts as sent before: it answers a ping
// that comes after that.
func (b *bench) flush(ctx context.Context, c *client) error {
	patient, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if _, err := c.Ping(patient); err != nil && ctx.Err() == nil {
		return fmt.Errorf("the server has not got all messages: %w", err)
	}
	return nil
}

func newBenchSub() *cobra.Command {
	b := bench{kind: "sub", clients: 1}
	return b.benchCommand("Receive what others publish", func(g *group) {
		g.IntVar(&b.clients, "clients", b.clients, "`NUMBER` of clients that subscribe")
		b.topicFlags(g)
	}, b.receives)
}

func (b *bench) receives(ctx context.Context, cmd *cobra.Command) error {
	if !b.given(cmd) || !cmd.Flags().Changed("topic") {
		return usagef("give a server with --url and a topic filter with -t to which others publish; \"petrel bench pubsub\" publishes itself")
	}
	clients, err := b.connectAll(cmd, b.clients, "")
	if err != nil {
		return err
	}
	defer closeAll(clients)
	return b.during(ctx, cmd, b.clients, func(ctx context.Context, i int) error {
		sub, err := clients[i].subscribe(ctx, b.topicOf(i, clients[i].ClientID()), mqtt.SubscribeOptions{mqtt.QoS(b.qos)})
		for err == nil {
			var m mqtt.Message
			if m, err = sub.Next(ctx); err == nil {
				b.meter.received.Add(1)
				b.meter.bytes.Add(int64(len(m.Payload)))
			}
		}
		return err
	})
}

func newBenchPubsub() *cobra.Command {
	b := bench{kind: "pubsub", clients: 1, peers: 1}
	return b.benchCommand("Publish and receive, and measure the way from end to end", func(g *group) {
		g.IntVar(&b.clients, "clients", b.clients, "`NUMBER` of clients that publish")
		g.IntVar(&b.peers, "subscribers", b.peers, "`NUMBER` of clients that subscribe, each to everything")
		b.messageFlags(g)
	}, b.endToEnd)
}

// endToEnd publishes, and receives all of it at every subscriber.
func (b *bench) endToEnd(ctx context.Context, cmd *cobra.Command) error {
	subscribers, err := b.connectAll(cmd, b.peers, "sub")
	if err != nil {
		return err
	}
	defer closeAll(subscribers)
	publishers, err := b.connectAll(cmd, b.clients, "pub")
	if err != nil {
		return err
	}
	defer closeAll(publishers)
	b.ledgers = make([]ledger, b.peers)
	defer func() {
		for _, s := range b.subscriptions {
			b.dropped += s.Dropped()
		}
	}()
	var receivers errgroup.Group
	for i, c := range subscribers {
		sub, err := c.subscribe(ctx, b.filter(), mqtt.SubscribeOptions{mqtt.QoS(b.qos), mqtt.Buffer(100_000)})
		if err != nil {
			return err
		}
		b.subscriptions = append(b.subscriptions, sub)
		receivers.Go(func() error { return b.receiveAll(sub, &b.ledgers[i]) })
	}
	err = b.during(ctx, cmd, b.clients, func(limited context.Context, i int) error {
		return b.publishAll(ctx, limited, publishers[i], i, false)
	})
	b.awaitStragglers(ctx)
	b.meter.sample()
	closeAll(subscribers)
	return errors.Join(err, receivers.Wait())
}

// awaitStragglers waits for what is on its way, until nothing has come for a second.
func (b *bench) awaitStragglers(ctx context.Context) {
	expected := b.meter.sent.Load() * int64(b.peers)
	last, since := b.meter.received.Load(), time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for last < expected && time.Since(since) < time.Second {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if n := b.meter.received.Load(); n != last {
			last, since = n, time.Now()
		}
	}
}

func newBenchRPC() *cobra.Command {
	b := bench{kind: "rpc", clients: 1, peers: 1}
	return b.benchCommand("Ask and answer, and measure how long replies take", func(g *group) {
		g.IntVar(&b.clients, "clients", b.clients, "`NUMBER` of clients that ask")
		g.IntVar(&b.peers, "responders", b.peers, "`NUMBER` of clients that share the answering")
		b.messageFlags(g)
		b.qos, b.inFlight = 1, 1
		g.Lookup("inflight").DefValue, g.Lookup("qos").DefValue = "1", "1"
		g.Lookup("inflight").Usage = "how many requests of a client may wait for their `REPLIES`"
	}, b.requests)
}

func (b *bench) requests(ctx context.Context, cmd *cobra.Command) error {
	if b.server.version != v5 {
		return usagef("requests are of MQTT 5: leave out -V 3.1.1")
	}
	responders, err := b.connectAll(cmd, b.peers, "responder")
	if err != nil {
		return err
	}
	defer closeAll(responders)
	clients, err := b.connectAll(cmd, b.clients, "")
	if err != nil {
		return err
	}
	defer closeAll(clients)
	for _, c := range responders {
		filter := fmt.Sprintf("$share/petrel-%x/%s", b.run, b.filter())
		sub, err := c.v5.Subscribe(ctx, filter, mqtt.QoS(b.qos))
		if err != nil {
			return err
		}
		go c.v5.Respond(ctx, sub, func(_ context.Context, m mqtt.Message) ([]byte, error) { // ends with c
			return m.Payload, nil
		}, mqtt.Workers(b.inFlight*b.clients), mqtt.ReplyOptions(mqtt.QoS(b.qos)))
	}
	return b.during(ctx, cmd, b.clients*b.inFlight, func(limited context.Context, n int) error {
		return b.askAll(ctx, limited, clients[n%b.clients], n)
	})
}

// askAll asks one request after the other until its time is up or the count is reached. ctx ends all at once.
func (b *bench) askAll(ctx, limited context.Context, c *client, n int) error {
	p, topic := b.newPace(n, b.clients*b.inFlight), b.topicOf(n%b.clients, c.ClientID())
	payload := make([]byte, b.size)
	for i := 0; b.count == 0 || i < b.count; i++ {
		due, err := p.wait(limited)
		if err != nil {
			return nil // the time is up
		}
		b.meter.sent.Add(1)
		patient, cancel := context.WithTimeout(ctx, grace)
		_, err = c.v5.Request(patient, topic, payload, mqtt.QoS(b.qos))
		cancel()
		switch {
		case c.Err() != nil:
			return c.Err()
		case ctx.Err() != nil:
			return nil
		case err != nil:
			b.meter.failure(err)
			continue
		}
		b.meter.received.Add(1)
		b.meter.bytes.Add(int64(len(payload)))
		b.meter.latency(time.Since(due))
	}
	return nil
}
