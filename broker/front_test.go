package broker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
)

// withPasswords returns a configuration with a password file: each user's password is the name.
func withPasswords(t *testing.T, users ...string) Config {
	t.Helper()
	p, err := ParsePasswords(nil)
	check(t, err)
	for _, user := range users {
		hash, err := NewHash(SHA512Crypt, []byte(user))
		check(t, err)
		check(t, p.Set(user, hash))
	}
	c := onLoopback()
	c.Auth = Auth{PasswordFile: writeFile(t, t.TempDir()+"/passwd", p.String())}
	return c
}

// user is the CONNECT of somebody whose password is the name.
func user(id, name string) *codec.Connect {
	return &codec.Connect{
		ClientID: id, CleanStart: true, Username: name, HasUsername: name != "", Password: []byte(name), HasPassword: name != "",
	}
}

// After too many wrong passwords from an address not even the right one is looked at.
func TestMaxFailedAttempts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version        codec.Version
		wrong, limited codec.ReasonCode
	}{
		{codec.V5, codec.BadUserNameOrPassword, codec.ConnectionRateExceeded},
		{codec.V311, codec.FromReturnCode(4), codec.FromReturnCode(3)},
	} {
		config := withPasswords(t, "alice")
		config.Auth.MaxFailedAttempts = 2
		b := start(t, config)
		for i, try := range []struct {
			password string
			want     codec.ReasonCode
		}{{"x", c.wrong}, {"alice", codec.Success}, {"x", c.wrong}, {"alice", c.limited}} {
			connect := user("x", "alice")
			connect.Password = []byte(try.password)
			p, ack := join(t, b, c.version, connect)
			if ack.Code != try.want {
				t.Errorf("%v, attempt %d: %v, want %v", c.version, i, ack.Code, try.want)
			}
			p.conn.Close()
		}
		check(t, b.Shutdown(context.Background()))
	}
}

// warningsOf calls f with a broker whose log it returns, without times.
func warningsOf(t *testing.T, c Config, f func(*Broker) error, plugins ...Plugin) ([]string, error) {
	t.Helper()
	var log lockedBuffer
	c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key != slog.MessageKey {
			return slog.Attr{}
		}
		return a
	}}))
	b, err := New(c, plugins...)
	check(t, err)
	err = f(b)
	check(t, b.Shutdown(t.Context()))
	var lines []string
	for line := range strings.Lines(log.String()) {
		lines = append(lines, strings.Trim(strings.TrimPrefix(strings.TrimSpace(line), "msg="), `"`))
	}
	return lines, err
}

// Check says what a start does, and a start what Check says.
func TestCheckSaysWhatStartDoes(t *testing.T) {
	certs := makeCertificates(t, t.TempDir())
	acl := func(text string) string { return writeFile(t, filepath.Join(t.TempDir(), "acl"), text) }
	slashed := withPasswords(t, "site/7", "alice", "site/8").Auth.PasswordFile
	const (
		unchecked = "auth: there are rules for user names, which nobody checks without a password-file: every client can take any of them"
		slash     = `auth: no pattern with %u allows user \"site/7\" anything, because of the +, # or / in the name; give this user topic lines`
	)
	for _, c := range []struct {
		name    string
		change  func(*Config)
		plugins []Plugin
		want    []string
	}{
		{"nothing", func(*Config) {}, nil, nil},
		{"the file's own", func(c *Config) { c.Warnings = []string{"hm"} }, nil, []string{"hm"}},
		{"rules for users", func(c *Config) { c.Auth.ACLFile = acl("user alice\ntopic a") }, nil, []string{unchecked}},
		{"rules by users", func(c *Config) { c.Auth.ACLFile = acl("pattern %u") }, nil, []string{unchecked}},
		{"topic-check", func(c *Config) { c.Auth.Topics = &TopicCheck{Publish: map[string][]string{"alice": {"a"}}} }, nil, []string{unchecked}},
		{"rules for anonymous", func(c *Config) { c.Auth.ACLFile = acl("topic a\npattern b/%c") }, nil, nil},
		{"a plugin", func(c *Config) { c.Auth.ACLFile = acl("user alice\ntopic a") }, []Plugin{{
			Name: "p", Authenticate: func(context.Context, Client, []byte) Decision { return Deny },
		}}, nil},
		{"certificates", func(c *Config) {
			c.Auth.ACLFile = acl("user alice\ntopic a")
			l := &c.Listeners[0]
			l.SSL, l.CertFile, l.KeyFile, l.CAFile, l.RequireCertificate, l.UseIdentityAsUsername = true, certs.cert, certs.key, certs.ca, true, true
		}, nil, nil},
		{"passwords", func(c *Config) { c.Auth = Auth{PasswordFile: slashed, ACLFile: acl("user alice\ntopic a\npattern %c")} }, nil, nil},
		{"a slash", func(c *Config) { c.Auth = Auth{PasswordFile: slashed, ACLFile: acl("pattern %u/#")} }, nil, []string{slash}},
		{"no folder of authorities", func(c *Config) {
			l := &c.Listeners[0]
			l.SSL, l.CertFile, l.KeyFile, l.CAPath = true, certs.cert, certs.key, "none"
		}, nil, []string{"capath is left out"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := onLoopback()
			c.change(&config)
			for name, f := range map[string]func(*Broker) error{
				"check": (*Broker).Check,
				"start": func(b *Broker) error { return b.Start(t.Context()) },
			} {
				got, err := warningsOf(t, config, f, c.plugins...)
				if err != nil || !slices.Equal(got, c.want) {
					t.Errorf("%s: got %q, %v, want %q", name, got, err, c.want)
				}
			}
		})
	}
}

