package mqtt_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// connectBytes is a CONNECT packet with this behind the fixed header.
func connectBytes(parts ...string) []byte {
	body := strings.Join(parts, "")
	return append([]byte{0x10, byte(len(body))}, body...)
}

// [MQTT-3.1.3-1] [MQTT-3.1.2-1] [MQTT-3.1.2-3] [MQTT-3.1.2-9] [MQTT-3.1.2-16] [MQTT-3.1.2-18]: each byte of CONNECT with
// everything set.
// [MQTT-3.1.0-1] [MQTT-3.1.0-2] [MQTT-3.1.2-2] [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-19] [MQTT-3.1.2.11]
// [MQTT-3.1.3-3] [MQTT-3.1.3.2] [MQTT-3.1.4] [MQTT311-3.1.0-1] [MQTT311-3.1.0-2] [MQTT311-3.1.2-1] [MQTT311-3.1.2-2]
// [MQTT311-3.1.2-3] [MQTT311-3.1.2-9] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] [MQTT311-3.1.2-15] [MQTT311-3.1.2-18]
// [MQTT311-3.1.2-19] [MQTT311-3.1.2-20] [MQTT311-3.1.2-21] [MQTT311-3.1.3-1] [MQTT311-3.1.3-3] [MQTT311-3.1.4]
func TestConnectBytes(t *testing.T) {
	common := mqtt.Options{
		mqtt.WithClientID("billing"), mqtt.WithKeepAlive(30 * time.Second), mqtt.WithCredentials("user", "p\x00\xff"),
		mqtt.WithWill("will/t", []byte("gone"), mqtt.ExactlyOnce, mqtt.Retain), mqtt.WithMaximumPacketSize(1000),
		mqtt.WithCleanStart(false),
	}
	v5 := []mqtt.OptionV5{
		common, mqtt.WithSessionExpiry(time.Hour), mqtt.WithReceiveMaximum(10), mqtt.WithTopicAliasMaximum(7),
		mqtt.WithoutProblemInformation(),
		mqtt.WithUserProperties(mqtt.UserProperty{Key: "a", Value: "1"}, mqtt.UserProperty{Key: "a", Value: "2"}),
		mqtt.WithWillProperties(&mqtt.WillProperties{
			WillDelay: 5 * time.Second, UTF8Payload: true, MessageExpiry: time.Minute, ContentType: "c", ResponseTopic: "r",
			CorrelationData: []byte{1, 2}, UserProperties: mqtt.UserProperties{{Key: "k", Value: "v"}},
		}),
	}
	for _, c := range []struct {
		name string
		v    codec.Version
		opts []mqtt.OptionV5
		want []byte
	}{
		{"everything", codec.V5, v5, connectBytes(
			"\x00\x04MQTT\x05", "\xf4", "\x00\x1e",
			"\x22", "\x11\x00\x00\x0e\x10", "\x21\x00\x0a", "\x27\x00\x00\x03\xe8", "\x22\x00\x07", "\x19\x01", "\x17\x00", "\x26\x00\x01a\x00\x011", "\x26\x00\x01a\x00\x012",
			"\x00\x07billing",
			"\x20", "\x18\x00\x00\x00\x05", "\x01\x01", "\x02\x00\x00\x00\x3c", "\x03\x00\x01c", "\x08\x00\x01r", "\x09\x00\x02\x01\x02",
			"\x26\x00\x01k\x00\x01v",
			"\x00\x06will/t", "\x00\x04gone", "\x00\x04user", "\x00\x03p\x00\xff")},
		{"everything", codec.V311, []mqtt.OptionV5{common}, connectBytes(
			"\x00\x04MQTT\x04", "\xf4", "\x00\x1e",
			"\x00\x07billing", "\x00\x06will/t", "\x00\x04gone", "\x00\x04user", "\x00\x03p\x00\xff")},
		{"defaults", codec.V5, []mqtt.OptionV5{mqtt.WithClientID("c")}, connectBytes(
			"\x00\x04MQTT\x05", "\x02", "\x00\x3c", "\x0f", "\x11\x00\x00\x01\x2c", "\x21\x04\x00", "\x27\x04\x00\x00\x00", "\x19\x01", "\x00\x01c")},
		{"defaults", codec.V311, []mqtt.OptionV5{mqtt.WithClientID("c")}, connectBytes(
			"\x00\x04MQTT\x04", "\x02", "\x00\x3c", "\x00\x01c")},
		{"nothing", codec.V5, []mqtt.OptionV5{mqtt.WithClientID(""), mqtt.WithKeepAlive(0), mqtt.WithSessionExpiry(0)}, connectBytes(
			"\x00\x04MQTT\x05", "\x02", "\x00\x00", "\x0a", "\x21\x04\x00", "\x27\x04\x00\x00\x00", "\x19\x01", "\x00\x00")},
		{"session that never expires", codec.V5, []mqtt.OptionV5{mqtt.WithClientID("c"), mqtt.WithSessionExpiry(mqtt.SessionNeverExpires)},
			connectBytes("\x00\x04MQTT\x05", "\x02", "\x00\x3c", "\x0f", "\x11\xff\xff\xff\xff", "\x21\x04\x00", "\x27\x04\x00\x00\x00", "\x19\x01", "\x00\x01c")},
		{"empty user name and password", codec.V311, []mqtt.OptionV5{mqtt.WithClientID("c"), mqtt.WithCredentials("", "")}, connectBytes(
			"\x00\x04MQTT\x04", "\xc2", "\x00\x3c", "\x00\x01c", "\x00\x00", "\x00\x00")},
		{"empty will", codec.V311, []mqtt.OptionV5{mqtt.WithClientID("c"), mqtt.WithWill("w", nil)}, connectBytes(
			"\x00\x04MQTT\x04", "\x06", "\x00\x3c", "\x00\x01c", "\x00\x01w", "\x00\x00")},
	} {
		t.Run(c.name+" "+c.v.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mqtttest.NewServer(t, c.v)
				result := calling(func() error {
					_, _, err := dialClient(t.Context(), c.v, server.DialContext, c.opts...)
					return err
				})
				s := server.Accept()
				s.ExpectBytes(c.want...)
				s.ExpectSilence(time.Second) // nothing before CONNACK
				s.Close()
				if outcome(t, result) == nil {
					t.Error("connected")
				}
			})
		})
	}
}

