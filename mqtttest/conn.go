package mqtttest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

const (
	// linger is how long the broker waits, after its last packet or the client's DISCONNECT, for the client to close.
	linger = 5 * time.Second
	// maxExtra is how many bytes the broker reads then, before it closes all the same.
	maxExtra = 1 << 20
	// maxWaiting is how many packets may wait for a client that does not read before the broker stops reading from it.
	maxWaiting = 10_000
	// maxWaitingBytes is how many bytes of messages may wait for such a client before those at QoS 0 are dropped.
	maxWaitingBytes = 64 << 20
)

// conn is a connection of a client. A reader and a writer serve it. The broker's lock guards what has no other owner.
type conn struct {
	b        *Broker
	number   int           // in the order of the connections
	raw      net.Conn      // the connection of the network
	nc       net.Conn      // what speaks MQTT on it
	settings *settings     // those in force when the connection was made
	frames   frames        // the reader's
	version  codec.Version // written by the reader under the lock, when CONNECT comes

	clientID string
	sess     *session // nil before CONNECT has been accepted, and once the connection has left its session
	client   terms    // what the client announced
	will     *will
	verdict  codec.ReasonCode // of the option Authorize
	auth     *authentication  // nil: none
	referee  referee
	greeted  bool // CONNECT has come; written by the reader under the lock

	out      []parcel // to be sent, in order
	outBytes int      // of payload in out
	changed  sync.Cond
	ended    bool // nothing more is handled; the writer sends what is in out, and the reader waits for the client to close
	broken   bool // it ended without a word: whoever broke it closes it
	silent   bool // the client has sent DISCONNECT

	unacked int               // publishes sent on this connection that the client has not finished
	aliases map[string]uint16 // those the broker uses

	heard     time.Time // when a packet was last handled
	keepAlive alarm
	overdue   bool // the client has sent nothing for too long
	late      late
}

// parcel is a packet on its way to the client. A settled one has been through hooks and faults.
type parcel struct {
	packet  codec.Packet
	settled bool
	bytes   int // how many are sent, the last of the connection; 0: all
}

// terms are what the client's CONNECT says about packets to it.
type terms struct {
	receiveMaximum    int
	maximumPacketSize int // 0: no limit
	topicAliasMaximum uint16
	expirySet         bool // Session Expiry Interval was not 0
}

// newConn is called with the broker's lock. Its caller calls serve.
func (b *Broker) newConn(raw net.Conn, f framing) *conn {
	nc := f.over(raw, b.settings)
	b.accepted++
	c := &conn{b: b, number: b.accepted, raw: raw, nc: nc, settings: b.settings, frames: frames{r: nc}, version: codec.V5}
	c.changed.L = &b.mu
	b.conns[c] = true
	b.wg.Add(2)
	return c
}

// serve reads until the connection has ended, and closes it.
func (c *conn) serve() {
	defer c.b.wg.Done()
	go c.write()
	err := c.read()
	v, bad := violationOf(err)
	switch {
	case bad:
		c.fail(v)
		c.drain()
	case err == nil:
		c.drain()
	default:
		c.lose()
	}
	_ = c.nc.Close()
	c.b.mu.Lock()
	delete(c.b.conns, c)
	overdue := c.overdue
	c.b.mu.Unlock()
	if overdue && !slices.Contains(c.settings.tolerated, c.rule("MQTT-3.1.2-20", "MQTT-3.1.2-23")) {
		c.b.report(Violation{
			ClientID: c.clientID, Rule: c.rule("MQTT-3.1.2-20", "MQTT-3.1.2-23"), Detail: "sends nothing for 1.5 times its keep alive",
		})
	}
}

// read handles packets until the connection ends, and returns why reading failed, if it did.
func (c *conn) read() error {
	for {
		limit := 0
		if c.greeted && c.version == codec.V5 { // nobody else knows of it
			limit = int(c.settings.maximumPacketSize)
		}
		h, body, err := c.frames.next(c.version, limit)
		if err != nil {
			return err
		}
		if h.Type == codec.PUBLISH || h.Type == codec.CONNECT || h.Type == codec.AUTH {
			body = bytes.Clone(body) // the packet keeps it
		}
		p, err := codec.Decode(h, body, c.version)
		if err != nil {
			c.garbled(h, body)
			return err
		}
		if !c.receive(p) {
			return nil
		}
	}
}

// garbled finds out the version of a CONNECT that cannot be decoded, so that it can be refused.
func (c *conn) garbled(h codec.Header, body []byte) {
	const versionAt = 6 // behind the protocol name
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if h.Type != codec.CONNECT || c.greeted {
		return
	}
	c.greeted = true
	if len(body) > versionAt && body[versionAt] < byte(codec.V5) {
		c.version = codec.V311
	}
}

// violationOf makes a violation of an error of the codec.
func violationOf(err error) (Violation, bool) {
	var flaw *codec.Error
	if !errors.As(err, &flaw) {
		return Violation{}, false
	}
	detail := flaw.Detail
	if flaw.Packet != 0 {
		detail = flaw.Packet.String() + ": " + detail
	}
	return Violation{Rule: flaw.Rule, Detail: detail, code: flaw.Code}, true
}