// What keeps a start from success is found by Check, unless it is that the same broker runs.
func TestCheckFindsWhatStartDoes(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, dir+"/file", "")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer busy.Close()
	for _, c := range []struct {
		change  func(*Config)
		want    string // "" if all is well
		warning string
	}{
		{func(c *Config) { c.Listeners[0].Bind = busy.Addr().String() }, "", "the address is taken, which is right if this broker runs"},
		{func(c *Config) { c.Listeners[0].Bind = "192.0.2.1:1883" }, "bind: cannot listen on 192.0.2.1:1883: is it an address of this machine?", ""},
		{func(c *Config) { c.PersistenceFile = dir + "/none/db" }, "persistence-file: stat " + dir + "/none: no such file", ""},
		{func(c *Config) { c.PersistenceFile = file + "/db" }, "persistence-file: ", ""},
		{func(c *Config) { c.PersistenceFile = dir + "/db" }, "", ""},
		{func(c *Config) { c.Auth.PasswordFile = dir + "/none" }, "password-file: open ", ""},
	} {
		config := onLoopback()
		c.change(&config)
		warnings, err := warningsOf(t, config, (*Broker).Check)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || strings.Join(warnings, "\n") != c.warning {
			t.Errorf("got %v and %q, want %q and %q", err, warnings, c.want, c.warning)
		}
	}
	if left, err := filepath.Glob(dir + "/db*"); err != nil || left != nil {
		t.Errorf("Check leaves %q", left)
	}
}

// A broker that has not started is nowhere.
func TestStartThatFailedHasNoAddress(t *testing.T) {
	c := onLoopback()
	c.Auth.PasswordFile = t.TempDir() + "/none"
	b, err := New(c)
	check(t, err)
	if b.Start(t.Context()) == nil {
		t.Fatal("starts without its password file")
	}
	if urls, addr := b.URLs(), b.Addr("default"); urls != nil || addr != nil {
		t.Errorf("URLs %q, address %v", urls, addr)
	}
}

// Each family has its own addresses, so that both can be had on one port. A machine may have one of them only.
func TestBothFamilies(t *testing.T) {
	four, six := "127.0.0.1", "::1"
	for _, c := range []struct {
		hosts  []string
		reach  []string
		refuse []string
	}{
		{[]string{"0.0.0.0"}, []string{four}, []string{six}},
		{[]string{"::"}, []string{six}, []string{four}},
		{[]string{""}, []string{four, six}, nil},
		{[]string{"0.0.0.0", "::"}, []string{four, six}, nil},
	} {
		if slices.Contains(c.hosts, "::") && !hasFamily(six) {
			continue
		}
		b, port := startAt(t, c.hosts)
		for _, host := range c.reach {
			if hasFamily(host) && !dialable(host, port) {
				t.Errorf("%q does not listen on %s", c.hosts, host)
			}
		}
		for _, host := range c.refuse {
			if dialable(host, port) {
				t.Errorf("%q listens on %s", c.hosts, host)
			}
		}
		check(t, b.Shutdown(t.Context()))
	}
}

