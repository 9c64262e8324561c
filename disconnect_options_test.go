package mqtt_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// [MQTT-3.14.2-1] [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.14.2.2.2]: what DISCONNECT says.
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
