package mqtt

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/transport"
)

// Defaults.
const (
	defaultKeepAlive      = 60 * time.Second
	defaultWriteTimeout   = 10 * time.Second // without progress
	defaultConnectTimeout = 30 * time.Second
	defaultSessionExpiry  = 5 * time.Minute
	defaultReceiveMaximum = 1024
	defaultMaxInFlight    = 1024
	safeInFlightV311      = 20 // from the first QoS 2 message on, see WithMaxInFlight
	defaultQueueMessages  = 10_000
	defaultQueueBytes     = 64 << 20
	defaultInboundLimit   = 64 << 20
	defaultParkingPlaces  = 65_535 // as many as a server can send without acknowledgement: WithInboundLimit bounds them
	defaultParkingTime    = 30 * time.Second
	defaultPoisonLimit    = 5
	defaultPacketSize     = 64 << 20
	defaultMaxRequests    = 1000
)

// config is the result of all options. It does not change after the client was made.
type config struct {
	version codec.Version
	servers []*url.URL
	dialer  transport.Dialer // without what each attempt decides
	logger  *slog.Logger     // nil: none was given

	clientID       string
	clientIDGiven  bool
	cleanStart     bool
	startGiven     bool // cleanStart is from WithCleanStart
	invented       bool // no server can have a session for clientID, because the client has generated it
	keepAlive      time.Duration
	pingLead       time.Duration // how much earlier than keepAlive PINGREQ is sent
	pingTimeout    time.Duration // 0: it follows the keep alive
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
	keepsSession      bool // the application set the session expiry, so it stays in force after Disconnect and Close
	receiveMaximum    int  // that is announced; 0: none, on MQTT 3.1.1
	receiveBound      int  // that the server must not exceed; 0: none
	maximumPacketSize int
	dropInvalidTopics bool
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
	replyQoS    *QoS // of WithReplyQoS; nil: not given

	store    Store // nil: none
	restored bool  // the store has the state of an earlier client

	topicDefaults  []topicDefault // in the order given; a later one overrides
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
		version:           v,
		servers:           []*url.URL{server},
		clientID:          "petrel-" + rand.Text(),
		cleanStart:        true,
		keepAlive:         defaultKeepAlive,
		connectTimeout:    defaultConnectTimeout,
		maximumPacketSize: defaultPacketSize,
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
		c.sessionExpiry, c.receiveMaximum = defaultSessionExpiry, defaultReceiveMaximum
	} else {
		c.limits.InFlightQoS2 = safeInFlightV311
	}
	if u := server.User; u != nil {
		c.hasUsername, c.username = true, u.Username()
		c.password, c.hasPassword = u.Password()
	}
	return c, nil
}

// finish checks what can be checked only after all options are known.
func (c *config) finish() error {
	switch {
	case c.clientID == "" && (!c.cleanStart || c.store != nil) && c.version < codec.V5:
		return errors.New("mqtt: an empty client identifier needs a clean session") // [MQTT311-3.1.3-7]
	case c.willProperties != nil && c.will == nil:
		return errors.New("mqtt: WithWillProperties: there is no will")
	case c.hasPassword && !c.hasUsername && c.version < codec.V5:
		return errors.New("mqtt: MQTT 3.1.1 has no password without a user name [MQTT-3.1.2-22]")
	}
	if err := c.finishStore(); err != nil {
		return err
	}
	c.reconnect.fill()
	if err := c.reconnect.check(); err != nil {
		return err
	}
	if err := c.checkTransport(); err != nil {
		return err
	}
	c.invented = c.version >= codec.V5 && !c.clientIDGiven && !c.startGiven && c.sessionExpiry > 0 && c.store == nil
	c.dialer.Patience = cmp.Or(c.pingTimeout, defaultWriteTimeout)
	if c.attemptFunc != nil || slices.ContainsFunc(c.servers, isSecure) {
		c.dialer.Sessions = tls.NewLRUClientSessionCache(0)
	}
	if c.dialer.NetDial == nil {
		c.dialer.Addresses = new(transport.Addresses)
	}
	if c.willProperties != nil {
		c.will.Properties = codec.WillProperties(*c.willProperties)
	}
	// Encode CONNECT once: a mistake in the options is found before anything is dialled.
	a := &connectAttempt{Attempt: Attempt{Username: c.username, Password: c.password}, cleanStart: c.cleanStart, clientID: c.clientID}
	_, err := c.connectPacket(a).Append(nil, c.version)
	if err != nil {
		return fmt.Errorf("mqtt: %w", err)
	}
	return nil
}

// storedSession is the Session Expiry Interval of a client with a store.
const storedSession = 24 * time.Hour

// finishStore checks what a store needs.
func (c *config) finishStore() error {
	switch {
	case c.store == nil:
		return nil
	case len(c.servers) > 1:
		return errors.New("mqtt: WithStore: the state belongs to one server")
	case c.startGiven && c.cleanStart:
		return errors.New("mqtt: WithStore: WithCleanStart(true) would lose the session that the state belongs to")
	case c.keepsSession && c.sessionExpiry == 0:
		return errors.New("mqtt: WithStore: the session must not end with the connection")
	case c.limits.QueueMessages == 0:
		return errors.New("mqtt: WithStore: the queue has no room")
	}
	c.cleanStart, c.noRedirect = false, true
	if c.version >= codec.V5 && !c.keepsSession {
		c.sessionExpiry = storedSession
	}
	c.keepsSession = true
	return nil
}
