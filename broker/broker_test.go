package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
)

// onLoopback returns the configuration of a broker on a free port.
func onLoopback() Config {
	c := DefaultConfig()
	c.Listeners[0].Bind = "127.0.0.1:0"
	return c
}

// start runs a broker until the test ends.
func start(t *testing.T, c Config, plugins ...Plugin) *Broker {
	t.Helper()
	c.Logger = slog.New(slog.NewTextHandler(newTestWriter(t), &slog.HandlerOptions{Level: slog.LevelDebug}))
	b, err := New(c, plugins...)
	check(t, err)
	check(t, b.Start(t.Context()))
	t.Cleanup(func() { check(t, b.Shutdown(context.Background())) })
	return b
}

// testWriter puts lines into the log of a test while it runs.
type testWriter struct {
	t    *testing.T
	mu   sync.Mutex // guards over
	over bool
}

func newTestWriter(t *testing.T) *testWriter {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
	})
	return w
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience is how long anything may take, on a machine that is busy: it ends what hangs.
const patience = 2 * time.Minute

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// versions makes a client of each version.
var versions = []struct {
	name    string
	connect func(ctx context.Context, url string, opts ...mqtt.Option) (mqtt.Client, error)
}{
	{"5.0", func(ctx context.Context, url string, opts ...mqtt.Option) (mqtt.Client, error) {
		c, err := mqtt.NewClient(ctx, url, mqtt.Options(opts))
		if err != nil {
			return nil, err
		}
		return mqtt.Common(c), nil
	}},
	{"3.1.1", func(ctx context.Context, url string, opts ...mqtt.Option) (mqtt.Client, error) {
		return mqtt.NewClientV311(ctx, url, opts...)
	}},
}

// roundTrip sends a message at each QoS to the client itself.
func roundTrip(t *testing.T, ctx context.Context, c mqtt.Client) {
	t.Helper()
	sub, err := c.Subscribe(ctx, "round/+", mqtt.ExactlyOnce)
	check(t, err)
	for qos := mqtt.AtMostOnce; qos <= mqtt.ExactlyOnce; qos++ {
		topic := fmt.Sprintf("round/%d", qos)
		check(t, c.Publish(ctx, topic, []byte("trip"), qos))
		m, err := sub.Next(ctx)
		check(t, err)
		if m.Topic != topic || string(m.Payload) != "trip" || m.QoS != qos {
			t.Errorf("got %+v for %s", m, topic)
		}
	}
}

// Every transport, for both versions. [MQTT-4.2.0-1] [MQTT311-7.1.1-1]
func TestTransports(t *testing.T) {
	certs := makeCertificates(t, t.TempDir())
	c := onLoopback()
	c.Listeners = nil
	for _, kind := range []string{"tcp", "ws"} {
		plain := Listener{Name: kind, Bind: "127.0.0.1:0", Type: kind}
		secure := plain
		secure.Name, secure.SSL, secure.CertFile, secure.KeyFile = kind+" ssl", true, certs.cert, certs.key
		c.Listeners = append(c.Listeners, plain, secure)
	}
	b := start(t, c)
	for _, url := range b.URLs() {
		for _, v := range versions {
			t.Run(url[:strings.Index(url, ":")]+"/"+v.name, func(t *testing.T) {
				ctx := within(t)
				var opts []mqtt.Option
				if scheme, _, _ := strings.Cut(url, ":"); strings.HasSuffix(scheme, "s") && scheme != "ws" {
					opts = append(opts, mqtt.WithTLS(certs.client(t, false)))
				}
				c, err := v.connect(ctx, url, opts...)
				check(t, err)
				defer c.Close()
				roundTrip(t, ctx, c)
			})
		}
	}
}

