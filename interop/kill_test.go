package interop

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// kills is for every day. To look longer: go test -run TestKilledConsumer -kills 200 -timeout 20m ./interop
var kills = flag.Int("kills", 18, "how often TestKilledConsumer kills a consumer, in all")

// TestMain makes the test's program a process that a test can kill, where the environment says so.
func TestMain(m *testing.M) {
	var err error
	switch a := os.Args; {
	case os.Getenv("PETREL_CONSUMER") != "":
		err = consume(a[1], a[2], a[3], a[4], a[5])
	case os.Getenv("PETREL_DURABLE") != "":
		err = durableProcesses[os.Getenv("PETREL_DURABLE")](a[1], a[2], a[3], a[4])
	default:
		for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"} { // other clients ask them for the way to this machine too
			os.Unsetenv(name)
			os.Unsetenv(strings.ToLower(name))
		}
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "process of a test:", err)
		os.Exit(1)
	}
}

// consume is the consumer: it processes messages until SIGTERM ends it in order, or SIGKILL without.
func consume(form, version, url, id, path string) error {
	told, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	client, err := connectKept(version, url, id)
	if err != nil {
		return err
	}
	sub, err := client.Subscribe(context.Background(), id+"/+", mqtt.ExactlyOnce)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- forms[form](sub, diary{file}) }()
	select {
	case err := <-ended:
		return fmt.Errorf("the subscription ended: %w", err)
	case <-told.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(client.Drain(ctx), <-ended)
}

// connectKept connects a client whose session outlives it.
func connectKept(version, url, id string) (mqtt.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kept := mqtt.Options{mqtt.WithClientID(id), mqtt.WithCleanStart(false)}
	if version == "3.1.1" {
		return mqtt.NewClientV311(ctx, url, kept)
	}
	c, err := mqtt.NewClient(ctx, url, kept, mqtt.WithSessionExpiry(time.Hour))
	if err != nil {
		return nil, err
	}
	return mqtt.Common(c), nil
}

// forms are the bodies of a consumer, by the way of consuming. Each writes its record of a message before it returns.
var forms = map[string]func(*mqtt.Subscription, diary) error{
	"All": func(sub *mqtt.Subscription, d diary) error {
		for m, err := range sub.All(context.Background()) {
			if err != nil {
				return err
			}
			d.process(m)
		}
		return nil
	},
	"Batches": func(sub *mqtt.Subscription, d diary) error {
		for batch, err := range sub.Batches(context.Background(), 20, 5*time.Millisecond) {
			if err != nil {
				return err
			}
			d.process(batch...)
		}
		return nil
	},
	"Handle": func(sub *mqtt.Subscription, d diary) error {
		return sub.Handle(context.Background(), func(_ context.Context, m mqtt.Message) error {
			if rand.IntN(20) == 0 {
				return errors.New("not this time")
			}
			d.process(m)
			return nil
		}, mqtt.Workers(4), mqtt.RetryPolicy{Attempts: 100, InitialDelay: time.Millisecond, MaxDelay: 5 * time.Millisecond})
	},
	"Messages": func(sub *mqtt.Subscription, d diary) error {
		for m := range sub.Messages() {
			d.process(m)
		}
		return sub.Err()
	},
}

// diary is the record that a consumer keeps of its bodies: a line "+n" when that of message n has begun, "n" before it
// ends. A line that was written is in the file, also when the process is killed at once.
type diary struct{ file *os.File }

// process is the work of a body: most are done in no time, some take a few milliseconds.
func (d diary) process(messages ...mqtt.Message) {
	d.note("+", messages)
	for range messages {
		if rand.IntN(4) == 0 {
			time.Sleep(rand.N(4 * time.Millisecond))
		}
	}
	d.note("", messages)
}

func (d diary) note(prefix string, messages []mqtt.Message) {
	var lines []byte
	for _, m := range messages {
		lines = fmt.Appendf(lines, "%s%s\n", prefix, m.Payload)
	}
	if _, err := d.file.Write(lines); err != nil {
		panic(err)
	}
}

// A consumer is killed with SIGKILL at random moments, and started again. After each kill, what Mosquitto no longer has for
// its session, and so takes for acknowledged, is in the record of the bodies that were done. In the end that record has
// every message.
func TestKilledConsumer(t *testing.T) {
	server := startProofServer(t)
	ways := []string{"All", "Batches", "Handle"}
	cutShort := 0
	each := max(1, (*kills+2*len(ways)-1)/(2*len(ways)))
	for _, form := range ways {
		for _, v := range versions {
			t.Run(form+"/"+v.name, func(t *testing.T) {
				p := newProof(t, server, form, v.name)
				for range each {
					p.round()
				}
				p.finish()
				cutShort += p.cutShort
			})
		}
	}
	if cutShort == 0 {
		t.Error("no body was cut short: the test shows nothing")
	}
}

