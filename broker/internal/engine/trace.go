package engine

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/petrel-mqtt/mqtt/codec"
)

// traces reports whether packets are logged.
func traces(log *slog.Logger) bool { return log.Enabled(context.Background(), slog.LevelDebug) }

// traceOut logs packets that are about to be written. Pieces end where packets do.
func (c *conn) traceOut(pieces net.Buffers) {
	for _, b := range pieces {
		for len(b) > 0 {
			h, n, err := codec.ParseHeader(b, c.version)
			if n == 0 || err != nil || n+h.Length > len(b) {
				return
			}
			c.trace("packet out", &packet{h, b[:n+h.Length]})
			b = b[n+h.Length:]
		}
	}
}

// trace logs one packet.
func (c *conn) trace(what string, p *packet) {
	decoded, err := codec.Decode(p.Header, p.Body(), c.version)
	if err != nil {
		return // what is wrong with it is said at the end of the connection
	}
	id := ""
	if c.client != nil {
		id = c.client.ID
	}
	attrs := []any{"type", p.Type.String(), "client", brief(id), "size", len(p.bytes)}
	c.engine.log.Debug(what, append(attrs, details(decoded, p)...)...)
}

// details are what matters of a packet, besides its type. Payloads, passwords and the like are not shown.
func details(decoded codec.Packet, p *packet) (attrs []any) {
	withID := func(id uint16) { attrs = append(attrs, "id", id) }
	switch d := decoded.(type) {
	case *codec.Publish:
		if d.QoS > 0 {
			withID(d.PacketID)
		}
		attrs = append(attrs, "topic", brief(d.Topic), "qos", d.QoS, "retain", d.Retain, "dup", d.Dup, "payload", len(d.Payload))
	case *codec.Subscribe:
		withID(d.PacketID)
		for _, f := range d.Filters[:min(len(d.Filters), tracedFilters)] {
			attrs = append(attrs, "filter", brief(f.Filter), "qos", f.QoS)
		}
		attrs = appendMore(attrs, len(d.Filters))
	case *codec.Unsubscribe:
		withID(d.PacketID)
		for _, f := range d.Filters[:min(len(d.Filters), tracedFilters)] {
			attrs = append(attrs, "filter", brief(f))
		}
		attrs = appendMore(attrs, len(d.Filters))
	case *codec.Puback:
		withID(d.PacketID)
		attrs = appendReasons(attrs, d.Code)
	case *codec.Pubrec:
		withID(d.PacketID)
		attrs = appendReasons(attrs, d.Code)
	case *codec.Pubrel:
		withID(d.PacketID)
		attrs = appendReasons(attrs, d.Code)
	case *codec.Pubcomp:
		withID(d.PacketID)
		attrs = appendReasons(attrs, d.Code)
	case *codec.Suback:
		withID(d.PacketID)
		attrs = appendReasons(attrs, d.Codes...)
	case *codec.Unsuback:
		withID(d.PacketID)
		attrs = appendReasons(attrs, d.Codes...)
	case *codec.Connack:
		attrs = appendReasons(attrs, d.Code)
	case *codec.Disconnect:
		attrs = appendReasons(attrs, d.Code)
	case *codec.Auth:
		attrs = appendReasons(attrs, d.Code)
	}
	return attrs
}

// tracedFilters is how many filters of a packet are logged, and how many of the reason codes that answer them.
const tracedFilters = 5

// appendMore appends how many filters there are if they are not all logged.
func appendMore(attrs []any, filters int) []any {
	if filters > tracedFilters {
		attrs = append(attrs, "filters", filters)
	}
	return attrs
}

// appendReasons appends reason codes in hexadecimal, unless there is one only, which says success.
func appendReasons(attrs []any, codes ...codec.ReasonCode) []any {
	if len(codes) == 0 || len(codes) == 1 && codes[0] == codec.Success {
		return attrs
	}
	b := make([]byte, min(len(codes), tracedFilters))
	for i := range b {
		b[i] = byte(codes[i])
	}
	return appendMore(append(attrs, "reason", fmt.Sprintf("% X", b)), len(codes))
}
