package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Tests of DESIGN.md 4.3: when a client connects again, where, with what, and when it gives up.

// The bound of the delay grows by Factor up to MaxDelay, and the delay is anywhere below it. It begins anew only after a
// stable connection.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		var asked failures
		c := reconnectingV5(t, b.DialContext, mqtt.WithReconnect(mqtt.ReconnectPolicy{
			InitialDelay: 2 * time.Second, MaxDelay: 20 * time.Second, Factor: 3, StableAfter: time.Minute, Decide: asked.decide,
		}))
		var low, high bool
		for range 20 {
			time.Sleep(time.Minute)
			b.Offline()
			time.Sleep(5 * time.Minute)
			list := asked.take()
			if len(list) < 10 {
				t.Fatalf("%d attempts in five minutes", len(list))
			}
			for i, f := range list {
				bound := 20 * time.Second
				if i < 3 {
					bound = []time.Duration{2, 6, 18}[i] * time.Second
				}
				if f.Delay < 0 || f.Delay > bound || f.Attempts != i || f.Permanent || !strings.Contains(f.Server, "test") {
					t.Fatalf("failure %d: %+v", i, f)
				}
				low, high = low || f.Delay < bound/4, high || f.Delay > 3*bound/4
			}
			if list[0].Down != 0 || list[len(list)-1].Down < 4*time.Minute || !errors.Is(list[0].Err, mqtt.ErrConnectionLost) {
				t.Errorf("%+v … %+v", list[0], list[len(list)-1])
			}
			b.Online()
			if err := c.WaitConnected(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !low || !high {
			t.Error("the delays are not spread over the whole range")
		}
		// Not stable: the bound goes on growing.
		b.Cut()
		if list := asked.take(); len(list) != 1 || list[0].Attempts < 10 {
			t.Errorf("%+v", list)
		}
	})
}

// PROTOCOL 24: by default a connection is stable that lasts for MaxDelay and for twice the keep alive interval.
func TestStable(t *testing.T) {
	for _, c := range []struct{ maxDelay, keepAlive, stable time.Duration }{
		{0, 10 * time.Second, time.Minute},
		{5 * time.Minute, time.Minute, 5 * time.Minute},
		{time.Second, 40 * time.Second, 80 * time.Second},
		{time.Second, 0, time.Second},
	} {
		t.Run(fmt.Sprint(c.maxDelay, " and ", c.keepAlive), func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				b := mqtttest.NewBroker(t)
				var asked failures
				policy := mqtt.ReconnectPolicy{MaxDelay: c.maxDelay, Decide: asked.decide}
				client := reconnectingAs(t, v, b.DialContext, mqtt.WithKeepAlive(c.keepAlive), mqtt.WithReconnect(policy))
				for _, stable := range []bool{false, true, false, true} {
					noErr(t, client.WaitConnected(t.Context()))
					lasts := c.stable
					if !stable {
						lasts -= time.Millisecond
					}
					time.Sleep(lasts)
					b.Cut()
					if list := asked.take(); len(list) != 1 || (list[0].Attempts == 0) != stable {
						t.Errorf("a connection of %v is lost: %+v", lasts, list)
					}
				}
			})
		})
	}
}

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

// PROTOCOL 25: Decide overrides both ways.
func TestDecideOverrides(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		enough := errors.New("enough")
		policy := mqtt.ReconnectPolicy{Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
			switch {
			case errors.Is(f.Err, mqtt.NotAuthorized) && f.Permanent:
				return time.Second, nil
			case errors.Is(f.Err, mqtt.ServerUnavailable) && !f.Permanent:
				return 0, enough
			}
			return 0, nil
		}}
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithReconnect(policy))
		b.Refuse(3, byte(mqtt.NotAuthorized))
		b.Cut()
		time.Sleep(3*time.Second + time.Millisecond)
		wantState(t, c, mqtt.StateConnected)
		b.Refuse(1, byte(mqtt.ServerUnavailable))
		b.Cut()
		wantEnd(t, c, enough)
	})
}