// hasFamily reports whether the machine has the family of a loopback address.
func hasFamily(loopback string) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err == nil {
		l.Close()
	}
	return err == nil
}

func dialable(host, port string) bool {
	conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// startAt starts a broker that listens on some hosts, at the same port.
func startAt(t *testing.T, hosts []string) (b *Broker, port string) {
	t.Helper()
	port = fmt.Sprint(freeport.Take(t))
	config := onLoopback()
	config.Listeners = nil
	for i, host := range hosts {
		config.Listeners = append(config.Listeners, Listener{Name: fmt.Sprint(i), Type: "tcp", Bind: net.JoinHostPort(host, port)})
	}
	b, err := New(config)
	check(t, err)
	check(t, b.Start(t.Context()))
	return b, port
}

// The client identifier is the user name where the listener wants it.
func TestRequireUsernameAsClientID(t *testing.T) {
	t.Parallel()
	config := withPasswords(t, "alice", "bob")
	config.Auth.AllowAnonymous = true
	config.Listeners[0].RequireUsernameAsClientID = true
	b := start(t, config)
	for _, c := range []struct {
		id, user string
		want     codec.ReasonCode
		assigned string
	}{
		{"alice", "alice", codec.Success, ""},
		{"", "alice", codec.Success, "alice"},
		{"bob", "alice", codec.ClientIdentifierNotValid, ""},
		{"alice", "", codec.ClientIdentifierNotValid, ""},
		{"", "", codec.ClientIdentifierNotValid, ""},
	} {
		for _, v := range []codec.Version{codec.V5, codec.V311} {
			p, ack := join(t, b, v, user(c.id, c.user))
			want, assigned := c.want, c.assigned
			if v == codec.V311 {
				want, assigned = codec.FromReturnCode(want.ReturnCode()), ""
			}
			if ack.Code != want || ack.Properties.AssignedClientID != assigned {
				t.Errorf("%v, id %q, user %q: %v, %q", v, c.id, c.user, ack.Code, ack.Properties.AssignedClientID)
			}
			p.conn.Close()
		}
	}
}

// proves is an enhanced authentication that takes the client's data for its user name.
type proves struct{}

func (proves) Next(_ context.Context, data []byte) (Step, error) {
	return Step{Done: true, Username: string(data)}, nil
}

// What a listener wants of a client's identifier holds for enhanced authentication too.
func TestRequireUsernameAsClientIDWithExchange(t *testing.T) {
	t.Parallel()
	config := onLoopback()
	config.Listeners[0].RequireUsernameAsClientID = true
	b := start(t, config, Plugin{Name: "exchange", Exchange: func(Client, string) Exchange { return proves{} }})
	for _, c := range []struct {
		id       string
		want     codec.ReasonCode
		assigned string
	}{{"alice", codec.Success, ""}, {"bob", codec.ClientIdentifierNotValid, ""}, {"", codec.Success, "alice"}} {
		_, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true, ClientID: c.id, Properties: codec.ConnectProperties{
			AuthenticationMethod: "M", AuthenticationData: []byte("alice"),
		}})
		if ack.Code != c.want || ack.Properties.AssignedClientID != c.assigned {
			t.Errorf("id %q: %v, %q", c.id, ack.Code, ack.Properties.AssignedClientID)
		}
	}
}

// Who sends no client identifier is told which one it has, which nobody else has, and can come back with it.
// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
func TestAssignedClientID(t *testing.T) {
	t.Parallel()
	b := start(t, onLoopback())
	seen := map[string]bool{}
	for range 10 {
		p, ack := join(t, b, codec.V5, sessionOf(""))
		id := ack.Properties.AssignedClientID
		if len(id) < 20 || seen[id] {
			t.Errorf("%q is no identifier of its own", id)
		}
		seen[id] = true
		p.conn.Close()
		resume := sessionOf(id)
		resume.CleanStart = false
		if _, ack := join(t, b, codec.V5, resume); !ack.SessionPresent || ack.Properties.AssignedClientID != "" {
			t.Errorf("%q: %+v", id, ack)
		}
	}
}

