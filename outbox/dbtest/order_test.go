//go:build unix

package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/outbox"
)

// A transaction that publishes with a key waits for an earlier one that has published with it, so that the order in the table
// is that of the commits. Other keys do not wait.
func TestPostgreSQLWaitsForKey(t *testing.T) {
	startServer(t)
	ctx, db := t.Context(), openPostgreSQL(t)
	table := newTable(t, db)
	first, err := db.BeginTx(ctx, nil)
	check(t, err)
	defer first.Rollback()
	check(t, table.Publish(ctx, first, "t", []byte("first"), outbox.Key("k")))
	second := make(chan error, 1)
	go func() {
		second <- transact(ctx, db, func(tx *sql.Tx) error {
			return table.Publish(ctx, tx, "t", []byte("second"), outbox.Key("k"))
		})
	}()
	for waiting := 0; waiting == 0; {
		check(t, db.QueryRow(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`).Scan(&waiting))
		select {
		case err := <-second:
			t.Fatalf("the second transaction did not wait: %v", err)
		default:
		}
	}
	check(t, table.Publish(ctx, db, "t", []byte("other"), outbox.Key("l")))
	check(t, first.Commit())
	check(t, <-second)
	b, err := table.PostgreSQL(db).Claim(ctx, outbox.Want{Keys: 9, PerKey: 9, Bytes: 999, Hold: time.Minute})
	check(t, err)
	var order []string
	for _, m := range b.Messages() {
		order = append(order, string(m.Payload))
	}
	if !slices.Equal(order, []string{"first", "other", "second"}) {
		t.Error(order)
	}
	check(t, b.Finish(ctx, nil))
}

// Many transactions publish and then change the same rows, in an order that nobody knows beforehand; some roll back. Several
// relays publish at the same time. Each key's messages arrive in the order in which its row was changed.
func TestPostgreSQLCommitOrder(t *testing.T) {
	startServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	db := openPostgreSQL(t)
	db.SetMaxOpenConns(40)
	table := newTable(t, db)
	rows := string(table) + "_rows"
	_, err := db.Exec(`CREATE TABLE ` + rows + ` (key text PRIMARY KEY, n int NOT NULL)`)
	check(t, err)
	const keys = 3
	for k := range keys {
		_, err := db.Exec(`INSERT INTO `+rows+` VALUES ($1, 0)`, fmt.Sprint("key", k))
		check(t, err)
	}
	broker := mqtttest.NewBroker(t, mqtttest.KeepReceived(100_000))
	relays, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	for range 3 {
		client, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(broker.DialContext))
		check(t, err)
		defer client.Close()
		r := &outbox.Relay{Store: table.PostgreSQL(db), Client: client, Poll: time.Millisecond, Keys: 2, PerKey: 3}
		running.Go(func() { r.Run(relays) })
	}

	w := &commits{place: map[string]int{}}
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for n := range 60 {
				w.change(ctx, t, db, table, rows, fmt.Sprint("key", rand.N(keys)), fmt.Sprintf("%d.%d", i, n))
			}
		})
	}
	writers.Wait()
	for {
		b, err := table.PostgreSQL(db).Backlog(ctx)
		check(t, err)
		if b.Waiting == 0 {
			break
		}
	}
	stop()
	running.Wait()

	last := map[string]int{}
	got := broker.Received("#")
	for _, m := range got {
		place, committed := w.place[string(m.Payload)]
		if !committed || place != last[m.Topic]+1 {
			t.Fatalf("%s of %s came as number %d behind %d", m.Payload, m.Topic, place, last[m.Topic])
		}
		last[m.Topic] = place
	}
	if len(got) != len(w.place) {
		t.Errorf("%d messages of %d transactions", len(got), len(w.place))
	}
}

// commits is what transactions have done, by the payloads of their messages.
type commits struct {
	mu    sync.Mutex
	place map[string]int // the value of the row
}

var errChangedMind = errors.New("the application has changed its mind")

// change makes one transaction.
func (w *commits) change(ctx context.Context, t *testing.T, db *sql.DB, table outbox.Table, rows, key, payload string) {
	var place int
	err := transact(ctx, db, func(tx *sql.Tx) error {
		if err := table.Publish(ctx, tx, key, []byte(payload), outbox.Key(key)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `SELECT pg_sleep($1)`, rand.Float64()/500); err != nil {
			return err
		}
		err := tx.QueryRowContext(ctx, `UPDATE `+rows+` SET n = n + 1 WHERE key = $1 RETURNING n`, key).Scan(&place)
		if err == nil && rand.N(8) == 0 {
			err = errChangedMind
		}
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.place[payload] = place
	} else if !errors.Is(err, errChangedMind) {
		t.Error(err)
	}
}

// Each claim looks at as many keys as it wants, and not at their messages: a key with very many does not slow it down.
func TestPostgreSQLDeepKey(t *testing.T) {
	startServer(t)
	ctx, db := t.Context(), openPostgreSQL(t)
	table := newTable(t, db)
	_, err := db.Exec(`INSERT INTO ` + string(table) + ` (key, topic, payload) SELECT 'hot', 't', '\x00' FROM generate_series(1, 20000)`)
	check(t, err)
	for i := range 50 {
		check(t, table.Publish(ctx, db, "t", nil, outbox.Key(fmt.Sprint("key", i))))
	}
	_, err = db.Exec(`ANALYZE ` + string(table))
	check(t, err)
	s := table.PostgreSQL(db)
	var seen []string
	for range 6 {
		b, err := s.Claim(ctx, outbox.Want{Keys: 10, PerKey: 1, Bytes: 999, Hold: time.Minute})
		check(t, err)
		for _, m := range b.Messages() {
			seen = append(seen, m.Key)
		}
		check(t, b.Finish(ctx, nil))
	}
	slices.Sort(seen)
	if n := len(slices.Compact(seen)); n != 51 {
		t.Errorf("%d keys had their turn", n)
	}
}

// PostgreSQL ends the sessions of relays while they publish. Nothing is lost, and the order is kept.
func TestPostgreSQLSessionsEnd(t *testing.T) {
	startServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	application, db := openPostgreSQL(t), openPostgreSQL(t)
	table := newTable(t, application)
	broker := mqtttest.NewBroker(t)
	relays, stop := context.WithCancel(ctx)
	defer stop()
	var all []*outbox.Relay
	var running sync.WaitGroup
	for range 2 {
		client, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(broker.DialContext))
		check(t, err)
		defer client.Close()
		r := &outbox.Relay{Store: table.PostgreSQL(db), Client: client, Poll: time.Millisecond, PerKey: 3}
		all = append(all, r)
		running.Go(func() { r.Run(relays) })
	}
	release := broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Hold: true})
	for n := range 40 {
		for _, key := range []string{"a", "b", "c"} {
			check(t, table.Publish(ctx, application, key, []byte(fmt.Sprint(n)), outbox.Key(key)))
		}
	}
	broker.Await(ctx, "#", 3)
	_, err := application.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'`)
	check(t, err)
	release()
	for {
		b, err := table.PostgreSQL(application).Backlog(ctx)
		check(t, err)
		if b.Waiting == 0 {
			break
		}
	}
	stop()
	running.Wait()
	seen, next := map[string]bool{}, map[string]int{}
	for _, m := range broker.Received("#") {
		if id, _ := m.Properties.UserProperties.Get(outbox.IDProperty); !seen[id] {
			seen[id] = true
			if string(m.Payload) != fmt.Sprint(next[m.Topic]) {
				t.Fatalf("%s of %s came as number %d", m.Payload, m.Topic, next[m.Topic])
			}
			next[m.Topic]++
		}
	}
	if len(seen) != 120 {
		t.Errorf("%d messages", len(seen))
	}
	if all[0].Stats().StoreErrors+all[1].Stats().StoreErrors == 0 {
		t.Error("no relay has noticed")
	}
}
