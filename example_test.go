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
	for msg, err := range sub.All(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		err = client.Publish(ctx, "alarms/heat", msg.Payload, mqtt.AtLeastOnce, mqtt.Retain,
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

// A trace that goes from the publisher through a consumer to what that publishes. The identifier travels in a user property.
// With OpenTelemetry the hooks would inject and extract its propagation headers, and begin and end spans.
func ExampleWithTrace() {
	type traceID struct{} // key of the identifier in a ctx
	trace := &mqtt.Trace{
		Publish: func(ctx context.Context, p *mqtt.PublishTrace) func(mqtt.PublishOutcome) {
			topic := p.Topic // p is not valid later
			id, _ := ctx.Value(traceID{}).(string)
			p.Properties.UserProperties.Add("trace", id)
			return func(o mqtt.PublishOutcome) { fmt.Printf("%s: published to %s: %v\n", id, topic, o.Err) }
		},
		Process: func(ctx context.Context, s *mqtt.Subscription, m mqtt.Message) (context.Context, func(error)) {
			id, _ := m.Properties.UserProperties.Get("trace")
			return context.WithValue(ctx, traceID{}, id), func(err error) { fmt.Printf("%s: processed %s: %v\n", id, m.Topic, err) }
		},
	}

	ctx := context.WithValue(context.Background(), traceID{}, "4711")
	broker, connection := memory()
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithTrace(trace))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Publish(ctx, "orders", []byte("tea")); err != nil {
		log.Fatal(err)
	}
	err = sub.Handle(ctx, func(ctx context.Context, m mqtt.Message) error {
		if err := client.Publish(ctx, "bills", m.Payload); err != nil {
			return err
		}
		return sub.Unsubscribe(ctx) // ends Handle
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 4711: published to orders: <nil>
	// 4711: published to bills: <nil>
	// 4711: processed orders: <nil>
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

// connect connects a client to a broker in memory. It is ready when the examples begin.
func connect(ctx context.Context) (*mqtttest.Broker, mqtt.ClientV5) {
	broker, connection := memory()
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithClientID("worker"))
	if err != nil {
		log.Fatal(err)
	}
	return broker, client
}

// orders publishes some orders.
func orders(broker *mqtttest.Broker, payloads ...string) {
	for _, p := range payloads {
		broker.Publish(mqtttest.Message{Topic: "orders/7", Payload: []byte(p), QoS: 1})
	}
}

// A message is acknowledged when the loop comes back for the next one. The one at which the loop is left comes again.
func ExampleSubscription_All() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	orders(broker, "2 owls", "1 cat", "3 toads")

	for msg, err := range sub.All(ctx) {
		if err != nil {
			log.Fatal(err) // why the subscription has ended
		}
		if string(msg.Payload) == "1 cat" {
			fmt.Println("no cats today")
			break
		}
		fmt.Printf("%s\n", msg.Payload)
	}
	for msg := range sub.All(ctx) {
		fmt.Printf("%s, after all\n", msg.Payload)
		break
	}
	// Output:
	// 2 owls
	// no cats today
	// 1 cat, after all
}

// All messages of a slice are acknowledged after the body, so one transaction can store them.
func ExampleSubscription_Batches() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	orders(broker, "2 owls", "1 cat", "3 toads")

	for batch, err := range sub.Batches(ctx, 3, time.Minute) { // 3 messages, or what has come within a minute
		if err != nil {
			log.Fatal(err)
		}
		for _, msg := range batch {
			fmt.Printf("INSERT %s\n", msg.Payload)
		}
		fmt.Println("COMMIT; not acknowledged yet:", len(broker.Unacknowledged("worker")))
		if err := sub.Unsubscribe(ctx); err != nil { // ends the loop, after this batch
			log.Fatal(err)
		}
	}
	if err := client.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// INSERT 2 owls
	// INSERT 1 cat
	// INSERT 3 toads
	// COMMIT; not acknowledged yet: 3
}

// What fails is tried again. What cannot be handled goes to another topic.
func ExampleSubscription_Handle() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	orders(broker, "2 owls", "an unreadable order", "3 toads")

	attempts := 0
	handle := func(ctx context.Context, msg mqtt.Message) error {
		switch string(msg.Payload) {
		case "an unreadable order":
			return mqtt.Permanent(errors.New("cannot read it")) // no use to try again
		case "2 owls":
			if attempts++; attempts < 3 {
				return errors.New("the database does not answer")
			}
		}
		fmt.Printf("%s\n", msg.Payload)
		if string(msg.Payload) == "3 toads" {
			stop() // Handle returns when this message is done
		}
		return nil
	}
	bury := func(ctx context.Context, msg mqtt.Message, err error) error {
		fmt.Printf("%s: %v\n", msg.Payload, err)
		return client.Publish(ctx, "dead/"+msg.Topic, msg.Payload, mqtt.AtLeastOnce, &msg.Properties)
	}
	err = sub.Handle(ctx, handle,
		mqtt.Workers(8), // of different topics; those of one stay in order
		mqtt.RetryPolicy{Attempts: 5, InitialDelay: time.Millisecond, MaxDelay: time.Second},
		mqtt.DeadLetter(bury))
	fmt.Println("stopped:", err)
	// Output:
	// 2 owls
	// an unreadable order: cannot read it
	// 3 toads
	// stopped: <nil>
}

