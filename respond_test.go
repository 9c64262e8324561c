package mqtt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Tests of requests and replies: the responder's side.

type answerFunc = func(context.Context, mqtt.Message) ([]byte, error)

func echo(_ context.Context, m mqtt.Message) ([]byte, error) { return m.Payload, nil }

// respond lets a client of its own answer requests until the test ends.
func respond(t *testing.T, b *mqtttest.Broker, filter string, f answerFunc) mqtt.ClientV5 {
	t.Helper()
	c := reconnectingV5(t, b.DialContext, mqtt.WithConnectInBackground())
	go func() {
		if sub, err := c.Subscribe(t.Context(), filter, mqtt.AtLeastOnce); err == nil {
			c.Respond(context.Background(), sub, f, mqtt.Workers(4))
		}
	}()
	synctest.Wait()
	return c
}

// responding is a client with a scripted server whose Respond runs, on a subscription to "service".
type responding struct {
	*requester
	sub  *mqtt.Subscription
	stop context.CancelFunc // ends the ctx of Respond
	done *running[struct{}]
}

// startResponding has one worker.
func startResponding(t *testing.T, f answerFunc, opts ...mqtt.SubscribeOptionV5) *responding {
	t.Helper()
	p := &responding{requester: newRequester(t, codec.ConnackProperties{}, mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxDelay: time.Second}))}
	sub := start(func() (*mqtt.Subscription, error) {
		return p.client.Subscribe(t.Context(), "service", append(opts, mqtt.AtLeastOnce)...)
	})
	p.grant()
	p.sub = sub.value(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	p.done = startErr(func() error { return p.client.Respond(ctx, p.sub, f) })
	return p
}

// request is one that comes from the server.
func request(id uint16, payload string, expiry time.Duration) *codec.Publish {
	return &codec.Publish{Topic: "service", QoS: 1, PacketID: id, Payload: []byte(payload), Properties: codec.PublishProperties{
		ResponseTopic: "to/me", CorrelationData: []byte{0, byte(id)}, MessageExpiry: expiry,
	}}
}

// wantAnswer receives a reply and acknowledges it.
func (p *responding) wantAnswer(payload string) *codec.Publish {
	p.t.Helper()
	r := mqtttest.ReceiveAs[*codec.Publish](p.Script)
	if r.Topic != "to/me" || string(r.Payload) != payload {
		p.t.Fatalf("the reply is %+v, want %q", r, payload)
	}
	p.Send(&codec.Puback{PacketID: r.PacketID})
	return r
}

// The reply has QoS 1, the correlation data and what is left of the expiry.
func TestRespond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, func(_ context.Context, m mqtt.Message) ([]byte, error) {
			time.Sleep(2500 * time.Millisecond)
			return append([]byte("re "), m.Payload...), nil
		})
		p.Send(request(1, "a", 10*time.Second), request(2, "b", 0))
		for i, expiry := range []time.Duration{8 * time.Second, 0} { // 7.5 s, rounded up
			r := p.wantAnswer([]string{"re a", "re b"}[i])
			if got := r.Properties; r.QoS != 1 || got.MessageExpiry != expiry || !bytes.Equal(got.CorrelationData, []byte{0, byte(i + 1)}) || got.ResponseTopic != "" {
				t.Errorf("the reply is %+v", r)
			}
			p.wantPackets(fmt.Sprint("PUBACK ", i+1)) // after the reply
		}
		p.stop()
		noErr(t, p.done.wait())
	})
}

// Options of replies; an explicit expiry wins.
func TestReplyOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, echo)
		p.stop()
		p.done.wait()
		properties := mqtt.PublishProperties{ContentType: "text/plain", MessageExpiry: time.Minute, CorrelationData: []byte("not this")}
		before := properties
		go p.client.Respond(t.Context(), p.sub, echo, mqtt.ReplyOptions(mqtt.AtMostOnce, mqtt.Retain, &properties))
		p.Send(request(1, "a", 10*time.Second))
		r := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if got := r.Properties; r.QoS != 0 || !r.Retain || got.ContentType != "text/plain" || got.MessageExpiry != time.Minute || !bytes.Equal(got.CorrelationData, []byte{0, 1}) {
			t.Errorf("the reply is %+v", r)
		}
		if !reflect.DeepEqual(properties, before) {
			t.Errorf("the options have become %+v", properties)
		}
	})
}

