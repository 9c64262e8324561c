package mqtt

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/internal/topic"
	"github.com/petrel-mqtt/mqtt/transport"
)

// OptionV5 configures an MQTT 5 client.
type OptionV5 interface {
	clientV5(*config) error
}

// Option configures a client of either version.
type Option interface {
	OptionV5
	clientV311()
}

// Options is a slice of options that is itself one option.
type Options []Option

func (o Options) clientV311() {}
func (o Options) clientV5(c *config) error {
	for _, opt := range o {
		if opt == nil {
			continue
		}
		if err := opt.clientV5(c); err != nil {
			return err
		}
	}
	return nil
}

// option and optionV5 are the client options of this package. An error they return has the option's name in front
// already.
type (
	option   func(*config) error
	optionV5 func(*config) error
)

func (o option) clientV311()                {}
func (o option) clientV5(c *config) error   { return o(c) }
func (o optionV5) clientV5(c *config) error { return o(c) }

// Defaults.
const (
	defaultKeepAlive      = 60 * time.Second
	defaultPingTimeout    = 10 * time.Second
	defaultConnectTimeout = 30 * time.Second
	defaultSessionExpiry  = 5 * time.Minute
	defaultReceiveMaximum = 1024
	defaultMaxInFlight    = 1024
	defaultQueueMessages  = 10_000
	defaultQueueBytes     = 64 << 20
	defaultInboundLimit   = 64 << 20
	defaultParkingPlaces  = 1000
	defaultParkingTime    = 30 * time.Second
	defaultPoisonLimit    = 5
	defaultMaxRequests    = 1000
)

// config is what the options say. It does not change once the client is made.
type config struct {
	version codec.Version
	servers []*url.URL
	dialer  transport.Dialer // but for what an attempt decides
	logger  *slog.Logger

	clientID       string
	cleanStart     bool
	keepAlive      time.Duration
	pingLead       time.Duration // how much earlier than that PINGREQ is sent
	pingTimeout    time.Duration
	connectTimeout time.Duration

	hasUsername, hasPassword bool
	username, password       string
	authenticator            Authenticator // nil: no enhanced authentication
	authMethod               string        // the authenticator's

	tls           *tls.Config             // nil: the zero value
	certificates  *transport.Certificates // nil: none
	header        http.Header             // of a WebSocket upgrade
	schemeOptions []schemeOption

	will           *codec.Will
	willProperties *WillProperties
	userProperties UserProperties

	noProblemInformation bool

	sessionExpiry     time.Duration
	keepsSession      bool // the application asked for this expiry, so it survives Disconnect and Close
	receiveMaximum    int  // that is announced
	receiveBound      int  // that the server must not exceed; 0: none
	maximumPacketSize int
	topicAliasMaximum int
	limits            session.Limits

	reconnect          ReconnectPolicy
	withoutReconnect   bool
	connectRetry       bool
	inBackground       bool
	noRedirect         bool
	resubscribeResumed bool
	credentialsFunc    func(ctx context.Context) (username, password string, err error)
	attemptFunc        func(ctx context.Context, a *Attempt) error

	inboundLimit  int
	parkingPlaces int
	parkingTime   time.Duration
	unmatched     func(Message)
	poisonLimit   int
	trace         *Trace

	maxRequests int

	topicDefaults  []topicDefault // in the order given; a later one wins
	filterPrefixes []string
}

type topicDefault struct {
	filter  string
	options publishOptions
}

func newConfig(v codec.Version, host string) (*config, error) {
	server, err := transport.ParseURL(host)
	if err != nil {
		return nil, fmt.Errorf("mqtt: %w", err)
	}
	c := &config{
		version:        v,
		servers:        []*url.URL{server},
		logger:         slog.New(slog.DiscardHandler),
		clientID:       "petrel-" + rand.Text(),
		cleanStart:     true,
		keepAlive:      defaultKeepAlive,
		pingTimeout:    defaultPingTimeout,
		connectTimeout: defaultConnectTimeout,
		receiveMaximum: defaultReceiveMaximum,
		limits: session.Limits{
			InFlight:      defaultMaxInFlight,
			QueueMessages: defaultQueueMessages,
			QueueBytes:    defaultQueueBytes,
		},
		inboundLimit:   defaultInboundLimit,
		parkingPlaces:  defaultParkingPlaces,
		parkingTime:    defaultParkingTime,
		poisonLimit:    defaultPoisonLimit,
		trace:          &untraced,
		maxRequests:    defaultMaxRequests,
		filterPrefixes: []string{"$queue/", "$exclusive/"},
	}
	if v >= codec.V5 {
		c.sessionExpiry = defaultSessionExpiry
	}
	if u := server.User; u != nil {
		c.hasUsername, c.username = true, u.Username()
		c.password, c.hasPassword = u.Password()
	}
	return c, nil
}

