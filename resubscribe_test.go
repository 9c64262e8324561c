package mqtt_test

import (
	"errors"
	"fmt"
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

// Session gone. SUBSCRIBEs as the user gave them, oldest first, eight filters a packet at most, before
// publishes.
func TestResubscribeSessionGone(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"))
		b.Publish(retained("kept", "1", 1))
		sub := subscribe(t, c, "kept", mqtt.AtLeastOnce)
		var more []string
		for i := range 20 {
			more = append(more, fmt.Sprintf("f/%02d", i))
		}
		many := subscribe(t, c, "first", mqtt.Also(2, more...))
		wantArrived(t, sub, "kept=1 q1 retain")
		sent := watch(b, func(p codec.Packet) string { return brief(p) })
		b.Offline()
		b.Publish(retained("kept", "2", 1))
		synctest.Wait()
		d := c.PublishAsync(t.Context(), "f/03", []byte("x"), mqtt.AtLeastOnce)
		b.Forget("c")
		b.Online()
		time.Sleep(2 * time.Minute)
		got := sent.take()
		if v == codec.V311 {
			var packets []string
			for part := range slices.Chunk(append([]string{"first"}, more...), 8) {
				for i, f := range part {
					if part[i] += " q2 rh0"; f == "first" {
						part[i] = "first q0 rh0"
					}
				}
				packets = append(packets, "SUBSCRIBE "+strings.Join(part, ", "))
			}
			want := append(append([]string{"CONNECT", "SUBSCRIBE kept q1 rh0"}, packets...), "PUBLISH 9 f/03 q1")
			if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
				t.Errorf("sent %q\nwant %q", got, want)
			}
		}
		publish := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, "PUBLISH") })
		last := slices.IndexFunc(got, func(s string) bool { return strings.HasSuffix(s, "f/19 q2 rh0") })
		if publish < last || last < 0 {
			t.Errorf("SUBSCRIBEs go before publishes: %q", got)
		}
		wantFate(t, d, nil)
		wantArrived(t, sub, "kept=2 q1 retain")
		wantArrived(t, many, "f/03=x q1")
	})
}

// Session present. On MQTT 5 SUBSCRIBEs are sent again all the same, unawaited, without retained messages;
// on 3.1.1 only WithResubscribeOnResume does that.
func TestResubscribeSessionPresent(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		subscribed(t, p.client, p.Script, "a", mqtt.AtLeastOnce)
		d := p.publish("t", 1)
		p.wantPackets("PUBLISH 2 t q1")
		p.resume()
		if v == codec.V5 {
			p.wantPackets("SUBSCRIBE a q1 rh1")
		}
		p.wantPackets("PUBLISH 2 t q1 dup")
		p.wantSilence()
		p.Send(&codec.Puback{PacketID: 2})
		wantFate(t, d, nil)
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V311, mqtt.WithResubscribeOnResume())
		subscribed(t, p.client, p.Script, "a", mqtt.AtLeastOnce)
		p.resume()
		p.wantPackets("SUBSCRIBE a q1 rh0")
	})
}

// What is asked of retained messages.
func TestResubscribeRetained(t *testing.T) {
	for _, test := range []struct {
		name          string
		opts          []mqtt.SubscribeOptionV5
		present, gone byte
	}{
		{"default", nil, 1, 0},
		{"if new", []mqtt.SubscribeOptionV5{mqtt.SendRetainedIfNew}, 1, 1},
		{"skip", []mqtt.SubscribeOptionV5{mqtt.SkipRetained}, 2, 2},
		{"not again", []mqtt.SubscribeOptionV5{mqtt.NoRetainedOnResubscribe}, 2, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t)
				c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
				subscribeV5(t, c, "a", test.opts...)
				sent := watchSubscribes(b)
				b.Cut()
				time.Sleep(time.Minute)
				sent.want(t, fmt.Sprintf("a q0 rh%d", test.present))
				b.Forget("c")
				time.Sleep(time.Minute)
				sent.want(t, fmt.Sprintf("a q0 rh%d", test.gone))
			})
		})
	}
}

