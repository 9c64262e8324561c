package main

import (
	"context"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"
)

// This file has Eclipse Paho's three clients.

// pahoMQTT is paho.mqtt.golang, for MQTT 3.1.1.
type pahoMQTT struct {
	paho3.Client
	tokens [window]paho3.Token
}

func dialPahoMQTT(address, transport string) (client, error) {
	if transport != "" {
		return nil, errNotOffered
	}
	opts := paho3.NewClientOptions().AddBroker("tcp://" + address).SetClientID(clientID()).SetProtocolVersion(4)
	c := paho3.NewClient(opts)
	t := c.Connect()
	t.Wait()
	return &pahoMQTT{Client: c}, t.Error()
}

func (p *pahoMQTT) close() { p.Disconnect(0) }

func (p *pahoMQTT) publish(n int, qos byte, payload []byte) error {
	for i := range n {
		slot := &p.tokens[i%window]
		if *slot != nil {
			(*slot).Wait()
			if err := (*slot).Error(); err != nil {
				return err
			}
		}
		*slot = p.Publish(topicName, qos, false, payload)
	}
	for _, t := range p.tokens {
		if t != nil {
			t.Wait()
			if err := t.Error(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pahoMQTT) one(qos byte, payload []byte) error {
	t := p.Publish(topicName, qos, false, payload)
	t.Wait()
	return t.Error()
}

func (p *pahoMQTT) receive(n int, qos byte, filter string) error {
	done := counter(n)
	t := p.Subscribe(filter, qos, func(paho3.Client, paho3.Message) { done.count() })
	t.Wait()
	done.wait()
	return t.Error()
}

// counted counts messages.
type counted struct {
	left atomic.Int64
	done chan struct{}
}

func counter(n int) *counted {
	c := &counted{done: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *counted) count() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

func (c *counted) wait() { <-c.done }

// pahoGo is paho.golang's client for MQTT 5 over one connection.
type pahoGo struct {
	c *paho.Client
	counting
}

// counting calls whoever receives now.
type counting struct{ f atomic.Pointer[func()] }

func (c *counting) take(paho.PublishReceived) (bool, error) {
	if f := c.f.Load(); f != nil {
		(*f)()
	}
	return true, nil
}

func dialPahoGo(address, transport string) (client, error) {
	if transport != "" {
		return nil, errNotOffered
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	p := new(pahoGo)
	p.c = paho.NewClient(paho.ClientConfig{
		Conn: conn, PacketTimeout: time.Minute,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){p.take},
	})
	receiveMaximum := uint16(window)
	_, err = p.c.Connect(context.Background(), &paho.Connect{
		ClientID: clientID(), KeepAlive: 60, CleanStart: true,
		Properties: &paho.ConnectProperties{ReceiveMaximum: &receiveMaximum},
	})
	return p, err
}

func (p *pahoGo) close() { _ = p.c.Disconnect(&paho.Disconnect{}) }

func (p *pahoGo) publish(n int, qos byte, payload []byte) error {
	return pahoPublish(p.c, n, qos, payload)
}

func (p *pahoGo) one(qos byte, payload []byte) error { return pahoOne(p.c, qos, payload) }

func (p *pahoGo) receive(n int, qos byte, filter string) error {
	return pahoReceive(p.c, &p.counting, n, qos, filter)
}

// autoPaho is paho.golang's client that reconnects.
type autoPaho struct {
	c *autopaho.ConnectionManager
	counting
}

func dialAutoPaho(address, transport string) (client, error) {
	if transport != "" {
		return nil, errNotOffered
	}
	ctx := context.Background()
	u, err := url.Parse("mqtt://" + address)
	if err != nil {
		return nil, err
	}
	p := new(autoPaho)
	p.c, err = autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{u}, KeepAlive: 60, CleanStartOnInitialConnection: true,
		ClientConfig: paho.ClientConfig{
			ClientID: clientID(), PacketTimeout: time.Minute,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){p.take},
		},
	})
	if err != nil {
		return nil, err
	}
	return p, p.c.AwaitConnection(ctx)
}

func (p *autoPaho) close() { _ = p.c.Disconnect(context.Background()) }

func (p *autoPaho) publish(n int, qos byte, payload []byte) error {
	return pahoPublish(p.c, n, qos, payload)
}

func (p *autoPaho) one(qos byte, payload []byte) error { return pahoOne(p.c, qos, payload) }

func (p *autoPaho) receive(n int, qos byte, filter string) error {
	return pahoReceive(p.c, &p.counting, n, qos, filter)
}

// pahoClient is what both clients of paho.golang have.
type pahoClient interface {
	Publish(ctx context.Context, p *paho.Publish) (*paho.PublishResponse, error)
	Subscribe(ctx context.Context, s *paho.Subscribe) (*paho.Suback, error)
}

// pahoPublish publishes from a goroutine for each message in the window: both wait for acknowledgements. Without
// acknowledgements one goroutine is enough.
func pahoPublish(c pahoClient, n int, qos byte, payload []byte) error {
	workers := window
	if qos == 0 {
		workers = 1
	}
	return inParallel(workers, n, func() error { return pahoOne(c, qos, payload) })
}

func pahoOne(c pahoClient, qos byte, payload []byte) error {
	_, err := c.Publish(context.Background(), &paho.Publish{Topic: topicName, QoS: qos, Payload: payload})
	return err
}

func pahoReceive(c pahoClient, to *counting, n int, qos byte, filter string) error {
	done := counter(n)
	f := done.count
	to.f.Store(&f)
	_, err := c.Subscribe(context.Background(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}})
	if err == nil {
		done.wait()
	}
	return err
}
