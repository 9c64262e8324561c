// Package storetest tests applications that use mqtt.WithStore, and implementations of mqtt.Store: Memory is a Store that can
// fail and crash, and Run holds a Store to what the interface says.
package storetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/petrel-mqtt/mqtt"
)

// Memory is a Store in memory. What its Apply has returned nil for survives Crash, and nothing else. The zero Memory is
// empty and ready.
type Memory struct {
	mu     sync.Mutex
	saved  map[string][]byte
	used   bool
	gone   bool
	before func(ctx context.Context, changes []mqtt.StoreChange) error
}

// errGone is what a Memory that has crashed says.
var errGone = errors.New("storetest: the process of this store is dead")

// Load implements mqtt.Store.
func (m *Memory) Load(ctx context.Context, f func(key, value []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.gone:
		return errGone
	case m.used:
		return mqtt.ErrStoreInUse
	}
	for _, key := range slices.Sorted(maps.Keys(m.saved)) {
		if err := f([]byte(key), m.saved[key]); err != nil {
			return err
		}
	}
	m.used = true
	return nil
}

// Apply implements mqtt.Store.
func (m *Memory) Apply(ctx context.Context, changes []mqtt.StoreChange) error {
	m.mu.Lock()
	before := m.before
	m.mu.Unlock()
	if before != nil {
		if err := before(ctx, changes); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return errGone
	}
	if m.saved == nil {
		m.saved = make(map[string][]byte)
	}
	for _, c := range changes {
		if c.Value == nil {
			delete(m.saved, string(c.Key))
		} else {
			m.saved[string(c.Key)] = c.Value
		}
	}
	return nil
}

// Release implements mqtt.Store.
func (m *Memory) Release() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used = false
	return nil
}

// Before lets f run at the start of each Apply, from now on: it may wait, and what it returns, other than nil, is the error of Apply,
// which then changes nothing. nil is none.
func (m *Memory) Before(f func(ctx context.Context, changes []mqtt.StoreChange) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = f
}

// Crash returns a Store with what a process would find that starts after the death of m's: what was applied by now. m takes
// nothing more.
func (m *Memory) Crash() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	return &Memory{saved: maps.Clone(m.saved)}
}

// Len returns how many keys the store has.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.saved)
}
