package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// network is several servers by address.
type network map[string]dialer

func (n network) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(address)
	if d := n[host]; d != nil {
		return d.DialContext(ctx, kind, address)
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Servers are tried in turn; one that served an older session is asked for a clean start.
func TestServersInTurn(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		one, two := mqtttest.NewBroker(t), mqtttest.NewBroker(t)
		n := network{"test": one, "two": two}
		starts := func(b *mqtttest.Broker) *wires {
			return watch(b, func(p *codec.Connect) string { return fmt.Sprint(p.CleanStart) })
		}
		atOne, atTwo := starts(one), starts(two)
		c := reconnectingAs(t, v, n.dial, keptSession(v), mqtt.WithClientID("c"), mqtt.WithServers("none", "two"))
		first := fmt.Sprint(v == codec.V5)
		atOne.want(t, first)
		one.Cut()
		time.Sleep(time.Minute)
		atOne.want(t, "false") // it served the session that is current
		one.Offline()
		time.Sleep(time.Minute)
		wantState(t, c, mqtt.StateConnected)
		atTwo.want(t, "false") // it may share its sessions with the first
		one.Online()
		two.Offline()
		time.Sleep(10 * time.Minute)
		wantState(t, c, mqtt.StateConnected)
		atOne.want(t, "true") // the second had no session, and began a newer one
		two.Online()
		one.Offline()
		time.Sleep(10 * time.Minute)
		wantState(t, c, mqtt.StateConnected)
		atTwo.want(t, "true")
	})
}

// A server that is not the latest one may have a session from an earlier visit, which lacks newer subscriptions, also where the
// client believes that it has the current one: the CONNACK was lost that said otherwise.
func TestSubscriptionsOfOtherServer(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		one, two := mqtttest.NewBroker(t), mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, network{"test": one, "two": two}.dial, keptSession(v), mqtt.WithClientID("c"), mqtt.WithServers("two"))
		_, err := c.Subscribe(t.Context(), "a")
		noErr(t, err)
		two.Fault(mqtttest.Fault{Packet: "CONNACK", Outbound: true, Times: 1, Drop: true, Cut: true})
		one.Offline()
		noErr(t, two.AwaitSubscription(t.Context(), "a"))
		_, err = c.Subscribe(t.Context(), "b")
		noErr(t, err)
		one.Online()
		two.Offline()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		noErr(t, one.AwaitSubscription(ctx, "b"))
	})
}

// The same holds for servers that a function or a redirect leads to: one that served an older session is asked for a clean start.
func TestServersOfAttemptFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := mqtttest.NewBroker(t), mqtttest.NewBroker(t)
		host := "one"
		starts := watch(one, func(p *codec.Connect) string { return fmt.Sprint(p.CleanStart) })
		c := reconnectingV5(t, network{"one": one, "two": two}.dial, mqtt.WithClientID("c"),
			mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
				a.URL.Host = host
				return nil
			}))
		for range 2 {
			starts.want(t, "true")
			host = "two"
			one.Cut()
			time.Sleep(5 * time.Second)
			wantState(t, c, mqtt.StateConnected)
			host = "one"
			two.Cut()
			time.Sleep(10 * time.Second)
			wantState(t, c, mqtt.StateConnected)
		}
	})
}

// 0x9C holds for one attempt, 0x9D for ever; the scheme stays that of the server which says so.
// [MQTT-3.2.2.3.16] [MQTT-4.11]
func TestRedirect(t *testing.T) {
	for _, code := range []codec.ReasonCode{codec.UseAnotherServer, codec.ServerMoved} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old, other := mqtttest.NewServer(t, codec.V5), mqtttest.NewServer(t, codec.V5)
				turns := &turns{now: network{"test": old, "other": other}.dial}
				c := start(func() (mqtt.ClientV5, error) { return reconnectingV5(t, turns.dial), nil })
				s := old.Accept()
				mqtttest.ReceiveAs[*codec.Connect](s)
				s.Send(&codec.Connack{Code: code, Properties: codec.ConnackProperties{ServerReference: "user@third other:99 fourth"}})
				s = other.Accept()
				mqtttest.ReceiveAs[*codec.Connect](s)
				s.Send(&codec.Connack{})
				c.value(t)
				s.Cut()
				next := old
				if code == codec.ServerMoved {
					next = other
				}
				s = next.Accept()
				mqtttest.ReceiveAs[*codec.Connect](s)
				s.Send(&codec.Connack{})
				synctest.Wait()
				s.Send(&codec.Disconnect{Code: code, ServerReference: "other"}) // and in a DISCONNECT
				s = other.Accept()
				mqtttest.ReceiveAs[*codec.Connect](s)
				if !slices.Contains(turns.dialed, "other:99") || !slices.Contains(turns.dialed, "other:1883") {
					t.Errorf("dialled %q", turns.dialed)
				}
			})
		})
	}
}

