package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// twoServers are the servers of a bridge, by the hosts near and far.
type twoServers struct {
	t         *testing.T
	near, far *mqtttest.Broker
	folder    string        // of stores
	slow      time.Duration // how long it takes to reach far
}

func newTwoServers(t *testing.T) *twoServers {
	return &twoServers{t: t, near: mqtttest.NewBroker(t), far: mqtttest.NewBroker(t), folder: t.TempDir()}
}

func (s *twoServers) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if strings.HasPrefix(address, "far") {
		time.Sleep(s.slow)
		return s.far.DialContext(ctx, network, address)
	}
	return s.near.DialContext(ctx, network, address)
}

// outwards are the flags of a bridge from near to far.
const outwards = "bridge --url mqtt://near -i b --to mqtt://far --report 0 "

// running is a bridge at work.
type runningBridge struct {
	stop func() result
}

// start runs a bridge whose store is in a file of its own, until stop.
func (s *twoServers) start(store, line string) *runningBridge {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.WithValue(s.t.Context(), dialerKey{}, dialer(s.dial)))
	done := make(chan result, 1)
	args := append(words(line), "--store", filepath.Join(s.folder, store))
	go func() { done <- run(ctx, nil, "", args...) }()
	stop := sync.OnceValue(func() result {
		cancel()
		return <-done
	})
	s.t.Cleanup(func() { stop() })
	time.Sleep(1500 * time.Millisecond) // not a whole number of seconds: then the bridge looks at its state
	return &runningBridge{stop}
}

// got are the messages that have come to a server, with all that a bridge must carry.
func got(b *mqtttest.Broker, filter string) (lines []string) {
	for _, m := range b.Received(filter) {
		line := fmt.Sprintf("%s %d %v %s", m.Topic, m.QoS, m.Retain, m.Payload)
		if m.Properties.ContentType != "" {
			line += " " + m.Properties.ContentType
		}
		for _, p := range m.Properties.UserProperties {
			line += " " + p.Key + "=" + p.Value
		}
		lines = append(lines, line)
	}
	return lines
}

// states are those that a bridge has published, from the first "1" on: the first server may be connected before the second.
func states(b *mqtttest.Broker, topic string) []string {
	all := got(b, topic)
	if len(all) > 0 && strings.HasSuffix(all[0], " 0") {
		return all[1:]
	}
	return all
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A bridge carries everything that a message has, in both versions, and says how it is.
func TestBridge(t *testing.T) {
	for _, c := range []struct{ name, flags, mark, kept string }{
		{"5.0", "", " petrel-bridge=near", "true"},
		{"3.1.1", "-V 3.1.1 ", " petrel-bridge=near", "false"}, // the first server's messages have no properties there
		{"5.0 to 3.1.1", "--to-protocol-version 3.1.1 ", "", "true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTwoServers(t)
				s.near.Publish(mqtttest.Message{Topic: "a/old", Payload: []byte("before"), QoS: 1, Retain: true})
				b := s.start("db", outwards+c.flags+"-t a/# -t c --strip a/ --prefix site/ --state-topic bridge/state")
				rich := mqtttest.Message{Topic: "a/rich", Payload: []byte("two"), QoS: 2, Properties: codec.PublishProperties{
					ContentType: "text/plain", UserProperties: codec.UserProperties{{Key: "k", Value: "v"}},
				}}
				for _, m := range []mqtttest.Message{
					{Topic: "a/0", Payload: []byte("zero")}, {Topic: "c", Payload: []byte("one"), QoS: 1, Retain: true}, rich, {Topic: "b", QoS: 1},
				} {
					s.near.Publish(m)
					time.Sleep(time.Second)
				}
				of5 := " text/plain k=v" + c.mark
				if c.name != "5.0" {
					of5 = c.mark
				}
				expect(t, got(s.far, "#"), "site/old 1 true before"+c.mark, "site/0 0 false zero"+c.mark, "site/c 1 "+c.kept+" one"+c.mark,
					"site/rich 2 false two"+of5)
				if r := b.stop(); r.code != exitOK || !strings.Contains(r.errors, "stored=4") {
					t.Errorf("%+v", r)
				}
				expect(t, states(s.near, "bridge/state"), "bridge/state 1 true 1", "bridge/state 1 true 0")
			})
		})
	}
}

// The state follows the second server, and is told again by a bridge that the first one has taken for dead.
func TestBridgeState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTwoServers(t)
		s.start("db", outwards+"-t a --state-topic state")
		for _, step := range []func(){s.far.Offline, s.far.Online, func() { s.near.Cut("b") }} {
			step()
			time.Sleep(5 * time.Minute)
		}
		expect(t, states(s.near, "state"), "state 1 true 1", "state 1 true 0", "state 1 true 1", "state 1 true 0", "state 1 true 1")
	})
}

