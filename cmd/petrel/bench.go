package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/transport"
)

// bench is what all benchmarks share.
type bench struct {
	connection
	kind     string
	clients  int // that publish, or ask, or whatever is measured
	peers    int // that subscribe or answer
	rate     float64
	duration seconds
	count    int
	size     size
	qos      level
	topic    string
	inFlight int
	json     bool
	plot     string

	run     uint64 // tells this run's messages from others
	meter   *meter
	target  string        // the URL, without password, or that it is the embedded broker
	elapsed time.Duration // while messages were sent
	ledgers []ledger      // of pubsub, one for each subscriber

	subscriptions []*mqtt.Subscription // of pubsub
	dropped       uint64               // of their messages, by the client because they came too fast
}

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench KIND",

		DisableFlagsInUseLine: true,
		Short:                 "Measure a server, or this client",
		Long: `Measure connecting, publishing, receiving and requests. Without --url and the like it runs a broker of its own.

With --rate, latencies count from when a message was due, so that a server that stalls is not flattered. Without it
messages are sent as fast as the server takes them, and latency says mostly how many of them were in flight.`,
		Example: `  petrel bench pubsub --clients 10 --rate 10000 -q 1 --plot latency.html
  petrel bench conn --url mqtt://broker.example.com --clients 1000 --rate 100
  petrel bench rpc --duration 30 --json`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchConn(), newBenchPub(), newBenchSub(), newBenchPubsub(), newBenchRPC())
	return cmd
}

// benchCommand makes the command of a benchmark; add adds the flags that not all have.
func (b *bench) benchCommand(short string, add func(g *group), load func(ctx context.Context, cmd *cobra.Command) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   b.kind,
		Short: short,
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return b.measure(cmd, load) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Load")
	b.duration = seconds(10 * time.Second)
	add(g)
	g.addTo(cmd)
	g = newGroup("Output")
	g.BoolVar(&b.json, "json", false, "write the results as a JSON object")
	g.StringVar(&b.plot, "plot", "", "draw throughput and latency over time into an HTML `FILE`")
	g.addTo(cmd)
	b.addTo(cmd)
	return cmd
}

// messageFlags are those of benchmarks that send messages.
func (b *bench) messageFlags(g *group) {
	b.size, b.inFlight = 64, 100
	g.Float64Var(&b.rate, "rate", 0, "`MESSAGES` per second, by all clients together (default as fast as possible)")
	g.IntVar(&b.count, "count", 0, "end after this `NUMBER` of messages of each client")
	g.Var(&b.size, "size", "of a payload")
	g.IntVar(&b.inFlight, "inflight", b.inFlight, "how many `MESSAGES` of a client may wait for their acknowledgement")
	b.topicFlags(g)
}

func (b *bench) topicFlags(g *group) {
	g.VarP(&b.qos, "qos", "q", "0, 1 or 2")
	g.StringVarP(&b.topic, "topic", "t", "", "`TOPIC`, in which %i stands for the client's number and %c for its identifier (default one of each run's own)")
	g.Var(&b.duration, "duration", "how long to measure")
}

func (b *bench) check() error {
	switch {
	case b.clients < 1 || b.peers < 0:
		return usagef("there must be at least one client")
	case b.rate < 0:
		return usagef("--rate must not be negative")
	case b.count < 0:
		return usagef("--count must not be negative")
	case b.duration == 0:
		return usagef("--duration must be longer than 0")
	case b.inFlight < 0 || b.inFlight == 0 && b.size > 0:
		return usagef("--inflight must be at least 1")
	case b.size > 0 && b.size < stampSize:
		return usagef("--size must be at least %d: number and time of a message are in it", stampSize)
	}
	return nil
}

// given reports whether a server was named.
func (b *bench) given(cmd *cobra.Command) bool {
	for _, name := range []string{"url", "host", "port"} {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// measure runs a benchmark and reports.
func (b *bench) measure(cmd *cobra.Command, load func(ctx context.Context, cmd *cobra.Command) error) error {
	if err := b.check(); err != nil {
		return err
	}
	if b.plot != "" {
		if err := mayWrite(b.plot); err != nil {
			return usagef("--plot: %w", err)
		}
	}
	if b.given(cmd) {
		server, err := b.server.address(b.tls.given(cmd.Flags().Changed))
		if err != nil {
			return err
		}
		b.target = redacted(server)
	} else {
		url, stop, err := embedded(cmd.Context())
		if err != nil {
			return err
		}
		defer stop()
		b.server.url, b.target = url, "an embedded broker"
	}
	b.run, b.meter = rand.Uint64(), newMeter()
	if b.topic == "" {
		b.topic = fmt.Sprintf("petrel/bench/%x/%%i", b.run)
	}
	err := load(cmd.Context(), cmd)
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if reportErr := b.report(cmd.OutOrStdout()); err == nil {
		err = reportErr
	}
	return err
}

// redacted is a server's URL without its secrets.
func redacted(server string) string {
	u, err := transport.ParseURL(server)
	if err != nil {
		return "a server" // connecting says what is wrong
	}
	return transport.Redact(u)
}

// during begins to measure and runs the clients' work, whose ctx ends when the duration is over.
func (b *bench) during(ctx context.Context, cmd *cobra.Command, n int, work func(ctx context.Context, i int) error) error {
	limited, cancel := context.WithTimeout(ctx, time.Duration(b.duration))
	defer cancel()
	b.meter.start = time.Now()
	stop := b.watch(cmd)
	var g errgroup.Group
	for i := range n {
		g.Go(func() error { return work(limited, i) })
	}
	err := g.Wait()
	b.elapsed = time.Since(b.meter.start)
	stop()
	b.meter.sample()
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return errors.Join(err, ctx.Err())
}

// connectAll connects n clients, some at a time.
func (b *bench) connectAll(cmd *cobra.Command, n int, role string) ([]*client, error) {
	const atOnce = 50
	clients := make([]*client, n)
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error {
			c, err := b.connect(cmd, fmt.Sprintf("-%s%d", role, i), mqtt.WithMaxInFlight(max(1, b.inFlight)))
			clients[i] = c
			return err
		})
	}
	err := g.Wait()
	if err != nil {
		closeAll(clients)
	}
	return clients, err
}

func closeAll(clients []*client) {
	var g errgroup.Group
	for _, c := range clients {
		if c != nil {
			g.Go(c.Close)
		}
	}
	g.Wait() // Close returns nil
}

// topicOf returns the topic of a client.
func (b *bench) topicOf(i int, id string) string {
	return strings.NewReplacer("%i", strconv.Itoa(i), "%c", strings.ReplaceAll(id, "/", "_")).Replace(b.topic)
}

// filter returns a filter for the topics of all clients.
func (b *bench) filter() string {
	levels := strings.Split(b.topic, "/")
	for i, l := range levels {
		if strings.Contains(l, "%i") || strings.Contains(l, "%c") {
			levels[i] = "+"
		}
	}
	return strings.Join(levels, "/")
}
