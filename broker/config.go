package broker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config says what a broker does. Start from DefaultConfig or ReadConfig: the zero value has no listener.
type Config struct {
	Listeners []Listener
	Auth      Auth

	// TimeoutDisconnectDelay is how long a connection may stay silent beyond its keep alive before it is closed. Zero is
	// what the specification says: half the keep alive [MQTT-3.1.2-22].
	TimeoutDisconnectDelay time.Duration

	// SysInterval is the time between two updates of the topics under $SYS, in whole seconds. Zero means that there are
	// none.
	SysInterval time.Duration

	// MaxPacketSize bounds the packets that clients may send, in bytes. Clients of MQTT 5 are told.
	MaxPacketSize int

	// MaxQueuedMessages bounds the messages that wait for a client that is slow, or is away and has kept its session.
	// Overflow says what becomes of more. The same bound holds for those that wait for the members of a shared
	// subscription.
	MaxQueuedMessages int

	// MaxQueuedBytes bounds the same messages in bytes, together with those that a client has not acknowledged yet.
	MaxQueuedBytes int

	// MaxMemory bounds the messages that wait for all clients together, and the retained ones, in bytes; with them sessions,
	// subscriptions, wills and packets that have come in part. A message that waits for many counts once. Beyond it every
	// queue is full, and retained messages, subscriptions and sessions that are kept are refused if they are new.
	MaxMemory int

	// Overflow says what happens to a message for a client whose queue is full, after what has expired in it was dropped;
	// "" is DropNewest.
	Overflow Overflow

	// PersistenceFile is where sessions, their messages and retained messages are kept across restarts. Without it they
	// end with the broker.
	PersistenceFile string

	// PersistenceSync says when what PersistenceFile keeps is acknowledged; "" is SyncAlways.
	PersistenceSync Sync

	// MetricsBind is the address, host:port, of a listener for programs that watch the broker: /metrics for Prometheus,
	// /healthz and /readyz. It asks nobody for a password, so it should be on loopback. Empty means that there is none.
	MetricsBind string

	// Plugins names those of the plugins given to New that are active. Nil, with Auth.Plugins nil too, means all.
	Plugins []string

	Logger *slog.Logger // nil logs nothing

	// Warnings is what ReadConfig understood, but only as HBMQTT does. Start logs it.
	Warnings []string
}

// Overflow says what happens to a message whose queue is full. What is lost is counted under $SYS.
type Overflow string

const (
	DropNewest Overflow = "drop-newest" // it is dropped
	DropOldest Overflow = "drop-oldest" // those that have waited longest are dropped until there is room for it
	EndSession Overflow = "end-session" // the session ends, so that the client learns of the loss: its next CONNECT finds no session
)

// Sync says when what has to be kept is acknowledged.
type Sync string

const (
	SyncAlways   Sync = "always"   // when it is on disk
	SyncInterval Sync = "interval" // at once; it is on disk within a second, and a crash loses what is not
)

// Listener is an address at which clients connect. An empty host in Bind means all interfaces, by IPv4 and IPv6; 0.0.0.0 means
// all of IPv4, and [::] all of IPv6.
type Listener struct {
	Name string
	Bind string // host:port; port 0 takes a free one. See below
	Type string // "tcp", or "ws" for WebSocket

	MaxConnections int // connections at a time; 0 means no limit
	MaxConnectRate int // connections a second; more wait. 0 means no limit

	SSL      bool
	CertFile string // the certificate and its chain, PEM
	KeyFile  string // its key, PEM

	// CAFile, CAPath (a folder) and CAData (the text) hold the authorities, PEM, that certificates of clients are checked
	// against. A client need not have one, unless RequireCertificate is set.
	CAFile, CAPath, CAData string
	RequireCertificate     bool

	// UseIdentityAsUsername makes the common name of the client's certificate the user name, instead of the one in CONNECT.
	// No password is looked at. It needs RequireCertificate.
	UseIdentityAsUsername bool

	// RequireUsernameAsClientID refuses clients whose client identifier is not their user name. A client that leaves it to
	// the broker to choose one gets the user name. So nobody takes over the session of another user, or what %c stands for
	// in an ACL file.
	RequireUsernameAsClientID bool

	// Origins are the web sites whose pages may connect, such as "https://example.com"; nil means all. It is for WebSocket.
	// Programs other than browsers name no origin, and may connect.
	Origins []string

	where string // where the configuration file has it
}

// Auth says who may connect, and to which topics.
type Auth struct {
	AllowAnonymous bool     // whether clients without a user name may connect
	PasswordFile   string   // who may connect with a user name; lines of user:hash
	ACLFile        string   // which topics are whose, in the format of Mosquitto's acl_file
	Plugins        []string // as Config.Plugins

	// MaxFailedAttempts is how many wrong passwords a minute may come from one address (with IPv6, from one network of 64
	// bits). After that its clients with a user name are refused with Connection rate exceeded (0x9F; 3.1.1: 3), whatever
	// their password. Zero means no limit.
	MaxFailedAttempts int

	// Topics is HBMQTT's way to say which topics are whose, by user name; "anonymous" stands for clients without one.
	// It excludes ACLFile.
	Topics *TopicCheck
}

