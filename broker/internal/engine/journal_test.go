package engine_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/codec"
)

// slowStore takes ten seconds for each commit.
func slowStore(lazy bool) func(*engine.Config) {
	return func(c *engine.Config) {
		c.Store = &fakeStore{committed: func([]engine.Change) { time.Sleep(10 * time.Second) }}
		c.LazySync = lazy
	}
}

const storing = `
	a! id=a clean
	a> 33('t' 0001 {} "x")
`

// With a store what has to be kept is acknowledged when it is kept, unless the configuration says otherwise.
func TestSync(t *testing.T) {
	playWith(t, slowStore(false), []exchange{{"always", "", storing + `
		wait 9s
		a~
		wait 2s
		a< 40(0001 +)`}})
	playWith(t, slowStore(true), []exchange{{"interval", "", storing + `
		a< 40(0001 +)`}})
}

// commits are the topics of retained messages in each commit that a store has taken.
type commits struct {
	mu   sync.Mutex // guards list
	list []string
}

func (c *commits) add(changes []engine.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var topics []string
	for _, change := range changes {
		if change.Bucket == 'r' {
			topics = append(topics, string(change.Key))
		}
	}
	c.list = append(c.list, strings.Join(topics, " "))
}

// want takes what has been committed until now.
func (c *commits) want(t *testing.T, want ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.list, want) {
		t.Errorf("committed %q, want %q", c.list, want)
	}
	c.list = nil
}

// What is acknowledged before it is kept is kept within a second, in its order, and at the end.
func TestLazySync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got commits
		p := &player{t: t, main: codec.V5, clients: map[byte]*client{}, bound: map[byte][]byte{}}
		p.serve, p.stop = newServer(t, func(c *engine.Config) {
			c.Store, c.LazySync = &fakeStore{committed: got.add}, true
		})
		p.run(`
			a! id=a clean
			a> 33('t/1' 0001 {} "x") 33('t/2' 0002 {} "x")
			a< 40(0001 +) 40(0002 +)
			a> 33('t/1' 0001 {} "y")
			a< 40(0001 +)`)
		got.want(t)
		p.run(`wait 1100ms
			a> 33('t/3' 0001 {} "x")
			a< 40(0001 +)`)
		got.want(t, "t/1 t/2 t/1")
		p.end()
		got.want(t, "t/3")
	})
}

// When the store fails nothing more is acknowledged, and what was before is kept once it works again.
func TestLazySyncFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept commits
		store := new(fakeStore)
		store.committed = func(changes []engine.Change) {
			if !store.full.Load() {
				kept.add(changes)
			}
		}
		p := &player{t: t, main: codec.V5, clients: map[byte]*client{}, bound: map[byte][]byte{}}
		p.serve, p.stop = newServer(t, func(c *engine.Config) { c.Store, c.LazySync = store, true })
		store.full.Store(true)
		p.run(`
			a! id=a clean
			a> 33('t/1' 0001 {} "x")
			a< 40(0001 +)
			wait 3s
			a> 33('t/2' 0001 {} "x")
			a< 40(0001 97 *)`)
		store.full.Store(false)
		p.run(`
			wait 2s
			a> 33('t/3' 0001 {} "x")
			a< 40(0001 +)`)
		p.end()
		kept.want(t, "t/1", "t/3")
	})
}
