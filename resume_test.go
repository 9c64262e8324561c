package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Tests of DESIGN.md 4.4 and of 4.1 offline: what a client does with its state when a connection follows another one.

// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-4.6.0-4]: with the session kept, PUBRELs and PUBLISHes are sent again, with the old
// identifiers, in the old order, DUP set, before anything new.
// [MQTT-3.1.2-23] [MQTT-3.3.1-1] [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT311-2.3.1-3]
// [MQTT311-3.1.2-4] [MQTT311-3.3.1-1] [MQTT311-4.1.0-2] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1] [MQTT311-4.4.0-1]
// [MQTT311-4.6.0-1] [MQTT311-4.6.0-4]
func TestResendOrder(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		var d []*mqtt.Delivery
		for i, qos := range []mqtt.QoS{1, 2, 1, 2, 2} {
			d = append(d, p.publish(fmt.Sprintf("t/%d", i+1), qos))
		}
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q2", "PUBLISH 3 t/3 q1", "PUBLISH 4 t/4 q2", "PUBLISH 5 t/5 q2")
		p.Send(&codec.Pubrec{PacketID: 5}, &codec.Pubrec{PacketID: 4})
		p.wantPackets("PUBREL 5", "PUBREL 4")
		for range 2 { // the second time is as the first
			p.resume()
			if len(d) == 5 {
				d = append(d, p.publish("t/6", 1))
			}
			p.wantPackets("PUBREL 5", "PUBREL 4", "PUBLISH 1 t/1 q1 dup", "PUBLISH 2 t/2 q2 dup", "PUBLISH 3 t/3 q1 dup")
			if dup := " dup"; p.client.Stats().Connects == 3 {
				p.wantPackets("PUBLISH 6 t/6 q1" + dup)
			} else {
				p.wantPackets("PUBLISH 6 t/6 q1")
			}
		}
		p.wantSilence()
		wantOpen(t, d...)
		p.Send(&codec.Puback{PacketID: 1}, &codec.Pubrec{PacketID: 2}, &codec.Puback{PacketID: 3},
			&codec.Pubcomp{PacketID: 4}, &codec.Pubcomp{PacketID: 5}, &codec.Puback{PacketID: 6})
		p.wantPackets("PUBREL 2")
		p.Send(&codec.Pubcomp{PacketID: 2})
		for _, d := range d {
			wantFate(t, d, nil)
		}
		if s := p.client.Stats(); s.InFlight != 0 || s.Connects != 3 || s.Losses != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// PROTOCOL 3: no more than the server's Receive Maximum of this connection is resent at once, and all of it before
// anything new; PUBRELs take no place.
// [MQTT-3.3.4-7] [MQTT-4.9.0-1]
func TestResendWithinShrunkWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		var d []*mqtt.Delivery
		for i := range 5 {
			d = append(d, p.publish(fmt.Sprintf("t/%d", i+1), 1+mqtt.QoS(i/4)))
		}
		for range 5 {
			p.Receive()
		}
		p.Send(&codec.Pubrec{PacketID: 5})
		p.wantPackets("PUBREL 5")
		p.Cut()
		synctest.Wait()
		d = append(d, p.publish("t/6", 1))
		p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{ReceiveMaximum: 2}})
		p.wantPackets("PUBREL 5", "PUBLISH 1 t/1 q1 dup", "PUBLISH 2 t/2 q1 dup")
		d = append(d, p.publish("t/7", 1))
		p.wantSilence()
		p.Send(&codec.Pubcomp{PacketID: 5}) // makes no room [MQTT-3.3.4-7]
		p.wantSilence()
		for i := range 5 {
			id := uint16(i + 1)
			if id == 5 {
				id = 6
			}
			p.Send(&codec.Puback{PacketID: id})
			want := fmt.Sprintf("PUBLISH %d t/%d q1", i+3, i+3)
			switch {
			case i < 2:
				p.wantPackets(want + " dup")
			case i == 2: // 5 was a PUBREL
				p.wantPackets("PUBLISH 6 t/6 q1")
			case i == 3:
				p.wantPackets("PUBLISH 7 t/7 q1")
			}
			p.wantSilence()
		}
		p.Send(&codec.Puback{PacketID: 7})
		for _, d := range d {
			wantFate(t, d, nil)
		}
	})
}

// PROTOCOL 22: session gone. QoS 1 is published again as new, with a new identifier and without DUP, in order and
// before what was queued; QoS 2 that was sent fails; QoS 2 that was not sent is sent.
// [MQTT-3.2.2-5] [MQTT311-3.2.2-3]
func TestSessionGone(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		first := p.publish("t/1", 1)
		lost := p.publish("t/2", 2)
		third := p.publish("t/3", 1)
		released := p.publish("t/4", 2)
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q2", "PUBLISH 3 t/3 q1", "PUBLISH 4 t/4 q2")
		p.Send(&codec.Pubrec{PacketID: 4})
		p.wantPackets("PUBREL 4")
		p.Cut()
		synctest.Wait()
		queued := p.publish("t/5", 2)
		p.accept(&codec.Connack{})
		p.wantPackets("PUBLISH 5 t/1 q1", "PUBLISH 6 t/3 q1", "PUBLISH 7 t/5 q2")
		wantFate(t, lost, mqtt.ErrSessionLost)
		wantFate(t, lost, mqtt.ErrOutcomeUnknown)
		wantFate(t, released, mqtt.ErrSessionLost)
		if mqtt.SafeToRetry(lost.Err()) {
			t.Error("a message of a lost session is not safe to retry")
		}
		wantOpen(t, first, third, queued)
		p.Send(&codec.Puback{PacketID: 5}, &codec.Puback{PacketID: 6}, &codec.Pubrec{PacketID: 7})
		p.wantPackets("PUBREL 7")
		p.Send(&codec.Pubcomp{PacketID: 7})
		wantFate(t, first, nil)
		wantFate(t, third, nil)
		wantFate(t, queued, nil)
	})
}

// A PUBREL that is sent again may find that the server has completed the message: its PUBCOMP says 0x92, which is no
// error then (section 3.7.2.1), because a PUBREC had said that the server took the message.
func TestPubcompOfCompletedMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
		b.Fault(mqtttest.Fault{Packet: "PUBCOMP", Outbound: true, Drop: true, Cut: true, Times: 1})
		if err := c.Publish(t.Context(), "t", nil, mqtt.ExactlyOnce); err != nil {
			t.Errorf("the message arrived, and Publish returns %v", err)
		}
		if got := len(b.Received("t")); got != 1 {
			t.Errorf("%d messages arrived", got)
		}
	})
}

