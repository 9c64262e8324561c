package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// relay is a process that publishes on one server what arrives at another. Something happens to it at one of its events: those are
// the beginning and the end of each Apply, and each packet of either server.
type relay struct {
	t              *testing.T
	v              codec.Version
	source, target *mqtttest.Broker
	slow           time.Duration // how long an Apply takes

	mu         sync.Mutex // guards the fields below
	store      *storetest.Memory
	dead       bool
	lives      int // processes that have begun
	events     int
	subscribed bool           // since the latest loss of the session, as far as the source knows
	at         map[int]func() // what happens at which event; called with mu held
}

var errDead = errors.New("this process is dead")

// event is called at each event.
func (r *relay) event() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events++
	if f := r.at[r.events]; f != nil && !r.dead {
		f()
	}
}

// die ends the process: nothing of it is seen any more.
// The caller holds mu.
func (r *relay) die() {
	r.dead = true
	r.store = r.store.Crash()
	r.source.Cut()
	r.target.Cut()
}

func (r *relay) intercept(_ string, _ bool, p codec.Packet) bool {
	if p.Type() != codec.PINGREQ && p.Type() != codec.PINGRESP {
		r.event()
	}
	if p.Type() == codec.SUBSCRIBE {
		r.mu.Lock()
		r.subscribed = true
		r.mu.Unlock()
	}
	return true
}

// watched is the store of one process, whose Applies are events.
type watched struct {
	mqtt.Store
	relay *relay
}

func (w watched) Apply(ctx context.Context, changes []mqtt.StoreChange) error {
	w.relay.event()
	time.Sleep(w.relay.slow)
	err := w.Store.Apply(ctx, changes)
	w.relay.event()
	return err
}

// start begins a process, which relays until it dies or ctx ends.
func (r *relay) start(ctx context.Context) {
	r.mu.Lock()
	r.dead = false
	r.lives++
	life := r.lives
	receiving, publishing := mqtt.ForwardingStores(watched{r.store, r})
	r.mu.Unlock()
	connect := func(b *mqtttest.Broker, s mqtt.Store) mqtt.Client {
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			r.mu.Lock()
			dead := r.dead || life != r.lives
			r.mu.Unlock()
			if dead {
				return nil, errDead
			}
			return b.DialContext(ctx, network, address)
		}
		options := mqtt.Options{mqtt.WithStore(s), mqtt.WithClientID("relay"), mqtt.WithConnectInBackground(),
			mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond})}
		return reconnectingAs(r.t, r.v, dial, options)
	}
	from, to := connect(r.source, receiving), connect(r.target, publishing)
	go r.work(ctx, from, to)
}

func (r *relay) work(ctx context.Context, from, to mqtt.Client) {
	sub, err := from.Subscribe(ctx, "in/#", mqtt.ExactlyOnce)
	if err != nil {
		return // the process is dead
	}
	sub.Handle(ctx, func(ctx context.Context, m mqtt.Message) error {
		d := to.PublishAsync(ctx, "out/"+m.Topic, m.Payload, m.QoS, mqtt.Forwards(m))
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.dead || ctx.Err() != nil {
			return mqtt.Permanent(errDead)
		}
		return d.Err()
	}, mqtt.Workers(3))
}

// publish publishes at the source: to one topic for each QoS.
func (r *relay) publish(from, n int) {
	for i := from; i < from+n; i++ {
		r.source.Publish(mqtttest.Message{Topic: fmt.Sprint("in/", 1+i%2), Payload: fmt.Append(nil, i%2+1, ":", i), QoS: byte(1 + i%2)})
	}
}

// play has things happen at events of the first process while it forwards messages 0 to 5, calls restart, and lets a second one
// bring everything to its end, and forward 6 to 11.
func (r *relay) play(at map[int]func(), restart func()) (events int) {
	r.source, r.target, r.store = mqtttest.NewBroker(r.t), mqtttest.NewBroker(r.t), new(storetest.Memory)
	r.source.Intercept(r.intercept)
	r.target.Intercept(r.intercept)
	first, stop := context.WithCancel(r.t.Context())
	r.start(first)
	r.source.AwaitSubscription(bounded(r.t, time.Second), "in/#")
	time.Sleep(time.Second)
	r.mu.Lock()
	r.events, r.at = 0, at
	r.mu.Unlock()
	r.publish(0, 6)
	time.Sleep(5 * time.Second)
	r.mu.Lock()
	r.die()
	events = r.events
	r.at = nil
	r.mu.Unlock()
	stop()
	time.Sleep(time.Second)
	restart()
	r.start(r.t.Context())
	r.source.AwaitSubscription(bounded(r.t, time.Second), "in/#")
	time.Sleep(time.Second)
	r.publish(6, 6)
	time.Sleep(5 * time.Second)
	return events
}

