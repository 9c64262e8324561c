package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// bad are command lines that cannot work; ENV=VALUE before them is their environment.
var bad = []string{
	// commands and flags
	"pubb", "sbu -t a", "xyzzy", "pub -t a -m x extra", "sub -t a b c", "bench pubsubb", "bench xyzzy",
	"pub --tpic a -m x", "pub -t", "pub --topic", "pub -z", "pub -lz", "pub -t a -m x --qos 3", "pub -t a -m x -q x", "pub -t a -m x -q -1",
	"pub -t a -m x --retain=perhaps", "sub --subscription-ids 3 -t a", "pub -t a -m x --keep-alive ten",
	// what to send
	"pub", "pub -t a", "pub -m x", "pub -t a -m x -n", "pub -t a -m x -m y", "pub -t a -f x -f y", "pub -t a -l -s", "pub -t a -f testdata/none",
	"pub -t a --lines testdata/none", "pub -t a -f testdata", "pub -t a --size 1XB", "pub -t a --size -1",
	"pub -t a --size 1000MB", "pub -t a --size MB", "pub -t a --encoding base65 -m x", "pub -t a --encoding base64 -m x!",
	"pub -t a --encoding hex -m abc", "pub -t a -m x --repeat -1", "pub -t a -l --repeat 2",
	"pub -t a -m x --interval -1", "pub -t a -m x --interval soon", "pub -t a -m x --max-inflight 0",
	"pub -t a/# -m x", "pub -t a/+/b -m x", "pub --topic= -m x", "pub -t a -m x --response-topic a/#", "pub -t a -m x --will-topic w --will-response-topic +",
	// properties
	"pub -t a -m x --user-property ab", "pub -t a -m x --correlation-data 0xabc", "pub -t a -m x --message-expiry 1.5",
	"pub -t a -m x --message-expiry -1", "pub -t a -m x --message-expiry 5000000000", "pub -t a -m x -V 3.1.1 --content-type x",
	"sub -t a -V 3.1.1 --no-local", "sub -t a -V 3.1.1 --session-expiry 3", "pub -t a -m x -V 4.0", "pub -t a -m x -V mqttv31",
	// what to receive
	"sub", "sub -q 1", "sub -t a -t b -t c -q 1 -q 2", "sub -t a -q 1,3", "sub -t a/#/b", "sub -t a+", "sub -t a -t b -t a", "sub -t a -n -1",
	"sub -t a -W soon", "sub -t a --retained-only -R", "sub -t a --json -v", "sub -t a -F %z", "sub -t a -F %", `sub -t a -F \q`,
	"sub -t a --out-dir testdata/x --exec true", "sub -t a --out-dir bad_test.go", "sub -t a --workers 3", "sub -t a --exec true --workers 0",
	"sub -t a -F %5", "sub -t a -F %-", "sub -t a -F %99999999t", "sub -t a -F %m", "sub -t a -F %@s", "sub -t a -F @Q", "sub -t a -F @", "sub -t a --pretty",
	"sub -t a --random-filter 0", "sub -t a --random-filter half",
	"sub -t a --exec true --on-failure panic", "sub -t a --retain-handling 3", "sub -t a --subscription-id 0x10000000",
	// where to connect
	"pub -t a -m x --url http://example.com", "pub -t a -m x --url mqtt://", "pub -t a -m x --url mqtt://h/path",
	"pub -t a -m x --url mqtt://h:99999", "pub -t a -m x --url mqtt://u:s3cret@h:x", "pub -t a -m x --url ://",
	"pub -t a -m x --host h --url mqtt://h", "pub -t a -m x --host mqtt://h", "pub -t a -m x --host h --port 0x",
	"pub -t a -m x --port 70000", "pub -t a -m x -k -1", "pub -t a -m x -k 70000", "pub -t a -m x -k 1.5",
	"pub -t a -m x --connect-timeout 0", "pub -t a -m x --ping-delay -1", "pub -t a -m x --receive-maximum 70000",
	"pub -t a -m x --maximum-packet-size 300MB", "pub -t a -m x --reconnect-delay 0", "pub -t a -m x --retry-refused --reconnect-retries 0", "pub -t a -m x --reconnect-retries many",
	"pub -m x -t a --url mqtt://s3cret/t@h", "pub -h -t a -m x", "pub -t a -m x -h h --unix /s", "pub -t a -m x --unix /s --bind 127.0.0.1",
	"pub -t a -m x --protocol http", "pub -t a -m x --url mqtt://h --protocol ws", "pub -t a -m x -l wss",
	// other tools' habits
	"pub -t a -m x -D", "pub -t a -m x -D publish", "pub -t a -m x -D publish user-property a", "pub -t a -m x -D publish user-property a=b c",
	"pub -t a -m x -D publish topic-alias 5", "pub -t a -m x -D subscribe subscription-identifier 5", "pub -t a -m x -D publish message-expiry-interval soon",
	"pub -t a -m x --psk 0a", "pub -t a -m x --keyform engine", "pub -t a -m x --tls-version tlsv1.1", "pub -t a -m x -S", "sub -t a -f hex",
	"pub -t a -m x -rt b", "pub -t a -m x -up u:v", "pub -t a -m x -f hex", "pub -t a -s -M 3 -l", "pub -t a -s --multiline", "simulate -sc tesla", "pub -t a -m x -rp 1000", "pub -t a -m x --tls-use-os-certs --ca-data x",
	// who
	"pub -t a -m x --no-clean", "pub -t a -m x --clean --no-clean", "pub -t a -m x -P x --password-file y",
	"pub -t a -m x -u u --password-file testdata/none", "pub -t a -m x --auth scram-sha-256", "pub -t a -m x --auth scram-md5",
	"pub -t a -m x -V 3.1.1 -P x --auth scram-sha-256", "pub -t a -m x -i x -I y",
	// the will
	"pub -t a -m x --will-message gone", "pub -t a -m x --will-topic w/# --will-message gone", "pub -t a -m x --will-topic w --will-qos 3",
	"pub -t a -m x --will-retain", "pub -t a -m x -V 3.1.1 --will-topic w --will-delay 3",
	// TLS
	"pub -t a -m x --ca-file testdata/none", "pub -t a -m x --url mqtts://h --ca-file testdata/none", "pub -t a -m x --url mqtts://h --key k",
	"pub -t a -m x --url mqtts://h --ca-data x", "pub -t a -m x --ca-file a --ca-path b", "pub -t a -m x --url mqtt://h --insecure",
	// WebSocket and proxies
	"pub -t a -m x --header X:~y", "pub -t a -m x --url ws://h --header X", "pub -t a -m x --url ws://h --header s3cret", "pub -t a -m x --url ws://h --header a~b:c",
	`pub -t a -m x --url ws://h --extra-headers ["a"]`, `pub -t a -m x --url ws://h --extra-headers {"a":1}`,
	`pub -t a -m x --url ws://h --extra-headers {"a":"b\u000ac"}`, "pub -t a -m x --url ws://h --header Upgrade:x",
	"pub -t a -m x --proxy ftp://h", "pub -t a -m x --proxy http://u:s3cret@h:x", "pub -t a -m x --proxy h",
	// logs
	"pub -t a -m x -d --quiet", "pub -t a -m x --log-format xml",
	// requests and benchmarks
	"request -m x", "request -t a", "request -t a -m x -W 0", "request -t a -m x -V 3.1.1", "request -t a/# -m x",
	"respond -t a", "respond --echo", "respond -t a --echo -m x", "respond -t a --echo -n -1", "respond -t a --echo -V 3.1.1",
	"bench sub", "bench pub --clients 0", "bench pub --rate -1", "bench pub --rate fast", "bench pub --duration 0",
	"bench pub --size 10", "bench pub --inflight 0", "bench pub --plot testdata/none/x.html", "bench rpc -V 3.1.1 --url mqtt://h", "probe --rounds 0",
	// the broker
	"broker extra", "broker -c testdata/none", "broker -c bad_test.go", "broker -c x --bind y", "broker --bind h:mqtt", "broker --bind h:1:2",
	"broker --bind h:1 --bind h:1", "broker -d --quiet", "broker --port 1883", "passwd", "passwd testdata/bad.txt",
	"passwd -c -D testdata/none u", "passwd testdata/none u", "passwd -c testdata/bad.txt u", "passwd -c testdata/none u",
	"passwd testdata/bad.txt u", "passwd --scheme md5 testdata/none u",
	// a bridge
	"bridge", "bridge -t a", "bridge -t a --to mqtt://h", "bridge -t a --to mqtt://h --store testdata/none/x", "bridge -i b -t a --to mqtt://h --store testdata/none/x",
	"bridge -i b -t a --to mqtt://u:s3cret@h:x --store x", "bridge -i b -t a -t +/# --to mqtt://h --store x", "bridge -i b -t a/# -t a --to mqtt://h --store x",
	"bridge -i b -t a --to mqtt://h --store x --clean", "bridge -i b -t a --to mqtt://h --store x --state-topic s --will-topic w",
	"bridge -i b -t a --to mqtt://h --store x --state-topic s/#", "bridge -i b -t a --to mqtt://h --store x --to-max-in-flight 0",
	"bridge -i b -t a --to mqtt://h --store x --store-max-bytes 0", "bridge -i b -t a --to mqtt://h --store x --to-key k",
	"bridge -i b -t a --url mqtt://h --to mqtt://h --to-id b --store x", "bridge -i b -t a --to mqtt://h --store x -q 3", "bridge -i b -t a/#/b --to mqtt://h --store testdata",
	"bridge -i b -t a --to mqtt://h --store bad_test.go",
	// a store
	"outbox lst", "outbox list", "outbox list a b", "outbox list testdata/none", "outbox list testdata", "outbox list bad_test.go",
	"outbox drop", "outbox drop a", "outbox drop a x", "outbox drop a 0", "outbox drop a 1 --all", "outbox drop a --failed --name b",
	// the environment
	"PETREL_QOS=1 PETREL_KEEP_ALIVE=ten pub -t a -m x", "PETREL_URL=http://h pub -t a -m x", "PETREL_PROTOCOL_VERSION=6 pub -t a -m x",
	"PETREL_CONFIG=testdata/none pub -t a -m x", "PETREL_URL=mqtt://h PETREL_HOST=h pub -t a -m x",
	"PETREL_EXTRA_HEADERS=s3cret pub -t a -m x",
}

