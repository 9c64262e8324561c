//go:build unix

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
)

// To kill more: go test -run TestBridgeKilled -bridge-kills 300 -timeout 30m ./cmd/petrel
var bridgeKills = flag.Int("bridge-kills", 10, "how often TestBridgeKilled kills the bridge, with each version")

// keeper is a Mosquitto that keeps its sessions when it is stopped and started again.
type keeper struct {
	t    *testing.T
	port int
	path string // of its configuration file
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// startKeeper starts one whose queues have no bound. It is to have at most 20 messages in flight to the bridge, as it is
// installed, and any number to the witness: 2.0.11 has more than it is told to, and forgets that when it is stopped.
func startKeeper(t *testing.T, inFlight int) *keeper {
	t.Helper()
	folder := t.TempDir()
	k := &keeper{t: t, port: freeport.Take(t), path: filepath.Join(folder, "mosquitto.conf")}
	check(t, os.WriteFile(k.path, fmt.Appendf(nil, "listener %d 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n"+
		"persistence true\npersistence_location %s/\nmax_queued_messages 0\nmax_inflight_messages %d\n", k.port, folder, inFlight), 0o600))
	k.start()
	t.Cleanup(func() {
		k.cmd.Process.Kill()
		k.cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto said:\n%s", k.log.String())
		}
	})
	return k
}

func (k *keeper) start() {
	k.t.Helper()
	k.cmd = exec.Command(find(k.t, "mosquitto"), "-c", k.path)
	k.cmd.Stdout, k.cmd.Stderr = &k.log, &k.log
	check(k.t, k.cmd.Start())
	awaitListener(k.t, k.port)
}

// restart stops the server in order, which writes its sessions to the disk, and starts it again.
func (k *keeper) restart() {
	check(k.t, k.cmd.Process.Signal(syscall.SIGTERM))
	k.cmd.Wait()
	k.start()
}

func (k *keeper) address() string { return fmt.Sprint("127.0.0.1:", k.port) }

// cable is a TCP connection that can be cut.
type cable struct {
	to       string
	listener net.Listener

	mu    sync.Mutex // guards the fields below
	cut   bool
	conns map[net.Conn]bool
}

func newCable(t *testing.T, to string) *cable {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	c := &cable{to: to, listener: l, conns: map[net.Conn]bool{}}
	go c.accept()
	t.Cleanup(func() {
		l.Close()
		c.set(true)
	})
	return c
}

func (c *cable) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		go c.carry(conn)
	}
}

func (c *cable) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer far.Close()
	c.mu.Lock()
	if c.cut {
		c.mu.Unlock()
		return
	}
	c.conns[near], c.conns[far] = true, true
	c.mu.Unlock()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			io.Copy(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
	c.mu.Lock()
	delete(c.conns, near)
	delete(c.conns, far)
	c.mu.Unlock()
}

// set cuts the cable or mends it.
func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	for conn := range c.conns {
		if cut {
			conn.Close()
		}
	}
}

// bridged is a test with a bridge in a process of its own.
type bridged struct {
	t            *testing.T
	near, far    *keeper
	cable        *cable
	publisher    mqtt.ClientV5
	published    [3]int // by QoS
	flags        []string
	kills, stops int
	cuts         int

	mu   sync.Mutex // guards the fields below
	came map[string]int
	last [3]int
	bad  []string
}

func newBridged(t *testing.T, version string) *bridged {
	b := &bridged{t: t, near: startKeeper(t, 20), far: startKeeper(t, 1000), came: map[string]int{}}
	b.cable = newCable(t, b.far.address())
	b.flags = words("bridge --url mqtt://" + b.near.address() + " --to mqtt://" + b.cable.listener.Addr().String() + " -i bridge -t a/# --prefix out/" +
		" --store " + filepath.Join(t.TempDir(), "db") + " --reconnect-delay 0.05 --reconnect-max-interval 0.2 --state-topic state" +
		" -V " + version + " --to-protocol-version " + version)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	quick := mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 20 * time.Millisecond, MaxDelay: 200 * time.Millisecond})
	var err error
	b.publisher, err = mqtt.NewClient(ctx, "mqtt://"+b.near.address(), quick)
	check(t, err)
	t.Cleanup(func() { b.publisher.Close() })
	witness, err := mqtt.NewClient(ctx, "mqtt://"+b.far.address(), quick, mqtt.WithClientID("witness"), mqtt.WithCleanStart(false),
		mqtt.WithSessionExpiry(time.Hour))
	check(t, err)
	t.Cleanup(func() { witness.Close() })
	sub, err := witness.Subscribe(ctx, "out/#", mqtt.ExactlyOnce)
	check(t, err)
	go b.watch(sub)
	return b
}

