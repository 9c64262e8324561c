package engine

import (
	"net"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/wire"
)

// outbox is the part of a connection that sends. It is guarded by the session's lock.
type outbox struct {
	out     wire.Writer
	writing bool          // somebody writes, or has promised to
	mute    bool          // what waits is not written any more
	written chan struct{} // closed when the last packet is written, or never will be

	waiting, underway load // what waits in out, or is being written

	answers int           // bytes of answers in out
	drained chan struct{} // closed when the writer takes them; nil: nobody waits for that
}

// load is messages in a write buffer, whose bytes count as memory.
type load struct {
	messages, bytes int // at QoS 0, which nobody else keeps
	copies          int // bytes of those at QoS 1 and 2, which count for the session besides
}

// memory is what a load counts for.
func (l *load) memory() int64 { return int64(l.bytes + l.copies) }

const (
	// writeBound is how many bytes wait for the writer before messages at QoS 1 and 2 wait in the session's queue.
	writeBound = 256 << 10
	// answerBound is how many bytes of answers may wait. A client that sends and does not read must not fill our memory:
	// nothing is read from it any more.
	answerBound = 128 << 10
)

// claim reports whether the caller has to start the writer. The session's lock is held.
func (o *outbox) claim() bool {
	first := !o.writing
	o.writing = true
	return first
}

// wakeLater lets the writer of a connection be started at the end of the batch. The session's lock is held.
func (c *conn) wakeLater(wakes *[]*conn) {
	if c.claim() {
		*wakes = append(*wakes, c)
	}
}

// wakeAll starts writers.
func wakeAll(wakes []*conn) {
	for _, c := range wakes {
		go c.write()
	}
}

// write writes until nothing waits any more.
func (c *conn) write() {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		s.pump(c)
		out := c.take()
		if len(out) == 0 || c.mute {
			break
		}
		s.mu.Unlock()
		err := c.send(out)
		s.mu.Lock()
		c.out.Wrote()
		c.wrote()
		if err != nil {
			c.lose(err)
			break
		}
	}
	c.rested()
}

// send writes what take returned.
func (c *conn) send(out net.Buffers) error {
	if c.engine.traces {
		c.traceOut(out)
	}
	for _, b := range out {
		c.engine.stats.bytesSent.Add(uint64(len(b)))
	}
	if len(out) == 1 {
		_, err := c.net.Write(out[0])
		return err
	}
	if w, ok := c.net.(buffersWriter); ok {
		return w.WriteBuffers(out)
	}
	_, err := out.WriteTo(c.net)
	return err
}

// buffersWriter is a connection that writes several pieces in one system call.
type buffersWriter interface{ WriteBuffers(net.Buffers) error }

// take takes everything that waits.
func (c *conn) take() net.Buffers {
	out, _ := c.out.Take()
	c.underway, c.waiting = c.waiting, load{}
	c.answers = 0
	c.drain()
	return out
}

// drain lets the reader go on, if it waits until its answers are taken.
func (c *conn) drain() {
	if c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// wrote says that what take returned is gone.
func (c *conn) wrote() {
	c.engine.memory.Add(-c.underway.memory())
	c.underway = load{}
}

// lose ends the connection because it does not work any more.
func (c *conn) lose(err error) {
	if !c.over.Load() {
		c.cause = err
		c.out.Finish(nil)
		c.over.Store(true)
		c.net.SetReadDeadline(time.Unix(1, 0))
	}
}

// rested ends the writer.
func (c *conn) rested() {
	c.engine.memory.Add(-c.underway.memory() - c.waiting.memory())
	c.underway, c.waiting = load{}, load{}
	c.out.Wrote()
	c.out.Release()
	c.drain()
	c.writing = c.over.Load() // after the last packet nobody writes any more
	if c.writing {
		close(c.written)
	}
}

// charge counts messages at QoS 0 that were appended. After the last packet nothing is.
func (c *conn) charge(messages, bytes int) {
	if c.out.Finishing() {
		return
	}
	c.waiting.messages += messages
	c.waiting.bytes += bytes
	c.engine.memory.Add(int64(bytes))
}

// commitCopy takes the buffer back, with a message at QoS 1 or 2 that was appended.
func (c *conn) commitCopy(b []byte) {
	before := c.out.Waiting()
	c.out.Commit(b)
	n := c.out.Waiting() - before
	c.waiting.copies += n
	c.engine.memory.Add(int64(n))
}

// answer sends a packet to a client that waits for it.
func (c *conn) answer(p codec.Packet) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return takenOver
	}
	c.reply(p)
	c.wakeLater(&c.wakes)
	return nil
}

// reply appends a packet. One that is too large for the client, or that cannot be made, is left out. The session's lock is
// held. [MQTT-3.1.2-24] [MQTT-3.1.2-25]
// [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1]
// [MQTT-3.11.2-2] [MQTT-3.15.2-2] [MQTT-3.15.2-3] [MQTT-3.1.2-29]
func (c *conn) reply(p codec.Packet) {
	buffer := c.out.Buffer()
	b, err := p.Append(buffer, c.version)
	if n := len(b) - len(buffer); err == nil && (c.largest == 0 || n <= c.largest) {
		c.out.Commit(b)
		c.answers += n
		c.engine.stats.packetsSent.Add(1)
	}
}

// unflood waits while too many answers wait for the client.
func (c *conn) unflood() {
	c.session.mu.Lock()
	var drained chan struct{}
	if c.answers > answerBound && !c.over.Load() {
		if c.drained == nil {
			c.drained = make(chan struct{})
		}
		drained = c.drained
	}
	c.session.mu.Unlock()
	if drained != nil {
		c.wake()
		<-drained
	}
}
