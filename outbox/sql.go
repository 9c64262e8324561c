package outbox

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

//go:embed postgresql.sql
var postgresqlMigration string

//go:embed sqlite.sql
var sqliteMigration string

// PostgreSQLMigration returns the statements that make the table DefaultTable, for the application's migrations. They are
// one string, for one Exec without arguments.
func PostgreSQLMigration() string { return must(DefaultTable.query(postgresqlMigration)) }

// SQLiteMigration returns the statements that make the table DefaultTable, for the application's migrations.
func SQLiteMigration() string { return must(DefaultTable.query(sqliteMigration)) }

// PostgreSQLMigration returns the statements that make this table.
func (t Table) PostgreSQLMigration() (string, error) { return t.query(postgresqlMigration) }

// SQLiteMigration returns the statements that make this table.
func (t Table) SQLiteMigration() (string, error) { return t.query(sqliteMigration) }

func must(text string, err error) string {
	if err != nil {
		panic(err)
	}
	return text
}

// querier is a *sql.DB or a *sql.Tx.
type querier interface {
	Tx
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// sqlStore is what the databases have in common.
type sqlStore struct {
	db    *sql.DB
	table Table
}

// errEnough lets each leave the rest of the rows.
var errEnough = errors.New("enough")

// each calls scan for every row.
func (s *sqlStore) each(ctx context.Context, q querier, text string, scan func(*sql.Rows) error, args ...any) error {
	query, err := s.table.query(text)
	if err != nil {
		return err
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("outbox: reading %s: %w", s.table, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err == errEnough {
			return nil
		} else if err != nil {
			return fmt.Errorf("outbox: reading %s: %w", s.table, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("outbox: reading %s: %w", s.table, err)
	}
	return nil
}

// exec returns how many rows a statement has changed.
func (s *sqlStore) exec(ctx context.Context, q querier, text string, args ...any) (int, error) {
	query, err := s.table.query(text)
	if err != nil {
		return 0, err
	}
	result, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("outbox: writing %s: %w", s.table, err)
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// columns are those that messages reads.
const columns = `m.seq, m.id, m.key, m.topic, m.payload, m.qos, m.retain, m.utf8_payload, m.content_type,
	m.response_topic, m.correlation_data, m.correlation_data IS NOT NULL, m.user_properties, m.expires_at, m.created_at, m.attempts, m.reason`

// messages reads messages whose columns a query returns.
func (s *sqlStore) messages(ctx context.Context, q querier, text string, args ...any) ([]Message, error) {
	var all []Message
	err := s.each(ctx, q, text, func(rows *sql.Rows) error {
		m, err := scanMessage(rows)
		all = append(all, m)
		return err
	}, args...)
	return all, err
}

func scanMessage(rows *sql.Rows) (m Message, err error) {
	var qos, expires, created int64
	var pairs string
	var correlated bool // some drivers read empty bytes as none
	p := &m.Properties
	err = rows.Scan(&m.Seq, &m.ID, &m.Key, &m.Topic, &m.Payload, &qos, &m.Retain, &p.UTF8Payload, &p.ContentType,
		&p.ResponseTopic, &p.CorrelationData, &correlated, &pairs, &expires, &created, &m.Attempts, &m.Reason)
	if err != nil {
		return m, err
	}
	if correlated {
		p.CorrelationData = filled(p.CorrelationData)
	}
	m.QoS, m.Expires, m.Created = mqtt.QoS(qos), fromUnixMilli(expires), fromUnixMilli(created)
	p.UserProperties, m.flaw = unmarshalPairs(pairs)
	return m, nil
}

// list makes the argument of which a query makes a list of numbers.
func list(seqs []int64) string {
	var b strings.Builder
	for i, n := range seqs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(n, 10))
	}
	return b.String()
}

// mark stores what became of messages. among is the database's condition for the numbers of a list.
func (s *sqlStore) mark(ctx context.Context, q querier, results []Result, among string) error {
	var done []int64
	for i := range results {
		r := &results[i]
		var err error
		switch r.Outcome {
		case Done:
			done = append(done, r.Seq)
		case Retry:
			_, err = s.exec(ctx, q, `UPDATE {table} SET attempts = attempts + 1, retry_at = $1, reason = $2
				WHERE seq = $3 AND state = 0`, r.Again.UnixMilli(), r.Reason, r.Seq)
		case Dead:
			_, err = s.exec(ctx, q, `UPDATE {table} SET attempts = attempts + 1, state = 1, reason = $1
				WHERE seq = $2 AND state = 0`, r.Reason, r.Seq)
		}
		if err != nil {
			return err
		}
	}
	if len(done) == 0 {
		return nil
	}
	_, err := s.exec(ctx, q, `DELETE FROM {table} WHERE state = 0 AND seq `+among, list(done))
	return err
}

// Backlog implements Store.
func (s *sqlStore) Backlog(ctx context.Context) (b Backlog, err error) {
	var oldest sql.NullInt64
	err = s.each(ctx, s.db, `SELECT count(*), min(created_at) FROM {table} WHERE state = 0`, func(rows *sql.Rows) error {
		return rows.Scan(&b.Waiting, &oldest)
	})
	if err != nil {
		return b, err
	}
	b.Oldest = fromUnixMilli(oldest.Int64)
	err = s.each(ctx, s.db, `SELECT count(*) FROM {table} WHERE state = 1`, func(rows *sql.Rows) error {
		return rows.Scan(&b.Dead)
	})
	return b, err
}

// Dead implements Store.
func (s *sqlStore) Dead(ctx context.Context, most int) ([]Message, error) {
	return s.messages(ctx, s.db, `SELECT `+columns+` FROM {table} m WHERE state = 1 ORDER BY seq LIMIT $1`, int64(most))
}

// nextKeys is the query for the first messages of the keys that follow one in the order of keys: a step of the index for each
// key, however many messages a key has.
const nextKeys = `WITH RECURSIVE k (key, n) AS (
		SELECT (SELECT min(key) FROM {table} WHERE state = 0 AND key > $1), 1
		UNION ALL
		SELECT (SELECT min(key) FROM {table} WHERE state = 0 AND key > k.key), n + 1
		FROM k WHERE key IS NOT NULL AND n < $2)
	SELECT key, (SELECT seq FROM {table} m WHERE state = 0 AND m.key = k.key ORDER BY seq LIMIT 1),
		(SELECT retry_at FROM {table} m WHERE state = 0 AND m.key = k.key ORDER BY seq LIMIT 1)
	FROM k WHERE key IS NOT NULL`

// head is the first message of a key.
type head struct {
	key string
	seq int64
}

// heads finds first messages that may be published now, of at most most keys behind one. It returns the last key that it has
// looked at, which is empty when there was none behind it.
func (s *sqlStore) heads(ctx context.Context, after string, most int) (due []head, last string, err error) {
	now, n := time.Now().UnixMilli(), 0
	err = s.each(ctx, s.db, nextKeys, func(rows *sql.Rows) error {
		var h head
		var seq, retryAt sql.NullInt64
		err := rows.Scan(&h.key, &seq, &retryAt)
		h.seq = seq.Int64
		if seq.Valid && retryAt.Int64 <= now {
			due = append(due, h)
		}
		last = h.key
		n++
		return err
	}, after, int64(most))
	if n < most {
		last = ""
	}
	return due, last, err
}

// round goes through the keys, from where the round before it has ended, until take has taken something or all keys
// were looked at once. So each key has its turn, however much another one has to publish.
func (s *sqlStore) round(ctx context.Context, cursor *string, most int, take func([]head) (Batch, error)) (Batch, error) {
	start, wrapped := *cursor, *cursor == ""
	for {
		due, last, err := s.heads(ctx, *cursor, most)
		if err != nil {
			return nil, err
		}
		*cursor = last
		if len(due) > 0 {
			if b, err := take(due); b != nil || err != nil {
				return b, err
			}
		}
		switch {
		case last == "" && wrapped, wrapped && start != "" && last >= start:
			return nil, nil
		case last == "":
			wrapped = true
		}
	}
}
