// Package outbox is the transactional outbox: an application writes a message in the database transaction that changes
// its data, so that both commit or neither does, and a Relay publishes it to an MQTT server afterwards.
//
//	tx, err := db.BeginTx(ctx, nil)
//	…
//	_, err = tx.ExecContext(ctx, `INSERT INTO orders …`)
//	…
//	err = outbox.Publish(ctx, tx, "orders/created", payload, outbox.Key(order.ID))
//	…
//	err = tx.Commit() // the order and the message, or neither
//
// and in the same process or in another one, or in several:
//
//	relay := &outbox.Relay{Store: outbox.PostgreSQL(db), Client: client}
//	err := relay.Run(ctx)
//
// The table comes from PostgreSQLMigration or SQLiteMigration. Package boltoutbox does the same for an application's bbolt.
//
// # What is promised
//
// At least once: a message whose transaction has committed is published until the server acknowledges it, whichever
// process dies at whatever moment. It is then deleted. When a relay dies, or loses the database, between the server's
// acknowledgement and its own mark, the message is published again.
//
// An identifier for receivers: each message carries the user property named by IDProperty, the same at each publish of
// it. A receiver that remembers the identifiers of what it has done, in the transaction that does it, has each
// effect once.
//
// Order per key: messages of one key are published in the order in which their transactions committed, by all relays
// together. The first copies of the messages of a key arrive in that order; a second copy, after a death, may come later. A
// message that the server refuses for good leaves the order: those behind it go on.
//
// # Keys
//
// Without the option Key, the key is the topic. Messages of one key are published one after the other, each when the one
// before it is acknowledged, so one key moves at one message for each round trip to the server. Many keys move at the same
// time. Choose as key what needs the order, such as the number of an order, and Unordered for what needs none.
//
// On PostgreSQL two transactions that publish with the same key follow one another: the second waits in Publish until the
// first has ended. Otherwise a sequence number that was drawn first could be committed last, and the order in the table
// would not be the order of the data. So publish near the end of a transaction, and keys in the same order in
// all transactions, or PostgreSQL may find a deadlock and end one of them. On SQLite and bbolt there is one writer at a
// time anyway.
//
// # Dead letters
//
// What the server refuses for good, and what it has refused too often, stays in the table with the reason and is not
// published any more. Store.Dead lists it, Store.Requeue puts it at the end of its key, and Store.Drop deletes it.
package outbox