// Who has a certificate is who it says, and needs no password.
func TestUseIdentityAsUsername(t *testing.T) {
	t.Parallel()
	certs := makeCertificates(t, t.TempDir())
	config := withPasswords(t, "alice")
	l := &config.Listeners[0]
	l.SSL, l.CertFile, l.KeyFile, l.CAFile, l.RequireCertificate, l.UseIdentityAsUsername = true, certs.cert, certs.key, certs.ca, true, true
	config.Auth.ACLFile = writeFile(t, t.TempDir()+"/acl", "pattern readwrite of/%u/#\n")
	connected := make(chan Client, 1)
	b := start(t, config, Plugin{Name: "see", Connected: func(c Client) { connected <- c }})
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, b.URLs()[0], mqtt.WithTLS(certs.client(t, true)), mqtt.WithCredentials("alice", "wrong"))
	check(t, err)
	defer c.Close()
	who := <-connected
	if want := who.TLS.PeerCertificates[0].Subject.CommonName; who.Username != want || want == "" {
		t.Errorf("user %q, want %q", who.Username, want)
	}
	check(t, c.Publish(ctx, "of/"+who.Username+"/x", nil, mqtt.AtLeastOnce))
	if err := c.Publish(ctx, "of/alice/x", nil, mqtt.AtLeastOnce); err == nil {
		t.Error("the user name of CONNECT counts")
	}
}

// A web page connects if its site may. Programs, which name none, may.
func TestOrigins(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		origins []string
		from    string
		want    bool
	}{
		{nil, "https://evil.example", true},
		{nil, "", true},
		{[]string{"https://example.com"}, "", true},
		{[]string{"https://other.example", "https://example.com"}, "https://example.com", true},
		{[]string{"https://example.com"}, "https://EXAMPLE.com", true},
		{[]string{"https://example.com"}, "http://example.com", false},
		{[]string{"https://example.com"}, "https://example.com:8443", false},
		{[]string{"https://example.com"}, "https://evil.example", false},
		{[]string{"https://example.com"}, "null", false},
		{[]string{}, "https://example.com", false},
	} {
		config := onLoopback()
		config.Listeners[0].Type, config.Listeners[0].Origins = "ws", c.origins
		b := start(t, config)
		header := http.Header{}
		if c.from != "" {
			header.Set("Origin", c.from)
		}
		ws, resp, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial(b.URLs()[0], header)
		switch {
		case (err == nil) != c.want:
			t.Errorf("%q from %s: %v", c.origins, c.from, err)
		case err == nil:
			ws.Close()
		case resp.StatusCode != http.StatusForbidden:
			t.Errorf("status %d", resp.StatusCode)
		}
	}
}

// The sub-protocol is one that the client offers, and whoever offers none is served, too.
// [MQTT-6.0.0-3] [MQTT-6.0.0-4] [MQTT311-6.0.0-3] [MQTT311-6.0.0-4]
func TestSubprotocols(t *testing.T) {
	t.Parallel()
	b := start(t, onWebSocket())
	for _, c := range []struct {
		offers []string
		want   string
	}{
		{[]string{"mqtt"}, "mqtt"}, {[]string{"mqttv3.1"}, "mqttv3.1"}, {[]string{"mqttv3.1", "mqtt"}, "mqtt"}, {[]string{"foo", "mqtt"}, "mqtt"}, {nil, ""},
	} {
		ws, _, err := (&websocket.Dialer{Subprotocols: c.offers}).Dial(b.URLs()[0], nil)
		check(t, err)
		if got := ws.Subprotocol(); got != c.want {
			t.Errorf("%q: %q", c.offers, got)
		}
		ws.Close()
	}
}

func onWebSocket() Config {
	c := onLoopback()
	c.Listeners[0].Type = "ws"
	return c
}

