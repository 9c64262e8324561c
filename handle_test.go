package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

var errHandler = errors.New("the database is down")

// handled notes what a handler is called with.
type handled struct {
	mu    sync.Mutex
	calls []string
	times []time.Duration // since the first call
	began time.Time
}

func (h *handled) note(m mqtt.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.began.IsZero() {
		h.began = time.Now()
	}
	h.calls = append(h.calls, m.Topic+string(m.Payload))
	h.times = append(h.times, time.Since(h.began))
}

func (h *handled) want(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := strings.Join(h.calls, " "); got != want {
		t.Errorf("handled are\n%s, want\n%s", got, want)
	}
}

// inWorkers runs a test with one worker, which is the goroutine of Handle, and with four.
func inWorkers(t *testing.T, f func(t *testing.T, workers mqtt.Workers)) {
	t.Helper()
	for _, n := range []mqtt.Workers{1, 4} {
		t.Run(fmt.Sprint(n, " workers"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, n) })
		})
	}
}

// Handle runs up to so many calls at a time, waits for them, and returns nil at the end of ctx, otherwise the subscription's Err.
func TestDeliverHandle(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "a", mqtt.AtLeastOnce)
		for _, workers := range []int{0, -1} {
			if err := sub.Handle(t.Context(), nil, mqtt.Workers(workers)); err == nil {
				t.Errorf("%d workers are accepted", workers)
			}
		}
		var now, most, all atomic.Int32
		handle := func(context.Context, mqtt.Message) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			all.Add(1)
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		handling := startErr(func() error { return sub.Handle(ctx, handle, mqtt.Workers(3), mqtt.Key(nil)) })
		for range 9 {
			b.Publish(text("a", "", 1))
		}
		time.Sleep(2500 * time.Millisecond)
		cancel()
		if err := handling.wait(); err != nil || now.Load() != 0 || most.Load() != 3 || all.Load() != 9 {
			t.Errorf("%v, %d running, %d at most, %d in all", err, now.Load(), most.Load(), all.Load())
		}

		var order []string
		handling = startErr(func() error {
			return sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
				order = append(order, string(m.Payload))
				return nil
			})
		})
		for i := range 5 {
			b.Publish(text("a", fmt.Sprint(i), 1))
		}
		synctest.Wait()
		if err := sub.Unsubscribe(t.Context()); err != nil {
			t.Error(err)
		}
		if err := handling.wait(); err != nil || strings.Join(order, " ") != "0 1 2 3 4" {
			t.Errorf("%v, %v", err, order)
		}

		another := subscribe(t, c, "b")
		handling = startErr(func() error { return another.Handle(t.Context(), handle, mqtt.Workers(2)) })
		synctest.Wait()
		c.Close()
		if err := handling.wait(); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}

// A message whose handling fails is tried again, those of its topic wait for it in their order, and others pass.
func TestHandleRetries(t *testing.T) {
	inWorkers(t, func(t *testing.T, workers mqtt.Workers) {
		c := startConsuming(t, codec.V5)
		var h handled
		failures := 2
		handling := startErr(func() error {
			return c.sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
				h.note(m)
				if m.Topic == "a" && failures > 0 {
					failures--
					return errHandler
				}
				return nil
			}, workers, mqtt.RetryPolicy{InitialDelay: time.Second, Factor: 3})
		})
		for _, m := range []string{"a1", "a2", "b3", "a4", "b5"} {
			c.Publish(text(m[:1], m[1:], 1))
			synctest.Wait()
		}
		h.want(t, "a1 b3 b5")
		c.wantUnacknowledged(t, "1 2 3 4 5") // in order, so 1 holds back the others
		time.Sleep(time.Minute)
		h.want(t, "a1 b3 b5 a1 a1 a2 a4")
		if first, second := h.times[3], h.times[4]-h.times[3]; first < time.Second/2 || first > time.Second || second < 3*time.Second/2 || second > 3*time.Second {
			t.Errorf("the retries come after %v and %v", first, second)
		}
		c.wantUnacknowledged(t, "")
		noErr(t, c.sub.Unsubscribe(t.Context()))
		noErr(t, handling.wait())
	})
}

