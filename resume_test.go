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
)

// Tests of what a client does with its state when a connection follows another one.

// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-4.6.0-4]: with the session kept, PUBRELs and PUBLISHes are sent again, with the old
// identifiers, in the old order, DUP set, before anything new.
// [MQTT-3.1.2-23] [MQTT-3.3.1-1] [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT311-2.3.1-3]
// [MQTT311-3.1.2-4] [MQTT311-3.3.1-1] [MQTT311-4.1.0-2] [MQTT311-4.3.2-1] [MQTT311-4.3.3-1] [MQTT311-4.4.0-1]
// [MQTT311-4.6.0-1] [MQTT311-4.6.0-4]
func TestResendOrder(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		var d []*mqtt.Delivery
		for i, qos := range []mqtt.QoS{1, 2, 1, 2, 2} {
			d = append(d, p.publish(fmt.Sprintf("t/%d", i+1), qos))
		}
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q2", "PUBLISH 3 t/3 q1", "PUBLISH 4 t/4 q2", "PUBLISH 5 t/5 q2")
		p.Send(&codec.Pubrec{PacketID: 5}, &codec.Pubrec{PacketID: 4})
		p.wantPackets("PUBREL 5", "PUBREL 4")
		for range 2 { // the second time is as the first
			p.resume()
			if len(d) == 5 {
				d = append(d, p.publish("t/6", 1))
			}
			p.wantPackets("PUBREL 5", "PUBREL 4", "PUBLISH 1 t/1 q1 dup", "PUBLISH 2 t/2 q2 dup", "PUBLISH 3 t/3 q1 dup")
			if dup := " dup"; p.client.Stats().Connects == 3 {
				p.wantPackets("PUBLISH 6 t/6 q1" + dup)
			} else {
				p.wantPackets("PUBLISH 6 t/6 q1")
			}
		}
		p.wantSilence()
		wantOpen(t, d...)
		p.Send(&codec.Puback{PacketID: 1}, &codec.Pubrec{PacketID: 2}, &codec.Puback{PacketID: 3},
			&codec.Pubcomp{PacketID: 4}, &codec.Pubcomp{PacketID: 5}, &codec.Puback{PacketID: 6})
		p.wantPackets("PUBREL 2")
		p.Send(&codec.Pubcomp{PacketID: 2})
		for _, d := range d {
			wantFate(t, d, nil)
		}
		if s := p.client.Stats(); s.InFlight != 0 || s.Connects != 3 || s.Losses != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// No more than the server's Receive Maximum of this connection is resent at once, and all of it before
// anything new; PUBRELs take no place.
// [MQTT-3.3.4-7] [MQTT-4.9.0-1]
func TestResendWithinShrunkWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		var d []*mqtt.Delivery
		for i := range 5 {
			d = append(d, p.publish(fmt.Sprintf("t/%d", i+1), 1+mqtt.QoS(i/4)))
		}
		for range 5 {
			p.Receive()
		}
		p.Send(&codec.Pubrec{PacketID: 5})
		p.wantPackets("PUBREL 5")
		p.Cut()
		synctest.Wait()
		d = append(d, p.publish("t/6", 1))
		p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{ReceiveMaximum: 2}})
		p.wantPackets("PUBREL 5", "PUBLISH 1 t/1 q1 dup", "PUBLISH 2 t/2 q1 dup")
		d = append(d, p.publish("t/7", 1))
		p.wantSilence()
		p.Send(&codec.Pubcomp{PacketID: 5}) // makes no room [MQTT-3.3.4-7]
		p.wantSilence()
		for i := range 5 {
			id := uint16(i + 1)
			if id == 5 {
				id = 6
			}
			p.Send(&codec.Puback{PacketID: id})
			want := fmt.Sprintf("PUBLISH %d t/%d q1", i+3, i+3)
			switch {
			case i < 2:
				p.wantPackets(want + " dup")
			case i == 2: // 5 was a PUBREL
				p.wantPackets("PUBLISH 6 t/6 q1")
			case i == 3:
				p.wantPackets("PUBLISH 7 t/7 q1")
			}
			p.wantSilence()
		}
		p.Send(&codec.Puback{PacketID: 7})
		for _, d := range d {
			wantFate(t, d, nil)
		}
	})
}

