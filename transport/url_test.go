package transport

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		in      string
		want    string // the URL's String
		address string // what is dialled; of unix, the path
	}{
		{"broker.example.com", "mqtt://broker.example.com", "broker.example.com:1883"},
		{"broker.example.com:1884", "mqtt://broker.example.com:1884", "broker.example.com:1884"},
		{"broker.example.com:", "mqtt://broker.example.com", "broker.example.com:1883"},
		{"broker.example.com/", "mqtt://broker.example.com", "broker.example.com:1883"},
		{"localhost", "mqtt://localhost", "localhost:1883"},
		{"mqtt:1883", "mqtt://mqtt:1883", "mqtt:1883"},
		{"192.0.2.1", "mqtt://192.0.2.1", "192.0.2.1:1883"},
		{"192.0.2.1:1", "mqtt://192.0.2.1:1", "192.0.2.1:1"},
		{"::1", "mqtt://[::1]", "[::1]:1883"},
		{"[::1]", "mqtt://[::1]", "[::1]:1883"},
		{"[::1]:65535", "mqtt://[::1]:65535", "[::1]:65535"},
		{"2001:db8::7", "mqtt://[2001:db8::7]", "[2001:db8::7]:1883"},
		{"fe80::1%eth0", "mqtt://[fe80::1%25eth0]", "[fe80::1%eth0]:1883"},
		{"[fe80::1%eth0]:1884", "mqtt://[fe80::1%25eth0]:1884", "[fe80::1%eth0]:1884"},
		{"mqtt://host", "mqtt://host", "host:1883"},
		{"mqtt://host/", "mqtt://host", "host:1883"},
		{"MQTT://host", "mqtt://host", "host:1883"},
		{"tcp://host:1", "mqtt://host:1", "host:1"},
		{"mqtts://host", "mqtts://host", "host:8883"},
		{"ssl://host", "mqtts://host", "host:8883"},
		{"tls://[::1]", "mqtts://[::1]", "[::1]:8883"},
		{"ws://host/mqtt", "ws://host/mqtt", "host:80"},
		{"wss://host", "wss://host", "host:443"},
		{"ws://host/\xcc", "ws://host/%CC", "host:80"},
		{"wss://host/a%2Fb?token=x", "wss://host/a%2Fb?token=x", "host:443"},
		{"mqtt://user:secret@host", "mqtt://user:secret@host", "host:1883"},
		{"mqtt://us%40er:se%2Fcret@[::1]:7", "mqtt://us%40er:se%2Fcret@[::1]:7", "[::1]:7"},
		{"mqtt://user@host", "mqtt://user@host", "host:1883"},
		{"unix:///run/mqtt.sock", "unix:///run/mqtt.sock", "/run/mqtt.sock"},
		{"unix:%2F/a", "unix:////a", "//a"},
		{"unix:/run/mqtt.sock", "unix:///run/mqtt.sock", "/run/mqtt.sock"},
		{"unix:mqtt.sock", "unix:mqtt.sock", "mqtt.sock"},
		{"UNIX:../mqtt.sock", "unix:../mqtt.sock", "../mqtt.sock"},
		{"unix:a%20b", "unix:a%20b", "a b"},
		{"unix:///a%20b", "unix:///a%20b", "/a b"},
		{"unix:@abstract", "unix:@abstract", "@abstract"},
		{"unix://user:secret@/run/mqtt.sock", "unix://user:secret@/run/mqtt.sock", "/run/mqtt.sock"},
	} {
		t.Run(c.in, func(t *testing.T) {
			u, err := ParseURL(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if u.String() != c.want {
				t.Errorf("URL %s, want %s", u, c.want)
			}
			got := u.Path
			if u.Scheme != "unix" {
				got = address(u)
			}
			if got != c.address {
				t.Errorf("address %s, want %s", got, c.address)
			}
			if again, err := ParseURL(u.String()); err != nil || !reflect.DeepEqual(again, u) {
				t.Errorf("%s parses as %#v, %v", u, again, err)
			}
		})
	}
}

