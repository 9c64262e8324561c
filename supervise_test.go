package mqtt_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// MaxAttempts ends the client with the last error, and everybody who waits learns it.
func TestGivingUp(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxAttempts: 3}))
		time.Sleep(10 * time.Minute) // stable
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Drop: true})
		flying := c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		synctest.Wait()
		b.Offline()
		synctest.Wait()
		queued := c.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		waits := []*running[struct{}]{
			startErr(func() error { return c.Publish(t.Context(), "t", nil, mqtt.ExactlyOnce) }),
			startErr(func() error { _, err := c.Subscribe(t.Context(), "u"); return err }),
			startErr(func() error { return c.Unsubscribe(t.Context(), "v") }),
			startErr(func() error { return c.WaitConnected(t.Context()) }),
		}
		var e *mqtt.ConnectError
		<-c.Done()
		wantState(t, c, mqtt.StateClosed)
		if !errors.As(c.Err(), &e) {
			t.Fatalf("the client ends with %v", c.Err())
		}
		wantFate(t, flying, mqtt.ErrOutcomeUnknown)
		wantFate(t, flying, c.Err())
		wantFate(t, queued, c.Err())
		if !mqtt.SafeToRetry(queued.Err()) || mqtt.SafeToRetry(flying.Err()) {
			t.Errorf("queued %v, in flight %v", queued.Err(), flying.Err())
		}
		for i, w := range waits {
			if err := w.wait(); !errors.As(err, &e) {
				t.Errorf("call %d returns %v", i, err)
			}
		}
		wantClosed(t, sub)
		if err := sub.Err(); !errors.As(err, &e) {
			t.Errorf("the subscription ends with %v", err)
		}
		for i, err := range []error{
			c.Publish(t.Context(), "t", nil), c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce),
			c.Reconnect(t.Context()), c.Unsubscribe(t.Context(), "t"),
		} {
			if !errors.As(err, &e) {
				t.Errorf("call %d returns %v", i, err)
			}
		}
	})
}

// MaxAttempts counts attempts that fail in a row, and neither connections that were made nor their ends.
func TestMaxAttemptsCountsFailures(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		failed := 0
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxAttempts: 3, Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
			failed = f.Failed
			return f.Delay, nil
		}}))
		for range 10 {
			b.Cut()
			time.Sleep(time.Minute)
			noErr(t, c.Reconnect(t.Context()))
		}
		b.Refuse(2, byte(codec.ServerUnavailable))
		b.Cut()
		time.Sleep(10 * time.Minute)
		if c.State() != mqtt.StateConnected || failed != 2 {
			t.Errorf("after two refusals the client is %v, %d failed: %v", c.State(), failed, c.Err())
		}
		b.Refuse(3, byte(codec.ServerUnavailable))
		b.Cut()
		time.Sleep(10 * time.Minute)
		if !errors.Is(c.Err(), mqtt.ServerUnavailable) {
			t.Errorf("after three refusals the client ends with %v", c.Err())
		}
	})
}

// What cannot get better ends the client, at a reconnect too; what can is tried again.
func TestRefusals(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		permanent := []mqtt.ReasonCode{0x84, 0x85, 0x86, 0x87}
		retried := []mqtt.ReasonCode{0x88}
		if v == codec.V5 {
			permanent = append(permanent, 0x8A, 0x8C)
			retried = append(retried, 0x80, 0x83, 0x89, 0x97, 0x9C, 0x9D, 0x9F)
		}
		for _, code := range permanent {
			b := mqtttest.NewBroker(t)
			c := reconnectingAs(t, v, b.DialContext)
			b.Refuse(1, byte(code))
			b.Cut()
			wantEnd(t, c, code)
			var e *mqtt.ConnectError
			if !errors.As(c.Err(), &e) || e.Code != code {
				t.Errorf("%v: %v", code, c.Err())
			}
		}
		for _, code := range retried {
			b := mqtttest.NewBroker(t)
			var asked failures
			c := reconnectingAs(t, v, b.DialContext, mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: asked.decide}))
			b.Refuse(2, byte(code))
			b.Cut()
			time.Sleep(time.Minute)
			wantState(t, c, mqtt.StateConnected)
			if list := asked.take(); len(list) != 3 || !errors.Is(list[2].Err, code) {
				t.Errorf("%v: %+v", code, list)
			}
			c.Close()
		}
	})
}

// The server's DISCONNECT: taken over and not authorised are the end, the rest is not.
func TestKicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, code := range []mqtt.ReasonCode{mqtt.SessionTakenOver, mqtt.NotAuthorized} {
			b := mqtttest.NewBroker(t)
			c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
			b.Kick("c", byte(code))
			wantEnd(t, c, code)
			var e *mqtt.DisconnectError
			if !errors.As(c.Err(), &e) || !e.ByServer {
				t.Errorf("%v: %v", code, c.Err())
			}
		}
		for _, code := range []mqtt.ReasonCode{0x81, 0x89, 0x8B, 0x8D, 0x93, 0x96, 0x97, 0x98, 0x9C, 0x9F, 0xA0} {
			b := mqtttest.NewBroker(t)
			c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
			b.Kick("c", byte(code))
			time.Sleep(time.Minute)
			if s := c.Stats(); c.State() != mqtt.StateConnected || s.Connects != 2 || s.Losses != 1 {
				t.Errorf("%v: %v, %+v", code, c.State(), s)
			}
			c.Close()
		}
	})
}

