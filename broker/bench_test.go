package broker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// The benchmarks run the broker as a process of its own, and report the CPU time of that process: us-cpu/msg is for each
// message that goes out, or in where nobody subscribes. BENCH_MOSQUITTO=1 runs the same against Mosquitto. They need Linux.
//
//	go test -run - -bench Broker -benchtime 1x ./broker

// TestMain turns the test's program into a broker when a benchmark wants one.
func TestMain(m *testing.M) {
	if os.Getenv("PETREL_BENCH") != "" {
		benchBroker()
		return
	}
	os.Exit(m.Run())
}

// benchBroker runs a broker, tells its address, answers each line with what it takes, and ends with its standard input.
func benchBroker() {
	c := onLoopback()
	if addr := os.Getenv("PETREL_BENCH_ADDR"); addr != "" {
		c.Listeners[0].Bind = addr
	}
	c.SysInterval = 0
	if os.Getenv("PETREL_BENCH_BOUNDED") == "" {
		c.MaxQueuedMessages, c.MaxQueuedBytes, c.MaxMemory = 1_000_000, 1<<30, math.MaxInt // an absent session keeps all
	}
	c.PersistenceFile = os.Getenv("PETREL_BENCH_FILE")
	b, err := New(c)
	if err == nil {
		err = b.Start(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(b.Addr("default"))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		json.NewEncoder(os.Stdout).Encode(takenBy(b))
	}
	b.Shutdown(context.Background())
}

// server is a broker that is measured.
type server struct {
	b    *testing.B
	addr string
	pid  int
}

func startServer(b *testing.B, stored bool) *server {
	b.Helper()
	if os.Getenv("BENCH_MOSQUITTO") != "" {
		return startMosquitto(b)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PETREL_BENCH=1")
	if stored {
		cmd.Env = append(cmd.Env, "PETREL_BENCH_FILE="+filepath.Join(b.TempDir(), "petrel.db"))
	}
	out, err := cmd.StdoutPipe()
	must(b, err)
	in, err := cmd.StdinPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	addr, err := bufio.NewReader(out).ReadString('\n')
	must(b, err)
	return &server{b, strings.TrimSpace(addr), cmd.Process.Pid}
}

func startMosquitto(b *testing.B) *server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(b.TempDir(), "conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n", port)
	must(b, os.WriteFile(config, []byte(text), 0o600))
	cmd := exec.Command("mosquitto", "-c", config)
	must(b, cmd.Start())
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	return &server{b, addr, cmd.Process.Pid}
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// stat returns a field of /proc/PID/stat, counted as its manual page does.
func (s *server) stat(field int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	must(s.b, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	n, err := strconv.Atoi(fields[field-3])
	must(s.b, err)
	return n
}

// cpu returns the CPU time of the process. The kernel counts in hundredths of a second.
func (s *server) cpu() time.Duration {
	return time.Duration(s.stat(14)+s.stat(15)) * 10 * time.Millisecond
}

// report measures the server while f runs, for so many messages.
func (s *server) report(messages int, f func()) {
	before, began := s.cpu(), time.Now()
	f()
	took, used := time.Since(began), s.cpu()-before
	s.b.ReportMetric(float64(used.Nanoseconds())/1000/float64(messages), "us-cpu/msg")
	s.b.ReportMetric(float64(messages)/took.Seconds(), "msg/s")
	s.b.ReportMetric(0, "ns/op")
}

// benchClient is one end of the load.
type benchClient struct {
	b    *testing.B
	conn net.Conn
	in   *bufio.Reader
}

func (s *server) client(id string, kept bool) *benchClient {
	conn, err := net.Dial("tcp", s.addr)
	must(s.b, err)
	s.b.Cleanup(func() { conn.Close() })
	c := &benchClient{s.b, conn, bufio.NewReaderSize(conn, 64<<10)}
	connect := &codec.Connect{ClientID: id, CleanStart: true, KeepAlive: 600}
	if kept {
		connect.Properties.SessionExpiry = uint32p(3600)
	}
	c.send(connect)
	c.expect(codec.CONNACK)
	return c
}

func (c *benchClient) send(p codec.Packet) {
	packet, err := p.Append(nil, codec.V5)
	must(c.b, err)
	c.write(packet)
}

func (c *benchClient) write(packet []byte) {
	if _, err := c.conn.Write(packet); err != nil && !errors.Is(err, net.ErrClosed) {
		c.b.Error(err)
	}
}

// next reads one packet, and returns its type and what follows the header, which is good until the next call.
func (c *benchClient) next() (codec.Header, []byte) {
	for n := 2; ; n++ {
		b, err := c.in.Peek(n)
		if err != nil {
			return codec.Header{}, nil
		}
		h, size, err := codec.ParseHeader(b, codec.V5)
		must(c.b, err)
		if size == 0 {
			continue
		}
		body, err := c.in.Peek(size + h.Length)
		if err != nil {
			return codec.Header{}, nil
		}
		c.in.Discard(size + h.Length)
		return h, body[size:]
	}
}

func (c *benchClient) expect(t codec.Type) {
	if h, _ := c.next(); h.Type != t {
		c.b.Fatalf("got %v, want %v", h.Type, t)
	}
}

func (c *benchClient) subscribe(filter string, qos byte) {
	c.send(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: filter, QoS: qos}}})
	c.expect(codec.SUBACK)
}