// A filter that the server refuses when the subscription is made again ends the subscription with a
// *SubscribeError, and gives its other filters back. Others go on.
func TestResubscribeRefused(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithClientID("c"))
		refused := subscribe(t, c, "a", mqtt.Also(1, "b"))
		other := subscribe(t, c, "c", mqtt.AtLeastOnce)
		left := watchUnsubscribes(b)
		b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if ack, ok := p.(*codec.Suback); ok && len(ack.Codes) > 0 {
				if v == codec.V311 && len(ack.Codes) == 2 {
					ack.Codes[0] = codec.UnspecifiedError
				}
			}
			return true
		})
		if v == codec.V5 {
			b.Fault(mqtttest.Fault{Packet: "SUBACK", Outbound: true, Reason: byte(codec.NotAuthorized), Times: 1})
		}
		b.Forget("c")
		time.Sleep(time.Minute)
		var e *mqtt.SubscribeError
		if err := refused.Err(); !errors.As(err, &e) || len(e.Failures) != 1 || e.Failures[0].Filter != "a" {
			t.Fatalf("the subscription ends with %v", err)
		}
		wantClosed(t, refused)
		left.want(t, "[b]")
		b.Publish(text("c", "x", 1))
		b.Publish(text("b", "x", 1))
		wantArrived(t, other, "c=x q1")
		if s := c.Stats(); s.Unmatched != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A server that has kept the session and refuses a SUBSCRIBE that is made again has the filter still: it is
// unsubscribed, because the subscription has ended.
func TestResubscribeRefusedSessionPresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, codec.V5, b.DialContext, mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "SUBSCRIBE", Times: 1, Reason: byte(mqtt.NotAuthorized)})
		sent := watchUnsubscribes(b)
		b.Cut("c")
		<-sub.Done()
		if err := sub.Err(); !errors.Is(err, mqtt.NotAuthorized) {
			t.Errorf("the subscription ends with %v", err)
		}
		sent.want(t, "[t]")
	})
}

// A server that comes back without what a filter needs gets no SUBSCRIBE that it would have to end the connection for.
func TestResubscribeUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, poor := mqtttest.NewBroker(t), mqtttest.NewBroker(t, mqtttest.NoWildcards(), mqtttest.NoSharedSubscriptions())
		turns := newTurns(full)
		c := reconnectingV5(t, turns.dial, mqtt.WithClientID("c"))
		wild := subscribeV5(t, c, "a/+")
		shared := subscribeV5(t, c, "$share/g/a")
		plain := subscribeV5(t, c, "a/b", mqtt.AtLeastOnce)
		turns.to(poor)
		full.Offline()
		time.Sleep(time.Minute)
		for sub, code := range map[*mqtt.Subscription]mqtt.ReasonCode{
			wild: mqtt.WildcardSubscriptionsNotSupported, shared: mqtt.SharedSubscriptionsNotSupported,
		} {
			if err := sub.Err(); !errors.Is(err, code) {
				t.Errorf("%v ends with %v, want %v", sub.Filters(), err, code)
			}
		}
		poor.Publish(text("a/b", "x", 1))
		wantArrived(t, plain, "a/b=x q1")
	})
}

// A SUBSCRIBE that is made again and cut before it arrived is made again once more, on 3.1.1 too, although the server
// says then that it has a session: it is the new one, without the subscription.
func TestResubscribeCut(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "SUBSCRIBE", Drop: true, Cut: true, Times: 1})
		b.Forget("c")
		time.Sleep(time.Minute)
		if !c.SessionPresent() || c.Stats().Connects != 3 {
			t.Fatalf("%v, %+v", c.SessionPresent(), c.Stats())
		}
		b.Publish(text("t", "x", 1))
		wantArrived(t, sub, "t=x q1")
	})
}

