package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Tests of DESIGN.md 4.5, the requester's side.

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

// PROTOCOL 30: request, reply and subscription use QoS 1. The reply is acknowledged at once. The next request finds the
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

// Requests share their subscription from the first on, and replies come in any order.
func TestRequestsShareTheSubscription(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		var all []*asking
		for i := range 10 {
			all = append(all, p.ask(t.Context(), fmt.Sprint(i)))
		}
		p.wantSilenceBut(subscribeToR, granted)
		var requests []*codec.Publish
		for range all {
			requests = append(requests, mqtttest.ReceiveAs[*codec.Publish](p.Script))
		}
		for _, q := range slices.Backward(requests) {
			p.reply(q, 0, "reply to "+string(q.Payload))
		}
		for i, a := range all {
			wantReply(t, a, fmt.Sprint("reply to ", i))
		}
		p.wantSilence()
	})
}

// A refused subscription fails the requests that wait for it; the next one tries again.
func TestReplySubscriptionRefused(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		refuse := func(s *codec.Subscribe) *codec.Suback {
			return &codec.Suback{PacketID: s.PacketID, Codes: []codec.ReasonCode{codec.NotAuthorized}, ReasonString: "no"}
		}
		first, second := p.ask(t.Context(), "1"), p.ask(t.Context(), "2")
		p.wantSilenceBut(subscribeToR, refuse)
		for _, a := range []*asking{first, second} {
			var refused *mqtt.SubscribeError
			wantErr(t, a.wait(), mqtt.NotAuthorized, true)
			if !errors.As(a.wait(), &refused) || refused.Failures[0].Filter != repliesToR {
				t.Errorf("the error is %v", a.wait())
			}
		}
		p.warm()
	})
}

// A response topic that another subscription has, and gives up before there is a connection, needs no SUBSCRIBE: then the
// requests do not wait for a SUBACK either.
func TestReplySubscriptionTakesOver(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		other := start(func() (*mqtt.Subscription, error) {
			return p.client.Subscribe(t.Context(), "replies", mqtt.AtLeastOnce)
		})
		p.grant()
		sub := other.value(t)
		p.offline()
		synctest.Wait()
		a := p.ask(t.Context(), "x", &mqtt.PublishProperties{ResponseTopic: "replies"})
		synctest.Wait()
		noErr(t, sub.Unsubscribe(t.Context()))
		p.network.to(p.server)
		p.accept(&codec.Connack{SessionPresent: true})
		p.reply(mqtttest.ReceiveAs[*codec.Publish](p.Script), 0, "y")
		wantReply(t, a, "y")
	})
}

// Nobody has to wait for a SUBACK that is a refusal.
func TestReplySubscriptionRefusedUnheard(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		wantErr(t, p.ask(endingIn(t, time.Second), "1").wait(), context.DeadlineExceeded, true)
		s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		p.Send(&codec.Suback{PacketID: s.PacketID, Codes: []codec.ReasonCode{codec.NotAuthorized}})
		synctest.Wait()
		p.renew()
		p.wantSilence() // no SUBSCRIBE
		p.warm()
	})
}

// The first caller's ctx is not the others'.
func TestReplySubscriptionOutlivesItsFirstCaller(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		first := p.ask(endingIn(t, time.Second), "1")
		synctest.Wait()
		second := p.ask(t.Context(), "2")
		s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		wantErr(t, first.wait(), context.DeadlineExceeded, true)
		second.pending(t, "there is no SUBACK")
		p.Send(granted(s))
		q := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		p.reply(q, 0, "for "+string(q.Payload))
		wantReply(t, second, "for 2")
		p.wantSilence()
	})
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

// PROTOCOL 6: deadlines round up to whole seconds.
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

// Section 4.10.1: the server's Response Information is the basis of the response topic.
func TestResponseInformation(t *testing.T) {
	for _, c := range []struct{ information, id, want string }{
		{"", "r", "petrel/reply/r"},
		{"replies", "r", "replies/r"},
		{"replies/of/r/", "r", "replies/of/r/r"},
		{"", "a/b+c#d%e", "petrel/reply/a%2Fb%2Bc%23d%25e"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newRequester(t, codec.ConnackProperties{ResponseInformation: c.information}, mqtt.WithClientID(c.id))
			a := p.ask(t.Context(), "x")
			p.wantPackets("SUBSCRIBE " + c.want + " q1 rh2")
			p.client.Close()
			wantErr(t, a.wait(), mqtt.ErrClosed, true)
		})
	}
}