// Without WithClientID a client makes an identifier up, of its own.
func TestConnectMakesUpClientID(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		seen := map[string]bool{}
		broker := mqtttest.NewBroker(t)
		for range 3 {
			c, _, err := dialClient(t.Context(), v, broker.DialContext)
			noErr(t, err)
			defer c.Close()
			if id := c.ClientID(); len(id) < 20 || seen[id] {
				t.Errorf("client identifier %q", id)
			}
			seen[c.ClientID()] = true
		}
	})
}

// Credentials of the URL, and of WithCredentials and WithUsername, which replace them.
func TestConnectCredentials(t *testing.T) {
	for _, c := range []struct {
		url            string
		opts           []mqtt.OptionV5
		has, hasPw     bool
		user, password string
	}{
		{url: "mqtt://test"},
		{url: "mqtt://u@test", has: true, user: "u"},
		{url: "mqtt://u:p@test", has: true, user: "u", hasPw: true, password: "p"},
		{url: "mqtt://u%40x:p%2F%3A@test:7", has: true, user: "u@x", hasPw: true, password: "p/:"},
		{url: "mqtt://u:@test", has: true, user: "u", hasPw: true},
		{url: "mqtt://:p@test", has: true, hasPw: true, password: "p"},
		{url: "mqtt://u:p@test", opts: []mqtt.OptionV5{mqtt.WithCredentials("", "q")}, has: true, hasPw: true, password: "q"},
		{url: "mqtt://u:p@test", opts: []mqtt.OptionV5{mqtt.WithUsername("token")}, has: true, user: "token"},
	} {
		t.Run(c.url, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mqtttest.NewServer(t, codec.V5)
				result := calling(func() error {
					_, err := mqtt.NewClient(t.Context(), c.url, append(c.opts, mqtt.WithDialer(server.DialContext))...)
					return err
				})
				s := server.Accept()
				got := mqtttest.ReceiveAs[*codec.Connect](s)
				if got.HasUsername != c.has || got.HasPassword != c.hasPw || got.Username != c.user || string(got.Password) != c.password {
					t.Errorf("CONNECT %+v", got)
				}
				s.Send(&codec.Connack{Code: codec.BadUserNameOrPassword})
				err := outcome(t, result)
				wantErr(t, err, mqtt.BadUserNameOrPassword, false)
				if c.hasPw && len(c.password) > 1 && strings.Contains(err.Error(), c.password) {
					t.Errorf("the error tells the password: %v", err)
				}
			})
		})
	}
}

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

