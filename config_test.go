package mqtt_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

// Without WithClientID a client makes an identifier up, of its own.
func TestConnectMakesUpClientID(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		seen := map[string]bool{}
		broker := mqtttest.NewBroker(t)
		for range 3 {
			c, _, err := dialClient(t.Context(), v, broker.DialContext)
			noErr(t, err)
			defer c.Close()
			if id := c.ClientID(); len(id) < 20 || seen[id] {
				t.Errorf("client identifier %q", id)
			}
			seen[c.ClientID()] = true
		}
	})
}

// Credentials of the URL, and of WithCredentials and WithUsername, which replace them.
func TestConnectCredentials(t *testing.T) {
	for _, c := range []struct {
		url            string
		opts           []mqtt.OptionV5
		has, hasPw     bool
		user, password string
	}{
		{url: "mqtt://test"},
		{url: "mqtt://u@test", has: true, user: "u"},
		{url: "mqtt://u:p@test", has: true, user: "u", hasPw: true, password: "p"},
		{url: "mqtt://u%40x:p%2F%3A@test:7", has: true, user: "u@x", hasPw: true, password: "p/:"},
		{url: "mqtt://u:@test", has: true, user: "u", hasPw: true},
		{url: "mqtt://:p@test", has: true, hasPw: true, password: "p"},
		{url: "mqtt://u:p@test", opts: []mqtt.OptionV5{mqtt.WithCredentials("", "q")}, has: true, hasPw: true, password: "q"},
		{url: "mqtt://u:p@test", opts: []mqtt.OptionV5{mqtt.WithUsername("token")}, has: true, user: "token"},
	} {
		t.Run(c.url, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := mqtttest.NewServer(t, codec.V5)
				result := calling(func() error {
					_, err := mqtt.NewClient(t.Context(), c.url, append(c.opts, mqtt.WithDialer(server.DialContext))...)
					return err
				})
				s := server.Accept()
				got := mqtttest.ReceiveAs[*codec.Connect](s)
				if got.HasUsername != c.has || got.HasPassword != c.hasPw || got.Username != c.user || string(got.Password) != c.password {
					t.Errorf("CONNECT %+v", got)
				}
				s.Send(&codec.Connack{Code: codec.BadUserNameOrPassword})
				err := outcome(t, result)
				wantErr(t, err, mqtt.BadUserNameOrPassword, false)
				if c.hasPw && len(c.password) > 1 && strings.Contains(err.Error(), c.password) {
					t.Errorf("the error tells the password: %v", err)
				}
			})
		})
	}
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

// What contradicts a store is refused.
func TestStoreOptions(t *testing.T) {
	for name, opts := range map[string]mqtt.Options{
		"nil":         {mqtt.WithStore(nil)},
		"clean start": {mqtt.WithStore(new(storetest.Memory)), mqtt.WithCleanStart(true)},
		"no queue":    {mqtt.WithStore(new(storetest.Memory)), mqtt.WithQueue(0, 0)},
		"servers":     {mqtt.WithStore(new(storetest.Memory)), mqtt.WithServers("mqtt://other")},
	} {
		if _, err := mqtt.NewClient(t.Context(), "mqtt://127.0.0.1:1", opts); err == nil || errors.As(err, new(*mqtt.ConnectError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := mqtt.NewClient(t.Context(), "mqtt://127.0.0.1:1", mqtt.WithStore(new(storetest.Memory)), mqtt.WithSessionExpiry(0))
	if err == nil || errors.As(err, new(*mqtt.ConnectError)) {
		t.Error(err)
	}
}
