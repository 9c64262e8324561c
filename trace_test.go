package mqtt_test

import (
	"context"
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
	"github.com/petrel-mqtt/mqtt/storetest"
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
		Stalled: func(s *mqtt.Subscription, topic string, since time.Time) {
			d.note("%s stalls with %s for %v", s.Filters()[0].Filter, topic, time.Since(since).Round(time.Second))
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
		var log lines
		b := mqtttest.NewBroker(t)
		trace := &mqtt.Trace{Dropped: d.trace().Dropped, Stalled: d.trace().Stalled}
		c := dialV5(t, b.DialContext, mqtt.WithTrace(trace), mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		fast := subscribeV5(t, c, "fast", mqtt.AtLeastOnce)
		slow := subscribeV5(t, c, "slow/+", mqtt.AtLeastOnce, mqtt.Buffer(2))
		if s := c.Stats(); s.Held.Filters != nil || s.Held.For != 0 {
			t.Errorf("held up by %v", s.Held)
		}
		for n := range 4 {
			b.Publish(text("slow/1", fmt.Sprint("q1 ", n), 1))
		}
		for n := range 6 {
			b.Publish(text("slow/1", fmt.Sprint("q0 ", n), 0))
		}
		b.Publish(text("fast", "held up", 1))
		time.Sleep(15 * time.Second)
		if s := c.Stats(); len(s.Held.Filters) != 1 || s.Held.Filters[0].Filter != "slow/+" || s.Held.Topic != "slow/1" || s.Held.For != 15*time.Second {
			t.Errorf("held up by %v", s.Held)
		}
		if s := slow.Stats(); s.Held.Topic != "slow/1" || s.Held.For != 15*time.Second {
			t.Errorf("holds up with %v", s.Held)
		}
		if s := fast.Stats(); s.Held.Topic != "" || s.Held.For != 0 {
			t.Errorf("the other one holds up with %v", s.Held)
		}
		c.Close()
		d.want(t, "slow/+ drops q0 0", "slow/+ drops q0 1", "slow/+ drops q0 2", "slow/+ drops q0 3", "slow/+ stalls with slow/1 for 10s")
		if !strings.Contains(log.String(), "topic=slow/1 filter=slow/+") {
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

// traceKey is the key of a value in a ctx.
type traceKey struct{}

// tracePublishes returns a hook that writes each publish and its outcome into the diary. It adds a user property.
func (d *diary) tracePublishes(began time.Time) *mqtt.Trace {
	since := func(at time.Time) string {
		if at.IsZero() {
			return "never"
		}
		return at.Sub(began).String()
	}
	return &mqtt.Trace{Publish: func(ctx context.Context, p *mqtt.PublishTrace) func(mqtt.PublishOutcome) {
		p.Properties.UserProperties.Add("trace", "1")
		topic := p.Topic
		d.note("publish %s at %v: %s, for %v", p.Topic, p.QoS, p.Payload, ctx.Value(traceKey{}))
		return func(o mqtt.PublishOutcome) {
			d.note("%s queued %s, sent %s, resent %v: %d, %v", topic, since(o.Queued), since(o.Sent), o.Resent, o.Reason, errors.Unwrap(o.Err) != nil)
		}
	}}
}

// The hook Publish sees every way in which a message goes out, and once what became of it.
func TestTracePublish(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		var d diary
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithTrace(d.tracePublishes(time.Now())), mqtt.WithTopicDefaults("twice/#", mqtt.ExactlyOnce))
		none := 0
		if v == codec.V5 {
			none = int(mqtt.NoMatchingSubscribers)
		}
		ctx := context.WithValue(t.Context(), traceKey{}, "x")
		for _, topic := range []string{"never", "twice/1"} {
			noErr(t, c.Publish(ctx, topic, []byte("p")))
		}
		d.want(t, "publish never at QoS 0: p, for x", "never queued never, sent 0s, resent false: 0, false",
			"publish twice/1 at QoS 2: p, for x", fmt.Sprintf("twice/1 queued never, sent 0s, resent false: %d, false", none))
		for _, qos := range []mqtt.QoS{0, 1, 2} {
			noErr(t, c.PublishAsync(ctx, "a", nil, qos).Wait(t.Context()))
			first := fmt.Sprintf("publish a at QoS %d: , for x", qos)
			code := none
			if qos == 0 {
				code = 0
			}
			d.want(t, first, fmt.Sprintf("a queued never, sent 0s, resent false: %d, false", code))
		}
		if c.Publish(ctx, "wild/#", nil) == nil || c.PublishAsync(ctx, "a", nil, mqtt.QoS(3)).Err() == nil {
			t.Error("an invalid publish succeeds")
		}
		d.want(t)
		for _, m := range b.Received("#") {
			if want := v == codec.V5; len(m.Properties.UserProperties) > 0 != want {
				t.Errorf("%s has the user properties %v", m.Topic, m.Properties.UserProperties)
			}
		}
	})
}

// The hook says when a message waited in the queue, that it was sent twice, and why it failed.
func TestTracePublishThroughALoss(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		var d diary
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithTrace(d.tracePublishes(time.Now())), mqtt.WithMaxInFlight(1))
		release := b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})
		first := c.PublishAsync(t.Context(), "first", nil, mqtt.AtLeastOnce)
		second := c.PublishAsync(t.Context(), "second", nil, mqtt.AtLeastOnce)
		third := c.PublishAsync(t.Context(), "third", nil, mqtt.AtLeastOnce)
		if !third.Withdraw() {
			t.Error("a message that waits cannot be withdrawn")
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Publish(ctx, "fourth", nil, mqtt.AtLeastOnce); !mqtt.SafeToRetry(err) {
			t.Error(err)
		}
		d.want(t, "publish first at QoS 1: , for <nil>", "publish second at QoS 1: , for <nil>", "publish third at QoS 1: , for <nil>",
			"third queued 0s, sent never, resent false: 0, true", "publish fourth at QoS 1: , for <nil>",
			"fourth queued 0s, sent never, resent false: 0, true")
		release()
		b.Cut()
		noErr(t, c.Reconnect(t.Context()))
		noErr(t, first.Wait(t.Context()))
		noErr(t, second.Wait(t.Context()))
		code := 0
		if v == codec.V5 {
			code = int(mqtt.NoMatchingSubscribers)
		}
		d.want(t, fmt.Sprintf("first queued never, sent 1s, resent true: %d, false", code),
			fmt.Sprintf("second queued 0s, sent 1s, resent false: %d, false", code))

		b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})
		lost := c.PublishAsync(t.Context(), "lost", nil, mqtt.AtLeastOnce)
		noErr(t, c.Close())
		if !errors.Is(lost.Err(), mqtt.ErrOutcomeUnknown) {
			t.Error(lost.Err())
		}
		if n := c.Stats().Failed; n != 1 {
			t.Errorf("%d messages failed", n)
		}
		c.PublishAsync(t.Context(), "late", nil, mqtt.AtLeastOnce)
		d.want(t, "publish lost at QoS 1: , for <nil>", "lost queued never, sent 1s, resent false: 0, false",
			"publish late at QoS 1: , for <nil>", "late queued never, sent never, resent false: 0, true")
	})
}