// Clients may have certificates, and must if the listener asks for them.
func TestClientCertificates(t *testing.T) {
	certs, others := makeCertificates(t, t.TempDir()), makeCertificates(t, t.TempDir())
	folder := t.TempDir()
	text, err := os.ReadFile(certs.ca)
	check(t, err)
	writeFile(t, folder+"/ca.pem", string(text))
	for _, c := range []struct {
		name                  string
		change                func(*Listener)
		without, with, others bool // whether these clients get in
	}{
		{"no authority", func(*Listener) {}, true, true, true},
		{"cafile", func(l *Listener) { l.CAFile = certs.ca }, true, true, false},
		{"capath", func(l *Listener) { l.CAPath = folder }, true, true, false},
		{"cadata", func(l *Listener) { l.CAData = string(text) }, true, true, false},
		{"cafile, and the manual's capath", func(l *Listener) { l.CAFile, l.CAPath = certs.ca, "certificate data" }, true, true, false},
		{"required", func(l *Listener) { l.CAFile, l.RequireCertificate = certs.ca, true }, false, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := onLoopback()
			l := &config.Listeners[0]
			l.SSL, l.CertFile, l.KeyFile = true, certs.cert, certs.key
			c.change(l)
			sees := make(chan bool, 3) // whether a plugin sees a certificate; it may be told after the client
			b := start(t, config, Plugin{Name: "see", Connected: func(c Client) { sees <- len(c.TLS.PeerCertificates) == 1 }})
			seen := false
			foreign := certs.client(t, false)
			foreign.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(others.clientCert, others.clientKey)
				return &pair, err // asked for or not
			}
			for _, try := range []struct {
				config *tls.Config
				want   bool
			}{{certs.client(t, false), c.without}, {certs.client(t, true), c.with}, {foreign, c.others}} {
				client, err := mqtt.NewClient(within(t), b.URLs()[0], mqtt.WithTLS(try.config), mqtt.WithoutReconnect())
				if (err == nil) != try.want {
					t.Errorf("want %v, got %v", try.want, err)
				}
				if err == nil {
					seen = <-sees
					client.Close()
				}
			}
			if want := c.name != "no authority"; seen != want {
				t.Errorf("the plugin has seen a certificate: %v", !want)
			}
		})
	}
}

// What cannot work is an error of Start, in one line, and nothing is left running.
func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	certs := makeCertificates(t, dir)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer busy.Close()
	taken := onLoopback()
	taken.PersistenceFile = dir + "/taken.db"
	start(t, taken)
	ssl := func(change func(*Listener)) func(*Config) {
		return func(c *Config) {
			l := &c.Listeners[0]
			l.SSL, l.CertFile, l.KeyFile = true, certs.cert, certs.key
			change(l)
		}
	}
	text := writeFile(t, dir+"/text", "no:certificate\n")
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Listeners[0].Bind = busy.Addr().String() }, "another program listens there; stop it, or bind another port"},
		{func(c *Config) { c.Listeners[0].Bind = "192.0.2.1:1883" }, "is it an address of this machine?"},
		{func(c *Config) { c.Auth.PasswordFile = dir + "/none" }, "password-file: open " + dir + "/none: no such file or directory"},
		{func(c *Config) { c.Auth.PasswordFile = text }, "password-file: " + text + ": line 1: user no: is none of"},
		{func(c *Config) { c.Auth.ACLFile = dir + "/none" }, "acl-file: open " + dir + "/none: no such file or directory"},
		{func(c *Config) { c.Auth.ACLFile = text }, "acl-file: " + text + `: line 1: "no:certificate" is not known`},
		{func(c *Config) { c.PersistenceFile = dir + "/no/db" }, "persistence-file: "},
		{func(c *Config) { c.PersistenceFile = taken.PersistenceFile }, "is in use; stop the other broker, or name another file"},
		{ssl(func(l *Listener) { l.CertFile = dir + "/none" }), "listener default: certfile and keyfile: open " + dir + "/none: no such file or directory"},
		{ssl(func(l *Listener) { l.KeyFile = certs.clientKey }), "listener default: certfile and keyfile: tls: private key does not match public key"},
		{ssl(func(l *Listener) { l.CertFile = text }), "listener default: certfile and keyfile: tls: failed to find any PEM data"},
		{ssl(func(l *Listener) { l.CAFile = dir + "/none" }), "listener default: cafile: open " + dir + "/none: no such file or directory"},
		{ssl(func(l *Listener) { l.CAFile = text }), "listener default: cafile: " + text + " holds no PEM certificate"},
		{ssl(func(l *Listener) { l.CAData = "certificate data" }), "listener default: cadata: is no PEM certificate"},
		{ssl(func(l *Listener) { l.CAPath, l.RequireCertificate = dir+"/none", true }), "listener default: require-certificate: there is no authority to check certificates against"},
	} {
		config := onLoopback()
		c.change(&config)
		b, err := New(config)
		check(t, err)
		err = b.Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s", err, c.want)
		}
		machine := config.Listeners[0].Bind != onLoopback().Listeners[0].Bind || config.PersistenceFile == taken.PersistenceFile
		if _, ok := err.(*FileError); ok == machine {
			t.Errorf("%v is a %T", err, err)
		}
		if err := b.Start(t.Context()); err == nil || err.Error() != "broker: was started before" {
			t.Errorf("started again: %v", err)
		}
		check(t, b.Shutdown(t.Context()))
	}
}

