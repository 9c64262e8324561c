package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// QoS 0 fails at once; QoS 1 and 2 wait in order, bounded in messages.
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

// The queue is bounded in bytes; a Publish whose ctx ends is withdrawn and makes room.
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

// By default the queue takes 10,000 messages and 64 MiB.
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

// Publishes that wait for room when the connection is lost are told at once what holds offline.
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

// Offline, what the last CONNACK does not allow is refused at once, and takes no place in the queue.
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

// The Message Expiry Interval counts while a message waits offline; a message in flight is resent all the
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
		if len(sent) != 3 || sent[1] != "flying false 1s" && sent[1] != "flying true 1s" || !strings.HasPrefix(sent[2], "long false ") {
			t.Fatalf("sent %q", sent)
		}
		left, err := time.ParseDuration(strings.TrimPrefix(sent[2], "long false "))
		if noErr(t, err); left > 700*time.Second || left < 630*time.Second { // the next attempt to connect comes within a minute
			t.Errorf("sent %q", sent)
		}
		if s := c.Stats(); s.Expired != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// QoS 0 waits for a connection only on request, in order and in its place within the queue's bounds.
func TestQueueOffline(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v, mqtt.WithQueue(3, 1000))
		c := p.client
		p.offline()
		wantErr(t, c.Publish(t.Context(), "t", nil), mqtt.ErrNotConnected, true)
		first := c.PublishAsync(t.Context(), "t", []byte("1"), mqtt.QueueOffline)
		second := calling(func() error { return c.Publish(t.Context(), "t", []byte("2"), mqtt.QueueOffline) })
		synctest.Wait()
		c.PublishAsync(t.Context(), "t", []byte("3"), mqtt.AtLeastOnce)
		stillWaits(t, second)
		wantErr(t, c.Publish(t.Context(), "t", nil, mqtt.QueueOffline), mqtt.ErrQueueFull, true)
		if s := c.Stats(); s.Queued != 3 || s.QueueBytes != 6 {
			t.Errorf("queued %d messages with %d bytes", s.Queued, s.QueueBytes)
		}
		p.accept(&codec.Connack{SessionPresent: true})
		p.Expect(toT(0, 0, "1"))
		p.Expect(toT(0, 0, "2"))
		p.Expect(toT(1, 1, "3"))
		noErr(t, first.Wait(t.Context()))
		noErr(t, outcome(t, second))
		c.PublishAsync(t.Context(), "t", []byte("4"), mqtt.QueueOffline)
		p.Expect(toT(0, 0, "4"))
		p.Send(&codec.Puback{PacketID: 1})
		synctest.Wait()
		if s := c.Stats(); s.Queued != 0 || s.QueueBytes != 0 || s.Published != 4 {
			t.Errorf("in the end %+v", s)
		}
	})
}

// A message at QoS 0 that waits for a connection is taken back when its ctx ends, by Withdraw, and with the client.
func TestQueueOfflineWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		c := p.client
		p.offline()
		ctx, cancel := context.WithCancel(t.Context())
		given := calling(func() error { return c.Publish(ctx, "t", []byte("1"), mqtt.QueueOffline) })
		d := c.PublishAsync(t.Context(), "t", []byte("2"), mqtt.QueueOffline)
		stillWaits(t, given)
		cancel()
		wantErr(t, outcome(t, given), context.Canceled, true)
		if !d.Withdraw() || !mqtt.SafeToRetry(d.Err()) {
			t.Errorf("withdrawn: %v", d.Err())
		}
		expires := c.PublishAsync(t.Context(), "t", []byte("3"), mqtt.QueueOffline)
		p.accept(&codec.Connack{SessionPresent: true})
		p.Expect(toT(0, 0, "3"))
		noErr(t, expires.Wait(t.Context()))
		p.offline()
		last := c.PublishAsync(t.Context(), "t", []byte("4"), mqtt.QueueOffline)
		c.Close()
		wantErr(t, last.Err(), mqtt.ErrClosed, true)
	})
}

