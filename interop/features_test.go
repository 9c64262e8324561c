package interop

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// Retained messages, and what a subscription may say about them.
func TestRetained(t *testing.T) { eachServer(t, testRetained) }

func testRetained(t *testing.T, server anyServer) {
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer c.Close()
	check(t, c.Publish(ctx, "r/1", []byte("kept"), mqtt.AtLeastOnce, mqtt.Retain))
	check(t, c.Publish(ctx, "r/2", []byte("removed"), mqtt.AtLeastOnce, mqtt.Retain))
	check(t, c.Publish(ctx, "r/2", nil, mqtt.AtLeastOnce, mqtt.Retain))
	plain, err := c.Subscribe(ctx, "r/+", mqtt.AtLeastOnce)
	check(t, err)
	m, err := plain.Next(ctx)
	check(t, err)
	if string(m.Payload) != "kept" || !m.Retain {
		t.Errorf("the retained message is %+v", m)
	}
	check(t, c.Publish(ctx, "r/end", []byte("end"), mqtt.AtLeastOnce))
	if got := next(t, ctx, plain); got != "end" {
		t.Errorf("%q was retained too", got)
	}
	check(t, plain.Unsubscribe(ctx))
	published, err := c.Subscribe(ctx, "r/+", mqtt.AtLeastOnce, mqtt.RetainAsPublished, mqtt.SkipRetained)
	check(t, err)
	check(t, c.Publish(ctx, "r/3", []byte("new"), mqtt.AtLeastOnce, mqtt.Retain))
	m, err = published.Next(ctx)
	check(t, err)
	if string(m.Payload) != "new" || !m.Retain {
		t.Errorf("with Retain As Published and without retained messages: %+v", m)
	}
	deaf, err := c.Subscribe(ctx, "local/+", mqtt.AtLeastOnce, mqtt.NoLocal)
	check(t, err)
	other, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer other.Close()
	check(t, c.Publish(ctx, "local/1", []byte("own"), mqtt.AtLeastOnce))
	check(t, other.Publish(ctx, "local/1", []byte("other's"), mqtt.AtLeastOnce))
	if got := next(t, ctx, deaf); got != "other's" {
		t.Errorf("with No Local: %q", got)
	}
}

// The server's Receive Maximum is kept by many publishers together; a server that is sent more disconnects.
func TestReceiveMaximumOfTheServer(t *testing.T) { eachServerAt(t, 3, testReceiveMaximumOfTheServer) }

func testReceiveMaximumOfTheServer(t *testing.T, server anyServer) {
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer c.Close()
	if n := c.ConnAck().ReceiveMaximum; n != 3 {
		t.Fatalf("Receive Maximum %d", n)
	}
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			for range 20 {
				if err := c.Publish(ctx, "t", nil, levels[1+i%2]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if s := c.Stats(); s.Connects != 1 || s.Published != 400 {
		t.Errorf("%+v", s)
	}
}

// A session of an earlier client is taken over by the next one with its identifier, messages included.
func TestEarlierSession(t *testing.T) { eachServer(t, testEarlierSession) }

func testEarlierSession(t *testing.T, server anyServer) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			ctx := within(t)
			id := mqtt.WithClientID("earlier-" + v.name)
			topic := "earlier/" + v.name
			keep := mqtt.WithCleanStart(false)
			begin := func() (mqtt.Client, error) { return v.connect(ctx, server.url(), id, keep) }
			if v.name == "5.0" { // whose sessions do not outlive a client unless asked
				begin = func() (mqtt.Client, error) {
					c, err := mqtt.NewClient(ctx, server.url(), id, keep, mqtt.WithSessionExpiry(time.Hour))
					return mqtt.Common(c), err
				}
			}
			first, err := begin()
			check(t, err)
			_, err = first.Subscribe(ctx, topic, mqtt.ExactlyOnce)
			check(t, err)
			check(t, first.Disconnect(ctx))
			other, err := v.connect(ctx, server.url())
			check(t, err)
			defer other.Close()
			var want []string
			for i := range 20 {
				want = append(want, fmt.Sprint(i))
				check(t, other.Publish(ctx, topic, []byte(want[i]), levels[1+i%2]))
			}
			second, err := v.connect(ctx, server.url(), id, keep)
			check(t, err)
			defer second.Close()
			if !second.SessionPresent() {
				t.Error("no session is present")
			}
			sub, err := second.Subscribe(ctx, topic, mqtt.ExactlyOnce)
			check(t, err)
			var got []string
			for range want {
				got = append(got, next(t, ctx, sub))
			}
			if server.mochi { // in any order
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// Requests and their replies, also by a shared subscription.
func TestRequests(t *testing.T) { eachServer(t, testRequests) }

func testRequests(t *testing.T, server anyServer) {
	ctx := within(t)
	requester, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer requester.Close()
	for _, filter := range []string{"square", "$share/workers/square"} {
		responder, err := mqtt.NewClient(ctx, server.url())
		check(t, err)
		defer responder.Close()
		sub, err := responder.Subscribe(ctx, filter, mqtt.AtLeastOnce)
		check(t, err)
		go responder.Respond(ctx, sub, square, mqtt.Workers(4))
		for i := range 30 { // one after the other: mochi's packet identifiers and ours must not meet
			m, err := requester.Request(ctx, "square", fmt.Append(nil, i))
			check(t, err)
			if string(m.Payload) != fmt.Sprint(i*i) {
				t.Fatalf("request %d: %q", i, m.Payload)
			}
		}
		var failed *mqtt.ResponseError
		if _, err := requester.Request(ctx, "square", []byte("x")); !errors.As(err, &failed) {
			t.Errorf("a request that cannot be answered: %v", err)
		}
		check(t, sub.Unsubscribe(ctx))
	}
}
