// Ingest is a service that writes readings of sensors into a database. Several of it share the work.
//
//	go run ./examples/ingest                                                      # shows itself, with a broker in memory
//	go run ./examples/ingest -server mqtt://localhost:1883 -database readings.db  # the service, until SIGTERM
//	curl localhost:8080/readyz                                                    # is it ready, and if not, why
//
// A reading is a message such as {"at":"2026-01-02T03:04:05Z","value":21.5} to sensors/{name}/reading.
//
// What it promises: a reading that the server has taken at QoS 1 or 2 is in the database once, whichever process is killed
// and whichever connection breaks. It is acknowledged after the transaction that stores it, so it may come again, and the
// table's key finds it then.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

func main() {
	server := flag.String("server", "", "`URL` of the server; without it a broker and sensors in memory show what the service does")
	database := flag.String("database", "readings.db", "`file` of the SQLite database")
	name := flag.String("name", "ingest-1", "client `identifier`: each instance of the service has its own, and keeps it")
	listen := flag.String("listen", "127.0.0.1:8080", "`address` of the HTTP server")
	flag.Parse()

	// The first signal drains. After that the default is back, so that a second one ends the process at once.
	told, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(told, stop)
	run := func() error { return serve(told, *database, *listen, *server, mqtt.WithClientID(*name)) }
	if *server == "" {
		run = func() error { return demonstrate(told) }
	}
	if err := run(); err != nil {
		slog.Error("the service has failed", "error", err)
		os.Exit(1) // whoever supervises it starts it again; what was not stored comes again
	}
}

// serve runs the service, and its HTTP server, until told ends or it fails.
func serve(told context.Context, database, listen, server string, opts ...mqtt.Option) error {
	store, err := openStore(database)
	if err != nil {
		return err
	}
	defer store.close()
	s, err := newService(store, server, opts...)
	if err != nil {
		return err
	}
	defer s.client.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}
	defer web.Close() // when all else is done: /readyz tells about the draining too
	go web.Serve(l)
	slog.Info("serving", "readiness", "http://"+l.Addr().String()+"/readyz")
	return s.run(told)
}

// drainTime is how long a service may work on what it has when it is told to stop. The supervisor must allow for more
// before it kills (terminationGracePeriodSeconds, TimeoutStopSec).
const drainTime = 20 * time.Second

// run ingests readings until told ends, and then finishes what was delivered.
func (s *service) run(told context.Context) error {
	working, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.ingest(working, told) }()
	select {
	case err := <-ended: // it should not: the client's end, or a subscription that the server has refused
		return err
	case <-told.Done():
	}
	slog.Info("draining")
	// Drain unsubscribes, waits for the loop of ingest, and disconnects. What is not stored when its time is up stays
	// unacknowledged, and comes again; cancel ends the loop then.
	patience, stop := context.WithTimeout(context.Background(), drainTime)
	defer stop()
	err := s.client.Drain(patience)
	cancel()
	return errors.Join(err, <-ended)
}
