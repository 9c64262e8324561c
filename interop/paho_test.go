package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho5 "github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/petrel-mqtt/mqtt"
)

// paho is a client of another project, of either version. Its session is kept, and its will goes to will/{client identifier}.
type paho struct {
	publish   func(topic, payload string, qos byte) error // returns once it is acknowledged
	subscribe func(filter string, qos byte) error
	leave     func() // in an orderly way
	conn      net.Conn

	mu  sync.Mutex
	got []string // topic and payload of what came
}

func (p *paho) take(topic string, payload []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, topic+" "+string(payload))
}

// wants waits for messages. More may not come, and not in another order.
func (p *paho) wants(t *testing.T, want ...string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		n := len(p.got)
		p.mu.Unlock()
		if n >= len(want) {
			break
		}
	}
	time.Sleep(50 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.got, want) {
		t.Errorf("got %q, want %q", p.got, want)
	}
}

var pahos = map[string]func(t *testing.T, server, id string, clean bool) *paho{"3.1.1": newPaho3, "5.0": newPaho5}

func newPaho3(t *testing.T, server, id string, clean bool) *paho {
	t.Helper()
	p := new(paho)
	wait := func(token paho3.Token) error {
		if !token.WaitTimeout(patience) {
			return errors.New("timeout")
		}
		return token.Error()
	}
	options := paho3.NewClientOptions().AddBroker(server).SetClientID(id).SetProtocolVersion(4).SetCleanSession(clean).SetAutoReconnect(false).
		SetWill("will/"+id, "gone", 1, false).
		SetDefaultPublishHandler(func(_ paho3.Client, m paho3.Message) { p.take(m.Topic(), m.Payload()) }).
		SetCustomOpenConnectionFn(func(u *url.URL, _ paho3.ClientOptions) (net.Conn, error) {
			c, err := net.Dial("tcp", u.Host)
			p.conn = c
			return c, err
		})
	c := paho3.NewClient(options)
	check(t, wait(c.Connect()))
	p.publish = func(topic, payload string, qos byte) error { return wait(c.Publish(topic, qos, false, payload)) }
	p.subscribe = func(filter string, qos byte) error { return wait(c.Subscribe(filter, qos, nil)) }
	p.leave = func() { c.Disconnect(250) }
	t.Cleanup(func() { p.conn.Close() })
	return p
}

func newPaho5(t *testing.T, server, id string, clean bool) *paho {
	t.Helper()
	u, err := url.Parse(server)
	check(t, err)
	conn, err := net.Dial("tcp", u.Host)
	check(t, err)
	p := &paho{conn: conn}
	t.Cleanup(func() { conn.Close() })
	c := paho5.NewClient(paho5.ClientConfig{
		ClientID: id, Conn: conn,
		OnPublishReceived: []func(paho5.PublishReceived) (bool, error){func(m paho5.PublishReceived) (bool, error) {
			p.take(m.Packet.Topic, m.Packet.Payload)
			return true, nil
		}},
	})
	expiry := uint32(600)
	ctx := within(t)
	_, err = c.Connect(ctx, &paho5.Connect{
		ClientID: id, CleanStart: clean, KeepAlive: 30, Properties: &paho5.ConnectProperties{SessionExpiryInterval: &expiry},
		WillMessage: &paho5.WillMessage{Topic: "will/" + id, Payload: []byte("gone"), QoS: 1}, WillProperties: &paho5.WillProperties{},
	})
	check(t, err)
	p.publish = func(topic, payload string, qos byte) error {
		_, err := c.Publish(ctx, &paho5.Publish{Topic: topic, Payload: []byte(payload), QoS: qos})
		return err
	}
	p.subscribe = func(filter string, qos byte) error {
		_, err := c.Subscribe(ctx, &paho5.Subscribe{Subscriptions: []paho5.SubscribeOptions{{Topic: filter, QoS: qos}}})
		return err
	}
	p.leave = func() { c.Disconnect(&paho5.Disconnect{}) }
	return p
}

// tcpURL returns the broker's first listener.
func tcpURL(t *testing.T) string {
	urls, _ := startPetrelBroker(t)
	return strings.Replace(urls[0], "mqtt://", "tcp://", 1)
}

// What is published for a client while it is away waits for it, in its order, and its will says that it has gone.
func TestPahoSessionAndWill(t *testing.T) {
	server := tcpURL(t)
	for name, connect := range pahos {
		t.Run(name, func(t *testing.T) {
			witness := connect(t, server, "witness"+name, true)
			check(t, witness.subscribe("will/away"+name, 1))
			p := connect(t, server, "away"+name, name == "5.0")
			check(t, p.subscribe("away/"+name, 2))
			p.conn.Close()
			witness.wants(t, "will/away"+name+" gone")
			var want []string
			for i := range 20 {
				check(t, witness.publish("away/"+name, fmt.Sprint(i), 1+byte(i/10)))
				want = append(want, fmt.Sprintf("away/%s %d", name, i))
			}
			p = connect(t, server, "away"+name, false)
			p.wants(t, want...)
			p.leave()
			witness.wants(t, "will/away"+name+" gone")
		})
	}
}

