package codec

import "io"

// ReadPacket reads one packet, for tests and simple peers: it makes a Read for each byte of the header. A packet of more
// than limit bytes, header included, is an [*Error] with PacketTooLarge before its body is read; 0 is no limit. What is
// allocated grows with the bytes that come, whatever the header says. At the end of r the error is io.EOF between packets
// and io.ErrUnexpectedEOF within one; other errors of r come back as they are. The packet owns its bytes.
func ReadPacket(r io.Reader, v Version, limit int) (Packet, error) {
	h, n, err := readHeader(r, v)
	if err != nil {
		return nil, err
	}
	if limit > 0 && n+h.Length > limit { // [MQTT-3.1.2-24]
		return nil, newError(h.Type, v, PacketTooLarge, "MQTT-3.1.2-24", "2.2.3", "packet longer than the limit")
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(h.Length)))
	if err != nil {
		return nil, err
	}
	if len(body) < h.Length {
		return nil, io.ErrUnexpectedEOF
	}
	return Decode(h, body, v)
}

func readHeader(r io.Reader, v Version) (h Header, n int, err error) {
	var b [5]byte
	for i := 0; n == 0 && err == nil; i++ { // five bytes are a header or an error
		if _, err = io.ReadFull(r, b[i:i+1]); err == nil {
			h, n, err = ParseHeader(b[:i+1], v)
		} else if err == io.EOF && i > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return h, n, err
}
