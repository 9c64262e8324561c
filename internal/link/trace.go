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

// traceIn shows a packet that has come. The caller does not hold mu.
func (l *Link) traceIn(h codec.Header, packet []byte) {
	if l.config.Trace != nil {
		l.config.Trace(false, h, packet)
	}
}
