package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What a broker has kept can be looked at once it has ended.
func TestStored(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "petrel.yaml")
	text := "listeners: {default: {bind: '127.0.0.1:0'}}\npersistence-file: " + filepath.Join(dir, "petrel.db") + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) result {
		t.Helper()
		return run(t.Context(), nil, "", append([]string{"broker"}, args...)...)
	}
	b := startBroker(t, "-c", config)
	for _, args := range []string{
		"sub -t home/# -q 1 -i worker --no-clean -E",
		"pub -t home/lamp -m on -q 1 -r -i p",
		"pub -t home/odd -m two\x07words -q 1 -r -i p",
	} {
		args := append(strings.Fields(args), "--url", b.url)
		if r := run(t.Context(), nil, "", args...); r.code != exitOK {
			t.Fatalf("%s: %+v", args, r)
		}
	}
	if r := command("sessions", "-c", config); r.code != exitFailed || !strings.Contains(r.errors, "is in use; stop the other broker") {
		t.Errorf("while the broker runs: %+v", r)
	}
	b.stop()
	for _, c := range []struct{ args, out string }{
		{"sessions", `^CLIENT  USER  MESSAGES  BYTES  ENDS  *SUBSCRIPTIONS\nworker  -     2         11     \S.*  home/#:1\n$`},
		{"sessions --json", `^{"client_id":"worker","version":5,.*"subscriptions":\[{"filter":"home/#","qos":1}\],"messages":2,"bytes":11}\n$`},
		{"retained", `^TOPIC      QOS  BYTES  EXPIRES  PAYLOAD\nhome/lamp  1    2      never    on\nhome/odd   1    9      never    "two\\awords"\n$`},
		{"retained --json", `^{"topic":"home/lamp","qos":1,"payload":"b24="}\n{"topic":"home/odd",.*}\n$`},
	} {
		r := command(append(strings.Fields(c.args), "-c", config)...)
		if r.code != exitOK || r.errors != "" || !regexp.MustCompile(c.out).MatchString(r.out) {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	for _, c := range []struct{ args, errors string }{
		{"sessions", "petrel broker sessions: -c is missing: name the broker's configuration file\n"},
		{"retained -c " + empty, "petrel broker retained: " + empty + " names no persistence-file\n"},
		{"retained -c " + empty + "x", "petrel broker retained: open " + empty + "x: no such file or directory\n"},
	} {
		if r := command(strings.Fields(c.args)...); r.code != exitUsage || r.errors != c.errors {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
}
