package engine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/wire"
)

// Conn is a connection as the engine needs it. Whoever calls Serve closes it.
type Conn interface {
	net.Conn // a Write gives up when the client takes no byte for too long

	// Hurry gives what is being written, and all that will be, until d from now. It does not wait.
	Hurry(d time.Duration)
}

// Peer is what is known of a client before it says anything.
type Peer struct {
	Listener  string
	Surplus   bool          // there are too many connections: it is told so
	Connected func() Client // called when CONNECT has come; what is known of the client by then
}

// conn is one connection. What is not said to be guarded belongs to its reader.
type conn struct {
	engine *Engine
	net    Conn

	// Written by the handshake, before others know the connection.
	session    *Session
	client     *Client
	version    codec.Version
	largest    int           // packet that the client takes, in bytes; 0: any
	aliasing   int           // how many topic aliases the client is sent
	silence    time.Duration // after which the connection ends; 0: never
	credential any
	awaitStore bool   // CONNACK waits until the store knows which sessions there are
	method     string // of enhanced authentication; "": none

	reader
	outbox // guarded by session.mu

	over  atomic.Bool // finish was called: nothing that comes is of interest any more
	cause error       // of the end; guarded by session.mu; nil after the client's DISCONNECT
}

// reader is the part of a connection that takes in packets.
type reader struct {
	in      wire.Reader
	heard   time.Duration // when the last complete packet was handled, on the engine's clock
	aliases []string      // the client's topic aliases; 0 is none
	matches map[string]*match
	targets int // of all matches
	run     run
	wakes   []*conn // whose writers are to be started at the end of the batch

	properties codec.PublishProperties // used again for each packet
	held       int                     // bytes of in that count as memory
	talks      bool                    // a complete packet has come in this batch
	full       bool                    // the store has been given something in this batch
	exchange   Exchange                // a re-authentication under way; nil: none
}

// endError is why the broker ends a connection.
type endError struct {
	code codec.ReasonCode
	text string
}

func (e *endError) Error() string { return e.text }

var (
	serverShuttingDown = &endError{codec.ServerShuttingDown, "the broker shuts down"}
	notAuthorized      = &endError{codec.NotAuthorized, "the client's credential is no longer valid"}
	takenOver          = &endError{codec.SessionTakenOver, "another connection took over the session"}
	keepAliveTimeout   = &endError{codec.KeepAliveTimeout, "the client was silent for too long"}
	sessionEnded       = &endError{codec.QuotaExceeded, "too much waited for the client, so its session was ended"}
	outOfMemory        = &endError{codec.QuotaExceeded, "memory is used up, and the client sends a large packet"}
	serverUnavailable  = &endError{codec.ImplementationSpecificError, "the broker cannot store what it has to keep"}
	receiveMaximum     = &endError{codec.ReceiveMaximumExceeded, "more messages than the broker's Receive Maximum"}
	internalError      = &endError{codec.ImplementationSpecificError, "a fault in the broker"}
)

// errDisconnected ends a connection after the client's DISCONNECT.
var errDisconnected = errors.New("the client has disconnected")

// codeOf returns the reason code that says why a connection ends; Success if there is no need to say it.
func codeOf(err error) codec.ReasonCode {
	var end *endError
	var broken *codec.Error
	switch {
	case errors.As(err, &end):
		return end.code
	case errors.As(err, &broken):
		return broken.Code
	}
	return codec.Success
}

