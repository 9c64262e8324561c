package broker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/petrel-mqtt/mqtt/broker/internal/stats"
)

// Broker is a broker. Its methods may be called concurrently.
type Broker struct {
	config  Config
	plugins []Plugin
	log     *slog.Logger

	patience time.Duration // for CONNECT; connectTimeout but in tests

	ctx    context.Context // ends when Shutdown begins
	cancel context.CancelFunc

	door      *door
	passwords atomic.Pointer[Passwords] // replaced by Reload; nil without a password file
	acl       atomic.Pointer[acl]       // replaced by Reload; nil allows everything

	mu       sync.Mutex    // guards started, and is held by Start and Reload
	started  bool          // Start has succeeded
	finished chan struct{} // closed when nothing runs any more
	stop     sync.Once

	// Written by Start, before it succeeds.
	server    *mochi.Server
	listeners []*listener
	monitor   *monitor // nil without MetricsBind
}

// New checks a configuration and returns a broker that does not run yet. It reads no file.
func New(c Config, plugins ...Plugin) (*Broker, error) {
	c.Listeners = slices.Clone(c.Listeners)
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.checkPlugins(plugins); err != nil {
		return nil, err
	}
	plugins = c.active(plugins)
	authenticates := slices.ContainsFunc(plugins, func(p Plugin) bool { return p.Authenticate != nil })
	identifies := slices.ContainsFunc(c.Listeners, func(l Listener) bool { return l.UseIdentityAsUsername })
	if !c.Auth.AllowAnonymous && c.Auth.PasswordFile == "" && !authenticates && !identifies {
		return nil, errors.New("auth: nobody could connect; give a password-file, or set allow-anonymous: true")
	}
	b := &Broker{config: c, plugins: plugins, log: c.Logger, patience: connectTimeout, finished: make(chan struct{})}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.door = newDoor(c.Auth.MaxFailedAttempts)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// Start reads the files that the configuration names, listens, and returns while the broker runs. ctx bounds that only. A
// broker can be started once; if that fails, nothing is left running. The error is a *FileError if one of the files is
// wrong, else the machine refuses what the configuration asks for, such as an address that is taken.
func (b *Broker) Start(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.server != nil:
		return errors.New("broker: was started before")
	case b.ctx.Err() != nil:
		return errors.New("broker: was shut down")
	}
	b.warn(b.config.Warnings)
	b.server = mochi.New(b.options())
	err := b.start(ctx)
	if err != nil {
		b.abandon()
		return err
	}
	b.started = true
	for _, l := range b.listeners {
		log := b.log.With("listener", l.config.Name, "url", l.url())
		if l.config.MaxConnections > 0 {
			log = log.With("max-connections", l.config.MaxConnections)
		}
		log.Info("listening")
	}
	if b.monitor != nil {
		b.log.Info("answers /metrics, /healthz and /readyz", "url", "http://"+b.monitor.socket.Addr().String())
	}
	return nil
}

func (b *Broker) start(ctx context.Context) error {
	for _, c := range b.config.Listeners {
		l, err := listen(ctx, c, b.log, b.patience)
		if err != nil {
			return err
		}
		b.listeners = append(b.listeners, l)
	}
	if err := b.load(); err != nil {
		return err
	}
	b.server.Info.Version = "petrel, mochi " + mochi.Version
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return err
	}
	if path := b.config.PersistenceFile; path != "" {
		if err := b.server.AddHook(new(store), storeOptions(path)); err != nil {
			return storeError(path, err)
		}
	}
	for _, l := range b.listeners {
		if err := b.server.AddListener(l); err != nil {
			return err
		}
	}
	if err := b.server.Serve(); err != nil {
		return err
	}
	if b.config.SysInterval == 0 {
		b.forgetSys()
	}
	if bind := b.config.MetricsBind; bind != "" {
		m, err := startMonitor(ctx, bind, b, b.log)
		if err != nil {
			return err
		}
		b.monitor = m
	}
	return nil
}

// snapshot returns what the broker has counted.
func (b *Broker) snapshot() stats.Snapshot {
	i := b.server.Info.Clone()
	return stats.Snapshot{
		Version: i.Version, Uptime: time.Duration(i.Uptime) * time.Second,
		Connected: i.ClientsConnected, MaxConnected: i.ClientsMaximum, Disconnected: i.ClientsDisconnected,
		Subscriptions: i.Subscriptions, Retained: i.Retained, InFlight: i.Inflight, Heap: heap(),
		PacketsReceived: uint64(i.PacketsReceived), PacketsSent: uint64(i.PacketsSent),
		BytesReceived: uint64(i.BytesReceived), BytesSent: uint64(i.BytesSent),
		PublishReceived: uint64(i.MessagesReceived), PublishSent: uint64(i.MessagesSent), Dropped: uint64(i.MessagesDropped),
	}
}

// ready says why clients cannot use the broker; nil if they can.
func (b *Broker) ready() error {
	if b.ctx.Err() != nil {
		return errShuttingDown
	}
	return nil
}