// TopicCheck lists topic filters by user name.
type TopicCheck struct {
	Subscribe map[string][]string
	Publish   map[string][]string // nil means that everybody may publish to every topic
}

const (
	defaultSysInterval   = 20 * time.Second
	defaultMaxPacketSize = 16 << 20
	defaultMaxQueued     = 8192
	defaultQueuedBytes   = 16 << 20
	defaultMaxMemory     = 512 << 20
	anonymous            = "anonymous" // the name in TopicCheck of clients without a user name
)

// DefaultConfig returns the configuration of a broker without a configuration file: a listener "default" on port 1883 of
// the loopback interface, for everybody, with $SYS topics every 20 seconds.
func DefaultConfig() Config {
	return Config{
		Listeners:         []Listener{{Name: "default", Bind: "127.0.0.1:1883", Type: "tcp"}},
		Auth:              Auth{AllowAnonymous: true},
		SysInterval:       defaultSysInterval,
		MaxPacketSize:     defaultMaxPacketSize,
		MaxQueuedMessages: defaultMaxQueued,
		MaxQueuedBytes:    defaultQueuedBytes,
		MaxMemory:         defaultMaxMemory,
		Overflow:          DropNewest,
	}
}

// builtin are the plugins that HBMQTT's configuration files name and that are part of every broker.
var builtin = []string{"auth_anonymous", "auth.anonymous", "auth_file", "auth.file", "broker_sys", "topic_acl"}

// check returns the first thing in the configuration that cannot work, and completes addresses.
func (c *Config) check() error {
	if err := c.checkListeners(); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(c.MetricsBind); c.MetricsBind != "" && err != nil {
		return fmt.Errorf("metrics-bind: %q is not an address; write host:port, such as 127.0.0.1:9883", c.MetricsBind)
	}
	switch {
	case c.TimeoutDisconnectDelay < 0:
		return errors.New("timeout-disconnect-delay: must not be negative")
	case c.SysInterval < 0 || c.SysInterval%time.Second != 0:
		return errors.New("sys_interval: must be a whole number of seconds; 0 turns $SYS off")
	case c.MaxPacketSize < 1 || c.MaxPacketSize > maxPacketSize:
		return fmt.Errorf("max-packet-size: must be from 1 to %d bytes", maxPacketSize)
	case c.MaxQueuedMessages < 1 || c.MaxQueuedMessages > maxQueued:
		return fmt.Errorf("max-queued-messages: must be from 1 to %d", maxQueued)
	case c.Auth.MaxFailedAttempts < 0 || c.Auth.MaxFailedAttempts > maxFailedAttempts:
		return fmt.Errorf("auth.max-failed-attempts: must be from 0, which means no limit, to %d", maxFailedAttempts)
	case c.MaxQueuedBytes < 0 || c.MaxMemory < 0:
		return errors.New("max-queued-bytes and max-memory: must not be negative; 0 means the default")
	case !slices.Contains([]Overflow{"", DropNewest, DropOldest, EndSession}, c.Overflow):
		return fmt.Errorf("overflow: %q is not known; use drop-newest, drop-oldest or end-session", c.Overflow)
	case !slices.Contains([]Sync{"", SyncAlways, SyncInterval}, c.PersistenceSync):
		return fmt.Errorf("persistence-sync: %q is not known; use always or interval", c.PersistenceSync)
	case c.Auth.ACLFile != "" && c.Auth.Topics != nil:
		return errors.New("auth: acl-file and topic-check exclude each other; keep one")
	}
	return nil
}

func (c *Config) checkListeners() error {
	if len(c.Listeners) == 0 {
		return errors.New("listeners: there is none with a bind address; add one, or leave the section out for the default")
	}
	names := map[string]bool{}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		if err := l.check(); err != nil {
			return err
		}
		if names[l.Name] {
			return l.errorf("there is another listener of this name; rename one")
		}
		names[l.Name] = true
		for _, other := range c.Listeners[:i] {
			if l.excludes(&other) {
				return l.errorf("bind: %s excludes %s of listener %s; use another port", l.Bind, other.Bind, other.Name)
			}
		}
	}
	return nil
}

// excludes reports whether two listeners cannot both have their addresses, as far as addresses alone tell.
func (l *Listener) excludes(other *Listener) bool {
	a, port, _ := net.SplitHostPort(l.Bind)
	b, otherPort, _ := net.SplitHostPort(other.Bind)
	return port == otherPort && port != "0" && (a == b || holds(a, b) || holds(b, a))
}

