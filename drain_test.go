package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// Flush waits for what was published before it, and for nothing that is published later.
func TestFlush(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		var last atomic.Int64
		withhold := b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			_, ack := p.(*codec.Puback)
			return !ack || last.Add(1) <= 3
		})
		c := dialAs(t, v, b.DialContext)
		noErr(t, c.Flush(t.Context())) // nothing was published
		for i := range 5 {
			c.PublishAsync(t.Context(), "t", fmt.Append(nil, i), mqtt.AtLeastOnce)
		}
		flushing := startErr(func() error { return c.Flush(t.Context()) })
		flushing.pending(t, "two are not acknowledged")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush returns %v at the end of its ctx", err)
		}
		flushing.pending(t, "two are not acknowledged")
		withhold()
		c.Close()
		if err := flushing.wait(); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("Flush returns %v at the end of the client", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		stop := make(chan struct{})
		go func() { // others go on publishing
			for {
				select {
				case <-stop:
					return
				default:
					c.PublishAsync(t.Context(), "other", nil, mqtt.AtLeastOnce).Wait(t.Context())
				}
			}
		}()
		d := c.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		noErr(t, c.Flush(t.Context()))
		select {
		case <-d.Done():
		default:
			t.Error("Flush has not waited")
		}
		close(stop)
	})
}

// Drain lets handlers and loops finish what was delivered, their publishes included, and then disconnects.
func TestDrain(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		var done atomic.Int64
		handling := startErr(func() error {
			return c.sub.Handle(t.Context(), func(ctx context.Context, m mqtt.Message) error {
				time.Sleep(time.Second)
				if err := c.client.Publish(ctx, "$done", nil, mqtt.ExactlyOnce); err != nil {
					return err
				}
				done.Add(1)
				return nil
			}, mqtt.Workers(2), mqtt.Key(nil))
		})
		c.send("a", 1, 20)
		noErr(t, c.client.Drain(t.Context()))
		noErr(t, handling.wait())
		if n := done.Load(); n != 20 {
			t.Errorf("%d of 20 are handled", n)
		}
		c.wantUnacknowledged(t, "")
		if !errors.Is(c.client.Err(), mqtt.ErrClosed) {
			t.Errorf("the client has ended with %v", c.client.Err())
		}
	})
}

// When ctx ends before the handlers are done the error says so, and the client is closed.
func TestDrainInVain(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c := startConsuming(t, v)
		release := make(chan struct{})
		handling := startErr(func() error {
			return c.sub.Handle(t.Context(), func(context.Context, mqtt.Message) error {
				<-release
				return nil
			})
		})
		c.send("a", 1, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.client.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain returns %v", err)
		}
		close(release)
		handling.wait()
		if c.client.Err() == nil {
			t.Error("the client lives")
		}
	})
}

// What nobody has processed is not acknowledged: neither what waits when ctx ends, nor what a Handle has given back whose ctx
// ended before.
func TestDrainAcknowledgesNothingUnprocessed(t *testing.T) {
	for _, early := range []bool{false, true} {
		inBothVersions(t, func(t *testing.T, v codec.Version) {
			c := startConsuming(t, v)
			intake, stop := context.WithCancel(t.Context())
			defer stop()
			handling := startErr(func() error {
				return c.sub.Handle(intake, func(context.Context, mqtt.Message) error {
					time.Sleep(10 * time.Second)
					return nil
				})
			})
			c.send("a", 1, 4)
			var acknowledged []codec.Packet
			defer c.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
				switch p.(type) {
				case *codec.Puback, *codec.Pubrec:
					if !outbound {
						acknowledged = append(acknowledged, p)
					}
				}
				return true
			})()
			if early { // one is done by then
				stop()
				noErr(t, handling.wait())
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			if err := c.client.Drain(ctx); !early && !errors.Is(err, context.DeadlineExceeded) || early && err != nil {
				t.Errorf("Drain returns %v", err)
			}
			stop()
			handling.wait()
			synctest.Wait()
			if n := len(acknowledged); n != 1 || c.sub.Dropped() != 0 {
				t.Errorf("%d are acknowledged, %d dropped", n, c.sub.Dropped())
			}
		})
	}
}