func bounded(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// compare looks at what has come to the target: all from a number on, at QoS 2 once, in order, and none is left.
func (r *relay) compare(from int) {
	copies := make(map[string]int)
	last := make(map[string]int)
	for _, m := range r.target.Received("out/#") {
		var qos, n int
		fmt.Sscanf(string(m.Payload), "%d:%d", &qos, &n)
		if copies[string(m.Payload)]++; copies[string(m.Payload)] == 1 && n < last[m.Topic] {
			r.t.Errorf("%s came behind %d", m.Payload, last[m.Topic])
		}
		last[m.Topic] = max(last[m.Topic], n)
	}
	for i := range 12 {
		payload := fmt.Sprintf("%d:%d", i%2+1, i)
		if n := copies[payload]; n == 0 && i >= from || n > 1 && i%2 == 1 {
			r.t.Errorf("%s came %d times", payload, n)
		}
	}
	if left := r.source.Unacknowledged("relay"); len(left) > 0 {
		r.t.Errorf("%d messages are not acknowledged", len(left))
	}
	if n := r.store.Len(); n != 2 {
		r.t.Errorf("the store has %d keys, and not only whose it is", n)
	}
}

// eachEvent plays once with event 0, which there is not, and then with each one up to those that there were.
func eachEvent(t *testing.T, play func(r *relay, n int) (events int)) {
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			events := 0
			for n := 0; n <= events; n++ {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { events = max(events, play(&relay{t: t, v: v}, n)) })
				})
			}
			if events < 40 {
				t.Errorf("%d events", events)
			}
		})
	}
}

// A process that forwards dies at each of its events: nothing is lost, and nothing comes twice at QoS 2.
func TestForwardingCrash(t *testing.T) {
	eachEvent(t, func(r *relay, n int) int {
		events := r.play(map[int]func(){n: r.die}, func() {})
		r.compare(0)
		return events
	})
}

// loseNext has the next message of the source lost, so that it comes as a resend.
func (r *relay) loseNext() {
	r.source.Fault(mqtttest.Fault{Packet: "PUBLISH", Outbound: true, Times: 1, Cut: true, Bytes: 5})
}

// The source has lost the session while the process was dead: what the store has of the old session is not taken for messages of
// the new one, which have the same identifiers.
func TestForwardingSessionLost(t *testing.T) {
	eachEvent(t, func(r *relay, n int) int {
		events := r.play(map[int]func(){n: r.die}, func() {
			r.source.Forget("relay")
			r.loseNext()
		})
		r.compare(6)
		return events
	})
}

// The source loses the session while the process works, which dies soon after that. Once it has sent something in the new session,
// the store has nothing of the old one. A message before that cannot have come, and one that comes later is not taken for another
// one unless it is a resend.
func TestForwardingSessionLostAndCrash(t *testing.T) {
	for _, later := range []int{5, 13} {
		t.Run(fmt.Sprint(later), func(t *testing.T) {
			eachEvent(t, func(r *relay, n int) int {
				r.slow = 30 * time.Millisecond // during which the relay connects again
				lose := func() {
					r.subscribed = false
					r.source.Forget("relay")
				}
				events := r.play(map[int]func(){n: lose, n + later: r.die}, func() {
					if r.subscribed {
						r.loseNext()
					}
				})
				r.compare(6)
				return events
			})
		})
	}
}

