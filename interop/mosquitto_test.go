// Package interop tests the client against real servers. Tests that need a program which is not installed say so and
// are skipped, but fail where CI is set in the environment.
package interop

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/freeport"
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
	case os.Getenv("CI") != "":
		t.Fatalf("%s is not installed, and nothing is skipped where CI is set", program)
	default:
		t.Skipf("%s is not installed", program)
	}
	return path
}

// mosquitto is a Mosquitto server of one test.
type mosquitto struct {
	t      testing.TB
	path   string // of the program
	config string // of its configuration file
	port   int
	log    bytes.Buffer
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
}

func (m *mosquitto) url() string { return fmt.Sprintf("mqtt://127.0.0.1:%d", m.port) }

// startMosquitto starts a Mosquitto on a free loopback port, as it is installed, except that it lets everybody in: it has at
// most 20 messages at QoS 1 and 2 in flight to a client, queues 1,000 more, and drops what goes beyond without a word. lines are
// added to its configuration. A test that adds some says why.
func startMosquitto(t testing.TB, lines ...string) *mosquitto {
	t.Helper()
	m := &mosquitto{t: t, path: find(t, "mosquitto"), port: freeport.Take(t)}
	config := append([]string{
		fmt.Sprintf("listener %d 127.0.0.1", m.port),
		"allow_anonymous true",
		"user root", // of interest only to a Mosquitto that root starts: it may then read this test's files
	}, lines...)
	m.config = filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(m.config, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.start()
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("mosquitto said:\n%s", m.log.String())
		}
	})
	return m
}

// unboundedQueues is for tests in which many messages wait at the server for a client that is slow or away.
const unboundedQueues = "max_queued_messages 0"

// start runs the server, for the first time or again, and waits until it listens.
func (m *mosquitto) start() {
	m.t.Helper()
	m.cmd = exec.Command(m.path, "-c", m.config)
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(m.cmd, m.exited)
	awaitListener(m.t, m.port, m.exited)
}

// kill ends the server with SIGKILL.
func (m *mosquitto) kill() { m.stop(syscall.SIGKILL) }

// stop ends the server with a signal and waits until it is gone.
func (m *mosquitto) stop(signal syscall.Signal) {
	m.cmd.Process.Signal(signal)
	<-m.exited
}

// awaitListener waits until something listens on the port.
func awaitListener(t testing.TB, port int, exited <-chan struct{}) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	give := time.After(patience)
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-exited:
			t.Fatal("the server exited")
		case <-give:
			t.Fatalf("nothing listens on port %d: %v", port, err)
		case <-tick.C:
		}
	}
}
