package mqtt_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// QoS 1 and 2 leave in the order of the calls; QoS 0 overtakes what waits for the window [MQTT-3.3.4-8] and
// keeps its own order.
func TestPublishOrder(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(2))
		ctx := t.Context()
		var waiting []*mqtt.Delivery
		for i := range 6 {
			qos := mqtt.QoS(1 + i%2)
			waiting = append(waiting, p.client.PublishAsync(ctx, "t", fmt.Append(nil, i), qos))
			noErr(t, p.client.Publish(ctx, "t", fmt.Append(nil, "zero ", i)))
		}
		p.Expect(toT(1, 1, "0"))
		p.Expect(toT(0, 0, "zero 0"))
		p.Expect(toT(2, 2, "1"))
		for i := 1; i < 6; i++ {
			p.Expect(toT(0, 0, fmt.Sprint("zero ", i)))
		}
		p.ExpectSilence(time.Second)
		finish := func(id uint16) {
			if id%2 == 1 {
				p.Send(&codec.Puback{PacketID: id})
				return
			}
			p.Send(&codec.Pubrec{PacketID: id})
			p.Expect(&codec.Pubrel{PacketID: id})
			p.Send(&codec.Pubcomp{PacketID: id})
		}
		for i := 2; i < 6; i++ {
			finish(uint16(i - 1))
			p.Expect(toT(byte(1+i%2), uint16(i+1), fmt.Sprint(i)))
		}
		finish(5)
		finish(6)
		for _, d := range waiting {
			noErr(t, d.Wait(ctx))
		}
	})
}

// Whoever publishes and however many at a time, the messages of each goroutine arrive in its order.
func TestPublishOrderOfManyGoroutines(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		broker := mqtttest.NewBroker(t, mqtttest.ReceiveMaximum(3))
		c, _, err := dialClient(t.Context(), v, broker.DialContext, mqtt.WithMaxInFlight(7), mqtt.WithQueue(5, 1000))
		noErr(t, err)
		defer c.Close()
		const goroutines, each = 4, 50
		var all sync.WaitGroup
		for g := range goroutines {
			all.Go(func() {
				var last *mqtt.Delivery
				for i := range each {
					last = c.PublishAsync(t.Context(), fmt.Sprint("from/", g), []byte{byte(i)}, mqtt.QoS(1+(i+g)%2))
				}
				if err := last.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for g := range goroutines {
			got := broker.Await(endingIn(t, time.Second), fmt.Sprint("from/", g), each)
			if len(got) != each {
				t.Fatalf("%d messages came", len(got))
			}
			for i, m := range got {
				if m.Payload[0] != byte(i) {
					t.Fatalf("goroutine %d: message %d came at place %d", g, m.Payload[0], i)
				}
			}
		}
	})
}

// The write buffer is bounded. A QoS 0 publish waits for room until its ctx ends and is never sent then;
// acknowledgements and pings are appended all the same.
func TestPublishQoS0WaitsForRoom(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Minute))
		payload := make([]byte, 10_000)
		var sent int
		for {
			err := p.client.Publish(endingIn(t, time.Second), "t", payload)
			if err != nil {
				wantErr(t, err, context.DeadlineExceeded, true)
				break
			}
			sent++
		}
		// The network holds 64 KiB, the writer and the buffer behind it 1 MiB and one packet each.
		if most := (64<<10 + 2<<20 + 2*10_010) / 10_000; sent > most || sent < 100 {
			t.Errorf("%d messages were taken, want at most %d", sent, most)
		}
		ping := calling(func() error { _, err := p.client.Ping(t.Context()); return err })
		p.Send(&codec.Pubrel{PacketID: 99})
		late := calling(func() error { return p.client.Publish(t.Context(), "t", []byte("late")) })
		stillWaits(t, late)

		for range sent {
			mqtttest.ReceiveAs[*codec.Publish](p.Script)
		}
		bypassed, published := 0, 0
		for range 3 {
			switch got := p.Receive().(type) {
			case *codec.Pingreq, *codec.Pubcomp:
				bypassed++
			case *codec.Publish:
				if string(got.Payload) != "late" {
					t.Error("a publish whose ctx had ended was sent")
				}
				published++
			}
		}
		if bypassed != 2 || published != 1 {
			t.Errorf("%d acknowledgements and pings and %d messages came", bypassed, published)
		}
		p.Send(&codec.Pingresp{})
		noErr(t, outcome(t, ping))
		noErr(t, outcome(t, late))
	})
}

