package mqtt_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// What the tests of subscribing and receiving share.

// inBothVersions runs a test in virtual time for each version.
func inBothVersions(t *testing.T, f func(t *testing.T, v codec.Version)) {
	t.Helper()
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		t.Run(v.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, v) })
		})
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dialV5 makes a client that lives until the test ends.
func dialV5(t *testing.T, dial dialFunc, opts ...mqtt.OptionV5) mqtt.ClientV5 {
	t.Helper()
	c, err := mqtt.NewClient(t.Context(), "mqtt://test", append(opts, mqtt.WithDialer(dial), mqtt.WithoutReconnect())...)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dialAs is dialV5 for either version.
func dialAs(t *testing.T, v codec.Version, dial dialFunc, opts ...mqtt.Option) mqtt.Client {
	t.Helper()
	if v == codec.V5 {
		return mqtt.Common(dialV5(t, dial, mqtt.Options(opts)))
	}
	c, err := mqtt.NewClientV311(t.Context(), "mqtt://test", append(opts, mqtt.WithDialer(dial), mqtt.WithoutReconnect())...)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// scripted makes a client whose server the test drives.
func scripted(t *testing.T, v codec.Version, opts ...mqtt.Option) (mqtt.Client, *mqtttest.Script) {
	t.Helper()
	server := mqtttest.NewServer(t, v)
	c := start(func() (mqtt.Client, error) { return dialAs(t, v, server.DialContext, opts...), nil })
	s := server.Accept()
	mqtttest.ReceiveAs[*codec.Connect](s)
	s.Send(&codec.Connack{})
	return c.value(t), s
}

// scriptedV5 is scripted for MQTT 5 alone, with a CONNACK of the test's own.
func scriptedV5(t *testing.T, ack codec.ConnackProperties, opts ...mqtt.OptionV5) (mqtt.ClientV5, *mqtttest.Script) {
	t.Helper()
	server := mqtttest.NewServer(t, codec.V5)
	c := start(func() (mqtt.ClientV5, error) { return dialV5(t, server.DialContext, opts...), nil })
	s := server.Accept()
	mqtttest.ReceiveAs[*codec.Connect](s)
	s.Send(&codec.Connack{Properties: ack})
	return c.value(t), s
}

// running is a call that runs while the test does other things.
type running[T any] struct {
	done   chan struct{}
	result T
	err    error
}

func start[T any](f func() (T, error)) *running[T] {
	r := &running[T]{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.result, r.err = f()
	}()
	return r
}

// startErr is start for calls that return nothing but an error.
func startErr(f func() error) *running[struct{}] {
	return start(func() (struct{}, error) { return struct{}{}, f() })
}

// value waits for the call, which must succeed.
func (r *running[T]) value(t *testing.T) T {
	t.Helper()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	return r.result
}

func (r *running[T]) wait() error {
	<-r.done
	return r.err
}

// pending fails the test if the call has returned although nothing more can happen.
func (r *running[T]) pending(t *testing.T, why string) {
	t.Helper()
	synctest.Wait()
	select {
	case <-r.done:
		t.Fatalf("the call returns %v, %v: %s", r.result, r.err, why)
	default:
	}
}

// subscribing is a Subscribe that waits for SUBACK, and the SUBSCRIBE that it sent.
func subscribing(t *testing.T, c mqtt.Client, s *mqtttest.Script, filter string, opts ...mqtt.SubscribeOption) (*running[*mqtt.Subscription], *codec.Subscribe) {
	t.Helper()
	sub := start(func() (*mqtt.Subscription, error) { return c.Subscribe(t.Context(), filter, opts...) })
	return sub, mqtttest.ReceiveAs[*codec.Subscribe](s)
}

// granted answers a SUBSCRIBE as asked.
func granted(p *codec.Subscribe) *codec.Suback {
	ack := &codec.Suback{PacketID: p.PacketID}
	for _, f := range p.Filters {
		ack.Codes = append(ack.Codes, codec.ReasonCode(f.QoS))
	}
	return ack
}

// subscribed makes a subscription with a scripted server, which grants what is asked, for a test that receives from the
// channel of messages. The filters are all new to the
// server, and no more than one packet has.
func subscribed(t *testing.T, c mqtt.Client, s *mqtttest.Script, filter string, opts ...mqtt.SubscribeOption) (*mqtt.Subscription, *codec.Subscribe) {
	t.Helper()
	sub, p := subscribing(t, c, s, filter, opts...)
	s.Send(granted(p))
	made := sub.value(t)
	made.Messages()
	return made, p
}

// subscribe subscribes, for a test that receives from the channel of messages.
func subscribe(t *testing.T, c mqtt.Client, filter string, opts ...mqtt.SubscribeOption) *mqtt.Subscription {
	t.Helper()
	sub, err := c.Subscribe(t.Context(), filter, opts...)
	if err != nil {
		t.Fatal(err)
	}
	sub.Messages()
	return sub
}

// subscribeV5 is subscribe with options of MQTT 5.
func subscribeV5(t *testing.T, c mqtt.ClientV5, filter string, opts ...mqtt.SubscribeOptionV5) *mqtt.Subscription {
	t.Helper()
	sub, err := c.Subscribe(t.Context(), filter, opts...)
	if err != nil {
		t.Fatal(err)
	}
	sub.Messages()
	return sub
}

// shown says of a message what most tests look at: "topic=payload q1 retain dup".
func shown(m mqtt.Message) string {
	s := fmt.Sprintf("%s=%s q%d", m.Topic, m.Payload, m.QoS)
	if m.Retain {
		s += " retain"
	}
	if m.Duplicate {
		s += " dup"
	}
	return s
}

// arrived takes all messages that have come by now.
func arrived(sub *mqtt.Subscription) (messages []mqtt.Message) {
	sub.Messages() // makes the channel
	for {
		synctest.Wait()
		select {
		case m, ok := <-sub.Messages():
			if !ok {
				return messages
			}
			messages = append(messages, m)
		default:
			return messages
		}
	}
}

// wantArrived compares what has come by now.
func wantArrived(t *testing.T, sub *mqtt.Subscription, want ...string) []mqtt.Message {
	t.Helper()
	messages := arrived(sub)
	var got []string
	for _, m := range messages {
		got = append(got, shown(m))
	}
	if !slices.Equal(got, want) {
		t.Errorf("messages of %v:\n got %q\nwant %q", sub.Filters(), got, want)
	}
	return messages
}

// wantClosed fails the test unless the subscription's channel is closed and empty.
func wantClosed(t *testing.T, sub *mqtt.Subscription) {
	t.Helper()
	synctest.Wait()
	select {
	case m, ok := <-sub.Messages():
		if ok {
			t.Errorf("a message comes from a channel that should be at its end: %s", shown(m))
		}
	default:
		t.Error("the channel is not closed")
	}
	select {
	case <-sub.Done():
	default:
		t.Error("Done is not closed")
	}
}

// wires is what a client sends, in short and in order, while a broker serves it.
type wires struct {
	mu   sync.Mutex
	sent []string
}

// watch notes the packets of one type that clients send.
func watch[P codec.Packet](b *mqtttest.Broker, describe func(P) string) *wires {
	w := new(wires)
	b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
		if q, ok := p.(P); ok && !outbound {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sent = append(w.sent, describe(q))
		}
		return true
	})
	return w
}