// PROTOCOL 5: what the server of the new connection does not take is not sent again. Its identifier stays reserved.
func TestResendForbiddenByNewLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		d := p.publish("t/1", 2)
		retained := p.client.PublishAsync(t.Context(), "t/2", nil, mqtt.AtLeastOnce, mqtt.Retain)
		p.wantPackets("PUBLISH 1 t/1 q2", "PUBLISH 2 t/2 q1")
		p.Cut()
		synctest.Wait()
		queued := p.publish("t/3", 2)
		maximum, no := byte(1), false
		p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{
			MaximumQoS: &maximum, RetainAvailable: &no,
		}})
		wantFate(t, d, mqtt.ErrOutcomeUnknown)
		wantFate(t, d, mqtt.QoSNotSupported)
		wantFate(t, retained, mqtt.ErrOutcomeUnknown)
		wantFate(t, retained, mqtt.RetainNotSupported)
		wantFate(t, queued, mqtt.QoSNotSupported)
		if !mqtt.SafeToRetry(queued.Err()) || mqtt.SafeToRetry(d.Err()) {
			t.Error("what was never sent is safe to retry, and nothing else")
		}
		p.wantSilence()
	})
}

// PROTOCOL 12: a resend of a message that still waits for its Ack is joined to it, and Ack on the old Message
// acknowledges it. Once more after a second cut, and with what is in the channel and in line at AutoAck.
func TestJoinedResend(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for _, qos := range []byte{1, 2} {
			p := newPair(t, v)
			sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.QoS(qos), mqtt.ManualAck)
			m := &codec.Publish{Topic: "t", PacketID: 10, QoS: qos, Payload: []byte("x")}
			p.Send(m)
			messages := wantArrived(t, sub, fmt.Sprintf("t=x q%d", qos))
			m.Dup = true
			for range 2 {
				p.resume()
				if v == codec.V5 {
					p.wantPackets(fmt.Sprintf("SUBSCRIBE t q%d rh1", qos))
				}
				p.Send(m)
				wantArrived(t, sub)
				p.wantSilence()
			}
			ack := map[byte]string{1: "PUBACK 10", 2: "PUBREC 10"}[qos]
			if err := messages[0].Ack(); err != nil {
				t.Error(err)
			}
			p.wantPackets(ack)
			if qos == 2 { // acknowledged, and cut again: PUBREC is sent again, and then it is over
				p.resume()
				if v == codec.V5 {
					p.wantPackets("SUBSCRIBE t q2 rh1")
				}
				p.Send(m)
				p.wantPackets("PUBREC 10")
				p.Send(&codec.Pubrel{PacketID: 10})
				p.wantPackets("PUBCOMP 10")
			}
			wantArrived(t, sub)
			if got := p.client.Stats().Unacknowledged; got != 0 {
				t.Errorf("%d messages unacknowledged", got)
			}
			p.client.Close()
		}
	})
}

// PROTOCOL 12: an Ack while offline goes out when the server has sent the message again; one for a message that the
// server does not know any more is an ErrSessionLost.
func TestAckAcrossConnections(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.AtLeastOnce, mqtt.ManualAck)
		m := &codec.Publish{Topic: "t", PacketID: 10, QoS: 1, Payload: []byte("x")}
		p.Send(m)
		got := wantArrived(t, sub, "t=x q1")
		p.Cut()
		synctest.Wait()
		if err := got[0].Ack(); err != nil {
			t.Error(err)
		}
		p.accept(&codec.Connack{SessionPresent: true})
		if v == codec.V5 {
			p.wantPackets("SUBSCRIBE t q1 rh1")
		}
		p.wantSilence()
		m.Dup = true
		p.Send(m)
		p.wantPackets("PUBACK 10")
		wantArrived(t, sub)

		// The session is lost while a message waits.
		p.Send(&codec.Publish{Topic: "t", PacketID: 11, QoS: 1, Payload: []byte("y")})
		got = wantArrived(t, sub, "t=y q1")
		p.renew()
		p.wantPackets("SUBSCRIBE t q1 rh0")
		synctest.Wait()
		if err := got[0].Ack(); !errors.Is(err, mqtt.ErrSessionLost) {
			t.Errorf("Ack returns %v", err)
		}
		p.wantSilence()
		// The same identifier stands for another message now.
		p.Send(&codec.Publish{Topic: "t", PacketID: 11, QoS: 1, Payload: []byte("y"), Dup: true})
		again := wantArrived(t, sub, "t=y q1 dup")
		if err := got[0].Ack(); !errors.Is(err, mqtt.ErrSessionLost) {
			t.Errorf("Ack returns %v", err)
		}
		p.wantSilence()
		if err := again[0].Ack(); err != nil {
			t.Error(err)
		}
		p.wantPackets("PUBACK 11")
	})
}

// DESIGN 4.4: an inbound QoS 2 message whose PUBREC was sent is not delivered again, whatever cuts the handshake.
// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT311-4.3.3-2]
func TestInboundQoS2AcrossCuts(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.ExactlyOnce)
		for i, f := range []mqtttest.Fault{
			{Packet: "PUBLISH", Outbound: true, Cut: true},
			{Packet: "PUBREC", Drop: true, Cut: true},
			{Packet: "PUBREC", Cut: true},
			{Packet: "PUBREL", Outbound: true, Drop: true, Cut: true},
			{Packet: "PUBREL", Outbound: true, Cut: true},
			{Packet: "PUBCOMP", Drop: true, Cut: true},
			{Packet: "PUBCOMP", Cut: true},
		} {
			f.ClientID, f.Times = "c", 1
			remove := b.Fault(f)
			b.Publish(text("t", fmt.Sprint(i), 2))
			time.Sleep(time.Minute)
			remove()
			for _, m := range arrived(sub) {
				if string(m.Payload) != fmt.Sprint(i) {
					t.Errorf("%+v: %s", f, shown(m))
				}
			}
			if s := c.Stats(); s.Unacknowledged != 0 {
				t.Errorf("%+v: %+v", f, s)
			}
		}
		if s := c.Stats(); s.Received != 7 || s.Connects != 8 {
			t.Errorf("%+v", s)
		}
	})
}

