package engine

import (
	"slices"
	"sync"
	"time"
)

// Store keeps what must outlive the process: values by bucket and key. Load is called before everything else; then one
// goroutine at a time calls the rest.
type Store interface {
	// Load calls f with everything that is stored, bucket by bucket in the order of their letters, and in each in the order
	// of the keys. The slices are only on loan.
	Load(f func(bucket byte, key, value []byte) error) error
	// Commit carries out all of the changes, in their order, or none of them. When it returns nil, they survive a loss of
	// power.
	Commit(changes []Change) error
	Close() error
}

// Change puts a value under a key of at most 32 KiB, or removes what is there if the value is nil.
type Change struct {
	Bucket     byte
	Key, Value []byte
}

// The buckets.
const (
	bucketGroups   = 'g' // filter: number of a group of a shared subscription
	bucketReceived = 'i' // number of a session, packet identifier: a message at QoS 2 from it has come
	bucketLedgers  = 'l' // number of a session or group: which messages it needs no more
	bucketMessages = 'm' // sequence: message, and whom it is for
	bucketSent     = 'o' // number of a session, packet identifier: a message at QoS 2 is on its way to it
	bucketRetained = 'r' // topic, see retainedKey: message
	bucketSessions = 's' // number: session
)

// Buckets are the names of all buckets, in their order.
const Buckets = "gilmors"

// journal brings changes into the store: what waits for one commit goes there in the next. There is no timer for what
// somebody waits for; commits take as long as they take, and meanwhile more comes together.
type journal struct {
	engine    *Engine
	store     Store
	restoring bool // the store is being read

	mu        sync.Mutex // guards the fields below
	entries   []*entry
	bytes     int // of entries, and of those that are being committed or released
	later     []Change
	dirty     map[saver]bool
	ending    map[string]*Session // by client identifier: those that have ended, and are in the store still
	retaining map[string]int      // by topic: runs of retained messages that are not released yet
	sequence  uint64              // of the latest message
	number    uint64              // of the latest session or group
	room      chan struct{}       // closed when bytes falls below the bound; nil: nobody waits for that
	closed    bool

	wake     chan struct{} // capacity 1: there is something to commit
	released chan []*entry // to the releaser
	running  sync.WaitGroup
}

// entry is changes that somebody waits for. done is called when they are committed, or have failed, by one goroutine, in the
// order of the entries, and without a lock.
type entry struct {
	changes []Change
	size    int
	err     error
	done    func(error)
}

const (
	// journalBound is how many bytes of messages may wait for commits. Beyond it nothing is read from publishers.
	journalBound = 32 << 20
	// lazyCommit is how long changes that nobody waits for may wait.
	lazyCommit = time.Second
)

func newJournal(e *Engine, s Store) *journal {
	return &journal{
		engine: e, store: s, dirty: map[saver]bool{}, ending: map[string]*Session{}, retaining: map[string]int{},
		wake: make(chan struct{}, 1), released: make(chan []*entry, 1),
	}
}

// run begins to commit.
func (j *journal) run() {
	j.running.Go(j.commitAll)
	j.running.Go(j.releaseAll)
}

// saver has a record that is written as it is at the time of the commit, however often it has changed before.
type saver interface{ changes() []Change }

// submit lets changes be committed, and the record of a saver, if it is not nil. done is called then.
func (j *journal) submit(record saver, changes []Change, done func(error)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if record != nil {
		j.dirty[record] = true
	}
	j.add(&entry{changes: changes, done: done})
}

// add appends an entry. The lock is held.
func (j *journal) add(n *entry) {
	for i := range n.changes {
		n.size += len(n.changes[i].Key) + len(n.changes[i].Value)
	}
	j.entries = append(j.entries, n)
	j.bytes += n.size
	j.ring()
}

func (j *journal) ring() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// lazily lets a change be committed with the next ones, at most a second later. It comes before what is submitted after it.
func (j *journal) lazily(c Change) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.later = append(j.later, c)
}

// spoil lets a record be written with the next commit, at most a second later.
func (j *journal) spoil(record saver) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.dirty[record] = true
}

// newNumber returns a number for a session or group. Numbers are never used again.
func (j *journal) newNumber() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.number++
	return j.number
}

