package mqtt_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// One deadline bounds the whole attempt, however a server stalls; one that gives up is noticed at once.
func TestConnectStalls(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(s *mqtttest.Script)
		took time.Duration
		want error
	}{
		{"nothing", func(s *mqtttest.Script) {}, 7 * time.Second, context.DeadlineExceeded},
		{"half a CONNACK", func(s *mqtttest.Script) { s.SendBytes(0x20, 3, 0) }, 7 * time.Second, context.DeadlineExceeded},
		{"a header that promises 64 MiB", func(s *mqtttest.Script) { s.SendBytes(0x20, 0xfb, 0xff, 0xff, 0x1f, 0, 0) }, 7 * time.Second, context.DeadlineExceeded},
		{"a header that promises 1 byte more", func(s *mqtttest.Script) { s.SendBytes(0x20, 0xfc, 0xff, 0xff, 0x1f, 0, 0) }, 0, mqtt.PacketTooLarge},
		{"half-open", func(s *mqtttest.Script) { s.HalfOpen() }, 7 * time.Second, context.DeadlineExceeded},
		{"a byte a second", func(s *mqtttest.Script) {
			s.SendBytes(0x20, 0x7f)
			for range 6 {
				s.ExpectSilence(time.Second)
				s.SendBytes(0)
			}
		}, 7 * time.Second, context.DeadlineExceeded},
		{"close", func(s *mqtttest.Script) { s.Close() }, 0, nil},
		{"close in CONNACK", func(s *mqtttest.Script) { s.SendBytes(0x20, 3, 0); s.Close() }, 0, nil},
		{"cut", func(s *mqtttest.Script) { s.Cut() }, 0, syscall.ECONNRESET},
		{"cut in CONNACK", func(s *mqtttest.Script) { s.SendBytes(0x20); s.Cut() }, 0, syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				server := mqtttest.NewServer(t, v)
				start := time.Now()
				result := calling(func() error {
					_, _, err := dialClient(t.Context(), v, server.DialContext, mqtt.WithConnectTimeout(7*time.Second))
					return err
				})
				s := server.Accept()
				s.Receive()
				c.do(s)
				err := outcome(t, result)
				var failed *mqtt.ConnectError
				if !errors.As(err, &failed) || c.want != nil && !errors.Is(err, c.want) || failed.Err == nil {
					t.Errorf("error %v, want %v", err, c.want)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
			})
		})
	}
}

// ctx bounds each step of an attempt, and nothing after it.
func TestConnectContext(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		t.Log("while it dials")
		blocked := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		start := time.Now()
		_, _, err := dialClient(endingIn(t, 2*time.Second), v, blocked)
		wantErr(t, err, context.DeadlineExceeded, false)
		_, _, err = dialClient(t.Context(), v, blocked, mqtt.WithConnectTimeout(3*time.Second))
		wantErr(t, err, context.DeadlineExceeded, false)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		_, _, err = dialClient(t.Context(), v, func(context.Context, string, string) (net.Conn, error) {
			return nil, syscall.ECONNREFUSED
		})
		wantErr(t, err, syscall.ECONNREFUSED, false)

		t.Log("while it waits for CONNACK")
		server := mqtttest.NewServer(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		result := calling(func() error { _, _, err := dialClient(ctx, v, server.DialContext); return err })
		s := server.Accept()
		s.Receive()
		stillWaits(t, result)
		cancel()
		err = outcome(t, result)
		wantErr(t, err, context.Canceled, false)
		var failed *mqtt.ConnectError
		if !errors.As(err, &failed) {
			t.Errorf("error %v", err)
		}
		s.ExpectEOF()

		t.Log("ended before")
		_, _, err = dialClient(ctx, v, mqtttest.NewServer(t, v).DialContext)
		wantErr(t, err, context.Canceled, false)

		t.Log("once it is connected")
		broker := mqtttest.NewBroker(t)
		ctx, cancel = context.WithCancel(t.Context())
		c, _, err := dialClient(ctx, v, broker.DialContext)
		noErr(t, err)
		cancel()
		time.Sleep(time.Hour)
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce))
		noErr(t, c.Close())
	})
}

// An application that asks for the old session is responsible for its state.
// [MQTT-3.2.2-3] [MQTT-3.2.2-4] [MQTT311-3.2.2-2] [MQTT311-3.2.2.2]
func TestConnectResumes(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, &codec.Connack{SessionPresent: true}, mqtt.WithCleanStart(false), mqtt.WithClientID("old"))
		if !p.client.SessionPresent() || p.client.State() != mqtt.StateConnected {
			t.Error(p.client.State(), p.client.SessionPresent())
		}
		noErr(t, p.client.Publish(t.Context(), "t", nil))
		p.Expect(toT(0, 0, ""))
	})
}

