package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// accustomedTo is a command line of another tool, from its public documentation.
type accustomedTo struct {
	line    string // a ~ stands for a space within a word
	stdin   string
	publish []mqtttest.Message // meanwhile
	url     string             // the server's, if not mqtt

	sent    []mqtttest.Message   // what it publishes
	out     string               // what it writes
	connect func(w *world) error // what else is to be as its manual says
	instead string               // it is an error, with this in it
}

func at(q byte, topic, payload string) mqtttest.Message {
	return mqtttest.Message{Topic: topic, Payload: []byte(payload), QoS: q}
}

func kept(m mqtttest.Message) mqtttest.Message {
	m.Retain = true
	return m
}

// The examples of the manual pages of mosquitto_pub and mosquitto_sub, and of their options.
var mosquittoHabits = []accustomedTo{
	{line: "mosquitto_pub -t sensors/temperature -m 32 -q 1", sent: []mqtttest.Message{at(1, "sensors/temperature", "32")}},
	{line: "mosquitto_pub -h 192.168.1.1 -p 1885 -t sensors/temperature -m 1266193804~32",
		sent: []mqtttest.Message{at(0, "sensors/temperature", "1266193804 32")}, connect: dialled("192.168.1.1:1885")},
	{line: "mosquitto_pub -r -t switches/kitchen_lights/status -m on", sent: []mqtttest.Message{kept(at(0, "switches/kitchen_lights/status", "on"))}},
	{line: "mosquitto_pub -t my/topic -f testdata/message.txt", sent: []mqtttest.Message{at(0, "my/topic", "a message\nof two lines\n")}},
	{line: "mosquitto_pub -t my/topic -s", stdin: "one\ntwo\n", sent: []mqtttest.Message{at(0, "my/topic", "one\ntwo\n")}},
	{line: "mosquitto_pub -t my/topic -l", stdin: "one\ntwo\n", sent: []mqtttest.Message{at(0, "my/topic", "one"), at(0, "my/topic", "two")}},
	{line: "mosquitto_pub -h test.mosquitto.org -D publish content-type application/json -D publish message-expiry-interval 360000 -D publish payload-format-indicator 1 -D publish response-topic response-topic -m ABCDEFGHIJKLMNOPQRSTUVWXYZ -q 2 -r -t FW/truncate -V 5",
		sent: []mqtttest.Message{kept(at(2, "FW/truncate", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))}, connect: dialled("test.mosquitto.org:1883")},
	{line: "mosquitto_pub -L mqtt://me:secret@broker:1884/my/topic -m x", sent: []mqtttest.Message{at(0, "my/topic", "x")}, connect: dialled("broker:1884")},
	{line: "mosquitto_pub -t a -n -r --quiet", sent: []mqtttest.Message{kept(at(0, "a", ""))}},
	{line: "mosquitto_pub -t a --stdin-line -I prefix_ -k 30 -M 10", stdin: "x\n", sent: []mqtttest.Message{at(0, "a", "x")}},
	{line: "mosquitto_pub -t a -m x --repeat 3 --repeat-delay 0.5 -q 1", sent: slices.Repeat([]mqtttest.Message{at(1, "a", "x")}, 3)},
	{line: "mosquitto_pub -t a -m one -m two", instead: "given twice"},
	{line: "mosquitto_pub -h broker -p 8883 --psk 0a0b --psk-identity me -t a -m x", instead: "--cert and --key"},
	{line: "mosquitto_pub -h localhost --tls-version tlsv1.2 --tls-use-os-certs --keyform pem --nodelay -t a -m x", url: "mqtts",
		sent: []mqtttest.Message{at(0, "a", "x")}, connect: dialled("localhost:8883")},
	{line: "mosquitto_sub -t sensors/temperature -q 1", publish: []mqtttest.Message{at(1, "sensors/temperature", "32")}, out: "32\n"},
	{line: "mosquitto_sub -t sensors/machines/+/temperature/+", publish: []mqtttest.Message{at(0, "sensors/machines/a/temperature/sda", "40")}, out: "40\n"},
	{line: "mosquitto_sub -v -t $SYS/#", publish: []mqtttest.Message{at(0, "$SYS/broker/uptime", "7")}, out: "$SYS/broker/uptime 7\n"},
	{line: "mosquitto_sub -F @Y-@m-@dT@H:@M:@S@z~:~%t~:~%x -t #", publish: []mqtttest.Message{at(0, "a", "x")}, out: "2000-01-01T00:00:01+0000 : a : 78\n"},
	{line: `mosquitto_sub -F \e[92m%t~\e[96m%p\e[0m -q 2 -t #`, publish: []mqtttest.Message{at(2, "a", "x")}, out: "\x1b[92ma \x1b[96mx\x1b[0m\n"},
	{line: "mosquitto_sub -F @s.@N~:~%r~:~%q~:~%m~:~%l -q 2 -t #", instead: "--debug"},
	{line: "mosquitto_sub -h test.mosquitto.org -C 1 -F |~%10t~|~%-10t~|~%8p~|~%-8p~|~%3l~|~%03l~|~%2F~|~%.3t~| -q 2 -t FW/# -V 5",
		publish: []mqtttest.Message{at(2, "FW/1", "Off")}, out: "|       FW/1 | FW/1       |      Off | Off      |   3 | 003 |    | FW/ |\n"},
	{line: "mosquitto_sub -t myTopic/# -F %j -W 3", publish: []mqtttest.Message{at(0, "myTopic", `"DATA"`)},
		out: `{"tst":"2000-01-01T00:00:01.000000+0000","topic":"myTopic","qos":0,"retain":0,"payloadlen":6,"properties":{"subscription-identifier":1},"payload":"\"DATA\""}` + "\n"},
	{line: "mosquitto_sub -c -i me -q 1 -t a -x -1 -C 1 -T b --random-filter 100 -A 127.0.0.1", publish: []mqtttest.Message{at(1, "a", "x")}, out: "x\n",
		connect: func(w *world) error {
			if w.connect.CleanStart || w.connect.ClientID != "me" || *w.connect.Properties.SessionExpiry != 0xFFFFFFFF {
				return errorf("CONNECT %+v", w.connect)
			}
			return nil
		}},
	{line: "mosquitto_sub -V mqttv311 -t a -C 1 -F %J --pretty", publish: []mqtttest.Message{at(0, "a", `{"x":1}`)},
		out: "{\n\t\"tst\": \"2000-01-01T00:00:01.000000+0000\",\n\t\"topic\": \"a\",\n\t\"qos\": 0,\n\t\"retain\": 0,\n\t\"payloadlen\": 7,\n\t\"payload\": {\n\t\t\"x\": 1\n\t}\n}\n"},
}

