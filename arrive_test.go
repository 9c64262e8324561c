package mqtt_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// A PUBREL is answered at once, whatever waits, and also when it belongs to nothing
// [MQTT-4.3.3-11].
// [MQTT311-4.3.3-2]
func TestReceivePubrel(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		s.Send(message("a", 2, 1), message("a", 2, 2))
		m := byPayload(arrived(sub))
		m["1"].Ack()
		wantAnswers(t, s, "PUBREC 1")
		s.Send(&codec.Pubrel{PacketID: 1})
		wantAnswers(t, s, "PUBCOMP 1")
		want := "PUBCOMP 1"
		if v == codec.V5 {
			want += " 0x92"
		}
		s.Send(&codec.Pubrel{PacketID: 1})
		wantAnswers(t, s, want)
		m["2"].Ack()
		wantAnswers(t, s, "PUBREC 2")
	})
}

// QoS 2 messages that come again on the connection are not delivered again until PUBREL [MQTT-4.3.3-10], and are new
// after it [MQTT-4.3.3-12].
// [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT311-4.3.3-2]
func TestReceiveExactlyOnce(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		first := message("a", 2, 1)
		again := message("a", 2, 1)
		again.Dup = true
		s.Send(first, again)
		messages := wantArrived(t, sub, "a=1 q2")
		wantAnswers(t, s)
		messages[0].Ack()
		wantAnswers(t, s, "PUBREC 1")
		s.Send(again)
		wantArrived(t, sub)
		wantAnswers(t, s, "PUBREC 1")
		if got := c.Stats().Received; got != 1 {
			t.Errorf("%d messages received", got)
		}
		s.Send(&codec.Pubrel{PacketID: 1}, first)
		wantArrived(t, sub, "a=1 q2")
		wantAnswers(t, s, "PUBCOMP 1")
	})
}

// [MQTT-4.3.3-9]: after a PUBREC that refuses, the identifier is new. [MQTT-4.3.2-5]: so it is after a PUBACK, whatever
// DUP says.
// [MQTT-4.3.2-4] [MQTT311-4.3.2-2]
func TestReceiveIdentifierAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, codec.V5)
		sub, _ := subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		s.Send(message("a", 2, 1))
		arrived(sub)[0].Reject(mqtt.QuotaExceeded, "full")
		wantAnswers(t, s, "PUBREC 1 0x97")
		again := message("a", 2, 1)
		again.Dup = true
		s.Send(again)
		wantArrived(t, sub, "a=1 q2 dup")[0].Ack()
		wantAnswers(t, s, "PUBREC 1")
	})
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "a", mqtt.AtLeastOnce)
		again := message("a", 1, 1)
		again.Dup = true
		s.Send(message("a", 1, 1))
		wantAnswers(t, s, "PUBACK 1")
		s.Send(again)
		wantAnswers(t, s, "PUBACK 1")
		wantArrived(t, sub, "a=1 q1", "a=1 q1 dup")
	})
}

// With WithReceiveMaximum a server that sends more is disconnected [MQTT-3.3.4-9]. A message at QoS 2 counts
// until PUBCOMP, and resends do not.
func TestReceiveMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{}, mqtt.WithReceiveMaximum(2))
		sub, _ := subscribed(t, mqtt.Common(c), s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		s.Send(message("a", 1, 1), message("a", 2, 2))
		m := byPayload(arrived(sub))
		m["1"].Ack()
		wantAnswers(t, s, "PUBACK 1")
		s.Send(message("a", 1, 3)) // in the place of 1
		m["2"].Ack()
		wantAnswers(t, s, "PUBREC 2")
		resent := message("a", 1, 4)
		resent.Dup = true
		s.Send(resent, &codec.Pubrel{PacketID: 2})
		wantAnswers(t, s, "PUBCOMP 2")
		s.Send(message("a", 1, 5), message("a", 0, 0))
		if n := len(arrived(sub)); n != 4 {
			t.Errorf("%d messages", n)
		}
		wantAnswers(t, s)
		s.Send(message("a", 1, 6))
		s.Expect(&codec.Disconnect{Code: codec.ReceiveMaximumExceeded})
		s.ExpectEOF()
		s.Close()
		<-c.Done()
		if err := c.Err(); !errors.Is(err, mqtt.ReceiveMaximumExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// Without WithReceiveMaximum the client announces 1,024 and puts up with more: Mosquitto loses count.
func TestReceiveMaximumDefault(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		server := mqtttest.NewServer(t, v)
		connecting := start(func() (mqtt.Client, error) { return dialAs(t, v, server.DialContext), nil })
		s := server.Accept()
		if p := mqtttest.ReceiveAs[*codec.Connect](s); v == codec.V5 && p.Properties.ReceiveMaximum != 1024 {
			t.Errorf("Receive Maximum %d", p.Properties.ReceiveMaximum)
		}
		s.Send(&codec.Connack{})
		c := connecting.value(t)
		sub, _ := subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.Buffer(1))
		const n = 3000
		var flood []codec.Packet
		for id := range uint16(n) {
			flood = append(flood, message("a", 1, id+1))
		}
		s.Send(flood...)
		synctest.Wait()
		if got := c.Stats().Unacknowledged; got < n-3 {
			t.Errorf("%d are not acknowledged", got)
		}
		for i, m := range arrived(sub) {
			if string(m.Payload) != fmt.Sprint(i+1) {
				t.Fatalf("message %s in place %d", m.Payload, i)
			}
		}
		if got := answers(t, s); len(got) != n || got[n-1] != fmt.Sprint("PUBACK ", n) {
			t.Errorf("%d answers", len(got))
		}
	})
}

