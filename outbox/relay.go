package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// Client is what a Relay needs of an MQTT client: a mqtt.ClientV5 has it. MQTT 3.1.1 has no user properties to carry the
// identifier.
type Client interface {
	WaitConnected(ctx context.Context) error
	PublishAsync(ctx context.Context, topic string, payload []byte, opts ...mqtt.PublishOptionV5) *mqtt.Delivery
}

// Relay publishes what is in an outbox. The fields are set before Run and not changed afterwards. Of the numbers and times, 0
// is the default. Several relays, in one process or in many, may work on one outbox.
type Relay struct {
	Store  Store
	Client Client

	// Poll is how long the relay waits before it looks again into an outbox that had nothing for it: 1 s by default. Wake
	// ends the waiting.
	Poll time.Duration
	// Keys is how many keys are published at the same time: 64 by default.
	Keys int
	// PerKey is how many messages of a key are taken at a time: 32 by default.
	PerKey int
	// Bytes bounds the payloads that are taken at a time, about: 16 MiB by default.
	Bytes int
	// Hold bounds how long the relay keeps what it has taken, and on PostgreSQL a transaction, when the server does not
	// answer: 10 s by default. Another relay may publish it after that.
	Hold time.Duration
	// Pipelined lets messages of one key follow one another without waiting for acknowledgements. That is faster, and
	// costs the order when the server refuses one for the time being and takes those behind it.
	Pipelined bool

	// RetryDelay is how long a message waits after the server has refused it for the time being, or has lost the
	// connection over it: 1 s by default. It doubles with each attempt, up to RetryMaximum, 5 minutes by default.
	// What waits is the key; others go on.
	RetryDelay, RetryMaximum time.Duration
	// Attempts is how often a message may fail before it becomes a dead letter: 20 times by default.
	Attempts int

	// Logger is told of dead letters, and of a database that fails; nil: nobody.
	Logger *slog.Logger

	once  sync.Once
	waker chan struct{}

	mu      sync.Mutex // guards the fields below
	stats   Stats
	running bool
	fates   map[int64]*mqtt.Delivery // by Message.Seq: published, and not marked yet in the store
}

// Stats are counters of a Relay, from its start on.
type Stats struct {
	Published   uint64 // messages that the server acknowledged
	Retried     uint64 // attempts that failed and will be repeated
	Dead        uint64 // messages that became dead letters
	Expired     uint64 // messages whose Message Expiry Interval ended before they were published
	StoreErrors uint64 // failed calls of the Store
	Unmarked    int    // messages that were published and whose fate is not known yet, or not stored
}

// Stats returns a snapshot. It may be called at any time.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Unmarked = len(r.fates)
	return s
}

// Wake tells the relay to look into the outbox now: call it after a transaction with messages has committed. It does not
// block, and may be called at any time.
func (r *Relay) Wake() {
	r.init()
	select {
	case r.waker <- struct{}{}:
	default:
	}
}

func (r *Relay) init() {
	r.once.Do(func() {
		r.waker = make(chan struct{}, 1)
		r.fates = make(map[int64]*mqtt.Delivery)
		for _, d := range []struct {
			of    *time.Duration
			value time.Duration
		}{
			{&r.Poll, time.Second}, {&r.Hold, 10 * time.Second}, {&r.RetryDelay, time.Second}, {&r.RetryMaximum, 5 * time.Minute},
		} {
			if *d.of == 0 {
				*d.of = d.value
			}
		}
		for _, d := range []struct {
			of    *int
			value int
		}{{&r.Keys, 64}, {&r.PerKey, 32}, {&r.Bytes, 16 << 20}, {&r.Attempts, 20}} {
			if *d.of == 0 {
				*d.of = d.value
			}
		}
		if r.Logger == nil {
			r.Logger = slog.New(slog.DiscardHandler)
		}
	})
}

// ErrRunning is the answer to a second Run of a Relay.
var ErrRunning = errors.New("outbox: the relay is running already")

// Run publishes until ctx ends or the client does, and returns ctx's error or the client's. When ctx has ended it publishes
// nothing more, and waits for what the server has still to acknowledge, Hold at most. A database that fails is asked
// again, with growing pauses of up to 30 s. Without a connection to the server Run waits for one.
func (r *Relay) Run(ctx context.Context) error {
	r.init()
	r.mu.Lock()
	running := r.running
	r.running = true
	r.mu.Unlock()
	if running {
		return ErrRunning
	}
	defer func() {
		r.mu.Lock()
		r.running = false
		r.mu.Unlock()
	}()
	return r.run(ctx)
}

func (r *Relay) run(ctx context.Context) error {
	failures, idle := 0, 0
	for {
		if err := r.Client.WaitConnected(ctx); err != nil {
			return fmt.Errorf("outbox: relay: %w", err)
		}
		settled, err := r.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("outbox: relay: %w", ctx.Err())
		case err != nil:
			failures++
			r.pause(ctx, backoff(time.Second, 30*time.Second, failures), nil)
		case settled > 0:
			failures, idle = 0, 0
		default:
			failures = 0
			if idle++; idle%longIdle == 0 {
				r.forget()
			}
			r.pause(ctx, r.Poll, r.waker)
		}
	}
}

// longIdle is how many times in a row the relay has found nothing to do when it takes the fates that it remembers for those
// of messages which another relay has published.
const longIdle = 10

func (r *Relay) storeFailed(err error) {
	r.mu.Lock()
	r.stats.StoreErrors++
	r.mu.Unlock()
	r.Logger.Warn("outbox: the store fails", "error", err)
}

// pause waits for a time, for the end of ctx, or to be woken.
func (r *Relay) pause(ctx context.Context, d time.Duration, woken <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-woken:
	case <-ctx.Done():
	}
}

// backoff is how long to wait after so many failures in a row: between half and the whole of an amount that doubles.
func backoff(first, most time.Duration, failures int) time.Duration {
	d := most
	if shift := failures - 1; shift < 32 && first<<shift < most && first<<shift > 0 {
		d = first << shift
	}
	return d - rand.N(d/2+1)
}

// finishTime bounds how long the marks of a batch may take to be stored.
const finishTime = 10 * time.Second

// pass publishes one batch. It returns of how many messages it knows what became of them.
func (r *Relay) pass(ctx context.Context) (int, error) {
	batch, err := r.Store.Claim(ctx, Want{Keys: r.Keys, PerKey: r.PerKey, Bytes: r.Bytes, Hold: r.Hold})
	if err != nil && ctx.Err() == nil {
		r.storeFailed(err)
	}
	if err != nil || batch == nil {
		return 0, err
	}
	results := r.publish(ctx, batch.Messages())
	// What was acknowledged is marked, whatever has ended meanwhile.
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	if err := batch.Finish(finish, results); err != nil {
		r.storeFailed(err) // the fates are still known when the messages are claimed again
		return 0, err
	}
	r.marked(results)
	return len(results), nil
}

// marked counts what is stored and forgets its fate.
func (r *Relay) marked(results []Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range results {
		result := &results[i]
		delete(r.fates, result.Seq)
		switch {
		case result.Outcome == Retry:
			r.stats.Retried++
		case result.Outcome == Dead:
			r.stats.Dead++
		case result.expired:
			r.stats.Expired++
		default:
			r.stats.Published++
		}
	}
}

// forget drops the fates of messages that are not in the outbox any more. The relay has found nothing to do, so they are
// another relay's.
func (r *Relay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for seq, d := range r.fates {
		select {
		case <-d.Done():
			delete(r.fates, seq)
		default:
		}
	}
}
