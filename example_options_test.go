package mqtt_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
	"github.com/petrel-mqtt/mqtt/transport"
)

// The channel is for select. A message is acknowledged when it enters the channel, and is lost if the process is killed then.
func ExampleSubscription_Messages() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	orders(broker, "2 owls", "1 cat")

	closing := time.After(time.Minute)
	for range 2 {
		select {
		case msg, ok := <-sub.Messages():
			if !ok {
				log.Fatal(sub.Err()) // why the subscription has ended
			}
			fmt.Printf("%s\n", msg.Payload)
		case <-closing:
			fmt.Println("the shop is closed")
		}
	}
	// Output:
	// 2 owls
	// 1 cat
}

// One message, for a program that waits for something once.
func ExampleSubscription_Next() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	orders(broker, "2 owls")

	msg, err := sub.Next(ctx) // it has been acknowledged by now
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", msg.Topic, msg.Payload)
	// Output: orders/7: 2 owls
}

// Many messages are on their way at a time. What became of each is in its Delivery.
func ExampleDelivery() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()

	var deliveries []*mqtt.Delivery
	for _, topic := range []string{"bills/7", "bills/8", "bills/+"} {
		deliveries = append(deliveries, client.PublishAsync(ctx, topic, []byte("30"), mqtt.AtLeastOnce))
	}
	for _, d := range deliveries {
		fmt.Println(d.Wait(ctx))
	}
	fmt.Println("the server has", len(broker.Received("bills/#")))
	// Output:
	// <nil>
	// <nil>
	// mqtt: topic name "bills/+": a topic name must not contain + or # [MQTT-4.7.0-1]
	// the server has 2
}

// Decide sees every failure, and says how long to wait, or that there is no use in going on.
func ExampleWithReconnect() {
	ctx := context.Background()
	broker, connection := memory()
	defer broker.Close()
	policy := mqtt.ReconnectPolicy{
		InitialDelay: time.Second,
		MaxDelay:     time.Minute,
		Decide: func(ctx context.Context, f mqtt.Failure) (time.Duration, error) {
			switch {
			case errors.Is(f.Err, mqtt.ServerBusy):
				fmt.Println("busy: wait")
				return time.Millisecond, nil // rather 10 minutes
			case errors.Is(f.Err, mqtt.SessionTakenOver):
				return 0, f.Err // another process has our client identifier: leave it alone
			case f.Permanent:
				return 0, f.Err // trying again cannot help, as with wrong credentials
			}
			return f.Delay, nil // random, longer each time
		},
	}
	broker.Refuse(1, byte(mqtt.ServerBusy))
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithClientID("worker"),
		mqtt.WithReconnect(policy), mqtt.WithConnectRetry())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.State())

	broker.Kick("worker", byte(mqtt.SessionTakenOver))
	<-client.Done()
	fmt.Println("ended:", errors.Is(client.Err(), mqtt.SessionTakenOver))
	// Output:
	// busy: wait
	// connected
	// ended: true
}

// The server publishes the will when the connection ends without a goodbye.
func ExampleWithWill() {
	ctx := context.Background()
	broker, connection := memory()
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithClientID("worker"), mqtt.WithoutReconnect(),
		mqtt.WithWill("status/worker", []byte("offline"), mqtt.AtLeastOnce, mqtt.Retain),
		mqtt.WithWillProperties(&mqtt.WillProperties{ContentType: "text/plain"}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Publish(ctx, "status/worker", []byte("online"), mqtt.AtLeastOnce, mqtt.Retain); err != nil {
		log.Fatal(err)
	}
	broker.Cut("worker")
	for _, m := range broker.Await(ctx, "status/worker", 2) {
		fmt.Printf("%s\n", m.Payload)
	}
	// Output:
	// online
	// offline
}

// The files are read at every attempt to connect, so a certificate may be replaced while the client runs.
func ExampleWithTLSFiles() {
	ctx := context.Background()
	broker := mqtttest.New()
	defer broker.Close()
	folder, err := os.MkdirTemp("", "certificates")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	ca, cert, key := filepath.Join(folder, "ca.pem"), filepath.Join(folder, "client.pem"), filepath.Join(folder, "client.key")
	certificate, private := mqtttest.PEM(broker.Authority().Certificate(func(c *x509.Certificate) { c.Subject.CommonName = "worker" }))
	for file, content := range map[string][]byte{ca: broker.Authority().PEM(), cert: certificate, key: private} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			log.Fatal(err)
		}
	}

	client, err := mqtt.NewClient(ctx, broker.ListenTLS(), mqtt.WithTLSFiles(ca, cert, key))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.Publish(ctx, "status/worker", []byte("online"), mqtt.AtLeastOnce))
	// Output: <nil>
}

