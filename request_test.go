package mqtt_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Tests of requests and replies: the requester's side.

// requester is an MQTT 5 client with the identifier "r" and the scripted server that it connects to, again and again.
type requester struct {
	*pair
	client  mqtt.ClientV5
	network *turns
}

const (
	repliesToR   = "petrel/reply/r"
	subscribeToR = "SUBSCRIBE " + repliesToR + " q1 rh2"
)

func newRequester(t *testing.T, ack codec.ConnackProperties, opts ...mqtt.OptionV5) *requester {
	t.Helper()
	p := &requester{pair: &pair{t: t, server: mqtttest.NewServer(t, codec.V5)}}
	p.network = newTurns(p.server)
	opts = append([]mqtt.OptionV5{mqtt.WithClientID("r"), mqtt.WithKeepAlive(0)}, opts...)
	c := start(func() (mqtt.ClientV5, error) { return reconnectingV5(t, p.network.dial, opts...), nil })
	p.accept(&codec.Connack{Properties: ack})
	p.client = c.value(t)
	return p
}

// offline cuts the connection, and there is no other until online.
func (p *requester) offline() {
	p.network.via(refuse)
	p.Cut()
}

func (p *requester) online() {
	p.t.Helper()
	p.network.to(p.server)
	p.accept(&codec.Connack{SessionPresent: true})
	p.grant()
}

// refuse is a network without a way to anywhere.
func refuse(context.Context, string, string) (net.Conn, error) { return nil, syscall.EHOSTUNREACH }

// requesting runs the test in virtual time.
func requesting(t *testing.T, f func(t *testing.T, p *requester), opts ...mqtt.OptionV5) {
	synctest.Test(t, func(t *testing.T) { f(t, newRequester(t, codec.ConnackProperties{}, opts...)) })
}

type asking = running[mqtt.Message]

func (p *requester) ask(ctx context.Context, payload string, opts ...mqtt.PublishOptionV5) *asking {
	return start(func() (mqtt.Message, error) { return p.client.Request(ctx, "service", []byte(payload), opts...) })
}

// asked is a request up to its PUBLISH.
func (p *requester) asked(payload string, opts ...mqtt.PublishOptionV5) (*asking, *codec.Publish) {
	p.t.Helper()
	a := p.ask(p.t.Context(), payload, opts...)
	return a, mqtttest.ReceiveAs[*codec.Publish](p.Script)
}

// grant answers the SUBSCRIBE that comes next.
func (p *requester) grant() {
	p.t.Helper()
	p.Send(granted(mqtttest.ReceiveAs[*codec.Subscribe](p.Script)))
}

// warm makes the reply subscription, with a request that is answered.
func (p *requester) warm() {
	p.t.Helper()
	a := p.ask(p.t.Context(), "first")
	p.grant()
	p.reply(mqtttest.ReceiveAs[*codec.Publish](p.Script), 0, "warm")
	wantReply(p.t, a, "warm")
}

// reply acknowledges a request and sends a reply to it.
func (p *requester) reply(to *codec.Publish, qos byte, payload string) {
	p.t.Helper()
	if to.QoS == 1 {
		p.Send(&codec.Puback{PacketID: to.PacketID})
	}
	p.Send(replyTo(to, qos, payload))
}

func replyTo(to *codec.Publish, qos byte, payload string) *codec.Publish {
	r := &codec.Publish{Topic: to.Properties.ResponseTopic, QoS: qos, Payload: []byte(payload)}
	if qos > 0 {
		r.PacketID = 7
	}
	r.Properties.CorrelationData = to.Properties.CorrelationData
	return r
}

func wantReply(t *testing.T, a *asking, want string) {
	t.Helper()
	if got := a.value(t); string(got.Payload) != want {
		t.Errorf("the reply is %q, want %q", got.Payload, want)
	}
}

func wantLate(t *testing.T, c mqtt.ClientV5, want uint64) {
	t.Helper()
	synctest.Wait()
	if got := c.Stats().LateReplies; got != want {
		t.Errorf("%d late replies, want %d", got, want)
	}
}