// Session gone. QoS 1 is published again as new, with a new identifier and without DUP, in order and
// before what was queued; QoS 2 that was sent fails; QoS 2 that was not sent is sent.
// [MQTT-3.2.2-5] [MQTT311-3.2.2-3]
func TestSessionGone(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		first := p.publish("t/1", 1)
		lost := p.publish("t/2", 2)
		third := p.publish("t/3", 1)
		released := p.publish("t/4", 2)
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q2", "PUBLISH 3 t/3 q1", "PUBLISH 4 t/4 q2")
		p.Send(&codec.Pubrec{PacketID: 4})
		p.wantPackets("PUBREL 4")
		p.Cut()
		synctest.Wait()
		queued := p.publish("t/5", 2)
		p.accept(&codec.Connack{})
		p.wantPackets("PUBLISH 5 t/1 q1", "PUBLISH 6 t/3 q1", "PUBLISH 7 t/5 q2")
		wantFate(t, lost, mqtt.ErrSessionLost)
		wantFate(t, lost, mqtt.ErrOutcomeUnknown)
		wantFate(t, released, mqtt.ErrSessionLost)
		if mqtt.SafeToRetry(lost.Err()) {
			t.Error("a message of a lost session is not safe to retry")
		}
		wantOpen(t, first, third, queued)
		p.Send(&codec.Puback{PacketID: 5}, &codec.Puback{PacketID: 6}, &codec.Pubrec{PacketID: 7})
		p.wantPackets("PUBREL 7")
		p.Send(&codec.Pubcomp{PacketID: 7})
		wantFate(t, first, nil)
		wantFate(t, third, nil)
		wantFate(t, queued, nil)
	})
}

// What the server of the new connection does not take is not sent again. Its identifier stays reserved.
func TestResendForbiddenByNewLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		d := p.publish("t/1", 2)
		retained := p.client.PublishAsync(t.Context(), "t/2", nil, mqtt.AtLeastOnce, mqtt.Retain)
		p.wantPackets("PUBLISH 1 t/1 q2", "PUBLISH 2 t/2 q1")
		p.Cut()
		synctest.Wait()
		queued := p.publish("t/3", 2)
		maximum, no := byte(1), false
		p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{
			MaximumQoS: &maximum, RetainAvailable: &no,
		}})
		wantFate(t, d, mqtt.ErrOutcomeUnknown)
		wantFate(t, d, mqtt.QoSNotSupported)
		wantFate(t, retained, mqtt.ErrOutcomeUnknown)
		wantFate(t, retained, mqtt.RetainNotSupported)
		wantFate(t, queued, mqtt.QoSNotSupported)
		if !mqtt.SafeToRetry(queued.Err()) || mqtt.SafeToRetry(d.Err()) {
			t.Error("what was never sent is safe to retry, and nothing else")
		}
		p.wantSilence()
	})
}

// A Publish whose ctx ends after the message was sent says that the outcome is unknown; the message stays in
// flight across cuts, and its payload may be used again.
func TestAbandonedPublishIsResent(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		payload := []byte("before")
		sent := startErr(func() error { return p.client.Publish(ctx, "t", payload, mqtt.AtLeastOnce) })
		p.wantPackets("PUBLISH 1 t q1")
		p.Cut()
		if err := sent.wait(); !errors.Is(err, mqtt.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) || mqtt.SafeToRetry(err) {
			t.Errorf("%v", err)
		}
		copy(payload, "after!")
		p.accept(&codec.Connack{SessionPresent: true})
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); string(m.Payload) != "before" || !m.Dup {
			t.Errorf("%+v", m)
		}
		p.renew()
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); string(m.Payload) != "before" || m.Dup || m.PacketID == 1 {
			t.Errorf("%+v", m)
		}
		p.Send(&codec.Puback{PacketID: 2})
		synctest.Wait()
		if s := p.client.Stats(); s.InFlight != 0 || s.Queued != 0 || s.Published != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The same when it ends between a lost session and the new connection.
func TestAbandonedWhileSessionRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first := p.publish("t/1", 1)
		payload := []byte("before")
		sent := startErr(func() error { return p.client.Publish(ctx, "t/2", payload, mqtt.AtLeastOnce) })
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q1")
		p.Cut()
		p.accept(&codec.Connack{Properties: codec.ConnackProperties{ReceiveMaximum: 1}})
		p.wantPackets("PUBLISH 3 t/1 q1")
		cancel() // t/2 waits for the window
		if err := sent.wait(); !errors.Is(err, mqtt.ErrOutcomeUnknown) {
			t.Error(err)
		}
		copy(payload, "after!")
		p.Send(&codec.Puback{PacketID: 3})
		wantFate(t, first, nil)
		if m := mqtttest.ReceiveAs[*codec.Publish](p.Script); string(m.Payload) != "before" || m.PacketID != 4 {
			t.Errorf("%+v", m)
		}
	})
}

