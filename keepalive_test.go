package mqtt_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// [MQTT-3.1.2-20] [MQTT-3.2.2-21]: when PINGREQ goes out.
// [MQTT-3.1.2-21] [MQTT-3.1.2.10b] [MQTT311-3.1.2-23] [MQTT311-3.1.2.10b]
func TestKeepAlive(t *testing.T) {
	for _, c := range []struct {
		name   string
		ours   time.Duration
		server *uint16
		every  time.Duration // 0: never
	}{
		{"default", -1, nil, time.Minute},
		{"ours", 7 * time.Second, nil, 7 * time.Second},
		{"off", 0, nil, 0},
		{"server's, shorter", 60 * time.Second, ptr(uint16(1)), time.Second},
		{"server's, longer", time.Second, ptr(uint16(60)), time.Minute},
		{"switched off by the server", time.Second, ptr(uint16(0)), 0},
		{"switched on by the server", 0, ptr(uint16(9)), 9 * time.Second},
		{"longest", 65_535 * time.Second, nil, 65_535 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				if c.server != nil && v != codec.V5 {
					return
				}
				var opts []mqtt.OptionV5
				if c.ours >= 0 {
					opts = append(opts, mqtt.WithKeepAlive(c.ours))
				}
				start := time.Now()
				p := startPeer(t, v, &codec.Connack{Properties: codec.ConnackProperties{ServerKeepAlive: c.server}}, opts...)
				if c.every == 0 {
					p.ExpectSilence(24 * time.Hour)
					return
				}
				p.Patience(24 * time.Hour)
				for i := range 3 {
					mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
					if at := time.Since(start); at != time.Duration(i+1)*c.every {
						t.Errorf("PINGREQ %d after %v", i+1, at)
					}
					p.Send(&codec.Pingresp{})
				}
			})
		})
	}
}

// WithPingLead brings PINGREQ forward, though not by more than half of what the server asks for.
func TestPingLead(t *testing.T) {
	for _, c := range []struct{ keepAlive, lead, every time.Duration }{
		{10 * time.Second, time.Second, 9 * time.Second},
		{10 * time.Second, time.Minute, 5 * time.Second},
		{10 * time.Second, 0, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := startPeer(t, codec.V5, nil, mqtt.WithKeepAlive(c.keepAlive), mqtt.WithPingLead(c.lead))
			start := time.Now()
			p.Patience(time.Minute)
			mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
			if at := time.Since(start); at != c.every {
				t.Errorf("keep alive %v, lead %v: PINGREQ after %v", c.keepAlive, c.lead, at)
			}
		})
	}
}

// [MQTT-3.1.2-20]: what comes from the server does not put PINGREQ off; what is sent to it does.
// [MQTT311-3.1.2-23]
func TestKeepAliveTraffic(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithKeepAlive(10*time.Second))
		start := time.Now()
		for range 9 {
			p.ExpectSilence(time.Second)
			p.Send(&codec.Publish{Topic: "t"})
		}
		mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
		if at := time.Since(start); at != 10*time.Second {
			t.Errorf("PINGREQ after %v", at)
		}
		p.Send(&codec.Pingresp{})
		for range 30 { // in both directions: no PINGREQ
			time.Sleep(time.Second)
			noErr(t, p.client.Publish(t.Context(), "t", nil))
			p.Send(&codec.Publish{Topic: "t"})
			p.Expect(toT(0, 0, ""))
		}
	})
}

// A PINGREQ without answer ends the client after the ping timeout; a half-open connection is noticed also by
// who only publishes. While a message waits for its acknowledgement it takes 5 s until a PINGREQ asks.
// [MQTT-3.1.2.10a] [MQTT311-3.1.2.10a]
func TestServerSilent(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		opts := []mqtt.OptionV5{mqtt.WithKeepAlive(20 * time.Second), mqtt.WithPingTimeout(5 * time.Second)}
		start := time.Now()
		p := startPeer(t, v, nil, opts...)
		waiting := p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		err := p.ends(time.Minute)
		wantErr(t, err, mqtt.ErrConnectionLost, false)
		if took := time.Since(start); took != 10*time.Second || !strings.Contains(err.Error(), "silent") {
			t.Errorf("after %v: %v", took, err)
		}
		wantErr(t, waiting.Err(), mqtt.ErrOutcomeUnknown, false)

		start = time.Now()
		p = startPeer(t, v, nil, opts...)
		wantErr(t, p.ends(time.Minute), mqtt.ErrConnectionLost, false)
		if took := time.Since(start); took != 25*time.Second {
			t.Errorf("an idle connection ends after %v", took)
		}

		// Without an option the time for PINGRESP is half the keep alive, between 2 s and 10 s.
		for keepAlive, want := range map[time.Duration]time.Duration{time.Second: 3, 4 * time.Second: 6, 10 * time.Second: 15, time.Minute: 70} {
			start = time.Now()
			p = startPeer(t, v, nil, mqtt.WithKeepAlive(keepAlive))
			wantErr(t, p.ends(time.Hour), mqtt.ErrConnectionLost, false)
			if took := time.Since(start); took != want*time.Second {
				t.Errorf("with a keep alive of %v it ends after %v, want %d s", keepAlive, took, want)
			}
		}

		start = time.Now()
		p = startPeer(t, v, nil, opts...)
		p.HalfOpen()
		for p.client.Publish(t.Context(), "t", nil) == nil {
			time.Sleep(time.Second)
		}
		p.ends(time.Second)
		if took := time.Since(start); took > 26*time.Second {
			t.Errorf("noticed after %v", took)
		}

		// A server that takes no byte of what is written is noticed too, without a PINGREQ.
		start = time.Now()
		p = startPeer(t, v, nil, mqtt.WithKeepAlive(0), mqtt.WithPingTimeout(5*time.Second))
		stuck := fill(p)
		wantErr(t, outcome(t, stuck), mqtt.ErrConnectionLost, true)
		wantErr(t, p.ends(time.Second), mqtt.ErrConnectionLost, false)
		if took := time.Since(start); took > 11*time.Second { // the last bytes that were taken may have been the first of a long write
			t.Errorf("noticed after %v", took)
		}
	})
}

