package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// wantOutcomes compares what a client knows of the fates of messages: names, topics, payloads and errors.
func wantOutcomes(t *testing.T, got []mqtt.StoredMessage, want ...string) {
	t.Helper()
	var texts []string
	for _, m := range got {
		text := fmt.Sprintf("%s %s %q", m.Name, m.Message.Topic, m.Message.Payload)
		if m.Outcome.Err != nil {
			text += " " + m.Outcome.Err.Error()
		}
		texts = append(texts, text)
	}
	if fmt.Sprint(texts) != fmt.Sprint(want) {
		t.Errorf("outcomes:\n%q\nwant:\n%q", texts, want)
	}
}

const refusedA = `a t "payload" mqtt: publishing to "t": Not authorized (0x87): no`

// Outcome and end of a message are on disk together: a process that dies before finds the message, one that dies afterwards
// its outcome, and a refused message with it.
func TestStoreOutcome(t *testing.T) {
	for _, refused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newProcess(t, codec.V5, new(storetest.Memory), false)
			d := p.client.PublishAsync(t.Context(), "t", []byte("payload"), mqtt.AtLeastOnce, mqtt.StoreName("a"))
			noErr(t, d.Err())
			p.wantPackets("PUBLISH 1 t q1")
			release := p.holdStore()
			ack := &codec.Puback{PacketID: 1}
			want := `a t ""`
			if refused {
				ack.Code, ack.ReasonString, want = codec.NotAuthorized, "no", refusedA
			}
			p.Send(ack)
			<-d.Done()
			settle()
			wantOutcomes(t, p.client.Outcomes(), want)
			before := p.die()
			release()
			p = newProcess(t, codec.V5, before, true)
			p.wantPackets("PUBLISH 1 t q1 dup")
			wantOutcomes(t, p.client.Outcomes())
			p.Send(ack)
			settle()
			p = newProcess(t, codec.V5, p.die(), true)
			p.wantSilence()
			wantOutcomes(t, p.client.Outcomes(), want)
			var refusal *mqtt.PublishError
			if err := p.client.Outcomes()[0].Outcome.Err; refused != errors.As(err, &refusal) {
				t.Errorf("%#v", err)
			}
			noErr(t, p.client.ForgetOutcomes(t.Context(), p.client.Outcomes()...))
			wantOutcomes(t, p.client.Outcomes())
			p = newProcess(t, codec.V5, p.die(), true)
			wantOutcomes(t, p.client.Outcomes())
			p.die()
		})
	}
}

// A message of a session that the server has lost is not removed without its outcome.
func TestStoreOutcomeOfLostSession(t *testing.T) {
	withStores(t, func(t *testing.T, v codec.Version) {
		p := newProcess(t, v, new(storetest.Memory), false)
		noErr(t, p.publish("t", mqtt.ExactlyOnce).Err())
		p.wantPackets("PUBLISH 1 t q2")
		settle()
		left := p.die()
		applied := make(chan *storetest.Memory, 1) // after the Apply that removes the message
		left.Before(func(_ context.Context, changes []mqtt.StoreChange) error {
			for _, c := range changes {
				if c.Value == nil && c.Key[0] == 2 {
					left.Before(nil)
					time.AfterFunc(time.Nanosecond, func() { applied <- left.Crash() })
				}
			}
			return nil
		})
		p = newProcess(t, v, left, false)
		settle()
		p.die()
		p = newProcess(t, v, <-applied, true)
		p.wantSilence()
		all := p.client.Outcomes()
		if len(all) != 1 || !errors.Is(all[0].Outcome.Err, mqtt.ErrSessionLost) || all[0].Message.Topic != "t" {
			t.Errorf("%+v", all)
		}
		p.die()
	})
}

// A dead letter has all that its message had, and may be published again.
func TestStoreDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &process{pair: &pair{t: t, server: mqtttest.NewServer(t, codec.V5)}, store: new(storetest.Memory)}
		c := reconnectingV5(t, p.server.DialContext, mqtt.WithStore(p.store), mqtt.WithConnectInBackground())
		p.accept(&codec.Connack{})
		d := c.PublishAsync(t.Context(), "t", []byte("payload"), mqtt.ExactlyOnce, mqtt.Retain,
			&mqtt.PublishProperties{ContentType: "text", MessageExpiry: time.Hour, UserProperties: mqtt.UserProperties{{Key: "k", Value: "v"}}})
		noErr(t, d.Err())
		expires := time.Now().Add(time.Hour)
		p.wantPackets("PUBLISH 1 t q2")
		p.Send(&codec.Pubrec{PacketID: 1, Code: codec.NotAuthorized})
		settle()
		noErr(t, c.Close())
		p = newProcess(t, codec.V5, p.die(), true)
		all := p.client.Outcomes()
		if len(all) != 1 {
			t.Fatalf("%+v", all)
		}
		m := all[0].Message
		if string(m.Payload) != "payload" || m.QoS != 2 || !m.Retain || m.Properties.ContentType != "text" || len(m.Properties.UserProperties) != 1 ||
			all[0].Expires.Sub(expires).Abs() > time.Second {
			t.Errorf("%+v, expires %v", m, all[0].Expires)
		}
		p.die()
	})
}