// A message that matches no subscription is acknowledged and counted [MQTT-3.3.4-1]; parking is for persistent
// sessions.
// [MQTT-4.5.0-2] [MQTT311-3.3.4-1] [MQTT311-4.5.0-2]
func TestReceiveUnmatched(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		s.Send(message("a", 0, 0), message("a", 1, 1), message("a", 2, 2), &codec.Pubrel{PacketID: 2})
		wantAnswers(t, s, "PUBACK 1", "PUBREC 2", "PUBCOMP 2")
		if got := c.Stats(); got.Unmatched != 2 || got.Received != 3 || got.Unacknowledged != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// On 3.1.1 a PUBLISH that is too large is thrown away as it comes, acknowledged, counted and logged. Others
// are not touched.
func TestReceiveOversized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		c, s := scripted(t, codec.V311, mqtt.WithMaximumPacketSize(100), mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		sub, _ := subscribed(t, c, s, "a/#", mqtt.ExactlyOnce)
		large := func(qos byte, id uint16, size int) *codec.Publish {
			return &codec.Publish{Topic: "a/large", QoS: qos, PacketID: id, Payload: make([]byte, size)}
		}
		exact := &codec.Publish{Topic: "a/x", Payload: bytes.Repeat([]byte("x"), 100-2-5)}
		s.Send(exact, large(0, 0, 101), large(1, 1, 200_000), large(2, 2, 100_000), large(2, 2, 100_000), &codec.Pubrel{PacketID: 2})
		s.Send(message("a/b", 1, 3))
		wantAnswers(t, s, "PUBACK 1", "PUBREC 2", "PUBREC 2", "PUBCOMP 2", "PUBACK 3")
		wantArrived(t, sub, "a/x="+string(exact.Payload)+" q0", "a/b=3 q1")
		if got := c.Stats(); got.Oversized != 4 || got.Unacknowledged != 0 {
			t.Errorf("%+v", got)
		}
		if n := strings.Count(log.String(), "topic=a/large bytes="); n != 4 {
			t.Errorf("%d lines in the log:\n%s", n, &log)
		}
	})
}

// [MQTT-3.1.2-24]: on MQTT 5 the limit was announced, and who exceeds it is disconnected with 0x95.
func TestReceiveOversizedV5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{}, mqtt.WithMaximumPacketSize(100))
		s.Send(&codec.Publish{Topic: "a", Payload: make([]byte, 100)})
		s.Expect(&codec.Disconnect{Code: codec.PacketTooLarge})
		s.Close()
		<-c.Done()
		if err := c.Err(); !errors.Is(err, mqtt.PacketTooLarge) {
			t.Errorf("%v", err)
		}
	})
}

// invalidTopics are topic names that a server must not send, as an error or the log shows them.
var invalidTopics = []struct{ topic, shown string }{
	{"a\xffb", `"a\xffb"`},
	{"a\xed\xa0\x80b", `"a\xed\xa0\x80b"`},
	{"a\x00b", `"a\x00b"`},
	{"a/+/b", `"a/+/b"`},
	{"\u00e4/#", `"\u00e4/#"`},
	{strings.Repeat("x", 1000) + "#", `"` + strings.Repeat("x", 200) + `"...`},
}