// Those of MQTTX, of its command line's manual.
var mqttxHabits = []accustomedTo{
	{line: "mqttx conn -h broker.emqx.io -p 1883 -u admin -P public", connect: dialled("broker.emqx.io:1883")},
	{line: "mqttx conn --hostname broker.emqx.io --client-id me --keepalive 20 --mqtt-version 5", connect: dialled("broker.emqx.io:1883")},
	{line: "mqttx conn -h broker.emqx.io -Wt gone -Wm bye -Wq 1 -se 300", connect: func(w *world) error {
		if v := w.connect.Will; v == nil || v.Topic != "gone" || string(v.Payload) != "bye" || v.QoS != 1 || *w.connect.Properties.SessionExpiry != 300 {
			return errorf("CONNECT %+v", w.connect)
		}
		return nil
	}},
	{line: "mqttx sub -t hello -h broker.emqx.io -p 1883", publish: []mqtttest.Message{at(0, "hello", "x")}, out: "x\n", connect: dialled("broker.emqx.io:1883")},
	{line: "mqttx sub -t hello -h broker.emqx.io -p 8083 --path /mqtt --protocol ws -v", url: "ws", publish: []mqtttest.Message{at(0, "hello", "x")},
		out: "hello x\n", connect: dialled("broker.emqx.io:8083")},
	{line: "mqttx sub -t hello -h broker.emqx.io -p 8083 -l ws", instead: "--protocol"},
	{line: "mqttx sub -t hello -q 1 -nl -h broker.emqx.io", publish: []mqtttest.Message{at(1, "hello", "x")}, out: "x\n"},
	{line: "mqttx sub -t hello -rap -rh 2 -si 7 -h broker.emqx.io", publish: []mqtttest.Message{at(0, "hello", "x")}, out: "x\n"},
	{line: "mqttx sub -t hello --output-mode clean", instead: "--json"},
	{line: "mqttx sub -t hello --file-save ./messages.txt", instead: "--out-dir"},
	{line: "mqttx sub -t hello -f base64", instead: "--format"},
	{line: "mqttx pub -t hello -h broker.emqx.io -p 1883 -m from~MQTTX~CLI", sent: []mqtttest.Message{at(0, "hello", "from MQTTX CLI")}},
	{line: "mqttx pub -t hello -h broker.emqx.io -s --multiline", stdin: "x\n", instead: "--stdin-lines"},
	{line: "mqttx pub -t hello -m x -up name:~mqttx~cli", instead: "--user-property"},
	{line: "mqttx pub -t hello -m 7B7D -f hex", instead: "--encoding"},
	{line: "mqttx pub -t hello --file-read testdata/message.txt -q 1 -rt reply", instead: "--response-topic"},
	{line: "mqttx bench conn -c 5000 -h broker.emqx.io", instead: "--clients"},
	{line: "mqttx simulate -sc tesla -c 10 -h broker.emqx.io", instead: "petrel bench pub"},
}

