package outbox

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// Tx is the application's transaction: a *sql.Tx, or what wraps one. A *sql.DB has the method too: with it the message is a
// transaction of its own.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Option is an option of Publish: Key, Unordered, Identifier or With. An option that is nil is none.
type Option interface{ apply(*Message) }

type option func(*Message)

func (o option) apply(m *Message) { o(m) }

// Key names what the message belongs to: messages of one key are published in the order of their transactions. It is
// UTF-8 text of 1 to 1,024 bytes. Without it the key is the topic.
func Key(key string) Option { return option(func(m *Message) { m.Key = key }) }

// Unordered lets the message be published before and after any other: its key is its identifier.
func Unordered() Option { return option(func(m *Message) { m.Key = unordered }) }

// unordered stands for the identifier, which an option behind Unordered may still set. No key has U+0000.
const unordered = "\x00"

// Identifier sets what receivers tell the message by, instead of a random text: UTF-8 of 1 to 1,024 bytes. The outbox does
// not look whether another message has it.
func Identifier(id string) Option { return option(func(m *Message) { m.ID = id }) }

// With sets what the message is published with: QoS 1, which is the default, or 2, Retain, and properties. MessageExpiry
// counts from the call of Publish. Flags of the client, such as QueueOffline, mean nothing here.
func With(opts ...mqtt.PublishOptionV5) Option {
	return option(func(m *Message) {
		for _, o := range opts {
			with(m, o)
		}
	})
}

func with(m *Message, o mqtt.PublishOptionV5) {
	switch v := any(o).(type) {
	case mqtt.QoS:
		m.QoS = v
	case mqtt.RetainFlag:
		m.Retain = bool(v)
	case mqtt.PublishOptions:
		for _, o := range v {
			with(m, o)
		}
	case *mqtt.PublishProperties:
		if v != nil {
			m.Properties = *v
		}
	}
}

// NewMessage makes the message that Publish stores, and checks it. Stores of other packages need it.
func NewMessage(topic string, payload []byte, opts ...Option) (*Message, error) {
	m := &Message{Topic: topic, Payload: payload, Key: topic, QoS: mqtt.AtLeastOnce, Created: time.Now()}
	for _, o := range opts {
		if o != nil {
			o.apply(m)
		}
	}
	if m.ID == "" {
		m.ID = rand.Text()
	}
	if m.Key == unordered {
		m.Key = m.ID
	}
	if life := m.Properties.MessageExpiry; life != 0 {
		m.Expires = m.Created.Add(life)
		m.Properties.MessageExpiry = 0
		if life < time.Millisecond {
			return nil, fmt.Errorf("outbox: publishing to %q: %w", topic, mqtt.ErrExpired)
		}
	}
	return m, m.check()
}

// Publish writes a message into the table DefaultTable, in the application's transaction, on PostgreSQL or SQLite: when tx
// commits, a Relay publishes it. ctx bounds the statement. The payload is at most 268,435,455 bytes with topic and
// properties, and may be used again when Publish has returned.
//
// What MQTT does not allow is refused here, before it is stored. Any other error is the database's, and the
// transaction cannot go on.
func Publish(ctx context.Context, tx Tx, topic string, payload []byte, opts ...Option) error {
	return DefaultTable.Publish(ctx, tx, topic, payload, opts...)
}

// insert is understood by PostgreSQL and by SQLite. The place of the message is the table's to decide.
const insert = `INSERT INTO {table} (id, key, topic, payload, qos, retain, utf8_payload, content_type, response_topic,
	correlation_data, user_properties, expires_at, created_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

// Publish writes a message into this table, see the function Publish.
func (t Table) Publish(ctx context.Context, tx Tx, topic string, payload []byte, opts ...Option) error {
	m, err := NewMessage(topic, payload, opts...)
	if err != nil {
		return err
	}
	query, err := t.query(insert)
	if err != nil {
		return err
	}
	p := &m.Properties
	_, err = tx.ExecContext(ctx, query, m.ID, m.Key, m.Topic, filled(m.Payload), int64(m.QoS), m.Retain, p.UTF8Payload,
		p.ContentType, p.ResponseTopic, p.CorrelationData, marshalPairs(p.UserProperties), unixMilli(m.Expires),
		unixMilli(m.Created))
	if err != nil {
		return fmt.Errorf("outbox: storing a message to %q: %w", topic, err)
	}
	return nil
}

// filled makes an empty payload of none, which a database would take for NULL.
func filled(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// unixMilli is how the tables have a time: 0 is none.
func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromUnixMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
