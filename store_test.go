package mqtt_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// Tests of the table in the documentation of Store: each row is held by a store that does not answer, and by the death of the
// process on either side of the moment when the store has it.

// process is a client with a store, which can die.
type process struct {
	*pair
	store *storetest.Memory
	dead  atomic.Bool
}

// newProcess starts a process and answers its CONNECT.
func newProcess(t *testing.T, v codec.Version, store *storetest.Memory, present bool, opts ...mqtt.Option) *process {
	t.Helper()
	p := &process{pair: &pair{t: t, server: mqtttest.NewServer(t, v)}, store: store}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if p.dead.Load() {
			return nil, errors.New("this process is dead")
		}
		return p.server.DialContext(ctx, network, address)
	}
	opts = append(opts, mqtt.WithStore(store))
	c := start(func() (mqtt.Client, error) { return reconnectingAs(t, v, dial, opts...), nil })
	connect := p.accept(&codec.Connack{SessionPresent: present})
	if connect.CleanStart {
		t.Error("a client with a store asks for a clean start")
	}
	p.client = c.value(t)
	return p
}

// die ends the process and returns what its store has.
func (p *process) die() *storetest.Memory {
	p.dead.Store(true)
	p.store.Before(nil)
	s := p.store.Crash()
	p.Cut()
	return s
}

// holdStore lets the store answer nothing until release is called.
func (p *process) holdStore() (release func()) {
	held := make(chan struct{})
	p.store.Before(func(ctx context.Context, _ []mqtt.StoreChange) error {
		select {
		case <-held:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return sync.OnceFunc(func() { close(held) })
}

// failStore lets the store fail from now on.
var errFull = errors.New("no space left on device")

func (p *process) failStore() (mend func()) {
	p.store.Before(func(context.Context, []mqtt.StoreChange) error { return errFull })
	return func() { p.store.Before(nil) }
}

// settle lets what is written soon be written.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// withStores runs a test with both versions, in virtual time.
func withStores(t *testing.T, test func(t *testing.T, v codec.Version)) {
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		t.Run(v.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, v) })
		})
	}
}

// publishing is a PublishAsync that may wait for the store.
func (p *process) publishing(topic string, qos mqtt.QoS) *running[*mqtt.Delivery] {
	return start(func() (*mqtt.Delivery, error) { return p.publish(topic, qos), nil })
}

func (r *running[T]) wantWaiting(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case <-r.done:
		t.Fatal("the call has returned")
	default:
	}
}

// Before PublishAsync returns, and before PUBLISH is sent, message and identifier are on disk.
// [MQTT-4.4.0-1] [MQTT311-4.4.0-1]
func TestStorePublish(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		for _, qos := range []mqtt.QoS{mqtt.AtLeastOnce, mqtt.ExactlyOnce} {
			p := newProcess(t, v, new(storetest.Memory), false)
			settle()
			release := p.holdStore()
			call := p.publishing("t", qos)
			call.wantWaiting(t)
			p.wantSilence()
			before := p.die() // the message was not accepted, and is not there
			release()

			p = newProcess(t, v, before, true)
			p.wantSilence()
			p.publishing("u", qos).value(t)
			first := mqtttest.ReceiveAs[*codec.Publish](p.Script)
			after := p.die()

			p = newProcess(t, v, after, true)
			again := mqtttest.ReceiveAs[*codec.Publish](p.Script)
			if !again.Dup || again.PacketID != first.PacketID || again.Topic != "u" || first.Dup {
				t.Errorf("%v: %v, then %v", qos, brief(first), brief(again))
			}
			p.die()
		}
	})
}

// A message that was accepted and not sent is sent by the next process, after those that were.
func TestStoreQueue(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithMaxInFlight(1))
		for _, topic := range []string{"a", "b", "c"} {
			p.publishing(topic, mqtt.AtLeastOnce).value(t)
		}
		p.wantPackets("PUBLISH 1 a q1")
		p.wantSilence()
		p = newProcess(t, v, p.die(), true)
		p.wantPackets("PUBLISH 1 a q1 dup", "PUBLISH 32770 b q1", "PUBLISH 32771 c q1")
		if n := len(p.client.Outstanding()); n != 3 {
			t.Errorf("%d messages are outstanding", n)
		}
		for _, id := range []uint16{1, 32770, 32771} {
			p.Send(&codec.Puback{PacketID: id})
		}
		settle()
		if n := len(p.client.Outstanding()); n != 0 {
			t.Errorf("%d messages are outstanding", n)
		}
		p = newProcess(t, v, p.die(), true)
		p.wantSilence()
		p.die()
	})
}