// WithoutReconnect: the client ends with its first connection; Reconnect may still make another before that.
func TestWithoutReconnect(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithoutReconnect())
		sub := subscribe(t, c, "t")
		if err := c.Reconnect(t.Context()); err != nil {
			t.Error(err)
		}
		wantState(t, c, mqtt.StateConnected)
		b.Cut()
		wantEnd(t, c, mqtt.ErrConnectionLost)
		wantClosed(t, sub)
		if err := sub.Err(); !errors.Is(err, mqtt.ErrConnectionLost) {
			t.Error(err)
		}
	})
}

// WithConnectRetry blocks until ctx ends, or until it is of no use.
func TestConnectRetry(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		b.Offline()
		connect := func(ctx context.Context, opts ...mqtt.Option) (mqtt.Client, error) {
			opts = append(opts, mqtt.WithDialer(b.DialContext), mqtt.WithConnectRetry())
			if v == codec.V5 {
				c, err := mqtt.NewClient(ctx, "test", mqtt.Options(opts))
				if err != nil {
					return nil, err
				}
				return mqtt.Common(c), nil
			}
			return mqtt.NewClientV311(ctx, "test", opts...)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		_, err := connect(ctx)
		var e *mqtt.ConnectError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &e) || time.Since(began) != time.Hour {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		late := start(func() (mqtt.Client, error) { return connect(t.Context()) })
		time.Sleep(time.Hour)
		late.pending(t, "the server is offline")
		b.Online()
		c := late.value(t)
		wantState(t, c, mqtt.StateConnected)
		c.Close()
		b.Refuse(1, byte(mqtt.ClientIdentifierNotValid))
		if _, err := connect(t.Context()); !errors.Is(err, mqtt.ClientIdentifierNotValid) {
			t.Errorf("%v", err)
		}
	})
}

// WithConnectInBackground returns at once and queues.
func TestConnectInBackground(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		b.Offline()
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithConnectInBackground())
		d := c.PublishAsync(t.Context(), "t", []byte("x"), mqtt.ExactlyOnce)
		if err := c.Publish(t.Context(), "t", nil); !errors.Is(err, mqtt.ErrNotConnected) {
			t.Error(err)
		}
		sub := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "t", mqtt.AtLeastOnce) })
		sub.pending(t, "the server is offline")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.WaitConnected(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		wantOpen(t, d)
		b.Online()
		if err := c.WaitConnected(t.Context()); err != nil {
			t.Error(err)
		}
		wantFate(t, d, nil)
		wantArrived(t, sub.value(t), "t=x q1")
	})
}

// The end of a connection before CONNACK, at any attempt, never ends the client.
func TestClosedBeforeConnack(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v, mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: 5 * time.Second}))
		for i := range 50 {
			p.Close()
			p.Script = p.server.Accept()
			if i%2 == 0 {
				mqtttest.ReceiveAs[*codec.Connect](p.Script)
			}
		}
		p.Close()
		p.Script = p.server.Accept()
	})
}

// Five unstable connections in a row that end without a word are logged.
func TestDuplicateClientIDIsLogged(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		var log lines
		var asked failures
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"), mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
			mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: 10 * time.Second, Decide: asked.decide}))
		for i := range 6 {
			if n := log.count("client identifier"); n != max(0, i-4) {
				t.Errorf("%d connections, %d warnings", i, n)
			}
			b.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 1, Cut: true})
			if err := c.Publish(t.Context(), "t", nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		list := asked.take()
		if f := list[len(list)-1]; f.Delay != 10*time.Second {
			t.Errorf("the delay is %v", f.Delay)
		}
	})
}

// A connection that ends otherwise is no sign of another client: the count begins anew.
func TestOtherEndsAreNotSuspicious(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		var log lines
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"), mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
			mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Second, StableAfter: time.Hour}))
		for i := range 20 {
			if i%5 == 4 {
				b.HalfOpen("c")
			} else {
				b.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 1, Cut: true})
			}
			noErr(t, c.Publish(t.Context(), "t", nil))
			time.Sleep(2 * time.Minute) // until a silent server is noticed
			noErr(t, c.WaitConnected(t.Context()))
		}
		if n := log.count("client identifier"); n != 0 {
			t.Errorf("%d warnings", n)
		}
	})
}

// A logger that waits for the client must not keep it from connecting again.
func TestLoggerThatPublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		var c mqtt.ClientV5
		made := make(chan struct{})
		log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
			<-made
			return len(line), c.Publish(endingIn(t, time.Hour), "log", line, mqtt.AtLeastOnce)
		}), nil))
		var err error
		c, err = mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(b.DialContext), mqtt.WithLogger(log))
		noErr(t, err)
		close(made)
		defer c.Close()
		b.Cut()
		time.Sleep(time.Minute)
		if c.State() != mqtt.StateConnected {
			t.Errorf("a minute after the cut the client is %v", c.State())
		}
	})
}
