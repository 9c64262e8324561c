// Rpc asks a service to add numbers, by request and response of MQTT 5. The service is a second client, which might run
// anywhere; two more like it would share the work.
//
//	go run ./examples/rpc                                # with a broker in memory
//	go run ./examples/rpc -server mqtt://localhost:1883  # with a real server
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"strconv"
	"strings"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

func main() {
	log.SetFlags(0)
	server := flag.String("server", "", "`URL` of the server; without it a broker in memory serves")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := run(ctx, *server); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server string) error {
	var options mqtt.Options
	if server == "" {
		broker := mqtttest.New()
		defer broker.Close()
		server = "mqtt://memory"
		options = append(options, mqtt.WithDialer(broker.DialContext))
	}
	responder, err := mqtt.NewClient(ctx, server, options)
	if err != nil {
		return err
	}
	defer responder.Close()
	requester, err := mqtt.NewClient(ctx, server, options)
	if err != nil {
		return err
	}
	defer requester.Close()

	// Requests that arrive from here on are answered. With ManualAck none is lost when the responder crashes.
	requests, err := responder.Subscribe(ctx, "$share/adders/petrel/rpc/add", mqtt.AtLeastOnce, mqtt.ManualAck)
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error, 1)
	go func() { stopped <- responder.Respond(working, requests, add, mqtt.Workers(4)) }()

	for _, sum := range []string{"2+2", "17+4+21", "one+one"} {
		if err := ask(ctx, requester, sum); err != nil {
			return err
		}
	}
	stop() // takes no more requests, and finishes those it has
	<-stopped
	return errors.Join(requester.Disconnect(ctx), responder.Disconnect(ctx))
}

// ask prints the answer to one request. ctx bounds the wait, and is the request's expiry.
func ask(ctx context.Context, client mqtt.ClientV5, sum string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reply, err := client.Request(ctx, "petrel/rpc/add", []byte(sum))
	var failure *mqtt.ResponseError
	switch {
	case errors.As(err, &failure):
		fmt.Printf("%s: the service says: %s\n", sum, failure.Text)
	case err != nil:
		return err
	default:
		fmt.Printf("%s = %s\n", sum, reply.Payload)
	}
	return nil
}

// add answers a request. ctx ends when nobody waits for the answer any more.
func add(ctx context.Context, request mqtt.Message) ([]byte, error) {
	sum := 0
	for term := range strings.SplitSeq(string(request.Payload), "+") {
		n, err := strconv.Atoi(term)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", term)
		}
		sum += n
	}
	return []byte(strconv.Itoa(sum)), nil
}
