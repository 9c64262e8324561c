// Outbox is an order service and its accounting. The service stores each order together with the message about it; accounting
// writes one invoice for each order, though messages may come more than once.
//
//	go run ./examples/outbox                                        # SQLite in a temporary folder, a broker in memory
//	go run ./examples/outbox -sqlite orders.db                      # orders and messages stay
//	go run ./examples/outbox -postgresql postgres://localhost/shop  # PostgreSQL
//	go run ./examples/outbox -server mqtt://localhost:1883          # a real server
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/errgroup"
	_ "modernc.org/sqlite"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/outbox"
)

func main() {
	log.SetFlags(0)
	server := flag.String("server", "", "`URL` of the server; without it a broker in memory serves")
	sqlite := flag.String("sqlite", "", "`file` of the SQLite database; without it a temporary one")
	postgresql := flag.String("postgresql", "", "`URL` of a PostgreSQL database to use instead of SQLite")
	orders := flag.Int("orders", 50, "how many orders to make")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, *server, *sqlite, *postgresql, *orders); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server, sqlite, postgresql string, orders int) error {
	shop, err := open(ctx, sqlite, postgresql)
	if err != nil {
		return err
	}
	defer shop.close()
	var options mqtt.Options
	if server == "" {
		broker := mqtttest.New()
		defer broker.Close()
		// Now and then an acknowledgement is lost with its connection, so that messages are published again.
		broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Skip: orders / 2, Times: 2, Drop: true, Cut: true})
		server = "mqtt://memory"
		options = append(options, mqtt.WithDialer(broker.DialContext))
	}

	working, stop := context.WithCancel(ctx)
	defer stop()
	services, working := errgroup.WithContext(working)
	if err := shop.startAccounting(ctx, working, services, server, options); err != nil {
		return err // before the relay: what nobody has subscribed to yet is nobody's
	}
	relay, err := shop.relay(ctx, working, services, server, options)
	if err != nil {
		return err
	}
	if err := shop.takeOrders(ctx, relay, orders); err != nil {
		return err
	}
	if err := shop.awaitInvoices(working); err != nil {
		return errors.Join(err, services.Wait())
	}
	stop()
	if err := services.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return shop.report(ctx, relay)
}

// shop has a database with orders, invoices and the outbox.
type shop struct {
	db    *sql.DB
	store outbox.Store
	close func()
}

const schema = `
CREATE TABLE orders (id text PRIMARY KEY, customer text NOT NULL);
CREATE TABLE invoices (message text PRIMARY KEY, order_id text NOT NULL, copies integer NOT NULL DEFAULT 1);
`

// open opens the database and makes its tables if there are none.
func open(ctx context.Context, sqlite, postgresql string) (*shop, error) {
	remove := func() {}
	driver, source, migration, store := "pgx", postgresql, outbox.PostgreSQLMigration(), outbox.PostgreSQL
	if postgresql == "" {
		if sqlite == "" {
			dir, err := os.MkdirTemp("", "orders")
			if err != nil {
				return nil, err
			}
			remove = func() { os.RemoveAll(dir) }
			sqlite = filepath.Join(dir, "orders.db")
		}
		driver, migration, store = "sqlite", outbox.SQLiteMigration(), outbox.SQLite
		source = "file:" + sqlite + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		return nil, err
	}
	s := &shop{db: db, store: store(db), close: func() { db.Close(); remove() }}
	if _, err := db.ExecContext(ctx, `SELECT count(*) FROM orders`); err != nil {
		if _, err := db.ExecContext(ctx, schema+migration); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// relay starts the relay, with a client of its own. It may as well run in another process.
func (s *shop) relay(ctx, working context.Context, services *errgroup.Group, server string, options mqtt.Options) (*outbox.Relay, error) {
	client, err := mqtt.NewClient(ctx, server, options, mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 50 * time.Millisecond}))
	if err != nil {
		return nil, err
	}
	relay := &outbox.Relay{Store: s.store, Client: client, Logger: slog.Default()}
	services.Go(func() error {
		defer client.Close() // when Run has marked what was acknowledged
		return relay.Run(working)
	})
	return relay, nil
}

var errSoldOut = errors.New("sold out")

// takeOrders makes orders of five customers. Every tenth cannot be fulfilled, and nobody hears of it.
func (s *shop) takeOrders(ctx context.Context, relay *outbox.Relay, orders int) error {
	start := time.Now().UnixNano()
	for n := range orders {
		id, customer := fmt.Sprintf("%d-%d", start, n), fmt.Sprint("customer", n%5)
		switch err := s.order(ctx, id, customer, n%10 != 9); {
		case err == nil:
			relay.Wake()
		case !errors.Is(err, errSoldOut):
			return err
		}
	}
	return nil
}

// order is one transaction: the order and the message about it, or neither.
func (s *shop) order(ctx context.Context, id, customer string, available bool) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, `INSERT INTO orders (id, customer) VALUES ($1, $2)`, id, customer); err != nil {
		return err
	}
	if err := outbox.Publish(ctx, tx, "shop/orders/"+customer, []byte(id), outbox.Key(customer)); err != nil {
		return err
	}
	if !available {
		return errSoldOut
	}
	return tx.Commit()
}

// startAccounting subscribes to the orders, with a session that the server keeps, and writes invoices from then on.
func (s *shop) startAccounting(ctx, working context.Context, services *errgroup.Group, server string, options mqtt.Options) error {
	client, err := mqtt.NewClient(ctx, server, options, mqtt.WithClientID("accounting"),
		mqtt.WithCleanStart(false), mqtt.WithSessionExpiry(time.Hour))
	if err != nil {
		return err
	}
	sub, err := client.Subscribe(ctx, "shop/orders/+", mqtt.AtLeastOnce, mqtt.ManualAck)
	if err != nil {
		client.Close()
		return err
	}
	services.Go(func() error {
		defer client.Close()
		return s.accounting(working, sub)
	})
	return nil
}

// accounting writes invoices until ctx ends.
func (s *shop) accounting(ctx context.Context, sub *mqtt.Subscription) error {
	for {
		msg, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		// The identifier and the effect are stored together: a message that comes again finds its invoice.
		_, err = s.db.ExecContext(ctx, `INSERT INTO invoices (message, order_id) VALUES ($1, $2)
			ON CONFLICT (message) DO UPDATE SET copies = invoices.copies + 1`, outbox.ID(msg), string(msg.Payload))
		if err != nil {
			return err
		}
		if err := msg.Ack(); err != nil {
			return err
		}
	}
}

// awaitInvoices waits until each order has its invoice.
func (s *shop) awaitInvoices(ctx context.Context) error {
	for {
		var missing int
		err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM orders WHERE id NOT IN (SELECT order_id FROM invoices)`).Scan(&missing)
		if err != nil || missing == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d orders without invoice: %w", missing, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *shop) report(ctx context.Context, relay *outbox.Relay) error {
	var orders, invoices, copies int
	err := s.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM orders), count(*), sum(copies) FROM invoices`).
		Scan(&orders, &invoices, &copies)
	if err != nil {
		return err
	}
	fmt.Printf("%d orders, %d invoices, %d messages; the relay: %+v\n", orders, invoices, copies, relay.Stats())
	if orders != invoices {
		return errors.New("an order has no invoice of its own")
	}
	return nil
}