// A Subscribe that is cut before SUBACK is sent again, until its ctx ends.
func TestSubscribeAcrossCut(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := newPair(t, v)
		sub := start(func() (*mqtt.Subscription, error) { return p.client.Subscribe(t.Context(), "a", mqtt.AtLeastOnce) })
		p.wantPackets("SUBSCRIBE a q1 rh0")
		p.resume()
		p.wantPackets("SUBSCRIBE a q1 rh0")
		sub.pending(t, "SUBACK has not come")
		p.renew()
		s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		p.Send(granted(s))
		if f := sub.value(t).Filters(); len(f) != 1 || f[0].Granted != 1 {
			t.Errorf("%+v", f)
		}
		p.wantSilence()
	})
}

// However many filters are subscribed again, a thousand SUBSCRIBEs are on their way at a time: there may be more filters
// than packet identifiers.
func TestResubscribeThousandsOfFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const subscriptions, filters = 3, 1000
		b := mqtttest.NewBroker(t)
		c := reconnectingV5(t, b.DialContext, mqtt.WithClientID("c"))
		var subs []*mqtt.Subscription
		for i := range subscriptions {
			more := make([]string, filters-1)
			for n := range more {
				more[n] = fmt.Sprintf("%d/%d", i, n)
			}
			subs = append(subs, subscribeV5(t, c, fmt.Sprintf("%d/last", i), mqtt.AtLeastOnce, mqtt.Also(mqtt.AtLeastOnce, more...)))
		}
		var mu sync.Mutex
		var unanswered, most int
		b.Intercept(func(_ string, _ bool, p codec.Packet) bool {
			mu.Lock()
			defer mu.Unlock()
			switch p.(type) {
			case *codec.Subscribe:
				unanswered++
				most = max(most, unanswered)
			case *codec.Suback:
				unanswered--
			}
			return true
		})
		b.Forget("c")
		noErr(t, c.Reconnect(t.Context()))
		synctest.Wait()
		if most > 1000 || most < 10 {
			t.Errorf("at most %d SUBSCRIBEs without an answer", most)
		}
		for i, s := range subs {
			noErr(t, s.Err())
			b.Publish(text(fmt.Sprintf("%d/%d", i, i), "x", 1))
			wantArrived(t, s, fmt.Sprintf("%d/%d=x q1", i, i))
		}
	})
}

// A server that has lost the session begins a new one, and the connection is cut before its CONNACK: at the next connect
// a session is present, but without the subscriptions.
func TestSessionRenewedUnseen(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, keptSession(v), mqtt.WithClientID("c"))
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce)
		b.Fault(mqtttest.Fault{Packet: "CONNACK", Outbound: true, Drop: true, Cut: true, Times: 1})
		b.Forget("c")
		time.Sleep(time.Minute)
		if !c.SessionPresent() || c.Stats().Connects != 2 {
			t.Fatalf("%v, %+v", c.SessionPresent(), c.Stats())
		}
		b.Publish(text("t", "x", 1))
		wantArrived(t, sub, "t=x q1")
	})
}

// After a CONNECT without an answer the server may have begun a session without the subscriptions. As soon as a message
// shows that it has not, one that matches two filters of a subscription comes once again.
func TestSessionKeptUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, codec.V5, b.DialContext, mqtt.WithClientID("c"))
		sub := subscribe(t, c, "+/+", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/#", "#"))
		b.Fault(mqtttest.Fault{Packet: "CONNACK", Outbound: true, Drop: true, Cut: true, Times: 1})
		b.Cut("c")
		b.Publish(text("a/b", "x", 2))
		b.Publish(text("a/b", "y", 2))
		time.Sleep(time.Minute)
		if !c.SessionPresent() || c.Stats().Connects != 2 {
			t.Fatalf("%v, %+v", c.SessionPresent(), c.Stats())
		}
		wantArrived(t, sub, "a/b=x q2 dup", "a/b=y q2 dup")
	})
}