// take returns what was noted since the last call.
func (w *wires) take() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sent
	w.sent = nil
	return sent
}

func (w *wires) want(t *testing.T, want ...string) {
	t.Helper()
	if got := w.take(); !slices.Equal(got, want) {
		t.Errorf("the client sends %q, want %q", got, want)
	}
}

func watchSubscribes(b *mqtttest.Broker) *wires {
	return watch(b, func(p *codec.Subscribe) string {
		s := ""
		for i, f := range p.Filters {
			if i > 0 {
				s += ", "
			}
			s += fmt.Sprintf("%s q%d rh%d", f.Filter, f.QoS, f.RetainHandling)
		}
		return s
	})
}

func watchUnsubscribes(b *mqtttest.Broker) *wires {
	return watch(b, func(p *codec.Unsubscribe) string { return fmt.Sprint(p.Filters) })
}

// text is a message for a broker to publish.
func text(topic, payload string, qos byte) mqtttest.Message {
	return mqtttest.Message{Topic: topic, Payload: []byte(payload), QoS: qos}
}

// retained is a message for a broker to keep.
func retained(topic, payload string, qos byte) mqtttest.Message {
	m := text(topic, payload, qos)
	m.Retain = true
	return m
}

// message is a PUBLISH of a scripted server; its payload is its packet identifier.
func message(topic string, qos byte, id uint16) *codec.Publish {
	return &codec.Publish{Topic: topic, QoS: qos, PacketID: id, Payload: fmt.Append(nil, id)}
}

// answers is what comes from a client until it is silent: "PUBACK 1", with the reason code where there is one.
func answers(t *testing.T, s *mqtttest.Script) (got []string) {
	t.Helper()
	synctest.Wait()
	// A PUBREL of an identifier that is not in use is answered at once, after all the rest.
	const marker = 65_000
	s.Send(&codec.Pubrel{PacketID: marker})
	for {
		switch p := s.Receive().(type) {
		case *codec.Puback:
			got = append(got, answer("PUBACK", p.PacketID, p.Code))
		case *codec.Pubrec:
			got = append(got, answer("PUBREC", p.PacketID, p.Code))
		case *codec.Pubcomp:
			if p.PacketID == marker {
				return got
			}
			got = append(got, answer("PUBCOMP", p.PacketID, p.Code))
		default:
			t.Fatalf("%s comes", p.Type())
		}
	}
}

func answer(packet string, id uint16, code codec.ReasonCode) string {
	if code != codec.Success {
		return fmt.Sprintf("%s %d 0x%02X", packet, id, byte(code))
	}
	return fmt.Sprint(packet, " ", id)
}

func wantAnswers(t *testing.T, s *mqtttest.Script, want ...string) {
	t.Helper()
	if got := answers(t, s); !slices.Equal(got, want) {
		t.Errorf("the client answers %q, want %q", got, want)
	}
}

// byPayload are messages by their payloads.
func byPayload(messages []mqtt.Message) map[string]mqtt.Message {
	m := make(map[string]mqtt.Message)
	for _, one := range messages {
		m[string(one.Payload)] = one
	}
	return m
}

// numbers are the payloads of messages.
func numbers(t *testing.T, messages []mqtt.Message) (n []int) {
	t.Helper()
	for _, m := range messages {
		i, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			t.Fatal(err)
		}
		n = append(n, i)
	}
	return n
}

// upTo is from, from+1 … to-1.
func upTo(from, to int) (n []int) {
	for i := from; i < to; i++ {
		n = append(n, i)
	}
	return n
}
