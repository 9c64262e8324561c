package mqtt_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// closing is a state in which a client may be closed.
type closing struct {
	name string
	opts []mqtt.OptionV5
	// enter brings the client there. It returns the calls that wait, and what they are to say.
	enter func(t *testing.T, p *peer) []waiter
}

type waiter struct {
	call   <-chan error
	unsent bool // else it was sent, and nobody knows
	other  bool // no publish
}

var closings = []closing{
	{name: "idle", enter: func(t *testing.T, p *peer) []waiter { return nil }},
	{name: "full window", opts: []mqtt.OptionV5{mqtt.WithMaxInFlight(2), mqtt.WithQueue(1, 1000)},
		enter: func(t *testing.T, p *peer) (w []waiter) {
			w = append(w, waiter{call: publishing(p, nil, mqtt.AtLeastOnce)}, waiter{call: publishing(p, nil, mqtt.ExactlyOnce)})
			p.Expect(toT(1, 1, ""))
			p.Expect(toT(2, 2, ""))
			p.Send(&codec.Pubrec{PacketID: 2})
			p.Expect(&codec.Pubrel{PacketID: 2})
			for range 3 { // one in the queue, two before it
				w = append(w, waiter{call: publishing(p, nil, mqtt.ExactlyOnce), unsent: true})
			}
			return w
		}},
	{name: "server does not read", opts: []mqtt.OptionV5{mqtt.WithPingTimeout(time.Hour)},
		enter: func(t *testing.T, p *peer) []waiter {
			return []waiter{{call: fill(p), unsent: true}, {call: publishing(p, nil, mqtt.AtLeastOnce), unsent: true}}
		}},
	{name: "half-open", enter: func(t *testing.T, p *peer) []waiter {
		p.HalfOpen()
		return []waiter{{call: publishing(p, nil, mqtt.AtLeastOnce)}}
	}},
	{name: "reader blocked", enter: func(t *testing.T, p *peer) []waiter {
		unread(p, "in", mqtt.Block, mqtt.Buffer(1))
		for range 5 {
			p.Send(&codec.Publish{Topic: "in"})
		}
		synctest.Wait()
		return []waiter{{call: publishing(p, nil, mqtt.AtLeastOnce)}}
	}},
	{name: "reader blocked behind a line", enter: func(t *testing.T, p *peer) []waiter {
		unread(p, "in", mqtt.Block, mqtt.Buffer(1), mqtt.AtLeastOnce)
		for i := range 5 {
			p.Send(&codec.Publish{Topic: "in", QoS: 1, PacketID: uint16(i + 1)})
		}
		p.Expect(&codec.Puback{PacketID: 1})
		p.Send(&codec.Publish{Topic: "in"})
		synctest.Wait()
		return nil
	}},
	{name: "slow consumer", enter: func(t *testing.T, p *peer) []waiter {
		unread(p, "in", mqtt.Buffer(1), mqtt.ExactlyOnce)
		for i := range 5 {
			p.Send(&codec.Publish{Topic: "in", QoS: 1 + byte(i%2), PacketID: uint16(i + 1)}, &codec.Publish{Topic: "in"})
		}
		p.Expect(&codec.Puback{PacketID: 1})
		synctest.Wait()
		return nil
	}},
	{name: "manual acknowledgement", enter: func(t *testing.T, p *peer) []waiter {
		unread(p, "in", mqtt.ManualAck, mqtt.ExactlyOnce)
		p.Send(&codec.Publish{Topic: "in", QoS: 1, PacketID: 1}, &codec.Publish{Topic: "in", QoS: 2, PacketID: 2})
		synctest.Wait()
		return nil
	}},
	{name: "requests without answer", enter: func(t *testing.T, p *peer) []waiter {
		ctx := t.Context()
		sub := unread(p, "in")
		w := []waiter{
			{call: calling(func() error { _, err := p.client.Subscribe(ctx, "s"); return err }), other: true},
			{call: calling(func() error { return p.client.Unsubscribe(ctx, "u") }), other: true},
			{call: calling(func() error { return sub.Unsubscribe(ctx) }), other: true},
			{call: calling(func() error { _, err := p.client.Ping(ctx); return err }), other: true},
			{call: calling(func() error { _, err := sub.Next(ctx); return err }), other: true},
		}
		for range 4 {
			p.Receive()
		}
		return w
	}},
	{name: "PINGREQ without answer", opts: []mqtt.OptionV5{mqtt.WithKeepAlive(2 * time.Second)},
		enter: func(t *testing.T, p *peer) []waiter {
			mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
			return nil
		}},
	{name: "half a packet has come", enter: func(t *testing.T, p *peer) []waiter {
		p.SendBytes(0x30, 0xff, 0xff, 0xff, 0x7f, 0)
		synctest.Wait()
		return nil
	}},
}

