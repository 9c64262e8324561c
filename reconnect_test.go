package mqtt_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// turns is a dialer that can be pointed at another peer.
type turns struct {
	mu     sync.Mutex
	now    dialFunc
	dialed []string // addresses
}

type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

func newTurns(d dialer) *turns { return &turns{now: d.DialContext} }

func (s *turns) to(d dialer) { s.via(d.DialContext) }

func (s *turns) via(dial dialFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = dial
}

func (s *turns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	dial := s.now
	s.dialed = append(s.dialed, address)
	s.mu.Unlock()
	return dial(ctx, network, address)
}

// reconnectingV5 makes a client that connects again and lives until the test ends.
func reconnectingV5(t *testing.T, dial dialFunc, opts ...mqtt.OptionV5) mqtt.ClientV5 {
	t.Helper()
	c, err := mqtt.NewClient(t.Context(), "mqtt://test", append(opts, mqtt.WithDialer(dial))...)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// reconnectingAs is reconnectingV5 for either version.
func reconnectingAs(t *testing.T, v codec.Version, dial dialFunc, opts ...mqtt.Option) mqtt.Client {
	t.Helper()
	if v == codec.V5 {
		return mqtt.Common(reconnectingV5(t, dial, mqtt.Options(opts)))
	}
	c, err := mqtt.NewClientV311(t.Context(), "mqtt://test", append(opts, mqtt.WithDialer(dial))...)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { c.Close() })
	return c
}
