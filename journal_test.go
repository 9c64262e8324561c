package mqtt_test

import (
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

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
