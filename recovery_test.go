package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Messages that are published during a cut of 300 ms are lost by many clients: because routes are made only after the server
// has replayed them, or because publishes fail. Here 50 of 50 arrive, in order, in both directions.
func TestNothingIsLostInACut(t *testing.T) {
	for qos := mqtt.AtLeastOnce; qos <= mqtt.ExactlyOnce; qos++ {
		t.Run(qos.String(), func(t *testing.T) {
			inBothVersions(t, func(t *testing.T, v codec.Version) {
				b := mqtttest.NewBroker(t)
				line := newTurns(b)
				cut := reconnectingAs(t, v, line.dial, keptSession(v), mqtt.WithClientID("cut"))
				other := reconnectingAs(t, v, b.DialContext)
				in, out := subscribe(t, cut, "in", qos), subscribe(t, other, "out", qos)
				line.via(func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ENETUNREACH })
				b.Cut("cut")
				mended := time.AfterFunc(300*time.Millisecond, func() { line.to(b) })
				defer mended.Stop()
				var all sync.WaitGroup
				for topic, c := range map[string]mqtt.Client{"in": other, "out": cut} {
					all.Go(func() {
						for i := range 50 {
							if err := c.PublishAsync(t.Context(), topic, fmt.Append(nil, i), qos).Err(); err != nil {
								t.Error(err)
							}
							time.Sleep(6 * time.Millisecond)
						}
					})
				}
				all.Wait()
				time.Sleep(time.Minute)
				for _, sub := range []*mqtt.Subscription{in, out} {
					if got := numbers(t, arrived(sub)); !slices.Equal(got, upTo(0, 50)) {
						t.Errorf("%v gets %v", sub.Filters(), got)
					}
				}
				if s := cut.Stats(); s.Connects != 2 || s.Losses != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// window is the Receive Maximum in TestSleeper.
const window = 10

// sleeping is a client with a consumer that sleeps for ever, and another that does not.
type sleeping struct {
	broker         *mqtttest.Broker
	client         mqtt.ClientV5
	sleeper, awake *mqtt.Subscription
}

// Beside a consumer that sleeps for ever, QoS 0, publishes, pings and requests go on unaffected; QoS 1
// and 2 go on until Receive Maximum messages are outstanding. They resume when the sleeper moves, is ended, or leaves.
func TestSleeper(t *testing.T) {
	for name, wakeUp := range map[string]func(t *testing.T, s *sleeping){
		"moves": func(t *testing.T, s *sleeping) {
			if n := len(arrived(s.sleeper)); n != 5 {
				t.Errorf("the sleeper gets %d messages", n)
			}
		},
		"leaves": func(t *testing.T, s *sleeping) {
			err := s.sleeper.Unsubscribe(endingIn(t, time.Second)) // nobody takes what waits in its line
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		},
		"is ended": func(t *testing.T, s *sleeping) {
			<-s.sleeper.Done()
			if err := s.sleeper.Err(); !errors.Is(err, mqtt.ErrSlowConsumer) {
				t.Error(err)
			}
		},
	} {
		for qos := byte(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("%s/QoS %d", name, qos), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := startSleeping(t, qos, name == "is ended")
					s.checkUnaffected(t)
					for i := range 2 * window {
						s.broker.Publish(text("awake", fmt.Sprint(i), qos))
					}
					// The sleeper's channel has one message, and the pump has one in hand; the other three wait
					// unacknowledged.
					if got := numbers(t, arrived(s.awake)); len(got) < window-5 || len(got) > window {
						t.Errorf("%d messages come beside the sleeper", len(got))
					}
					s.checkUnaffected(t)
					wakeUp(t, s)
					if got := numbers(t, arrived(s.awake)); len(got) < window || got[len(got)-1] != 2*window-1 {
						t.Errorf("after the sleeper %s there come %v", name, got)
					}
				})
			})
		}
	}
}

func startSleeping(t *testing.T, qos byte, ends bool) *sleeping {
	b := mqtttest.NewBroker(t)
	c := reconnectingV5(t, b.DialContext, mqtt.WithReceiveMaximum(window))
	serveRequests(t, reconnectingV5(t, b.DialContext))
	opts := []mqtt.SubscribeOptionV5{mqtt.QoS(qos), mqtt.Buffer(1)}
	if ends {
		opts = append(opts, mqtt.EndIfStalled(time.Minute))
	}
	s := &sleeping{broker: b, client: c, sleeper: subscribeV5(t, c, "sleep", opts...), awake: subscribeV5(t, c, "awake", mqtt.QoS(qos))}
	for range 5 {
		b.Publish(text("sleep", "", qos))
	}
	synctest.Wait()
	return s
}

// serveRequests lets a client answer requests on "service".
func serveRequests(t *testing.T, c mqtt.ClientV5) {
	sub := subscribeV5(t, c, "service", mqtt.AtMostOnce)
	go c.Respond(t.Context(), sub, func(_ context.Context, m mqtt.Message) ([]byte, error) { return m.Payload, nil }, mqtt.ReplyOptions(mqtt.AtMostOnce))
}

// checkUnaffected checks what takes no time, whoever sleeps.
func (s *sleeping) checkUnaffected(t *testing.T) {
	t.Helper()
	ctx, began := t.Context(), time.Now()
	for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
		noErr(t, s.client.Publish(ctx, "elsewhere", nil, qos))
	}
	_, err := s.client.Ping(ctx)
	noErr(t, err)
	reply, err := s.client.Request(ctx, "service", []byte("?")) // whose reply comes at QoS 0
	noErr(t, err)
	if string(reply.Payload) != "?" {
		t.Errorf("reply %q", reply.Payload)
	}
	sub := subscribeV5(t, s.client, "third", mqtt.AtMostOnce)
	s.broker.Publish(text("third", "x", 0))
	wantArrived(t, sub, "third=x q0")
	noErr(t, sub.Unsubscribe(ctx))
	if took := time.Since(began); took > 0 {
		t.Errorf("beside a sleeper it takes %v", took)
	}
}

