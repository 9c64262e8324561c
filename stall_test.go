package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Beside a consumer that sleeps for ever everything at QoS 0 and all publishes go on, QoS 1 goes on until the
// window is full, and resumes when EndIfStalled ends the sleeper.
func TestEndIfStalled(t *testing.T) {
	for _, mode := range []mqtt.AckMode{mqtt.AutoAck, mqtt.ManualAck} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				b := mqtttest.NewBroker(t)
				c, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithReceiveMaximum(10))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				sleeper, err := c.Subscribe(ctx, "sleep", mqtt.AtLeastOnce, mode, mqtt.Buffer(1), mqtt.EndIfStalled(20*time.Second))
				if err != nil {
					t.Fatal(err)
				}
				awake, err := c.Subscribe(ctx, "awake/+", mqtt.AtLeastOnce)
				if err != nil {
					t.Fatal(err)
				}
				for range 20 {
					b.Publish(mqtttest.Message{Topic: "sleep", QoS: 1})
				}
				b.Publish(mqtttest.Message{Topic: "awake/1", QoS: 1})
				b.Publish(mqtttest.Message{Topic: "awake/0", QoS: 0})
				start := time.Now()
				if m, err := awake.Next(ctx); err != nil || m.Topic != "awake/0" || time.Since(start) > time.Second {
					t.Errorf("at QoS 0 after %v: %v, %v", time.Since(start), m.Topic, err)
				}
				if err := c.Publish(ctx, "other", nil, mqtt.ExactlyOnce); err != nil || time.Since(start) > time.Second {
					t.Errorf("publishing: %v", err)
				}
				if m, err := awake.Next(ctx); err != nil || m.Topic != "awake/1" {
					t.Errorf("at QoS 1: %v, %v", m.Topic, err)
				}
				if d := time.Since(start); d < 20*time.Second || d > 30*time.Second {
					t.Errorf("the window was free again after %v, want 20 s", d)
				}
				<-sleeper.Done()
				if err := sleeper.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
					t.Errorf("the sleeper ended with %v", err)
				}
				synctest.Wait()
				if s := c.Stats(); s.Unacknowledged != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// What waits for a subscription that EndIfStalled ends is refused, on 3.1.1 given up, and counted.
func TestEndIfStalledRefuses(t *testing.T) {
	for _, mode := range []mqtt.AckMode{mqtt.AutoAck, mqtt.ManualAck} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			c, s := scripted(t, v)
			sub, _ := subscribed(t, c, s, "t", mqtt.ExactlyOnce, mode, mqtt.Buffer(1), mqtt.EndIfStalled(10*time.Second))
			s.Send(message("t", 1, 1), message("t", 1, 2), message("t", 2, 3), message("t", 1, 4))
			<-sub.Done()
			if err := sub.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
				t.Fatal(err)
			}
			refused := ""
			if v == codec.V5 {
				refused = " 0x97"
			}
			want := []string{"PUBACK 2" + refused, "PUBACK 4" + refused, "PUBREC 3" + refused}
			if mode == mqtt.ManualAck { // the first one is in the channel, and not acknowledged
				want = append([]string{"PUBACK 1" + refused}, want...)
			}
			if mode == mqtt.AutoAck {
				s.Expect(&codec.Puback{PacketID: 1})
			}
			if u := mqtttest.ReceiveAs[*codec.Unsubscribe](s); u.Filters[0] != "t" {
				t.Errorf("UNSUBSCRIBE %q", u.Filters)
			}
			wantAnswers(t, s, want...)
			if n := sub.Dropped(); n != 3 {
				t.Errorf("%v: %d are counted", mode, n)
			}
		})
	}
}