// [MQTT-3.1.2-22]: an application that does not take its messages does not hold up PINGREQ, whatever happens to them.
// [MQTT311-3.1.2-24]
func TestKeepAliveWithBlockedConsumer(t *testing.T) {
	for _, c := range []struct {
		name string
		qos  byte
		opts []mqtt.SubscribeOption
		kept int // messages that the consumer finds when it looks again, at least
	}{
		{"dropped", 0, []mqtt.SubscribeOption{mqtt.Buffer(1)}, 2}, // and perhaps one that was on its way into the channel
		{"held", 1, []mqtt.SubscribeOption{mqtt.Buffer(1), mqtt.AtLeastOnce}, 5},
		{"manual", 1, []mqtt.SubscribeOption{mqtt.Buffer(1), mqtt.AtLeastOnce, mqtt.ManualAck}, 5},
		{"blocked", 0, []mqtt.SubscribeOption{mqtt.Buffer(1), mqtt.Block}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				p := startPeer(t, v, nil, mqtt.WithKeepAlive(10*time.Second))
				p.Patience(time.Minute)
				sub := unread(p, "in", c.opts...)
				for i := range 5 {
					p.Send(&codec.Publish{Topic: "in", QoS: c.qos, PacketID: uint16(i+1) * uint16(c.qos)})
				}
				start, pings := time.Now(), 0
				for time.Since(start) < 30*time.Second {
					switch p.Receive().(type) {
					case *codec.Pingreq:
						pings++
						p.Send(&codec.Pingresp{})
					case *codec.Puback:
					default:
						t.Fatal("neither PINGREQ nor PUBACK")
					}
				}
				if pings != 3 || p.client.State() != mqtt.StateConnected {
					t.Errorf("%d PINGREQs in 30 s, %v", pings, p.client.State())
				}
				got := 0
				var err error
				for ; err == nil; got++ {
					_, err = sub.Next(endingIn(t, time.Second))
				}
				wantErr(t, err, context.DeadlineExceeded, false)
				if got--; got < c.kept || uint64(got)+sub.Dropped() != 5 {
					t.Errorf("%d messages came and %d were dropped, of 5", got, sub.Dropped())
				}
			})
		})
	}
}

func TestPing(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithKeepAlive(0))
		type answer struct {
			rtt time.Duration
			err error
		}
		ping := func(ctx context.Context) <-chan answer {
			result := make(chan answer, 1)
			go func() {
				rtt, err := p.client.Ping(ctx)
				result <- answer{rtt, err}
			}()
			mqtttest.ReceiveAs[*codec.Pingreq](p.Script)
			return result
		}
		first := ping(t.Context())
		time.Sleep(30 * time.Millisecond)
		p.Send(&codec.Pingresp{})
		if a := <-first; a.err != nil || a.rtt != 30*time.Millisecond {
			t.Errorf("%+v", a)
		}
		if trip := p.client.Status().RoundTrip; trip != 30*time.Millisecond {
			t.Errorf("the last round trip took %v", trip)
		}
		// An answer that comes too late is not taken for the answer to another ping.
		late := ping(endingIn(t, time.Second))
		if a := <-late; !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("%+v", a)
		}
		second := ping(t.Context())
		time.Sleep(10 * time.Millisecond)
		p.Send(&codec.Pingresp{})
		synctest.Wait()
		if len(second) > 0 {
			t.Error("a Ping took the answer to another")
		}
		third := ping(t.Context())
		time.Sleep(10 * time.Millisecond)
		p.Send(&codec.Pingresp{}, &codec.Pingresp{})
		if a, b := <-second, <-third; a.err != nil || b.err != nil || a.rtt != 20*time.Millisecond || b.rtt != 10*time.Millisecond {
			t.Errorf("%+v, %+v", a, b)
		}
		fourth := ping(t.Context())
		p.Cut()
		if a := <-fourth; !errors.Is(a.err, mqtt.ErrConnectionLost) {
			t.Errorf("%+v", a)
		}
	})
}

// A server that sends other packets and never PINGRESP is given up after two keep alive intervals: bytes from it show
// that it lives, except that this does not count for ever.
func TestPingresponseMissing(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		begin := time.Now()
		p := startPeer(t, v, nil, mqtt.WithKeepAlive(20*time.Second), mqtt.WithPingTimeout(5*time.Second))
		time.Sleep(time.Second / 2) // so that it does not talk in the moment in which the client gives it up
		for ended := false; !ended; {
			p.Send(toT(0, 0, "busy"))
			select {
			case <-p.client.Done():
				ended = true
			case <-time.After(time.Second):
			}
		}
		wantErr(t, p.client.Err(), mqtt.ErrConnectionLost, false)
		if took := time.Since(begin); took < 40*time.Second || took > 62*time.Second {
			t.Errorf("given up after %v", took)
		}
	})
}

// deaf is a connection whose writes fail from some time on, while what the server sends still comes.
type deaf struct {
	net.Conn
	now atomic.Bool
}

func (d *deaf) Write(b []byte) (int, error) {
	if d.now.Load() {
		return 0, syscall.EPIPE
	}
	return d.Conn.Write(b)
}
