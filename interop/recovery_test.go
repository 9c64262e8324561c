package interop

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// A pulled cable sends no FIN and no RST. The client notices by its keep alive, within that and the ping timeout, and
// recovers; so it does when only one direction is dead, and when it only publishes or only receives.
func TestCableCut(t *testing.T) {
	server := startMosquitto(t)
	for name, swallowing := range map[string]hole{"both": {true, true}, "up": {up: true}, "down": {down: true}} {
		for _, v := range versions {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				t.Parallel()
				ctx := within(t)
				p := startProxy(t, server.port)
				id := "cable-" + name + v.name
				c, err := v.connect(ctx, p.url(), quickly, mqtt.WithClientID(id), mqtt.WithCleanStart(false), mqtt.WithConnectRetry(),
					mqtt.WithKeepAlive(time.Second), mqtt.WithPingTimeout(time.Second), mqtt.WithConnectTimeout(2*time.Second))
				check(t, err)
				defer c.Close()
				sub, err := c.Subscribe(ctx, id, mqtt.AtLeastOnce)
				check(t, err)
				p.dig(swallowing)
				cut := time.Now()
				lost := c.PublishAsync(ctx, id, []byte("0"), mqtt.AtLeastOnce)
				for c.Stats().Losses == 0 && ctx.Err() == nil {
					time.Sleep(10 * time.Millisecond)
				}
				// The last byte that counts as life may be up to two keep alive intervals old. The rest is for a busy machine:
				// nothing else tells the client.
				if took := time.Since(cut); took > patience/4 {
					t.Errorf("it takes %v to notice", took)
				}
				p.dig(hole{})
				check(t, lost.Wait(ctx))
				receiveAll(t, ctx, sub, 1)
				check(t, c.Disconnect(ctx))
			})
		}
	}
}

// hole says in which direction a proxy swallows all bytes.
type hole struct{ up, down bool }

// A Mosquitto that is killed comes back with the session, but with an older snapshot of it that has not got the
// subscription. The client makes it again all the same.
func TestServerKilledWithAnOlderSnapshot(t *testing.T) {
	folder := t.TempDir()
	server := startMosquitto(t, "persistence true", "persistence_location "+folder+"/")
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url(), quickly, mqtt.WithClientID("older"), mqtt.WithCleanStart(false), mqtt.WithSessionExpiry(time.Hour))
	check(t, err)
	defer c.Close()
	check(t, server.cmd.Process.Signal(syscall.SIGUSR1)) // write the snapshot
	for {
		if f, err := os.Stat(filepath.Join(folder, "mosquitto.db")); err == nil && f.Size() > 0 {
			break
		}
		check(t, ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
	sub, err := c.Subscribe(ctx, "a", mqtt.AtLeastOnce)
	check(t, err)
	server.kill()
	server.start()
	for c.Stats().Connects < 2 {
		check(t, ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
	check(t, c.WaitConnected(ctx))
	if !c.SessionPresent() {
		t.Fatal("the server has not kept the session: the test shows nothing")
	}
	check(t, c.Publish(ctx, "a", []byte("0"), mqtt.AtLeastOnce))
	receiveAll(t, ctx, sub, 1)
}

// Two clients with one identifier throw each other out, and Mosquitto does not say why. Their attempts settle at
// MaxDelay, and the log says what it looks like.
func TestTwinsSettleAtMaxDelay(t *testing.T) {
	server := startMosquitto(t)
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			ctx := within(t)
			log := new(lineWriter)
			var mu sync.Mutex
			var delays []time.Duration
			policy := mqtt.ReconnectPolicy{
				InitialDelay: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond,
				Decide: func(_ context.Context, f mqtt.Failure) (time.Duration, error) {
					mu.Lock()
					defer mu.Unlock()
					delays = append(delays, f.Delay)
					return f.Delay, nil // also where the server says that another client has taken over
				},
			}
			opts := []mqtt.Option{mqtt.WithClientID("twin"), mqtt.WithReconnect(policy), mqtt.WithLogger(slog.New(slog.NewTextHandler(log, nil)))}
			for range 2 {
				c, err := v.connect(ctx, server.url(), opts...)
				check(t, err)
				defer c.Close()
			}
			settled := func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(delays) >= 30
			}
			for !settled() {
				check(t, ctx.Err())
				time.Sleep(10 * time.Millisecond)
			}
			if !strings.Contains(strings.Join(log.lines(), "\n"), "does another client use this client identifier?") {
				t.Errorf("the log says\n%v", log.lines())
			}
			mu.Lock()
			defer mu.Unlock()
			for _, d := range delays[20:] {
				if d != policy.MaxDelay {
					t.Errorf("the delays are %v, the last ten not all %v", delays, policy.MaxDelay)
					break
				}
			}
		})
	}
}