// The time that a message has been the oldest goes on when the connection is lost and it comes again. Time without a
// connection does not count: no acknowledgement waits then.
func TestEndIfStalledThroughReconnects(t *testing.T) {
	for _, outage := range []time.Duration{0, time.Hour} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			wait := func(context.Context, mqtt.Failure) (time.Duration, error) { return outage, nil }
			p := newPair(t, v, mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: wait}))
			sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.AtLeastOnce, mqtt.ManualAck, mqtt.EndIfStalled(20*time.Second))
			p.Send(message("t", 1, 1))
			again := message("t", 1, 1)
			again.Dup = true
			reconnect := func() {
				p.Cut()
				time.Sleep(outage)
				p.accept(&codec.Connack{SessionPresent: true})
				if v == codec.V5 {
					p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
				}
				p.Send(again)
			}
			time.Sleep(12 * time.Second)
			reconnect()
			time.Sleep(time.Second)
			if d := p.client.Stats().Held.For; d < 12*time.Second || d > 14*time.Second {
				t.Errorf("held for %v", d)
			}
			time.Sleep(3 * time.Second)
			noErr(t, sub.Err())
			reconnect()
			began := time.Now()
			<-sub.Done()
			if after := time.Since(began); after < 2*time.Second || after > 12*time.Second || !errors.Is(sub.Err(), mqtt.ErrSlowConsumer) {
				t.Errorf("it ends after %v with %v", after, sub.Err())
			}
		})
	}
}

// A stall of nothing to speak of is noticed too.
func TestEndIfStalledAtOnce(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce, mqtt.ManualAck, mqtt.EndIfStalled(1))
		b.Publish(text("t", "x", 1))
		select {
		case <-sub.Done():
		case <-time.After(time.Second):
			t.Error("the subscription lives")
		}
	})
}

// A subscription with little patience is ended in time, also when another one has been waiting since before it was made,
// with more.
func TestEndIfStalledLater(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext)
		subscribe(t, c, "patient", mqtt.AtLeastOnce, mqtt.ManualAck)
		b.Publish(text("patient", "x", 1))
		synctest.Wait()
		sub := subscribe(t, c, "impatient", mqtt.ExactlyOnce, mqtt.ManualAck, mqtt.EndIfStalled(100*time.Millisecond))
		b.Publish(text("impatient", "x", 2))
		began := time.Now()
		<-sub.Done()
		if after := time.Since(began); after > 150*time.Millisecond || !errors.Is(sub.Err(), mqtt.ErrSlowConsumer) {
			t.Errorf("it ends after %v with %v", after, sub.Err())
		}
	})
}

// The subscription that holds most goes first.
func TestInboundLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := mqtttest.NewBroker(t)
		c, err := mqtt.NewClientV311(ctx, "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithInboundLimit(100_000))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		small, err := c.Subscribe(ctx, "small", mqtt.AtLeastOnce, mqtt.Buffer(1))
		if err != nil {
			t.Fatal(err)
		}
		large, err := c.Subscribe(ctx, "large", mqtt.AtLeastOnce, mqtt.Buffer(1))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			b.Publish(mqtttest.Message{Topic: "small", QoS: 1, Payload: make([]byte, 100)})
			b.Publish(mqtttest.Message{Topic: "large", QoS: 1, Payload: make([]byte, 1000)})
			if i%10 == 0 {
				synctest.Wait()
			}
		}
		<-large.Done()
		if err := large.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) || large.Dropped() < 50 {
			t.Errorf("ended with %v, %d dropped", err, large.Dropped())
		}
		for i := range 200 {
			if _, err := small.Next(ctx); err != nil {
				t.Fatalf("message %d of the other: %v", i, err)
			}
		}
	})
}