// With a full window messages are queued; with a full queue both calls wait until ctx ends.
func TestPublishFullQueue(t *testing.T) {
	for _, limit := range []struct {
		name            string
		messages, bytes int
	}{{"messages", 2, 1000}, {"bytes", 100, 4}} {
		t.Run(limit.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(limit.messages, limit.bytes))
				ctx := t.Context()
				first := p.client.PublishAsync(ctx, "t", []byte("1"), mqtt.AtLeastOnce)
				second := p.client.PublishAsync(ctx, "t", []byte("2"), mqtt.AtLeastOnce)
				third := p.client.PublishAsync(ctx, "t", []byte("3"), mqtt.AtLeastOnce)
				if s := p.client.Stats(); s.InFlight != 1 || s.Queued != 2 || s.QueueBytes != 4 {
					t.Errorf("stats %+v", s)
				}
				async := p.client.PublishAsync(endingIn(t, time.Second), "t", []byte("4"), mqtt.AtLeastOnce)
				wantErr(t, async.Err(), context.DeadlineExceeded, true)
				wantErr(t, p.client.Publish(endingIn(t, time.Second), "t", []byte("5"), mqtt.ExactlyOnce),
					context.DeadlineExceeded, true)
				patient := calling(func() error { return p.client.Publish(ctx, "t", []byte("6"), mqtt.AtLeastOnce) })
				stillWaits(t, patient)
				p.Expect(toT(1, 1, "1"))
				for i, payload := range []string{"2", "3", "6"} {
					p.Send(&codec.Puback{PacketID: uint16(i + 1)})
					p.Expect(toT(1, uint16(i+2), payload))
				}
				p.Send(&codec.Puback{PacketID: 4})
				for _, d := range []*mqtt.Delivery{first, second, third} {
					noErr(t, d.Wait(ctx))
				}
				noErr(t, outcome(t, patient))
			})
		})
	}
}

// At QoS 1 and 2 too nothing is appended beyond the bound; what waits goes out, in order, as room comes.
func TestPublishQoS1WaitsForRoom(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Minute), mqtt.WithMaxInFlight(1000))
		const n, size = 300, 10_000
		for i := range n {
			payload := make([]byte, size)
			payload[0], payload[1] = byte(i>>8), byte(i)
			p.client.PublishAsync(t.Context(), "t", payload, mqtt.AtLeastOnce)
		}
		synctest.Wait()
		if s := p.client.Stats(); s.InFlight+s.Queued != n || s.InFlight*size > 64<<10+2<<20+2*(size+10) {
			t.Errorf("stats %+v", s)
		}
		for i := range n {
			m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
			if int(m.Payload[0])<<8|int(m.Payload[1]) != i || m.PacketID != uint16(i+1) {
				t.Fatalf("message %x with identifier %d came at place %d", m.Payload[:2], m.PacketID, i)
			}
		}
	})
}

// [MQTT-3.3.4-7] [MQTT-4.9.0-1] [MQTT-4.9.0-2]: the server's Receive Maximum is never exceeded. PUBREC frees
// nothing, and no number of PUBCOMPs raises the quota.
func TestPublishQuota(t *testing.T) {
	for _, quota := range []uint16{1, 2, 7} {
		t.Run(fmt.Sprint(quota), func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				var p *peer
				if v == codec.V5 {
					p = startPeer(t, v, &codec.Connack{Properties: codec.ConnackProperties{ReceiveMaximum: quota}})
				} else {
					p = startPeer(t, v, nil, mqtt.WithMaxInFlight(int(quota)))
				}
				for range 3 * quota {
					p.client.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
				}
				for id := range quota {
					p.Expect(toT(2, id+1, ""))
				}
				p.ExpectSilence(time.Second)
				for id := range quota {
					p.Send(&codec.Pubrec{PacketID: id + 1})
					p.Expect(&codec.Pubrel{PacketID: id + 1})
				}
				p.ExpectSilence(time.Second)
				for id := range quota {
					p.Send(&codec.Pubcomp{PacketID: id + 1}, &codec.Pubcomp{PacketID: id + 1})
					p.Expect(toT(2, quota+id+1, ""))
					p.ExpectSilence(time.Second)
				}
				if v < codec.V5 {
					return
				}
				// A refusal frees a place [MQTT-4.9.0-2].
				p.Send(&codec.Pubrec{PacketID: quota + 1, Code: codec.QuotaExceeded})
				p.Expect(toT(2, 2*quota+1, ""))
				p.ExpectSilence(time.Second)
			})
		})
	}
}

