package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/petrel-mqtt/mqtt"
)

// sub is the command that subscribes.
type sub struct {
	connection
	filters, excluded, unsubscribed []string
	qos                             levels
	count                           int
	wait                            seconds
	onlySubscribe                   bool
	retained                        retainedFlags
	options5                        subscribeFlags
	output                          outputFlags
	outDir                          string
	exec                            execFlags
	onFailure                       choice
	chance                          percent
	removals                        removals
	dropInvalid                     bool
}

func newSub() *cobra.Command {
	var s sub
	cmd := &cobra.Command{
		Use:   "sub -t FILTER…",
		Short: "Subscribe, and write what arrives",
		Long: `Subscribe, and write the messages that arrive to standard output, until interrupted, or as -n and -W say.

A message is acknowledged when it has been written, or when its command has ended well.

` + formatHelp + "\n\n" + execHelp + "\n\n" + failureHelp,
		Example: `  petrel sub -t 'sensors/#' -v
  petrel sub -t a/b -q 1 -t 'c/#' -q 2 --json
  petrel sub -t jobs -q 1 -i worker --no-clean --exec ./work.sh --workers 4
  petrel sub -t '#' --retained-only -W 1 -F '%t %l'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Subscribing")
	g.StringArrayVarP(&s.filters, "topic", "t", nil, "topic `FILTER`; may be repeated")
	g.VarP(&s.qos, "qos", "q", "the highest QoS to receive: one for all filters, or one for each (default 0)")
	g.StringArrayVarP(&s.excluded, "exclude", "T", nil, "leave out topics that match this `FILTER`; may be repeated")
	g.StringArrayVarP(&s.unsubscribed, "unsubscribe", "U", nil, "remove this `FILTER` from the session first; may be repeated")
	g.IntVarP(&s.count, "count", "n", 0, "end after this `NUMBER` of messages")
	g.IntVarP(&s.count, "messages", "C", 0, "the same as -n")
	g.VarP(&s.wait, "wait", "W", "end after this time; with -n the exit code is 7 if messages are missing")
	g.BoolVarP(&s.onlySubscribe, "exit-after-suback", "E", false, "end when the server has granted the subscription")
	g.BoolVar(&s.dropInvalid, "drop-invalid-topics", false, "leave out messages whose topic names MQTT forbids, which end the connection otherwise")
	s.chance = 100
	g.Var(&s.chance, "random-filter", "take part of the messages at random")
	s.retained.add(g)
	s.options5.add(g)
	g.addTo(cmd)
	s.output.group().addTo(cmd)
	g = newGroup("Instead of standard output")
	g.StringVar(&s.outDir, "out-dir", "", "write each message into a file of its own in this `FOLDER`, and at QoS 1 and 2 onto the disk")
	s.exec.add(g)
	s.onFailure = choice{"stop", []string{"stop", "reject", "ignore"}}
	g.Var(&s.onFailure, "on-failure", "of a command: stop, and leave its message to the server; or reject it, or ignore that, and go on")
	g.addTo(cmd)
	s.addTo(cmd)
	cmd.Flags().Lookup("messages").Hidden = true
	return cmd
}

const failureHelp = `When a command fails, sub stops with exit code 6 and does not acknowledge its message: a session that is kept (-q 1, -i and
--no-clean) gets it again, and with it those that other workers have finished since. With --on-failure reject the server
is told that the message was refused, and does not send it again; MQTT 3.1.1 cannot say so, and acknowledges it. With
--on-failure ignore it is acknowledged. Both go on, and exit with 6 in the end. At QoS 0 the server has nothing to send
again in any case.`

// maxIdentifier is the largest subscription identifier.
const maxIdentifier = 268_435_455

// retainedFlags say what becomes of retained messages.
type retainedFlags struct {
	only, none, remove bool
}

func (r *retainedFlags) add(g *group) {
	g.BoolVar(&r.only, "retained-only", false, "write retained messages only, and end when another one arrives")
	g.BoolVarP(&r.none, "no-retained", "R", false, "leave out retained messages")
	g.BoolVar(&r.remove, "remove-retained", false, "delete the retained messages that arrive from the server")
}

// subscribeFlags are options of a subscription that MQTT 5 has.
type subscribeFlags struct {
	noLocal, retainAsPublished bool
	retainHandling             choice
	identifier                 uint32
	user                       properties
}

func (s *subscribeFlags) add(g *group) {
	g.BoolVar(&s.noLocal, "no-local", false, "leave out what this client publishes itself")
	g.BoolVar(&s.retainAsPublished, "retain-as-published", false, "keep the retain flag of messages as it was published")
	s.retainHandling = choice{"0", []string{"0", "1", "2"}}
	g.Var(&s.retainHandling, "retain-handling", "send retained messages 0: always, 1: for a new subscription, 2: never")
	g.Uint32Var(&s.identifier, "subscription-id", 0, "subscription `IDENTIFIER`, which arriving messages show")
	g.Var(&s.user, "subscribe-property", "user property of SUBSCRIBE; may be repeated")
	g.only5("no-local", "retain-as-published", "retain-handling", "subscription-id", "subscribe-property")
}

func (s *subscribeFlags) options() []mqtt.SubscribeOptionV5 {
	opts := []mqtt.SubscribeOptionV5{mqtt.RetainHandling(s.retainHandling.word[0] - '0')}
	if s.noLocal {
		opts = append(opts, mqtt.NoLocal)
	}
	if s.retainAsPublished {
		opts = append(opts, mqtt.RetainAsPublished)
	}
	if s.identifier > 0 {
		opts = append(opts, mqtt.SubscriptionIdentifier(s.identifier))
	}
	if s.user != nil {
		opts = append(opts, &mqtt.SubscribeProperties{UserProperties: mqtt.UserProperties(s.user)})
	}
	return opts
}

func (s *sub) check(cmd *cobra.Command) error {
	switch {
	case len(s.filters) == 0 && len(s.unsubscribed) == 0:
		return usagef("what to subscribe to: give a topic filter with -t")
	case firstTwice(s.filters) != "":
		return usagef("-t %s is given twice: leave one out", firstTwice(s.filters))
	case len(s.qos) > 1 && len(s.qos) != len(s.filters):
		return usagef("%d times -q do not fit %d times -t: give one for all filters, or one for each", len(s.qos), len(s.filters))
	case s.options5.identifier > maxIdentifier:
		return usagef("--subscription-id must not be more than %d", maxIdentifier)
	case s.count < 0:
		return usagef("-n must not be negative")
	case s.retained.none && (s.retained.only || s.retained.remove):
		return usagef("--no-retained excludes --retained-only and --remove-retained")
	case s.outDir != "" && s.exec.command != "":
		return usagef("--out-dir and --exec exclude each other: give one")
	case s.exec.command == "" && (cmd.Flags().Changed("on-failure") || cmd.Flags().Changed("workers")):
		return usagef("--on-failure and --workers need --exec")
	}
	return s.exec.check()
}

// firstTwice returns the first of some words that was there before, "" if there is none.
func firstTwice(words []string) string {
	for i, w := range words {
		if slices.Contains(words[:i], w) {
			return w
		}
	}
	return ""
}

func (s *sub) run(cmd *cobra.Command) error {
	if filter := s.server.cutTopic(); filter != "" {
		s.filters = append(s.filters, filter)
	}
	if err := s.check(cmd); err != nil {
		return err
	}
	w, err := s.writer(cmd)
	if err != nil {
		return err
	}
	c, err := s.connect(cmd, "", s.options()...)
	if err != nil {
		return err
	}
	defer c.Close()
	defer s.tellInvalid(c)
	err = s.serve(cmd.Context(), c, w)
	if ended := c.finish(cmd.Context()); err == nil && !errors.Is(ended, context.DeadlineExceeded) {
		err = ended
	}
	return err
}

func (s *sub) options() (opts []mqtt.Option) {
	if s.dropInvalid {
		opts = append(opts, mqtt.WithDropInvalidTopics())
	}
	return opts
}

func (s *sub) tellInvalid(c *client) {
	if n := c.Stats().InvalidTopics; n > 0 {
		s.logger.Warn("messages were left out because of their topic names", "messages", n)
	}
}

// serve subscribes and takes messages.
func (s *sub) serve(ctx context.Context, c *client, w *writer) error {
	if len(s.unsubscribed) > 0 {
		if err := c.Unsubscribe(ctx, s.unsubscribed...); err != nil || len(s.filters) == 0 {
			return err
		}
	}
	subscription, err := s.subscribe(ctx, c)
	if err != nil {
		return err
	}
	for _, f := range subscription.Filters() {
		s.logger.Info("subscribed", "filter", f.Filter, "qos", int(f.Granted))
		if f.Granted < f.QoS {
			s.logger.Warn("the server grants less than was asked for", "filter", f.Filter, "asked", int(f.QoS), "granted", int(f.Granted))
		}
	}
	if s.onlySubscribe {
		return nil
	}
	limited := ctx
	if s.wait > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, time.Duration(s.wait))
		defer cancel()
	}
	taken, err := s.receive(limited, c, subscription, w)
	switch {
	case errors.Is(err, context.Canceled) && s.count == 0:
		return nil // it would have gone on for ever
	case errors.Is(err, context.DeadlineExceeded) && s.wait > 0 && ctx.Err() == nil:
		if s.count > taken {
			return &exitError{exitTimeout, fmt.Errorf("time was up after %d of %s", taken, many(s.count, "message"))}
		}
		return nil
	}
	return err
}

func (s *sub) subscribe(ctx context.Context, c *client) (*mqtt.Subscription, error) {
	qos := func(i int) mqtt.QoS {
		switch len(s.qos) {
		case 0:
			return mqtt.AtMostOnce
		case 1:
			return s.qos[0]
		}
		return s.qos[i]
	}
	opts := mqtt.SubscribeOptions{qos(0), mqtt.ManualAck}
	for i, f := range s.filters[1:] {
		opts = append(opts, mqtt.Also(qos(i+1), f))
	}
	return c.subscribe(ctx, s.filters[0], opts, s.options5.options()...)
}

// subscribe is Subscribe of either version.
func (c *client) subscribe(ctx context.Context, filter string, both mqtt.SubscribeOptions, only5 ...mqtt.SubscribeOptionV5) (*mqtt.Subscription, error) {
	if c.v5 != nil {
		return c.v5.Subscribe(ctx, filter, append(only5, both)...)
	}
	return c.Subscribe(ctx, filter, both)
}

// errEnough ends the receiving where no number of messages does.
var errEnough = errors.New("no more messages are wanted")

// receive takes messages until there are enough or ctx ends, and returns how many it has taken.
func (s *sub) receive(ctx context.Context, c *client, subscription *mqtt.Subscription, w *writer) (taken int, err error) {
	defer sayThatWeWait(ctx, s.logger)()
	var workers errgroup.Group
	workers.SetLimit(s.exec.workers)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	for err == nil && (s.count == 0 || taken < s.count) {
		var m mqtt.Message
		if m, err = subscription.Next(ctx); err != nil {
			break
		}
		if s.retained.only && !m.Retain {
			err = errEnough
			break
		}
		if s.leftOut(m) {
			err = acknowledged(m.Ack())
			continue
		}
		taken++
		if s.exec.command == "" {
			err = s.take(ctx, c, m, w)
			continue
		}
		workers.Go(func() error {
			if ctx.Err() != nil {
				return nil // the message waited for its turn, and stays with the server
			}
			err := s.take(ctx, c, m, w)
			if err != nil {
				stop(err)
			}
			return err
		})
	}
	if failed := workers.Wait(); failed != nil {
		err = failed
	}
	switch {
	case errors.Is(err, errEnough), isBrokenPipe(err):
		return taken, nil
	case err == nil && w.failures > 0:
		return taken, &exitError{exitAnswer, fmt.Errorf("%d of %s failed", w.failures, many(taken, "command"))}
	}
	return taken, err
}

func (s *sub) leftOut(m mqtt.Message) bool {
	return s.retained.none && m.Retain || s.removals.comesBack(m) || rand.Float64()*100 >= float64(s.chance) ||
		slices.ContainsFunc(s.excluded, func(filter string) bool { return mqtt.MatchTopic(filter, m.Topic) })
}

// take writes a message, or has its command run, and acknowledges it then.
func (s *sub) take(ctx context.Context, c *client, m mqtt.Message, w *writer) error {
	err := w.write(ctx, m)
	var failed *commandError
	switch {
	case errors.As(err, &failed):
		return s.failed(m, failed)
	case err != nil:
		return err
	}
	if s.retained.remove && m.Retain && len(m.Payload) > 0 { // without one it is a removal already
		s.removals.note(m.Topic)
		if err := c.publish(ctx, m.Topic, nil, nil, m.QoS, mqtt.Retain).Wait(ctx); err != nil {
			return err
		}
	}
	return acknowledged(m.Ack())
}

// removals are the topics whose retained message we have removed: by publishing an empty message, which comes to us as to
// every subscriber.
type removals struct {
	mu     sync.Mutex
	topics map[string]bool
}

func (r *removals) note(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.topics == nil {
		r.topics = map[string]bool{}
	}
	r.topics[topic] = true
}

// comesBack reports whether a message is one of our removals.
func (r *removals) comesBack(m mqtt.Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(m.Payload) > 0 {
		delete(r.topics, m.Topic) // an empty one after this is somebody else's
	}
	return r.topics[m.Topic]
}

// failed does with a message whose command failed what --on-failure says.
func (s *sub) failed(m mqtt.Message, err *commandError) error {
	if s.onFailure.word == "stop" {
		return fmt.Errorf("%s: %w; %s", m.Topic, err, s.fate(m))
	}
	s.logger.Warn("a command failed", "topic", m.Topic, "because", err.err)
	if s.onFailure.word == "ignore" {
		return acknowledged(m.Ack())
	}
	return acknowledged(m.Reject(mqtt.ImplementationSpecificError, "the command failed"))
}

// fate says what becomes of a message that is not acknowledged.
func (s *sub) fate(m mqtt.Message) string {
	switch {
	case m.QoS == mqtt.AtMostOnce:
		return "at QoS 0 the message does not come again"
	case !s.session.keep() && s.session.expiry == 0:
		return "the message does not come again, because the session ends: -i and --no-clean keep it"
	}
	return "the server sends the message again to the next with this -i"
}

// acknowledged leaves out the loss of a session: the server sends the message again if it must.
func acknowledged(err error) error {
	if errors.Is(err, mqtt.ErrSessionLost) {
		return nil
	}
	return err
}

// writer is where messages go. Its methods may be called concurrently.
type writer struct {
	ctx    context.Context // of commands: they are not killed because no more messages are wanted
	format formatter
	dir    *outDir    // nil: none
	exec   *execFlags // nil: none

	mu       sync.Mutex // guards what follows, and the output's order
	out      io.Writer
	buffer   []byte
	failures int // of commands
}

func (s *sub) writer(cmd *cobra.Command) (*writer, error) {
	out := cmd.OutOrStdout()
	format, err := s.output.formatter(isTerminal(out))
	w := &writer{ctx: context.WithoutCancel(cmd.Context()), format: format, out: out}
	switch {
	case err != nil:
		return nil, err
	case s.outDir != "":
		w.dir, err = newOutDir(s.outDir)
	case s.exec.command != "":
		w.exec = &s.exec
	}
	return w, err
}

// commandError is the failure of a command, which is the message's and not ours.
type commandError struct{ err error }

func (e *commandError) Error() string { return "the command failed: " + e.err.Error() }
func (e *commandError) Unwrap() error { return &exitError{exitAnswer, e.err} }

func (w *writer) write(ctx context.Context, m mqtt.Message) error {
	if w.exec != nil {
		return w.run(m)
	}
	if w.dir != nil {
		return w.dir.write(m.Topic, m.Payload, m.QoS > mqtt.AtMostOnce)
	}
	w.buffer = w.format(w.buffer[:0], m, time.Now())
	_, err := w.out.Write(w.buffer)
	return err
}

// run runs the command for a message, and writes what it has written in one piece.
func (w *writer) run(m mqtt.Message) error {
	said, failed := w.exec.run(w.ctx, m)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.out.Write(said)
	if failed != nil {
		w.failures++
		return &commandError{failed}
	}
	return err
}
