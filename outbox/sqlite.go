package outbox

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"sync"
	"time"
)

// sqlite claims the whole table for the time of a batch, by a lease: SQLite has no locks of rows, and a transaction that was
// kept while the relay publishes would keep the application from writing.
type sqlite struct {
	sqlStore
	mu     sync.Mutex // guards cursor
	cursor string     // the key at which the next Claim goes on
}

// SQLite returns the Store of the table DefaultTable in an SQLite 3.24 or later, through any driver. Several relays, of any
// processes on the machine, take turns.
//
// The database should be in WAL mode and have a busy timeout, or the relay and the application disturb one another: with
// modernc.org/sqlite, "file:orders.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)".
func SQLite(db *sql.DB) Store { return DefaultTable.SQLite(db) }

// SQLite returns the Store of this table, see the function SQLite.
func (t Table) SQLite(db *sql.DB) Store { return &sqlite{sqlStore: sqlStore{db: db, table: t}} }

const amongSQLite = `IN (SELECT value FROM json_each('[' || $1 || ']'))`

// A relay that dies keeps the others waiting for what is left of its lease. One that lives renews it in time.
const (
	lease = 5 * time.Second
	renew = time.Second
)

// Claim implements Store.
func (s *sqlite) Claim(ctx context.Context, want Want) (Batch, error) {
	s.mu.Lock()
	cursor := s.cursor
	s.mu.Unlock()
	batch, err := s.round(ctx, &cursor, want.Keys, func(due []head) (Batch, error) { return s.take(ctx, due, want) })
	s.mu.Lock()
	s.cursor = cursor
	s.mu.Unlock()
	return batch, err
}

// take takes the lease and reads. It returns nil if another relay has the lease.
func (s *sqlite) take(ctx context.Context, due []head, want Want) (Batch, error) {
	b := &sqliteBatch{store: s, holder: rand.Text()}
	now := time.Now()
	n, err := s.exec(ctx, s.db, `INSERT INTO {table}_lease (one, holder, until) VALUES (1, $1, $2)
		ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE until <= $3`,
		b.holder, now.Add(lease).UnixMilli(), now.UnixMilli())
	if err != nil || n == 0 {
		return nil, err
	}
	if err := b.read(ctx, due, want); err != nil || len(b.messages) == 0 {
		b.giveBack(context.WithoutCancel(ctx), s.db)
		return nil, err
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	b.renewing.Go(func() { b.renew(renewing) })
	return b, nil
}

type sqliteBatch struct {
	store    *sqlite
	holder   string
	messages []Message
	stop     func()
	renewing sync.WaitGroup
}

// renew keeps the lease until ctx ends. A renewal that fails is tried again.
func (b *sqliteBatch) renew(ctx context.Context) {
	tick := time.NewTicker(renew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = b.store.exec(ctx, b.store.db, `UPDATE {table}_lease SET until = $1 WHERE holder = $2`,
				time.Now().Add(lease).UnixMilli(), b.holder)
		}
	}
}

// readKey is the query for a key's messages, if the first of them is still due: another relay may have had it.
const readKey = `SELECT ` + columns + ` FROM {table} m WHERE state = 0 AND key = $1
	AND (SELECT retry_at FROM {table} WHERE state = 0 AND key = $1 ORDER BY seq LIMIT 1) <= $2 ORDER BY seq LIMIT $3`

// read reads the messages of keys, as far as number and bytes go for each.
func (b *sqliteBatch) read(ctx context.Context, due []head, want Want) error {
	for _, h := range due {
		left := want.Bytes / len(due)
		err := b.store.each(ctx, b.store.db, readKey, func(rows *sql.Rows) error {
			if left <= 0 && len(b.messages) > 0 && b.messages[len(b.messages)-1].Key == h.key {
				return errEnough
			}
			m, err := scanMessage(rows)
			b.messages = append(b.messages, m)
			left -= len(m.Payload)
			return err
		}, h.key, time.Now().UnixMilli(), int64(want.PerKey))
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *sqliteBatch) Messages() []Message { return b.messages }

func (b *sqliteBatch) Finish(ctx context.Context, results []Result) error {
	b.stop()
	b.renewing.Wait()
	tx, err := b.store.db.BeginTx(ctx, nil)
	if err != nil {
		b.giveBack(ctx, b.store.db)
		return fmt.Errorf("outbox: marking %d messages: %w", len(results), err)
	}
	defer tx.Rollback()
	if err = b.giveBack(ctx, tx); err == nil {
		err = b.store.mark(ctx, tx, results, amongSQLite)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		tx.Rollback()
		b.giveBack(ctx, b.store.db)
		return fmt.Errorf("outbox: marking %d messages: %w", len(results), err)
	}
	return nil
}

// giveBack ends the lease, if it is still this batch's.
func (b *sqliteBatch) giveBack(ctx context.Context, q querier) error {
	_, err := b.store.exec(ctx, q, `UPDATE {table}_lease SET until = 0 WHERE holder = $1`, b.holder)
	return err
}

// Requeue implements Store.
func (s *sqlite) Requeue(ctx context.Context, seqs ...int64) (int, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("outbox: requeuing: %w", err)
	}
	defer tx.Rollback()
	const copied = `id, key, topic, payload, qos, retain, utf8_payload, content_type, response_topic, correlation_data,
		user_properties, expires_at, created_at`
	n, err := s.exec(ctx, tx, `INSERT INTO {table} (`+copied+`) SELECT `+copied+` FROM {table}
		WHERE state = 1 AND seq `+amongSQLite+` ORDER BY seq`, list(seqs)) // a new row has a new place
	if err != nil {
		return 0, err
	}
	if _, err := s.exec(ctx, tx, `DELETE FROM {table} WHERE state = 1 AND seq `+amongSQLite, list(seqs)); err != nil {
		return 0, err
	}
	return n, tx.Commit()
}

// Drop implements Store.
func (s *sqlite) Drop(ctx context.Context, seqs ...int64) (int, error) {
	return s.exec(ctx, s.db, `DELETE FROM {table} WHERE state = 1 AND seq `+amongSQLite, list(seqs))
}
