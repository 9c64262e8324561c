package mqtt

import (
	"context"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// journal gathers what is to be written to the Store, and what may happen once it is there. One goroutine hands it to the Store,
// batch by batch and without the mutex, so that whatever comes up during an Apply shares the next one.
type journal struct {
	store  Store
	urgent chan struct{} // capacity 1: somebody waits for what is in the batch
	lazy   chan struct{} // capacity 1: there is something in the batch

	// Guarded by mu.
	batch    []StoreChange
	steps    []step
	number   uint64               // of the latest message
	released uint64               // counts PUBRECs
	stored   map[uint64]*Delivery // messages whose fate is not known, by their numbers
	reserved map[uint64]bool      // numbers of messages that were given up, whose identifiers the server may still know
	outcomes outcomes             // of messages whose fate is known
	tidy     time.Time            // when outcomes were removed that are not kept any longer
	ended    bool                 // the client has: fates are not written any more
}

// step is what happens when the changes before it are on disk.
type step struct {
	kind stepKind
	id   uint16     // packet identifier
	d    *Delivery  // of stepStored, stepSend and stepRelease
	link *link.Link // of stepRelease and stepEnded: the connection that the packet belongs to
	done chan struct{}
}

type stepKind uint8

const (
	stepStored   stepKind = iota + 1 // PublishAsync returns
	stepSend                         // PUBLISH is sent
	stepRelease                      // PUBREL is sent
	stepReceived                     // PUBREC is sent
	stepEnded                        // PUBCOMP is sent
	stepBarrier                      // done is closed
)

// lazyDelay is how long a change may wait for others if nobody waits for it.
const lazyDelay = 100 * time.Millisecond

func newJournal(store Store) *journal {
	return &journal{
		store:    store,
		urgent:   make(chan struct{}, 1),
		lazy:     make(chan struct{}, 1),
		stored:   make(map[uint64]*Delivery),
		reserved: make(map[uint64]bool),
		outcomes: make(outcomes),
	}
}

// put adds a change.
// The caller holds mu.
func (j *journal) put(key, value []byte) {
	j.batch = append(j.batch, StoreChange{Key: key, Value: value})
	notify(j.lazy)
}

// putMessage adds a new message. A step follows.
// The caller holds mu.
func (j *journal) putMessage(d *details) {
	j.batch = append(j.batch, StoreChange{Key: numberKey(keyMessage, d.number), Value: d.record, Bounded: true, forwards: d.forwards})
	d.forwards = nil
}

// then adds a step, which waits for all changes so far.
// The caller holds mu.
func (j *journal) then(s step) {
	j.steps = append(j.steps, s)
	notify(j.urgent)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// putFlight records how far a message has come.
// The caller holds mu.
func (j *journal) putFlight(number uint64, f flight) { j.put(numberKey(keyFlight, number), f.encode()) }

// forget removes a message whose fate is known.
// The caller holds mu.
func (j *journal) forget(d *Delivery) {
	delete(j.stored, d.details.number)
	if !j.ended {
		j.put(numberKey(keyMessage, d.details.number), nil)
		j.put(numberKey(keyFlight, d.details.number), nil)
	}
}

// keep keeps what has become of a message, if that is an error, or if the application has given the message a name.
// It is written together with the end of the message.
// The caller holds mu.
func (j *journal) keep(d *details, err error) {
	if j.ended || d.record == nil || err == nil && d.name == "" {
		return
	}
	o, damaged := newOutcome(d.record, err)
	if damaged != nil {
		return
	}
	j.outcomes[d.number] = o
	j.put(numberKey(keyOutcome, d.number), o.encode())
	if len(j.outcomes) > mostOutcomes+mostOutcomes/4 || time.Since(j.tidy) > time.Minute {
		j.tidyOutcomes()
	}
}

// tidyOutcomes removes those that are not kept any longer.
// The caller holds mu.
func (j *journal) tidyOutcomes() {
	j.tidy = time.Now()
	for _, number := range j.outcomes.surplus(j.tidy) {
		j.dropOutcome(number)
	}
}

// The caller holds mu.
func (j *journal) dropOutcome(number uint64) {
	delete(j.outcomes, number)
	j.put(numberKey(keyOutcome, number), nil)
}

// barrier returns a channel that is closed when all changes so far are on disk.
// The caller holds mu.
func (j *journal) barrier() <-chan struct{} {
	done := make(chan struct{})
	j.then(step{kind: stepBarrier, done: done})
	return done
}

// await waits until there is a batch to write, and returns false when ctx ends first.
func (j *journal) await(ctx context.Context) bool {
	select {
	case <-j.urgent:
		return true
	case <-ctx.Done():
		return false
	case <-j.lazy:
	}
	t := time.NewTimer(lazyDelay)
	defer t.Stop()
	select {
	case <-j.urgent:
	case <-t.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// take takes the batch.
// The caller holds mu.
func (j *journal) take() (changes []StoreChange, steps []step) {
	changes, steps = j.batch, j.steps
	j.batch, j.steps = nil, nil
	return changes, steps
}

// withoutMessages returns what is left of a batch whose messages are given up, because the store did not take it: those are
// removed, in case that the store has them after all.
func withoutMessages(changes []StoreChange, steps []step) (rest []StoreChange, kept []step) {
	gone := make(map[string]bool)
	var removed []StoreChange
	for _, s := range steps {
		if s.kind == stepStored {
			for _, kind := range []byte{keyMessage, keyFlight} {
				key := numberKey(kind, s.d.details.number)
				gone[string(key)] = true
				removed = append(removed, StoreChange{Key: key})
			}
		} else if s.d == nil || !gone[string(numberKey(keyMessage, s.d.details.number))] {
			kept = append(kept, s)
		}
	}
	rest = slices.DeleteFunc(slices.Clone(changes), func(c StoreChange) bool { return gone[string(c.Key)] })
	return append(rest, removed...), kept
}

// putBack puts a batch that was not written before what came up since.
// The caller holds mu.
func (j *journal) putBack(changes []StoreChange, steps []step) {
	j.batch = append(changes, j.batch...)
	j.steps = append(steps, j.steps...)
}

// reserve writes that the identifier of a message that was given up must not be used again while the session lasts.
// The caller holds mu.
func (j *journal) reserve(m session.Message) {
	if d, ok := m.Owner.(*Delivery); ok && d.details != nil && d.details.number != 0 && d.sends > 0 {
		j.putFlight(d.details.number, flight{id: d.id, givenUp: true})
		j.reserved[d.details.number] = true
	}
}