// Before PUBREL is sent it is on disk that PUBREC came: PUBLISH is never sent again after PUBREL [MQTT-4.3.3-6].
// [MQTT-4.3.3-1] [MQTT311-4.3.3-1]
func TestStorePubrel(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		d := p.publishing("t", mqtt.ExactlyOnce).value(t)
		p.wantPackets("PUBLISH 1 t q2")
		settle()
		release := p.holdStore()
		p.Send(&codec.Pubrec{PacketID: 1})
		p.wantSilence()
		wantOpen(t, d)
		before := p.die()
		release()

		p = newProcess(t, v, before, true)
		p.wantPackets("PUBLISH 1 t q2 dup")
		p.Send(&codec.Pubrec{PacketID: 1})
		p.wantPackets("PUBREL 1")
		p = newProcess(t, v, p.die(), true)
		p.wantPackets("PUBREL 1")
		p.wantSilence()
		fate := p.client.Outstanding()[0].Delivery
		p.Send(&codec.Pubcomp{PacketID: 1})
		wantFate(t, fate, nil)
		settle()
		p = newProcess(t, v, p.die(), true)
		p.wantSilence()
		p.die()
	})
}

// PUBRELs are sent again in the order of the PUBRECs [MQTT-4.6.0-4], also after the process has died.
// [MQTT311-4.6.0-4]
func TestStorePubrelOrder(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		for _, topic := range []string{"a", "b", "c"} {
			p.publishing(topic, mqtt.ExactlyOnce).value(t)
		}
		p.wantPackets("PUBLISH 1 a q2", "PUBLISH 2 b q2", "PUBLISH 3 c q2")
		p.Send(&codec.Pubrec{PacketID: 3}, &codec.Pubrec{PacketID: 1})
		p.wantPackets("PUBREL 3", "PUBREL 1")
		p = newProcess(t, v, p.die(), true)
		p.wantPackets("PUBREL 3", "PUBREL 1", "PUBLISH 2 b q2 dup")
		p.die()
	})
}

// A lost connection between PUBREC and its record does no harm.
func TestStorePubrecAndReconnect(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		d := p.publishing("t", mqtt.ExactlyOnce).value(t)
		p.wantPackets("PUBLISH 1 t q2")
		settle()
		release := p.holdStore()
		p.Send(&codec.Pubrec{PacketID: 1})
		p.wantSilence()
		p.resume()
		p.wantPackets("PUBLISH 1 t q2 dup")
		release()
		p.wantPackets("PUBREL 1")
		p.Send(&codec.Pubrec{PacketID: 1}, &codec.Pubcomp{PacketID: 1})
		wantFate(t, d, nil)
		p.die()
	})
}

// Before PUBREC is sent its identifier is on disk, and before PUBCOMP that it has ended.
// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-12] [MQTT311-4.3.3-2]
func TestStoreReceive(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		sub := p.subscribing("t")
		settle()
		release := p.holdStore()
		p.Send(toT(2, 7, "first"))
		if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "first" {
			t.Fatal(m, err)
		}
		p.wantSilence()
		before := p.die()
		release()

		p = newProcess(t, v, before, true) // it may come once more: no PUBREC was sent
		sub = p.subscribing("t")
		p.Send(dup(toT(2, 7, "first")))
		if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "first" {
			t.Fatal(m, err)
		}
		p.wantPackets("PUBREC 7")

		p = newProcess(t, v, p.die(), true)
		sub = p.subscribing("t")
		p.Send(dup(toT(2, 7, "first")))
		p.wantPackets("PUBREC 7")
		release = p.holdStore()
		p.Send(&codec.Pubrel{PacketID: 7})
		p.wantSilence()
		before = p.die()
		release()

		p = newProcess(t, v, before, true)
		sub2 := p.subscribing("t")
		p.Send(&codec.Pubrel{PacketID: 7})
		p.wantPackets("PUBCOMP 7")

		p = newProcess(t, v, p.die(), true)
		sub3 := p.subscribing("t")
		p.Send(toT(2, 7, "second")) // the identifier is free, and the server has used it again
		if m, err := sub3.Next(t.Context()); err != nil || string(m.Payload) != "second" {
			t.Fatal(m, err)
		}
		p.wantPackets("PUBREC 7")
		p.die()
		for _, s := range []*mqtt.Subscription{sub, sub2} {
			select {
			case m := <-s.Messages():
				t.Errorf("%s was delivered twice", m.Payload)
			default:
			}
		}
	})
}

