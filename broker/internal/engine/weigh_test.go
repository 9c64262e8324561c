//go:build !race

package engine

import (
	"fmt"
	"math"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// liveHeap returns the bytes of what is reachable, when everything has come to rest.
func liveHeap() int64 {
	for last := int64(0); ; {
		time.Sleep(20 * time.Millisecond)
		runtime.GC()
		runtime.GC() // for what is in pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		n := int64(m.HeapAlloc)
		if change := n - last; -n/1000 < change && change < n/1000 {
			return n
		}
		last = n
	}
}

// loads fill an engine, and are called before and for what is weighed.
var loads = []struct {
	name    string
	before  func(l *lab)
	weighed func(l *lab, size int) (n int)
}{
	{"queued for one session", func(l *lab) { l.absent(1, "t/#") }, func(l *lab, size int) int { return l.fill(size, 1, false) }},
	{"queued for ten sessions", func(l *lab) { l.absent(10, "t/#") }, func(l *lab, size int) int { return l.fill(size, 1, false) }},
	{"queued for one session, QoS 2", func(l *lab) { l.absent(1, "t/#") }, func(l *lab, size int) int { return l.fill(size, 2, false) }},
	{"waits in a group", func(l *lab) { l.absent(1, "$share/g/t/#") }, func(l *lab, size int) int { return l.fill(size, 1, false) }},
	{"in flight to ten clients", func(l *lab) { l.reading(10, "t/#") }, func(l *lab, size int) int { return l.fill(size, 1, false) }},
	{"retained", func(l *lab) {}, func(l *lab, size int) int { return l.fill(size, 1, true) }},
	{"sessions", func(l *lab) {}, func(l *lab, _ int) int { l.absent(2000, ""); return 2000 }},
	{"sessions with a subscription", func(l *lab) {}, func(l *lab, _ int) int { l.absent(2000, "sensors/building-%d/temperature"); return 2000 }},
	{"sessions with a shared subscription of their own", func(l *lab) {}, func(l *lab, _ int) int { l.absent(2000, "$share/g%d/t"); return 2000 }},
	{"sessions with the same subscription", func(l *lab) {}, func(l *lab, _ int) int { l.absent(2000, "sensors/+/temperature"); return 2000 }},
	{"sessions with the same shared subscription", func(l *lab) {}, func(l *lab, _ int) int { l.absent(2000, "$share/g/t"); return 2000 }},
}

// absent makes sessions that are kept, with a subscription each, and whose clients are away.
func (l *lab) absent(n int, filter string) {
	for i := range n {
		b, err := kept5(fmt.Sprint("absent ", i), true).Append(nil, codec.V5)
		if filter != "" && err == nil {
			f := strings.ReplaceAll(filter, "%d", strconv.Itoa(i))
			b, err = (&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: f, QoS: 2}}}).Append(b, codec.V5)
		}
		if err != nil {
			l.t.Fatal(err)
		}
		nc := &said{}
		nc.from.Reset(b)
		l.Serve(nc, Peer{Listener: "l", Connected: func() Client { return Client{Remote: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}} }})
	}
}

// reading makes clients that read, and acknowledge nothing.
func (l *lab) reading(n int, filter string) {
	for i := range n {
		p := l.client(fmt.Sprint("reading ", i))
		p.subscribe(2, filter)
		go func() {
			for range p.packets {
			}
		}()
	}
}

// fill publishes messages, each to a topic of its own.
func (l *lab) fill(size int, qos byte, retain bool) int {
	const batch = 100
	n := min(2000, 20_000_000/(size+100)/batch*batch)
	pub := l.client("publisher")
	for i := 0; i < n; i += batch {
		for j := range batch {
			p := &codec.Publish{Topic: fmt.Sprintf("t/%d/%d", j, i), QoS: qos, PacketID: uint16(j + 1), Retain: retain, Payload: make([]byte, size)}
			pub.send(p)
		}
		for j := range batch {
			<-pub.packets
			if qos == 2 {
				pub.send(&codec.Pubrel{PacketID: uint16(j + 1)})
				<-pub.packets
			}
		}
	}
	pub.send(&codec.Disconnect{})
	<-pub.packets
	return n
}

// What max-memory counts is what is really taken, to within a third.
func TestCountedMemory(t *testing.T) {
	for _, load := range loads {
		for _, size := range []int{100, 10_000} {
			if size > 100 && strings.HasPrefix(load.name, "sessions") {
				continue // they have no messages
			}
			for _, stored := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %d bytes, stored %v", load.name, size, stored), func(t *testing.T) {
					l := newLab(t, func(c *Config) {
						c.MaxQueuedMessages, c.MaxQueuedBytes, c.MaxMemory = math.MaxInt32, math.MaxInt, math.MaxInt
						if stored {
							c.Store = memoryless{}
						}
					})
					load.before(l)
					before, counted := liveHeap(), l.memory.Load()
					n := int64(load.weighed(l, size))
					taken, counted := liveHeap()-before, l.memory.Load()-counted
					t.Logf("each takes %d bytes, and counts for %d", taken/n, counted/n)
					if ratio := float64(taken) / float64(counted); ratio < 0.66 || ratio > 1.33 {
						t.Errorf("%.2f times what is counted", ratio)
					}
					l.end()
				})
			}
		}
	}
}