// The proof finds what it looks for: the channel acknowledges what enters it, and a killed consumer has lost that.
func TestKilledConsumerOfTheChannel(t *testing.T) {
	server := startProofServer(t)
	p := newProof(t, server, "Messages", "5.0")
	for range 50 {
		p.kill()
		if lost := p.lost(); len(lost) > 0 {
			t.Logf("lost: %d messages", len(lost))
			return
		}
	}
	t.Error("nothing is lost")
}

// startProofServer starts a Mosquitto that keeps its persistence file, as it is installed on most machines. It has any number of
// messages in flight to a client, so that askServer gets to know all of them without an acknowledgement: as it is installed it
// has 20, and a test would take the others for acknowledged.
func startProofServer(t *testing.T) *mosquitto {
	return persistent(t, "max_inflight_messages 0", unboundedQueues)
}

// proof is what a test knows of one session, and of the consumers that were killed with it.
type proof struct {
	t             *testing.T
	server        *mosquitto
	form, version string
	id            string
	folder        string // of the diaries, one for each process
	publisher     mqtt.ClientV5
	published     int // messages 0 to published-1
	processes     int
	done          map[int]int  // how often each message was processed
	pending       map[int]bool // what the server had for the session after the latest kill
	cutShort      int          // bodies that had begun and were not done when their process was killed
}

func newProof(t *testing.T, server *mosquitto, form, version string) *proof {
	p := &proof{
		t: t, server: server, form: form, version: version, folder: t.TempDir(),
		id: "killed-" + form + "-" + version, done: make(map[int]int),
	}
	session, err := connectKept(version, server.url(), p.id)
	check(t, err)
	_, err = session.Subscribe(within(t), p.id+"/+", mqtt.ExactlyOnce)
	check(t, err)
	check(t, session.Close())
	p.publisher, err = mqtt.NewClient(within(t), server.url())
	check(t, err)
	t.Cleanup(func() { p.publisher.Close() })
	return p
}

// backlog is how many messages a consumer may find. All of them are in flight at once where Mosquitto is asked what it has.
const backlog = 800

// round kills a consumer, and checks what the server has forgotten by then.
func (p *proof) round() {
	p.t.Helper()
	p.kill()
	if lost := p.lost(); len(lost) > 0 {
		p.t.Fatalf("kill %d: acknowledged before their bodies were done: %v", p.processes, lost)
	}
}

// kill starts a consumer, publishes while it works, and kills it: one time in four at any moment since its start, otherwise
// once it works.
func (p *proof) kill() {
	p.t.Helper()
	early := backlog/2 - len(p.pending)
	p.publish(early)
	c := p.start()
	if p.processes%4 > 0 {
		p.await(func() bool { begun, done := p.readDiary(p.processes); return len(begun)+len(done) > 0 })
	}
	live := make(chan struct{})
	go func() {
		defer close(live)
		p.publish(min(early, 0) + backlog/2)
	}()
	time.Sleep(rand.N(100 * time.Millisecond))
	check(p.t, c.Process.Kill())
	c.Wait()
	<-live
	p.look()
}

// publish publishes n messages at QoS 1 and 2, on some topics, and waits until the server has them.
func (p *proof) publish(n int) {
	ctx := within(p.t)
	var deliveries []*mqtt.Delivery
	for range n {
		topic := fmt.Sprintf("%s/%d", p.id, p.published%7)
		deliveries = append(deliveries, p.publisher.PublishAsync(ctx, topic, fmt.Append(nil, p.published), mqtt.QoS(1+p.published%2)))
		p.published++
	}
	for i, d := range deliveries {
		if err := d.Wait(ctx); err != nil {
			p.t.Errorf("message %d of %d: %v", i, n, err)
		}
	}
}

// start starts a consumer in a process of its own.
func (p *proof) start() *exec.Cmd {
	p.t.Helper()
	p.processes++
	c := exec.Command(os.Args[0], p.form, p.version, p.server.url(), p.id, p.path(p.processes))
	c.Env = append(os.Environ(), "PETREL_CONSUMER=1")
	c.Stderr = p.t.Output()
	check(p.t, c.Start())
	p.t.Cleanup(func() { c.Process.Kill() })
	return c
}

