package mqtt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// PROTOCOL 1: QoS 1 and 2 leave in the order of the calls; QoS 0 overtakes what waits for the window [MQTT-3.3.4-8] and
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

// PROTOCOL 1: whoever publishes and however many at a time, the messages of each goroutine arrive in its order.
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

// PROTOCOL 2: the write buffer is bounded. A QoS 0 publish waits for room until its ctx ends and is never sent then;
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

// PROTOCOL 2: several publishes at QoS 0 that wait all go out, those of one goroutine in order, when the server reads
// again, also when some of those before them give up.
func TestPublishQoS0WaitersAreServed(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Minute))
		payload := make([]byte, 100_000)
		for p.client.Publish(endingIn(t, time.Second), "fill", payload) == nil {
		}
		const waiters = 20
		results := make([]<-chan error, waiters)
		for i := range results {
			ctx := t.Context()
			if i%3 == 0 {
				ctx = endingIn(t, time.Second)
			}
			results[i] = calling(func() error { return p.client.Publish(ctx, "late", payload) })
			synctest.Wait()
		}
		for i, result := range results {
			if i%3 == 0 {
				wantErr(t, outcome(t, result), context.DeadlineExceeded, true)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i, result := range results {
				if i%3 != 0 {
					if err := outcome(t, result); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		got := 0
		for got < waiters-(waiters+2)/3 {
			if mqtttest.ReceiveAs[*codec.Publish](p.Script).Topic == "late" {
				got++
			}
		}
		<-done
		p.ExpectSilence(time.Second)
	})
}

// PROTOCOL 2: with a full window messages are queued; with a full queue both calls wait until ctx ends.
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

// Without a queue each publish waits itself, in order.
func TestPublishWithoutQueue(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(0, 0))
		var results []<-chan error
		for i := range 4 {
			results = append(results, calling(func() error {
				return p.client.Publish(t.Context(), "t", fmt.Append(nil, i), mqtt.AtLeastOnce)
			}))
			synctest.Wait()
		}
		for i, result := range results {
			p.Expect(toT(1, uint16(i+1), fmt.Sprint(i)))
			p.ExpectSilence(time.Second)
			p.Send(&codec.Puback{PacketID: uint16(i + 1)})
			noErr(t, outcome(t, result))
		}
	})
}

// PROTOCOL 2: at QoS 1 and 2 too nothing is appended beyond the bound; what waits goes out, in order, as room comes.
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

// PROTOCOL 3, [MQTT-3.3.4-7] [MQTT-4.9.0-1] [MQTT-4.9.0-2]: the server's Receive Maximum is never exceeded. PUBREC frees
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

// PROTOCOL 8: acknowledgements of unknown identifiers are ignored and counted, but PUBREC and PUBREL get their answer. For
// those of identifiers that are in use for something else see TestHostileServer
// [MQTT-4.3.3-4] [MQTT-4.3.3-11] [MQTT-3.6.2-1] [MQTT-3.7.2-1].
// [MQTT-4.3.3-6] [MQTT311-4.3.3-1] [MQTT311-4.3.3-2]
func TestLateAcknowledgements(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		var notFound codec.ReasonCode
		if v == codec.V5 {
			notFound = codec.PacketIdentifierNotFound
		}
		one := p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		two := p.client.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		p.Expect(toT(1, 1, ""))
		p.Expect(toT(2, 2, ""))

		p.Send(&codec.Puback{PacketID: 7}, &codec.Pubcomp{PacketID: 7}, &codec.Suback{PacketID: 7, Codes: []codec.ReasonCode{0}})
		p.Send(&codec.Pubrec{PacketID: 7})
		p.Expect(&codec.Pubrel{PacketID: 7, Code: notFound})
		p.Send(&codec.Pubrel{PacketID: 7})
		p.Expect(&codec.Pubcomp{PacketID: 7, Code: notFound})

		synctest.Wait()
		if one.Err() != nil || two.Err() != nil || p.client.Stats().InFlight != 2 {
			t.Error("a message was acknowledged by one of an unknown identifier")
		}
		if got := p.client.Stats().LateAcks; got != 4 {
			t.Errorf("%d late acknowledgements were counted, want 4", got)
		}
		if v == codec.V5 { // a refusal is not answered
			p.Send(&codec.Pubrec{PacketID: 9, Code: codec.QuotaExceeded})
			p.ExpectSilence(time.Second)
		}
		p.Send(&codec.Puback{PacketID: 1}, &codec.Puback{PacketID: 1}, &codec.Pubrec{PacketID: 2})
		p.Expect(&codec.Pubrel{PacketID: 2})
		p.Send(&codec.Pubrec{PacketID: 2}) // again: PUBREL, and never PUBLISH [MQTT-4.3.3-6]
		p.Expect(&codec.Pubrel{PacketID: 2})
		p.Send(&codec.Pubcomp{PacketID: 2})
		noErr(t, one.Wait(t.Context()))
		noErr(t, two.Wait(t.Context()))
		p.Send(&codec.Pubrec{PacketID: 2})
		p.Expect(&codec.Pubrel{PacketID: 2, Code: notFound})
	})
}

