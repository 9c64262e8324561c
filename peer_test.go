package mqtt_test

import (
	"context"
	"errors"
	"strings"
	"sync"
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

// endingIn returns a context that ends after d.
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

func publishing(p *peer, payload []byte, qos mqtt.QoS) <-chan error {
	result := calling(func() error { return p.client.Publish(p.t.Context(), "t", payload, qos) })
	synctest.Wait()
	return result
}

// unread makes a subscription without a consumer.
func unread(p *peer, filter string, opts ...mqtt.SubscribeOption) *mqtt.Subscription {
	p.t.Helper()
	result := make(chan *mqtt.Subscription, 1)
	go func() {
		sub, _ := p.client.Subscribe(p.t.Context(), filter, opts...)
		result <- sub
	}()
	packet := mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
	p.Send(&codec.Suback{PacketID: packet.PacketID, Codes: []codec.ReasonCode{codec.ReasonCode(packet.Filters[0].QoS)}})
	sub := <-result
	if sub == nil {
		p.t.Fatal("no subscription")
	}
	sub.Messages()
	return sub
}

// fill publishes until nothing more goes in, and returns a publish that waits.
func fill(p *peer) <-chan error {
	payload := make([]byte, 100_000)
	for p.client.Publish(endingIn(p.t, time.Millisecond), "fill", payload) == nil {
	}
	return publishing(p, payload, mqtt.AtMostOnce)
}

func sizeLimit(n uint32) codec.ConnackProperties {
	return codec.ConnackProperties{MaximumPacketSize: n}
}

// lines is a log. The loggers of a client write in goroutines of their own.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(what string) int { return strings.Count(l.String(), what) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
