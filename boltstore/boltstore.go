// Package boltstore is a mqtt.Store in one file, by bbolt:
//
//	store, err := boltstore.Open("/var/lib/billing/outgoing.db")
//	…
//	defer store.Close()
//	client, err := mqtt.NewClient(ctx, "broker.example.com", mqtt.WithStore(store))
//
// A file belongs to one process at a time, and to one client at a time. Many publishers share a sync of the disk.
package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/petrel-mqtt/mqtt"
)

// format is the version of the file's schema: the bucket about has it, and the bucket records has the values, each behind
// its checksum.
const format = "petrel-mqtt-store 1"

var (
	about     = []byte("about")
	records   = []byte("records")
	formatKey = []byte("format")
)

// ErrDamaged says that the file is not as it was written. Nothing was changed in it.
var ErrDamaged = errors.New("boltstore: the file is damaged")

// Store is a mqtt.Store. Its methods may be called concurrently.
type Store struct {
	path    string
	db      *bbolt.DB
	options options
	stop    chan struct{} // closed by Close
	syncing sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	used   bool
	closed bool
	size   int64 // bytes of all keys and values
	dirty  bool  // something was written since the last sync
	failed error // why the last sync failed, with WithSyncInterval
}

// options are what the options of Open say.
type options struct {
	interval   time.Duration // 0: each Apply is synced
	most       int64         // bytes; 0: no bound
	seal, open func(key, value []byte) ([]byte, error)
	file       func(name string, flag int, mode fs.FileMode) (*os.File, error) // for tests
}

// Option is an option of Open; nil is none.
type Option func(*options) error

// WithSyncInterval lets the operating system keep what was written, and syncs the disk every d, instead of once for each batch.
// It is faster. The death of the process still loses nothing. A power failure, or a crash of the operating system, loses
// what was accepted since the last sync, and may leave a damaged file, which Open refuses: then everything in it is lost. While
// syncing fails, the store takes nothing.
func WithSyncInterval(d time.Duration) Option {
	return func(o *options) error {
		if o.interval = d; d <= 0 {
			return errors.New("boltstore: WithSyncInterval: not positive")
		}
		return nil
	}
}

// WithMaxBytes bounds what is in the store, in bytes: a message that finds no room fails with mqtt.ErrQueueFull. The file is larger,
// up to about twice, and does not shrink. How far messages have come and what became of them is written beyond the bound.
// Without this option the client's queue, WithQueue, is the only bound.
func WithMaxBytes(n int64) Option {
	return func(o *options) error {
		if o.most = n; n <= 0 {
			return errors.New("boltstore: WithMaxBytes: not positive")
		}
		return nil
	}
}

// WithSeal encrypts values with seal before they are written, and decrypts them with open. Both get the record's key, which is
// written as it is and has no content of messages, and must not change or keep the slices. Use an AEAD with the key as
// additional data, so that values cannot be exchanged unnoticed. An error of open refuses the store.
func WithSeal(seal, open func(key, value []byte) ([]byte, error)) Option {
	return func(o *options) error {
		if o.seal, o.open = seal, open; seal == nil || open == nil {
			return errors.New("boltstore: WithSeal: nil")
		}
		return nil
	}
}

// Open opens the store in a file, or makes one with mode 0600 if there is no file or an empty one. The error is
// mqtt.ErrStoreInUse if another process has the file open, mqtt.ErrStoreForeign if it is no store, ErrDamaged, or the
// operating system's. A file that is refused is not changed.
func Open(path string, opts ...Option) (*Store, error) {
	s := &Store{path: path, stop: make(chan struct{})}
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		if err := opt(&s.options); err != nil {
			return nil, err
		}
	}
	if err := s.inspect(); err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockPatience, FreelistType: bbolt.FreelistMapType, NoSync: s.options.interval > 0, OpenFile: s.options.file,
	})
	if err != nil {
		return nil, s.explain(err)
	}
	s.db = db
	if err := db.Update(s.create); err != nil {
		db.Close()
		return nil, s.explain(err)
	}
	if s.options.interval > 0 {
		s.syncing.Go(s.sync)
	}
	return s, nil
}

// lockPatience is how long Open waits for another process to close the file.
const lockPatience = 100 * time.Millisecond

// inspect looks at a file without changing it.
func (s *Store) inspect() error {
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && info.Size() == 0:
		return nil
	case err != nil:
		return s.explain(err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no file: name another one", mqtt.ErrStoreForeign, s.path)
	}
	db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockPatience})
	if err != nil {
		return s.explain(err)
	}
	defer db.Close()
	return s.explain(guarded(func() error {
		return db.View(func(tx *bbolt.Tx) error { return inspect(tx, info.Size()) })
	}))
}

