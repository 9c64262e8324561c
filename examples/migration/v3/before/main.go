// Before: a service with paho.mqtt.golang that answers orders/{number} with bills/{number}, and says on status/billing whether
// it is online. The program in ../after is the same one with Petrel.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"strings"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

func main() {
	server := flag.String("server", "tcp://localhost:1883", "`URL` of the server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *server); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server string) error {
	opts := mqtt.NewClientOptions().
		AddBroker(server).
		SetClientID("billing").
		SetCleanSession(false).
		SetOrderMatters(false). // because the handler publishes and waits; so bills may leave in another order than the orders
		SetKeepAlive(20*time.Second).
		SetMaxReconnectInterval(time.Minute).
		SetConnectRetry(true).
		SetWill("status/billing", "offline", 1, true)
	opts.SetOnConnectHandler(func(client mqtt.Client) {
		// Both again at every connect. A refused filter would be in the token's Result.
		if t := client.Subscribe("orders/+", 1, bill); t.Wait() && t.Error() != nil {
			log.Print("subscribe: ", t.Error())
		}
		if t := client.Publish("status/billing", 1, true, "online"); t.Wait() && t.Error() != nil {
			log.Print("publish: ", t.Error())
		}
	})
	opts.SetConnectionLostHandler(func(_ mqtt.Client, err error) { log.Print("connection lost: ", err) })

	client := mqtt.NewClient(opts)
	if t := client.Connect(); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	<-ctx.Done()
	client.Publish("status/billing", 1, true, "offline").WaitTimeout(5 * time.Second)
	client.Disconnect(5000)
	return nil
}

// bill is acknowledged when it returns, also if the bill was not published.
func bill(client mqtt.Client, order mqtt.Message) {
	number := strings.TrimPrefix(order.Topic(), "orders/")
	text := fmt.Sprintf("bill for %s", order.Payload())
	t := client.Publish("bills/"+number, 1, false, text)
	if !t.WaitTimeout(10 * time.Second) {
		log.Print("nobody knows whether this bill has arrived: ", number)
	} else if t.Error() != nil {
		log.Print("publish: ", t.Error())
	}
}
