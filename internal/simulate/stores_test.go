package simulate_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// Some mortals keep a store, as a service with a disk does. Their clients may be killed: from then on nothing of the client
// reaches the network, and its successor finds what the store had written by then. The store is slow, and it fails. What
// PublishAsync has accepted has to arrive all the same, in order, and at QoS 2 once.

// disk is the store of a mortal.
type disk struct {
	mu    sync.Mutex
	store *storetest.Memory
}

var errDiskFull = errors.New("no space left on device")

// open returns the store for the next client, and how that client reaches the network until it is killed.
func (c *simulated) open() (opts mqtt.Options, dead *atomic.Bool) {
	dead = new(atomic.Bool)
	dial := c.s.weather.dialer(c.number)
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	c.disk.store.Before(c.trouble())
	return mqtt.Options{
		mqtt.WithStore(c.disk.store),
		mqtt.WithDialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			if dead.Load() {
				return nil, syscall.ENETUNREACH
			}
			return dial(ctx, network, address)
		}),
	}, dead
}

// trouble is what the store of one client does besides its work, until it is calm.
func (c *simulated) trouble() func(context.Context, []mqtt.StoreChange) error {
	r := c.s.random(forStore, c.number, c.instances)
	slow, failing := oneIn(r, 3), oneIn(r, 3)
	return func(context.Context, []mqtt.StoreChange) error {
		switch {
		case c.s.isCalm():
		case slow && oneIn(r, 2):
			time.Sleep(below(r, 50*time.Millisecond))
		case failing && oneIn(r, 4):
			return errDiskFull
		}
		return nil
	}
}

// kill ends a client without a word, and its process with it.
func (c *simulated) kill(now *instance) {
	c.s.note(c.id, "client %d is killed", now.number)
	c.disk.mu.Lock() // what is accepted from now on nobody hears of
	now.killed = time.Now()
	now.dead.Store(true)
	c.disk.store = c.disk.store.Crash()
	c.disk.mu.Unlock()
	c.s.network.each(func(s *server) { s.Cut(c.id) })
	now.Close() // of what is left of it
}

// accept notes that PublishAsync has accepted a message, if its process is still alive to know.
func (m *published) accept() {
	c := m.publisher.client
	if !c.stored || m.qos == 0 {
		return
	}
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	m.onDisk = m.delivery.Err() == nil && m.instance.Err() == nil && !m.instance.dead.Load()
	if m.onDisk && *simulateSeeds == 1 {
		c.s.note(c.id, "client %d has accepted %v", m.instance.number, m)
	}
}

// checkStored checks that a message was published that a client with a store had accepted, if only the end of the client has
// kept it from saying so.
func (s *simulation) checkStored(m *published) {
	c := m.publisher.client
	switch {
	case !m.onDisk || m.expiry > 0 || len(m.accepted) > 0 || c.denied.Load() || s.mayNotTake(m):
	case m.done && m.err != nil && !m.endedWithClient():
	case m.qos == mqtt.ExactlyOnce && s.witness.sessions(c.id) > 1: // it may have been sent in an earlier one
	default:
		s.problem("%v was stored, and is lost: %v", m, m.err)
	}
}

// sentAfterDeath reports whether a message may be published although it was withdrawn or had expired: its client may have been
// killed before the store knew.
func (m *published) sentAfterDeath() bool {
	given := errors.Is(m.err, mqtt.ErrExpired) || strings.Contains(m.err.Error(), "withdrawn")
	return given && m.instance.dead.Load() && !m.came.Before(m.instance.killed)
}

// endedWithClient reports whether the outcome of a message is that its client has ended.
func (m *published) endedWithClient() bool {
	return m.err != nil && m.instance.Err() != nil && errors.Is(m.err, m.instance.Err())
}

// checkReceivedOnce checks that no client of a mortal with a store gets a message at QoS 2 again that an earlier one has
// acknowledged.
func (c *simulated) checkReceivedOnce() {
	if !c.stored {
		return
	}
	for _, m := range c.s.messages {
		p := m.passage(c)
		if m.qos != mqtt.ExactlyOnce || m.retain || m.sessions > 1 || p.repeat || p.denied || m.publisher.client.denied.Load() || c.s.witness.sessions(c.id) > 1 {
			continue
		}
		for _, l := range c.listeners {
			if l.sub != nil && l.has(m) && acknowledgedBefore(p, l.instance) {
				c.s.problem("%s gets %v, which an earlier client has acknowledged", l.name, m)
			}
		}
	}
}

func acknowledgedBefore(p *passage, now *instance) bool {
	for _, a := range p.acked {
		if a.by != nil && a.by.number < now.number {
			return true
		}
	}
	return false
}

// keepStore decides whether a mortal keeps a store.
func (c *simulated) keepStore(r *rand.Rand) {
	if c.mortal && oneIn(r, 2) {
		c.stored = true
		c.disk = &disk{store: new(storetest.Memory)}
	}
}