// A server's useless Response Information is no reason to subscribe to what others get.
func TestResponseInformationWithWildcard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRequester(t, codec.ConnackProperties{ResponseInformation: "#"})
		var wrong *mqtt.TopicError
		if err := p.ask(t.Context(), "x").wait(); !errors.As(err, &wrong) || !mqtt.SafeToRetry(err) {
			t.Errorf("the error is %v", err)
		}
		p.wantSilence()
		a := p.ask(t.Context(), "x", &mqtt.PublishProperties{ResponseTopic: "mine"})
		p.grant()
		p.reply(mqtttest.ReceiveAs[*codec.Publish](p.Script), 0, "y")
		wantReply(t, a, "y")
	})
}

// Another server may suggest another topic; who waits for a reply on the old one goes on.
func TestResponseInformationChanges(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		old, q := p.asked("old")
		p.Send(&codec.Puback{PacketID: q.PacketID})
		synctest.Wait()
		p.Cut()
		p.accept(&codec.Connack{SessionPresent: true, Properties: codec.ConnackProperties{ResponseInformation: "new"}})
		p.grant()
		a := p.ask(t.Context(), "new")
		p.wantSilenceBut("SUBSCRIBE new/r q1 rh2", granted)
		p.reply(mqtttest.ReceiveAs[*codec.Publish](p.Script), 0, "y")
		wantReply(t, a, "y")
		p.Send(replyTo(q, 0, "z"))
		wantReply(t, old, "z")
	})
}

// Without a connection yet, a request waits for the server's word on the response topic.
func TestRequestBeforeTheFirstConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t, mqtttest.ResponseInformation("given"))
		respond(t, b, "service", echo)
		network := newTurns(b)
		network.via(refuse)
		c := reconnectingV5(t, network.dial, mqtt.WithConnectInBackground(), mqtt.WithClientID(""))
		wantErr(t, startErr(func() error {
			_, err := c.Request(endingIn(t, time.Second), "service", nil)
			return err
		}).wait(), context.DeadlineExceeded, true)
		a := start(func() (mqtt.Message, error) { return c.Request(t.Context(), "service", nil) })
		a.pending(t, "there is no connection")
		network.to(b)
		if got := a.value(t); got.Topic != "given/"+c.ClientID() {
			t.Errorf("the reply comes on %q", got.Topic)
		}
	})
}

// Requests may share a response topic of the application's. Correlation data must differ on each.
func TestResponseTopicGiven(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		on := func(topic, correlation string) *mqtt.PublishProperties {
			return &mqtt.PublishProperties{ResponseTopic: topic, CorrelationData: []byte(correlation), ContentType: "text"}
		}
		first := p.ask(t.Context(), "1", on("mine", "a"))
		p.wantSilenceBut("SUBSCRIBE mine q1 rh2", granted)
		q1 := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if got := q1.Properties; got.ResponseTopic != "mine" || string(got.CorrelationData) != "a" || got.ContentType != "text" {
			t.Errorf("the request has %+v", got)
		}
		second, q2 := p.asked("2", on("mine", "b"))
		third := p.ask(t.Context(), "3", on("other", "a"))
		p.wantSilenceBut("SUBSCRIBE other q1 rh2", granted)
		q3 := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		if err := p.ask(t.Context(), "4", on("mine", "a")).wait(); !mqtt.SafeToRetry(err) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("a duplicate: %v", err)
		}
		for _, q := range []*codec.Publish{q3, q2, q1} {
			p.reply(q, 0, "to "+string(q.Payload))
		}
		wantReply(t, first, "to 1")
		wantReply(t, second, "to 2")
		wantReply(t, third, "to 3")
		again, q := p.asked("5", on("mine", "a")) // it is free
		p.reply(q, 0, "to 5")
		wantReply(t, again, "to 5")
		wantLate(t, p.client, 0)
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

