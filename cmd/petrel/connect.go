package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/scram"
	"github.com/petrel-mqtt/mqtt/transport"
)

// connection is the flags by which a command connects, and what it has read from files for them.
type connection struct {
	server    serverFlags
	identity  identityFlags
	session   sessionFlags
	tls       tlsFlags
	websocket webFlags
	will      willFlags
	reconnect reconnectFlags
	log       logFlags
	defaults  publishDefaults // of the configuration file

	configFile string
	name       string // of the command, for the client identifier
	logger     *slog.Logger
}

// addTo gives a command the flags. They are complete, with what the environment and the configuration file say, when the
// command runs.
func (c *connection) addTo(cmd *cobra.Command) {
	c.name = cmd.Name()
	cmd.Version = version() // HBMQTT's commands have --version
	for _, g := range []*group{
		c.server.group(&c.configFile), c.identity.group(), c.session.group(), c.tls.group(), c.websocket.group(),
		c.will.group(), c.reconnect.group(), c.log.group(),
	} {
		g.marks[settable] = []string{}
		g.addTo(cmd)
	}
	cmd.Flags().Bool("help", false, "show this, as -h does without a host") // -h is the host, as for other tools
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return c.complete(cmd) }
}

// complete reads the environment and the configuration file, and checks what it can without a server.
func (c *connection) complete(cmd *cobra.Command) error {
	if heedHangup, ok := cmd.Context().Value(hangupKey{}).(func()); ok {
		heedHangup()
	}
	if err := c.load(cmd.Flags()); err != nil {
		return err
	}
	if err := checkVersion(cmd.Flags(), c.server.version); err != nil {
		return err
	}
	logger, err := c.log.logger(cmd.ErrOrStderr())
	c.logger = logger
	return err
}

// serverFlags say where the server is and how to talk to it.
type serverFlags struct {
	url, host, unix   string
	port              uint16
	scheme            choice // with host
	path              string // of a WebSocket, with host
	bind              string
	version           protocol
	keepAlive         wholeSeconds
	pingDelay         seconds
	connectTimeout    seconds
	receiveMaximum    uint16
	maxPacketSize     size
	connectProperties properties
}

func (s *serverFlags) group(configFile *string) *group {
	g := newGroup("Connection")
	s.version, s.keepAlive, s.connectTimeout = v5, wholeSeconds(time.Minute), seconds(30*time.Second)
	g.StringVarP(&s.url, "url", "L", "mqtt://localhost", "the server's `URL`: mqtt, mqtts, ws or wss ://user:password@host:port/path, where the path of mqtt and mqtts is a topic; or unix:///path")
	g.StringVarP(&s.host, "host", "h", "", "the server's `HOST`, in place of a URL")
	g.Uint16VarP(&s.port, "port", "p", 0, "the server's `PORT`, with --host or alone (1883, or 8883 with TLS flags)")
	s.scheme.words = schemes
	g.Var(&s.scheme, "protocol", "how to talk to --host")
	g.StringVar(&s.path, "path", "", "the `PATH` of a WebSocket at --host")
	g.StringVar(&s.unix, "unix", "", "the `PATH` of the server's Unix socket")
	g.StringVarP(&s.bind, "bind", "A", "", "connect from this `ADDRESS` of ours")
	g.VarP(&s.version, "protocol-version", "V", "of MQTT: 5 or 3.1.1")
	g.VarP(&s.keepAlive, "keep-alive", "k", "keep alive interval; 0 switches it off")
	g.Var(&s.pingDelay, "ping-delay", "how long before the end of the keep alive interval to send a ping")
	g.Var(&s.connectTimeout, "connect-timeout", "how long an attempt to connect may take")
	g.Uint16Var(&s.receiveMaximum, "receive-maximum", 0, "how many unacknowledged `MESSAGES` the server may send (default 1024)")
	g.Var(&s.maxPacketSize, "maximum-packet-size", "the largest packet that the server may send (default 64 MiB)")
	g.Var(&s.connectProperties, "connect-property", "user property of CONNECT; may be repeated")
	g.BoolVar(new(bool), "nodelay", false, "send at once, as is always done")
	g.Lookup("nodelay").Hidden = true // Mosquitto's
	g.StringVarP(configFile, "config", "c", "", "read these flags, and HBMQTT's keys, from a YAML `FILE`")
	g.only5("receive-maximum", "connect-property")
	return g
}

