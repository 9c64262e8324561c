package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/freeport"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// mosquitto is a Mosquitto server of a test, which listens for each transport.
type mosquitto struct {
	tcp, tls, ws, wss int // ports of the loopback interface
	ca                string
}

// find returns the path of a program that a test needs.
func find(t *testing.T, program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("%s is not installed, and nothing is skipped where CI is set", program)
	default:
		t.Skipf("%s is not installed", program)
	}
	return path
}

func startMosquitto(t *testing.T) *mosquitto {
	program, dir := find(t, "mosquitto"), certificates(t)
	m := &mosquitto{freeport.Take(t), freeport.Take(t), freeport.Take(t), freeport.Take(t), filepath.Join(dir, "ca.pem")}
	secure := fmt.Sprintf("certfile %[1]s/cert.pem\nkeyfile %[1]s/key.pem\n", dir)
	config := "user root\nallow_anonymous true\nset_tcp_nodelay true\n" + fmt.Sprintf(
		"listener %d 127.0.0.1\nlistener %d 127.0.0.1\n%slistener %d 127.0.0.1\nprotocol websockets\nlistener %d 127.0.0.1\nprotocol websockets\n%s",
		m.tcp, m.tls, secure, m.ws, m.wss, secure)
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "-c", file)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto said:\n%s", log.String())
		}
	})
	for _, port := range []int{m.tcp, m.tls, m.ws, m.wss} {
		awaitListener(t, port)
	}
	return m
}

// certificates writes those of an authority and of a server on this machine into a folder, with the server's key.
func certificates(t *testing.T) (folder string) {
	folder = t.TempDir()
	authority := mqtttest.NewAuthority()
	certificate, key := mqtttest.PEM(authority.Certificate())
	for name, content := range map[string][]byte{"ca.pem": authority.PEM(), "cert.pem": certificate, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func awaitListener(t *testing.T, port int) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for give := time.Now().Add(patience); time.Now().Before(give); <-tick.C {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return
		}
	}
	t.Fatalf("nothing listens on port %d", port)
}

// tool runs one of Mosquitto's programs and returns what it writes.
func (m *mosquitto) tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	return tool(t, name, append([]string{"-h", "127.0.0.1", "-p", fmt.Sprint(m.tcp)}, args...)...)
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), find(t, name), args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return string(out)
}

// Against Mosquitto by every transport, in both versions, with its own programs as the peers.
func TestMosquitto(t *testing.T) {
	m := startMosquitto(t)
	for i, transport := range [][]string{
		{"--url", fmt.Sprintf("mqtt://127.0.0.1:%d", m.tcp)},
		{"--url", fmt.Sprintf("mqtts://localhost:%d", m.tls), "--ca-file", m.ca},
		{"--url", fmt.Sprintf("ws://127.0.0.1:%d/mqtt", m.ws)},
		{"--url", fmt.Sprintf("wss://localhost:%d/mqtt", m.wss), "--ca-path", filepath.Dir(m.ca) + "/ca.pem"},
		{"--host", "localhost", "--port", fmt.Sprint(m.tls), "--insecure"},
	} {
		for version, theirs := range map[string]string{"5": "mqttv5", "3.1.1": "mqttv311"} {
			for q := range 3 {
				if i > 0 && q != i%3 { // the transport does not know the QoS
					continue
				}
				qos := strconv.Itoa(q)
				common := append([]string{"-V", version, "-q", qos, "-t", "shop/door"}, transport...)
				r := run(t.Context(), nil, "", append([]string{"pub", "-m", "open", "-r"}, common...)...)
				if r.code != exitOK || r.errors != "" {
					t.Fatalf("%q: %+v", common, r)
				}
				if got := m.tool(t, "mosquitto_sub", "-V", theirs, "-t", "shop/door", "-C", "1", "-W", "60", "-F", "%t %p %r"); got != "shop/door open 1\n" {
					t.Errorf("%q: mosquitto_sub got %q", common, got)
				}
				m.tool(t, "mosquitto_pub", "-V", theirs, "-t", "shop/door", "-m", "shut", "-r", "-q", qos)
				r = run(t.Context(), nil, "", append([]string{"sub", "-n", "1", "-W", "60", "-v"}, common...)...)
				if r.code != exitOK || r.out != "shop/door shut\n" {
					t.Errorf("%q: %+v", common, r)
				}
			}
		}
	}
}