// The default policy is over within 30 s. Then the DeadLetter gets the message and the error, and it is acknowledged.
func TestHandleDeadLetter(t *testing.T) {
	inWorkers(t, func(t *testing.T, workers mqtt.Workers) {
		c := startConsuming(t, codec.V5)
		var h, dead handled
		var last error
		go c.sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
			h.note(m)
			if string(m.Payload) == "1" {
				return errHandler
			}
			return nil
		}, workers, mqtt.DeadLetter(func(_ context.Context, m mqtt.Message, err error) error {
			dead.note(m)
			last = err
			return nil
		}))
		c.Publish(text("a", "1", 1))
		c.Publish(text("a", "2", 2))
		time.Sleep(30 * time.Second)
		h.want(t, strings.Repeat("a1 ", 8)+"a2")
		dead.want(t, "a1")
		if !errors.Is(last, errHandler) {
			t.Errorf("the DeadLetter is told %v", last)
		}
		c.wantUnacknowledged(t, "")
	})
}

// A Permanent error goes to the DeadLetter at once. If that fails, it is called again, and the message stays.
func TestHandlePermanent(t *testing.T) {
	inWorkers(t, func(t *testing.T, workers mqtt.Workers) {
		c := startConsuming(t, codec.V5)
		var h, dead handled
		go c.sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
			h.note(m)
			return mqtt.Permanent(errHandler)
		}, workers, mqtt.RetryPolicy{MaxDelay: time.Minute}, mqtt.DeadLetter(func(_ context.Context, m mqtt.Message, err error) error {
			dead.note(m)
			if len(dead.calls) < 3 {
				return errors.New("no place for dead letters")
			}
			return m.Reject(mqtt.ImplementationSpecificError, "cannot be handled")
		}))
		refused := make(chan codec.ReasonCode, 1)
		c.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if a, ok := p.(*codec.Puback); ok && !outbound {
				refused <- a.Code
			}
			return true
		})
		c.Publish(text("a", "1", 1))
		time.Sleep(90 * time.Second)
		h.want(t, "a1")
		dead.want(t, "a1 a1")
		c.wantUnacknowledged(t, "1")
		time.Sleep(90 * time.Second)
		dead.want(t, "a1 a1 a1")
		c.wantUnacknowledged(t, "")
		if code := <-refused; code != codec.ImplementationSpecificError {
			t.Errorf("the server is told %v", code)
		}
	})
}

// Without a DeadLetter Handle ends, with the message unacknowledged.
func TestHandleGivesUp(t *testing.T) {
	inWorkers(t, func(t *testing.T, workers mqtt.Workers) {
		c := startConsuming(t, codec.V5)
		c.send("a", 1, 3)
		err := c.sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
			if string(m.Payload) == "2" {
				return errHandler
			}
			return nil
		}, workers, mqtt.RetryPolicy{Attempts: 3})
		var failed *mqtt.HandleError
		if !errors.As(err, &failed) || !errors.Is(err, errHandler) || failed.Attempts != 3 || failed.Topic != "a" {
			t.Errorf("Handle returns %v", err)
		}
		c.wantUnacknowledged(t, "2 3")
		if got := taken(t, c.sub, until("3")); got != "2 3" {
			t.Errorf("the next loop gets %q", got)
		}
	})
}

// At the end of ctx handlers that run finish; what waits for its retry is given back in its order.
func TestHandleGivesBack(t *testing.T) {
	inWorkers(t, func(t *testing.T, workers mqtt.Workers) {
		c := startConsuming(t, codec.V5)
		ctx, cancel := context.WithCancel(t.Context())
		handling := startErr(func() error {
			return c.sub.Handle(ctx, func(ctx context.Context, m mqtt.Message) error {
				switch m.Topic {
				case "fails":
					return errHandler
				case "slow":
					time.Sleep(time.Minute)
				}
				return ctx.Err()
			}, workers, mqtt.RetryPolicy{InitialDelay: time.Hour, Within: 10 * time.Hour})
		})
		for i, topic := range []string{"fails", "good", "fails", "slow", "slow", "good"} {
			c.Publish(text(topic, fmt.Sprint(i), 2))
			synctest.Wait()
		}
		cancel()
		handling.pending(t, "a handler runs")
		time.Sleep(time.Minute)
		noErr(t, handling.wait())
		want := "0 2 4"
		if workers == 1 {
			want = "0 2 4 5"
		}
		if got := taken(t, c.sub, until(want[len(want)-1:])); got != want {
			t.Errorf("the next loop gets %q, want %q", got, want)
		}
	})
}

