package mqtt_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
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

// diary is what hooks tell, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// want compares with what was noted since the last call.
func (d *diary) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.lines, want) {
		t.Errorf("noted:\n%s\nwant:\n%s", strings.Join(d.lines, "\n"), strings.Join(want, "\n"))
	}
	d.lines = nil
}

// trace returns hooks that write into the diary, all but Packet.
func (d *diary) trace() *mqtt.Trace {
	return &mqtt.Trace{
		ConnectStart: func(server string, attempt int) { d.note("%d: connecting to %s", attempt, server) },
		ConnectDone:  func(_ string, attempt int, err error) { d.note("%d: connected: %v", attempt, err == nil) },
		Disconnected: func(err error) {
			d.note("lost: %v, closed: %v", errors.Is(err, mqtt.ErrConnectionLost), errors.Is(err, mqtt.ErrClosed))
		},
		Retrying: func(f mqtt.Failure, delay time.Duration) {
			d.note("again after %d, as it says: %v", f.Attempts, delay == f.Delay)
		},
		StateChanged: func(from, to mqtt.State) { d.note("%v -> %v", from, to) },
		Dropped:      func(s *mqtt.Subscription, m mqtt.Message) { d.note("%s drops %s", s.Filters()[0].Filter, m.Payload) },
		Stalled: func(s *mqtt.Subscription, since time.Time) {
			d.note("%s stalls for %v", s.Filters()[0].Filter, time.Since(since).Round(time.Second))
		},
	}
}

// The hooks tell the life of a client in order. They may call it.
func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		b := mqtttest.NewBroker(t)
		c, err := mqtt.NewClient(t.Context(), "mqtt://user:secret@test", mqtt.WithDialer(b.DialContext), mqtt.WithTrace(d.trace()))
		if err != nil {
			t.Fatal(err)
		}
		b.Refuse(1, byte(mqtt.ServerBusy))
		b.Cut()
		noErr(t, c.WaitConnected(t.Context()))
		time.Sleep(time.Minute)
		noErr(t, c.WaitConnected(t.Context()))
		noErr(t, c.Disconnect(t.Context()))
		server := "connecting to mqtt://***@test"
		d.want(t,
			"1: "+server, "1: connected: true", "connecting -> connected",
			"lost: true, closed: false", "connected -> waiting", "again after 1, as it says: true",
			"waiting -> connecting", "2: "+server, "2: connected: false", "again after 2, as it says: true", "connecting -> waiting",
			"waiting -> connecting", "3: "+server, "3: connected: true", "connecting -> connected",
			"connected -> disconnecting", "lost: false, closed: true", "disconnecting -> closed")
	})
}

// The hooks, Stats and the log name who holds up the others, and what is dropped.
func TestTraceOfSlowConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		var log strings.Builder
		b := mqtttest.NewBroker(t)
		trace := &mqtt.Trace{Dropped: d.trace().Dropped, Stalled: d.trace().Stalled}
		c := dialV5(t, b.DialContext, mqtt.WithTrace(trace), mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		subscribeV5(t, c, "fast", mqtt.AtLeastOnce)
		subscribeV5(t, c, "slow", mqtt.AtLeastOnce, mqtt.Buffer(2))
		if s := c.Stats(); s.HeldBy != nil || s.HeldFor != 0 {
			t.Errorf("held up by %v for %v", s.HeldBy, s.HeldFor)
		}
		for n := range 4 {
			b.Publish(text("slow", fmt.Sprint("q1 ", n), 1))
		}
		for n := range 6 {
			b.Publish(text("slow", fmt.Sprint("q0 ", n), 0))
		}
		b.Publish(text("fast", "held up", 1))
		time.Sleep(15 * time.Second)
		if s := c.Stats(); len(s.HeldBy) != 1 || s.HeldBy[0].Filter != "slow" || s.HeldFor != 15*time.Second {
			t.Errorf("held up by %v for %v", s.HeldBy, s.HeldFor)
		}
		c.Close()
		d.want(t, "slow drops q0 0", "slow drops q0 1", "slow drops q0 2", "slow drops q0 3", "slow stalls for 10s")
		if !strings.Contains(log.String(), "filter=slow") {
			t.Errorf("the log says %q", log.String())
		}
	})
}

// A hook that blocks holds up only the other hooks and Close.
func TestTraceHookThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		hold := make(chan struct{})
		c := reconnectingV5(t, b.DialContext, mqtt.WithTrace(&mqtt.Trace{
			ConnectDone: func(string, int, error) { <-hold },
			Dropped:     func(*mqtt.Subscription, mqtt.Message) { <-hold },
		}))
		sub := subscribeV5(t, c, "t", mqtt.Buffer(1))
		for range 5000 {
			b.Publish(text("t", "", 0))
		}
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.ExactlyOnce))
		b.Cut()
		noErr(t, c.Reconnect(t.Context()))
		if sub.Dropped() < 4990 {
			t.Errorf("dropped %d", sub.Dropped())
		}
		closing := calling(c.Close)
		stillWaits(t, closing)
		close(hold)
		noErr(t, outcome(t, closing))
	})
}