// PROTOCOL 20: session gone. SUBSCRIBEs as the user gave them, oldest first, eight filters a packet at most, before
// publishes.
func TestResubscribeSessionGone(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"))
		b.Publish(retained("kept", "1", 1))
		sub := subscribe(t, c, "kept", mqtt.AtLeastOnce)
		var more []string
		for i := range 20 {
			more = append(more, fmt.Sprintf("f/%02d", i))
		}
		many := subscribe(t, c, "first", mqtt.Also(2, more...))
		wantArrived(t, sub, "kept=1 q1 retain")
		sent := watch(b, func(p codec.Packet) string { return brief(p) })
		b.Offline()
		b.Publish(retained("kept", "2", 1))
		synctest.Wait()
		d := c.PublishAsync(t.Context(), "f/03", []byte("x"), mqtt.AtLeastOnce)
		b.Forget("c")
		b.Online()
		time.Sleep(2 * time.Minute)
		got := sent.take()
		if v == codec.V311 {
			var packets []string
			for part := range slices.Chunk(append([]string{"first"}, more...), 8) {
				for i, f := range part {
					if part[i] += " q2 rh0"; f == "first" {
						part[i] = "first q0 rh0"
					}
				}
				packets = append(packets, "SUBSCRIBE "+strings.Join(part, ", "))
			}
			want := append(append([]string{"CONNECT", "SUBSCRIBE kept q1 rh0"}, packets...), "PUBLISH 9 f/03 q1")
			if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
				t.Errorf("sent %q\nwant %q", got, want)
			}
		}
		publish := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, "PUBLISH") })
		last := slices.IndexFunc(got, func(s string) bool { return strings.HasSuffix(s, "f/19 q2 rh0") })
		if publish < last || last < 0 {
			t.Errorf("SUBSCRIBEs go before publishes: %q", got)
		}
		wantFate(t, d, nil)
		wantArrived(t, sub, "kept=2 q1 retain")
		wantArrived(t, many, "f/03=x q1")
	})
}

// PROTOCOL 20: session present. On MQTT 5 SUBSCRIBEs are sent again all the same, unawaited, without retained messages;
// on 3.1.1 only WithResubscribeOnResume does that.
func TestResubscribeSessionPresent(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		subscribed(t, p.client, p.Script, "a", mqtt.AtLeastOnce)
		d := p.publish("t", 1)
		p.wantPackets("PUBLISH 2 t q1")
		p.resume()
		if v == codec.V5 {
			p.wantPackets("SUBSCRIBE a q1 rh1")
		}
		p.wantPackets("PUBLISH 2 t q1 dup")
		p.wantSilence()
		p.Send(&codec.Puback{PacketID: 2})
		wantFate(t, d, nil)
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V311, mqtt.WithResubscribeOnResume())
		subscribed(t, p.client, p.Script, "a", mqtt.AtLeastOnce)
		p.resume()
		p.wantPackets("SUBSCRIBE a q1 rh0")
	})
}

// PROTOCOL 20: what is asked of retained messages.
func TestResubscribeRetained(t *testing.T) {
	for _, test := range []struct {
		name          string
		opts          []mqtt.SubscribeOptionV5
		present, gone byte
	}{
		{"default", nil, 1, 0},
		{"if new", []mqtt.SubscribeOptionV5{mqtt.SendRetainedIfNew}, 1, 1},
		{"skip", []mqtt.SubscribeOptionV5{mqtt.SkipRetained}, 2, 2},
		{"not again", []mqtt.SubscribeOptionV5{mqtt.NoRetainedOnResubscribe}, 2, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t)
				c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
				subscribeV5(t, c, "a", test.opts...)
				sent := watchSubscribes(b)
				b.Cut()
				time.Sleep(time.Minute)
				sent.want(t, fmt.Sprintf("a q0 rh%d", test.present))
				b.Forget("c")
				time.Sleep(time.Minute)
				sent.want(t, fmt.Sprintf("a q0 rh%d", test.gone))
			})
		})
	}
}

// DESIGN 4.2: a filter that the server refuses when the subscription is made again ends the subscription with a
// *SubscribeError, and gives its other filters back. Others go on.
func TestResubscribeRefused(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"))
		refused := subscribe(t, c, "a", mqtt.Also(1, "b"))
		other := subscribe(t, c, "c", mqtt.AtLeastOnce)
		left := watchUnsubscribes(b)
		b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if ack, ok := p.(*codec.Suback); ok && len(ack.Codes) > 0 {
				if v == codec.V311 && len(ack.Codes) == 2 {
					ack.Codes[0] = codec.UnspecifiedError
				}
			}
			return true
		})
		if v == codec.V5 {
			b.Fault(mqtttest.Fault{Packet: "SUBACK", Outbound: true, Reason: byte(codec.NotAuthorized), Times: 1})
		}
		b.Forget("c")
		time.Sleep(time.Minute)
		var e *mqtt.SubscribeError
		if err := refused.Err(); !errors.As(err, &e) || len(e.Failures) != 1 || e.Failures[0].Filter != "a" {
			t.Fatalf("the subscription ends with %v", err)
		}
		wantClosed(t, refused)
		left.want(t, "[b]")
		b.Publish(text("c", "x", 1))
		b.Publish(text("b", "x", 1))
		wantArrived(t, other, "c=x q1")
		if s := c.Stats(); s.Unmatched != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A server that comes back without what a filter needs gets no SUBSCRIBE that it would have to end the connection for.
func TestResubscribeUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, poor := mqtttest.NewBroker(t), mqtttest.NewBroker(t, mqtttest.NoWildcards(), mqtttest.NoSharedSubscriptions())
		turns := newTurns(full)
		c := reconnectingV5(t, turns.dial, mqtt.WithClientID("c"))
		wild := subscribeV5(t, c, "a/+")
		shared := subscribeV5(t, c, "$share/g/a")
		plain := subscribeV5(t, c, "a/b", mqtt.AtLeastOnce)
		turns.to(poor)
		full.Offline()
		time.Sleep(time.Minute)
		for sub, code := range map[*mqtt.Subscription]mqtt.ReasonCode{
			wild: mqtt.WildcardSubscriptionsNotSupported, shared: mqtt.SharedSubscriptionsNotSupported,
		} {
			if err := sub.Err(); !errors.Is(err, code) {
				t.Errorf("%v ends with %v, want %v", sub.Filters(), err, code)
			}
		}
		poor.Publish(text("a/b", "x", 1))
		wantArrived(t, plain, "a/b=x q1")
	})
}

// A SUBSCRIBE that is made again and cut before it arrived is made again once more, on 3.1.1 too, although the server
// says then that it has a session: it is the new one, without the subscription.
func TestResubscribeCut(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "SUBSCRIBE", Drop: true, Cut: true, Times: 1})
		b.Forget("c")
		time.Sleep(time.Minute)
		if !c.SessionPresent() || c.Stats().Connects != 3 {
			t.Fatalf("%v, %+v", c.SessionPresent(), c.Stats())
		}
		b.Publish(text("t", "x", 1))
		wantArrived(t, sub, "t=x q1")
	})
}

