package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// golden is a command line whose output is compared with testdata/golden/NAME.txt.
type golden struct {
	name   string
	stdin  string
	args   []string
	broker []mqtttest.Option
	with   func(ctx context.Context, b *mqtttest.Broker) // what goes on meanwhile, from before the command's start
}

// words splits a command line; a ~ stands for a space within a word.
func words(line string) []string {
	fields := strings.Fields(line)
	for i := range fields {
		fields[i] = strings.ReplaceAll(fields[i], "~", " ")
	}
	return fields
}

// retained gives the broker messages to keep.
func retained(messages ...mqtttest.Message) func(context.Context, *mqtttest.Broker) {
	return func(_ context.Context, b *mqtttest.Broker) {
		for _, m := range messages {
			m.Retain = true
			b.Publish(m)
		}
	}
}

// removed is a retained message, then an empty message to another topic, and messages to its own.
func removed(ctx context.Context, b *mqtttest.Broker) {
	retained(text("a/kept", "x"))(ctx, b)
	later(text("a/other", ""), text("a/kept", "y"), text("a/kept", ""))(ctx, b)
}

// later publishes messages, one a second.
func later(messages ...mqtttest.Message) func(context.Context, *mqtttest.Broker) {
	return func(ctx context.Context, b *mqtttest.Broker) {
		for _, m := range messages {
			select {
			case <-time.After(time.Second):
				b.Publish(m)
			case <-ctx.Done():
			}
		}
	}
}

func text(topic, payload string) mqtttest.Message {
	return mqtttest.Message{Topic: topic, Payload: []byte(payload), QoS: 1}
}

// rich is a message with all properties, whose payload is no text.
var rich = mqtttest.Message{
	Topic: "a/rich", Payload: []byte("\xff\x00\x1b[31m"), QoS: 1,
	Properties: codec.PublishProperties{
		UTF8Payload: true, MessageExpiry: time.Minute, ContentType: "text/plain", ResponseTopic: "reply",
		CorrelationData: []byte{1, 0xfe}, UserProperties: codec.UserProperties{{Key: "a", Value: "1"}, {Key: "a", Value: "2"}},
	},
}

