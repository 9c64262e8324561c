package mqtt_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// A message is copied for each subscription, which sees the lower QoS of the message and its own, and
// acknowledged when the last one at QoS 1 or 2 has accepted it. One at QoS 0 delays nothing.
func TestReceiveSeveralHolders(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		var subs []*mqtt.Subscription
		for _, opts := range [][]mqtt.SubscribeOption{
			{mqtt.ExactlyOnce, mqtt.ManualAck}, {mqtt.AtLeastOnce, mqtt.ManualAck}, {mqtt.AtMostOnce, mqtt.ManualAck},
			{mqtt.AtLeastOnce, mqtt.Buffer(1)}, {mqtt.AtMostOnce, mqtt.Buffer(1)},
		} {
			sub, _ := subscribed(t, c, s, "a", opts...)
			subs = append(subs, sub)
		}
		two, one, none, full, stalled := subs[0], subs[1], subs[2], subs[3], subs[4]
		for id := range uint16(4) { // fills the channels
			s.Send(message("a", 0, 0))
			if id > 0 {
				s.Send(message("a", 2, id))
			}
		}
		synctest.Wait()
		messages := map[*mqtt.Subscription]map[string]mqtt.Message{}
		for _, sub := range []*mqtt.Subscription{two, one, none} {
			messages[sub] = byPayload(arrived(sub))
		}
		for sub, qos := range map[*mqtt.Subscription]mqtt.QoS{two: 2, one: 1, none: 0} {
			if got := messages[sub]["1"].QoS; got != qos {
				t.Errorf("%v instead of %v", got, qos)
			}
		}
		messages[two]["1"].Payload[0] = 'X' // one's own memory
		if got := messages[one]["1"].Payload; string(got) != "1" {
			t.Errorf("the payload of another subscription has become %q", got)
		}
		messages[one]["1"].Ack()
		messages[none]["1"].Ack() // nothing to acknowledge
		wantAnswers(t, s)
		messages[two]["1"].Ack()
		wantAnswers(t, s) // it waits in line for full
		arrived(full)
		wantAnswers(t, s, "PUBREC 1")
		for _, sub := range []*mqtt.Subscription{one, two} {
			messages[sub]["3"].Ack()
			messages[sub]["2"].Ack()
		}
		wantAnswers(t, s, "PUBREC 2", "PUBREC 3")
		_ = stalled // which has accepted nothing
	})
}

// A refusal is sent only if no subscription has accepted the message.
func TestReceiveReject(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		code := func(s string) string {
			if v == codec.V5 {
				return s + " 0x97"
			}
			return s // 3.1.1 cannot refuse
		}
		c, s := scripted(t, v)
		one, _ := subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		two, _ := subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		s.Send(message("a", 1, 1), message("a", 1, 2), message("a", 1, 3), message("a", 2, 4))
		first, second := byPayload(arrived(one)), byPayload(arrived(two))
		reject := func(m mqtt.Message) {
			if err := m.Reject(mqtt.QuotaExceeded, "full"); err != nil {
				t.Error(err)
			}
		}
		reject(first["1"])
		first["1"].Ack() // too late
		wantAnswers(t, s)
		reject(second["1"])
		wantAnswers(t, s, code("PUBACK 1"))
		reject(first["2"])
		second["2"].Ack()
		second["3"].Ack()
		reject(first["3"])
		wantAnswers(t, s, "PUBACK 2", "PUBACK 3")
		reject(first["4"])
		reject(second["4"])
		wantAnswers(t, s, code("PUBREC 4"))

		auto, _ := subscribed(t, c, s, "a", mqtt.AtLeastOnce)
		s.Send(message("a", 1, 5))
		reject(arrived(one)[0])
		reject(arrived(two)[0])
		wantArrived(t, auto, "a=5 q1")
		wantAnswers(t, s, "PUBACK 5")

		// One at QoS 0 has got the message as well: if it were refused, the server could send it again, as a new one.
		c, s = scripted(t, v)
		one, _ = subscribed(t, c, s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		loose, _ := subscribed(t, c, s, "a", mqtt.AtMostOnce)
		s.Send(message("a", 2, 6))
		reject(arrived(one)[0])
		wantArrived(t, loose, "a=6 q0")
		wantAnswers(t, s, "PUBREC 6")
	})
}