// A message that matches two filters of a subscription comes once, also when a CONNECT got no answer between its copies: a
// message that the server sends again shows that it has kept the session, and with it both filters, even if their
// SUBACKs never came.
func TestResumeBetweenCopies(t *testing.T) {
	for _, c := range []struct {
		name           string
		first, second  string // the filters of the copies of the message
		answered, lost bool   // whether SUBACKs came before the cut, and a CONNECT got no answer
	}{
		{"for the first filter first", "a/+", "a/b", false, false},
		{"for the second filter first", "a/b", "a/+", false, false},
		{"for the first filter first, and a CONNECT", "a/+", "a/b", false, true},
		{"for the second filter first, and a CONNECT", "a/b", "a/+", false, true},
		{"granted, and a CONNECT", "a/+", "a/b", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, codec.V5)
				subscribing := start(func() (*mqtt.Subscription, error) {
					return p.client.Subscribe(t.Context(), "a/+", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/b"))
				})
				ids := map[string]uint32{}
				for range 2 {
					s := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
					ids[s.Filters[0].Filter] = s.SubscriptionIdentifier
					if c.answered {
						p.Send(granted(s))
					}
				}
				message := func(dup bool, id uint16, payload, filter string) *codec.Publish {
					return &codec.Publish{
						Topic: "a/b", QoS: 2, Dup: dup, PacketID: id, Payload: []byte(payload),
						SubscriptionIdentifiers: []uint32{ids[filter]},
					}
				}
				p.Send(message(false, 1, "x", c.first), message(false, 2, "x", c.second), message(false, 3, "M", c.first))
				synctest.Wait()
				p.Cut()
				if c.lost {
					s := p.server.Accept()
					mqtttest.ReceiveAs[*codec.Connect](s)
					s.Close()
				}
				p.accept(&codec.Connack{SessionPresent: true})
				p.Send(message(true, 1, "x", c.first), message(true, 2, "x", c.second), message(true, 3, "M", c.first))
				p.Send(message(false, 4, "M", c.second))
				for subscribed := 0; subscribed < 2; {
					if s, ok := p.Receive().(*codec.Subscribe); ok {
						p.Send(granted(s))
						subscribed++
					}
				}
				n := 0
				for _, m := range arrived(subscribing.value(t)) {
					if string(m.Payload) == "M" {
						n++
					}
				}
				if n != 1 {
					t.Errorf("it comes %d times", n)
				}
			})
		})
	}
}

// A message that comes again ends the doubt, after a CONNECT without an answer, whether the server has the filters, although
// it is for nobody: a new message that matches two of them comes once, also if its copies come before the SUBACKs.
func TestResumeProvedByRepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, codec.V5)
		subscribing := start(func() (*mqtt.Subscription, error) {
			return p.client.Subscribe(t.Context(), "a/+", mqtt.ExactlyOnce, mqtt.Also(mqtt.ExactlyOnce, "a/b"))
		})
		identifiers := func(grant bool) (ids []uint32) {
			for len(ids) < 2 {
				if s, ok := p.Receive().(*codec.Subscribe); ok {
					ids = append(ids, s.SubscriptionIdentifier)
					if grant {
						p.Send(granted(s))
					}
				}
			}
			return ids
		}
		message := func(dup bool, id uint16, payload string, identifier uint32) {
			p.Send(&codec.Publish{
				Topic: "a/b", QoS: 2, Dup: dup, PacketID: id, Payload: []byte(payload), SubscriptionIdentifiers: []uint32{identifier},
			})
		}
		old := identifiers(true)
		sub := subscribing.value(t)
		message(false, 1, "old", old[0])
		synctest.Wait()
		p.Cut()
		s := p.server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Close()
		p.accept(&codec.Connack{SessionPresent: true})
		message(true, 1, "old", old[0])
		ids := identifiers(false)
		message(false, 2, "new", ids[1])
		message(false, 3, "new", ids[0])
		wantArrived(t, sub, "a/b=old q2", "a/b=new q2")
	})
}
