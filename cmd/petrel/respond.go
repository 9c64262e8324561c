package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt"
)

// respond is the command that answers requests.
type respond struct {
	connection
	filter, share string
	qos           level
	echo          bool
	message       once
	exec          execFlags
	count         int
	properties    propertyFlags
}

func newRespond() *cobra.Command {
	r := respond{qos: 1}
	cmd := &cobra.Command{
		Use:     "respond -t FILTER (--exec COMMAND | --echo | -m TEXT)",
		Aliases: []string{"serve"},
		Short:   "Answer requests",
		Long: `Answer requests of MQTT 5 with what a command writes, with the request itself, or with a text, until interrupted.

The failure of a command is reported to who has asked, with the last line of its standard error. A request is
acknowledged when its reply is: one that was not answered comes again, if -i and --no-clean keep the session.

` + execHelp,
		Example: `  petrel respond -t services/shout --exec 'tr a-z A-Z'
  petrel respond -t resize --group r --exec 'convert - -resize 9% -' --workers 4
  petrel respond -t ping --echo`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Answer (one of)")
	g.BoolVar(&r.echo, "echo", false, "with the request itself")
	g.VarP(&r.message, "message", "m", "with this `TEXT`")
	r.exec.add(g)
	g.addTo(cmd)
	g = newGroup("Requests and replies")
	g.StringVarP(&r.filter, "topic", "t", "", "topic `FILTER` of requests to answer")
	g.StringVar(&r.share, "group", "", "share the requests with the other responders of this `GROUP`")
	g.VarP(&r.qos, "qos", "q", "the highest QoS of requests, and the QoS of replies")
	g.IntVarP(&r.count, "count", "n", 0, "end after this `NUMBER` of requests")
	r.properties.addForReply(g, "", "")
	g.addTo(cmd)
	r.addTo(cmd)
	return cmd
}

func (r *respond) check(cmd *cobra.Command) error {
	given := 0
	for _, name := range []string{"echo", "message", "exec"} {
		if cmd.Flags().Changed(name) {
			given++
		}
	}
	switch {
	case given != 1:
		return usagef("how to answer: give one of --exec, --echo, -m")
	case r.filter == "":
		return usagef("what to answer: give a topic filter with -t")
	case r.count < 0:
		return usagef("-n must not be negative")
	case r.server.version != v5:
		return usagef("requests are of MQTT 5: leave out -V 3.1.1")
	}
	return r.exec.check()
}

func (r *respond) run(cmd *cobra.Command) error {
	var err error
	if r.filter, err = r.server.onlyTopic(r.filter); err != nil {
		return err
	}
	if err := r.check(cmd); err != nil {
		return err
	}
	c, err := r.connect(cmd, "")
	if err != nil {
		return err
	}
	defer c.Close()
	filter := r.filter
	if r.share != "" {
		filter = "$share/" + r.share + "/" + filter
	}
	sub, err := c.v5.Subscribe(cmd.Context(), filter, mqtt.QoS(r.qos), mqtt.ManualAck)
	if err != nil {
		return err
	}
	r.logger.Info("answering requests", "filter", filter)
	defer sayThatWeWait(cmd.Context(), r.logger)()
	ctx, enough := context.WithCancel(cmd.Context())
	defer enough()
	var answered atomic.Int64
	err = c.v5.Respond(ctx, sub, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
		if n := answered.Add(1); r.count > 0 && n >= int64(r.count) {
			enough()
		}
		return r.answer(ctx, m)
	}, mqtt.Workers(r.exec.workers), mqtt.ReplyOptions(mqtt.QoS(r.qos), r.properties.publish()))
	if err == nil && r.count > 0 {
		err = cmd.Context().Err() // interrupted before the last one
	}
	if ended := c.finish(cmd.Context()); err == nil {
		err = ended
	}
	return err
}

func (r *respond) answer(ctx context.Context, m mqtt.Message) ([]byte, error) {
	start := time.Now()
	payload, err := []byte(r.message.text), error(nil)
	switch {
	case r.echo:
		payload = m.Payload
	case r.exec.command != "":
		payload, err = r.exec.run(ctx, m)
	}
	if err != nil {
		r.logger.Warn("a request failed", "topic", m.Topic, "because", err)
		return nil, err
	}
	r.logger.Info("answered", "topic", m.Topic, "after", time.Since(start).Round(time.Microsecond))
	return payload, nil
}
