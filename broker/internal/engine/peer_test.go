package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// memoryConn is one end of a connection in memory.
type memoryConn struct{ net.Conn }

func (c memoryConn) Hurry(d time.Duration) { c.SetWriteDeadline(time.Now().Add(d)) }
func (c memoryConn) RemoteAddr() net.Addr  { return new(net.TCPAddr) }

// rules is a policy for tests. What is nil allows.
type rules struct {
	authenticate func(c *Client, password []byte) codec.ReasonCode
	allows       func(c *Client, access Access, topic string) bool
	ask          func(c *Client, access Access, topic string) Decision

	mu     sync.Mutex
	events []string
}

func (r *rules) Authenticate(_ context.Context, c *Client, _ bool, password []byte) (any, codec.ReasonCode) {
	if r.authenticate == nil {
		return nil, codec.Success
	}
	return c.Username, r.authenticate(c, password)
}
func (r *rules) Valid(any) bool                          { return true }
func (r *rules) Exchange(*Client, string) Exchange       { return nil }
func (r *rules) Identify(*Client, bool) codec.ReasonCode { return codec.Success }
func (r *rules) Allows(c *Client, access Access, topic string) bool {
	return r.allows == nil || r.allows(c, access, topic)
}
func (r *rules) Asks() bool { return r.ask != nil }
func (r *rules) Ask(c *Client, access Access, topic string) Decision {
	return r.ask(c, access, topic)
}
func (r *rules) event(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}
func (r *rules) Connected(c *Client)               { r.event("connected %s", c.ID) }
func (r *rules) Disconnected(c *Client, err error) { r.event("disconnected %s", c.ID) }
func (r *rules) Subscribed(c *Client, filter string, _ byte) {
	r.event("subscribed %s %s", c.ID, filter)
}
func (r *rules) Unsubscribed(c *Client, filter string) { r.event("unsubscribed %s %s", c.ID, filter) }
func (r *rules) Hears() bool                           { return false }
func (r *rules) Published(*Client, Message)            {}

// lab is an engine under test.
type lab struct {
	*Engine
	t      *testing.T
	rules  *rules
	serves sync.WaitGroup
	closed bool
}

func config(r *rules) Config {
	return Config{
		Policy: r, Log: slog.New(slog.DiscardHandler),
		MaxPacketSize: 1 << 20, MaxQueuedMessages: 10_000, MaxQueuedBytes: 16 << 20, MaxMemory: 256 << 20, ConnectTimeout: 10 * time.Second,
	}
}

// newLab returns an engine that ends with the test.
func newLab(t *testing.T, change func(*Config)) *lab {
	t.Helper()
	r := new(rules)
	c := config(r)
	if change != nil {
		change(&c)
	}
	if given, ok := c.Policy.(*rules); ok {
		r = given
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Engine: e, t: t, rules: r}
	t.Cleanup(l.end)
	return l
}

// end ends the engine, and waits for all of it.
func (l *lab) end() {
	if l.closed {
		return
	}
	l.closed = true
	l.Close()
	l.serves.Wait()
	if err := l.Wait(); err != nil {
		l.t.Error(err)
	}
	if n := l.memory.Load(); n < 0 {
		l.t.Errorf("memory is %d", n)
	}
}

// peer is a client, packet by packet. A goroutine reads what comes, unless the peer is deaf.
type peer struct {
	t       *testing.T
	conn    net.Conn
	version codec.Version
	packets chan codec.Packet
	err     error // of the reader, once packets is closed
}

// dial connects without CONNECT.
func (l *lab) dial(v codec.Version) *peer {
	p := l.dialDeaf(v)
	go p.read()
	return p
}

// dialDeaf connects a client that reads nothing until read is started.
func (l *lab) dialDeaf(v codec.Version) *peer {
	client, server := net.Pipe()
	l.serves.Add(1)
	go func() {
		defer l.serves.Done()
		defer server.Close()
		server.SetReadDeadline(time.Now().Add(10 * time.Second))
		l.Serve(memoryConn{server}, Peer{Listener: "test", Connected: func() Client {
			server.SetReadDeadline(time.Time{})
			return Client{Remote: new(net.TCPAddr)}
		}})
	}()
	l.t.Cleanup(func() { client.Close() })
	return &peer{t: l.t, conn: client, version: v, packets: make(chan codec.Packet, 1<<13)}
}

