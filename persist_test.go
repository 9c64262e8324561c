package mqtt_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// A store that fails fails the message and nothing else. What was accepted before is kept, and what has happened meanwhile is
// written when the store works again.
func TestStoreFails(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		accepted := p.publishing("a", mqtt.ExactlyOnce).value(t)
		p.wantPackets("PUBLISH 1 a q2")
		settle()
		mend := p.failStore()
		d := p.publishing("b", mqtt.AtLeastOnce).value(t)
		var failed *mqtt.StoreError
		if err := d.Err(); !errors.As(err, &failed) || !errors.Is(err, errFull) || mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
		p.Send(&codec.Pubrec{PacketID: 1})
		p.wantSilence()
		mend()
		p.wantPackets("PUBREL 1") // and nothing of b, now or after a restart
		p.Send(&codec.Pubcomp{PacketID: 1})
		wantFate(t, accepted, nil)
		p.publishing("c", mqtt.AtLeastOnce).value(t)
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); m.Topic != "c" {
			t.Errorf("%v", brief(m))
		}
		settle()
		p = newProcess(t, v, p.die(), true)
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); m.Topic != "c" || !m.Dup {
			t.Errorf("%v", brief(m))
		}
		p.wantSilence()
		p.die()
	})
}

// A store that is full refuses new messages and nothing else: what was accepted goes out, and makes room.
func TestStoreFull(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithMaxInFlight(1))
		for _, topic := range []string{"a", "b"} {
			p.publishing(topic, mqtt.AtLeastOnce).value(t)
		}
		p.wantPackets("PUBLISH 1 a q1")
		settle()
		p.store.Before(func(_ context.Context, changes []mqtt.StoreChange) error {
			for i := range changes {
				if changes[i].Bounded {
					return mqtt.ErrQueueFull
				}
			}
			return nil
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { // a publisher that tries again and again
			for ctx.Err() == nil {
				err := p.client.PublishAsync(ctx, "c", nil, mqtt.AtLeastOnce).Wait(ctx)
				if ctx.Err() == nil && !errors.Is(err, mqtt.ErrQueueFull) {
					t.Errorf("a full store: %v", err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		time.Sleep(time.Second)
		p.Send(&codec.Puback{PacketID: 1})
		p.wantPackets("PUBLISH 2 b q1")
		stop()
		settle()
		p.die()
	})
}

// Messages that the store does not take make room in the queue for those that wait for it.
func TestStoreFailsAndTheQueueIsFull(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithMaxInFlight(1), mqtt.WithQueue(1, 1<<20))
		settle()
		p.publishing("in flight", mqtt.AtLeastOnce).value(t)
		p.wantPackets("PUBLISH 1 in flight q1")
		fail := make(chan struct{})
		p.store.Before(func(context.Context, []mqtt.StoreChange) error {
			<-fail
			return errFull
		})
		queued := p.publishing("queued", mqtt.AtLeastOnce)
		queued.wantWaiting(t)
		next := start(func() (struct{}, error) {
			return struct{}{}, p.client.Publish(t.Context(), "next", nil, mqtt.AtLeastOnce)
		})
		next.wantWaiting(t)
		close(fail)
		wantFate(t, queued.value(t), errFull)
		settle() // after a while the store is tried again
		select {
		case <-next.done:
		default:
			t.Fatal("the room of the message that has failed is given to nobody")
		}
		p.die()
	})
}

// A logger may publish, also about the store.
func TestStoreFailsAndTheLoggerPublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *process
		log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
			if strings.Contains(string(line), "store") {
				p.client.PublishAsync(t.Context(), "log", line, mqtt.AtLeastOnce)
			}
			return len(line), nil
		}), nil))
		p = newProcess(t, codec.V5, new(storetest.Memory), false, mqtt.WithLogger(log))
		settle()
		mend := p.failStore()
		wantFate(t, p.publishing("a", mqtt.AtLeastOnce).value(t), errFull)
		mend()
		time.Sleep(10 * time.Second)
		p.publishing("b", mqtt.AtLeastOnce).value(t)
		p.die()
	})
}

