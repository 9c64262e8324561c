package mqtttest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Broker speaks MQTT 5.0 and 3.1.1 over an in-memory network, and over listeners and connections that it is given. It keeps
// everything in memory and watches its clients: what a conformant client does not send is a violation. Its methods may be
// called concurrently.
//
// It is as liberal with memory as a test allows: it bounds what waits for a client that does not read or is not connected, a
// million messages at QoS 1 and 2, and 64 MiB at QoS 0 while it is connected, and drops what comes then; and it keeps the
// latest messages for Received, see KeepReceived. A message that nobody has subscribed to is acknowledged with 0x10 in MQTT
// 5.0, see Subscribers.
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

// content is what the broker knows of messages, and who is to get them. The broker's lock guards it.
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

// NewBroker returns a broker for a test. It is closed when the test ends. Violations of the protocol by its clients fail the
// test.
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

// stop ends everything but the goroutines, and returns what to close so that those end.
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
