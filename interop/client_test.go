package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// versions makes a client of each version, for tests of what both can do.
var versions = []struct {
	name    string
	flag    string // of mosquitto_pub and mosquitto_sub
	connect func(ctx context.Context, url string, opts ...mqtt.Option) (mqtt.Client, error)
}{
	{"5.0", "mqttv5", func(ctx context.Context, url string, opts ...mqtt.Option) (mqtt.Client, error) {
		c, err := mqtt.NewClient(ctx, url, mqtt.Options(opts))
		if err != nil {
			return nil, err
		}
		return mqtt.Common(c), nil
	}},
	{"3.1.1", "mqttv311", func(ctx context.Context, url string, opts ...mqtt.Option) (mqtt.Client, error) {
		return mqtt.NewClientV311(ctx, url, opts...)
	}},
}

var levels = []mqtt.QoS{mqtt.AtMostOnce, mqtt.AtLeastOnce, mqtt.ExactlyOnce}

// patience is how long anything may take, on a machine that is busy: it ends what hangs.
const patience = 2 * time.Minute

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// next returns the payload of the next message.
func next(t *testing.T, ctx context.Context, sub *mqtt.Subscription) string {
	t.Helper()
	m, err := sub.Next(ctx)
	check(t, err)
	return string(m.Payload)
}

func TestRoundTrip(t *testing.T) { eachServer(t, testRoundTrip) }

func testRoundTrip(t *testing.T, server anyServer) {
	for _, v := range versions {
		for _, qos := range levels {
			t.Run(fmt.Sprintf("%s/%v", v.name, qos), func(t *testing.T) {
				ctx := within(t)
				c, err := v.connect(ctx, server.url())
				check(t, err)
				defer c.Close()
				sub, err := c.Subscribe(ctx, "a/+", qos, mqtt.Also(mqtt.AtMostOnce, "b/#"))
				check(t, err)
				if f := sub.Filters(); f[0].Granted != qos || f[1].Granted != mqtt.AtMostOnce {
					t.Errorf("granted %+v", f)
				}
				check(t, c.Publish(ctx, "a/1", []byte("one"), qos))
				m, err := sub.Next(ctx)
				check(t, err)
				if m.Topic != "a/1" || string(m.Payload) != "one" || m.QoS != qos || m.Retain || m.Duplicate {
					t.Errorf("got %+v", m)
				}
				_, err = c.Ping(ctx)
				check(t, err)
				check(t, sub.Unsubscribe(ctx))
				if _, ok := <-sub.Messages(); ok {
					t.Error("a message after Unsubscribe")
				}
				check(t, c.Disconnect(ctx))
			})
		}
	}
}

func TestProperties(t *testing.T) { eachServer(t, testProperties) }

func testProperties(t *testing.T, server anyServer) {
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer c.Close()
	sub, err := c.Subscribe(ctx, "p", mqtt.AtLeastOnce)
	check(t, err)
	sent := mqtt.PublishProperties{
		UTF8Payload: true, ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{0, 255},
		MessageExpiry:  time.Minute,
		UserProperties: mqtt.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}},
	}
	check(t, c.Publish(ctx, "p", []byte("x"), mqtt.AtLeastOnce, &sent))
	m, err := sub.Next(ctx)
	check(t, err)
	if fmt.Sprintf("%v", m.Properties) != fmt.Sprintf("%v", sent) {
		t.Errorf("got  %v\nsent %v", m.Properties, sent)
	}
	if len(m.SubscriptionIdentifiers()) != 1 {
		t.Errorf("identifiers %v", m.SubscriptionIdentifiers())
	}
	if a := c.ConnAck(); a.ReceiveMaximum != 1024 {
		t.Errorf("Receive Maximum %d", a.ReceiveMaximum)
	}
}

