package mqtttest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// In the examples, a test is a function that prints. In a test of yours, mqtttest.New() is mqtttest.NewBroker(t), which
// closes the broker and fails the test when a client breaks the rules, and ctx is t.Context().

var ctx = context.Background()

// billing is the service under test: it sends a bill for each order. The connection is up to its caller.
func billing(client mqtt.ClientV5) {
	orders, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce)
	check(err)
	for order := range orders.Messages() {
		bill := fmt.Appendf(nil, "bill for %s", order.Payload)
		err := client.Publish(ctx, "bills/"+path.Base(order.Topic), bill, mqtt.AtLeastOnce)
		if errors.Is(err, mqtt.ErrClosed) {
			return
		}
		check(err)
	}
}

// connect connects a client through memory. It comes back fast, so that a test need not wait.
func connect(broker *mqtttest.Broker, opts ...mqtt.OptionV5) mqtt.ClientV5 {
	client, err := mqtt.NewClient(ctx, "mqtt://test", append([]mqtt.OptionV5{
		mqtt.WithDialer(broker.DialContext), mqtt.WithClientID("billing"),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond}),
	}, opts...)...)
	check(err)
	return client
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A service that subscribes and publishes: the test is its surroundings.
func Example() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	go billing(client)

	check(broker.AwaitSubscription(ctx, "orders/+"))
	broker.Publish(mqtttest.Message{Topic: "orders/7", Payload: []byte("2 owls"), QoS: 1})
	for _, bill := range broker.Await(ctx, "bills/+", 1) {
		fmt.Printf("%s: %s, from %s at QoS %d\n", bill.Topic, bill.Payload, bill.ClientID, bill.QoS)
	}
	// Output: bills/7: bill for 2 owls, from billing at QoS 1
}

// A connection that breaks must cost nothing.
func ExampleBroker_Cut() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	go billing(client)
	check(broker.AwaitSubscription(ctx, "orders/+"))

	for i := range 3 {
		broker.Cut("billing")
		broker.Publish(mqtttest.Message{Topic: fmt.Sprint("orders/", i), Payload: []byte("an owl"), QoS: 1})
	}
	seen := map[string]bool{}
	for n := 3; len(seen) < 3; n++ { // at QoS 1 a message may come twice
		for _, bill := range broker.Await(ctx, "bills/+", n) {
			seen[bill.Topic] = true
		}
	}
	fmt.Println(seen)
	// Output: map[bills/0:true bills/1:true bills/2:true]
}

// A server that is busy is tried again; one that does not know the user is not.
func ExampleBroker_Refuse() {
	broker := mqtttest.New()
	defer broker.Close()

	broker.Refuse(2, byte(mqtt.ServerBusy))
	client := connect(broker, mqtt.WithConnectRetry())
	fmt.Println(broker.Clients())
	check(client.Close())

	broker.Refuse(-1, byte(mqtt.BadUserNameOrPassword))
	_, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(broker.DialContext), mqtt.WithConnectRetry())
	fmt.Println(errors.Is(err, mqtt.BadUserNameOrPassword))
	// Output:
	// [billing]
	// true
}

// The connection breaks before the acknowledgement comes: the message is sent again, and comes twice.
func ExampleBroker_Fault() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()

	broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Times: 1, Drop: true, Cut: true})
	check(client.Publish(ctx, "bills/7", []byte("bill"), mqtt.AtLeastOnce))
	for _, bill := range broker.Received("bills/+") {
		fmt.Println(bill.Topic, bill.Dup)
	}
	// Output:
	// bills/7 false
	// bills/7 true
}

// Acknowledgements are held back until the test lets them go.
func ExampleBroker_Fault_hold() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()

	release := broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Hold: true})
	sent := client.PublishAsync(ctx, "bills/7", []byte("bill"), mqtt.AtLeastOnce)
	broker.Await(ctx, "bills/+", 1)
	fmt.Println("in flight:", client.Stats().InFlight)
	release()
	check(sent.Wait(ctx))
	fmt.Println("in flight:", client.Stats().InFlight)
	// Output:
	// in flight: 1
	// in flight: 0
}

// What is published while there is no server is sent when there is one again.
func ExampleBroker_Offline() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()

	broker.Offline()
	first := client.PublishAsync(ctx, "bills/1", []byte("bill"), mqtt.AtLeastOnce)
	second := client.PublishAsync(ctx, "bills/2", []byte("bill"), mqtt.AtLeastOnce)
	broker.Online()
	check(first.Wait(ctx))
	check(second.Wait(ctx))
	for _, bill := range broker.Received() {
		fmt.Println(bill.Topic)
	}
	// Output:
	// bills/1
	// bills/2
}

