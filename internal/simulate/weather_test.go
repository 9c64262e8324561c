package simulate_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// maxLatency is the longest that a byte is on its way, as long as the connection has no other fault.
const maxLatency = 20 * time.Millisecond

// weather breaks things until it is calm.
type weather struct {
	s       *simulation
	removes []func()   // of faults
	lost    *rand.Rand // decides which redirects lead nowhere
}

func newWeather(s *simulation) *weather { return &weather{s: s, lost: s.random(forLost)} }

// begin lets bad weather last for a while, in which everybody works.
func (w *weather) begin() {
	r := w.s.random(forWeather)
	w.s.work.Go(func() {
		// Some have long peaceful times between two faults, others none.
		gap := []time.Duration{200 * time.Millisecond, 2 * time.Second, 20 * time.Second}[r.IntN(3)]
		for range 5 + r.IntN(25) {
			time.Sleep(below(r, gap))
			w.harm(r)
		}
		w.end()
	})
}

func (w *weather) end() {
	for _, remove := range w.removes {
		remove()
	}
	w.s.network.each(func(s *server) {
		s.Refuse(0, 0)
		s.Throttle(0)
	})
	close(w.s.calm)
	w.s.note("all", "calm")
	w.s.network.each(func(s *server) { s.Cut() }) // an answer that was lost comes again only on another connection
}

func (w *weather) harm(r *rand.Rand) {
	n := w.s.network
	b := n.servers[r.IntN(len(n.servers))]
	c := w.s.clients[r.IntN(len(w.s.clients))]
	switch r.IntN(18) {
	case 0:
		w.s.note(c.id, "cut")
		n.each(func(s *server) { s.Cut(c.id) })
	case 1:
		w.s.note("all", "cut from server %d", b.number)
		b.Cut()
	case 2:
		w.s.note(c.id, "half-open")
		n.each(func(s *server) { s.HalfOpen(c.id) })
	case 3:
		w.kick(r, c)
	case 4:
		code := []mqtt.ReasonCode{mqtt.ServerUnavailable, mqtt.ServerBusy, mqtt.QuotaExceeded}[r.IntN(3)]
		times := 1 + r.IntN(3)
		w.s.note("all", "server %d refuses %d connects: %v", b.number, times, code)
		b.Refuse(times, byte(code))
		b.Cut(c.id)
	case 5:
		w.breakDown(r)
	case 6, 7:
		w.s.note(c.id, "session forgotten by server %d", b.number)
		w.s.witness.forgotten(b.number, c.id)
		b.Forget(c.id)
	case 8:
		w.s.note("all", "other limits of server %d", b.number)
		b.Reconfigure(w.limits(r)...)
		b.Cut(c.id)
	case 9:
		times := 1 + r.IntN(3)
		w.s.note("all", "server %d hangs up on %d connects", b.number, times)
		b.HangUp(times)
		b.Cut(c.id)
	case 10:
		rate := 20 + r.IntN(2000)
		w.s.note(c.id, "%d bytes per second", rate)
		c.slow.Store(true)
		n.each(func(s *server) { s.Throttle(rate, c.id) })
	case 11, 12:
		w.redirect(r, b, c)
	default:
		f := w.fault(r, c)
		w.s.note(c.id, "server %d: %s", b.number, describe(f))
		w.add(r, b.Fault(f))
	}
}

// breakDown makes a host, or all, unreachable for a while.
func (w *weather) breakDown(r *rand.Rand) {
	hosts, d := w.s.network.hosts, below(r, 100*time.Second)
	if len(hosts) > 1 && !oneIn(r, 4) {
		at := r.IntN(len(hosts))
		hosts = hosts[at : at+1]
	}
	w.s.note("all", "%v unreachable for %v", hosts, d)
	w.s.network.setDown(true, hosts...)
	time.Sleep(d)
	w.s.network.setDown(false, hosts...)
}

// redirect sends clients to a host, which may be the one that they come from, or one that does not exist.
func (w *weather) redirect(r *rand.Rand, b *server, c *simulated) {
	host := w.s.network.hosts[r.IntN(len(w.s.network.hosts))]
	if oneIn(w.lost, 4) {
		host = nowhere
	}
	code := []mqtt.ReasonCode{mqtt.UseAnotherServer, mqtt.ServerMoved}[r.IntN(2)]
	w.add(r, w.s.network.refer(host))
	if oneIn(r, 2) {
		w.s.note(c.id, "server %d: go to %s: %v", b.number, host, code)
		b.Kick(c.id, byte(code))
		return
	}
	times := 1 + r.IntN(8)
	w.s.note("all", "server %d sends %d to %s: %v", b.number, times, host, code)
	b.Refuse(times, byte(code))
	b.Cut(c.id)
}

// add keeps in mind how to end a fault, and may end an older one: what it held is let go.
func (w *weather) add(r *rand.Rand, remove func()) {
	w.removes = append(w.removes, remove)
	if oneIn(r, 3) {
		i := r.IntN(len(w.removes))
		w.removes[i]()
		w.removes = append(w.removes[:i], w.removes[i+1:]...)
	}
}

// kick ends a connection from the broker's side. A client whose end it may be gets codes that end it.
func (w *weather) kick(r *rand.Rand, c *simulated) {
	codes := []mqtt.ReasonCode{mqtt.ServerBusy, mqtt.ServerShuttingDown, mqtt.UnspecifiedError, mqtt.KeepAliveTimeout}
	if c.mortal {
		codes = append(codes, mqtt.SessionTakenOver, mqtt.NotAuthorized)
	}
	code := codes[r.IntN(len(codes))]
	w.s.note(c.id, "kick: %v", code)
	w.s.network.each(func(s *server) { s.Kick(c.id, byte(code)) })
}

