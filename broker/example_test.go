package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/broker"
)

// A broker in a program of its own, with a plugin that knows devices by their client identifiers: a device shows a token,
// and may publish below its own name only.
func Example() {
	tokens := map[string]string{"pump": "s3cret"}
	devices := broker.Plugin{
		Name: "devices",
		Authenticate: func(_ context.Context, c broker.Client, password []byte) broker.Decision {
			if token, ok := tokens[c.ID]; ok && token == string(password) {
				return broker.Allow
			}
			return broker.Deny
		},
		Authorize: func(c broker.Client, access broker.Access, topic string) broker.Decision {
			if access == broker.Publish && !strings.HasPrefix(topic, "devices/"+c.ID+"/") {
				return broker.Deny
			}
			return broker.Abstain
		},
		Published: func(c broker.Client, m broker.Message) { fmt.Printf("%s: %s %s\n", c.ID, m.Topic, m.Payload) },
	}
	config := broker.DefaultConfig()
	config.Listeners[0].Bind = "127.0.0.1:0"
	b, err := broker.New(config, devices)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := b.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer b.Shutdown(ctx)

	client, err := mqtt.NewClient(ctx, b.URLs()[0], mqtt.WithClientID("pump"), mqtt.WithCredentials("", "s3cret"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.Publish(ctx, "devices/pump/rpm", []byte("1200"), mqtt.ExactlyOnce))
	err = client.Publish(ctx, "devices/lamp/on", []byte("1"), mqtt.AtLeastOnce)
	fmt.Println(errors.Is(err, mqtt.NotAuthorized))
	// Output:
	// pump: devices/pump/rpm 1200
	// <nil>
	// true
}
