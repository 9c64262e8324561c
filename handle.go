package mqtt

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// Handle calls f for each message, and acknowledges the message when f returns nil; with ManualAck that is left to f. It
// returns nil when ctx has ended or after Unsubscribe, otherwise why the subscription ended, or a *HandleError.
//
// Messages of one topic, or of one Key, are handled one after another in the order in which they came. With Workers
// more than one message is handled at a time. A message for which f returns an error is handled again, as the
// RetryPolicy says; meanwhile messages of other topics go on. When the policy is over, or the error is Permanent, the
// DeadLetter gets the message. A panic of f is not recovered.
//
// The ctx of f has the values of ctx and ends with the client. When ctx ends, no further call of f begins, and Handle
// returns when those that run have returned. What was taken and not handled is given back: it stays unacknowledged, and
// is the first of the next All, Batches, Next or Handle of the subscription.
func (s *Subscription) Handle(ctx context.Context, f func(context.Context, Message) error, opts ...HandleOption) error {
	o, err := parseHandle(opts)
	if err != nil {
		return err
	}
	return s.handle(ctx, f, o)
}

func (s *Subscription) handle(ctx context.Context, f func(context.Context, Message) error, o handleOptions) error {
	intake, stop := context.WithCancel(ctx)
	defer stop()
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	if s.inbox != nil {
		defer context.AfterFunc(s.inbox.ctx, end)()
	}
	h := &handling{
		sub: s, options: o, f: traceFunction(s, f), base: base, stop: stop,
		lanes: make(map[laneKey]*lane), call: make(chan struct{}, 1),
	}
	if o.workers > 1 {
		h.ready = make(chan *lane)
		for range o.workers {
			h.workers.Go(h.work)
		}
	}
	h.run(intake)
	switch {
	case h.err != nil:
		return h.err
	case ctx.Err() != nil:
		return nil
	case s.inbox != nil && s.inbox.ctx.Err() != nil:
		<-s.inbox.done // then the client's error is set
	}
	return s.Err()
}

// traceFunction returns f with the calls of the hook Process around it.
func traceFunction(s *Subscription, f func(context.Context, Message) error) func(context.Context, Message) error {
	hook := processHook(s)
	if hook == nil {
		return f
	}
	return func(ctx context.Context, m Message) error {
		ctx, done := hook(ctx, s, m)
		err := f(ctx, m)
		if done != nil {
			done(err)
		}
		return err
	}
}

// handling is one call of Handle. The goroutine of the call takes messages out of the subscription. With one worker it
// runs the handler too, otherwise it gives them to the workers.
//
// A lane keeps the messages of one key in order: while one of them is being handled or waits for its retry, those behind
// it wait in the lane, and messages of other keys pass.
type handling struct {
	sub     *Subscription
	options handleOptions
	f       func(context.Context, Message) error
	base    context.Context // of the handler; ends with the client
	stop    func()          // ends the taking of messages
	ready   chan *lane      // to the workers: lanes whose first message is to be handled; nil: there is one worker
	workers sync.WaitGroup
	call    chan struct{} // capacity 1: a retry is due, or a message in a lane is finished

	mu     sync.Mutex
	lanes  map[laneKey]*lane // mu
	number uint64            // mu; of messages that entered a lane
	due    fifo.Queue[*lane] // mu; whose retry is to begin
	inside int               // mu; messages in lanes
	over   bool              // mu; nothing begins any more
	err    error             // mu; why Handle gives up
}

// lane is the messages of one key that were taken and are not finished, in their order. The first of them is being
// handled, or waits for its retry. The handling's mutex guards the queue; whoever handles the first job owns it.
type lane struct {
	key   laneKey
	jobs  fifo.Queue[*job]
	retry *time.Timer // of the first; nil: it never failed
}

// laneKey is what the messages of a lane have in common: a key or, where there are no keys, the number of the one message.
type laneKey struct {
	text   string
	number uint64
}

// job is a message that was taken.
type job struct {
	entry
	attempts int       // calls of the handler
	failed   time.Time // when the first of them failed
	err      error     // of the last one
	dead     bool      // the next call is of the DeadLetter
}

// lanesFull is how many messages may be in lanes before no more are taken. At QoS 1 and 2 the Receive Maximum bounds
// them as well, at QoS 0 nothing else.
const lanesFull = 1000

// run takes messages until ctx ends or there are no more and those taken are finished.
func (h *handling) run(ctx context.Context) {
	t := newTaker(h.sub)
	defer t.stop()
	defer h.giveBack()
	for ctx.Err() == nil && h.base.Err() == nil {
		l, full, empty := h.next()
		if l != nil {
			h.start(ctx, l)
			continue
		}
		result := finished
		if !full {
			var w *entry
			if w, result = t.take(ctx, h.call); result == took {
				h.admit(ctx, t, w, empty)
			}
		}
		if result == finished {
			if empty {
				return
			}
			h.await(ctx)
		}
	}
}

// next returns a lane whose retry is due, and whether the lanes are full or empty.
func (h *handling) next() (due *lane, full, empty bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.due.Len() > 0 {
		due = h.due.Pop()
	}
	return due, h.inside >= lanesFull, h.inside == 0
}

// await waits until a retry is due, a message in a lane is finished, or ctx or the client ends.
func (h *handling) await(ctx context.Context) {
	select {
	case <-h.call:
	case <-ctx.Done():
	case <-h.base.Done():
	}
}

func (h *handling) wake() {
	select {
	case h.call <- struct{}{}:
	default:
	}
}