// On MQTT 3.1.1 no server can announce its window, and Mosquitto as it is installed acknowledges what goes beyond 20 at QoS
// 2 and drops it. From the first message at QoS 2 on no more than 20 are in flight, unless the application says so.
func TestWindowAtQoS2(t *testing.T) {
	for name, c := range map[string]struct {
		version codec.Version
		opts    []mqtt.Option
		first   int // messages at QoS 1 before
		want    int // in flight after 100 more at QoS 2
	}{
		"3.1.1":                  {codec.V311, nil, 0, 20},
		"3.1.1, some at QoS 1":   {codec.V311, nil, 15, 20},
		"3.1.1, many at QoS 1":   {codec.V311, nil, 50, 50},
		"3.1.1, WithMaxInFlight": {codec.V311, []mqtt.Option{mqtt.WithMaxInFlight(70)}, 0, 70},
		"5.0":                    {codec.V5, nil, 0, 100},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t)
				b.Intercept(func(_ string, outbound bool, p codec.Packet) bool { // nothing is acknowledged
					switch p.(type) {
					case *codec.Puback, *codec.Pubrec:
						return false
					}
					return true
				})
				client := dialAs(t, c.version, b.DialContext, c.opts...)
				for range c.first {
					client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
				}
				for range 100 {
					client.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
				}
				synctest.Wait()
				if n := client.Stats().InFlight; n != c.want {
					t.Errorf("%d are in flight, want %d", n, c.want)
				}
			})
		})
	}
}

// [MQTT-3.3.4-8] [MQTT-4.9.0-3]: with a full window everything else still flows.
// [MQTT-2.2.1-4] [MQTT-3.10.4-5] [MQTT311-2.3.1-4]
func TestFullWindowHoldsNothingElse(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1))
		ctx := t.Context()
		p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, 1, ""))
		noErr(t, p.client.Publish(ctx, "t", []byte("zero")))
		p.Expect(toT(0, 0, "zero"))
		go p.client.Ping(ctx)
		mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
		p.Send(&codec.Pingresp{}, &codec.Publish{Topic: "in", QoS: 1, PacketID: 1}, &codec.Publish{Topic: "in", QoS: 2, PacketID: 2})
		p.Expect(&codec.Puback{PacketID: 1})
		p.Expect(&codec.Pubrec{PacketID: 2})
		p.Send(&codec.Pubrel{PacketID: 2})
		p.Expect(&codec.Pubcomp{PacketID: 2})
		subscribed := calling(func() error { _, err := p.client.Subscribe(ctx, "in"); return err })
		sub := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		p.Send(&codec.Suback{PacketID: sub.PacketID, Codes: []codec.ReasonCode{0}})
		noErr(t, outcome(t, subscribed))
		unsubscribed := calling(func() error { return p.client.Unsubscribe(ctx, "old") })
		unsub := mqtttest.ReceiveAs[*codec.Unsubscribe](p.Script)
		ack := &codec.Unsuback{PacketID: unsub.PacketID}
		if v == codec.V5 {
			ack.Codes = []codec.ReasonCode{codec.NoSubscriptionExisted}
		}
		p.Send(ack)
		noErr(t, outcome(t, unsubscribed))
	})
}

// What a server does not answer is never sent again on the same connection, however long it takes.
// [MQTT-4.4.0-1] [MQTT311-4.4.0-1]
func TestNothingIsSentAgainOnATimer(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithKeepAlive(0))
		for i := range 3 {
			p.client.PublishAsync(t.Context(), "t", nil, mqtt.QoS(1+min(i, 1)))
			p.Expect(toT(byte(1+min(i, 1)), uint16(i+1), ""))
		}
		p.Send(&codec.Pubrec{PacketID: 3})
		p.Expect(&codec.Pubrel{PacketID: 3})
		subscribing := calling(func() error { _, err := p.client.Subscribe(t.Context(), "in"); return err })
		mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		p.ExpectSilence(24 * time.Hour)
		stillWaits(t, subscribing)
		if s := p.client.Stats(); s.InFlight != 3 || p.client.State() != mqtt.StateConnected {
			t.Errorf("%v, %+v", p.client.State(), s)
		}
		noErr(t, p.client.Close())
		wantErr(t, outcome(t, subscribing), mqtt.ErrClosed, false)
	})
}

