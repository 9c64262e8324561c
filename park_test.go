package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// An earlier process has left a session with a subscription, and messages have come since.
func leaveSession(t *testing.T, ctx context.Context, b *mqtttest.Broker, filter string, messages int) {
	t.Helper()
	c, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithClientID("service"), mqtt.WithSessionExpiry(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(ctx, filter, mqtt.AtLeastOnce); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for i := range messages {
		b.Publish(mqtttest.Message{Topic: "a/b", Payload: fmt.Append(nil, i), QoS: 1})
	}
}

func resume(t *testing.T, ctx context.Context, b *mqtttest.Broker, opts ...mqtt.OptionV5) mqtt.ClientV5 {
	t.Helper()
	opts = append([]mqtt.OptionV5{mqtt.WithDialer(b.DialContext), mqtt.WithClientID("service"),
		mqtt.WithSessionExpiry(time.Hour), mqtt.WithCleanStart(false)}, opts...)
	c, err := mqtt.NewClient(ctx, "mqtt://test", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What comes before the application has subscribed waits, in order, and is acknowledged when it is taken.
func TestParkedMessagesAreClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := mqtttest.NewBroker(t)
		leaveSession(t, ctx, b, "a/#", 100)
		c := resume(t, ctx, b)
		defer c.Close()
		synctest.Wait()
		if s := c.Stats(); s.Parked != 100 || s.Unacknowledged != 100 {
			t.Errorf("parked: %+v", s)
		}
		b.Publish(mqtttest.Message{Topic: "a/b", Payload: fmt.Append(nil, 100), QoS: 1})
		if _, err := c.Subscribe(ctx, "other", mqtt.AtLeastOnce); err != nil {
			t.Fatal(err)
		}
		sub, err := c.Subscribe(ctx, "a/+", mqtt.AtLeastOnce, mqtt.Buffer(1))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 101 {
			m, err := sub.Next(ctx)
			if err != nil || string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("message %d: %q, %v", i, m.Payload, err)
			}
		}
		synctest.Wait()
		if s := c.Stats(); s.Parked != 0 || s.Unacknowledged != 0 || s.Unmatched != 0 {
			t.Errorf("claimed: %+v", s)
		}
	})
}

// After 30 s no message is parked any more, and later none is parked at all.
func TestParkingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := mqtttest.NewBroker(t)
		leaveSession(t, ctx, b, "a/#", 10)
		var unmatched []string
		c := resume(t, ctx, b, mqtt.WithParking(5, 30*time.Second), mqtt.WithUnmatched(func(m mqtt.Message) {
			unmatched = append(unmatched, string(m.Payload))
		}))
		synctest.Wait()
		if s := c.Stats(); s.Parked != 5 || s.Unmatched != 5 {
			t.Errorf("in 5 places: %+v", s)
		}
		time.Sleep(31 * time.Second) // virtual
		synctest.Wait()
		if s := c.Stats(); s.Parked != 0 || s.Unmatched != 10 || s.Unacknowledged != 0 {
			t.Errorf("after 30 s: %+v", s)
		}
		b.Publish(mqtttest.Message{Topic: "a/b", QoS: 1, Payload: []byte("late")})
		synctest.Wait()
		if s := c.Stats(); s.Parked != 0 || s.Unmatched != 11 {
			t.Errorf("later: %+v", s)
		}
		c.Close()
		if fmt.Sprint(unmatched) != "[5 6 7 8 9 0 1 2 3 4 late]" {
			t.Errorf("unmatched %v", unmatched)
		}
	})
}

// By default parking lasts 30 s from the first CONNACK, and a later connection begins none, although the server
// has the session then too.
func TestParkingIsForTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := mqtttest.NewBroker(t)
		leaveSession(t, ctx, b, "a/#", 3)
		c := resume(t, ctx, b)
		defer c.Close()
		time.Sleep(29 * time.Second)
		if s := c.Stats(); s.Parked != 3 || s.Unmatched != 0 {
			t.Errorf("after 29 s: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := c.Stats(); s.Parked != 0 || s.Unmatched != 3 {
			t.Errorf("after 31 s: %+v", s)
		}
		noErr(t, c.Reconnect(ctx))
		b.Publish(mqtttest.Message{Topic: "a/b", QoS: 1})
		synctest.Wait()
		if s := c.Stats(); s.Parked != 0 || s.Unmatched != 4 || !c.SessionPresent() {
			t.Errorf("on the next connection: %+v", s)
		}
	})
}