// take reads so many messages, and acknowledges those at QoS 1 when nothing more is there.
func (c *benchClient) take(n int) {
	var acks []byte
	for n > 0 {
		h, body := c.next()
		if h.Type == 0 {
			return
		}
		if h.Type != codec.PUBLISH {
			continue
		}
		n--
		if h.Flags&6 != 0 {
			at := 2 + (int(body[0])<<8 | int(body[1]))
			acks = append(acks, 0x40, 2, body[at], body[at+1])
		}
		if len(acks) > 0 && (c.in.Buffered() == 0 || len(acks) > 4000) {
			c.write(acks)
			acks = acks[:0]
		}
	}
	c.write(acks)
}

// publish publishes n messages of 64 bytes, with at most so many at QoS 1 in flight; with QoS 0 it ends when the server has
// read them.
func (c *benchClient) publish(topic string, qos byte, n, window int) {
	payload := make([]byte, 64)
	if qos == 0 {
		var batch []byte
		for i := range n {
			batch, _ = codec.AppendPlainPublish(batch, 0, topic, 0, payload, codec.V5)
			if len(batch) > 16<<10 || i == n-1 {
				c.write(batch)
				batch = batch[:0]
			}
		}
		c.send(&codec.Pingreq{})
		for h, _ := c.next(); h.Type != codec.PINGRESP && h.Type != 0; h, _ = c.next() {
		}
		return
	}
	var batch []byte
	sent, acked := 0, 0
	for acked < n {
		for sent < n && sent-acked < window {
			sent++
			batch, _ = codec.AppendPlainPublish(batch, codec.PublishFlags(false, 1, false), topic, uint16(sent%60_000+1), payload, codec.V5)
		}
		if len(batch) > 0 {
			c.write(batch)
			batch = batch[:0]
		}
		for first := true; first || c.in.Buffered() > 0 && acked < n; first = false {
			if h, _ := c.next(); h.Type == 0 {
				return
			}
			acked++
		}
	}
}

// fan measures publishers and subscribers of one topic.
func fan(publishers, subscribers int, qos byte, n int) func(*testing.B) {
	return func(b *testing.B) {
		s := startServer(b, false)
		var pubs []*benchClient
		for i := range publishers {
			pubs = append(pubs, s.client(fmt.Sprint("p", i), false))
		}
		var reading, publishing sync.WaitGroup
		var got atomic.Int64
		for i := range subscribers {
			sub := s.client(fmt.Sprint("s", i), false)
			sub.subscribe("bench/topic", qos)
			reading.Go(func() {
				for range n {
					sub.take(1)
					got.Add(1)
				}
			})
		}
		s.report(n*max(subscribers, 1), func() {
			for _, p := range pubs {
				publishing.Go(func() { // in portions, so that nothing is dropped
					portion := max(1, 2000/publishers)
					for sent := 0; sent < n/publishers; sent += portion {
						for subscribers > 0 && int64(sent*publishers*subscribers)-got.Load() > 4000*int64(subscribers) {
							<-time.After(time.Millisecond)
						}
						p.publish("bench/topic", qos, min(portion, n/publishers-sent), 1000)
					}
				})
			}
			publishing.Wait()
			reading.Wait()
		})
	}
}

// synced measures acknowledgements of messages that are kept for an absent session.
func synced(publishers, window, n int) func(*testing.B) {
	return func(b *testing.B) {
		s := startServer(b, true)
		away := s.client("away", true)
		away.subscribe("bench/topic", 1)
		away.conn.Close()
		var pubs []*benchClient
		for i := range publishers {
			pubs = append(pubs, s.client(fmt.Sprint("p", i), false))
		}
		var publishing sync.WaitGroup
		s.report(n, func() {
			for _, p := range pubs {
				publishing.Go(func() { p.publish("bench/topic", 1, n/publishers, window) })
			}
			publishing.Wait()
		})
	}
}