// unflood waits until the store has caught up. The caller holds no lock that a releaser needs.
func (j *journal) unflood() {
	j.mu.Lock()
	if j.bytes < journalBound || j.closed {
		j.mu.Unlock()
		return
	}
	if j.room == nil {
		j.room = make(chan struct{})
	}
	room := j.room
	j.mu.Unlock()
	<-room
}

// take returns what is to be committed, in its order.
func (j *journal) take() (later []Change, entries []*entry, closed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	later, entries, j.later, j.entries = j.later, j.entries, nil, nil
	return later, entries, j.closed
}

// takeDirty returns the records that have changed.
func (j *journal) takeDirty() (dirty []saver) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for l := range j.dirty {
		dirty = append(dirty, l)
	}
	clear(j.dirty)
	return dirty
}

// commitAll is the committer.
func (j *journal) commitAll() {
	defer close(j.released)
	tick := time.NewTicker(lazyCommit)
	defer tick.Stop()
	var open []Change // that nobody waits for, or nobody any more
	for {
		due := false
		select {
		case <-j.wake:
		case <-tick.C:
			due = true
		}
		later, entries, closed := j.take()
		open = append(open, later...)
		if j.early(open, due || closed) {
			for _, n := range entries {
				open = append(open, n.changes...)
			}
		} else {
			open = j.commitWith(open, entries)
		}
		if len(entries) > 0 {
			j.released <- entries
		} else if closed {
			return
		}
	}
}

// earlyBound is about how many changes may be acknowledged before they are committed.
const earlyBound = 100_000

// early reports whether what has come is acknowledged now and committed later.
func (j *journal) early(open []Change, due bool) bool {
	return j.engine.config.LazySync && !due && !j.engine.failing.Load() && len(open) < earlyBound
}

// commitWith commits what is open, the entries and the records that have changed. It returns what is still open then.
func (j *journal) commitWith(open []Change, entries []*entry) []Change {
	changes := slices.Clip(open)
	for _, n := range entries {
		changes = append(changes, n.changes...)
	}
	dirty := j.takeDirty()
	for _, l := range dirty {
		changes = append(changes, l.changes()...)
	}
	err := j.commit(changes)
	for _, n := range entries {
		n.err = err
	}
	if err == nil {
		j.forgetEnded(dirty)
		return nil
	}
	for _, l := range dirty {
		j.spoil(l)
	}
	return open
}

// forgetEnded notes which sessions have left the store.
func (j *journal) forgetEnded(committed []saver) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range committed {
		if s, ok := l.(*Session); ok && j.ending[s.id] == s && s.removed.Load() {
			delete(j.ending, s.id)
		}
	}
}

// isEnding reports whether the store still has a session of a client that has ended.
func (j *journal) isEnding(id string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ending[id] != nil
}

// commit commits changes, and tells the log when that begins or ceases to fail.
func (j *journal) commit(changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	err := j.store.Commit(changes)
	failing := err != nil
	if j.engine.failing.Swap(failing) != failing {
		if failing {
			j.engine.log.Error("cannot write to the persistence file, so no message is acknowledged that has to be kept", "error", err)
		} else {
			j.engine.log.Info("the persistence file can be written again")
		}
	}
	j.engine.stats.commits.Add(1)
	return err
}

// Failing reports whether the store did not take what was last given to it, so that nothing is acknowledged that has to be kept.
func (e *Engine) Failing() bool { return e.failing.Load() }

// releaseAll is the releaser: it carries out what had to wait for a commit, while the next one is under way.
func (j *journal) releaseAll() {
	for entries := range j.released {
		n := 0
		for _, entry := range entries {
			entry.done(entry.err)
			n += entry.size
		}
		j.mu.Lock()
		j.bytes -= n
		if j.room != nil && j.bytes < journalBound {
			close(j.room)
			j.room = nil
		}
		j.mu.Unlock()
	}
}

// close commits what is left, and closes the store.
func (j *journal) close() error {
	j.mu.Lock()
	j.closed = true
	j.ring()
	j.mu.Unlock()
	j.running.Wait()
	return j.store.Close()
}
