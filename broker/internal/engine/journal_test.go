package engine_test

import (
	"errors"
	"strings"
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

// What is acknowledged before it is kept is kept within a second, in its order, and at the end.
func TestLazySync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var commits []string
		p := &player{t: t, version: codec.V5, clients: map[byte]*client{}, bound: map[byte][]byte{}}
		p.serve, p.stop = newServer(t, func(c *engine.Config) {
			c.Store = &fakeStore{committed: func(changes []engine.Change) {
				var topics []string
				for _, change := range changes {
					if change.Bucket == 'r' {
						topics = append(topics, string(change.Key))
					}
				}
				commits = append(commits, strings.Join(topics, " "))
			}}
			c.LazySync = true
		})
		p.run(`
			a! id=a clean
			a> 33('t/1' 0001 {} "x") 33('t/2' 0002 {} "x")
			a< 40(0001 +) 40(0002 +)
			a> 33('t/1' 0001 {} "y")
			a< 40(0001 +)`)
		if len(commits) > 0 {
			t.Errorf("committed at once: %q", commits)
		}
		p.run(`wait 1100ms
			a> 33('t/3' 0001 {} "x")
			a< 40(0001 +)`)
		if len(commits) != 1 || commits[0] != "t/1 t/2 t/1" {
			t.Errorf("committed %q", commits)
		}
		p.end()
		if len(commits) != 2 || commits[1] != "t/3" {
			t.Errorf("committed %q", commits)
		}
	})
}

// When the store fails nothing more is acknowledged, and what was before is kept once it works again.
func TestLazySyncFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept []string
		store := &fakeStore{}
		store.committed = func(changes []engine.Change) {
			for _, change := range changes {
				if change.Bucket == 'r' && store.err == nil {
					kept = append(kept, string(change.Key))
				}
			}
		}
		p := &player{t: t, version: codec.V5, clients: map[byte]*client{}, bound: map[byte][]byte{}}
		p.serve, p.stop = newServer(t, func(c *engine.Config) { c.Store, c.LazySync = store, true })
		store.err = errors.New("no space left on device")
		p.run(`
			a! id=a clean
			a> 33('t/1' 0001 {} "x")
			a< 40(0001 +)
			wait 3s
			a> 33('t/2' 0001 {} "x")
			a< 40(0001 97 *)`)
		store.err = nil
		p.run(`
			wait 2s
			a> 33('t/3' 0001 {} "x")
			a< 40(0001 +)`)
		p.end()
		if got := strings.Join(kept, " "); got != "t/1 t/3" {
			t.Errorf("kept %s", got)
		}
	})
}
