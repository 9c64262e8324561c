package mqtt_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// At QoS 0 nil is returned once the message is handed over, at QoS 1 and 2 once the server has acknowledged
// it.
// [MQTT-2.2.1-5] [MQTT-3.3.1-2] [MQTT-4.1.0-1] [MQTT-4.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.2-3]
// [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.4.0-1] [MQTT311-2.3.1-6]
// [MQTT311-3.3.1-2] [MQTT311-4.1.0-1] [MQTT311-4.3.1-1] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1]
func TestPublishReturns(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		noErr(t, p.client.Publish(t.Context(), "t", []byte("0")))
		p.Expect(toT(0, 0, "0"))
		one := calling(func() error { return p.client.Publish(t.Context(), "t", []byte("1"), mqtt.AtLeastOnce, mqtt.Retain) })
		want := toT(1, 1, "1")
		want.Retain = true
		p.Expect(want)
		p.Send(&codec.Puback{PacketID: 2})
		stillWaits(t, one)
		p.Send(&codec.Puback{PacketID: 1})
		noErr(t, outcome(t, one))
		two := calling(func() error { return p.client.Publish(t.Context(), "t", []byte("2"), mqtt.ExactlyOnce) })
		p.Expect(toT(2, 2, "2"))
		p.Send(&codec.Pubrec{PacketID: 2})
		p.Expect(&codec.Pubrel{PacketID: 2})
		stillWaits(t, two)
		p.Send(&codec.Pubcomp{PacketID: 2})
		noErr(t, outcome(t, two))
		if s := p.client.Stats(); s.Published != 3 || s.InFlight != 0 {
			t.Errorf("stats %+v", s)
		}
		// Nothing is sent again on a connection that lives [MQTT-4.4.0-1], and nothing is forgotten [MQTT-4.1.0-1].
		late := p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, 3, ""))
		p.Patience(2 * time.Minute)
		for range 5 {
			mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
			p.Send(&codec.Pingresp{})
		}
		p.Send(&codec.Puback{PacketID: 3})
		noErr(t, late.Wait(t.Context()))
	})
}

// A message whose ctx ends before it was sent is withdrawn and never sent.
func TestPublishWithdrawn(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1))
		first := p.client.PublishAsync(t.Context(), "t", []byte("1"), mqtt.AtLeastOnce)
		wantErr(t, p.client.Publish(endingIn(t, time.Second), "t", []byte("2"), mqtt.AtLeastOnce), context.DeadlineExceeded, true)
		third := p.client.PublishAsync(t.Context(), "t", []byte("3"), mqtt.AtLeastOnce)
		p.Expect(toT(1, 1, "1"))
		p.Send(&codec.Puback{PacketID: 1})
		noErr(t, first.Wait(t.Context()))
		p.Expect(toT(1, 2, "3"))
		p.Send(&codec.Puback{PacketID: 2})
		noErr(t, third.Wait(t.Context()))
	})
}

// A ctx that has ended before the call has ended before the message was sent.
func TestPublishWithEndedContext(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			wantErr(t, p.client.Publish(ctx, "t", nil, qos), context.Canceled, true)
			wantErr(t, p.client.PublishAsync(ctx, "t", nil, qos).Err(), context.Canceled, true)
		}
		p.ExpectSilence(time.Second)
	})
}

// A message whose ctx ends after it was sent stays in flight. The payload and the properties are the
// caller's again.
func TestPublishOutcomeUnknown(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		for i, qos := range []mqtt.QoS{mqtt.AtLeastOnce, mqtt.ExactlyOnce} {
			id := uint16(i + 1)
			payload := []byte("payload")
			err := p.client.Publish(endingIn(t, time.Second), "t", payload, qos)
			wantErr(t, err, context.DeadlineExceeded, false)
			wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
			copy(payload, "changed")
			p.Expect(toT(byte(qos), id, "payload"))
			if p.client.Stats().InFlight != 1 {
				t.Error("the message is not in flight")
			}
			if qos == mqtt.AtLeastOnce {
				p.Send(&codec.Puback{PacketID: id})
			} else {
				p.Send(&codec.Pubrec{PacketID: id})
				p.Expect(&codec.Pubrel{PacketID: id})
				p.Send(&codec.Pubcomp{PacketID: id})
			}
			synctest.Wait()
			if s := p.client.Stats(); s.InFlight != 0 || s.Published != uint64(i+1) {
				t.Errorf("stats %+v", s)
			}
		}
		// The next message takes over nothing from those that were given up.
		next := calling(func() error { return p.client.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce) })
		p.Expect(toT(1, 3, ""))
		stillWaits(t, next)
		p.Send(&codec.Puback{PacketID: 3})
		noErr(t, outcome(t, next))
	})
}

// What waits when the connection is lost learns why, and whether it was sent.
func TestPublishConnectionLost(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(2), mqtt.WithQueue(1, 1000))
		ctx := t.Context()
		sent := calling(func() error { return p.client.Publish(ctx, "t", nil, mqtt.AtLeastOnce) })
		synctest.Wait()
		released := p.client.PublishAsync(ctx, "t", nil, mqtt.ExactlyOnce)
		queued := p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		waits := calling(func() error { return p.client.Publish(ctx, "t", nil, mqtt.AtLeastOnce) })
		p.Send(&codec.Pubrec{PacketID: 2})
		synctest.Wait()
		p.Cut()
		wantErr(t, outcome(t, sent), mqtt.ErrOutcomeUnknown, false)
		wantErr(t, released.Wait(ctx), mqtt.ErrOutcomeUnknown, false)
		wantErr(t, queued.Wait(ctx), mqtt.ErrConnectionLost, true)
		wantErr(t, outcome(t, waits), mqtt.ErrConnectionLost, true)
		wantErr(t, p.ends(time.Second), mqtt.ErrConnectionLost, false)
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			wantErr(t, p.client.Publish(ctx, "t", nil, qos), mqtt.ErrConnectionLost, true)
			wantErr(t, p.client.PublishAsync(ctx, "t", nil, qos).Err(), mqtt.ErrConnectionLost, true)
		}
	})
}

// A large payload arrives whole, however the network cuts it.
func TestPublishLargePayload(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		payload := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
		published := calling(func() error { return p.client.Publish(t.Context(), "t", payload, mqtt.AtLeastOnce) })
		m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if !bytes.Equal(m.Payload, payload) {
			t.Error("the payload has changed")
		}
		p.Send(&codec.Puback{PacketID: 1})
		noErr(t, outcome(t, published))
	})
}

// A program's tests run one after another, each in a bubble of its own.
func TestPublishInSeveralBubbles(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			c := reconnectingV5(t, mqtttest.NewBroker(t).DialContext)
			if err := c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce); err != nil {
				t.Error(err)
			}
		})
	}
}
