//go:build unix

package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/outbox"
	"github.com/petrel-mqtt/mqtt/outbox/boltoutbox"
)

// childVariable says to this program that it is an application which a test kills: what its database is, where that
// is, the URL of the server, and how many transactions it makes. It is text separated by spaces.
const childVariable = "OUTBOX_TEST_CHILD"

// patience is how long anything may take, on a machine that is busy: it ends what hangs.
const patience = 2 * time.Minute

// application is a program with orders and messages about them. Each order has a number within its customer; customer and
// number are the message.
type application struct {
	store outbox.Store
	// order makes one order in a transaction, which is rolled back after all if spoilt.
	order func(ctx context.Context, customer string, spoilt bool) error
	// orders returns the names of the orders there are, by customer, in order.
	orders func(ctx context.Context) (map[string][]string, error)
	close  func()
}

func openApplication(kind, where string) (*application, error) {
	switch kind {
	case "postgresql":
		return openSQLApplication("pgx", where, outbox.DefaultTable.PostgreSQL)
	case "sqlite":
		return openSQLApplication("sqlite", where, outbox.DefaultTable.SQLite)
	}
	return openBoltApplication(where)
}

// runChild makes orders and publishes them until it is killed, or has made so many and published all. It prints the name of
// each order after its commit.
func runChild(arguments string) int {
	if err := child(strings.Fields(arguments)); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

func child(arguments []string) error {
	kind, where, server := arguments[0], arguments[1], arguments[2]
	transactions, err := strconv.Atoi(arguments[3])
	if err != nil {
		return err
	}
	a, err := openApplication(kind, where)
	if err != nil {
		return err
	}
	defer a.close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := mqtt.NewClient(ctx, server, mqtt.WithConnectRetry(),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 20 * time.Millisecond, MaxDelay: 100 * time.Millisecond}))
	if err != nil {
		return err
	}
	defer client.Close()
	relay := &outbox.Relay{Store: a.store, Client: client, Poll: 20 * time.Millisecond, Hold: time.Second, PerKey: 5}
	go relay.Run(ctx)
	for range transactions {
		err := a.order(ctx, fmt.Sprint("customer", rand.N(4)), rand.N(6) == 0)
		if err != nil && !errors.Is(err, errChangedMind) {
			return err
		}
		relay.Wake()
	}
	return awaitPublished(ctx, a)
}

func awaitPublished(ctx context.Context, a *application) error {
	for {
		b, err := a.store.Backlog(ctx)
		if err != nil || b.Waiting+b.Dead == 0 {
			return err
		}
		if b.Dead > 0 {
			return errors.New("a dead letter")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func openSQLApplication(driver, where string, store func(*sql.DB) outbox.Store) (*application, error) {
	db, err := sql.Open(driver, where)
	if err != nil {
		return nil, err
	}
	a := &application{store: store(db), close: func() { db.Close() }}
	a.order = func(ctx context.Context, customer string, spoilt bool) error {
		name := fmt.Sprintf("%s:%d", customer, rand.Uint64())
		err := transact(ctx, db, func(tx *sql.Tx) error {
			// The message first: the number of the order is right only because others with this key wait.
			if err := outbox.Publish(ctx, tx, "orders/"+customer, []byte(name), outbox.Key(customer)); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO orders (customer, n, name) SELECT $1, coalesce(max(n), 0) + 1, $2
				FROM orders WHERE customer = $3`, customer, name, customer)
			if err == nil && spoilt {
				err = errChangedMind
			}
			return err
		})
		if err == nil {
			fmt.Println(name)
		}
		return err
	}
	a.orders = func(ctx context.Context) (map[string][]string, error) {
		rows, err := db.QueryContext(ctx, `SELECT customer, name FROM orders ORDER BY customer, n`)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		all := map[string][]string{}
		for rows.Next() {
			var customer, name string
			if err := rows.Scan(&customer, &name); err != nil {
				return nil, err
			}
			all[customer] = append(all[customer], name)
		}
		return all, rows.Err()
	}
	return a, nil
}

func openBoltApplication(where string) (*application, error) {
	db, err := bbolt.Open(where, 0o600, &bbolt.Options{Timeout: patience})
	if err != nil {
		return nil, err
	}
	a := &application{store: boltoutbox.New(db), close: func() { db.Close() }}
	a.order = func(ctx context.Context, customer string, spoilt bool) error {
		name := fmt.Sprintf("%s:%d", customer, rand.Uint64())
		err := db.Update(func(tx *bbolt.Tx) error {
			orders, err := tx.CreateBucketIfNotExists([]byte("orders"))
			if err != nil {
				return err
			}
			if err := boltoutbox.Publish(tx, "orders/"+customer, []byte(name), outbox.Key(customer)); err != nil {
				return err
			}
			n, err := orders.NextSequence()
			if err != nil {
				return err
			}
			if spoilt {
				return errChangedMind
			}
			return orders.Put([]byte(fmt.Sprintf("%s/%010d", customer, n)), []byte(name))
		})
		if err == nil {
			fmt.Println(name)
		}
		return err
	}
	a.orders = func(context.Context) (map[string][]string, error) {
		all := map[string][]string{}
		return all, db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("orders")).ForEach(func(k, v []byte) error {
				customer, _, _ := strings.Cut(string(k), "/")
				all[customer] = append(all[customer], string(v))
				return nil
			})
		})
	}
	return a, nil
}
