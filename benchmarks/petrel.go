package main

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/petrel-mqtt/mqtt"
)

// petrelClient is what the clients of both versions have, with P and S as the options of a publish and a subscription.
type petrelClient[P, S any] interface {
	Publish(ctx context.Context, topic string, payload []byte, opts ...P) error
	PublishAsync(ctx context.Context, topic string, payload []byte, opts ...P) *mqtt.Delivery
	Subscribe(ctx context.Context, filter string, opts ...S) (*mqtt.Subscription, error)
	Close() error
}

// petrel is this library.
type petrel[P, S any] struct {
	c          petrelClient[P, S]
	options    [3][]P // by QoS; made once, as a program in a hurry does
	deliveries []*mqtt.Delivery
}

func newPetrel[P, S any](c petrelClient[P, S]) *petrel[P, S] {
	p := &petrel[P, S]{c: c}
	for qos := range p.options {
		p.options[qos] = []P{any(mqtt.QoS(qos)).(P)}
	}
	return p
}

func petrelOptions(address, transport string) (url string, opts mqtt.Options) {
	opts = mqtt.Options{mqtt.WithMaxInFlight(window)}
	switch transport {
	case "tls":
		return "mqtts://" + address, append(opts, mqtt.WithTLS(&tls.Config{InsecureSkipVerify: true}))
	case "ws":
		return "ws://" + address, opts
	}
	return "mqtt://" + address, opts
}

func dialPetrel311(address, transport string) (client, error) {
	url, opts := petrelOptions(address, transport)
	c, err := mqtt.NewClientV311(context.Background(), url, opts)
	if err != nil {
		return nil, err
	}
	return newPetrel[mqtt.PublishOption, mqtt.SubscribeOption](c), nil
}

func dialPetrel5(address, transport string) (client, error) {
	url, opts := petrelOptions(address, transport)
	c, err := mqtt.NewClient(context.Background(), url, opts, mqtt.WithReceiveMaximum(window))
	if err != nil {
		return nil, err
	}
	return petrel5{newPetrel[mqtt.PublishOptionV5, mqtt.SubscribeOptionV5](c), c}, nil
}

func (p *petrel[P, S]) close() { p.c.Close() }

func (p *petrel[P, S]) publish(n int, qos byte, payload []byte) error {
	ctx := context.Background()
	if qos == 0 {
		for range n {
			if err := p.c.Publish(ctx, topicName, payload); err != nil {
				return err
			}
		}
		return nil
	}
	// A window of Deliveries is kept, so that the fate of each message is seen.
	p.deliveries = make([]*mqtt.Delivery, window)
	for i := range n {
		slot := &p.deliveries[i%window]
		if *slot != nil {
			if err := (*slot).Wait(ctx); err != nil {
				return err
			}
		}
		*slot = p.c.PublishAsync(ctx, topicName, payload, p.options[qos]...)
	}
	for _, d := range p.deliveries[:min(n, window)] {
		if err := d.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *petrel[P, S]) one(qos byte, payload []byte) error {
	return p.c.Publish(context.Background(), topicName, payload, p.options[qos]...)
}

func (p *petrel[P, S]) receive(n int, qos byte, filter string) error {
	opts := []S{any(mqtt.QoS(qos)).(S)}
	if qos == 0 {
		opts = append(opts, any(mqtt.Block).(S)) // a flood would else overrun any consumer, and messages be dropped
	}
	sub, err := p.c.Subscribe(context.Background(), filter, opts...)
	if err != nil {
		return err
	}
	messages := sub.Messages()
	for range n {
		if _, ok := <-messages; !ok {
			return sub.Err()
		}
	}
	return nil
}

// subscribe makes a subscription with so many filters that match nothing.
func (p *petrel[P, S]) subscribe(filters int) error {
	rest := make([]string, filters-1)
	for i := range rest {
		rest[i] = fmt.Sprintf("other/%d/+", i)
	}
	_, err := p.c.Subscribe(context.Background(), "other/last", any(mqtt.Also(mqtt.AtMostOnce, rest...)).(S))
	return err
}

// petrel5 can do requests.
type petrel5 struct {
	*petrel[mqtt.PublishOptionV5, mqtt.SubscribeOptionV5]
	v5 mqtt.ClientV5
}

func (p petrel5) request(payload []byte) error {
	_, err := p.v5.Request(context.Background(), "bench/request", payload)
	return err
}
