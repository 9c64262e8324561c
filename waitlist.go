package mqtt

import (
	"container/list"
	"context"
	"sync"
)

// waitlist is a queue of goroutines that wait for room. The client's mutex guards it. A goroutine that is woken looks
// again whether there is room. If there is still room after it has taken its part, it wakes the next.
// It must not be copied.
type waitlist struct{ line list.List } // of channels

// empty reports whether no goroutine waits. If some wait, a new one must wait behind them.
func (w *waitlist) empty() bool { return w.line.Len() == 0 }

// wait waits until the goroutine is woken or ctx ends. It waits at the end of the queue, or with again at its front:
// for a goroutine that was woken and found too little room.
// The caller holds mu. It is free meanwhile.
func (w *waitlist) wait(ctx context.Context, mu *sync.Mutex, again bool) error {
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
		w.wake() // this goroutine was woken, and does not need its turn: wake the next
	default:
		w.line.Remove(place)
	}
	return ctx.Err()
}

// wake wakes the first goroutine of the queue.
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
