package mqtt_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Every property arrives, user properties in order.
func TestPublishProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		props := mqtt.PublishProperties{
			UTF8Payload: true, MessageExpiry: 90 * time.Second, ContentType: "text/plain", ResponseTopic: "re",
			CorrelationData: []byte{}, UserProperties: mqtt.UserProperties{{Key: "b"}, {Key: "a", Value: "1"}, {Key: "b"}},
		}
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			p.v5.PublishAsync(t.Context(), "t", []byte("x"), qos, &props)
			want := toT(byte(qos), uint16(qos), "x")
			want.Properties = codec.PublishProperties(props)
			p.Expect(want)
		}
		noErr(t, p.v5.Publish(t.Context(), "t", nil, (*mqtt.PublishProperties)(nil)))
		p.Expect(toT(0, 0, ""))
	})
}

// The struct of properties may be filled anew once PublishAsync has returned.
func TestPublishAsyncPropertiesReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil, mqtt.WithMaxInFlight(1))
		var props mqtt.PublishProperties
		for _, kind := range []string{"one", "two", "three"} {
			props = mqtt.PublishProperties{ContentType: kind, CorrelationData: []byte(kind)}
			noErr(t, p.v5.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce, &props).Err())
		}
		props = mqtt.PublishProperties{}
		for i, kind := range []string{"one", "two", "three"} {
			want := toT(1, uint16(i+1), "")
			want.Properties = codec.PublishProperties{ContentType: kind, CorrelationData: []byte(kind)}
			p.Expect(want)
			p.Send(&codec.Puback{PacketID: uint16(i + 1)})
		}
	})
}

// Several structs of properties in one call are merged field by field, and none of them changes.
func TestPropertiesAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		first := mqtt.PublishProperties{ContentType: "text/plain", ResponseTopic: "first", UserProperties: mqtt.UserProperties{{Key: "a", Value: "1"}}}
		second := mqtt.PublishProperties{ResponseTopic: "second", UTF8Payload: true, UserProperties: mqtt.UserProperties{{Key: "b", Value: "2"}}}
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.PublishOptionsV5{&first, nil, mqtt.AtLeastOnce}, &second, (*mqtt.PublishProperties)(nil)))
		got := b.Received("t")
		if len(got) != 1 || got[0].QoS != 1 {
			t.Fatalf("%+v", got)
		}
		p := got[0].Properties
		if p.ContentType != "text/plain" || p.ResponseTopic != "second" || !p.UTF8Payload || fmt.Sprint(p.UserProperties) != "[{a 1} {b 2}]" {
			t.Errorf("%+v", p)
		}
		if len(first.UserProperties) != 1 || first.ResponseTopic != "first" || len(second.UserProperties) != 1 {
			t.Errorf("the caller's structs are %+v and %+v", first, second)
		}
		p.UserProperties.Add("a", "3")
		if all := p.UserProperties.All("a"); fmt.Sprint(all) != "[1 3]" {
			t.Errorf("All returns %v", all)
		}
		p.UserProperties.Set("a", "4")
		if fmt.Sprint(p.UserProperties) != "[{b 2} {a 4}]" {
			t.Errorf("after Set: %v", p.UserProperties)
		}
	})
}

// A later default wins over an earlier one, and what a publish says itself over both, QoS 0 and NoRetain too.
func TestTopicDefaults(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil,
			mqtt.WithTopicDefaults("a/#", mqtt.AtLeastOnce, mqtt.Retain),
			mqtt.WithTopicDefaults("a/b/+", mqtt.ExactlyOnce),
			mqtt.WithTopicDefaults("a/b/c", mqtt.PublishOptions{mqtt.NoRetain}))
		id := uint16(0)
		for _, c := range []struct {
			topic  string
			opts   []mqtt.PublishOption
			qos    byte
			retain bool
		}{
			{topic: "other"},
			{topic: "a/x", qos: 1, retain: true},
			{topic: "a/b/x", qos: 2, retain: true},
			{topic: "a/b/c", qos: 2},
			{topic: "a/x", opts: []mqtt.PublishOption{mqtt.AtMostOnce}, retain: true},
			{topic: "a/x", opts: []mqtt.PublishOption{mqtt.NoRetain}, qos: 1},
			{topic: "a/x", opts: []mqtt.PublishOption{mqtt.PublishOptions{mqtt.AtMostOnce, mqtt.NoRetain}}},
			{topic: "a/b/c", opts: []mqtt.PublishOption{mqtt.AtLeastOnce, mqtt.Retain}, qos: 1, retain: true},
			{topic: "other", opts: []mqtt.PublishOption{mqtt.AtLeastOnce, mqtt.AtMostOnce}},
		} {
			p.client.PublishAsync(t.Context(), c.topic, nil, c.opts...)
			want := &codec.Publish{Topic: c.topic, QoS: c.qos, Retain: c.retain}
			if c.qos > 0 {
				id++
				want.PacketID = id
			}
			p.Expect(want)
		}
	})
}
