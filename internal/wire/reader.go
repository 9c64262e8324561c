package wire

import (
	"fmt"
	"io"

	"github.com/petrel-mqtt/mqtt/codec"
)

// startSize is how many bytes behind its header are shown of an oversized PUBLISH: enough to hold its topic name and packet
// identifier.
const startSize = 2 + 65_535 + 2

// Reader reads from a connection and cuts what comes into packets. It belongs to one goroutine at a time, which may change
// the exported fields between two calls.
type Reader struct {
	Version codec.Version
	// Limit is the largest packet that is taken, in bytes, header included; 0: no limit.
	Limit int
	// LimitRule is the statement that a larger packet breaks, for the error.
	LimitRule string
	// Oversized, if it is not nil, is called by Next with the start of a PUBLISH beyond Limit: what follows the header, at
	// least topic name and packet identifier. The rest is thrown away as it comes. An error becomes that of Next. Every other
	// packet beyond Limit is an error, and without Oversized every PUBLISH too.
	Oversized func(h codec.Header, start []byte) error

	in   readBuffer
	need int // length of the packet that has come in part; 0: not known
	skip int // bytes of an oversized packet to throw away
}

// Next returns the next packet of what has been read, header included; ok is false if none has come completely, and then
// Fill brings more. The packets that it returns between two calls of Fill lie in one buffer and stay good until the second
// call. Errors are of type [*codec.Error], or Oversized's, and are final.
// [MQTT-4.2.0-1] [MQTT311-4.2]
func (r *Reader) Next() (h codec.Header, packet []byte, ok bool, err error) {
	for {
		if r.skip > 0 {
			r.throwAway()
		}
		b := r.in.unread()
		h, n, err := codec.ParseHeader(b, r.Version)
		r.need = 0
		if n == 0 || err != nil {
			return h, nil, false, err
		}
		total := n + h.Length
		if r.Limit > 0 && total > r.Limit {
			if passed, err := r.oversized(h, n); !passed || err != nil {
				return h, nil, false, err
			}
			continue
		}
		if total > len(b) {
			r.need = total
			return h, nil, false, nil
		}
		r.in.from += total
		return h, b[:total:total], true, nil
	}
}

// Body returns what follows the header of a packet.
func Body(h codec.Header, packet []byte) []byte { return packet[len(packet)-h.Length:] }

// throwAway removes what has come of an oversized packet.
func (r *Reader) throwAway() {
	n := min(r.skip, len(r.in.unread()))
	r.in.from += n
	r.skip -= n
}

// oversized shows the start of a packet beyond the limit, or refuses it. passed is false while the start has not come.
func (r *Reader) oversized(h codec.Header, n int) (passed bool, err error) {
	if r.Oversized == nil || h.Type != codec.PUBLISH {
		return false, r.tooLarge(h, n)
	}
	b := r.in.unread()
	start := n + min(h.Length, startSize)
	if start > len(b) {
		r.need = start
		return false, nil
	}
	r.in.from += start
	r.skip = n + h.Length - start
	return true, r.Oversized(h, b[n:start])
}

func (r *Reader) tooLarge(h codec.Header, n int) error {
	return &codec.Error{
		Packet: h.Type, Code: codec.PacketTooLarge, Rule: r.LimitRule,
		Detail: fmt.Sprintf("%d bytes are more than the receiver's Maximum Packet Size of %d", n+h.Length, r.Limit),
	}
}

// Fill reads once from src. Packets that Next returned before are no longer good. How much memory is held depends on the
// bytes that came, never on what a header announces. An error of src comes back only if no byte came with it.
func (r *Reader) Fill(src io.Reader) (n int, err error) {
	space := r.in.space(r.need)
	n, err = src.Read(space)
	if n == 0 && err != nil {
		return 0, err
	}
	r.in.took(n, len(space))
	return n, nil
}

// Discard throws away what has been read and not returned by Next yet. With Fill in a loop it waits for the peer to close.
func (r *Reader) Discard() { r.in.from = r.in.to }

// Held returns how many bytes of memory the Reader holds.
func (r *Reader) Held() int { return len(r.in.data) }

// Trim gives memory back that a busy connection wants and a silent one does not need. Packets that Next returned before are
// no longer good.
func (r *Reader) Trim() { r.in.trim() }

// Release gives the memory back. Fill takes it again.
func (r *Reader) Release() { r.in.release() }
