package broker

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var ignoreWhere = cmpopts.IgnoreUnexported(Listener{})

// The examples of HBMQTT's manual, unchanged.
func TestManualConfigs(t *testing.T) {
	base := Listener{Type: "tcp", MaxConnections: 50000}
	with := func(name, bind string, change func(*Listener)) Listener {
		l := base
		l.Name, l.Bind = name, bind
		change(&l)
		return l
	}
	asIs := func(*Listener) {}
	encrypted := func(l *Listener) {
		l.SSL = true
		l.CAFile, l.CAPath, l.CertFile, l.KeyFile = "/some/cafile", "certificate data", "/some/certfile", "/some/key"
	}
	web := func(l *Listener) { l.Type = "ws" }
	examples := Auth{AllowAnonymous: true, PasswordFile: "/some/passwd_file", Plugins: []string{"auth.anonymous"}}
	for _, c := range []struct {
		file string
		want Config
	}{
		{"testdata/manual-default.yaml", Config{
			Listeners:     []Listener{{Name: "default", Bind: "0.0.0.0:1883", Type: "tcp"}},
			Auth:          Auth{AllowAnonymous: true},
			SysInterval:   20 * time.Second,
			MaxPacketSize: defaultMaxPacketSize, MaxQueuedMessages: defaultMaxQueued,
			MaxQueuedBytes: defaultQueuedBytes, MaxMemory: defaultMaxMemory, Overflow: DropNewest,
			Plugins: []string{"auth_file", "auth_anonymous"},
		}},
		{"testdata/manual-command.yaml", Config{
			Listeners: []Listener{
				with("my-tcp-1", "127.0.0.1:1883", asIs),
				with("my-tcp-ssl-1", "127.0.0.1:8883", encrypted),
				with("my-ws-1", "0.0.0.0:8080", web),
			},
			Auth:                   examples,
			TimeoutDisconnectDelay: 2 * time.Second,
			SysInterval:            defaultSysInterval,
			MaxPacketSize:          defaultMaxPacketSize,
			MaxQueuedMessages:      defaultMaxQueued,
			MaxQueuedBytes:         defaultQueuedBytes,
			MaxMemory:              defaultMaxMemory,
			Overflow:               DropNewest,
			Warnings: []string{
				"line 7: listeners.my-tcp-1.my-tcp-2: a listener inside of another is ignored, as in HBMQTT; indent it like the others",
				"line 15: listeners.my-tcp-ssl-1.capath: is there twice; the last one counts, as in HBMQTT",
			},
		}},
		{"testdata/manual-api.yaml", Config{
			Listeners: []Listener{
				with("my-tcp-1", "127.0.0.1:1883", asIs),
				with("my-tcp-2", "1.2.3.4:1884", func(l *Listener) { l.MaxConnections = 1000 }),
				with("my-tcp-ssl-1", "127.0.0.1:8885", encrypted),
				with("my-ws-1", "0.0.0.0:8080", web),
			},
			Auth:                   examples,
			TimeoutDisconnectDelay: 2 * time.Second,
			SysInterval:            defaultSysInterval,
			MaxPacketSize:          defaultMaxPacketSize,
			MaxQueuedMessages:      defaultMaxQueued,
			MaxQueuedBytes:         defaultQueuedBytes,
			MaxMemory:              defaultMaxMemory,
			Overflow:               DropNewest,
			Warnings: []string{
				"line 15: listeners.my-tcp-ssl-1.capath: is there twice; the last one counts, as in HBMQTT",
				`line 24: auth.allow-anonymous: "true / false" is taken for true, as HBMQTT does; write one of them`,
			},
		}},
	} {
		got, err := ReadConfig(c.file)
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(c.want, got, ignoreWhere); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.file, diff)
		}
		if _, err := New(got); err != nil {
			t.Errorf("%s: %v", c.file, err)
		}
	}
}