// PROTOCOL 29: Close returns within a second in every state, however often and from however many goroutines it is called,
// and tells everybody who waits. (That no goroutine is left is for synctest to see.)
func TestClose(t *testing.T) {
	for _, c := range closings {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				p := startPeer(t, v, nil, c.opts...)
				waiters := c.enter(t, p)
				start := time.Now()
				var all sync.WaitGroup
				for range 3 {
					all.Go(func() {
						if err := p.client.Close(); err != nil {
							t.Error(err)
						}
						if took := time.Since(start); took > time.Second {
							t.Errorf("Close takes %v", took)
						}
					})
				}
				all.Wait()
				checkClosed(t, p, waiters)
			})
		})
	}
}

// The same with a Disconnect whose context ends.
func TestDisconnectEnds(t *testing.T) {
	for _, c := range closings {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				p := startPeer(t, v, nil, c.opts...)
				waiters := c.enter(t, p)
				s := p.client.Stats()
				pending := s.InFlight+s.Queued > 0
				start := time.Now()
				err := p.client.Disconnect(endingIn(t, time.Second))
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("Disconnect takes %v", took)
				}
				if pending != errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Disconnect says %v", err)
				}
				checkClosed(t, p, waiters)
			})
		})
	}
}

// checkClosed checks what waiters were told, and that the client is closed for everybody.
func checkClosed(t *testing.T, p *peer, waiters []waiter) {
	t.Helper()
	for i, w := range waiters {
		err := outcome(t, w.call)
		if !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("waiter %d gets %v", i, err)
		}
		if !w.other && (mqtt.SafeToRetry(err) != w.unsent || errors.Is(err, mqtt.ErrOutcomeUnknown) == w.unsent) {
			t.Errorf("waiter %d, unsent: %v, gets %v, safe to retry: %v", i, w.unsent, err, mqtt.SafeToRetry(err))
		}
	}
	select {
	case <-p.client.Done():
	default:
		t.Error("Done is not closed")
	}
	if !errors.Is(p.client.Err(), mqtt.ErrClosed) || p.client.State() != mqtt.StateClosed {
		t.Error(p.client.Err(), p.client.State())
	}
	ctx := t.Context()
	for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
		wantErr(t, p.client.Publish(ctx, "t", nil, qos), mqtt.ErrClosed, true)
		wantErr(t, p.client.PublishAsync(ctx, "t", nil, qos).Err(), mqtt.ErrClosed, true)
	}
	_, err := p.client.Subscribe(ctx, "s")
	wantErr(t, err, mqtt.ErrClosed, true)
	wantErr(t, p.client.Unsubscribe(ctx, "s"), mqtt.ErrClosed, true)
	_, err = p.client.Ping(ctx)
	wantErr(t, err, mqtt.ErrClosed, true)
	wantErr(t, p.client.Disconnect(ctx), mqtt.ErrClosed, false)
	noErr(t, p.client.Close())
}

