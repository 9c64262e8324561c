// Package interop tests the client against real servers. Tests that need a program which is not installed say so and
// are skipped, but fail where the environment has CI=true.
package interop

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// find returns the path of a program that a test needs.
func find(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
			if path, err = exec.LookPath(filepath.Join(dir, program)); err == nil {
				break
			}
		}
	}
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is not installed, and nothing is skipped where CI=true", program)
	default:
		t.Skipf("%s is not installed", program)
	}
	return path
}

// mosquitto is a Mosquitto server of one test.
type mosquitto struct {
	port int
	log  bytes.Buffer
	kill func() // with SIGKILL, and waits
}

func (m *mosquitto) url() string { return fmt.Sprintf("mqtt://127.0.0.1:%d", m.port) }

// startMosquitto starts a Mosquitto on a free loopback port. By default it drops nothing silently, and does not delay
// small packets; lines are added to its configuration.
func startMosquitto(t testing.TB, lines ...string) *mosquitto {
	t.Helper()
	path := find(t, "mosquitto")
	m := &mosquitto{port: freePort(t)}
	config := append([]string{
		fmt.Sprintf("listener %d 127.0.0.1", m.port),
		"allow_anonymous true",
		"max_queued_messages 0",
		"max_queued_bytes 0",
		"max_inflight_messages 1024",
		"set_tcp_nodelay true",
		"user root", // of interest only to a Mosquitto that root starts: it may then read this test's files
	}, lines...)
	file := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", file)
	cmd.Stdout, cmd.Stderr = &m.log, &m.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() {
		exited <- cmd.Wait()
		close(exited)
	}()
	m.kill = func() {
		cmd.Process.Kill()
		<-exited
	}
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("mosquitto said:\n%s", m.log.String())
		}
	})
	awaitListener(t, m.port, exited)
	return m
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// awaitListener waits until something listens on the port.
func awaitListener(t testing.TB, port int, exited <-chan error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	give := time.After(10 * time.Second)
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-exited:
			t.Fatalf("the server exited: %v", err)
		case <-give:
			t.Fatalf("nothing listens on port %d after 10 s: %v", port, err)
		case <-tick.C:
		}
	}
}