// Bridges in both directions over the same topics, and in a ring, send nothing round.
func TestBridgeLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTwoServers(t)
		s.start("there", outwards+"-t #")
		s.start("back", "bridge --url mqtt://far -i b --to mqtt://near --report 0 -t #")
		s.start("itself", "bridge --url mqtt://near -i b2 --to mqtt://near --to-id b3 --report 0 -t itself/# --prefix itself/")
		for _, b := range []*mqtttest.Broker{s.near, s.far} {
			b.Publish(mqtttest.Message{Topic: "a", QoS: 2, Payload: []byte("x")})
		}
		s.near.Publish(mqtttest.Message{Topic: "itself/a", QoS: 1})
		time.Sleep(time.Minute)
		expect(t, got(s.near, "a"), "a 2 false x petrel-bridge=far")
		expect(t, got(s.far, "a"), "a 2 false x petrel-bridge=near")
		expect(t, got(s.near, "itself/#"), "itself/itself/a 1 false  petrel-bridge=near")
	})
}

// When the store is full the first server keeps its messages, and after the outage no more than the limit are sent at a time.
func TestBridgeFull(t *testing.T) {
	for name, limit := range map[string]string{"messages": "--store-max-messages 10", "bytes": "--store-max-bytes 2000"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTwoServers(t)
				s.far.Offline()
				b := s.start("db", outwards+"-t a/# --receive-maximum 50 --to-max-in-flight 3 "+limit)
				var want []string
				for i := range 100 {
					qos := byte(1 + i%2)
					s.near.Publish(mqtttest.Message{Topic: fmt.Sprint("a/", qos), Payload: fmt.Append(nil, i), QoS: qos})
					want = append(want, fmt.Sprintf("a/%d %d false %d petrel-bridge=near", qos, qos, i))
				}
				time.Sleep(10 * time.Minute)
				if n := len(s.near.Unacknowledged("b")); n != 50 {
					t.Errorf("the first server waits for %d acknowledgements", n)
				}
				var mu sync.Mutex // a connection's reader and its writer both call
				inFlight, most := 0, 0
				s.far.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case p.Type() == codec.PUBLISH:
						inFlight++
					case outbound && (p.Type() == codec.PUBACK || p.Type() == codec.PUBCOMP):
						inFlight--
					}
					most = max(most, inFlight)
					return true
				})
				s.far.Online()
				time.Sleep(10 * time.Minute)
				all := got(s.far, "#")
				slices.Sort(all)
				slices.Sort(want)
				expect(t, all, want...)
				if most > 3 || most == 0 {
					t.Errorf("%d in flight", most)
				}
				if r := b.stop(); r.code != exitOK || strings.Count(r.errors, "the store takes nothing") == 0 {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// What the second server refuses is a dead letter, and holds up nothing. What no server could take is told.
func TestBridgeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTwoServers(t)
		s.far.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Times: 1, Reason: 0x87})
		b := s.start("db", outwards+"-t a/# --strip a/")
		for _, topic := range []string{"a/refused", "a/", "a/taken"} {
			s.near.Publish(mqtttest.Message{Topic: topic, Payload: []byte("x"), QoS: 1})
			time.Sleep(time.Second)
		}
		r := b.stop()
		for _, part := range []string{"a message is not forwarded", "refused=1", "dead_letters=1", "outstanding=0"} {
			if !strings.Contains(r.errors, part) {
				t.Errorf("%q is not in %+v", part, r)
			}
		}
		list := outbox("list", filepath.Join(s.folder, "db"))
		if !strings.HasPrefix(list.out, "client b-to, server far: 0 outstanding, 1 outcomes\n") || !strings.Contains(list.out, "failed  1    1      never    refused") {
			t.Errorf("%+v", list)
		}
	})
}

// A second server that has no QoS 2 and keeps no messages gets messages without, also those that wait at the first server when the
// bridge starts.
func TestBridgeLowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTwoServers(t)
		s.far = mqtttest.NewBroker(t, mqtttest.MaximumQoS(1), mqtttest.NoRetain())
		s.slow = 2 * time.Second
		s.near.Publish(mqtttest.Message{Topic: "a", Payload: []byte("kept"), QoS: 2, Retain: true})
		b := s.start("db", outwards+"-t #")
		time.Sleep(10 * time.Second)
		s.near.Publish(mqtttest.Message{Topic: "b", Payload: []byte("fresh"), QoS: 2, Retain: true})
		time.Sleep(time.Second)
		expect(t, got(s.far, "#"), "a 1 false kept petrel-bridge=near", "b 1 false fresh petrel-bridge=near")
		if r := b.stop(); !strings.Contains(r.errors, "dead_letters=0") {
			t.Errorf("%+v", r)
		}
	})
}

// A bridge whose second server is away stores what comes.
func TestBridgeStartsWithoutTheSecondServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTwoServers(t)
		s.far.Offline()
		s.near.Publish(mqtttest.Message{Topic: "a", Payload: []byte("kept"), QoS: 2, Retain: true})
		b := s.start("db", outwards+"-t #")
		time.Sleep(10 * time.Second)
		if r := b.stop(); !strings.Contains(r.errors, "stored=1") {
			t.Errorf("%+v", r)
		}
		s.far.Online()
		s.start("db", outwards+"-t #")
		expect(t, got(s.far, "#"), "a 2 true kept petrel-bridge=near")
	})
}