// Every refusal is a *ConnectError with the whole reason of the server, and ends the connection [MQTT-3.2.2-7].
// [MQTT-3.1.2-2] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.2.2.3.16] [MQTT311-3.1.2-2] [MQTT311-3.1.3-8]
// [MQTT311-3.2.2-5]
func TestConnectRefused(t *testing.T) {
	for _, code := range []codec.ReasonCode{
		0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
	} {
		refuse := &codec.Connack{Code: code, Properties: codec.ConnackProperties{
			ReasonString: "go away", ServerReference: "other:1883", UserProperties: codec.UserProperties{{Key: "k", Value: "v"}},
		}}
		refused := connectRefused(t, codec.V5, refuse, mqtt.ReasonCode(code))
		if refused.Reason != "go away" || refused.ServerReference != "other:1883" || len(refused.UserProperties) != 1 ||
			refused.Err != nil || refused.Server != "mqtt://***@test:1883" {
			t.Errorf("%v: %+v", code, refused)
		}
		if text := refused.Error(); !strings.Contains(text, "go away") || !strings.Contains(text, mqtt.ReasonCode(code).Error()) {
			t.Errorf("%v: the error says %q", code, text)
		}
	}
	for code, want := range []mqtt.ReasonCode{
		1: mqtt.UnsupportedProtocolVersion, 2: mqtt.ClientIdentifierNotValid, 3: mqtt.ServerUnavailable,
		4: mqtt.BadUserNameOrPassword, 5: mqtt.NotAuthorized,
	} {
		if code > 0 {
			connectRefused(t, codec.V311, &codec.Connack{Code: codec.FromReturnCode(byte(code))}, want)
		}
	}
}

func connectRefused(t *testing.T, v codec.Version, ack *codec.Connack, want mqtt.ReasonCode) (refused *mqtt.ConnectError) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, v)
		result := calling(func() (err error) {
			if v == codec.V5 {
				_, err = mqtt.NewClient(t.Context(), "mqtt://u:secret@test:1883", mqtt.WithDialer(server.DialContext), mqtt.WithoutRedirect())
			} else {
				_, err = mqtt.NewClientV311(t.Context(), "mqtt://u:secret@test:1883", mqtt.WithDialer(server.DialContext), mqtt.WithoutRedirect())
			}
			return err
		})
		s := server.Accept()
		s.Receive()
		s.Send(ack)
		s.ExpectEOF()
		err := outcome(t, result)
		if !errors.As(err, &refused) || !errors.Is(err, want) || refused.Code != want {
			t.Fatalf("error %+v, want %v", err, want)
		}
	})
	return refused
}

