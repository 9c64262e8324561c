package main

import (
	"context"
	"errors"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// client is a connected client of either version.
type client struct {
	mqtt.Client
	v5 mqtt.ClientV5 // nil with MQTT 3.1.1
}

func dial(ctx context.Context, server string, version protocol, o *options) (*client, error) {
	if version == v311 {
		c, err := mqtt.NewClientV311(ctx, server, o.both...)
		if err != nil {
			return nil, dialError(err)
		}
		return &client{Client: c}, nil
	}
	c, err := mqtt.NewClient(ctx, server, append(o.only5, mqtt.Options(o.both))...)
	if err != nil {
		return nil, dialError(err)
	}
	return &client{mqtt.Common(c), c}, nil
}

// dialError tells a wrong option, which is a wrong flag, from a failed attempt.
func dialError(err error) error {
	var connect *mqtt.ConnectError
	if errors.As(err, &connect) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &exitError{exitUsage, err}
}

// finish disconnects in an orderly way: it waits a little for what is in flight, also when ctx has ended.
func (c *client) finish(ctx context.Context) error {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return c.Disconnect(ctx)
}

// publish is PublishAsync of either version.
func (c *client) publish(ctx context.Context, topic string, payload []byte, p *mqtt.PublishProperties, opts ...mqtt.PublishOption) *mqtt.Delivery {
	if c.v5 != nil {
		return c.v5.PublishAsync(ctx, topic, payload, mqtt.PublishOptions(opts), p)
	}
	return c.PublishAsync(ctx, topic, payload, opts...)
}

// subscribe is Subscribe of either version.
func (c *client) subscribe(ctx context.Context, filter string, both mqtt.SubscribeOptions, only5 ...mqtt.SubscribeOptionV5) (*mqtt.Subscription, error) {
	if c.v5 != nil {
		return c.v5.Subscribe(ctx, filter, append(only5, both)...)
	}
	return c.Subscribe(ctx, filter, both)
}