// PROTOCOL 25: credentials are fetched for each attempt. A refusal of them is tried again then; an error of the function is
// a failed attempt, unless it is Permanent.
func TestCredentialsFunc(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		n := 0
		temporary, permanent := errors.New("no token today"), errors.New("no token ever")
		sent := watch(b, func(p *codec.Connect) string { return p.Username + ":" + string(p.Password) })
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithCredentialsFunc(func(ctx context.Context) (string, string, error) {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the connect timeout does not bound the function")
			}
			switch n++; n {
			case 2:
				return "", "", temporary
			case 5:
				return "", "", fmt.Errorf("asked: %w", mqtt.Permanent(permanent))
			}
			return "user", fmt.Sprint(n), nil
		}))
		b.Refuse(1, byte(mqtt.BadUserNameOrPassword))
		b.Cut()
		time.Sleep(time.Minute)
		wantState(t, c, mqtt.StateConnected)
		sent.want(t, "user:1", "user:3", "user:4")
		b.Cut()
		wantEnd(t, c, permanent)
	})
}

// WithAttemptFunc sees each attempt, with its number and what went before, and changes it.
func TestAttemptFunc(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		turns := newTurns(b)
		var saw []string
		sent := watch(b, func(p *codec.Connect) string { return p.Username + ":" + string(p.Password) })
		c := reconnectingAs(t, v, turns.dial, mqtt.WithCredentials("user", "first"),
			mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
				saw = append(saw, fmt.Sprintf("%d %s %s:%s %v", a.Number, a.URL.Host, a.Username, a.Password, a.LastErr != nil))
				a.URL.Host = fmt.Sprintf("host-%d", a.Number)
				if a.Number > 1 {
					a.Password = fmt.Sprint(a.Number)
				}
				return nil
			}))
		b.Refuse(1, byte(mqtt.ServerUnavailable))
		b.Cut()
		time.Sleep(time.Minute)
		wantState(t, c, mqtt.StateConnected)
		want := []string{"1 test user:first false", "2 test user:first true", "3 test user:first true"}
		for i := range saw {
			saw[i] = strings.Replace(saw[i], "test:1883", "test", 1)
		}
		if !slices.Equal(saw, want) {
			t.Errorf("attempts %q, want %q", saw, want)
		}
		if want := []string{"host-1:1883", "host-2:1883", "host-3:1883"}; !slices.Equal(turns.dialed, want) {
			t.Errorf("dialled %q, want %q", turns.dialed, want)
		}
		sent.want(t, "user:first", "user:2", "user:3")
	})
}