// DESIGN 4.1: at QoS 0 nil is returned once the message is handed over, at QoS 1 and 2 once the server has acknowledged
// it.
// [MQTT-2.2.1-5] [MQTT-3.3.1-2] [MQTT-4.1.0-1] [MQTT-4.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.2-3]
// [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.4.0-1] [MQTT311-2.3.1-6]
// [MQTT311-3.3.1-2] [MQTT311-4.1.0-1] [MQTT311-4.3.1-1] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1]
func TestPublishReturns(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		noErr(t, p.client.Publish(t.Context(), "t", []byte("0")))
		p.Expect(toT(0, 0, "0"))
		one := calling(func() error { return p.client.Publish(t.Context(), "t", []byte("1"), mqtt.AtLeastOnce, mqtt.Retain) })
		want := toT(1, 1, "1")
		want.Retain = true
		p.Expect(want)
		p.Send(&codec.Puback{PacketID: 2})
		stillWaits(t, one)
		p.Send(&codec.Puback{PacketID: 1})
		noErr(t, outcome(t, one))
		two := calling(func() error { return p.client.Publish(t.Context(), "t", []byte("2"), mqtt.ExactlyOnce) })
		p.Expect(toT(2, 2, "2"))
		p.Send(&codec.Pubrec{PacketID: 2})
		p.Expect(&codec.Pubrel{PacketID: 2})
		stillWaits(t, two)
		p.Send(&codec.Pubcomp{PacketID: 2})
		noErr(t, outcome(t, two))
		if s := p.client.Stats(); s.Published != 3 || s.InFlight != 0 {
			t.Errorf("stats %+v", s)
		}
		// Nothing is sent again on a connection that lives [MQTT-4.4.0-1], and nothing is forgotten [MQTT-4.1.0-1].
		late := p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, 3, ""))
		p.Patience(2 * time.Minute)
		for range 5 {
			mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
			p.Send(&codec.Pingresp{})
		}
		p.Send(&codec.Puback{PacketID: 3})
		noErr(t, late.Wait(t.Context()))
	})
}

// DESIGN 4.1: what a server does not answer is never sent again on the same connection, however long it takes.
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

// DESIGN 4.1: a message whose ctx ends before it was sent is withdrawn and never sent.
func TestPublishWithdrawn(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1))
		first := p.client.PublishAsync(t.Context(), "t", []byte("1"), mqtt.AtLeastOnce)
		wantErr(t, p.client.Publish(endingIn(t, time.Second), "t", []byte("2"), mqtt.AtLeastOnce), context.DeadlineExceeded, true)
		third := p.client.PublishAsync(t.Context(), "t", []byte("3"), mqtt.AtLeastOnce)
		p.Expect(toT(1, 1, "1"))
		p.Send(&codec.Puback{PacketID: 1})
		noErr(t, first.Wait(t.Context()))
		p.Expect(toT(1, 2, "3"))
		p.Send(&codec.Puback{PacketID: 2})
		noErr(t, third.Wait(t.Context()))
	})
}

// DESIGN 4.1: a ctx that has ended before the call has ended before the message was sent.
func TestPublishWithEndedContext(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			wantErr(t, p.client.Publish(ctx, "t", nil, qos), context.Canceled, true)
			wantErr(t, p.client.PublishAsync(ctx, "t", nil, qos).Err(), context.Canceled, true)
		}
		p.ExpectSilence(time.Second)
	})
}

