package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt"
)

// probe is the command that tells what a server is able to do.
type probe struct {
	connection
	json       bool
	maxPayload size
	rounds     int

	clients  int    // that were made
	topic    string // below which this run publishes
	findings []finding
}

// Groups of findings, besides versions and limits.
const (
	told      = "features (told)"
	tried     = "features (tried)"
	latencies = "latencies (median)"
)

// finding is something that was found out.
type finding struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	Value any    `json:"value"`          // bool, number or string; milliseconds of latencies
	Note  string `json:"note,omitempty"` // why not, or a unit
}

func newProbe() *cobra.Command {
	p := probe{maxPayload: 1 << 20}
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Tell what a server is able to do",
		Long: `Ask a server what it is able to do, and try it: versions, limits, features, latencies.

It publishes a few messages below petrel/probe/, and removes what it had retained.`,
		Example: `  petrel probe --url mqtt://broker.example.com
  petrel probe -u me --password-file secret --json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Probing")
	g.BoolVar(&p.json, "json", false, "write a JSON array of what was found")
	g.Var(&p.maxPayload, "max-payload", "the largest payload to try")
	g.IntVar(&p.rounds, "rounds", 20, "how many `TIMES` latencies are measured, for their median")
	g.addTo(cmd)
	p.addTo(cmd)
	return cmd
}

func (p *probe) run(cmd *cobra.Command) error {
	if p.rounds < 1 {
		return usagef("--rounds must be at least 1")
	}
	p.topic = fmt.Sprintf("petrel/probe/%x", rand.Uint64())
	if !p.log.debug {
		p.logger = slog.New(slog.DiscardHandler) // connections that end are what is asked about
	}
	speaks, err := p.tryVersions(cmd)
	if speaks == 0 {
		return err
	}
	p.server.version = speaks
	c, err := p.fresh(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.v5 != nil {
		p.limits(c.v5.ConnAck())
	}
	ctx := cmd.Context()
	p.features(ctx, cmd, c)
	p.latencies(ctx, c)
	if err := errors.Join(ctx.Err(), c.finish(ctx)); err != nil {
		return err
	}
	return p.report(cmd.OutOrStdout())
}

// fresh connects a client that does not come back, and so tells when it was thrown out.
func (p *probe) fresh(cmd *cobra.Command, more ...mqtt.Option) (*client, error) {
	p.clients++ // each has an identifier of its own
	return p.connect(cmd, fmt.Sprintf("-%d", p.clients), append(more, mqtt.WithoutReconnect())...)
}

func (p *probe) found(group, name string, value any, note string) {
	p.findings = append(p.findings, finding{group, name, value, note})
}

// tried notes whether something worked.
func (p *probe) tried(group, name string, err error) {
	note := ""
	if err != nil {
		note = plain(err)
	}
	p.found(group, name, err == nil, note)
}

// tryVersions returns the version that was asked for if the server speaks it, else another one that it speaks.
func (p *probe) tryVersions(cmd *cobra.Command) (speaks protocol, err error) {
	asked := p.server.version
	for _, v := range []protocol{v5, v311} {
		p.server.version = v
		start := time.Now()
		c, connectErr := p.fresh(cmd)
		took := time.Since(start)
		p.tried("versions", "MQTT "+v.String(), connectErr)
		if connectErr != nil {
			err = cmp.Or(err, connectErr)
			continue
		}
		c.finish(cmd.Context()) // nothing is in flight
		p.found(latencies, "connect, MQTT "+v.String(), milliseconds(int64(took)), "ms")
		if speaks == 0 || v == asked {
			speaks = v
		}
	}
	return speaks, err
}

// limits notes what CONNACK says.
func (p *probe) limits(a mqtt.ConnAck) {
	unlimited := func(n int, none int) any {
		if n == none {
			return "no limit"
		}
		return n
	}
	p.found("limits", "maximum QoS", int(a.MaximumQoS), "")
	p.found("limits", "receive maximum", int(a.ReceiveMaximum), "")
	p.found("limits", "maximum packet size", unlimited(int(a.MaximumPacketSize), 0), "")
	p.found("limits", "topic alias maximum", int(a.TopicAliasMaximum), "")
	p.found("limits", "keep alive", a.KeepAlive.Seconds(), "s")
	p.found("limits", "session expiry", a.SessionExpiry.Seconds(), "s, of those asked for")
	p.found(told, "retained messages", a.RetainAvailable, "")
	p.found(told, "wildcards", a.WildcardSubscriptions, "")
	p.found(told, "shared subscriptions", a.SharedSubscriptions, "")
	p.found(told, "subscription identifiers", a.SubscriptionIdentifiers, "")
	p.found(told, "response information", a.ResponseInformation != "", a.ResponseInformation)
}

// features tries what a client may want.
func (p *probe) features(ctx context.Context, cmd *cobra.Command, c *client) {
	for q := mqtt.AtMostOnce; q <= mqtt.ExactlyOnce; q++ {
		_, err := p.roundTrip(ctx, c, p.topic+"/qos", p.topic+"/qos", []byte("x"), q)
		p.tried(tried, q.String(), err)
	}
	_, err := p.roundTrip(ctx, c, p.topic+"/+/#", p.topic+"/wild/card", []byte("x"), mqtt.AtMostOnce)
	p.tried(tried, "wildcards", err)
	p.tried(tried, "retained messages", p.retain(ctx, c))
	_, err = p.roundTrip(ctx, c, "$share/petrel/"+p.topic+"/shared", p.topic+"/shared", []byte("x"), mqtt.AtMostOnce)
	p.tried(tried, "shared subscriptions", err)
	if c.v5 != nil {
		unheard := c.v5.PublishAsync(ctx, p.topic+"/nobody", nil, mqtt.AtLeastOnce)
		err := unheard.Wait(ctx)
		p.found(tried, "tells that nobody has subscribed", err == nil && unheard.Reason() == mqtt.NoMatchingSubscribers, "")
	}
	assigned, err := p.fresh(cmd, mqtt.WithClientID(""))
	if err == nil {
		err = assigned.finish(ctx)
	}
	p.tried(tried, "assigns client identifiers", err)
	p.longestID(cmd)
	p.largestPayload(ctx, cmd)
}

// roundTrip subscribes, publishes and returns how long the message took to come back.
func (p *probe) roundTrip(ctx context.Context, c *client, filter, topic string, payload []byte, q mqtt.QoS) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	sub, err := c.subscribe(ctx, filter, mqtt.SubscribeOptions{q})
	if err != nil {
		return 0, err
	}
	defer func() { sub.Unsubscribe(ctx) }() // it would show in what is tried next
	start := time.Now()
	if err := c.publish(ctx, topic, payload, nil, q).Wait(ctx); err != nil {
		return 0, err
	}
	m, err := sub.Next(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return 0, errors.New("the message did not come back")
	case err != nil:
		return 0, err
	case !bytes.Equal(m.Payload, payload):
		return 0, errors.New("another message came back")
	case m.QoS != q:
		return 0, fmt.Errorf("it came back at QoS %d", m.QoS)
	}
	return time.Since(start), nil
}

// probePatience is how long anything may take.
const probePatience = 5 * time.Second

// retain tries a retained message, and removes it.
func (p *probe) retain(ctx context.Context, c *client) error {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	topic := p.topic + "/retained"
	if err := c.publish(ctx, topic, []byte("x"), nil, mqtt.AtLeastOnce, mqtt.Retain).Wait(ctx); err != nil {
		return err
	}
	sub, err := c.subscribe(ctx, topic, mqtt.SubscribeOptions{mqtt.AtLeastOnce})
	if err != nil {
		return err
	}
	if _, err = sub.Next(ctx); err != nil {
		err = errors.New("it did not come")
	}
	return cmp.Or(err, c.publish(ctx, topic, nil, nil, mqtt.AtLeastOnce, mqtt.Retain).Wait(ctx), sub.Unsubscribe(ctx))
}

// longestID finds out how long client identifiers may be.
func (p *probe) longestID(cmd *cobra.Command) {
	longest, note := 0, ""
	for _, n := range []int{23, 64, 256, 1024, 65_535} {
		c, err := p.fresh(cmd, mqtt.WithClientID(strings.Repeat("x", n)))
		if err != nil {
			note = fmt.Sprintf("%d: %s", n, plain(err))
			break
		}
		c.finish(cmd.Context()) // nothing is in flight
		longest = n
	}
	p.found("limits", "client identifier (tried)", longest, note)
}

// largestPayload finds out how large messages may be, up to what the flag says.
func (p *probe) largestPayload(ctx context.Context, cmd *cobra.Command) {
	largest, note := 0, ""
	for n := 1 << 10; ; n *= 4 {
		n = min(n, int(p.maxPayload))
		c, err := p.fresh(cmd)
		if err == nil {
			_, err = p.roundTrip(ctx, c, p.topic+"/large", p.topic+"/large", make([]byte, n), mqtt.AtLeastOnce)
			c.Close()
		}
		if err != nil {
			note = fmt.Sprintf("%d: %s", n, plain(err))
			break
		}
		largest = n
		if n == int(p.maxPayload) {
			note = "no more was tried"
			break
		}
	}
	p.found("limits", "payload (tried)", largest, note)
}

// latencies measures medians.
func (p *probe) latencies(ctx context.Context, c *client) {
	median := func(name string, measure func() (time.Duration, error)) {
		var took []time.Duration
		for range p.rounds {
			d, err := measure()
			if err != nil {
				p.found(latencies, name, false, plain(err))
				return
			}
			took = append(took, d)
		}
		slices.Sort(took)
		p.found(latencies, name, milliseconds(int64(took[len(took)/2])), "ms")
	}
	median("ping", func() (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, probePatience)
		defer cancel()
		return c.Ping(ctx)
	})
	for q := mqtt.AtMostOnce; q <= mqtt.ExactlyOnce; q++ {
		median(fmt.Sprintf("there and back at QoS %d", q), func() (time.Duration, error) {
			return p.roundTrip(ctx, c, p.topic+"/time", p.topic+"/time", []byte("x"), q)
		})
	}
}

func (p *probe) report(w io.Writer) error {
	order := []string{"versions", "limits", told, tried, latencies}
	rank := func(f finding) int { return slices.Index(order, f.Group) }
	slices.SortStableFunc(p.findings, func(a, b finding) int { return cmp.Compare(rank(a), rank(b)) })
	if p.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(p.findings)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	group := ""
	for _, f := range p.findings {
		if f.Group != group {
			if group != "" {
				fmt.Fprintln(t)
			}
			fmt.Fprintf(t, "%s\n", f.Group)
			group = f.Group
		}
		fmt.Fprintf(t, "  %s\t%s\n", f.Name, f.text())
	}
	return t.Flush()
}

// text is the value with its note, for people.
func (f *finding) text() string {
	text := ""
	switch v := f.Value.(type) {
	case bool:
		text = map[bool]string{true: "yes", false: "no"}[v]
	case float64:
		if f.Note == "ms" {
			return short(v)
		}
		text = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		text = fmt.Sprint(v)
	}
	switch {
	case f.Note == "":
		return text
	case f.Value == false || f.Note == "no more was tried" || strings.Contains(f.Note, ": "):
		return text + " (" + f.Note + ")"
	}
	return text + " " + f.Note
}