// The response topics that are not in use are given up beyond 64, the one used longest ago first.
func TestManyResponseTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		respond(t, b, "service", echo)
		c := reconnectingV5(t, b.DialContext)
		left := watchUnsubscribes(b)
		ask := func(topic string) error {
			_, err := c.Request(endingIn(t, time.Minute), "service", nil, &mqtt.PublishProperties{ResponseTopic: topic})
			return err
		}
		for i := range 64 {
			noErr(t, ask(fmt.Sprint("r/", i)))
		}
		left.want(t)
		noErr(t, ask("r/0"))
		noErr(t, ask("r/64"))
		noErr(t, ask("r/65"))
		left.want(t, "[r/1]", "[r/2]")
		noErr(t, ask("r/1"))
		left.want(t, "[r/3]")

		subscribe(t, mqtt.Common(c), "silence")
		var waiting []*running[mqtt.Message]
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 64 {
			waiting = append(waiting, start(func() (mqtt.Message, error) {
				return c.Request(ctx, "silence", nil, &mqtt.PublishProperties{ResponseTopic: fmt.Sprint("w/", i)})
			}))
		}
		synctest.Wait()
		if err := ask("w/64"); !mqtt.SafeToRetry(err) {
			t.Errorf("all are in use: %v", err)
		}
		noErr(t, ask("w/0"))
		cancel()
		for _, w := range waiting {
			wantErr(t, w.wait(), context.Canceled, false)
		}
		noErr(t, ask("w/64"))
	})
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

// PROTOCOL 29: Disconnect refuses a request that waits for a place at once. One that was sent it waits for like any message.
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

// PROTOCOL 20, 22: when the server has lost the session, the reply subscription is made before requests are published
// again, and new requests wait until it is granted.
func TestRequestsWhenTheSessionIsLost(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		inFlight, _ := p.asked("in flight")
		acknowledged, q := p.asked("acknowledged")
		p.Send(&codec.Puback{PacketID: q.PacketID})
		synctest.Wait()
		p.Cut()
		synctest.Wait()
		queued := p.ask(t.Context(), "queued")
		synctest.Wait()
		p.accept(&codec.Connack{})
		s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		if got := brief(s); got != subscribeToR {
			t.Errorf("the client sends %s", got)
		}
		q1 := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		q2 := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		afresh := p.ask(t.Context(), "new")
		p.wantSilence()
		p.Send(granted(s))
		q3 := mqtttest.ReceiveAs[*codec.Publish](p.Script)
		p.Send(replyTo(q, 0, "to "+string(q.Payload)))
		for _, q := range []*codec.Publish{q1, q2, q3} {
			p.reply(q, 0, "to "+string(q.Payload))
		}
		wantReply(t, inFlight, "to in flight")
		wantReply(t, acknowledged, "to acknowledged")
		wantReply(t, queued, "to queued")
		wantReply(t, afresh, "to new")
	}, mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Second}))
}

// A server that refuses the subscription in a new session fails the requests that wait for replies.
func TestReplySubscriptionRefusedInANewSession(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		inFlight, _ := p.asked("in flight")
		acknowledged, q := p.asked("acknowledged")
		p.Send(&codec.Puback{PacketID: q.PacketID})
		synctest.Wait()
		p.renew()
		s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		afresh := p.ask(t.Context(), "new")
		synctest.Wait()
		p.Send(&codec.Suback{PacketID: s.PacketID, Codes: []codec.ReasonCode{codec.NotAuthorized}})
		for _, a := range []*asking{inFlight, acknowledged} {
			wantErr(t, a.wait(), mqtt.NotAuthorized, false)
			wantErr(t, a.wait(), mqtt.ErrOutcomeUnknown, false)
		}
		wantErr(t, afresh.wait(), mqtt.NotAuthorized, true)
		mqtttest.ReceiveAs[*codec.Publish](p.Script) // in flight; the other one had been acknowledged
		p.warm()
	})
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

// The subscription of a kept session is made again nevertheless, and no request waits for it.
func TestRequestsWhenTheSessionIsKept(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		a, q := p.asked("x")
		p.resume()
		p.wantPackets(subscribeToR, fmt.Sprintf("PUBLISH %d service q1 dup", q.PacketID))
		p.reply(q, 0, "y")
		wantReply(t, a, "y")
		p.warmAgain()
	})
}