// A store that fails is tried again soon, then less often, and soon again after it has worked. The log says that it fails.
func TestStoreIsTriedAgain(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		var log lines
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		settle()
		for range 2 {
			var mu sync.Mutex
			tries := 0
			p.store.Before(func(context.Context, []mqtt.StoreChange) error {
				mu.Lock()
				defer mu.Unlock()
				tries++
				return errFull
			})
			p.publishing("t", mqtt.AtLeastOnce).value(t)
			time.Sleep(time.Hour)
			mu.Lock()
			if tries < 700 || tries > 730 {
				t.Errorf("%d tries in an hour", tries)
			}
			mu.Unlock()
			p.store.Before(nil)
			time.Sleep(6 * time.Second)
			mend := p.failStore()
			d := p.publishing("t", mqtt.AtLeastOnce).value(t)
			wantFate(t, d, errFull)
			time.Sleep(50 * time.Millisecond)
			mend()
			began := time.Now()
			noErr(t, p.publish("t", mqtt.AtLeastOnce).Err())
			if took := time.Since(began); took > 200*time.Millisecond {
				t.Errorf("after a failure the store was left alone for %v", took)
			}
		}
		if text := log.String(); strings.Count(text, "the store fails") < 700 || !strings.Contains(text, errFull.Error()) {
			t.Errorf("the log has %d lines", strings.Count(text, "\n"))
		}
		p.die()
	})
}

// What waits for the store when the connection is lost goes out on the next one, before everything new and within the window of
// that one.
// [MQTT-3.3.4-7]
func TestStoreSlowWhenTheConnectionIsLost(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		for _, window := range []uint16{0, 1} { // of the next connection; 0: the same
			if window > 0 && v < codec.V5 {
				continue // the server cannot announce it
			}
			p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithMaxInFlight(2))
			settle()
			release := p.holdStore()
			for _, topic := range []string{"a", "b", "c", "d"} {
				p.publishing(topic, mqtt.AtLeastOnce).wantWaiting(t)
			}
			p.Cut()
			p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{ReceiveMaximum: window}})
			p.wantSilence()
			release()
			var ids []uint16
			for i, topic := range []string{"a", "b", "c", "d"} {
				m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
				if m.Topic != topic || m.Dup {
					t.Errorf("%v, want %s", brief(m), topic)
				}
				ids = append(ids, m.PacketID)
				if window == 1 || i%2 == 1 {
					p.wantSilence()
					for _, id := range ids {
						p.Send(&codec.Puback{PacketID: id})
					}
					ids = nil
				}
			}
			p.wantSilence()
			p.die()
		}
	})
}

// A message that expires while it waits for the store is not sent.
func TestStoreSlowAndExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker, store := mqtttest.NewBroker(t), new(storetest.Memory)
		c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(broker.DialContext), mqtt.WithStore(store))
		noErr(t, err)
		defer c.Close()
		settle()
		store.Before(func(context.Context, []mqtt.StoreChange) error {
			time.Sleep(5 * time.Second)
			return nil
		})
		d := c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce, &mqtt.PublishProperties{MessageExpiry: 2 * time.Second})
		wantFate(t, d, mqtt.ErrExpired)
		if got := broker.Received("#"); len(got) > 0 {
			t.Errorf("%+v", got)
		}
		store.Before(nil)
	})
}

// A PUBREC acquits a message of the suspicion that connections are lost over it, also if the store has not taken it yet.
func TestStoreSlowAndThePoisonLimit(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithPoisonLimit(2))
		d := p.publishing("t", mqtt.ExactlyOnce).value(t)
		p.wantPackets("PUBLISH 1 t q2")
		settle()
		release := p.holdStore()
		for range 4 {
			p.resume()
			p.wantPackets("PUBLISH 1 t q2 dup")
			p.Send(&codec.Pubrec{PacketID: 1})
			p.wantSilence()
		}
		release()
		p.wantPackets("PUBREL 1")
		p.Send(&codec.Pubcomp{PacketID: 1})
		wantFate(t, d, nil)
		p.die()
	})
}