// holds reports whether listening on all interfaces, as host says, includes listening on another address.
func holds(host, other string) bool {
	if host == "" {
		return true
	}
	all, err := netip.ParseAddr(host)
	one, otherErr := netip.ParseAddr(other)
	return err == nil && otherErr == nil && all.IsUnspecified() && all.Is4() == one.Unmap().Is4()
}

// checkPlugins compares the names in the configuration with the plugins there are.
func (c *Config) checkPlugins(plugins []Plugin) error {
	known := slices.Clone(builtin)
	for _, p := range plugins {
		if p.Name == "" || slices.Contains(known, p.Name) {
			return fmt.Errorf("plugins: %q cannot be the name of a plugin, or is one already", p.Name)
		}
		known = append(known, p.Name)
	}
	for _, name := range slices.Concat(c.Plugins, c.Auth.Plugins) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("plugins: there is no plugin %q; the nearest is %s", name, nearest(name, known))
		}
	}
	return nil
}

// active returns the plugins that are.
func (c *Config) active(plugins []Plugin) []Plugin {
	if c.Plugins == nil && c.Auth.Plugins == nil {
		return plugins
	}
	return slices.DeleteFunc(slices.Clone(plugins), func(p Plugin) bool {
		return !slices.Contains(c.Plugins, p.Name) && !slices.Contains(c.Auth.Plugins, p.Name)
	})
}

const (
	maxPacketSize = 268_435_455 // the largest Remaining Length there is
	maxQueued     = 10_000_000

	maxFailedAttempts = 1_000_000
	maxConnectRate    = 1_000_000
)

func (l *Listener) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %s", cmp.Or(l.where, "listener "+l.Name), fmt.Sprintf(format, args...))
}

func (l *Listener) check() error {
	switch {
	case l.Name == "":
		return errors.New("listeners: a listener has no name")
	case l.Type != "tcp" && l.Type != "ws":
		return l.errorf("type: %q is not known; use tcp or ws", l.Type)
	case l.MaxConnections < 0:
		return l.errorf("max-connections: must not be negative; 0 means no limit")
	case l.MaxConnectRate < 0 || l.MaxConnectRate > maxConnectRate:
		return l.errorf("max-connect-rate: must be from 0, which means no limit, to %d a second", maxConnectRate)
	case l.SSL && l.CertFile == "":
		return l.errorf("certfile: ssl needs one, and a keyfile")
	case l.SSL && l.KeyFile == "":
		return l.errorf("keyfile: ssl needs one beside the certfile")
	case l.RequireCertificate && !l.SSL:
		return l.errorf("require-certificate: needs ssl: on")
	case l.UseIdentityAsUsername && !l.RequireCertificate:
		return l.errorf("use-identity-as-username: needs require-certificate: on")
	case l.Origins != nil && l.Type != "ws":
		return l.errorf("origins: only browsers have one, and these need type: ws")
	case l.RequireCertificate && l.CAFile == "" && l.CAPath == "" && l.CAData == "":
		return l.errorf("require-certificate: needs a cafile, capath or cadata to check certificates against")
	}
	for _, origin := range l.Origins {
		if u, err := url.Parse(origin); err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			return l.errorf("origins: %q is not of the form https://host or https://host:port", origin)
		}
	}
	return l.checkBind()
}

// checkBind completes Bind with the default port.
func (l *Listener) checkBind() error {
	if l.Bind == "" {
		return l.errorf("bind: missing; give an address such as 127.0.0.1:1883")
	}
	bind := l.Bind
	if !strings.Contains(bind, ":") || strings.HasPrefix(bind, "[") && strings.HasSuffix(bind, "]") || net.ParseIP(bind) != nil {
		bind = net.JoinHostPort(strings.Trim(bind, "[]"), l.defaultPort())
	}
	_, port, err := net.SplitHostPort(bind)
	if err != nil {
		return l.errorf("bind: %q is not an address; write host:port, or [host]:port for IPv6", l.Bind)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return l.errorf("bind: %q is not a port; use a number from 0 to 65535", port)
	}
	l.Bind = bind
	return nil
}

func (l *Listener) defaultPort() string {
	switch {
	case l.Type == "ws" && l.SSL:
		return "443"
	case l.Type == "ws":
		return "80"
	case l.SSL:
		return "8883"
	default:
		return "1883"
	}
}

// network returns the network to listen in: each family has its own addresses.
func (l *Listener) network() string {
	host, _, _ := net.SplitHostPort(l.Bind)
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil || !ip.IsUnspecified():
		return "tcp"
	case ip.Is4():
		return "tcp4"
	}
	return "tcp6"
}

// scheme returns the scheme of the URL that clients use.
func (l *Listener) scheme() string {
	scheme := "mqtt"
	if l.Type == "ws" {
		scheme = "ws"
	}
	if l.SSL {
		scheme += "s"
	}
	return scheme
}