// Nobody beyond max-connections gets in, and a place that is left can be taken. The client is told that it may try again.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.Listeners[0].MaxConnections = 2
	b := start(t, c)
	connect := &codec.Connect{CleanStart: true}
	first, _ := join(t, b, codec.V5, connect)
	join(t, b, codec.V5, connect)
	for _, want := range []struct {
		version codec.Version
		code    codec.ReasonCode
	}{{codec.V5, codec.ServerBusy}, {codec.V311, codec.FromReturnCode(3)}} {
		p, ack := join(t, b, want.version, connect)
		if ack.Code != want.code {
			t.Errorf("%v", ack.Code)
		}
		p.ended()
	}
	first.send(&codec.Disconnect{})
	first.ended()
	for code := codec.ServerBusy; code != codec.Success; { // until the broker has noticed
		p, ack := join(t, b, codec.V5, connect)
		if code = ack.Code; code != codec.Success && code != codec.ServerBusy {
			t.Fatal(code)
		}
		p.conn.Close()
	}
}

// With so many turned away that have not gone, nobody else is even told.
func TestTurnedAway(t *testing.T) {
	c := onLoopback()
	c.Listeners[0].MaxConnections = 1
	b := start(t, c)
	for range 1 + turnedAway {
		dial(t, b, codec.V5)
	}
	dial(t, b, codec.V5).ended()
}

// A silent client is disconnected after its keep alive and timeout-disconnect-delay. [MQTT-3.1.2-22]
func TestTimeoutDisconnectDelay(t *testing.T) {
	for _, c := range []struct {
		delay, want time.Duration
	}{{0, 1500 * time.Millisecond}, {200 * time.Millisecond, 1200 * time.Millisecond}, {2 * time.Second, 3 * time.Second}} {
		for _, v := range []codec.Version{codec.V5, codec.V311} {
			t.Run(fmt.Sprint(c.delay, v), func(t *testing.T) {
				t.Parallel()
				config := onLoopback()
				config.TimeoutDisconnectDelay = c.delay
				b := start(t, config)
				began := time.Now()
				p, _ := join(t, b, v, &codec.Connect{CleanStart: true, KeepAlive: 1, ClientID: "x"})
				if v == codec.V5 {
					if got := receive[*codec.Disconnect](p); got.Code != codec.KeepAliveTimeout {
						t.Errorf("%+v", got)
					}
				}
				p.ended()
				if took := time.Since(began); took < c.want {
					t.Errorf("took %v, want %v", took, c.want)
				}
			})
		}
	}
}

// Whoever sends no CONNECT is sent away; the time for that does not go on after it.
func TestPatience(t *testing.T) {
	t.Parallel()
	b, err := New(onLoopback())
	check(t, err)
	b.patience = 3 * time.Second // on a busy machine p needs some of it
	check(t, b.Start(t.Context()))
	defer b.Shutdown(context.Background())
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	silent := dial(t, b, codec.V5)
	slow := dial(t, b, codec.V5)
	_, err = slow.conn.Write([]byte{0x10})
	check(t, err)
	silent.ended()
	slow.ended()
	p.quiet()
	p.conn.Close()
}

