// Package fifo has the queue that all of Petrel uses.
package fifo

import "slices"

// keep is the largest capacity that an emptied queue keeps, unless Keep says otherwise.
const keep = 64

// Queue is a first-in, first-out queue. The zero value is empty and holds no memory. It is not safe for concurrent
// use.
type Queue[T any] struct {
	// Keep is the largest capacity that the queue keeps when it is empty; below 64 it is 64. An owner that sets it drops the
	// queue, or calls Trim, when it has not been used for a while.
	Keep int

	items []T // items[head:] are in the queue
	head  int
}

// Trim gives back the memory of an empty queue.
func (q *Queue[T]) Trim() {
	if q.Len() == 0 && cap(q.items) > keep {
		q.items, q.head = nil, 0
	}
}

// Len returns the number of items.
func (q *Queue[T]) Len() int { return len(q.items) - q.head }

// Push adds v at the end.
func (q *Queue[T]) Push(v T) { *q.Add() = v }

// Add adds a zero item at the end, for the caller to fill in. The pointer is good until the next change.
func (q *Queue[T]) Add() *T {
	n := len(q.items)
	if n == cap(q.items) {
		if q.head > n/2 {
			q.reuse()
		} else {
			q.items = slices.Grow(q.items, 1)
		}
		n = len(q.items)
	}
	q.items = q.items[:n+1] // what was behind the end is zero: whatever leaves is cleared
	return &q.items[n]
}

// reuse makes room without growing. A few items in a large piece of memory move to a small one.
func (q *Queue[T]) reuse() {
	live := q.items[q.head:]
	if cap(q.items) > max(keep, q.Keep, 16*len(live)) {
		q.items, q.head = append(make([]T, 0, 4*len(live)), live...), 0
		return
	}
	n := copy(q.items, live)
	clear(q.items[n:])
	q.items, q.head = q.items[:n], 0
}

// At returns the item with i others before it. The pointer is good until the next Push or Pop.
func (q *Queue[T]) At(i int) *T { return &q.items[q.head+i] }

// Pop removes the first item and returns it. The queue must not be empty.
func (q *Queue[T]) Pop() T {
	v := q.items[q.head]
	q.Drop()
	return v
}

// Drop removes the first item. The queue must not be empty.
func (q *Queue[T]) Drop() {
	clear(q.items[q.head : q.head+1]) // it may hold a payload
	q.head++
	if q.head == len(q.items) {
		q.head = 0
		q.items = q.items[:0]
		if cap(q.items) > max(keep, q.Keep) {
			q.items = nil
		}
	}
}

// PopLast removes the last item and returns it. The queue must not be empty.
func (q *Queue[T]) PopLast() T {
	if q.Len() == 1 {
		return q.Pop()
	}
	last := len(q.items) - 1
	v := q.items[last]
	clear(q.items[last:])
	q.items = q.items[:last]
	return v
}

// Insert puts v before the item with i others before it, or at the end if i is Len.
func (q *Queue[T]) Insert(i int, v T) {
	if i == 0 && q.head > 0 {
		q.head--
		q.items[q.head] = v
		return
	}
	q.items = slices.Insert(q.items, q.head+i, v)
}
