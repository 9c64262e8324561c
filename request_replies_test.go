package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

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

// When the server has lost the session, the reply subscription is made before requests are published
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

// In a new session the reply subscription comes before the requests that are published again, however many
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