// Before CONNECT nobody gets memory for the asking: what cannot be a CONNECT, or says that it is a large one, is the end.
func TestFirstPacket(t *testing.T) {
	b, err := New(onLoopback())
	check(t, err)
	b.patience = time.Hour
	check(t, b.Start(t.Context()))
	defer b.Shutdown(t.Context())
	for _, text := range []string{
		"\x10\x81\x80\x08",         // CONNECT with a byte more than is allowed
		"\x10\xff\xff\xff\x7f",     // as long as any packet can be
		"\x10\xff\xff\xff\xff\x01", // longer
		"\x30\x80\x80\x04",         // PUBLISH
		"\xc0\x00",                 // PINGREQ
	} {
		for _, size := range []int{len(text), 1} {
			p := dial(t, b, codec.V5)
			for part := range slices.Chunk([]byte(text), size) {
				p.conn.Write(part) // which may have been too much already
			}
			p.ended()
		}
	}
	largest := &codec.Connect{CleanStart: true, Will: &codec.Will{Topic: "w", Payload: make([]byte, 65535)}, Username: "u", HasUsername: true}
	p, ack := join(t, b, codec.V5, largest)
	if ack.Code != 0 {
		t.Errorf("%v", ack.Code)
	}
	p.conn.Close()
}

// An upgrade that goes on when the broker ends does not wait for CONNECT any more.
func TestHurry(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	s := &socket{Conn: server}
	s.hurry()
	s.SetDeadline(time.Time{})
	s.SetReadDeadline(time.Now().Add(connectTimeout))
	began := time.Now()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > connectTimeout/2 {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// Shutdown tells MQTT 5 clients why, closes the others without a packet that 3.1.1 does not have, and does not wait for
// clients that say or take nothing.
func TestShutdown(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.Listeners[0].Bind = fmt.Sprint("127.0.0.1:", freeport.Take(t)) // nobody else is given it after the end
	b := start(t, c)
	five, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	three, _ := join(t, b, codec.V311, &codec.Connect{CleanStart: true, ClientID: "x"})
	silent := dial(t, b, codec.V5)
	client, err := mqtt.NewClient(within(t), b.URLs()[0])
	check(t, err)
	defer client.Close()
	check(t, b.Shutdown(within(t)))
	if got := receive[*codec.Disconnect](five); got.Code != codec.ServerShuttingDown {
		t.Errorf("%+v", got)
	}
	for _, p := range []*peer{five, three, silent} {
		p.ended()
	}
	if _, err := net.Dial("tcp", b.Addr("default").String()); err == nil {
		t.Error("still listens")
	}
	check(t, b.Shutdown(t.Context()))
	if err := b.Reload(); err == nil {
		t.Error("a broker that has ended can be reloaded")
	}
}

// When its ctx ends Shutdown returns, whatever a plugin does.
func TestShutdownBound(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	b := start(t, onLoopback(), Plugin{Name: "slow", Authenticate: func(context.Context, Client, []byte) Decision {
		close(asked)
		<-release
		return Allow
	}})
	p := dial(t, b, codec.V5)
	p.send(&codec.Connect{CleanStart: true})
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(release)
}

// A client that takes nothing holds up neither Shutdown nor whoever takes over its session.
func TestStalledClient(t *testing.T) {
	t.Parallel()
	b := start(t, onLoopback())
	connect := &codec.Connect{CleanStart: true, ClientID: "stalled"}
	other, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	stall := func() {
		p, _ := join(t, b, codec.V5, connect)
		p.subscribe(1, 0, "a")
		for range 24 {
			other.send(&codec.Publish{Topic: "a", Payload: make([]byte, 1<<20)})
		}
		other.quiet()
	}
	stall()
	began := time.Now()
	stall()
	check(t, b.Shutdown(within(t)))
	if took := time.Since(began); took > patience/2 {
		t.Errorf("took %v", took)
	}
}

// Messages for a client that takes none are dropped beyond a limit, and the log says so once.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.MaxQueuedMessages = 100
	var log lockedBuffer
	c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	b, err := New(c)
	check(t, err)
	check(t, b.Start(t.Context()))
	defer b.Shutdown(t.Context())
	slow, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	slow.subscribe(1, 0, "a")
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	payload := make([]byte, 4<<10)
	for range 5 {
		for range 1000 {
			p.send(&codec.Publish{Topic: "a", Payload: payload})
		}
		p.quiet()
	}
	if got := strings.Count(log.String(), "client is too slow, so messages to it are dropped"); got != 1 {
		t.Errorf("told %d times: %s", got, log.String())
	}
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Reload takes new passwords, ACLs and certificates, or nothing at all, and disconnects those whose password changed.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certs := makeCertificates(t, dir)
	line := func(user, iterations string) string { return user + ":$7$" + iterations + "$AAAA$" + key + "\n" }
	hash, err := NewHash(SHA512Crypt, []byte("old")) // the quickest one
	check(t, err)
	passwd := writeFile(t, dir+"/passwd", line("other", "1")+"stays:"+hash+"\ngoes:"+hash+"\n")
	acl := writeFile(t, dir+"/acl", "pattern readwrite a/#\n")
	c := onLoopback()
	c.Listeners[0].SSL, c.Listeners[0].CertFile, c.Listeners[0].KeyFile = true, certs.cert, certs.key
	c.Auth = Auth{PasswordFile: passwd, ACLFile: acl}
	b := start(t, c)
	ctx := within(t)
	try := func(certs certificates, user, password string) (mqtt.ClientV5, error) {
		return mqtt.NewClient(ctx, b.URLs()[0], mqtt.WithTLS(certs.client(t, false)), mqtt.WithCredentials(user, password))
	}
	stays, err := try(certs, "stays", "old")
	check(t, err)
	defer stays.Close()
	goes, err := try(certs, "goes", "old")
	check(t, err)
	defer goes.Close()
	if err := stays.Publish(ctx, "b", nil, mqtt.AtLeastOnce); !errors.Is(err, mqtt.NotAuthorized) {
		t.Errorf("publish to b: %v", err)
	}

	writeFile(t, passwd, "stays:"+hash+"\n"+line("new", "1"))
	writeFile(t, acl, "nonsense")
	if err := b.Reload(); err == nil || !strings.Contains(err.Error(), `acl: line 1: "nonsense" is not known`) {
		t.Error(err)
	}
	again, err := try(certs, "goes", "old")
	check(t, err) // as before
	again.Close()

	writeFile(t, acl, "pattern readwrite b/#\n")
	renewed := makeCertificates(t, dir)
	check(t, b.Reload())
	select {
	case <-goes.Done():
		if !errors.Is(goes.Err(), mqtt.NotAuthorized) {
			t.Error(goes.Err())
		}
	case <-ctx.Done():
		t.Error("a client without a user is still there")
	}
	if _, err := try(renewed, "goes", "old"); !errors.Is(err, mqtt.BadUserNameOrPassword) {
		t.Error(err)
	}
	check(t, stays.Publish(ctx, "b", nil, mqtt.AtLeastOnce))
}

// A client whose password is gone by the time that it has connected does not slip through.
func TestReloadWhileConnecting(t *testing.T) {
	t.Parallel()
	hash, err := NewHash(SHA512Crypt, []byte("old")) // the quickest one
	check(t, err)
	passwd := writeFile(t, t.TempDir()+"/passwd", "goes:"+hash+"\n")
	c := onLoopback()
	c.Auth = Auth{PasswordFile: passwd}
	var b *Broker
	var once sync.Once
	b = start(t, c, Plugin{Name: "reloads", Authorize: func(Client, Access, string) Decision { // asked about the will
		once.Do(func() {
			writeFile(t, passwd, "")
			if err := b.Reload(); err != nil {
				t.Error(err)
			}
		})
		return Allow
	}})
	ctx := within(t)
	client, err := mqtt.NewClient(ctx, b.URLs()[0], mqtt.WithCredentials("goes", "old"), mqtt.WithWill("will", nil))
	check(t, err)
	defer client.Close()
	select {
	case <-client.Done():
		if !errors.Is(client.Err(), mqtt.NotAuthorized) {
			t.Error(client.Err())
		}
	case <-ctx.Done():
		t.Error("a client without a user is there")
	}
}

// A broker that was shut down before its start does not start any more.
func TestShutdownBeforeStart(t *testing.T) {
	b, err := New(onLoopback())
	check(t, err)
	check(t, b.Shutdown(t.Context()))
	if err := b.Start(t.Context()); err == nil {
		t.Error("started")
		check(t, b.Shutdown(t.Context()))
	}
}

// Topics under $SYS are updated at their interval, or are not there.
func TestSys(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.SysInterval = time.Second
	b := start(t, c)
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	p.subscribe(1, 0, "$SYS/broker/uptime", "$SYS/broker/version")
	seen := map[string]int{}
	for seen["$SYS/broker/uptime"] < 2 { // the retained one, and an update
		m := receive[*codec.Publish](p)
		seen[m.Topic]++
		if m.Topic == "$SYS/broker/version" && !strings.HasPrefix(string(m.Payload), "petrel") {
			t.Errorf("version %s", m.Payload)
		}
	}
	c.SysInterval = 0
	p, _ = join(t, start(t, c), codec.V5, &codec.Connect{CleanStart: true})
	p.subscribe(1, 0, "$SYS/#")
	p.quiet()
}

// Sessions, their messages and retained messages outlive the broker with a persistence-file. A filter that was refused
// does not come back as granted.
func TestPersistence(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := onLoopback()
	c.PersistenceFile = dir + "/petrel.db"
	c.Auth.ACLFile = writeFile(t, dir+"/acl", "pattern readwrite a/#\npattern write b\n")
	b := start(t, c)
	p, _ := join(t, b, codec.V5, sessionOf("s"))
	if ack := p.subscribe(1, 1, "a/#", "b"); ack.Codes[0] != 1 || ack.Codes[1] != codec.NotAuthorized {
		t.Errorf("%+v", ack)
	}
	p.send(&codec.Disconnect{})
	p.ended()
	brief := sessionOf("brief")
	brief.Properties.SessionExpiry = uint32p(1)
	join(t, b, codec.V5, brief)
	pub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	for i, topic := range []string{"a/queued", "b", "a/retained"} {
		pub.send(&codec.Publish{Topic: topic, QoS: 1, PacketID: uint16(i + 1), Retain: topic == "a/retained", Payload: []byte(topic)})
		receive[*codec.Puback](pub)
	}
	check(t, b.Shutdown(t.Context()))

	b = start(t, c)
	if n := b.engine.Stats().Subscriptions; n != 1 {
		t.Errorf("%d subscriptions: those that were refused have come back", n)
	}
	resume := sessionOf("s")
	resume.CleanStart = false
	p, ack := join(t, b, codec.V5, resume)
	if !ack.SessionPresent {
		t.Fatal("no session")
	}
	got := map[string]bool{}
	for range 2 {
		m := receive[*codec.Publish](p)
		got[m.Topic] = true
		p.send(&codec.Puback{PacketID: m.PacketID})
	}
	if !got["a/queued"] || !got["a/retained"] {
		t.Errorf("got %v", got)
	}
	pub, _ = join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	pub.subscribe(1, 0, "a/#")
	if m := receive[*codec.Publish](pub); m.Topic != "a/retained" || !m.Retain {
		t.Errorf("%+v", m)
	}
	for _, topic := range []string{"b", "a/new"} {
		pub.send(&codec.Publish{Topic: topic, Payload: []byte("x")})
	}
	if m := receive[*codec.Publish](p); m.Topic != "a/new" {
		t.Errorf("%+v", m)
	}
	await(t, "the end of a session that was kept for a second", func() bool { return b.engine.Stats().Sessions == 2 })
}

// await waits until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	give := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-give:
			t.Fatalf("still no %s", what)
		}
	}
}

