package scram

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/xdg-go/scram"

	petrel "github.com/petrel-mqtt/mqtt/broker"
)

// broker is Petrel's broker, with a plugin by which clients authenticate with SCRAM.
type broker struct {
	url    string
	method string
	hash   scram.HashGeneratorFcn

	mu        sync.Mutex
	password  string                    // of the user "ada"
	spoil     func(final []byte) []byte // changes the server's last message; nil: it is as it should be
	successes int
}

func startBroker(t *testing.T, method string, hash scram.HashGeneratorFcn) *broker {
	t.Helper()
	b := &broker{method: method, hash: hash, password: "pencil"}
	config := petrel.DefaultConfig()
	config.Listeners[0].Bind = "127.0.0.1:0"
	server, err := petrel.New(config, petrel.Plugin{Name: "scram", Exchange: b.exchange})
	if err == nil {
		err = server.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Shutdown(context.Background()) })
	b.url = server.URLs()[0]
	return b
}

func (b *broker) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// lookUp gives the server's side what it stores of a user.
func (b *broker) lookUp(user string) (scram.StoredCredentials, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if user != "ada" {
		return scram.StoredCredentials{}, errors.New("no such user")
	}
	c, err := b.hash.NewClient(user, b.password, "")
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	return c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
}

// exchange begins a conversation with a client.
func (b *broker) exchange(_ petrel.Client, method string) petrel.Exchange {
	s, err := b.hash.NewServer(b.lookUp)
	if method != b.method || err != nil {
		return nil
	}
	return &conversation{b, s.NewConversation()}
}

type conversation struct {
	broker *broker
	server *scram.ServerConversation
}

// Next goes on with the conversation.
func (c *conversation) Next(_ context.Context, data []byte) (petrel.Step, error) {
	text, err := c.server.Step(string(data))
	if err != nil || c.server.Done() && !c.server.Valid() {
		return petrel.Step{}, errors.Join(err, errors.New("no proof"))
	}
	step := petrel.Step{Data: []byte(text), Done: c.server.Done()}
	if step.Done {
		step.Username = c.server.Username()
		c.broker.set(func() {
			c.broker.successes++
			if c.broker.spoil != nil {
				step.Data = c.broker.spoil(step.Data)
			}
		})
	}
	return step, nil
}