// publishBytes is a PUBLISH with any topic name, whose payload is "x".
func publishBytes(v codec.Version, topic string, qos byte, id uint16) []byte {
	p := codec.Publish{Topic: strings.Repeat("t", len(topic)), QoS: qos, PacketID: id, Payload: []byte("x")}
	b, _ := p.Append(nil, v)
	return bytes.Replace(b, []byte(p.Topic), []byte(topic), 1)
}

// A topic name that the specification forbids ends the connection, and the error says which it is.
// [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-3.3.2-2] [MQTT311-1.5.3-1] [MQTT311-1.5.3-2] [MQTT311-3.3.2-2]
func TestReceiveInvalidTopic(t *testing.T) {
	for _, c := range invalidTopics {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			client, s := scripted(t, v)
			s.SendBytes(publishBytes(v, c.topic, 0, 0)...)
			if v == codec.V5 {
				s.Expect(&codec.Disconnect{Code: codec.MalformedPacket})
			}
			s.ExpectEOF()
			s.Close()
			<-client.Done()
			if err := client.Err(); !strings.Contains(err.Error(), c.shown) || len(err.Error()) > 500 {
				t.Errorf("%q: %v", c.topic, err)
			}
		})
	}
}

// With WithDropInvalidTopics the client lives on: the message is acknowledged, counted and logged, and others arrive.
func TestReceiveDropInvalidTopic(t *testing.T) {
	for _, invalid := range invalidTopics {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			var log lines
			c, s := scripted(t, v, mqtt.WithDropInvalidTopics(), mqtt.WithLogger(slog.New(slog.NewJSONHandler(&log, nil))))
			sub, _ := subscribed(t, c, s, "#", mqtt.ExactlyOnce)
			for qos := range byte(3) {
				s.SendBytes(publishBytes(v, invalid.topic, qos, uint16(qos))...)
			}
			s.Send(&codec.Pubrel{PacketID: 2}, message("t", 1, 3))
			wantAnswers(t, s, "PUBACK 1", "PUBREC 2", "PUBCOMP 2", "PUBACK 3")
			wantArrived(t, sub, "t=3 q1")
			if got := c.Stats(); got.InvalidTopics != 3 || got.Received != 1 || got.Unacknowledged != 0 {
				t.Errorf("%+v", got)
			}
			if n := strings.Count(log.String(), strconv.Quote(invalid.shown)); n != 3 {
				t.Errorf("%d lines in the log:\n%s", n, &log)
			}
		})
	}
}

// An alias of an invalid topic name stands for it, until it stands for another.
func TestReceiveDropInvalidAlias(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{}, mqtt.WithTopicAliasMaximum(1), mqtt.WithDropInvalidTopics())
		sub, _ := subscribed(t, mqtt.Common(c), s, "#")
		alias := func(topic string) []byte {
			b := []byte{0x30, 0, 0, byte(len(topic))}
			b = append(append(b, topic...), 3, 0x23, 0, 1, 'x')
			b[1] = byte(len(b) - 2)
			return b
		}
		for _, topic := range []string{"a/#", "", "good", ""} {
			s.SendBytes(alias(topic)...)
		}
		synctest.Wait()
		wantArrived(t, sub, "good=x q0", "good=x q0")
		if n := c.Stats().InvalidTopics; n != 2 {
			t.Errorf("%d were dropped", n)
		}
	})
}

// A message with more properties than are decoded is refused, and nothing but the message: any publisher can send one to any
// subscriber. What it costs is bounded.
func TestReceiveManyProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		c, s := scriptedV5(t, codec.ConnackProperties{}, mqtt.WithTopicAliasMaximum(2), mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		sub, _ := subscribed(t, mqtt.Common(c), s, "a/#", mqtt.ExactlyOnce)
		user := []byte{0x26, 0, 0, 0, 0}
		identifier := []byte{0x0B, 1}
		publish := func(qos byte, id uint16, alias []byte, property []byte, n int) {
			block := append(bytes.Clone(alias), bytes.Repeat(property, n)...)
			body := append([]byte{0, 3, 'a', '/', 'b'}, byte(id>>8), byte(id))
			if qos == 0 {
				body = body[:5]
			}
			body = append(appendVarint(body, len(block)), block...)
			s.SendBytes(append(appendVarint([]byte{0x30 | qos<<1}, len(body)), body...)...)
		}
		publish(1, 1, nil, user, codec.MaxProperties)
		wantAnswers(t, s, "PUBACK 1")
		wantArrived(t, sub, "a/b= q1")
		publish(0, 0, []byte{0x23, 0, 1}, user, codec.MaxProperties)
		publish(1, 2, nil, user, 3_000_000)
		publish(2, 3, nil, identifier, 4_000_000)
		s.Expect(&codec.Puback{PacketID: 2, Code: codec.QuotaExceeded})
		s.Expect(&codec.Pubrec{PacketID: 3, Code: codec.QuotaExceeded})
		s.Send(&codec.Publish{TopicAlias: 1, Payload: []byte("alias")})
		wantArrived(t, sub, "a/b=alias q0")
		if got := c.Stats(); got.Oversized != 3 || got.Unacknowledged != 0 {
			t.Errorf("%+v", got)
		}
		if n := strings.Count(log.String(), `a/b\"" bytes=`); n != 3 {
			t.Errorf("%d lines in the log:\n%s", n, &log)
		}
	})
}