// inspect says what is wrong with a file of so many bytes.
func inspect(tx *bbolt.Tx, size int64) error {
	if tx.Size() > size {
		return fmt.Errorf("%w: %d bytes of %d are missing", ErrDamaged, tx.Size()-size, tx.Size())
	}
	buckets := 0
	if err := tx.ForEach(func([]byte, *bbolt.Bucket) error { buckets++; return nil }); err != nil || buckets == 0 {
		return err
	}
	b := tx.Bucket(about)
	if b == nil || tx.Bucket(records) == nil {
		return mqtt.ErrStoreForeign
	}
	if got := string(b.Get(formatKey)); got != format {
		return fmt.Errorf("%w: its format is %q, and this program reads %q", mqtt.ErrStoreForeign, got, format)
	}
	return nil
}

// create makes the buckets of a new store.
func (s *Store) create(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists(about)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(records); err != nil {
		return err
	}
	if b.Get(formatKey) != nil {
		return nil
	}
	return b.Put(formatKey, []byte(format))
}

// guarded makes an error of the faults that reading a damaged file can cause.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return f()
}

// explain says which file is meant and what to do.
func (s *Store) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%w: another process has %s open", mqtt.ErrStoreInUse, s.path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, mqtt.ErrStoreForeign):
		return fmt.Errorf("boltstore: %s: %w: nothing was changed; name another file, or move this one away", s.path,
			errors.Join(mqtt.ErrStoreForeign, err))
	case errors.Is(err, bolterrors.ErrChecksum):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if errors.Is(err, ErrDamaged) {
		return fmt.Errorf("boltstore: %s: %w: nothing was changed; restore it from a copy, or move it away and begin without it",
			s.path, err)
	}
	return fmt.Errorf("boltstore: %s: %w", s.path, err)
}

// Close closes the file. The client that uses the store must have ended. A second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	used, closed := s.used, s.closed
	s.closed = closed || !used
	s.mu.Unlock()
	switch {
	case used:
		return fmt.Errorf("boltstore: Close: %w", mqtt.ErrStoreInUse)
	case closed:
		return nil
	}
	close(s.stop)
	s.syncing.Wait()
	if s.options.interval > 0 {
		if err := s.db.Sync(); err != nil {
			s.db.Close()
			return s.explain(err)
		}
	}
	return s.db.Close()
}

// sync syncs now and then, until Close.
func (s *Store) sync() {
	tick := time.NewTicker(s.options.interval)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			s.syncDirty()
		}
	}
}

func (s *Store) syncDirty() {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = false
	s.mu.Unlock()
	if !dirty {
		return
	}
	err := s.db.Sync()
	s.mu.Lock()
	s.failed = err
	s.dirty = s.dirty || err != nil // again at the next tick
	s.mu.Unlock()
}

// Load implements mqtt.Store.
func (s *Store) Load(ctx context.Context, f func(key, value []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used {
		return mqtt.ErrStoreInUse
	}
	s.size = 0
	err := guarded(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(records).ForEach(func(k, v []byte) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return s.loadRecord(k, v, f)
			})
		})
	})
	if err != nil {
		return s.explain(err)
	}
	s.used = true
	return nil
}

func (s *Store) loadRecord(k, v []byte, f func(key, value []byte) error) error {
	s.size += int64(len(k) + len(v))
	key := append([]byte{}, k...)
	if len(v) < 4 || crc32.Checksum(v[4:], castagnoli) != binary.BigEndian.Uint32(v) {
		return fmt.Errorf("%w: the record %x is not as it was written", ErrDamaged, key)
	}
	value := append([]byte{}, v[4:]...)
	if s.options.open != nil {
		opened, err := s.options.open(key, value)
		if err != nil {
			return fmt.Errorf("opening the record %x: %w", key, err)
		}
		value = opened
	}
	return f(key, value)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Apply implements mqtt.Store.
func (s *Store) Apply(ctx context.Context, changes []mqtt.StoreChange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	size, failed := s.size, s.failed
	s.mu.Unlock()
	if failed != nil {
		return s.explain(failed)
	}
	before := size
	err := guarded(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(records)
			bounded := false
			for i := range changes {
				bounded = bounded || changes[i].Bounded
				grown, err := s.change(b, &changes[i])
				if err != nil {
					return err
				}
				size += grown
			}
			if bounded && s.options.most > 0 && size > s.options.most && size > before {
				return mqtt.ErrQueueFull
			}
			return nil
		})
	})
	if err != nil {
		return s.explain(err)
	}
	s.mu.Lock()
	s.size, s.dirty = size, true
	s.mu.Unlock()
	return nil
}

// change makes one change. It returns by how many bytes the store has grown.
func (s *Store) change(b *bbolt.Bucket, c *mqtt.StoreChange) (grown int64, err error) {
	if old := b.Get(c.Key); old != nil {
		grown -= int64(len(c.Key) + len(old))
	}
	if c.Value == nil {
		return grown, b.Delete(c.Key)
	}
	value := c.Value
	if s.options.seal != nil {
		if value, err = s.options.seal(c.Key, value); err != nil {
			return 0, fmt.Errorf("sealing: %w", err)
		}
	}
	v := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(value)), crc32.Checksum(value, castagnoli))
	v = append(v, value...)
	return grown + int64(len(c.Key)+len(v)), b.Put(c.Key, v)
}

// Release implements mqtt.Store.
func (s *Store) Release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = false
	return nil
}