// DESIGN 4.1: a message whose ctx ends after it was sent stays in flight. The payload and the properties are the
// caller's again.
func TestPublishOutcomeUnknown(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		for i, qos := range []mqtt.QoS{mqtt.AtLeastOnce, mqtt.ExactlyOnce} {
			id := uint16(i + 1)
			payload := []byte("payload")
			err := p.client.Publish(endingIn(t, time.Second), "t", payload, qos)
			wantErr(t, err, context.DeadlineExceeded, false)
			wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
			copy(payload, "changed")
			p.Expect(toT(byte(qos), id, "payload"))
			if p.client.Stats().InFlight != 1 {
				t.Error("the message is not in flight")
			}
			if qos == mqtt.AtLeastOnce {
				p.Send(&codec.Puback{PacketID: id})
			} else {
				p.Send(&codec.Pubrec{PacketID: id})
				p.Expect(&codec.Pubrel{PacketID: id})
				p.Send(&codec.Pubcomp{PacketID: id})
			}
			synctest.Wait()
			if s := p.client.Stats(); s.InFlight != 0 || s.Published != uint64(i+1) {
				t.Errorf("stats %+v", s)
			}
		}
		// The next message takes over nothing from those that were given up.
		next := calling(func() error { return p.client.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce) })
		p.Expect(toT(1, 3, ""))
		stillWaits(t, next)
		p.Send(&codec.Puback{PacketID: 3})
		noErr(t, outcome(t, next))
	})
}

// DESIGN 4.1: what waits when the connection is lost learns why, and whether it was sent.
func TestPublishConnectionLost(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(2), mqtt.WithQueue(1, 1000))
		ctx := t.Context()
		sent := calling(func() error { return p.client.Publish(ctx, "t", nil, mqtt.AtLeastOnce) })
		synctest.Wait()
		released := p.client.PublishAsync(ctx, "t", nil, mqtt.ExactlyOnce)
		queued := p.client.PublishAsync(ctx, "t", nil, mqtt.AtLeastOnce)
		waits := calling(func() error { return p.client.Publish(ctx, "t", nil, mqtt.AtLeastOnce) })
		p.Send(&codec.Pubrec{PacketID: 2})
		synctest.Wait()
		p.Cut()
		wantErr(t, outcome(t, sent), mqtt.ErrOutcomeUnknown, false)
		wantErr(t, released.Wait(ctx), mqtt.ErrOutcomeUnknown, false)
		wantErr(t, queued.Wait(ctx), mqtt.ErrConnectionLost, true)
		wantErr(t, outcome(t, waits), mqtt.ErrConnectionLost, true)
		wantErr(t, p.ends(time.Second), mqtt.ErrConnectionLost, false)
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			wantErr(t, p.client.Publish(ctx, "t", nil, qos), mqtt.ErrConnectionLost, true)
			wantErr(t, p.client.PublishAsync(ctx, "t", nil, qos).Err(), mqtt.ErrConnectionLost, true)
		}
	})
}

// DESIGN 4.1, [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.7.2-1]: a refusal is a *PublishError with the whole reason of the
// server.
// [MQTT-2.4] [MQTT-4.13.2]
func TestPublishRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		said := codec.UserProperties{{Key: "k", Value: "1"}, {Key: "k", Value: "2"}}
		id := uint16(0)
		for _, code := range []codec.ReasonCode{0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99} {
			for qos := mqtt.AtLeastOnce; qos <= mqtt.ExactlyOnce; qos++ {
				id++
				result := calling(func() error { return p.v5.Publish(t.Context(), "t", nil, qos) })
				p.Expect(toT(byte(qos), id, ""))
				if qos == mqtt.AtLeastOnce {
					p.Send(&codec.Puback{PacketID: id, Code: code, ReasonString: "no", UserProperties: said})
				} else {
					p.Send(&codec.Pubrec{PacketID: id, Code: code, ReasonString: "no", UserProperties: said})
				}
				err := outcome(t, result)
				wantErr(t, err, mqtt.ReasonCode(code), false)
				var refused *mqtt.PublishError
				if !errors.As(err, &refused) || refused.Topic != "t" || refused.Local || refused.Reason != "no" ||
					len(refused.UserProperties) != 2 || refused.UserProperties[1].Value != "2" {
					t.Errorf("error %+v", err)
				}
				if !strings.Contains(err.Error(), "no") || !strings.Contains(err.Error(), `"t"`) {
					t.Errorf("the error says %q", err)
				}
			}
		}
		p.ExpectSilence(time.Second) // no PUBREL
		id++
		lost := p.v5.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		p.Expect(toT(2, id, ""))
		p.Send(&codec.Pubrec{PacketID: id})
		p.Expect(&codec.Pubrel{PacketID: id})
		p.Send(&codec.Pubcomp{PacketID: id, Code: codec.PacketIdentifierNotFound})
		noErr(t, lost.Wait(t.Context())) // PUBREC has said that the server took the message
		if lost.Reason() != mqtt.Success {
			t.Error("reason", lost.Reason())
		}
		id++
		nobody := p.v5.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, id, ""))
		p.Send(&codec.Puback{PacketID: id, Code: codec.NoMatchingSubscribers})
		noErr(t, nobody.Wait(t.Context()))
		if nobody.Reason() != mqtt.NoMatchingSubscribers {
			t.Error("reason", nobody.Reason())
		}
		id++
		nobody = p.v5.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		p.Expect(toT(2, id, ""))
		p.Send(&codec.Pubrec{PacketID: id, Code: codec.NoMatchingSubscribers, ReasonString: "nobody"})
		p.Expect(&codec.Pubrel{PacketID: id})
		p.Send(&codec.Pubcomp{PacketID: id})
		noErr(t, nobody.Wait(t.Context()))
		if nobody.Reason() != mqtt.NoMatchingSubscribers || nobody.ReasonString() != "nobody" {
			t.Errorf("what PUBREC said is %v, %q after PUBCOMP", nobody.Reason(), nobody.ReasonString())
		}
		if got := p.v5.Stats().Published; got != 3 {
			t.Errorf("%d messages count as published", got)
		}
	})
}