func (p *peer) read() {
	defer close(p.packets)
	for {
		packet, err := codec.ReadPacket(p.conn, p.version, 0)
		if err != nil {
			p.err = err
			return
		}
		p.packets <- packet
	}
}

// join connects, and returns the CONNACK too.
func (l *lab) join(v codec.Version, connect *codec.Connect) (*peer, *codec.Connack) {
	l.t.Helper()
	p := l.dial(v)
	p.send(connect)
	return p, receive[*codec.Connack](p)
}

// client connects with a clean start and no session afterwards.
func (l *lab) client(id string) *peer {
	l.t.Helper()
	p, ack := l.join(codec.V5, &codec.Connect{CleanStart: true, ClientID: id})
	if ack.Code != codec.Success {
		l.t.Fatal(ack.Code)
	}
	return p
}

// kept connects to a session that is kept for five minutes.
func kept5(id string, clean bool) *codec.Connect {
	expiry := uint32(300)
	return &codec.Connect{CleanStart: clean, ClientID: id, Properties: codec.ConnectProperties{SessionExpiry: &expiry}}
}

func (p *peer) send(packets ...codec.Packet) {
	p.t.Helper()
	var b []byte
	var err error
	for _, packet := range packets {
		if b, err = packet.Append(b, p.version); err != nil {
			p.t.Fatal(err)
		}
	}
	p.write(b)
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		p.t.Fatal(err)
	}
}

// next returns the next packet; nil at the end of the connection.
func (p *peer) next() codec.Packet {
	p.t.Helper()
	select {
	case packet := <-p.packets:
		return packet
	case <-time.After(time.Minute):
		p.t.Fatal("nothing comes")
		return nil
	}
}

// receive reads the next packet, which must be of type P.
func receive[P codec.Packet](p *peer) P {
	p.t.Helper()
	packet := p.next()
	got, ok := packet.(P)
	if !ok {
		p.t.Fatalf("got %T %+v", packet, packet)
	}
	return got
}

// ended waits for the end of the connection.
func (p *peer) ended() {
	p.t.Helper()
	if packet := p.next(); packet != nil {
		p.t.Fatalf("got %T %+v before the end", packet, packet)
	}
}

// leave ends the connection, with a DISCONNECT or without.
func (p *peer) leave(orderly bool) {
	if orderly {
		p.send(&codec.Disconnect{})
	}
	p.conn.Close()
	synctest.Wait()
}

// quiet checks that nothing is on its way: the next packet is the answer to PINGREQ.
func (p *peer) quiet() {
	p.t.Helper()
	synctest.Wait()
	p.send(&codec.Pingreq{})
	receive[*codec.Pingresp](p)
}

func (p *peer) subscribe(qos byte, filters ...string) *codec.Suback {
	p.t.Helper()
	s := &codec.Subscribe{PacketID: 1}
	for _, f := range filters {
		s.Filters = append(s.Filters, codec.SubscribeFilter{Filter: f, QoS: qos})
	}
	p.send(s)
	return receive[*codec.Suback](p)
}

// publish publishes at QoS 1, and waits for the acknowledgement.
func (p *peer) publish(topic string, format string, args ...any) codec.ReasonCode {
	p.t.Helper()
	p.send(&codec.Publish{Topic: topic, QoS: 1, PacketID: 7, Payload: fmt.Appendf(nil, format, args...)})
	return receive[*codec.Puback](p).Code
}

// take receives a message and acknowledges it completely.
func (p *peer) take() *codec.Publish {
	p.t.Helper()
	m := receive[*codec.Publish](p)
	switch m.QoS {
	case 1:
		p.send(&codec.Puback{PacketID: m.PacketID})
	case 2:
		p.send(&codec.Pubrec{PacketID: m.PacketID})
		receive[*codec.Pubrel](p)
		p.send(&codec.Pubcomp{PacketID: m.PacketID})
	}
	return m
}

// want takes a message and compares its payload.
func (p *peer) want(format string, args ...any) *codec.Publish {
	p.t.Helper()
	m := p.take()
	if want := fmt.Sprintf(format, args...); string(m.Payload) != want {
		p.t.Fatalf("got %s, want %s", m.Payload, want)
	}
	return m
}

// bubble runs a test in virtual time. Nothing may run any more at its end.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
