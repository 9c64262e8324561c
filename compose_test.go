package mqtt_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// [MQTT-3.2.2-11] [MQTT-3.2.2-14] [MQTT-3.2.2-15]: what the server has announced is checked before anything is sent.
func TestPublishServerLimits(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit codec.ConnackProperties
		send  func(c mqtt.ClientV5, ctx context.Context) *mqtt.Delivery
		code  mqtt.ReasonCode // Success: it goes out
	}{
		{"QoS 1 with maximum 0", codec.ConnackProperties{MaximumQoS: ptr(byte(0))}, qosPublish(1), mqtt.QoSNotSupported},
		{"QoS 2 with maximum 0", codec.ConnackProperties{MaximumQoS: ptr(byte(0))}, qosPublish(2), mqtt.QoSNotSupported},
		{"QoS 0 with maximum 0", codec.ConnackProperties{MaximumQoS: ptr(byte(0))}, qosPublish(0), mqtt.Success},
		{"QoS 2 with maximum 1", codec.ConnackProperties{MaximumQoS: ptr(byte(1))}, qosPublish(2), mqtt.QoSNotSupported},
		{"QoS 1 with maximum 1", codec.ConnackProperties{MaximumQoS: ptr(byte(1))}, qosPublish(1), mqtt.Success},
		{"retain", codec.ConnackProperties{RetainAvailable: ptr(false)}, qosPublish(0, mqtt.Retain), mqtt.RetainNotSupported},
		{"retain at QoS 1", codec.ConnackProperties{RetainAvailable: ptr(false)}, qosPublish(1, mqtt.Retain), mqtt.RetainNotSupported},
		{"retain, available", codec.ConnackProperties{RetainAvailable: ptr(true)}, qosPublish(1, mqtt.Retain), mqtt.Success},
		{"no retain", codec.ConnackProperties{RetainAvailable: ptr(false)}, qosPublish(1, mqtt.NoRetain), mqtt.Success},
		// A PUBLISH to "t" at QoS 0 takes 6 bytes, at QoS 1 and 2 two more; a Content Type "x" four.
		{"size, QoS 0", sizeLimit(6 + 100), sized(0, 100, nil), mqtt.Success},
		{"size + 1, QoS 0", sizeLimit(6 + 100), sized(0, 101, nil), mqtt.PacketTooLarge},
		{"size, QoS 2", sizeLimit(8 + 100), sized(2, 100, nil), mqtt.Success},
		{"size + 1, QoS 2", sizeLimit(8 + 100), sized(2, 101, nil), mqtt.PacketTooLarge},
		{"size, two length bytes", sizeLimit(9 + 200), sized(1, 200, nil), mqtt.Success},
		{"size + 1, two length bytes", sizeLimit(9 + 200), sized(1, 201, nil), mqtt.PacketTooLarge},
		{"size, properties", sizeLimit(12 + 50), sized(1, 50, &mqtt.PublishProperties{ContentType: "x"}), mqtt.Success},
		{"size + 1, properties", sizeLimit(12 + 50), sized(1, 51, &mqtt.PublishProperties{ContentType: "x"}), mqtt.PacketTooLarge},
		{"no limit, in words", sizeLimit(math.MaxUint32), qosPublish(1), mqtt.Success}, // more than an int of 32 bits holds
		{"size, expiry", sizeLimit(13 + 50), sized(1, 50, &mqtt.PublishProperties{MessageExpiry: time.Hour}), mqtt.Success},
		{"size + 1, expiry", sizeLimit(13 + 50), sized(1, 51, &mqtt.PublishProperties{MessageExpiry: time.Hour}), mqtt.PacketTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPeer(t, codec.V5, &codec.Connack{Properties: c.limit})
				d := c.send(p.v5, t.Context())
				if c.code == mqtt.Success {
					m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
					if most := c.limit.MaximumPacketSize; most != 0 && most != math.MaxUint32 && m.Size(codec.V5) != int(most) {
						t.Errorf("%d bytes were sent, where %d were to be tried", m.Size(codec.V5), most)
					}
					return
				}
				wantErr(t, d.Err(), c.code, true)
				var refused *mqtt.PublishError
				if !errors.As(d.Err(), &refused) || !refused.Local || refused.Topic != "t" {
					t.Errorf("error %+v", d.Err())
				}
				p.ExpectSilence(time.Second)
			})
		})
	}
}

