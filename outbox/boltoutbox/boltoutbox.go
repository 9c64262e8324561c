// Package boltoutbox is the transactional outbox of package outbox for an application that keeps its data in bbolt: the
// message commits with the data.
//
//	err := db.Update(func(tx *bbolt.Tx) error {
//		…
//		return boltoutbox.Publish(tx, "orders/created", payload, outbox.Key(order.ID))
//	})
//	…
//	relay := &outbox.Relay{Store: boltoutbox.New(db), Client: client}
//	err = relay.Run(ctx)
//
// A bbolt file belongs to one process at a time, so the relay runs in the application's. Several relays take turns.
package boltoutbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/petrel-mqtt/mqtt/outbox"
)

// Bucket is the name of the bucket that an outbox is in. Publish makes it when it is not there.
type Bucket string

// DefaultBucket is the bucket of Publish and New.
const DefaultBucket Bucket = "petrel_outbox"

// An outbox's bucket has three others. The places of messages are the bucket's sequence, which never repeats.
var (
	messages = []byte("messages") // place: record
	waiting  = []byte("waiting")  // key, 0x00, place: time before which it is not published, in Unix milliseconds
	dead     = []byte("dead")     // place: nothing
)

// Publish writes a message into DefaultBucket, in the application's transaction, which must be writable: when tx commits, a
// relay publishes it. The payload may be used again when Publish has returned. What MQTT does not allow is refused here; any other
// error is the database's.
func Publish(tx *bbolt.Tx, topic string, payload []byte, opts ...outbox.Option) error {
	return DefaultBucket.Publish(tx, topic, payload, opts...)
}

// Publish writes a message into this bucket, see the function Publish.
func (b Bucket) Publish(tx *bbolt.Tx, topic string, payload []byte, opts ...outbox.Option) error {
	m, err := outbox.NewMessage(topic, payload, opts...)
	if err != nil {
		return err
	}
	if err := b.put(tx, m); err != nil {
		return fmt.Errorf("boltoutbox: storing a message to %q: %w", topic, err)
	}
	return nil
}

// put adds m at the end of its key.
func (b Bucket) put(tx *bbolt.Tx, m *outbox.Message) error {
	root, err := tx.CreateBucketIfNotExists([]byte(b))
	if err != nil {
		return err
	}
	for _, name := range [][]byte{messages, waiting, dead} {
		if _, err := root.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	seq, err := root.NextSequence()
	if err != nil {
		return err
	}
	m.Seq = int64(seq)
	record, err := encode(m)
	if err != nil {
		return err
	}
	if err := root.Bucket(messages).Put(place(m.Seq), record); err != nil {
		return err
	}
	return root.Bucket(waiting).Put(position(m), make([]byte, 8))
}

// place is a message's in the bucket of messages.
func place(seq int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(seq)) }

// position is a message's among those that wait. A key has no U+0000, so keys do not run into one another.
func position(m *outbox.Message) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(m.Key), 0), uint64(m.Seq))
}

// keyOf returns the key of a position.
func keyOf(position []byte) []byte { return position[:max(0, len(position)-9)] }

// store is an outbox.Store.
type store struct {
	db     *bbolt.DB
	bucket Bucket
	turn   chan struct{} // full while a batch is out
	mu     sync.Mutex    // guards cursor
	cursor []byte        // the key behind which the next Claim goes on
}

// turns has a channel for each outbox, so that the relays of one take turns whatever Store they have.
var turns sync.Map // turnKey: chan struct{}

type turnKey struct {
	db     *bbolt.DB
	bucket Bucket
}

// New returns the Store of DefaultBucket.
func New(db *bbolt.DB) outbox.Store { return DefaultBucket.New(db) }

// New returns the Store of this bucket.
func (b Bucket) New(db *bbolt.DB) outbox.Store {
	turn, _ := turns.LoadOrStore(turnKey{db, b}, make(chan struct{}, 1))
	return &store{db: db, bucket: b, turn: turn.(chan struct{})}
}