// Credentials that expire are asked for at every attempt to connect.
func ExampleWithCredentialsFunc() {
	ctx := context.Background()
	broker := mqtttest.New(mqtttest.Authorize(func(c *codec.Connect) codec.ReasonCode {
		fmt.Printf("the server sees %s with %s\n", c.Username, c.Password)
		return codec.Success
	}))
	defer broker.Close()
	issued := 0
	issue := func(context.Context) (username, password string, err error) {
		issued++
		return "worker", fmt.Sprint("token ", issued), nil // an error is a failed attempt, and another will follow
	}
	client, err := mqtt.NewClient(ctx, "mqtt://memory", mqtt.WithDialer(broker.DialContext), mqtt.WithCredentialsFunc(issue))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Reconnect(ctx); err != nil { // as after a lost connection
		log.Fatal(err)
	}
	// Output:
	// the server sees worker with token 1
	// the server sees worker with token 2
}

// What a topic always needs is said in one place. What a publish says itself counts more.
func ExampleWithTopicDefaults() {
	ctx := context.Background()
	broker, connection := memory()
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection,
		mqtt.WithTopicDefaults("#", mqtt.AtLeastOnce),
		mqtt.WithTopicDefaults("status/+", mqtt.Retain))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for topic, opts := range map[string]mqtt.PublishOptionsV5{
		"bills/7":       nil,
		"status/worker": nil,
		"status/boiler": {mqtt.NoRetain, mqtt.ExactlyOnce},
	} {
		if err := client.Publish(ctx, topic, []byte("x"), opts); err != nil {
			log.Fatal(err)
		}
	}
	for _, m := range broker.Received("#") {
		fmt.Println(m.Topic, mqtt.QoS(m.QoS), m.Retain)
	}
	// Unordered output:
	// bills/7 QoS 1 false
	// status/worker QoS 1 true
	// status/boiler QoS 2 false
}

// Hooks feed metrics and logs.
func ExampleWithTrace_connections() {
	ctx := context.Background()
	broker, connection := memory()
	defer broker.Close()
	lost := make(chan bool, 1)
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithClientID("worker"),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Millisecond}),
		mqtt.WithTrace(&mqtt.Trace{
			ConnectDone: func(server string, attempt int, err error) {
				fmt.Printf("connected to %s: %v\n", server, err)
			},
			Disconnected: func(err error) {
				if !errors.Is(err, mqtt.ErrClosed) { // that would be our own Close
					fmt.Println("lost:", errors.Is(err, mqtt.ErrConnectionLost))
					lost <- true
				}
			},
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	broker.Cut("worker")
	<-lost
	if err := client.WaitConnected(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("connections:", client.Stats().Connects)
	// Unordered output:
	// connected to mqtt://memory: <nil>
	// lost: true
	// connected to mqtt://memory: <nil>
	// connections: 2
}

// A client that goes for a while has what comes meanwhile kept for it.
func ExampleKeepSession() {
	ctx := context.Background()
	broker, connection := memory()
	defer broker.Close()
	opts := mqtt.OptionsV5{connection, mqtt.WithClientID("worker"), mqtt.WithSessionExpiry(time.Hour)}
	client, err := mqtt.NewClient(ctx, "mqtt://memory", opts)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce); err != nil {
		log.Fatal(err)
	}
	if err := client.Disconnect(ctx, mqtt.KeepSession(24*time.Hour)); err != nil { // longer than the hour
		log.Fatal(err)
	}
	orders(broker, "2 owls")

	client, err = mqtt.NewClient(ctx, "mqtt://memory", opts, mqtt.WithCleanStart(false))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce) // what has come waits for it
	if err != nil {
		log.Fatal(err)
	}
	for msg, err := range sub.All(ctx) {
		fmt.Printf("%s, %v; resumed: %t\n", msg.Payload, err, client.SessionPresent())
		break
	}
	// Output: 2 owls, <nil>; resumed: true
}