// Properties arrive in both directions, and mosquitto_rr gets its answer.
func TestMosquittoProperties(t *testing.T) {
	m := startMosquitto(t)
	url := fmt.Sprintf("mqtt://127.0.0.1:%d", m.tcp)
	r := run(t.Context(), nil, "", "pub", "--url", url, "-t", "a", "-m", "x", "-r", "-q", "1", "--content-type", "text/plain",
		"--response-topic", "re", "--correlation-data", "abc", "--user-property", "k=v", "--utf8", "--message-expiry", "100")
	if r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	format := "%C %R %D %F %P"
	if got, want := m.tool(t, "mosquitto_sub", "-V", "mqttv5", "-t", "a", "-C", "1", "-W", "60", "-F", format), "text/plain re abc 1 k:v\n"; got != want {
		t.Errorf("mosquitto_sub got %q, want %q", got, want)
	}
	m.tool(t, "mosquitto_pub", "-V", "mqttv5", "-t", "a", "-m", "x", "-r", "-D", "publish", "content-type", "text/plain",
		"-D", "publish", "response-topic", "re", "-D", "publish", "correlation-data", "abc", "-D", "publish", "user-property", "k", "v",
		"-D", "publish", "payload-format-indicator", "1")
	r = run(t.Context(), nil, "", "sub", "--url", url, "-t", "a", "-n", "1", "-W", "60", "-F", format)
	if want := "text/plain re abc 1 k:v\n"; r.out != want {
		t.Errorf("petrel sub got %+v, want %q", r, want)
	}
	answered := make(chan result)
	go func() {
		answered <- run(t.Context(), nil, "", "respond", "--url", url, "-t", "svc", "-n", "2", "--exec", "tr a-z A-Z")
	}()
	for {
		r := run(t.Context(), nil, "", "request", "--url", url, "-t", "svc", "-m", "hello")
		if r.code == exitRefused {
			continue // the responder has not subscribed yet
		}
		if r.out != "HELLO\n" {
			t.Fatalf("%+v", r)
		}
		break
	}
	if got := m.tool(t, "mosquitto_rr", "-V", "mqttv5", "-t", "svc", "-e", "my/reply", "-m", "world", "-W", "60"); strings.TrimSpace(got) != "WORLD" {
		t.Errorf("mosquitto_rr got %q", got)
	}
	if r := <-answered; r.code != exitOK {
		t.Errorf("%+v", r)
	}
}

// Mosquitto's programs, and our own, against petrel broker. Mosquitto's have no WebSocket before 2.1; module interop has
// other clients for that.
func TestMosquittoAgainstBroker(t *testing.T) {
	dir := certificates(t)
	config := filepath.Join(dir, "petrel.yaml")
	text := fmt.Sprintf(`
listeners:
  default: {bind: "127.0.0.1:0", certfile: %[1]s/cert.pem, keyfile: %[1]s/key.pem}
  tls: {bind: "127.0.0.1:0", ssl: on}
  ws: {bind: "127.0.0.1:0", type: ws}
  wss: {bind: "127.0.0.1:0", type: ws, ssl: on}
auth: {password-file: %[1]s/passwd}
`, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t.Context(), nil, "secret", "passwd", "-c", filepath.Join(dir, "passwd"), "me"); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	b := startBroker(t, "-c", config)
	urls := []string{b.url}
	for range 3 {
		urls = append(urls, b.await(`url=(\S+)`)[1])
	}
	for _, server := range urls {
		scheme, address, _ := strings.Cut(server, "://")
		ours, theirs := []string{"-u", "me", "-P", "secret", "--url", server}, []string{"-u", "me", "-P", "secret"}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, "-h", "127.0.0.1", "-p", port)
		if strings.HasSuffix(scheme, "s") && scheme != "ws" {
			ours = append(ours, "--ca-file", dir+"/ca.pem")
			theirs = append(theirs, "--cafile", dir+"/ca.pem")
		}
		for i, version := range []string{"5", "3.1.1"} {
			topic, format := "shop/"+scheme+version, "%t %p %q %r"
			want := topic + " open 2 1\n"
			if r := run(t.Context(), nil, "", slices.Concat([]string{"pub", "-V", version, "-t", topic, "-m", "open", "-r", "-q", "2"}, ours)...); r != (result{}) {
				t.Errorf("%s: %+v", server, r)
			}
			if r := run(t.Context(), nil, "", slices.Concat([]string{"sub", "-V", version, "-t", topic, "-n", "1", "-W", "60", "-F", format, "-q", "2"}, ours)...); r.out != want {
				t.Errorf("%s: %+v", server, r)
			}
			if strings.HasPrefix(scheme, "ws") {
				continue
			}
			name := []string{"mqttv5", "mqttv311"}[i]
			if got := tool(t, "mosquitto_sub", append(theirs, "-V", name, "-t", topic, "-C", "1", "-W", "60", "-F", format, "-q", "2")...); got != want {
				t.Errorf("%s: mosquitto_sub got %q", server, got)
			}
			tool(t, "mosquitto_pub", append(theirs, "-V", name, "-t", topic, "-m", "shut", "-r", "-q", "1")...)
			if r := run(t.Context(), nil, "", slices.Concat([]string{"sub", "-t", topic, "-n", "1", "-W", "60"}, ours)...); r.out != "shut\n" {
				t.Errorf("%s: %+v", server, r)
			}
		}
	}
}

// port returns the port of plain TCP.
func (m *mosquitto) port() string { return strconv.Itoa(m.tcp) }
