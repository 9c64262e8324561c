package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// world is a broker that answers wherever the URL leads, and what it has seen.
type world struct {
	*mqtttest.Broker

	mu      sync.Mutex    // guards what follows
	request *http.Request // for the latest WebSocket
	connect *codec.Connect
	address string // that was dialled
	pings   []time.Time
}

func newWorld(t *testing.T) *world {
	w := new(world)
	w.Broker = mqtttest.NewBroker(t, mqtttest.Upgrade(func(r *http.Request) int {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.request = r
		return 0
	}))
	w.Intercept(func(_ string, _ bool, p codec.Packet) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch p := p.(type) {
		case *codec.Connect:
			w.connect = p
		case *codec.Pingreq:
			w.pings = append(w.pings, time.Now())
		}
		return true
	})
	return w
}

// run runs a command line, with the connection that its URL asks for.
func (w *world) run(ctx context.Context, stdin, url string, args ...string) result {
	dials := map[string]dialer{"mqtt": w.DialContext, "mqtts": w.DialTLS, "ws": w.DialWS, "wss": w.DialWSS}
	scheme, _, _ := strings.Cut(url, ":")
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		w.mu.Lock()
		w.address = address
		w.mu.Unlock()
		return dials[scheme](ctx, network, address)
	}
	if scheme == "mqtts" || scheme == "wss" {
		args = append(args, "--ca-data", string(w.Authority().PEM()))
	}
	return run(context.WithValue(ctx, dialerKey{}, dialer(dial)), nil, stdin, args...)
}

// The examples of HBMQTT's manual for hbmqtt_pub, with the program's name changed.
func TestHBMQTTPub(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, []byte("first\nsecond\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	message := func(topic, payload string, qos byte) mqtttest.Message {
		return mqtttest.Message{Topic: topic, Payload: []byte(payload), QoS: qos}
	}
	kept := message("switches/kitchen_lights/status", "on", 0)
	kept.Retain = true
	bearer := `{"Authorization": "Bearer <token>"}`
	for _, c := range []struct {
		stdin   string
		args    []string
		address string
		want    []mqtttest.Message
	}{
		{"", []string{"--url", "mqtt://test.mosquitto.org", "-t", "/test", "-m", "some_data"}, "test.mosquitto.org:1883",
			[]mqtttest.Message{message("/test", "some_data", 0)}},
		{"", []string{"--url", "ws://test.mosquitto.org:8080", "-t", "/test", "-m", "some_data"}, "test.mosquitto.org:8080",
			[]mqtttest.Message{message("/test", "some_data", 0)}},
		{"one\n\ntwo\n", []string{"--url", "mqtt://localhost", "-t", "/test", "-l"}, "localhost:1883",
			[]mqtttest.Message{message("/test", "one", 0), message("/test", "two", 0)}},
		{"", []string{"--url", "mqtt://localhost", "-t", "sensors/temperature", "-m", "32", "-q", "1"}, "localhost:1883",
			[]mqtttest.Message{message("sensors/temperature", "32", 1)}},
		{"", []string{"--url", "mqtt://192.168.1.1:1885", "-t", "sensors/temperature", "-m", "1266193804 32"}, "192.168.1.1:1885",
			[]mqtttest.Message{message("sensors/temperature", "1266193804 32", 0)}},
		{"", []string{"--url", "mqtt://localhost", "-r", "-t", "switches/kitchen_lights/status", "-m", "on"}, "localhost:1883",
			[]mqtttest.Message{kept}},
		{"", []string{"--url", "mqtt://localhost", "-t", "my/topic", "-f", data}, "localhost:1883",
			[]mqtttest.Message{message("my/topic", "first\nsecond\n", 0)}},
		{"", []string{"--url", "mqtt://localhost", "-t", "my/topic", "--lines", data}, "localhost:1883",
			[]mqtttest.Message{message("my/topic", "first", 0), message("my/topic", "second", 0)}},
		{"first\nsecond\n", []string{"--url", "mqtt://localhost", "-t", "my/topic", "-s"}, "localhost:1883",
			[]mqtttest.Message{message("my/topic", "first\nsecond\n", 0)}},
		{"", []string{"--url", "mqtt://localhost", "-t", "my/topic", "-n"}, "localhost:1883",
			[]mqtttest.Message{message("my/topic", "", 0)}},
		{"", []string{"--url", "wss://localhost", "-t", "sensors/temperature", "-m", "32", "-q", "1", "--extra-headers", bearer}, "localhost:443",
			[]mqtttest.Message{message("sensors/temperature", "32", 1)}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			r := w.run(t.Context(), c.stdin, c.args[1], append([]string{"pub"}, c.args...)...)
			if r.code != exitOK || r.errors != "" || r.out != "" {
				t.Errorf("%q: %+v", c.args, r)
			}
			got := w.Received()
			if !slices.EqualFunc(got, c.want, sameMessage) || w.address != c.address {
				t.Errorf("%q: dialled %s, published %+v", c.args, w.address, got)
			}
			if slices.Contains(c.args, bearer) && w.request.Header.Get("Authorization") != "Bearer <token>" {
				t.Errorf("headers %v", w.request.Header)
			}
		})
	}
}

