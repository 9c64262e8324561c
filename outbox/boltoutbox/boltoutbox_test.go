package boltoutbox_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/petrel-mqtt/mqtt/outbox"
	"github.com/petrel-mqtt/mqtt/outbox/boltoutbox"
	"github.com/petrel-mqtt/mqtt/outbox/internal/storetest"
)

func open(t *testing.T) *bbolt.DB {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *storetest.Outbox {
		db := open(t)
		return &storetest.Outbox{
			Exclusive: true,
			Open:      func() outbox.Store { return boltoutbox.New(db) },
			Transact: func(f func(storetest.Publish) error) error {
				return db.Update(func(tx *bbolt.Tx) error {
					return f(func(topic string, payload []byte, opts ...outbox.Option) error {
						return boltoutbox.Publish(tx, topic, payload, opts...)
					})
				})
			},
		}
	})
}

// A bucket that somebody else has made is left alone.
func TestForeign(t *testing.T) {
	db := open(t)
	foreign := boltoutbox.Bucket("orders")
	err := db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("orders"))
		if err != nil {
			return err
		}
		return b.Put([]byte("messages"), []byte("mine"))
	})
	if err != nil {
		t.Fatal(err)
	}
	s := foreign.New(db)
	if _, err := s.Claim(t.Context(), outbox.Want{Keys: 1, PerKey: 1, Bytes: 1, Hold: time.Second}); err == nil {
		t.Error("claimed")
	}
	if _, err := s.Requeue(t.Context(), 1); err == nil {
		t.Error("requeued")
	}
	if err := db.Update(func(tx *bbolt.Tx) error { return foreign.Publish(tx, "t", nil) }); err == nil {
		t.Error("published")
	}
}