func TestMosquittoPubAndSub(t *testing.T) {
	server := startMosquitto(t)
	pub, sub := find(t, "mosquitto_pub"), find(t, "mosquitto_sub")
	port := fmt.Sprint(server.port)
	for _, v := range versions {
		for _, qos := range levels {
			t.Run(fmt.Sprintf("%s/%v", v.name, qos), func(t *testing.T) {
				ctx := within(t)
				c, err := v.connect(ctx, server.url())
				check(t, err)
				defer c.Close()
				q := fmt.Sprint(uint8(qos))

				in, err := c.Subscribe(ctx, "in", qos)
				check(t, err)
				out, err := exec.CommandContext(ctx, pub, "-p", port, "-V", v.flag, "-t", "in", "-m", "from mosquitto_pub", "-q", q).CombinedOutput()
				if err != nil {
					t.Fatalf("mosquitto_pub: %v: %s", err, out)
				}
				if got := next(t, ctx, in); got != "from mosquitto_pub" {
					t.Errorf("got %q", got)
				}

				// mosquitto_sub subscribes first, and finds a retained message to say so.
				topic := fmt.Sprintf("out/%s/%d", v.name, qos)
				check(t, c.Publish(ctx, topic, []byte("retained"), mqtt.AtLeastOnce, mqtt.Retain))
				cmd := exec.CommandContext(ctx, sub, "-p", port, "-V", v.flag, "-t", topic, "-q", q, "-C", "2", "-F", "%p %q")
				lines := new(lineWriter)
				cmd.Stdout = lines
				check(t, cmd.Start())
				lines.await(t, ctx, 1)
				check(t, c.Publish(ctx, topic, []byte("from petrel"), qos))
				check(t, cmd.Wait())
				want := fmt.Sprintf("from petrel %d", qos)
				if got := lines.lines(); len(got) != 2 || got[1] != want {
					t.Errorf("mosquitto_sub printed %q, want %q at the end", got, want)
				}
			})
		}
	}
}

// lineWriter collects the lines that a program prints.
type lineWriter struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *lineWriter) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Split(strings.TrimSuffix(w.text.String(), "\n"), "\n")
}

func (w *lineWriter) await(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(w.lines()) < n || w.lines()[0] == "" {
		select {
		case <-ctx.Done():
			t.Fatalf("only %q were printed", w.lines())
		case <-tick.C:
		}
	}
}

// A consumer publishes and waits from inside its range loop, with a buffer of 1 and 10,000 messages waiting for it.
func TestPublishFromTheRangeLoop(t *testing.T) { eachServer(t, testPublishFromTheRangeLoop) }

func testPublishFromTheRangeLoop(t *testing.T, server anyServer) {
	messages := 10_000
	if server.mochi {
		messages = 500 // within Receive Maximum
	}
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			ctx := within(t)
			c, err := v.connect(ctx, server.url())
			check(t, err)
			defer c.Close()
			echo, err := c.Subscribe(ctx, "echo", mqtt.AtLeastOnce)
			check(t, err)
			in, err := c.Subscribe(ctx, "in", mqtt.AtLeastOnce, mqtt.Buffer(1))
			check(t, err)
			var last *mqtt.Delivery
			for i := range messages {
				last = c.PublishAsync(ctx, "in", fmt.Append(nil, i), mqtt.AtLeastOnce)
			}
			check(t, last.Wait(ctx)) // all are at the server, and no consumer has moved
			go func() {
				n := 0
				for m := range in.Messages() {
					if err := c.Publish(ctx, "echo", m.Payload, mqtt.AtLeastOnce); err != nil {
						t.Errorf("publishing from the loop: %v", err)
						return
					}
					if n++; n == messages {
						return
					}
				}
			}()
			for i := range messages {
				if got := next(t, ctx, echo); got != fmt.Sprint(i) {
					t.Fatalf("message %d is %q", i, got)
				}
			}
			check(t, c.Disconnect(ctx))
		})
	}
}

// A will is published when the connection breaks, and not after Close.
func TestWill(t *testing.T) { eachServer(t, testWill) }