// A subscription of the application that gets the replies too gets its own copy.
func TestOthersGetRepliesToo(t *testing.T) {
	for _, opts := range [][]mqtttest.Option{nil, {mqtttest.MergeOverlapping()}} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t, opts...)
			respond(t, b, "service", echo)
			c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("r"))
			all := subscribe(t, mqtt.Common(c), "petrel/#", mqtt.AtLeastOnce)
			ask := func(payload string) {
				t.Helper()
				m, err := c.Request(endingIn(t, time.Minute), "service", []byte(payload))
				if err != nil || string(m.Payload) != payload {
					t.Errorf("%s, %v", m.Payload, err)
				}
			}
			ask("1")
			same := subscribe(t, mqtt.Common(c), repliesToR, mqtt.AtLeastOnce)
			ask("2")
			wantArrived(t, all, repliesToR+"=1 q1", repliesToR+"=2 q1")
			wantArrived(t, same, repliesToR+"=2 q1")
			noErr(t, same.Unsubscribe(t.Context()))
			ask("3")
			wantLate(t, c, 0)
			err := c.Unsubscribe(t.Context(), repliesToR)
			if !mqtt.SafeToRetry(err) {
				t.Errorf("unsubscribing the response topic: %v", err)
			}
		})
	}
}

// A filter of the application's that excludes what the client itself publishes cannot be the response topic too.
func TestResponseTopicSubscribedOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext)
		sub := subscribeV5(t, c, "mine", mqtt.NoLocal)
		to := &mqtt.PublishProperties{ResponseTopic: "mine"}
		if _, err := c.Request(t.Context(), "service", nil, to); !mqtt.SafeToRetry(err) || !strings.Contains(err.Error(), `"mine"`) {
			t.Errorf("the error is %v", err)
		}
		noErr(t, sub.Unsubscribe(t.Context()))
		respond(t, b, "service", echo)
		_, err := c.Request(endingIn(t, time.Minute), "service", nil, to)
		noErr(t, err)
	})
}

// What came for an earlier client with this identifier answers none of our requests, and holds up nothing.
func TestRepliesToAnEarlierClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		respond(t, b, "service", echo)
		options := []mqtt.OptionV5{mqtt.WithClientID("r"), mqtt.WithSessionExpiry(time.Hour), mqtt.WithDialer(b.DialContext)}
		earlier, err := mqtt.NewClient(t.Context(), "mqtt://test", options...)
		noErr(t, err)
		_, err = earlier.Request(t.Context(), "service", nil)
		noErr(t, err)
		earlier.Close()
		b.Publish(text(repliesToR, "old", 1))
		c := reconnectingV5(t, b.DialContext, append(options, mqtt.WithCleanStart(false))...)
		b.Publish(text(repliesToR, "old", 1))
		synctest.Wait()
		if s := c.Stats(); s.Parked != 2 {
			t.Errorf("%+v", s)
		}
		_, err = c.Request(endingIn(t, time.Minute), "service", nil)
		noErr(t, err)
		synctest.Wait()
		if s := c.Stats(); s.Parked != 0 || s.Unacknowledged != 0 || s.Unmatched != 2 {
			t.Errorf("%+v", s)
		}
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

// A server without subscription identifiers sends a copy for each filter: the second one is late.
func TestRequestWithoutSubscriptionIdentifiers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t, mqtttest.NoSubscriptionIdentifiers())
		respond(t, b, "service", echo)
		c := reconnectingV5(t, b.DialContext)
		subscribe(t, mqtt.Common(c), "petrel/#", mqtt.AtLeastOnce)
		_, err := c.Request(endingIn(t, time.Minute), "service", nil)
		noErr(t, err)
		wantLate(t, c, 1)
	})
}

// If the next server does not support the reply subscription, the requests that were sent end: their outcome is
// unknown.
func TestReplySubscriptionCannotBeMadeAgain(t *testing.T) {
	requesting(t, func(t *testing.T, p *requester) {
		p.warm()
		a, q := p.asked("acknowledged")
		p.Send(&codec.Puback{PacketID: q.PacketID})
		synctest.Wait()
		p.Cut()
		p.accept(&codec.Connack{Properties: codec.ConnackProperties{MaximumPacketSize: 20}})
		wantErr(t, a.wait(), mqtt.PacketTooLarge, false)
		wantErr(t, a.wait(), mqtt.ErrOutcomeUnknown, false)
	})
}