// The last packet arrives also when the broker has not read everything: a reset would destroy it on its way.
func TestLastPacketArrives(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.Listeners[0].MaxConnections = 1
	b := start(t, c)
	join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	p := dial(t, b, codec.V5)
	p.send(&codec.Connect{CleanStart: true}, &codec.Publish{Topic: "a", Payload: make([]byte, 100_000)})
	await(t, "end of the connection", func() bool {
		n := 0
		b.listeners[0].each(func(*socket) { n++ })
		return n == 1
	})
	if ack := receive[*codec.Connack](p); ack.Code != codec.ServerBusy {
		t.Errorf("%v", ack.Code)
	}
}

// An ACL holds for publishing, subscribing, receiving, retained messages and wills.
func TestACLInForce(t *testing.T) {
	c := onLoopback()
	c.Auth.ACLFile = writeFile(t, t.TempDir()+"/acl", "topic write out/#\ntopic read in/#\nuser root\ntopic readwrite #\n")
	b := start(t, c)
	root, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, HasUsername: true, Username: "root"})
	root.send(&codec.Publish{Topic: "secret", Retain: true, Payload: []byte("x")})
	root.subscribe(1, 0, "out/#", "secret")
	if m := receive[*codec.Publish](root); m.Topic != "secret" {
		t.Errorf("%+v", m)
	}
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	ack := p.subscribe(1, 0, "in/#", "#", "out/#", "secret", "$share/g/in/a", "$share/g/out/a", "a+")
	want := []codec.ReasonCode{0, 0, codec.NotAuthorized, codec.NotAuthorized, 0, codec.NotAuthorized, codec.TopicFilterInvalid}
	if !slices.Equal(ack.Codes, want) {
		t.Errorf("got %v, want %v", ack.Codes, want)
	}
	p.quiet() // the retained message of # is not for it
	root.send(&codec.Publish{Topic: "secret"}, &codec.Publish{Topic: "in/b"})
	receive[*codec.Publish](root)
	if m := receive[*codec.Publish](p); m.Topic != "in/b" {
		t.Errorf("%+v", m)
	}
	p.send(&codec.Publish{Topic: "in/b", QoS: 1, PacketID: 1}, &codec.Publish{Topic: "in/b"}, &codec.Publish{Topic: "out/b", QoS: 1, PacketID: 2})
	if ack := receive[*codec.Puback](p); ack.PacketID != 1 || ack.Code != codec.NotAuthorized {
		t.Errorf("%+v", ack)
	}
	if ack := receive[*codec.Puback](p); ack.PacketID != 2 || ack.Code != 0 {
		t.Errorf("%+v", ack)
	}
	receive[*codec.Publish](root)
	for topic, want := range map[string]codec.ReasonCode{
		"secret": codec.NotAuthorized, "$SYS/broker/uptime": codec.NotAuthorized, "out/will": codec.Success,
	} {
		if _, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Will: &codec.Will{Topic: topic}}); ack.Code != want {
			t.Errorf("will to %s: %v", topic, ack.Code)
		}
	}
}