func testWill(t *testing.T, server anyServer) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			ctx := within(t)
			watcher, err := v.connect(ctx, server.url())
			check(t, err)
			defer watcher.Close()
			wills, err := watcher.Subscribe(ctx, "wills/#", mqtt.AtLeastOnce)
			check(t, err)

			closed, err := v.connect(ctx, server.url(), mqtt.WithWill("wills/closed", []byte("no"), mqtt.AtLeastOnce))
			check(t, err)
			check(t, closed.Close())

			var conn net.Conn
			dial := func(ctx context.Context, network, address string) (_ net.Conn, err error) {
				conn, err = new(net.Dialer).DialContext(ctx, network, address)
				return conn, err
			}
			cut, err := v.connect(ctx, server.url(), mqtt.WithoutReconnect(), mqtt.WithDialer(dial), mqtt.WithWill("wills/cut", []byte("yes"), mqtt.AtLeastOnce))
			check(t, err)
			conn.Close()
			<-cut.Done()
			if err := cut.Err(); !errors.Is(err, mqtt.ErrConnectionLost) {
				t.Errorf("Err() = %v", err)
			}
			if got := next(t, ctx, wills); got != "yes" {
				t.Errorf("will %q", got)
			}
		})
	}
}

// Against a real server: a filter is subscribed once, however many hold it; each holder gets each
// message once; retained messages go to the one who joined.
func TestSharedFilter(t *testing.T) { eachServer(t, testSharedFilter) }

func testSharedFilter(t *testing.T, server anyServer) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			ctx := within(t)
			c, err := v.connect(ctx, server.url())
			check(t, err)
			defer c.Close()
			topic := "shared/" + v.name
			check(t, c.Publish(ctx, topic, []byte("kept"), mqtt.AtLeastOnce, mqtt.Retain))
			first, err := c.Subscribe(ctx, topic, mqtt.AtMostOnce)
			check(t, err)
			got := map[*mqtt.Subscription][]string{first: {next(t, ctx, first)}} // before the second one asks, which 3.1.1 cannot tell apart
			second, err := c.Subscribe(ctx, topic, mqtt.AtLeastOnce)
			check(t, err)
			check(t, c.Publish(ctx, topic, []byte("new"), mqtt.AtLeastOnce))
			got[first] = append(got[first], next(t, ctx, first))
			got[second] = []string{next(t, ctx, second), next(t, ctx, second)}
			for sub, got := range got {
				if !slices.Equal(got, []string{"kept", "new"}) {
					t.Errorf("%v got %q", sub.Filters(), got)
				}
			}
			check(t, first.Unsubscribe(ctx))
			check(t, c.Publish(ctx, topic, []byte("newer"), mqtt.AtLeastOnce))
			if got := next(t, ctx, second); got != "newer" {
				t.Errorf("after the first had left, the second got %q", got)
			}
			check(t, second.Unsubscribe(ctx))
		})
	}
}

// Overlapping filters of one client: Mosquitto sends one copy for each, and each subscription takes one.
func TestOverlappingFilters(t *testing.T) { eachServer(t, testOverlappingFilters) }

func testOverlappingFilters(t *testing.T, server anyServer) {
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer c.Close()
	wide, err := c.Subscribe(ctx, "o/#", mqtt.AtLeastOnce)
	check(t, err)
	both, err := c.Subscribe(ctx, "o/+/x", mqtt.AtMostOnce, mqtt.Also(mqtt.ExactlyOnce, "o/1/+"))
	check(t, err)
	for i := range 10 {
		check(t, c.Publish(ctx, "o/1/x", fmt.Append(nil, i), mqtt.ExactlyOnce))
	}
	for i := range 10 {
		for _, sub := range []*mqtt.Subscription{wide, both} {
			if got := next(t, ctx, sub); got != fmt.Sprint(i) {
				t.Fatalf("%v got %q, want %d", sub.Filters(), got, i)
			}
		}
	}
	check(t, c.Publish(ctx, "o/end/end/end", nil, mqtt.AtLeastOnce))
	if got := next(t, ctx, wide); got != "" {
		t.Errorf("a copy too many: %q", got)
	}
	check(t, c.Publish(ctx, "o/end/x", []byte("end"), mqtt.AtLeastOnce))
	if got := next(t, ctx, both); got != "end" {
		t.Errorf("a copy too many: %q", got)
	}
}