// A server that takes a second client with the same identifier ends the first with 0x8E. It must not fight for its
// place.
func TestTwoClientsWithOneIdentifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		first := reconnectingV5(t, b.DialContext, mqtt.WithClientID("twin"))
		sub := subscribeV5(t, first, "t", mqtt.AtLeastOnce)
		second := reconnectingV5(t, b.DialContext, mqtt.WithClientID("twin"))
		wantEnd(t, first, mqtt.SessionTakenOver)
		if err := sub.Err(); !errors.Is(err, mqtt.SessionTakenOver) {
			t.Errorf("its subscription ends with %v", err)
		}
		time.Sleep(time.Hour)
		if s := second.Stats(); s.Connects != 1 || second.State() != mqtt.StateConnected {
			t.Errorf("the second is %v: %+v", second.State(), s)
		}
	})
}

// Clients without jitter come back at the same moment after a common cut, and bring the server down again. Here 1,000 spread
// their attempts over the whole of each bound: one second, then two.
func TestClientsSpreadTheirAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients, buckets = 1000, 10
		b := mqtttest.NewBroker(t)
		var mu sync.Mutex
		var cutAt time.Time
		attempts := make(map[int][]time.Duration) // of each client, after the cut
		for i := range clients {
			reconnectingV5(t, func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				if !cutAt.IsZero() {
					attempts[i] = append(attempts[i], time.Since(cutAt))
				}
				mu.Unlock()
				return b.DialContext(ctx, network, address)
			})
		}
		synctest.Wait()
		mu.Lock()
		cutAt = time.Now()
		mu.Unlock()
		b.Offline()
		time.Sleep(5 * time.Second)
		b.Online()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		var first, wait [buckets]int
		for _, list := range attempts {
			first[int(list[0]*buckets/time.Second)]++
			wait[int((list[1]-list[0])*buckets/(2*time.Second))]++
		}
		t.Logf("first attempts by tenths of 1 s: %v; the wait for the second by tenths of 2 s: %v", first, wait)
		for i := range buckets {
			const mean = clients / buckets // the standard deviation is 9.5
			if first[i] < mean-60 || first[i] > mean+60 || wait[i] < mean-60 || wait[i] > mean+60 {
				t.Errorf("bucket %d is far from a tenth of the clients", i)
			}
		}
	})
}
