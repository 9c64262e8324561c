package mqtt_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// The client uses as many aliases as the server takes [MQTT-3.2.2-17], at every QoS, and the application does not see it.
func TestPublishWithAliases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{TopicAliasMaximum: 1})
		for _, publish := range []struct {
			topic string
			want  codec.Publish
		}{
			{"topic", codec.Publish{Topic: "topic", TopicAlias: 1}},
			{"topic", codec.Publish{TopicAlias: 1}},
			{"other topic", codec.Publish{Topic: "other topic", TopicAlias: 1}},
			{"other topic", codec.Publish{TopicAlias: 1}},
			{"a", codec.Publish{Topic: "a"}}, // an alias would be longer
			{"topic", codec.Publish{Topic: "topic", TopicAlias: 1, QoS: 1, PacketID: 1}},
			{"topic", codec.Publish{TopicAlias: 1, QoS: 2, PacketID: 2}},
		} {
			c.PublishAsync(t.Context(), publish.topic, nil, mqtt.QoS(publish.want.QoS))
			s.Expect(&publish.want)
		}
	})
}

// A message that waits or is in flight holds no alias: on the next connection, whether its server takes aliases or not, it
// goes out with its topic [MQTT-3.3.2-7].
func TestNoAliasOutlivesItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		connected := start(func() (mqtt.ClientV5, error) {
			return mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithMaxInFlight(2))
		})
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{Properties: codec.ConnackProperties{TopicAliasMaximum: 10}})
		c := connected.value(t)
		defer c.Close()
		for _, payload := range []string{"1", "2", "3"} {
			c.PublishAsync(t.Context(), "topic", []byte(payload), mqtt.AtLeastOnce)
		}
		s.Expect(&codec.Publish{Topic: "topic", TopicAlias: 1, Payload: []byte("1"), QoS: 1, PacketID: 1})
		s.Expect(&codec.Publish{TopicAlias: 1, Payload: []byte("2"), QoS: 1, PacketID: 2})
		s.Close()
		s = server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{SessionPresent: true})
		s.Expect(&codec.Publish{Topic: "topic", Payload: []byte("1"), QoS: 1, PacketID: 1, Dup: true})
		s.Expect(&codec.Publish{Topic: "topic", Payload: []byte("2"), QoS: 1, PacketID: 2, Dup: true})
		s.Send(&codec.Puback{PacketID: 1})
		s.Expect(&codec.Publish{Topic: "topic", Payload: []byte("3"), QoS: 1, PacketID: 3})
		s.Close()
		s = server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{TopicAliasMaximum: 10}})
		s.Expect(&codec.Publish{Topic: "topic", TopicAlias: 1, Payload: []byte("2"), QoS: 1, PacketID: 2, Dup: true})
		s.Expect(&codec.Publish{TopicAlias: 1, Payload: []byte("3"), QoS: 1, PacketID: 3, Dup: true})
	})
}

// The server's aliases are resolved, whatever they stood for before, and whoever has subscribed meanwhile.
func TestReceiveAliases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v5, s := scriptedV5(t, codec.ConnackProperties{}, mqtt.WithTopicAliasMaximum(32))
		c := mqtt.Common(v5)
		all, _ := subscribed(t, c, s, "#", mqtt.ExactlyOnce)
		alias := func(number uint16, topic, payload string) {
			t.Helper()
			s.Send(&codec.Publish{Topic: topic, TopicAlias: number, Payload: []byte(payload)})
		}
		alias(1, "a/b", "1")
		alias(32, "c", "2")
		alias(1, "", "3")
		wantArrived(t, all, "a/b=1 q0", "c=2 q0", "a/b=3 q0")
		ab, _ := subscribed(t, c, s, "a/b")
		alias(1, "", "4")
		alias(1, "d", "5")
		alias(1, "", "6")
		alias(32, "", "7")
		wantArrived(t, all, "a/b=4 q0", "d=5 q0", "d=6 q0", "c=7 q0")
		wantArrived(t, ab, "a/b=4 q0")
		// One that comes with a message which is not delivered counts as well.
		s.Send(&codec.Publish{Topic: "e", Payload: []byte("8"), QoS: 2, PacketID: 1})
		s.Expect(&codec.Pubrec{PacketID: 1})
		s.Send(&codec.Publish{Topic: "e", TopicAlias: 2, Payload: []byte("8"), QoS: 2, PacketID: 1, Dup: true})
		s.Expect(&codec.Pubrec{PacketID: 1})
		alias(2, "", "9")
		wantArrived(t, all, "e=8 q2", "e=9 q0")
	})
}