func errorf(format string, args ...any) error { return usagef(format, args...) }

func dialled(address string) func(*world) error {
	return func(w *world) error {
		if w.address != address {
			return errorf("dialled %s, want %s", w.address, address)
		}
		return nil
	}
}

// ours is the same command line with our program.
func (h *accustomedTo) ours() []string {
	args := words(h.line)
	switch args[0] {
	case "mosquitto_pub":
		args[0] = "pub"
	case "mosquitto_sub":
		args[0] = "sub"
	default:
		return args[1:]
	}
	return args
}

// Whoever comes from another tool finds it work as its manual says, or an error that names the flag to use instead.
func TestHabits(t *testing.T) {
	if len(mosquittoHabits) != 24 || len(mqttxHabits) != 18 {
		t.Errorf("%d command lines of Mosquitto's and %d of MQTTX's", len(mosquittoHabits), len(mqttxHabits))
	}
	for _, h := range slices.Concat(mosquittoHabits, mqttxHabits) {
		synctest.Test(t, func(t *testing.T) { h.test(t) })
	}
}

func (h *accustomedTo) test(t *testing.T) {
	w := newWorld(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var others sync.WaitGroup
	others.Go(func() {
		later(h.publish...)(ctx, w.Broker)
		time.Sleep(time.Hour)
		interrupt()
	})
	defer others.Wait()
	url := h.url
	if url == "" {
		url = "mqtt"
	}
	r := h.run(ctx, w, url)
	interrupt()
	if h.instead != "" {
		if r.code != exitUsage || !strings.Contains(r.errors, h.instead) || r.out != "" || len(w.Received()) > 0 {
			t.Errorf("%s: %+v, want an error with %q", h.line, r, h.instead)
		}
		return
	}
	if r.code != exitOK || r.errors != "" || r.out != h.out {
		t.Errorf("%s: %+v, want %q", h.line, r, h.out)
	}
	if got := w.Received(); h.publish == nil && !slices.EqualFunc(got, h.sent, sameMessage) {
		t.Errorf("%s: published %+v", h.line, got)
	}
	if h.connect != nil && w.connect == nil {
		t.Fatalf("%s: it has not connected", h.line)
	}
	if h.connect != nil {
		if err := h.connect(w); err != nil {
			t.Errorf("%s: %v", h.line, err)
		}
	}
}

func (h *accustomedTo) run(ctx context.Context, w *world, scheme string) result {
	args := h.ours()
	if !strings.Contains(h.line, "--tls-use-os-certs") {
		return w.run(ctx, h.stdin, scheme, args...)
	}
	// The system does not know the test's authority.
	args = slices.DeleteFunc(args, func(a string) bool { return a == "--tls-use-os-certs" })
	return w.run(ctx, h.stdin, scheme, args...)
}

// Mosquitto's own programs and ours write the same in the same format.
func TestFormatsAgainstMosquitto(t *testing.T) {
	m := startMosquitto(t)
	m.tool(t, "mosquitto_pub", "-V", "mqttv5", "-r", "-t", "shop/é/door", "-m", `{"open":true}`, "-D", "publish", "content-type", "text/plain",
		"-D", "publish", "user-property", "a", "1", "-D", "publish", "user-property", "b", "2", "-D", "publish", "response-topic", "re")
	for _, format := range []string{
		"%t|%10l|%-10l|%010l|%5p|%30p|%-30p|", "%030p|%3x|%X|%q|%r|%C|%20C|%-20C|%.4C|%6.4C|%R", "%P|%%|@@|%E|%F|@Y@m@d|@j|@a|@b|@y|@e|@D", `\\|\t|\a|\e[0m|\v\0`,
	} {
		want := m.tool(t, "mosquitto_sub", "-V", "mqttv5", "-t", "shop/#", "-C", "1", "-F", format)
		r := run(t.Context(), nil, "", "sub", "-h", "127.0.0.1", "-p", m.port(), "-t", "shop/#", "-C", "1", "-F", format)
		if r.code != exitOK || r.out != want {
			t.Errorf("%s: %+v, want %q", format, r, want)
		}
	}
}

// flagRow is a row of docs/flags.md.
var flagRow = regexp.MustCompile("(?m)^\\| (`[^|]*`) \\| ([^|]*) \\|")

var code = regexp.MustCompile("`([^`]+)`")

// docs/flags.md says what our program does with the flags of others.
func TestFlagsPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "flags.md"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	rows := flagRow.FindAllStringSubmatch(string(page), -1)
	if len(rows) < 100 {
		t.Errorf("only %d rows were found", len(rows))
	}
	for _, row := range rows {
		for _, theirs := range code.FindAllStringSubmatch(row[1], -1) {
			listed[theirs[1]] = true
			checkRow(t, theirs[1], code.FindAllStringSubmatch(row[2], -1))
		}
	}
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		said, _ := exec.CommandContext(t.Context(), find(t, program), "--help").Output() // its exit code is 1
		if !strings.Contains(string(said), program+" version 2.0.") {
			t.Logf("the page is not for the %s that is installed", program)
			continue
		}
		for _, f := range regexp.MustCompile(`(?m)^ (-{1,2}[A-Za-z0-9-]+) :`).FindAllStringSubmatch(string(said), -1) {
			if !listed[f[1]] {
				t.Errorf("the page does not have %s of %s", f[1], program)
			}
		}
	}
	for theirs := range mqttxShort {
		if !listed[theirs] {
			t.Errorf("the page does not have MQTTX's %s", theirs)
		}
	}
}