// Request, reply and subscription use QoS 1. The reply is acknowledged at once. The next request finds the
// subscription there.
func TestRequest(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		a := p.ask(t.Context(), "2+2")
		p.wantSilenceBut(subscribeToR, granted)
		q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if q.Topic != "service" || string(q.Payload) != "2+2" || q.QoS != 1 || q.Properties.ResponseTopic != repliesToR ||
			len(q.Properties.CorrelationData) != 16 || q.Properties.MessageExpiry != 0 {
			t.Errorf("the request is %+v", q)
		}
		p.Send(&codec.Puback{PacketID: q.PacketID})
		a.pending(t, "there is no reply")
		p.Send(replyTo(q, 1, "4"))
		wantReply(t, a, "4")
		p.wantPackets("PUBACK 7")

		a, second := p.asked("3+3")
		if slices.Equal(second.Properties.CorrelationData, q.Properties.CorrelationData) {
			t.Error("two requests have the same correlation data")
		}
		p.reply(second, 0, "6")
		wantReply(t, a, "6")
		wantLate(t, p.client, 0)
	})
}

// Whoever cannot see the requests cannot guess the correlation data of one, although those of several are made together.
func TestCorrelationData(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		seen := map[string]bool{}
		for n := range 100 {
			a, m := p.asked("")
			data := string(m.Properties.CorrelationData)
			if len(data) != 16 || seen[data] || data == string(make([]byte, 16)) {
				t.Errorf("request %d has the correlation data %x", n, data)
			}
			seen[data] = true
			p.reply(m, 0, "")
			a.value(t)
		}
	})
}

// wantSilenceBut receives one packet, and nothing after it until it is answered.
func (p *requester) wantSilenceBut(want string, answer func(*codec.Subscribe) *codec.Suback) {
	p.t.Helper()
	s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
	if got := brief(s); got != want {
		p.t.Fatalf("the client sends %s, want %s", got, want)
	}
	p.wantSilence()
	p.Send(answer(s))
}

// An explicit QoS wins, and so does one of WithTopicDefaults.
func TestRequestQoS(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		for qos := range byte(3) {
			a, q := p.asked("x", mqtt.QoS(qos))
			if q.QoS != qos {
				t.Errorf("the request has QoS %d, want %d", q.QoS, qos)
			}
			p.reply(q, 0, "y")
			wantReply(t, a, "y")
		}
		a := start(func() (mqtt.Message, error) { return p.client.Request(t.Context(), "fast", nil) })
		q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if q.QoS != 0 {
			t.Errorf("the request has QoS %d, want that of the topic's default", q.QoS)
		}
		p.reply(q, 0, "y")
		wantReply(t, a, "y")
		if _, err := p.client.Request(t.Context(), "x", nil, mqtt.QoS(3)); !mqtt.SafeToRetry(err) {
			t.Errorf("QoS 3: %v", err)
		}
	}, mqtt.WithTopicDefaults("fast", mqtt.AtMostOnce))
}

// Deadlines round up to whole seconds.
func TestRequestExpiry(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		for _, c := range []struct {
			timeout, given, want time.Duration
		}{
			{1500 * time.Millisecond, 0, 2 * time.Second},
			{time.Microsecond, 0, time.Second},
			{time.Hour, 10 * time.Second, 10 * time.Second},
			{time.Second, time.Hour, time.Hour},
			{200 * 365 * 24 * time.Hour, 0, (1<<32 - 1) * time.Second},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
			a := p.ask(ctx, "x", &mqtt.PublishProperties{MessageExpiry: c.given})
			q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
			if got := q.Properties.MessageExpiry; got != c.want {
				t.Errorf("timeout %v, expiry given %v: the request expires after %v, want %v", c.timeout, c.given, got, c.want)
			}
			p.Send(&codec.Puback{PacketID: q.PacketID})
			cancel()
			a.wait()
		}
	})
}