// Failure.Server names the server that failed.
func TestFailureNamesServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		var asked failures
		reconnectingV5(t, network{"test": b}.dial, mqtt.WithServers("two"), mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: asked.decide}))
		b.Offline()
		time.Sleep(10 * time.Second)
		var got []string
		for _, f := range asked.take() {
			host, _, _ := strings.Cut(strings.TrimPrefix(f.Server, "mqtt://"), ":")
			got = append(got, host)
		}
		if len(got) < 4 || !slices.Equal(got[:4], []string{"test", "test", "two", "test"}) {
			t.Errorf("failures of %q", got)
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

// PROTOCOL 27: WithConnectRetry blocks until ctx ends, or until it is of no use.
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

// PROTOCOL 27: WithConnectInBackground returns at once and queues.
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

// pains.md: the end of a connection before CONNACK, at any attempt, never ends the client.
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

// PROTOCOL 24: five unstable connections in a row that end without a word are logged.
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

// PROTOCOL 24: a connection that ends otherwise is no sign of another client: the count begins anew.
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

// PROTOCOL 29: Reconnect drops the connection and returns at CONNACK: then the client is connected. Concurrent calls
// share an attempt; it cuts the backoff short; a failure is returned, and the client goes on.
func TestReconnect(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Hour, MaxDelay: time.Hour}))
		for range 100 {
			if err := c.Reconnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := c.State(); s != mqtt.StateConnected {
				t.Fatalf("after Reconnect the client is %v", s)
			}
			if err := c.Publish(t.Context(), "t", nil); err != nil {
				t.Fatal(err)
			}
		}
		var calls []*running[struct{}]
		for range 10 {
			calls = append(calls, startErr(func() error { return c.Reconnect(t.Context()) }))
		}
		for _, r := range calls {
			if err := r.wait(); err != nil {
				t.Error(err)
			}
		}
		if s := c.Stats(); s.Connects > 111 || s.Losses != 0 {
			t.Errorf("%+v", s)
		}
		b.Offline()
		wantState(t, c, mqtt.StateWaiting)
		began := time.Now()
		var e *mqtt.ConnectError
		if err := c.Reconnect(t.Context()); !errors.As(err, &e) {
			t.Errorf("offline: %v", err)
		}
		wantState(t, c, mqtt.StateWaiting)
		b.Online()
		if err := c.Reconnect(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("the backoff took %v", d)
		}
		c.Close()
		if err := c.Reconnect(t.Context()); !errors.Is(err, mqtt.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Reconnect during an attempt shares that one; ctx ends only the waiting.
func TestReconnectDuringAttempt(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		p.Cut()
		p.Script = p.server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](p.Script)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.client.Reconnect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		again := startErr(func() error { return p.client.Reconnect(t.Context()) })
		again.pending(t, "CONNACK has not come")
		p.Send(&codec.Connack{SessionPresent: true})
		if err := again.wait(); err != nil {
			t.Error(err)
		}
		p.wantSilence()
		if s := p.client.Stats(); s.Connects != 2 {
			t.Errorf("%+v", s)
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

// A client that has generated its identifier asks for its session, which does not exist: a session that began with Clean
// Start 1 is not written to disk by Mosquitto 2.0.11.
func TestGeneratedIdentifierAsksForItsSession(t *testing.T) {
	for name, c := range map[string]struct {
		opts  []mqtt.OptionV5
		clean bool
	}{
		"generated":             {nil, false},
		"given":                 {[]mqtt.OptionV5{mqtt.WithClientID("given")}, true},
		"assigned":              {[]mqtt.OptionV5{mqtt.WithClientID("")}, true},
		"clean start asked":     {[]mqtt.OptionV5{mqtt.WithCleanStart(true)}, true},
		"no session to be kept": {[]mqtt.OptionV5{mqtt.WithSessionExpiry(0)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t)
				connects := watch(b, func(p *codec.Connect) string { return fmt.Sprint(p.CleanStart) })
				dialV5(t, b.DialContext, c.opts...)
				if got := connects.take(); len(got) != 1 || got[0] != fmt.Sprint(c.clean) {
					t.Errorf("Clean Start is %v, want %v", got, c.clean)
				}
			})
		})
	}
	t.Run("3.1.1", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			connects := watch(b, func(p *codec.Connect) string { return fmt.Sprint(p.CleanStart) })
			dialAs(t, codec.V311, b.DialContext)
			if got := connects.take(); len(got) != 1 || got[0] != "true" {
				t.Errorf("Clean Session is %v", got)
			}
		})
	})
}

// A session under an identifier that was just generated is somebody else's: it is not taken, and ended at the next attempt.
func TestSessionOfAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		client := start(func() (mqtt.ClientV5, error) {
			c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithConnectRetry())
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return c, err
		})
		s := server.Accept()
		if p := mqtttest.ReceiveAs[*codec.Connect](s); p.CleanStart {
			t.Error("Clean Start 1 at the first attempt")
		}
		s.Send(&codec.Connack{SessionPresent: true})
		mqtttest.ReceiveAs[*codec.Disconnect](s)
		s = server.Accept()
		if p := mqtttest.ReceiveAs[*codec.Connect](s); !p.CleanStart {
			t.Error("Clean Start 0 at the second attempt")
		}
		s.Send(&codec.Connack{})
		client.value(t)
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

// A server that knows only MQTT 3.1.1 answers a CONNECT of MQTT 5 as it can.
func TestServerOfTheOldVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		client := start(func() (mqtt.ClientV5, error) {
			return mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext), mqtt.WithConnectRetry())
		})
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.SendBytes(0x20, 0x02, 0x00, 0x01)
		if err := client.wait(); !errors.Is(err, mqtt.UnsupportedProtocolVersion) || !strings.Contains(err.Error(), "NewClientV311") {
			t.Errorf("NewClient returns %v", err)
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
