package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/petrel-mqtt/mqtt"
)

// Run tests a Store. open opens an empty store, and again gives another one on the same data, as after the end of the process: the
// first is not used any more then.
func Run(t *testing.T, open func(t *testing.T) (s mqtt.Store, again func() mqtt.Store)) {
	for name, test := range map[string]func(*testing.T, mqtt.Store, func() mqtt.Store){
		"Changes": testChanges, "Order": testOrder, "InUse": testInUse, "LoadFails": testLoadFails, "Large": testLarge,
	} {
		t.Run(name, func(t *testing.T) {
			s, again := open(t)
			test(t, s, again)
		})
	}
}

func load(t *testing.T, s mqtt.Store) (text string) {
	t.Helper()
	err := s.Load(context.Background(), func(key, value []byte) error {
		text += fmt.Sprintf("%x=%x ", key, value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func apply(t *testing.T, s mqtt.Store, changes ...mqtt.StoreChange) {
	t.Helper()
	if err := s.Apply(context.Background(), changes); err != nil {
		t.Fatal(err)
	}
}

func set(key, value string) mqtt.StoreChange {
	return mqtt.StoreChange{Key: []byte(key), Value: []byte(value)}
}

func remove(key string) mqtt.StoreChange { return mqtt.StoreChange{Key: []byte(key)} }

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("loaded %q, want %q", got, want)
	}
}

func testChanges(t *testing.T, s mqtt.Store, again func() mqtt.Store) {
	want(t, load(t, s), "")
	apply(t, s, set("b", "1"), set("a", ""), set("c", "3"))
	apply(t, s, set("b", "2"), remove("c"), remove("d"))
	apply(t, s)
	s = again()
	want(t, load(t, s), "61= 62=32 ")
}

// Of several changes of a key the last one counts, and keys are loaded in their order.
func testOrder(t *testing.T, s mqtt.Store, again func() mqtt.Store) {
	load(t, s)
	apply(t, s, remove("\x01"), set("\x01", "1"), set("\x02", "1"), remove("\x02"), set("\x00", "1"), set("\x00", "2"), set("\x01\x00", "3"))
	s = again()
	want(t, load(t, s), "00=32 01=31 0100=33 ")
}

func testInUse(t *testing.T, s mqtt.Store, _ func() mqtt.Store) {
	load(t, s)
	if err := s.Load(context.Background(), nil); !errors.Is(err, mqtt.ErrStoreInUse) {
		t.Fatalf("a second client gets %v", err)
	}
	apply(t, s, set("a", "1"))
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	want(t, load(t, s), "61=31 ")
}

// After a Load that has failed the store is free.
func testLoadFails(t *testing.T, s mqtt.Store, _ func() mqtt.Store) {
	load(t, s)
	apply(t, s, set("a", "1"))
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	failure := errors.New("no")
	if err := s.Load(context.Background(), func([]byte, []byte) error { return failure }); !errors.Is(err, failure) {
		t.Fatal(err)
	}
	want(t, load(t, s), "61=31 ")
}

func testLarge(t *testing.T, s mqtt.Store, again func() mqtt.Store) {
	load(t, s)
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	apply(t, s, mqtt.StoreChange{Key: []byte("a"), Value: value})
	s = again()
	found := false
	err := s.Load(context.Background(), func(_, v []byte) error {
		found = bytes.Equal(v, value)
		return nil
	})
	if err != nil || !found {
		t.Fatalf("1 MiB does not come back: %v", err)
	}
}