// The handler's ctx ends when the request expires. A reply that no requester waits for is not sent, and a request that
// has waited too long is not handled.
func TestRespondToExpiredRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled []string
		p := startResponding(t, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
			handled = append(handled, string(m.Payload))
			if string(m.Payload) == "slow" {
				started := time.Now()
				<-ctx.Done()
				if waited := time.Since(started); waited != 3*time.Second || ctx.Err() != context.DeadlineExceeded {
					t.Errorf("ctx ends after %v: %v", waited, ctx.Err())
				}
			}
			return nil, nil
		}, mqtt.ManualAck)
		p.Send(request(1, "slow", 3*time.Second), request(2, "behind", 2*time.Second), request(3, "last", 4*time.Second))
		p.wantPackets("PUBACK 1", "PUBACK 2")
		p.wantAnswer("")
		p.wantPackets("PUBACK 3")
		if want := []string{"slow", "last"}; !slices.Equal(handled, want) {
			t.Errorf("handled %q, want %q", handled, want)
		}
		if got := p.client.Stats().Expired; got != 2 {
			t.Errorf("%d expired, want 2", got)
		}
	})
}

// A handler's error is what Request returns.
func TestHandlerErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		long := strings.Repeat("é", 1000)
		cases := map[string]struct {
			payload []byte
			err     error
			want    mqtt.ResponseError
		}{
			"plain":   {nil, errors.New("plain words"), mqtt.ResponseError{Text: "plain words"}},
			"payload": {[]byte("details"), errors.New("x"), mqtt.ResponseError{Text: "x", Reply: mqtt.Message{Payload: []byte("details")}}},
			"bytes":   {nil, errors.New("a\x00b\xff"), mqtt.ResponseError{Text: "a\uFFFDb\uFFFD"}},
			"long":    {nil, errors.New("x" + long), mqtt.ResponseError{Text: "x" + long[:1022]}},
			"empty":   {nil, errors.New(""), mqtt.ResponseError{}},
			"as it is": {nil, &mqtt.ResponseError{Text: "t", Reply: mqtt.Message{Payload: []byte("p"), Properties: mqtt.PublishProperties{
				ContentType: "c", UTF8Payload: true, ResponseTopic: "elsewhere", CorrelationData: []byte("other"),
				UserProperties: mqtt.UserProperties{{Key: "petrel-error", Value: "old"}, {Key: "k", Value: "v"}},
			}}}, mqtt.ResponseError{Text: "t", Reply: mqtt.Message{Payload: []byte("p"), Properties: mqtt.PublishProperties{
				ContentType: "c", UTF8Payload: true, UserProperties: mqtt.UserProperties{{Key: "k", Value: "v"}},
			}}}},
			"wrapped": {nil, fmt.Errorf("outer: %w", &mqtt.ResponseError{Text: "inner"}), mqtt.ResponseError{Text: "outer: mqtt: the responder failed: inner"}},
		}
		respond(t, b, "service", func(_ context.Context, m mqtt.Message) ([]byte, error) {
			c := cases[string(m.Payload)]
			return c.payload, c.err
		})
		requester := reconnectingV5(t, b.DialContext)
		for name, c := range cases {
			_, err := requester.Request(endingIn(t, time.Minute), "service", []byte(name))
			var failure *mqtt.ResponseError
			if !errors.As(err, &failure) {
				t.Errorf("%s: %v", name, err)
				continue
			}
			p := failure.Reply.Properties
			want := append(slices.Clone(c.want.Reply.Properties.UserProperties), mqtt.UserProperty{Key: "petrel-error", Value: c.want.Text})
			if failure.Text != c.want.Text || string(failure.Reply.Payload) != string(c.want.Reply.Payload) || !slices.Equal(p.UserProperties, want) ||
				p.ContentType != c.want.Reply.Properties.ContentType || p.UTF8Payload != c.want.Reply.Properties.UTF8Payload {
				t.Errorf("%s: %+v", name, failure)
			}
		}
	})
}