// limits are what the broker announces from the next connections on.
func (w *weather) limits(r *rand.Rand) (opts []mqtttest.Option) {
	if oneIn(r, 2) {
		opts = append(opts, mqtttest.ReceiveMaximum(uint16(1+r.IntN(20))))
	}
	if oneIn(r, 2) {
		opts = append(opts, mqtttest.TopicAliasMaximum(uint16(r.IntN(4))))
	}
	if oneIn(r, 2) {
		opts = append(opts, mqtttest.ServerKeepAlive(time.Duration(5+r.IntN(50))*time.Second))
	}
	return opts
}

// fault is one that hits a few packets of a client.
func (w *weather) fault(r *rand.Rand, c *simulated) mqtttest.Fault {
	f := mqtttest.Fault{ClientID: c.id, Skip: r.IntN(6), Times: 1 + r.IntN(3), Outbound: oneIn(r, 2)}
	pick := func(packets ...codec.Type) { f.Packet = packets[r.IntN(len(packets))].String() }
	switch r.IntN(7) {
	case 0, 1: // what is lost before a cut may be anything
		pick(codec.PUBLISH, codec.PUBACK, codec.PUBREC, codec.PUBREL, codec.PUBCOMP, codec.SUBSCRIBE, codec.SUBACK,
			codec.UNSUBSCRIBE, codec.UNSUBACK, codec.CONNECT, codec.CONNACK, codec.PINGREQ, codec.AUTH)
		f.Cut, f.Drop = true, oneIn(r, 2)
		if oneIn(r, 2) {
			f.Bytes = 1 + r.IntN(20)
		}
	case 2: // without a cut no PUBLISH, or order would be lost, and no SUBACK: it tells which copies come
		pick(codec.PUBACK, codec.PUBREC, codec.PUBREL, codec.PUBCOMP, codec.UNSUBACK, codec.CONNACK, codec.PINGRESP)
		f.Drop, f.Outbound = true, true
	case 3:
		pick(codec.PUBACK, codec.PUBREC, codec.PUBCOMP, codec.PUBREL)
		f.Drop, f.Outbound = true, false
	case 4:
		pick(codec.PUBACK, codec.PUBREC, codec.PUBCOMP, codec.UNSUBACK, codec.CONNACK, codec.PINGRESP)
		f.Delay, f.Outbound = below(r, 30*time.Second), true
	case 5:
		pick(codec.PUBACK, codec.PUBREC, codec.PUBCOMP, codec.UNSUBACK, codec.PINGRESP)
		f.Hold, f.Outbound = true, true
	default:
		pick(codec.PUBLISH, codec.SUBSCRIBE, codec.CONNECT)
		f.Reason, f.Outbound = byte(mqtt.QuotaExceeded), false
		c.refused.Store(true)
		c.denied.Store(c.denied.Load() || f.Packet == codec.PUBLISH.String())
	}
	return f
}

// describe says what a fault does, in short.
func describe(f mqtttest.Fault) string {
	way := "of"
	if f.Outbound {
		way = "to"
	}
	what := fmt.Sprintf("%d %s %s the client, after %d:", f.Times, f.Packet, way, f.Skip)
	for name, does := range map[string]bool{"drop": f.Drop, "cut": f.Cut, "hold": f.Hold, "refuse": f.Reason != 0} {
		if does {
			what += " " + name
		}
	}
	if f.Delay > 0 {
		what += " delay " + f.Delay.String()
	}
	return what
}

// badLine is a connection with latency, that splits what is written and read at any byte, and breaks after so many.
type badLine struct {
	net.Conn
	latency time.Duration

	reads  *rand.Rand // of the reader
	down   int        // bytes that still come
	writes *rand.Rand // of the writer
	up     int        // bytes that still go
}

// wire wraps the n-th connection of a client.
func (w *weather) wire(conn net.Conn, client, n int) net.Conn {
	r := w.s.random(forConnection, client, n)
	c := &badLine{
		Conn: conn, up: math.MaxInt, down: math.MaxInt,
		reads: w.s.random(forConnection, client, n, 1), writes: w.s.random(forConnection, client, n, 2),
	}
	if oneIn(r, 2) {
		c.latency = below(r, maxLatency)
	}
	bytes := int(math.Exp2(2 + 13*r.Float64())) // from 4 to 32,768; near the start more often
	switch r.IntN(6) {
	case 0, 1:
		c.up = bytes
	case 2, 3:
		c.down = bytes
	}
	return c
}

// CloseWrite is what the link asks for.
func (c *badLine) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

func (c *badLine) Read(b []byte) (int, error) {
	if c.broken(c.down) {
		return 0, syscall.ECONNRESET
	}
	b = b[:min(len(b), c.down, 1+c.reads.IntN(2000))]
	n, err := c.Conn.Read(b)
	time.Sleep(c.latency)
	c.down -= n
	return n, err
}

func (c *badLine) Write(b []byte) (written int, err error) {
	for written < len(b) {
		if c.broken(c.up) {
			return written, syscall.ECONNRESET
		}
		n, err := c.Conn.Write(b[written:min(len(b), written+min(c.up, 1+c.writes.IntN(2000)))])
		written += n
		c.up -= n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// broken closes the connection when no byte is left.
func (c *badLine) broken(left int) bool {
	if left > 0 {
		return false
	}
	c.Conn.Close()
	return true
}

// dialer connects a client through bad weather.
func (w *weather) dialer(client int) func(ctx context.Context, network, address string) (net.Conn, error) {
	n := 0 // only one attempt is made at a time
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		n++
		conn, err := w.s.network.dial(ctx, network, address)
		if err != nil || w.s.isCalm() {
			return conn, err
		}
		return w.wire(conn, client, n), nil
	}
}
