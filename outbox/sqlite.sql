-- The outbox's table for SQLite 3.24 or later. Programs in other languages may insert rows too: id, key, topic and payload are
-- all that they must give. SQLite has one writer at a time, so places are committed in their order.
CREATE TABLE {table} (
	seq              INTEGER PRIMARY KEY AUTOINCREMENT,         -- the order of the commits; never used again
	id               TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
	key              TEXT NOT NULL CHECK (key <> ''),
	topic            TEXT NOT NULL,
	payload          BLOB NOT NULL,
	qos              INTEGER NOT NULL DEFAULT 1 CHECK (qos IN (1, 2)),
	retain           INTEGER NOT NULL DEFAULT 0,
	utf8_payload     INTEGER NOT NULL DEFAULT 0,
	content_type     TEXT NOT NULL DEFAULT '',
	response_topic   TEXT NOT NULL DEFAULT '',
	correlation_data BLOB,
	user_properties  TEXT NOT NULL DEFAULT '[]',                -- JSON: [["name","value"],…]
	expires_at       INTEGER NOT NULL DEFAULT 0,                -- Unix time in milliseconds; 0: never
	created_at       INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
	state            INTEGER NOT NULL DEFAULT 0,                -- 0: waits; 1: dead letter
	attempts         INTEGER NOT NULL DEFAULT 0,                -- that failed
	retry_at         INTEGER NOT NULL DEFAULT 0,                -- not before; Unix time in milliseconds
	reason           TEXT NOT NULL DEFAULT ''                   -- of the latest failure, for people
);

-- By it relays find the first message of each key.
CREATE INDEX {table}_waiting ON {name} (key, seq) WHERE state = 0;
CREATE INDEX {table}_dead ON {name} (seq) WHERE state = 1;

-- Which relay works on the table now, and until when others must leave it alone.
CREATE TABLE {table}_lease (
	one    INTEGER PRIMARY KEY CHECK (one = 1),
	holder TEXT NOT NULL,
	until  INTEGER NOT NULL                                     -- Unix time in milliseconds
);
