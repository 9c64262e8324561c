package simulate_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// A listener consumes its subscription through the channel, or in the forms that acknowledge a message after the work: All,
// Batches and Handle. Those it changes now and then. It leaves loops in the middle of a message, its handlers fail, and it
// puts messages back. What it has not finished has to come again, and the witness must not see an acknowledgement of it.

// work is what a listener has begun of its messages, in the forms that acknowledge after the work.
type work struct {
	mu      sync.Mutex         // locked after the witness's
	ready   time.Time          // Subscribe had returned; zero: it has not
	leaving bool               // Unsubscribe was called, or the subscription is about to end
	begun   int                // how many deliveries there have been
	place   map[*published]int // the number of the latest one
	open    map[*published]int // deliveries that are not finished
	due     map[*published]int // of these, those that come again
	done    map[*published]bool
	first   []*published       // the next ones to come, in order, because a loop was left with them
	asleep  map[*published]int // of those that come again, the ones that were put back for a while
}

func newWork() *work {
	return &work{asleep: make(map[*published]int), place: make(map[*published]int), open: make(map[*published]int), due: make(map[*published]int), done: make(map[*published]bool)}
}

// consumeForms takes messages until the subscription ends.
func (l *listener) consumeForms() {
	for over := false; !over; {
		ctx, cancel := context.WithCancel(l.client.s.t.Context())
		if oneIn(l.random, 3) && !l.client.s.isCalm() {
			defer time.AfterFunc(below(l.random, 20*time.Second), cancel).Stop()
		}
		switch l.random.IntN(3) {
		case 0:
			over = l.loop(ctx)
		case 1:
			over = l.loopBatches(ctx)
		default:
			over = l.handle(ctx)
		}
		cancel()
	}
}

// loop is a loop over All. It reports whether the subscription is over.
func (l *listener) loop(ctx context.Context) (over bool) {
	l.note("begins a loop")
	for m, err := range l.sub.All(ctx) {
		if err != nil {
			l.checkReason(err)
			return true
		}
		p := l.begin(m)
		if p == nil {
			continue
		}
		l.spendTime(m)
		switch {
		case l.manual:
			l.settle(m, p)
		case m.QoS == 2 && l.client.exact && l.restless() && oneIn(l.random, 10): // of which no second copy comes meanwhile
			l.putBack(m, p, below(l.random, 5*time.Second))
		case l.restless() && oneIn(l.random, 30):
			l.leave(m)
			return false
		default:
			l.finish(p)
		}
	}
	return ctx.Err() == nil
}

// loopBatches is a loop over Batches.
func (l *listener) loopBatches(ctx context.Context) (over bool) {
	l.note("begins a loop over batches")
	most, wait := 1+l.random.IntN(20), below(l.random, 100*time.Millisecond) // with a window of one or two it waits for each
	for batch, err := range l.sub.Batches(ctx, most, wait) {
		if err != nil {
			l.checkReason(err)
			return true
		}
		var open []mqtt.Message
		for _, m := range batch {
			p := l.begin(m)
			switch {
			case p == nil:
			case l.manual || oneIn(l.random, 20):
				l.settle(m, p)
			default:
				open = append(open, m)
			}
		}
		l.spendTime(batch[0])
		if l.restless() && oneIn(l.random, 15) {
			l.leave(open...)
			return false
		}
		for _, m := range open {
			l.finish(l.lookUp(m))
		}
	}
	return ctx.Err() == nil
}

var errForNoReason = errors.New("for no reason")

// handle is a call of Handle.
func (l *listener) handle(ctx context.Context) (over bool) {
	l.note("begins to handle")
	workers, failing := mqtt.Workers(1+l.random.IntN(3)), l.random.IntN(2) == 0
	policy := mqtt.RetryPolicy{Attempts: 1 + l.random.IntN(3), InitialDelay: time.Millisecond + below(l.random, time.Second)}
	l.work.mu.Lock()
	l.work.first = l.work.first[:min(1, len(l.work.first))] // a retry may come between the others
	if workers > 1 || len(l.work.asleep) > 0 {
		l.work.first = nil
	}
	l.work.mu.Unlock()
	err := l.sub.Handle(ctx, func(_ context.Context, m mqtt.Message) error {
		p := l.begin(m)
		if p == nil {
			return nil
		}
		l.unplace(p)
		l.client.s.pause(l.pace)
		switch {
		case l.manual:
			l.settle(m, p)
		case failing && l.chance(3):
			l.work.mu.Lock()
			defer l.work.mu.Unlock()
			l.work.due[p]++
			return errForNoReason
		default:
			l.finish(p)
		}
		return nil
	}, workers, policy, mqtt.DeadLetter(func(_ context.Context, m mqtt.Message, err error) error {
		if p := l.begin(m); p != nil {
			l.finish(p)
		}
		return nil
	}))
	if err != nil {
		l.checkReason(err)
		return true
	}
	return ctx.Err() == nil
}

