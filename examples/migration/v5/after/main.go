// After: the service of ../before with Petrel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

func main() {
	server := flag.String("server", "mqtt://localhost:1883", "`URL` of the server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *server); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server string) error {
	online := make(chan struct{}, 1)
	client, err := mqtt.NewClient(ctx, server,
		mqtt.WithClientID("billing-1"),
		mqtt.WithCleanStart(false),
		mqtt.WithSessionExpiry(10*time.Minute),
		mqtt.WithKeepAlive(20*time.Second),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Minute}),
		mqtt.WithConnectRetry(),
		mqtt.WithWill("status/billing", []byte("offline"), mqtt.AtLeastOnce, mqtt.Retain),
		mqtt.WithTrace(&mqtt.Trace{
			ConnectDone: func(_ string, _ int, err error) {
				if err != nil {
					log.Print("connect: ", err)
				}
			},
			Disconnected: func(err error) { log.Print("connection lost: ", err) },
			StateChanged: func(_, to mqtt.State) {
				if to == mqtt.StateConnected {
					select {
					case online <- struct{}{}:
					default: // it will be said once
					}
				}
			},
		}))
	if err != nil {
		return err
	}
	defer client.Close()
	orders, err := client.Subscribe(ctx, "$share/billing/orders/+", mqtt.AtLeastOnce) // once
	if err != nil {
		return err
	}

	ended := make(chan error, 1)
	go func() {
		ended <- orders.Handle(ctx, func(ctx context.Context, order mqtt.Message) error { return bill(ctx, client, order) })
	}()
	for {
		select {
		case <-online: // at every connect
			client.PublishAsync(ctx, "status/billing", []byte("online"), mqtt.AtLeastOnce, mqtt.Retain)
		case err := <-ended:
			if err != nil {
				return err
			}
			return leave(client)
		}
	}
}

// leave ends the client, within 5 s. Drain unsubscribes, so that the server gives the orders to others and keeps none for this
// session.
func leave(client mqtt.ClientV5) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := client.Publish(ctx, "status/billing", []byte("offline"), mqtt.AtLeastOnce, mqtt.Retain)
	return errors.Join(err, client.Drain(ctx))
}

// bill answers an order. An order whose bill was not published is handled again, and is not acknowledged before.
func bill(ctx context.Context, client mqtt.ClientV5, order mqtt.Message) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	number := strings.TrimPrefix(order.Topic, "orders/")
	return client.Publish(ctx, "bills/"+number, fmt.Appendf(nil, "bill for %s", order.Payload), mqtt.AtLeastOnce,
		&mqtt.PublishProperties{ContentType: "text/plain", MessageExpiry: 24 * time.Hour})
}
