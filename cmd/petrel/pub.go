package main

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt"
)

// pub is the command that publishes.
type pub struct {
	connection
	input       inputFlags
	topics      []string
	qos         level
	retain      bool
	properties  propertyFlags
	repeat      int
	interval    seconds
	maxInFlight int
}

func newPub() *cobra.Command {
	var p pub
	cmd := &cobra.Command{
		Use:   "pub -t TOPIC (-m TEXT | -f FILE | -l | -s | -n | …)",
		Short: "Publish messages",
		Long: `Publish messages, and wait until the server has taken them: at QoS 1 and 2 it says so, and at QoS 0 it answers a ping
that comes after them.

The exit code tells whether it has: 0 if it took all, 4 if it refused one, 5 if nobody can know.`,
		Example: `  petrel pub -t sensors/temperature -m 32 -q 1
  petrel pub -t switches/kitchen/status -m on -r
  tail -f readings.log | petrel pub -t readings -l
  petrel pub --url wss://example.com/mqtt -t a -f x.jpg --content-type image/jpg`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Publishing")
	g.StringArrayVarP(&p.topics, "topic", "t", nil, "`TOPIC` to publish to; may be repeated")
	g.VarP(&p.qos, "qos", "q", "0, 1 or 2")
	g.BoolVarP(&p.retain, "retain", "r", false, "the server keeps the message for later subscribers")
	g.IntVar(&p.repeat, "repeat", 1, "send the message so many `TIMES`; 0: until interrupted")
	g.Var(&p.interval, "interval", "wait between messages")
	g.IntVarP(&p.maxInFlight, "max-inflight", "M", 1024, "how many `MESSAGES` may wait for their acknowledgement")
	p.input.encodingFlag(g)
	p.properties.add(g, "", "")
	p.input.group(true).addTo(cmd)
	g.addTo(cmd)
	p.addTo(cmd)
	return cmd
}

func (p *pub) run(cmd *cobra.Command) error {
	messages, many, err := p.input.open(cmd)
	if err != nil {
		return err
	}
	topic, err := p.server.onlyTopic(strings.Join(p.topics, " "))
	if len(p.topics) == 0 && topic != "" {
		p.topics = []string{topic}
	}
	switch {
	case err != nil:
		return err
	case len(p.topics) == 0:
		return usagef("where to publish: give a topic with -t")
	case p.repeat < 0:
		return usagef("--repeat must not be negative")
	case many && p.repeat != 1:
		return usagef("--repeat repeats one message, not lines")
	}
	c, err := p.connect(cmd, "", append(p.defaults.options(p.topics), mqtt.WithMaxInFlight(p.maxInFlight),
		mqtt.WithQueue(mostPending+len(p.topics), math.MaxInt))...)
	if err != nil {
		return err
	}
	defer c.Close()
	if p.input.stdinLines && isTerminal(cmd.InOrStdin()) {
		p.logger.Info("a message per line; Ctrl-D ends")
	}
	s := sender{client: c, logger: p.logger, interval: time.Duration(p.interval)}
	losses := c.Stats().Losses
	err = s.send(cmd.Context(), repeated(messages, p.repeat), func(payload []byte) []*mqtt.Delivery {
		return p.publish(cmd, c, payload)
	})
	if err == nil && s.taken > 0 && p.unacknowledged(cmd) {
		err = s.confirm(cmd.Context(), losses)
	}
	if err == nil {
		s.report()
	}
	if p.repeat == 0 && errors.Is(err, context.Canceled) {
		err = nil // it would have gone on for ever
	}
	if ended := c.finish(cmd.Context()); err == nil {
		err = ended
	}
	return err
}

// unacknowledged reports whether there are messages that the server does not acknowledge.
func (p *pub) unacknowledged(cmd *cobra.Command) bool {
	if cmd.Flags().Changed("qos") {
		return p.qos == 0
	}
	return slices.ContainsFunc(p.topics, func(t string) bool {
		qos, _ := p.defaults.of(t)
		return qos == nil || *qos == mqtt.AtMostOnce
	})
}

// of returns the defaults for a topic; nil where there is none.
func (d *publishDefaults) of(topic string) (*mqtt.QoS, *bool) {
	own := d.topics[topic]
	return cmp.Or(own.qos, d.qos), cmp.Or(own.retain, d.retain)
}

// options are the configuration file's defaults for the topics that are published to.
func (d *publishDefaults) options(topics []string) []mqtt.Option {
	var opts []mqtt.Option
	for _, t := range topics {
		var o []mqtt.PublishOption
		qos, retain := d.of(t)
		if qos != nil {
			o = append(o, *qos)
		}
		if retain != nil {
			o = append(o, mqtt.RetainFlag(*retain))
		}
		if o != nil {
			opts = append(opts, mqtt.WithTopicDefaults(t, o...))
		}
	}
	return opts
}

// publish hands a payload to the client, for every topic.
func (p *pub) publish(cmd *cobra.Command, c *client, payload []byte) []*mqtt.Delivery {
	opts := []mqtt.PublishOption{mqtt.QueueOffline}
	if cmd.Flags().Changed("qos") {
		opts = append(opts, mqtt.QoS(p.qos))
	}
	if cmd.Flags().Changed("retain") {
		opts = append(opts, mqtt.RetainFlag(p.retain))
	}
	deliveries := make([]*mqtt.Delivery, len(p.topics))
	for i, t := range p.topics {
		deliveries[i] = c.publish(cmd.Context(), t, payload, p.properties.publish(), opts...)
	}
	return deliveries
}

// publish is PublishAsync of either version.
func (c *client) publish(ctx context.Context, topic string, payload []byte, p *mqtt.PublishProperties, opts ...mqtt.PublishOption) *mqtt.Delivery {
	if c.v5 != nil {
		return c.v5.PublishAsync(ctx, topic, payload, mqtt.PublishOptions(opts), p)
	}
	return c.PublishAsync(ctx, topic, payload, opts...)
}