// watch notes what comes to the second server.
func (b *bridged) watch(sub *mqtt.Subscription) {
	for m := range sub.Messages() {
		var qos, n int
		fmt.Sscanf(string(m.Payload), "%d:%d", &qos, &n)
		b.mu.Lock()
		first := b.came[string(m.Payload)] == 0
		b.came[string(m.Payload)]++
		if first && n < b.last[qos] || int(m.QoS) != qos {
			b.bad = append(b.bad, fmt.Sprintf("%s at %v behind %d", m.Payload, m.QoS, b.last[qos]))
		}
		b.last[qos] = max(b.last[qos], n)
		b.mu.Unlock()
	}
}

// publish publishes n messages on the first server.
func (b *bridged) publish(n int) {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	var all []*mqtt.Delivery
	for i := range n {
		qos := 1 + i%2
		b.published[qos]++
		all = append(all, b.publisher.PublishAsync(ctx, fmt.Sprint("a/", qos), fmt.Appendf(nil, "%d:%d", qos, b.published[qos]), mqtt.QoS(qos)))
	}
	for _, d := range all {
		if err := d.Wait(ctx); err != nil {
			b.t.Error(err)
		}
	}
}

// start starts the bridge. said reads what it has said.
func (b *bridged) start() (process *exec.Cmd, said func() string) {
	log, err := os.Create(filepath.Join(b.t.TempDir(), "log"))
	check(b.t, err)
	b.t.Cleanup(func() { log.Close() })
	process = exec.Command(os.Args[0], b.flags...)
	process.Env = append(os.Environ(), asProgram+"=1")
	process.Stderr = log
	check(b.t, process.Start())
	b.t.Cleanup(func() { process.Process.Kill() })
	return process, func() string {
		text, err := os.ReadFile(log.Name())
		check(b.t, err)
		return string(text)
	}
}

// subscribe lets a bridge begin its sessions.
func (b *bridged) subscribe() {
	b.t.Helper()
	process, said := b.start()
	for give := time.Now().Add(patience); time.Now().Before(give); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(said(), " forwarding ") {
			process.Process.Kill()
			process.Wait()
			return
		}
	}
	b.t.Fatalf("the bridge has not subscribed: %s", said())
}

// round lets the bridge work while messages come, the cable is cut and the second server is restarted, and kills it.
func (b *bridged) round() {
	b.t.Helper()
	process, _ := b.start()
	var others sync.WaitGroup
	others.Go(func() { b.publish(60) })
	if rand.IntN(3) == 0 {
		b.cuts++
		others.Go(func() {
			time.Sleep(rand.N(150 * time.Millisecond))
			b.cable.set(true)
			time.Sleep(rand.N(300 * time.Millisecond))
			b.cable.set(false)
		})
	}
	if rand.IntN(6) == 0 {
		b.stops++
		others.Go(b.far.restart)
	}
	time.Sleep(30*time.Millisecond + rand.N(350*time.Millisecond))
	process.Process.Kill()
	process.Wait()
	b.kills++
	others.Wait()
}

// missing returns how many messages have not come.
func (b *bridged) missing() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.published[1] + b.published[2] - len(b.came)
}

// A bridge is killed with SIGKILL at random moments, its cable is cut, and the second server is restarted: nothing is lost, nothing
// comes twice at QoS 2, and each topic stays in order.
func TestBridgeKilled(t *testing.T) {
	find(t, "mosquitto")
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			b := newBridged(t, version)
			b.subscribe()
			for range *bridgeKills {
				b.round()
			}
			b.finish()
		})
	}
}

// finish lets a last bridge do the rest, and end in order.
func (b *bridged) finish() {
	process, said := b.start()
	for give := time.Now().Add(patience); b.missing() > 0 && time.Now().Before(give); {
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Second) // for what comes once more
	check(b.t, process.Process.Signal(syscall.SIGTERM))
	if err := process.Wait(); err != nil || !strings.Contains(said(), "outstanding=0 dead_letters=0") {
		b.t.Errorf("the last bridge: %v\n%s", err, said())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	again := 0
	for payload, n := range b.came {
		if again += n - 1; n > 1 && payload[0] == '2' {
			b.t.Errorf("%s came %d times", payload, n)
		}
	}
	if lost := b.published[1] + b.published[2] - len(b.came); lost != 0 {
		b.t.Errorf("%d are lost", lost)
	}
	for _, bad := range b.bad {
		b.t.Error(bad)
	}
	b.t.Logf("%d kills, %d cuts, %d restarts of the server, %d messages, %d of them again at QoS 1", b.kills, b.cuts, b.stops, len(b.came), again)
}
