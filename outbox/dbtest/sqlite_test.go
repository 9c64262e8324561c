package dbtest

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	_ "modernc.org/sqlite"

	"github.com/petrel-mqtt/mqtt/outbox"
	"github.com/petrel-mqtt/mqtt/outbox/internal/storetest"
)

func openSQLite(t testing.TB, file string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_pragma=synchronous(NORMAL)")
	check(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newOutbox makes an outbox of a database with a table.
func newOutbox(db *sql.DB, table outbox.Table, exclusive bool, open func() outbox.Store) *storetest.Outbox {
	return &storetest.Outbox{Exclusive: exclusive, Open: open, Transact: func(f func(storetest.Publish) error) error {
		return transact(context.Background(), db, func(tx *sql.Tx) error {
			return f(func(topic string, payload []byte, opts ...outbox.Option) error {
				return table.Publish(context.Background(), tx, topic, payload, opts...)
			})
		})
	}}
}

// transact commits if f returns nil.
func transact(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *storetest.Outbox {
		file := filepath.Join(t.TempDir(), "db")
		db := openSQLite(t, file)
		_, err := db.Exec(outbox.SQLiteMigration())
		check(t, err)
		return newOutbox(db, outbox.DefaultTable, true, func() outbox.Store { return outbox.SQLite(openSQLite(t, file)) })
	})
}

// A relay that lives keeps its lease, however long its batch takes; when a lease has run out another relay goes on. What the first
// one has published is marked all the same.
func TestSQLiteLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		db := openSQLite(t, filepath.Join(t.TempDir(), "db"))
		_, err := db.Exec(outbox.SQLiteMigration())
		check(t, err)
		check(t, outbox.Publish(ctx, db, "t", []byte("1"), outbox.Key("k")))
		check(t, outbox.Publish(ctx, db, "t", []byte("2"), outbox.Key("k")))
		want := outbox.Want{Keys: 1, PerKey: 1, Bytes: 99, Hold: time.Minute}
		first, err := outbox.SQLite(db).Claim(ctx, want)
		check(t, err)
		time.Sleep(time.Minute + 100*time.Millisecond) // and not the moment in which the first one extends its lease
		if b, err := outbox.SQLite(db).Claim(ctx, want); b != nil || err != nil {
			t.Fatalf("a second relay got %v, %v", b, err)
		}
		_, err = db.Exec(`UPDATE petrel_outbox_lease SET until = 0`)
		check(t, err)
		second, err := outbox.SQLite(db).Claim(ctx, want)
		check(t, err)
		if m := second.Messages(); len(m) != 1 || string(m[0].Payload) != "1" {
			t.Fatalf("%+v", m)
		}
		check(t, first.Finish(ctx, []outbox.Result{{Seq: first.Messages()[0].Seq}}))
		if b, err := outbox.SQLite(db).Claim(ctx, want); b != nil || err != nil {
			t.Fatalf("a third relay got %v, %v: the first has ended the lease of the second", b, err)
		}
		check(t, second.Finish(ctx, []outbox.Result{{Seq: second.Messages()[0].Seq}}))
		third, err := outbox.SQLite(db).Claim(ctx, want)
		check(t, err)
		if m := third.Messages(); len(m) != 1 || string(m[0].Payload) != "2" {
			t.Fatalf("%+v", m)
		}
		check(t, third.Finish(ctx, nil))
	})
}