func appendVarint(b []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// Everything that a message can carry arrives, is the receiver's own, and can be published again as it is.
// [MQTT-2.2.2.2c] [MQTT-3.3.2-4] [MQTT-3.3.2-6] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18]
// [MQTT-3.3.2-20]
func TestReceiveProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		sub := subscribeV5(t, c, "a/+", mqtt.AtLeastOnce)
		other := subscribeV5(t, c, "a/+", mqtt.AtLeastOnce)
		properties := func(i int) codec.PublishProperties {
			return codec.PublishProperties{
				UTF8Payload: true, MessageExpiry: 90 * time.Second, ContentType: fmt.Sprint("text/", i), ResponseTopic: fmt.Sprint("reply/", i),
				CorrelationData: fmt.Append(nil, i), UserProperties: codec.UserProperties{{Key: "n", Value: fmt.Sprint(i)}, {Key: "n", Value: "again"}},
			}
		}
		const n = 5
		for i := range n {
			m := text("a/b", "x", 1)
			m.Properties = properties(i)
			b.Publish(m)
		}
		empty := text("a/b", "", 1)
		empty.Properties.CorrelationData = []byte{} // present, and empty
		b.Publish(empty)
		b.Publish(text("a/b", "plain", 1))
		mine, theirs := arrived(sub), arrived(other)
		for i := range mine[:n] {
			if got, want := mine[i].Properties, mqtt.PublishProperties(properties(i)); !reflect.DeepEqual(got, want) {
				t.Errorf("message %d: %+v, want %+v", i, got, want)
			}
			clear(mine[i].Properties.UserProperties)
			clear(mine[i].Properties.CorrelationData)
			if got, want := theirs[i].Properties, mqtt.PublishProperties(properties(i)); !reflect.DeepEqual(got, want) {
				t.Errorf("message %d of the other subscription: %+v, want %+v", i, got, want)
			}
		}
		if got := mine[n].Properties; got.CorrelationData == nil || len(got.CorrelationData) > 0 || got.UserProperties != nil {
			t.Errorf("empty correlation data: %+v", got)
		}
		if got := mine[n+1].Properties; !reflect.DeepEqual(got, mqtt.PublishProperties{}) {
			t.Errorf("no properties: %+v", got)
		}
		if err := c.Publish(t.Context(), "copy", theirs[3].Payload, &theirs[3].Properties); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := b.Received("copy"); !reflect.DeepEqual(got[0].Properties, properties(3)) {
			t.Errorf("handed on: %+v", got[0].Properties)
		}
	})
}

// The subscription identifiers of a message are all those that the server sent with it, in their order [MQTT-3.3.4-3],
// and each message's own.
// [MQTT-3.3.2.3.8] [MQTT-3.3.4-4]
func TestReceiveSubscriptionIdentifiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		for _, ack := range []mqtt.AckMode{mqtt.AutoAck, mqtt.ManualAck} {
			sub, p := subscribed(t, mqtt.Common(c), s, fmt.Sprint("a/", ack), ack, mqtt.AtLeastOnce)
			id := p.SubscriptionIdentifier
			sets := [][]uint32{{id}, {id, 268_435_455, 7}, {id}, nil, {id, 7}}
			for i, ids := range sets {
				m := message(fmt.Sprint("a/", ack), 1, uint16(i+1))
				m.SubscriptionIdentifiers = ids
				s.Send(m)
			}
			messages := arrived(sub)
			for i, m := range messages {
				got := m.SubscriptionIdentifiers()
				if !slices.Equal(got, sets[i]) {
					t.Errorf("identifiers %v, want %v", got, sets[i])
				}
				clear(got)
				if got := m.SubscriptionIdentifiers(); !slices.Equal(got, sets[i]) {
					t.Errorf("identifiers %v after a change to a copy", got)
				}
				m.Ack()
			}
			answers(t, s)
		}
	})
}

