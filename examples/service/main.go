// Service is a shop's billing: it takes orders, publishes a bill for each, and answers what an order would cost. Several of it
// share the work.
//
//	go run ./examples/service -server mqtt://localhost:1883    # until SIGTERM
//	curl localhost:8080/readyz                                 # is it ready, and if not, why
//	curl localhost:8080/metrics                                # what it has done
//	petrel request -t services/price -m owls                   # ask it
//	petrel pub -t orders/7 -m owls -q 1                        # order
package main

import (
	"context"
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
	server := flag.String("server", "mqtt://localhost:1883", "`URL` of the server")
	name := flag.String("name", "billing-1", "client `identifier`: each instance of the service has its own, and keeps it")
	listen := flag.String("listen", "127.0.0.1:8080", "`address` of the HTTP server")
	flag.Parse()

	// The first signal drains. After that the default is back, so that a second one ends the process at once.
	told, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(told, stop)
	if err := serve(told, *listen, *server, mqtt.WithClientID(*name)); err != nil {
		slog.Error("the service has failed", "error", err)
		os.Exit(1)
	}
}

// serve runs the service, and its HTTP server, until told ends or it fails.
func serve(told context.Context, listen, server string, opts ...mqtt.Option) error {
	s, err := newService(server, opts...)
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
	return s.run(told)
}
