package mqtt_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// dialClient makes a client of either version, which connects through dial. Options for MQTT 5 go with MQTT 5 only.
func dialClient(ctx context.Context, v codec.Version, dial dialFunc, opts ...mqtt.OptionV5) (mqtt.Client, mqtt.ClientV5, error) {
	opts = append([]mqtt.OptionV5{mqtt.WithDialer(dial), mqtt.WithoutReconnect()}, opts...)
	if v == codec.V5 {
		c, err := mqtt.NewClient(ctx, "mqtt://test", opts...)
		if err != nil {
			return nil, nil, err
		}
		return mqtt.Common(c), c, nil
	}
	var both mqtt.Options
	for _, opt := range opts {
		both = append(both, opt.(mqtt.Option))
	}
	c, err := mqtt.NewClientV311(ctx, "mqtt://test", both)
	return c, nil, err
}

// peer is a connected client and the scripted server at the other end of its connection.
type peer struct {
	*mqtttest.Script
	t      *testing.T
	v      codec.Version
	client mqtt.Client
	v5     mqtt.ClientV5 // nil with MQTT 3.1.1
}

// startPeer connects a client. It is closed when the test ends.
func startPeer(t *testing.T, v codec.Version, ack *codec.Connack, opts ...mqtt.OptionV5) *peer {
	t.Helper()
	return startPeerAt(t, v, mqtttest.NewServer(t, v), ack, opts...)
}

// startPeerAt is startPeer with a server that is there.
func startPeerAt(t *testing.T, v codec.Version, server *mqtttest.Server, ack *codec.Connack, opts ...mqtt.OptionV5) *peer {
	t.Helper()
	p := &peer{t: t, v: v}
	failed := make(chan error, 1)
	go func() {
		var err error
		p.client, p.v5, err = dialClient(t.Context(), v, server.DialContext, opts...)
		failed <- err
	}()
	p.Script = server.Accept()
	mqtttest.ReceiveAs[*codec.Connect](p.Script)
	if ack == nil {
		ack = &codec.Connack{}
	}
	p.Send(ack)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close() })
	return p
}

// calling runs f, which blocks, and returns where its error will be.
func calling(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return result
}

// outcome waits for the end of a call.
func outcome(t *testing.T, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(time.Hour):
		t.Fatal("a call hangs")
		return nil
	}
}

// stillWaits fails the test if a call has ended.
func stillWaits(t *testing.T, result <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-result:
		t.Fatalf("the call has ended: %v", err)
	default:
	}
}

// ends waits for the client's end, for at most d, and returns why.
func (p *peer) ends(d time.Duration) error {
	p.t.Helper()
	select {
	case <-p.client.Done():
	case <-time.After(d):
		p.t.Fatalf("the client does not end within %v", d)
	}
	err := p.client.Err()
	if err == nil {
		p.t.Fatal("the client has ended, but does not say why")
	}
	return err
}

// wantErr checks an error, and whether it says that nothing was sent.
func wantErr(t *testing.T, got, want error, safeToRetry bool) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
	if mqtt.SafeToRetry(got) != safeToRetry {
		t.Fatalf("SafeToRetry(%v) = %v", got, !safeToRetry)
	}
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within returns a context that ends after d.
func endingIn(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// toT is a PUBLISH to the topic "t".
func toT(qos byte, id uint16, payload string) *codec.Publish {
	return &codec.Publish{Topic: "t", QoS: qos, PacketID: id, Payload: []byte(payload)}
}

func ptr[T any](v T) *T { return &v }
