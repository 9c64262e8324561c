package mqtt_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Several publishes at QoS 0 that wait all go out, those of one goroutine in order, when the server reads
// again, also when some of those before them give up.
func TestPublishQoS0WaitersAreServed(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Minute))
		payload := make([]byte, 100_000)
		for p.client.Publish(endingIn(t, time.Second), "fill", payload) == nil {
		}
		const waiters = 20
		results := make([]<-chan error, waiters)
		for i := range results {
			ctx := t.Context()
			if i%3 == 0 {
				ctx = endingIn(t, time.Second)
			}
			results[i] = calling(func() error { return p.client.Publish(ctx, "late", payload) })
			synctest.Wait()
		}
		for i, result := range results {
			if i%3 == 0 {
				wantErr(t, outcome(t, result), context.DeadlineExceeded, true)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i, result := range results {
				if i%3 != 0 {
					if err := outcome(t, result); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		got := 0
		for got < waiters-(waiters+2)/3 {
			if mqtttest.ReceiveAs[*codec.Publish](p.Script).Topic == "late" {
				got++
			}
		}
		<-done
		p.ExpectSilence(time.Second)
	})
}

// Without a queue each publish waits itself, in order.
func TestPublishWithoutQueue(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(0, 0))
		var results []<-chan error
		for i := range 4 {
			results = append(results, calling(func() error {
				return p.client.Publish(t.Context(), "t", fmt.Append(nil, i), mqtt.AtLeastOnce)
			}))
			synctest.Wait()
		}
		for i, result := range results {
			p.Expect(toT(1, uint16(i+1), fmt.Sprint(i)))
			p.ExpectSilence(time.Second)
			p.Send(&codec.Puback{PacketID: uint16(i + 1)})
			noErr(t, outcome(t, result))
		}
	})
}

// Who waits in line for a place in the queue takes it from one that withdraws.
func TestWithdrawMakesRoom(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(1, 1000))
		p.client.PublishAsync(t.Context(), "t", []byte("1"), mqtt.AtLeastOnce)
		queued := p.client.PublishAsync(t.Context(), "t", []byte("2"), mqtt.AtLeastOnce)
		waits := calling(func() error { return p.client.PublishAsync(t.Context(), "t", []byte("3"), mqtt.AtLeastOnce).Err() })
		stillWaits(t, waits)
		if !queued.Withdraw() {
			t.Fatal("not withdrawn")
		}
		noErr(t, outcome(t, waits))
		p.Expect(toT(1, 1, "1"))
		p.Send(&codec.Puback{PacketID: 1})
		p.Expect(toT(1, 2, "3"))
	})
}

// A publish that is woken, and for which there is still too little room, waits again before those that came later.
func TestPublishKeepsItsTurn(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(100, 10))
		for _, payload := range []string{"in flight", "111", "222"} { // the topic counts too: two times 4 bytes are queued
			p.client.PublishAsync(t.Context(), "t", []byte(payload), mqtt.AtLeastOnce)
		}
		large := publishing(p, []byte("1234567"), mqtt.AtLeastOnce)
		stillWaits(t, large)
		small := publishing(p, []byte("1"), mqtt.AtLeastOnce)
		stillWaits(t, small)
		for i, payload := range []string{"in flight", "111", "222", "1234567", "1"} {
			p.Expect(toT(1, uint16(i+1), payload))
			p.Send(&codec.Puback{PacketID: uint16(i + 1)})
			synctest.Wait()
		}
		noErr(t, outcome(t, large))
		noErr(t, outcome(t, small))
	})
}
