package mqtt_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// SUBACKs are matched by packet identifier [MQTT-2.2.1-6], in whatever order they come; Granted is the lower of what was
// asked for and what was granted.
// [MQTT-3.8.4-2] [MQTT-3.8.4-8] [MQTT311-2.3.1-7] [MQTT311-3.8.4-2] [MQTT311-3.8.4-6]
func TestSubscribeReverseSubacks(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		first, p1 := subscribing(t, c, s, "a", mqtt.AtLeastOnce)
		second, p2 := subscribing(t, c, s, "b", mqtt.ExactlyOnce)
		third, p3 := subscribing(t, c, s, "a", mqtt.ExactlyOnce) // raises the first
		s.Send(granted(p3), &codec.Suback{PacketID: p2.PacketID, Codes: []codec.ReasonCode{1}})
		if got := third.value(t).Filters()[0]; got != (mqtt.Filter{Filter: "a", QoS: 2, Granted: 2}) {
			t.Errorf("%+v", got)
		}
		if got := second.value(t).Filters()[0]; got != (mqtt.Filter{Filter: "b", QoS: 2, Granted: 1}) {
			t.Errorf("%+v", got)
		}
		first.pending(t, "its SUBACK has not come")
		s.Send(granted(p1))
		if got := first.value(t).Filters()[0]; got != (mqtt.Filter{Filter: "a", QoS: 1, Granted: 1}) {
			t.Errorf("%+v", got)
		}
		if v != codec.V5 {
			return
		}
		// What the server has is what the last SUBSCRIBE said, so a fourth one needs no more.
		fourth := start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(t.Context(), "a", mqtt.ExactlyOnce)
		})
		s.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](s)))
		if got := fourth.value(t).Filters()[0].Granted; got != 2 {
			t.Errorf("granted %v", got)
		}
	})
}

// A SUBACK does not mean that the filter is subscribed if an UNSUBSCRIBE was sent after its SUBSCRIBE.
func TestSubscribeAfterLateSuback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		first, _ := subscribed(t, mqtt.Common(c), s, "a")
		ctx, cancel := context.WithCancel(t.Context())
		second := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a") })
		late := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		second.wait()
		leaving := startErr(func() error { return first.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(granted(late))
		synctest.Wait()
		third := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "a", mqtt.SkipRetained) })
		third.pending(t, "the filter is not subscribed")
		q := mqtttest.ReceiveAs[*codec.Subscribe](s)
		s.Send(unsubscribed(codec.V5, u), granted(q))
		leaving.value(t)
		third.value(t)
		s.ExpectSilence(time.Second) // the third holds it
	})
}

// A refusal to raise the QoS ends the subscription that asked for it, not those that are there, and the next one that
// needs the higher QoS asks again.
func TestSubscribeRaiseRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		first, p := subscribed(t, mqtt.Common(c), s, "a", mqtt.AtMostOnce)
		for _, code := range []codec.ReasonCode{codec.QuotaExceeded, codec.GrantedQoS1} {
			if _, err := c.Subscribe(t.Context(), "a", mqtt.SkipRetained); err != nil { // that QoS holds, before and after
				t.Error(err)
			}
			raising := start(func() (*mqtt.Subscription, error) {
				return c.Subscribe(t.Context(), "a", mqtt.AtLeastOnce, mqtt.SkipRetained)
			})
			q := mqtttest.ReceiveAs[*codec.Subscribe](s)
			s.Send(&codec.Suback{PacketID: q.PacketID, Codes: []codec.ReasonCode{code}})
			if err := raising.wait(); (err != nil) != code.Failed() {
				t.Errorf("SUBACK %v: %v", code, err)
			}
		}
		s.Send(&codec.Publish{Topic: "a", Payload: []byte("x"), SubscriptionIdentifiers: []uint32{p.SubscriptionIdentifier}})
		wantArrived(t, first, "a=x q0")
		if _, err := c.Subscribe(t.Context(), "a", mqtt.AtLeastOnce, mqtt.SkipRetained); err != nil {
			t.Error(err)
		}
		s.ExpectSilence(time.Second) // nobody has to ask for what holds
	})
}