// DESIGN 4.6: one deadline bounds the whole attempt, however a server stalls; one that gives up is noticed at once.
func TestConnectStalls(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(s *mqtttest.Script)
		took time.Duration
		want error
	}{
		{"nothing", func(s *mqtttest.Script) {}, 7 * time.Second, context.DeadlineExceeded},
		{"half a CONNACK", func(s *mqtttest.Script) { s.SendBytes(0x20, 3, 0) }, 7 * time.Second, context.DeadlineExceeded},
		{"a header that promises 64 MiB", func(s *mqtttest.Script) { s.SendBytes(0x20, 0xfb, 0xff, 0xff, 0x1f, 0, 0) }, 7 * time.Second, context.DeadlineExceeded},
		{"a header that promises 1 byte more", func(s *mqtttest.Script) { s.SendBytes(0x20, 0xfc, 0xff, 0xff, 0x1f, 0, 0) }, 0, mqtt.PacketTooLarge},
		{"half-open", func(s *mqtttest.Script) { s.HalfOpen() }, 7 * time.Second, context.DeadlineExceeded},
		{"a byte a second", func(s *mqtttest.Script) {
			s.SendBytes(0x20, 0x7f)
			for range 6 {
				s.ExpectSilence(time.Second)
				s.SendBytes(0)
			}
		}, 7 * time.Second, context.DeadlineExceeded},
		{"close", func(s *mqtttest.Script) { s.Close() }, 0, nil},
		{"close in CONNACK", func(s *mqtttest.Script) { s.SendBytes(0x20, 3, 0); s.Close() }, 0, nil},
		{"cut", func(s *mqtttest.Script) { s.Cut() }, 0, syscall.ECONNRESET},
		{"cut in CONNACK", func(s *mqtttest.Script) { s.SendBytes(0x20); s.Cut() }, 0, syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				server := mqtttest.NewServer(t, v)
				start := time.Now()
				result := calling(func() error {
					_, _, err := dialClient(t.Context(), v, server.DialContext, mqtt.WithConnectTimeout(7*time.Second))
					return err
				})
				s := server.Accept()
				s.Receive()
				c.do(s)
				err := outcome(t, result)
				var failed *mqtt.ConnectError
				if !errors.As(err, &failed) || c.want != nil && !errors.Is(err, c.want) || failed.Err == nil {
					t.Errorf("error %v, want %v", err, c.want)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
			})
		})
	}
}

// ctx bounds each step of an attempt, and nothing after it.
func TestConnectContext(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		t.Log("while it dials")
		blocked := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		_, _, err := dialClient(endingIn(t, 2*time.Second), v, blocked)
		wantErr(t, err, context.DeadlineExceeded, false)
		_, _, err = dialClient(t.Context(), v, blocked, mqtt.WithConnectTimeout(3*time.Second))
		wantErr(t, err, context.DeadlineExceeded, false)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		_, _, err = dialClient(t.Context(), v, func(context.Context, string, string) (net.Conn, error) {
			return nil, syscall.ECONNREFUSED
		})
		wantErr(t, err, syscall.ECONNREFUSED, false)

		t.Log("while it waits for CONNACK")
		server := mqtttest.NewServer(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		result := calling(func() error { _, _, err := dialClient(ctx, v, server.DialContext); return err })
		s := server.Accept()
		s.Receive()
		stillWaits(t, result)
		cancel()
		err = outcome(t, result)
		wantErr(t, err, context.Canceled, false)
		var failed *mqtt.ConnectError
		if !errors.As(err, &failed) {
			t.Errorf("error %v", err)
		}
		s.ExpectEOF()

		t.Log("ended before")
		_, _, err = dialClient(ctx, v, mqtttest.NewServer(t, v).DialContext)
		wantErr(t, err, context.Canceled, false)

		t.Log("once it is connected")
		broker := mqtttest.NewBroker(t)
		ctx, cancel = context.WithCancel(t.Context())
		c, _, err := dialClient(ctx, v, broker.DialContext)
		noErr(t, err)
		cancel()
		time.Sleep(time.Hour)
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce))
		noErr(t, c.Close())
	})
}

