package interop

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"github.com/petrel-mqtt/mqtt"
)

// Mosquitto as Debian installs it, which is with persistence, loses nothing of 3,000 pipelined messages at any QoS, in either
// version, while it is restarted three times in order. Persistence is on because a server without it keeps no message through a
// restart. 200 messages are on their way at any time: each restart may double those at QoS 1, and the server queues 1,000 for a
// client and drops the rest.
func TestStockMosquittoLosesNothing(t *testing.T) {
	for name, dial := range map[string]func(ctx context.Context, url, id string) (mqtt.Client, error){
		"3.1.1": func(ctx context.Context, url, id string) (mqtt.Client, error) {
			return mqtt.NewClientV311(ctx, url, quickly, mqtt.WithClientID(id), mqtt.WithCleanStart(false))
		},
		"5.0": func(ctx context.Context, url, _ string) (mqtt.Client, error) { // the identifier is generated
			c, err := mqtt.NewClient(ctx, url, quickly)
			if err != nil {
				return nil, err
			}
			return mqtt.Common(c), nil
		},
	} {
		for qos, of := range map[string]func(i int) mqtt.QoS{
			"QoS 1":       func(int) mqtt.QoS { return mqtt.AtLeastOnce },
			"QoS 2":       func(int) mqtt.QoS { return mqtt.ExactlyOnce },
			"QoS 1 and 2": func(i int) mqtt.QoS { return mqtt.QoS(1 + i%2) },
		} {
			t.Run(name+"/"+qos, func(t *testing.T) { testRestarts(t, persistent(t), true, dial, of) })
			t.Run(name+"/"+qos+"/1,000 in flight", func(t *testing.T) {
				testRestarts(t, persistent(t, "max_inflight_messages 1000"), false, dial, of)
			})
		}
	}
}

// testRestarts pipelines messages through a server while it is restarted. A server that doubles sends a message at QoS 2 again
// whose PUBREL it has sent: Mosquitto 2.0.11 has up to 40 of them in flight where 20 are configured, and at a restart keeps the
// state of 20 only. No client can know such a copy from a new message, because PUBREL has made its identifier free. With more
// than are ever in flight configured, nothing is doubled, which proves the cause.
func testRestarts(t *testing.T, server *mosquitto, doubles bool,
	dial func(ctx context.Context, url, id string) (mqtt.Client, error), of func(i int) mqtt.QoS) {
	const messages, restarts, window = 3000, 3, 200
	ctx := within(t)
	var clients [2]mqtt.Client
	for i := range clients {
		c, err := dial(ctx, server.url(), fmt.Sprint("client", i))
		check(t, err)
		defer c.Close()
		clients[i] = c
	}
	publisher, consumer := clients[0], clients[1]
	sub, err := consumer.Subscribe(ctx, "stock", mqtt.ExactlyOnce)
	check(t, err)
	onTheirWay := make(chan struct{}, window)
	fates := make(chan []*mqtt.Delivery, 1)
	go func() {
		var all []*mqtt.Delivery
		for i := range messages {
			onTheirWay <- struct{}{}
			all = append(all, publisher.PublishAsync(ctx, "stock", fmt.Append(nil, i), of(i)))
		}
		fates <- all
	}()
	came, different := make([]int, messages), 0
	defer func() {
		t.Logf("%d came; publisher %+v, consumer %+v", different, publisher.Stats(), consumer.Stats())
	}()
	for m, err := range sub.All(ctx) {
		check(t, err)
		var i int
		fmt.Sscan(string(m.Payload), &i)
		if came[i]++; came[i] > 1 {
			continue
		}
		<-onTheirWay
		if different++; different == messages {
			break
		}
		if different%(messages/(restarts+1)) == 0 {
			server.stop(syscall.SIGTERM)
			server.start()
		}
	}
	for i, n := range came {
		if n == 0 || n > 1 && of(i) == mqtt.ExactlyOnce && !doubles {
			t.Errorf("message %d came %d times", i, n)
		}
	}
	for i, d := range <-fates {
		if err := d.Wait(ctx); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if n := consumer.Stats().Losses; n != restarts {
		t.Errorf("%d connections were lost, want %d", n, restarts)
	}
}
