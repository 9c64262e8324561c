//go:build !race

// The race detector takes its own share of 256 MiB, and seconds for all packet identifiers.

package mqtt_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Identifiers go round, never lowest first, and skip 0 and those in use [MQTT-2.2.1-3]. With 64,511 messages
// in flight a SUBSCRIBE still finds one.
// [MQTT311-2.3.1-1] [MQTT311-2.3.1-2]
func TestPacketIdentifiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V311, nil, mqtt.WithMaxInFlight(64_511), mqtt.WithQueue(10, 1000), mqtt.WithPingTimeout(time.Hour))
		ctx := t.Context()
		packet := func(id uint16) []byte { return []byte{0x32, 5, 0, 1, 't', byte(id >> 8), byte(id)} }
		var want []byte
		for id := range 64_511 {
			want = append(want, packet(uint16(id+1))...)
		}
		for range 64_511 {
			p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		}
		p.ExpectBytes(want...)
		var last *mqtt.Delivery
		for range 3 {
			last = p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		}
		subscribed := calling(func() error { _, err := p.client.Subscribe(ctx, "s"); return err })
		sub := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		if sub.PacketID != 64_512 {
			t.Errorf("SUBSCRIBE has identifier %d", sub.PacketID)
		}
		p.Send(&codec.Suback{PacketID: sub.PacketID, Codes: []codec.ReasonCode{0}})
		noErr(t, outcome(t, subscribed))
		p.ExpectSilence(time.Second)

		// Number 1 is free first, and taken last.
		p.Send(&codec.Puback{PacketID: 1})
		p.ExpectBytes(packet(64_513)...)
		var acks []byte
		for id := 63_000; id < 64_511; id++ {
			acks = append(acks, 0x40, 2, byte(id>>8), byte(id))
		}
		p.SendBytes(acks...)
		p.ExpectBytes(packet(64_514)...)
		p.ExpectBytes(packet(64_515)...)
		for id := 64_516; id <= 65_535; id++ {
			p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
			p.ExpectBytes(packet(uint16(id))...)
		}
		p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		p.ExpectBytes(packet(1)...)
		p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce) // 2 to 62,999 are in use
		p.ExpectBytes(packet(63_000)...)
		p.Send(&codec.Puback{PacketID: 64_515})
		noErr(t, last.Wait(ctx))
	})
}

// A packet has at most 268,435,455 bytes behind its fixed header.
func TestPublishTooLarge(t *testing.T) {
	payload := make([]byte, codec.MaxRemainingLength) // which nobody touches
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			if err := p.client.Publish(endingIn(t, time.Second), "t", payload, qos); !mqtt.SafeToRetry(err) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v: error %v", qos, err)
			}
		}
		p.ExpectSilence(time.Second)
	})
}

// The largest packet there can be is sent, and says its topic: a topic alias would make it larger.
func TestPublishLargest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, &codec.Connack{Properties: codec.ConnackProperties{TopicAliasMaximum: 1}})
		const beside = 2 + len("topic") + 2 + 1 // the topic and its length, the packet identifier, no properties
		d := p.client.PublishAsync(t.Context(), "topic", make([]byte, codec.MaxRemainingLength-beside), mqtt.AtLeastOnce)
		noErr(t, d.Err())
		p.ExpectBytes(0x32, 0xFF, 0xFF, 0xFF, 0x7F, 0, 5, 't', 'o', 'p', 'i', 'c')
	})
}
