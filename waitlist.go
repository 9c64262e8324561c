package mqtt

import (
	"context"
	"slices"
	"sync"
)

// waitlist is a line of goroutines that wait for room. The owner's mutex guards it. Whoever is woken looks again and,
// if there is still room when it has taken what it wanted, wakes the next.
type waitlist struct{ line []chan struct{} }

// empty reports whether nobody waits. Newcomers go to the end of the line.
func (w *waitlist) empty() bool { return len(w.line) == 0 }

// wait waits to be woken, or for the end of ctx: at the end of the line or, for one who was woken and found too little
// room, at its front. mu is released meanwhile.
func (w *waitlist) wait(ctx context.Context, mu *sync.Mutex, again bool) error {
	woken := make(chan struct{})
	if again {
		w.line = slices.Insert(w.line, 0, woken)
	} else {
		w.line = append(w.line, woken)
	}
	mu.Unlock()
	var err error
	select {
	case <-woken:
	case <-ctx.Done():
		err = ctx.Err()
	}
	mu.Lock()
	if err == nil {
		return nil
	}
	if i := slices.Index(w.line, woken); i >= 0 {
		w.line = slices.Delete(w.line, i, i+1)
	} else {
		w.wake() // it was our turn already: pass it on
	}
	return err
}

// wake wakes the first of the line.
func (w *waitlist) wake() {
	if len(w.line) > 0 {
		close(w.line[0])
		w.line[0] = nil
		w.line = w.line[1:]
	}
}

func (w *waitlist) wakeAll() {
	for _, woken := range w.line {
		close(woken)
	}
	w.line = nil
}