// schemes are those of servers with a host.
var schemes = []string{"mqtt", "mqtts", "ws", "wss"}

// address returns the server's URL.
func (s *serverFlags) address(secure bool) (string, error) {
	switch {
	case s.unix != "":
		return "unix:" + (&url.URL{Path: s.unix}).EscapedPath(), nil
	case s.host == "" && s.port == 0 && s.scheme.word == "" && s.path == "":
		return s.url, nil
	case strings.Contains(s.host, "://"):
		return "", usagef("--host %q is a URL: give it with --url", s.host)
	case strings.HasPrefix(s.host, "-"):
		return "", usagef("--host needs a host, and %q is a flag; --help shows the flags", s.host)
	}
	host, scheme := cmp.Or(s.host, "localhost"), cmp.Or(s.scheme.word, "mqtt")
	if secure && s.scheme.word == "" {
		scheme = "mqtts"
	}
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	}
	u := url.URL{Scheme: scheme, Host: host, Path: s.path}
	switch a, err := netip.ParseAddr(host); {
	case s.port != 0:
		u.Host = net.JoinHostPort(host, strconv.Itoa(int(s.port)))
	case err == nil && a.Is6():
		u.Host = "[" + host + "]"
	}
	return u.String(), nil
}

// cutTopic takes the topic from the URL of a server, where Mosquitto's programs have it, and returns it.
func (s *serverFlags) cutTopic() string {
	scheme, rest, found := strings.Cut(s.url, "://")
	if !found || !slices.Contains([]string{"mqtt", "mqtts", "tcp", "ssl", "tls"}, strings.ToLower(scheme)) {
		return ""
	}
	authority, topic, _ := strings.Cut(rest, "/")
	if strings.Contains(topic, "@") {
		return "" // what is before it may be a password
	}
	s.url = scheme + "://" + authority
	return topic
}

// onlyTopic is the topic of a flag, or that of the URL.
func (s *serverFlags) onlyTopic(flag string) (string, error) {
	topic := s.cutTopic()
	if topic != "" && flag != "" {
		return "", usagef("the URL has a topic, %s, and so has -t: give one", topic)
	}
	return cmp.Or(flag, topic), nil
}

// bindOption has connections begin at an address of ours. A dialer of the program's own would have the proxies of the
// environment forgotten.
func (s *serverFlags) bindOption(o *options, server, proxy string) error {
	if s.bind == "" {
		return nil
	}
	local, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(s.bind, "0"))
	if err != nil {
		return usagef("--bind: %w", err)
	}
	u, err := transport.ParseURL(server)
	switch {
	case err != nil:
		return nil // connecting says what is wrong
	case u.Scheme == "unix":
		return usagef("--bind is for TCP, which a Unix socket is not")
	}
	o.add(mqtt.WithDialer((&net.Dialer{LocalAddr: local}).DialContext))
	if proxy != "" {
		return nil
	}
	fromEnvironment, err := transport.ProxyFromEnvironment(u)
	if err == nil {
		o.add(mqtt.WithProxy(fromEnvironment))
	}
	return err
}

func (s *serverFlags) options(o *options) {
	o.add(mqtt.WithKeepAlive(time.Duration(s.keepAlive)), mqtt.WithPingLead(time.Duration(s.pingDelay)), mqtt.WithConnectTimeout(time.Duration(s.connectTimeout)))
	if s.maxPacketSize > 0 {
		o.add(mqtt.WithMaximumPacketSize(int(s.maxPacketSize)))
	}
	if s.receiveMaximum > 0 {
		o.add5(mqtt.WithReceiveMaximum(int(s.receiveMaximum)))
	}
	if len(s.connectProperties) > 0 {
		o.add5(mqtt.WithUserProperties(s.connectProperties...))
	}
}

