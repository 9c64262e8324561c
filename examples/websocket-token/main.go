// Websocket-token connects through WebSocket with a token that expires: each attempt to connect brings a fresh one.
//
//	go run ./examples/websocket-token
//	go run ./examples/websocket-token -server wss://broker.example.com/mqtt
//
// Without -server a broker in this program serves, on a port of this machine; it accepts each token once.
package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

func main() {
	log.SetFlags(0)
	server := flag.String("server", "", "`URL` of the server; without it a broker in this program serves")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	tokens := new(issuer)
	if *server == "" {
		broker := mqtttest.New(mqtttest.Upgrade(tokens.check))
		defer broker.Close()
		*server = broker.ListenWS()
	}
	if err := run(ctx, *server, tokens); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server string, tokens *issuer) error {
	client, err := mqtt.NewClient(ctx, server, mqtt.WithAttemptFunc(func(ctx context.Context, a *mqtt.Attempt) error {
		token, err := tokens.issue(ctx) // ctx ends with the attempt
		if err != nil {
			return err // the attempt has failed, and another will follow
		}
		a.Header.Set("Authorization", "Bearer "+token)
		fmt.Println(a) // without the token
		return nil
	}))
	if err != nil {
		return err
	}
	defer client.Close()
	for range 3 {
		if err := client.Publish(ctx, "petrel/token", []byte("hello"), mqtt.AtLeastOnce); err != nil {
			return err
		}
		fmt.Println("published")
		if err := client.Reconnect(ctx); err != nil { // or whenever the connection is lost
			return err
		}
	}
	return client.Disconnect(ctx)
}

// issuer stands for the service that issues tokens. Its methods may be called concurrently.
type issuer struct {
	mu    sync.Mutex
	token string // the one that is good; empty: none
}

// issue returns a new token.
func (i *issuer) issue(context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.token = rand.Text()
	return i.token, nil
}

// check says, with an HTTP status, whether a request has the good token, which is used up then.
func (i *issuer) check(r *http.Request) (status int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.token == "" || r.Header.Get("Authorization") != "Bearer "+i.token {
		return http.StatusUnauthorized
	}
	i.token = ""
	return 0
}
