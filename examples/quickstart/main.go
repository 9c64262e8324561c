// Quickstart subscribes, publishes and prints what arrives.
//
//	go run ./examples/quickstart                                   # against a broker in memory
//	go run ./examples/quickstart -server mqtt://localhost:1883     # against a real server
//	go run ./examples/quickstart -server mqtt://localhost:1883 -3  # with MQTT 3.1.1
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

func main() {
	log.SetFlags(0)
	server := flag.String("server", "", "`URL` of the server; without it a broker in memory serves")
	v311 := flag.Bool("3", false, "use MQTT 3.1.1")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := run(ctx, *server, *v311); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server string, v311 bool) error {
	var options mqtt.Options
	if server == "" {
		broker := mqtttest.New()
		defer broker.Close()
		server = "mqtt://memory"
		options = append(options, mqtt.WithDialer(broker.DialContext))
	}
	client, err := connect(ctx, server, v311, options)
	if err != nil {
		return err
	}
	defer client.Close()
	fmt.Println("connected to", server, "as", client.ClientID())

	sub, err := client.Subscribe(ctx, "petrel/quickstart/+", mqtt.ExactlyOnce)
	if err != nil {
		return err
	}
	levels := []mqtt.QoS{mqtt.AtMostOnce, mqtt.AtLeastOnce, mqtt.ExactlyOnce}
	for _, qos := range levels {
		topic := fmt.Sprintf("petrel/quickstart/%d", qos)
		if err := client.Publish(ctx, topic, []byte("hello at "+qos.String()), qos); err != nil {
			return err
		}
	}
	for range levels {
		msg, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s\n", msg.Topic, msg.Payload)
	}
	return client.Disconnect(ctx)
}

// connect connects with either version; both clients can do what this program needs.
func connect(ctx context.Context, server string, v311 bool, options mqtt.Options) (mqtt.Client, error) {
	if v311 {
		return mqtt.NewClientV311(ctx, server, options)
	}
	client, err := mqtt.NewClient(ctx, server, options)
	if err != nil {
		return nil, err
	}
	return mqtt.Common(client), nil
}