// [MQTT-3.14.4-1] [MQTT-3.14.4-2]: what Close sends, byte by byte: what was appended before, DISCONNECT, the end of the
// stream at once, and nothing after DISCONNECT.
// [MQTT-3.14.1-1] [MQTT311-3.14.1-1] [MQTT311-3.14.4-1] [MQTT311-3.14.4-2]
func TestCloseOnTheWire(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		noErr(t, p.client.Publish(t.Context(), "t", []byte("last")))
		start := time.Now()
		closed := calling(p.client.Close)
		p.Expect(toT(0, 0, "last"))
		if v == codec.V5 {
			p.ExpectBytes(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0) // the session ends: nobody asked for its expiry
		} else {
			p.ExpectBytes(0xe0, 0)
		}
		p.ExpectEOF()
		p.Send(&codec.Publish{Topic: "t", QoS: 1, PacketID: 1}, &codec.Pubrel{PacketID: 3}) // not answered any more
		stillWaits(t, closed)
		p.Close()
		noErr(t, outcome(t, closed))
		if took := time.Since(start); took > 0 {
			t.Errorf("Close takes %v", took)
		}
	})
}

// [MQTT-3.14.4-1]: concurrent publishers cannot get anything in behind DISCONNECT, and nothing that came back as sent is
// lost before it.
// [MQTT311-3.14.4-2]
func TestCloseUnderPublishers(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		broker := mqtttest.NewBroker(t) // complains about what comes after DISCONNECT
		c, _, err := dialClient(t.Context(), v, broker.DialContext, mqtt.WithWill("will", nil))
		noErr(t, err)
		var all sync.WaitGroup
		var sent [8]int
		for i := range sent {
			all.Go(func() {
				for range 500 {
					err := c.Publish(t.Context(), "t", []byte{byte(i)}, mqtt.QoS(i%3))
					switch {
					case err == nil:
						sent[i]++
						continue
					case errors.Is(err, mqtt.ErrOutcomeUnknown):
					case !errors.Is(err, mqtt.ErrClosed) || !mqtt.SafeToRetry(err):
						t.Errorf("a publisher gets %v", err)
					}
					return
				}
			})
		}
		broker.Await(t.Context(), "t", 50)
		noErr(t, c.Close())
		all.Wait()
		synctest.Wait()
		var came [8]int
		for _, m := range broker.Received("t") {
			came[m.Payload[0]]++
		}
		for i := range sent {
			if came[i] < sent[i] {
				t.Errorf("publisher %d: %d messages sent, %d came", i, sent[i], came[i])
			}
		}
		if broker.Received("will") != nil { // PROTOCOL 29
			t.Error("the server publishes the will after Close")
		}
	})
}

// PROTOCOL 29: the server publishes the will when the connection is lost, or when Disconnect asks for it, and otherwise
// not.
// [MQTT-3.14.4-3] [MQTT311-3.14.4-3]
func TestWill(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(b *mqtttest.Broker, c mqtt.Client, v5 mqtt.ClientV5) error
		will bool
		v5   bool
	}{
		{"Close", func(b *mqtttest.Broker, c mqtt.Client, _ mqtt.ClientV5) error { return c.Close() }, false, false},
		{"Disconnect", func(b *mqtttest.Broker, c mqtt.Client, _ mqtt.ClientV5) error {
			return c.Disconnect(context.Background())
		}, false, false},
		{"Cut", func(b *mqtttest.Broker, c mqtt.Client, _ mqtt.ClientV5) error { b.Cut(); <-c.Done(); return nil }, true, false},
		{"0x04", func(b *mqtttest.Broker, _ mqtt.Client, c mqtt.ClientV5) error {
			return c.Disconnect(context.Background(), mqtt.DisconnectWithWill)
		}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				if c.v5 && v != codec.V5 {
					return
				}
				broker := mqtttest.NewBroker(t)
				client, v5, err := dialClient(t.Context(), v, broker.DialContext, mqtt.WithWill("will", nil))
				noErr(t, err)
				defer client.Close()
				noErr(t, c.end(broker, client, v5))
				synctest.Wait()
				if got := broker.Received("will") != nil; got != c.will {
					t.Errorf("will: %v", got)
				}
			})
		})
	}
}