// dynamicSecurity configures Mosquitto's access control: anybody may do anything below "open/", and publish nowhere else.
const dynamicSecurity = `{
	"defaultACLAccess": {"publishClientSend": false, "publishClientReceive": true, "subscribe": false, "unsubscribe": true},
	"anonymousGroup": "anybody",
	"groups": [{"groupname": "anybody", "roles": [{"rolename": "open"}]}],
	"roles": [{"rolename": "open", "acls": [
		{"acltype": "publishClientSend", "topic": "open/#", "allow": true},
		{"acltype": "subscribePattern", "topic": "open/#", "allow": true}
	]}],
	"clients": []
}`

// restricted starts a Mosquitto with that access control.
func restricted(t *testing.T) *mosquitto {
	find(t, "mosquitto")
	file := filepath.Join(t.TempDir(), "security.json")
	check(t, os.WriteFile(file, []byte(dynamicSecurity), 0o600))
	plugins, _ := filepath.Glob("/usr/lib*/*/mosquitto_dynamic_security.so")
	more, _ := filepath.Glob("/usr/lib*/mosquitto_dynamic_security.so")
	plugins = append(plugins, more...)
	if len(plugins) == 0 {
		t.Fatal("Mosquitto's dynamic security plugin is not where it is installed")
	}
	return startMosquitto(t, "plugin "+plugins[0], "plugin_opt_config_file "+file)
}

// The server says no: to a connect, to a filter, to a message.
func TestRefusals(t *testing.T) {
	server, closed := restricted(t), startMosquitto(t, "allow_anonymous false")
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			ctx := within(t)
			_, err := v.connect(ctx, closed.url(), mqtt.WithCredentials("nobody", "secret"))
			var refused *mqtt.ConnectError
			if !errors.As(err, &refused) || !errors.Is(err, mqtt.NotAuthorized) || strings.Contains(err.Error(), "secret") {
				t.Errorf("connecting without authority: %v", err)
			}
			c, err := v.connect(ctx, server.url())
			check(t, err)
			defer c.Close()
			_, err = c.Subscribe(ctx, "open/a", mqtt.AtLeastOnce, mqtt.Also(mqtt.AtLeastOnce, "closed/a"))
			var failed *mqtt.SubscribeError
			if !errors.As(err, &failed) || len(failed.Failures) != 1 || failed.Failures[0].Filter != "closed/a" {
				t.Errorf("subscribing to what is forbidden: %v", err)
			}
			want := error(mqtt.NotAuthorized)
			if v.name == "3.1.1" {
				want = mqtt.UnspecifiedError // 0x80 is all that it can say
			}
			if !errors.Is(err, want) {
				t.Errorf("subscribing to what is forbidden: %v, want %v", err, want)
			}
			err = c.Publish(ctx, "closed/a", nil, mqtt.AtLeastOnce)
			var publish *mqtt.PublishError
			switch refused := errors.As(err, &publish) && errors.Is(err, mqtt.NotAuthorized); {
			case v.name == "5.0" && !refused:
				t.Errorf("publishing what is forbidden: %v", err)
			case v.name == "3.1.1" && err != nil:
				t.Errorf("3.1.1 cannot refuse a message: %v", err) // [MQTT311-3.3.5-2]
			}
			// Mosquitto 2.0.11 closes the connection after it has refused a message: nothing more can be asked of it.
		})
	}
}

func TestServerKilled(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			server := startMosquitto(t)
			ctx := within(t)
			c, err := v.connect(ctx, server.url(), mqtt.WithoutReconnect())
			check(t, err)
			sub, err := c.Subscribe(ctx, "#", mqtt.AtLeastOnce)
			check(t, err)
			server.kill()
			if _, ok := <-sub.Messages(); ok {
				t.Error("a message from a dead server")
			}
			if err := sub.Err(); !errors.Is(err, mqtt.ErrConnectionLost) {
				t.Errorf("the subscription ended with %v", err)
			}
			if err := c.Publish(ctx, "a", nil, mqtt.AtLeastOnce); !mqtt.SafeToRetry(err) {
				t.Errorf("publishing on a dead client: %v", err)
			}
			check(t, c.Close())
		})
	}
}