// Message Expiry counts down while a message waits, in whole seconds rounded up, and what has expired is not
// sent and says so.
func TestMessageExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil, mqtt.WithMaxInFlight(1), mqtt.WithKeepAlive(0), mqtt.WithQueue(3, 1000))
		ctx := t.Context()
		time.Sleep(time.Hour) // the client's age must not matter
		expiring := func(qos mqtt.QoS, d time.Duration) *mqtt.Delivery {
			return p.v5.PublishAsync(ctx, "t", nil, qos, &mqtt.PublishProperties{MessageExpiry: d})
		}
		expect := func(qos byte, id uint16, left time.Duration) {
			t.Helper()
			want := toT(qos, id, "")
			want.Properties.MessageExpiry = left
			p.Expect(want)
		}
		expiring(0, 10*time.Second)
		expect(0, 0, 10*time.Second)
		expiring(0, 1500*time.Millisecond)
		expect(0, 0, 2*time.Second)
		expiring(0, time.Millisecond)
		expect(0, 0, time.Second)
		for _, d := range []time.Duration{-1, math.MinInt64, time.Millisecond - 1} {
			for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
				wantErr(t, expiring(qos, d).Err(), mqtt.ErrExpired, true)
			}
		}
		if n := p.client.Stats().Expired; n != 9 {
			t.Errorf("%d messages have expired before they were published", n)
		}
		expiring(1, 10*time.Second)
		expect(1, 1, 10*time.Second)
		queued := expiring(1, 10*time.Second)
		short := expiring(2, 2*time.Second)
		forEver := expiring(2, math.MaxUint32*time.Second)
		time.Sleep(3600 * time.Millisecond)
		p.Send(&codec.Puback{PacketID: 1})
		expect(1, 2, 7*time.Second)
		if err := queued.Err(); err != nil {
			t.Error(err)
		}
		p.Send(&codec.Puback{PacketID: 2})
		wantErr(t, short.Wait(ctx), mqtt.ErrExpired, true)
		expect(2, 3, (math.MaxUint32-3)*time.Second)
		p.Send(&codec.Pubrec{PacketID: 3, Code: codec.QuotaExceeded})
		<-forEver.Done()
		if got := p.v5.Stats().Expired; got != 10 {
			t.Errorf("%d messages count as expired, want one more that waited", got)
		}
	})
}

// Expiry counts while a publish waits for room in the queue or the write buffer, too.
func TestMessageExpiryWhileWaitingForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil, mqtt.WithMaxInFlight(1), mqtt.WithKeepAlive(0), mqtt.WithPingTimeout(time.Hour),
			mqtt.WithQueue(0, 0))
		ctx := t.Context()
		p.v5.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, 1, ""))
		short := calling(func() error {
			return p.v5.Publish(ctx, "short", nil, mqtt.AtLeastOnce, &mqtt.PublishProperties{MessageExpiry: time.Second})
		})
		stillWaits(t, short)
		long := calling(func() error {
			return p.v5.Publish(ctx, "long", nil, mqtt.AtLeastOnce, &mqtt.PublishProperties{MessageExpiry: time.Minute})
		})
		stillWaits(t, long)
		time.Sleep(5 * time.Second)
		p.Send(&codec.Puback{PacketID: 1})
		wantErr(t, outcome(t, short), mqtt.ErrExpired, true)
		p.Expect(&codec.Publish{Topic: "long", QoS: 1, PacketID: 2,
			Properties: codec.PublishProperties{MessageExpiry: 55 * time.Second}})
		p.Send(&codec.Puback{PacketID: 2})
		noErr(t, outcome(t, long))

		payload := make([]byte, 100_000)
		filled := 0
		for p.v5.Publish(endingIn(t, time.Second), "fill", payload) == nil {
			filled++
		}
		short = calling(func() error {
			return p.v5.Publish(ctx, "short", payload, &mqtt.PublishProperties{MessageExpiry: time.Second})
		})
		stillWaits(t, short)
		long = calling(func() error {
			return p.v5.Publish(ctx, "long", payload, &mqtt.PublishProperties{MessageExpiry: time.Minute})
		})
		stillWaits(t, long)
		time.Sleep(5 * time.Second)
		for range filled {
			mqtttest.ReceiveAs[*codec.Publish](p.Script)
		}
		wantErr(t, outcome(t, short), mqtt.ErrExpired, true)
		noErr(t, outcome(t, long))
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); m.Topic != "long" || m.Properties.MessageExpiry != 55*time.Second {
			t.Errorf("a message to %q with expiry %v came", m.Topic, m.Properties.MessageExpiry)
		}
	})
}
