package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// running is a broker command that runs until the test ends.
type running struct {
	t     *testing.T
	url   string
	lines chan string // of its log, after the one that has the URL
	stop  func() int  // ends the command and returns its exit code
}

func startBroker(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	root := newRoot()
	root.SetErr(writer)
	code := make(chan int, 1)
	go func() {
		code <- execute(ctx, root, append([]string{"broker"}, args...))
		writer.Close()
	}()
	r := &running{t: t, lines: make(chan string, 1000)}
	go func() {
		defer close(r.lines)
		s := bufio.NewScanner(reader)
		s.Buffer(nil, 1<<20) // probe tries the longest client identifier, and the log has it
		for s.Scan() {
			r.lines <- s.Text()
		}
	}()
	r.stop = func() int {
		cancel()
		c := <-code
		code <- c
		return c
	}
	t.Cleanup(func() { r.stop() })
	r.url = r.await(`([a-z]+://[0-9.:]+)`)[1]
	return r
}

// await waits for a line of the log.
func (r *running) await(pattern string) []string {
	r.t.Helper()
	give := time.After(patience)
	for {
		select {
		case line, ok := <-r.lines:
			if m := regexp.MustCompile(pattern).FindStringSubmatch(line); m != nil {
				return m
			}
			if !ok {
				r.t.Fatalf("the broker has ended, and said nothing of %s", pattern)
			}
		case <-give:
			r.t.Fatalf("nothing of %s", pattern)
		}
	}
}

// The quickstart: a broker, sub and pub. Ctrl-C ends the broker well.
func TestBroker(t *testing.T) {
	b := startBroker(t, "--bind", "127.0.0.1:0")
	for _, version := range []string{"5", "3.1.1"} {
		if r := run(t.Context(), nil, "", "pub", "--url", b.url, "-V", version, "-t", "a", "-m", "hello", "-q", "1", "-r"); r.code != exitOK {
			t.Errorf("%+v", r)
		}
		if r := run(t.Context(), nil, "", "sub", "--url", b.url, "-V", version, "-t", "a", "-n", "1", "-v"); r.code != exitOK || r.out != "a hello\n" {
			t.Errorf("%+v", r)
		}
	}
	if m := b.await(`client disconnected (.*)`); !regexp.MustCompile(`^client.id=petrel-pub/\S+ client.from=127\.0\.0\.1:\d+$`).MatchString(m[1]) {
		t.Errorf("an orderly end is told as %q", m[1])
	}
	if code := b.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// SIGHUP takes a new password file, and keeps the old passwords when the file is wrong.
func TestBrokerHangup(t *testing.T) {
	dir := t.TempDir()
	passwords := filepath.Join(dir, "passwd")
	config := filepath.Join(dir, "petrel.yaml")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(config, "listeners: {default: {bind: '127.0.0.1:0'}}\nauth: {password-file: "+passwords+"}\n")
	change := func(stdin string, args ...string) {
		t.Helper()
		if r := run(t.Context(), nil, stdin, append([]string{"passwd"}, args...)...); r != (result{}) {
			t.Fatalf("%+v", r)
		}
	}
	change("one\n", "-c", passwords, "alice")
	b := startBroker(t, "-c", config)
	publish := func(user, password string) int {
		return run(t.Context(), nil, "", "pub", "--url", b.url, "-t", "a", "-m", "x", "-u", user, "-P", password).code
	}
	hangup := func(answer string) {
		t.Helper()
		p, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = p.Signal(syscall.SIGHUP)
		}
		if err != nil {
			t.Fatal(err)
		}
		b.await(answer)
	}
	if publish("alice", "one") != exitOK || publish("bob", "two") != exitConnection {
		t.Error("at the start")
	}
	change("two\n", passwords, "bob", "--scheme", "pbkdf2")
	hangup("read again")
	if publish("alice", "one") != exitOK || publish("bob", "two") != exitOK {
		t.Error("after bob was added")
	}
	change("", "-D", passwords, "alice")
	hangup("read again")
	if publish("alice", "one") != exitConnection || publish("bob", "two") != exitOK {
		t.Error("after alice was deleted")
	}
	write(passwords, "nonsense\n")
	hangup("nothing was read again .*line 1: is not of the form user:hash")
	if publish("bob", "two") != exitOK {
		t.Error("after the file was spoilt")
	}
}