// Serve serves a connection, on which nothing has been read, until its end. When it returns, the last packet is written and
// nothing of the connection runs any more; the caller tells the client that this is the end, and closes the connection. The
// error is why it ended; nil after a DISCONNECT of the client.
func (e *Engine) Serve(nc Conn, p Peer) (err error) {
	c := &conn{engine: e, net: nc}
	e.stats.sockets.Add(1)
	defer func() {
		if fault := recover(); fault != nil {
			e.log.Error("a fault in the broker ends a connection", "from", nc.RemoteAddr().String(), "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			err = c.leave(internalError)
		}
	}()
	defer c.giveBack()
	if err := c.shakeHands(p); err != nil {
		return err
	}
	return c.leave(c.read())
}

// read handles packets until the connection ends.
func (c *conn) read() error {
	for {
		if err := c.batch(); err != nil {
			return err
		}
		c.unflood()
		if c.full {
			c.full = false
			c.engine.journal.unflood()
		}
		if c.talks { // not earlier: what came while this batch took its time has not been looked at
			c.talks, c.heard = false, c.engine.now()
		}
		if err := c.fill(); err != nil {
			return err
		}
		if err := c.weigh(busyBuffer); err != nil {
			return err
		}
	}
}

const (
	// busyBuffer is how many bytes of a read buffer do not count while a connection is busy.
	busyBuffer = 64 << 10
	// restBuffer is the same while it is silent.
	restBuffer = 512
)

// weigh counts the memory of a packet that has come in part: one that is too large for an ordinary buffer, and any one
// once nothing more has come for a while.
func (c *conn) weigh(free int) error {
	held := c.in.Held()
	if held <= free {
		held = 0
	}
	grown := held - c.held
	if grown == 0 {
		return nil
	}
	c.held = held
	c.engine.memory.Add(int64(grown))
	if grown > 0 && c.engine.full() {
		return outOfMemory
	}
	return nil
}

// giveBack gives the read buffer back.
func (c *conn) giveBack() {
	c.in.Release()
	c.engine.memory.Add(-int64(c.held))
}

// batch handles what has come.
func (c *conn) batch() error {
	c.session.ingress.Lock()
	defer c.session.ingress.Unlock()
	defer c.wake()
	for {
		var p packet
		var ok bool
		var err error
		if p.Header, p.bytes, ok, err = c.in.Next(); ok && err == nil {
			c.talks = true
			err = c.packet(&p)
		}
		if err == nil && ok && !c.over.Load() {
			continue
		}
		if flushed := c.flush(); err == nil { // what came before a bad packet counts
			err = flushed
		}
		return err
	}
}

// packet is a packet that has come. Its bytes belong to the read buffer.
type packet struct {
	codec.Header
	bytes []byte // header included
}

// Body returns what follows the header.
func (p *packet) Body() []byte { return p.bytes[len(p.bytes)-p.Length:] }

// packet handles one packet. The order in which runs and the rest are handled is that in which they came.
func (c *conn) packet(p *packet) error {
	c.engine.stats.packetsReceived.Add(1)
	if c.engine.traces {
		c.trace("packet in", p)
	}
	if p.Type == codec.PUBLISH {
		return c.publish(p)
	}
	if err := c.flush(); err != nil {
		return err
	}
	switch p.Type {
	case codec.PUBACK, codec.PUBREC, codec.PUBCOMP:
		return c.acknowledgement(p)
	case codec.PUBREL:
		return c.pubrel(p)
	case codec.SUBSCRIBE:
		return c.subscribe(p)
	case codec.UNSUBSCRIBE:
		return c.unsubscribe(p)
	case codec.PINGREQ:
		return c.pingreq(p)
	case codec.DISCONNECT:
		return c.disconnect(p)
	case codec.AUTH:
		return c.auth(p)
	}
	// A second CONNECT [MQTT-3.1.0-2] [MQTT311-3.1.0-2], or what only a broker sends.
	return &codec.Error{Packet: p.Type, Code: codec.ProtocolError, Rule: "MQTT-3.1.0-2", Detail: "not expected from a client"}
}

// rest is how long a connection may be silent before it gives memory back.
const rest = time.Second

// fill waits for more.
// [MQTT-3.1.2-22] [MQTT311-3.1.2-24]
func (c *conn) fill() error {
	rested := false
	for {
		c.net.SetReadDeadline(c.deadline(rested))
		if c.over.Load() { // looked at after the deadline was set: finish sets it after that
			return net.ErrClosed
		}
		n, err := c.in.Fill(c.net)
		switch {
		case n > 0 || err == nil:
			c.engine.stats.bytesReceived.Add(uint64(n))
			return nil
		case c.over.Load():
			return net.ErrClosed
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case c.silence > 0 && c.engine.now() >= c.heard+c.silence:
			return keepAliveTimeout
		}
		rested = true
		c.trim()
		if err := c.weigh(restBuffer); err != nil {
			return err
		}
	}
}

// deadline is until when to wait: for the end of the client's patience, or to rest.
func (c *conn) deadline(rested bool) time.Time {
	wait := c.heard + c.silence - c.engine.now()
	switch {
	case !rested && (c.silence == 0 || rest < wait):
		wait = rest
	case c.silence == 0:
		return time.Time{}
	}
	return time.Now().Add(max(wait, 0))
}

// trim gives back what a client that has nothing to say needs not hold.
func (c *conn) trim() {
	c.matches, c.targets, c.wakes, c.run = nil, 0, nil, run{}
	c.in.Trim()
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	c.session.state.Trim()
}

// wake starts the writers of all connections that the batch had something for.
func (c *conn) wake() {
	wakeAll(c.wakes)
	clear(c.wakes)
	c.wakes = c.wakes[:0]
}

// pingreq answers it, however much waits for the client. [MQTT-3.12.4-1] [MQTT311-3.12.4-1]
func (c *conn) pingreq(p *packet) error {
	if err := new(codec.Pingreq).Decode(p.Header, p.Body(), c.version); err != nil {
		return err
	}
	return c.answer(new(codec.Pingresp))
}

// disconnect takes the client's DISCONNECT. [MQTT-3.14.4-1] [MQTT-3.14.4-3] [MQTT311-3.14.4-3]
// [MQTT311-3.1.2-10] [MQTT-3.14.4-2] [MQTT311-3.14.4-1]
func (c *conn) disconnect(p *packet) error {
	var d codec.Disconnect
	if err := d.Decode(p.Header, p.Body(), c.version); err != nil {
		return err
	}
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return takenOver
	}
	switch {
	case !fromClient(d.Code) || d.ServerReference != "":
		return &codec.Error{Packet: p.Type, Code: codec.ProtocolError, Rule: "MQTT-3.14.2-1", Detail: "reason code that a client does not have"}
	case d.SessionExpiry != nil && *d.SessionExpiry > 0 && s.expiry == 0:
		return &codec.Error{Packet: p.Type, Code: codec.ProtocolError, Rule: "3.14.2.2.2", Detail: "Session Expiry Interval was 0"}
	case d.SessionExpiry != nil:
		s.expiry = *d.SessionExpiry
	}
	s.save()
	if d.Code == codec.NormalDisconnection {
		s.takeWill()
	}
	return errDisconnected
}

