package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// A client that takes topic aliases gets every message under its topic, live, retained and from the queue.
func TestTopicAliasesTowardsClients(t *testing.T) {
	t.Parallel()
	b := start(t, onLoopback())
	ctx := within(t)
	sub, err := mqtt.NewClient(ctx, b.URLs()[0], mqtt.WithTopicAliasMaximum(3), mqtt.WithClientID("sub"), mqtt.WithSessionExpiry(time.Hour))
	check(t, err)
	defer sub.Close()
	pub, err := mqtt.NewClient(ctx, b.URLs()[0])
	check(t, err)
	defer pub.Close()
	const topics, rounds = 5, 40
	topic := func(n int) string { return fmt.Sprintf("sensors/%d/temperature", n%topics) }
	for n := range topics {
		check(t, pub.Publish(ctx, topic(n), fmt.Append(nil, n), mqtt.AtLeastOnce, mqtt.Retain))
	}
	all, err := sub.Subscribe(ctx, "sensors/#", mqtt.ExactlyOnce)
	check(t, err)
	for range topics {
		m, err := all.Next(ctx)
		check(t, err)
		if want := topic(int(m.Payload[0] - '0')); m.Topic != want || !m.Retain {
			t.Errorf("retained %+v, want %s", m, want)
		}
	}
	for n := range rounds {
		check(t, pub.Publish(ctx, topic(n*n), fmt.Append(nil, n), mqtt.QoS(n%3)))
		if n == rounds/2 {
			check(t, sub.Reconnect(ctx))
		}
		m, err := all.Next(ctx)
		check(t, err)
		if want := topic(n * n); m.Topic != want || string(m.Payload) != fmt.Sprint(n) {
			t.Errorf("message %d: got %s of %s, want %s", n, m.Payload, m.Topic, want)
		}
	}
}
