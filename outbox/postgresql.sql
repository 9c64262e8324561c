-- The outbox's table for PostgreSQL 13 or later. Programs in other languages may insert rows too: id, key, topic and payload
-- are all that they must give, and what is written here keeps the order.
CREATE TABLE {table} (
	seq              bigint PRIMARY KEY,                        -- set by the trigger: within a key, the order of the commits
	id               text NOT NULL DEFAULT gen_random_uuid()::text,
	key              text COLLATE "C" NOT NULL CHECK (key <> ''),
	topic            text NOT NULL,
	payload          bytea NOT NULL,
	qos              smallint NOT NULL DEFAULT 1 CHECK (qos IN (1, 2)),
	retain           boolean NOT NULL DEFAULT false,
	utf8_payload     boolean NOT NULL DEFAULT false,
	content_type     text NOT NULL DEFAULT '',
	response_topic   text NOT NULL DEFAULT '',
	correlation_data bytea,
	user_properties  text NOT NULL DEFAULT '[]',                -- JSON: [["name","value"],…]
	expires_at       bigint NOT NULL DEFAULT 0,                 -- Unix time in milliseconds; 0: never
	created_at       bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
	state            smallint NOT NULL DEFAULT 0,               -- 0: waits; 1: dead letter
	attempts         integer NOT NULL DEFAULT 0,                -- that failed
	retry_at         bigint NOT NULL DEFAULT 0,                 -- not before; Unix time in milliseconds
	reason           text NOT NULL DEFAULT ''                   -- of the latest failure, for people
);

CREATE SEQUENCE {table}_seq CACHE 1 OWNED BY {table}.seq;

-- By it relays find the first message of each key.
CREATE INDEX {name}_waiting ON {table} (key, seq) WHERE state = 0;
CREATE INDEX {name}_dead ON {table} (seq) WHERE state = 1;

-- A message takes its place while its transaction holds the lock of the key, which ends with the transaction. So places within
-- a key are committed in their order, and who sees one sees all before it. Without the lock a transaction could take
-- a place first and commit last, and a relay would have gone past it.
CREATE FUNCTION {table}_place() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(TG_RELID::integer, hashtext(NEW.key));
	NEW.seq := nextval(format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME || '_seq')::regclass);
	RETURN NEW;
END
$$;

CREATE TRIGGER {name}_insert BEFORE INSERT ON {table}
	FOR EACH ROW EXECUTE FUNCTION {table}_place();

-- A dead letter that is to be published after all goes to the end of its key.
CREATE TRIGGER {name}_requeue BEFORE UPDATE ON {table}
	FOR EACH ROW WHEN (OLD.state <> 0 AND NEW.state = 0) EXECUTE FUNCTION {table}_place();
