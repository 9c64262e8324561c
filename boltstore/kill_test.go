//go:build unix

package boltstore

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
)

var kills = flag.Int("kills", 15, "how often TestKill kills the publisher, with each version")

// childVariable says to this program that it is a publisher which a test kills: version, file, URL and for how many
// milliseconds it publishes.
const childVariable = "BOLTSTORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		if err := child(strings.Fields(text)); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience is how long anything may take, on a machine that is busy: it ends what hangs.
const patience = 2 * time.Minute

// child publishes to two topics, one for each QoS, and prints what was accepted. Then it waits until everything is delivered.
func child(arguments []string) error {
	s, err := Open(arguments[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	options := mqtt.Options{mqtt.WithStore(s), mqtt.WithMaxInFlight(8), mqtt.WithConnectInBackground()}
	client, err := connect(ctx, arguments[0], arguments[2], options)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(arguments[3] + "ms")
	if err != nil {
		return err
	}
	working, stop := context.WithTimeout(ctx, d)
	defer stop()
	var publishers sync.WaitGroup
	for qos := mqtt.AtLeastOnce; qos <= mqtt.ExactlyOnce; qos++ {
		publishers.Go(func() { publish(ctx, working, client, qos) })
	}
	publishers.Wait()
	for len(client.Outstanding()) > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	client.Close()
	return ctx.Err()
}

func connect(ctx context.Context, version, url string, options mqtt.Options) (mqtt.Client, error) {
	if version == "3" {
		return mqtt.NewClientV311(ctx, url, options)
	}
	c, err := mqtt.NewClient(ctx, url, options)
	if err != nil {
		return nil, err
	}
	return mqtt.Common(c), nil
}

// publish publishes until working ends, and at least one message.
func publish(ctx, working context.Context, c mqtt.Client, qos mqtt.QoS) {
	for first := true; first || working.Err() == nil; first = false {
		text := fmt.Sprintf("%d:%d", qos, time.Now().UnixNano())
		if d := c.PublishAsync(ctx, fmt.Sprintf("stored/%d", qos), []byte(text), qos); d.Err() == nil && ctx.Err() == nil {
			fmt.Println(text)
		}
	}
}

// A publisher is killed with SIGKILL at random moments, one time in four since its start, otherwise since it publishes. What it has
// accepted is seen by a witness, in order, and at QoS 2 once.
func TestKill(t *testing.T) {
	for _, version := range []string{"5", "3"} {
		t.Run(version, func(t *testing.T) {
			url, seen := startMosquitto(t)
			path := filepath.Join(t.TempDir(), "store")
			accepted := make(map[string]bool)
			for i := range *kills {
				p := startChild(t, version, path, url, "100000")
				if i%4 > 0 {
					p.first(accepted)
				}
				time.Sleep(time.Duration(30+rand.N(250)) * time.Millisecond)
				p.cmd.Process.Kill()
				p.wait(accepted)
			}
			last := startChild(t, version, path, url, "50")
			if err := last.wait(accepted); err != nil {
				t.Fatalf("the last publisher: %v\n%s", err, last.stderr.String())
			}
			compare(t, accepted, seen(accepted))
		})
	}
}

func compare(t *testing.T, accepted map[string]bool, seen []string) {
	t.Helper()
	copies, last := make(map[string]int), make(map[byte]string)
	repeated := 0
	for _, text := range seen {
		copies[text]++
		switch {
		case copies[text] > 1 && text[0] == '2':
			t.Errorf("%s came %d times at QoS 2", text, copies[text])
		case copies[text] > 1:
			repeated++
		case text < last[text[0]]:
			t.Errorf("%s came behind %s", text, last[text[0]])
		}
		last[text[0]] = max(last[text[0]], text)
	}
	var lost []string
	for text := range accepted {
		if copies[text] == 0 {
			lost = append(lost, text)
		}
	}
	if slices.Sort(lost); len(lost) > 0 || len(accepted) == 0 {
		t.Errorf("%d of %d accepted messages are lost, the first of them %v; the last that came are %v", len(lost), len(accepted),
			lost[:min(len(lost), 3)], last)
	}
	t.Logf("%d accepted, %d seen, %d of them again at QoS 1", len(accepted), len(copies), repeated)
}

// process is a publisher that a test has started.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	lines  chan string
}

func startChild(t *testing.T, arguments ...string) *process {
	self, err := os.Executable()
	check(t, err)
	p := &process{cmd: exec.Command(self), lines: make(chan string, 1<<20)}
	p.cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(arguments, " "))
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	check(t, err)
	check(t, p.cmd.Start())
	go func() {
		defer close(p.lines)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return // half a line is no word of the publisher
			}
			p.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	return p
}

// first waits for the first line of the process, and notes it.
func (p *process) first(accepted map[string]bool) {
	if line, printed := <-p.lines; printed {
		accepted[line] = true
	}
}

// wait notes what the process has printed, until its end.
func (p *process) wait(accepted map[string]bool) error {
	for line := range p.lines {
		accepted[line] = true
	}
	return p.cmd.Wait()
}

// program returns the path of a program that a test needs.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed, and nothing is skipped where CI is set", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// startMosquitto starts a server, and a client that watches it. seen waits until all that was accepted is seen, and returns what
// was. The witness is not mosquitto_sub, which ended now and then on a machine that was busy, with exit code 2, a protocol error
// (version 2.0.11).
func startMosquitto(t *testing.T) (url string, seen func(accepted map[string]bool) []string) {
	t.Helper()
	port := fmt.Sprint(freeport.Take(t))
	address := "127.0.0.1:" + port
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	check(t, os.WriteFile(config, fmt.Appendf(nil, "listener %s 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n"+
		"max_queued_messages 0\nmax_inflight_messages 0\n", port), 0o600))
	run(t, exec.Command(program(t, "mosquitto"), "-c", config))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	witness, err := mqtt.NewClient(ctx, "mqtt://"+address, mqtt.WithConnectRetry(), mqtt.WithClientID("witness"))
	check(t, err)
	t.Cleanup(func() { witness.Close() })
	sub, err := witness.Subscribe(ctx, "stored/+", mqtt.ExactlyOnce)
	check(t, err)
	var mu sync.Mutex
	var all []string
	go func() {
		for m := range sub.Messages() {
			mu.Lock()
			all = append(all, string(m.Payload))
			mu.Unlock()
		}
	}()
	return "mqtt://" + address, func(accepted map[string]bool) []string {
		for give := time.Now().Add(patience); time.Now().Before(give); time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			found := make(map[string]bool)
			for _, text := range all {
				found[text] = true
			}
			missing := 0
			for text := range accepted {
				if !found[text] {
					missing++
				}
			}
			mu.Unlock()
			if missing == 0 {
				break
			}
		}
		if n := witness.Stats().Losses; n > 0 {
			t.Errorf("the witness was away %d times", n)
		}
		time.Sleep(200 * time.Millisecond) // for what comes once more
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, all...)
	}
}

// run runs a program until the test is over. Should it end before, the test fails.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	check(t, cmd.Start())
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		err := cmd.Wait()
		select {
		case <-over:
		default:
			t.Errorf("%s has ended: %v", cmd.Path, err)
		}
	}()
	t.Cleanup(func() {
		close(over)
		cmd.Process.Kill()
		<-ended
	})
}