// conversation does a little of everything and returns what each step said; it ends with a Disconnect.
func conversation(t *testing.T, v codec.Version, dial dialFunc) []error {
	ctx := t.Context()
	c, _, err := dialClient(ctx, v, dial, mqtt.WithClientID("me"), mqtt.WithConnectTimeout(time.Second))
	if err != nil {
		return []error{err}
	}
	var errs []error
	step := func(err error) { errs = append(errs, err) }
	sub, err := c.Subscribe(ctx, "in/+", mqtt.ExactlyOnce)
	step(err)
	var publishing sync.WaitGroup
	var published [3]error
	for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
		publishing.Go(func() { published[qos] = c.Publish(ctx, "in/x", []byte("payload"), qos) })
		synctest.Wait()
	}
	if sub != nil {
		for range 3 {
			_, err := sub.Next(ctx)
			step(err)
		}
	}
	publishing.Wait()
	for _, err := range published {
		step(err)
	}
	_, err = c.Ping(ctx)
	step(err)
	if sub != nil {
		step(sub.Unsubscribe(ctx))
	}
	step(c.Disconnect(ctx))
	select {
	case <-c.Done():
	default:
		t.Error("the client has not ended")
	}
	if c.Err() == nil {
		t.Error("the client does not say why it has ended")
	}
	start := time.Now()
	noErr(t, c.Close())
	if took := time.Since(start); took > 0 {
		t.Errorf("Close takes %v after the end", took)
	}
	return errs
}

// cutStream is a connection on which the server's stream ends after so many bytes: with EOF, or with a reset that hits
// the client's writes too.
type cutStream struct {
	net.Conn
	left *atomic.Int64
	hard bool
}

func (c cutStream) Read(b []byte) (int, error) {
	left := c.left.Load()
	if left == 0 {
		if c.hard {
			c.Conn.Close()
			return 0, syscall.ECONNRESET
		}
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), left)])
	c.left.Add(int64(-n))
	return n, err
}

func (c cutStream) Write(b []byte) (int, error) {
	if c.left.Load() == 0 && c.hard {
		return 0, syscall.ECONNRESET
	}
	return c.Conn.Write(b)
}

func (c cutStream) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Wherever the server's stream ends, every call returns with an error that says so, and nothing is
// left behind.
func TestCutAtEveryByte(t *testing.T) {
	for _, hard := range []bool{false, true} {
		t.Run(map[bool]string{false: "close", true: "reset"}[hard], func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				talk := func(left *atomic.Int64) []error {
					broker := mqtttest.New()
					defer broker.Close()
					return conversation(t, v, func(ctx context.Context, network, address string) (net.Conn, error) {
						conn, err := broker.DialContext(ctx, network, address)
						return cutStream{conn, left, hard}, err
					})
				}
				var left atomic.Int64
				left.Store(math.MaxInt64)
				for _, err := range talk(&left) {
					noErr(t, err)
				}
				total := math.MaxInt64 - left.Load()
				if total < 40 {
					t.Fatalf("the whole conversation has %d bytes", total)
				}
				for n := range total {
					left.Store(n)
					start := time.Now()
					failed := false
					for i, err := range talk(&left) {
						failed = failed || err != nil
						if err != nil && !saysLost(err) {
							t.Errorf("cut after %d bytes: step %d says %v", n, i, err)
						}
					}
					if !failed {
						t.Errorf("cut after %d bytes: nobody notices", n)
					}
					if took := time.Since(start); took > time.Second {
						t.Errorf("cut after %d bytes: it took %v", n, took)
					}
				}
			})
		})
	}
}

// saysLost reports whether an error says that the connection could not be made or has ended.
func saysLost(err error) bool {
	var failed *mqtt.ConnectError
	return errors.As(err, &failed) || errors.Is(err, mqtt.ErrConnectionLost) || errors.Is(err, mqtt.ErrNotConnected)
}

// [MQTT-4.2.0-1]: packets may come a byte at a time.
func TestSplitAtEveryByte(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		broker := mqtttest.NewBroker(t, mqtttest.Fragment(1))
		for i, err := range conversation(t, v, broker.DialContext) {
			if err != nil {
				t.Errorf("step %d: %v", i, err)
			}
		}
		if n := len(broker.Received()); n != 3 {
			t.Errorf("%d messages came", n)
		}
	})
}

// A client that asks for the session of an earlier one starts its packet identifiers at a random point, and
// its subscription identifiers too, so that it does not take the earlier one's for its own.
func TestIdentifiersOfResumedSession(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		ids, subscriptions := make(map[uint16]bool), make(map[uint32]bool)
		for range 5 {
			server := mqtttest.NewServer(t, v)
			c := start(func() (mqtt.Client, error) {
				return reconnectingAs(t, v, server.DialContext, mqtt.WithCleanStart(false), mqtt.WithClientID("c")), nil
			})
			s := server.Accept()
			mqtttest.ReceiveAs[*codec.Connect](s)
			s.Send(&codec.Connack{SessionPresent: true})
			c.value(t).PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
			ids[mqtttest.ReceiveAs[*codec.Publish](s).PacketID] = true
			_, p := subscribing(t, c.value(t), s, "t")
			subscriptions[p.SubscriptionIdentifier] = true
		}
		if len(ids) == 1 {
			t.Errorf("five clients begin with the same packet identifier: %v", ids)
		}
		if v == codec.V5 && len(subscriptions) == 1 {
			t.Errorf("five clients begin with the same subscription identifier: %v", subscriptions)
		}
	})
}
