package outbox_test

import (
	"context"
	"database/sql"
	"log"
	"log/slog"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/outbox"
)

// An order and the message about it commit together.
func Example() {
	var db *sql.DB // a PostgreSQL or SQLite with the table of the migration
	ctx := context.Background()

	client, err := mqtt.NewClient(ctx, "broker.example.com", mqtt.WithConnectInBackground())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	relay := &outbox.Relay{Store: outbox.PostgreSQL(db), Client: client, Logger: slog.Default()}
	go relay.Run(ctx)

	order := func(id, customer string) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, `INSERT INTO orders (id, customer) VALUES ($1, $2)`, id, customer); err != nil {
			return err
		}
		if err := outbox.Publish(ctx, tx, "orders/created", []byte(id), outbox.Key(customer)); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		relay.Wake()
		return nil
	}
	if err := order("4711", "ada"); err != nil {
		log.Print(err)
	}
}
