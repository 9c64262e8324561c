package mqtttest

import (
	"io"

	"github.com/petrel-mqtt/mqtt/codec"
)

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