// The ctx of NewClient bounds the wait for a store that does not take the beginning of the session.
func TestStoreFailsAtTheFirstConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		store := new(storetest.Memory)
		store.Before(func(context.Context, []mqtt.StoreChange) error { return errFull })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		connecting := startErr(func() error {
			_, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithStore(store))
			return err
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		late := false
		select {
		case <-connecting.done:
		default:
			late = true
		}
		store.Before(nil)
		var failed *mqtt.StoreError
		if err := connecting.wait(); late || !errors.As(err, &failed) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("NewClient returns %v; late: %v", err, late)
		}
	})
}

// A connection whose session cannot begin, because the store does not answer, is kept alive until it can.
// [MQTT-3.1.2-20] [MQTT311-3.1.2-23]
func TestStoreFailsWhileASessionBegins(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := &process{pair: &pair{t: t, server: mqtttest.NewServer(t, v)}, store: new(storetest.Memory)}
		release := p.holdStore()
		p.client = reconnectingAs(t, v, p.server.DialContext, mqtt.WithStore(p.store), mqtt.WithConnectInBackground(), mqtt.WithKeepAlive(time.Minute))
		p.accept(&codec.Connack{})
		began := time.Now()
		for range 10 {
			mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
			if pause := time.Since(began); pause > time.Minute {
				t.Fatalf("nothing is sent for %v", pause)
			}
			began = time.Now()
			p.Send(&codec.Pingresp{})
		}
		release()
		p.publishing("t", mqtt.AtLeastOnce)
		mqtttest.ReceiveAs[*codec.Publish](p.Script)
		settle()
		if n := p.client.Stats().Losses; n != 0 {
			t.Errorf("%d connections were lost", n)
		}
	})
}

// A store that does not work when the client ends keeps what it had.
func TestStoreFailsAtTheEnd(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		d := p.publishing("a", mqtt.AtLeastOnce).value(t)
		p.wantPackets("PUBLISH 1 a q1")
		settle()
		p.failStore()
		p.Send(&codec.Puback{PacketID: 1})
		wantFate(t, d, nil)
		p.client.Close()
		p = newProcess(t, v, p.die(), true)
		p.wantPackets("PUBLISH 1 a q1 dup") // at QoS 1 that is allowed
		p.die()
	})
}

// A message that was withdrawn is not published by the next client, though the store fails when the client ends: what is left is
// written again until the store takes it.
func TestStoreFailsWhenTheClientEnds(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		store := new(storetest.Memory)
		b := mqtttest.NewBroker(t)
		release := b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"), mqtt.WithStore(store), mqtt.WithMaxInFlight(1))
		c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce, mqtt.StoreName("first"))
		second := c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce, mqtt.StoreName("second"))
		synctest.Wait()
		failures := 3
		store.Before(func(context.Context, []mqtt.StoreChange) error {
			if failures--; failures >= 0 {
				return errors.New("no space left on device")
			}
			return nil
		})
		if !second.Withdraw() {
			t.Error("a message that waits cannot be withdrawn")
		}
		noErr(t, c.Close())
		if failures >= 0 {
			t.Errorf("the store has failures left: %d", failures)
		}
		release()
		next := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"), mqtt.WithStore(store))
		for _, o := range next.Outstanding() {
			if o.Name != "first" {
				t.Errorf("%s is outstanding", o.Name)
			}
		}
		noErr(t, next.Disconnect(t.Context()))
	})
}