var goldens = []golden{
	{name: "help", args: words("--help")},
	{name: "pub-help", args: words("pub --help")},
	{name: "sub-help", args: words("sub --help")},
	{name: "pub", args: words("pub -t a/b -m hello")},
	{name: "pub-debug", args: words("pub -i me -t a/b -m hello -q 1 -d --content-type text/plain -u user -P secret")},
	{name: "pub-debug-json", args: words("pub -i me -t a/b -m hello -q 2 -d --log-format json -V 3.1.1")},
	{name: "pub-lines-refused", stdin: "one\n\n two\r\nthree", args: words("pub -t a/b -l -q 1"),
		with: func(_ context.Context, b *mqtttest.Broker) {
			b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Skip: 1, Times: 1, Reason: 0x97})
		}},
	{name: "pub-cut", args: words("pub -t a/b -m hello -q 1"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 1, Cut: true})
	}},
	{name: "pub-cut-qos0", args: words("pub -t a/b -m hello --quiet"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 1, Cut: true})
	}},
	{name: "pub-lines-cut-qos0", stdin: "one\ntwo\nthree\n", args: words("pub -t a/b -l --interval 60"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Skip: 1, Times: 1, Cut: true})
	}},
	{name: "pub-unknown", args: words("pub -t a/b -m hello -q 2 --reconnect=false"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Times: 1, Cut: true})
	}},
	{name: "connect-refused-json", args: words("pub -t a/b -m hello --log-format json"), with: func(_ context.Context, b *mqtttest.Broker) { b.Refuse(-1, 0x86) }},
	{name: "connect-refused", args: words("pub -t a/b -m hello"), with: func(_ context.Context, b *mqtttest.Broker) { b.Refuse(-1, 0x87) }},
	{name: "connect-offline", args: words("pub -t a/b -m hello"), with: func(_ context.Context, b *mqtttest.Broker) { b.Offline() }},
	{name: "sub", args: words("sub -t a/# -n 2"), with: later(text("a/1", "one"), text("a/2", "two"))},
	{name: "sub-verbose-exclude", args: words("sub -t a/# -n 2 -v -T a/+/x -T a/3 -q 1"),
		with: later(text("a/1", "one"), text("a/2/x", "no"), text("a/3", "no"), text("a/4", "two"))},
	{name: "sub-json", args: words("sub -t a/# -n 2 --json -q 1 --subscription-id 7"), with: later(text("a/1", "one"), rich)},
	{name: "sub-format", args: []string{"sub", "-t", "a/#", "-n", "2", "-q", "1", "--subscription-id", "7", "-N",
		"-F", `%t|%x|%X|%l|%q|%r|%d|%I|%U|%C|%R|%E|%F|%P|%S|%%|\t\\|\n%j\n%J\n`}, with: later(text("a/1", `{"x":1}`), rich)},
	// The removals, which come back, are neither shown nor counted, nor removed in turn, without end. Empty messages of
	// others are shown.
	{name: "sub-remove-retained", args: words("sub -t a/# -v -n 4 -W 9 --remove-retained"), with: removed},
	{name: "sub-remove-retained-3.1.1", args: words("sub -t a/# -v -q 2 -n 4 -W 9 --remove-retained -V 3.1.1"), with: removed},
	{name: "sub-remove-retained-as-published", args: words("sub -t a/# -v -n 4 -W 9 --remove-retained --retain-as-published"), with: removed},
	{name: "sub-remove-retained-exec", args: []string{"sub", "-t", "a/#", "-q", "1", "-n", "4", "-W", "9", "--workers", "3", "--remove-retained", "--exec", "echo $MQTT_TOPIC"}, with: removed},
	{name: "sub-retained", args: words("sub -t a/# -v --retained-only --remove-retained"), with: func(ctx context.Context, b *mqtttest.Broker) {
		retained(text("a/1", "one"), text("a/2", "two"))(ctx, b)
		later(text("a/3", "three"))(ctx, b)
	}},
	{name: "sub-no-retained", args: words("sub -t a/# -v -R -n 1"), with: func(ctx context.Context, b *mqtttest.Broker) {
		retained(text("a/1", "one"))(ctx, b)
		later(text("a/3", "three"))(ctx, b)
	}},
	{name: "sub-wait", args: words("sub -t a/# -W 1.5"), with: later(text("a/1", "one"), text("a/2", "two"))},
	{name: "sub-wait-missing", args: words("sub -t a/# -W 1.5 -n 3"), with: later(text("a/1", "one"), text("a/2", "two"))},
	{name: "sub-suback", args: words("sub -t a/# -E")},
	{name: "sub-granted-less", args: words("sub -t a/# -q 2 -E"), broker: []mqtttest.Option{mqtttest.MaximumQoS(1)}},
	{name: "sub-lost", args: words("sub -t a/# -n 1 -q 1"), with: func(ctx context.Context, b *mqtttest.Broker) {
		time.Sleep(time.Second)
		b.Cut()
		time.Sleep(10 * time.Second)
		b.Publish(text("a/1", "one"))
	}},
	{name: "sub-exec", args: []string{"sub", "-t", "a/#", "-n", "3", "-q", "1", "--exec",
		`read x; echo "$MQTT_TOPIC $MQTT_QOS $MQTT_RETAIN: $x"; [ "$x" != two ] || { echo no twos >&2; exit 3; }`},
		with: later(text("a/1", "one"), text("a/2", "two"), text("a/3", "three"))},
	{name: "sub-exec-reject", args: []string{"sub", "-t", "a/#", "-n", "3", "-q", "1", "--on-failure", "reject", "--exec",
		`read x; echo "$x"; [ "$x" != two ] || { echo no twos >&2; exit 3; }`},
		with: later(text("a/1", "one"), text("a/2", "two"), text("a/3", "three"))},
	{name: "request-help", args: words("request --help")},
	{name: "request", args: words("request -t svc/echo -m hello"), with: echo},
	// The reply came and is written, though the request is not acknowledged and holds up the disconnect.
	{name: "request-unacknowledged", args: words("request -t svc/echo -m hello -i me"), with: func(ctx context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{ClientID: "me", Packet: "PUBACK", Outbound: true, Drop: true})
		echo(ctx, b)
	}},
	{name: "request-failure", args: words("request -t svc/fail -m hello"), with: echo},
	{name: "request-nobody", args: words("request -t svc/none -m hello")},
	{name: "request-timeout", args: words("request -t svc/lost -m hello -W 2"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
			if a, ok := p.(*codec.Puback); ok && outbound {
				a.Code = codec.Success
			}
			return true
		})
	}},
	{name: "respond-help", args: words("respond --help")},
	{name: "respond", args: []string{"respond", "-t", "svc/+", "-n", "2", "-i", "me", "-d", "--exec", `tr a-z A-Z; [ $MQTT_TOPIC != svc/2 ] || exit 1`},
		with: later(asked("svc/1", "hello"), asked("svc/2", "world"))},
	{name: "bench-help", args: words("bench --help")},
	{name: "bench-pubsub-help", args: words("bench pubsub --help")},
	{name: "bench-conn", args: words("bench conn --url mqtt://test --clients 20 --rate 10")},
	{name: "bench-conn-late", args: words("bench conn --url mqtt://test --clients 200 --duration 2 -k 0"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "CONNACK", Outbound: true, Skip: 20, Delay: time.Minute})
	}},
	{name: "bench-pub", args: words("bench pub --url mqtt://test --clients 2 --rate 100 -q 1 --duration 3")},
	// At QoS 0 sending takes until the server has got everything, and so does the benchmark.
	{name: "bench-pub-flush", args: words("bench pub --url mqtt://test --count 10 --size 1MB"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "PINGREQ", Delay: 2 * time.Second})
	}},
	{name: "bench-sub", args: words("bench sub --url mqtt://test -t a/# --duration 3"), with: later(text("a/1", "one"), text("a/2", "two"))},
	{name: "bench-pubsub", args: words("bench pubsub --url mqtt://test --clients 2 --subscribers 3 --rate 100 -q 2 --duration 3")},
	{name: "bench-pubsub-json", args: words("bench pubsub --url mqtt://test --rate 6.5 --duration 2 --json"),
		with: func(_ context.Context, b *mqtttest.Broker) {
			b.Fault(mqtttest.Fault{Packet: "PUBLISH", Outbound: true, Skip: 3, Times: 2, Drop: true})
			b.Fault(mqtttest.Fault{Packet: "PUBLISH", Outbound: true, Skip: 7, Times: 1, Delay: 250 * time.Millisecond})
		}},
	// The latest message comes after the last was sent.
	{name: "bench-pubsub-lost", args: words("bench pubsub --url mqtt://test --rate 10 --duration 1"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Outbound: true, Skip: 3, Times: 2, Drop: true})
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Outbound: true, Skip: 7, Times: 1, Delay: 600 * time.Millisecond})
	}},
	{name: "bench-pub-refused", args: words("bench pub --url mqtt://test --rate 10 -q 1 --duration 1"), with: func(_ context.Context, b *mqtttest.Broker) {
		b.Fault(mqtttest.Fault{Packet: "PUBLISH", Skip: 2, Times: 3, Reason: 0x97})
	}},
	{name: "bench-rpc", args: words("bench rpc --url mqtt://test --rate 20 --duration 2")},
	{name: "broker-help", args: words("broker --help")},
	{name: "bridge-help", args: words("bridge --help")},
	{name: "outbox-help", args: words("outbox --help")},
	{name: "outbox-drop-help", args: words("outbox drop --help")},
	{name: "passwd-help", args: words("passwd --help")},
	{name: "probe-help", args: words("probe --help")},
	{name: "probe", args: words("probe")},
	{name: "probe-json", args: words("probe --json --max-payload 100 -V 3.1.1")},
	{name: "probe-limited", args: words("probe"), broker: []mqtttest.Option{
		mqtttest.MaximumQoS(1), mqtttest.MaximumPacketSize(1000), mqtttest.NoRetain(), mqtttest.NoSharedSubscriptions(),
		mqtttest.NoSubscriptionIdentifiers(), mqtttest.ServerKeepAlive(30 * time.Second),
	}},
}