// identityFlags say who the client is.
type identityFlags struct {
	clientID, idPrefix               string
	username, password, passwordFile string
	auth                             choice
}

func (i *identityFlags) group() *group {
	g := newGroup("Identity")
	i.auth.words = []string{"scram-sha-256", "scram-sha-512"}
	g.StringVarP(&i.clientID, "id", "i", "", "client `IDENTIFIER` (default petrel-COMMAND/PID-HOST)")
	g.StringVarP(&i.idPrefix, "id-prefix", "I", "", "`PREFIX` of a client identifier that ends with process id and host")
	g.StringVarP(&i.username, "username", "u", "", "user `NAME`")
	g.StringVarP(&i.password, "password", "P", "", "`PASSWORD`; others can see it here, so better use PETREL_PASSWORD or the next flag")
	g.StringVar(&i.passwordFile, "password-file", "", "`FILE` whose first line is the password; read at every attempt to connect")
	g.Var(&i.auth, "auth", "authenticate with this method, which does not send the password")
	g.only5("auth")
	return g
}

// id returns the client identifier.
func (i *identityFlags) id(given bool, command string) string {
	if given {
		return i.clientID
	}
	prefix := i.idPrefix
	if prefix == "" {
		prefix = "petrel-" + command + "/"
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), host)
}

func (i *identityFlags) options(o *options, given func(string) bool, server string) error {
	username, password, hasPassword := i.username, i.password, given("password")
	if u, err := url.Parse(server); err == nil && u.User != nil && !given("username") {
		username = u.User.Username()
		if inURL, found := u.User.Password(); found && !hasPassword {
			password, hasPassword = inURL, true
		}
	}
	if i.passwordFile != "" {
		if _, err := firstLine(i.passwordFile); err != nil {
			return usagef("--password-file: %w", err)
		}
	}
	switch {
	case i.auth.word != "" && (username == "" || !hasPassword && i.passwordFile == ""):
		return usagef("--auth needs a user name (-u) and a password (-P, PETREL_PASSWORD or --password-file)")
	case i.auth.word != "":
		o.add5(mqtt.WithAuthenticator(&authenticator{flags: i, username: username, password: password}))
	case i.passwordFile != "":
		o.add(mqtt.WithCredentialsFunc(func(context.Context) (string, string, error) {
			password, err := firstLine(i.passwordFile)
			return username, password, err
		}))
	case hasPassword:
		o.add(mqtt.WithCredentials(username, password))
	case given("username"):
		o.add(mqtt.WithUsername(username))
	}
	return nil
}

// firstLine reads the first line of a file.
func firstLine(path string) (string, error) {
	text, err := os.ReadFile(path)
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), err
}

// authenticator is that of --auth, with the password that the file has at each attempt.
type authenticator struct {
	mqtt.Authenticator // of the latest exchange
	flags              *identityFlags
	username, password string
}

func (a *authenticator) Method() string { return strings.ToUpper(a.flags.auth.word) }

func (a *authenticator) Start(ctx context.Context) ([]byte, error) {
	if a.flags.passwordFile != "" {
		var err error
		if a.password, err = firstLine(a.flags.passwordFile); err != nil {
			return nil, err
		}
	}
	method := scram.SHA256
	if a.flags.auth.word == "scram-sha-512" {
		method = scram.SHA512
	}
	a.Authenticator = method(a.username, a.password)
	return a.Authenticator.Start(ctx)
}

// sessionFlags say how long the server keeps the client's session.
type sessionFlags struct {
	clean, noClean bool
	expiry         sessionExpiry
}

