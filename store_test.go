package mqtt_test

import (
	"context"
	"errors"
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

var errFull = errors.New("no space left on device")

// failStore lets the store fail from now on.
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
		p.Send(&codec.Pubrec{PacketID: 1})
		p.wantPackets("PUBREL 1")
		p.Send(&codec.Pubcomp{PacketID: 1})
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
		wantArrived(t, sub)
		wantArrived(t, sub2)
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
