package mqtt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// Delivery tells the outcome of one PublishAsync. Its methods may be called concurrently.
type Delivery struct {
	outbox *outbox // nil: made by NewDelivery, or refused at once

	// Guarded by mu until resolved. A Delivery of PublishAsync has no channel until Done is called; it is closed when
	// the Delivery is resolved. A Delivery of Publish is used again and again: its channel has a capacity of 1 and
	// receives a value.
	done     chan struct{}
	ticket   uint64      // its number in the session's queue, while it waits there
	wave     uint64      // that Flush waits for it with; 0: it is not counted
	details  *details    // nil: there are none
	resolved atomic.Bool // the outcome is known: reason, err and details do not change any more
	id       uint16      // once it was sent
	sends    uint8       // how often it was sent; 2: twice or more
	reason   ReasonCode
	err      error
}

// details are what few Deliveries have.
type details struct {
	explanation *explanation
	number      uint64        // in the store; 0: it is not there
	name        string        // that the application has given the message, see StoreName
	restored    bool          // an earlier process has published it
	stored      chan struct{} // closed when the message is on disk; nil: it is not to be stored
	forwards    *origin       // until the message is handed to the store, see Forwards; nil: it is none
	record      []byte        // of the message, while its fate is not known; guarded by mu
	publishing  *publishing   // nil: no hook wants to know the outcome
}

// observe has a hook learn the outcome. p may be nil.
func (d *Delivery) observe(p *publishing) {
	switch {
	case p == nil:
	case d.details == nil:
		d.details = &details{publishing: p}
	default:
		d.details.publishing = p
	}
}

// publishing is nil if no hook wants to know the outcome.
func (d *Delivery) publishing() *publishing {
	if d.details == nil {
		return nil
	}
	return d.details.publishing
}

// number is the message's in the store, 0 if it is not there.
func (d *Delivery) number() uint64 {
	if d.details == nil {
		return 0
	}
	return d.details.number
}

// say notes what an acknowledgement says.
// The caller holds mu.
func (d *Delivery) say(w *explanation) {
	switch {
	case d.details != nil:
		d.details.explanation = w
	case w != nil:
		d.details = &details{explanation: w}
	}
}

func (d *Delivery) said() *explanation {
	if d.details == nil {
		return nil
	}
	return d.details.explanation
}

// explanation are the Reason String and the user properties of an acknowledgement; nil means that it has neither.
type explanation struct {
	reason string
	user   UserProperties
}

func newExplanation(reason string, user UserProperties) *explanation {
	if reason == "" && len(user) == 0 {
		return nil
	}
	return &explanation{reason, user}
}

func (w *explanation) reasonString() string {
	if w == nil {
		return ""
	}
	return w.reason
}

func (w *explanation) userProperties() UserProperties {
	if w == nil {
		return nil
	}
	return w.user
}

// closed is a channel that is closed already.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// delivered is the Delivery of every message at QoS 0 that was handed to the connection.
var delivered = NewDelivery(Success, nil)

// NewDelivery returns a Delivery that is done, for fakes of the client in tests.
func NewDelivery(reason ReasonCode, err error) *Delivery {
	d := &Delivery{reason: reason, err: err}
	d.resolved.Store(true)
	return d
}

// Done is closed when the outcome is known.
func (d *Delivery) Done() <-chan struct{} {
	if d.resolved.Load() {
		return closed
	}
	d.outbox.mu.Lock()
	defer d.outbox.mu.Unlock()
	if d.resolved.Load() {
		return closed
	}
	if d.done == nil {
		d.done = make(chan struct{})
	}
	return d.done
}

// Wait waits until the outcome is known or ctx ends, and returns Err or ctx's error. The end of ctx changes nothing for the
// message.
func (d *Delivery) Wait(ctx context.Context) error {
	done := d.Done()
	if done == closed {
		return d.err // no select: this is the fast path for callers that keep many Deliveries
	}
	select {
	case <-done:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("mqtt: waiting for a delivery: %w", ctx.Err())
	}
}

// Err returns nil while the outcome is not known, and when the server has accepted the message. Otherwise it returns what
// Publish would have returned.
func (d *Delivery) Err() error {
	if !d.resolved.Load() {
		return nil
	}
	return d.err
}

// Reason returns the reason code of the acknowledgement: Success, NoMatchingSubscribers, or the server's refusal. It is
// Success while there is none.
func (d *Delivery) Reason() ReasonCode {
	if !d.resolved.Load() {
		return Success
	}
	return d.reason
}

