// Package mqtt is a client for MQTT 5.0 and 3.1.1.
//
//	client, err := mqtt.NewClient(ctx, "broker.example.com", mqtt.WithClientID("billing"))
//	…
//	defer client.Close()
//	sub, err := client.Subscribe(ctx, "sensors/+/temp", mqtt.AtLeastOnce)
//	…
//	for msg, err := range sub.All(ctx) {
//		if err != nil {
//			return err // why the subscription has ended
//		}
//		err = client.Publish(ctx, "alarms", msg.Payload, mqtt.AtLeastOnce)
//		…
//	}
//
// # Client
//
// NewClient connects with MQTT 5, NewClientV311 with MQTT 3.1.1. An option that needs MQTT 5 has a type of its own, which
// the methods of a client for 3.1.1 do not accept, so the compiler reports the mistake. Code for either version takes a
// Client.
//
// A client lives until Disconnect, Drain or Close, or until it meets an error that trying again cannot mend, such as bad
// credentials; Done and Err tell. When its connection is lost it connects again, after a random wait that grows, sends
// again what was not acknowledged, and makes its subscriptions again. See WithReconnect.
//
// # Session
//
// The session is the server's memory of a client identifier: subscriptions, and messages at QoS 1 and 2 that wait. It
// outlives connections, 5 minutes long unless WithSessionExpiry says otherwise. A new client begins a new session. To go on with
// that of an earlier process it takes WithClientID, WithCleanStart(false) and, on MQTT 5, WithSessionExpiry. What this process has not
// delivered yet is lost with it, unless WithStore keeps it on disk.
//
// # Publishing
//
// Publish at QoS 1 and 2 waits for the server's acknowledgement. PublishAsync does not, and returns a Delivery. Without a
// connection such messages wait in a queue, see WithQueue; at QoS 0 the error is ErrNotConnected.
//
// # Subscription
//
// A Subscription delivers the messages of its filters in their order, through every reconnect. The forms of consuming
// differ in when a message at QoS 1 or 2 is acknowledged:
//
//   - All: a loop; acknowledged when the body is done. Batches is the same for many messages at a time.
//   - Handle: a function, with workers, retries and a way out for what cannot be handled; acknowledged when it returns
//     nil. Respond is the same for requests, whose replies Request waits for.
//   - Messages: a channel, for select; acknowledged on entering it, and lost with the process.
//   - ManualAck: with any of them; acknowledged by Message.Ack.
//
// A slow consumer does not hold up messages at QoS 0 of others, nor publishing: to publish and to wait inside a loop is
// fine. Its messages at QoS 1 and 2 fill the client's one window, see EndIfStalled.
//
// # Contexts
//
// A context bounds the call that it is given to and nothing else. When it ends, a message that was not sent is
// withdrawn; one that was sent stays in flight.
//
// # Errors
//
// Compare with errors.Is and errors.As. A reason code of the server is an error: errors.Is(err, mqtt.NotAuthorized) works
// on the error of every call, in both versions. SafeToRetry tells whether a message certainly never left; ErrOutcomeUnknown
// says that nobody can know. A refused filter is a *SubscribeError, a refused message a *PublishError, a failed connect
// a *ConnectError.
//
// # Closing
//
// Drain is for a service that is told to stop: it takes no more, finishes what was delivered, and disconnects. Disconnect
// waits for outgoing messages alone, Close for nothing. Afterwards no goroutine is left.
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