func (s *sessionFlags) group() *group {
	g := newGroup("Session")
	g.BoolVar(&s.clean, "clean", true, "begin a new session, and end it at the disconnect")
	g.BoolVar(&s.noClean, "no-clean", false, "go on with the session of this client identifier, and leave it on the server")
	g.VarP(&s.expiry, "session-expiry", "x", "how long the server keeps the session after the disconnect, or \"never\" (default 0, with --no-clean never)")
	g.only5("session-expiry")
	return g
}

// keep reports whether the session is to outlive the command.
func (s *sessionFlags) keep() bool { return s.noClean || !s.clean }

func (s *sessionFlags) options(o *options, given func(string) bool) error {
	if s.keep() {
		if !given("id") {
			return usagef("--no-clean needs a client identifier, to which the session belongs: give it with -i")
		}
		o.add(mqtt.WithCleanStart(false))
	}
	switch {
	case given("session-expiry"):
		o.add5(mqtt.WithSessionExpiry(time.Duration(s.expiry)))
	case s.keep():
		o.add5(mqtt.WithSessionExpiry(mqtt.SessionNeverExpires))
	}
	return nil
}

// willFlags are the message that the server publishes when the connection breaks.
type willFlags struct {
	topic, message string
	qos            level
	retain         bool
	properties     propertyFlags
	delay          wholeSeconds
}

func (w *willFlags) group() *group {
	g := newGroup("Will")
	g.StringVar(&w.topic, "will-topic", "", "`TOPIC` of the message that the server sends when the connection breaks")
	g.StringVar(&w.message, "will-message", "", "its `PAYLOAD`")
	g.Var(&w.qos, "will-qos", "its QoS")
	g.BoolVar(&w.retain, "will-retain", false, "the server keeps it")
	g.Var(&w.delay, "will-delay", "how long the server waits before it sends it")
	w.properties.add(g, "will-", "its ")
	g.only5("will-delay")
	return g
}

func (w *willFlags) options(o *options, given func(string) bool) error {
	if w.topic == "" {
		for _, name := range []string{
			"will-message", "will-qos", "will-retain", "will-delay", "will-content-type", "will-response-topic",
			"will-correlation-data", "will-expiry", "will-utf8", "will-user-property",
		} {
			if given(name) {
				return usagef("--%s needs --will-topic", name)
			}
		}
		return nil
	}
	o.add(mqtt.WithWill(w.topic, []byte(w.message), mqtt.QoS(w.qos), mqtt.RetainFlag(w.retain)))
	if p := w.properties.publish(); p != nil || w.delay > 0 {
		will := mqtt.WillProperties{WillDelay: time.Duration(w.delay)}
		if p != nil {
			will.UTF8Payload, will.MessageExpiry, will.ContentType = p.UTF8Payload, p.MessageExpiry, p.ContentType
			will.ResponseTopic, will.CorrelationData, will.UserProperties = p.ResponseTopic, p.CorrelationData, p.UserProperties
		}
		o.add5(mqtt.WithWillProperties(&will))
	}
	return nil
}

// reconnectFlags say when to connect again.
type reconnectFlags struct {
	on           bool
	retries      int
	delay, most  seconds
	connectRetry bool
	stubborn     bool
}

func (r *reconnectFlags) group() *group {
	g := newGroup("Reconnecting")
	r.delay, r.most = seconds(time.Second), seconds(time.Minute)
	g.BoolVar(&r.on, "reconnect", true, "connect again when the connection is lost")
	g.IntVar(&r.retries, "reconnect-retries", -1, "give up after this `NUMBER` of failed attempts in a row; -1: never")
	g.Var(&r.delay, "reconnect-delay", "the longest first wait between attempts, which doubles")
	g.Var(&r.most, "reconnect-max-interval", "the longest wait between attempts")
	g.BoolVar(&r.connectRetry, "connect-retry", false, "wait for a server that is not there at the start")
	g.BoolVar(&r.stubborn, "retry-refused", false, "go on trying after a refusal that would come again, such as \"not authorized\"")
	return g
}