// badFiles are configuration files that cannot work.
var badFiles = []string{
	"keep_alive: ten", "keep_alive: [1, 2]", "keep_alive:", "keep-alive: -3", "keepalve: 10", "keep_alive: 10\nkeep-alive: 11",
	"reconnect_retrys: 3", "reconnect_max_interval: 0", "auto_reconnect: perhaps", "default_qos: 3", "default_qos: {a: 1}",
	"default_retain: 7", "topics: 3", "topics: [a, b]", "topics: {a: 1}", "topics: {a: {qos: 3}}", "topics: {a: {retain: maybe}}",
	"topics: {a: {qso: 1}}", "topics: {a: {qos: 1}, b: {qos: 1}, a: {qos: 2}}", "topics: {a: {qos: 1, qos: 2}}", "topics: {a: {retain: on, retain: on}}",
	"header: &h [*h]", "topics: &t {a: *t}", "topics: {a: &d {qos: 1}, b: {<<: *d}}", "qos: 1", "xyzzy: 1", "config: other.yaml", "- a\n- b", "just text", "a: b: c", "\tkeep_alive: 1", "url: http://h", "url: {a: b}",
	"header: s3cret", "will: 3", "will: {topic: a, qos: 3}", "will: {xyzzy: 3}", "will: {topic: a}\nwill_topic: b", "will-topic: w\nwill_qos: 5", "connect_property: ab", "url: mqtt://h\nhost: h", "topics: {a/#/b: {qos: 1}}\nkeep_alive: 1\nunknown: 2",
}

