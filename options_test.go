package mqtt_test

import (
	"context"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Every option refuses what it cannot mean, before anything is dialled, and says its name.
// [MQTT-1.5.6] [MQTT-3.1.2.11] [MQTT-3.1.2.11.2] [MQTT-3.1.3.2] [MQTT311-1.5.3b] [MQTT311-3.1.2-14] [MQTT311-3.1.3-4]
// [MQTT311-3.1.3-7] [MQTT311-3.1.3-10] [MQTT311-3.1.3-11]
func TestOptionsAreChecked(t *testing.T) {
	long := strings.Repeat("x", 65_536)
	const connect = "CONNECT"
	type row struct {
		says string
		opts []mqtt.OptionV5
	}
	rows := []row{
		{"WithKeepAlive: -1s", []mqtt.OptionV5{mqtt.WithKeepAlive(-time.Second)}},
		{"WithKeepAlive: 1.5s", []mqtt.OptionV5{mqtt.WithKeepAlive(1500 * time.Millisecond)}},
		{"WithKeepAlive: 18h12m16s", []mqtt.OptionV5{mqtt.WithKeepAlive(65_536 * time.Second)}},
		{"WithKeepAlive", []mqtt.OptionV5{mqtt.Options{mqtt.WithClientID("a"), mqtt.Options{mqtt.WithKeepAlive(-1)}}}},
		{"WithPingTimeout: 0s", []mqtt.OptionV5{mqtt.WithPingTimeout(0)}},
		{"WithPingTimeout: -1ns", []mqtt.OptionV5{mqtt.WithPingTimeout(-1)}},
		{"WithConnectTimeout: 0s", []mqtt.OptionV5{mqtt.WithConnectTimeout(0)}},
		{"WithConnectTimeout: -1ns", []mqtt.OptionV5{mqtt.WithConnectTimeout(-1)}},
		{"WithMaxInFlight: 0", []mqtt.OptionV5{mqtt.WithMaxInFlight(0)}},
		{"WithMaxInFlight: 65520", []mqtt.OptionV5{mqtt.WithMaxInFlight(65_520)}},
		{"WithQueue", []mqtt.OptionV5{mqtt.WithQueue(-1, 0)}},
		{"WithQueue", []mqtt.OptionV5{mqtt.WithQueue(0, -1)}},
		{"WithMaximumPacketSize: 0", []mqtt.OptionV5{mqtt.WithMaximumPacketSize(0)}},
		{"WithMaximumPacketSize: 268435461", []mqtt.OptionV5{mqtt.WithMaximumPacketSize(268_435_461)}},
		{"WithInboundLimit: 0", []mqtt.OptionV5{mqtt.WithInboundLimit(0)}},
		{"WithParking", []mqtt.OptionV5{mqtt.WithParking(-1, 0)}},
		{"WithParking", []mqtt.OptionV5{mqtt.WithParking(0, -1)}},
		{"WithPoisonLimit: -1", []mqtt.OptionV5{mqtt.WithPoisonLimit(-1)}},
		{"WithPingLead: -1s", []mqtt.OptionV5{mqtt.WithPingLead(-time.Second)}},
		{"WithReconnect", []mqtt.OptionV5{mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: -1})}},
		{"WithReconnect", []mqtt.OptionV5{mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Millisecond})}},
		{"WithReconnect", []mqtt.OptionV5{mqtt.WithReconnect(mqtt.ReconnectPolicy{Factor: 0.5})}},
		{"WithReconnect", []mqtt.OptionV5{mqtt.WithReconnect(mqtt.ReconnectPolicy{Factor: math.NaN()})}},
		{"WithReconnect", []mqtt.OptionV5{mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxAttempts: -1})}},
		{"WithReconnect", []mqtt.OptionV5{mqtt.WithReconnect(mqtt.ReconnectPolicy{StableAfter: -1})}},
		{"WithLogger", []mqtt.OptionV5{mqtt.WithLogger(nil)}},
		{"WithDialer", []mqtt.OptionV5{mqtt.WithDialer(nil)}},
		{"WithWill: QoS 3", []mqtt.OptionV5{mqtt.WithWill("w", nil, mqtt.QoS(3))}}, // [MQTT-3.1.2-12]
		{`topic name "w/#"`, []mqtt.OptionV5{mqtt.WithWill("w/#", nil)}},
		{`topic name ""`, []mqtt.OptionV5{mqtt.WithWill("", nil)}}, // [MQTT-3.1.3-11]
		{`topic name "\xff"`, []mqtt.OptionV5{mqtt.WithWill("\xff", nil)}},
		{connect, []mqtt.OptionV5{mqtt.WithWill("w", []byte(long))}},
		{"WithTopicDefaults: QoS 3", []mqtt.OptionV5{mqtt.WithTopicDefaults("a", mqtt.QoS(3))}},
		{`topic filter "a#"`, []mqtt.OptionV5{mqtt.WithTopicDefaults("a#")}},
		{`topic filter ""`, []mqtt.OptionV5{mqtt.WithTopicDefaults("")}},
		{`WithFilterPrefixes: ""`, []mqtt.OptionV5{mqtt.WithFilterPrefixes("")}},
		{`WithFilterPrefixes: "/"`, []mqtt.OptionV5{mqtt.WithFilterPrefixes("/")}},
		{`WithFilterPrefixes: "x"`, []mqtt.OptionV5{mqtt.WithFilterPrefixes("a/", "x")}},
		{connect, []mqtt.OptionV5{mqtt.WithClientID("\xff")}}, // [MQTT-3.1.3-4]
		{connect, []mqtt.OptionV5{mqtt.WithClientID("a\x00")}},
		{connect, []mqtt.OptionV5{mqtt.WithClientID(long)}},
		{connect, []mqtt.OptionV5{mqtt.WithCredentials("\xff", "")}}, // [MQTT-3.1.3-12]
		{connect, []mqtt.OptionV5{mqtt.WithCredentials(long, "")}},
		{connect, []mqtt.OptionV5{mqtt.WithCredentials("u", long)}},
		{"WithSessionExpiry: -1s", []mqtt.OptionV5{mqtt.WithSessionExpiry(-time.Second)}},
		{"WithSessionExpiry: 1.5s", []mqtt.OptionV5{mqtt.WithSessionExpiry(1500 * time.Millisecond)}},
		{"WithSessionExpiry", []mqtt.OptionV5{mqtt.WithSessionExpiry(mqtt.SessionNeverExpires + time.Second)}},
		{"WithMaxRequests: 0", []mqtt.OptionV5{mqtt.WithMaxRequests(0)}},
		{"WithTopicAliasMaximum: -1", []mqtt.OptionV5{mqtt.WithTopicAliasMaximum(-1)}},
		{"WithTopicAliasMaximum: 65536", []mqtt.OptionV5{mqtt.WithTopicAliasMaximum(65_536)}},
		{"WithReceiveMaximum: 0", []mqtt.OptionV5{mqtt.WithReceiveMaximum(0)}},
		{"WithReceiveMaximum: 65536", []mqtt.OptionV5{mqtt.WithReceiveMaximum(65_536)}},
		{connect, []mqtt.OptionV5{mqtt.WithUserProperties(mqtt.UserProperty{Key: "\xff"})}},
		{connect, []mqtt.OptionV5{mqtt.WithUserProperties(mqtt.UserProperty{Value: long})}},
		{"WithWillProperties: there is no will", []mqtt.OptionV5{mqtt.WithWillProperties(&mqtt.WillProperties{ContentType: "c"})}},
	}
	for _, p := range []mqtt.WillProperties{
		{ContentType: "\xff"}, {ResponseTopic: "a/+"}, {ResponseTopic: "\x00"}, {CorrelationData: []byte(long)},
		{MessageExpiry: math.MaxInt64}, {UserProperties: mqtt.UserProperties{{Key: "\x00"}}},
	} {
		rows = append(rows, row{connect, []mqtt.OptionV5{mqtt.WithWill("w", nil), mqtt.WithWillProperties(&p)}})
	}
	for _, d := range []time.Duration{-time.Second, time.Millisecond, (math.MaxUint32 + 1) * time.Second} {
		p := &mqtt.WillProperties{WillDelay: d}
		rows = append(rows, row{"WillDelay", []mqtt.OptionV5{mqtt.WithWill("w", nil), mqtt.WithWillProperties(p)}})
	}
	dial := func(context.Context, string, string) (net.Conn, error) {
		t.Error("a client with wrong options dials")
		return nil, io.EOF
	}
	for i, r := range rows {
		_, err := mqtt.NewClient(t.Context(), "mqtt://test", append([]mqtt.OptionV5{mqtt.WithDialer(dial)}, r.opts...)...)
		if err == nil || !strings.Contains(err.Error(), r.says) || !strings.HasPrefix(err.Error(), "mqtt: ") {
			t.Errorf("row %d: error %.200v, want one about %s", i, err, r.says)
		}
		var both mqtt.Options
		for _, opt := range r.opts {
			if opt, ok := opt.(mqtt.Option); ok {
				both = append(both, opt)
			}
		}
		if len(both) < len(r.opts) {
			continue
		}
		_, err = mqtt.NewClientV311(t.Context(), "mqtt://test", mqtt.WithDialer(dial), both)
		if err == nil || !strings.Contains(err.Error(), r.says) || !strings.HasPrefix(err.Error(), "mqtt: ") {
			t.Errorf("row %d, MQTT 3.1.1: error %.200v, want one about %s", i, err, r.says)
		}
	}
	_, err := mqtt.NewClientV311(t.Context(), "mqtt://test", mqtt.WithDialer(dial), mqtt.WithClientID(""), mqtt.WithCleanStart(false))
	if err == nil || !strings.Contains(err.Error(), "client identifier") {
		t.Errorf("error %v", err)
	}
	for _, url := range []string{"", "http://test", "mqtt://", "mqtt://test:port", "mqtt://test/path", "mqtt://a b"} {
		if _, err := mqtt.NewClient(t.Context(), url, mqtt.WithDialer(dial)); err == nil || !strings.HasPrefix(err.Error(), "mqtt: ") {
			t.Errorf("URL %q: error %v", url, err)
		}
	}
}