// A code from 0x80 refuses only the message and does not end the connection, also a code that the specification does
// not list for the packet: Mosquitto 2.0.11 sends Packet too large (seen).
// [MQTT-2.4]
func TestPublishRefusedWithAnyCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		id := byte(0)
		for _, code := range []byte{0x81, 0x8E, 0x92, 0x95, 0xA2, 0xFF} {
			for qos := mqtt.AtLeastOnce; qos <= mqtt.ExactlyOnce; qos++ {
				id++
				result := calling(func() error { return p.v5.Publish(t.Context(), "t", nil, qos) })
				p.Expect(toT(byte(qos), uint16(id), ""))
				p.SendBytes(0x30+0x10*byte(qos), 3, 0, id, code)
				wantErr(t, outcome(t, result), mqtt.ReasonCode(code), false)
			}
		}
		if s := p.v5.Stats(); s.Losses != 0 || p.v5.Err() != nil {
			t.Errorf("%d connections were lost, error %v", s.Losses, p.v5.Err())
		}
	})
}

func TestDelivery(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1))
		ctx := t.Context()
		sent := p.client.PublishAsync(ctx, "t", []byte("1"), mqtt.AtLeastOnce)
		queued := p.client.PublishAsync(ctx, "t", []byte("2"), mqtt.AtLeastOnce)
		withdrawn := p.client.PublishAsync(ctx, "t", []byte("3"), mqtt.AtLeastOnce)
		if sent.Withdraw() {
			t.Error("a message was withdrawn that had been sent")
		}
		for _, d := range []*mqtt.Delivery{sent, queued} {
			if d.Err() != nil || d.Reason() != mqtt.Success {
				t.Error("a Delivery knows a fate that is not decided")
			}
			wantErr(t, d.Wait(endingIn(t, time.Second)), context.DeadlineExceeded, false)
			select {
			case <-d.Done():
				t.Error("a Delivery is done before its time")
			default:
			}
		}
		done := withdrawn.Done()
		var times, waiters sync.WaitGroup
		var count [8]bool
		for i := range count {
			times.Go(func() { count[i] = withdrawn.Withdraw() })
			waiters.Go(func() {
				if err := withdrawn.Wait(ctx); !mqtt.SafeToRetry(err) {
					t.Errorf("a withdrawn message says %v", err)
				}
				<-withdrawn.Done()
				withdrawn.Reason()
			})
		}
		times.Wait()
		waiters.Wait()
		<-done
		n := 0
		for _, did := range count {
			if did {
				n++
			}
		}
		if n != 1 {
			t.Errorf("a message was withdrawn %d times", n)
		}
		p.Expect(toT(1, 1, "1"))
		p.Send(&codec.Puback{PacketID: 1})
		<-sent.Done()
		p.Expect(toT(1, 2, "2"))
		p.Send(&codec.Puback{PacketID: 2})
		noErr(t, queued.Wait(ctx))
		if sent.Withdraw() || queued.Withdraw() || withdrawn.Withdraw() {
			t.Error("a message was withdrawn that had its fate")
		}
		zero := p.client.PublishAsync(ctx, "t", nil)
		<-zero.Done()
		if zero.Err() != nil || zero.Withdraw() {
			t.Error("QoS 0:", zero.Err())
		}
		p.Expect(toT(0, 0, ""))
		p.ExpectSilence(time.Second)
	})
}