// A message in a store is shown like any other. The publisher that stops waiting gets the hook called once.
func TestTracePublishStored(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		var d diary
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithTrace(d.tracePublishes(time.Now())), mqtt.WithStore(new(storetest.Memory)))
		subscribe(t, c, "s", mqtt.AtMostOnce)
		noErr(t, c.Publish(t.Context(), "s", nil, mqtt.AtLeastOnce))
		noErr(t, c.PublishAsync(t.Context(), "s", nil, mqtt.ExactlyOnce).Wait(t.Context()))
		d.want(t, "publish s at QoS 1: , for <nil>", "s queued 0s, sent 0s, resent false: 0, false",
			"publish s at QoS 2: , for <nil>", "s queued 0s, sent 0s, resent false: 0, false")
		release := b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Publish(ctx, "s", nil, mqtt.AtLeastOnce); !errors.Is(err, mqtt.ErrOutcomeUnknown) {
			t.Error(err)
		}
		release()
		b.Cut()
		noErr(t, c.Reconnect(t.Context()))
		noErr(t, c.Disconnect(t.Context()))
		d.want(t, "publish s at QoS 1: , for <nil>", "s queued 0s, sent 0s, resent false: 0, false")
	})
}

// The properties that a hook adds do not reach the caller's, which may be shared.
func TestTracePublishProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := dialV5(t, b.DialContext, mqtt.WithTrace(&mqtt.Trace{Publish: func(_ context.Context, p *mqtt.PublishTrace) func(mqtt.PublishOutcome) {
			p.Properties.UserProperties.Add("hook", "1")
			p.Properties.ResponseTopic, p.Properties.CorrelationData, p.Properties.ContentType = "r", []byte("c"), "text"
			return nil
		}}))
		shared := make(mqtt.UserProperties, 1, 8)
		shared[0] = mqtt.UserProperty{Key: "own", Value: "1"}
		own := &mqtt.PublishProperties{UserProperties: shared, ResponseTopic: "mine"}
		noErr(t, c.Publish(t.Context(), "t", nil, own))
		noErr(t, c.PublishAsync(t.Context(), "t", nil, own, mqtt.AtLeastOnce).Wait(t.Context()))
		if own.ContentType != "" || shared[:2][1].Key != "" {
			t.Errorf("the caller's properties are %v, %v", own, shared[:2])
		}
		for _, m := range b.Received("t") {
			p := m.Properties
			if len(p.UserProperties) != 2 || p.ContentType != "text" || p.ResponseTopic != "mine" || string(p.CorrelationData) != "c" {
				t.Errorf("published with %+v", p)
			}
		}
		if n := len(b.Received("t")); n != 2 {
			t.Errorf("%d messages", n)
		}
		p := &mqtt.PublishProperties{}
		noErr(t, c.Publish(t.Context(), "\u00fc", nil, p)) // properties from the hook alone
	})
}