// Three workers of a shared subscription are restarted one after another with Drain: nothing is lost, and at QoS 2 nothing
// comes twice.
func TestRollingRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		var processed [2000]atomic.Int64
		worker := func(name string) mqtt.ClientV5 {
			c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithClientID(name), mqtt.WithCleanStart(false), mqtt.WithSessionExpiry(time.Hour))
			noErr(t, err)
			sub, err := c.Subscribe(t.Context(), "$share/workers/jobs/#", mqtt.ExactlyOnce)
			noErr(t, err)
			go sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
				time.Sleep(10 * time.Millisecond)
				var n int
				fmt.Sscan(string(m.Payload), &n)
				processed[n].Add(1)
				return nil
			}, mqtt.Workers(4))
			return c
		}
		names := []string{"one", "two", "three"}
		var clients []mqtt.ClientV5
		for _, name := range names {
			clients = append(clients, worker(name))
		}
		publishing := startErr(func() error {
			for i := range processed {
				b.Publish(text(fmt.Sprint("jobs/", i%10), fmt.Sprint(i), 2))
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		for i := range clients {
			time.Sleep(200 * time.Millisecond)
			noErr(t, clients[i].Drain(t.Context()))
			clients[i] = worker(names[i])
		}
		noErr(t, publishing.wait())
		time.Sleep(time.Minute)
		for i := range processed {
			if n := processed[i].Load(); n != 1 {
				t.Errorf("message %d was processed %d times", i, n)
			}
		}
		for _, c := range clients {
			c.Close()
		}
	})
}

// With a store Drain waits until the acknowledgements are sent that wait for it.
func TestDrainWithAStore(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b, store := mqtttest.NewBroker(t), new(storetest.Memory)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("consumer"), mqtt.WithStore(store))
		sub, err := c.Subscribe(t.Context(), "#", mqtt.ExactlyOnce)
		noErr(t, err)
		handled := make(chan struct{})
		handling := startErr(func() error {
			return sub.Handle(t.Context(), func(context.Context, mqtt.Message) error {
				close(handled)
				return nil
			})
		})
		store.Before(func(context.Context, []mqtt.StoreChange) error {
			time.Sleep(50 * time.Millisecond)
			return nil
		})
		b.Publish(text("t", "1", 2))
		<-handled
		noErr(t, c.Drain(t.Context()))
		noErr(t, handling.wait())
		(&consuming{Broker: b}).wantUnacknowledged(t, "")
	})
}

// Flush does not wait for a message whose Publish has returned, with a store as without one.
func TestFlushAfterAPublishThatReturned(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for _, opts := range []mqtt.Options{nil, {mqtt.WithStore(new(storetest.Memory))}} {
			b := mqtttest.NewBroker(t)
			defer b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})()
			c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"), opts)
			wantErr(t, c.Publish(endingIn(t, time.Second), "t", nil, mqtt.AtLeastOnce), mqtt.ErrOutcomeUnknown, false)
			began := time.Now()
			if err := c.Flush(endingIn(t, time.Minute)); err != nil || time.Since(began) > 0 {
				t.Errorf("Flush returns %v after %v", err, time.Since(began))
			}
			c.Close()
		}
	})
}

