// Before: a service with autopaho that answers orders/{number} with bills/{number}. Several of it share the work. The program
// in ../after is the same one with Petrel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
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
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	// The end of this context disconnects, so it must not be the one that the signal ends.
	living, kill := context.WithCancel(context.Background())
	defer kill()
	status := func(cm *autopaho.ConnectionManager, text string) {
		ctx, cancel := context.WithTimeout(living, 5*time.Second)
		defer cancel()
		_, err := cm.Publish(ctx, &paho.Publish{Topic: "status/billing", Payload: []byte(text), QoS: 1, Retain: true})
		if err != nil {
			log.Print("publish: ", err)
		}
	}
	cm, err := autopaho.NewConnection(living, autopaho.ClientConfig{
		ServerUrls:            []*url.URL{u},
		KeepAlive:             20,
		SessionExpiryInterval: 600,
		ReconnectBackoff:      autopaho.NewExponentialBackoff(100*time.Millisecond, time.Minute, time.Second, 2),
		WillMessage:           &paho.WillMessage{Topic: "status/billing", Payload: []byte("offline"), QoS: 1, Retain: true},
		OnConnectionUp: func(cm *autopaho.ConnectionManager, _ *paho.Connack) {
			go func() { // it must not block
				_, err := cm.Subscribe(living, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
					{Topic: "$share/billing/orders/+", QoS: 1},
				}})
				if err != nil {
					log.Print("subscribe: ", err)
				}
				status(cm, "online")
			}()
		},
		OnConnectError: func(err error) { log.Print("connect: ", err) },
		ClientConfig: paho.ClientConfig{
			ClientID: "billing-1",
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){
				func(r paho.PublishReceived) (bool, error) { return bill(living, r) },
			},
			OnClientError: func(err error) { log.Print("connection lost: ", err) },
		},
	})
	if err != nil {
		return err
	}
	if err := cm.AwaitConnection(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	status(cm, "offline")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return cm.Disconnect(ctx)
}

// bill is acknowledged when it returns, also if the bill was not published.
func bill(ctx context.Context, r paho.PublishReceived) (bool, error) {
	number, isOrder := strings.CutPrefix(r.Packet.Topic, "orders/")
	if !isOrder {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	expiry := uint32(24 * 60 * 60)
	_, err := r.Client.Publish(ctx, &paho.Publish{
		Topic:      "bills/" + number,
		QoS:        1,
		Payload:    fmt.Appendf(nil, "bill for %s", r.Packet.Payload),
		Properties: &paho.PublishProperties{ContentType: "text/plain", MessageExpiry: &expiry},
	})
	if errors.Is(err, context.DeadlineExceeded) {
		log.Print("nobody knows whether this bill has arrived: ", number)
	} else if err != nil {
		log.Print("publish: ", err)
	}
	return true, nil
}
