package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// proxy passes connections on to a server, until it is told to cut them.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	down  bool
	hole  hole
	conns []net.Conn
}

func startProxy(t *testing.T, port int) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	p := &proxy{listener: l, target: fmt.Sprintf("127.0.0.1:%d", port)}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut()
		done.Wait()
	})
	return p
}

func (p *proxy) url() string { return "mqtt://" + p.listener.Addr().String() }

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	down := p.down
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	if down {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client, func(h hole) bool { return h.up }) })
	both.Go(func() { p.pass(client, server, func(h hole) bool { return h.down }) })
	both.Wait()
}

// pass passes bytes on until the source ends, but for those that disappear in the hole. Who has lost some has lost the
// connection: nothing comes through any more, and no end either, until cut.
func (p *proxy) pass(dst, src net.Conn, swallows func(hole) bool) {
	buffer := make([]byte, 32<<10)
	swallowed := false
	for {
		n, err := src.Read(buffer)
		p.mu.Lock()
		swallowed = swallowed || swallows(p.hole)
		p.mu.Unlock()
		if err == nil && !swallowed {
			_, err = dst.Write(buffer[:n])
		}
		if err != nil {
			break
		}
	}
	if swallowed {
		return
	}
	dst.Close()
	src.Close()
}

// dig lets bytes disappear from now on.
func (p *proxy) dig(h hole) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = h
}

// cut breaks all connections, and those to come until mend.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// quickly reconnects without the patience of the default.
var quickly = mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 20 * time.Millisecond, MaxDelay: 100 * time.Millisecond})

// 50 of 50 messages that others publish at QoS 1 and 2 during a cut of 300 ms arrive, and so do 50 of 50 that the cut
// client publishes itself.
func TestNothingIsLostInACut(t *testing.T) { eachServer(t, testNothingIsLostInACut) }

func testNothingIsLostInACut(t *testing.T, server anyServer) {
	const messages = 50
	for _, v := range versions {
		for _, qos := range levels[1:] {
			t.Run(fmt.Sprintf("%s/%v", v.name, qos), func(t *testing.T) {
				ctx := within(t)
				p := startProxy(t, server.port)
				id := fmt.Sprintf("cut-%s-%d", v.name, qos)
				cut, err := v.connect(ctx, p.url(), quickly, mqtt.WithClientID(id), mqtt.WithCleanStart(false))
				check(t, err)
				defer cut.Close()
				other, err := v.connect(ctx, server.url())
				check(t, err)
				defer other.Close()
				in, err := cut.Subscribe(ctx, "in/"+id, qos)
				check(t, err)
				out, err := other.Subscribe(ctx, "out/"+id, qos)
				check(t, err)
				if server.mochi { // its packet identifiers and ours must not meet
					for range 200 {
						check(t, cut.Publish(ctx, "aside", nil, mqtt.AtLeastOnce))
					}
				}

				p.cut()
				mended := time.AfterFunc(300*time.Millisecond, p.mend)
				defer mended.Stop()
				var wait sync.WaitGroup
				defer wait.Wait()
				for _, from := range []struct {
					client mqtt.Client
					topic  string
				}{{other, "in/" + id}, {cut, "out/" + id}} {
					wait.Go(func() {
						for i := range messages {
							if err := from.client.Publish(ctx, from.topic, fmt.Append(nil, i), qos); err != nil {
								t.Errorf("publishing %d to %s: %v", i, from.topic, err)
							}
						}
					})
				}
				if server.mochi { // it sends again in any order
					receiveSet(t, ctx, in, messages)
				} else {
					receiveAll(t, ctx, in, messages)
				}
				receiveAll(t, ctx, out, messages)
				wait.Wait()
				if s := cut.Stats(); s.Connects < 2 || s.Losses < 1 {
					t.Errorf("the cut was not noticed: %+v", s)
				}
			})
		}
	}
}

// receiveAll receives messages numbered from 0, in order; one that comes again, at QoS 1, is passed over.
func receiveAll(t *testing.T, ctx context.Context, sub *mqtt.Subscription, n int) {
	t.Helper()
	for i := 0; i < n; {
		m, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", i, n, err)
		}
		switch got := string(m.Payload); {
		case got == fmt.Sprint(i):
			i++
		case m.QoS == mqtt.AtLeastOnce && m.Duplicate:
		default:
			t.Fatalf("message %q, want %d", got, i)
		}
	}
}

// receiveSet receives messages numbered from 0, in any order and, at QoS 1, more than once.
func receiveSet(t *testing.T, ctx context.Context, sub *mqtt.Subscription, n int) {
	t.Helper()
	got := make(map[string]bool)
	for len(got) < n {
		m, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(got), n, err)
		}
		if got[string(m.Payload)] && m.QoS == mqtt.ExactlyOnce {
			t.Errorf("message %q comes twice", m.Payload)
		}
		got[string(m.Payload)] = true
	}
}

// persistent keeps its sessions on disk.
func persistent(t *testing.T, lines ...string) *mosquitto {
	return startMosquitto(t, append(lines, "persistence true", "persistence_location "+t.TempDir()+"/")...)
}

// A server that is stopped with SIGTERM and started again loses nothing at QoS 1 and 2, while both ends publish.
func TestServerRestart(t *testing.T) {
	const messages = 200
	for _, v := range versions {
		for _, qos := range levels[1:] {
			t.Run(fmt.Sprintf("%s/%v", v.name, qos), func(t *testing.T) {
				t.Parallel()
				server := persistent(t)
				ctx := within(t)
				c, err := v.connect(ctx, server.url(), quickly, mqtt.WithCleanStart(false), mqtt.WithClientID("restart"))
				check(t, err)
				defer c.Close()
				sub, err := c.Subscribe(ctx, "a", qos)
				check(t, err)
				var wait sync.WaitGroup
				wait.Go(func() {
					for i := range messages {
						if err := c.Publish(ctx, "a", fmt.Append(nil, i), qos); err != nil {
							t.Errorf("publishing %d: %v", i, err)
						}
						if i == messages/2 {
							server.stop(syscall.SIGTERM)
							server.start()
						}
					}
				})
				receiveAll(t, ctx, sub, messages)
				wait.Wait()
			})
		}
	}
}

// A server that is killed may forget what it had acknowledged, and the session; nothing else is lost, and the client
// recovers by itself, subscriptions included.
func TestServerKilledAndRestarted(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			server := persistent(t)
			ctx := within(t)
			c, err := v.connect(ctx, server.url(), quickly, mqtt.WithCleanStart(false), mqtt.WithClientID("killed"))
			check(t, err)
			defer c.Close()
			sub, err := c.Subscribe(ctx, "a", mqtt.AtLeastOnce)
			check(t, err)
			server.kill()
			unsent := c.PublishAsync(ctx, "a", []byte("while down"), mqtt.AtLeastOnce)
			if err := c.Publish(ctx, "a", nil); !errors.Is(err, mqtt.ErrNotConnected) && !errors.Is(err, mqtt.ErrConnectionLost) {
				// The loss may not have been noticed yet; then the message is handed to a connection that is dead.
				t.Logf("QoS 0 while the server is down: %v", err)
			}
			server.start()
			check(t, unsent.Wait(ctx))
			check(t, c.Publish(ctx, "a", []byte("after"), mqtt.AtLeastOnce))
			for got := ""; got != "after"; {
				got = next(t, ctx, sub)
			}
		})
	}
}