// Plugins decide in their order before the password file and the ACL, and are told what happens.
func TestPlugins(t *testing.T) {
	c := onLoopback()
	c.Auth = Auth{PasswordFile: writeFile(t, t.TempDir()+"/passwd", "")}
	events := make(chan string, 100)
	b := start(t, c, Plugin{
		Name: "first",
		Authenticate: func(_ context.Context, c Client, password []byte) Decision {
			switch c.Username {
			case "in":
				return Allow
			case "out":
				return Deny
			}
			return Abstain
		},
		Authorize: func(c Client, access Access, topic string) Decision {
			if topic == "no" || access == Subscribe && topic == "no/+" {
				return Deny
			}
			return Abstain
		},
		Connected:    func(c Client) { events <- "connected " + c.ID },
		Disconnected: func(c Client, err error) { events <- fmt.Sprint("disconnected ", c.ID, " ", err) },
		Subscribed:   func(_ Client, filter string, qos byte) { events <- fmt.Sprint("subscribed ", filter, qos) },
		Unsubscribed: func(_ Client, filter string) { events <- "unsubscribed " + filter },
		Published: func(_ Client, m Message) {
			events <- fmt.Sprintf("published %s %s %d %v", m.Topic, m.Payload, m.QoS, m.Retain)
		},
	}, Plugin{
		Name:         "second",
		Authenticate: func(context.Context, Client, []byte) Decision { return Deny },
		Authorize: func(_ Client, access Access, topic string) Decision {
			if topic == "no" {
				return Allow
			}
			return Abstain
		},
	})
	user := func(name string) *codec.Connect {
		return &codec.Connect{CleanStart: true, ClientID: name, HasUsername: name != "", Username: name}
	}
	for _, name := range []string{"out", "other", ""} {
		if _, ack := join(t, b, codec.V5, user(name)); ack.Code != codec.BadUserNameOrPassword {
			t.Errorf("%q: %v", name, ack.Code)
		}
	}
	p, _ := join(t, b, codec.V5, user("in"))
	if ack := p.subscribe(1, 1, "a", "no", "no/+"); !slices.Equal(ack.Codes, []codec.ReasonCode{1, codec.NotAuthorized, codec.NotAuthorized}) {
		t.Errorf("%v", ack.Codes)
	}
	p.send(&codec.Publish{Topic: "b", Payload: []byte("x"), Retain: true}, &codec.Publish{Topic: "no"},
		&codec.Unsubscribe{PacketID: 2, Filters: []string{"a"}}, &codec.Disconnect{})
	for _, want := range []string{
		"connected in", "subscribed a1", "published b x 0 true", "unsubscribed a", "disconnected in <nil>",
	} {
		if got := <-events; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A configuration that names plugins activates those only, as HBMQTT's do.
func TestPluginsByName(t *testing.T) {
	c := onLoopback()
	c.Auth.Plugins = []string{"auth_file", "kind"}
	deny := func(context.Context, Client, []byte) Decision { return Deny }
	allow := func(context.Context, Client, []byte) Decision { return Allow }
	b := start(t, c, Plugin{Name: "strict", Authenticate: deny}, Plugin{Name: "kind", Authenticate: allow})
	if _, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true}); ack.Code != 0 {
		t.Errorf("%v", ack.Code)
	}
}