// Each half is one client's until both have let go of the store, and a store that cannot be loaded is free afterwards.
func TestForwardingLoad(t *testing.T) {
	ctx := t.Context()
	store := new(storetest.Memory)
	receiving, publishing := mqtt.ForwardingStores(store)
	nothing := func(_, _ []byte) error { return nil }
	check := func(name string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("receiving", receiving.Load(ctx, nothing), nil)
	check("receiving, again", receiving.Load(ctx, nothing), mqtt.ErrStoreInUse)
	check("the store", store.Load(ctx, nothing), mqtt.ErrStoreInUse)
	check("apply", receiving.Apply(ctx, []mqtt.StoreChange{{Key: []byte{1}, Value: []byte("r")}}), nil)
	check("publishing, refused", publishing.Load(ctx, nothing), nil)
	check("apply", publishing.Apply(ctx, []mqtt.StoreChange{{Key: []byte{1}, Value: []byte("p")}}), nil)
	check("release", receiving.Release(), nil)
	check("receiving, while publishing is used", receiving.Load(ctx, nothing), mqtt.ErrStoreInUse)
	check("release", publishing.Release(), nil)
	for half, want := range map[mqtt.Store]string{receiving: "r", publishing: "p"} {
		got := ""
		check("again", half.Load(ctx, func(key, value []byte) error { got += fmt.Sprint(key, string(value)); return nil }), nil)
		if got != "[1]"+want && got != "[1] "+want {
			t.Errorf("%q is in the half of %s", got, want)
		}
	}
	check("release", receiving.Release(), nil)
	check("release", publishing.Release(), nil)
	check("refused", receiving.Load(ctx, func(_, _ []byte) error { return errDead }), errDead)
	check("the store afterwards", store.Load(ctx, nothing), nil)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	check("no time", publishing.Apply(canceled, nil), context.Canceled)
}

// reminded is an Authenticator whose RenewAfter does something: the client calls it between the renewal of its store and the new
// session.
type reminded struct{ renew func() }

func (reminded) Method() string                                          { return "m" }
func (reminded) Start(context.Context) ([]byte, error)                   { return nil, nil }
func (reminded) Continue(_ context.Context, data []byte) ([]byte, error) { return data, nil }
func (reminded) Finish(context.Context, []byte) error                    { return nil }
func (r reminded) RenewAfter() time.Duration                             { r.renew(); return 0 }

// What the store has of a message that was forwarded, and not acknowledged, goes with the session or with the message: after a crash
// another message with its identifier would be taken for it.
func TestForwardingLeavesNoRecord(t *testing.T) {
	for name, c := range map[string]struct {
		forward func(f *forwarder)
		more    int // records in the store
	}{
		"the session is lost after it": {func(f *forwarder) {
			noErr(f.t, f.forward())
			f.renew()
		}, 1},
		"the session is lost, and the new one has not begun": {func(f *forwarder) {
			f.renewing = func() { noErr(f.t, f.forward()) }
			f.renew()
		}, 1},
		"the store has it in spite of its error": {func(f *forwarder) {
			f.store.lies.Store(true)
			if err := f.forward(); !errors.Is(err, errFull) {
				f.t.Error(err)
			}
			f.store.lies.Store(false)
		}, 0},
		"the store has it in spite of its error, and takes it again": {func(f *forwarder) {
			f.store.lies.Store(true)
			if err := f.forward(); !errors.Is(err, errFull) {
				f.t.Error(err)
			}
			f.store.lies.Store(false)
			settle()
			noErr(f.t, f.forward())
			noErr(f.t, f.to.PublishAsync(f.t.Context(), "u", nil, mqtt.ExactlyOnce).Err())
		}, 3},
		"the session is lost when others were acknowledged": {func(f *forwarder) {
			for id := range uint16(20) {
				noErr(f.t, f.forward())
				noErr(f.t, f.message.Ack())
				f.wantPackets("PUBREC " + fmt.Sprint(7+id))
				f.Send(&codec.Pubrel{PacketID: 7 + id})
				f.wantPackets("PUBCOMP " + fmt.Sprint(7+id))
				f.Send(toT(2, 8+id, "x"))
				f.next()
			}
			f.store.Before(func(_ context.Context, changes []mqtt.StoreChange) error {
				if n := len(changes); n > 5 {
					f.t.Errorf("%d changes for a new session", n)
				}
				return nil
			})
			f.renew()
		}, 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newForwarder(t)
				settle()
				before := f.store.Len()
				c.forward(f)
				settle()
				if n := f.store.Len() - before; n != c.more {
					t.Errorf("the store has %d records more, and not %d", n, c.more)
				}
			})
		})
	}
}

// forwarder is two clients of which the first has received a message, on a scripted server. The server of the second one is away.
type forwarder struct {
	*pair
	store    *gossip
	to       mqtt.Client
	sub      *mqtt.Subscription
	message  mqtt.Message
	renewing func() // what happens between the renewal of the store and the new session; nil: nothing
}

func newForwarder(t *testing.T) *forwarder {
	f := &forwarder{pair: &pair{t: t, server: mqtttest.NewServer(t, codec.V5)}, store: &gossip{Memory: new(storetest.Memory)}}
	receiving, publishing := mqtt.ForwardingStores(f.store)
	target := mqtttest.NewBroker(t)
	target.Offline()
	f.to = mqtt.Common(reconnectingV5(t, target.DialContext, mqtt.WithStore(publishing), mqtt.WithConnectInBackground()))
	from := reconnectingV5(t, f.server.DialContext, mqtt.WithStore(receiving), mqtt.WithConnectInBackground(),
		mqtt.WithClientID("c"), mqtt.WithAuthenticator(reminded{func() {
			if f.renewing != nil {
				f.renewing()
			}
		}}))
	f.accept(welcome(nil))
	subscribing := start(func() (*mqtt.Subscription, error) {
		return from.Subscribe(t.Context(), "t", mqtt.ExactlyOnce, mqtt.ManualAck)
	})
	f.Send(&codec.Suback{PacketID: mqtttest.ReceiveAs[*codec.Subscribe](f.Script).PacketID, Codes: []codec.ReasonCode{2}})
	f.sub = subscribing.value(t)
	f.Send(toT(2, 7, "x"))
	f.next()
	return f
}

func (f *forwarder) next() {
	f.t.Helper()
	m, err := f.sub.Next(f.t.Context())
	noErr(f.t, err)
	f.message = m
}

func (f *forwarder) forward() error {
	return f.to.PublishAsync(f.t.Context(), "u", f.message.Payload, f.message.QoS, mqtt.Forwards(f.message)).Err()
}

// renew lets the client connect again to a server that has lost the session.
func (f *forwarder) renew() {
	f.t.Helper()
	f.Cut()
	f.accept(welcome(nil))
	mqtttest.ReceiveAs[*codec.Subscribe](f.Script)
}
