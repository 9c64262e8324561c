package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
)

// store is the persistence file.
type store struct{ db *bbolt.DB }

// storeForm names the form of the file: the bucket that everything is in.
var storeForm = []byte("petrel 1")

// openStore opens a persistence file, or makes one.
func openStore(path string) (*store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, storeError(path, err)
	}
	s := &store{db}
	if err := db.Update(s.prepare); err != nil {
		db.Close()
		return nil, &FileError{fmt.Errorf("persistence-file: %s: %w", path, err)}
	}
	return s, nil
}

func storeError(path string, err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("persistence-file: %s %w", path, errInUse)
	}
	var opening *fs.PathError
	if errors.As(err, &opening) {
		return &FileError{fmt.Errorf("persistence-file: %w", opening)} // it has the path
	}
	return &FileError{fmt.Errorf("persistence-file: %s: %w", path, err)}
}

var errInUse = errors.New("is in use; stop the other broker, or name another file")

var errOtherFile = errors.New("was written by an older broker, or by another program; move it away, or name another file")

// prepare makes the buckets, in a file that has none.
func (s *store) prepare(tx *bbolt.Tx) error {
	if first, _ := tx.Cursor().First(); first != nil && tx.Bucket(storeForm) == nil {
		return errOtherFile
	}
	root, err := tx.CreateBucketIfNotExists(storeForm)
	for i := 0; err == nil && i < len(engine.Buckets); i++ {
		_, err = root.CreateBucketIfNotExists([]byte{engine.Buckets[i]})
	}
	return err
}

// Load calls f with everything that is in the file.
func (s *store) Load(f func(bucket byte, key, value []byte) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		for i := range len(engine.Buckets) {
			name := engine.Buckets[i]
			bucket := tx.Bucket(storeForm).Bucket([]byte{name})
			if err := bucket.ForEach(func(k, v []byte) error { return f(name, k, v) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// Commit carries out changes in one transaction.
func (s *store) Commit(changes []engine.Change) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		root := tx.Bucket(storeForm)
		for i := range changes {
			c := &changes[i]
			bucket := root.Bucket([]byte{c.Bucket})
			var err error
			if c.Value == nil {
				err = bucket.Delete(c.Key)
			} else {
				err = bucket.Put(c.Key, c.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *store) Close() error { return s.db.Close() }
