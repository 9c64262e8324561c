package fifo

import (
	"math/rand/v2"
	"testing"
)

func TestQueueKeepsOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var q Queue[int]
	next, want := 0, 0
	for range 100_000 {
		if rng.IntN(2) == 0 || q.Len() == 0 {
			q.Push(next)
			next++
			continue
		}
		if i := rng.IntN(q.Len()); *q.At(i) != want+i {
			t.Fatalf("At(%d) = %d, want %d", i, *q.At(i), want+i)
		}
		if got := q.Pop(); got != want {
			t.Fatalf("Pop() = %d, want %d", got, want)
		}
		want++
		if q.Len() != next-want {
			t.Fatalf("Len() = %d, want %d", q.Len(), next-want)
		}
	}
}

func TestQueueForgetsWhatItPopped(t *testing.T) {
	var q Queue[*int]
	q.Push(new(int))
	q.Push(new(int))
	q.Pop()
	if q.items[0] != nil {
		t.Error("a popped item is still referenced")
	}
}

func TestQueueDoesNotGrowWithTraffic(t *testing.T) {
	var q Queue[int]
	q.Push(0)
	for range 10_000 {
		q.Push(0)
		q.Pop()
	}
	if cap(q.items) > keep {
		t.Errorf("one waiting item holds room for %d", cap(q.items))
	}
}

func TestQueueGivesMemoryBack(t *testing.T) {
	var q Queue[int]
	for range 1000 {
		q.Push(0)
	}
	for range 1000 {
		q.Pop()
	}
	if cap(q.items) > keep {
		t.Errorf("an empty queue holds room for %d", cap(q.items))
	}
}
