package link

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// batch is how many packets are handled in one critical section, so that publishers are not kept waiting for long.
const batch = 64

// oversizedStart is enough of a PUBLISH to hold its topic name and packet identifier.
const oversizedStart = 2 + 65_535 + 2

// ReadPacket reads one packet, before Start. body is good until the next call.
func (l *Link) ReadPacket() (codec.Header, []byte, error) {
	for {
		h, packet, ok, err := l.next()
		switch {
		case err == nil && !ok:
			err = l.fill()
		case err == nil:
			l.traceIn(h, packet)
			return h, bodyOf(h, packet), nil
		}
		if err != nil {
			return h, nil, err
		}
	}
}

// read is the reader. It waits for nothing but the connection and the mutex, and for the writer when a server floods us.
func (l *Link) read() {
	err := l.receive()
	if l.refuse(err) {
		for err = nil; err == nil; { // until the server closes, or Wait's patience ends
			l.in.from = l.in.to
			err = l.fill()
		}
	}
	l.in.release()
	l.Close(err)
}

func (l *Link) receive() error {
	for {
		more, err := l.dispatch()
		if err == nil && !more {
			err = l.fill()
		}
		if err != nil {
			return err
		}
	}
}

// refuse answers a packet that breaks the specification with a DISCONNECT that says why [MQTT-4.13.1]. Only MQTT 5
// can. It reports whether a last packet is on the way, this one or an earlier one.
// [MQTT311-4.8.0-1]
func (l *Link) refuse(err error) bool {
	var broken *codec.Error
	if !errors.As(err, &broken) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last {
		return true
	}
	if l.config.Version < codec.V5 {
		return false
	}
	packet, encodeErr := (&codec.Disconnect{Code: broken.Code}).Append(nil, l.config.Version)
	if encodeErr != nil {
		return false
	}
	l.Finish(err, packet)
	l.handler.Refused()
	return true
}

// dispatch hands a batch of the packets that have come to the handler and reports whether there may be more.
func (l *Link) dispatch() (more bool, err error) {
	l.mu.Lock()
	more = true
	for n := 0; n < batch && more && err == nil; n++ {
		var h codec.Header
		var packet []byte
		if h, packet, more, err = l.next(); more && err == nil {
			if l.config.Trace != nil {
				l.mu.Unlock()
				l.traceIn(h, packet)
				l.mu.Lock()
			}
			before := l.waiting()
			err = l.packet(h, bodyOf(h, packet))
			l.answers += max(0, l.waiting()-before)
		}
	}
	flooded := l.flooded()
	l.mu.Unlock()
	l.handler.Flush()
	if flooded != nil {
		select {
		case <-flooded:
		case <-l.closing:
		}
	}
	return more, err
}

// waiting returns how many bytes wait for the writer.
func (l *Link) waiting() int {
	if l.out == nil {
		return 0
	}
	return len(l.out.bytes)
}

// flooded returns a channel to wait for when too many answers wait for the writer, with the mutex held.
func (l *Link) flooded() <-chan struct{} {
	if l.answers <= answerBound {
		return nil
	}
	l.taken = make(chan struct{})
	return l.taken
}

// packet takes one packet, with the mutex held. After Finish none is of interest any more.
func (l *Link) packet(h codec.Header, body []byte) error {
	switch {
	case l.last:
		return nil
	case h.Type == codec.PINGRESP:
		return l.pingresp(h, body)
	}
	return l.handler.Packet(h, body)
}

// bodyOf returns what follows the header of a packet.
func bodyOf(h codec.Header, packet []byte) []byte { return packet[len(packet)-h.Length:] }

// next returns the next packet of the read buffer; ok is false if it has not come completely.
// [MQTT-4.2.0-1] [MQTT311-4.2]
func (l *Link) next() (h codec.Header, packet []byte, ok bool, err error) {
	for {
		l.throwAway()
		b := l.in.unread()
		h, n, err := codec.ParseHeader(b, l.config.Version)
		l.need = 0
		if n == 0 || err != nil {
			return h, nil, false, err
		}
		total := n + h.Length
		if limit := l.config.MaximumPacketSize; limit > 0 && total > limit {
			if passed, err := l.oversized(h, n); !passed || err != nil {
				return h, nil, false, err
			}
			continue
		}
		if total > len(b) {
			l.need = total
			return h, nil, false, nil
		}
		l.in.from += total
		return h, b[:total], true, nil
	}
}

// throwAway removes what has come of an oversized packet.
func (l *Link) throwAway() {
	n := min(l.skip, len(l.in.unread()))
	l.in.from += n
	l.skip -= n
}

// oversized refuses a packet that exceeds what we announced [MQTT-3.1.2-24]. MQTT 3.1.1 can announce nothing: there a
// PUBLISH is skipped piece by piece, and its start shown to the handler. passed is false while that has not come.
func (l *Link) oversized(h codec.Header, n int) (passed bool, err error) {
	if l.config.Version >= codec.V5 || h.Type != codec.PUBLISH || l.handler == nil {
		rule := "MQTT-3.1.2-24"
		if l.config.Version < codec.V5 {
			rule = "2.2.3" // which has no limit but its own: the limit is the application's
		}
		return false, &codec.Error{
			Packet: h.Type, Code: codec.PacketTooLarge, Rule: rule,
			Detail: fmt.Sprintf("%d bytes are more than this client's Maximum Packet Size of %d", n+h.Length, l.config.MaximumPacketSize),
		}
	}
	start := n + min(h.Length, oversizedStart)
	b := l.in.unread()
	if start > len(b) {
		l.need = start
		return false, nil
	}
	l.in.from += start
	l.skip = n + h.Length - start
	if l.last {
		return true, nil
	}
	return true, l.handler.Oversized(h, b[n:start])
}

// fill reads once from the connection.
func (l *Link) fill() error {
	space := l.in.space(l.need)
	l.ear.listen(time.Since(l.began))
	n, err := l.conn.Read(space)
	l.ear.hear(time.Since(l.began))
	if n == 0 && err != nil {
		if errors.Is(err, io.EOF) {
			return ErrServerClosed
		}
		return err
	}
	l.in.took(n, len(space))
	l.bytesIn.Add(uint64(n))
	return nil
}