// admit handles a message, or puts it in its lane. What succeeds at once never sees a lane where there is one worker. empty says
// that no lane has messages.
func (h *handling) admit(ctx context.Context, t *taker, w *entry, empty bool) {
	if h.ready == nil && (empty || !h.inLane(w)) {
		err := h.f(h.base, w.message)
		if err == nil {
			t.did()
			return
		}
		j := &job{entry: t.keep()}
		l := h.enter(j)
		h.conclude(l, j, err)
		return
	}
	j := &job{entry: t.keep()}
	if l := h.enter(j); l != nil {
		h.start(ctx, l)
	}
}

// inLane reports whether a lane has messages of w's key.
func (h *handling) inLane(w *entry) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.options.key != nil && h.lanes[laneKey{text: h.options.key(w.message)}] != nil
}

// enter puts a job in its lane. It returns the lane if the job is the first in it.
func (h *handling) enter(j *job) *lane {
	var key laneKey
	if h.options.key != nil {
		key.text = h.options.key(j.message)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inside++
	h.number++
	if h.options.key == nil {
		key.number = h.number
	}
	if l := h.lanes[key]; l != nil {
		l.jobs.Push(j)
		return nil
	}
	l := &lane{key: key}
	l.jobs.Push(j)
	h.lanes[key] = l
	return l
}

// start has the first message of a lane handled, by a worker if there are some.
func (h *handling) start(ctx context.Context, l *lane) {
	if h.ready == nil {
		h.empty(l)
		return
	}
	select {
	case h.ready <- l:
	case <-ctx.Done(): // it will be given back
	}
}

func (h *handling) work() {
	for l := range h.ready {
		h.empty(l)
	}
}

// empty handles the messages of a lane until there is none, or one has to be retried later.
func (h *handling) empty(l *lane) {
	for j := h.first(l); j != nil; j = h.first(l) {
		if !h.conclude(l, j, h.attempt(j)) {
			return
		}
	}
}

// first returns the first job of a lane, or nil if there is none or nothing may begin any more.
func (h *handling) first(l *lane) *job {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || l.jobs.Len() == 0 {
		return nil
	}
	return *l.jobs.At(0)
}

// attempt handles a message once, or gives it to the DeadLetter if its time has come.
func (h *handling) attempt(j *job) error {
	if j.dead {
		return h.options.deadLetter(h.base, j.message, j.err)
	}
	return h.f(h.base, j.message)
}

// conclude draws the conclusion from an attempt. It reports whether the message is finished.
func (h *handling) conclude(l *lane, j *job, err error) bool {
	if err == nil {
		h.complete(l, j)
		return true
	}
	delay, again := h.options.retry.MaxDelay, true
	if !j.dead {
		delay, again = h.failed(j, err)
	}
	switch {
	case h.base.Err() != nil || errors.Is(err, errGivenUp):
		return false // it stays as it is, and is given back in the end
	case j.dead:
		h.log(slog.LevelError, "mqtt: the DeadLetter failed, and will be called again", j, err)
	case again:
	case h.options.deadLetter == nil:
		h.giveUp(&HandleError{Topic: j.message.Topic, Attempts: j.attempts, Err: err})
		return false
	default:
		j.dead = true
		h.log(slog.LevelWarn, "mqtt: a message could not be handled", j, err)
		return h.conclude(l, j, h.attempt(j))
	}
	h.later(l, delay)
	return false
}

// failed notes a failed attempt of the handler, and returns whether there is to be another one, and after how long.
func (h *handling) failed(j *job, err error) (delay time.Duration, again bool) {
	j.attempts++
	j.err = err
	if j.attempts == 1 {
		j.failed = time.Now()
	}
	var forGood *permanent
	p := &h.options.retry
	delay = p.delay(j.attempts)
	return delay, !errors.As(err, &forGood) && j.attempts < p.Attempts && time.Since(j.failed)+delay <= p.Within
}

// complete finishes the first message of a lane.
func (h *handling) complete(l *lane, j *job) {
	h.sub.lock()
	h.sub.finish(&j.entry)
	h.sub.unlock()
	h.mu.Lock()
	l.jobs.Pop()
	h.inside--
	if l.jobs.Len() == 0 {
		delete(h.lanes, l.key)
	}
	h.mu.Unlock()
	h.wake()
}

// later makes the retry of a lane's first message due after a time.
func (h *handling) later(l *lane, delay time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.retry = time.AfterFunc(delay, func() {
		h.mu.Lock()
		h.due.Push(l)
		h.mu.Unlock()
		h.wake()
	})
}

// giveUp ends Handle, with an error unless that is nil. The first one counts.
func (h *handling) giveUp(err error) {
	h.mu.Lock()
	if h.err == nil {
		h.err = err
	}
	h.over = true
	h.mu.Unlock()
	h.stop()
}

// giveBack waits for the handlers that run, and gives back what was not finished.
func (h *handling) giveBack() {
	h.giveUp(nil)
	if h.ready != nil {
		close(h.ready)
		h.workers.Wait()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sub
	s.lock()
	defer s.unlock()
	for _, l := range h.lanes {
		if l.retry != nil {
			l.retry.Stop()
		}
		for l.jobs.Len() > 0 {
			s.handBack(&l.jobs.Pop().entry, false)
		}
	}
}

// log tells the logger about a message that could not be handled.
func (h *handling) log(level slog.Level, text string, j *job, err error) {
	in := h.sub.inbox
	if in == nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.notices.log(level, text, "topic", j.message.Topic, "attempts", j.attempts, "error", err)
	}
}