// asked is a request.
func asked(topic, payload string) mqtttest.Message {
	m := text(topic, payload)
	m.Properties.ResponseTopic, m.Properties.CorrelationData = "reply/1", []byte(payload)
	return m
}

// echo answers requests below svc: svc/echo as they are, svc/fail with a failure.
func echo(ctx context.Context, b *mqtttest.Broker) {
	client, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(b.DialContext))
	if err != nil {
		panic(err)
	}
	defer client.Close()
	sub, err := client.Subscribe(ctx, "svc/+")
	if err != nil {
		panic(err)
	}
	client.Respond(ctx, sub, func(_ context.Context, m mqtt.Message) ([]byte, error) {
		if m.Topic == "svc/fail" {
			return nil, errors.New("out of paper")
		}
		return m.Payload, nil
	})
}

func TestGolden(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			var r result
			synctest.Test(t, func(t *testing.T) { r = g.run(t) })
			line := "petrel " + strings.Join(g.args, " ")
			got := fmt.Sprintf("$ %s\n\n--- standard output\n%s\n--- standard error\n%s\n--- exit code %d\n", line, r.out, r.errors, r.code)
			got = reconnected.ReplaceAllString(got, "TIME WARN connected again")
			got = reset.ReplaceAllString(got, "the server closed the connection")
			got = defaults.ReplaceAllString(got, "$1 …")
			got = random.ReplaceAllString(got, "petrel/$1/RANDOM")
			compare(t, filepath.Join("testdata", "golden", g.name+".txt"), got)
		})
	}
}

// reconnected is the line whose time depends on chance.
var reconnected = regexp.MustCompile(`(?m)^\S+ WARN connected again`)

// reset is what a cut connection is when the client sees it before the broker's goroutines have closed it.
var reset = regexp.MustCompile(`read mqtttest \S+ connection reset by peer`)

// defaults are what the library adds to CONNECT by itself.
var defaults = regexp.MustCompile(`(-out-> CONNECT.*) session_expiry=.*`)

// random is in topics of a run.
var random = regexp.MustCompile(`petrel/(bench|probe)/[0-9a-f]+`)

// run runs the command in virtual time.
func (g *golden) run(t *testing.T) result {
	b := mqtttest.NewBroker(t, g.broker...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if g.with != nil {
			g.with(ctx, b)
		}
	}()
	synctest.Wait() // faults and retained messages are there before the command
	r := run(t.Context(), b, g.stdin, g.args...)
	cancel()
	<-done
	return r
}

// compare compares with a file, or writes it.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}