func TestParseURLUser(t *testing.T) {
	u, err := ParseURL("mqtt://us%40er:p%3Ass@host")
	if err != nil {
		t.Fatal(err)
	}
	if password, set := u.User.Password(); u.User.Username() != "us@er" || password != "p:ss" || !set {
		t.Errorf("user %q, password %q", u.User.Username(), password)
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "host is missing"},
		{":1883", "host is missing"},
		{"mqtt://", "host is missing"},
		{"mqtt://:1883", "host is missing"},
		{"mqtt://user:secret@", "host is missing"},
		{"//host", "must not have a path"},
		{"mqtt:///host", "must not have a path"},
		{"mqtt:////", "must not have a path"},
		{"mqtt:///", "host is missing"},
		{"http://host", `unknown scheme "http"`},
		{"mqttt://host", `unknown scheme "mqttt"`},
		{"://host", "missing protocol scheme"},
		{"host:0", "port is not in the range"},
		{"host:65536", "port is not in the range"},
		{"mqtt://host:99999999999999999999", "port is not in the range"},
		{"host:http", "invalid"},
		{"host:-1", "invalid"},
		{"host:1:2", "needs brackets"},
		{"host::", "needs brackets"},
		{":0:", "needs brackets"},
		{"::1%a b", "invalid"},
		{"::1%é", "invalid"},
		{"mqtt://::1", "brackets"},
		{"[host]", "invalid"},
		{"[192.0.2.1]:1", "invalid"},
		{"[fe80::1%]", "invalid"},
		{"ho st", "invalid"},
		{"[::1", "missing ']'"},
		{"a%b", "invalid"},
		{"mqtt://a%b", "invalid"},
		{"host/path", "must not have a path"},
		{"mqtt://host/path", "must not have a path"},
		{"mqtt://host/%2F", "must not have a path"},
		{"mqtts://host//", "must not have a path"},
		{"mqtt://host?a=b", "must not have a query"},
		{"mqtt://host?", "must not have a query"},
		{"mqtt://host#part", "fragment"},
		{"wss://host/mqtt#part", "fragment"},
		{"unix:///run/a#part", "fragment"},
		{"unix:", "path is missing"},
		{"unix://", "path is missing"},
		{"unix:///run/a?b", "must not have a query"},
		{"unix://run/mqtt.sock", "must not have a host"},
		{"unix:%zz", "invalid escape"},
		{"user@host", "need a URL"},
		{"user:secret@host", "need a URL"},
	} {
		t.Run(c.in, func(t *testing.T) {
			u, err := ParseURL(c.in)
			if err == nil {
				t.Fatalf("is taken for %s", u)
			}
			if !strings.HasPrefix(err.Error(), "transport: server ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if name, _, _ := strings.Cut(c.in, "?"); !strings.Contains(c.in, "@") && !strings.Contains(err.Error(), name) {
				t.Errorf("error %q does not name %q", err, name)
			}
		})
	}
}

// Characters that a password must not have unescaped make other parts of the URL of it, and its end an error.
func TestParseURLErrorsHideThePassword(t *testing.T) {
	for _, scheme := range []string{"mqtt", "wss", "unix", "http"} {
		for _, special := range []string{"/", "?", "#", ":", "@", "%zz", "%", " ", "[", "]", "\\", "\x00"} {
			for _, digits := range []string{"70707", "70707xyz"} {
				in := scheme + "://user:" + digits + special + "70707@host:70707?#f"
				u, err := ParseURL(in)
				if err == nil {
					t.Fatalf("%s is taken for %#v", in, u)
				}
				if strings.Contains(err.Error(), "70707") || strings.Contains(err.Error(), "%z") {
					t.Errorf("the error of %q is %q", in, err)
				}
			}
		}
	}
}

// What is wrong with a URL is elsewhere: its query, often a token, does not show.
func TestParseURLErrorsHideTheQuery(t *testing.T) {
	for _, in := range []string{
		"https://host/mqtt?token=secret", "ws://host:70707/mqtt?token=secret", "ws://host?token=secret#f", "mqtt://host?token=secret",
		"ws://host?token=secret\n", "ws:///mqtt?token=secret", "host?token=secret", "mqtt://host:port?token=secret",
	} {
		if u, err := ParseURL(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("the error of %q is %v, the URL %v", in, err, u)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"wss://user:secret@host/mqtt?token=secret#secret": "wss://***@host/mqtt?***",
		"mqtt://host:1883":          "mqtt://host:1883",
		"unix:///run/mqtt.sock":     "unix:///run/mqtt.sock",
		"http:user:secret@proxy":    "http://***",
		"http:/user:secret@proxy":   "http://***",
		"//user:secret@proxy":       "//proxy",
		"http://user:7/secret@host": "http://***",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := Redact(u); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := Redact(&url.URL{Scheme: "unix", Path: "relative/path", OmitHost: true}); got != "unix:relative/path" {
		t.Errorf("a relative path is %s", got)
	}
}

func TestEverySchemeHasAnAddress(t *testing.T) {
	for name, s := range schemes {
		if (s.port == "") != (name == "unix") {
			t.Errorf("default port of %s is %q", name, s.port)
		}
	}
	for alias, name := range aliases {
		if _, found := schemes[name]; !found {
			t.Errorf("%s stands for %s, which is no scheme", alias, name)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{
		"host", "host:1", "::1", "[::1%e]:1", "mqtt://u:p@host/", "wss://host/p%2F?q", "unix:a%20b", "unix:///a",
		"unix://u@/a", "unix:////a", "ws://host?", "tls://host:", "mqtt://host#f", "unix:%2Fa", "mqtt://host/%2F",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			return
		}
		again, err := ParseURL(u.String())
		if err != nil || !reflect.DeepEqual(again, u) {
			t.Errorf("%q parses as %#v, and that as %#v, %v", s, u, again, err)
		}
		if n, err := normalise(u); err != nil || !reflect.DeepEqual(n, u) {
			t.Errorf("%q parses as %#v, which normalises to %#v, %v", s, u, n, err)
		}
	})
}

func TestNormaliseLeavesItsArgumentAlone(t *testing.T) {
	u := &url.URL{Scheme: "tcp", Host: "host:", Path: "/"}
	before := *u
	n, err := normalise(u)
	if err != nil || n.String() != "mqtt://host" {
		t.Errorf("normalises to %v, %v", n, err)
	}
	if *u != before {
		t.Errorf("is now %#v", u)
	}
}
