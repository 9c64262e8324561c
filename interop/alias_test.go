package interop

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// Topics that are published to again go out as aliases, as many as the server takes, and arrive under their names, across a
// cut too.
func TestTopicAliases(t *testing.T) { eachServer(t, testTopicAliases) }

func testTopicAliases(t *testing.T, server anyServer) {
	through := startProxy(t, server.port)
	ctx := within(t)

	receiver, err := mqtt.NewClient(ctx, server.url(), mqtt.WithTopicAliasMaximum(5))
	check(t, err)
	defer receiver.Close()
	sub, err := receiver.Subscribe(ctx, "alias/+/temperature", mqtt.ExactlyOnce)
	check(t, err)

	var named, aliased atomic.Int64
	count := func(p mqtt.PacketTrace) {
		switch {
		case !p.Sent || p.Type != "PUBLISH":
		case p.Topic == "":
			aliased.Add(1)
		default:
			named.Add(1)
		}
	}
	publisher, err := mqtt.NewClient(ctx, through.url(), mqtt.WithTrace(&mqtt.Trace{Packet: count}),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 10 * time.Millisecond}))
	check(t, err)
	defer publisher.Close()
	maximum := int(publisher.ConnAck().TopicAliasMaximum)
	if maximum < 2 {
		t.Fatalf("the server takes %d aliases", maximum)
	}

	const rounds = 30
	topics := maximum + 1 // in turn, so that each takes an alias from another
	next := func(round, n int) (topic, payload string) {
		return fmt.Sprintf("alias/%d/temperature", n), fmt.Sprint(round)
	}
	for round := range rounds {
		if round == rounds/2 {
			through.cut()
			through.mend()
		}
		for n := range topics {
			topic, payload := next(round, n)
			for range 2 {
				check(t, publisher.Publish(ctx, topic, []byte(payload), mqtt.QoS(1+round%2)))
			}
		}
	}
	for round := range rounds {
		for n := range topics {
			topic, payload := next(round, n)
			for range 2 {
				m, err := sub.Next(ctx)
				check(t, err)
				if m.Topic != topic || string(m.Payload) != payload {
					t.Fatalf("%s: %s comes, want %s: %s", m.Topic, m.Payload, topic, payload)
				}
			}
		}
	}
	if n := aliased.Load(); n < rounds*int64(topics) {
		t.Errorf("only %d PUBLISHes with an alias alone, %d with a topic", n, named.Load())
	}
}
