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

func TestQueuePopsTheLast(t *testing.T) {
	var q Queue[*int]
	numbers := make([]int, 10)
	for i := range numbers {
		q.Push(&numbers[i])
	}
	q.Pop()
	for i := 9; i > 0; i-- {
		if v := q.PopLast(); v != &numbers[i] || q.Len() != i-1 {
			t.Fatalf("not number %d, or %d are left", i, q.Len())
		}
	}
	q.Push(&numbers[3])
	if q.Len() != 1 || q.Pop() != &numbers[3] {
		t.Error("the queue is not as new")
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

func TestQueueGivesMemoryBackBeforeItIsEmpty(t *testing.T) {
	var q Queue[int]
	pushed, popped := 0, 0
	push := func() {
		q.Push(pushed)
		pushed++
	}
	pop := func() {
		if got := q.Pop(); got != popped {
			t.Fatalf("Pop() = %d, want %d", got, popped)
		}
		popped++
	}
	for range 10_000 {
		push()
	}
	for q.Len() > 10 {
		pop()
	}
	for range 5_000 {
		push()
		pop()
	}
	if cap(q.items) > keep {
		t.Errorf("10 waiting items hold room for %d", cap(q.items))
	}
}

func BenchmarkQueue(b *testing.B) {
	for name, length := range map[string]int{"10": 10, "1000": 1000} {
		b.Run(name, func(b *testing.B) {
			var q Queue[[10]int]
			b.ReportAllocs()
			for b.Loop() {
				for range length {
					q.Push([10]int{})
				}
				for range length {
					q.Pop()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*length), "ns/item")
		})
	}
}

// An emptied queue keeps the memory that Keep allows, and no more.
func TestKeep(t *testing.T) {
	for _, c := range []struct {
		keep, items int
		kept        bool
	}{{0, keep, true}, {0, 2 * keep, false}, {1, keep, true}, {2000, 1000, true}, {1000, 5000, false}} {
		q := Queue[int]{Keep: c.keep}
		for i := range c.items {
			q.Push(i)
		}
		for q.Len() > 0 {
			q.Pop()
		}
		if got := cap(q.items) > 0; got != c.kept {
			t.Errorf("Keep %d: after %d items %d are kept", c.keep, c.items, cap(q.items))
		}
	}
}

// What Add returns is zero, whatever stood in that memory before.
func TestAddGivesZero(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, keep := range []int{0, 1000} {
		q := Queue[[2]int]{Keep: keep}
		for i := range 20_000 {
			switch n := q.Len(); {
			case n == 0 || rng.IntN(5) < 2:
				v := q.Add()
				if *v != [2]int{} {
					t.Fatalf("step %d: %v", i, *v)
				}
				*v = [2]int{i + 1, i + 1}
			case rng.IntN(6) == 0:
				q.Insert(rng.IntN(n+1), [2]int{i + 1, i + 1})
			case rng.IntN(3) == 0:
				q.PopLast()
			case rng.IntN(2) == 0:
				q.Drop()
			default:
				for q.Len() > rng.IntN(3) {
					q.Pop()
				}
			}
		}
	}
}

// Trim takes what Keep has left, and nothing that is in use.
func TestTrim(t *testing.T) {
	q := Queue[int]{Keep: 2000}
	for i := range 1000 {
		q.Push(i)
	}
	q.Trim()
	for i := range 1000 {
		if got := q.Pop(); got != i {
			t.Fatalf("Trim has changed item %d to %d", i, got)
		}
	}
	if cap(q.items) < 1000 {
		t.Fatal("Keep has not left the memory")
	}
	q.Trim()
	if cap(q.items) > 0 {
		t.Errorf("room for %d items is left", cap(q.items))
	}
	q.Push(1)
	q.Pop()
	small := cap(q.items)
	if q.Trim(); cap(q.items) != small {
		t.Error("a small piece of memory is not kept")
	}
	q.Push(7)
	if q.Len() != 1 || q.Pop() != 7 {
		t.Error("the queue is not as new")
	}
}

// Keep counts for a queue with a few items too: they do not move to a smaller piece of memory.
func TestKeepWhileInUse(t *testing.T) {
	for keep, stays := range map[int]bool{0: false, 5000: true} {
		q := Queue[int]{Keep: keep}
		for i := range 2000 {
			q.Push(i)
		}
		for q.Len() > 10 {
			q.Pop()
		}
		large := cap(q.items)
		for i := range 5000 {
			q.Push(i)
			q.Pop()
		}
		if got := cap(q.items) == large; got != stays {
			t.Errorf("Keep %d: room for %d of %d items is left", keep, cap(q.items), large)
		}
	}
}