// Delivery for fakes: done from the start.
func TestNewDelivery(t *testing.T) {
	d := mqtt.NewDelivery(mqtt.QuotaExceeded, mqtt.QuotaExceeded)
	<-d.Done()
	if !errors.Is(d.Wait(t.Context()), mqtt.QuotaExceeded) || d.Reason() != mqtt.QuotaExceeded || d.Withdraw() {
		t.Errorf("%+v", d)
	}
}

// Who waits in line for a place in the queue takes it from one that withdraws.
func TestWithdrawMakesRoom(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(1, 1000))
		p.client.PublishAsync(t.Context(), "t", []byte("1"), mqtt.AtLeastOnce)
		queued := p.client.PublishAsync(t.Context(), "t", []byte("2"), mqtt.AtLeastOnce)
		waits := calling(func() error { return p.client.PublishAsync(t.Context(), "t", []byte("3"), mqtt.AtLeastOnce).Err() })
		stillWaits(t, waits)
		if !queued.Withdraw() {
			t.Fatal("not withdrawn")
		}
		noErr(t, outcome(t, waits))
		p.Expect(toT(1, 1, "1"))
		p.Send(&codec.Puback{PacketID: 1})
		p.Expect(toT(1, 2, "3"))
	})
}

// The struct of properties may be filled anew once PublishAsync has returned.
func TestPublishAsyncPropertiesReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil, mqtt.WithMaxInFlight(1))
		var props mqtt.PublishProperties
		for _, kind := range []string{"one", "two", "three"} {
			props = mqtt.PublishProperties{ContentType: kind, CorrelationData: []byte(kind)}
			noErr(t, p.v5.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce, &props).Err())
		}
		props = mqtt.PublishProperties{}
		for i, kind := range []string{"one", "two", "three"} {
			want := toT(1, uint16(i+1), "")
			want.Properties = codec.PublishProperties{ContentType: kind, CorrelationData: []byte(kind)}
			p.Expect(want)
			p.Send(&codec.Puback{PacketID: uint16(i + 1)})
		}
	})
}

// Every property arrives, user properties in order.
func TestPublishProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		props := mqtt.PublishProperties{
			UTF8Payload: true, MessageExpiry: 90 * time.Second, ContentType: "text/plain", ResponseTopic: "re",
			CorrelationData: []byte{}, UserProperties: mqtt.UserProperties{{Key: "b"}, {Key: "a", Value: "1"}, {Key: "b"}},
		}
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			p.v5.PublishAsync(t.Context(), "t", []byte("x"), qos, &props)
			want := toT(byte(qos), uint16(qos), "x")
			want.Properties = codec.PublishProperties(props)
			p.Expect(want)
		}
		noErr(t, p.v5.Publish(t.Context(), "t", nil, (*mqtt.PublishProperties)(nil)))
		p.Expect(toT(0, 0, ""))
	})
}

// A later default wins over an earlier one, and what a publish says itself over both, QoS 0 and NoRetain too.
func TestTopicDefaults(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil,
			mqtt.WithTopicDefaults("a/#", mqtt.AtLeastOnce, mqtt.Retain),
			mqtt.WithTopicDefaults("a/b/+", mqtt.ExactlyOnce),
			mqtt.WithTopicDefaults("a/b/c", mqtt.PublishOptions{mqtt.NoRetain}))
		id := uint16(0)
		for _, c := range []struct {
			topic  string
			opts   []mqtt.PublishOption
			qos    byte
			retain bool
		}{
			{topic: "other"},
			{topic: "a/x", qos: 1, retain: true},
			{topic: "a/b/x", qos: 2, retain: true},
			{topic: "a/b/c", qos: 2},
			{topic: "a/x", opts: []mqtt.PublishOption{mqtt.AtMostOnce}, retain: true},
			{topic: "a/x", opts: []mqtt.PublishOption{mqtt.NoRetain}, qos: 1},
			{topic: "a/x", opts: []mqtt.PublishOption{mqtt.PublishOptions{mqtt.AtMostOnce, mqtt.NoRetain}}},
			{topic: "a/b/c", opts: []mqtt.PublishOption{mqtt.AtLeastOnce, mqtt.Retain}, qos: 1, retain: true},
			{topic: "other", opts: []mqtt.PublishOption{mqtt.AtLeastOnce, mqtt.AtMostOnce}},
		} {
			p.client.PublishAsync(t.Context(), c.topic, nil, c.opts...)
			want := &codec.Publish{Topic: c.topic, QoS: c.qos, Retain: c.retain}
			if c.qos > 0 {
				id++
				want.PacketID = id
			}
			p.Expect(want)
		}
	})
}

// PROTOCOL 6: Message Expiry counts down while a message waits, in whole seconds rounded up, and what has expired is not
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

