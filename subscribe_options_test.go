package mqtt_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// What no packet can say is an error before anything is sent.
// [MQTT-3.8.2.1.2] [MQTT-3.8.3-1] [MQTT-3.8.3-5] [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
func TestSubscribeOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		for _, test := range []struct {
			filter string
			opts   []mqtt.SubscribeOptionV5
			topic  bool // the error is a *TopicError
		}{
			{"", nil, true},
			{"a#", nil, true},
			{"a/#/b", nil, true},
			{"+a", nil, true},
			{"a\x00", nil, true},
			{"\xff", nil, true},
			{strings.Repeat("x", 65_536), nil, true},
			{"$share//a", nil, true},
			{"$share/g", nil, true},
			{"$share/g/", nil, true},
			{"$share/+/a", nil, true},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "b", "c+")}, true},
			{"a", []mqtt.SubscribeOptionV5{mqtt.QoS(3)}, false}, // [MQTT-3.8.3-5]
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(3, "b")}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "a")}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "b", "b")}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Buffer(0)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Buffer(-1)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.AckMode(2)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.Overflow(3)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.SubscribeFlag(8)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.RetainHandling(3)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.SubscriptionIdentifier(0)}, false},
			{"a", []mqtt.SubscribeOptionV5{mqtt.SubscriptionIdentifier(268_435_456)}, false},
			{"$share/g/a", []mqtt.SubscribeOptionV5{mqtt.NoLocal}, false}, // [MQTT-3.8.3-4]
			{"a", []mqtt.SubscribeOptionV5{mqtt.Also(0, "$share/g/a"), mqtt.NoLocal}, false},
			{"a", []mqtt.SubscribeOptionV5{&mqtt.SubscribeProperties{UserProperties: mqtt.UserProperties{{Key: "\xff"}}}}, false},
		} {
			sub, err := c.Subscribe(t.Context(), test.filter, test.opts...)
			var topicError *mqtt.TopicError
			if sub != nil || err == nil || errors.As(err, &topicError) != test.topic {
				t.Errorf("%.20q %v: %v, %v", test.filter, test.opts, sub, err)
			}
		}
		s.ExpectSilence(time.Second)
	})
}

// The options are in the packet as they were given [MQTT-3.8.3-3], and SubscribeOptions is one of them.
// [MQTT-3.8.2.1.2] [MQTT-3.8.3-5]
func TestSubscribePacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		var none *mqtt.SubscribeProperties
		start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(t.Context(), "a/+", mqtt.SubscribeOptions{mqtt.AtLeastOnce, mqtt.Buffer(5)}, mqtt.NoLocal, mqtt.RetainAsPublished,
				mqtt.SendRetainedIfNew, mqtt.SubscriptionIdentifier(77), none,
				&mqtt.SubscribeProperties{UserProperties: mqtt.UserProperties{{Key: "n", Value: "1"}, {Key: "n", Value: "2"}}})
		})
		s.Expect(&codec.Subscribe{
			PacketID: 1, SubscriptionIdentifier: 77, UserProperties: codec.UserProperties{{Key: "n", Value: "1"}, {Key: "n", Value: "2"}},
			Filters: []codec.SubscribeFilter{{Filter: "a/+", QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 1}},
		})
		s.Send(&codec.Suback{PacketID: 1, Codes: []codec.ReasonCode{1}})
	})
}

// SendRetainedIfNew and SkipRetained say what they do, also to a filter that overlaps one that is not new.
// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
func TestSubscribeRetainHandling(t *testing.T) {
	for _, merge := range []bool{false, true} {
		t.Run(fmt.Sprint("merge ", merge), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opts []mqtttest.Option
				if merge {
					opts = append(opts, mqtttest.MergeOverlapping())
				}
				b := mqtttest.NewBroker(t, opts...)
				b.Publish(retained("a/b", "old", 1))
				c := dialV5(t, b.DialContext)
				wantArrived(t, subscribeV5(t, c, "a/b", mqtt.AtLeastOnce, mqtt.SkipRetained))
				wantArrived(t, subscribeV5(t, c, "a/b", mqtt.AtLeastOnce, mqtt.SendRetainedIfNew))
				wantArrived(t, subscribeV5(t, c, "a/+", mqtt.AtLeastOnce, mqtt.SendRetainedIfNew), "a/b=old q1 retain")
				both := subscribeV5(t, c, "a/#", mqtt.AtMostOnce, mqtt.Also(mqtt.AtLeastOnce, "a/b"), mqtt.SendRetainedIfNew)
				wantArrived(t, both, "a/b=old q0 retain")
				b.Publish(text("a/b", "new", 1))
				wantArrived(t, both, "a/b=new q1")
			})
		})
	}
}

// With Retain As Published the RETAIN flag says nothing about why a message came: every holder gets it.
// [MQTT-3.3.1-13]
func TestSubscribeRetainAsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		first := subscribeV5(t, c, "a", mqtt.RetainAsPublished)
		second := subscribeV5(t, c, "a", mqtt.RetainAsPublished)
		b.Publish(retained("a", "x", 0))
		wantArrived(t, first, "a=x q0 retain")
		wantArrived(t, second, "a=x q0 retain")
	})
}
