// Package mqtt is a client for MQTT 5.0 and 3.1.1.
//
// A client is made by NewClient or NewClientV311, which connect. It publishes, and it subscribes:
//
//	client, err := mqtt.NewClient(ctx, "broker.example.com", mqtt.WithClientID("billing"))
//	…
//	defer client.Close()
//	sub, err := client.Subscribe(ctx, "sensors/+/temp", mqtt.AtLeastOnce)
//	…
//	for msg := range sub.Messages() {
//		err := client.Publish(ctx, "alarms", msg.Payload, mqtt.AtLeastOnce)
//		…
//	}
//
// A slow consumer does not hold up other consumers. It is fine to publish and to wait inside that loop.
//
// A context bounds only the call that it is given to. An option that needs MQTT 5 has a type of its own, which the
// methods of a client for 3.1.1 do not accept, so the compiler reports the mistake.
//
// A nil option has no effect. All methods of this package may be called concurrently.
package mqtt

import (
	"context"

	"github.com/petrel-mqtt/mqtt/codec"
)

// NewClient connects to a server with MQTT 5. host is a host name or address, with or without a port, or a URL: mqtt,
// mqtts, ws, wss or unix, with user:password@ where wanted.
//
// ctx bounds the connecting; the client lives until Disconnect or Close. The error is a *ConnectError, or says which
// option is wrong.
func NewClient(ctx context.Context, host string, opts ...OptionV5) (ClientV5, error) {
	cfg, err := configure(codec.V5, host, opts)
	if err != nil {
		return nil, err
	}
	c, err := newClient(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return clientV5{c}, nil
}

// NewClientV311 connects to a server with MQTT 3.1.1, see NewClient.
func NewClientV311(ctx context.Context, host string, opts ...Option) (ClientV311, error) {
	cfg, err := configure(codec.V311, host, opts)
	if err != nil {
		return nil, err
	}
	c, err := newClient(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return clientV311{c}, nil
}

func configure[O OptionV5](v codec.Version, host string, opts []O) (*config, error) {
	cfg, err := newConfig(v, host)
	if err != nil {
		return nil, err
	}
	if err := applyAll(cfg, opts); err != nil {
		return nil, err
	}
	return cfg, cfg.finish()
}