func (r *reconnectFlags) options(o *options) error {
	if r.delay == 0 || r.most == 0 {
		return usagef("--reconnect-delay and --reconnect-max-interval must be longer than 0")
	}
	if r.connectRetry {
		o.add(mqtt.WithConnectRetry())
	}
	if !r.on || r.retries == 0 {
		if r.stubborn {
			return usagef("--retry-refused needs --reconnect, and --reconnect-retries other than 0")
		}
		o.add(mqtt.WithoutReconnect())
		return nil
	}
	policy := mqtt.ReconnectPolicy{
		InitialDelay: time.Duration(min(r.delay, r.most)),
		MaxDelay:     time.Duration(r.most),
		MaxAttempts:  max(0, r.retries),
	}
	if r.stubborn {
		policy.Decide = func(_ context.Context, f mqtt.Failure) (time.Duration, error) { return f.Delay, nil }
	}
	o.add(mqtt.WithReconnect(policy))
	return nil
}

// options are those of a client, by the versions that take them.
type options struct {
	both  []mqtt.Option
	only5 []mqtt.OptionV5
}

func (o *options) add(opts ...mqtt.Option)    { o.both = append(o.both, opts...) }
func (o *options) add5(opts ...mqtt.OptionV5) { o.only5 = append(o.only5, opts...) }

// client is a connected client of either version.
type client struct {
	mqtt.Client
	v5 mqtt.ClientV5 // nil with MQTT 3.1.1
}

// dialerKey is the key of a context's value with which tests replace the network.
type dialerKey struct{}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// connect connects as the flags say. suffix is appended to the client identifier, for commands with several clients.
func (c *connection) connect(cmd *cobra.Command, suffix string, more ...mqtt.Option) (*client, error) {
	server, o, err := c.options(cmd, suffix)
	if err != nil {
		return nil, err
	}
	o.add(more...)
	return dial(cmd.Context(), server, c.server.version, o)
}

func dial(ctx context.Context, server string, version protocol, o *options) (*client, error) {
	if version == v311 {
		c, err := mqtt.NewClientV311(ctx, server, o.both...)
		if err != nil {
			return nil, dialError(err)
		}
		return &client{Client: c}, nil
	}
	c, err := mqtt.NewClient(ctx, server, append(o.only5, mqtt.Options(o.both))...)
	if err != nil {
		return nil, dialError(err)
	}
	return &client{mqtt.Common(c), c}, nil
}

// dialError tells a wrong option, which is a wrong flag, from a failed attempt.
func dialError(err error) error {
	var connect *mqtt.ConnectError
	if errors.As(err, &connect) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &exitError{exitUsage, err}
}

// options returns the server and the client's options.
func (c *connection) options(cmd *cobra.Command, suffix string) (server string, o *options, err error) {
	given := cmd.Flags().Changed
	o = new(options)
	if server, err = c.server.address(c.tls.given(given)); err != nil {
		return "", nil, err
	}
	credentialed := server
	if c.identity.auth.word != "" {
		server = withoutUser(server) // else the password would be sent
	}
	o.add(mqtt.WithClientID(c.identity.id(given("id"), c.name) + suffix))
	c.server.options(o)
	c.log.options(o, c.logger, c.server.version)
	err = errors.Join(
		c.identity.options(o, given, credentialed), c.session.options(o, given), c.will.options(o, given), c.reconnect.options(o),
		c.tls.options(o, given, server), c.websocket.options(o, server), c.server.bindOption(o, server, c.websocket.proxy),
	)
	if d, ok := cmd.Context().Value(dialerKey{}).(dialer); ok {
		o.add(mqtt.WithDialer(d))
	}
	return server, o, err
}

func withoutUser(server string) string {
	u, err := transport.ParseURL(server)
	if err != nil {
		return server // connecting says what is wrong
	}
	u.User = nil
	return u.String()
}

// finish disconnects in an orderly way: it waits a little for what is in flight, also when ctx has ended.
func (c *client) finish(ctx context.Context) error {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return c.Disconnect(ctx)
}