func (p *proof) path(process int) string { return filepath.Join(p.folder, strconv.Itoa(process)) }

// readDiary returns the messages whose bodies had begun, and those whose bodies were done, in a process. A last line that
// is not complete does not count.
func (p *proof) readDiary(process int) (begun, done []int) {
	text, err := os.ReadFile(p.path(process))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
	lines := bytes.Split(text, []byte("\n"))
	for _, line := range lines[:len(lines)-1] {
		number, isBegin := bytes.CutPrefix(line, []byte("+"))
		n, err := strconv.Atoi(string(number))
		check(p.t, err)
		if isBegin {
			begun = append(begun, n)
		} else {
			done = append(done, n)
		}
	}
	return begun, done
}

// look takes notice of what the killed process has done, and of what the server still has for the session.
func (p *proof) look() {
	p.t.Helper()
	begun, done := p.readDiary(p.processes)
	for _, n := range done {
		p.done[n]++
	}
	p.cutShort += len(begun) - len(done)
	p.pending = p.askServer()
}

// lost returns the messages that the server takes for acknowledged though no body is done with them.
func (p *proof) lost() (lost []int) {
	for n := range p.published {
		if !p.pending[n] && p.done[n] == 0 {
			lost = append(lost, n)
		}
	}
	return lost
}

// askServer connects with the session, acknowledges nothing, and returns what the server sends. A message at QoS 2 whose
// PUBREC the server has is acknowledged: of that it sends the PUBREL.
func (p *proof) askServer() map[int]bool {
	p.t.Helper()
	v, expiry := codec.V5, uint32(3600)
	connect := &codec.Connect{ClientID: p.id, Properties: codec.ConnectProperties{SessionExpiry: &expiry}}
	if p.version == "3.1.1" {
		v, connect.Properties = codec.V311, codec.ConnectProperties{}
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.server.port))
	check(p.t, err)
	defer conn.Close()
	check(p.t, conn.SetDeadline(time.Now().Add(patience)))
	packets, err := connect.Append(nil, v)
	check(p.t, err)
	packets, err = (&codec.Pingreq{}).Append(packets, v)
	check(p.t, err)
	_, err = conn.Write(packets)
	check(p.t, err)
	pending := make(map[int]bool)
	for {
		packet, err := codec.ReadPacket(conn, v, 0)
		check(p.t, err)
		switch packet := packet.(type) {
		case *codec.Connack:
			if !packet.SessionPresent {
				p.t.Fatal("the server has not kept the session")
			}
		case *codec.Publish:
			n, err := strconv.Atoi(string(packet.Payload))
			check(p.t, err)
			pending[n] = true
		case *codec.Pingresp: // Mosquitto answers it after it has sent what it has
			return pending
		}
	}
}

// finish lets a last consumer do the rest and end in order. Then every message was processed, and the server has none.
func (p *proof) finish() {
	p.t.Helper()
	c := p.start()
	if missing := p.awaitAll(); len(missing) > 0 {
		p.t.Fatalf("the last consumer has not processed %v", missing)
	}
	check(p.t, c.Process.Signal(syscall.SIGTERM))
	check(p.t, c.Wait())
	p.look()
	if len(p.pending) > 0 {
		p.t.Errorf("after Drain the server still has %v", slices.Sorted(maps.Keys(p.pending)))
	}
	again := 0
	for _, times := range p.done {
		again += times - 1
	}
	p.t.Logf("%d kills, %d messages, %d bodies cut short, %d processed again", p.processes-1, p.published, p.cutShort, again)
}

// awaitAll waits until the latest consumer has processed what is left, and returns what it has not.
func (p *proof) awaitAll() (missing []int) {
	p.await(func() bool { _, err := os.Stat(p.path(p.processes)); return err == nil })
	deadline := time.Now().Add(patience)
	for {
		_, done := p.readDiary(p.processes)
		missing = missing[:0]
		for n := range p.published {
			if p.done[n] == 0 && !slices.Contains(done, n) {
				missing = append(missing, n)
			}
		}
		if len(missing) == 0 || time.Now().After(deadline) {
			return missing
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// await waits until something is so.
func (p *proof) await(so func() bool) {
	p.t.Helper()
	for give := time.Now().Add(patience); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(give) {
			p.t.Fatalf("process %d has not got so far", p.processes)
		}
	}
}