// Message expiry counts while no bridge runs, also for retained messages, and the topics stay those that they were stored with.
func TestBridgeExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTwoServers(t)
		s.far.Offline()
		b := s.start("db", outwards+"-t a/# --strip a/ --prefix site/")
		for topic, expiry := range map[string]time.Duration{"a/short": time.Minute, "a/long": time.Hour, "a/never": 0} {
			s.near.Publish(mqtttest.Message{Topic: topic, Payload: []byte("x"), QoS: 2, Retain: true,
				Properties: codec.PublishProperties{MessageExpiry: expiry}})
		}
		time.Sleep(15 * time.Second)
		if r := b.stop(); !strings.Contains(r.errors, "stored=3") {
			t.Errorf("%+v", r)
		}
		time.Sleep(20 * time.Minute)
		s.far.Online()
		b = s.start("db", outwards+"-t a/# --strip a/ --prefix other/")
		time.Sleep(15 * time.Second)
		left := make(map[string]time.Duration)
		for _, m := range s.far.Received("#") {
			left[m.Topic] = m.Properties.MessageExpiry
			if !m.Retain || m.QoS != 2 {
				t.Errorf("%+v", m)
			}
		}
		if d := left["site/long"]; len(left) != 2 || d > 40*time.Minute || d < 39*time.Minute || left["site/never"] != 0 {
			t.Errorf("%v", left)
		}
		if r := b.stop(); !strings.Contains(r.errors, "dead_letters=1") {
			t.Errorf("%+v", r)
		}
	})
}

// A file may say everything.
func TestBridgeConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTwoServers(t)
		config := filepath.Join(s.folder, "bridge.yaml")
		check(t, os.WriteFile(config, []byte(`
url: mqtt://near
id: site7
topic: [sensors/#, alarms]
qos: 1
prefix: site7/
to: mqtt://far
to_id: bridge-of-site7
to_max_in_flight: 5
store: ignored, the flag wins
store_max_bytes: 10MB
report: 10s
log_format: json
`), 0o600))
		b := s.start("db", "bridge -c "+config)
		s.near.Publish(mqtttest.Message{Topic: "alarms", Payload: []byte("x"), QoS: 2})
		time.Sleep(11 * time.Second)
		expect(t, got(s.far, "#"), "site7/alarms 1 false x petrel-bridge=near")
		if clients := s.far.Clients(); !slices.Equal(clients, []string{"bridge-of-site7"}) {
			t.Error(clients)
		}
		r := b.stop()
		if r.code != exitOK || !strings.Contains(r.errors, `"msg":"bridge","connected":true,"received":1,"stored":1,"returned":0,"refused":0,"published":1,"outstanding":0`) {
			t.Errorf("%+v", r)
		}
	})
}

// What does not get better ends the bridge.
func TestBridgeEnds(t *testing.T) {
	for name, c := range map[string]struct {
		refuse func(s *twoServers)
		code   int
	}{
		"near": {func(s *twoServers) { s.near.Refuse(-1, 0x87) }, exitConnection},
		"far":  {func(s *twoServers) { s.far.Refuse(-1, 0x87) }, exitConnection},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTwoServers(t)
				c.refuse(s)
				ctx := context.WithValue(t.Context(), dialerKey{}, dialer(s.dial))
				r := run(ctx, nil, "", append(words(outwards+"-t a"), "--store", filepath.Join(s.folder, "db"))...)
				if r.code != c.code || !strings.Contains(r.errors, "Not authorized") {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// The second server may have refused a message before its storing is known.
func TestBridgeWasSent(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&mqtt.PublishError{Refusal: mqtt.Refusal{Code: mqtt.NotAuthorized}}, true}, {mqtt.ErrSessionLost, true},
		{&mqtt.PublishError{Local: true, Refusal: mqtt.Refusal{Code: mqtt.QoSNotSupported}}, false},
		{mqtt.ErrQueueFull, false}, {mqtt.ErrExpired, false}, {&mqtt.StoreError{Err: mqtt.ErrQueueFull}, false},
	} {
		if wasSent(c.err) != c.want {
			t.Errorf("%v: not %v", c.err, c.want)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a/b", "a", false}, {"+", "a", true}, {"+/b", "a/+", true}, {"+/b", "a/c", false},
		{"#", "a/b", true}, {"a/#", "a", true}, {"a/#", "b/#", false}, {"a/+/c", "a/#", true}, {"a/+", "a/b/c", false},
		{"#", "$SYS/a", false}, {"+/a", "$SYS/a", false}, {"$SYS/#", "$SYS/a", true}, {"$share/g/a/#", "a/b", true},
		{"$share/g/a", "b", false}, {"", "a", false}, {"a/", "a", false}, {"a/+", "a/", true}, {"a/b/#", "a", false}, {"+/#", "a", true},
	} {
		if overlap(c.a, c.b) != c.want || overlap(c.b, c.a) != c.want {
			t.Errorf("%q and %q: not %v", c.a, c.b, c.want)
		}
	}
}
