package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/broker/internal/stats"
)

// Broker is a broker. Its methods may be called concurrently.
type Broker struct {
	config  Config
	plugins []Plugin
	asks    bool // a plugin has Authorize
	hears   bool // a plugin has Published
	log     *slog.Logger

	patience time.Duration // for CONNECT; connectTimeout but in tests

	ctx    context.Context // ends when Shutdown begins
	cancel context.CancelFunc

	door      *door
	passwords atomic.Pointer[Passwords] // replaced by Reload; nil without a password file
	acl       atomic.Pointer[acl]       // replaced by Reload; nil allows everything

	mu       sync.Mutex    // guards tried and started, and is held by Start and Reload
	tried    bool          // Start was called
	started  bool          // Start has succeeded
	finished chan struct{} // closed when nothing runs any more
	stop     sync.Once

	// Written by Start, before it succeeds.
	engine    *engine.Engine
	listeners []*listener
	monitor   *monitor // nil without MetricsBind
	sys       *sys
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
	for _, p := range plugins {
		b.asks, b.hears = b.asks || p.Authorize != nil, b.hears || p.Published != nil
	}
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
	case b.tried:
		return errors.New("broker: was started before")
	case b.ctx.Err() != nil:
		return errors.New("broker: was shut down")
	}
	b.warn(b.config.Warnings)
	b.tried = true
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
	if err := b.startEngine(); err != nil {
		return err
	}
	for _, l := range b.listeners {
		go l.serve(b.engine)
	}
	b.sys = startSys(b.engine, b.config.SysInterval)
	if bind := b.config.MetricsBind; bind != "" {
		m, err := startMonitor(ctx, bind, b, b.log)
		if err != nil {
			return err
		}
		b.monitor = m
	}
	return nil
}

// startEngine starts the engine with what the persistence file has.
func (b *Broker) startEngine() (err error) {
	config := b.engineConfig()
	path := b.config.PersistenceFile
	if path == "" {
		b.engine, err = engine.New(config)
		return err
	}
	s, err := openStore(path)
	if err != nil {
		return err
	}
	config.Store = s
	if b.engine, err = engine.New(config); err != nil {
		s.Close()
		return &FileError{fmt.Errorf("persistence-file: %s: %w", path, err)}
	}
	return nil
}

// snapshot returns what the broker has counted.
func (b *Broker) snapshot() stats.Snapshot {
	return b.sys.snapshot()
}

// ready says why clients cannot use the broker; nil if they can.
func (b *Broker) ready() error {
	switch {
	case b.ctx.Err() != nil:
		return errShuttingDown
	case b.engine.Failing():
		return errStoreFails
	}
	return nil
}

func (b *Broker) engineConfig() engine.Config {
	c := &b.config
	return engine.Config{
		Policy:            &policy{b},
		Log:               b.log,
		MaxPacketSize:     c.MaxPacketSize,
		MaxQueuedMessages: c.MaxQueuedMessages,
		MaxQueuedBytes:    cmp.Or(c.MaxQueuedBytes, defaultQueuedBytes),
		MaxMemory:         cmp.Or(c.MaxMemory, defaultMaxMemory),
		Overflow:          overflows[c.Overflow],
		Grace:             c.TimeoutDisconnectDelay,
		ConnectTimeout:    connectTimeout,
		LazySync:          c.PersistenceSync == SyncInterval,
	}
}

// overflows are the engine's words for those of the configuration.
var overflows = map[Overflow]engine.Overflow{
	"": engine.DropNewest, DropNewest: engine.DropNewest, DropOldest: engine.DropOldest, EndSession: engine.EndSession,
}

// abandon undoes a Start that failed.
func (b *Broker) abandon() {
	b.cancel()
	for _, l := range b.listeners {
		l.shut()
	}
	if b.engine != nil {
		b.engine.Close()
		for _, l := range b.listeners {
			l.each((*socket).hurry)
			l.running.Wait()
		}
		b.sys.stop()
		b.engine.Wait()
	}
	b.listeners = nil
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
	b.engine.Recheck()
	b.log.Info("passwords, ACL and certificates read again")
	return nil
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
	b.engine.Close()
	for _, l := range b.listeners {
		l.each((*socket).hurry)
		l.running.Wait()
	}
	b.monitor.stop()
	b.sys.stop()
	if err := b.engine.Wait(); err != nil {
		b.log.Error("cannot close the persistence file", "error", err)
	}
	b.log.Info("broker has stopped")
}