// A service that is told to stop finishes what it has, and gets nothing more. Its handlers may publish until they are done.
func ExampleClientV5_drain() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	sub, err := client.Subscribe(ctx, "$share/workers/orders/+", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error, 1)
	working := make(chan bool, 3)
	go func() {
		ended <- sub.Handle(ctx, func(ctx context.Context, msg mqtt.Message) error {
			working <- true
			return client.Publish(ctx, "bills/7", msg.Payload, mqtt.AtLeastOnce)
		})
	}()
	orders(broker, "2 owls", "1 cat", "3 toads")
	<-working // here a service waits for SIGTERM

	patience, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	fmt.Println("drained:", client.Drain(patience))
	fmt.Println("handler:", <-ended)
	fmt.Println("not acknowledged:", len(broker.Unacknowledged("worker")))
	// Output:
	// drained: <nil>
	// handler: <nil>
	// not acknowledged: 0
}

// What a readiness probe asks for.
func ExampleClientV5_ready() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	http.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := client.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	fmt.Println(client.Ready())
	client.Close()
	fmt.Println(client.Ready())
	// Output:
	// <nil>
	// mqtt: not ready: the client has ended: mqtt: client closed
}

// With ManualAck a message can be acknowledged later, by another goroutine.
func ExampleMessage_Ack() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce, mqtt.ManualAck)
	if err != nil {
		log.Fatal(err)
	}
	orders(broker, "2 owls", "1 cat", "3 toads")

	packed := make(chan mqtt.Message, 3)
	for msg, err := range sub.All(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if packed <- msg; len(packed) == 3 { // they stay unacknowledged when the body is done
			break
		}
	}
	fmt.Println("packed, not acknowledged:", len(broker.Unacknowledged("worker")))
	for range 3 {
		if err := (<-packed).Ack(); err != nil {
			log.Fatal(err)
		}
	}
	if err := client.Disconnect(ctx); err != nil { // after the acknowledgements
		log.Fatal(err)
	}
	fmt.Println("shipped, not acknowledged:", len(broker.Unacknowledged("worker")))
	// Output:
	// packed, not acknowledged: 3
	// shipped, not acknowledged: 0
}

// A token that expires is fetched for each attempt to connect.
func ExampleWithAttemptFunc() {
	ctx := context.Background()
	broker := mqtttest.New(mqtttest.Upgrade(func(r *http.Request) (status int) {
		fmt.Println("the server sees", r.Header.Get("Authorization"))
		return 0
	}))
	defer broker.Close()
	issued := 0
	token := func(context.Context) (string, error) {
		issued++
		return fmt.Sprint("token-", issued), nil
	}

	client, err := mqtt.NewClient(ctx, broker.ListenWS(), mqtt.WithAttemptFunc(func(ctx context.Context, a *mqtt.Attempt) error {
		t, err := token(ctx)
		a.Header.Set("Authorization", "Bearer "+t)
		return err // a failed attempt; another will follow
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Reconnect(ctx); err != nil { // as after a lost connection
		log.Fatal(err)
	}
	// Output:
	// the server sees Bearer token-1
	// the server sees Bearer token-2
}