func TestBad(t *testing.T) {
	var report strings.Builder
	check := func(line string, r result) {
		fmt.Fprintf(&report, "%s\n\t%d: %s", line, r.code, r.errors)
		if r.code == exitOK || r.code == exitInterrupted || strings.Count(r.errors, "\n") != 1 || !strings.HasPrefix(r.errors, "petrel") || r.out != "" {
			t.Errorf("%s: exit code %d, standard error %q, standard output %q", line, r.code, r.errors, r.out)
		}
		if strings.Contains(r.errors, "s3cret") {
			t.Errorf("%s: %s tells the password", line, r.errors)
		}
	}
	for _, line := range bad {
		check(line, runBad(t, line))
	}
	for _, text := range badFiles {
		path := filepath.Join(t.TempDir(), "petrel.yaml")
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		r := runBad(t, "pub -t a -m x -c "+path)
		r.errors = strings.ReplaceAll(r.errors, path, "petrel.yaml")
		check(fmt.Sprintf("%q", text), r)
	}
	compare(t, filepath.Join("testdata", "bad.txt"), report.String())
}

// runBad runs a command line against a broker that would take everything.
func runBad(t *testing.T, line string) (r result) {
	synctest.Test(t, func(t *testing.T) {
		args := words(line)
		for strings.Contains(args[0], "=") && strings.HasPrefix(args[0], "PETREL_") {
			name, value, _ := strings.Cut(args[0], "=")
			args = args[1:]
			t.Setenv(name, value)
		}
		b := mqtttest.New()
		defer b.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		r = run(ctx, b, "", args...)
	})
	return r
}