// Messages at QoS 0 beyond the limit are dropped as the subscription's policy says, and do not end it.
func TestInboundLimitAtQoS0(t *testing.T) {
	const size, limit = 10_000, 100_000
	for _, overflow := range []mqtt.Overflow{mqtt.DropOldest, mqtt.DropNewest} {
		for _, channel := range []bool{false, true} {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				b := mqtttest.NewBroker(t)
				c := dialAs(t, v, b.DialContext, mqtt.WithInboundLimit(limit))
				sub, err := c.Subscribe(t.Context(), "t", overflow)
				noErr(t, err)
				held := 0 // in the channel, and in the pump's hands
				if channel {
					sub.Messages()
					held = cap(sub.Messages()) + 1
				}
				publish := func(n int) {
					for i := range n {
						b.Publish(mqtttest.Message{Topic: "t", Payload: append(make([]byte, size), byte(i))})
						synctest.Wait()
					}
				}
				publish(held + 50)
				const fit = limit / size // 9, because of what a message costs besides
				if n := sub.Dropped(); sub.Err() != nil || n != 50-fit+1 {
					t.Errorf("%d are dropped, ended with %v", n, sub.Err())
				}
				want := held // the first one that waits in line
				if overflow == mqtt.DropOldest {
					want += int(sub.Dropped())
				}
				for i := range held + fit - 1 {
					m, err := sub.Next(t.Context())
					if got := int(m.Payload[size]); err != nil || i >= held && got != want+i-held {
						t.Fatalf("message %d is %d, want %d: %v", i, got, want+i-held, err)
					}
				}
			})
		}
	}
}

// The subscription with the most messages is trimmed, also when it is not the one whose message exceeds the limit, and ends if
// it has none at QoS 0. With Block nothing is dropped.
func TestInboundLimitTrimsTheLargest(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext, mqtt.WithInboundLimit(100_000))
		large, err := c.Subscribe(t.Context(), "large", mqtt.DropNewest)
		noErr(t, err)
		small, err := c.Subscribe(t.Context(), "small", mqtt.AtLeastOnce)
		noErr(t, err)
		publish := func(topic string, qos byte, n int) {
			for range n {
				b.Publish(mqtttest.Message{Topic: topic, QoS: qos, Payload: make([]byte, 10_000)})
				synctest.Wait()
			}
		}
		publish("large", 0, 9)
		publish("small", 1, 4)
		if large.Dropped() != 4 || large.Err() != nil || small.Err() != nil {
			t.Errorf("%d are dropped; ended with %v and %v", large.Dropped(), large.Err(), small.Err())
		}
		publish("small", 1, 6)
		if err := small.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) || large.Err() != nil {
			t.Errorf("ended with %v and %v", large.Err(), small.Err())
		}
	})
}

// What the loop of a subscription still works on that was ended counts no longer: other subscriptions do not end for it.
func TestInboundLimitAndTheLoopOfTheEnded(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext, mqtt.WithInboundLimit(100_000))
		large, err := c.Subscribe(t.Context(), "large", mqtt.AtLeastOnce)
		noErr(t, err)
		small, err := c.Subscribe(t.Context(), "small", mqtt.AtLeastOnce)
		noErr(t, err)
		publish := func(topic string, size int) {
			b.Publish(mqtttest.Message{Topic: topic, QoS: 1, Payload: make([]byte, size)})
			synctest.Wait()
		}
		ended := startErr(func() error {
			for _, err := range large.Batches(t.Context(), 10, time.Second) {
				if err != nil {
					return err
				}
				time.Sleep(time.Hour)
			}
			return nil
		})
		for range 9 {
			publish("large", 10_000)
		}
		time.Sleep(2 * time.Second)
		for range 2 {
			publish("large", 10_000)
		}
		if err := large.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
			t.Errorf("the first one ends with %v", err)
		}
		publish("large", 10_000)
		for range 5 {
			publish("small", 10_000)
		}
		if err := small.Err(); err != nil {
			t.Errorf("the other one ends with %v", err)
		}
		if err := ended.wait(); !errors.Is(err, mqtt.ErrSlowConsumer) {
			t.Errorf("the loop ends with %v", err)
		}
		for range 12 {
			publish("small", 10_000)
		}
		if err := small.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
			t.Errorf("the other one, beyond the limit itself, ends with %v", err)
		}
	})
}

