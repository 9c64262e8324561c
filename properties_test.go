package mqtt_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

var someProperties = codec.UserProperties{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {Key: "a", Value: "1"}}

// What acknowledgements of messages say beside their reason code is there for the publisher.
func TestDeliveryWords(t *testing.T) {
	for name, answer := range map[string][]codec.Packet{
		"PUBACK":  {&codec.Puback{PacketID: 1, Code: codec.NoMatchingSubscribers, ReasonString: "why", UserProperties: someProperties}},
		"PUBREC":  {&codec.Pubrec{PacketID: 1, Code: codec.QuotaExceeded, ReasonString: "why", UserProperties: someProperties}},
		"PUBCOMP": {&codec.Pubrec{PacketID: 1}, &codec.Pubcomp{PacketID: 1, ReasonString: "why", UserProperties: someProperties}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := scriptedV5(t, codec.ConnackProperties{})
				qos := mqtt.ExactlyOnce
				if name == "PUBACK" {
					qos = mqtt.AtLeastOnce
				}
				d := c.PublishAsync(t.Context(), "t", nil, qos)
				if d.ReasonString() != "" || d.UserProperties() != nil {
					t.Error("says something before the acknowledgement")
				}
				s.Send(answer...)
				err := d.Wait(t.Context())
				if (err != nil) != d.Reason().Failed() {
					t.Errorf("%v with %v", err, d.Reason())
				}
				if d.ReasonString() != "why" || !slices.Equal(d.UserProperties(), someProperties) {
					t.Errorf("says %q, %v", d.ReasonString(), d.UserProperties())
				}
			})
		})
	}
}

// What SUBACK says is there for the subscriber, whether it grants or refuses.
func TestSubscriptionWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		r, p := subscribing(t, mqtt.Common(c), s, "t")
		s.Send(&codec.Suback{PacketID: p.PacketID, Codes: []codec.ReasonCode{0}, ReasonString: "why", UserProperties: someProperties})
		if sub := r.value(t); sub.ReasonString() != "why" || !slices.Equal(sub.UserProperties(), someProperties) {
			t.Errorf("says %q, %v", sub.ReasonString(), sub.UserProperties())
		}
		r, p = subscribing(t, mqtt.Common(c), s, "u")
		s.Send(&codec.Suback{
			PacketID: p.PacketID, Codes: []codec.ReasonCode{codec.NotAuthorized}, ReasonString: "why", UserProperties: someProperties,
		})
		var refused *mqtt.SubscribeError
		if err := r.wait(); !errors.As(err, &refused) || refused.Failures[0].Reason != "why" || !slices.Equal(refused.UserProperties, someProperties) {
			t.Errorf("refused with %+v", refused)
		}
	})
}

// The UNSUBSCRIBE that ends a subscription has the user properties that were asked for, where they fit [MQTT-3.1.2-24].
func TestUnsubscribeProperties(t *testing.T) {
	for _, c := range []struct {
		largest uint32
		want    codec.UserProperties
	}{{0, someProperties}, {20, nil}} {
		synctest.Test(t, func(t *testing.T) {
			client, s := scriptedV5(t, codec.ConnackProperties{MaximumPacketSize: c.largest})
			r := start(func() (*mqtt.Subscription, error) {
				return client.Subscribe(t.Context(), "t", &mqtt.UnsubscribeProperties{UserProperties: someProperties})
			})
			s.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](s)))
			sub := r.value(t)
			left := startErr(func() error { return sub.Unsubscribe(t.Context()) })
			p := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
			if !slices.Equal(p.UserProperties, c.want) {
				t.Errorf("UNSUBSCRIBE with %v, want %v", p.UserProperties, c.want)
			}
			s.Send(&codec.Unsuback{PacketID: p.PacketID, Codes: []codec.ReasonCode{0}})
			noErr(t, left.wait())
		})
	}
	synctest.Test(t, func(t *testing.T) {
		client, _ := scriptedV5(t, codec.ConnackProperties{})
		bad := &mqtt.UnsubscribeProperties{UserProperties: codec.UserProperties{{Key: "\x00"}}}
		if _, err := client.Subscribe(t.Context(), "t", bad); err == nil {
			t.Error("a NUL is taken")
		}
	})
}

// A refusal says what it may: reason string and user properties, where they fit the server [MQTT-3.4.2-2] [MQTT-3.4.2-3]
// [MQTT-3.5.2-2] [MQTT-3.5.2-3], also where it goes out on another connection than that on which it was decided.
func TestRejectWords(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, codec.V5)
			sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.QoS(qos), mqtt.ManualAck)
			message := &codec.Publish{Topic: "t", QoS: qos, PacketID: 1}
			want := func(reason string, user codec.UserProperties) {
				t.Helper()
				if qos == 1 {
					p.Expect(&codec.Puback{PacketID: message.PacketID, Code: codec.QuotaExceeded, ReasonString: reason, UserProperties: user})
				} else {
					p.Expect(&codec.Pubrec{PacketID: message.PacketID, Code: codec.QuotaExceeded, ReasonString: reason, UserProperties: user})
				}
			}
			p.Send(message)
			noErr(t, (<-sub.Messages()).Reject(mqtt.QuotaExceeded, "why", someProperties...))
			want("why", someProperties)
			message.PacketID = 2
			p.Send(message)
			m := <-sub.Messages()
			p.offline()
			noErr(t, m.Reject(mqtt.QuotaExceeded, strings.Repeat("why", 10), someProperties...))
			p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{MaximumPacketSize: 30}})
			p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
			message.Dup = true
			p.Send(message)
			want("", nil)
			p.ExpectSilence(time.Second)
		})
	}
}