// A subscription that is refused gives back what it had claimed, for the next one.
func TestParkedMessagesSurviveARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := mqtttest.NewBroker(t)
		leaveSession(t, ctx, b, "a/#", 3)
		b.Publish(mqtttest.Message{Topic: "a/c", QoS: 1, Payload: []byte("3")})
		c := resume(t, ctx, b)
		defer c.Close()
		synctest.Wait()
		remove := b.Fault(mqtttest.Fault{Packet: "SUBACK", Outbound: true, Times: 1, Reason: 0x87})
		if _, err := c.Subscribe(ctx, "a/b", mqtt.AtMostOnce, mqtt.ManualAck); !errors.Is(err, mqtt.NotAuthorized) {
			t.Fatalf("Subscribe: %v", err)
		}
		remove()
		if s := c.Stats(); s.Parked != 4 {
			t.Errorf("after the refusal: %+v", s)
		}
		sub, err := c.Subscribe(ctx, "a/#", mqtt.ExactlyOnce)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 { // as they were, in the order in which they came
			if m, err := sub.Next(ctx); err != nil || string(m.Payload) != fmt.Sprint(i) || m.QoS != mqtt.AtLeastOnce {
				t.Fatalf("message %d: %q at %v, %v", i, m.Payload, m.QoS, err)
			}
		}
	})
}

// Nothing is parked for filters that were unsubscribed.
func TestUnsubscribedIsNotParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := mqtttest.NewBroker(t)
		leaveSession(t, ctx, b, "a/#", 3)
		c := resume(t, ctx, b)
		defer c.Close()
		synctest.Wait()
		remove := b.Fault(mqtttest.Fault{Packet: "UNSUBSCRIBE", Drop: true}) // the server goes on sending
		gone, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := c.Unsubscribe(gone, "a/#"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		remove()
		b.Publish(mqtttest.Message{Topic: "a/b", QoS: 1})
		synctest.Wait()
		if s := c.Stats(); s.Parked != 0 || s.Unmatched != 4 || s.Unacknowledged != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Nothing is parked for a filter that a cancelled Subscribe has left, which the server has until UNSUBSCRIBE.
func TestCancelledIsNotParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, &codec.Connack{SessionPresent: true}, mqtt.WithCleanStart(false), mqtt.WithClientID("old"))
		ctx, cancel := context.WithCancel(t.Context())
		left := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(ctx, "a", mqtt.AtLeastOnce) })
		asked := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		cancel()
		if err := left.wait(); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		m := message("a", 1, 1)
		m.SubscriptionIdentifiers = []uint32{asked.SubscriptionIdentifier}
		p.Send(m)
		p.Expect(&codec.Puback{PacketID: 1})
		p.Send(message("a", 1, 2)) // for a filter of the earlier client
		p.ExpectSilence(time.Second)
		if s := p.client.Stats(); s.Parked != 1 || s.Unmatched != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The end of the client may come between the SUBACK and the return of Subscribe, while the line stands.
func TestEndWhileTheLineStands(t *testing.T) {
	for range 200 {
		server := mqtttest.NewServer(t, codec.V5)
		connected := make(chan mqtt.ClientV5, 1)
		go func() {
			c, err := mqtt.NewClient(context.Background(), "mqtt://test", mqtt.WithDialer(server.DialContext),
				mqtt.WithCleanStart(false), mqtt.WithoutReconnect())
			if err != nil {
				t.Error(err)
			}
			connected <- c
		}()
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{SessionPresent: true}, &codec.Publish{Topic: "a", QoS: 1, PacketID: 1})
		c := <-connected
		for c.Stats().Parked == 0 {
			runtime.Gosched()
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if sub, err := c.Subscribe(context.Background(), "a", mqtt.AtLeastOnce); err == nil {
				for range sub.Messages() {
				}
			}
		}()
		p := mqtttest.ReceiveAs[*codec.Subscribe](s)
		s.Send(&codec.Suback{PacketID: p.PacketID, Codes: []codec.ReasonCode{1}}, &codec.Disconnect{Code: codec.ServerBusy})
		<-ended
		c.Close()
	}
}

// Parked messages are bounded in bytes too. What does not fit is acknowledged at once; a claim makes room.
func TestParkingIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		leaveSession(t, t.Context(), b, "a/#", 0)
		c := resume(t, t.Context(), b, mqtt.WithInboundLimit(10_000))
		defer c.Close()
		publish := func(topic string, n int) {
			for range n {
				b.Publish(mqtttest.Message{Topic: topic, QoS: 1, Payload: make([]byte, 2000)})
				synctest.Wait()
			}
		}
		publish("a/b", 3)
		publish("a/c", 3)
		if s := c.Stats(); s.Parked != 4 || s.Unmatched != 2 {
			t.Errorf("%+v", s)
		}
		arrived(subscribeV5(t, c, "a/b", mqtt.AtLeastOnce))
		publish("a/c", 5)
		if s := c.Stats(); s.Parked != 4 || s.Unmatched != 4 {
			t.Errorf("after a claim: %+v", s)
		}
	})
}