// A subscription that is ended gives up its messages of an earlier connection too: the server sends them again, and must not wait
// for an acknowledgement for ever.
func TestInboundLimitAfterACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V311, mqtt.WithInboundLimit(1000))
		sub, _ := subscribed(t, p.client, p.Script, "t", mqtt.AtLeastOnce, mqtt.ManualAck, mqtt.Buffer(1))
		first := &codec.Publish{Topic: "t", PacketID: 10, QoS: 1, Payload: []byte("x")}
		p.Send(first)
		synctest.Wait()
		p.resume()
		for id := uint16(11); id <= 13; id++ {
			p.Send(&codec.Publish{Topic: "t", PacketID: id, QoS: 1, Payload: make([]byte, 600)})
			synctest.Wait()
		}
		<-sub.Done()
		if err := sub.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
			t.Errorf("the subscription has ended with %v", err)
		}
		p.wantPackets("UNSUBSCRIBE t", "PUBACK 11", "PUBACK 12", "PUBACK 13")
		first.Dup = true
		p.Send(first)
		p.wantPackets("PUBACK 10")
	})
}

// By default 64 MiB may wait.
func TestInboundLimitByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, codec.V311, b.DialContext)
		sub := subscribe(t, c, "a", mqtt.AtLeastOnce, mqtt.Buffer(1))
		publish := func(n int) {
			for range n {
				b.Publish(mqtttest.Message{Topic: "a", QoS: 1, Payload: make([]byte, 1<<20)})
				synctest.Wait()
			}
		}
		publish(2 + 63) // one in the channel, one on its way there, 63 in line
		if err := sub.Err(); err != nil {
			t.Errorf("with 63 MiB in line the subscription ends with %v", err)
		}
		publish(1)
		if err := sub.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
			t.Errorf("with 64 MiB and some bytes in line the subscription has ended with %v", err)
		}
	})
}

// A stall goes on through a reconnect.
func TestStallOutlivesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := mqtttest.NewBroker(t)
		c, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithReceiveMaximum(10))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sleeper, err := c.Subscribe(ctx, "sleep", mqtt.AtLeastOnce, mqtt.Buffer(1), mqtt.EndIfStalled(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			b.Publish(mqtttest.Message{Topic: "sleep", QoS: 1})
		}
		time.Sleep(10 * time.Second) // virtual
		b.Cut()
		select {
		case <-sleeper.Done():
		case <-time.After(time.Minute):
		}
		if err := sleeper.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
			t.Errorf("a minute after the cut the sleeper has ended with %v", err)
		}
	})
}

// WithInboundLimit counts properties too.
func TestInboundLimitCountsProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithInboundLimit(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sub, err := c.Subscribe(t.Context(), "a", mqtt.AtMostOnce)
		if err != nil {
			t.Fatal(err)
		}
		u := mqtt.UserProperties{{Key: "k", Value: strings.Repeat("v", 60_000)}}
		for range 200 {
			b.Publish(mqtttest.Message{Topic: "a", Properties: codec.PublishProperties{UserProperties: u}})
			synctest.Wait()
		}
		if n := sub.Dropped(); n < 100 || sub.Err() != nil {
			t.Errorf("of 12 MB of properties %d messages are dropped, and the subscription has ended with %v", n, sub.Err())
		}
	})
}

// So do subscription identifiers, of which a hostile server can send any number.
func TestInboundLimitCountsIdentifiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scriptedV5(t, codec.ConnackProperties{}, mqtt.WithInboundLimit(1<<20))
		r := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "t") })
		s.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](s)))
		sub := r.value(t)
		p := toT(0, 0, "x")
		p.SubscriptionIdentifiers = make([]uint32, 10_000)
		for i := range 100 {
			for j := range p.SubscriptionIdentifiers {
				p.SubscriptionIdentifiers[j] = uint32(1 + i + j)
			}
			s.Send(p)
			synctest.Wait()
		}
		if n := sub.Dropped(); n < 60 || sub.Err() != nil {
			t.Errorf("of 4 MB of identifiers %d messages are dropped, and the subscription has ended with %v", n, sub.Err())
		}
	})
}