// HBMQTT's flags, and what they lead to.
func TestBrokerFlags(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	dir := t.TempDir()
	file := func(text string) string {
		f, err := os.CreateTemp(dir, "*.yaml")
		if err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	for _, c := range []struct {
		args   string
		code   int
		out    string
		errors string // a part of it
	}{
		{"broker --version", exitOK, "petrel broker (devel)\n", ""},
		{"broker -c ../../broker/testdata/manual-default.yaml --check", exitOK, "", ""},
		{"broker -c ../../broker/testdata/manual-api.yaml --check", exitUsage, "", "/some/passwd_file: no such file or directory"},
		{"broker -c " + file("auth: {password-file: broker_test.go}"), exitUsage, "", "password-file: broker_test.go: line 1: is not of the form"},
		{"broker -c " + file("auth: {acl-file: broker_test.go}"), exitUsage, "", "acl-file: broker_test.go: line 1: "},
		{"broker -c " + file("persistence-file: testdata/none/file"), exitUsage, "", "persistence-file: open testdata/none/file: no such"},
		{"broker -c " + file("listeners: {a: {bind: '127.0.0.1:0', ssl: on, certfile: testdata/none, keyfile: k}}"), exitUsage, "", ".yaml: line 1: listeners.a: certfile and keyfile: open testdata/none"},
		{"broker --check --bind 192.0.2.1:1883", exitFailed, "", "is it an address of this machine?"},
		{"broker --check --bind " + busy.Addr().String(), exitOK, "", "the address is taken, which is right if this broker runs"},
		{"broker --check -c " + file("auth: {acl-file: testdata/acl}"), exitOK, "", "there are rules for user names, which nobody checks without a password-file"},
		{"broker --check -c " + file("listeners: {default: {bind: '127.0.0.1:0', x: {bind: '1.2.3.4'}}}"), exitOK, "", "a listener inside of another is ignored"},
		{"broker --bind " + busy.Addr().String(), exitFailed, "", "another program listens there; stop it, or bind another port"},
	} {
		r := run(t.Context(), nil, "", strings.Fields(c.args)...)
		if r.code != c.code || r.out != c.out || !strings.Contains(r.errors, c.errors) {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	b := startBroker(t, "--bind", "127.0.0.1:0", "-d", "--log-format", "json")
	if r := run(t.Context(), nil, "", "pub", "--url", b.url, "-t", "a", "-m", "x"); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	b.await(`"packet in","type":"PUBLISH"`)
}

// -d tells sizes and reason codes as they are on the wire.
func TestBrokerDebug(t *testing.T) {
	b := startBroker(t, "--bind", "127.0.0.1:0", "-d")
	for _, line := range []string{"pub -t nobody -m x -q 1 -i five", "sub -t a/# -q 1 -U b -E -i five", "sub -t a -t b -q 1 -q 2 -E -V 3.1.1 -i four"} {
		if r := run(t.Context(), nil, "", append(words(line), "--url", b.url)...); r.code != exitOK {
			t.Fatalf("%s: %+v", line, r)
		}
	}
	for _, want := range []string{
		`in type=CONNECT client=five size=\d\d`, `out type=CONNACK client=five size=\d\d?$`, `in type=PUBLISH client=five size=17 id=1`,
		`out type=PUBACK client=five size=5 id=1 reason=10$`, `in type=UNSUBSCRIBE`, `out type=UNSUBACK client=five size=6 id=\d reason=11$`,
		`out type=SUBACK client=five size=6 id=\d reason=01$`, `out type=CONNACK client=four size=4$`, `out type=SUBACK client=four size=6 id=\d+ reason="01 02"$`,
	} {
		b.await(want)
	}
}