// A packet beyond max-packet-size, which is announced, ends the connection.
func TestMaxPacketSize(t *testing.T) {
	c := onLoopback()
	c.MaxPacketSize = 1000
	b := start(t, c)
	p, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	if ack.Properties.MaximumPacketSize != 1000 {
		t.Errorf("%+v", ack.Properties)
	}
	p.send(&codec.Publish{Topic: "a", Payload: make([]byte, 900)})
	p.quiet()
	p.send(&codec.Publish{Topic: "a", Payload: make([]byte, 1000)})
	if got := receive[*codec.Disconnect](p); got.Code != codec.PacketTooLarge {
		t.Errorf("%v", got.Code)
	}
	p.ended()
}

// Mosquitto's programs can talk to the broker.
func TestMosquittoPrograms(t *testing.T) {
	pub, sub := find(t, "mosquitto_pub"), find(t, "mosquitto_sub")
	certs := makeCertificates(t, t.TempDir())
	c := onLoopback()
	c.Listeners = append(c.Listeners, Listener{
		Name: "ssl", Bind: "127.0.0.1:0", Type: "tcp", SSL: true, CertFile: certs.cert, KeyFile: certs.key,
	})
	subscribed := make(chan struct{}, 1)
	b := start(t, c, Plugin{Name: "see", Subscribed: func(Client, string, byte) { subscribed <- struct{}{} }})
	for _, listener := range []string{"default", "ssl"} {
		for _, version := range []string{"mqttv5", "mqttv311"} {
			_, port, err := net.SplitHostPort(b.Addr(listener).String())
			check(t, err)
			args := []string{"-h", "127.0.0.1", "-p", port, "-V", version, "-t", "a", "-q", "2"}
			if listener == "ssl" {
				args = append(args, "--cafile", certs.ca)
			}
			ctx := within(t)
			var out bytes.Buffer
			reader := exec.CommandContext(ctx, sub, append(args, "-C", "1", "-v")...)
			reader.Stdout, reader.Stderr = &out, &out
			check(t, reader.Start())
			select {
			case <-subscribed:
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			}
			if text, err := exec.CommandContext(ctx, pub, append(args, "-m", "hello")...).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, text)
			}
			if err := reader.Wait(); err != nil || out.String() != "a hello\n" {
				t.Errorf("%s %s: %v: %s", listener, version, err, &out)
			}
		}
	}
}

// find returns the path of a program that a test needs.
func find(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("%s is not installed, and nothing is skipped where CI is set", program)
	default:
		t.Skipf("%s is not installed", program)
	}
	return path
}