func dup(p *codec.Publish) *codec.Publish {
	p.Dup = true
	return p
}

// subscribing subscribes and answers.
func (p *process) subscribing(filter string) *mqtt.Subscription {
	p.t.Helper()
	call := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(p.t.Context(), filter, mqtt.ExactlyOnce) })
	s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
	p.Send(&codec.Suback{PacketID: s.PacketID, Codes: []codec.ReasonCode{2}})
	return call.value(p.t)
}

// Before the first SUBSCRIBE or PUBLISH of a new session it is on disk that the old one has ended.
// [MQTT-3.2.2-5]
func TestStoreNewSession(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		old := p.subscribing("t")
		p.publishing("once", mqtt.ExactlyOnce).value(t)
		p.publishing("least", mqtt.AtLeastOnce).value(t)
		p.wantPackets("PUBLISH 2 once q2", "PUBLISH 3 least q1")
		p.Send(toT(2, 7, "old"))
		if m, err := old.Next(t.Context()); err != nil || string(m.Payload) != "old" {
			t.Fatal(m, err)
		}
		p.wantPackets("PUBREC 7")
		store := p.die()

		// The process dies before the store has it: the next one knows the state of the old session.
		second := &process{pair: &pair{t: t, server: mqtttest.NewServer(t, v)}, store: store}
		p = second
		release := p.holdStore()
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			if second.dead.Load() { // p is another process by the time of the last attempt
				return nil, errors.New("this process is dead")
			}
			return second.server.DialContext(ctx, network, address)
		}
		call := start(func() (mqtt.Client, error) {
			return reconnectingAs(t, v, dial, mqtt.WithStore(store), mqtt.WithConnectInBackground()), nil
		})
		p.client = call.value(t)
		p.accept(&codec.Connack{})
		p.wantSilence()
		fates := p.client.Outstanding()
		if len(fates) != 2 {
			t.Fatalf("%d messages are outstanding", len(fates))
		}
		release()
		wantFate(t, fates[0].Delivery, mqtt.ErrSessionLost)
		publish := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if publish.Dup || publish.Topic != "least" {
			t.Errorf("%v", brief(publish))
		}
		store = p.die()

		p = newProcess(t, v, store, true)
		again := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if !again.Dup || again.PacketID != publish.PacketID {
			t.Errorf("%v, then %v", brief(publish), brief(again))
		}
		sub := p.subscribing("t")
		p.Send(dup(toT(2, 7, "old"))) // of the new session, under an identifier that the old one had, and otherwise the same
		if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "old" {
			t.Fatal(m, err)
		}
		p.die()
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

// A store belongs to a client identifier and a server, and to one client at a time.
func TestStoreIdentity(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		id := p.client.ClientID()
		settle()
		connect := func(url string, store mqtt.Store, opts ...mqtt.Option) error {
			opts = append(opts, mqtt.WithStore(store), mqtt.WithDialer(p.server.DialContext), mqtt.WithConnectInBackground())
			c, err := mqtt.NewClientV311(t.Context(), url, opts...)
			if err == nil {
				c.Close()
			}
			return err
		}
		if err := connect("mqtt://test", p.store); !errors.Is(err, mqtt.ErrStoreInUse) {
			t.Error(err)
		}
		store := p.die()
		if err := connect("mqtt://test", store, mqtt.WithClientID("another")); !errors.Is(err, mqtt.ErrStoreForeign) {
			t.Error(err)
		}
		if err := connect("mqtt://elsewhere", store); !errors.Is(err, mqtt.ErrStoreForeign) {
			t.Error(err)
		}
		p = newProcess(t, v, store, true)
		if p.client.ClientID() != id {
			t.Errorf("%q, then %q", id, p.client.ClientID())
		}
		p.client.Close() // and the store is free
		if err := connect("mqtt://test", store, mqtt.WithClientID(id)); err != nil {
			t.Error(err)
		}
	})
}

