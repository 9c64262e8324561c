package broker

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
)

var killFor = flag.Duration("kill-for", 3*time.Second, "how long TestWitness ends the broker again and again")

// witnessed is what the witnesses have received: by topic, numbers that begin with 0.
type witnessed struct {
	mu    sync.Mutex // guards the fields below
	next  map[string]int
	twice int
	wrong []string
}

// read takes lines of a topic and a number. The first character of a topic is its QoS.
func (w *witnessed) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var topic string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &topic, &n); err == nil {
			w.see(topic, n)
		}
	}
}

// follow takes the messages of a subscription until it ends.
func (w *witnessed) follow(sub *mqtt.Subscription) {
	for m, err := range sub.All(context.Background()) {
		if n, wrong := strconv.Atoi(string(m.Payload)); err == nil && wrong == nil {
			w.see(m.Topic, n)
		}
	}
}

func (w *witnessed) see(topic string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch next := w.next[topic]; {
	case n == next:
		w.next[topic]++
	case n < next && topic[0] == '1':
		w.twice++ // QoS 1 may
	default:
		w.wrong = append(w.wrong, fmt.Sprintf("%s: %d instead of %d", topic, n, next))
	}
}

// has reports whether so many numbers of each publisher were seen.
func (w *witnessed) has(want []int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, n := range want {
		if w.next[witnessTopic(i)] < n {
			return false
		}
	}
	return true
}

// witnessTopic is the topic of a publisher; every second one publishes at QoS 2.
func witnessTopic(i int) string { return fmt.Sprintf("%d/%d", 1+i%2, i) }

// The witnesses see everything that the broker has acknowledged while it is stopped or killed again and again under load: at
// QoS 2 once, and in order. At QoS 1 the witness is a program of another project. At QoS 2 that program cannot be: where a
// PUBLISH comes again before its PUBREL, mosquitto_sub 2.0.11 keeps it twice, and PUBREL releases one. The other one is what
// it takes the next message with that identifier for.
func TestWitness(t *testing.T) {
	t.Parallel()
	program := find(t, "mosquitto_sub")
	file := t.TempDir() + "/petrel.db"
	v := startVictim(t, file, fmt.Sprint("127.0.0.1:", freeport.Take(t))) // it comes back there
	host, port, err := net.SplitHostPort(v.addr)
	check(t, err)
	sub := exec.Command(program, "-h", host, "-p", port, "-V", "mqttv311", "-c", "-i", "witness", "-q", "1", "-t", "1/#", "-F", "%t %p")
	out, err := sub.StdoutPipe()
	check(t, err)
	check(t, sub.Start())
	t.Cleanup(func() {
		sub.Process.Kill()
		sub.Wait()
	})
	w := &witnessed{next: map[string]int{}}
	go w.read(out)
	once, err := joinVictim(t, v.addr, "witness at QoS 2").Subscribe(t.Context(), "2/#", mqtt.ExactlyOnce)
	check(t, err)
	go w.follow(once)
	probe := joinVictim(t, v.addr, "probe")
	for !w.has([]int{1}) { // it has subscribed: this is the first number of the first publisher
		check(t, probe.Publish(t.Context(), witnessTopic(0), []byte("0"), mqtt.AtLeastOnce))
		time.Sleep(20 * time.Millisecond)
	}

	const publishers = 8
	over := make(chan struct{})
	var running sync.WaitGroup
	acknowledged := make([]int, publishers)
	for i := range publishers {
		c := joinVictim(t, v.addr, strconv.Itoa(i))
		running.Go(func() {
			acknowledged[i] = w.numbers(t, c, i, over)
		})
	}
	lives := 1
	for end := time.Now().Add(*killFor); time.Now().Before(end); lives++ {
		time.Sleep(time.Duration(200+rand.IntN(800)) * time.Millisecond)
		v.end(lives%2 == 0)
		v.Wait()
		v = startVictim(t, file, v.addr)
	}
	close(over)
	running.Wait()
	for end := time.Now().Add(patience); !w.has(acknowledged) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, n := range acknowledged {
		if got := w.next[witnessTopic(i)]; got < n {
			t.Errorf("%s: %d were acknowledged, %d have come", witnessTopic(i), n, got)
		}
	}
	for _, wrong := range w.wrong {
		t.Error(wrong)
	}
	sum := 0
	for _, n := range acknowledged {
		sum += n
	}
	t.Logf("%d messages in %d lives, %d at QoS 1 came twice", sum, lives, w.twice)
}

// joinVictim connects a client whose session is kept, and that connects again as soon as it can.
func joinVictim(t *testing.T, addr, id string) mqtt.ClientV5 {
	t.Helper()
	c, err := mqtt.NewClient(within(t), addr, mqtt.WithClientID(id), mqtt.WithSessionExpiry(time.Hour),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond}))
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// behindBound is how far the witness may be behind a publisher.
const behindBound = 1000

// seen returns how many numbers of a topic have come.
func (w *witnessed) seen(topic string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next[topic]
}

// numbers publishes numbers, 20 at a time, until it is over. It returns how many were acknowledged, which is all of them.
func (w *witnessed) numbers(t *testing.T, c mqtt.ClientV5, publisher int, over <-chan struct{}) (n int) {
	topic, qos := witnessTopic(publisher), mqtt.QoS(1+publisher%2)
	n = w.seen(topic) // the first one of the first publisher came before
	for {
		var batch []*mqtt.Delivery
		for range 20 {
			batch = append(batch, c.PublishAsync(context.Background(), topic, strconv.AppendInt(nil, int64(n+len(batch)), 10), qos))
		}
		for _, d := range batch {
			if err := d.Wait(t.Context()); err != nil {
				t.Errorf("%s: %v", topic, err)
				return n
			}
			n++
		}
		for n-w.seen(topic) > behindBound {
			select {
			case <-over:
				return n
			case <-time.After(time.Millisecond):
			}
		}
		select {
		case <-over:
			return n
		default:
		}
	}
}