// Packet shows each packet in both directions, decoded, without secrets.
func TestTracePackets(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		var d diary
		b := mqtttest.NewBroker(t, mqtttest.Fragment(3))
		show := func(p mqtt.PacketTrace) {
			arrow := "<-"
			if p.Sent {
				arrow = "->"
			}
			d.note("%s %s %d %q %d", arrow, p.Type, p.ID, p.Topic, p.Reason)
			decoded, err := codec.ReadPacket(strings.NewReader(string(p.Packet)), v, 0)
			if err != nil || decoded.Type().String() != p.Type {
				t.Errorf("%s: %v", p.Type, err)
			}
			if connect, ok := decoded.(*codec.Connect); ok && (connect.Username != "user" || string(connect.Password) != "***") {
				t.Errorf("CONNECT with %q and %q", connect.Username, connect.Password)
			} else if !ok && p.Size != len(p.Packet) {
				t.Errorf("%s has %d bytes, not %d", p.Type, len(p.Packet), p.Size)
			}
		}
		c := dialAs(t, v, b.DialContext, mqtt.WithCredentials("user", "secret"), mqtt.WithTrace(&mqtt.Trace{Packet: show}))
		d.want(t, `-> CONNECT 0 "" 0`, `<- CONNACK 0 "" 0`)
		sub := subscribe(t, c, "t/+", mqtt.ExactlyOnce)
		d.want(t, `-> SUBSCRIBE 1 "" 0`, `<- SUBACK 1 "" 0`)
		pubrec := `<- PUBREC 2 "" 0`
		if v == codec.V5 {
			pubrec = `<- PUBREC 2 "" 16` // nobody has subscribed
		}
		noErr(t, c.Publish(t.Context(), "out", []byte("x"), mqtt.ExactlyOnce))
		d.want(t, `-> PUBLISH 2 "out" 0`, pubrec, `-> PUBREL 2 "" 0`, `<- PUBCOMP 2 "" 0`)
		b.Publish(text("t/1", "x", 2))
		d.want(t, `<- PUBLISH 1 "t/1" 0`, `-> PUBREC 1 "" 0`, `<- PUBREL 1 "" 0`, `-> PUBCOMP 1 "" 0`)
		noErr(t, sub.Unsubscribe(t.Context()))
		d.want(t, `-> UNSUBSCRIBE 3 "" 0`, `<- UNSUBACK 3 "" 0`)
		_, err := c.Ping(t.Context())
		noErr(t, err)
		noErr(t, c.Disconnect(t.Context()))
		d.want(t, `-> PINGREQ 0 "" 0`, `<- PINGRESP 0 "" 0`, `-> DISCONNECT 0 "" 0`)
	})
}

// A user name without a password is a token.
func TestTraceHidesAToken(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		var d diary
		dialAs(t, v, b.DialContext, mqtt.WithUsername("secret"), mqtt.WithTrace(&mqtt.Trace{
			Packet: func(p mqtt.PacketTrace) {
				if p.Type == "CONNECT" {
					d.note("%v %v", strings.Contains(string(p.Packet), "secret"), strings.Contains(string(p.Packet), "***"))
				}
			},
		}))
		d.want(t, "false true")
	})
}

// What cannot be decoded is shown by type and size, and still ends the connection as ever.
func TestTraceBrokenPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		c, s := scripted(t, codec.V5, mqtt.WithTrace(&mqtt.Trace{
			Packet: func(p mqtt.PacketTrace) { d.note("%s %d %v %d", p.Type, p.Size, p.Packet == nil, p.Reason) },
		}))
		s.SendBytes(0x40, 2, 0, 0)
		s.Expect(&codec.Disconnect{Code: codec.ProtocolError})
		s.Close()
		<-c.Done()
		if errors.Is(c.Err(), io.EOF) {
			t.Errorf("ends with %v", c.Err())
		}
		synctest.Wait()
		if last := d.lines[len(d.lines)-2:]; last[0] != "PUBACK 4 true 0" || last[1] != "DISCONNECT 3 false 130" {
			t.Errorf("shown %q", last)
		}
	})
}

// What comes behind a message that is thrown away for its size is shown, which that one is not.
func TestTraceBehindAnOversizedMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		_, s := scripted(t, codec.V311, mqtt.WithMaximumPacketSize(100), mqtt.WithTrace(&mqtt.Trace{
			Packet: func(p mqtt.PacketTrace) { d.note("%s %d", p.Type, p.Size) },
		}))
		d.want(t, "CONNECT 47", "CONNACK 4")
		large := &codec.Publish{Topic: "t", Payload: make([]byte, 200)}
		s.Send(large, toT(0, 0, "1"), toT(0, 0, "2"), large, large, toT(0, 0, "3"))
		d.want(t, "PUBLISH 6", "PUBLISH 6", "PUBLISH 6")
	})
}

// A hook that ends its goroutine, as t.FailNow does, does no other harm.
func TestTraceHookThatExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithTrace(&mqtt.Trace{
			StateChanged: func(mqtt.State, mqtt.State) { runtime.Goexit() },
		}))
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce))
		noErr(t, c.Reconnect(t.Context()))
		noErr(t, c.Close())
	})
}
