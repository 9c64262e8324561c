package session

// maxID is the highest packet identifier.
const maxID = 1<<16 - 1

// minSlots is the size of a ring that holds anything at all.
const minSlots = 4

// ring is a table by packet identifier. Identifiers are handed out cyclically, on both ends, so the low bits of an
// identifier nearly always lead to a free slot: a look-up is one index and one comparison. A ring doubles when it must, up
// to one slot for each identifier.
type ring[T any] struct {
	slots []slot[T] // a power of two, or none yet
	used  int
}

type slot[T any] struct {
	id    uint16 // 0: free
	value T
}

func (r *ring[T]) at(id uint16) *slot[T] {
	return &r.slots[int(id)&(len(r.slots)-1)]
}

// get returns what is stored under id, or nil. The pointer is good until the next put or delete.
func (r *ring[T]) get(id uint16) *T {
	if len(r.slots) == 0 || id == 0 {
		return nil
	}
	s := r.at(id)
	if s.id != id {
		return nil
	}
	return &s.value
}

// put makes room for a value under id, which must not be 0 and not be in use. The caller fills it in: the pointer is
// good until the next put or delete.
func (r *ring[T]) put(id uint16) *T {
	if len(r.slots) == 0 {
		r.slots = make([]slot[T], minSlots)
	}
	for r.at(id).id != 0 {
		r.grow()
	}
	s := r.at(id)
	s.id = id
	r.used++
	return &s.value
}

// crowded reports whether id's slot is taken, by id itself or by another identifier.
func (r *ring[T]) crowded(id uint16) bool {
	return len(r.slots) > 0 && r.at(id).id != 0
}

// delete frees id's slot and forgets its content, which may hold a payload.
func (r *ring[T]) delete(id uint16) {
	s := r.at(id)
	if s.id == id {
		*s = slot[T]{}
		r.used--
	}
}

// trim releases the memory of an empty ring.
func (r *ring[T]) trim() {
	if r.used == 0 {
		r.slots = nil
	}
}

// grow doubles the ring. Two identifiers that had slots of their own keep them: they differ in a low bit already.
func (r *ring[T]) grow() {
	old := r.slots
	r.slots = make([]slot[T], max(minSlots, 2*len(old)))
	for i := range old {
		if old[i].id != 0 {
			*r.at(old[i].id) = old[i]
		}
	}
}

// widen doubles a ring that is half full or more, unless it has a slot for every identifier.
func (r *ring[T]) widen() {
	if 2*r.used >= len(r.slots) && len(r.slots) <= maxID {
		r.grow()
	}
}

// all calls f for everything stored, in the order of the slots.
func (r *ring[T]) all(f func(id uint16, v *T)) {
	for i := range r.slots {
		if r.slots[i].id != 0 {
			f(r.slots[i].id, &r.slots[i].value)
		}
	}
}