// Flush does not go on waiting for a message whose publisher has stopped waiting meanwhile, or has withdrawn it, and waits
// for the next message of a Publish although its Delivery is used again.
func TestFlushWhilePublishersStopWaiting(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		for _, opts := range []mqtt.Options{nil, {mqtt.WithStore(new(storetest.Memory))}} {
			b := mqtttest.NewBroker(t)
			defer b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})()
			c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"), mqtt.WithMaxInFlight(1), opts)
			began := time.Now()
			returned := func(flushing *running[struct{}], after time.Duration) {
				t.Helper()
				noErr(t, flushing.wait())
				if past := time.Since(began); past != after {
					t.Errorf("Flush returns after %v, want %v", past, after)
				}
			}
			// Each message waits until that many seconds have gone by, and a Flush begins behind it.
			var publishing, flushing []*running[struct{}]
			publish := func(until time.Duration) {
				ctx := endingIn(t, until-time.Since(began))
				publishing = append(publishing, startErr(func() error { return c.Publish(ctx, "t", nil, mqtt.AtLeastOnce) }))
				synctest.Wait()
				flushing = append(flushing, startErr(func() error { return c.Flush(t.Context()) }))
				flushing[len(flushing)-1].pending(t, "a publisher waits")
			}
			publish(10 * time.Second) // in flight
			publish(20 * time.Second) // in the queue
			returned(flushing[0], 10*time.Second)
			publish(30 * time.Second)
			flushing[1].pending(t, "the second publisher waits")
			returned(flushing[1], 20*time.Second)
			flushing[2].pending(t, "the third publisher waits")
			returned(flushing[2], 30*time.Second)
			for i, p := range publishing {
				if err := p.wait(); !errors.Is(err, context.DeadlineExceeded) || mqtt.SafeToRetry(err) != (opts == nil && i > 0) {
					t.Errorf("Publish %d returns %v", i, err)
				}
			}
			waits := c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
			last := startErr(func() error { return c.Flush(t.Context()) })
			last.pending(t, "a message waits")
			if !waits.Withdraw() {
				t.Error("a message that waits cannot be withdrawn")
			}
			noErr(t, last.wait())
			c.Close()
		}
	})
}

// A server may send what it has in its queue after UNSUBACK too [MQTT-3.10.4-3]. Nobody processes that any more, so Drain does not
// let it be acknowledged; and what comes behind it is not processed, because it could not be acknowledged either.
func TestDrainAcknowledgesNothingAfterUnsuback(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		handled := make(chan string, 10)
		var handling []*running[struct{}]
		for i, filter := range []string{"t", "slow"} {
			call := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(t.Context(), filter, mqtt.AtLeastOnce) })
			s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
			p.Send(&codec.Suback{PacketID: s.PacketID, Codes: []codec.ReasonCode{1}})
			sub := call.value(t)
			handling = append(handling, startErr(func() error {
				return sub.Handle(t.Context(), func(_ context.Context, m mqtt.Message) error {
					time.Sleep(time.Duration(i) * time.Minute)
					handled <- string(m.Payload)
					return nil
				})
			}))
		}
		for id, payload := range []string{"", "first", "second"} {
			if id > 0 {
				p.Send(&codec.Publish{Topic: "slow", QoS: 1, PacketID: uint16(id), Payload: []byte(payload)})
			}
		}
		synctest.Wait()
		drained := startErr(func() error { return p.client.Drain(t.Context()) })
		for range 2 {
			u := mqtttest.ReceiveAs[*codec.Unsubscribe](p.Script)
			p.Send(unsubscribed(v, u))
		}
		time.Sleep(time.Second)
		p.Send(toT(1, 3, "late"))
		p.Send(&codec.Publish{Topic: "slow", QoS: 1, PacketID: 4, Payload: []byte("behind")})
		p.Send(toT(2, 5, "late too"))
		var sent []string
		for len(sent) == 0 || sent[len(sent)-1] != "DISCONNECT" {
			switch packet := p.Receive().(type) {
			case *codec.Pingreq:
				p.Send(&codec.Pingresp{})
			case *codec.Disconnect:
				sent = append(sent, "DISCONNECT")
			default:
				sent = append(sent, brief(packet))
			}
		}
		if got := strings.Join(sent, ", "); got != "PUBACK 1, PUBACK 2, DISCONNECT" {
			t.Errorf("the client sends %s", got)
		}
		p.Cut()
		noErr(t, drained.wait())
		for _, h := range handling {
			noErr(t, h.wait())
		}
		close(handled)
		got := ""
		for payload := range handled {
			got += payload + " "
		}
		if got != "first second " {
			t.Errorf("handled are %s", got)
		}
	})
}