// The test answers a request of the service by hand.
func ExampleBroker_Await() {
	broker := mqtttest.New(mqtttest.Subscribers("prices/+"))
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	price := make(chan string)
	go func() { // the service
		reply, err := client.Request(ctx, "prices/owl", nil)
		check(err)
		price <- string(reply.Payload)
	}()

	request := broker.Await(ctx, "prices/+", 1)[0]
	broker.Publish(mqtttest.Message{
		Topic: request.Properties.ResponseTopic, Payload: []byte("30"), QoS: 1,
		Properties: codec.PublishProperties{CorrelationData: request.Properties.CorrelationData},
	})
	fmt.Println(<-price)
	// Output: 30
}

// The test asks a service that responds.
func ExampleBroker_Publish() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	requests, err := client.Subscribe(ctx, "prices/+", mqtt.AtLeastOnce)
	check(err)
	go client.Respond(ctx, requests, func(context.Context, mqtt.Message) ([]byte, error) {
		return []byte("30"), nil
	})

	broker.Publish(mqtttest.Message{
		Topic: "prices/owl", QoS: 1,
		Properties: codec.PublishProperties{ResponseTopic: "replies/test", CorrelationData: []byte("1")},
	})
	reply := broker.Await(ctx, "replies/test", 1)[0]
	fmt.Printf("%s for request %s\n", reply.Payload, reply.Properties.CorrelationData)
	// Output: 30 for request 1
}

// A hook sees every packet, and may answer in the broker's place: here it lets nobody publish bills of more than 10 bytes.
func ExampleBroker_Intercept() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()

	broker.Intercept(func(clientID string, outbound bool, p codec.Packet) (keep bool) {
		bill, ok := p.(*codec.Publish)
		if !ok || outbound || len(bill.Payload) <= 10 {
			return true
		}
		broker.Send(clientID, &codec.Puback{PacketID: bill.PacketID, Code: codec.QuotaExceeded})
		return false
	})
	fmt.Println(client.Publish(ctx, "bills/1", []byte("a bill"), mqtt.AtLeastOnce))
	err := client.Publish(ctx, "bills/2", []byte("quite a long bill"), mqtt.AtLeastOnce)
	fmt.Println(errors.Is(err, mqtt.QuotaExceeded))
	// Output:
	// <nil>
	// true
}

// A service that must not lose an order acknowledges it only after it has been written down.
func ExampleBroker_Unacknowledged() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	orders, err := client.Subscribe(ctx, "orders/+", mqtt.AtLeastOnce, mqtt.ManualAck)
	check(err)
	commit := func(mqtt.Message) { // of the service's database
		fmt.Println("unacknowledged during the commit:", len(broker.Unacknowledged("billing")))
	}

	broker.Publish(mqtttest.Message{Topic: "orders/7", Payload: []byte("2 owls"), QoS: 1})
	order := <-orders.Messages()
	commit(order)
	check(order.Ack())
	_, err = client.Ping(ctx) // the broker has handled what came before; synctest.Wait() does as well
	check(err)
	fmt.Println("unacknowledged after it:", len(broker.Unacknowledged("billing")))
	// Output:
	// unacknowledged during the commit: 1
	// unacknowledged after it: 0
}

// The broker loses the session: the service subscribes again.
func ExampleBroker_Forget() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	go billing(client)
	check(broker.AwaitSubscription(ctx, "orders/+"))

	broker.Forget("billing")
	check(broker.AwaitSubscription(ctx, "orders/+"))
	broker.Publish(mqtttest.Message{Topic: "orders/7", Payload: []byte("2 owls"), QoS: 1})
	fmt.Printf("%s\n", broker.Await(ctx, "bills/+", 1)[0].Payload)
	// Output: bill for 2 owls
}

// The server that the service comes back to allows less than before.
func ExampleBroker_Reconfigure() {
	broker := mqtttest.New()
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	check(client.Publish(ctx, "bills/1", []byte("bill"), mqtt.ExactlyOnce))

	broker.Reconfigure(mqtttest.MaximumQoS(1))
	check(client.Reconnect(ctx))
	fmt.Println(client.Publish(ctx, "bills/2", []byte("bill"), mqtt.AtLeastOnce))
	err := client.Publish(ctx, "bills/3", []byte("bill"), mqtt.ExactlyOnce)
	fmt.Println(errors.Is(err, mqtt.QoSNotSupported))
	// Output:
	// <nil>
	// true
}