// PROTOCOL 18: a Subscribe that is cut before SUBACK is sent again, until its ctx ends.
func TestSubscribeAcrossCut(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		sub := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(t.Context(), "a", mqtt.AtLeastOnce) })
		p.wantPackets("SUBSCRIBE a q1 rh0")
		p.resume()
		p.wantPackets("SUBSCRIBE a q1 rh0")
		sub.pending(t, "SUBACK has not come")
		p.renew()
		s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		p.Send(granted(s))
		if f := sub.value(t).Filters(); len(f) != 1 || f[0].Granted != 1 {
			t.Errorf("%+v", f)
		}
		p.wantSilence()
	})
}

// PROTOCOL 18: a Subscribe whose ctx ends, offline or before SUBACK, leaves nothing behind at a server that keeps the
// session.
func TestSubscribeGivenUp(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		sub := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(ctx, "a") })
		p.wantPackets("SUBSCRIBE a q0 rh0")
		if err := sub.wait(); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		p.resume() // who knows whether the server took the SUBSCRIBE
		p.wantPackets("UNSUBSCRIBE a")
		p.resume()
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](p.Script)
		p.Send(unsubscribeAck(v, u))
		synctest.Wait()
		p.Cut()
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := p.client.Subscribe(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		p.accept(&codec.Connack{SessionPresent: true})
		p.wantSilence()
	})
}

// PROTOCOL 19: an Unsubscribe offline, or cut before UNSUBACK, is sent again, and the filter is not subscribed again; a
// new session has nothing to unsubscribe.
func TestUnsubscribeAcrossCut(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		sub, _ := subscribed(t, p.client, p.Script, "a", mqtt.AtLeastOnce)
		left := startErr(func() error { return sub.Unsubscribe(t.Context()) })
		p.wantPackets("UNSUBSCRIBE a")
		p.resume()
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](p.Script)
		p.wantSilence()
		left.pending(t, "UNSUBACK has not come")
		p.Send(unsubscribeAck(v, u))
		if err := left.wait(); err != nil {
			t.Error(err)
		}
		wantClosed(t, sub)

		sub, _ = subscribed(t, p.client, p.Script, "b", mqtt.AtLeastOnce)
		p.Cut()
		synctest.Wait()
		left = startErr(func() error { return sub.Unsubscribe(t.Context()) })
		left.pending(t, "there is no connection")
		p.accept(&codec.Connack{})
		if err := left.wait(); err != nil {
			t.Error(err)
		}
		p.wantSilence()
		wantClosed(t, sub)

		// ctx ends offline: the subscription is gone here at once, and at the server when it is there again.
		sub, _ = subscribed(t, p.client, p.Script, "c", mqtt.AtLeastOnce)
		p.Cut()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := sub.Unsubscribe(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		wantClosed(t, sub)
		p.accept(&codec.Connack{SessionPresent: true})
		p.wantPackets("UNSUBSCRIBE c")
		p.wantSilence()
	})
}

// A filter that two subscriptions hold is unsubscribed when both leave at the same time, in a cut too; and one that is
// subscribed anew meanwhile is subscribed.
func TestLeaveAndComeBackInCut(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		one, two := subscribe(t, c, "t", mqtt.AtLeastOnce), subscribe(t, c, "t", mqtt.AtLeastOnce)
		stay := subscribe(t, c, "u", mqtt.AtLeastOnce)
		leave := subscribe(t, c, "u", mqtt.AtLeastOnce)
		b.Offline()
		synctest.Wait()
		var left []*running[struct{}]
		for _, s := range []*mqtt.Subscription{one, two, leave} {
			left = append(left, startErr(func() error { return s.Unsubscribe(t.Context()) }))
		}
		synctest.Wait()
		b.Online()
		for _, l := range left {
			if err := l.wait(); err != nil {
				t.Error(err)
			}
		}
		b.Publish(text("t", "x", 1))
		b.Publish(text("u", "x", 1))
		wantArrived(t, stay, "u=x q1")
		if s := c.Stats(); s.Unmatched != 0 || s.Received != 1 {
			t.Errorf("%+v", s)
		}

		b.Offline()
		synctest.Wait()
		bye := startErr(func() error { return stay.Unsubscribe(t.Context()) })
		synctest.Wait()
		back := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "u", mqtt.AtLeastOnce) })
		synctest.Wait()
		b.Online()
		if err := bye.wait(); err != nil {
			t.Error(err)
		}
		sub := back.value(t)
		b.Publish(text("u", "y", 1))
		wantArrived(t, sub, "u=y q1")
	})
}

// DESIGN 4.1 offline: QoS 0 fails at once; QoS 1 and 2 wait in order, bounded in messages.
func TestOfflineQueue(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithQueue(3, 1000))
		b.Offline()
		synctest.Wait()
		if err := c.Publish(t.Context(), "t", nil); !errors.Is(err, mqtt.ErrNotConnected) || !mqtt.SafeToRetry(err) {
			t.Errorf("QoS 0 offline: %v", err)
		}
		var d []*mqtt.Delivery
		for i := range 3 {
			d = append(d, c.PublishAsync(t.Context(), "t", fmt.Append(nil, i), mqtt.AtLeastOnce+mqtt.QoS(i%2)))
		}
		if err := c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce); !errors.Is(err, mqtt.ErrQueueFull) || !mqtt.SafeToRetry(err) {
			t.Errorf("a full queue: %v", err)
		}
		if s := c.Stats(); s.Queued != 3 || s.QueueBytes != 6 {
			t.Errorf("%+v", s)
		}
		if !d[1].Withdraw() || d[1].Withdraw() || !mqtt.SafeToRetry(d[1].Err()) {
			t.Errorf("withdrawn: %v", d[1].Err())
		}
		d = append(d, c.PublishAsync(t.Context(), "t", []byte("3"), mqtt.AtLeastOnce))
		if err := c.Publish(t.Context(), "t", make([]byte, 1000), mqtt.AtLeastOnce); !errors.Is(err, mqtt.ErrQueueFull) {
			t.Errorf("too many: %v", err)
		}
		b.Online()
		wantFate(t, d[0], nil)
		wantFate(t, d[2], nil)
		wantFate(t, d[3], nil)
		var got string
		for _, m := range b.Received("t") {
			got += string(m.Payload)
		}
		if got != "023" {
			t.Errorf("arrived in order %s", got)
		}
	})
}

// DESIGN 4.1: publishes that wait for room when the connection is lost are told at once what holds offline.
func TestLossEndsTheWaitForRoom(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v, mqtt.WithQueue(1, 1000), mqtt.WithMaxInFlight(1), mqtt.WithPingTimeout(time.Hour))
		for range 2 { // one in flight, one in the queue
			wantOpen(t, p.publish("t", 1))
		}
		for p.client.Publish(endingIn(t, time.Second), "t", make([]byte, 100_000)) == nil {
		}
		waits := make([]<-chan error, 3)
		for qos := range waits {
			waits[qos] = calling(func() error { return p.client.Publish(t.Context(), "t", nil, mqtt.QoS(qos)) })
			stillWaits(t, waits[qos])
		}
		p.offline()
		for qos, want := range []error{mqtt.ErrNotConnected, mqtt.ErrQueueFull, mqtt.ErrQueueFull} {
			select {
			case err := <-waits[qos]:
				wantErr(t, err, want, true)
			default:
				t.Errorf("a publish at QoS %d still waits", qos)
			}
		}
	})
}

// PROTOCOL 5: offline, what the last CONNACK does not allow is refused at once, and takes no place in the queue.
func TestLimitsOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		p.Cut()
		maximum, no := byte(1), false
		p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{
			MaximumQoS: &maximum, RetainAvailable: &no, MaximumPacketSize: 100,
		}})
		synctest.Wait()
		p.offline()
		wantErr(t, p.publish("t", 2).Err(), mqtt.QoSNotSupported, true)
		wantErr(t, p.client.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce, mqtt.Retain), mqtt.RetainNotSupported, true)
		wantErr(t, p.client.Publish(t.Context(), "t", make([]byte, 100), mqtt.AtLeastOnce), mqtt.PacketTooLarge, true)
		if s := p.client.Stats(); s.Queued != 0 {
			t.Errorf("%+v", s)
		}
		wantOpen(t, p.publish("t", 1))
	})
}

// DESIGN 4.1 offline: the queue is bounded in bytes; a Publish whose ctx ends is withdrawn and makes room.
func TestOfflineQueueBytesAndWithdrawal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithQueue(100, 1000))
		b.Offline()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Publish(ctx, "t", make([]byte, 999), mqtt.AtLeastOnce); !errors.Is(err, context.DeadlineExceeded) || !mqtt.SafeToRetry(err) {
			t.Errorf("ctx ends: %v", err)
		}
		keep := c.PublishAsync(t.Context(), "t", make([]byte, 900), mqtt.AtLeastOnce)
		if err := c.Publish(t.Context(), "t", make([]byte, 200), mqtt.AtLeastOnce); !errors.Is(err, mqtt.ErrQueueFull) {
			t.Errorf("too many bytes: %v", err)
		}
		b.Online()
		wantFate(t, keep, nil)
		if n := len(b.Received("t")); n != 1 {
			t.Errorf("%d messages", n)
		}
	})
}

// DESIGN 4.1: by default the queue takes 10,000 messages and 64 MiB.
func TestOfflineQueueByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		large := make([]byte, 1<<20-1)
		for _, c := range []struct {
			payload []byte
			most    int
		}{{nil, 10_000}, {large, 64}} {
			p := newPair(t, codec.V5)
			p.offline()
			for range c.most {
				noErr(t, p.client.PublishAsync(t.Context(), "t", c.payload, mqtt.AtLeastOnce).Err())
			}
			wantErr(t, p.client.Publish(endingIn(t, time.Minute), "t", c.payload, mqtt.AtLeastOnce), mqtt.ErrQueueFull, true)
			noErr(t, p.client.Close())
		}
	})
}

// PROTOCOL 6: the Message Expiry Interval counts while a message waits offline; a message in flight is resent all the
// same, with one second at least.
func TestExpiryOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
		seen := watch(b, func(p *codec.Publish) string {
			return fmt.Sprintf("%s %v %v", p.Topic, p.Dup, p.Properties.MessageExpiry)
		})
		publish := func(topic string, expiry time.Duration) *mqtt.Delivery {
			return c.PublishAsync(t.Context(), topic, nil, mqtt.AtLeastOnce, &mqtt.PublishProperties{MessageExpiry: expiry})
		}
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Drop: true, Times: 1})
		flying := publish("flying", 100*time.Second)
		synctest.Wait()
		b.Offline()
		synctest.Wait()
		short, long := publish("short", 100*time.Second), publish("long", 1000*time.Second)
		time.Sleep(300*time.Second + time.Millisecond)
		b.Online()
		wantFate(t, short, mqtt.ErrExpired)
		if !mqtt.SafeToRetry(short.Err()) {
			t.Error("an expired message was not sent")
		}
		wantFate(t, long, nil)
		wantFate(t, flying, nil)
		sent := seen.take()
		if len(sent) != 3 || sent[1] != "flying false 1s" && sent[1] != "flying true 1s" || !strings.HasPrefix(sent[2], "long false 1") && !strings.HasPrefix(sent[2], "long false 6") {
			t.Errorf("sent %q", sent)
		}
		if s := c.Stats(); s.Expired != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// DESIGN 4.1: a Publish whose ctx ends after the message was sent says that the outcome is unknown; the message stays in
// flight across cuts, and its payload may be used again.
func TestAbandonedPublishIsResent(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		payload := []byte("before")
		sent := startErr(func() error { return p.client.Publish(ctx, "t", payload, mqtt.AtLeastOnce) })
		p.wantPackets("PUBLISH 1 t q1")
		p.Cut()
		if err := sent.wait(); !errors.Is(err, mqtt.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) || mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
		copy(payload, "after!")
		p.accept(&codec.Connack{SessionPresent: true})
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); string(m.Payload) != "before" || !m.Dup {
			t.Errorf("%+v", m)
		}
		p.renew()
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); string(m.Payload) != "before" || m.Dup || m.PacketID == 1 {
			t.Errorf("%+v", m)
		}
		p.Send(&codec.Puback{PacketID: 2})
		synctest.Wait()
		if s := p.client.Stats(); s.InFlight != 0 || s.Queued != 0 || s.Published != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// DESIGN 4.1: the same when it ends between a lost session and the new connection.
func TestAbandonedWhileSessionRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first := p.publish("t/1", 1)
		payload := []byte("before")
		sent := startErr(func() error { return p.client.Publish(ctx, "t/2", payload, mqtt.AtLeastOnce) })
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q1")
		p.Cut()
		p.accept(&codec.Connack{Properties: codec.ConnackProperties{ReceiveMaximum: 1}})
		p.wantPackets("PUBLISH 3 t/1 q1")
		cancel() // t/2 waits for the window
		if err := sent.wait(); !errors.Is(err, mqtt.ErrOutcomeUnknown) {
			t.Error(err)
		}
		copy(payload, "after!")
		p.Send(&codec.Puback{PacketID: 3})
		wantFate(t, first, nil)
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); string(m.Payload) != "before" || m.PacketID != 4 {
			t.Errorf("%+v", m)
		}
	})
}

// DESIGN 4.4: the client identifier that the server assigned is kept.
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

// PROTOCOL 21 and 29: what CONNECT and DISCONNECT say of the session's expiry.
// [MQTT-3.1.2.11.2]
func TestSessionExpiryOnTheWire(t *testing.T) {
	forever := uint32(1<<32 - 1)
	five, hour, minute, none := uint32(300), uint32(3600), uint32(60), uint32(0)
	for name, test := range map[string]struct {
		opts                []mqtt.OptionV5
		connect, disconnect *uint32
		end                 func(context.Context, mqtt.ClientV5) error
	}{
		"default, Close":      {nil, &five, &none, func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"default, Disconnect": {nil, &five, &none, func(ctx context.Context, c mqtt.ClientV5) error { return c.Disconnect(ctx) }},
		"given, Close": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, nil,
			func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"given, Disconnect": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, nil,
			func(ctx context.Context, c mqtt.ClientV5) error { return c.Disconnect(ctx) }},
		"given, KeepSession": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, &minute,
			func(ctx context.Context, c mqtt.ClientV5) error {
				return c.Disconnect(ctx, mqtt.KeepSession(time.Minute))
			}},
		"given, KeepSession 0": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, &none,
			func(ctx context.Context, c mqtt.ClientV5) error { return c.Disconnect(ctx, mqtt.KeepSession(0)) }},
		"default, KeepSession": {nil, &five, &minute,
			func(ctx context.Context, c mqtt.ClientV5) error {
				return c.Disconnect(ctx, mqtt.KeepSession(time.Minute))
			}},
		"none": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(0)}, nil, nil,
			func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"never": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(mqtt.SessionNeverExpires)}, &forever, nil,
			func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"Reconnect": {nil, &five, nil, func(ctx context.Context, c mqtt.ClientV5) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if err := c.Reconnect(ctx); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("Reconnect returns %v", err)
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mqtttest.NewServer(t, codec.V5)
				c := start(func() (mqtt.ClientV5, error) { return reconnectingV5(t, server.DialContext, test.opts...), nil })
				s := server.Accept()
				if p := mqtttest.ReceiveAs[*codec.Connect](s); !equal(p.Properties.SessionExpiry, test.connect) {
					t.Errorf("CONNECT says %v", p.Properties.SessionExpiry)
				}
				s.Send(&codec.Connack{})
				client := c.value(t)
				ended := startErr(func() error { return test.end(t.Context(), client) })
				if p := mqtttest.ReceiveAs[*codec.Disconnect](s); !equal(p.SessionExpiry, test.disconnect) || p.Code != 0 {
					t.Errorf("DISCONNECT says %v, %v", p.Code, p.SessionExpiry)
				}
				s.Close()
				if err := ended.wait(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// PROTOCOL 21: a client that asks for the session of an earlier one starts its packet identifiers at a random point, and
// its subscription identifiers too, so that it does not take the earlier one's for its own.
func TestIdentifiersOfResumedSession(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		ids, subscriptions := make(map[uint16]bool), make(map[uint32]bool)
		for range 5 {
			server := mqtttest.NewServer(t, v)
			c := start(func() (mqtt.Client, error) {
				return reconnectingAs(t, v, server.DialContext, mqtt.WithCleanStart(false), mqtt.WithClientID("c")), nil
			})
			s := server.Accept()
			mqtttest.ReceiveAs[*codec.Connect](s)
			s.Send(&codec.Connack{SessionPresent: true})
			c.value(t).PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
			ids[mqtttest.ReceiveAs[*codec.Publish](s).PacketID] = true
			_, p := subscribing(t, c.value(t), s, "t")
			subscriptions[p.SubscriptionIdentifier] = true
		}
		if len(ids) == 1 {
			t.Errorf("five clients begin with the same packet identifier: %v", ids)
		}
		if v == codec.V5 && len(subscriptions) == 1 {
			t.Errorf("five clients begin with the same subscription identifier: %v", subscriptions)
		}
	})
}

// A program's tests run one after another, each in a bubble of its own.
func TestPublishInSeveralBubbles(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			c := reconnectingV5(t, mqtttest.NewBroker(t).DialContext)
			if err := c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server that has lost the session begins a new one, and the connection is cut before its CONNACK: at the next connect
// a session is present, but without the subscriptions.
func TestSessionRenewedUnseen(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "CONNACK", Outbound: true, Drop: true, Cut: true, Times: 1})
		b.Forget("c")
		time.Sleep(time.Minute)
		if !c.SessionPresent() || c.Stats().Connects != 2 {
			t.Fatalf("%v, %+v", c.SessionPresent(), c.Stats())
		}
		b.Publish(text("t", "x", 1))
		wantArrived(t, sub, "t=x q1")
	})
}

// After a CONNECT without an answer the server may have begun a session without the subscriptions. As soon as a message
// shows that it has not, one that matches two filters of a subscription comes once again.
func TestSessionKeptUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, codec.V5, b.DialContext, mqtt.WithClientID("c"))
		sub := subscribe(t, c, "+/+", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/#", "#"))
		b.Fault(mqtttest.Fault{Packet: "CONNACK", Outbound: true, Drop: true, Cut: true, Times: 1})
		b.Cut("c")
		b.Publish(text("a/b", "x", 2))
		b.Publish(text("a/b", "y", 2))
		time.Sleep(time.Minute)
		if !c.SessionPresent() || c.Stats().Connects != 2 {
			t.Fatalf("%v, %+v", c.SessionPresent(), c.Stats())
		}
		wantArrived(t, sub, "a/b=x q2 dup", "a/b=y q2 dup")
	})
}

// PROTOCOL 20: a server that has kept the session and refuses a SUBSCRIBE that is made again has the filter still: it is
// unsubscribed, because the subscription has ended.
func TestResubscribeRefusedSessionPresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, codec.V5, b.DialContext, mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "SUBSCRIBE", Times: 1, Reason: byte(mqtt.NotAuthorized)})
		sent := watchUnsubscribes(b)
		b.Cut("c")
		<-sub.Done()
		if err := sub.Err(); !errors.Is(err, mqtt.NotAuthorized) {
			t.Errorf("the subscription ends with %v", err)
		}
		sent.want(t, "[t]")
	})
}

// PROTOCOL 19: an UNSUBSCRIBE without an answer is not sent again after the filter has been subscribed anew: it would take it
// away for good.
func TestLeaveUnansweredAndComeBack(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		leave, other := subscribe(t, c, "t", mqtt.AtLeastOnce), subscribe(t, c, "u", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "UNSUBACK", Outbound: true, Drop: true, Times: 2})
		var left []*running[struct{}]
		for _, sub := range []*mqtt.Subscription{leave, other} {
			left = append(left, startErr(func() error { return sub.Unsubscribe(t.Context()) }))
		}
		left[0].pending(t, "UNSUBACK is lost")
		back := subscribe(t, c, "t", mqtt.AtLeastOnce)
		sent := watchUnsubscribes(b)
		b.Cut("c")
		for _, l := range left {
			if err := l.wait(); err != nil {
				t.Error(err)
			}
		}
		sent.want(t, "[u]")
		b.Publish(text("t", "x", 1))
		wantArrived(t, back, "t=x q1")
	})
}

// PROTOCOL 12: an Ack between our DISCONNECT and the end of the connection is not thrown away: the message comes again and
// is acknowledged, and reaches nobody.
func TestAckWhileReconnecting(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		subscribing := start(func() (*mqtt.Subscription, error) {
			return p.client.Subscribe(t.Context(), "t", mqtt.AtLeastOnce, mqtt.ManualAck)
		})
		q := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		p.Send(&codec.Suback{PacketID: q.PacketID, Codes: []codec.ReasonCode{1}})
		sub := subscribing.value(t)
		p.Send(&codec.Publish{Topic: "t", QoS: 1, PacketID: 7})
		m, err := sub.Next(t.Context())
		noErr(t, err)
		reconnecting := calling(func() error { return p.client.Reconnect(t.Context()) })
		mqtttest.ReceiveAs[*codec.Disconnect](p.Script)
		noErr(t, m.Ack())
		p.accept(&codec.Connack{SessionPresent: true})
		noErr(t, outcome(t, reconnecting))
		p.Send(&codec.Publish{Topic: "t", QoS: 1, PacketID: 7, Dup: true})
		synctest.Wait()
		select {
		case m := <-sub.Messages():
			t.Errorf("delivered again: %+v", m)
		default:
		}
	})
}

// However many filters are subscribed again, a thousand SUBSCRIBEs are on their way at a time: there may be more filters
// than packet identifiers.
func TestResubscribeThousandsOfFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const subscriptions, filters = 3, 1000
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
		var subs []*mqtt.Subscription
		for i := range subscriptions {
			more := make([]string, filters-1)
			for n := range more {
				more[n] = fmt.Sprintf("%d/%d", i, n)
			}
			subs = append(subs, subscribeV5(t, c, fmt.Sprintf("%d/last", i), mqtt.AtLeastOnce, mqtt.Also(mqtt.AtLeastOnce, more...)))
		}
		var mu sync.Mutex
		var unanswered, most int
		b.Intercept(func(_ string, _ bool, p codec.Packet) bool {
			mu.Lock()
			defer mu.Unlock()
			switch p.(type) {
			case *codec.Subscribe:
				unanswered++
				most = max(most, unanswered)
			case *codec.Suback:
				unanswered--
			}
			return true
		})
		b.Forget("c")
		noErr(t, c.Reconnect(t.Context()))
		synctest.Wait()
		if most > 1000 || most < 10 {
			t.Errorf("at most %d SUBSCRIBEs without an answer", most)
		}
		for i, s := range subs {
			noErr(t, s.Err())
			b.Publish(text(fmt.Sprintf("%d/%d", i, i), "x", 1))
			wantArrived(t, s, fmt.Sprintf("%d/%d=x q1", i, i))
		}
	})
}

// An Ack that comes when the connection is about to end over a broken packet cannot go out any more: it goes out when the
// server sends the message again, which is not delivered again.
func TestAckAfterRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.AtLeastOnce, mqtt.ManualAck)
		message := &codec.Publish{Topic: "t", QoS: 1, PacketID: 1}
		p.Send(message)
		m := <-sub.Messages()
		p.SendBytes(0, 0)
		p.Expect(&codec.Disconnect{Code: codec.MalformedPacket})
		noErr(t, m.Ack())
		p.ExpectEOF()
		p.Close()
		p.accept(&codec.Connack{SessionPresent: true})
		p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
		message.Dup = true
		p.Send(message)
		p.Expect(&codec.Puback{PacketID: 1})
		wantArrived(t, sub)
	})
}

// A message that matches two filters of a subscription comes once, also when a CONNECT got no answer between its copies: a
// message that the server sends again shows that it has kept the session, and with it both filters, even if their
// SUBACKs never came.
func TestResumeBetweenCopies(t *testing.T) {
	for _, c := range []struct {
		name           string
		first, second  string // the filters of the copies of the message
		answered, lost bool   // whether SUBACKs came before the cut, and a CONNECT got no answer
	}{
		{"for the first filter first", "a/+", "a/b", false, false},
		{"for the second filter first", "a/b", "a/+", false, false},
		{"for the first filter first, and a CONNECT", "a/+", "a/b", false, true},
		{"for the second filter first, and a CONNECT", "a/b", "a/+", false, true},
		{"granted, and a CONNECT", "a/+", "a/b", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, codec.V5)
				subscribing := start(func() (*mqtt.Subscription, error) {
					return p.client.Subscribe(t.Context(), "a/+", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/b"))
				})
				ids := map[string]uint32{}
				for range 2 {
					s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
					ids[s.Filters[0].Filter] = s.SubscriptionIdentifier
					if c.answered {
						p.Send(granted(s))
					}
				}
				message := func(dup bool, id uint16, payload, filter string) *codec.Publish {
					return &codec.Publish{
						Topic: "a/b", QoS: 2, Dup: dup, PacketID: id, Payload: []byte(payload),
						SubscriptionIdentifiers: []uint32{ids[filter]},
					}
				}
				p.Send(message(false, 1, "x", c.first), message(false, 2, "x", c.second), message(false, 3, "M", c.first))
				synctest.Wait()
				p.Cut()
				if c.lost {
					s := p.server.Accept()
					mqtttest.ReceiveAs[*codec.Connect](s)
					s.Close()
				}
				p.accept(&codec.Connack{SessionPresent: true})
				p.Send(message(true, 1, "x", c.first), message(true, 2, "x", c.second), message(true, 3, "M", c.first))
				p.Send(message(false, 4, "M", c.second))
				for subscribed := 0; subscribed < 2; {
					if s, ok := p.Receive().(*codec.Subscribe); ok {
						p.Send(granted(s))
						subscribed++
					}
				}
				n := 0
				for _, m := range arrived(subscribing.value(t)) {
					if string(m.Payload) == "M" {
						n++
					}
				}
				if n != 1 {
					t.Errorf("it comes %d times", n)
				}
			})
		})
	}
}

// A message that comes again ends the doubt, after a CONNECT without an answer, whether the server has the filters, although
// it is for nobody: a new message that matches two of them comes once, also if its copies come before the SUBACKs.
func TestResumeProvedByRepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		subscribing := start(func() (*mqtt.Subscription, error) {
			return p.client.Subscribe(t.Context(), "a/+", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/b"))
		})
		identifiers := func(grant bool) (ids []uint32) {
			for len(ids) < 2 {
				if s, ok := p.Receive().(*codec.Subscribe); ok {
					ids = append(ids, s.SubscriptionIdentifier)
					if grant {
						p.Send(granted(s))
					}
				}
			}
			return ids
		}
		message := func(dup bool, id uint16, payload string, identifier uint32) {
			p.Send(&codec.Publish{
				Topic: "a/b", QoS: 2, Dup: dup, PacketID: id, Payload: []byte(payload), SubscriptionIdentifiers: []uint32{identifier},
			})
		}
		old := identifiers(true)
		sub := subscribing.value(t)
		message(false, 1, "old", old[0])
		synctest.Wait()
		p.Cut()
		s := p.server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Close()
		p.accept(&codec.Connack{SessionPresent: true})
		message(true, 1, "old", old[0])
		ids := identifiers(false)
		message(false, 2, "new", ids[1])
		message(false, 3, "new", ids[0])
		wantArrived(t, sub, "a/b=old q2", "a/b=new q2")
	})
}

// Messages that were queued while there was no connection are sent right after those that are sent again, without waiting
// for an acknowledgement.
// [MQTT-4.6.0-1] [MQTT311-4.6.0-1]
func TestQueueFollowsResends(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		p.publish("t/1", mqtt.AtLeastOnce)
		p.publish("t/2", mqtt.ExactlyOnce)
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q2")
		p.Cut()
		synctest.Wait()
		p.publish("t/3", mqtt.AtLeastOnce)
		p.accept(&codec.Connack{SessionPresent: true})
		p.wantPackets("PUBLISH 1 t/1 q1 dup", "PUBLISH 2 t/2 q2 dup", "PUBLISH 3 t/3 q1")
		p.wantSilence()
	})
}

// When the server loses the session a second time, while some messages of the first loss still wait to be published
// again, all messages keep their order: first those that were published again, then those that still wait.
// [MQTT-3.2.2-5]
func TestOrderAfterSecondLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		for i := range 4 {
			p.publish(fmt.Sprintf("t/%d", i+1), mqtt.AtLeastOnce)
			p.Receive()
		}
		p.Cut()
		p.accept(&codec.Connack{Properties: codec.ConnackProperties{ReceiveMaximum: 2}})
		p.wantPackets("PUBLISH 5 t/1 q1", "PUBLISH 6 t/2 q1")
		p.wantSilence()
		p.renew()
		p.wantPackets("PUBLISH 7 t/1 q1", "PUBLISH 8 t/2 q1", "PUBLISH 9 t/3 q1", "PUBLISH 10 t/4 q1")
		p.wantSilence()
	})
}

// A message that the server sends as a resend, and that has other content than the message of the same packet identifier
// that still waits for its Ack, is another message: the server has lost its state and used the identifier again.
func TestResendWithOtherContent(t *testing.T) {
	for name, other := range map[string]codec.Publish{
		"payload": {Topic: "t/a", Payload: []byte("y")},
		"topic":   {Topic: "t/b", Payload: []byte("x")},
	} {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("%s/QoS %d", name, qos), func(t *testing.T) {
				inBothVersions(t, func(t *testing.T, v codec.Version) {
					p := newPair(t, v)
					sub, _ := subscribed(t, p.client, p.Script, "t/+", mqtt.QoS(qos), mqtt.ManualAck)
					p.Send(&codec.Publish{Topic: "t/a", PacketID: 10, QoS: qos, Payload: []byte("x")})
					old := wantArrived(t, sub, fmt.Sprintf("t/a=x q%d", qos))
					p.resume()
					if v == codec.V5 {
						p.wantPackets(fmt.Sprintf("SUBSCRIBE t/+ q%d rh1", qos))
					}
					m := other
					m.PacketID, m.QoS, m.Dup = 10, qos, true
					p.Send(&m)
					synctest.Wait()
					another := wantArrived(t, sub, fmt.Sprintf("%s=%s q%d dup", m.Topic, m.Payload, qos))
					if err := old[0].Ack(); !errors.Is(err, mqtt.ErrSessionLost) {
						t.Errorf("Ack of the old message returns %v", err)
					}
					p.wantSilence()
					if len(another) == 1 {
						noErr(t, another[0].Ack())
						p.wantPackets(map[byte]string{1: "PUBACK 10", 2: "PUBREC 10"}[qos])
					}
				})
			})
		}
	}
}

// A subscription that ends also settles its messages of an earlier connection: when the server sends them again they are
// acknowledged at once, although the subscription that they waited for is gone.
func TestEndSettlesEarlierConnections(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mqtttest.NewServer(t, codec.V5)
				p := &pair{t: t, server: server}
				c := start(func() (mqtt.ClientV5, error) {
					return reconnectingV5(t, server.DialContext, mqtt.WithKeepAlive(0)), nil
				})
				p.accept(&codec.Connack{})
				client := c.value(t)
				subscribes := start(func() (*mqtt.Subscription, error) {
					return client.Subscribe(t.Context(), "t", mqtt.QoS(qos), mqtt.ManualAck, mqtt.EndIfStalled(time.Minute))
				})
				p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
				sub := subscribes.value(t)
				early := toT(qos, 10, "early")
				p.Send(early)
				wantArrived(t, sub, fmt.Sprintf("t=early q%d", qos))
				p.resume()
				p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
				p.Send(toT(qos, 11, "late")) // stalls, while the server has not sent the early one again yet
				ack := map[byte]string{1: "PUBACK", 2: "PUBREC"}[qos]
				p.wantPackets("UNSUBSCRIBE t", ack+" 11")
				if err := sub.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
					t.Errorf("the subscription ends with %v", err)
				}
				early.Dup = true
				begin := time.Now()
				p.Send(early)
				p.wantPackets(ack + " 10")
				if took := time.Since(begin); took > 0 { // and not only when it has stalled as well
					t.Errorf("the early message was acknowledged after %v", took)
				}
			})
		})
	}
}