// Servers silently drop messages for a slow client, although they have acknowledged them to the publisher.
// So the log says once of each stall who causes it, and what may follow.
func TestStallIsLogged(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		var log lines
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		sleeper := subscribe(t, c, "sleep", mqtt.AtLeastOnce, mqtt.Buffer(1))
		subscribe(t, c, "awake", mqtt.AtLeastOnce)
		for stalls := range 3 {
			for range 3 {
				b.Publish(text("sleep", "x", 1))
			}
			b.Publish(text("awake", "x", 1))
			for _, after := range []struct {
				d     time.Duration
				lines int
			}{{5 * time.Second, stalls}, {15 * time.Second, stalls + 1}, {time.Hour, stalls + 1}} {
				time.Sleep(after.d)
				if n := log.count("drop what it cannot keep"); n != after.lines {
					t.Errorf("stall %d: %d lines after %v, want %d", stalls, n, after.d, after.lines)
				}
			}
			arrived(sleeper)
		}
		if n := log.count("filter=sleep"); n != 3 {
			t.Errorf("%d lines name the filter", n)
		}
	})
}

// A Subscribe that waits for SUBACK learns that its subscription was ended: it got messages at QoS 1 through a filter that
// another subscription has, and nobody could take them.
func TestEndIfStalledBeforeSuback(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		subscribed(t, c, s, "t", mqtt.AtLeastOnce)
		began := time.Now()
		subscribing, _ := subscribing(t, c, s, "t", mqtt.AtLeastOnce, mqtt.Buffer(1), mqtt.EndIfStalled(10*time.Second))
		for id := uint16(1); id <= 2; id++ {
			s.Send(toT(1, id, "x"))
		}
		if err := subscribing.wait(); !errors.Is(err, mqtt.ErrSlowConsumer) || time.Since(began) > 20*time.Second {
			t.Errorf("Subscribe returns %v after %v", err, time.Since(began))
		}
	})
}

// A forgotten message stops a client's subscriptions without any other sign, so the default logger is told of it, once,
// where the application has set none.
func TestForgottenMessageIsNamed(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	for name, opts := range map[string][]mqtt.Option{
		"no logger":        nil,
		"a logger of ours": {mqtt.WithLogger(slog.New(slog.DiscardHandler))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log lines
				slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
				b := mqtttest.NewBroker(t)
				c := dialAs(t, codec.V5, b.DialContext, opts...)
				subscribe(t, c, "jobs/#", mqtt.AtLeastOnce, mqtt.ManualAck)
				b.Publish(text("jobs/1", "x", 1))
				time.Sleep(58 * time.Second)
				synctest.Wait()
				early := log.String()
				time.Sleep(time.Hour)
				synctest.Wait()
				lines, want := strings.Count(log.String(), `topic=jobs/1 filter=jobs/# for=1m`), 1-len(opts)
				if early != "" || lines != want || want > 0 && !strings.Contains(log.String(), "level=WARN") {
					t.Errorf("after 58 s the log says %q, after an hour\n%s", early, &log)
				}
			})
		})
	}
}

// Messages that wait for their redelivery count too.
func TestInboundLimitCountsRedeliveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialAs(t, codec.V5, b.DialContext, mqtt.WithInboundLimit(100_000))
		sub, err := c.Subscribe(t.Context(), "t", mqtt.AtLeastOnce)
		noErr(t, err)
		seen := startErr(func() error {
			for m, err := range sub.All(t.Context()) {
				if err != nil {
					return err
				}
				noErr(t, m.Redeliver(time.Hour))
			}
			return nil
		})
		for range 50 {
			b.Publish(mqtttest.Message{Topic: "t", QoS: 1, Payload: make([]byte, 1000)})
		}
		synctest.Wait()
		if s := sub.Stats(); s.Asleep != 50 || s.WaitBytes < 50_000 || s.WaitBytes > 70_000 {
			t.Errorf("%+v", s)
		}
		time.Sleep(90 * time.Minute) // they have come again, once
		if s := sub.Stats(); s.Asleep != 50 || s.WaitBytes < 50_000 || s.WaitBytes > 70_000 {
			t.Errorf("%+v", s)
		}
		for range 100 {
			b.Publish(mqtttest.Message{Topic: "t", QoS: 1, Payload: make([]byte, 1000)})
		}
		if err := seen.wait(); !errors.Is(err, mqtt.ErrSlowConsumer) {
			t.Errorf("the loop ends with %v", err)
		}
	})
}