// Without a name only what was not delivered is kept. Nothing is kept of what its publisher knows was never sent, nor of what the end of
// the client leaves in the store.
func TestStoreOutcomeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, codec.V5, new(storetest.Memory), false, mqtt.WithMaxInFlight(1))
		first := p.publish("first", mqtt.AtLeastOnce)
		withdrawn := p.publish("withdrawn", mqtt.AtLeastOnce)
		noErr(t, withdrawn.Err())
		if !withdrawn.Withdraw() {
			t.Fatal("not withdrawn")
		}
		p.wantPackets("PUBLISH 1 first q1")
		p.Send(&codec.Puback{PacketID: 1})
		wantFate(t, first, nil)
		p.publish("left", mqtt.AtLeastOnce)
		p.client.Close()
		p = newProcess(t, codec.V5, p.die(), true)
		wantOutcomes(t, p.client.Outcomes())
		if n := len(p.client.Outstanding()); n != 1 {
			t.Errorf("%d are outstanding", n)
		}
		p.die()
	})
}

// Outcomes are kept for a week, and a number of them.
func TestStoreOutcomeBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		store := new(storetest.Memory)
		c, err := mqtt.NewClient(t.Context(), "mqtt://broker", mqtt.WithDialer(b.DialContext), mqtt.WithStore(store), mqtt.WithClientID("c"))
		noErr(t, err)
		for i := range 1300 {
			d := c.PublishAsync(t.Context(), fmt.Sprint(i), nil, mqtt.AtLeastOnce, mqtt.StoreName("n"))
			noErr(t, d.Wait(t.Context()))
		}
		settle()
		if n := store.Len(); n > 1+1250 {
			t.Errorf("%d records", n)
		}
		all := c.Outcomes()
		if n := len(all); n != 1000 || all[n-1].Message.Topic != "1299" {
			t.Errorf("%d outcomes", n)
		}
		settle()
		if n := store.Len(); n != 1001 {
			t.Errorf("%d records", n)
		}
		time.Sleep(8 * 24 * time.Hour)
		wantOutcomes(t, c.Outcomes())
		settle()
		noErr(t, c.Close())
		if n := store.Len(); n != 1 {
			t.Errorf("%d records", n)
		}
	})
}

// A tool reads a store that no client uses, and drops what nobody wants. What was sent keeps its identifier.
func TestReadStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(t, codec.V5, new(storetest.Memory), false, mqtt.WithMaxInFlight(1), mqtt.WithClientID("c"))
		for _, topic := range []string{"a", "b", "c"} {
			noErr(t, p.publish(topic, mqtt.AtLeastOnce).Err())
		}
		p.wantPackets("PUBLISH 1 a q1")
		settle()
		if _, err := mqtt.ReadStore(t.Context(), p.store); !errors.Is(err, mqtt.ErrStoreInUse) {
			t.Errorf("%v", err)
		}
		left := p.die()
		left.Before(func(context.Context, []mqtt.StoreChange) error { return errFull })
		if n, err := mqtt.DropStored(t.Context(), left, 1, 2, 3); n != 0 || !errors.Is(err, errFull) {
			t.Errorf("%d, %v", n, err)
		}
		left.Before(nil)
		c, err := mqtt.ReadStore(t.Context(), left)
		noErr(t, err)
		if c.ClientID != "c" || len(c.Outstanding) != 3 || !c.Outstanding[0].Sent || c.Outstanding[1].Sent {
			t.Fatalf("%+v", c)
		}
		n, err := mqtt.DropStored(t.Context(), left, c.Outstanding[0].Number, c.Outstanding[1].Number, 99)
		noErr(t, err)
		if n != 2 {
			t.Errorf("%d were dropped", n)
		}
		wantReserved(t, left, 1)
		p = newProcess(t, codec.V5, left, true, mqtt.WithClientID("c"))
		m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if m.Topic != "c" || m.PacketID == 1 {
			t.Errorf("%v with identifier %d", m.Topic, m.PacketID)
		}
		p.die()
	})
}
