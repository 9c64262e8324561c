package broker

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

var soakFor = flag.Duration("soak-for", 2*time.Second, "how long TestSoak lasts")

// taken is what a broker takes of its process.
type taken struct {
	Goroutines            int
	Heap                  int64 // bytes, after a collection
	Memory                int64 // bytes that max-memory counts
	Sessions, Connected   int64
	Subscriptions, Stored int64
}

func takenBy(b *Broker) taken {
	runtime.GC()
	runtime.GC() // what is in pools goes with the second one
	s := b.engine.Stats()
	return taken{runtime.NumGoroutine(), heap(), s.Memory, s.Sessions, s.Connected, s.Subscriptions + s.SharedSubscriptions, s.Stored}
}

// taken asks the process.
func (v *victim) taken(t *testing.T) (now taken) {
	t.Helper()
	_, err := io.WriteString(v.in, "\n")
	check(t, err)
	line, err := v.out.ReadBytes('\n')
	check(t, err)
	check(t, json.Unmarshal(line, &now))
	return now
}

const (
	strayClients = 40 // client identifiers of clients that come and go
	strayTopics  = 100
)

// stray is a client that comes and goes, and keeps few rules.
type stray struct {
	*rand.Rand
	addr    string
	version codec.Version
	conn    net.Conn
}

// live is one connection. Its errors are of no interest.
func (s *stray) live() {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return
	}
	defer conn.Close()
	s.conn = conn
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	s.version = []codec.Version{codec.V5, codec.V311}[s.IntN(2)]
	connect := &codec.Connect{Version: s.version, ClientID: fmt.Sprint("stray ", s.IntN(strayClients)), CleanStart: s.IntN(2) == 0, KeepAlive: uint16(1 + s.IntN(3))}
	if s.IntN(2) == 0 {
		connect.Will = &codec.Will{Topic: s.topic(), Payload: []byte("will"), QoS: byte(s.IntN(3)), Retain: s.IntN(2) == 0}
	}
	if s.version == codec.V5 {
		expiry := uint32(s.IntN(3))
		connect.Properties = codec.ConnectProperties{SessionExpiry: &expiry, ReceiveMaximum: uint16(1 + s.IntN(20)), TopicAliasMaximum: uint16(s.IntN(10))}
		if connect.Will != nil {
			connect.Will.Properties.WillDelay = time.Duration(s.IntN(3)) * time.Second
		}
	}
	s.write(connect)
	for range s.IntN(4) {
		s.act()
	}
	if s.IntN(4) > 0 { // others never read
		s.listen(time.Duration(s.IntN(100)) * time.Millisecond)
	}
	switch s.IntN(4) {
	case 0:
		s.write(&codec.Disconnect{})
	case 1:
		conn.Write([]byte{0x82, 6, 0, 1, 0, 0, 1, 'a'}) // SUBSCRIBE without its options
	case 2:
		conn.Write([]byte{0x32, 200, 10, 0}) // the beginning of a PUBLISH
	}
}

// topic is one of those that strays publish to.
func (s *stray) topic() string { return fmt.Sprint("stray/", s.IntN(strayTopics)) }

// act does one thing that a client does.
func (s *stray) act() {
	switch s.IntN(4) {
	case 0:
		filter := []string{"stray/+", s.topic(), "$share/a/stray/#", "$share/b/stray/+", "+/7"}[s.IntN(5)]
		s.write(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: filter, QoS: byte(s.IntN(3))}}})
	case 1:
		s.write(&codec.Unsubscribe{PacketID: 2, Filters: []string{"stray/+", "$share/a/stray/#"}})
	default:
		for i := range s.IntN(30) {
			p := &codec.Publish{Topic: s.topic(), QoS: byte(s.IntN(3)), Retain: s.IntN(4) == 0, Payload: make([]byte, s.IntN(2000))}
			if p.QoS > 0 {
				p.PacketID = uint16(10 + i)
			}
			if s.version == codec.V5 && s.IntN(2) == 0 {
				p.Properties.MessageExpiry = time.Second
			}
			s.write(p)
		}
	}
}