// A slow line, on which packets come in pieces and together.
func ExampleBandwidth() {
	broker := mqtttest.New(mqtttest.Bandwidth(100_000), mqtttest.Coalesce(5*time.Millisecond), mqtttest.Fragment(7))
	defer broker.Close()
	client := connect(broker)
	defer client.Close()
	start := time.Now()
	check(client.Publish(ctx, "bills/1", make([]byte, 10_000), mqtt.AtLeastOnce))
	fmt.Println(time.Since(start) > 80*time.Millisecond)
	// Output: true
}

// With a scripted server the test has every packet in its hands, and sees what differs.
func ExampleServer() {
	t := new(printer) // a test's own t
	server := mqtttest.NewServer(t, codec.V5)
	defer t.cleanUp()
	refused := make(chan error)
	go func() {
		client, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithClientID("billing"))
		check(err)
		defer client.Close()
		refused <- client.Publish(ctx, "bills/7", []byte("bill"), mqtt.AtLeastOnce)
		check(client.Publish(ctx, "bills/8", []byte("bill")))
	}()

	s := server.Accept()
	hello := mqtttest.ReceiveAs[*codec.Connect](s)
	fmt.Println(hello.ClientID)
	s.Send(&codec.Connack{})
	s.Expect(&codec.Publish{Topic: "bills/7", Payload: []byte("bill"), QoS: 1, PacketID: 1})
	s.Send(&codec.Puback{PacketID: 1, Code: codec.QuotaExceeded})
	fmt.Println(errors.Is(<-refused, mqtt.QuotaExceeded))

	s.Expect(&codec.Publish{Topic: "bills/9", Payload: []byte("bill")}) // fails the test, and says that Topic differs
	// Output:
	// billing
	// true
	// FAIL: mqtttest: other packet than expected (-want +got):
}

// printer prints what would fail a test.
type printer struct {
	testing.TB
	cleanups []func()
}

func (p *printer) Helper()          {}
func (p *printer) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }
func (p *printer) Fatalf(format string, args ...any) {
	first, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n")
	fmt.Println("FAIL:", first)
}

func (p *printer) cleanUp() {
	for _, f := range p.cleanups {
		f()
	}
}

// A client library gives DialContext to its dialer option; here the packets are written by hand.
func ExampleBroker_DialContext() {
	broker := mqtttest.New()
	defer broker.Close()
	conn, err := broker.DialContext(ctx, "tcp", "test:1883")
	check(err)
	defer conn.Close()

	hello, err := (&codec.Connect{ClientID: "billing", CleanStart: true}).Append(nil, codec.V5)
	check(err)
	_, err = conn.Write(hello)
	check(err)
	answer, err := codec.ReadPacket(conn, codec.V5, 0)
	check(err)
	fmt.Println(answer.Type(), broker.Clients())
	// Output: CONNACK [billing]
}

// Programs that cannot be given a dialer reach a broker over the network.
func ExampleBroker_Listen() {
	broker := mqtttest.New()
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, broker.Listen(), mqtt.WithClientID("billing"))
	check(err)
	defer client.Close()
	fmt.Println(broker.Clients())
	// Output: [billing]
}

// A TLS set-up is tested with what is right, and with what is wrong: here the certificate has expired.
func ExampleBroker_ListenTLS() {
	broker := mqtttest.New()
	defer broker.Close()
	server := broker.ListenTLS()
	client, err := mqtt.NewClient(ctx, server, mqtt.WithTLS(broker.ClientTLS()), mqtt.WithClientID("billing"))
	check(err)
	fmt.Println(broker.Clients())
	check(client.Close())

	expired := broker.Authority().Certificate(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	broker.Reconfigure(mqtttest.ServerTLS(func(c *tls.Config) { c.Certificates = []tls.Certificate{expired} }))
	_, err = mqtt.NewClient(ctx, server, mqtt.WithTLS(broker.ClientTLS()))
	fmt.Println(errors.As(err, new(*tls.CertificateVerificationError)))
	// Output:
	// [billing]
	// true
}

// TLS works in memory too. The client has to show a certificate.
func ExampleBroker_DialTLS() {
	broker := mqtttest.New(mqtttest.ServerTLS(func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert }))
	defer broker.Close()
	client, err := mqtt.NewClient(ctx, "mqtts://localhost", mqtt.WithDialer(broker.DialTLS), mqtt.WithTLS(broker.ClientTLS()))
	check(err)
	defer client.Close()
	fmt.Println(len(broker.Clients()))
	// Output: 1
}

// Serve takes connections of a listener of the test's own.
func ExampleBroker_Serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	broker := mqtttest.New()
	defer broker.Close()
	go func() { check(broker.Serve(listener)) }()
	fmt.Println("listening on", listener.Addr().Network())
	// Output: listening on tcp
}