// The error of a message that the store had not taken when the client ended does not say that the message stays in the store.
func TestStoreFailsWhileTheClientEnds(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		settle()
		p.store.Before(func(context.Context, []mqtt.StoreChange) error {
			time.Sleep(3 * time.Second) // longer than the last DISCONNECT may take
			return errFull
		})
		call := p.publishing("t", mqtt.AtLeastOnce)
		call.wantWaiting(t)
		noErr(t, p.client.Close())
		if err := call.value(t).Err(); !errors.Is(err, mqtt.ErrOutcomeUnknown) || strings.Contains(err.Error(), "stays") {
			t.Errorf("%v", err)
		}
		p = newProcess(t, v, p.die(), true)
		p.wantSilence()
		p.die()
	})
}

// To end a client while the store is at work is no failure of the store.
func TestStoreAtWorkWhenTheClientEnds(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		var log lines
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		settle()
		release := p.holdStore()
		call := p.publishing("t", mqtt.AtLeastOnce)
		call.wantWaiting(t)
		time.AfterFunc(2*time.Second, release)
		noErr(t, p.client.Close())
		call.value(t)
		if text := log.String(); strings.Contains(text, "store") {
			t.Errorf("the log says:\n%s", text)
		}
	})
}

// The life of a message goes on while there is no process.
func TestStoreExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := mqtttest.NewBroker(t)
		store := new(storetest.Memory)
		client := func() mqtt.ClientV5 {
			c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(broker.DialContext), mqtt.WithStore(store), mqtt.WithConnectInBackground())
			noErr(t, err)
			return c
		}
		broker.Offline()
		c := client()
		for topic, life := range map[string]time.Duration{"short": time.Minute, "long": time.Hour} {
			c.PublishAsync(t.Context(), topic, nil, mqtt.AtLeastOnce, mqtt.StoreName(topic), &mqtt.PublishProperties{MessageExpiry: life})
		}
		c.Close()
		time.Sleep(10 * time.Minute)
		c = client()
		defer c.Close()
		fates := map[string]*mqtt.Delivery{}
		for _, o := range c.Outstanding() {
			fates[o.Name] = o.Delivery
		}
		broker.Online()
		wantFate(t, fates["short"], mqtt.ErrExpired)
		wantFate(t, fates["long"], nil)
		got := broker.Received("#")
		if len(got) != 1 || got[0].Properties.MessageExpiry != 50*time.Minute {
			t.Errorf("%+v", got)
		}
		if n := c.Stats().Expired; n != 1 {
			t.Errorf("%d expired", n)
		}
	})
}

// What the server refuses blocks nothing. If the process that has published it is gone, the log says so, and whoever asks
// for what is outstanding.
func TestStoreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		p := newProcess(t, codec.V5, new(storetest.Memory), false, mqtt.WithMaxInFlight(1))
		for _, name := range []mqtt.StoreName{"first", "second"} {
			d := p.client.PublishAsync(t.Context(), string(name), nil, mqtt.AtLeastOnce, name)
			noErr(t, d.Err())
		}
		p = newProcess(t, codec.V5, p.die(), true, mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		all := p.client.Outstanding()
		if len(all) != 2 || all[0].Name != "first" || all[1].Name != "second" {
			t.Fatalf("%+v", all)
		}
		p.wantPackets("PUBLISH 1 first q1 dup")
		p.Send(&codec.Puback{PacketID: 1, Code: codec.NotAuthorized})
		second := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		p.Send(&codec.Puback{PacketID: second.PacketID})
		wantFate(t, all[0].Delivery, mqtt.NotAuthorized)
		wantFate(t, all[1].Delivery, nil)
		settle()
		if text := log.String(); !strings.Contains(text, "earlier process") || !strings.Contains(text, "name=first") || strings.Contains(text, "name=second") {
			t.Errorf("the log says:\n%s", text)
		}
		p = newProcess(t, codec.V5, p.die(), true)
		p.wantSilence()
		p.die()
	})
}

