package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Tests of when a client connects again, where, and with what. supervise_test.go has those of when it gives up.

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

// By default a connection is stable that lasts for MaxDelay and for twice the keep alive interval.
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

// Decide overrides both ways.
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

// Credentials are fetched for each attempt. A refusal of them is tried again then; an error of the function is
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

// Reconnect drops the connection and returns at CONNACK: then the client is connected. Concurrent calls
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