// Messages of a filter that an earlier client has left in the session, and that nobody wants, are logged: the first one, and then
// one a minute at most.
func TestForgottenFilterIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		b := mqtttest.NewBroker(t)
		leaveSession(t, t.Context(), b, "a/#", 1)
		c := resume(t, t.Context(), b, mqtt.WithParking(1, time.Second), mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		defer c.Close()
		wanted := func(want int) {
			t.Helper()
			synctest.Wait()
			if n := log.count("topic=a/b"); n != want {
				t.Errorf("%d lines, want %d", n, want)
			}
		}
		wanted(0)
		time.Sleep(2 * time.Second)
		wanted(1)
		for range 3 {
			b.Publish(text("a/b", "x", 1))
		}
		wanted(1)
		time.Sleep(time.Minute)
		b.Publish(text("a/b", "x", 1))
		wanted(2)
		noErr(t, c.Unsubscribe(t.Context(), "a/#"))
		time.Sleep(time.Minute)
		b.Publish(text("a/b", "x", 1))
		wanted(2)
	})
}

// What comes while a Subscribe waits that is refused then is not lost either: it waits for the next one, as it
// was. The first one may have been waiting for the connection.
func TestParkedWhileSubscribing(t *testing.T) {
	for _, mode := range []mqtt.AckMode{mqtt.AutoAck, mqtt.ManualAck} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			b := mqtttest.NewBroker(t)
			leaveSession(t, ctx, b, "a/#", 1)
			c := resume(t, ctx, b, mqtt.WithConnectInBackground())
			defer c.Close()
			for i := 1; i <= 2; i++ {
				b.Fault(mqtttest.Fault{Packet: "SUBACK", Outbound: true, Times: 1, Reason: 0x87, Delay: time.Second})
				subscribing := startErr(func() error { _, err := c.Subscribe(ctx, "a/#", mqtt.AtLeastOnce, mode); return err })
				synctest.Wait()
				b.Publish(text("a/b", fmt.Sprint(i), 1))
				synctest.Wait()
				if err := subscribing.wait(); !errors.Is(err, mqtt.NotAuthorized) {
					t.Fatalf("Subscribe: %v", err)
				}
				if s := c.Stats(); s.Parked != i+1 || s.Unacknowledged != i+1 {
					t.Errorf("after the refusal: %+v", s)
				}
			}
			sub := subscribeV5(t, c, "a/#", mqtt.ExactlyOnce)
			wantArrived(t, sub, "a/b=0 q1", "a/b=1 q1", "a/b=2 q1")
			if s := c.Stats(); s.Parked != 0 || s.Unacknowledged != 0 {
				t.Errorf("in the end: %+v", s)
			}
		})
	}
}

// Messages that a Subscribe has claimed are not acknowledged if the client ends before SUBACK, also after the parking
// time: the session's next client gets them.
func TestClaimedWhenTheClientEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		leaveSession(t, t.Context(), b, "a/#", 3)
		c := resume(t, t.Context(), b, mqtt.WithUnmatched(func(mqtt.Message) { t.Error("a message is given away") }))
		b.Fault(mqtttest.Fault{Packet: "SUBACK", Outbound: true, Drop: true})
		subscribing := startErr(func() error { _, err := c.Subscribe(t.Context(), "a/#", mqtt.AtLeastOnce); return err })
		time.Sleep(31 * time.Second)
		noErr(t, c.Close())
		if err := subscribing.wait(); !errors.Is(err, mqtt.ErrClosed) {
			t.Fatalf("Subscribe: %v", err)
		}
		if s := c.Stats(); s.Unmatched != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A server may send as much as our Receive Maximum allows before the application has subscribed. All of it is parked: what
// would be acknowledged for want of a place would be lost.
func TestParkingHasRoomForAWindow(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		first := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("kept"), mqtt.WithCleanStart(false))
		_, err := first.Subscribe(t.Context(), "a", mqtt.AtLeastOnce)
		noErr(t, err)
		b.Cut("kept")
		b.Offline()
		const n = 3000
		for i := range n {
			b.Publish(text("a", fmt.Sprint(i), 1))
		}
		first.Close()
		b.Online()
		second := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("kept"), mqtt.WithCleanStart(false))
		time.Sleep(time.Second) // the server has sent what it may
		sub, err := second.Subscribe(t.Context(), "a", mqtt.AtLeastOnce)
		noErr(t, err)
		got := 0
		taken(t, sub, func(mqtt.Message) bool {
			got++
			return got < n
		})
		if unmatched := second.Stats().Unmatched; unmatched != 0 {
			t.Errorf("%d were acknowledged unseen", unmatched)
		}
	})
}