// Unsubscribe lets what was taken be finished, retries included.
func TestHandleAndUnsubscribe(t *testing.T) {
	inWorkers(t, func(t *testing.T, workers mqtt.Workers) {
		c := startConsuming(t, codec.V5)
		var h handled
		handling := startErr(func() error {
			return c.sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
				h.note(m)
				if len(h.calls) < 3 {
					return errHandler
				}
				return nil
			}, workers)
		})
		c.send("a", 1, 2)
		noErr(t, c.sub.Unsubscribe(t.Context()))
		noErr(t, handling.wait())
		h.want(t, "a1 a1 a1 a2")
		c.wantUnacknowledged(t, "")
	})
}

// Key says which messages stay in order; the number of workers says how many are handled at a time.
func TestHandleKeys(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		var mu sync.Mutex
		orders := make(map[string][]string)
		running, most := 0, 0
		go c.sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			running--
			key, n, _ := strings.Cut(string(m.Payload), " ")
			orders[key] = append(orders[key], n)
			return nil
		}, mqtt.Workers(3), mqtt.Key(func(m mqtt.Message) string {
			key, _, _ := strings.Cut(string(m.Payload), " ")
			return key
		}))
		want := make(map[string][]string)
		for i := range 300 {
			key, n := string(rune('a'+i%7)), fmt.Sprintf("%03d", i)
			want[key] = append(want[key], n)
			c.Publish(text(fmt.Sprint("topic/", i%11), key+" "+n, byte(1+i%2)))
		}
		time.Sleep(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		for key := range want {
			if !slices.Equal(orders[key], want[key]) {
				t.Errorf("messages of %s are handled in the order %v", key, orders[key])
			}
		}
		if most != 3 {
			t.Errorf("%d messages were handled at a time, want 3", most)
		}
		c.wantUnacknowledged(t, "")
	})
}

// Handlers that fail at random, through reconnects: all messages are processed or in the dead letters, and each topic's are
// processed in order.
func TestHandleRandomly(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng, weather := rand.New(rand.NewPCG(seed, 14)), rand.New(rand.NewPCG(seed, 15))
			b := mqtttest.NewBroker(t)
			client := reconnectingAs(t, codec.V5, b.DialContext, mqtt.WithClientID("consumer"), mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Second}))
			sub, err := client.Subscribe(t.Context(), "#", mqtt.ExactlyOnce)
			noErr(t, err)
			var mu sync.Mutex
			done := make(map[string][]int)
			dead := 0
			finish := func(m mqtt.Message) {
				var n int
				fmt.Sscan(string(m.Payload), &n)
				done[m.Topic] = append(done[m.Topic], n)
			}
			workers := mqtt.Workers(1 + weather.IntN(8))
			handling := startErr(func() error {
				return sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
					time.Sleep(time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					if rng.IntN(10) < 3 {
						return errHandler
					}
					finish(m)
					return nil
				}, workers, mqtt.RetryPolicy{Attempts: 3}, mqtt.DeadLetter(func(_ context.Context, m mqtt.Message, _ error) error {
					mu.Lock()
					defer mu.Unlock()
					if rng.IntN(2) == 0 {
						return errHandler
					}
					dead++
					finish(m)
					return nil
				}))
			})
			const n = 1000
			for i := range n {
				b.Publish(text(fmt.Sprint(i%5), fmt.Sprint(i), 2))
				if i%100 == 50 {
					b.Cut("consumer")
					time.Sleep(time.Duration(weather.IntN(3000)) * time.Millisecond)
				}
			}
			time.Sleep(time.Hour)
			all := 0
			mu.Lock()
			for topic, order := range done {
				all += len(order)
				if !slices.IsSorted(order) {
					t.Errorf("seed %d: topic %s is processed in the order %v", seed, topic, order)
				}
			}
			mu.Unlock()
			if all != n || dead == 0 {
				t.Errorf("seed %d: %d of %d are processed, %d are dead", seed, all, n, dead)
			}
			if left := b.Unacknowledged("consumer"); len(left) > 0 {
				t.Errorf("seed %d: %d are not acknowledged", seed, len(left))
			}
			client.Close()
			handling.wait()
		})
	}
}