// A request without response topic is handled, and what comes of it dropped.
func TestRequestWithoutResponseTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled atomic.Int32
		p := startResponding(t, func(context.Context, mqtt.Message) ([]byte, error) {
			handled.Add(1)
			return []byte("x"), errors.New("x")
		}, mqtt.ManualAck)
		q := request(1, "a", 0)
		q.Properties = codec.PublishProperties{}
		p.Send(q)
		p.wantPackets("PUBACK 1")
		p.wantSilence()
		if handled.Load() != 1 {
			t.Error("it is not handled")
		}
	})
}

// The end of ctx stops the intake. What is being handled is finished, and its reply sent.
func TestRespondStopsGracefully(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
			time.Sleep(time.Minute)
			return m.Payload, ctx.Err()
		}, mqtt.ManualAck)
		p.Send(request(1, "a", 0), request(2, "b", 0))
		synctest.Wait()
		p.stop()
		p.done.pending(t, "a handler runs")
		r := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if string(r.Payload) != "a" || len(r.Properties.UserProperties) > 0 {
			t.Errorf("the reply is %+v", r)
		}
		p.done.pending(t, "the reply is not acknowledged")
		p.Send(&codec.Puback{PacketID: r.PacketID})
		noErr(t, p.done.wait())
		p.wantPackets("PUBACK 1")
		p.wantSilence() // the other request is for somebody else
	})
}

// Offline, replies are waited for as long as Respond runs, and for 10 s after.
func TestRespondOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, func(_ context.Context, m mqtt.Message) ([]byte, error) {
			time.Sleep(time.Second)
			return m.Payload, nil
		}, mqtt.ManualAck)
		p.Send(request(1, "a", 0), request(2, "b", 0), request(3, "c", 0))
		synctest.Wait()
		p.offline()
		time.Sleep(time.Hour)
		p.online()
		p.wantAnswer("a")
		for i, payload := range []string{"a", "b", "c"} {
			again := request(uint16(i+1), payload, 0)
			again.Dup = true
			p.Send(again)
		}
		p.wantPackets("PUBACK 1")
		time.Sleep(time.Second / 2)
		p.offline()
		time.Sleep(time.Minute)
		p.stop()
		stopped := time.Now()
		noErr(t, p.done.wait())
		if d := time.Since(stopped); d != 10*time.Second {
			t.Errorf("Respond ends after %v", d)
		}
		p.online()
		p.wantSilence() // the reply was withdrawn, and its request is not acknowledged
	})
}

// A handler that runs for long after the end of ctx has as much time for its reply.
func TestRespondOfflineAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, func(_ context.Context, m mqtt.Message) ([]byte, error) {
			time.Sleep(time.Minute)
			return m.Payload, nil
		})
		p.Send(request(1, "a", 0))
		synctest.Wait()
		p.stop()
		p.offline()
		time.Sleep(time.Minute + 5*time.Second)
		p.online()
		p.wantAnswer("a")
		noErr(t, p.done.wait())
	})
}

// The client's end is the end of the handler's ctx. A request that was not answered is not acknowledged.
func TestRespondWhenTheClientEnds(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, p *responding){
		"Close":      func(t *testing.T, p *responding) { go p.client.Close() },
		"Disconnect": func(t *testing.T, p *responding) { go p.client.Disconnect(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startResponding(t, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
					<-ctx.Done()
					return m.Payload, nil
				}, mqtt.ManualAck)
				p.Send(request(1, "a", 0), request(2, "b", 0))
				synctest.Wait()
				end(t, p)
				p.wantPackets("DISCONNECT")
				p.Script.Close()
				wantErr(t, p.done.wait(), mqtt.ErrClosed, false)
			})
		})
	}
}

// A reply that comes when Disconnect has begun is refused, and its request left to others.
func TestReplyWhileDisconnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, func(context.Context, mqtt.Message) ([]byte, error) {
			time.Sleep(time.Second)
			return nil, nil
		}, mqtt.ManualAck)
		p.client.PublishAsync(t.Context(), "x", nil, mqtt.AtLeastOnce) // which Disconnect waits for
		p.wantPackets("PUBLISH 2 x q1")
		p.Send(request(1, "a", 0))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go p.client.Disconnect(ctx)
		p.wantPackets("DISCONNECT")
		p.Script.Close()
		wantErr(t, p.done.wait(), mqtt.ErrClosed, false)
	})
}

