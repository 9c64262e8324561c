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

// A SUBSCRIBE carries at most 8 filters; with subscription identifiers each filter has a packet of its own.
// [MQTT-3.2.2.3.12] [MQTT-3.8.4-5] [MQTT311-3.8.4-4]
func TestSubscribeManyFilters(t *testing.T) {
	filters := func(n int) (f []string) {
		for i := range n {
			f = append(f, fmt.Sprintf("f/%02d", i))
		}
		return f
	}
	test := func(t *testing.T, v codec.Version, want []int, opts ...mqtttest.Option) {
		b := mqtttest.NewBroker(t, opts...)
		c := dialAs(t, v, b.DialContext)
		var packets []int
		w := watch(b, func(p *codec.Subscribe) string { packets = append(packets, len(p.Filters)); return "" })
		unsubscribes := watch(b, func(p *codec.Unsubscribe) string { return fmt.Sprint(len(p.Filters)) })
		f := filters(19)
		sub := subscribe(t, c, f[0], mqtt.AtLeastOnce, mqtt.Also(mqtt.ExactlyOnce, f[1:]...))
		w.take()
		if !slices.Equal(packets, want) {
			t.Errorf("SUBSCRIBEs of %v filters, want %v", packets, want)
		}
		for i, got := range sub.Filters() {
			qos := mqtt.ExactlyOnce
			if i == 0 {
				qos = mqtt.AtLeastOnce
			}
			if want := (mqtt.Filter{Filter: f[i], QoS: qos, Granted: qos}); got != want {
				t.Errorf("filter %+v, want %+v", got, want)
			}
		}
		if err := sub.Unsubscribe(t.Context()); err != nil {
			t.Error(err)
		}
		unsubscribes.want(t, "8", "8", "3")
	}
	t.Run("3.1.1", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, codec.V311, []int{8, 8, 3}) })
	})
	t.Run("5.0", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, codec.V5, slices.Repeat([]int{1}, 19)) })
	})
	t.Run("5.0 without identifiers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, codec.V5, []int{8, 8, 3}, mqtttest.NoSubscriptionIdentifiers()) })
	})
}

// [MQTT-3.2.2-15]: a SUBSCRIBE or UNSUBSCRIBE that the server would not take is not sent, but filters that fit in
// several packets are not refused because they do not fit in one.
func TestSubscribeMaximumPacketSize(t *testing.T) {
	const limit = 50 // SUBSCRIBE: 2 + 2 + 1 + 2 for the identifier + 2 + filter + 1
	long := strings.Repeat("x", limit-10)
	for _, identifiers := range []bool{true, false} {
		t.Run(fmt.Sprint("identifiers ", identifiers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []mqtttest.Option{mqtttest.MaximumPacketSize(limit)}
				if !identifiers {
					opts = append(opts, mqtttest.NoSubscriptionIdentifiers())
				}
				b := mqtttest.NewBroker(t, opts...)
				c := dialV5(t, b.DialContext)
				packets := watch(b, func(p *codec.Subscribe) string { return fmt.Sprint(len(p.Filters)) })
				unsubscribes := watch(b, func(p *codec.Unsubscribe) string { return fmt.Sprint(len(p.Filters)) })
				_, err := c.Subscribe(t.Context(), long+"yyy")
				if !errors.Is(err, mqtt.PacketTooLarge) || !mqtt.SafeToRetry(err) {
					t.Errorf("%v", err)
				}
				packets.want(t)
				sub := subscribeV5(t, c, long, mqtt.Also(0, "a/aaaaaaaaaaaaaa", "b/bbbbbbbbbbbbb", "c/cccccccccccccc", "d"))
				b.Publish(text("d", "x", 0))
				wantArrived(t, sub, "d=x q0")
				if err := sub.Unsubscribe(t.Context()); err != nil {
					t.Error(err)
				}
				if got := len(unsubscribes.take()); got < 2 || got > 4 {
					t.Errorf("%d UNSUBSCRIBEs", got)
				}
				wantClosed(t, sub)
			})
		})
	}
}

