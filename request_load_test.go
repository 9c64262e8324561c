package mqtt_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

var requestCount = flag.Int("requests", 0, "how many requests TestRequestsThroughCuts makes; 0: 100,000, or 10,000 with the race detector")

// 64 requests in flight, replies in random order, and connections cut on both sides in between. At QoS 1 in kept
// sessions no request goes without its reply, and none gets another one's.
func TestRequestsThroughCuts(t *testing.T) {
	requests := *requestCount
	switch {
	case requests > 0:
	case raceEnabled, testing.Short():
		requests = 10_000
	default:
		requests = 100_000
	}
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t, mqtttest.KeepReceived(0))
		quick := mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond})
		responder := reconnectingV5(t, b.DialContext, mqtt.WithClientID("responder"), quick)
		requester := reconnectingV5(t, b.DialContext, mqtt.WithClientID("requester"), quick)
		sub := subscribe(t, mqtt.Common(responder), "square", mqtt.AtLeastOnce, mqtt.ManualAck)
		ctx, stop := context.WithCancel(t.Context())
		serving := startErr(func() error { return responder.Respond(ctx, sub, slowSquare, mqtt.Workers(64)) })
		cuts := start(func() (n int, err error) {
			for ctx.Err() == nil {
				time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
				b.Cut([]string{"requester", "responder"}[n%2])
				n++
			}
			return n, nil
		})
		var wait sync.WaitGroup
		for worker := range 64 {
			wait.Go(func() {
				for i := worker; i < requests; i += 64 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					m, err := requester.Request(ctx, "square", fmt.Append(nil, i))
					cancel()
					if want := fmt.Sprint(i * i); err != nil || string(m.Payload) != want {
						t.Errorf("request %d: %q, %v", i, m.Payload, err)
						return
					}
				}
			})
		}
		wait.Wait()
		stop()
		serving.wait()
		if n := cuts.value(t); n < requests/1000 {
			t.Errorf("%d cuts", n)
		}
		synctest.Wait()
		s := requester.Stats()
		if s.InFlight != 0 || s.Unacknowledged != 0 || s.Losses == 0 || responder.Stats().Losses == 0 {
			t.Errorf("requester %+v, responder %+v", s, responder.Stats())
		}
	})
}

// slowSquare answers in random order.
func slowSquare(_ context.Context, m mqtt.Message) ([]byte, error) {
	var n int
	_, err := fmt.Sscan(string(m.Payload), &n)
	time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
	return fmt.Append(nil, n*n), err
}