func TestEveryKey(t *testing.T) {
	got, err := ReadConfig("testdata/full.yaml")
	check(t, err)
	want := Config{
		Listeners: []Listener{
			{Name: "plain", Bind: "127.0.0.1:1883", Type: "tcp"},
			{
				Name: "encrypted", Bind: "localhost:8883", Type: "tcp", MaxConnections: 50000, SSL: true,
				CAFile: "ca.pem", CAPath: "authorities", CAData: "-----BEGIN CERTIFICATE-----\n",
				CertFile: "cert.pem", KeyFile: "key.pem", RequireCertificate: true,
				UseIdentityAsUsername: true, RequireUsernameAsClientID: true,
			},
			{Name: "web", Bind: "[::1]:8080", Type: "ws", MaxConnections: 3, MaxConnectRate: 100, Origins: []string{"https://example.com", "http://localhost:8000"}},
		},
		Auth:                   Auth{PasswordFile: "passwd", ACLFile: "acl", Plugins: []string{"auth.file", "auth_anonymous"}, MaxFailedAttempts: 10},
		TimeoutDisconnectDelay: 1500 * time.Millisecond,
		MaxPacketSize:          1 << 20,
		MaxQueuedMessages:      20000,
		MaxQueuedBytes:         1 << 20,
		MaxMemory:              64 << 20,
		Overflow:               EndSession,
		PersistenceFile:        "petrel.db",
		PersistenceSync:        SyncInterval,
		MetricsBind:            "127.0.0.1:9883",
		Plugins:                []string{"auth_file", "broker_sys"},
	}
	if diff := cmp.Diff(want, got, ignoreWhere); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text, err := os.ReadFile("testdata/full.yaml")
	check(t, err)
	got, err = ParseConfig([]byte(strings.NewReplacer("enabled: false", "enabled: true", "acl-file: acl", "").Replace(string(text))))
	check(t, err)
	topics := &TopicCheck{
		Subscribe: map[string][]string{"alice": {"a/#", "b/+"}, "anonymous": {}},
		Publish:   map[string][]string{"alice": {"a/1"}},
	}
	if diff := cmp.Diff(topics, got.Auth.Topics); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is the same several times in a file may be written once.
func TestAliases(t *testing.T) {
	got, err := ParseConfig([]byte(`
listeners: {a: {bind: "127.0.0.1:1", ssl: on, certfile: &file x, keyfile: *file}}
auth: {plugins: [&one auth_file]}
plugins: [*one, broker_sys]
`))
	check(t, err)
	if l := got.Listeners[0]; l.KeyFile != "x" || !cmp.Equal(got.Plugins, []string{"auth_file", "broker_sys"}) {
		t.Errorf("%+v", got)
	}
}

// What a file does not say.
func TestConfigDefaults(t *testing.T) {
	web := func(ssl bool) string {
		text := "listeners: {default: {type: ws, certfile: c, keyfile: k}, w: {bind: localhost"
		if ssl {
			text += ", ssl: on"
		}
		return text + "}}"
	}
	for _, c := range []struct {
		name, text string
		holds      func(Config) bool
	}{
		{"empty", "", func(c Config) bool { return cmp.Equal(c, DefaultConfig(), ignoreWhere) }},
		{"comment", "# nothing\n", func(c Config) bool { return cmp.Equal(c, DefaultConfig(), ignoreWhere) }},
		{"null", "---\n", func(c Config) bool { return cmp.Equal(c, DefaultConfig(), ignoreWhere) }},
		{"loopback", "sys_interval: 5", func(c Config) bool {
			return c.SysInterval == 5*time.Second && c.Listeners[0].Bind == "127.0.0.1:1883"
		}},
		{"password file closes", "auth: {password-file: p}", func(c Config) bool { return !c.Auth.AllowAnonymous }},
		{"unless told", "auth: {password-file: p, allow-anonymous: on}", func(c Config) bool { return c.Auth.AllowAnonymous }},
		{"default port of ws", web(false), func(c Config) bool { return c.Listeners[0].Bind == "localhost:80" }},
		{"default port of wss", web(true), func(c Config) bool { return c.Listeners[0].Bind == "localhost:443" }},
		{"IPv6 without a port", "listeners: {a: {bind: '::1'}, b: {bind: '[::2]'}}", func(c Config) bool {
			return c.Listeners[0].Bind == "[::1]:1883" && c.Listeners[1].Bind == "[::2]:1883"
		}},
		{"anchors", "listeners: {a: &a {bind: 'h:1'}, b: {bind: 'h:2'}}\nauth: {plugins: &p [auth_file]}\nplugins: *p", func(c Config) bool {
			return len(c.Plugins) == 1
		}},
		{"both families", "listeners: {a: {bind: '0.0.0.0:1'}, b: {bind: '[::]:1'}, c: {bind: '0.0.0.0:2'}, d: {bind: '[::1]:2'}}", func(c Config) bool {
			return len(c.Listeners) == 4
		}},
		{"free ports", "listeners: {a: {bind: ':0'}, b: {bind: ':0'}}", func(c Config) bool { return len(c.Listeners) == 2 }},
		{"byte order mark", "\ufefflisteners: {a: {bind: 'h:1'}}", func(c Config) bool { return c.Listeners[0].Name == "a" }},
		{"certificate without ssl", "listeners: {a: {bind: 'h:1', certfile: c}}", func(c Config) bool {
			return cmp.Equal(c.Warnings, []string{"line 1: listeners.a: has a certfile but no ssl: on, so it is not encrypted"})
		}},
	} {
		got, err := ParseConfig([]byte(c.text))
		if err != nil || !c.holds(got) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

// Each mistake is told in one line that says where it is and what to do.
func TestBadConfigs(t *testing.T) {
	listener := func(text string) string { return "listeners:\n  one:\n    bind: 127.0.0.1:1\n    " + text }
	for _, c := range []struct{ text, want string }{
		// Not YAML, or not of its form.
		{"listeners: [", "not YAML: line 1: did not find expected node content"},
		{"a: b: c", "not YAML: mapping values are not allowed in this context"},
		{"\tauth: {}", "not YAML: found character that cannot start any token"},
		{"auth: {}\n---\nauth: {}", "there is a second document; keep one"},
		{"just a text", "line 1: the file: must be keys with values"},
		{"- listeners", "line 1: the file: must be keys with values"},
		{"auth: {allow-anonymous: *gone}", `not YAML: unknown anchor 'gone' referenced`},

		// Unknown keys.
		{"listener: {}", "line 1: listener: unknown key; the nearest is listeners"},
		{"sys_interval: 5\nsys_intervall: 5", "line 2: sys_intervall: unknown key; the nearest is sys_interval"},
		{"timeout-disconect-delay: 2", "line 1: timeout-disconect-delay: unknown key; the nearest is timeout-disconnect-delay"},
		{"authentication: {}", "line 1: authentication: unknown key; the nearest is auth"},
		{"persistence: db", "line 1: persistence: unknown key; the nearest is persistence-file"},
		{"auth:\n  allow-anonymus: true", "line 2: auth.allow-anonymus: unknown key; the nearest is allow-anonymous"},
		{"auth:\n  password_fil: p", "line 2: auth.password_fil: unknown key; the nearest is password-file"},
		{"topic-check: {enable: true}", "line 1: topic-check.enable: unknown key; the nearest is enabled"},
		{listener("max-conections: 3"), "line 4: listeners.one.max-conections: unknown key; the nearest is max-connections"},
		{listener("certificate: c"), "line 4: listeners.one.certificate: unknown key; the nearest is certfile"},
		{listener("tls: on"), "line 4: listeners.one.tls: unknown key; the nearest is ssl"},
		{"listeners:\n  default:\n    port: 1883", "line 3: listeners.default.port: unknown key; the nearest is bind"},
		{"base: &b {bind: 'h:1'}", "line 1: base: unknown key; the nearest is auth"},
		{"listeners:\n  a: &a {bind: 'h:1'}\n  b:\n    <<: *a", "line 4: listeners.b.<<: merging is not supported; what all listeners share goes into listeners.default"},

		// The same key twice.
		{"auth: {}\nauth: {}", "line 2: auth: is there twice; keep one"},
		{"sys_interval: 1\nsys-interval: 2", "line 2: sys-interval: is there twice, in two spellings; keep one"},
		{listener("bind: 127.0.0.1:2"), "line 4: listeners.one.bind: is there twice; keep one"},
		{"listeners:\n  a: {bind: 'h:1'}\n  a: {bind: 'h:2'}", "line 3: listeners.a: is there twice; keep one"},
		{"topic-check: {acl: {u: [a], u: [b]}}", "line 1: topic-check.acl.u: is there twice; keep one"},

		// Values of the wrong kind.
		{"listeners: none", "line 1: listeners: must be keys with values"},
		{"listeners:\n  one: 127.0.0.1:1883", "line 2: listeners.one: must be keys with values"},
		{"auth: true", "line 1: auth: must be keys with values"},
		{"auth:\n  allow-anonymous: maybe", `line 2: auth.allow-anonymous: "maybe" is neither true nor false`},
		{"auth:\n  allow-anonymous:", `line 2: auth.allow-anonymous: "" is neither true nor false`},
		{"auth: {password-file: }", "line 1: auth.password-file: needs a text"},
		{"auth: {password-file: [a]}", "line 1: auth.password-file: needs a text"},
		{"auth: {plugins: auth.file}", "line 1: auth.plugins: needs a list, such as [a, b]"},
		{"plugins: [auth_file, {a: b}]", "line 1: plugins: needs a text"},
		{"sys_interval: often", `line 1: sys_interval: "often" is not a number of seconds`},
		{"sys_interval: 20s", `line 1: sys_interval: "20s" is not a number of seconds`},
		{"timeout-disconnect-delay: .nan", `line 1: timeout-disconnect-delay: ".nan" is not a number of seconds`},
		{"timeout-disconnect-delay: 1e300", `line 1: timeout-disconnect-delay: "1e300" is not a number of seconds`},
		{"max-packet-size: 1MB", `line 1: max-packet-size: "1MB" is not a whole number`},
		{listener("max-connections: many"), `line 4: listeners.one.max-connections: "many" is not a whole number`},
		{listener("ssl: 1"), `line 4: listeners.one.ssl: "1" is neither true nor false`},
		{listener("certfile:"), "line 4: listeners.one.certfile: needs a text"},
		{"topic-check: {acl: [a]}", "line 1: topic-check.acl: must be keys with values"},
		{"topic-check: {acl: {u: a}}", "line 1: topic-check.acl.u: needs a list, such as [a, b]"},

		// Values that cannot be.
		{"listeners: {}", "listeners: there is none with a bind address; add one, or leave the section out for the default"},
		{"listeners:\n  default: {type: tcp}", "listeners: there is none with a bind address; add one, or leave the section out for the default"},
		{"listeners:\n  one: {type: tcp}", "line 2: listeners.one: bind: missing; give an address such as 127.0.0.1:1883"},
		{"listeners:\n  default: {bind: 'h:1'}\n  one: {type: ws}", "line 3: listeners.one: bind: missing; give an address such as 127.0.0.1:1883"},
		{"listeners: {a: {bind: 'h:1'}, b: {bind: 'h:1'}}", "line 1: listeners.b: bind: h:1 excludes h:1 of listener a; use another port"},
		{"listeners: {a: {bind: 'h:1:2'}}", `line 1: listeners.a: bind: "h:1:2" is not an address; write host:port, or [host]:port for IPv6`},
		{"listeners: {a: {bind: 'h:mqtt'}}", `line 1: listeners.a: bind: "mqtt" is not a port; use a number from 0 to 65535`},
		{"listeners: {a: {bind: 'h:65536'}}", `line 1: listeners.a: bind: "65536" is not a port; use a number from 0 to 65535`},
		{listener("type: udp"), `line 2: listeners.one: type: "udp" is not known; use tcp or ws`},
		{listener("max-connections: -2"), "line 2: listeners.one: max-connections: must not be negative; 0 means no limit"},
		{listener("ssl: on"), "line 2: listeners.one: certfile: ssl needs one, and a keyfile"},
		{listener("ssl: on\n    certfile: c"), "line 2: listeners.one: keyfile: ssl needs one beside the certfile"},
		{listener("require-certificate: on"), "line 2: listeners.one: require-certificate: needs ssl: on"},
		{listener("ssl: on\n    certfile: c\n    keyfile: k\n    require-certificate: on"), "line 2: listeners.one: require-certificate: needs a cafile, capath or cadata to check certificates against"},
		{"sys_interval: -1", "sys_interval: must be a whole number of seconds; 0 turns $SYS off"},
		{"sys_interval: 0.5", "sys_interval: must be a whole number of seconds; 0 turns $SYS off"},
		{"timeout-disconnect-delay: -1", "timeout-disconnect-delay: must not be negative"},
		{"max-packet-size: 0", "max-packet-size: must be from 1 to 268435455 bytes"},
		{"max-queued-messages: 40000000", "max-queued-messages: must be from 1 to 10000000"},
		{"max-queued-bytes: -1", "max-queued-bytes and max-memory: must not be negative; 0 means the default"},
		{"overflow: drop", `overflow: "drop" is not known; use drop-newest, drop-oldest or end-session`},
		{"listeners: {a: {bind: '0.0.0.0:1'}, b: {bind: ':1'}}", "line 1: listeners.b: bind: :1 excludes 0.0.0.0:1 of listener a; use another port"},
		{"listeners: {a: {bind: '[::1]:1'}, b: {bind: '[::]:1'}}", "line 1: listeners.b: bind: [::]:1 excludes [::1]:1 of listener a; use another port"},
		{listener("max-connect-rate: -1"), "line 2: listeners.one: max-connect-rate: must be from 0, which means no limit, to 1000000 a second"},
		{listener("use-identity-as-username: on"), "line 2: listeners.one: use-identity-as-username: needs require-certificate: on"},
		{listener("use-username-as-clientid: on"), "line 4: listeners.one.use-username-as-clientid: unknown key; the nearest is require-username-as-clientid"},
		{listener("origins: ['https://example.com']"), "line 2: listeners.one: origins: only browsers have one, and these need type: ws"},
		{"listeners: {one: {bind: 'h:1', type: ws, origins: [example.com]}}", `line 1: listeners.one: origins: "example.com" is not of the form https://host or https://host:port`},
		{"listeners: {one: {bind: 'h:1', type: ws, origins: ['https://example.com/']}}", `line 1: listeners.one: origins: "https://example.com/" is not of the form https://host or https://host:port`},
		{"persistence-sync: sometimes", `persistence-sync: "sometimes" is not known; use always or interval`},
		{"auth: {max-failed-attempts: -1}", "auth.max-failed-attempts: must be from 0, which means no limit, to 1000000"},
		{"auth: {allow-anonymous: false}", "auth: nobody could connect; give a password-file, or set allow-anonymous: true"},
		{"auth: {acl-file: a}\ntopic-check: {enabled: true}", "auth: acl-file and topic-check exclude each other; keep one"},
		{"topic-check: {acl: {u: ['a/#/b']}}", `line 1: topic-check.acl.u: "a/#/b" is not a topic filter: # must be a level of its own, and the last one [MQTT-4.7.1-1]`},
		{"topic-check: {plugins: [topic_taboo]}", `line 1: topic-check: plugins: there is no plugin "topic_taboo"; the nearest is topic_acl`},
		{"plugins: [auth_flie]", `plugins: there is no plugin "auth_flie"; the nearest is auth_file`},
		{"auth: {plugins: [auth.anonymus]}", `plugins: there is no plugin "auth.anonymus"; the nearest is auth.anonymous`},
	} {
		config, err := ParseConfig([]byte(c.text))
		if err == nil {
			_, err = New(config)
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%q\n got %v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestReadConfigNamesTheFile(t *testing.T) {
	path := t.TempDir() + "/broker.yaml"
	check(t, os.WriteFile(path, []byte("sys_interval: x"), 0o600))
	_, err := ReadConfig(path)
	if want := path + `: line 1: sys_interval: "x" is not a number of seconds`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := ReadConfig(path + "x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("got %v", err)
	}
}

func TestNewChecksConfig(t *testing.T) {
	plugin := Plugin{Name: "mine"}
	for _, c := range []struct {
		change  func(*Config)
		plugins []Plugin
		want    string
	}{
		{func(c *Config) { *c = Config{} }, nil, "listeners: there is none with a bind address; add one, or leave the section out for the default"},
		{func(c *Config) { c.Listeners[0].Name = "" }, nil, "listeners: a listener has no name"},
		{func(c *Config) {
			c.Listeners = append(c.Listeners, Listener{Name: "default", Bind: "h:1", Type: "tcp"})
		}, nil, "listener default: there is another listener of this name; rename one"},
		{func(c *Config) { c.Plugins = []string{"mime"} }, []Plugin{plugin}, `plugins: there is no plugin "mime"; the nearest is mine`},
		{func(*Config) {}, []Plugin{plugin, plugin}, `plugins: "mine" cannot be the name of a plugin, or is one already`},
		{func(*Config) {}, []Plugin{{Name: "auth_file"}}, `plugins: "auth_file" cannot be the name of a plugin, or is one already`},
		{func(*Config) {}, []Plugin{{}}, `plugins: "" cannot be the name of a plugin, or is one already`},
	} {
		config := DefaultConfig()
		c.change(&config)
		if _, err := New(config, c.plugins...); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
