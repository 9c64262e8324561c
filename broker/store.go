package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
)

// store is the persistence file.
type store struct{ db *bbolt.DB }

// storeForm names the form of the file: the bucket that everything is in.
var storeForm = []byte("petrel 1")

// openStore opens a persistence file, or makes one. A file of which more than half is free is rewritten.
func openStore(path string) (*store, error) {
	s, err := openFile(path)
	if err != nil || !s.isMostlyFree() {
		return s, err
	}
	if s, err = s.rewrite(path); err != nil {
		return nil, &FileError{fmt.Errorf("persistence-file: %s: %w", path, err)}
	}
	return s, nil
}

func openFile(path string) (*store, error) {
	for {
		db, file, err := openDB(path)
		if err != nil {
			return nil, storeError(path, err)
		}
		s := &store{db}
		if !isAt(file, path) { // it was rewritten while this process waited for the lock
			s.Close()
			continue
		}
		if err := db.Update(s.prepare); err != nil {
			db.Close()
			return nil, &FileError{fmt.Errorf("persistence-file: %s: %w", path, err)}
		}
		return s, nil
	}
}

// openDB opens a database, and locks its file.
func openDB(path string) (db *bbolt.DB, file *os.File, err error) {
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, perm fs.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, perm)
			file = f
			return f, err
		},
	})
	return db, file, err
}

// isAt reports whether a file is still the one at a path.
func isAt(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(opened, there)
}

// rewriteFrom is how many bytes a file has at least to be rewritten.
const rewriteFrom = 1 << 20

// isMostlyFree reports whether the file would be less than half as large without what is free in it.
func (s *store) isMostlyFree() bool {
	var size int64
	s.db.View(func(tx *bbolt.Tx) error {
		size = tx.Size()
		return nil
	})
	free := int64(s.db.Stats().FreePageN+s.db.Stats().PendingPageN) * int64(s.db.Info().PageSize)
	return size >= rewriteFrom && free > size/2
}

// rewrite puts a copy without free pages in place of the file, and opens it; s is closed then. Both are locked meanwhile.
// Where there is no room for a copy, or the system does not let an open file be replaced, s stays as it is.
func (s *store) rewrite(path string) (*store, error) {
	draft := path + ".rewrite"
	os.Remove(draft) // what a crash has left
	db, _, err := openDB(draft)
	if err != nil {
		return s, nil
	}
	if copyAll(db, s.db) != nil || os.Rename(draft, path) != nil {
		db.Close()
		os.Remove(draft)
		return s, nil
	}
	s.Close()
	if err := syncFolder(filepath.Dir(path)); err != nil {
		db.Close()
		return nil, err
	}
	return &store{db}, nil
}

// copyAll copies a database, and lets the copy survive a loss of power.
func copyAll(to, from *bbolt.DB) error {
	to.NoSync = true // until all of it is there
	defer func() { to.NoSync = false }()
	if err := bbolt.Compact(to, from, 1<<20); err != nil {
		return err
	}
	return to.Sync()
}

// syncFolder lets a rename survive a loss of power.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
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