func TestBadRequests(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		for _, c := range []struct {
			topic string
			p     *mqtt.PublishProperties
		}{
			{"a/#", nil},
			{"", nil},
			{"service", &mqtt.PublishProperties{ResponseTopic: "a/+"}},
			{"service", &mqtt.PublishProperties{ResponseTopic: "$share/g/a"}},
			{"service", &mqtt.PublishProperties{ResponseTopic: "$queue/a"}},
		} {
			if _, err := p.client.Request(t.Context(), c.topic, nil, c.p); !mqtt.SafeToRetry(err) {
				t.Errorf("topic %q, %+v: %v", c.topic, c.p, err)
			}
		}
		p.wantSilence()
		p.warm()
		if _, err := p.client.Request(t.Context(), "service", nil, &mqtt.PublishProperties{ContentType: "\xff"}); !mqtt.SafeToRetry(err) {
			t.Errorf("bad content type: %v", err)
		}
		if _, err := p.client.Request(t.Context(), "service", nil, &mqtt.PublishProperties{MessageExpiry: -1}); !errors.Is(err, mqtt.ErrExpired) {
			t.Errorf("expired: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := p.client.Request(ctx, "service", nil)
		wantErr(t, err, context.Canceled, true)
		p.warmAgain()
	}, mqtt.WithMaxRequests(1)) // each gives its place back
}

// warmAgain makes a request when the subscription is there.
func (p *requester) warmAgain() {
	p.t.Helper()
	a, q := p.asked("again")
	p.reply(q, 0, "y")
	wantReply(p.t, a, "y")
}

// Replies that no request waits for are counted and dropped.
func TestLateReplies(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		a := p.ask(endingIn(t, 1500*time.Millisecond), "x")
		q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		p.Send(&codec.Puback{PacketID: q.PacketID})
		err := a.wait()
		wantErr(t, err, context.DeadlineExceeded, false)
		wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
		p.Send(replyTo(q, 1, "late"))
		p.wantPackets("PUBACK 7")
		wantLate(t, p.client, 1)

		a, q = p.asked("x")
		p.reply(q, 0, "in time")
		p.Send(replyTo(q, 0, "again"), &codec.Publish{Topic: repliesToR, Payload: []byte("no correlation data")})
		wantReply(t, a, "in time")
		wantLate(t, p.client, 3)
		if s := p.client.Stats(); s.Dropped != 0 || s.Unmatched != 0 || s.Unacknowledged != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestMaxRequests(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		first, q1 := p.asked("1")
		_, q2 := p.asked("2")
		ctx, cancel := context.WithCancel(t.Context())
		third := p.ask(ctx, "3")
		synctest.Wait()
		fourth := p.ask(t.Context(), "4")
		synctest.Wait()
		fifth := p.ask(t.Context(), "5")
		p.wantSilence()
		cancel()
		wantErr(t, third.wait(), context.Canceled, true)
		p.wantSilence()
		p.reply(q1, 0, "y")
		wantReply(t, first, "y")
		q4 := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		p.reply(q4, 0, "for "+string(q4.Payload))
		wantReply(t, fourth, "for 4")
		q5 := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		sixth := p.ask(t.Context(), "6")
		sixth.pending(t, "there is no place")
		p.client.Close()
		wantErr(t, sixth.wait(), mqtt.ErrClosed, true)
		wantErr(t, fifth.wait(), mqtt.ErrOutcomeUnknown, false)
		_, _ = q2, q5
	}, mqtt.WithMaxRequests(2))
	if _, err := mqtt.NewClient(t.Context(), "x", mqtt.WithMaxRequests(0)); err == nil {
		t.Error("WithMaxRequests(0) is accepted")
	}
}