// unplace notes that nobody knows the place of a message in the order of arrival.
func (l *listener) unplace(p *published) {
	l.work.mu.Lock()
	defer l.work.mu.Unlock()
	l.work.place[p] = 0
}

// restless reports whether the listener still does what it need not do.
func (l *listener) restless() bool { return !l.manual && !l.client.s.isCalm() }

// chance is oneIn for handlers, which run at the same time.
func (l *listener) chance(n int) bool {
	l.work.mu.Lock()
	defer l.work.mu.Unlock()
	return oneIn(l.handlers, n)
}

func (l *listener) note(what string) {
	if *simulateSeeds == 1 {
		l.client.s.note(l.name, "%s", what)
	}
}

// checkReason checks the error that ends a loop.
func (l *listener) checkReason(err error) {
	if !errors.Is(err, l.sub.Err()) {
		l.problem("a loop ends with %v, and the subscription with %v", err, l.sub.Err())
	}
}

// begin notes that a message has come, and returns what was published. It is nil if the witness does not follow the message.
func (l *listener) begin(m mqtt.Message) *published {
	p := l.lookUp(m)
	if p == nil {
		return nil
	}
	most := l.client.s.witness.copies(p)
	mayRepeat := m.QoS == 0 || !l.client.exact || p.retain || l.mayComeTwice(p)
	w := l.work
	w.mu.Lock()
	defer w.mu.Unlock()
	switch at := slices.Index(w.first, p); {
	case len(w.first) == 0:
	case at == 0 || at > 0 && len(w.asleep) > 0:
		w.first = slices.Delete(w.first, at, at+1)
	case len(w.asleep) == 0:
		l.problem("%v comes first, after a loop was left with %v", p, w.first)
		w.first = nil
	}
	if w.due[p] > 0 {
		w.due[p]--
		w.awake(p)
		return p
	}
	l.record(m, p)
	w.begun++
	w.place[p] = w.begun
	w.open[p]++
	if w.open[p] > most && !mayRepeat {
		l.problem("%v is delivered %d times, unfinished, and was published %d times", p, w.open[p], most)
	}
	return p
}

// awake notes that a message has come again that was put back, if it was.
func (w *work) awake(p *published) {
	if w.asleep[p]--; w.asleep[p] <= 0 {
		delete(w.asleep, p)
	}
}

// finish notes that the work on a message is done: from now on it may be acknowledged.
func (l *listener) finish(p *published) {
	l.work.mu.Lock()
	defer l.work.mu.Unlock()
	l.work.open[p]--
	l.work.done[p] = true
}

// settle acknowledges a message, or refuses it, before the body has ended.
func (l *listener) settle(m mqtt.Message, p *published) {
	l.finish(p)
	if m.QoS > 0 {
		l.answerServer(m, l.chance(10))
	}
}

// putBack puts a message back in line for a while.
func (l *listener) putBack(m mqtt.Message, p *published, d time.Duration) {
	w := l.work
	w.mu.Lock()
	w.due[p]++
	w.asleep[p]++
	w.mu.Unlock()
	if err := m.Redeliver(d); err != nil && !l.mayFailToSettle(err) {
		l.problem("Redeliver: %v", err)
	}
}

// leave notes that a loop is left with messages that are not finished.
func (l *listener) leave(unfinished ...mqtt.Message) {
	l.note("leaves a loop")
	several := false // copies of one message: which of them is meant?
	for _, m := range unfinished {
		p := l.lookUp(m)
		several = several || p.retain || l.client.s.witness.copies(p) > 1
		if m.QoS == 0 { // it does not come again
			l.finish(p)
			continue
		}
		l.work.mu.Lock()
		l.work.due[p]++
		l.work.first = append(l.work.first, p)
		l.work.mu.Unlock()
	}
	l.work.mu.Lock()
	defer l.work.mu.Unlock()
	slices.SortFunc(l.work.first, func(a, b *published) int { return l.work.place[a] - l.work.place[b] })
	several = several || len(slices.Compact(slices.Clone(l.work.first))) < len(l.work.first)
	if len(l.work.first) > 0 && (several || l.work.place[l.work.first[0]] == 0) {
		l.work.first = nil
	}
}

// prematurely reports whether the acknowledgement of a message comes although the listener, whose message it is for certain,
// has not finished its work. The witness holds its lock.
func (l *listener) prematurely(f *passing, pass *passage) bool {
	if !l.careful || l.qos == 0 || len(l.filters) > 1 || l.mayBeSlow() || !l.matches(f.message.topic) {
		return false
	}
	if f.message.retain || f.message.expiry > 0 || f.filters != nil && !slices.Contains(f.filters, l.filters[0]) {
		return false
	}
	w := l.work
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ready.IsZero() || w.leaving || w.done[f.message] || !f.message.came.After(w.ready) || !pass.first.After(w.ready) {
		return false
	}
	select {
	case <-l.sub.Done(): // what waited for it is given up
		return false
	default:
		return true
	}
}