// PROTOCOL 6: expiry counts while a publish waits for room in the queue or the write buffer, too.
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

// [MQTT-3.2.2-11] [MQTT-3.2.2-14] [MQTT-3.2.2-15]: what the server has announced is checked before anything is sent.
func TestPublishServerLimits(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit codec.ConnackProperties
		send  func(c mqtt.ClientV5, ctx context.Context) *mqtt.Delivery
		code  mqtt.ReasonCode // Success: it goes out
	}{
		{"QoS 1 with maximum 0", codec.ConnackProperties{MaximumQoS: ptr(byte(0))}, qosPublish(1), mqtt.QoSNotSupported},
		{"QoS 2 with maximum 0", codec.ConnackProperties{MaximumQoS: ptr(byte(0))}, qosPublish(2), mqtt.QoSNotSupported},
		{"QoS 0 with maximum 0", codec.ConnackProperties{MaximumQoS: ptr(byte(0))}, qosPublish(0), mqtt.Success},
		{"QoS 2 with maximum 1", codec.ConnackProperties{MaximumQoS: ptr(byte(1))}, qosPublish(2), mqtt.QoSNotSupported},
		{"QoS 1 with maximum 1", codec.ConnackProperties{MaximumQoS: ptr(byte(1))}, qosPublish(1), mqtt.Success},
		{"retain", codec.ConnackProperties{RetainAvailable: ptr(false)}, qosPublish(0, mqtt.Retain), mqtt.RetainNotSupported},
		{"retain at QoS 1", codec.ConnackProperties{RetainAvailable: ptr(false)}, qosPublish(1, mqtt.Retain), mqtt.RetainNotSupported},
		{"retain, available", codec.ConnackProperties{RetainAvailable: ptr(true)}, qosPublish(1, mqtt.Retain), mqtt.Success},
		{"no retain", codec.ConnackProperties{RetainAvailable: ptr(false)}, qosPublish(1, mqtt.NoRetain), mqtt.Success},
		// A PUBLISH to "t" at QoS 0 takes 6 bytes, at QoS 1 and 2 two more; a Content Type "x" four.
		{"size, QoS 0", sizeLimit(6 + 100), sized(0, 100, nil), mqtt.Success},
		{"size + 1, QoS 0", sizeLimit(6 + 100), sized(0, 101, nil), mqtt.PacketTooLarge},
		{"size, QoS 2", sizeLimit(8 + 100), sized(2, 100, nil), mqtt.Success},
		{"size + 1, QoS 2", sizeLimit(8 + 100), sized(2, 101, nil), mqtt.PacketTooLarge},
		{"size, two length bytes", sizeLimit(9 + 200), sized(1, 200, nil), mqtt.Success},
		{"size + 1, two length bytes", sizeLimit(9 + 200), sized(1, 201, nil), mqtt.PacketTooLarge},
		{"size, properties", sizeLimit(12 + 50), sized(1, 50, &mqtt.PublishProperties{ContentType: "x"}), mqtt.Success},
		{"size + 1, properties", sizeLimit(12 + 50), sized(1, 51, &mqtt.PublishProperties{ContentType: "x"}), mqtt.PacketTooLarge},
		{"no limit, in words", sizeLimit(math.MaxUint32), qosPublish(1), mqtt.Success}, // more than an int of 32 bits holds
		{"size, expiry", sizeLimit(13 + 50), sized(1, 50, &mqtt.PublishProperties{MessageExpiry: time.Hour}), mqtt.Success},
		{"size + 1, expiry", sizeLimit(13 + 50), sized(1, 51, &mqtt.PublishProperties{MessageExpiry: time.Hour}), mqtt.PacketTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPeer(t, codec.V5, &codec.Connack{Properties: c.limit})
				d := c.send(p.v5, t.Context())
				if c.code == mqtt.Success {
					m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
					if most := c.limit.MaximumPacketSize; most != 0 && most != math.MaxUint32 && m.Size(codec.V5) != int(most) {
						t.Errorf("%d bytes were sent, where %d were to be tried", m.Size(codec.V5), most)
					}
					return
				}
				wantErr(t, d.Err(), c.code, true)
				var refused *mqtt.PublishError
				if !errors.As(d.Err(), &refused) || !refused.Local || refused.Topic != "t" {
					t.Errorf("error %+v", d.Err())
				}
				p.ExpectSilence(time.Second)
			})
		})
	}
}

func qosPublish(qos mqtt.QoS, opts ...mqtt.PublishOptionV5) func(mqtt.ClientV5, context.Context) *mqtt.Delivery {
	return func(c mqtt.ClientV5, ctx context.Context) *mqtt.Delivery {
		return c.PublishAsync(ctx, "t", nil, append(opts, qos)...)
	}
}