// Respond ends with its subscription.
func TestRespondWhenTheSubscriptionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, echo)
		left := startErr(func() error { return p.sub.Unsubscribe(t.Context()) })
		u := mqtttest.ReceiveAs[*codec.Unsubscribe](p.Script)
		p.Send(&codec.Unsuback{PacketID: u.PacketID, Codes: []codec.ReasonCode{0}})
		noErr(t, left.wait())
		noErr(t, p.done.wait())
		if err := p.client.Respond(t.Context(), p.sub, echo, mqtt.Workers(0)); err == nil {
			t.Error("no workers are accepted")
		}
	})
}

// With ManualAck a request is acknowledged when its reply is, whatever the server says to that.
func TestRespondAcknowledges(t *testing.T) {
	for _, code := range []codec.ReasonCode{codec.Success, codec.NoMatchingSubscribers, codec.NotAuthorized} {
		synctest.Test(t, func(t *testing.T) {
			p := startResponding(t, echo, mqtt.ManualAck)
			p.Send(request(1, "a", 0))
			r := mqtttest.ReceiveAs[*codec.Publish](p.Script)
			p.wantSilence()
			p.Send(&codec.Puback{PacketID: r.PacketID, Code: code})
			p.wantPackets("PUBACK 1")
		})
	}
}

// What a requester can do wrong ends in the log, not in a stall.
func TestReplyThatCannotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		b := mqtttest.NewBroker(t, mqtttest.MaximumPacketSize(200))
		c := reconnectingV5(t, b.DialContext, mqtt.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		messages := make(chan mqtt.Message, 4)
		messages <- mqtt.Message{Topic: "service", Properties: mqtt.PublishProperties{ResponseTopic: "all/#"}}
		messages <- mqtt.Message{Topic: "service", Properties: mqtt.PublishProperties{ResponseTopic: "a", CorrelationData: make([]byte, 200)}}
		messages <- mqtt.Message{Topic: "service", Properties: mqtt.PublishProperties{ResponseTopic: "a"}}
		close(messages)
		noErr(t, c.Respond(t.Context(), mqtt.NewSubscription("service", messages), echo))
		synctest.Wait() // for the logger
		if lines := strings.Count(log.String(), "a request was not answered"); lines != 2 {
			t.Errorf("the log says:\n%s", &log)
		}
		if got := b.Received("#"); len(got) != 1 || got[0].Topic != "a" {
			t.Errorf("the server gets %+v", got)
		}
	})
}

// The expiry of a fake's message begins when it is taken.
func TestRespondOnAFake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := reconnectingV5(t, mqtttest.NewBroker(t).DialContext)
		messages := make(chan mqtt.Message, 1)
		messages <- mqtt.Message{Topic: "service", Properties: mqtt.PublishProperties{MessageExpiry: 2 * time.Second}}
		close(messages)
		time.Sleep(time.Hour)
		noErr(t, c.Respond(t.Context(), mqtt.NewSubscription("service", messages), func(ctx context.Context, _ mqtt.Message) ([]byte, error) {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != 2*time.Second {
				t.Errorf("the deadline is %v", deadline)
			}
			return nil, nil
		}))
	})
}

// Workers bound what is handled at a time; responders share a subscription.
func TestRespondersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		var running, most, total [2]int
		var mu sync.Mutex
		for i := range running {
			respond(t, b, "$share/g/service", func(_ context.Context, m mqtt.Message) ([]byte, error) {
				mu.Lock()
				running[i]++
				total[i]++
				most[i] = max(most[i], running[i])
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				running[i]--
				mu.Unlock()
				return m.Payload, nil
			})
		}
		c := reconnectingV5(t, b.DialContext)
		var wait sync.WaitGroup
		for i := range 40 {
			wait.Go(func() {
				m, err := c.Request(endingIn(t, time.Minute), "service", fmt.Append(nil, i))
				if err != nil || string(m.Payload) != fmt.Sprint(i) {
					t.Errorf("request %d: %s, %v", i, m.Payload, err)
				}
			})
		}
		wait.Wait()
		if most != [2]int{4, 4} || total[0]+total[1] != 40 || total[0] == 0 || total[1] == 0 {
			t.Errorf("at most %d at a time, %d in all", most, total)
		}
	})
}