// QoS 0 keeps its order among itself, whether it waited for the connection or not, and is not held up by the window.
func TestQueueOfflineOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5, mqtt.WithMaxInFlight(1))
		c := p.client
		p.offline()
		c.PublishAsync(t.Context(), "t", []byte("held"), mqtt.AtLeastOnce)
		c.PublishAsync(t.Context(), "t", []byte("waits"), mqtt.AtLeastOnce)
		large := make([]byte, 300_000) // more than the write buffer takes at once
		for n := range 8 {
			c.PublishAsync(t.Context(), fmt.Sprint("offline/", n), large, mqtt.QueueOffline)
		}
		s := p.server.Accept()
		defer s.Close()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{SessionPresent: true})
		noErr(t, c.WaitConnected(t.Context()))
		later := calling(func() error { return c.Publish(t.Context(), "online", nil) })
		stillWaits(t, later) // the write buffer is full, and others are before it
		for _, want := range []string{"offline/0", "offline/1", "offline/2", "offline/3", "offline/4", "offline/5", "offline/6", "offline/7", "t", "online"} {
			if got := mqtttest.ReceiveAs[*codec.Publish](s); got.Topic != want {
				t.Errorf("%s comes, want %s", got.Topic, want)
			}
		}
		noErr(t, outcome(t, later))
	})
}

// An expired message at QoS 0 is not sent.
func TestQueueOfflineExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext)
		b.Offline()
		synctest.Wait()
		d := c.PublishAsync(t.Context(), "t", nil, mqtt.QueueOffline, &mqtt.PublishProperties{MessageExpiry: time.Minute})
		time.Sleep(2 * time.Minute)
		b.Online()
		wantErr(t, d.Wait(t.Context()), mqtt.ErrExpired, true)
	})
}

// A message over which connection after connection is lost fails, and those behind it get through.
func TestPoison(t *testing.T) {
	for name, keeps := range map[string]bool{"the session is kept": true, "the session is lost": false} {
		t.Run(name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) { testPoison(t, v, keeps) })
		})
	}
}

func testPoison(t *testing.T, v codec.Version, keeps bool) {
	b := mqtttest.NewBroker(t)
	c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("publisher"))
	fallen := false // the server has come across it, and takes nothing more
	remove := b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
		switch p := p.(type) {
		case *codec.Connect:
			fallen = false
		case *codec.Publish:
			if string(p.Payload) == "poison" {
				fallen = true
				if !keeps {
					go b.Forget("publisher")
				}
				go b.Cut("publisher")
			}
		}
		return outbound || !fallen
	})
	defer remove()
	began := time.Now()
	bad := c.PublishAsync(t.Context(), "t", []byte("poison"), mqtt.AtLeastOnce)
	good := c.PublishAsync(t.Context(), "t", []byte("good"), mqtt.AtLeastOnce)
	err := bad.Wait(endingIn(t, 24*time.Hour))
	wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
	if !errors.Is(err, mqtt.ErrConnectionLost) {
		t.Errorf("%v does not tell the loss", err)
	}
	if losses := c.Stats().Losses; losses != 6 { // the first sent it for the first time
		t.Errorf("given up after %d losses", losses)
	}
	if took := time.Since(began); took > 6*time.Second { // each delay is at most 1 s
		t.Errorf("given up after %v", took)
	}
	if text := err.Error(); !strings.Contains(text, `to "t", a packet of 1`) {
		t.Errorf("%q does not name topic and size", text)
	}
	noErr(t, good.Wait(t.Context()))
	noErr(t, c.Disconnect(t.Context()))
}

// When the poison is given up the next delay is a first one, so that those behind it need not wait for its losses. It is
// only one: if the next connection is lost as well, the delays go on where they were.
func TestPoisonDelays(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		var log failures
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithReconnect(mqtt.ReconnectPolicy{
			MaxDelay: 1e6 * time.Second, Factor: 1e6, Decide: log.decide})) // beyond the first, no delay is below a second
		remove := b.Fault(mqtttest.Fault{Packet: "PUBLISH", Drop: true, Cut: true})
		bad := c.PublishAsync(t.Context(), "bad", nil, mqtt.AtLeastOnce)
		good := c.PublishAsync(t.Context(), "good", nil, mqtt.AtLeastOnce)
		wantErr(t, bad.Wait(context.Background()), mqtt.ErrOutcomeUnknown, false)
		remove()
		began := time.Now()
		noErr(t, good.Wait(context.Background()))
		if took := time.Since(began); took > time.Second {
			t.Errorf("the next message waits for %v", took)
		}
		first := log.take()
		b.Cut()
		next := log.take()
		if len(first) != 6 || len(next) != 1 || next[0].Delay < time.Second {
			t.Errorf("%d delays, and then %+v", len(first), next)
		}
	})
}