// What options were given stays the application's: it may change it when the call has returned.
func TestOptionsAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		u := mqtt.UserProperties{{Key: "k", Value: "as given"}}
		payload := []byte("as given")
		will := &mqtt.WillProperties{ContentType: "as given", CorrelationData: []byte("as given"), UserProperties: u}
		connecting := start(func() (mqtt.ClientV5, error) {
			return reconnectingV5(t, server.DialContext, mqtt.WithUserProperties(u...), mqtt.WithWill("w", payload), mqtt.WithWillProperties(will)), nil
		})
		s := server.Accept()
		first := mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{})
		c := connecting.value(t)
		subscribing := start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(t.Context(), "t", &mqtt.SubscribeProperties{UserProperties: u}, &mqtt.UnsubscribeProperties{UserProperties: u})
		})
		subscribe := mqtttest.ReceiveAs[*codec.Subscribe](s)
		s.Send(granted(subscribe))
		sub := subscribing.value(t)
		u[0].Value, will.ContentType = "changed", "changed"
		copy(payload, "changed!")
		copy(will.CorrelationData, "changed!")
		s.Cut()
		s = server.Accept()
		if again := mqtttest.ReceiveAs[*codec.Connect](s); !cmp.Equal(again.Will, first.Will) ||
			!slices.Equal(again.Properties.UserProperties, first.Properties.UserProperties) {
			t.Errorf("the client connects with %+v, %+v", again.Will, again.Properties)
		}
		s.Send(&codec.Connack{SessionPresent: true})
		if again := mqtttest.ReceiveAs[*codec.Subscribe](s); !slices.Equal(again.UserProperties, subscribe.UserProperties) {
			t.Errorf("the client subscribes with %+v", again.UserProperties)
		}
		go sub.Unsubscribe(endingIn(t, time.Second))
		if end := mqtttest.ReceiveAs[*codec.Unsubscribe](s); !slices.Equal(end.UserProperties, subscribe.UserProperties) {
			t.Errorf("the client unsubscribes with %+v", end.UserProperties)
		}
	})
}

// A nil option is none, alone and in a slice, for every call that takes options.
func TestNilOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c, err := mqtt.NewClient(t.Context(), "mqtt://test", nil, mqtt.Options{nil, mqtt.WithDialer(b.DialContext)})
		noErr(t, err)
		defer c.Close()
		sub, err := c.Subscribe(t.Context(), "t", nil, mqtt.SubscribeOptions{nil, mqtt.AtLeastOnce}, (*mqtt.SubscribeProperties)(nil))
		noErr(t, err)
		noErr(t, c.Publish(t.Context(), "t", []byte("x"), nil, mqtt.PublishOptions{nil, mqtt.AtLeastOnce}, (*mqtt.PublishProperties)(nil)))
		wantArrived(t, sub, "t=x q1")
		noErr(t, c.Disconnect(t.Context(), nil, (*mqtt.DisconnectProperties)(nil)))
	})
}