// A request, its handling and the reply are shown, each with the ctx of what is around it.
func TestTraceRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fails := range []bool{false, true} {
			var d diary
			b := mqtttest.NewBroker(t)
			trace := d.tracePublishes(time.Now())
			trace.Process = func(ctx context.Context, s *mqtt.Subscription, m mqtt.Message) (context.Context, func(error)) {
				d.note("process %s of %s", m.Topic, s.Filters()[0].Filter)
				return context.WithValue(ctx, traceKey{}, "handler"), func(err error) { d.note("processed: %v", err) }
			}
			c := dialV5(t, b.DialContext, mqtt.WithTrace(trace), mqtt.WithClientID("c"))
			sub := subscribeV5(t, c, "ask", mqtt.AtLeastOnce)
			ctx, cancel := context.WithCancel(t.Context())
			responding := calling(func() error {
				return c.Respond(ctx, sub, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
					if fails {
						return nil, errHandler
					}
					return []byte(fmt.Sprint(ctx.Value(traceKey{}))), nil
				})
			})
			_, err := c.Request(context.WithValue(t.Context(), traceKey{}, "asker"), "ask", []byte("?"))
			if fails != (err != nil) {
				t.Error(err)
			}
			synctest.Wait()
			answer, result := "handler", "<nil>"
			if fails {
				answer, result = "", errHandler.Error()
			}
			reply := []string{"publish petrel/reply/c at QoS 1: " + answer + ", for handler", "petrel/reply/c queued never, sent 0s, resent false: 0, false"}
			processed := "processed: " + result
			d.mu.Lock()
			got := slices.Clone(d.lines)
			d.mu.Unlock()
			want := append([]string{"publish ask at QoS 1: ?, for asker", "process ask of ask", processed,
				"ask queued never, sent 0s, resent false: 0, false"}, reply...)
			slices.Sort(got) // the two ends run at the same time
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("noted:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			cancel()
			noErr(t, outcome(t, responding))
			c.Close()
		}
	})
}

// traceProcessing returns a hook that writes into the diary what is processed.
func (d *diary) traceProcessing() mqtt.Option {
	return mqtt.WithTrace(&mqtt.Trace{Process: func(ctx context.Context, _ *mqtt.Subscription, m mqtt.Message) (context.Context, func(error)) {
		d.note("begin %s", m.Payload)
		return context.WithValue(ctx, traceKey{}, string(m.Payload)), func(err error) { d.note("end %s: %v", m.Payload, err) }
	}})
}

