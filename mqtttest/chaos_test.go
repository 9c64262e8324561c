package mqtttest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// peer is a small client that keeps its session over connections that break.
type peer struct {
	t    *testing.T
	b    *Broker
	v    codec.Version
	id   string
	conn *endpoint

	next, last int               // the messages to publish, as numbers
	sent       map[uint16]*sent  // not finished
	received   map[uint16]bool   // QoS 2, before PUBREL
	got        [3]map[string]int // how often each message came, by QoS
	order      [3][]int          // the messages in the order of their first arrival, by QoS
}

// sent is a message of a peer.
type sent struct {
	publish  codec.Publish
	released bool
}

func newPeer(t *testing.T, b *Broker, v codec.Version, id string) *peer {
	p := &peer{t: t, b: b, v: v, id: id, sent: map[uint16]*sent{}, received: map[uint16]bool{}}
	for qos := range p.got {
		p.got[qos] = map[string]int{}
	}
	return p
}

// run connects as often as it takes until done says so.
func (p *peer) run(filter string, done func() bool) {
	for !done() {
		if p.connect(filter) {
			p.live(done)
		}
		if p.conn != nil {
			p.conn.Close()
		}
	}
}

func (p *peer) write(packets ...codec.Packet) bool {
	var b []byte
	for _, packet := range packets {
		var err error
		if b, err = packet.Append(b, p.v); err != nil {
			p.t.Error(err)
		}
	}
	_, err := p.conn.Write(b)
	return err == nil
}

// read waits for a second, since a fault may have lost what it waits for.
func (p *peer) read() codec.Packet {
	p.conn.SetReadDeadline(time.Now().Add(time.Second))
	packet, err := codec.ReadPacket(p.conn, p.v, 0)
	if err != nil {
		return nil
	}
	return packet
}

// connect resumes the session and sends again what is not finished, in order.
func (p *peer) connect(filter string) bool {
	nc, err := p.b.DialContext(p.t.Context(), "", "")
	if err != nil {
		p.t.Error(err)
		return false
	}
	p.conn = nc.(*endpoint)
	if !p.write(persistent(p.v, p.id, false)) {
		return false
	}
	if ack, ok := p.read().(*codec.Connack); !ok || ack.Code != codec.Success {
		return false
	}
	for _, id := range slices.Sorted(maps.Keys(p.sent)) { // identifiers only grow in this test
		s := p.sent[id]
		if s.released && !p.write(&codec.Pubrel{PacketID: id}) {
			return false
		}
		s.publish.Dup = true
		if !s.released && !p.write(&s.publish) {
			return false
		}
	}
	return filter == "" || p.write(&codec.Subscribe{PacketID: 60_000, Filters: []codec.SubscribeFilter{at(2, filter)}})
}

// live publishes, eight messages at a time, and answers what comes until the connection breaks.
func (p *peer) live(done func() bool) {
	for !done() {
		for p.next < p.last && len(p.sent) < 8 {
			p.next++
			s := &sent{publish: codec.Publish{
				Topic: "t", QoS: byte(1 + p.next%2), PacketID: uint16(p.next), Payload: strconv.AppendInt(nil, int64(p.next), 10),
			}}
			p.sent[s.publish.PacketID] = s
			if !p.write(&s.publish) {
				return
			}
		}
		packet := p.read()
		if packet == nil || !p.handle(packet) {
			return
		}
	}
}

func (p *peer) handle(packet codec.Packet) bool {
	switch packet := packet.(type) {
	case *codec.Puback:
		delete(p.sent, packet.PacketID)
	case *codec.Pubrec:
		if s := p.sent[packet.PacketID]; s != nil {
			s.released = true
		}
		return p.write(&codec.Pubrel{PacketID: packet.PacketID})
	case *codec.Pubcomp:
		delete(p.sent, packet.PacketID)
	case *codec.Pubrel:
		delete(p.received, packet.PacketID)
		return p.write(&codec.Pubcomp{PacketID: packet.PacketID})
	case *codec.Publish:
		if packet.QoS < 2 || !p.received[packet.PacketID] {
			p.take(packet)
		}
		if packet.QoS == 2 {
			p.received[packet.PacketID] = true
			return p.write(&codec.Pubrec{PacketID: packet.PacketID})
		}
		return p.write(&codec.Puback{PacketID: packet.PacketID})
	}
	return true
}

func (p *peer) take(m *codec.Publish) {
	payload := string(m.Payload)
	if p.got[m.QoS][payload]++; p.got[m.QoS][payload] == 1 {
		n, _ := strconv.Atoi(payload)
		p.order[m.QoS] = append(p.order[m.QoS], n)
	}
}

// Whatever is cut and lost, messages at QoS 1 arrive at least once and those at QoS 2 exactly once, both in order, and a client that keeps the rules
// is not blamed.
func TestChaos(t *testing.T) {
	const messages = 400
	for seed := range uint64(3) {
		for _, v := range []codec.Version{codec.V5, codec.V311} {
			t.Run(fmt.Sprint(v, "/", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := NewBroker(t, ReceiveMaximum(8))
					addFaults(b, rand.New(rand.NewPCG(seed, 0)))
					publisher, subscriber := newPeer(t, b, v, "publisher"), newPeer(t, b, v, "subscriber")
					publisher.last = messages
					subscriber.connect("t")
					synctest.Wait() // it has subscribed, unless a fault was in the way
					subscriber.run("t", func() bool { return len(b.sessionSubscriptions("subscriber")) > 0 })
					var wg sync.WaitGroup
					wg.Go(func() {
						publisher.run("", func() bool { return publisher.next == messages && len(publisher.sent) == 0 })
					})
					subscriber.run("t", func() bool { return len(subscriber.order[1])+len(subscriber.order[2]) == messages })
					wg.Wait()
					for qos, order := range subscriber.order {
						if !slices.IsSorted(order) {
							t.Errorf("QoS %d: order %v", qos, order)
						}
					}
					for payload, n := range subscriber.got[2] {
						if n != 1 {
							t.Errorf("message %s at QoS 2 comes %d times", payload, n)
						}
					}
				})
			})
		}
	}
}

// sessionSubscriptions returns the topic filters of a session.
func (b *Broker) sessionSubscriptions(id string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[id]; s != nil {
		return slices.Collect(maps.Keys(s.subs))
	}
	return nil
}

// addFaults lets some packets of each type be lost, and cuts connections after others. A PUBLISH is lost with all that is behind it, or order would be.
func addFaults(b *Broker, r *rand.Rand) {
	for _, packet := range []codec.Type{codec.PUBLISH, codec.PUBACK, codec.PUBREC, codec.PUBREL, codec.PUBCOMP, codec.SUBSCRIBE, codec.CONNECT} {
		for range 6 {
			lose := r.IntN(2) == 0
			b.Fault(Fault{
				Packet: packet.String(), Outbound: r.IntN(2) == 0, Skip: r.IntN(300), Times: 1, Drop: lose,
				Cut: !lose || packet == codec.PUBLISH || r.IntN(2) == 0,
			})
		}
	}
}
