package session

import (
	"math/rand/v2"
	"testing"
)

// checkRing compares a ring with a map.
func checkRing(t *testing.T, r *ring[int], want map[uint16]int) {
	t.Helper()
	if r.used != len(want) {
		t.Fatalf("used is %d, want %d", r.used, len(want))
	}
	n := 0
	r.all(func(id uint16, v *int) {
		n++
		if w, ok := want[id]; !ok || *v != w {
			t.Fatalf("all: %d is %d, want %d (%v)", id, *v, w, ok)
		}
	})
	if n != len(want) {
		t.Fatalf("all shows %d values, want %d", n, len(want))
	}
	for id, w := range want {
		if v := r.get(id); v == nil || *v != w || !r.crowded(id) {
			t.Fatalf("get(%d) = %v, want %d", id, v, w)
		}
	}
}

func TestRingIsAMap(t *testing.T) {
	ranges := map[string]func(rng *rand.Rand) uint16{
		"any identifier":  func(rng *rand.Rand) uint16 { return uint16(1 + rng.IntN(maxID)) },
		"few identifiers": func(rng *rand.Rand) uint16 { return uint16(1 + rng.IntN(40)) },
		"collisions":      func(rng *rand.Rand) uint16 { return uint16(1 + 4096*rng.IntN(16)) },
	}
	for name, pick := range ranges {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, 4))
			var r ring[int]
			want := map[uint16]int{}
			for i := range 20_000 {
				id := pick(rng)
				switch _, stored := want[id]; {
				case !stored && rng.IntN(3) > 0:
					*r.put(id) = i
					want[id] = i
				case stored:
					r.delete(id)
					delete(want, id)
				case len(r.slots) > 0:
					r.delete(id) // of what is not there changes nothing
				}
				w, stored := want[id]
				if v := r.get(id); (v != nil) != stored || stored && *v != w {
					t.Fatalf("step %d: get(%d) = %v, want %d (%v)", i, id, v, w, stored)
				}
				if i%500 == 0 {
					checkRing(t, &r, want)
				}
			}
			checkRing(t, &r, want)
		})
	}
}

func TestRingHoldsEveryIdentifier(t *testing.T) {
	var r ring[int]
	want := map[uint16]int{}
	for id := maxID; id > 0; id-- {
		*r.put(uint16(id)) = id
		want[uint16(id)] = id
	}
	checkRing(t, &r, want)
	if len(r.slots) != 1<<16 {
		t.Errorf("%d slots for all identifiers", len(r.slots))
	}
}

func TestRingGrows(t *testing.T) {
	var r ring[int]
	if r.get(1) != nil || r.crowded(1) {
		t.Error("an empty ring has something")
	}
	for id := range uint16(100) {
		r.put(id + 1)
	}
	if len(r.slots) != 128 {
		t.Errorf("%d slots for 100 identifiers in a row", len(r.slots))
	}
}

func TestRingForgetsWhatItDeleted(t *testing.T) {
	var r ring[*int]
	*r.put(5) = new(int)
	r.delete(5)
	if r.at(5).value != nil {
		t.Error("a deleted value is still referenced")
	}
}