func qosPublish(qos mqtt.QoS, opts ...mqtt.PublishOptionV5) func(mqtt.ClientV5, context.Context) *mqtt.Delivery {
	return func(c mqtt.ClientV5, ctx context.Context) *mqtt.Delivery {
		return c.PublishAsync(ctx, "t", nil, append(opts, qos)...)
	}
}

func sized(qos mqtt.QoS, payload int, props *mqtt.PublishProperties) func(mqtt.ClientV5, context.Context) *mqtt.Delivery {
	return func(c mqtt.ClientV5, ctx context.Context) *mqtt.Delivery {
		return c.PublishAsync(ctx, "t", make([]byte, payload), qos, props)
	}
}

// What the specification forbids is an error before anything is sent, at any QoS.
// [MQTT-3.3.2-1] [MQTT-3.3.2.1] [MQTT-4.7.0-1] [MQTT311-1.5.3-1] [MQTT311-1.5.3-2] [MQTT311-3.3.1-4]
// [MQTT311-3.3.2-1] [MQTT311-3.3.2-2] [MQTT311-4.7.1-1] [MQTT311-4.7.3-1] [MQTT311-4.7.3-2] [MQTT311-4.7.3-3]
func TestPublishInvalid(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		ctx := t.Context()
		for name, topic := range map[string]string{
			"empty [MQTT-4.7.3-1]":         "",
			"+ [MQTT-3.3.2-2]":             "a/+",
			"# [MQTT-3.3.2-2]":             "a/#",
			"U+0000 [MQTT-4.7.3-2]":        "a\x00b",
			"not UTF-8 [MQTT-1.5.4-1]":     "a\xff",
			"surrogate [MQTT-1.5.4-1]":     "\xed\xa0\x80",
			"65,536 bytes [MQTT-4.7.3-3]":  strings.Repeat("x", 65_536),
			"overlong UTF-8 [1.5.4]":       "\xc0\xaf",
			"wildcard in a level [4.7.1]":  "a+b",
			"wildcard at the start, alone": "#",
		} {
			for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
				for _, err := range []error{
					p.client.Publish(ctx, topic, nil, qos), p.client.PublishAsync(ctx, topic, nil, qos).Err(),
				} {
					var invalid *mqtt.TopicError
					if !errors.As(err, &invalid) || invalid.Filter || invalid.Topic != topic || invalid.Rule == "" || !mqtt.SafeToRetry(err) {
						t.Errorf("%s: error %v", name, err)
					}
				}
			}
		}
		for _, qos := range []mqtt.QoS{3, 255} { // [MQTT-3.3.1-4]
			if err := p.client.Publish(ctx, "t", nil, qos); !mqtt.SafeToRetry(err) {
				t.Errorf("%v: error %v", qos, err)
			}
		}
		p.ExpectSilence(time.Second)
		long := strings.Repeat("x", 65_535)
		noErr(t, p.client.Publish(ctx, long, nil))
		p.Expect(&codec.Publish{Topic: long})
	})
}

// [MQTT-1.5.6] [MQTT-1.5.7-1] [MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19]
func TestPublishInvalidProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		long := strings.Repeat("x", 65_536)
		for name, props := range map[string]*mqtt.PublishProperties{
			"content type with U+0000":                {ContentType: "a\x00"},
			"content type, not UTF-8 [3.3.2-19]":      {ContentType: "\xff"},
			"content type too long":                   {ContentType: long},
			"response topic, not UTF-8 [3.3.2-13]":    {ResponseTopic: "\xff"},
			"response topic with wildcard [3.3.2-14]": {ResponseTopic: "a/#"},
			"response topic too long":                 {ResponseTopic: long},
			"correlation data too long":               {CorrelationData: []byte(long)},
			"user property's key [1.5.7-1]":           {UserProperties: mqtt.UserProperties{{Key: "\xff"}}},
			"user property's value [1.5.7-1]":         {UserProperties: mqtt.UserProperties{{Value: "\x00"}}},
			"user property too long":                  {UserProperties: mqtt.UserProperties{{Value: long}}},
			"expiry too long":                         {MessageExpiry: (math.MaxUint32 + 1) * time.Second},
			"expiry much too long":                    {MessageExpiry: math.MaxInt64},
		} {
			for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
				if err := p.v5.Publish(endingIn(t, time.Second), "t", nil, qos, props); !mqtt.SafeToRetry(err) || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s at %v: error %v", name, qos, err)
				}
			}
		}
		p.ExpectSilence(time.Second)
	})
}