// fail reports a violation and ends the connection because of it.
func (c *conn) fail(v Violation) {
	c.b.mu.Lock()
	v.ClientID = c.clientID
	if !c.ended {
		c.refuseOrEnd(v.code)
	}
	closed := c.b.closed
	c.b.mu.Unlock()
	if !closed {
		c.b.report(v)
	}
}

// drain reads on until the client closes, or does not.
func (c *conn) drain() {
	extra, buffer := c.frames.waiting(), make([]byte, 512)
	for {
		n, err := c.nc.Read(buffer)
		extra += n
		if err != nil || extra >= maxExtra {
			c.checkSilence(extra, err)
			return
		}
	}
}

// checkSilence reports a client that has sent extra bytes after its DISCONNECT, or has not closed. err is how the connection
// ended.
func (c *conn) checkSilence(extra int, err error) {
	c.b.mu.Lock()
	watch := c.silent && !c.b.closed
	v := Violation{ClientID: c.clientID}
	c.b.mu.Unlock()
	var netErr net.Error
	switch {
	case !watch:
		return
	case extra > 0:
		v.Rule, v.Detail = c.rule("MQTT-3.14.4-1", "MQTT-3.14.4-2"), "sends after DISCONNECT"
	case errors.As(err, &netErr) && netErr.Timeout():
		v.Rule, v.Detail = c.rule("MQTT-3.14.4-2", "MQTT-3.14.4-1"), "does not close after DISCONNECT"
	default:
		return
	}
	c.b.report(v)
}

// lose ends a connection that is broken or that the client has closed.
func (c *conn) lose() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.abandon()
}

// rule picks the statement of the connection's version.
func (c *conn) rule(v5, v311 string) string {
	if c.version == codec.V5 {
		return v5
	}
	return v311
}

// send queues a packet. What comes after the end is not sent.
func (c *conn) send(p codec.Packet) {
	if c.ended {
		return
	}
	c.out = append(c.out, parcel{packet: p})
	if len(c.out) == 1 {
		c.changed.Broadcast()
	}
}

// sendSettled queues a packet that hooks and faults leave alone.
func (c *conn) sendSettled(p codec.Packet) {
	c.out = append(c.out, parcel{packet: p, settled: true})
	c.changed.Broadcast()
}

// end ends the connection from the broker's side. In MQTT 5.0 a DISCONNECT says why.
func (c *conn) end(code codec.ReasonCode) {
	if c.version == codec.V5 && c.sess != nil {
		c.send(&codec.Disconnect{Code: code})
	}
	c.finish()
}

// finish takes the connection out of its session; what is queued is still sent.
func (c *conn) finish() {
	if c.ended {
		return
	}
	c.leave()
	c.ended = true
	c.changed.Broadcast()
	_ = c.raw.SetDeadline(time.Now().Add(linger))
}

// abandon is finish for a connection that is, or is about to be, broken: what is queued is thrown away.
func (c *conn) abandon() {
	c.out = nil
	if c.ended {
		return
	}
	c.leave()
	c.ended, c.broken = true, true
	c.changed.Broadcast()
}

// cut breaks the connection as a fault of the network would. It is called without the lock.
func (c *conn) cut() {
	switch nc := c.raw.(type) {
	case interface{ reset() }:
		nc.reset()
	case interface{ SetLinger(int) error }:
		_ = nc.SetLinger(0)
	}
	_ = c.raw.Close()
}

// frames splits a stream into packets. Its buffer grows with the bytes that come.
type frames struct {
	r          io.Reader
	buffer     []byte
	start, end int // the bytes that have been read and not been handed out
}

// next returns a packet, whose body is valid until the next call.
func (f *frames) next(v codec.Version, limit int) (codec.Header, []byte, error) {
	for {
		h, n, err := codec.ParseHeader(f.buffer[f.start:f.end], v)
		if err != nil {
			return h, nil, err
		}
		size := n + h.Length
		if n > 0 && limit > 0 && size > limit {
			return h, nil, tooLargeForBroker(h.Type)
		}
		if n > 0 && f.waiting() >= size {
			body := f.buffer[f.start+n : f.start+size]
			f.start += size
			return h, body, nil
		}
		if err := f.fill(); err != nil {
			return h, nil, err
		}
	}
}

func tooLargeForBroker(t codec.Type) error {
	return &codec.Error{
		Packet: t, Code: codec.PacketTooLarge, Rule: "MQTT-3.2.2-15", Detail: "larger than the broker's Maximum Packet Size",
	}
}

// waiting is how many bytes have been read and not been handed out.
func (f *frames) waiting() int { return f.end - f.start }

func (f *frames) fill() error {
	if f.start > 0 {
		f.end = copy(f.buffer, f.buffer[f.start:f.end])
		f.start = 0
	}
	if f.end == len(f.buffer) {
		f.buffer = append(f.buffer, make([]byte, max(4096, len(f.buffer)))...)
	}
	n, err := f.r.Read(f.buffer[f.end:])
	f.end += n
	if n > 0 {
		return nil
	}
	return err
}