// finish checks what only all options together can tell.
func (c *config) finish() error {
	switch {
	case c.clientID == "" && !c.cleanStart && c.version < codec.V5:
		return errors.New("mqtt: an empty client identifier needs a clean session") // [MQTT311-3.1.3-7]
	case c.willProperties != nil && c.will == nil:
		return errors.New("mqtt: WithWillProperties: there is no will")
	case c.hasPassword && !c.hasUsername && c.version < codec.V5:
		return errors.New("mqtt: MQTT 3.1.1 has no password without a user name [MQTT-3.1.2-22]")
	}
	c.reconnect.fill()
	if err := c.reconnect.check(); err != nil {
		return err
	}
	if err := c.checkTransport(); err != nil {
		return err
	}
	c.dialer.Patience = c.pingTimeout
	if c.attemptFunc != nil || slices.ContainsFunc(c.servers, isSecure) {
		c.dialer.Sessions = tls.NewLRUClientSessionCache(0)
	}
	if c.dialer.NetDial == nil {
		c.dialer.Addresses = new(transport.Addresses)
	}
	if c.willProperties != nil {
		c.will.Properties = codec.WillProperties(*c.willProperties)
	}
	// A CONNECT that cannot be encoded is a mistake in the options, and found before anything is dialled.
	a := &connectAttempt{Attempt: Attempt{Username: c.username, Password: c.password}, cleanStart: c.cleanStart, clientID: c.clientID}
	_, err := c.connectPacket(a).Append(nil, c.version)
	if err != nil {
		return fmt.Errorf("mqtt: %w", err)
	}
	return nil
}

// WithClientID sets the client identifier (section 3.1.3.1). Without it the client makes one up, at random, and keeps
// it for its life. With "" the server assigns one.
func WithClientID(id string) Option {
	return option(func(c *config) error {
		c.clientID = id
		return nil
	})
}

// WithCleanStart says whether the first connect begins a new session (section 3.1.2.4), which is the default. With
// false it asks for the session of an earlier client with the same client identifier; the application vouches for
// having its state. What it does not have are the packet identifiers of messages at QoS 2 that the earlier client left half
// done: a message that gets one of those again is taken for the old one, and lost.
func WithCleanStart(clean bool) Option {
	return option(func(c *config) error {
		c.cleanStart = clean
		return nil
	})
}

// WithKeepAlive sets the Keep Alive interval (section 3.1.2.10), in whole seconds from 0 to 65,535; 0 switches it off.
// The default is 60 s. A server may ask for another. A PINGREQ is sent when nothing was sent, or nothing received, for
// that long.
func WithKeepAlive(d time.Duration) Option {
	return option(func(c *config) error {
		c.keepAlive = d
		return wholeSeconds("WithKeepAlive", d, math.MaxUint16)
	})
}

// WithPingLead has PINGREQ sent d earlier than WithKeepAlive says, but not before half of the keep alive interval, for
// servers that allow less than the one and a half intervals which the specification gives (section 3.1.2.10). The
// default is 0.
func WithPingLead(d time.Duration) Option {
	return option(func(c *config) error {
		c.pingLead = d
		if d < 0 {
			return fmt.Errorf("mqtt: WithPingLead: %v is negative", d)
		}
		return nil
	})
}

// WithPingTimeout sets how long the server may take to answer a PINGREQ, or to accept any byte of what is written to
// it, before the connection counts as lost. The default is 10 s.
func WithPingTimeout(d time.Duration) Option {
	return option(func(c *config) error {
		c.pingTimeout = d
		return positive("WithPingTimeout", d)
	})
}

// WithConnectTimeout bounds one attempt to connect: name look-up, dial, proxy, TLS, WebSocket upgrade and CONNACK
// together. The default is 30 s.
func WithConnectTimeout(d time.Duration) Option {
	return option(func(c *config) error {
		c.connectTimeout = d
		return positive("WithConnectTimeout", d)
	})
}

// WithCredentials sets user name and password (sections 3.1.3.5 and 3.1.3.6). The password is at most 65,535 bytes of
// any content, as a Go string may be: string(token) does for bytes; "" is sent as an empty password. They replace those of
// the URL. No error, log or String of this package shows them.
func WithCredentials(username, password string) Option {
	return option(func(c *config) error {
		c.hasUsername, c.username = true, username
		c.hasPassword, c.password = true, password
		return nil
	})
}

