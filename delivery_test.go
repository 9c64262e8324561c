package mqtt_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

func TestDelivery(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1))
		ctx := t.Context()
		sent := p.client.PublishAsync(ctx, "t", []byte("1"), mqtt.AtLeastOnce)
		queued := p.client.PublishAsync(ctx, "t", []byte("2"), mqtt.AtLeastOnce)
		withdrawn := p.client.PublishAsync(ctx, "t", []byte("3"), mqtt.AtLeastOnce)
		if sent.Withdraw() {
			t.Error("a message was withdrawn that had been sent")
		}
		for _, d := range []*mqtt.Delivery{sent, queued} {
			if d.Err() != nil || d.Reason() != mqtt.Success {
				t.Error("a Delivery knows a fate that is not decided")
			}
			wantErr(t, d.Wait(endingIn(t, time.Second)), context.DeadlineExceeded, false)
			select {
			case <-d.Done():
				t.Error("a Delivery is done before its time")
			default:
			}
		}
		done := withdrawn.Done()
		var times, waiters sync.WaitGroup
		var count [8]bool
		for i := range count {
			times.Go(func() { count[i] = withdrawn.Withdraw() })
			waiters.Go(func() {
				if err := withdrawn.Wait(ctx); !mqtt.SafeToRetry(err) {
					t.Errorf("a withdrawn message says %v", err)
				}
				<-withdrawn.Done()
				withdrawn.Reason()
			})
		}
		times.Wait()
		waiters.Wait()
		<-done
		n := 0
		for _, did := range count {
			if did {
				n++
			}
		}
		if n != 1 {
			t.Errorf("a message was withdrawn %d times", n)
		}
		p.Expect(toT(1, 1, "1"))
		p.Send(&codec.Puback{PacketID: 1})
		<-sent.Done()
		p.Expect(toT(1, 2, "2"))
		p.Send(&codec.Puback{PacketID: 2})
		noErr(t, queued.Wait(ctx))
		if sent.Withdraw() || queued.Withdraw() || withdrawn.Withdraw() {
			t.Error("a message was withdrawn that had its fate")
		}
		zero := p.client.PublishAsync(ctx, "t", nil)
		<-zero.Done()
		if zero.Err() != nil || zero.Withdraw() {
			t.Error("QoS 0:", zero.Err())
		}
		p.Expect(toT(0, 0, ""))
		p.ExpectSilence(time.Second)
	})
}

// Delivery for fakes: done from the start.
func TestNewDelivery(t *testing.T) {
	d := mqtt.NewDelivery(mqtt.QuotaExceeded, mqtt.QuotaExceeded)
	<-d.Done()
	if !errors.Is(d.Wait(t.Context()), mqtt.QuotaExceeded) || d.Reason() != mqtt.QuotaExceeded || d.Withdraw() {
		t.Errorf("%+v", d)
	}
}