// The values of Respond's ctx are the handler's too.
func TestHandlerContextValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		p := startResponding(t, echo)
		p.stop()
		p.done.wait()
		got := make(chan any, 1)
		go p.client.Respond(context.WithValue(t.Context(), key{}, "v"), p.sub, func(ctx context.Context, _ mqtt.Message) ([]byte, error) {
			got <- ctx.Value(key{})
			return nil, nil
		})
		p.Send(request(1, "a", time.Minute))
		if v := <-got; v != "v" {
			t.Errorf("the value is %v", v)
		}
		p.wantAnswer("")
		p.wantPackets("PUBACK 1")
	})
}

// A handler's panic ends the program, as it would anywhere. The test runs itself again to see that.
func TestHandlerPanics(t *testing.T) {
	if os.Getenv("PETREL_TEST_PANIC") != "" {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext)
		messages := make(chan mqtt.Message, 1)
		messages <- mqtt.Message{Topic: "service"}
		c.Respond(t.Context(), mqtt.NewSubscription("service", messages), func(context.Context, mqtt.Message) ([]byte, error) {
			panic("out of handler")
		})
		select {} // Respond may return before the panic has ended the program
	}
	again := exec.Command(os.Args[0], "-test.run=^TestHandlerPanics$", "-test.timeout=2m")
	again.Env = append(os.Environ(), "PETREL_TEST_PANIC=1")
	out, err := again.CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("panic: out of handler")) || !bytes.Contains(out, []byte("TestHandlerPanics.func")) {
		t.Errorf("error %v, output:\n%s", err, out)
	}
}

// An ErrClosed of the handler's is an error like any other: it is logged, and the request acknowledged.
func TestHandlerErrClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startResponding(t, func(context.Context, mqtt.Message) ([]byte, error) {
			return nil, mqtt.ErrClosed // of another client, which the handler uses
		}, mqtt.ManualAck)
		q := request(1, "a", 0)
		q.Properties = codec.PublishProperties{}
		p.Send(q)
		p.wantPackets("PUBACK 1")
	})
}

// What is sent of an error's text is bounded in bytes, whatever is in it.
func TestLongHandlerErrors(t *testing.T) {
	for name, text := range map[string]string{
		"long":     strings.Repeat("x", 5000),
		"nulls":    strings.Repeat("\x00", 1024),
		"no UTF-8": strings.Repeat("\xff.", 600),
		"cut":      strings.Repeat("x", 1023) + "é",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startResponding(t, func(context.Context, mqtt.Message) ([]byte, error) { return nil, errors.New(text) })
				p.Send(request(1, "a", 0))
				sent, _ := p.wantAnswer("").Properties.UserProperties.Get("petrel-error")
				if len(sent) > 1024 || len(sent) < 1020 || !utf8.ValidString(sent) {
					t.Errorf("%d bytes are sent", len(sent))
				}
			})
		})
	}
}

// What a request with an expiry needs is gone when it is answered, not when Respond ends.
func TestRespondKeepsNothing(t *testing.T) {
	b := mqtttest.NewBroker(t)
	c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(b.DialContext))
	noErr(t, err)
	defer c.Close()
	requests := make(chan mqtt.Message)
	ctx, stop := context.WithCancel(t.Context())
	done := startErr(func() error { return c.Respond(ctx, mqtt.NewSubscription("f", requests), echo) })
	send := func(n int) (objects uint64) {
		for range n {
			requests <- mqtt.Message{Topic: "f", Properties: mqtt.PublishProperties{MessageExpiry: time.Hour}}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapObjects
	}
	const n = 10_000
	before := send(n / 10)
	if after := send(n); after > before+n/2 {
		t.Errorf("%d requests leave %d objects behind", n, after-before)
	}
	stop()
	noErr(t, done.wait())
}