// troubled is what becomes of messages to topics of which some fail 3 times in 10.
type troubled struct {
	others, all     time.Duration // when the last message to a topic that never fails was handled, and the last of all
	calls           int           // of the handler
	handled, dead   int
	inOrder, waited bool // of each topic; nothing is left unacknowledged
}

// failSome publishes messages to 10 topics at once, and handles each in a millisecond, in 8 workers. Those of the first topics
// fail.
func failSome(t *testing.T, messages, topics int) (f troubled) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(7, 7))
		b := mqtttest.NewBroker(t)
		client := reconnectingAs(t, codec.V5, b.DialContext, mqtt.WithClientID("consumer"))
		sub, err := client.Subscribe(t.Context(), "#", mqtt.AtLeastOnce)
		noErr(t, err)
		for i := range messages {
			b.Publish(text(fmt.Sprint(i%10), fmt.Sprintf("%09d", i), 1))
		}
		synctest.Wait()
		var mu sync.Mutex
		began, last := time.Now(), make(map[string]string)
		f.inOrder = true
		finish := func(m mqtt.Message) {
			f.inOrder = f.inOrder && last[m.Topic] < string(m.Payload)
			last[m.Topic] = string(m.Payload)
			f.all = time.Since(began)
			if m.Topic[0] >= '0'+byte(topics) {
				f.others = f.all
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		noErr(t, sub.Handle(ctx, func(_ context.Context, m mqtt.Message) error {
			time.Sleep(time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			f.calls++
			if m.Topic[0] < '0'+byte(topics) && rng.IntN(10) < 3 {
				return errHandler
			}
			f.handled++
			finish(m)
			return nil
		}, mqtt.Workers(8), mqtt.RetryPolicy{Attempts: 3}, mqtt.DeadLetter(func(_ context.Context, m mqtt.Message, _ error) error {
			mu.Lock()
			defer mu.Unlock()
			f.dead++
			finish(m)
			return nil
		})))
		f.waited = len(b.Unacknowledged("consumer")) == 0
	})
	return f
}

// Messages of one topic that fail do not slow down those of other topics, as long as the Receive Maximum has room for what
// comes after the message that is tried again.
func TestHandleOthersPass(t *testing.T) {
	without, with := failSome(t, 1000, 0), failSome(t, 1000, 1)
	if with.others > without.others*11/10 {
		t.Errorf("the other topics take %v, and %v where nothing fails", with.others, without.others)
	}
	all := failSome(t, 1000, 10)
	for _, f := range []troubled{without, with, all} {
		if f.handled+f.dead != 1000 || !f.inOrder || !f.waited {
			t.Errorf("%+v", f)
		}
	}
	if without.dead > 0 || all.dead == 0 {
		t.Errorf("%d and %d are dead", without.dead, all.dead)
	}
}

func TestHandleOptions(t *testing.T) {
	sub := mqtt.NewSubscription("a", nil)
	for _, opt := range []mqtt.HandleOption{
		mqtt.Workers(0), mqtt.Workers(-1),
		mqtt.RetryPolicy{Attempts: -1}, mqtt.RetryPolicy{Factor: 0.5}, mqtt.RetryPolicy{Within: -1},
		mqtt.RetryPolicy{InitialDelay: time.Minute, MaxDelay: time.Second}, mqtt.RetryPolicy{InitialDelay: -1},
	} {
		if err := sub.Handle(t.Context(), nil, opt); err == nil {
			t.Errorf("%T %+v is accepted", opt, opt)
		}
	}
}
