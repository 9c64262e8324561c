package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/transport"
)

// A format is an error that names it, or writes any message without control characters to a terminal.
func FuzzFormat(f *testing.F) {
	for _, g := range []string{"%t %p", "%-010.5t|%j|%J", `@H:@M@@\n\e[0m`, "%", "@", `\`, "%99999t", "%5", "%-", "%é", "@é", "%030X%05q"} {
		f.Add(g, []byte(`{"x":1}`), "a/b")
	}
	f.Add("%p%x%10p%j", []byte("\xff\x00\x1b[31m"), "\u009b")
	f.Fuzz(func(t *testing.T, format string, payload []byte, topic string) {
		if strings.Contains(format, `\`) || strings.ContainsFunc(format, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
			return // the format's own characters are the user's
		}
		m := mqtt.Message{Topic: topic, Payload: payload, Properties: mqtt.PublishProperties{ContentType: topic, CorrelationData: payload}}
		for _, pretty := range []bool{false, true} {
			o := outputFlags{format: format, pretty: pretty}
			write, err := o.formatter(true)
			if format == "" {
				return
			}
			var own *exitError
			switch {
			case err != nil && (!errors.As(err, &own) || own.code != exitUsage):
				t.Fatalf("%q: %v", format, err)
			case err != nil:
				continue
			}
			if text := write(nil, m, time.Unix(1, 2)); !harmlessText(text) {
				t.Errorf("%q writes %q", format, text)
			}
		}
	})
}

// harmlessText reports whether a text is UTF-8 without control characters, newlines and tabs left out.
func harmlessText(text []byte) bool {
	return utf8.Valid(text) && !bytes.ContainsFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0)
	})
}

// A message as JSON is JSON, in every way, and has the payload.
func FuzzJSON(f *testing.F) {
	f.Add("a", []byte(`{"x":1}`), "k", "v")
	f.Add("\xff", []byte("\xff\x00"), `"`, "\u2028")
	f.Add("", []byte{}, "", "")
	f.Fuzz(func(t *testing.T, topic string, payload []byte, key, value string) {
		m := mqtt.Message{Topic: topic, Payload: payload, Properties: mqtt.PublishProperties{
			CorrelationData: payload, UserProperties: mqtt.UserProperties{{Key: key, Value: value}, {Key: key}},
		}}
		for _, write := range []formatter{appendJSON, fieldsOf['j'], fieldsOf['J'], pretty(appendJSON), pretty(fieldsOf['J'])} {
			text := write(nil, m, time.Unix(1, 2))
			if !json.Valid(text) {
				t.Errorf("%q", text)
			}
		}
		var o struct {
			Payload       string
			PayloadBase64 []byte `json:"payload_base64"`
		}
		if err := json.Unmarshal(appendJSON(nil, m, time.Unix(1, 2)), &o); err != nil || o.Payload+string(o.PayloadBase64) != string(payload) {
			t.Errorf("payload %q: %+v, %v", payload, o, err)
		}
	})
}

// No command line makes the program panic before it connects, and one that says nothing else is left as it is.
func FuzzCommandLine(f *testing.F) {
	for _, h := range slices.Concat(mosquittoHabits, mqttxHabits) {
		f.Add(strings.Join(h.ours(), "\n"))
	}
	for _, line := range bad {
		f.Add(strings.Join(words(line), "\n"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\n")
		root := newRoot()
		cmd, rewritten, err := accustomed(root, slices.Clone(args))
		if err != nil || cmd == root {
			return
		}
		changes := slices.ContainsFunc(args, func(w string) bool {
			return w == "-D" || w == "--property" || w == "-c" || mqttxShort[w] != ""
		})
		if !changes && len(rewritten) != len(args) {
			t.Errorf("%q became %q", args, rewritten)
		}
		cmd.Flags().SetOutput(nil)
		if err := cmd.ParseFlags(rewritten[len(strings.Fields(cmd.CommandPath()))-1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
			flagError(cmd, err)
		}
	})
}

// Values are an error, or mean what is said of them when they are shown and read again.
func FuzzValues(f *testing.F) {
	for _, text := range []string{"1", "1.5", "-1", "1h30m", "never", "∞", "1e300", "NaN", "64KiB", "1kB", "0xff", "a=b", "a: b", "X: y", `{"a":"b"}`, "mqttv5", "50", "0,1,2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, both := range [][2]pflag.Value{
			{new(seconds), new(seconds)}, {new(wholeSeconds), new(wholeSeconds)}, {new(sessionExpiry), new(sessionExpiry)},
			{new(level), new(level)}, {new(levels), new(levels)}, {new(size), new(size)}, {new(percent), new(percent)},
			{new(protocol), new(protocol)}, {new(topicName), new(topicName)},
		} {
			value, again := both[0], both[1]
			if value.Set(text) != nil || value.Type() == "SECONDS" && strings.Contains(value.String(), "e") {
				continue
			}
			if err := again.Set(value.String()); err != nil || again.String() != value.String() {
				t.Errorf("%T: %q is shown as %q, which is %q, %v", value, text, value.String(), again.String(), err)
			}
		}
		for _, value := range []pflag.Value{new(properties), new(bytesFlag), &headers{map[string][]string{}}, &jsonHeaders{&headers{map[string][]string{}}}} {
			value.Set(text)
		}
	})
}

// The server's address is an error, or a URL without the topic; no error tells what may be a password.
func FuzzServer(f *testing.F) {
	for _, text := range []string{"mqtt://h/a/b", "mqtt://u:s3cret@h/a#b", "mqtt://u:s3/cret@h", "ws://h/x", "h", "[::1]", "fe80::1%eth0", "h:1", "/run/x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range []serverFlags{{url: text}, {host: text}, {host: text, port: 1}, {unix: text}} {
			topic := s.cutTopic()
			if strings.Contains(topic, "@") {
				t.Errorf("%q has the topic %q", text, topic)
			}
			server, err := s.address(false)
			if err != nil {
				continue
			}
			u, err := transport.ParseURL(server)
			if err == nil && s.host != "" && s.port == 1 && u.Port() != "1" {
				t.Errorf("%q leads to %s", text, u)
			}
		}
	})
}

// A configuration file is an error that names it, or sets flags.
func FuzzConfig(f *testing.F) {
	for _, text := range badFiles {
		f.Add([]byte(text))
	}
	f.Add([]byte("keep_alive: 20\ndefault_qos: 1\ntopics: {a: &x {qos: 2, retain: yes}, b: *x}\nwill: {topic: a}\nheader: [\"a: b\"]\n"))
	file := filepath.Join(f.TempDir(), "petrel.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var c connection
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		flags.SetNormalizeFunc(normalise)
		for _, g := range []*group{c.server.group(&c.configFile), c.identity.group(), c.will.group(), c.websocket.group(), c.log.group()} {
			g.VisitAll(func(f *pflag.Flag) { annotate(f, settable) })
			flags.AddFlagSet(g.FlagSet)
		}
		c.configFile = file
		if err := c.loadFile(flags); err != nil && !strings.Contains(err.Error(), "petrel.yaml") {
			t.Errorf("%v", err)
		}
	})
}