// One refused filter fails the whole subscription, and those granted are unsubscribed, unless others hold
// them.
// [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2]
func TestSubscribeRefused(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		kept := subscribe(t, c, "kept")
		unsubscribes := watchUnsubscribes(b)
		refuse := b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if s, ok := p.(*codec.Suback); ok {
				for i := range s.Codes {
					if s.Codes[i] == codec.GrantedQoS2 {
						s.Codes[i] = codec.UnspecifiedError
						s.ReasonString = "not today"
						if v != codec.V5 {
							s.ReasonString = ""
						}
					}
				}
			}
			return true
		})
		sub, err := c.Subscribe(t.Context(), "x", mqtt.AtLeastOnce, mqtt.Also(mqtt.ExactlyOnce, "y", "z"), mqtt.Also(0, "kept", "w"))
		refuse()
		var refusal *mqtt.SubscribeError
		if sub != nil || !errors.As(err, &refusal) || !errors.Is(err, mqtt.UnspecifiedError) || mqtt.SafeToRetry(err) {
			t.Fatalf("%v, %v", sub, err)
		}
		want := []mqtt.FilterError{{Filter: "y", Code: mqtt.UnspecifiedError}, {Filter: "z", Code: mqtt.UnspecifiedError}}
		if v == codec.V5 {
			want[0].Reason, want[1].Reason = "not today", "not today"
		}
		if !slices.Equal(refusal.Failures, want) {
			t.Errorf("failures %+v, want %+v", refusal.Failures, want)
		}
		unsubscribes.want(t, "[x w]")
		b.Publish(text("kept", "1", 0))
		wantArrived(t, kept, "kept=1 q0")
		// Nothing keeps the filters from being subscribed again.
		again := subscribe(t, c, "x", mqtt.Also(mqtt.ExactlyOnce, "y"))
		b.Publish(text("y", "1", 2))
		wantArrived(t, again, "y=1 q2")
	})
}

// A code from 0x80 refuses only the filter and does not end the connection, also a code that the specification does not list
// for SUBACK or UNSUBACK, or that MQTT 3.1.1 does not have.
// [MQTT-2.4]
func TestSubscribeRefusedWithAnyCode(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		refusal := func(err error) mqtt.ReasonCode {
			var refused *mqtt.SubscribeError
			if !errors.As(err, &refused) || len(refused.Failures) != 1 || refused.Failures[0].Filter != "b" {
				t.Errorf("the error is %v", err)
				return 0
			}
			return refused.Failures[0].Code
		}
		properties := []byte{6, 0x1F, 0, 3, 'n', 'o', '!'} // a Reason String
		if v < codec.V5 {
			properties = nil
		}
		answer := func(first byte, id uint16, codes ...byte) {
			body := append(append([]byte{byte(id >> 8), byte(id)}, properties...), codes...)
			s.SendBytes(append([]byte{first, byte(len(body))}, body...)...)
		}
		for _, code := range []byte{0x80, 0x81, 0x87, 0x90, 0x95, 0xFF} {
			made, p := subscribing(t, c, s, "b", mqtt.AtLeastOnce)
			answer(0x90, p.PacketID, code)
			if got := refusal(made.wait()); got != mqtt.ReasonCode(code) {
				t.Errorf("refused with %v, not %#x", got, code)
			}
			if v < codec.V5 {
				continue // UNSUBACK has no codes
			}
			leaving := calling(func() error { return c.Unsubscribe(t.Context(), "a", "b") })
			u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
			answer(0xB0, u.PacketID, 0, code)
			if got := refusal(outcome(t, leaving)); got != mqtt.ReasonCode(code) {
				t.Errorf("not unsubscribed with %v, not %#x", got, code)
			}
		}
		if st := c.Stats(); st.Losses != 0 || c.Err() != nil {
			t.Errorf("%d connections were lost, error %v", st.Losses, c.Err())
		}
	})
}