// What CONNECT and DISCONNECT say of the session's expiry.
// [MQTT-3.1.2.11.2]
func TestSessionExpiryOnTheWire(t *testing.T) {
	forever := uint32(1<<32 - 1)
	five, hour, minute, none := uint32(300), uint32(3600), uint32(60), uint32(0)
	for name, test := range map[string]struct {
		opts                []mqtt.OptionV5
		connect, disconnect *uint32
		end                 func(context.Context, mqtt.ClientV5) error
	}{
		"default, Close":      {nil, &five, &none, func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"default, Disconnect": {nil, &five, &none, func(ctx context.Context, c mqtt.ClientV5) error { return c.Disconnect(ctx) }},
		"given, Close": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, nil,
			func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"given, Disconnect": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, nil,
			func(ctx context.Context, c mqtt.ClientV5) error { return c.Disconnect(ctx) }},
		"given, KeepSession": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, &minute,
			func(ctx context.Context, c mqtt.ClientV5) error {
				return c.Disconnect(ctx, mqtt.KeepSession(time.Minute))
			}},
		"given, KeepSession 0": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(time.Hour)}, &hour, &none,
			func(ctx context.Context, c mqtt.ClientV5) error { return c.Disconnect(ctx, mqtt.KeepSession(0)) }},
		"default, KeepSession": {nil, &five, &minute,
			func(ctx context.Context, c mqtt.ClientV5) error {
				return c.Disconnect(ctx, mqtt.KeepSession(time.Minute))
			}},
		"none": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(0)}, nil, nil,
			func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"never": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(mqtt.SessionNeverExpires)}, &forever, nil,
			func(_ context.Context, c mqtt.ClientV5) error { return c.Close() }},
		"Reconnect": {nil, &five, nil, func(ctx context.Context, c mqtt.ClientV5) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if err := c.Reconnect(ctx); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("Reconnect returns %v", err)
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mqtttest.NewServer(t, codec.V5)
				c := start(func() (mqtt.ClientV5, error) { return reconnectingV5(t, server.DialContext, test.opts...), nil })
				s := server.Accept()
				if p := mqtttest.ReceiveAs[*codec.Connect](s); !equal(p.Properties.SessionExpiry, test.connect) {
					t.Errorf("CONNECT says %v", p.Properties.SessionExpiry)
				}
				s.Send(&codec.Connack{})
				client := c.value(t)
				ended := startErr(func() error { return test.end(t.Context(), client) })
				if p := mqtttest.ReceiveAs[*codec.Disconnect](s); !equal(p.SessionExpiry, test.disconnect) || p.Code != 0 {
					t.Errorf("DISCONNECT says %v, %v", p.Code, p.SessionExpiry)
				}
				s.Close()
				if err := ended.wait(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// Messages that were queued while there was no connection are sent right after those that are sent again, without waiting
// for an acknowledgement.
// [MQTT-4.6.0-1] [MQTT311-4.6.0-1]
func TestQueueFollowsResends(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		p.publish("t/1", mqtt.AtLeastOnce)
		p.publish("t/2", mqtt.ExactlyOnce)
		p.wantPackets("PUBLISH 1 t/1 q1", "PUBLISH 2 t/2 q2")
		p.Cut()
		synctest.Wait()
		p.publish("t/3", mqtt.AtLeastOnce)
		p.accept(&codec.Connack{SessionPresent: true})
		p.wantPackets("PUBLISH 1 t/1 q1 dup", "PUBLISH 2 t/2 q2 dup", "PUBLISH 3 t/3 q1")
		p.wantSilence()
	})
}

// When the server loses the session a second time, while some messages of the first loss still wait to be published
// again, all messages keep their order: first those that were published again, then those that still wait.
// [MQTT-3.2.2-5]
func TestOrderAfterSecondLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		for i := range 4 {
			p.publish(fmt.Sprintf("t/%d", i+1), mqtt.AtLeastOnce)
			p.Receive()
		}
		p.Cut()
		p.accept(&codec.Connack{Properties: codec.ConnackProperties{ReceiveMaximum: 2}})
		p.wantPackets("PUBLISH 5 t/1 q1", "PUBLISH 6 t/2 q1")
		p.wantSilence()
		p.renew()
		p.wantPackets("PUBLISH 7 t/1 q1", "PUBLISH 8 t/2 q1", "PUBLISH 9 t/3 q1", "PUBLISH 10 t/4 q1")
		p.wantSilence()
	})
}