// WithUsername sets a user name and no password: some servers take a token as user name. It replaces what the URL has.
func WithUsername(username string) Option {
	return option(func(c *config) error {
		c.hasUsername, c.username = true, username
		c.hasPassword, c.password = false, ""
		return nil
	})
}

// WithCredentialsFunc asks f for user name and password at every attempt to connect. ctx bounds it: it ends with the
// connect timeout. An error of f is a failed attempt, and another follows as the policy says, unless it is wrapped by
// Permanent. With f, a server's refusal of the credentials does not end the client: the next attempt may bring fresh
// ones. The client waits for f, which must not call Close, Disconnect or Reconnect.
func WithCredentialsFunc(f func(ctx context.Context) (username, password string, err error)) Option {
	return option(func(c *config) error {
		c.credentialsFunc = f
		return nil
	})
}

// WithAttemptFunc lets f look at, and change, every attempt to connect before it is made, after a credentials function
// was asked: URL, TLS configuration, header and credentials. Its ctx and errors, and what it must not call, are as with
// WithCredentialsFunc.
func WithAttemptFunc(f func(ctx context.Context, a *Attempt) error) Option {
	return option(func(c *config) error {
		c.attemptFunc = f
		return nil
	})
}

// WithServers adds servers, to be tried in turn with the one given to NewClient, each as NewClient takes it. They are
// asked for the same session where they may have it; credentials in their URLs are not used.
func WithServers(hosts ...string) Option {
	return option(func(c *config) error {
		for _, h := range hosts {
			u, err := transport.ParseURL(h)
			if err != nil {
				return fmt.Errorf("mqtt: WithServers: %w", err)
			}
			c.servers = append(c.servers, u)
		}
		return nil
	})
}

// WithReconnect sets when the client connects again. Of this option and WithoutReconnect the last one counts.
func WithReconnect(p ReconnectPolicy) Option {
	return option(func(c *config) error {
		c.reconnect, c.withoutReconnect = p, false
		return nil
	})
}

// WithoutReconnect ends the client with its first connection. Before that Reconnect may still make another.
func WithoutReconnect() Option {
	return option(func(c *config) error {
		c.withoutReconnect = true
		return nil
	})
}

// WithConnectRetry makes NewClient try again, as the reconnect policy says, until its ctx ends. Without it the first
// failure is NewClient's error.
func WithConnectRetry() Option {
	return option(func(c *config) error {
		c.connectRetry = true
		return nil
	})
}

// WithConnectInBackground makes NewClient return at once. Its ctx is of no use then; publishes at QoS 1 and 2 are queued
// and Subscribe waits until the client is connected. See WaitConnected.
func WithConnectInBackground() Option {
	return option(func(c *config) error {
		c.inBackground = true
		return nil
	})
}

// WithoutRedirect makes the client treat a server's word to use another one as an ordinary failure, instead of following
// it.
func WithoutRedirect() Option {
	return option(func(c *config) error {
		c.noRedirect = true
		return nil
	})
}

// WithResubscribeOnResume makes subscriptions again even when the server has kept the session. MQTT 5 does that anyway;
// on MQTT 3.1.1 the server then sends all retained messages again.
func WithResubscribeOnResume() Option {
	return option(func(c *config) error {
		c.resubscribeResumed = true
		return nil
	})
}

// WithDialer replaces net.Dialer.DialContext, whose arguments it gets: network is "tcp" or "unix". ctx bounds the dial
// alone.
func WithDialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return option(func(c *config) error {
		if dial == nil {
			return errors.New("mqtt: WithDialer: nil")
		}
		c.dialer.NetDial = dial
		return nil
	})
}

// WithWill sets the message that the server publishes when the connection ends without a DISCONNECT (section 3.1.2.5).
// Of the options QoS and RetainFlag count; properties are set by WithWillProperties.
func WithWill(topicName string, payload []byte, opts ...PublishOption) Option {
	return option(func(c *config) error {
		var o publishOptions
		addOptions(&o, opts)
		switch {
		case o.qos > ExactlyOnce:
			return fmt.Errorf("mqtt: WithWill: %v", o.qos)
		case o.properties != nil || o.flags != 0:
			return errors.New("mqtt: WithWill: of the options only QoS and RetainFlag count; for properties there is WithWillProperties")
		}
		c.will = &codec.Will{Topic: topicName, Payload: bytes.Clone(payload), QoS: byte(o.qos), Retain: o.retain}
		return topicError(topicName, false, topic.CheckName(topicName)) // [MQTT-3.1.3-11]
	})
}

