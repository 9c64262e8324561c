// Package wire holds what both ends of an MQTT connection need: a reader that frames packets in place, a writer that
// gathers packets into few writes, and the steps that get a last packet to the peer before the connection closes.
//
// It starts no goroutine, takes no lock and reads no clock: its owner does. It knows packets only by their headers.
package wire

import (
	"errors"
	"net"
	"time"
)

// Farewell is how long a connection may stay open after its last packet was appended: so long the packet has to go out,
// and the peer to close.
const Farewell = time.Second

// CloseWrite tells the peer that no more will come. It is the first step of a farewell, after the last packet is written.
// The second is to read until the peer has closed or Farewell is over: to close the connection while bytes from the peer are
// unread could destroy the last packet on its way. The error is errors.ErrUnsupported when conn cannot be closed in one
// direction. Then the owner closes it at once.
func CloseWrite(conn net.Conn) error {
	c, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return c.CloseWrite()
}

// BufferRest is how long a Writer should be idle before its memory is released. What is given back to a pool goes with the
// next collections, and a buffer that grows again and again costs more than the messages in it.
const BufferRest = 100 * time.Millisecond