func sized(qos mqtt.QoS, payload int, props *mqtt.PublishProperties) func(mqtt.ClientV5, context.Context) *mqtt.Delivery {
	return func(c mqtt.ClientV5, ctx context.Context) *mqtt.Delivery {
		return c.PublishAsync(ctx, "t", make([]byte, payload), qos, props)
	}
}

// What the specification forbids is an error before anything is sent, at any QoS.
// [MQTT-3.3.2-1] [MQTT-3.3.2.1] [MQTT-4.7.0-1] [MQTT311-1.5.3-1] [MQTT311-1.5.3-2] [MQTT311-3.3.1-4]
// [MQTT311-3.3.2-1] [MQTT311-3.3.2-2] [MQTT311-4.7.1-1] [MQTT311-4.7.3-1] [MQTT311-4.7.3-2] [MQTT311-4.7.3-3]
func TestPublishInvalid(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		ctx := t.Context()
		for name, topic := range map[string]string{
			"empty [MQTT-4.7.3-1]":         "",
			"+ [MQTT-3.3.2-2]":             "a/+",
			"# [MQTT-3.3.2-2]":             "a/#",
			"U+0000 [MQTT-4.7.3-2]":        "a\x00b",
			"not UTF-8 [MQTT-1.5.4-1]":     "a\xff",
			"surrogate [MQTT-1.5.4-1]":     "\xed\xa0\x80",
			"65,536 bytes [MQTT-4.7.3-3]":  strings.Repeat("x", 65_536),
			"overlong UTF-8 [1.5.4]":       "\xc0\xaf",
			"wildcard in a level [4.7.1]":  "a+b",
			"wildcard at the start, alone": "#",
		} {
			for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
				for _, err := range []error{
					p.client.Publish(ctx, topic, nil, qos), p.client.PublishAsync(ctx, topic, nil, qos).Err(),
				} {
					var invalid *mqtt.TopicError
					if !errors.As(err, &invalid) || invalid.Filter || invalid.Topic != topic || invalid.Rule == "" || !mqtt.SafeToRetry(err) {
						t.Errorf("%s: error %v", name, err)
					}
				}
			}
		}
		for _, qos := range []mqtt.QoS{3, 255} { // [MQTT-3.3.1-4]
			if err := p.client.Publish(ctx, "t", nil, qos); !mqtt.SafeToRetry(err) {
				t.Errorf("%v: error %v", qos, err)
			}
		}
		p.ExpectSilence(time.Second)
		long := strings.Repeat("x", 65_535)
		noErr(t, p.client.Publish(ctx, long, nil))
		p.Expect(&codec.Publish{Topic: long})
	})
}

// [MQTT-1.5.6] [MQTT-1.5.7-1] [MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19]
func TestPublishInvalidProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		long := strings.Repeat("x", 65_536)
		for name, props := range map[string]*mqtt.PublishProperties{
			"content type with U+0000":                {ContentType: "a\x00"},
			"content type, not UTF-8 [3.3.2-19]":      {ContentType: "\xff"},
			"content type too long":                   {ContentType: long},
			"response topic, not UTF-8 [3.3.2-13]":    {ResponseTopic: "\xff"},
			"response topic with wildcard [3.3.2-14]": {ResponseTopic: "a/#"},
			"response topic too long":                 {ResponseTopic: long},
			"correlation data too long":               {CorrelationData: []byte(long)},
			"user property's key [1.5.7-1]":           {UserProperties: mqtt.UserProperties{{Key: "\xff"}}},
			"user property's value [1.5.7-1]":         {UserProperties: mqtt.UserProperties{{Value: "\x00"}}},
			"user property too long":                  {UserProperties: mqtt.UserProperties{{Value: long}}},
			"expiry too long":                         {MessageExpiry: (math.MaxUint32 + 1) * time.Second},
			"expiry much too long":                    {MessageExpiry: math.MaxInt64},
		} {
			for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
				if err := p.v5.Publish(endingIn(t, time.Second), "t", nil, qos, props); !mqtt.SafeToRetry(err) || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s at %v: error %v", name, qos, err)
				}
			}
		}
		p.ExpectSilence(time.Second)
	})
}

// A large payload arrives whole, however the network cuts it.
func TestPublishLargePayload(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		payload := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
		published := calling(func() error { return p.client.Publish(t.Context(), "t", payload, mqtt.AtLeastOnce) })
		m := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if !bytes.Equal(m.Payload, payload) {
			t.Error("the payload has changed")
		}
		p.Send(&codec.Puback{PacketID: 1})
		noErr(t, outcome(t, published))
	})
}