// Packets are in binary frames, whose borders mean nothing. [MQTT-6.0.0-1] [MQTT-6.0.0-2] [MQTT311-6.0.0-1] [MQTT311-6.0.0-2]
func TestFrames(t *testing.T) {
	t.Parallel()
	b := start(t, onWebSocket())
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		connect, err := (&codec.Connect{CleanStart: true, ClientID: "x"}).Append(nil, v)
		check(t, err)
		const pings = "\xc0\x00\xc0\x00"
		var bytewise []string
		for _, c := range []byte(string(connect) + pings) {
			bytewise = append(bytewise, string([]byte{c}))
		}
		for name, c := range map[string]struct {
			kind   int
			frames []string
			served bool
		}{
			"one frame a packet":    {websocket.BinaryMessage, []string{string(connect), pings[:2], pings[2:]}, true},
			"all in one frame":      {websocket.BinaryMessage, []string{string(connect) + pings}, true},
			"a frame a byte":        {websocket.BinaryMessage, bytewise, true},
			"empty frames":          {websocket.BinaryMessage, []string{"", string(connect), "", "", pings, ""}, true},
			"frames across packets": {websocket.BinaryMessage, []string{string(connect[:3]), string(connect[3:]) + pings[:1], pings[1:]}, true},
			"text":                  {websocket.TextMessage, []string{string(connect)}, false},
		} {
			ws, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial(b.URLs()[0], nil)
			check(t, err)
			for _, frame := range c.frames {
				check(t, ws.WriteMessage(c.kind, []byte(frame)))
			}
			ws.SetReadDeadline(time.Now().Add(patience))
			var got []byte
			for !strings.HasSuffix(string(got), "\xd0\x00\xd0\x00") {
				var kind int
				var frame []byte
				if kind, frame, err = ws.ReadMessage(); err != nil {
					break
				}
				if kind != websocket.BinaryMessage {
					t.Errorf("%v, %s: a frame of kind %d comes", v, name, kind)
				}
				got = append(got, frame...)
			}
			if served := err == nil && got[0] == 0x20; served != c.served || !served && len(got) > 0 {
				t.Errorf("%v, %s: got % x, %v", v, name, got, err)
			}
			ws.Close()
		}
	}
}

// Who watches the broker gets its numbers, and hears whether it is ready.
func TestMonitor(t *testing.T) {
	t.Parallel()
	config := onLoopback()
	config.MetricsBind = fmt.Sprint("127.0.0.1:", freeport.Take(t)) // nobody else is given it after the end
	asked, release := make(chan struct{}), make(chan struct{})
	b := start(t, config, Plugin{Name: "slow", Disconnected: func(Client, error) {
		close(asked)
		<-release
	}})
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + b.MetricsAddr().String() + path)
		check(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		check(t, err)
		return resp.StatusCode, string(body)
	}
	p, _ := join(t, b, codec.V5, user("x", ""))
	p.quiet()
	if status, body := get("/metrics"); status != 200 || !strings.Contains(body, "\npetrel_broker_clients_connected 1\n") {
		t.Errorf("%d: %s", status, body)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/": 404} {
		if status, _ := get(path); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	done := make(chan error)
	go func() { done <- b.Shutdown(context.Background()) }()
	<-asked
	if status, body := get("/readyz"); status != 503 || body != "the broker is shutting down\n" {
		t.Errorf("%d: %s", status, body)
	}
	if status, _ := get("/healthz"); status != 200 {
		t.Errorf("while it shuts down: %d", status)
	}
	close(release)
	check(t, <-done)
	if c, err := net.Dial("tcp", b.MetricsAddr().String()); err == nil {
		c.Close()
		t.Error("it answers after Shutdown")
	}
}

// An address for it that cannot be had is an error, and there is none without being asked for.
func TestMonitorErrors(t *testing.T) {
	config := onLoopback()
	if b := start(t, config); b.MetricsAddr() != nil {
		t.Error("somebody may watch who has not asked for it")
	}
	config.MetricsBind = "192.0.2.1:1"
	const want = "metrics-bind: bind: cannot listen on 192.0.2.1:1: is it an address of this machine?"
	b, err := New(config)
	check(t, err)
	if err := b.Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Check: %v", err)
	}
	if err := b.Start(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Start: %v", err)
	}
	config.MetricsBind = "9883"
	if _, err := New(config); err == nil || err.Error() != `metrics-bind: "9883" is not an address; write host:port, such as 127.0.0.1:9883` {
		t.Error(err)
	}
}

// The topics under $SYS come at the QoS that was asked for, and are not for clients to publish to.
func TestSysAtEachQoS(t *testing.T) {
	t.Parallel()
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, user("x", ""))
	for qos := range byte(3) {
		p.subscribe(1, qos, "$SYS/broker/version")
		if m := receive[*codec.Publish](p); m.QoS != qos || !m.Retain || m.Topic != "$SYS/broker/version" {
			t.Errorf("QoS %d: %+v", qos, m)
		}
	}
	p.send(&codec.Publish{Topic: "$SYS/broker/version", QoS: 1, PacketID: 1})
	if ack := receive[*codec.Puback](p); ack.Code != codec.NotAuthorized {
		t.Errorf("%v", ack.Code)
	}
}