func sameMessage(a, b mqtttest.Message) bool {
	return a.Topic == b.Topic && string(a.Payload) == string(b.Payload) && a.QoS == b.QoS && a.Retain == b.Retain
}

// The examples of HBMQTT's manual for hbmqtt_sub.
func TestHBMQTTSub(t *testing.T) {
	at := func(topic string, qos byte) mqtttest.Message {
		return mqtttest.Message{Topic: topic, Payload: []byte(topic), QoS: qos}
	}
	for _, c := range []struct {
		args    []string
		publish []mqtttest.Message
		want    []string
	}{
		{[]string{"--url", "mqtt://localhost", "-t", "/test/#"}, []mqtttest.Message{at("/test/a", 0), at("/other", 0), at("/test", 2)}, []string{"/test/a", "/test"}},
		{[]string{"--url", "mqtt://localhost", "-t", "$SYS/#", "-q", "0"}, []mqtttest.Message{at("$SYS/a", 0), at("x", 0)}, []string{"$SYS/a"}},
		{[]string{"--url", "mqtt://localhost", "-t", "/#", "-q", "2", "-n", "2"}, []mqtttest.Message{at("/a", 2), at("/b", 2), at("/c", 2)}, []string{"/a", "/b"}},
		{[]string{"--url", "wss://localhost", "-t", "$SYS/#", "-q", "0", "--extra-headers", `{"Authorization": "Bearer <token>"}`},
			[]mqtttest.Message{at("$SYS/a", 0)}, []string{"$SYS/a"}},
		{[]string{"--url", "mqtt://localhost", "-t", "a", "-t", "b", "-q", "1"}, []mqtttest.Message{at("a", 1), at("b", 0), at("c", 0)}, []string{"a", "b"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			ctx, interrupt := context.WithCancel(t.Context())
			var others sync.WaitGroup
			others.Go(func() {
				later(c.publish...)(ctx, w.Broker)
				time.Sleep(time.Second)
				interrupt()
			})
			r := w.run(ctx, "", c.args[1], append([]string{"sub"}, c.args...)...)
			if r.code != exitOK || r.errors != "" || r.out != strings.Join(c.want, "\n")+"\n" {
				t.Errorf("%q: %+v", c.args, r)
			}
			others.Wait()
		})
	}
}

// HBMQTT's URLs.
func TestHBMQTTURLs(t *testing.T) {
	for _, c := range []struct{ url, address, user, password string }{
		{"mqtt://localhost", "localhost:1883", "", ""},
		{"mqtt://localhost:1884", "localhost:1884", "", ""},
		{"mqtt://user:password@localhost", "localhost:1883", "user", "password"},
		{"ws://test.mosquitto.org", "test.mosquitto.org:80", "", ""},
		{"wss://user:password@localhost", "localhost:443", "user", "password"},
		{"mqtts://localhost", "localhost:8883", "", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			r := w.run(t.Context(), "", c.url, "pub", "--url", c.url, "-t", "a", "-m", "x")
			if r.code != exitOK || w.address != c.address || w.connect.Username != c.user || string(w.connect.Password) != c.password {
				t.Errorf("%s: %+v, dialled %s, CONNECT %+v", c.url, r, w.address, w.connect)
			}
		})
	}
}

