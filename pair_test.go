package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// What the tests of clients that connect again share.

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

// keptSession is what asks for a session that outlives a connection, in either version.
func keptSession(v codec.Version) mqtt.Options {
	if v == codec.V311 {
		return mqtt.Options{mqtt.WithCleanStart(false)}
	}
	return nil
}

// pair is a client and the scripted server that it connects to, again and again.
type pair struct {
	*mqtttest.Script
	t      *testing.T
	server *mqtttest.Server
	client mqtt.Client
}

// newPair makes a client whose session is kept, and answers its first CONNECT.
func newPair(t *testing.T, v codec.Version, opts ...mqtt.Option) *pair {
	t.Helper()
	p := &pair{t: t, server: mqtttest.NewServer(t, v)}
	opts = append([]mqtt.Option{keptSession(v)}, opts...)
	c := start(func() (mqtt.Client, error) { return reconnectingAs(t, v, p.server.DialContext, opts...), nil })
	p.accept(&codec.Connack{})
	p.client = c.value(t)
	return p
}

// accept answers the next CONNECT and returns it.
func (p *pair) accept(ack *codec.Connack) *codec.Connect {
	p.t.Helper()
	p.Script = p.server.Accept()
	p.Patience(5 * time.Minute) // which only a failing test waits for
	connect := mqtttest.ReceiveAs[*codec.Connect](p.Script)
	p.Send(ack)
	return connect
}

// resume cuts the connection; the server has kept the session.
func (p *pair) resume() *codec.Connect {
	p.t.Helper()
	p.Cut()
	return p.accept(&codec.Connack{SessionPresent: true})
}

// renew cuts the connection; the server has lost the session.
func (p *pair) renew() *codec.Connect {
	p.t.Helper()
	p.Cut()
	return p.accept(&codec.Connack{})
}

// offline cuts the connection and waits until the client knows.
func (p *pair) offline() {
	p.Cut()
	synctest.Wait()
}

func (p *pair) publish(topic string, qos mqtt.QoS) *mqtt.Delivery {
	p.t.Helper()
	return p.client.PublishAsync(p.t.Context(), topic, []byte("payload of "+topic), qos)
}

// wantPackets compares the packets that come next.
func (p *pair) wantPackets(want ...string) {
	p.t.Helper()
	for _, w := range want {
		if got := brief(p.Receive()); got != w {
			p.t.Fatalf("the client sends %s, want %s", got, w)
		}
	}
}

func (p *pair) wantSilence() {
	p.t.Helper()
	p.ExpectSilence(time.Second)
}

// brief says of a packet what these tests look at.
func brief(packet codec.Packet) string {
	switch p := packet.(type) {
	case *codec.Publish:
		s := fmt.Sprintf("PUBLISH %d %s q%d", p.PacketID, p.Topic, p.QoS)
		if p.Dup {
			s += " dup"
		}
		return s
	case *codec.Puback:
		return fmt.Sprintf("PUBACK %d", p.PacketID)
	case *codec.Pubrec:
		return fmt.Sprintf("PUBREC %d", p.PacketID)
	case *codec.Pubrel:
		return fmt.Sprintf("PUBREL %d", p.PacketID)
	case *codec.Pubcomp:
		return fmt.Sprintf("PUBCOMP %d", p.PacketID)
	case *codec.Subscribe:
		var filters []string
		for _, f := range p.Filters {
			filters = append(filters, fmt.Sprintf("%s q%d rh%d", f.Filter, f.QoS, f.RetainHandling))
		}
		return "SUBSCRIBE " + strings.Join(filters, ", ")
	case *codec.Unsubscribe:
		return fmt.Sprintf("UNSUBSCRIBE %s", strings.Join(p.Filters, ", "))
	}
	return packet.Type().String()
}

// wantFate waits for a delivery and compares its error.
func wantFate(t *testing.T, d *mqtt.Delivery, want error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Wait(ctx); !errors.Is(err, want) {
		t.Errorf("the delivery ends with %v, want %v", err, want)
	}
}

// wantOpen fails the test if the fate of a delivery is known.
func wantOpen(t *testing.T, deliveries ...*mqtt.Delivery) {
	t.Helper()
	synctest.Wait()
	for i, d := range deliveries {
		select {
		case <-d.Done():
			t.Errorf("delivery %d is done: %v", i, d.Err())
		default:
		}
	}
}

// wantState compares the state once nothing moves any more.
func wantState(t *testing.T, c mqtt.Lifecycle, want mqtt.State) {
	t.Helper()
	synctest.Wait()
	if got := c.State(); got != want {
		t.Errorf("the client is %v, want %v", got, want)
	}
}

// wantEnd fails the test unless the client ends, within a virtual hour, with such an error.
func wantEnd(t *testing.T, c mqtt.Lifecycle, want error) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(time.Hour):
		t.Errorf("the client is %v, and does not end", c.State())
		return
	}
	if err := c.Err(); !errors.Is(err, want) {
		t.Errorf("the client ends with %v, want %v", err, want)
	}
	if err := c.WaitConnected(t.Context()); !errors.Is(err, want) {
		t.Errorf("WaitConnected returns %v, want %v", err, want)
	}
	wantState(t, c, mqtt.StateClosed)
}

// failures notes what Decide is asked, and lets the policy decide.
type failures struct {
	mu   sync.Mutex
	list []mqtt.Failure
}

func (l *failures) decide(_ context.Context, f mqtt.Failure) (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, f)
	if f.Permanent {
		return 0, f.Err
	}
	return f.Delay, nil
}

func (l *failures) take() []mqtt.Failure {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}
