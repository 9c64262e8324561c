package engine

import (
	"hash/maphash"
	"sync"
)

// registry has the sessions by client identifier, in shards so that clients which come and go at the same time do not
// wait for each other.
type registry struct {
	seed   maphash.Seed
	shards [64]shard
}

type shard struct {
	mu       sync.Mutex
	sessions map[string]*Session
}

func (r *registry) init() {
	r.seed = maphash.MakeSeed()
	for i := range r.shards {
		r.shards[i].sessions = map[string]*Session{}
	}
}

// shard returns the one that a client identifier belongs to.
func (r *registry) shard(id string) *shard {
	return &r.shards[maphash.String(r.seed, id)%uint64(len(r.shards))]
}

// sessionSize is what a session takes that is away and has nothing, about.
const sessionSize = 1 << 10

// enroll enters a session. The shard's lock is held.
func (e *Engine) enroll(sh *shard, s *Session) {
	sh.sessions[s.id] = s
	e.stats.sessions.Add(1)
	e.memory.Add(s.size())
}

// dismiss removes a session. The shard's lock is held.
func (e *Engine) dismiss(sh *shard, s *Session) {
	delete(sh.sessions, s.id)
	e.stats.sessions.Add(-1)
	e.memory.Add(-s.size())
}

// size is what a session takes without what belongs to it. The names are there twice: as those of the session, and of its
// latest client.
func (s *Session) size() int64 { return sessionSize + 2*int64(len(s.id)+len(s.owner)) }

// each calls f with every session, without a lock.
func (r *registry) each(f func(*Session)) {
	var all []*Session
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for _, s := range sh.sessions {
			all = append(all, s)
		}
		sh.mu.Unlock()
		for _, s := range all {
			f(s)
		}
		clear(all)
		all = all[:0]
	}
}
