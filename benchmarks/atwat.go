package main

import (
	"context"

	atwat "github.com/at-wat/mqtt-go"
)

// atWat is at-wat/mqtt-go, for MQTT 3.1.1.
type atWat struct{ *atwat.BaseClient }

func dialAtWat(address, transport string) (client, error) {
	if transport != "" {
		return nil, errNotOffered
	}
	ctx := context.Background()
	c, err := atwat.DialContext(ctx, "mqtt://"+address)
	if err != nil {
		return nil, err
	}
	_, err = c.Connect(ctx, clientID(), atwat.WithCleanSession(true), atwat.WithKeepAlive(60))
	return &atWat{c}, err
}

func (a *atWat) close() { _ = a.Disconnect(context.Background()) }

// publish publishes from a goroutine for each message in the window: Publish waits for the acknowledgement.
func (a *atWat) publish(n int, qos byte, payload []byte) error {
	workers := window
	if qos == 0 {
		workers = 1
	}
	return inParallel(workers, n, func() error { return a.one(qos, payload) })
}

func (a *atWat) one(qos byte, payload []byte) error {
	return a.Publish(context.Background(), &atwat.Message{Topic: topicName, QoS: atwat.QoS(qos), Payload: payload})
}

func (a *atWat) receive(n int, qos byte, filter string) error {
	done := counter(n)
	a.Handle(atwat.HandlerFunc(func(*atwat.Message) { done.count() }))
	_, err := a.Subscribe(context.Background(), atwat.Subscription{Topic: filter, QoS: atwat.QoS(qos)})
	if err == nil {
		done.wait()
	}
	return err
}
