package mqtttest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Broker speaks MQTT 5.0 and 3.1.1 over an in-memory network, and over listeners and connections that it is given. It keeps
// everything in memory and watches its clients: a packet that a conformant client would not send is a violation. Its methods
// may be called concurrently.
//
// For a client that does not read or is not connected, up to a million messages at QoS 1 and 2 wait. While the client is
// connected, up to 64 MiB of messages at QoS 0 wait as well. The broker drops what comes when that is reached. It keeps the latest messages
// for Received, see KeepReceived. In MQTT 5.0, a message that nobody has subscribed to is acknowledged with 0x10, see Subscribers.
//
// A broker and its clients work in a testing/synctest bubble, where keep alive, session expiry, message expiry and will
// delay pass in virtual time. It has to be made inside of the bubble.
type Broker struct {
	tb        testing.TB        // nil outside of tests
	authority func() *Authority // made when it is needed
	base      settings          // what New was given
	wg        sync.WaitGroup    // every goroutine of the broker; Add only under mu, while not closed

	mu         sync.Mutex // guards what is below, and sessions and connections where they do not say otherwise
	closed     bool
	settings   *settings // of connections to come
	names      int       // how many names have been made up
	entrance   entrance
	sessions   map[string]*session // by client identifier
	content    content
	hooks      hooks
	violations []Violation
}

// entrance is where connections come in. The broker's lock guards it.
type entrance struct {
	offline   bool
	refusal   refusal
	accepted  int // how many connections there have been
	conns     map[*conn]bool
	listeners map[net.Listener]bool
}

// content is what the broker knows of messages, and of the subscriptions that get them. The broker's lock guards it.
type content struct {
	numbered          uint64 // how many messages there have been
	router            router
	retained          map[string]*message // by topic name
	record            record
	subscriptionWaits []subscriptionWait
}

// New returns a broker that is ready to use, for programs that are not tests. Close ends it.
func New(opts ...Option) *Broker {
	b := &Broker{
		authority: sync.OnceValue(NewAuthority),
		base:      defaults(),
		entrance:  entrance{conns: make(map[*conn]bool), listeners: make(map[net.Listener]bool)},
		sessions:  make(map[string]*session),
		content:   content{retained: make(map[string]*message), router: newRouter()},
	}
	for _, opt := range opts {
		opt(&b.base)
	}
	b.Reconfigure()
	return b
}

// NewBroker returns a broker for a test. It is closed when the test ends. When a client violates the protocol, the test fails.
func NewBroker(tb testing.TB, opts ...Option) *Broker {
	b := New(opts...)
	b.tb = tb
	tb.Cleanup(b.Close)
	return b
}

// Close ends the broker: its connections and listeners are closed, and it waits for all its goroutines. Calling it again
// does nothing.
func (b *Broker) Close() {
	for _, c := range b.stop() {
		_ = c.Close()
	}
	b.wg.Wait()
}

// stop ends everything except the goroutines. The goroutines end when the caller closes what stop returns.
func (b *Broker) stop() []io.Closer {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	var open []io.Closer
	for _, c := range b.leaveAll() {
		open = append(open, c.raw)
	}
	for _, s := range b.sessions {
		s.stopAlarms()
	}
	for l := range b.entrance.listeners {
		open = append(open, l)
	}
	return open
}