// With a limit of 0 no message is given up.
func TestPoisonWithoutLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithPoisonLimit(0))
		remove := b.Fault(mqtttest.Fault{Packet: "PUBLISH", Drop: true, Cut: true})
		d := c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		time.Sleep(time.Hour)
		if losses := c.Stats().Losses; losses < 20 {
			t.Errorf("only %d losses", losses)
		}
		noErr(t, d.Err())
		remove()
		noErr(t, d.Wait(t.Context()))
	})
}

// A message at QoS 0 for which a connection comes just when it is to be queued is sent, also where there is no queue.
func TestQueueOfflineWithoutQueue(t *testing.T) {
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			c := reconnectingV5(t, b.DialContext, mqtt.WithQueue(0, 0))
			b.Offline()
			synctest.Wait()
			ctx := endingIn(t, time.Hour)
			stop, cancel := context.WithCancel(t.Context())
			var publishers sync.WaitGroup
			for range 20 {
				publishers.Go(func() {
					for stop.Err() == nil {
						if err := c.Publish(ctx, "t", nil, mqtt.QueueOffline); errors.Is(err, context.DeadlineExceeded) {
							t.Error(err)
							return
						}
					}
				})
			}
			b.Online()
			noErr(t, c.Reconnect(t.Context()))
			cancel()
			publishers.Wait()
		})
	}
}

// Any acknowledgement on a connection acquits the message that was sent again first: the server has not failed over it.
// Then the losses count from the beginning.
func TestPoisonAcquitted(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v, mqtt.WithPoisonLimit(2), mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Second}))
		suspect := p.publish("suspect", mqtt.AtLeastOnce)
		p.wantPackets("PUBLISH 1 suspect q1")
		for i := range 5 {
			p.resume()
			p.wantPackets("PUBLISH 1 suspect q1 dup")
			if i%2 == 0 {
				continue // this loss counts
			}
			other := p.publish("other", mqtt.AtLeastOnce)
			m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
			p.Send(&codec.Puback{PacketID: m.PacketID})
			wantFate(t, other, nil)
		}
		wantOpen(t, suspect)
		p.resume()
		p.wantPackets("PUBLISH 1 suspect q1 dup")
		p.resume()
		wantFate(t, suspect, mqtt.ErrOutcomeUnknown)
	})
}

// Messages that expire while they wait in the queue are resolved then, and take no room.
func TestExpiredInTheQueue(t *testing.T) {
	for name, opts := range map[string][]mqtt.PublishOptionV5{
		"QoS 1": {mqtt.AtLeastOnce}, "QoS 2": {mqtt.ExactlyOnce}, "QueueOffline": {mqtt.QueueOffline},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t)
				c := reconnectingV5(t, b.DialContext, mqtt.WithQueue(2, 1000))
				b.Offline()
				synctest.Wait()
				in := func(d time.Duration) *mqtt.Delivery {
					return c.PublishAsync(t.Context(), "t", nil, append(opts, &mqtt.PublishProperties{MessageExpiry: d})...)
				}
				late, soon := in(10*time.Second), in(time.Second)
				time.Sleep(1500 * time.Millisecond)
				wantFate(t, soon, mqtt.ErrExpired)
				wantOpen(t, late)
				for range 2 * 200 { // each takes the place of the one before, which has expired though the timer has not gone off yet
					in(time.Millisecond)
					time.Sleep(time.Millisecond)
				}
				wantOpen(t, in(time.Hour))
				if s := c.Stats(); s.Expired != 401 || s.Queued != 2 {
					t.Errorf("%d expired, %d are queued", s.Expired, s.Queued)
				}
				time.Sleep(time.Minute)
				wantFate(t, late, mqtt.ErrExpired)
				if s := c.Stats(); s.Expired != 402 || s.Queued != 1 {
					t.Errorf("in the end %d expired, %d are queued", s.Expired, s.Queued)
				}
				b.Online()
				noErr(t, c.Disconnect(endingIn(t, time.Hour)))
			})
		})
	}
}