// A consumer that hangs would hold up the messages of all others. This one loses its subscription instead.
func ExampleEndIfStalled() {
	ctx := context.Background()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()
	sub, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce, mqtt.EndIfStalled(10*time.Millisecond)) // rather a minute
	if err != nil {
		log.Fatal(err)
	}
	orders(broker, "2 owls")
	for msg, err := range sub.All(ctx) {
		if err != nil {
			fmt.Println("ended:", errors.Is(err, mqtt.ErrSlowConsumer))
			break
		}
		fmt.Printf("%s\n", msg.Payload)
		<-sub.Done() // here the consumer hangs
	}
	// Output:
	// 2 owls
	// ended: true
}

// What a responder cannot do is an error of the requester, who sees its text.
func ExampleClientV5_respond() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	broker, client := connect(ctx)
	defer broker.Close()
	defer client.Close()
	sub, err := client.Subscribe(ctx, "$share/clerks/services/price", mqtt.AtLeastOnce)
	if err != nil {
		log.Fatal(err)
	}
	prices := map[string]string{"owl": "12"}
	go client.Respond(ctx, sub, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
		price, ok := prices[string(m.Payload)]
		if !ok {
			return nil, fmt.Errorf("no price for %s", m.Payload)
		}
		return []byte(price), nil
	}, mqtt.Workers(8), mqtt.ReplyOptions(&mqtt.PublishProperties{ContentType: "text/plain"}))

	for _, animal := range []string{"owl", "dragon"} {
		reply, err := client.Request(ctx, "services/price", []byte(animal))
		var failed *mqtt.ResponseError
		if errors.As(err, &failed) {
			fmt.Println("the responder says:", failed.Text)
			continue
		}
		fmt.Printf("%s %s, %v\n", reply.Properties.ContentType, reply.Payload, err)
	}
	// Output:
	// text/plain 12, <nil>
	// the responder says: no price for dragon
}

// A message that was accepted is delivered by the next process if this one dies. The module boltstore has a store in a file.
func ExampleWithStore() {
	ctx := context.Background()
	broker, connection := memory()
	defer broker.Close()
	store := new(storetest.Memory) // boltstore.Open("/var/lib/billing/outgoing.db")
	client, err := mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithClientID("billing"), mqtt.WithStore(store))
	if err != nil {
		log.Fatal(err)
	}
	broker.Offline()
	client.PublishAsync(ctx, "bills/7", []byte("30"), mqtt.ExactlyOnce, mqtt.StoreName("order 7")) // it is on disk
	store = store.Crash()                                                                          // and the process dies
	client.Close()
	broker.Online()

	client, err = mqtt.NewClient(ctx, "mqtt://memory", connection, mqtt.WithStore(store))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for _, left := range client.Outstanding() { // what an earlier process has left, and is not delivered yet
		if err := left.Delivery.Wait(ctx); err != nil {
			log.Fatal(left.Name, ": ", err)
		}
	}
	fmt.Println("delivered:", len(broker.Received("bills/7")))
	// Output:
	// delivered: 1
}

// Why there is no connection: what stood in the way is inside the error.
func ExampleConnectError() {
	ctx := context.Background()
	broker := mqtttest.New(mqtttest.Upgrade(func(r *http.Request) (status int) {
		if r.Header.Get("Authorization") == "" {
			return http.StatusUnauthorized
		}
		return 0
	}))
	defer broker.Close()
	connect := func(url string, opts ...mqtt.OptionV5) {
		var refused *mqtt.ConnectError
		var upgrade *transport.UpgradeError
		switch client, err := mqtt.NewClient(ctx, url, opts...); {
		case err == nil:
			fmt.Println("connected")
			client.Close()
		case errors.As(err, &upgrade): // of a WebSocket; a proxy's is inside a *transport.ProxyError
			fmt.Println("HTTP says", upgrade.StatusCode)
		case errors.As(err, &refused) && refused.Code != 0:
			fmt.Println("MQTT says", refused.Code)
		default:
			fmt.Println(err) // no route, no TLS, no answer
		}
	}
	url := broker.ListenWS()
	connect(url)
	token := mqtt.WithHeader(http.Header{"Authorization": {"Bearer abc"}})
	broker.Refuse(1, byte(mqtt.Banned))
	connect(url, token)
	connect(url, token)
	// Output:
	// HTTP says 401
	// MQTT says Banned (0x8A)
	// connected
}