// A client that publishes at QoS 2 to itself, many messages at a time, gets each of them once.
func TestPahoBothWaysAtQoS2(t *testing.T) {
	server := tcpURL(t)
	for name, connect := range pahos {
		t.Run(name, func(t *testing.T) {
			p := connect(t, server, "both"+name, true)
			check(t, p.subscribe("both/"+name, 2))
			var publishing sync.WaitGroup
			const workers, each = 8, 25
			for w := range workers {
				publishing.Go(func() {
					for i := range each {
						if err := p.publish("both/"+name, fmt.Sprint(w, " ", i), 2); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			publishing.Wait()
			for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				p.mu.Lock()
				n := len(p.got)
				p.mu.Unlock()
				if n >= workers*each {
					break
				}
			}
			time.Sleep(50 * time.Millisecond)
			p.mu.Lock()
			defer p.mu.Unlock()
			seen := map[string]int{}
			for _, m := range p.got {
				seen[m]++
			}
			if len(p.got) != workers*each || len(seen) != workers*each {
				t.Errorf("%d came, %d of them different", len(p.got), len(seen))
			}
		})
	}
}

// A shared subscription has members of three kinds, and each message goes to one of them.
func TestPahoShared(t *testing.T) {
	server := tcpURL(t)
	const n = 90
	three, five := newPaho3(t, server, "three", true), newPaho5(t, server, "five", true)
	check(t, three.subscribe("$share/g/shared", 1))
	check(t, five.subscribe("$share/g/shared", 1))
	ctx := within(t)
	ours, err := mqtt.NewClient(ctx, server)
	check(t, err)
	defer ours.Close()
	sub, err := ours.Subscribe(ctx, "$share/g/shared", mqtt.AtLeastOnce)
	check(t, err)
	own := new(paho)
	go func() {
		for m, err := range sub.All(context.Background()) {
			if err == nil {
				own.take(m.Topic, m.Payload)
			}
		}
	}()
	for i := range n {
		check(t, five.publish("shared", fmt.Sprint(i), 1))
	}
	seen := map[string]int{}
	for end := time.Now().Add(patience); len(seen) < n && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		clear(seen)
		for _, p := range []*paho{three, five, own} {
			p.mu.Lock()
			for _, m := range p.got {
				seen[m]++
			}
			p.mu.Unlock()
		}
	}
	for m, times := range seen {
		if times != 1 {
			t.Errorf("%s came %d times", m, times)
		}
	}
	for name, p := range map[string]*paho{"three": three, "five": five, "own": own} {
		p.mu.Lock()
		if len(p.got) < n/6 || len(seen) != n {
			t.Errorf("%s got %d of %d", name, len(p.got), len(seen))
		}
		p.mu.Unlock()
	}
}

// A client of another project answers our requests.
func TestPahoAnswers(t *testing.T) {
	server := tcpURL(t)
	u, err := url.Parse(server)
	check(t, err)
	conn, err := net.Dial("tcp", u.Host)
	check(t, err)
	defer conn.Close()
	ctx := within(t)
	var c *paho5.Client
	requests := make(chan *paho5.Publish, 10)
	c = paho5.NewClient(paho5.ClientConfig{ClientID: "answers", Conn: conn, OnPublishReceived: []func(paho5.PublishReceived) (bool, error){
		func(m paho5.PublishReceived) (bool, error) {
			requests <- m.Packet
			return true, nil
		},
	}})
	_, err = c.Connect(ctx, &paho5.Connect{ClientID: "answers", CleanStart: true, KeepAlive: 30})
	check(t, err)
	_, err = c.Subscribe(ctx, &paho5.Subscribe{Subscriptions: []paho5.SubscribeOptions{{Topic: "square", QoS: 1}}})
	check(t, err)
	go func() {
		for {
			var m *paho5.Publish
			select {
			case m = <-requests:
			case <-ctx.Done():
				return
			}
			var n int
			fmt.Sscan(string(m.Payload), &n)
			c.Publish(ctx, &paho5.Publish{
				Topic: m.Properties.ResponseTopic, QoS: 1, Payload: fmt.Append(nil, n*n),
				Properties: &paho5.PublishProperties{CorrelationData: m.Properties.CorrelationData},
			})
		}
	}()
	ours, err := mqtt.NewClient(ctx, server)
	check(t, err)
	defer ours.Close()
	for i := range 5 {
		reply, err := ours.Request(ctx, "square", fmt.Append(nil, i))
		check(t, err)
		if string(reply.Payload) != fmt.Sprint(i*i) {
			t.Errorf("%d: got %s", i, reply.Payload)
		}
	}
}