// What CONNACK says holds, and what it does not say is as the specification has it.
// [MQTT-3.2.2-9] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.2.2.3.2]
func TestConnAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil, mqtt.WithClientID("me"))
		want := mqtt.ConnAck{
			ClientID: "me", KeepAlive: time.Minute, SessionExpiry: 5 * time.Minute, ReceiveMaximum: 65_535, MaximumQoS: mqtt.ExactlyOnce,
			RetainAvailable: true, WildcardSubscriptions: true, SubscriptionIdentifiers: true, SharedSubscriptions: true,
		}
		if diff := cmp.Diff(want, p.v5.ConnAck()); diff != "" {
			t.Error(diff)
		}
		p = startPeer(t, codec.V5, &codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{
			SessionExpiry: ptr(uint32(7)), ReceiveMaximum: 3, MaximumQoS: ptr(byte(1)), RetainAvailable: ptr(false), MaximumPacketSize: 999,
			AssignedClientID: "you", TopicAliasMaximum: 4, ReasonString: "hello", UserProperties: codec.UserProperties{{Key: "k"}, {Key: "k"}},
			WildcardSubscriptionAvailable: ptr(false), SubscriptionIdentifiersAvailable: ptr(false), SharedSubscriptionAvailable: ptr(false),
			ServerKeepAlive: ptr(uint16(9)), ResponseInformation: "ri", ServerReference: "sr",
		}}, mqtt.WithClientID(""), mqtt.WithCleanStart(false))
		want = mqtt.ConnAck{
			SessionPresent: true, ClientID: "you", KeepAlive: 9 * time.Second, SessionExpiry: 7 * time.Second, ReceiveMaximum: 3,
			MaximumQoS: mqtt.AtLeastOnce, MaximumPacketSize: 999, TopicAliasMaximum: 4, ResponseInformation: "ri", ServerReference: "sr",
			ReasonString: "hello", UserProperties: mqtt.UserProperties{{Key: "k"}, {Key: "k"}},
		}
		if diff := cmp.Diff(want, p.v5.ConnAck()); diff != "" {
			t.Error(diff)
		}
		if p.v5.ClientID() != "you" { // [MQTT-3.2.2-16]
			t.Errorf("client identifier %q", p.v5.ClientID())
		}
	})
}

// PROTOCOL 21: an application that asks for the old session is responsible for its state.
// [MQTT-3.2.2-3] [MQTT-3.2.2-4] [MQTT311-3.2.2-2] [MQTT311-3.2.2.2]
func TestConnectResumes(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, &codec.Connack{SessionPresent: true}, mqtt.WithCleanStart(false), mqtt.WithClientID("old"))
		if !p.client.SessionPresent() || p.client.State() != mqtt.StateConnected {
			t.Error(p.client.State(), p.client.SessionPresent())
		}
		noErr(t, p.client.Publish(t.Context(), "t", nil))
		p.Expect(toT(0, 0, ""))
	})
}

// CONNACK and what follows it may come in one piece.
func TestPacketsBehindConnack(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		server := mqtttest.NewServer(t, v)
		result := make(chan mqtt.Client, 1)
		go func() {
			c, _, err := dialClient(t.Context(), v, server.DialContext)
			if err != nil {
				t.Error(err)
			}
			result <- c
		}()
		s := server.Accept()
		s.Receive()
		s.Send(&codec.Connack{}, &codec.Publish{Topic: "t", QoS: 1, PacketID: 7}, &codec.Pingresp{})
		s.Expect(&codec.Puback{PacketID: 7})
		noErr(t, (<-result).Close())
	})
}

