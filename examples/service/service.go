package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// service bills orders and answers requests for prices.
type service struct {
	client     mqtt.ClientV5
	subscribed atomic.Bool
	losses     atomic.Int64 // of connections
	billed     atomic.Int64 // orders whose bill the server has
	failed     atomic.Int64 // attempts to bill an order
}

// newService makes a client that connects in the background: the service starts whether the server is there or not, and
// /readyz says how it is.
func newService(server string, opts ...mqtt.Option) (*service, error) {
	s := new(service)
	client, err := mqtt.NewClient(context.Background(), server, mqtt.Options(opts),
		mqtt.WithCleanStart(false), mqtt.WithSessionExpiry(time.Hour), // what a killed process worked on comes again
		mqtt.WithConnectInBackground(), mqtt.WithLogger(slog.Default()),
		mqtt.WithTrace(&mqtt.Trace{Disconnected: func(err error) {
			if !errors.Is(err, mqtt.ErrClosed) {
				s.losses.Add(1)
			}
		}}))
	s.client = client
	return s, err
}

// drainTime is how long the service may work on what it has when it is told to stop.
const drainTime = 20 * time.Second

// run works until told ends, and then finishes what was delivered.
func (s *service) run(told context.Context) error {
	orders, err := s.client.Subscribe(told, "$share/billing/orders/+", mqtt.AtLeastOnce)
	if err != nil {
		return unless(told, err)
	}
	prices, err := s.client.Subscribe(told, "$share/billing/services/price", mqtt.AtLeastOnce)
	if err != nil {
		return unless(told, err)
	}
	s.subscribed.Store(true)
	ended := make(chan error, 2)
	working, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { ended <- orders.Handle(working, s.bill, mqtt.Workers(8), mqtt.DeadLetter(s.bury)) }()
	go func() { ended <- s.client.Respond(working, prices, answer, mqtt.Workers(8)) }()
	select {
	case err := <-ended: // it should not: the client's end, or a subscription that the server has refused
		return err
	case <-told.Done():
	}
	patience, stop := context.WithTimeout(context.Background(), drainTime)
	defer stop()
	if err := s.client.Drain(patience); err != nil {
		return err
	}
	return errors.Join(<-ended, <-ended)
}

// unless returns err, and nil if the service was told to stop before it could begin.
func unless(told context.Context, err error) error {
	if told.Err() != nil {
		return nil
	}
	return err
}

// price is what an order costs.
func price(order []byte) (int, error) {
	prices := map[string]int{"owls": 12, "cats": 7, "toads": 3}
	if p, ok := prices[string(order)]; ok {
		return p, nil
	}
	return 0, fmt.Errorf("we do not sell %q", order)
}

// bill publishes the bill of an order. The order is acknowledged when the server has the bill. If that fails it is handled
// again, so a bill may come twice.
func (s *service) bill(ctx context.Context, order mqtt.Message) error {
	p, err := price(order.Payload)
	if err != nil {
		return mqtt.Permanent(err) // no use to try again
	}
	number := strings.TrimPrefix(order.Topic, "orders/")
	err = s.client.Publish(ctx, "bills/"+number, fmt.Append(nil, p), mqtt.AtLeastOnce,
		&mqtt.PublishProperties{ContentType: "text/plain", UTF8Payload: true})
	if err != nil {
		s.failed.Add(1)
		return err
	}
	s.billed.Add(1)
	return nil
}

// bury puts an order that cannot be billed where somebody will look at it.
func (s *service) bury(ctx context.Context, order mqtt.Message, err error) error {
	return s.client.Publish(ctx, "dead/"+order.Topic, order.Payload, mqtt.AtLeastOnce,
		&mqtt.PublishProperties{UserProperties: mqtt.UserProperties{{Key: "error", Value: err.Error()}}})
}

// answer says what an order would cost. An error is sent to the requester.
func answer(_ context.Context, request mqtt.Message) ([]byte, error) {
	p, err := price(request.Payload)
	return fmt.Append(nil, p), err
}

// ready says why the service does not do its work at the moment; nil: it does.
func (s *service) ready() error {
	if err := s.client.Ready(); err != nil { // not connected, or a subscription is not granted again
		return err
	}
	if !s.subscribed.Load() {
		return errors.New("not subscribed yet")
	}
	return nil
}

// handler serves the readiness probe and the metrics.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		stats := s.client.Stats()
		fmt.Fprintf(w, "billing_orders_billed_total %d\n", s.billed.Load())
		fmt.Fprintf(w, "billing_failed_attempts_total %d\n", s.failed.Load())
		fmt.Fprintf(w, "mqtt_connection_losses_total %d\n", s.losses.Load())
		fmt.Fprintf(w, "mqtt_unacknowledged_messages %d\n", stats.Unacknowledged)
		fmt.Fprintf(w, "mqtt_held_seconds %g\n", stats.Held.For.Seconds()) // an order that is in work for too long
	})
	return mux
}