// What an alias stands for is forgotten with the connection [MQTT-3.3.2-7].
func TestReceivedAliasesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		connected := start(func() (mqtt.ClientV5, error) {
			return mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithTopicAliasMaximum(1))
		})
		var c mqtt.ClientV5
		for range 2 {
			s := server.Accept()
			mqtttest.ReceiveAs[*codec.Connect](s)
			s.Send(&codec.Connack{SessionPresent: c != nil})
			if c == nil {
				c = connected.value(t)
				defer c.Close()
				s.Send(&codec.Publish{Topic: "a", TopicAlias: 1})
				s.Send(&codec.Publish{TopicAlias: 1})
				s.ExpectSilence(time.Second)
			} else {
				s.Send(&codec.Publish{TopicAlias: 1})
				s.Expect(&codec.Disconnect{Code: codec.ProtocolError})
				s.ExpectEOF()
			}
			s.Close()
		}
	})
}

// A resend is joined to the message that it repeats although one of them has an alias instead of its topic.
func TestAliasedResendIsJoined(t *testing.T) {
	full := &codec.Publish{Topic: "a", TopicAlias: 1, Payload: []byte("x"), QoS: 1, PacketID: 1, Dup: true}
	aliased := &codec.Publish{TopicAlias: 1, Payload: []byte("x"), QoS: 1, PacketID: 1, Dup: true}
	for name, packets := range map[string][2]*codec.Publish{"first": {aliased, full}, "second": {full, aliased}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pair{t: t, server: mqtttest.NewServer(t, codec.V5)}
				connected := start(func() (mqtt.ClientV5, error) {
					return reconnectingV5(t, p.server.DialContext, mqtt.WithTopicAliasMaximum(1)), nil
				})
				p.accept(&codec.Connack{})
				p.client = mqtt.Common(connected.value(t))
				defer func() { p.client.Close() }()
				sub, _ := subscribed(t, p.client, p.Script, "a", mqtt.AtLeastOnce, mqtt.ManualAck)
				alias := &codec.Publish{Topic: "a", TopicAlias: 1, Payload: []byte("alias")}
				p.Send(alias, packets[0])
				wantArrived(t, sub, "a=alias q0", "a=x q1 dup")
				p.resume()
				p.wantPackets("SUBSCRIBE a q1 rh1")
				p.Send(alias, packets[1])
				wantArrived(t, sub, "a=alias q0")
			})
		})
	}
}

// [MQTT-3.1.2-29]: who asks for no problem information gets a reason string in CONNACK, PUBLISH and DISCONNECT alone.
func TestWithoutProblemInformation(t *testing.T) {
	reason, user := "because", codec.UserProperties{{Key: "k", Value: "v"}}
	for name, packet := range map[string]codec.Packet{
		"PUBACK":   &codec.Puback{PacketID: 1, ReasonString: reason},
		"PUBREC":   &codec.Pubrec{PacketID: 1, UserProperties: user},
		"PUBREL":   &codec.Pubrel{PacketID: 1, ReasonString: reason},
		"PUBCOMP":  &codec.Pubcomp{PacketID: 1, UserProperties: user},
		"SUBACK":   &codec.Suback{PacketID: 1, ReasonString: reason, Codes: []codec.ReasonCode{0}},
		"UNSUBACK": &codec.Unsuback{PacketID: 1, UserProperties: user, Codes: []codec.ReasonCode{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := scriptedV5(t, codec.ConnackProperties{ReasonString: reason, UserProperties: user},
					mqtt.WithoutProblemInformation(), mqtt.WithoutReconnect())
				s.Send(&codec.Publish{Topic: "a", Properties: codec.PublishProperties{UserProperties: user}})
				s.ExpectSilence(time.Second)
				s.Send(packet)
				s.Expect(&codec.Disconnect{Code: codec.ProtocolError})
				s.ExpectEOF()
				s.Close()
				<-c.Done()
				var broken *mqtt.PacketError
				if !errors.As(c.Err(), &broken) || broken.Packet != name || broken.Rule != "MQTT-3.1.2-29" {
					t.Errorf("ends with %v", c.Err())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{}, mqtt.WithoutProblemInformation(), mqtt.WithoutReconnect())
		s.Send(&codec.Disconnect{Code: codec.ServerBusy, ReasonString: reason, UserProperties: user})
		s.ExpectEOF()
		s.Close()
		<-c.Done()
		var ended *mqtt.DisconnectError
		if !errors.As(c.Err(), &ended) || ended.Reason != reason {
			t.Errorf("ends with %v", c.Err())
		}
	})
}