// PROTOCOL 29: Disconnect waits for what is queued and in flight, and refuses new publishes meanwhile.
func TestDisconnectDrains(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithMaxInFlight(1), mqtt.WithQueue(2, 1000))
		ctx := t.Context()
		var waiting []*mqtt.Delivery
		for i := range 3 {
			waiting = append(waiting, p.client.PublishAsync(ctx, "t", nil, mqtt.QoS(1+i%2)))
		}
		early := []<-chan error{publishing(p, nil, mqtt.AtLeastOnce), publishing(p, nil, mqtt.ExactlyOnce)}
		start := time.Now()
		disconnected := []<-chan error{}
		for range 2 {
			disconnected = append(disconnected, calling(func() error { return p.client.Disconnect(ctx) }))
		}
		synctest.Wait()
		if p.client.State() != mqtt.StateDisconnecting {
			t.Error(p.client.State())
		}
		for _, result := range early { // they wait for room, so they are new
			wantErr(t, outcome(t, result), mqtt.ErrClosed, true)
		}
		for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
			wantErr(t, p.client.Publish(ctx, "t", nil, qos), mqtt.ErrClosed, true)
		}
		_, err := p.client.Subscribe(ctx, "s")
		wantErr(t, err, mqtt.ErrClosed, true)
		if took := time.Since(start); took > 0 {
			t.Errorf("they waited %v", took)
		}
		for i, d := range waiting {
			id := uint16(i + 1)
			p.Expect(toT(byte(1+i%2), id, ""))
			p.ExpectSilence(time.Second)
			if i%2 == 0 {
				p.Send(&codec.Puback{PacketID: id})
			} else {
				p.Send(&codec.Pubrec{PacketID: id})
				p.Expect(&codec.Pubrel{PacketID: id})
				p.ExpectSilence(time.Second)
				p.Send(&codec.Pubcomp{PacketID: id})
			}
			noErr(t, d.Wait(ctx))
		}
		mqtttest.ReceiveAs[*codec.Disconnect](p.Script)
		p.ExpectEOF()
		p.Close()
		for _, result := range disconnected {
			noErr(t, outcome(t, result))
		}
	})
}

// Publishes that wait for room in the write buffer are new, too.
func TestDisconnectRefusesWaiters(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Hour))
		p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		early := []<-chan error{fill(p), publishing(p, nil, mqtt.AtMostOnce)}
		disconnected := calling(func() error { return p.client.Disconnect(t.Context()) })
		stillWaits(t, disconnected)
		for _, result := range early {
			select {
			case err := <-result:
				wantErr(t, err, mqtt.ErrClosed, true)
			default:
				t.Error("a publish still waits for room")
			}
		}
		noErr(t, p.client.Close())
		wantErr(t, outcome(t, disconnected), mqtt.ErrClosed, false)
	})
}

// A Disconnect that did not get to wait for everything says so: it was cut short by Close, by another Disconnect or by
// the connection's end.
func TestDisconnectCutShort(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(p *peer)
		want error
	}{
		"Close":              {func(p *peer) { p.client.Close() }, mqtt.ErrClosed},
		"another Disconnect": {func(p *peer) { p.client.Disconnect(endingIn(p.t, time.Second)) }, mqtt.ErrClosed},
		"loss":               {func(p *peer) { p.Cut() }, mqtt.ErrConnectionLost},
	} {
		t.Run(name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				p := startPeer(t, v, nil)
				d := p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
				disconnected := calling(func() error { return p.client.Disconnect(t.Context()) })
				stillWaits(t, disconnected)
				c.end(p)
				wantErr(t, outcome(t, disconnected), c.want, false)
				wantErr(t, d.Err(), mqtt.ErrOutcomeUnknown, false)
			})
		})
	}
}