// The hook Process surrounds each body of All, and says if the message comes again.
func TestTraceAll(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		const left = "mqtt: the loop was left, and the message will be delivered again"
		var d diary
		b := mqtttest.NewBroker(t)
		c := dialAs(t, v, b.DialContext, d.traceProcessing())
		sub, err := c.Subscribe(t.Context(), "t", mqtt.AtLeastOnce)
		noErr(t, err)
		b.Publish(text("t", "1", 1))
		b.Publish(text("t", "2", 1))
		b.Publish(text("t", "3", 0))
		for m, err := range sub.All(t.Context()) {
			noErr(t, err)
			d.note("body %s", m.Payload)
			if string(m.Payload) == "2" {
				break
			}
		}
		d.want(t, "begin 1", "body 1", "end 1: <nil>", "begin 2", "body 2", "end 2: "+left)
		for m := range sub.All(t.Context()) {
			if noErr(t, m.Ack()); string(m.Payload) == "3" {
				break
			}
			break
		}
		d.want(t, "begin 2", "end 2: <nil>") // it was acknowledged
		for range sub.All(t.Context()) {
			break
		}
		d.want(t, "begin 3", "end 3: <nil>") // QoS 0 does not come again
		b.Publish(text("t", "4", 1))
		func() {
			defer func() { recover() }()
			for range sub.All(t.Context()) {
				panic("the body")
			}
		}()
		d.want(t, "begin 4", "end 4: "+left)
		b.Publish(text("t", "5", 1))
		synctest.Wait()
		for range sub.Batches(t.Context(), 2, time.Second) {
			break
		}
		d.want(t, "begin 4", "begin 5", "end 5: "+left, "end 4: "+left)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for batch := range sub.Batches(ctx, 2, time.Second) {
			d.note("batch of %d", len(batch))
			cancel()
		}
		d.want(t, "begin 4", "begin 5", "batch of 2", "end 5: <nil>", "end 4: <nil>")
	})
}

// The hook Process surrounds each call of a handler, which gets its ctx.
func TestTraceHandle(t *testing.T) {
	inWorkers(t, func(t *testing.T, workers mqtt.Workers) {
		for _, v := range []codec.Version{codec.V5, codec.V311} {
			var d diary
			b := mqtttest.NewBroker(t)
			c := dialAs(t, v, b.DialContext, d.traceProcessing())
			sub, err := c.Subscribe(t.Context(), "t", mqtt.AtLeastOnce)
			noErr(t, err)
			b.Publish(text("t", "1", 1))
			ctx, cancel := context.WithCancel(t.Context())
			failures := 1
			noErr(t, sub.Handle(ctx, func(ctx context.Context, m mqtt.Message) error {
				d.note("handle %v", ctx.Value(traceKey{}))
				if failures--; failures >= 0 {
					return errHandler
				}
				cancel()
				return nil
			}, workers))
			d.want(t, "begin 1", "handle 1", "end 1: "+errHandler.Error(), "begin 1", "handle 1", "end 1: <nil>")
			c.Close()
		}
	})
}

// Hooks that may be slow are slow for their call alone.
func TestTraceHooksThatBlock(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		hold := make(chan struct{})
		c := dialAs(t, v, b.DialContext, mqtt.WithTrace(&mqtt.Trace{
			Publish: func(_ context.Context, p *mqtt.PublishTrace) func(mqtt.PublishOutcome) {
				if p.Topic == "slow" {
					<-hold
				}
				return nil
			},
			Process: func(ctx context.Context, s *mqtt.Subscription, _ mqtt.Message) (context.Context, func(error)) {
				if s.Filters()[0].Filter == "slow" {
					<-hold
				}
				return ctx, nil
			},
		}))
		handle := func(filter string) (*mqtt.Subscription, <-chan error) {
			sub, err := c.Subscribe(t.Context(), filter, mqtt.AtLeastOnce)
			noErr(t, err)
			return sub, calling(func() error {
				return sub.Handle(t.Context(), func(context.Context, mqtt.Message) error { return nil })
			})
		}
		slow, slowLoop := handle("slow")
		fast, fastLoop := handle("fast")
		publishing := calling(func() error { return c.Publish(t.Context(), "slow", nil, mqtt.AtLeastOnce) })
		b.Publish(text("slow", "", 1))
		noErr(t, c.Publish(t.Context(), "fast", nil, mqtt.AtLeastOnce))
		stillWaits(t, publishing)
		if w := fast.Stats().Waiting; w != 0 {
			t.Errorf("%d messages wait", w)
		}
		close(hold)
		noErr(t, outcome(t, publishing))
		noErr(t, slow.Unsubscribe(t.Context()))
		noErr(t, fast.Unsubscribe(t.Context()))
		noErr(t, outcome(t, slowLoop))
		noErr(t, outcome(t, fastLoop))
	})
}
