package mqtt_test

import (
	"context"
	"errors"
	"net"
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

// Close returns within a second in every state, however often and from however many goroutines it is called,
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
		if broker.Received("will") != nil {
			t.Error("the server publishes the will after Close")
		}
	})
}

// The server publishes the will when the connection is lost, or when Disconnect asks for it, and otherwise
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

// Disconnect waits for what is queued and in flight, and refuses new publishes meanwhile.
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

// Close and Disconnect return in every state and leave no goroutine, which synctest would report; waiting calls return.
func TestEndInEveryState(t *testing.T) {
	states := map[string]func(t *testing.T, v codec.Version) mqtt.Client{
		"connected": func(t *testing.T, v codec.Version) mqtt.Client {
			return reconnectingAs(t, v, mqtttest.NewBroker(t).DialContext)
		},
		"half-open": func(t *testing.T, v codec.Version) mqtt.Client {
			b := mqtttest.NewBroker(t)
			c := reconnectingAs(t, v, b.DialContext)
			b.HalfOpen()
			return c
		},
		"waiting": func(t *testing.T, v codec.Version) mqtt.Client {
			b := mqtttest.NewBroker(t)
			c := reconnectingAs(t, v, b.DialContext, mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Hour}))
			b.Offline()
			wantState(t, c, mqtt.StateWaiting)
			return c
		},
		"dialling": func(t *testing.T, v codec.Version) mqtt.Client {
			hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			c := reconnectingAs(t, v, hang, mqtt.WithConnectInBackground())
			wantState(t, c, mqtt.StateConnecting)
			return c
		},
		"CONNACK missing": func(t *testing.T, v codec.Version) mqtt.Client {
			server := mqtttest.NewServer(t, v)
			c := reconnectingAs(t, v, server.DialContext, mqtt.WithConnectInBackground())
			mqtttest.ReceiveAs[*codec.Connect](server.Accept())
			wantState(t, c, mqtt.StateConnecting)
			return c
		},
		"credentials": func(t *testing.T, v codec.Version) mqtt.Client {
			return reconnectingAs(t, v, mqtttest.NewBroker(t).DialContext, mqtt.WithConnectInBackground(),
				mqtt.WithCredentialsFunc(func(ctx context.Context) (string, string, error) {
					<-ctx.Done()
					return "", "", ctx.Err()
				}))
		},
		"deciding": func(t *testing.T, v codec.Version) mqtt.Client {
			b := mqtttest.NewBroker(t)
			b.Offline()
			return reconnectingAs(t, v, b.DialContext, mqtt.WithConnectInBackground(), mqtt.WithReconnect(mqtt.ReconnectPolicy{
				Decide: func(ctx context.Context, f mqtt.Failure) (time.Duration, error) {
					<-ctx.Done()
					return 0, ctx.Err()
				}}))
		},
		"closed": func(t *testing.T, v codec.Version) mqtt.Client {
			c := reconnectingAs(t, v, mqtttest.NewBroker(t).DialContext)
			c.Close()
			return c
		},
	}
	for name, state := range states {
		t.Run(name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				for _, disconnect := range []bool{false, true} {
					c := state(t, v)
					synctest.Wait()
					sub := startErr(func() error { _, err := c.Subscribe(t.Context(), "t"); return err })
					d := c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
					up := startErr(func() error { return c.WaitConnected(t.Context()) })
					synctest.Wait()
					began := time.Now()
					limit := 2 * time.Second
					if disconnect {
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
						err := c.Disconnect(ctx)
						cancel()
						recovers := name == "connected" || name == "half-open" // for that the message waits too long
						if !recovers && name != "closed" && !errors.Is(err, context.DeadlineExceeded) || recovers && err != nil {
							t.Errorf("Disconnect returns %v", err)
						}
						limit += time.Minute
					} else if err := c.Close(); err != nil {
						t.Errorf("Close returns %v", err)
					}
					if took := time.Since(began); took > limit {
						t.Errorf("it takes %v", took)
					}
					wantState(t, c, mqtt.StateClosed)
					if err := c.Err(); !errors.Is(err, mqtt.ErrClosed) {
						t.Errorf("the client ends with %v", err)
					}
					select {
					case <-d.Done():
					case <-time.After(time.Minute):
						t.Error("the delivery has no end")
					}
					if err := sub.wait(); name != "connected" && !(name == "half-open" && disconnect) && !errors.Is(err, mqtt.ErrClosed) {
						t.Errorf("Subscribe returns %v", err)
					}
					_ = up.wait()
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// Disconnect goes on connecting to get rid of what is queued.
func TestDisconnectDrainsAcrossReconnects(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v))
		b.Offline()
		synctest.Wait()
		d := c.PublishAsync(t.Context(), "t", nil, mqtt.ExactlyOnce)
		bye := startErr(func() error { return c.Disconnect(t.Context()) })
		wantState(t, c, mqtt.StateDisconnecting)
		if err := c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce); !errors.Is(err, mqtt.ErrClosed) {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		bye.pending(t, "a message is queued")
		b.Online()
		if err := bye.wait(); err != nil {
			t.Error(err)
		}
		wantFate(t, d, nil)
	})
}