func (b *Broker) options() *mochi.Options {
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumMessageExpiryInterval = 0 // mochi's default removes every retained message after a day
	capabilities.MaximumClientWritesPending = int32(b.config.MaxQueuedMessages)
	capabilities.MaximumInflight = uint16(2 * b.config.MaxQueuedMessages) // so that the other one drops, and tells
	capabilities.MaximumPacketSize = uint32(b.config.MaxPacketSize)
	capabilities.MinimumProtocolVersion = 4
	capabilities.TopicAliasMaximum = 0 // mochi would look at the ACL before the alias; conn.resolve is before both
	capabilities.Compatibilities.NoInheritedPropertiesOnAck = true
	return &mochi.Options{
		Capabilities:           capabilities,
		Logger:                 slog.New(quieter{b.log.Handler()}),
		SysTopicResendInterval: cmp.Or(int64(b.config.SysInterval/time.Second), never),
		// With a buffer, mochi holds acknowledgements back while messages wait for room in the client's window.
		ClientNetWriteBufferSize: 1,
	}
}

const never = 1 << 32 // seconds

// forgetSys removes the $SYS topics that mochi has published at its start.
func (b *Broker) forgetSys() {
	for _, pk := range b.server.Topics.Messages(mochi.SysPrefix + "/#") {
		pk.Payload = nil
		b.server.Topics.RetainMessage(pk)
	}
}

// abandon undoes a Start that failed.
func (b *Broker) abandon() {
	b.cancel()
	for _, l := range b.listeners {
		l.shut()
	}
	b.listeners = nil
	b.server.Close()
	b.stop.Do(func() { close(b.finished) })
}

// Addr returns the address of a listener, or nil if there is none of this name or the broker has not started.
func (b *Broker) Addr(listener string) net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.listeners {
		if l.config.Name == listener {
			return l.socket.Addr()
		}
	}
	return nil
}

// MetricsAddr returns the address of MetricsBind, or nil if there is none or the broker has not started.
func (b *Broker) MetricsAddr() net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.monitor == nil {
		return nil
	}
	return b.monitor.socket.Addr()
}

// URLs returns where clients connect, for each listener in its order, as mqtt.NewClient takes it; none if the broker has
// not started.
func (b *Broker) URLs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var urls []string
	for _, l := range b.listeners {
		urls = append(urls, l.url())
	}
	return urls
}

// Reload reads passwords, the ACL and certificates again. If anything is wrong with them all stays as it was. Clients
// whose password has changed, or whose user is gone, are disconnected with Not authorized (0x87). The error is a *FileError
// or says that the broker does not run.
func (b *Broker) Reload() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.started || b.ctx.Err() != nil {
		return errors.New("broker: is not running")
	}
	if err := b.load(); err != nil {
		return err
	}
	for _, cl := range b.server.Clients.GetAll() {
		if c, ok := cl.Net.Conn.(*conn); ok && !c.isClosed() && b.isOutdated(c) {
			b.server.DisconnectClient(cl, packets.ErrNotAuthorized)
		}
	}
	b.log.Info("passwords, ACL and certificates read again")
	return nil
}

// isOutdated reports whether a client came in by a password that is in force no more.
func (b *Broker) isOutdated(c *conn) bool {
	return c.user != "" && b.passwords.Load().hashOf(c.user) != c.hash
}

// authorized asks the plugins, then the ACL.
func (b *Broker) authorized(c Client, access Access, name string) bool {
	switch firstOpinion(b.plugins, func(p Plugin) Decision {
		if p.Authorize == nil {
			return Abstain
		}
		return p.Authorize(c, access, name)
	}) {
	case Allow:
		return true
	case Deny:
		return false
	}
	rules := b.acl.Load()
	return rules == nil || rules.allows(c, access, name)
}

// Shutdown ends the broker: it stops listening, disconnects every client, those of MQTT 5 with Server shutting down
// (0x8B), and waits until nothing runs any more. When ctx ends before that, connections are cut, and its error is
// returned. A broker that was not started is ended too.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.cancel()
	b.mu.Lock()
	started, listeners := b.started, b.listeners
	b.mu.Unlock()
	if !started {
		return nil
	}
	b.stop.Do(func() { go b.end() })
	select {
	case <-b.finished:
		return nil
	case <-ctx.Done():
		for _, l := range listeners {
			l.each(func(s *socket) { s.Conn.Close() })
		}
		return ctx.Err()
	}
}

// end disconnects the clients and waits for them.
func (b *Broker) end() {
	defer close(b.finished)
	for _, l := range b.listeners {
		l.shut()
		l.each(func(s *socket) { s.end(lingerTimeout) }) // nobody holds the others up for longer than that
	}
	for _, cl := range b.server.Clients.GetAll() {
		if !cl.Closed() {
			b.server.DisconnectClient(cl, packets.ErrServerShuttingDown)
		}
	}
	for _, l := range b.listeners {
		l.each((*socket).hurry)
		l.running.Wait()
	}
	b.monitor.stop()
	b.server.Close()
	b.log.Info("broker has stopped")
}

// quieter makes mochi's log less important than the broker's, which tells the same in its own words: of what is not an
// error, warnings are for debugging, and the rest, which has whole packets in it, is left out.
type quieter struct{ slog.Handler }

func (q quieter) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, quieted(level))
}

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = quieted(r.Level)
	return q.Handler.Handle(ctx, r)
}

func quieted(level slog.Level) slog.Level {
	if level < slog.LevelError {
		return slog.LevelDebug
	}
	return level
}

func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}
func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }
