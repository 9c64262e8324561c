package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// A Subscribe whose ctx ends, offline or before SUBACK, leaves nothing behind at a server that keeps the
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
		p.Send(unsubscribed(v, u))
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

// An Unsubscribe offline, or cut before UNSUBACK, is sent again, and the filter is not subscribed again; a
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
		p.Send(unsubscribed(v, u))
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

// An UNSUBSCRIBE without an answer is not sent again after the filter has been subscribed anew: it would take it
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
