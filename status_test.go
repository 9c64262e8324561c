package mqtt_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Ready says in words what is missing.
func TestReady(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		defer func() { p.client.Close() }()
		noErr(t, p.client.Ready())
		sub := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(t.Context(), "a/#") })
		subscribe := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		wantNotReady(t, p.client, `subscription "a/#" is not granted yet`)
		p.Send(granted(subscribe))
		s := sub.value(t)
		synctest.Wait()
		noErr(t, p.client.Ready())
		if !s.Active() {
			t.Error("the subscription is not active")
		}
		p.renew() // the server has lost the session, and does not answer
		again := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		wantNotReady(t, p.client, `subscription "a/#" is not granted yet`)
		if s.Active() || p.client.State() != mqtt.StateConnected {
			t.Errorf("active %v, state %v", s.Active(), p.client.State())
		}
		p.Send(granted(again))
		synctest.Wait()
		noErr(t, p.client.Ready())
		p.client.Close()
		wantNotReady(t, p.client, "the client has ended")
	})
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, codec.V5, b.DialContext, mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Second}))
		b.Offline()
		lost := time.Now()
		time.Sleep(time.Minute)
		wantNotReady(t, c, "not connected since "+lost.UTC().Format(time.RFC3339))
		if s := c.Status(); s.State == mqtt.StateConnected || !s.Since.Equal(lost) || s.Failed < 30 || s.LastErr == nil {
			t.Errorf("%+v", s)
		}
		b.Online()
		time.Sleep(time.Minute)
		if s := c.Status(); s.State != mqtt.StateConnected || s.Failed != 0 || s.Since.Before(lost.Add(time.Minute)) {
			t.Errorf("%+v", s)
		}
	})
}

func wantNotReady(t *testing.T, c mqtt.Client, words string) {
	t.Helper()
	synctest.Wait()
	if err := c.Ready(); err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("Ready says %v, want %q", err, words)
	}
}