// A SUBACK or UNSUBACK that does not answer its request ends the connection: too few or too many codes [MQTT-3.9.3-1],
// the wrong kind. One that answers nothing is ignored.
// [MQTT-3.8.4-6] [MQTT311-3.8.4-5]
func TestSubscribeWrongAnswers(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for name, answer := range map[string]func(id uint16) codec.Packet{
			"too few":  func(id uint16) codec.Packet { return &codec.Suback{PacketID: id, Codes: make([]codec.ReasonCode, 1)} },
			"too many": func(id uint16) codec.Packet { return &codec.Suback{PacketID: id, Codes: make([]codec.ReasonCode, 3)} },
			"UNSUBACK": func(id uint16) codec.Packet {
				return unsubscribed(v, &codec.Unsubscribe{PacketID: id, Filters: []string{"a", "b"}})
			},
		} {
			var c mqtt.Client
			var s *mqtttest.Script
			if v == codec.V5 {
				no := false
				var c5 mqtt.ClientV5
				c5, s = scriptedV5(t, codec.ConnackProperties{SubscriptionIdentifiersAvailable: &no})
				c = mqtt.Common(c5)
			} else {
				c, s = scripted(t, v)
			}
			s.Send(&codec.Suback{PacketID: 999, Codes: make([]codec.ReasonCode, 1)}, unsubscribed(v, &codec.Unsubscribe{PacketID: 998, Filters: []string{"a"}}))
			sub, p := subscribing(t, c, s, "a", mqtt.Also(0, "b"))
			sub.pending(t, "other requests were answered")
			if n := c.Stats().LateAcks; n != 2 {
				t.Errorf("%d late acknowledgements", n)
			}
			s.Send(answer(p.PacketID))
			var bad *mqtt.PacketError
			if err := sub.wait(); !errors.As(err, &bad) {
				t.Errorf("%s: %v", name, err)
			}
			if v == codec.V5 {
				s.Expect(&codec.Disconnect{Code: codec.ProtocolError})
			}
			s.ExpectEOF()
			s.Close()
			<-c.Done()
			var packet *mqtt.PacketError
			if !errors.As(c.Err(), &packet) {
				t.Errorf("%s: the client ends with %v", name, c.Err())
			}
		}
	})
}

// A server that uses the packet identifier itself is asked again with another one, a few times.
func TestIdentifierInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{})
		subscribing, p := subscribing(t, mqtt.Common(c), s, "t", mqtt.ExactlyOnce)
		for range 3 {
			s.Send(&codec.Suback{PacketID: p.PacketID, Codes: []codec.ReasonCode{codec.PacketIdentifierInUse}})
			again := mqtttest.ReceiveAs[*codec.Subscribe](s)
			if again.PacketID == p.PacketID || !slices.Equal(again.Filters, p.Filters) || again.SubscriptionIdentifier != p.SubscriptionIdentifier {
				t.Errorf("asked again with %+v after %+v", again, p)
			}
			p = again
		}
		s.Send(granted(p))
		sub := subscribing.value(t)
		leaving := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(&codec.Unsuback{PacketID: u.PacketID, Codes: []codec.ReasonCode{codec.PacketIdentifierInUse}})
		u = mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(&codec.Unsuback{PacketID: u.PacketID, Codes: []codec.ReasonCode{0}})
		noErr(t, leaving.wait())

		refused := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "u") })
		for range 11 {
			s.Send(&codec.Suback{PacketID: mqtttest.ReceiveAs[*codec.Subscribe](s).PacketID, Codes: []codec.ReasonCode{codec.PacketIdentifierInUse}})
		}
		if err := refused.wait(); !errors.Is(err, mqtt.PacketIdentifierInUse) {
			t.Errorf("refused for ever: %v", err)
		}
	})
}
