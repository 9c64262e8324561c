package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/boltstore"
	"github.com/petrel-mqtt/mqtt/transport"
)

// bridge is the command that publishes on one server what arrives at another.
type bridge struct {
	connection
	filters       []string
	qos           level
	strip, prefix string
	name          string // of the first server, in marks
	stateTopic    topicName
	report        seconds
	target        targetFlags
	buffer        bufferFlags
}

// targetFlags are those of the second server.
type targetFlags struct {
	url, id, name          string
	username, passwordFile string
	caFile, cert, key      string
	version                protocol
	inFlight               int
}

// bufferFlags are those of the store in which messages wait for the second server.
type bufferFlags struct {
	file     string
	bytes    size
	messages int
	sync     seconds
}

func newBridge() *cobra.Command {
	b := bridge{qos: 2}
	cmd := &cobra.Command{
		Use:   "bridge -i IDENTIFIER -t FILTER… --to URL --store FILE",
		Short: "Publish on one server what arrives at another",
		Long: `Subscribe on one server, and publish on another what arrives, with its QoS, retain flag and properties and in the order of each
topic, until interrupted. Two bridges, one in each direction, do it both ways.

A message at QoS 1 or 2 is acknowledged to the first server when it is in the store, and stays there until the second server
has it. Neither the death of the bridge nor that of a server loses it or, at QoS 2, publishes it twice, as long as the servers keep
their sessions. When the store is full the first server keeps what follows. What the second server refuses stays in the store as
a dead letter: "petrel outbox list" shows it, while the bridge does not run.

Each message gets a user property petrel-bridge with the name of the server that it comes from. A message with the name of the
second server has been there, and is not published again, so that bridges in both directions or in a ring do no harm.
With MQTT 3.1.1 on either side there are no marks, and with it on the first server no retain flags except on messages that
were there before the bridge.

All flags may also be in the file of -c.`,
		Example: `  petrel bridge -i site7 -t 'sensors/#' --prefix site7/ \
    --to mqtts://cloud.example.com --store /var/lib/petrel/site7.db
  petrel bridge --url mqtts://cloud.example.com -i site7-commands \
    -t 'site7/commands/#' --strip site7/ --to mqtt://localhost --store in.db
  petrel bridge -c /etc/petrel/bridge.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd) },
	}
	cmd.Flags().SortFlags = false
	for _, g := range []*group{b.forwardingGroup(), b.target.group(), b.buffer.group()} {
		g.marks[settable] = []string{own}
		g.addTo(cmd)
	}
	b.addTo(cmd)
	return cmd
}

func (b *bridge) forwardingGroup() *group {
	g := newGroup("Forwarding")
	g.StringArrayVarP(&b.filters, "topic", "t", nil, "topic `FILTER`; may be repeated")
	g.VarP(&b.qos, "qos", "q", "the highest QoS to receive and to publish")
	g.StringVar(&b.strip, "strip", "", "remove this `PREFIX` from topics that have it")
	g.StringVar(&b.prefix, "prefix", "", "then put this `PREFIX` before topics")
	g.StringVar(&b.name, "name", "", "`NAME` of the first server in the marks of messages (default its address)")
	g.Var(&b.stateTopic, "state-topic", "keep \"1\" on this topic of the first server, retained, while the bridge is connected to both, otherwise \"0\"")
	b.report = seconds(time.Minute)
	g.Var(&b.report, "report", "how often to log counts; 0: never")
	return g
}

func (f *targetFlags) group() *group {
	g := newGroup("Second server")
	f.version = v5
	g.StringVar(&f.url, "to", "", "publish on this server, a `URL`")
	g.StringVar(&f.id, "to-id", "", "client `IDENTIFIER` there (default that of -i with -to behind it)")
	g.StringVar(&f.name, "to-name", "", "`NAME` of this server in the marks of messages (default its address)")
	g.StringVar(&f.username, "to-username", "", "user `NAME` there")
	g.StringVar(&f.passwordFile, "to-password-file", "", "`FILE` whose first line is the password there; read at every attempt to connect")
	g.StringVar(&f.caFile, "to-ca-file", "", "trust the certificate authorities in this `FILE`, instead of the system's")
	g.StringVar(&f.cert, "to-cert", "", "`FILE` of the bridge's certificate there")
	g.StringVar(&f.key, "to-key", "", "`FILE` of its key")
	g.Var(&f.version, "to-protocol-version", "of MQTT: 5 or 3.1.1")
	g.IntVar(&f.inFlight, "to-max-in-flight", 20, "the highest `NUMBER` of messages that it has not acknowledged")
	return g
}

func (f *bufferFlags) group() *group {
	g := newGroup("Store")
	f.bytes = 64 << 20
	g.StringVar(&f.file, "store", "", "keep messages in this `FILE`")
	g.Var(&f.bytes, "store-max-bytes", "how much to keep; all of it is in memory, too")
	g.IntVar(&f.messages, "store-max-messages", 100_000, "the highest `NUMBER` of messages to keep")
	g.Var(&f.sync, "store-sync", "sync the disk in this interval, and not for each batch: a power failure loses what came since")
	return g
}

func (b *bridge) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	switch {
	case len(b.filters) == 0:
		return usagef("what to forward: give a topic filter with -t")
	case b.target.url == "":
		return usagef("where to publish: give the second server's URL with --to")
	case b.buffer.file == "":
		return usagef("where to keep messages: name a file with --store")
	case !given("id"):
		return usagef("a bridge needs a client identifier, to which its sessions belong: give it with -i")
	case given("clean"):
		return usagef("a bridge goes on with its session: leave out --clean")
	case given("state-topic") && given("will-topic"):
		return usagef("--state-topic and --will-topic exclude each other: the will is the state of a bridge that is dead")
	case b.target.inFlight < 1 || b.target.inFlight > 64511:
		return usagef("--to-max-in-flight must be from 1 to 64511")
	case b.buffer.bytes <= 0 || b.buffer.messages <= 0:
		return usagef("--store-max-bytes and --store-max-messages must be more than 0")
	case b.target.key != "" && b.target.cert == "":
		return usagef("--to-key needs --to-cert")
	}
	return checkOverlap(b.filters)
}

// checkOverlap refuses filters with topics in common, whose messages would be published once for each.
func checkOverlap(filters []string) error {
	for i, f := range filters {
		for _, g := range filters[:i] {
			if overlap(f, g) {
				return usagef("-t %s and -t %s have topics in common, whose messages would be published twice: leave one out", g, f)
			}
		}
	}
	return nil
}

// overlap reports whether a topic matches both filters.
func overlap(f, g string) bool {
	a, b := filterLevels(f), filterLevels(g)
	if (strings.HasPrefix(a[0], "$") || strings.HasPrefix(b[0], "$")) && a[0] != b[0] {
		return false // which no wildcard matches
	}
	for i := 0; ; i++ {
		switch endA, endB := i == len(a), i == len(b); {
		case endA || endB:
			return (endA || a[i] == "#") && (endB || b[i] == "#")
		case a[i] == "#" || b[i] == "#":
			return true
		case a[i] != b[i] && a[i] != "+" && b[i] != "+":
			return false
		}
	}
}

// filterLevels are those of a filter, without the name of a shared subscription.
func filterLevels(filter string) []string {
	all := strings.Split(filter, "/")
	if len(all) > 2 && all[0] == "$share" {
		return all[2:]
	}
	return all
}

func (b *bridge) run(cmd *cobra.Command) (err error) {
	if err := b.check(cmd); err != nil {
		return err
	}
	if b.logger, err = b.log.loggerFrom(slog.LevelInfo, cmd.ErrOrStderr()); err != nil {
		return err
	}
	from, o, err := b.sourceOptions(cmd)
	if err != nil {
		return err
	}
	to, err := transport.ParseURL(b.target.url)
	if err != nil {
		return usagef("--to: %w", err)
	}
	if err := b.nameServers(from, to.Host+to.Path); err != nil {
		return err
	}
	store, err := b.buffer.open()
	if err != nil {
		return err
	}
	receiving, publishing := mqtt.ForwardingStores(store)
	o.add(mqtt.WithStore(receiving), mqtt.WithConnectInBackground())
	return errors.Join(b.join(cmd, from, o, publishing), store.Close())
}

// join makes the two clients, and forwards until something ends.
func (b *bridge) join(cmd *cobra.Command, from string, o *options, publishing mqtt.Store) error {
	targetOptions, err := b.targetOptions(cmd)
	if err != nil {
		return err
	}
	targetOptions.add(mqtt.WithStore(publishing), mqtt.WithConnectInBackground())
	target, err := dial(cmd.Context(), b.target.url, b.target.version, targetOptions)
	if err != nil {
		return err
	}
	defer target.Close() // what the second server does not have stays in the store
	source, err := dial(cmd.Context(), from, b.server.version, o)
	if err != nil {
		return err
	}
	defer source.Close()
	return (&forwarding{bridge: b, source: source, target: target}).run(cmd.Context())
}

// sourceOptions returns the first server and the options of its client.
func (b *bridge) sourceOptions(cmd *cobra.Command) (server string, o *options, err error) {
	b.session.noClean = true
	b.reconnect.connectRetry = false // it connects in the background
	if server, o, err = b.options(cmd, ""); err != nil {
		return "", nil, err
	}
	if b.stateTopic != "" {
		o.add(mqtt.WithWill(string(b.stateTopic), []byte("0"), mqtt.AtLeastOnce, mqtt.Retain))
	}
	return server, o, nil
}

// targetOptions returns the options of the second server's client.
func (b *bridge) targetOptions(cmd *cobra.Command) (*options, error) {
	f, o := &b.target, new(options)
	b.log.options(o, b.logger.With("server", "second"), f.version)
	o.add(mqtt.WithClientID(f.id), mqtt.WithCleanStart(false), mqtt.WithMaxInFlight(f.inFlight),
		mqtt.WithKeepAlive(time.Duration(b.server.keepAlive)), mqtt.WithConnectTimeout(time.Duration(b.server.connectTimeout)),
		mqtt.WithQueue(b.buffer.messages, int(b.buffer.bytes)))
	o.add5(mqtt.WithSessionExpiry(mqtt.SessionNeverExpires))
	if f.caFile != "" || f.cert != "" {
		o.add(mqtt.WithTLSFiles(f.caFile, f.cert, f.key))
	}
	switch {
	case f.passwordFile != "":
		if _, err := firstLine(f.passwordFile); err != nil {
			return nil, usagef("--to-password-file: %w", err)
		}
		o.add(mqtt.WithCredentialsFunc(func(context.Context) (string, string, error) {
			password, err := firstLine(f.passwordFile)
			return f.username, password, err
		}))
	case f.username != "":
		o.add(mqtt.WithUsername(f.username))
	}
	if d, ok := cmd.Context().Value(dialerKey{}).(dialer); ok {
		o.add(mqtt.WithDialer(d))
	}
	return o, b.reconnect.options(o)
}

// nameServers gives the servers the names that are in marks, and checks the client identifiers.
func (b *bridge) nameServers(from, to string) error {
	if u, err := transport.ParseURL(from); err == nil {
		from = u.Host + u.Path
	}
	b.name, b.target.name = cmp.Or(b.name, from), cmp.Or(b.target.name, to)
	b.target.id = cmp.Or(b.target.id, b.identity.clientID+"-to") // another one, in case that a bridge back has the same -i
	if from == to && b.target.id == b.identity.clientID {
		return usagef("both servers are %s, where a client identifier has one client: give another one with --to-id", from)
	}
	return nil
}

func (f *bufferFlags) open() (*boltstore.Store, error) {
	opts := []boltstore.Option{boltstore.WithMaxBytes(int64(f.bytes))}
	if f.sync > 0 {
		opts = append(opts, boltstore.WithSyncInterval(time.Duration(f.sync)))
	}
	s, err := boltstore.Open(f.file, opts...)
	if errors.Is(err, mqtt.ErrStoreInUse) {
		return nil, fmt.Errorf("%s is in use: does another bridge run with it?", f.file)
	}
	return s, err
}

// bridgeMark is the user property with the name of a server that a message has come from.
const bridgeMark = "petrel-bridge"

// mark returns the properties of a message from the first server with its mark, or false if the message has been on the second.
func (b *bridge) mark(p mqtt.PublishProperties) (*mqtt.PublishProperties, bool) {
	if slices.Contains(p.UserProperties, mqtt.UserProperty{Key: bridgeMark, Value: b.target.name}) {
		return nil, false
	}
	if from := (mqtt.UserProperty{Key: bridgeMark, Value: b.name}); !slices.Contains(p.UserProperties, from) {
		p.UserProperties = append(slices.Clip(p.UserProperties), from)
	}
	return &p, true
}
