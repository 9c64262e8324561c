package mqtt

import "context"

// clientV5 and clientV311 are a client with the methods that differ between the versions.
type (
	clientV5   struct{ *client }
	clientV311 struct{ *client }
)

func (c clientV5) Publish(ctx context.Context, topic string, payload []byte, opts ...PublishOptionV5) error {
	var o publishOptions
	addOptions(&o, opts)
	return c.outbox.publish(ctx, topic, payload, &o)
}

func (c clientV311) Publish(ctx context.Context, topic string, payload []byte, opts ...PublishOption) error {
	var o publishOptions
	addOptions(&o, opts)
	return c.outbox.publish(ctx, topic, payload, &o)
}

func (c clientV5) PublishAsync(ctx context.Context, topic string, payload []byte, opts ...PublishOptionV5) *Delivery {
	var o publishOptions
	addOptions(&o, opts)
	return c.outbox.publishAsync(ctx, topic, payload, &o)
}

func (c clientV311) PublishAsync(ctx context.Context, topic string, payload []byte, opts ...PublishOption) *Delivery {
	var o publishOptions
	addOptions(&o, opts)
	return c.outbox.publishAsync(ctx, topic, payload, &o)
}

func (c clientV5) Subscribe(ctx context.Context, filter string, opts ...SubscribeOptionV5) (*Subscription, error) {
	o, filters, err := parseSubscribe(filter, opts)
	if err != nil {
		return nil, err
	}
	return c.inbox.subscribe(ctx, o, filters)
}

func (c clientV311) Subscribe(ctx context.Context, filter string, opts ...SubscribeOption) (*Subscription, error) {
	o, filters, err := parseSubscribe(filter, opts)
	if err != nil {
		return nil, err
	}
	return c.inbox.subscribe(ctx, o, filters)
}

func (c clientV5) Disconnect(ctx context.Context, opts ...DisconnectOption) error {
	farewell, err := c.config.farewell(opts)
	if err != nil {
		return err
	}
	return c.disconnect(ctx, farewell)
}

func (c clientV311) Disconnect(ctx context.Context) error {
	farewell, err := c.config.farewell(nil)
	if err != nil {
		return err
	}
	return c.disconnect(ctx, farewell)
}

func (c clientV5) ConnAck() ConnAck {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connAck
}

// Common makes a Client from an MQTT 5 client, for code that works with either version. c may be a fake. Check the
// error of NewClient first: c must not be nil.
func Common(c ClientV5) Client { return common{c, c} }

type common struct {
	Lifecycle
	v5 ClientV5
}

func (c common) Publish(ctx context.Context, topic string, payload []byte, opts ...PublishOption) error {
	return c.v5.Publish(ctx, topic, payload, PublishOptions(opts))
}

func (c common) PublishAsync(ctx context.Context, topic string, payload []byte, opts ...PublishOption) *Delivery {
	return c.v5.PublishAsync(ctx, topic, payload, PublishOptions(opts))
}

func (c common) Subscribe(ctx context.Context, filter string, opts ...SubscribeOption) (*Subscription, error) {
	return c.v5.Subscribe(ctx, filter, SubscribeOptions(opts))
}

func (c common) Disconnect(ctx context.Context) error { return c.v5.Disconnect(ctx) }
