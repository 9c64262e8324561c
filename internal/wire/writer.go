package wire

import "net"

// Bound is a good Writer.Bound, in bytes, for a connection that must be as fast as possible. A larger one gained nothing
// in measurements, a smaller one cost up to twice the time per message.
const Bound = 1 << 20

// Writer gathers packets in one buffer while those of another are written, so that many packets share a write. Its owner
// guards it with a mutex: it changes its own state and appends the packet that follows from it in one critical section,
// so that the order on the wire is the order of the state. The mutex is not held during the write itself:
//
//	b, err := packet.Append(w.Buffer(), version)
//	wake := w.Commit(b)           // then start the goroutine that writes, or wake it
//
//	for out, room := w.Take(); len(out) > 0; out, room = w.Take() {
//		// without the mutex: out.WriteTo(conn)
//		w.Wrote()
//	}
//
// The zero Writer is ready. It holds memory only while something waits or is written, and afterwards until Release.
type Writer struct {
	// Bound is how many bytes may wait before Full says so; 0: one. It does not limit what can be appended.
	Bound int

	out     *writeBuffer // what waits; nil: nothing
	taken   *writeBuffer // what Take has returned
	writing bool         // Take has returned something, and Wrote was not called since
	full    bool         // Full said yes since the last Take
	last    bool         // Finish was called
}

// Buffer returns the buffer to append packets to; Commit must follow, unless nothing was appended.
func (w *Writer) Buffer() []byte {
	if w.out == nil {
		w.out = writeBuffers.Get().(*writeBuffer)
	}
	return w.out.bytes
}

// Commit takes the buffer back, with what was appended. wake is true when nothing waited before: then the writing
// goroutine must be started or woken. It need not be woken again before it has called Take.
func (w *Writer) Commit(b []byte) (wake bool) {
	if w.last || len(b) == len(w.out.bytes) {
		return false // after Finish nothing goes out any more [MQTT-3.14.4-1]
	}
	wake = w.out.length() == 0
	w.out.bytes = b
	return wake
}

// Share appends packets without a copy. They must never change afterwards, because the owner cannot know when
// they are written. Sharing is faster than a copy from about 8 KiB on.
func (w *Writer) Share(packets []byte) (wake bool) {
	if w.last || len(packets) == 0 {
		return false
	}
	w.Buffer()
	wake = w.out.length() == 0
	w.out.share(packets)
	return wake
}

// Waiting returns how many bytes wait: those that Take has returned do not count.
func (w *Writer) Waiting() int {
	if w.out == nil {
		return 0
	}
	return w.out.length()
}

// Full reports whether so much waits that only acknowledgements and the like should be appended. After it was true, the
// next Take says that there is room.
func (w *Writer) Full() bool {
	if n := w.Waiting(); n > 0 && n >= w.Bound {
		w.full = true
	}
	return w.full
}

// Take returns everything that waits, to be written in this order without the mutex. It is good until the next Take or
// Release, and the caller may consume it. Wrote must follow. room is true when Full has said yes since the last Take.
func (w *Writer) Take() (out net.Buffers, room bool) {
	w.out, w.taken = w.taken.emptied(), w.out
	room, w.full = w.full, false
	if w.taken == nil {
		return nil, room
	}
	w.writing = w.taken.length() > 0
	return w.taken.all(), room
}

// Wrote says that what Take returned is written, or never will be.
func (w *Writer) Wrote() { w.writing = false }

// Writing reports whether a write is under way: Wrote has not followed on Take.
func (w *Writer) Writing() bool { return w.writing }

// Finish appends the last packet, a DISCONNECT for example: what is appended after it is dropped. It reports false if
// there was a last packet already. The farewell follows once everything is written: CloseWrite says how.
func (w *Writer) Finish(packet []byte) (first bool) {
	if w.last {
		return false
	}
	w.Commit(append(w.Buffer(), packet...))
	w.last = true
	return true
}

// Finishing reports whether Finish was called.
func (w *Writer) Finishing() bool { return w.last }

// Idle reports whether nothing waits and memory is held all the same.
func (w *Writer) Idle() bool {
	return !w.writing && w.Waiting() == 0 && (w.out != nil || w.taken != nil)
}

// Release gives the memory back, with everything that waits. No write may be under way. A busy connection should keep it
// for a moment, because it wants it again at once: BufferRest is a good one.
func (w *Writer) Release() {
	w.out.release()
	w.taken.release()
	w.out, w.taken, w.writing = nil, nil, false
}