// A publish that is woken, and for which there is still too little room, waits again before those that came later.
func TestPublishKeepsItsTurn(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(100, 10))
		for _, payload := range []string{"in flight", "111", "222"} { // the topic counts too: two times 4 bytes are queued
			p.client.PublishAsync(t.Context(), "t", []byte(payload), mqtt.AtLeastOnce)
		}
		large := publishing(p, []byte("1234567"), mqtt.AtLeastOnce)
		stillWaits(t, large)
		small := publishing(p, []byte("1"), mqtt.AtLeastOnce)
		stillWaits(t, small)
		for i, payload := range []string{"in flight", "111", "222", "1234567", "1"} {
			p.Expect(toT(1, uint16(i+1), payload))
			p.Send(&codec.Puback{PacketID: uint16(i + 1)})
			synctest.Wait()
		}
		noErr(t, outcome(t, large))
		noErr(t, outcome(t, small))
	})
}

// A server that sends and does not read is not read any further once more than 16 MiB of what its packets have caused
// waits to be written: otherwise it could fill the client's memory.
func TestServerThatDoesNotRead(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Hour), mqtt.WithKeepAlive(0), mqtt.WithMaxInFlight(1))
		sub, _ := subscribed(t, p.client, p.Script, "in")
		p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, 2, ""))
		large := make([]byte, 17<<20)
		p.client.PublishAsync(t.Context(), "t", large, mqtt.AtLeastOnce)
		noErr(t, p.client.Publish(t.Context(), "t", make([]byte, 1<<19))) // more than the network holds: the writer blocks
		synctest.Wait()
		p.Send(&codec.Puback{PacketID: 2}) // makes room in the window for the large message
		synctest.Wait()
		p.Send(&codec.Publish{Topic: "in", Payload: []byte("x")})
		wantArrived(t, sub)
		p.Receive()
		p.Receive()
		wantArrived(t, sub, "in=x q0")
	})
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

// Several structs of properties in one call are merged field by field, and none of them changes.
func TestPropertiesAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext)
		first := mqtt.PublishProperties{ContentType: "text/plain", ResponseTopic: "first", UserProperties: mqtt.UserProperties{{Key: "a", Value: "1"}}}
		second := mqtt.PublishProperties{ResponseTopic: "second", UTF8Payload: true, UserProperties: mqtt.UserProperties{{Key: "b", Value: "2"}}}
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.PublishOptionsV5{&first, nil, mqtt.AtLeastOnce}, &second, (*mqtt.PublishProperties)(nil)))
		got := b.Received("t")
		if len(got) != 1 || got[0].QoS != 1 {
			t.Fatalf("%+v", got)
		}
		p := got[0].Properties
		if p.ContentType != "text/plain" || p.ResponseTopic != "second" || !p.UTF8Payload || fmt.Sprint(p.UserProperties) != "[{a 1} {b 2}]" {
			t.Errorf("%+v", p)
		}
		if len(first.UserProperties) != 1 || first.ResponseTopic != "first" || len(second.UserProperties) != 1 {
			t.Errorf("the caller's structs are %+v and %+v", first, second)
		}
		p.UserProperties.Add("a", "3")
		if all := p.UserProperties.All("a"); fmt.Sprint(all) != "[1 3]" {
			t.Errorf("All returns %v", all)
		}
		p.UserProperties.Set("a", "4")
		if fmt.Sprint(p.UserProperties) != "[{b 2} {a 4}]" {
			t.Errorf("after Set: %v", p.UserProperties)
		}
	})
}

// A PUBREC that refuses a message after another PUBREC has accepted it changes nothing: PUBLISH cannot be taken back then.
func TestPubrecRefusesAfterPubrel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		d := p.publish("t", mqtt.ExactlyOnce)
		p.wantPackets("PUBLISH 1 t q2")
		p.Send(&codec.Pubrec{PacketID: 1})
		p.wantPackets("PUBREL 1")
		p.Send(&codec.Pubrec{PacketID: 1, Code: codec.QuotaExceeded, ReasonString: "too much"})
		p.wantPackets("PUBREL 1")
		p.Send(&codec.Pubcomp{PacketID: 1})
		wantFate(t, d, nil)
		if d.Reason() != mqtt.Success || d.ReasonString() != "" {
			t.Errorf("the reason is %v, %q", d.Reason(), d.ReasonString())
		}
	})
}
