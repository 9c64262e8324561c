package outbox

import (
	"context"
	"time"
)

// Store is an outbox as a Relay sees it. PostgreSQL, SQLite and package boltoutbox make one. Its methods may be called
// concurrently, and ctx bounds each of them.
type Store interface {
	// Claim takes keys that have something to publish now and that nobody else has claimed, and reads their first
	// messages. It returns nil if there is none.
	Claim(ctx context.Context, want Want) (Batch, error)
	// Backlog counts what is in the outbox.
	Backlog(ctx context.Context) (Backlog, error)
	// Dead returns the oldest dead letters, at most so many.
	Dead(ctx context.Context, most int) ([]Message, error)
	// Requeue puts dead letters at the end of their keys, to be published after all. It returns how many there were.
	Requeue(ctx context.Context, seqs ...int64) (int, error)
	// Drop deletes dead letters. It returns how many there were.
	Drop(ctx context.Context, seqs ...int64) (int, error)
}

// Want is how much a Claim is to take.
type Want struct {
	Keys   int           // at most
	PerKey int           // messages of each key, at most
	Bytes  int           // of payloads, about: a message larger than that comes all the same
	Hold   time.Duration // the batch is finished within this time
}

// Batch is what a Claim has taken. No other Claim gets its keys before Finish has returned, or the process has died.
type Batch interface {
	// Messages returns them; those of a key are in order.
	Messages() []Message
	// Finish stores what became of messages and gives the keys back. Messages without a Result wait on. After an error
	// nothing may be stored, and the keys are given back all the same.
	Finish(ctx context.Context, results []Result) error
}

// Outcome is what became of a message that was to be published.
type Outcome uint8

// The outcomes.
const (
	Done  Outcome = iota // acknowledged, or of no use any more: it is deleted
	Retry                // it waits until Result.Again, and its key with it
	Dead                 // it becomes a dead letter
)

// Result is what became of one message.
type Result struct {
	Seq     int64
	Outcome Outcome
	Again   time.Time // of Retry
	Reason  string    // of Retry and Dead, for people

	expired bool // Done without being published
}

// Backlog is what is in an outbox.
type Backlog struct {
	Waiting int64
	Dead    int64
	Oldest  time.Time // when the message that has waited longest was stored; zero: none waits
}
