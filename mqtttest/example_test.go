package mqtttest_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// A client library gives DialContext to its dialer option; here the packets are written by hand.
func ExampleBroker_DialContext() {
	broker := mqtttest.New()
	defer broker.Close()
	conn, err := broker.DialContext(context.Background(), "tcp", "test:1883")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	hello, err := (&codec.Connect{ClientID: "billing", CleanStart: true}).Append(nil, codec.V5)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := conn.Write(hello); err != nil {
		log.Fatal(err)
	}
	answer, err := codec.ReadPacket(conn, codec.V5, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Type(), broker.Clients())
	// Output: CONNACK [billing]
}

// Programs that cannot be given a dialer reach a broker over the network.
func ExampleBroker_Serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	broker := mqtttest.New()
	defer broker.Close()
	go func() {
		if err := broker.Serve(listener); err != nil {
			log.Print(err)
		}
	}()
	fmt.Println("listening on", listener.Addr().Network())
	// Output: listening on tcp
}
