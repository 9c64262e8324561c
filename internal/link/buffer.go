package link

import (
	"sync"
	"time"
)

// Sizes of buffers, in bytes. A link reads into a small buffer until a read fills it, then into a large one, which it
// gives back after a read that the small one could have taken: ten thousand idle connections hold no large buffers,
// and a busy one reads in large pieces. A write buffer is held while something waits to be written, and a little longer.
const (
	smallBuffer = 384
	largeBuffer = 64 << 10
	// bufferBound is how many bytes may wait for the writer before Full says so. A larger bound gained nothing in
	// measurements, a smaller one cost up to twice the time per message.
	bufferBound = 1 << 20
	// answerBound is how many bytes of answers to the server may wait, beyond bufferBound. A server that sends and does
	// not read must not fill our memory: the reader then waits for the writer.
	answerBound = 16 << 20
)

// bufferRest is how long write buffers are kept when nothing waits in them. What is given back to a pool goes with the
// next collections, and a buffer that grows again and again costs more than the messages in it.
const bufferRest = 100 * time.Millisecond

var (
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	writeBuffers = sync.Pool{New: func() any { return &writeBuffer{bytes: make([]byte, 0, 2<<10)} }}
)

type writeBuffer struct{ bytes []byte }

// emptied returns the buffer with nothing in it, or nil if a very large packet has made it worth forgetting.
func (b *writeBuffer) emptied() *writeBuffer {
	if b == nil || cap(b.bytes) > 2*bufferBound {
		return nil
	}
	b.bytes = b.bytes[:0]
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

// took notes that a read brought n bytes, where there was room for space.
func (b *readBuffer) took(n, space int) {
	b.busy = n == space || n > smallBuffer
	b.to += n
}
