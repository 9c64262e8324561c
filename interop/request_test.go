package interop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

var requestCount = flag.Int("requests", 5000, "how many requests TestRequestsThroughCuts makes")

// square answers in random order.
func square(_ context.Context, m mqtt.Message) ([]byte, error) {
	var n int
	if _, err := fmt.Sscan(string(m.Payload), &n); err != nil {
		return nil, err
	}
	<-time.After(time.Duration(rand.IntN(10)) * time.Millisecond)
	return fmt.Append(nil, n*n), nil
}

// 64 requests in flight, replies in random order, and both connections cut again and again, in kept sessions: no request
// goes without its reply, and none gets another one's.
func TestRequestsThroughCuts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(*requestCount)*5*time.Millisecond)
	defer cancel()
	server := startMosquitto(t)
	var proxies []*proxy
	var clients []mqtt.ClientV5
	for _, id := range []string{"requester", "responder"} {
		p := startProxy(t, server.port)
		c, err := mqtt.NewClient(ctx, p.url(), quickly, mqtt.WithClientID(id))
		check(t, err)
		defer c.Close()
		proxies, clients = append(proxies, p), append(clients, c)
	}
	requester, responder := clients[0], clients[1]
	sub, err := responder.Subscribe(ctx, "square", mqtt.AtLeastOnce, mqtt.ManualAck)
	check(t, err)
	working, stop := context.WithCancel(ctx)
	var serving, wait sync.WaitGroup
	serving.Go(func() { responder.Respond(working, sub, square, mqtt.Workers(64)) })
	cuts, answered := 0, make(chan struct{}, *requestCount)
	serving.Go(func() { // a cut after every 400 replies, of one connection and of the other in turn
		for replies := 1; working.Err() == nil; replies++ {
			select {
			case <-answered:
			case <-working.Done():
			}
			if replies%400 > 0 {
				continue
			}
			p := proxies[cuts%2]
			p.cut()
			<-time.After(time.Duration(rand.IntN(50)) * time.Millisecond)
			p.mend()
			cuts++
		}
	})
	began := time.Now()
	for worker := range 64 {
		wait.Go(func() {
			for i := worker; i < *requestCount; i += 64 {
				m, err := requester.Request(ctx, "square", fmt.Append(nil, i))
				if want := fmt.Sprint(i * i); err != nil || string(m.Payload) != want {
					t.Errorf("request %d: %q, %v", i, m.Payload, err)
					return
				}
				answered <- struct{}{}
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	stop()
	serving.Wait()
	t.Logf("%d requests in %v, %d cuts, %d late replies", *requestCount, took, cuts, requester.Stats().LateReplies)
	if requester.Stats().Losses == 0 || responder.Stats().Losses == 0 {
		t.Errorf("a connection was never lost: %+v, %+v", requester.Stats(), responder.Stats())
	}
}

// mosquitto_rr, a requester that knows nothing of us, gets its answer, and with an error our user property.
func TestRespondToMosquitto(t *testing.T) {
	rr := find(t, "mosquitto_rr")
	server := startMosquitto(t)
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer c.Close()
	sub, err := c.Subscribe(ctx, "$share/workers/square", mqtt.AtLeastOnce)
	check(t, err)
	go c.Respond(ctx, sub, square, mqtt.Workers(4))
	for request, want := range map[string]string{"12": "144", "x": "petrel-error:expected integer"} {
		out, err := exec.CommandContext(ctx, rr, "-h", "127.0.0.1", "-p", fmt.Sprint(server.port), "-q", "1",
			"-t", "square", "-e", "replies/here", "-m", request, "-F", "%p%P").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("mosquitto_rr says %q (%v), want %q", out, err, want)
		}
	}
}

// Mosquitto and Petrel's broker tell a request that nobody gets.
func TestRequestNobodyGets(t *testing.T) {
	urls, _ := startPetrelBroker(t)
	for _, url := range []string{urls[0], startMosquitto(t).url()} {
		ctx := within(t)
		c, err := mqtt.NewClient(ctx, url)
		check(t, err)
		defer c.Close()
		if _, err := c.Request(ctx, "nobody/home", nil); !errors.Is(err, mqtt.NoMatchingSubscribers) {
			t.Errorf("%s: the error is %v", url, err)
		}
	}
}

// The response topic can be had by an access control list: "pattern" stands for what each client may do.
func TestResponseTopicInAccessControl(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acl")
	rules := "topic readwrite service\npattern read petrel/reply/%c\ntopic write petrel/reply/#\n"
	check(t, os.WriteFile(file, []byte(rules), 0o600))
	server := startMosquitto(t, "acl_file "+file)
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url(), mqtt.WithClientID("r"))
	check(t, err)
	defer c.Close()
	sub, err := c.Subscribe(ctx, "service", mqtt.AtLeastOnce)
	check(t, err)
	go c.Respond(ctx, sub, square)
	m, err := c.Request(ctx, "service", []byte("5"))
	if err != nil || string(m.Payload) != "25" {
		t.Errorf("%s, %v", m.Payload, err)
	}
}

// A service that asks another service for each of its requests, in 8 handlers, with 1,500 requests at once.
func TestNestedRequests(t *testing.T) {
	const requests = 1500
	server := startMosquitto(t)
	ctx := within(t)
	dial := func(opts ...mqtt.OptionV5) mqtt.ClientV5 {
		c, err := mqtt.NewClient(ctx, server.url(), opts...)
		check(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	serve := func(c mqtt.ClientV5, topic string, f func(context.Context, mqtt.Message) ([]byte, error)) {
		sub, err := c.Subscribe(ctx, topic, mqtt.AtLeastOnce)
		check(t, err)
		go c.Respond(ctx, sub, f, mqtt.Workers(8))
	}
	serve(dial(), "back", func(_ context.Context, m mqtt.Message) ([]byte, error) { return m.Payload, nil })
	front := dial()
	serve(front, "front", func(ctx context.Context, m mqtt.Message) ([]byte, error) {
		r, err := front.Request(ctx, "back", m.Payload)
		return r.Payload, err
	})
	user := dial() // it has at most 1,000 requests at a time, which the server's queue for front holds
	var all sync.WaitGroup
	began := time.Now()
	for i := range requests {
		all.Go(func() {
			if m, err := user.Request(ctx, "front", fmt.Append(nil, i)); err != nil || string(m.Payload) != fmt.Sprint(i) {
				t.Errorf("request %d: %q, %v", i, m.Payload, err)
			}
		})
	}
	all.Wait()
	t.Logf("%d requests in %v", requests, time.Since(began).Round(time.Millisecond))
}