// PROTOCOL 20: in a new session the reply subscription comes before the requests that are published again, however many
// subscriptions have to be made again before.
func TestReplySubscriptionBeforeManyOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("r"))
		filters := make([]string, 2000)
		for i := range filters {
			filters[i] = fmt.Sprint("many/", i)
		}
		subscribeV5(t, c, "one", mqtt.Also(mqtt.AtLeastOnce, filters...))
		b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true, Times: 1})
		a := start(func() (mqtt.Message, error) { return c.Request(endingIn(t, time.Minute), "service", nil) })
		synctest.Wait()
		var seen []string
		b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if s, ok := p.(*codec.Subscribe); !outbound && ok && s.Filters[0].Filter == repliesToR || !outbound && p.Type() == codec.PUBLISH {
				seen = append(seen, p.Type().String())
			}
			return true
		})
		b.Forget("r")
		b.Cut("r")
		wantErr(t, a.wait(), context.DeadlineExceeded, false)
		synctest.Wait()
		if fmt.Sprint(seen) != "[SUBSCRIBE PUBLISH]" {
			t.Errorf("the server gets %v", seen)
		}
	})
}

// nesting is a front service that asks a backend for each of its own messages, in 8 handlers.
type nesting struct {
	broker *mqtttest.Broker
	front  mqtt.ClientV5
}

func startNesting(t *testing.T, opts ...mqtt.OptionV5) *nesting {
	b := mqtttest.NewBroker(t)
	backend := reconnectingV5(t, b.DialContext)
	sub := subscribeV5(t, backend, "back", mqtt.AtLeastOnce)
	go backend.Respond(t.Context(), sub, echo, mqtt.Workers(8))
	n := &nesting{b, reconnectingV5(t, b.DialContext, append(opts, mqtt.WithClientID("front"))...)}
	_, err := n.front.Request(t.Context(), "back", nil) // the reply subscription exists before the other
	noErr(t, err)
	return n
}

// A handler waits for a reply while its own message and more than a thousand others are not acknowledged.
func TestRequestInsideHandler(t *testing.T) {
	for _, burst := range []int{1, 1000, 1500} {
		t.Run(fmt.Sprint(burst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNesting(t)
				sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce)
				for i := range burst {
					n.broker.Publish(text("front", fmt.Sprint(i), 1))
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				handled := 0
				began := time.Now()
				noErr(t, sub.Handle(ctx, func(ctx context.Context, m mqtt.Message) error {
					_, err := n.front.Request(endingIn(t, 10*time.Second), "back", m.Payload)
					if err != nil {
						t.Error(err)
					}
					if handled++; handled == burst {
						cancel()
					}
					return nil
				}))
				if took := time.Since(began); handled != burst || took > time.Second {
					t.Errorf("%d of %d are handled in %v", handled, burst, took)
				}
			})
		})
	}
}

