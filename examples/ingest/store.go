package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	_ "modernc.org/sqlite"

	"github.com/petrel-mqtt/mqtt"
)

// The key of a reading is the sensor and its time: a reading that comes again is the same one. What is not a reading is kept
// for somebody to look at, because it would be no better the next time.
const schema = `
CREATE TABLE IF NOT EXISTS readings (sensor text, at text, value real NOT NULL, PRIMARY KEY (sensor, at)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected (topic text, payload blob, reason text NOT NULL, PRIMARY KEY (topic, payload));
`

// store is the database.
type store struct{ db *sql.DB }

func openStore(file string) (*store, error) {
	source := url.URL{Scheme: "file", Opaque: url.PathEscape(file), RawQuery: "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate"}
	db, err := sql.Open("sqlite", source.String())
	if err != nil {
		return nil, err
	}
	if _, err := db.Exec(schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &store{db}, nil
}

func (s *store) close() error { return s.db.Close() }

// insert stores all messages of a batch, or none.
func (s *store) insert(ctx context.Context, batch []mqtt.Message) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	for _, m := range batch {
		if err := insertOne(ctx, tx, m); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func insertOne(ctx context.Context, tx *sql.Tx, m mqtt.Message) error {
	r, err := parse(m)
	if err != nil {
		_, err = tx.ExecContext(ctx, `INSERT INTO rejected VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, m.Topic, m.Payload, err.Error())
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO readings VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		r.sensor, r.At.UTC().Format(time.RFC3339Nano), *r.Value)
	return err
}

// reading is what a sensor has measured.
type reading struct {
	sensor string
	At     time.Time
	Value  *float64
}

func parse(m mqtt.Message) (reading, error) {
	r := reading{sensor: strings.Split(m.Topic, "/")[1]} // the filter has seen to it that there is one
	if err := json.Unmarshal(m.Payload, &r); err != nil {
		return r, err
	}
	if r.At.IsZero() || r.Value == nil {
		return r, errors.New("a reading has a time and a value")
	}
	return r, nil
}