// An identifier that the server assigns is the store's as well.
func TestStoreAssignedIdentifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		server := mqtttest.NewServer(t, codec.V5)
		for i, given := range []string{"", "assigned"} {
			call := start(func() (mqtt.ClientV5, error) {
				return mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithClientID(""), mqtt.WithStore(store))
			})
			s := server.Accept()
			if connect := mqtttest.ReceiveAs[*codec.Connect](s); connect.ClientID != given {
				t.Errorf("client %d connects as %q", i, connect.ClientID)
			}
			ack := &codec.Connack{SessionPresent: i > 0}
			if i == 0 {
				ack.Properties.AssignedClientID = "assigned"
			}
			s.Send(ack)
			c := call.value(t)
			settle()
			c.Close()
		}
	})
}

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

// The end of ctx ends only the waiting of Publish: the message stays.
func TestStoreContext(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		err := p.client.Publish(endingIn(t, time.Second), "t", []byte("x"), mqtt.AtLeastOnce)
		wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
		p.wantPackets("PUBLISH 1 t q1")
		p.client.Close()
		p = newProcess(t, v, p.die(), true)
		p.wantPackets("PUBLISH 1 t q1 dup")
		p.die()
	})
}

// A message that was withdrawn is gone from the store too.
func TestStoreWithdraw(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithMaxInFlight(1))
		p.publishing("a", mqtt.AtLeastOnce).value(t)
		d := p.publishing("b", mqtt.AtLeastOnce).value(t)
		if !d.Withdraw() {
			t.Fatal("not withdrawn")
		}
		p.wantPackets("PUBLISH 1 a q1")
		settle()
		p = newProcess(t, v, p.die(), true)
		p.wantPackets("PUBLISH 1 a q1 dup")
		p.wantSilence()
		p.die()
	})
}