// A Subscribe with more filters than there are packet identifiers sends a thousand SUBSCRIBEs at a time, and tells what
// became of each; when one is refused it does not go on.
func TestSubscribeThousandsOfFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		filters := make([]string, 2500)
		for n := range filters {
			filters[n] = fmt.Sprint("f/", n)
		}
		b := mqtttest.NewBroker(t)
		var mu sync.Mutex
		var unanswered, most, all int
		refuses := false
		b.Intercept(func(_ string, _ bool, p codec.Packet) bool {
			mu.Lock()
			defer mu.Unlock()
			switch p := p.(type) {
			case *codec.Subscribe:
				all++
				unanswered++
				most = max(most, unanswered)
			case *codec.Suback:
				unanswered--
				if all >= 3000 && !refuses {
					refuses = true
					p.Codes[0] = codec.NotAuthorized
				}
			}
			return true
		})
		c := dialV5(t, b.DialContext)
		sub := subscribeV5(t, c, "last", mqtt.AtLeastOnce, mqtt.Also(mqtt.AtLeastOnce, filters...))
		if all != len(filters)+1 || most > 1000 {
			t.Errorf("%d SUBSCRIBEs, at most %d without an answer", all, most)
		}
		for _, f := range sub.Filters() {
			if f.Granted != mqtt.AtLeastOnce {
				t.Fatalf("%+v", f)
			}
		}
		noErr(t, sub.Unsubscribe(t.Context()))
		_, err := c.Subscribe(t.Context(), "last", mqtt.Also(mqtt.AtLeastOnce, filters...))
		var refused *mqtt.SubscribeError
		if !errors.As(err, &refused) || len(refused.Failures) != 1 || all > 4500 {
			t.Errorf("refused with %v after %d SUBSCRIBEs", err, all)
		}
		c.Close()
	})
}

// With a ctx that has ended nothing is sent, as with a publish.
func TestSubscribeCancelledBefore(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Subscribe(ctx, "a")
		wantErr(t, err, context.Canceled, true)
		s.ExpectSilence(time.Second)
	})
}

// When ctx ends before SUBACK the subscription is gone, its packet identifier is taken until SUBACK comes,
// and what that grants and nobody else holds is unsubscribed.
func TestSubscribeCancelled(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		abandoned := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a", mqtt.AtLeastOnce) })
		p := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		if err := abandoned.wait(); !errors.Is(err, context.Canceled) || mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
		s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1}) // nobody's: acknowledged and counted
		s.Expect(&codec.Puback{PacketID: 1})
		if n := c.Stats().Unmatched; n != 1 {
			t.Errorf("%d messages unmatched", n)
		}
		other, _ := subscribed(t, c, s, "b")
		_, q := subscribing(t, c, s, "c")
		if q.PacketID == p.PacketID {
			t.Error("the packet identifier is used again before SUBACK")
		}
		s.Send(granted(p))
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		if !slices.Equal(u.Filters, []string{"a"}) {
			t.Errorf("UNSUBSCRIBE %v", u.Filters)
		}
		s.Send(unsubscribed(v, u))
		s.Send(&codec.Publish{Topic: "b", Payload: []byte("x")})
		wantArrived(t, other, "b=x q0")
	})
}

// The same with ManualAck, when a message has come for it because another subscription has the filter: nobody else can
// acknowledge that.
func TestSubscribeCancelledWithManualAck(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		subscribed(t, c, s, "a", mqtt.AtLeastOnce)
		ctx, cancel := context.WithCancel(t.Context())
		abandoned := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a", mqtt.AtLeastOnce, mqtt.ManualAck) })
		mqtttest.ReceiveAs[*codec.Subscribe](s)
		for id := uint16(1); id <= 2; id++ {
			s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: id})
		}
		abandoned.pending(t, "SUBACK has not come")
		cancel()
		_ = abandoned.wait()
		s.Expect(&codec.Puback{PacketID: 1})
		s.Expect(&codec.Puback{PacketID: 2})
	})
}

// As before, except that another subscription takes the filter before the SUBACK: it stays.
func TestSubscribeCancelledAndTakenOver(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		abandoned := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a") })
		p := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		abandoned.wait()
		second, q := subscribing(t, c, s, "a")
		s.Send(granted(p), granted(q))
		second.value(t)
		s.ExpectSilence(time.Second)
		s.Send(&codec.Publish{Topic: "a", Payload: []byte("x")})
		wantArrived(t, second.value(t), "a=x q0")
	})
}

// What a cancelled Subscribe was granted is unsubscribed also if its only other holder leaves just then.
func TestSubscribeCancelledWhileOtherLeaves(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		first, _ := subscribed(t, c, s, "a")
		leaving := startErr(func() error { return first.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		ctx, cancel := context.WithCancel(t.Context())
		second := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "a") })
		p := mqtttest.ReceiveAs[*codec.Subscribe](s)
		cancel()
		second.wait()
		s.Send(unsubscribed(v, u), granted(p))
		leaving.value(t)
		u = mqtttest.ReceiveAs[*codec.Unsubscribe](s)
		s.Send(unsubscribed(v, u))
		s.ExpectSilence(time.Second)
	})
}

// The client's end fails a Subscribe that waits for SUBACK.
func TestSubscribeAtTheEnd(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribing(t, c, s, "a")
		s.Cut()
		if err := sub.wait(); !errors.Is(err, mqtt.ErrConnectionLost) || mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
		if _, err := c.Subscribe(t.Context(), "a"); !errors.Is(err, mqtt.ErrConnectionLost) || !mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
	})
}