// What a topic matches is looked up again after every change of the subscriptions, while messages of it keep coming.
// [MQTT-3.3.2-3] [MQTT311-3.3.2-3]
func TestReceiveWhileSubscriptionsChange(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		publish := func(payload string) {
			b.Publish(text("a/b", payload, 0))
			synctest.Wait()
		}
		publish("1")
		first := subscribe(t, c, "a/b")
		publish("2")
		publish("3")
		second := subscribe(t, c, "a/b")
		publish("4")
		first.Unsubscribe(t.Context())
		publish("5")
		second.Unsubscribe(t.Context())
		publish("6")
		third := subscribe(t, c, "a/+")
		publish("7")
		wantArrived(t, first, "a/b=2 q0", "a/b=3 q0", "a/b=4 q0")
		wantArrived(t, second, "a/b=4 q0", "a/b=5 q0")
		wantArrived(t, third, "a/b=7 q0")
	})
}

// More topics than the cache holds, and longer ones; payloads of all sizes; and in every possible piece.
func TestReceiveTopicsAndPayloads(t *testing.T) {
	for _, fragment := range []int{0, 1, 7} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			b := mqtttest.NewBroker(t, mqtttest.Fragment(fragment))
			c := dialAs(t, v, b.DialContext)
			sub := subscribe(t, c, "#", mqtt.AtLeastOnce)
			var want []mqtttest.Message
			for i := range 150 {
				m := text(fmt.Sprintf("t/%d/é", i%130), "", byte(i%2))
				m.Payload = bytes.Repeat([]byte{byte(i)}, i*i%300)
				if i == 53 || i == 103 {
					m.Topic = strings.Repeat("long/", 52+i)
				}
				want = append(want, m)
				b.Publish(m)
			}
			got := arrived(sub)
			if len(got) != len(want) {
				t.Fatalf("%d messages, want %d", len(got), len(want))
			}
			for i, m := range got {
				if m.Topic != want[i].Topic || !bytes.Equal(m.Payload, want[i].Payload) || byte(m.QoS) != want[i].QoS {
					t.Errorf("message %d: %.40q, %d bytes, %v", i, m.Topic, len(m.Payload), m.QoS)
				}
			}
		})
	}
}

// Faults of another client that a server passes on do not end the connection, such as a Response Topic or a payload
// format that the specification forbids [MQTT-3.3.2-14]. The client treats them as absent.
func TestReceiveRelayedProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, codec.V5)
		sub, _ := subscribed(t, c, s, "t", mqtt.AtLeastOnce)
		for id, bad := range []string{"\x08\x00\x03a/#", "\x08\x00\x00", "\x01\x02"} {
			body := "\x00\x01t\x00" + string(rune(id+1)) + string(rune(len(bad)+4)) + bad + "\x03\x00\x01c" + "payload"
			s.SendBytes(append([]byte{0x32, byte(len(body))}, body...)...)
			s.Expect(&codec.Puback{PacketID: uint16(id + 1)})
			m, err := sub.Next(t.Context())
			noErr(t, err)
			want := mqtt.PublishProperties{ContentType: "c"}
			if string(m.Payload) != "payload" || fmt.Sprint(m.Properties) != fmt.Sprint(want) {
				t.Errorf("%q: %s with %+v", bad, m.Payload, m.Properties)
			}
		}
	})
}

// A message with very many properties takes memory only as long as the application keeps the message.
func TestReceiveManyPropertiesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		r := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "t") })
		s.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](s)))
		sub := r.value(t)
		heap := func() uint64 {
			synctest.Wait()
			runtime.GC()
			runtime.GC() // what is in pools goes with the second one
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		p := toT(0, 0, "large")
		p.Properties.UserProperties = make(codec.UserProperties, 8_000)
		p.SubscriptionIdentifiers = slices.Repeat([]uint32{1}, 8_000)
		s.Send(p, toT(0, 0, "small"))
		p = nil
		wantArrived(t, sub, "t=large q0", "t=small q0")
		if more := int64(heap() - before); more > 160_000 { // the buffers of the connection are held; the properties alone take 256,000
			t.Errorf("%d bytes are held for it", more)
		}
	})
}
