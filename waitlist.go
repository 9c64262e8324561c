package mqtt

import (
	"container/list"
	"context"
	"sync"
)

// waitlist is a line of goroutines that wait for room. The owner's mutex guards it. Whoever is woken looks again and,
// if there is still room when it has taken what it wanted, wakes the next.
type waitlist struct{ line *list.List } // of channels; nil: nobody has waited yet

// empty reports whether nobody waits. Newcomers go to the end of the line.
func (w *waitlist) empty() bool { return w.line == nil || w.line.Len() == 0 }

// wait waits to be woken, or for the end of ctx: at the end of the line or, for one who was woken and found too little
// room, at its front.
// The caller holds mu. It is free meanwhile.
func (w *waitlist) wait(ctx context.Context, mu *sync.Mutex, again bool) error {
	if w.line == nil {
		w.line = list.New()
	}
	woken := make(chan struct{})
	join := w.line.PushBack
	if again {
		join = w.line.PushFront
	}
	place := join(woken)
	mu.Unlock()
	select {
	case <-woken:
		mu.Lock()
		return nil
	case <-ctx.Done():
	}
	mu.Lock()
	select {
	case <-woken:
		w.wake() // it was our turn already: pass it on
	default:
		w.line.Remove(place)
	}
	return ctx.Err()
}

// wake wakes the first of the line.
func (w *waitlist) wake() {
	if !w.empty() {
		close(w.line.Remove(w.line.Front()).(chan struct{}))
	}
}

func (w *waitlist) wakeAll() {
	for !w.empty() {
		w.wake()
	}
}