// Disconnect refuses a request that waits for a place at once. One that was sent it waits for like any message.
func TestDisconnectRefusesWaitingRequests(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		sent, q := p.asked("1")
		waits := p.ask(t.Context(), "2")
		waits.pending(t, "there is no slot")
		bye := startErr(func() error { return p.client.Disconnect(t.Context()) })
		bye.pending(t, "a message is in flight")
		select {
		case <-waits.done:
			wantErr(t, waits.err, mqtt.ErrClosed, true)
		default:
			t.Error("a request still waits for a slot")
		}
		p.Send(replyTo(q, 0, "y"))
		wantReply(t, sent, "y")
		p.Send(&codec.Puback{PacketID: q.PacketID}) // the last that Disconnect waits for: it does not wait for replies
		mqtttest.ReceiveAs[*codec.Disconnect](p.Script)
		p.Close()
		noErr(t, bye.wait())
	}, mqtt.WithMaxRequests(1))
}

// A responder's error comes as a *ResponseError.
func TestResponseError(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		for _, text := range []string{"no such thing", ""} {
			a, q := p.asked("x")
			r := replyTo(q, 0, "details")
			r.Properties.UserProperties = codec.UserProperties{{Key: "other", Value: "x"}, {Key: "petrel-error", Value: text}}
			p.Send(&codec.Puback{PacketID: q.PacketID}, r)
			var failure *mqtt.ResponseError
			if !errors.As(a.wait(), &failure) || failure.Text != text || string(failure.Reply.Payload) != "details" {
				t.Errorf("the error is %#v", a.wait())
			}
		}
	})
}

// A request that is refused fails at once, also if it has no subscriber: then no reply can come.
func TestRequestRefused(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		for _, code := range []codec.ReasonCode{codec.NotAuthorized, codec.NoMatchingSubscribers} {
			a, q := p.asked("x")
			p.Send(&codec.Puback{PacketID: q.PacketID, Code: code})
			var refused *mqtt.PublishError
			if err := a.wait(); !errors.As(err, &refused) || refused.Code != mqtt.ReasonCode(code) || refused.Topic != "service" || refused.Local {
				t.Errorf("%v: the error is %v", code, err)
			}
		}
		a, q := p.asked("x", mqtt.ExactlyOnce)
		p.Send(&codec.Pubrec{PacketID: q.PacketID, Code: codec.NoMatchingSubscribers})
		p.Expect(&codec.Pubrel{PacketID: q.PacketID})
		p.Send(&codec.Pubcomp{PacketID: q.PacketID})
		if err := a.wait(); !errors.Is(err, mqtt.NoMatchingSubscribers) {
			t.Errorf("at QoS 2 the error is %v", err)
		}
		// A retained request may find a subscriber later.
		a, q = p.asked("x", mqtt.Retain)
		p.Send(&codec.Puback{PacketID: q.PacketID, Code: codec.NoMatchingSubscribers})
		a.pending(t, "somebody may still get it")
		p.Send(replyTo(q, 0, "y"))
		wantReply(t, a, "y")
		p.warmAgain()
	})
}

// If a request was sent before, a responder may have received it then, and be gone now.
func TestRequestSentAgainFindsNobody(t *testing.T) {
	for _, present := range []bool{true, false} {
		requesting(t, func(t *testing.T, p *requester) {
			p.warm()
			a, _ := p.asked("x")
			p.Cut()
			p.accept(&codec.Connack{SessionPresent: present})
			p.grant()
			q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
			p.Send(&codec.Puback{PacketID: q.PacketID, Code: codec.NoMatchingSubscribers})
			a.pending(t, "the reply may be on its way")
			p.Send(replyTo(q, 0, "y"))
			wantReply(t, a, "y")
		})
	}
}