// Disconnect takes the time that messages at QoS 0 need to go out, unlike Close, and says when they did not.
func TestDisconnectWrites(t *testing.T) {
	for name, c := range map[string]struct {
		then func(p *peer)
		want error
	}{
		"the server reads at last": {func(p *peer) {
			for {
				switch packet := p.Receive().(type) {
				case *codec.Disconnect:
					p.Close()
					return
				case *codec.Publish:
					if packet.Topic != "fill" {
						p.t.Errorf("the server gets %v", packet)
					}
				}
			}
		}, nil},
		"loss":  {func(p *peer) { p.Cut() }, mqtt.ErrConnectionLost},
		"ctx":   {func(p *peer) { time.Sleep(time.Minute) }, context.DeadlineExceeded},
		"Close": {func(p *peer) { p.client.Close() }, mqtt.ErrConnectionLost},
	} {
		t.Run(name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Hour))
				fill(p)
				disconnected := calling(func() error { return p.client.Disconnect(endingIn(t, time.Minute)) })
				time.Sleep(10 * time.Second)
				stillWaits(t, disconnected)
				c.then(p)
				if err := outcome(t, disconnected); !errors.Is(err, c.want) {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}

// After a loss Close and Disconnect have nothing to do, and say the same as Err.
func TestCloseAfterLoss(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil)
		p.Cut()
		wantErr(t, p.ends(time.Second), mqtt.ErrConnectionLost, false)
		wantErr(t, p.client.Disconnect(t.Context()), mqtt.ErrConnectionLost, false)
		noErr(t, p.client.Close())
		wantErr(t, p.client.Err(), mqtt.ErrConnectionLost, false)
		if p.client.State() != mqtt.StateClosed || p.client.State().String() != "closed" {
			t.Error(p.client.State())
		}
	})
}

// [MQTT-3.14.2-1] [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.14.2.2.2] and PROTOCOL 21: what DISCONNECT says.
// [MQTT-3.2.2.3.2]
func TestDisconnectOptions(t *testing.T) {
	props := &mqtt.DisconnectProperties{ReasonString: "bye", UserProperties: mqtt.UserProperties{{Key: "k", Value: "v"}}}
	said := codec.Disconnect{ReasonString: "bye", UserProperties: codec.UserProperties{{Key: "k", Value: "v"}}}
	zero, day := ptr(uint32(0)), ptr(uint32(86_400))
	hour := mqtt.WithSessionExpiry(time.Hour)
	for _, c := range []struct {
		name string
		opts []mqtt.OptionV5
		ack  codec.ConnackProperties
		with []mqtt.DisconnectOption
		want codec.Disconnect
	}{
		{name: "default", want: codec.Disconnect{SessionExpiry: zero}},
		{name: "no session at the server", ack: codec.ConnackProperties{SessionExpiry: zero}},
		{name: "expiry asked for", opts: []mqtt.OptionV5{hour}},
		{name: "expiry asked for, changed by the server", opts: []mqtt.OptionV5{hour}, ack: codec.ConnackProperties{SessionExpiry: day}},
		{name: "expiry 0 asked for", opts: []mqtt.OptionV5{mqtt.WithSessionExpiry(0)}},
		{name: "KeepSession", with: []mqtt.DisconnectOption{mqtt.KeepSession(24 * time.Hour)}, want: codec.Disconnect{SessionExpiry: day}},
		{name: "KeepSession, expiry asked for", opts: []mqtt.OptionV5{hour}, with: []mqtt.DisconnectOption{mqtt.KeepSession(24 * time.Hour)}, want: codec.Disconnect{SessionExpiry: day}},
		{name: "KeepSession(0), expiry asked for", opts: []mqtt.OptionV5{hour}, with: []mqtt.DisconnectOption{mqtt.KeepSession(0)}, want: codec.Disconnect{SessionExpiry: zero}},
		{name: "KeepSession(0), no session", opts: []mqtt.OptionV5{mqtt.WithSessionExpiry(0)}, with: []mqtt.DisconnectOption{mqtt.KeepSession(0)}, want: codec.Disconnect{SessionExpiry: zero}},
		{name: "0x04", opts: []mqtt.OptionV5{hour}, with: []mqtt.DisconnectOption{mqtt.DisconnectWithWill}, want: codec.Disconnect{Code: codec.DisconnectWithWill}},
		{name: "0x04, default", with: []mqtt.DisconnectOption{mqtt.DisconnectWithWill}, want: codec.Disconnect{Code: codec.DisconnectWithWill, SessionExpiry: zero}},
		{name: "properties", opts: []mqtt.OptionV5{hour}, with: []mqtt.DisconnectOption{props, (*mqtt.DisconnectProperties)(nil)}, want: said},
		{name: "properties that just fit", opts: []mqtt.OptionV5{hour}, ack: sizeLimit(17), with: []mqtt.DisconnectOption{props}, want: said},
		{name: "properties that do not fit", opts: []mqtt.OptionV5{hour}, ack: sizeLimit(16), with: []mqtt.DisconnectOption{props, mqtt.QuotaExceeded},
			want: codec.Disconnect{Code: codec.QuotaExceeded}},
		{name: "properties that do not fit, with expiry", ack: sizeLimit(20), with: []mqtt.DisconnectOption{props}, want: codec.Disconnect{SessionExpiry: zero}},
		{name: "expiry that does not fit", ack: sizeLimit(8), with: []mqtt.DisconnectOption{props, mqtt.QuotaExceeded}, want: codec.Disconnect{Code: codec.QuotaExceeded}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startPeer(t, codec.V5, &codec.Connack{Properties: c.ack}, c.opts...)
				disconnected := calling(func() error { return p.v5.Disconnect(t.Context(), c.with...) })
				p.Expect(&c.want)
				p.ExpectEOF()
				p.Close()
				noErr(t, outcome(t, disconnected))
			})
		})
	}
}