// The same one level further out: a Respond handler asks another service.
func TestRequestInsideRespond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNesting(t)
		sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce)
		go n.front.Respond(t.Context(), sub, func(ctx context.Context, m mqtt.Message) ([]byte, error) {
			r, err := n.front.Request(ctx, "back", m.Payload)
			return r.Payload, err
		}, mqtt.Workers(8))
		user := reconnectingV5(t, n.broker.DialContext, mqtt.WithMaxRequests(5000))
		var all sync.WaitGroup
		for range 1500 {
			all.Go(func() {
				if _, err := user.Request(endingIn(t, time.Minute), "front", nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
}

// WithReplyQoS decides, whatever the client subscribes to; the error of a request that got no reply for that reason says so.
func TestReplyQoS(t *testing.T) {
	for name, c := range map[string]struct {
		opts         []mqtt.OptionV5
		before, with byte // QoS of the reply subscription without another subscription, and with one at QoS 1
	}{
		"by default":  {nil, 1, 0},
		"AtMostOnce":  {[]mqtt.OptionV5{mqtt.WithReplyQoS(mqtt.AtMostOnce)}, 0, 0},
		"AtLeastOnce": {[]mqtt.OptionV5{mqtt.WithReplyQoS(mqtt.AtLeastOnce)}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startNesting(t, c.opts...)
				reply := func() byte {
					m, err := n.front.Request(t.Context(), "back", nil)
					noErr(t, err)
					return byte(m.QoS)
				}
				if got := reply(); got != c.before {
					t.Errorf("the reply comes at QoS %d, want %d", got, c.before)
				}
				subscribeV5(t, n.front, "zero", mqtt.AtMostOnce)
				if got := reply(); got != c.before {
					t.Errorf("beside a subscription at QoS 0 it comes at QoS %d, want %d", got, c.before)
				}
				subscribeV5(t, n.front, "one", mqtt.AtLeastOnce)
				if got := reply(); got != c.with {
					t.Errorf("beside a subscription at QoS 1 it comes at QoS %d, want %d", got, c.with)
				}
				n.broker.Cut("front")
				time.Sleep(time.Minute)
				if got := reply(); got != c.with {
					t.Errorf("after a reconnect it comes at QoS %d, want %d", got, c.with)
				}
			})
		})
	}
	t.Run("full", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce), mqtt.WithReceiveMaximum(2))
			subscribeV5(t, n.front, "front", mqtt.AtLeastOnce, mqtt.ManualAck)
			for range 2 {
				n.broker.Publish(text("front", "", 1))
			}
			synctest.Wait()
			_, err := n.front.Request(endingIn(t, time.Second), "back", nil)
			wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
			wantText(t, err, "cannot come while 2 messages wait for this client's acknowledgement")
		})
	})
	t.Run("full at the server, perhaps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce))
			subscribeV5(t, n.front, "front", mqtt.AtLeastOnce, mqtt.ManualAck)
			subscribeV5(t, n.front, "silent")
			n.broker.Publish(text("front", "", 1))
			synctest.Wait()
			_, err := n.front.Request(endingIn(t, time.Second), "silent", nil)
			wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
			wantText(t, err, "cannot come if the server allows no more messages than wait for this client's acknowledgement (1)")
		})
	})
}

// Where replies need room in the window, a handler that waits for one with a ctx that ends late gets an error all the same,
// and so does every request after it, without being sent, until something is acknowledged.
func TestRequestStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce), mqtt.WithReceiveMaximum(2))
		sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce, mqtt.ManualAck)
		for range 2 {
			n.broker.Publish(text("front", "", 1))
		}
		first, second := <-sub.Messages(), <-sub.Messages()
		began := time.Now()
		_, err := n.front.Request(endingIn(t, time.Hour), "back", nil)
		wantErr(t, err, mqtt.ErrOutcomeUnknown, false)
		wantText(t, err, "2 wait for this client's acknowledgement")
		if took := time.Since(began); took < 10*time.Second || took > 15*time.Second {
			t.Errorf("the request fails after %v", took)
		}
		again := time.Now()
		_, err = n.front.Request(endingIn(t, time.Hour), "back", nil)
		if !mqtt.SafeToRetry(err) || time.Since(again) > 0 {
			t.Errorf("the next one fails after %v: %v", time.Since(again), err)
		}
		wantText(t, err, "2 wait for this client's acknowledgement")
		noErr(t, first.Ack())
		noErr(t, second.Ack())
		_, err = n.front.Request(endingIn(t, time.Second), "back", nil)
		noErr(t, err)
	})
}

// As long as something is acknowledged the requests wait.
func TestRequestWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNesting(t, mqtt.WithReplyQoS(mqtt.AtLeastOnce), mqtt.WithReceiveMaximum(1))
		sub := subscribeV5(t, n.front, "front", mqtt.AtLeastOnce)
		for range 10 {
			n.broker.Publish(text("front", "", 1))
		}
		synctest.Wait()
		asking := start(func() (mqtt.Message, error) { return n.front.Request(t.Context(), "back", nil) })
		ctx, cancel := context.WithCancel(t.Context())
		handling := startErr(func() error {
			return sub.Handle(ctx, func(context.Context, mqtt.Message) error { time.Sleep(9 * time.Second); return nil })
		})
		asking.value(t)
		cancel()
		handling.wait()
	})
}

func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("the error does not say %q: %v", text, err)
	}
}