// The reply may overtake the acknowledgement of the request. The payload is the caller's again then.
func TestReplyBeforePuback(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		payload := []byte("mine")
		a := start(func() (mqtt.Message, error) { return p.client.Request(t.Context(), "service", payload) })
		q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		p.Send(replyTo(q, 0, "y"))
		wantReply(t, a, "y")
		copy(payload, "gone")
		p.resume()
		p.grant()
		again := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if !again.Dup || string(again.Payload) != "mine" || !slices.Equal(again.Properties.CorrelationData, q.Properties.CorrelationData) {
			t.Errorf("sent again: %+v", again)
		}
		p.Send(&codec.Puback{PacketID: again.PacketID})
		synctest.Wait()
		if s := p.client.Stats(); s.InFlight != 0 || s.LateAcks != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// ctx ends in each state of a request.
func TestRequestCtx(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		// In flight.
		ctx, cancel := context.WithCancel(t.Context())
		a := p.ask(ctx, "x")
		q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		cancel()
		wantErr(t, a.wait(), mqtt.ErrOutcomeUnknown, false)
		wantErr(t, a.wait(), context.Canceled, false)
		p.reply(q, 0, "late")
		wantLate(t, p.client, 1)
		// In the queue, offline.
		p.Cut()
		synctest.Wait()
		a = p.ask(endingIn(t, time.Millisecond), "never sent")
		wantErr(t, a.wait(), context.DeadlineExceeded, true)
		p.accept(&codec.Connack{SessionPresent: true})
		p.grant()
		p.wantSilence()
		p.warmAgain()
	}, mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Second}))
}

// The client's end, and the end of waiting for a reply by Disconnect.
func TestRequestWhenTheClientEnds(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		unacknowledged, _ := p.asked("1")
		acknowledged, q := p.asked("2")
		p.Send(&codec.Puback{PacketID: q.PacketID})
		qos0, _ := p.asked("3", mqtt.AtMostOnce)
		waiting := p.ask(t.Context(), "4", &mqtt.PublishProperties{ResponseTopic: "slow"})
		p.wantPackets("SUBSCRIBE slow q1 rh2")
		p.client.Close()
		for _, a := range []*asking{unacknowledged, acknowledged, qos0} {
			wantErr(t, a.wait(), mqtt.ErrOutcomeUnknown, false)
			wantErr(t, a.wait(), mqtt.ErrClosed, false)
		}
		wantErr(t, waiting.wait(), mqtt.ErrClosed, true)
		wantErr(t, p.ask(t.Context(), "5").wait(), mqtt.ErrClosed, true)
	})
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		a, q := p.asked("1")
		p.Send(&codec.Puback{PacketID: q.PacketID})
		second := p.ask(t.Context(), "2")
		second.pending(t, "there is no place")
		noErr(t, p.client.Disconnect(t.Context()))
		wantErr(t, a.wait(), mqtt.ErrOutcomeUnknown, false)
		wantErr(t, second.wait(), mqtt.ErrClosed, true)
	}, mqtt.WithMaxRequests(1))
}

// Without reconnect the end of the connection is the client's.
func TestRequestWithoutReconnect(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		a, _ := p.asked("1")
		p.Cut()
		wantErr(t, a.wait(), mqtt.ErrOutcomeUnknown, false)
		wantErr(t, a.wait(), mqtt.ErrConnectionLost, false)
	}, mqtt.WithoutReconnect())
}

// Nobody knows what became of a request at QoS 2 when the session is lost.
func TestRequestAtQoS2WhenTheSessionIsLost(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		a, _ := p.asked("x", mqtt.ExactlyOnce)
		p.renew()
		wantErr(t, a.wait(), mqtt.ErrSessionLost, false)
		p.grant()
		p.warmAgain()
	})
}

// At QoS 0 a request fails offline, unless it may be queued.
func TestRequestAtQoS0Offline(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		p.offline()
		synctest.Wait()
		wantErr(t, p.ask(t.Context(), "x", mqtt.AtMostOnce).wait(), mqtt.ErrNotConnected, true)
		a := p.ask(t.Context(), "x", mqtt.AtMostOnce, mqtt.QueueOffline)
		synctest.Wait()
		p.online()
		p.reply(mqtttest.ReceiveAs[*codec.Publish](p.Script), 0, "y")
		wantReply(t, a, "y")
	})
}

// A client may answer itself.
func TestRequestToItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext)
		sub := subscribe(t, mqtt.Common(c), "service", mqtt.AtLeastOnce)
		go c.Respond(t.Context(), sub, echo)
		m, err := c.Request(endingIn(t, time.Minute), "service", []byte("x"))
		if err != nil || string(m.Payload) != "x" {
			t.Errorf("%s, %v", m.Payload, err)
		}
	})
}
