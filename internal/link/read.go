package link

import (
	"errors"
	"io"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/wire"
)

// batch is how many packets are handled in one critical section, so that publishers are not kept waiting for long.
const batch = 64

// ReadPacket reads one packet, before Start. body is good until the next call.
func (l *Link) ReadPacket() (codec.Header, []byte, error) {
	for {
		h, packet, ok, err := l.in.Next()
		switch {
		case err == nil && !ok:
			err = l.fill()
		case err == nil:
			l.traceIn(h, packet)
			return h, wire.Body(h, packet), nil
		}
		if err != nil {
			return h, nil, err
		}
	}
}

// read is the reader. It waits only for the connection and for mu, and for the writer when a server floods us.
func (l *Link) read() {
	err := l.receive()
	if l.refuse(err) {
		for err = nil; err == nil; { // until the server closes, or Wait's patience ends
			l.in.Discard()
			err = l.fill()
		}
	}
	l.in.Release()
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
	if l.out.Finishing() {
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
		if h, packet, more, err = l.in.Next(); more && err == nil {
			if l.config.Trace != nil {
				l.mu.Unlock()
				l.traceIn(h, packet)
				l.mu.Lock()
			}
			before := l.out.Waiting()
			err = l.packet(h, wire.Body(h, packet))
			l.out.answers += max(0, l.out.Waiting()-before)
		}
	}
	flooded := l.flooded()
	l.mu.Unlock()
	l.handler.Flush()
	if flooded != nil {
		select {
		case <-flooded:
		case <-l.end.closing:
		}
	}
	return more, err
}

// flooded returns a channel to wait for when too many answers wait for the writer, otherwise nil.
// The caller holds mu.
func (l *Link) flooded() <-chan struct{} {
	if l.out.answers <= answerBound {
		return nil
	}
	l.out.taken = make(chan struct{})
	return l.out.taken
}

// packet takes one packet. After Finish it is ignored.
// The caller holds mu.
func (l *Link) packet(h codec.Header, body []byte) error {
	switch {
	case l.out.Finishing():
		return nil
	case h.Type == codec.PINGRESP:
		return l.pingresp(h, body)
	}
	l.answered()
	return l.handler.Packet(h, body)
}

// oversized takes the start of a PUBLISH that is too large.
// The caller holds mu.
func (l *Link) oversized(h codec.Header, start []byte) error {
	if l.out.Finishing() {
		return nil
	}
	return l.handler.Oversized(h, start)
}

// fill reads once from the connection.
func (l *Link) fill() error {
	l.in.ear.listen(time.Since(l.began))
	n, err := l.in.Fill(l.conn)
	l.in.came = time.Since(l.began)
	l.in.ear.hear(l.in.came)
	l.in.bytes.Add(uint64(n))
	if errors.Is(err, io.EOF) {
		return ErrServerClosed
	}
	return err
}
