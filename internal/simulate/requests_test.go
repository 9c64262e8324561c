package simulate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// Requests and re-authentications go on in between. The witness does not follow their messages: whoever asks knows what the
// answer has to be.

const serviceTopic = "$rpc/service" // which no wildcard matches

// unobserved reports whether a topic or filter belongs to requests.
func unobserved(topic string) bool {
	return strings.HasPrefix(topic, "$rpc/") || strings.HasPrefix(topic, "petrel/reply/")
}

// serve answers requests as long as the client lives.
func (c *simulated) serve(now *instance) {
	var sub *mqtt.Subscription
	err := c.s.lasting(time.Hour, 0, c.id+" Subscribe to requests", func(ctx context.Context) (err error) {
		sub, err = now.Subscribe(ctx, serviceTopic, mqtt.AtLeastOnce)
		return err
	})
	if err != nil {
		return // refused: then nobody answers
	}
	c.s.note(c.id, "serves")
	c.s.consumers.Go(func() {
		_ = now.v5.Respond(c.s.t.Context(), sub, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
			return m.Payload, nil
		}, mqtt.Workers(2))
	})
}

// request asks, and checks the answer if there is one in time.
func (c *simulated) request(now *instance, r *rand.Rand, timeout time.Duration) error {
	question := fmt.Sprint(c.id, "?", r.Uint32())
	return c.s.lasting(timeout, 0, c.id+" Request", func(ctx context.Context) error {
		reply, err := now.v5.Request(ctx, serviceTopic, []byte(question))
		if err == nil && string(reply.Payload) != question {
			c.s.problem("%s asks %q and gets %q", c.id, question, reply.Payload)
		}
		return err
	})
}

// checkRequests checks that requests are answered again, now that it is calm.
func (s *simulation) checkRequests() {
	for _, c := range s.clients {
		now := c.current()
		if now.v5 == nil || c.largest > 0 || !s.answers(c) {
			continue
		}
		if err := c.request(now, s.random(forRequests, c.number), time.Minute); err != nil {
			s.problem("%s: a request in the end: %v", c.id, err)
		}
		if err := c.reauthenticate(now, time.Minute); err != nil {
			s.problem("%s: Reauthenticate in the end: %v", c.id, err)
		}
	}
}

// answers reports whether a request of a client is answered for certain.
func (s *simulation) answers(c *simulated) bool {
	if s.responder == nil || s.responder.refused.Load() || c.refused.Load() {
		return false
	}
	s.witness.mu.Lock()
	defer s.witness.mu.Unlock()
	return s.witness.client(c.id).at == s.witness.client(s.responder.id).at
}

// reauthenticate does nothing where there is no Authenticator.
func (c *simulated) reauthenticate(now *instance, timeout time.Duration) error {
	if !c.authenticates {
		return nil
	}
	return c.s.lasting(timeout, 0, c.id+" Reauthenticate", now.v5.Reauthenticate)
}

// riddle is an Authenticator, and what the broker makes of it.
type riddle struct{}

func (riddle) Method() string                        { return "riddle" }
func (riddle) Start(context.Context) ([]byte, error) { return []byte("hello"), nil }
func (riddle) Finish(context.Context, []byte) error  { return nil }
func (riddle) Continue(_ context.Context, data []byte) ([]byte, error) {
	if string(data) != "who?" {
		return nil, errors.New("another riddle")
	}
	return []byte("me"), nil
}

func (riddle) step(_ string, data []byte) ([]byte, codec.ReasonCode) {
	switch string(data) {
	case "hello":
		return []byte("who?"), codec.ContinueAuthentication
	case "me":
		return nil, codec.Success
	}
	return nil, codec.NotAuthorized
}