// What contradicts a store is refused.
func TestStoreOptions(t *testing.T) {
	for name, opts := range map[string]mqtt.Options{
		"nil":         {mqtt.WithStore(nil)},
		"clean start": {mqtt.WithStore(new(storetest.Memory)), mqtt.WithCleanStart(true)},
		"no queue":    {mqtt.WithStore(new(storetest.Memory)), mqtt.WithQueue(0, 0)},
		"servers":     {mqtt.WithStore(new(storetest.Memory)), mqtt.WithServers("mqtt://other")},
	} {
		if _, err := mqtt.NewClient(t.Context(), "mqtt://127.0.0.1:1", opts); err == nil || errors.As(err, new(*mqtt.ConnectError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := mqtt.NewClient(t.Context(), "mqtt://127.0.0.1:1", mqtt.WithStore(new(storetest.Memory)), mqtt.WithSessionExpiry(0))
	if err == nil || errors.As(err, new(*mqtt.ConnectError)) {
		t.Error(err)
	}
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

// A message that failed because of the store is gone, whatever the store has of it: the publisher was told so.
func TestStoreFailedMessageIsGone(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		for _, window := range []int{1, 10} { // the message waits, or has an identifier already
			p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithMaxInFlight(window))
			p.publishing("a", mqtt.ExactlyOnce).value(t)
			p.wantPackets("PUBLISH 1 a q2")
			settle()
			mend := p.failStore()
			d := p.publishing("b", mqtt.ExactlyOnce).value(t)
			wantFate(t, d, errFull)
			mend()
			time.Sleep(10 * time.Second)
			p = newProcess(t, v, p.die(), true)
			p.wantPackets("PUBLISH 1 a q2 dup")
			p.wantSilence()
			if n := len(p.client.Outstanding()); n != 1 {
				t.Errorf("%d messages are outstanding", n)
			}
			p.die()
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

// A server may have begun another session while no client got its CONNACK: then a packet identifier that a process before has
// left behind stands for a new message, which comes with DUP if its first copy was lost. It is delivered; the old message is not.
func TestStoreTellsMessagesApart(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		for payload, delivered := range map[string]int{"old": 0, "new": 1} {
			p := newProcess(t, v, new(storetest.Memory), false)
			sub := p.subscribing("t")
			p.Send(toT(2, 7, "old"))
			if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "old" {
				t.Fatal(m, err)
			}
			p.wantPackets("PUBREC 7")
			p = newProcess(t, v, p.die(), true)
			sub = p.subscribing("t")
			p.Send(dup(toT(2, 7, payload)))
			if got := arrived(sub); len(got) != delivered {
				t.Errorf("%s: %d are delivered", payload, len(got))
			}
			p.wantPackets("PUBREC 7")
			noErr(t, p.client.Disconnect(t.Context()))
			p.die()
		}
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

// A name for the store has a bound.
func TestStoreNameTooLong(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		for n, refused := range map[int]bool{65_535: false, 65_536: true} {
			name := mqtt.StoreName(strings.Repeat("n", n))
			if err := p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce, name).Err(); mqtt.SafeToRetry(err) != refused {
				t.Errorf("%d bytes: %v", n, err)
			}
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

// A publisher waits for the store, and for nothing else.
func TestStoreAtOnce(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		settle()
		began := time.Now()
		noErr(t, p.publish("t", mqtt.AtLeastOnce).Err())
		if d := time.Since(began); d > 0 {
			t.Errorf("PublishAsync took %v", d)
		}
		p.die()
	})
}

// A message that a new session has no room for yet has no identifier in the store any more: after a crash it waits, and
// is not taken for one that was sent.
func TestStoreNewSessionWithALessRoom(t *testing.T) {
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

// The identifier of a message that was given up is not used after a restart either, until the server has lost the session.
func TestStoreKeepsIdentifiersOfWhatWasGivenUp(t *testing.T) {
	play := func(t *testing.T, v codec.Version, live bool) {
		p := newProcess(t, v, new(storetest.Memory), false, mqtt.WithPoisonLimit(2))
		d := p.publishing("t", mqtt.AtLeastOnce).value(t)
		p.wantPackets("PUBLISH 1 t q1")
		p.resume()
		p.wantPackets("PUBLISH 1 t q1 dup")
		p.resume()
		wantFate(t, d, mqtt.ErrOutcomeUnknown)
		settle()
		if live {
			wantFreed(p)
			return
		}
		left := p.die()
		wantReserved(t, left, 1)
		p = newProcess(t, v, left, true)
		settle()
		wantFreed(p)
	}
	withStores(t, func(t *testing.T, v codec.Version) { play(t, v, false) })
	withStores(t, func(t *testing.T, v codec.Version) { play(t, v, true) })
}

// wantFreed lets the server lose the session, and looks whether the record of one identifier is gone.
func wantFreed(p *process) {
	p.t.Helper()
	before := p.store.Len()
	p.renew()
	settle()
	if n := before - p.store.Len(); n != 1 {
		p.t.Errorf("%d records are gone, and not that of the identifier", n)
	}
	p.die()
}

// wantReserved compares how many identifiers a store has that belong to no message any more.
func wantReserved(t *testing.T, s *storetest.Memory, want int) {
	t.Helper()
	n := 0
	noErr(t, s.Load(t.Context(), func(key, value []byte) error {
		if key[0] == 3 && value[1] == 1 { // keyFlight, givenUp
			n++
		}
		return nil
	}))
	noErr(t, s.Release())
	if n != want {
		t.Errorf("%d identifiers are reserved", n)
	}
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

// gossip is a store that takes what it is given, and says that it does not, as long as it lies.
type gossip struct {
	*storetest.Memory
	lies atomic.Bool
}

func (g *gossip) Apply(ctx context.Context, changes []mqtt.StoreChange) error {
	err := g.Memory.Apply(ctx, changes)
	if g.lies.Load() {
		return errFull
	}
	return err
}

// A message that failed is removed from a store that has it in spite of its error, as after a sync that failed.
func TestStoreHasWhatItRefused(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := &process{pair: &pair{t: t, server: mqtttest.NewServer(t, v)}}
		store := &gossip{Memory: new(storetest.Memory)}
		p.client = reconnectingAs(t, v, p.server.DialContext, mqtt.WithStore(store), mqtt.WithConnectInBackground())
		p.accept(&codec.Connack{})
		settle()
		before := store.Len()
		store.lies.Store(true)
		wantFate(t, p.publish("t", mqtt.ExactlyOnce), errFull)
		store.lies.Store(false)
		settle()
		if n := store.Len(); n != before {
			t.Errorf("the store has %d records more", n-before)
		}
		p.wantSilence()
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
