package mqtt_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// To play more: go test -run TestStoreRandom -store-seeds 50000 -timeout 2h .
var (
	storeSeed  = flag.Int("store-seed", 0, "the first seed that TestStoreRandom plays")
	storeSeeds = flag.Int("store-seeds", 0, "how many seeds TestStoreRandom plays; 0: as many as a test run has time for")
)

// Processes with a store publish and receive, and die at random moments; connections are cut, and the store is slow and fails. In
// the end every message that PublishAsync has accepted is at the broker, at QoS 2 once, and in order; every message from the broker
// was delivered; and the store is empty.
func TestStoreRandom(t *testing.T) {
	seeds := *storeSeeds
	if seeds == 0 {
		seeds = 150
		if testing.Short() || raceEnabled {
			seeds = 20
		}
	}
	for seed := *storeSeed; seed < *storeSeed+seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := []codec.Version{codec.V5, codec.V311}[seed%2]
				w := &lives{t: t, v: v, rng: rand.New(rand.NewPCG(uint64(seed), 0)), broker: mqtttest.NewBroker(t)}
				w.play()
			})
		})
	}
}

// lives is one play: processes that follow one another.
type lives struct {
	t      *testing.T
	v      codec.Version
	rng    *rand.Rand // of the goroutine that plays
	broker *mqtttest.Broker
	store  storetest.Memory
	next   [3]int // number of the next message to each topic; each belongs to one goroutine
	sent   int    // messages to the processes

	mu       sync.Mutex // guards the fields below
	accepted map[string]struct{}
	received map[string]int
}

func topicOf(i int) string { return fmt.Sprint("t", i) }

// qosOf is the QoS of all messages to a topic.
func qosOf(i int) mqtt.QoS { return mqtt.QoS(1 + i%2) }

func (w *lives) play() {
	w.accepted, w.received = make(map[string]struct{}), make(map[string]int)
	store := &w.store
	for range 2 + w.rng.IntN(5) {
		store = w.life(store)
	}
	w.last(store)
	w.compare()
}

// connect makes a client that can be killed.
func (w *lives) connect(store *storetest.Memory, dead *atomic.Bool) mqtt.Client {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if dead.Load() {
			return nil, errors.New("this process is dead")
		}
		return w.broker.DialContext(ctx, network, address)
	}
	policy := mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 5 * time.Millisecond, MaxDelay: 50 * time.Millisecond})
	return reconnectingAs(w.t, w.v, dial, mqtt.WithStore(store), mqtt.WithClientID("process"), policy,
		mqtt.WithMaxInFlight(1+w.rng.IntN(8)), mqtt.WithConnectRetry())
}

// life is that of one process: it returns what is left of its store.
func (w *lives) life(store *storetest.Memory) *storetest.Memory {
	var dead atomic.Bool
	store.Before(w.trouble())
	c := w.connect(store, &dead)
	w.receive(c)
	working, stop := context.WithCancel(w.t.Context())
	var publishers sync.WaitGroup
	for i := range w.next {
		pause := time.Duration(w.rng.IntN(10)) * time.Millisecond
		publishers.Go(func() { w.publish(working, c, &dead, i, pause) })
	}
	for range w.rng.IntN(5) {
		time.Sleep(time.Duration(w.rng.IntN(60)) * time.Millisecond)
		if w.rng.IntN(2) == 0 {
			w.broker.Cut("process")
		}
		w.sent++
		w.broker.Publish(mqtttest.Message{Topic: "in", Payload: []byte(fmt.Sprint(w.sent)), QoS: 2})
	}
	time.Sleep(time.Duration(w.rng.IntN(30)) * time.Millisecond)
	if w.rng.IntN(4) == 0 { // an orderly end
		stop()
		publishers.Wait()
		c.Close()
		return store.Crash()
	}
	w.mu.Lock() // whoever is told later that a message is accepted is dead
	dead.Store(true)
	left := store.Crash()
	w.mu.Unlock()
	w.broker.Cut("process")
	stop()
	publishers.Wait()
	return left
}

// trouble is what the store of one process does besides its work.
func (w *lives) trouble() func(context.Context, []mqtt.StoreChange) error {
	slow, failing := w.rng.IntN(3) == 0, w.rng.IntN(3) == 0
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 0)) // of the goroutine that uses the store
	return func(context.Context, []mqtt.StoreChange) error {
		if slow {
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		if failing && rng.IntN(4) == 0 {
			return errFull
		}
		return nil
	}
}

// publish publishes to one topic until ctx ends.
func (w *lives) publish(ctx context.Context, c mqtt.Client, dead *atomic.Bool, i int, pause time.Duration) {
	for ctx.Err() == nil {
		payload := fmt.Sprintf("%s:%d", topicOf(i), w.next[i])
		w.next[i]++
		d := c.PublishAsync(ctx, topicOf(i), []byte(payload), qosOf(i))
		w.mu.Lock()
		if d.Err() == nil && ctx.Err() == nil && !dead.Load() {
			w.accepted[payload] = struct{}{}
		}
		w.mu.Unlock()
		time.Sleep(pause + time.Millisecond)
	}
}

func (w *lives) receive(c mqtt.Client) {
	sub, err := c.Subscribe(w.t.Context(), "in", mqtt.ExactlyOnce)
	if err != nil {
		w.t.Error(err)
		return
	}
	go func() {
		for m := range sub.Messages() {
			w.mu.Lock()
			w.received[string(m.Payload)]++
			w.mu.Unlock()
		}
	}()
}

// last is the process that brings everything to its end.
func (w *lives) last(store *storetest.Memory) {
	c := w.connect(store, new(atomic.Bool))
	w.receive(c)
	for range 1000 {
		if len(c.Outstanding()) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	settle()
	if n := len(c.Outstanding()); n > 0 {
		w.t.Errorf("%d messages are outstanding", n)
	}
	if n := store.Len(); n != 1 {
		w.t.Errorf("the store has %d keys in the end, and not only whose it is", n)
	}
}

func (w *lives) compare() {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := make(map[string]int)
	last := make(map[string]int)
	for _, m := range w.broker.Received("t0", "t1", "t2") {
		payload := string(m.Payload)
		seen[payload]++
		var topic, n int
		fmt.Sscanf(payload, "t%d:%d", &topic, &n)
		if seen[payload] == 1 && n < last[m.Topic] {
			w.t.Errorf("%s came behind number %d", payload, last[m.Topic])
		}
		if seen[payload] > 1 && m.QoS == 2 {
			w.t.Errorf("%s came %d times at QoS 2", payload, seen[payload])
		}
		last[m.Topic] = max(last[m.Topic], n)
	}
	var lost []string
	for payload := range w.accepted {
		if seen[payload] == 0 {
			lost = append(lost, payload)
		}
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		w.t.Errorf("%d of %d accepted messages are lost: %v", len(lost), len(w.accepted), lost)
	}
	for n := 1; n <= w.sent; n++ {
		if w.received[fmt.Sprint(n)] == 0 {
			w.t.Errorf("message %d to the processes was never delivered", n)
		}
	}
}
