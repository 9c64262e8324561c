package route

import "hash/maphash"

// Cache holds the topics seen last, so that a topic that comes again is neither checked nor copied nor looked up. The zero
// value is empty.
type Cache struct {
	places *[64]*Topic // made when first needed
	seed   maphash.Seed
}

// cachedLength bounds the topics that are kept, in bytes.
const cachedLength = 256

func (c *Cache) place(name []byte) **Topic {
	return &c.places[maphash.Bytes(c.seed, name)%uint64(len(c.places))]
}

// Get returns the topic if it is there and what is known of it still holds.
func (c *Cache) Get(name []byte, r *Router) *Topic {
	if c.places == nil {
		return nil
	}
	if t := *c.place(name); t != nil && t.generation == r.generation && t.Name == string(name) {
		return t
	}
	return nil
}

// Put keeps t, unless its name is too long, and returns it.
func (c *Cache) Put(t *Topic) *Topic {
	if len(t.Name) > cachedLength {
		return t
	}
	if c.places == nil {
		c.places, c.seed = new([64]*Topic), maphash.MakeSeed()
	}
	*c.place([]byte(t.Name)) = t
	return t
}