// The reason string goes along, unless the acknowledgement would be too large for the server [MQTT-3.4.2-2]
// [MQTT-3.5.2-2]. Only what PUBACK and PUBREC may say is possible [MQTT-3.4.2-1] [MQTT-3.5.2-1].
func TestReceiveRejectReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{MaximumPacketSize: 40})
		sub, _ := subscribed(t, mqtt.Common(c), s, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		s.Send(message("a", 1, 1), message("a", 2, 2), message("a", 2, 3), message("a", 1, 4))
		m := byPayload(arrived(sub))
		m["1"].Reject(mqtt.NotAuthorized, "no, thank you")
		s.Expect(&codec.Puback{PacketID: 1, Code: codec.NotAuthorized, ReasonString: "no, thank you"})
		m["2"].Reject(mqtt.NotAuthorized, strings.Repeat("x", 32)) // 41 bytes
		s.Expect(&codec.Pubrec{PacketID: 2, Code: codec.NotAuthorized})
		for code := range 256 {
			err := m["3"].Reject(mqtt.ReasonCode(code), "")
			if err != nil {
				continue
			}
			if p := mqtttest.ReceiveAs[*codec.Pubrec](s); byte(p.Code) != byte(code) {
				t.Errorf("PUBREC %v", p.Code)
			}
			s.Send(message("a", 2, 3))
			m["3"] = arrived(sub)[0]
		}
		for _, reason := range []string{"\xff", "\x00", strings.Repeat("x", 65_536)} {
			if err := m["4"].Reject(mqtt.NotAuthorized, reason); err == nil {
				t.Errorf("%.10q is accepted", reason)
			}
		}
		wantAnswers(t, s)
		m["4"].Ack()
		wantAnswers(t, s, "PUBACK 4")
	})
	want := []mqtt.ReasonCode{0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
	for code := range 256 {
		err := mqtt.Message{}.Reject(mqtt.ReasonCode(code), "")
		if may := slices.Contains(want, mqtt.ReasonCode(code)); may != (err == nil) {
			t.Errorf("0x%02X: %v", code, err)
		}
	}
}

// A server that wants little still gets a reason that fits.
func TestReceiveRejectReasonThatFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 2 bytes fixed header, 2 packet identifier, 1 reason code, 1 length, 3 + 31 reason string
		c, s := scriptedV5(t, codec.ConnackProperties{MaximumPacketSize: 40})
		sub, _ := subscribed(t, mqtt.Common(c), s, "a", mqtt.AtLeastOnce, mqtt.ManualAck)
		s.Send(message("a", 1, 1))
		reason := strings.Repeat("x", 31)
		arrived(sub)[0].Reject(mqtt.NotAuthorized, reason)
		s.Expect(&codec.Puback{PacketID: 1, Code: codec.NotAuthorized, ReasonString: reason})
	})
}

// Ack after the client's end says why it ended, and never blocks; a message without acknowledgement has nothing to say.
func TestReceiveAckAfterTheEnd(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "a", mqtt.AtLeastOnce, mqtt.ManualAck)
		b.Publish(text("a", "1", 1))
		b.Publish(text("a", "2", 0))
		b.Publish(text("a", "3", 1))
		messages := arrived(sub)
		messages[0].Ack()
		c.Close()
		for i, want := range []error{nil, nil, mqtt.ErrClosed} {
			if err := messages[i].Ack(); !errors.Is(err, want) {
				t.Errorf("message %d: %v", i+1, err)
			}
		}
		if err := messages[2].Reject(mqtt.NotAuthorized, ""); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("%v", err)
		}
		var zero mqtt.Message
		if zero.Ack() != nil || zero.SubscriptionIdentifiers() != nil {
			t.Error("the zero Message has something to acknowledge")
		}
	})
}

// Acknowledgements from many goroutines leave in the order of the messages; the broker looks.
func TestReceiveAckConcurrently(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "a", mqtt.ExactlyOnce, mqtt.ManualAck)
		const n = 3000
		for i := range n {
			b.Publish(text("a", "", byte(1+i%2)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		handled := make(chan struct{}, n)
		done := startErr(func() error {
			return sub.Handle(ctx, func(_ context.Context, m mqtt.Message) error {
				handled <- struct{}{}
				return m.Ack()
			}, mqtt.Workers(8), mqtt.Key(nil))
		})
		for range n {
			<-handled
		}
		cancel()
		if err := done.wait(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := c.Stats().Unacknowledged; got != 0 {
			t.Errorf("%d are not acknowledged", got)
		}
	})
}
