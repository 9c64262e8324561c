package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt"
)

// request is the command that asks and waits for the reply.
type request struct {
	connection
	input      inputFlags
	topic      string
	qos        level
	wait       seconds
	properties propertyFlags
	output     outputFlags
}

func newRequest() *cobra.Command {
	r := request{wait: seconds(30 * time.Second), qos: 1}
	cmd := &cobra.Command{
		Use:     "request -t TOPIC (-m TEXT | -f FILE | -s | -n | …)",
		Aliases: []string{"call"},
		Short:   "Send a request and write the reply",
		Long: `Send a request of MQTT 5 and write the reply to standard output. Response topic and correlation data are seen to.

The exit code is 4 if nobody takes the request, 6 if the responder reports a failure, 7 if no reply comes in time.

` + formatHelp,
		Example: `  petrel request -t services/shout -m hello
  petrel request -t services/resize -f photo.jpg -W 60 > small.jpg`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd) },
	}
	cmd.Flags().SortFlags = false
	r.input.group(false).addTo(cmd)
	g := newGroup("Request")
	g.StringVarP(&r.topic, "topic", "t", "", "`TOPIC` on which somebody answers")
	g.VarP(&r.qos, "qos", "q", "of the request: 0, 1 or 2")
	g.VarP(&r.wait, "wait", "W", "how long to wait for the reply")
	r.input.encodingFlag(g)
	r.properties.add(g, "", "")
	g.addTo(cmd)
	r.output.group().addTo(cmd)
	r.addTo(cmd)
	return cmd
}

func (r *request) run(cmd *cobra.Command) error {
	messages, _, err := r.input.open(cmd)
	if err != nil {
		return err
	}
	r.topic, err = r.server.onlyTopic(r.topic)
	switch {
	case err != nil:
		return err
	case r.topic == "":
		return usagef("whom to ask: give a topic with -t")
	case r.wait <= 0:
		return usagef("--wait must be longer than 0")
	case r.server.version != v5:
		return usagef("requests are of MQTT 5: leave out -V 3.1.1")
	}
	out := cmd.OutOrStdout()
	format, err := r.output.formatter(isTerminal(out))
	if err != nil {
		return err
	}
	var payload []byte
	for payload, err = range messages {
	}
	if err != nil {
		return err
	}
	c, err := r.connect(cmd, "")
	if err != nil {
		return err
	}
	defer c.Close()
	reply, err := r.ask(cmd.Context(), c, payload)
	if err == nil {
		_, err = out.Write(format(nil, reply, time.Now()))
	}
	if ended := c.finish(cmd.Context()); ended != nil {
		r.logger.Warn("the connection did not end well", "because", plain(ended)) // the reply is what was wanted
	}
	return err
}

func (r *request) ask(ctx context.Context, c *client, payload []byte) (mqtt.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.wait))
	defer cancel()
	start := time.Now()
	reply, err := c.v5.Request(ctx, r.topic, payload, mqtt.QoS(r.qos), r.properties.publish())
	switch {
	case err == nil:
		r.logger.Info("the reply came", "after", time.Since(start).Round(time.Microsecond))
	case errors.Is(err, context.DeadlineExceeded):
		err = &exitError{exitTimeout, fmt.Errorf("no reply on %q in %v; does anybody answer there?", r.topic, time.Duration(r.wait))}
	case errors.Is(err, mqtt.NoMatchingSubscribers):
		err = &exitError{exitRefused, fmt.Errorf("nobody has subscribed to %q, so nobody can answer", r.topic)}
	}
	return reply, err
}