// conversation does a little of everything and returns what each step said; it ends with a Disconnect.
func conversation(t *testing.T, v codec.Version, dial dialFunc) []error {
	ctx := t.Context()
	c, _, err := dialClient(ctx, v, dial, mqtt.WithClientID("me"), mqtt.WithConnectTimeout(time.Second))
	if err != nil {
		return []error{err}
	}
	var errs []error
	step := func(err error) { errs = append(errs, err) }
	sub, err := c.Subscribe(ctx, "in/+", mqtt.ExactlyOnce)
	step(err)
	var publishing sync.WaitGroup
	var published [3]error
	for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
		publishing.Go(func() { published[qos] = c.Publish(ctx, "in/x", []byte("payload"), qos) })
		synctest.Wait()
	}
	if sub != nil {
		for range 3 {
			_, err := sub.Next(ctx)
			step(err)
		}
	}
	publishing.Wait()
	for _, err := range published {
		step(err)
	}
	_, err = c.Ping(ctx)
	step(err)
	if sub != nil {
		step(sub.Unsubscribe(ctx))
	}
	step(c.Disconnect(ctx))
	select {
	case <-c.Done():
	default:
		t.Error("the client has not ended")
	}
	if c.Err() == nil {
		t.Error("the client does not say why it has ended")
	}
	start := time.Now()
	noErr(t, c.Close())
	if took := time.Since(start); took > 0 {
		t.Errorf("Close takes %v after the end", took)
	}
	return errs
}

// cutStream is a connection on which the server's stream ends after so many bytes: with EOF, or with a reset that hits
// the client's writes too.
type cutStream struct {
	net.Conn
	left *atomic.Int64
	hard bool
}

func (c cutStream) Read(b []byte) (int, error) {
	left := c.left.Load()
	if left == 0 {
		if c.hard {
			c.Conn.Close()
			return 0, syscall.ECONNRESET
		}
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), left)])
	c.left.Add(int64(-n))
	return n, err
}

func (c cutStream) Write(b []byte) (int, error) {
	if c.left.Load() == 0 && c.hard {
		return 0, syscall.ECONNRESET
	}
	return c.Conn.Write(b)
}

func (c cutStream) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// DESIGN 4.6 and 4.7: wherever the server's stream ends, every call returns with an error that says so, and nothing is
// left behind.
func TestCutAtEveryByte(t *testing.T) {
	for _, hard := range []bool{false, true} {
		t.Run(map[bool]string{false: "close", true: "reset"}[hard], func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				talk := func(left *atomic.Int64) []error {
					broker := mqtttest.New()
					defer broker.Close()
					return conversation(t, v, func(ctx context.Context, network, address string) (net.Conn, error) {
						conn, err := broker.DialContext(ctx, network, address)
						return cutStream{conn, left, hard}, err
					})
				}
				var left atomic.Int64
				left.Store(math.MaxInt64)
				for _, err := range talk(&left) {
					noErr(t, err)
				}
				total := math.MaxInt64 - left.Load()
				if total < 40 {
					t.Fatalf("the whole conversation has %d bytes", total)
				}
				for n := range total {
					left.Store(n)
					start := time.Now()
					failed := false
					for i, err := range talk(&left) {
						failed = failed || err != nil
						if err != nil && !saysLost(err) {
							t.Errorf("cut after %d bytes: step %d says %v", n, i, err)
						}
					}
					if !failed {
						t.Errorf("cut after %d bytes: nobody notices", n)
					}
					if took := time.Since(start); took > time.Second {
						t.Errorf("cut after %d bytes: it took %v", n, took)
					}
				}
			})
		})
	}
}

// saysLost reports whether an error says that the connection could not be made or has ended.
func saysLost(err error) bool {
	var failed *mqtt.ConnectError
	return errors.As(err, &failed) || errors.Is(err, mqtt.ErrConnectionLost) || errors.Is(err, mqtt.ErrNotConnected)
}

// [MQTT-4.2.0-1]: packets may come a byte at a time.
func TestSplitAtEveryByte(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		broker := mqtttest.NewBroker(t, mqtttest.Fragment(1))
		for i, err := range conversation(t, v, broker.DialContext) {
			if err != nil {
				t.Errorf("step %d: %v", i, err)
			}
		}
		if n := len(broker.Received()); n != 3 {
			t.Errorf("%d messages came", n)
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
