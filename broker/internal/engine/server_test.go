package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/codec"
)

// newServer returns what serves connections with an engine of its own.
func newServer(t *testing.T, change func(*engine.Config)) (serve func(net.Conn), stop func()) {
	config := engine.Config{
		Policy: rules{}, Log: slog.New(slog.DiscardHandler), MaxPacketSize: 64 << 10, MaxQueuedMessages: 100, MaxQueuedBytes: 1 << 20,
		MaxMemory: 64 << 20, ConnectTimeout: 10 * time.Second,
	}
	if change != nil {
		change(&config)
	}
	e, err := engine.New(config)
	if err != nil {
		t.Fatal(err)
	}
	serve = func(c net.Conn) {
		e.Serve(unhurried{c}, engine.Peer{Listener: "script", Connected: func() engine.Client { return engine.Client{Remote: c.RemoteAddr()} }})
		c.Close()
	}
	return serve, func() {
		e.Close()
		e.Wait()
	}
}

// unhurried is a connection whose other end reads everything.
type unhurried struct{ net.Conn }

func (unhurried) Hurry(time.Duration) {}

// rules are those of all exchanges: the user mallory and the client identifier "unwanted" may not connect, nobody may use
// topics below secret/, and there is one method of enhanced authentication, M.
type rules struct{}

func (rules) Authenticate(_ context.Context, c *engine.Client, _ bool, _ []byte) (any, codec.ReasonCode) {
	switch {
	case c.ID == "unwanted":
		return nil, codec.ClientIdentifierNotValid
	case c.Username == "mallory":
		return nil, codec.BadUserNameOrPassword
	}
	return nil, codec.Success
}

func (rules) Valid(any) bool { return true }

func (rules) Identify(*engine.Client, bool) codec.ReasonCode { return codec.Success }
func (rules) Exchange(_ *engine.Client, method string) engine.Exchange {
	if method != "M" {
		return nil
	}
	return proof{}
}

// proof is an exchange in which the client says 1, is asked 2, says 3, and gets 4. "more" is asked for more, and "big" gets
// more than a packet can hold.
type proof struct{}

func (proof) Next(_ context.Context, data []byte) (engine.Step, error) {
	switch string(data) {
	case "1":
		return engine.Step{Data: []byte("2")}, nil
	case "3":
		return engine.Step{Data: []byte("4"), Done: true}, nil
	case "big":
		return engine.Step{Data: make([]byte, 70_000), Done: true}, nil
	case "more":
		return engine.Step{Data: []byte("more")}, nil
	}
	return engine.Step{}, errors.New("wrong proof")
}

func (rules) Allows(_ *engine.Client, _ engine.Access, topic string) bool {
	return !strings.HasPrefix(topic, "secret/")
}

func (rules) Asks() bool                                                { return false }
func (rules) Ask(*engine.Client, engine.Access, string) engine.Decision { return engine.Abstain }
func (rules) Connected(*engine.Client)                                  {}
func (rules) Disconnected(*engine.Client, error)                        {}
func (rules) Subscribed(*engine.Client, string, byte)                   {}
func (rules) Unsubscribed(*engine.Client, string)                       {}
func (rules) Hears() bool                                               { return false }
func (rules) Published(*engine.Client, engine.Message)                  {}

// fakeStore is a store that forgets, tells of what it should keep, and may fail.
type fakeStore struct {
	committed func([]engine.Change)
	full      atomic.Bool // it keeps nothing
}

func (s *fakeStore) Load(func(bucket byte, key, value []byte) error) error { return nil }

func (s *fakeStore) Commit(changes []engine.Change) error {
	if s.committed != nil {
		s.committed(changes)
	}
	if s.full.Load() {
		return errors.New("no space left on device")
	}
	return nil
}

func (s *fakeStore) Close() error { return nil }