// WithTopicDefaults sets options for all publishes to topics that match filter. Options of the publish itself win, also
// an explicit QoS 0 and NoRetain; of several defaults that match, the one given last.
func WithTopicDefaults(filter string, opts ...PublishOption) Option {
	return option(func(c *config) error {
		d := topicDefault{filter: filter}
		addOptions(&d.options, opts)
		if d.options.qos > ExactlyOnce {
			return fmt.Errorf("mqtt: WithTopicDefaults: %v", d.options.qos)
		}
		c.topicDefaults = append(c.topicDefaults, d)
		return topicError(filter, true, topic.CheckFilter(filter))
	})
}

// WithFilterPrefixes sets the prefixes of topic filters that the server strips before it matches, each ending in "/".
// The default is "$queue/" and "$exclusive/"; the "$share/{name}/" of shared subscriptions is always known.
func WithFilterPrefixes(prefixes ...string) Option {
	return option(func(c *config) error {
		for _, p := range prefixes {
			if len(p) < 2 || p[len(p)-1] != '/' {
				return fmt.Errorf("mqtt: WithFilterPrefixes: %q does not end in a level's separator", p)
			}
		}
		c.filterPrefixes = slices.Clone(prefixes)
		return nil
	})
}

// WithQueue bounds the queue in which messages at QoS 1 and 2 wait to be sent, in messages and in bytes of their topics
// and payloads. The default is 10,000 messages and 64 MiB. An empty queue takes a message of any size. With 0 messages
// there is no queue: a publish waits itself.
func WithQueue(messages, bytes int) Option {
	return option(func(c *config) error {
		c.limits.QueueMessages, c.limits.QueueBytes = messages, bytes
		if messages < 0 || bytes < 0 {
			return errors.New("mqtt: WithQueue: negative")
		}
		return nil
	})
}

// WithMaxInFlight bounds the messages at QoS 1 and 2 that are sent and not acknowledged, 1 to 64,511. The default is
// 1,024. The server's Receive Maximum may bound them further.
func WithMaxInFlight(n int) Option {
	return option(func(c *config) error {
		c.limits.InFlight = n
		return between("WithMaxInFlight", n, 1, session.MaxInFlight)
	})
}

// WithMaximumPacketSize bounds the packets that the server may send, in bytes from 1 to 268,435,460. The default is no
// bound: buffers grow with the bytes that come, never by what a length field says.
//
// On MQTT 5 the bound is announced (section 3.1.2.11.4). A server then silently discards larger messages, after it has
// told their publishers that all is well; one that sends them all the same is disconnected with reason code 0x95. On
// MQTT 3.1.1 nothing can be announced: a larger PUBLISH is thrown away as it comes, acknowledged, counted and logged.
func WithMaximumPacketSize(bytes int) Option {
	return option(func(c *config) error {
		c.maximumPacketSize = bytes
		return between("WithMaximumPacketSize", bytes, 1, maxPacketSize)
	})
}

// WithInboundLimit bounds the messages that wait in the lines of all subscriptions, in bytes of memory, properties
// included, but not those that WithParking keeps. When they exceed it, the subscription that holds most ends as with
// EndIfStalled. The default is 64 MiB. MQTT 3.1.1 has no other bound but 65,535 packet identifiers.
func WithInboundLimit(bytes int) Option {
	return option(func(c *config) error {
		c.inboundLimit = bytes
		return between("WithInboundLimit", bytes, 1, math.MaxInt)
	})
}

// WithParking bounds what is kept for subscriptions to come: when the server resumes the session of an earlier client at
// the first connect, messages at QoS 1 and 2 that match no subscription wait, not acknowledged, up to n of them and for
// d. A Subscribe that matches gets them. What nobody claims is acknowledged, as it is at any other time. The default is
// 1,000 messages and 30 s; with 0 messages there is no parking.
func WithParking(n int, d time.Duration) Option {
	return option(func(c *config) error {
		c.parkingPlaces, c.parkingTime = n, d
		if n < 0 || d < 0 {
			return errors.New("mqtt: WithParking: negative")
		}
		return nil
	})
}