// The server has lost the session, which is on disk, and the process dies. The next one finds a session, the new one. A message at
// QoS 2 of the old session is not sent again, and its outcome stays what it was: nobody knows whether it was delivered.
func TestStoreSessionLostAndDeath(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		p.publishing("once", mqtt.ExactlyOnce).value(t)
		p.wantPackets("PUBLISH 1 once q2")
		p = newProcess(t, v, p.die(), false)
		settle()
		p.wantSilence()
		p = newProcess(t, v, p.die(), true)
		settle()
		p.wantSilence()
		if n := len(p.client.Outstanding()); n > 0 {
			t.Errorf("%d messages are outstanding", n)
		}
		outcomes := p.client.Outcomes()
		if len(outcomes) != 1 || outcomes[0].Message.Topic != "once" || !errors.Is(outcomes[0].Outcome.Err, mqtt.ErrSessionLost) {
			t.Errorf("%+v", outcomes)
		}
		p.die()
	})
}

// On MQTT 3.1.1 a message at QoS 2 that an earlier process has sent makes the window small as well.
func TestStoreWindowAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, codec.V311, new(storetest.Memory), false)
		p.publishing("first", mqtt.ExactlyOnce).value(t)
		p.wantPackets("PUBLISH 1 first q2")
		p = newProcess(t, codec.V311, p.die(), true)
		p.wantPackets("PUBLISH 1 first q2 dup")
		for range 30 {
			p.publishing("t", mqtt.AtLeastOnce).value(t)
		}
		for range 19 {
			if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); m.Topic != "t" {
				t.Errorf("%v", brief(m))
			}
		}
		p.wantSilence()
		p.die()
	})
}

// A message that a new session has no room for yet has no identifier in the store any more: after a crash it waits, and
// is not taken for one that was sent.
func TestStoreNewSessionWithLessRoom(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		p.publishing("a", mqtt.AtLeastOnce).value(t)
		p.publishing("b", mqtt.AtLeastOnce).value(t)
		p.wantPackets("PUBLISH 1 a q1", "PUBLISH 2 b q1")
		p = newProcess(t, v, p.die(), false, mqtt.WithMaxInFlight(1))
		first := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		settle()
		p = newProcess(t, v, p.die(), true)
		if again := mqtttest.ReceiveAs[*codec.Publish](p.Script); !again.Dup || again.PacketID != first.PacketID || again.Topic != "a" {
			t.Errorf("%v", brief(again))
		}
		if second := mqtttest.ReceiveAs[*codec.Publish](p.Script); second.Dup || second.Topic != "b" {
			t.Errorf("%v", brief(second))
		}
		p.die()
	})
}

// A PUBREC of an earlier connection that is on disk only now releases nothing on the new one, to which PUBLISH was sent again: PUBRELs
// follow its own PUBRECs, in their order.
// [MQTT-4.6.0-4] [MQTT311-4.6.0-4]
func TestStorePubrecOfAnEarlierConnection(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		p.publishing("one", mqtt.ExactlyOnce).value(t)
		p.publishing("two", mqtt.ExactlyOnce).value(t)
		first, second := mqtttest.ReceiveAs[*codec.Publish](p.Script), mqtttest.ReceiveAs[*codec.Publish](p.Script)
		settle()
		release := p.holdStore()
		p.Send(&codec.Pubrec{PacketID: second.PacketID})
		p.wantSilence()
		p.Cut()
		p.accept(&codec.Connack{SessionPresent: true})
		for _, m := range []*codec.Publish{first, second} {
			if again := mqtttest.ReceiveAs[*codec.Publish](p.Script); again.PacketID != m.PacketID {
				t.Errorf("%v, then %v", brief(m), brief(again))
			}
		}
		release()
		settle()
		p.wantSilence()
		for _, m := range []*codec.Publish{first, second} {
			p.Send(&codec.Pubrec{PacketID: m.PacketID})
		}
		p.Expect(&codec.Pubrel{PacketID: first.PacketID})
		p.Expect(&codec.Pubrel{PacketID: second.PacketID})
		p.die()
	})
}
