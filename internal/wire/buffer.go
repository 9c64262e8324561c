package wire

import (
	"net"
	"sync"
)

// Sizes of buffers, in bytes. A connection reads into a small buffer until a read fills it, then into a large one, which
// it gives back after a read that the small one could have taken: ten thousand idle connections hold no large buffers,
// and a busy one reads in large pieces.
const (
	smallBuffer = 384
	largeBuffer = 64 << 10
)

// keptBuffer is the largest write buffer that is used again, in bytes. A larger one held a very large packet.
const keptBuffer = 2 << 20

var (
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	writeBuffers = sync.Pool{New: func() any { return &writeBuffer{bytes: make([]byte, 0, 2<<10)} }}
)

// writeBuffer holds packets in the order in which they were appended: pieces, then bytes[cut:].
type writeBuffer struct {
	bytes  []byte      // copied
	cut    int         // bytes[:cut] is in pieces
	shared int         // bytes that pieces refer to outside of bytes
	pieces net.Buffers // in turn from bytes and shared; empty as long as nothing is shared
}

func (b *writeBuffer) length() int { return len(b.bytes) + b.shared }

// share appends a reference to p.
func (b *writeBuffer) share(p []byte) {
	b.closePiece()
	b.pieces = append(b.pieces, p)
	b.shared += len(p)
}

// closePiece moves what was copied since the last piece into a piece. When bytes grows later, the piece keeps the old
// memory, which has the same content.
func (b *writeBuffer) closePiece() {
	if b.cut < len(b.bytes) {
		b.pieces = append(b.pieces, b.bytes[b.cut:])
		b.cut = len(b.bytes)
	}
}

// all returns everything in the buffer.
func (b *writeBuffer) all() net.Buffers {
	b.closePiece()
	return b.pieces
}

// emptied returns the buffer with nothing in it, or nil if it is not worth keeping.
func (b *writeBuffer) emptied() *writeBuffer {
	if b == nil || cap(b.bytes) > keptBuffer {
		return nil
	}
	clear(b.pieces)
	*b = writeBuffer{bytes: b.bytes[:0], pieces: b.pieces[:0]}
	return b
}

// release gives the buffer back.
func (b *writeBuffer) release() {
	if b = b.emptied(); b != nil {
		writeBuffers.Put(b)
	}
}

// readBuffer holds what was read and not yet handled: data[from:to].
type readBuffer struct {
	data     []byte
	from, to int
	busy     bool // the last read was more than a small buffer's
}

func (b *readBuffer) unread() []byte { return b.data[b.from:b.to] }

// space returns room to read into. need is the length of the packet at from, 0 if not known yet. It may cause what is
// there to be moved; how much is allocated depends on the bytes that came: a full buffer doubles.
func (b *readBuffer) space(need int) []byte {
	pending := b.to - b.from
	switch {
	case pending == 0 && len(b.data) != smallBuffer && (!b.busy || len(b.data) > largeBuffer):
		b.replace(make([]byte, smallBuffer))
	case len(b.data) < largeBuffer && (b.busy || pending == len(b.data)):
		b.replace(largeBuffers.Get().(*[largeBuffer]byte)[:])
	case pending == len(b.data):
		b.replace(make([]byte, min(2*len(b.data), need)))
	case pending == 0:
		b.from, b.to = 0, 0
	case b.from > 0 && (b.to == len(b.data) || need > len(b.data)-b.from):
		b.from, b.to = 0, copy(b.data, b.unread())
	}
	return b.data[b.to:]
}

// replace moves what is unread to the start of data, which becomes the buffer.
func (b *readBuffer) replace(data []byte) {
	n := copy(data, b.unread())
	b.release()
	b.data, b.from, b.to = data, 0, n
}

// release lets the buffer go.
func (b *readBuffer) release() {
	if len(b.data) == largeBuffer {
		largeBuffers.Put((*[largeBuffer]byte)(b.data))
	}
	*b = readBuffer{busy: b.busy}
}

// trim gives a large buffer back, because nothing has come for a while. What is unread keeps what it needs.
func (b *readBuffer) trim() {
	b.busy = false
	if n := b.to - b.from; len(b.data) == largeBuffer && n < largeBuffer {
		b.replace(make([]byte, max(n, smallBuffer)))
	}
}

// took notes that a read brought n bytes, where there was room for space.
func (b *readBuffer) took(n, space int) {
	b.busy = n == space || n > smallBuffer
	b.to += n
}
