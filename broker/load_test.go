package broker

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// The tests of this file put load on a broker in a process of its own. Without flags they are short.
var (
	stalledClients = flag.Int("stalled", 20, "how many clients of TestStalledBesideLive never read")
	liveClients    = flag.Int("live", 100, "how many clients of TestStalledBesideLive do")
	manyClients    = flag.Int("connections", 300, "how many clients TestManyConnections has")
	loadFor        = flag.Duration("load-for", time.Second, "how long TestStalledBesideLive, TestManyConnections and TestSlowReader last")
)

// startBounded starts a broker with the bounds of the default configuration.
func startBounded(t *testing.T) *victim {
	t.Setenv("PETREL_BENCH_BOUNDED", "1")
	return startVictim(t, "", "")
}

// rss returns the resident memory of the process, in MiB. It is 0 where there is no /proc.
func (v *victim) rss() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", v.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize() >> 20
}

// load connects a client, and returns a reader of what comes after CONNACK.
func (v *victim) load(id string, filter string) (net.Conn, *bufio.Reader, error) {
	c, err := net.Dial("tcp", v.addr)
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReaderSize(c, 512)
	send := func(p codec.Packet) error {
		b, err := p.Append(nil, codec.V5)
		if err == nil {
			_, err = c.Write(b)
		}
		if err == nil {
			_, err = codec.ReadPacket(in, codec.V5, 0)
		}
		return err
	}
	if err = send(&codec.Connect{CleanStart: true, ClientID: id, KeepAlive: 600}); err == nil && filter != "" {
		err = send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: filter}}})
	}
	if err != nil {
		c.Close()
	}
	return c, in, err
}

// latencies publishes single messages at QoS 1 until the time is over, and returns how long each took, in order of size.
func (v *victim) latencies(t *testing.T, topic string, payload int, interval time.Duration) (took []time.Duration) {
	c, in, err := v.load("publisher", "")
	check(t, err)
	defer c.Close()
	packet, err := (&codec.Publish{Topic: topic, QoS: 1, PacketID: 1, Payload: make([]byte, payload)}).Append(nil, codec.V5)
	check(t, err)
	for end := time.Now().Add(*loadFor); time.Now().Before(end); time.Sleep(interval) {
		began := time.Now()
		_, err := c.Write(packet)
		check(t, err)
		_, err = codec.ReadPacket(in, codec.V5, 0)
		check(t, err)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}

// summary is the middle and the end of sorted times.
func summary(took []time.Duration) string {
	n := len(took)
	return fmt.Sprintf("%d publishes, median %v, 99 %% %v, slowest %v", n, took[n/2], took[n*99/100], took[n-1])
}

// tally counts bytes that were read.
type tally struct{ atomic.Int64 }

func (n *tally) Write(p []byte) (int, error) {
	n.Add(int64(len(p)))
	return len(p), nil
}

// slow is what no publish takes that nobody holds up, on a machine that is busy.
const slow = patience / 4

// Clients that never read slow neither publishers nor those that do, and the memory that they cost is bounded.
func TestStalledBesideLive(t *testing.T) {
	v := startBounded(t)
	var reading sync.WaitGroup
	var received tally
	for i := range *stalledClients + *liveClients {
		c, in, err := v.load(fmt.Sprint(i), "load")
		check(t, err)
		defer c.Close()
		if i < *stalledClients {
			continue
		}
		reading.Go(func() { io.Copy(&received, in) })
	}
	before := v.rss()
	took := v.latencies(t, "load", 8<<10, 20*time.Millisecond)
	after := v.rss()
	want := int64(len(took)) * int64(*liveClients) * (8 << 10)
	await(t, "end of what is for those who read", func() bool { return received.Load() >= want })
	v.end(false)
	reading.Wait()
	t.Logf("%d stalled, %d live: %s; %d MiB before, %d MiB after, %d MiB received", *stalledClients, *liveClients, summary(took), before, after, received.Load()>>20)
	if p99 := took[len(took)*99/100]; p99 > slow {
		t.Errorf("a publish took %v", p99)
	}
	if after > 700 { // max-memory is 512 MiB
		t.Errorf("%d MiB", after)
	}
}

// A tenth of very many clients connects again every second, and others do not notice.
func TestManyConnections(t *testing.T) {
	v := startBounded(t)
	all := make([]net.Conn, *manyClients)
	connect := func(i int) {
		c, _, err := v.load(fmt.Sprint(i), fmt.Sprint("own/", i))
		check(t, err)
		all[i] = c
	}
	began := time.Now()
	for i := range all {
		connect(i)
	}
	connected, memory := time.Since(began), v.rss()
	over := make(chan struct{})
	var moving sync.WaitGroup
	moved := 0
	moving.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(max(1, len(all)/10)))
		defer tick.Stop()
		for i := 0; ; i = (i + 1) % len(all) {
			select {
			case <-over:
				return
			case <-tick.C:
				all[i].Close()
				connect(i)
				moved++
			}
		}
	})
	took := v.latencies(t, "own/7", 64, 10*time.Millisecond)
	close(over)
	moving.Wait()
	t.Logf("%d connected in %v, %d MiB; %d connected again in %v, %d MiB; %s", len(all), connected.Round(time.Millisecond), memory, moved, *loadFor, v.rss(), summary(took))
	for _, c := range all {
		c.Close()
	}
	if p99 := took[len(took)*99/100]; p99 > slow {
		t.Errorf("a publish took %v", p99)
	}
}

// A client that reads 1 KB a second costs no more memory than the bounds say, however much is published for it.
func TestSlowReader(t *testing.T) {
	v := startBounded(t)
	reader, in, err := v.load("slow", "flood")
	check(t, err)
	defer reader.Close()
	before := v.rss()
	over := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				if _, err := io.CopyN(io.Discard, in, 100); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	var batch []byte
	for range 64 {
		batch, err = (&codec.Publish{Topic: "flood", Payload: make([]byte, 1000)}).Append(batch, codec.V5)
		check(t, err)
	}
	pub, _, err := v.load("flood", "")
	check(t, err)
	defer pub.Close()
	messages, most := 0, 0
	for end := time.Now().Add(*loadFor); time.Now().Before(end); messages += 64 {
		_, err := pub.Write(batch)
		check(t, err)
		if messages%6400 == 0 {
			most = max(most, v.rss())
		}
	}
	close(over)
	running.Wait()
	t.Logf("%d messages of 1 KB in %v; %d MiB before, %d MiB at most", messages, *loadFor, before, most)
	if most > before+100 {
		t.Errorf("%d MiB", most)
	}
}
