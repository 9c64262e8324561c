package mqtt_test

import (
	"errors"
	"strings"
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

// The client identifier that the server assigned is kept.
// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
func TestAssignedClientIDIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pair{t: t, server: mqtttest.NewServer(t, codec.V5)}
		c := start(func() (mqtt.Client, error) {
			return reconnectingAs(t, codec.V5, p.server.DialContext, mqtt.WithClientID("")), nil
		})
		connect := p.accept(&codec.Connack{Properties: codec.ConnackProperties{AssignedClientID: "yours"}})
		if connect.ClientID != "" || !connect.CleanStart {
			t.Errorf("%+v", connect)
		}
		p.client = c.value(t)
		for range 2 {
			if connect := p.resume(); connect.ClientID != "yours" || connect.CleanStart {
				t.Errorf("%+v", connect)
			}
			if id := p.client.ClientID(); id != "yours" {
				t.Errorf("ClientID %q", id)
			}
		}
	})
}

// A client identifier is assigned to a client that has none. To others it means nothing: the session is that of their own.
func TestStrayAssignedClientID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pair{t: t, server: mqtttest.NewServer(t, codec.V5)}
		c := start(func() (mqtt.Client, error) {
			return reconnectingAs(t, codec.V5, p.server.DialContext, mqtt.WithClientID("mine")), nil
		})
		p.accept(&codec.Connack{Properties: codec.ConnackProperties{AssignedClientID: "yours"}})
		p.client = c.value(t)
		if connect := p.resume(); connect.ClientID != "mine" || p.client.ClientID() != "mine" {
			t.Errorf("CONNECT says %q, ClientID %q", connect.ClientID, p.client.ClientID())
		}
	})
}

// A session under an identifier that was just generated is somebody else's: it is not taken, and ended at the next attempt.
func TestSessionOfAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		client := start(func() (mqtt.ClientV5, error) {
			c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithConnectRetry())
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return c, err
		})
		s := server.Accept()
		if p := mqtttest.ReceiveAs[*codec.Connect](s); p.CleanStart {
			t.Error("Clean Start 1 at the first attempt")
		}
		s.Send(&codec.Connack{SessionPresent: true})
		mqtttest.ReceiveAs[*codec.Disconnect](s)
		s = server.Accept()
		if p := mqtttest.ReceiveAs[*codec.Connect](s); !p.CleanStart {
			t.Error("Clean Start 0 at the second attempt")
		}
		s.Send(&codec.Connack{})
		client.value(t)
	})
}

// A server that knows only MQTT 3.1.1 answers a CONNECT of MQTT 5 as it can.
func TestServerOfTheOldVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		client := start(func() (mqtt.ClientV5, error) {
			return mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithConnectRetry())
		})
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.SendBytes(0x20, 0x02, 0x00, 0x01)
		if err := client.wait(); !errors.Is(err, mqtt.UnsupportedProtocolVersion) || !strings.Contains(err.Error(), "NewClientV311") {
			t.Errorf("NewClient returns %v", err)
		}
	})
}