// WithPoisonLimit sets when a message is given up over which the server seems to fail: when n connections in a row have
// ended without any acknowledgement after that message was the first to be sent again, or published afresh in a new
// session. Its publisher gets an ErrOutcomeUnknown that wraps the last loss. The default is 5; with 0 no message is ever given up.
func WithPoisonLimit(n int) Option {
	return option(func(c *config) error {
		c.poisonLimit = n
		return between("WithPoisonLimit", n, 0, math.MaxInt)
	})
}

// WithUnmatched gives messages at QoS 1 and 2 that no subscription wanted to f, one at a time, after they were
// acknowledged. At most 1,000 wait for it; what comes then is passed over. f runs in a goroutine of the client, which
// Close and Disconnect wait for: f must call neither.
func WithUnmatched(f func(Message)) Option {
	return option(func(c *config) error {
		c.unmatched = f
		return nil
	})
}

// WithLogger sets where the client reports what no call can return. The default is nowhere.
func WithLogger(l *slog.Logger) Option {
	return option(func(c *config) error {
		if l == nil {
			return errors.New("mqtt: WithLogger: nil")
		}
		c.logger = l
		return nil
	})
}

// SessionNeverExpires is the longest session expiry interval.
const SessionNeverExpires = math.MaxUint32 * time.Second

// WithSessionExpiry sets the Session Expiry Interval (section 3.1.2.11.2), in whole seconds; SessionNeverExpires is the
// longest. It stays in force when the client disconnects. The default is 5 minutes while the client lives, and that
// ends with it.
func WithSessionExpiry(d time.Duration) OptionV5 {
	return optionV5(func(c *config) error {
		c.sessionExpiry, c.keepsSession = d, true
		return wholeSeconds("WithSessionExpiry", d, math.MaxUint32)
	})
}

// WithWillProperties sets the properties of the will.
func WithWillProperties(p *WillProperties) OptionV5 {
	return optionV5(func(c *config) error {
		if c.willProperties = p; p == nil {
			return nil
		}
		own := *p
		own.CorrelationData, own.UserProperties = bytes.Clone(p.CorrelationData), slices.Clone(p.UserProperties)
		c.willProperties = &own
		return wholeSeconds("WithWillProperties: WillDelay", p.WillDelay, math.MaxUint32)
	})
}

// WithUserProperties sets the user properties of CONNECT (section 3.1.2.11.8).
func WithUserProperties(u ...UserProperty) OptionV5 {
	return optionV5(func(c *config) error {
		c.userProperties = slices.Clone(u)
		return nil
	})
}

// WithReceiveMaximum bounds the messages at QoS 1 and 2 that the server may send before they are acknowledged, 1 to
// 65,535 (section 3.1.2.11.3). A server that sends more is disconnected with reason code 0x93.
//
// Without this option the client announces 1,024 and puts up with more: Mosquitto 2.0.11 stops counting once a slow
// consumer has acknowledged its first message (seen), and to disconnect it then would help nobody.
func WithReceiveMaximum(n int) OptionV5 {
	return optionV5(func(c *config) error {
		c.receiveMaximum, c.receiveBound = n, n
		return between("WithReceiveMaximum", n, 1, math.MaxUint16)
	})
}

// WithTopicAliasMaximum sets how many topic aliases the server may use (section 3.1.2.11.5), 0 to 65,535. One that uses
// more is disconnected with reason code 0x94. The application gets messages with their topic names either way. In the other
// direction the client uses aliases by itself, as many as the server takes.
//
// The default is 0, because not every server is up to it: mochi 2.7.9 sends a message that it has kept with an alias of an
// earlier connection (seen), over which the connection has to end, again and again.
func WithTopicAliasMaximum(n int) OptionV5 {
	return optionV5(func(c *config) error {
		c.topicAliasMaximum = n
		return between("WithTopicAliasMaximum", n, 0, math.MaxUint16)
	})
}

// WithoutProblemInformation asks the server for no Reason String and no User Property (section 3.1.2.11.7) but in
// PUBLISH, CONNACK and DISCONNECT. One that sends them all the same is disconnected with reason code 0x82.
func WithoutProblemInformation() OptionV5 {
	return optionV5(func(c *config) error {
		c.noProblemInformation = true
		return nil
	})
}

func wholeSeconds(name string, d time.Duration, most int64) error {
	if d < 0 || d%time.Second != 0 || int64(d/time.Second) > most {
		return fmt.Errorf("mqtt: %s: %v is not a whole number of seconds from 0 to %d", name, d, most)
	}
	return nil
}

func positive(name string, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("mqtt: %s: %v is not positive", name, d)
	}
	return nil
}

func between(name string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("mqtt: %s: %d is not between %d and %d", name, n, least, most)
	}
	return nil
}