// view calls f with the outbox's bucket, unless there is none yet.
func (s *store) view(f func(root *bbolt.Bucket) error) error {
	return s.wrap("reading", s.db.View(func(tx *bbolt.Tx) error {
		root, err := s.open(tx)
		if root == nil {
			return err
		}
		return f(root)
	}))
}

// open returns the outbox's bucket; nil if there is none yet.
func (s *store) open(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	root := tx.Bucket([]byte(s.bucket))
	if root == nil {
		return nil, nil
	}
	for _, name := range [][]byte{messages, waiting, dead} {
		if root.Bucket(name) == nil {
			return nil, errForeign
		}
	}
	return root, nil
}

// errForeign says that somebody else has made the bucket.
var errForeign = errors.New("the bucket is not an outbox")

func (s *store) update(f func(tx *bbolt.Tx, root *bbolt.Bucket) error) error {
	return s.wrap("writing", s.db.Update(func(tx *bbolt.Tx) error {
		root, err := s.open(tx)
		if root == nil {
			return err
		}
		return f(tx, root)
	}))
}

func (s *store) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("boltoutbox: %s %q: %w", what, s.bucket, err)
}

// Claim implements outbox.Store.
func (s *store) Claim(ctx context.Context, want outbox.Want) (outbox.Batch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case s.turn <- struct{}{}:
	default:
		return nil, nil
	}
	b := &batch{store: s}
	err := s.view(func(root *bbolt.Bucket) error { return b.read(root, want) })
	if err != nil || len(b.messages) == 0 {
		<-s.turn
		return nil, err
	}
	return b, nil
}

type batch struct {
	store    *store
	messages []outbox.Message
}

func (b *batch) Messages() []outbox.Message { return b.messages }

// read takes keys from behind the cursor on, and once more from the first one up to it.
func (b *batch) read(root *bbolt.Bucket, want outbox.Want) error {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	keys, now, start := 0, time.Now().UnixMilli(), s.cursor
	c := root.Bucket(waiting).Cursor()
	wrapped := len(start) == 0
	at, retry := c.Seek(behind(start))
	for keys < want.Keys {
		if at == nil {
			s.cursor = nil
			if wrapped {
				return nil
			}
			wrapped = true
			at, retry = c.First()
			continue
		}
		key := bytes.Clone(keyOf(at))
		if wrapped && len(start) > 0 && bytes.Compare(key, start) > 0 {
			return nil
		}
		s.cursor = key
		if due(retry, now) {
			keys++
			if err := b.readKey(root, c, key, at, want); err != nil {
				return err
			}
		}
		at, retry = c.Seek(behind(key))
	}
	return nil
}

// behind is the first position behind those of a key.
func behind(key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	return append(bytes.Clone(key), 1)
}

func due(retry []byte, now int64) bool {
	return len(retry) == 8 && int64(binary.BigEndian.Uint64(retry)) <= now
}

// readKey reads the messages of a key, as far as number and bytes go.
func (b *batch) readKey(root *bbolt.Bucket, c *bbolt.Cursor, key, at []byte, want outbox.Want) error {
	prefix := append(bytes.Clone(key), 0)
	left := want.Bytes / want.Keys
	for n := 0; at != nil && bytes.HasPrefix(at, prefix) && n < want.PerKey && (n == 0 || left > 0); n++ {
		m, err := load(root, at[len(prefix):])
		if err != nil {
			return err
		}
		left -= len(m.Payload)
		b.messages = append(b.messages, m)
		at, _ = c.Next()
	}
	return nil
}

// load reads the message at a place. Its bytes are copies, good beyond the transaction.
func load(root *bbolt.Bucket, place []byte) (outbox.Message, error) {
	record := root.Bucket(messages).Get(place)
	if record == nil || len(place) != 8 {
		return outbox.Message{}, errDamaged
	}
	m, err := decode(bytes.Clone(record))
	m.Seq = int64(binary.BigEndian.Uint64(place))
	return m, err
}