// A redirect keeps the scheme of the server that redirects, never that of the next in turn.
func TestRedirectKeepsScheme(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		var urls []string
		attempts := mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
			urls = append(urls, a.URL.String())
			return nil
		})
		start(func() (mqtt.ClientV5, error) {
			c, err := mqtt.NewClient(t.Context(), "mqtt://one", mqtt.WithServers("mqtts://two"), mqtt.WithDialer(server.DialContext), attempts)
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
			return c, err
		})
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{Code: codec.UseAnotherServer, Properties: codec.ConnackProperties{ServerReference: "three"}})
		s = server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{})
		synctest.Wait()
		if len(urls) != 2 || !strings.HasPrefix(urls[1], "mqtt://three") {
			t.Errorf("attempts %q", urls)
		}
	})
}

// Five redirects without a stable connection are followed, the next is an ordinary failure;
// WithoutRedirect follows none.
func TestRedirectLimits(t *testing.T) {
	for _, limit := range []int{0, 5} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
				if ack, ok := p.(*codec.Connack); ok {
					ack.Code, ack.SessionPresent = codec.UseAnotherServer, false
					ack.Properties = codec.ConnackProperties{ServerReference: "other"}
				}
				return true
			})
			opts := []mqtt.OptionV5{mqtt.WithDialer(b.DialContext)}
			if limit == 0 {
				opts = append(opts, mqtt.WithoutRedirect())
			}
			sent := watch(b, func(*codec.Connect) string { return "CONNECT" })
			c, err := mqtt.NewClient(t.Context(), "mqtt://test", opts...)
			var e *mqtt.ConnectError
			if !errors.As(err, &e) || e.Code != mqtt.UseAnotherServer || e.ServerReference != "other" {
				t.Errorf("%v, %v", c, err)
			}
			if n := len(sent.take()); n != limit+1 {
				t.Errorf("%d attempts, want %d", n, limit+1)
			}
		})
	}
}

// A redirect keeps path and query, which a Server Reference has no place for.
func TestRedirectKeepsPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		redirected := false
		b.Intercept(func(_ string, _ bool, p codec.Packet) bool {
			if ack, ok := p.(*codec.Connack); ok && !redirected {
				redirected = true
				*ack = codec.Connack{Code: codec.UseAnotherServer, Properties: codec.ConnackProperties{ServerReference: "two:81"}}
			}
			return true
		})
		var urls []string
		c, err := mqtt.NewClient(t.Context(), "ws://one/way?key=x", mqtt.WithDialer(b.DialWS),
			mqtt.WithAttemptFunc(func(_ context.Context, a *mqtt.Attempt) error {
				urls = append(urls, a.URL.String())
				return nil
			}))
		noErr(t, err)
		noErr(t, c.Close())
		if len(urls) != 2 || urls[1] != "ws://two:81/way?key=x" {
			t.Errorf("attempts %q", urls)
		}
	})
}

// After a stable connection redirects are counted anew.
func TestRedirectsAfterAStableConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		var left atomic.Int32
		b.Intercept(func(_ string, _ bool, p codec.Packet) bool {
			if ack, ok := p.(*codec.Connack); ok && left.Add(-1) >= 0 {
				*ack = codec.Connack{Code: codec.UseAnotherServer, Properties: codec.ConnackProperties{ServerReference: "other"}}
			}
			return true
		})
		var asked failures
		left.Store(5)
		c := reconnectingV5(t, b.DialContext, mqtt.WithReconnect(mqtt.ReconnectPolicy{Decide: asked.decide}))
		for range 3 {
			time.Sleep(time.Hour)
			wantState(t, c, mqtt.StateConnected)
			asked.take()
			left.Store(5)
			b.Cut()
			time.Sleep(time.Minute)
			wantState(t, c, mqtt.StateConnected)
			if list := asked.take(); len(list) != 1 || !errors.Is(list[0].Err, mqtt.ErrConnectionLost) {
				t.Errorf("failures %+v", list)
			}
		}
	})
}

// A server that was named for good and cannot be reached is given up after some attempts.
func TestMovedToADeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		moved := b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if ack, ok := p.(*codec.Connack); ok {
				ack.Code, ack.SessionPresent = codec.ServerMoved, false
				ack.Properties = codec.ConnackProperties{ServerReference: "dead"}
			}
			return true
		})
		var dialed []string
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(address)
			dialed = append(dialed, host)
			if host == "dead" {
				moved()
				return nil, errors.New("no route to host")
			}
			return b.DialContext(ctx, network, address)
		}
		c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(dial), mqtt.WithConnectRetry())
		noErr(t, err)
		defer c.Close()
		if got := strings.Join(dialed, " "); got != "test dead dead dead dead dead test" && got != "test dead dead dead dead test" {
			t.Errorf("dialed are %s", got)
		}
	})
}