// listen answers what comes.
func (s *stray) listen(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		s.conn.SetReadDeadline(end)
		packet, err := codec.ReadPacket(s.conn, s.version, 0)
		if err != nil {
			break
		}
		switch p := packet.(type) {
		case *codec.Publish:
			if p.QoS == 1 && s.IntN(4) > 0 {
				s.write(&codec.Puback{PacketID: p.PacketID})
			} else if p.QoS == 2 {
				s.write(&codec.Pubrec{PacketID: p.PacketID})
			}
		case *codec.Pubrec:
			s.write(&codec.Pubrel{PacketID: p.PacketID})
		case *codec.Pubrel:
			s.write(&codec.Pubcomp{PacketID: p.PacketID})
		}
	}
	s.conn.SetDeadline(time.Now().Add(time.Second))
}

func (s *stray) write(p codec.Packet) {
	if b, err := p.Append(nil, s.version); err == nil {
		s.conn.Write(b)
	}
}

// tidy ends the sessions that strays have left, and removes their retained messages.
func tidy(t *testing.T, v *victim) {
	for i := range strayClients {
		p, _ := v.join(t, &codec.Connect{CleanStart: true, ClientID: fmt.Sprint("stray ", i)})
		p.send(&codec.Disconnect{})
		p.ended()
	}
	p, _ := v.join(t, &codec.Connect{CleanStart: true})
	for i := range strayTopics {
		p.send(&codec.Publish{Topic: fmt.Sprint("stray/", i), QoS: 1, PacketID: 1, Retain: true})
		receive[*codec.Puback](p)
	}
	p.send(&codec.Disconnect{})
	p.ended()
}

// Under a mixed load that goes on nothing grows, and when it is over everything that it took has been given back: goroutines,
// sessions, messages, and what max-memory counts to the byte. Clients that keep the rules lose nothing meanwhile.
func TestSoak(t *testing.T) {
	t.Setenv("PETREL_BENCH_BOUNDED", "1")
	v := startVictim(t, t.TempDir()+"/petrel.db", "")
	w := &witnessed{next: map[string]int{}}
	for _, filter := range []string{"1/#", "2/#"} {
		sub, err := joinVictim(t, v.addr, "subscriber of "+filter).Subscribe(t.Context(), filter, mqtt.ExactlyOnce)
		check(t, err)
		go w.follow(sub)
	}
	publishers := []mqtt.ClientV5{joinVictim(t, v.addr, "0"), joinVictim(t, v.addr, "1")}
	before := v.taken(t)

	over := make(chan struct{})
	var running sync.WaitGroup
	acknowledged := make([]int, len(publishers))
	for i, c := range publishers {
		running.Go(func() { acknowledged[i] = w.numbers(t, c, i, over) })
	}
	lives := make([]int, 16)
	for i := range lives {
		running.Go(func() {
			s := &stray{Rand: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(i))), addr: v.addr}
			for ; ; lives[i]++ {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(s.IntN(50)) * time.Millisecond):
					s.live()
				}
			}
		})
	}
	measured := make([]taken, 3) // early, in the middle, at the end
	for i := range measured {
		time.Sleep(*soakFor / time.Duration(len(measured)))
		measured[i] = v.taken(t)
	}
	rss := v.rss()
	close(over)
	running.Wait()
	tidy(t, v)
	after := v.taken(t)
	for end := time.Now().Add(patience); !settled(before, after) && time.Now().Before(end); after = v.taken(t) {
		time.Sleep(50 * time.Millisecond)
	}
	sum := 0
	for _, n := range lives {
		sum += n
	}
	t.Logf("%d connections, %d messages of those who keep the rules\nbefore %+v\nearly  %+v\nmiddle %+v\nend    %+v, %d MiB\nafter  %+v",
		sum, acknowledged[0]+acknowledged[1], before, measured[0], measured[1], measured[2], rss, after)
	if !settled(before, after) {
		t.Error("not everything was given back")
	}
	all := w.has(acknowledged)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !all || len(w.wrong) > 0 {
		t.Error("lost or out of order:", w.wrong)
	}
}

// settled reports whether there is no more than before, beside a heap that may have grown a little.
func settled(before, after taken) bool {
	if after.Heap < before.Heap+32<<20 {
		after.Heap = before.Heap
	}
	after.Goroutines = max(after.Goroutines, before.Goroutines)
	return after == before
}
