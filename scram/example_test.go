package scram_test

import (
	"context"
	"fmt"
	"log"

	server "github.com/xdg-go/scram"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/scram"
)

// Client and server prove themselves to each other at every connect, and again when the client asks for it.
func ExampleSHA256() {
	ctx := context.Background()
	broker := mqtttest.New(mqtttest.Authentication("SCRAM-SHA-256", serverSide("billing", "pencil")))
	defer broker.Close()

	client, err := mqtt.NewClient(ctx, "mqtt://memory", mqtt.WithDialer(broker.DialContext), // rather mqtts://
		mqtt.WithAuthenticator(scram.SHA256("billing", "pencil")))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	fmt.Println(client.State(), "by", client.ConnAck().AuthenticationMethod)
	fmt.Println("again:", client.Reauthenticate(ctx))
	// Output:
	// connected by SCRAM-SHA-256
	// again: <nil>
}

// serverSide is a server that knows one user. It serves one exchange at a time.
func serverSide(user, password string) mqtttest.AuthStep {
	known, err := server.SHA256.NewClient(user, password, "")
	if err != nil {
		log.Fatal(err)
	}
	stored, err := known.GetStoredCredentialsWithError(server.KeyFactors{Salt: "salt", Iters: 4096})
	if err != nil {
		log.Fatal(err)
	}
	s, err := server.SHA256.NewServer(func(string) (server.StoredCredentials, error) { return stored, nil })
	if err != nil {
		log.Fatal(err)
	}
	exchange := s.NewConversation()
	return func(_ string, data []byte) ([]byte, codec.ReasonCode) {
		if exchange.Done() {
			exchange = s.NewConversation()
		}
		answer, err := exchange.Step(string(data))
		switch {
		case err != nil:
			return nil, codec.NotAuthorized
		case exchange.Done():
			return []byte(answer), codec.Success
		}
		return []byte(answer), codec.ContinueAuthentication
	}
}