// Finish implements outbox.Batch.
func (b *batch) Finish(ctx context.Context, results []outbox.Result) error {
	defer func() { <-b.store.turn }()
	if len(results) == 0 {
		return nil
	}
	return b.store.update(func(_ *bbolt.Tx, root *bbolt.Bucket) error {
		for i := range results {
			if err := mark(root, &results[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// mark stores what became of a message that waits; of another nothing.
func mark(root *bbolt.Bucket, r *outbox.Result) error {
	if root.Bucket(messages).Get(place(r.Seq)) == nil || root.Bucket(dead).Get(place(r.Seq)) != nil {
		return nil
	}
	m, err := load(root, place(r.Seq))
	if err != nil {
		return err
	}
	if r.Outcome == outbox.Retry {
		again := binary.BigEndian.AppendUint64(nil, uint64(r.Again.UnixMilli()))
		if err := root.Bucket(waiting).Put(position(&m), again); err != nil {
			return err
		}
		return failed(root, &m, r.Reason)
	}
	if err := root.Bucket(waiting).Delete(position(&m)); err != nil {
		return err
	}
	if r.Outcome == outbox.Done {
		return root.Bucket(messages).Delete(place(r.Seq))
	}
	if err := root.Bucket(dead).Put(place(r.Seq), []byte{}); err != nil {
		return err
	}
	return failed(root, &m, r.Reason)
}

// failed notes an attempt that has failed.
func failed(root *bbolt.Bucket, m *outbox.Message, reason string) error {
	m.Attempts, m.Reason = m.Attempts+1, reason
	record, err := encode(m)
	if err != nil {
		return err
	}
	return root.Bucket(messages).Put(place(m.Seq), record)
}

// Backlog implements outbox.Store.
func (s *store) Backlog(ctx context.Context) (b outbox.Backlog, err error) {
	err = s.view(func(root *bbolt.Bucket) error {
		b.Waiting = int64(root.Bucket(waiting).Stats().KeyN)
		b.Dead = int64(root.Bucket(dead).Stats().KeyN)
		c := root.Bucket(messages).Cursor()
		for at, _ := c.First(); at != nil; at, _ = c.Next() {
			if root.Bucket(dead).Get(at) == nil {
				m, err := load(root, at)
				b.Oldest = m.Created
				return err
			}
		}
		return nil
	})
	return b, err
}

// Dead implements outbox.Store.
func (s *store) Dead(ctx context.Context, most int) (all []outbox.Message, err error) {
	err = s.view(func(root *bbolt.Bucket) error {
		c := root.Bucket(dead).Cursor()
		for at, _ := c.First(); at != nil && len(all) < most; at, _ = c.Next() {
			m, err := load(root, at)
			if err != nil {
				return err
			}
			all = append(all, m)
		}
		return nil
	})
	return all, err
}

// Requeue implements outbox.Store.
func (s *store) Requeue(ctx context.Context, seqs ...int64) (int, error) {
	return s.removeDead(seqs, func(tx *bbolt.Tx, m *outbox.Message) error {
		m.Attempts, m.Reason = 0, ""
		return s.bucket.put(tx, m)
	})
}

// Drop implements outbox.Store.
func (s *store) Drop(ctx context.Context, seqs ...int64) (int, error) {
	return s.removeDead(seqs, func(*bbolt.Tx, *outbox.Message) error { return nil })
}

// removeDead takes dead letters out and hands each to f.
func (s *store) removeDead(seqs []int64, f func(*bbolt.Tx, *outbox.Message) error) (n int, err error) {
	err = s.update(func(tx *bbolt.Tx, root *bbolt.Bucket) error {
		n = 0
		for _, seq := range seqs {
			if root.Bucket(dead).Get(place(seq)) == nil {
				continue
			}
			m, err := load(root, place(seq))
			if err != nil {
				return err
			}
			if err := root.Bucket(dead).Delete(place(seq)); err != nil {
				return err
			}
			if err := root.Bucket(messages).Delete(place(seq)); err != nil {
				return err
			}
			if err := f(tx, &m); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