// pairs measures single messages: pairs of a publisher and a subscriber, so many messages a second in all.
func pairs(n, rate int, qos byte) func(*testing.B) {
	return func(b *testing.B) {
		s := startServer(b, false)
		const seconds = 4
		each := rate * seconds / n
		interval := time.Duration(n) * time.Second / time.Duration(rate)
		var pubs []*benchClient
		var running sync.WaitGroup
		for i := range n {
			topic := fmt.Sprint("pair/", i)
			sub := s.client(fmt.Sprint("s", i), false)
			sub.subscribe(topic, qos)
			running.Go(func() { sub.take(each) })
			pubs = append(pubs, s.client(fmt.Sprint("p", i), false))
		}
		s.report(each*n, func() {
			for i, p := range pubs {
				running.Go(func() {
					packet, _ := codec.AppendPlainPublish(nil, codec.PublishFlags(false, qos, false), fmt.Sprint("pair/", i), uint16(qos), make([]byte, 64), codec.V5)
					tick := time.NewTicker(interval)
					defer tick.Stop()
					for range each {
						<-tick.C
						if p.write(packet); qos > 0 {
							p.expect(codec.PUBACK)
						}
					}
				})
			}
			running.Wait()
		})
	}
}

func BenchmarkBroker(b *testing.B) {
	b.Run("publish QoS 0, nobody", fan(1, 0, 0, 2_000_000))
	b.Run("1 to 1, QoS 0", fan(1, 1, 0, 1_000_000))
	b.Run("1 to 1, QoS 1", fan(1, 1, 1, 400_000))
	b.Run("1 to 100, QoS 0", fan(1, 100, 0, 40_000))
	b.Run("1 to 100, QoS 1", fan(1, 100, 1, 20_000))
	b.Run("100 to 1, QoS 0", fan(100, 1, 0, 400_000))
	b.Run("50 pairs at 2,000/s, QoS 0", pairs(50, 2000, 0))
	b.Run("50 pairs at 2,000/s, QoS 1", pairs(50, 2000, 1))
	b.Run("50 pairs at 10,000/s, QoS 0", pairs(50, 10_000, 0))
	b.Run("50 pairs at 10,000/s, QoS 1", pairs(50, 10_000, 1))
	b.Run("20,000 topics", func(b *testing.B) {
		s := startServer(b, false)
		sub := s.client("s", false)
		sub.subscribe("bench/+/x", 0)
		p := s.client("p", false)
		const n = 200_000
		go sub.take(n) // as many as come
		s.report(n, func() {
			var batch []byte
			for i := range n {
				batch, _ = codec.AppendPlainPublish(batch, 0, fmt.Sprintf("bench/%d/x", i%20_000), 0, make([]byte, 64), codec.V5)
				if len(batch) > 16<<10 {
					p.write(batch)
					batch = batch[:0]
				}
			}
			p.write(batch)
			p.publish("end", 0, 1, 1)
		})
	})
	b.Run("CONNECT and SUBSCRIBE", func(b *testing.B) {
		s := startServer(b, false)
		const n = 2000
		s.report(n, func() {
			for i := range n {
				c := s.client(fmt.Sprint("c", i), false)
				c.subscribe(fmt.Sprint("t/", i), 1)
				c.conn.Close()
			}
		})
	})
	b.Run("idle", func(b *testing.B) {
		s := startServer(b, false)
		const n = 3000
		before := s.stat(24)
		for i := range n {
			s.client(fmt.Sprint("c", i), false).subscribe(fmt.Sprint("t/", i), 1)
		}
		<-time.After(3 * time.Second)
		b.ReportMetric(float64(s.stat(24)-before)*4/n, "KiB/client")
	})
	b.Run("retained", func(b *testing.B) {
		s := startServer(b, false)
		const n = 100_000
		p := s.client("p", false)
		before := s.stat(24)
		s.report(n, func() {
			for i := range n {
				p.send(&codec.Publish{Topic: fmt.Sprintf("r/%d/%d", i%100, i), Retain: true, Payload: make([]byte, 64)})
			}
			p.publish("end", 0, 1, 1)
		})
		b.ReportMetric(float64(s.stat(24)-before)*4096/n, "bytes/retained")
		sub := s.client("s", false)
		began := time.Now()
		sub.subscribe("r/#", 0)
		sub.take(n)
		b.ReportMetric(time.Since(began).Seconds(), "s-to-subscribe")
	})
	for _, c := range []struct{ publishers, window, n int }{{1, 1, 2000}, {16, 1, 20_000}, {64, 1, 40_000}, {16, 100, 200_000}} {
		b.Run(fmt.Sprintf("synced, %d x %d", c.publishers, c.window), synced(c.publishers, c.window, c.n))
	}
}
