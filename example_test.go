package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// memory is a broker for the examples; a server's name and the options of its connection stand in its place.
func memory() (broker *mqtttest.Broker, connection mqtt.Option) {
	broker = mqtttest.New()
	return broker, mqtt.WithDialer(broker.DialContext)
}

func Example() {
	ctx := context.Background()
	broker, connection := memory()
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithClientID("billing"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	sub, err := client.Subscribe(ctx, "sensors/+/temp", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Publish(ctx, "sensors/7/temp", []byte("91.5"), mqtt.AtLeastOnce); err != nil {
		log.Fatal(err)
	}
	for msg := range sub.Messages() {
		err := client.Publish(ctx, "alarms/heat", msg.Payload, mqtt.AtLeastOnce, mqtt.Retain,
			&mqtt.PublishProperties{ContentType: "text/plain"})
		if err != nil {
			log.Fatal(err)
		}
		if err := sub.Unsubscribe(ctx); err != nil { // ends the loop; without it that lasts as long as the client
			log.Fatal(err)
		}
	}
	for _, alarm := range broker.Received("alarms/#") {
		fmt.Printf("%s %s\n", alarm.Topic, alarm.Payload)
	}
	// Output: alarms/heat 91.5
}

// Each kind of server.
func ExampleNewClient() {
	ctx := context.Background()
	header := http.Header{"Authorization": {"Bearer abc"}}
	proxy := &url.URL{Scheme: "socks5", Host: "localhost:1080"}

	mqtt.NewClient(ctx, "broker.example.com")                                                      // TCP, port 1883
	mqtt.NewClient(ctx, "mqtts://user:password@broker.example.com")                                // TLS, with the system's certificates
	mqtt.NewClient(ctx, "mqtts://broker", mqtt.WithTLSFiles("ca.pem", "client.pem", "client.key")) // read at every attempt
	mqtt.NewClient(ctx, "ws://broker.example.com:8083")                                            // WebSocket; the path is /mqtt if there is none
	mqtt.NewClient(ctx, "wss://broker.example.com/mqtt", mqtt.WithHeader(header))                  // WebSocket over TLS
	mqtt.NewClient(ctx, "unix:///run/mosquitto.sock")                                              // Unix socket
	mqtt.NewClient(ctx, "mqtts://broker.example.com", mqtt.WithProxy(proxy))                       // through a proxy
	mqtt.NewClientV311(ctx, "broker.example.com")                                                  // MQTT 3.1.1
}

// What became of a message, when Publish fails.
func ExampleSafeToRetry() {
	ctx, giveUp := context.WithCancel(context.Background())
	broker, connection := memory()
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	publish := func() {
		var refused *mqtt.PublishError
		switch err := client.Publish(ctx, "bills/7", []byte("30"), mqtt.AtLeastOnce); {
		case err == nil:
			fmt.Println("the server has it")
		case errors.As(err, &refused):
			fmt.Println("the server refuses it:", refused.Code)
		case mqtt.SafeToRetry(err):
			fmt.Println("it never left")
		case errors.Is(err, mqtt.ErrOutcomeUnknown):
			fmt.Println("nobody knows")
		}
	}
	publish()
	remove := broker.Fault(mqtttest.Fault{Packet: "PUBLISH", Reason: byte(mqtt.QuotaExceeded)})
	publish()
	remove()
	broker.Intercept(func(_ string, _ bool, p codec.Packet) (keep bool) {
		if p.Type() == codec.PUBLISH {
			giveUp()
		}
		return true
	})
	broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})
	publish() // ctx ends when it has been sent
	publish() // ctx has ended before
	// Output:
	// the server has it
	// the server refuses it: Quota exceeded (0x97)
	// nobody knows
	// it never left
}

// One client asks, another answers.
func ExampleClientV5_request() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	broker, connection := memory()
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	sub, err := client.Subscribe(ctx, "$share/adders/services/add", mqtt.AtLeastOnce, mqtt.ManualAck)
	if err != nil {
		log.Fatal(err)
	}
	go client.Respond(ctx, sub, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
		if string(m.Payload) != "2+2" {
			return nil, errors.New("too difficult")
		}
		return []byte("4"), nil
	}, mqtt.Workers(8))

	for _, sum := range []string{"2+2", "2*2"} {
		reply, err := client.Request(ctx, "services/add", []byte(sum))
		fmt.Printf("%s, %v\n", reply.Payload, err)
	}
	// Output:
	// 4, <nil>
	// , mqtt: the responder failed: too difficult
}

// A token that expires is fetched for each attempt to connect.
func ExampleWithAttemptFunc() {
	ctx := context.Background()
	token := func(context.Context) (string, error) { return "abc", nil }

	mqtt.NewClient(ctx, "wss://broker.example.com/mqtt", mqtt.WithAttemptFunc(func(ctx context.Context, a *mqtt.Attempt) error {
		t, err := token(ctx)
		a.Header.Set("Authorization", "Bearer "+t)
		return err // a failed attempt; another will follow
	}))
}
