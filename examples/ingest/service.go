package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// service takes readings from the server and stores them.
type service struct {
	store      *store
	client     mqtt.ClientV5
	subscribed atomic.Bool
	failure    atomic.Pointer[error] // of the database, in the latest attempt; nil: it works
}

// newService makes a client that connects in the background, and again and again: the service starts whether the server is
// there or not, and /readyz says how it is.
//
// The server keeps the session for an hour. If the process is killed, what it was working on comes again when it is back. If
// it is stopped in order, Drain unsubscribes, and the others get what comes from then on.
func newService(s *store, server string, opts ...mqtt.Option) (*service, error) {
	client, err := mqtt.NewClient(context.Background(), server, mqtt.Options(opts),
		mqtt.WithCleanStart(false), mqtt.WithSessionExpiry(time.Hour),
		mqtt.WithConnectInBackground(), mqtt.WithLogger(slog.Default()))
	if err != nil {
		return nil, err
	}
	return &service{store: s, client: client}, nil
}

// A batch is complete with 500 readings, or 100 ms after the first one.
const (
	batchSize = 500
	batchTime = 100 * time.Millisecond
)

// ingest stores readings until the subscription or working ends. While the client is not connected for the first time,
// told ends it too.
func (s *service) ingest(working, told context.Context) error {
	// Members of the group "ingest" share the messages: each goes to one of them.
	sub, err := s.client.Subscribe(told, "$share/ingest/sensors/+/reading", mqtt.AtLeastOnce)
	if err != nil {
		if told.Err() != nil {
			return nil
		}
		return err
	}
	s.subscribed.Store(true)
	for batch, err := range sub.Batches(working, batchSize, batchTime) {
		if err != nil {
			return err
		}
		if err := s.insert(working, batch); err != nil {
			return err // the batch is not acknowledged, and comes again
		}
	} // here the batch is acknowledged
	return nil
}

// insert stores a batch. While the database fails it tries again: the messages stay unacknowledged, and once the Receive
// Maximum is reached the server keeps the others, or gives them to another member of the group.
func (s *service) insert(ctx context.Context, batch []mqtt.Message) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := s.store.insert(ctx, batch)
		if err == nil {
			s.failure.Store(nil)
			return nil
		}
		s.failure.Store(&err)
		slog.Warn("the database fails", "error", err, "readings", len(batch))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// ready says why the service does not do its work at the moment; nil: it does.
func (s *service) ready() error {
	if err := s.failure.Load(); err != nil {
		return fmt.Errorf("the database fails: %w", *err)
	}
	if err := s.client.Ready(); err != nil { // not connected, or a subscription is not granted again
		return err
	}
	if !s.subscribed.Load() {
		return errors.New("not subscribed yet")
	}
	return nil
}

// handler answers /readyz: 200, or 503 with the reason.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}