// checkRow checks that a flag of theirs is what the page says: ours, of one command at least, or an error.
func checkRow(t *testing.T, theirs string, ours [][]string) {
	t.Helper()
	var said []string
	root := newRoot()
	for _, cmd := range root.Commands() {
		if cmd.Flags().Lookup("url") == nil {
			continue
		}
		for _, sub := range append(cmd.Commands(), cmd) {
			name, ok := meaning(sub, theirs)
			said = append(said, name)
			for _, o := range ours {
				if want, _ := meaning(sub, o[1]); ok && want == name {
					return
				}
			}
			if !ok && len(ours) == 0 && name != "" {
				return
			}
		}
	}
	t.Errorf("%s: the page says %v, and our program %q", theirs, ours, slices.Compact(said))
}

// meaning returns the flag of ours that a word is, or what is said instead of it.
func meaning(cmd *cobra.Command, word string) (text string, ok bool) {
	letters := strings.TrimLeft(word, "-")
	switch {
	case word == "-c":
		return "no-clean", true
	case word == "-D", word == "--property":
		return "-D", true
	case mqttxShort[word] != "":
		letters = mqttxShort[word]
	case !strings.HasPrefix(word, "--"):
		if f := cmd.Flags().ShorthandLookup(letters); f != nil {
			return f.Name, true
		}
		return instead[letters], false
	}
	if f := cmd.Flags().Lookup(letters); f != nil {
		return f.Name, true
	}
	return instead[letters], false
}
