package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// closer is a broker that answers the SUBSCRIBE for a filter by ending the connection: with DISCONNECT and that reason code,
// or without one if it is 0.
type closer struct {
	*mqtttest.Broker
	mu     sync.Mutex
	filter string // "": none
	code   codec.ReasonCode
	closed int // how often it did
}

func newCloser(t *testing.T, filter string, code codec.ReasonCode) *closer {
	b := &closer{Broker: mqtttest.NewBroker(t), filter: filter, code: code}
	ended := false // this connection
	b.Intercept(func(client string, outbound bool, p codec.Packet) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch p := p.(type) {
		case *codec.Connect:
			ended = false
		case *codec.Subscribe:
			if !ended && slices.ContainsFunc(p.Filters, func(f codec.SubscribeFilter) bool { return f.Filter == b.filter }) {
				ended = true
				b.closed++
				go b.end(client)
			}
		}
		return outbound || !ended // what comes behind the SUBSCRIBE is not read
	})
	return b
}

func (b *closer) end(client string) {
	if b.code != 0 {
		b.Kick(client, byte(b.code))
	} else {
		b.Cut(client)
	}
}

// close lets it close the connection over another filter from now on.
func (b *closer) close(filter string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.filter = filter
}

func (b *closer) losses() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// wantNamed checks that an error names the filter and says why the connection was lost.
func wantNamed(t *testing.T, err error, filter string, why error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("filter %q", filter)) || !errors.Is(err, why) {
		t.Errorf("the error does not name %q and %v: %v", filter, why, err)
	}
}

// A SUBSCRIBE that the server answers by closing the connection fails after some such losses, with an error that names the
// filter. Everything else lives: other subscriptions, those that wait at the same time, and every publish.
func TestSubscribeAnsweredByClosing(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		var log lines
		b := newCloser(t, "bad", 0)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithCleanStart(false), mqtt.WithClientID("c"),
			mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		ctx := context.Background()
		before := subscribe(t, c, "before", mqtt.AtLeastOnce)
		bad := start(func() (*mqtt.Subscription, error) {
			return c.Subscribe(ctx, "fine/1", mqtt.AtLeastOnce, mqtt.Also(mqtt.AtLeastOnce, "fine/2", "bad", "fine/3"))
		})
		synctest.Wait()
		meanwhile := start(func() (*mqtt.Subscription, error) { return c.Subscribe(ctx, "meanwhile", mqtt.AtLeastOnce) })
		for range 200 {
			time.Sleep(300 * time.Millisecond)
			noErr(t, c.Publish(ctx, "t", nil, mqtt.AtLeastOnce))
			noErr(t, c.Publish(ctx, "t", nil, mqtt.ExactlyOnce))
		}
		wantNamed(t, bad.wait(), "bad", mqtt.ErrConnectionLost)
		if n := b.losses(); n != 5 {
			t.Errorf("%d connections were lost", n)
		}
		during := meanwhile.value(t)
		synctest.Wait()
		b.Publish(text("before", "x", 1))
		b.Publish(text("meanwhile", "x", 1))
		wantArrived(t, before, "before=x q1")
		wantArrived(t, during, "meanwhile=x q1")
		for n := range 3 {
			b.Publish(text(fmt.Sprintf("fine/%d", n+1), "x", 1))
		}
		wantArrived(t, before)
		if s := c.Stats(); s.Unmatched > 0 || s.Received != 2 {
			t.Errorf("the other filters of the Subscribe were not given back: %+v", s)
		}
		if strings.Contains(log.String(), "another client") || !strings.Contains(log.String(), "filter=bad") {
			t.Errorf("the log:\n%s", &log)
		}
	})
}

// The same happens to a subscription that is made again: it ends.
func TestResubscribeAnsweredByClosing(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := newCloser(t, "", 0)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"))
		fine := subscribe(t, c, "fine", mqtt.AtLeastOnce)
		bad := subscribe(t, c, "bad", mqtt.AtLeastOnce, mqtt.Also(mqtt.AtLeastOnce, "bad/too"))
		again := subscribe(t, c, "bad", mqtt.AtMostOnce)
		b.close("bad")
		b.Forget("c")
		b.Cut("c")
		for _, s := range []*mqtt.Subscription{bad, again} {
			select {
			case <-s.Done():
			case <-time.After(10 * time.Minute):
				t.Fatal("a subscription lives")
			}
			wantNamed(t, s.Err(), "bad", mqtt.ErrConnectionLost)
		}
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce))
		synctest.Wait()
		b.Publish(text("fine", "x", 1))
		wantArrived(t, fine, "fine=x q1")
		if n := b.losses(); n != 5 {
			t.Errorf("%d connections were lost", n)
		}
		b.close("")
		subscribe(t, c, "bad", mqtt.AtLeastOnce)
	})
}

// When the filter is given up the next delay is a first one.
func TestSubscribeAnsweredByClosingDelays(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := newCloser(t, "bad", 0)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: 1e6 * time.Second, Factor: 1e6}))
		_, err := c.Subscribe(context.Background(), "bad")
		wantNamed(t, err, "bad", mqtt.ErrConnectionLost)
		began := time.Now()
		noErr(t, c.WaitConnected(context.Background()))
		if took := time.Since(began); took > time.Second {
			t.Errorf("connected again after %v", took)
		}
	})
}

// A SUBSCRIBE that is lost with its connection a few times is made all the same, and forgiven.
func TestSubscribeThroughLosses(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := newCloser(t, "t", 0)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"))
		for n := range 3 {
			sub := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), "t", mqtt.AtLeastOnce) })
			for b.losses() < 4*(n+1) {
				time.Sleep(time.Millisecond)
			}
			b.close("")
			noErr(t, sub.value(t).Unsubscribe(t.Context()))
			b.close("t")
		}
	})
}

// A DISCONNECT with Not authorized that comes while nothing but one SUBSCRIBE waits for an answer is the answer to it. While
// more waits, what it answers is found out. Without a SUBSCRIBE it ends the client.
func TestSubscribeAnsweredByDisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newCloser(t, "bad", codec.NotAuthorized)
		c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
		_, err := c.Subscribe(context.Background(), "bad")
		wantNamed(t, err, "bad", mqtt.NotAuthorized)
		if n := b.losses(); n != 1 {
			t.Errorf("%d connections were lost", n)
		}
		_, err = c.Subscribe(context.Background(), "fine", mqtt.Also(mqtt.AtMostOnce, "bad", "fine/2"))
		wantNamed(t, err, "bad", mqtt.NotAuthorized)
		if n := b.losses(); n > 4 {
			t.Errorf("%d connections were lost", n-1)
		}
		subscribeV5(t, c, "fine")
		b.Kick("c", byte(codec.NotAuthorized))
		<-c.Done()
		if err := c.Err(); !errors.Is(err, mqtt.NotAuthorized) {
			t.Error(err)
		}
	})
}

// Without a poison limit a SUBSCRIBE is sent again for ever.
func TestSubscribeAnsweredByClosingForEver(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := newCloser(t, "bad", 0)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"), mqtt.WithPoisonLimit(0))
		_, err := c.Subscribe(endingIn(t, time.Hour), "bad")
		if n := b.losses(); n < 20 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d losses: %v", n, err)
		}
	})
}