// ReasonString returns the Reason String of the acknowledgement, for people; "" while there is none.
func (d *Delivery) ReasonString() string {
	if !d.resolved.Load() {
		return ""
	}
	return d.said().reasonString()
}

// UserProperties returns those of the acknowledgement; nil while there are none.
func (d *Delivery) UserProperties() UserProperties {
	if !d.resolved.Load() {
		return nil
	}
	return d.said().userProperties()
}

// errWithdrawn is the fate of a message that Withdraw took back.
var errWithdrawn = errors.New("mqtt: message withdrawn")

// resolve records the outcome and adds d to those that wake is to be called with once the mutex is free.
// The caller holds mu.
func (d *Delivery) resolve(toWake []*Delivery, reason ReasonCode, err error) []*Delivery {
	d.reason, d.err = reason, err
	if err != nil && !errors.Is(err, errWithdrawn) {
		d.outbox.stats.Failed++
	}
	d.leaveWave()
	if p := d.publishing(); p != nil {
		d.outbox.notices.resolved(p, reason, err)
	}
	d.resolved.Store(true)
	if d.number() != 0 {
		d.outbox.journal.settle(d, err)
	}
	return append(toWake, d)
}

// settle keeps what has become of a message, except for one that its publisher knows is not sent, and forgets it.
// The caller holds mu.
func (j *journal) settle(d *Delivery, err error) {
	var failed *StoreError
	if !errors.Is(err, errWithdrawn) && !errors.As(err, &failed) {
		j.keep(d.details, err)
	}
	d.details.record = nil
	j.forget(d)
}

// waves count the messages whose outcome is not known, without those at QoS 0 that went to the connection at once. A wave is
// those that were published between two calls of Flush. The present wave has no object of its own: every publish uses
// waves anyway, so that its memory is in the processor's cache.
type waves struct {
	// Guarded by mu.
	number  uint64  // of the present wave, from 1; 0: no message was published yet
	open    int     // messages of the present wave
	earlier []*wave // that are not over, in the order of their numbers
}

// wave is one that Flush has ended and that is not over.
type wave struct {
	number uint64
	over   chan struct{} // closed when no message is open

	// Guarded by mu.
	open int
}

// enter counts a message of the present wave.
// The caller holds mu.
func (w *waves) enter() (number uint64) {
	w.number = max(w.number, 1)
	w.open++
	return w.number
}

// leave counts a message of a wave no longer; 0: it was not counted.
// The caller holds mu.
func (w *waves) leave(number uint64) {
	switch number {
	case 0:
	case w.number:
		w.open--
	default:
		w.leaveEarlier(number)
	}
}

// leaveEarlier is leave for a wave that Flush has ended.
// The caller holds mu.
func (w *waves) leaveEarlier(number uint64) {
	i, found := slices.BinarySearchFunc(w.earlier, number, func(e *wave, n uint64) int { return cmp.Compare(e.number, n) })
	if !found {
		panic("mqtt: a message of a wave that is over")
	}
	e := w.earlier[i]
	if e.open--; e.open == 0 {
		close(e.over)
		w.earlier = slices.Delete(w.earlier, i, i+1)
	}
}

// end ends the present wave, and returns all that are not over.
// The caller holds mu.
func (w *waves) end() []*wave {
	if w.open > 0 {
		w.earlier = append(w.earlier, &wave{number: w.number, over: make(chan struct{}), open: w.open})
		w.number++
		w.open = 0
	}
	return slices.Clone(w.earlier)
}

// leaveWave says that the outcome of a message is known, or that its publisher does not wait for it any more.
// The caller holds mu.
func (d *Delivery) leaveWave() {
	d.outbox.waves.leave(d.wave)
	d.wave = 0
}

// wake wakes the callers that wait for these Deliveries. It does not block. Call it without the mutex, because they
// need it next.
func wake(toWake []*Delivery) {
	for _, d := range toWake {
		switch {
		case cap(d.done) > 0:
			d.done <- struct{}{}
		case d.done != nil:
			close(d.done)
		}
	}
}

// Flush wakes publishers whose messages were acknowledged. It is called without the mutex.
func (r *receiver) Flush() {
	wake(r.toWake)
	clear(r.toWake)
	r.toWake = r.toWake[:0]
}
