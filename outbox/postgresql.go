package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"time"
)

// postgresql claims a key by the lock of the row of its first message, which is the first until that transaction has ended.
type postgresql struct {
	sqlStore
	mu     sync.Mutex // guards cursor
	cursor string     // the key at which the next Claim goes on
}

// PostgreSQL returns the Store of the table DefaultTable in a PostgreSQL 13 or later, through any driver. A Claim keeps a
// connection of db, and a transaction, until its Finish.
func PostgreSQL(db *sql.DB) Store { return DefaultTable.PostgreSQL(db) }

// PostgreSQL returns the Store of this table, see the function PostgreSQL.
func (t Table) PostgreSQL(db *sql.DB) Store { return &postgresql{sqlStore: sqlStore{db: db, table: t}} }

// amongPostgreSQL compares with a list that is one argument, because drivers do not agree about arrays.
func amongPostgreSQL(n int) string {
	return fmt.Sprintf("= ANY (string_to_array($%d, ',')::bigint[])", n)
}

// Claim implements Store.
func (s *postgresql) Claim(ctx context.Context, want Want) (Batch, error) {
	s.mu.Lock()
	cursor := s.cursor
	s.mu.Unlock()
	batch, err := s.round(ctx, &cursor, want.Keys, func(due []head) (Batch, error) { return s.take(ctx, due, want) })
	s.mu.Lock()
	s.cursor = cursor
	s.mu.Unlock()
	return batch, err
}

// take locks first messages, as far as they are free, and reads what follows them. It returns nil if others have them all.
func (s *postgresql) take(ctx context.Context, due []head, want Want) (Batch, error) {
	// The transaction must outlive ctx: what was published until then is still to be marked.
	tx, err := s.db.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return nil, fmt.Errorf("outbox: claiming: %w", err)
	}
	b := &postgresqlBatch{store: s, tx: tx}
	if err := b.read(ctx, due, want); err != nil || len(b.messages) == 0 {
		tx.Rollback()
		return nil, err
	}
	return b, nil
}

type postgresqlBatch struct {
	store    *postgresql
	tx       *sql.Tx
	messages []Message
}

// lockHeads takes what nobody else has. A row that another relay has just given back was deleted or has changed: PostgreSQL
// looks at its newest version before it locks it, so it is still the first of its key and due.
const lockHeads = `SELECT seq FROM {table} WHERE state = 0 AND retry_at <= $1 AND seq {among} FOR UPDATE SKIP LOCKED`

// readKeys reads the messages of the keys whose first messages are given, as far as number and bytes go for each.
const readKeys = `SELECT ` + columns + ` FROM {table} h
	CROSS JOIN LATERAL (
		SELECT seq, sum(octet_length(payload)) OVER (ORDER BY seq) - octet_length(payload) AS bytes_before
		FROM {table} i WHERE i.key = h.key AND i.state = 0 ORDER BY seq LIMIT $2) o
	JOIN {table} m ON m.seq = o.seq
	WHERE h.seq {among} AND o.bytes_before < $3::bigint ORDER BY m.seq`

func (b *postgresqlBatch) read(ctx context.Context, due []head, want Want) error {
	seqs := make([]int64, len(due))
	for i, h := range due {
		seqs[i] = h.seq
	}
	var locked []int64
	err := b.store.each(ctx, b.tx, strings.Replace(lockHeads, "{among}", amongPostgreSQL(2), 1), func(rows *sql.Rows) error {
		var seq int64
		err := rows.Scan(&seq)
		locked = append(locked, seq)
		return err
	}, time.Now().UnixMilli(), list(seqs))
	if err != nil || len(locked) == 0 {
		return err
	}
	query := strings.Replace(readKeys, "{among}", amongPostgreSQL(1), 1)
	b.messages, err = b.store.messages(ctx, b.tx, query, list(locked), int64(want.PerKey), int64(max(1, want.Bytes/len(locked))))
	return err
}

func (b *postgresqlBatch) Messages() []Message { return b.messages }

func (b *postgresqlBatch) Finish(ctx context.Context, results []Result) error {
	defer b.tx.Rollback() // gives the locks back if the commit does not
	if err := b.store.mark(ctx, b.tx, results, amongPostgreSQL(1)); err != nil {
		return err
	}
	if err := b.tx.Commit(); err != nil {
		return fmt.Errorf("outbox: marking %d messages: %w", len(results), err)
	}
	return nil
}

// Requeue implements Store.
func (s *postgresql) Requeue(ctx context.Context, seqs ...int64) (int, error) {
	return s.exec(ctx, s.db, `UPDATE {table} SET state = 0, attempts = 0, retry_at = 0
		WHERE state = 1 AND seq `+amongPostgreSQL(1), list(seqs)) // the trigger gives them new places
}

// Drop implements Store.
func (s *postgresql) Drop(ctx context.Context, seqs ...int64) (int, error) {
	return s.exec(ctx, s.db, `DELETE FROM {table} WHERE state = 1 AND seq `+amongPostgreSQL(1), list(seqs))
}
