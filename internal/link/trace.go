package link

import "github.com/petrel-mqtt/mqtt/codec"

// traceOut shows the packets of b, which are about to be written.
func (l *Link) traceOut(b []byte) {
	if l.config.Trace == nil {
		return
	}
	for len(b) > 0 {
		h, n, err := codec.ParseHeader(b, l.config.Version)
		if n == 0 || err != nil {
			return
		}
		packet := b[:n+h.Length]
		l.config.Trace(true, h, packet)
		b = b[len(packet):]
	}
}

// traceIn shows the packet at the start of the read buffer, if it has come completely. The mutex is not held.
func (l *Link) traceIn() {
	b := l.in.unread()
	h, n, err := codec.ParseHeader(b, l.config.Version)
	if n == 0 || err != nil || l.skip > 0 || len(b) < n+h.Length {
		return
	}
	l.config.Trace(false, h, b[:n+h.Length])
}