// All options of hbmqtt_pub at once, and all of them from the environment and a file, with explicit zeros winning.
func TestHBMQTTOptions(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := `
keep_alive: 20
ping_delay: 5
default_qos: 1
default_retain: yes
auto_reconnect: true
reconnect_max_interval: 5
reconnect_retries: 10
username: file
will: {topic: gone, message: bye, qos: 1, retain: true}
topics:
  /test: {qos: 2}
  /some_topic: {qos: 1, retain: false}
`
	if err := os.WriteFile(config, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	will := []string{"--will-topic", "gone", "--will-message", "bye", "--will-qos", "1", "--will-retain"}
	for _, c := range []struct {
		name      string
		env       [2]string
		args      []string
		keepAlive uint16
		username  string
		qos       byte
		retain    bool
	}{
		{"flags", [2]string{}, append(will, "-t", "/test", "-i", "me", "-k", "30", "--clean-session", "-q", "1", "-d"), 30, "", 1, false},
		{"file", [2]string{}, []string{"-t", "/elsewhere", "-c", config}, 20, "file", 1, true},
		{"file, topic's QoS", [2]string{}, []string{"-t", "/test", "-c", config}, 20, "file", 2, true},
		{"file, topic's retain", [2]string{}, []string{"-t", "/some_topic", "-c", config}, 20, "file", 1, false},
		{"file, will", [2]string{}, []string{"-t", "/test", "-c", config, "-i", "me"}, 20, "file", 2, true},
		{"flags over file", [2]string{}, []string{"-t", "/test", "-c", config, "-q", "0", "--retain=false", "-k", "0", "-u", ""}, 0, "", 0, false},
		{"environment over file", [2]string{"PETREL_KEEP_ALIVE", "7"}, []string{"-t", "/test", "-c", config}, 7, "file", 2, true},
		{"flags over environment", [2]string{"PETREL_KEEP_ALIVE", "7"}, []string{"-t", "/test", "-c", config, "-k", "8"}, 8, "file", 2, true},
		{"file named by the environment", [2]string{"PETREL_CONFIG", config}, []string{"-t", "/test"}, 20, "file", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				r := w.run(t.Context(), "", "mqtt", append([]string{"pub", "-m", "x"}, c.args...)...)
				if r.code != exitOK {
					t.Fatalf("%+v", r)
				}
				if w.connect.KeepAlive != c.keepAlive || w.connect.Username != c.username || !w.connect.CleanStart {
					t.Errorf("CONNECT %+v", w.connect)
				}
				m := w.Received()[0]
				if m.QoS != c.qos || m.Retain != c.retain {
					t.Errorf("published at QoS %d, retain %v", m.QoS, m.Retain)
				}
				if c.name == "flags" || c.name == "file, will" {
					v := w.connect.Will
					if v == nil || v.Topic != "gone" || string(v.Payload) != "bye" || v.QoS != 1 || !v.Retain || w.connect.ClientID != "me" {
						t.Errorf("CONNECT %+v, will %+v", w.connect, v)
					}
				}
			})
		})
	}
}

// What is the same several times in a file may be written once.
func TestConfigAliases(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "topics: {a: &kept {qos: &one 1, retain: &yes true}, b: *kept, c: {qos: *one, retain: *yes}}\nusername: &me me\nid: *me\n" +
		"connect_property: [&p a=b, *p]\n"
	if err := os.WriteFile(config, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if r := w.run(t.Context(), "", "mqtt", "pub", "-m", "x", "-t", "a", "-t", "b", "-t", "c", "-c", config); r.code != exitOK {
			t.Fatalf("%+v", r)
		}
		for _, m := range w.Received() {
			if m.QoS != 1 || !m.Retain {
				t.Errorf("%+v", m)
			}
		}
		if w.connect.ClientID != "me" || w.connect.Username != "me" || len(w.connect.Properties.UserProperties) != 2 {
			t.Errorf("CONNECT %+v", w.connect)
		}
	})
}

// ping_delay has the ping sent before the keep alive interval is over.
func TestPingDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		if r := w.run(t.Context(), "", "mqtt", "sub", "-t", "a", "-k", "20", "--ping-delay", "5", "-W", "40"); r.code != exitOK {
			t.Errorf("%+v", r)
		}
		if len(w.pings) != 2 || w.pings[0].Sub(start) != 15*time.Second {
			t.Errorf("pings at %v", w.pings)
		}
	})
}

// reconnect_retries and reconnect_max_interval bound the attempts after a loss; auto_reconnect: false allows none.
func TestReconnectKeys(t *testing.T) {
	for _, c := range []struct {
		flags []string
		most  time.Duration // that giving up may take
		tries int
	}{
		{[]string{"--reconnect-retries", "3", "--reconnect-max-interval", "2"}, 6 * time.Second, 3},
		{[]string{"--reconnect-retries", "0"}, 0, 0},
		{[]string{"--auto-reconnect=false"}, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			var lost time.Time
			go func() {
				time.Sleep(time.Hour) // after a short connection its own attempt counts as well
				lost = time.Now()
				w.Offline()
			}()
			r := w.run(t.Context(), "", "mqtt", append([]string{"sub", "-t", "a", "-d", "-k", "0"}, c.flags...)...)
			if took := time.Since(lost); r.code != exitConnection || took > c.most {
				t.Errorf("%q: gave up after %v: %+v", c.flags, took, r)
			}
			if n := strings.Count(r.errors, "trying again"); n != c.tries {
				t.Errorf("%q: %d attempts:\n%s", c.flags, n, r.errors)
			}
		})
	}
}