// fromClient reports whether a DISCONNECT of a client may carry the code, section 3.14.2.1.
func fromClient(code codec.ReasonCode) bool {
	switch code {
	case codec.NormalDisconnection, codec.DisconnectWithWill, codec.UnspecifiedError, codec.MalformedPacket, codec.ProtocolError,
		codec.ImplementationSpecificError, codec.TopicNameInvalid, codec.ReceiveMaximumExceeded, codec.TopicAliasInvalid,
		codec.PacketTooLarge, codec.MessageRateTooHigh, codec.QuotaExceeded, codec.AdministrativeAction, codec.PayloadFormatInvalid:
		return true
	}
	return false
}

// leave ends the connection: it says why, if there is somebody to tell, parts the session from it, and waits until the
// last packet is out.
// [MQTT-4.13.1]
func (c *conn) leave(err error) error {
	s := c.session
	if s == nil {
		return err
	}
	s.mu.Lock()
	c.finish(err)
	err, written := c.cause, c.written
	s.mu.Unlock()
	c.engine.detach(c)
	<-written
	attrs := []any{"client", logged{c.client}}
	if err != nil {
		attrs = append(attrs, "error", reasonOf(err))
	}
	c.engine.log.Info("client disconnected", attrs...)
	c.engine.policy.Disconnected(c.client, err)
	return err
}

// reasonOf is for the log.
func reasonOf(err error) any {
	if errors.Is(err, io.EOF) {
		return "the client closed the connection"
	}
	return err
}

// finish ends the connection with a last packet, which tells a client of MQTT 5 why, and lets the reader know. The first
// cause counts. The session's lock is held.
// [MQTT-3.14.0-1] [MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT311-4.8.0-1] [MQTT-3.14.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4]
// [MQTT311-3.14.4-2]
func (c *conn) finish(err error) {
	if c.over.Load() {
		return
	}
	if !errors.Is(err, errDisconnected) {
		c.cause = err
	}
	var last []byte
	if code := codeOf(err); code != codec.Success && c.version == codec.V5 {
		last, _ = (&codec.Disconnect{Code: code}).Append(nil, c.version)
	}
	c.mute = errors.Is(err, errDisconnected) // what waits for the client is not written any more [MQTT-3.14.4-1]
	c.out.Finish(last)
	c.over.Store(true)
	c.net.Hurry(wire.Farewell)
	c.net.SetReadDeadline(time.Unix(1, 0)) // the reader waits no longer
	if c.claim() {
		go c.write()
	}
}