// What a client must not say is refused, and the client lives on.
// [MQTT-3.14.2-1] [MQTT-3.14.2.2.2]
func TestDisconnectOptionsAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil, mqtt.WithSessionExpiry(0))
		refused := []mqtt.DisconnectOption{
			mqtt.KeepSession(time.Second), mqtt.KeepSession(-time.Second), mqtt.KeepSession(time.Millisecond),
			mqtt.KeepSession((1 << 32) * time.Second),
			&mqtt.DisconnectProperties{ReasonString: "\xff"}, &mqtt.DisconnectProperties{ReasonString: strings.Repeat("x", 65_536)},
			&mqtt.DisconnectProperties{UserProperties: mqtt.UserProperties{{Key: "\x00"}}},
		}
		allowed := map[int]bool{0: true, 4: true, 0x80: true, 0x81: true, 0x82: true, 0x83: true, 0x90: true}
		for code := 0x93; code <= 0x99; code++ {
			allowed[code] = true
		}
		for code := range 256 {
			if !allowed[code] {
				refused = append(refused, mqtt.ReasonCode(code))
			}
		}
		for _, opt := range refused {
			if err := p.v5.Disconnect(t.Context(), opt); err == nil || errors.Is(err, mqtt.ErrClosed) {
				t.Errorf("%v: error %v", opt, err)
			}
		}
		if p.v5.State() != mqtt.StateConnected {
			t.Error(p.v5.State())
		}
		p.ExpectSilence(time.Second)
		for code := range allowed {
			p := startPeer(t, codec.V5, nil, mqtt.WithSessionExpiry(0))
			go p.v5.Disconnect(t.Context(), mqtt.ReasonCode(code))
			p.Expect(&codec.Disconnect{Code: codec.ReasonCode(code)})
			p.Close()
		}
	})
}

// A server that refuses something closes its end after a DISCONNECT. The client's next write may fail before the client
// has read that packet; the reason is reported all the same.
func TestLastWordOfServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		var conn *deaf
		c := start(func() (mqtt.ClientV5, error) {
			return dialV5(t, func(ctx context.Context, network, address string) (net.Conn, error) {
				inner, err := server.DialContext(ctx, network, address)
				conn = &deaf{Conn: inner}
				return conn, err
			}), nil
		})
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{})
		client := c.value(t)
		conn.now.Store(true)
		client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		time.Sleep(100 * time.Millisecond) // the write has failed
		s.Send(&codec.Disconnect{Code: codec.QuotaExceeded})
		<-client.Done()
		wantErr(t, client.Err(), mqtt.QuotaExceeded, false)
	})
}
