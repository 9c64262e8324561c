package engine

import (
	"container/heap"
	"sync"
	"time"
)

// timers is the one clock: everything that happens at a time is in its heap.
type timers struct {
	mu      sync.Mutex // guards the fields below
	heap    timerHeap
	stopped bool

	wake chan struct{} // capacity 1: the first timer is another one
}

// timer calls f once, on the goroutine that watches the clock, without a lock. It belongs to one owner, whose lock guards
// setting and stopping it; f has to look whether it still applies.
type timer struct {
	at    time.Duration // on the engine's clock
	f     func()
	place int // in the heap; -1: not there
}

func newTimer(f func()) *timer { return &timer{f: f, place: -1} }

func (t *timers) init() { t.wake = make(chan struct{}, 1) }

// set lets a timer ring at a time, and not at an earlier one.
func (t *timers) set(x *timer, at time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	x.at = at
	if x.place < 0 {
		heap.Push(&t.heap, x)
	} else {
		heap.Fix(&t.heap, x.place)
	}
	if x.place == 0 {
		t.ring()
	}
}

// unset stops a timer, which may be nil. It may be ringing.
func (t *timers) unset(x *timer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x != nil && x.place >= 0 {
		heap.Remove(&t.heap, x.place)
	}
}

// isSet reports whether a timer will ring. One that rings just now and will not again does not count.
func (t *timers) isSet(x *timer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return x.place >= 0
}

// stop ends watchClock. Timers are of no use any more.
func (t *timers) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	t.ring()
}

func (t *timers) ring() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// due returns the next timer that is due, or how long there is none.
func (t *timers) due(now time.Duration) (x *timer, wait time.Duration, stopped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.stopped:
		return nil, 0, true
	case len(t.heap) == 0:
		return nil, 1<<63 - 1, false
	case t.heap[0].at > now:
		return nil, t.heap[0].at - now, false
	}
	return heap.Pop(&t.heap).(*timer), 0, false
}

// watchClock calls timers when they are due.
func (e *Engine) watchClock() {
	clock := time.NewTimer(0)
	defer clock.Stop()
	for {
		x, wait, stopped := e.timers.due(e.now())
		switch {
		case stopped:
			return
		case x != nil:
			x.f()
			continue
		}
		clock.Reset(wait)
		select {
		case <-clock.C:
		case <-e.timers.wake:
		}
	}
}

// timerHeap is a heap by time, for package container/heap.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.place = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.place = -1
	return t
}
