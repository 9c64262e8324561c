package session

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// recording lets the owner record that a message at QoS 2 has been accepted before its PUBREC is sent.
type recording struct {
	record func(Received)
	line   fifo.Queue[owed] // on this connection, in the order in which they are sent
}

// owed is a PUBREC that is still to be sent.
type owed struct {
	id     uint16
	waits  bool // for Recorded
	reason *Reason
}

// RecordReceived makes every PUBREC that accepts a message wait: record is called when everybody has accepted the message,
// and PUBREC is sent by Recorded. record must not call the session. It is set before any message comes.
func (s *Session) RecordReceived(record func(Received)) {
	s.in.recording = &recording{record: record}
}

// lastingContent hashes what tells one message from another, also in a later process.
func lastingContent(p *codec.PublishView) uint64 {
	topic, payload := sha256.Sum256(p.Topic), sha256.Sum256(p.Payload)
	var both [2 * sha256.Size]byte
	copy(both[copy(both[:], topic[:]):], payload[:])
	sum := sha256.Sum256(both[:])
	return binary.BigEndian.Uint64(sum[:])
}

// Recorded says that the packet identifier, which was given to record, is on disk. It appends the PUBRECs whose turn it is
// now [MQTT-4.6.0-3]. If the connection has ended since, there is none: the peer sends the message again.
// [MQTT311-4.6.0-3]
func (s *Session) Recorded(dst []byte, id uint16) []byte {
	if c := s.in.received.get(id); c != nil {
		c.unsaved = false
	}
	line := &s.in.recording.line
	for i := range line.Len() {
		if o := line.At(i); o.id == id {
			o.waits = false
		}
	}
	return s.sendOwed(dst)
}

// Recording reports whether PUBRECs of this connection wait for Recorded.
func (s *Session) Recording() bool { return s.in.recording != nil && s.in.recording.line.Len() > 0 }

// sendPubrec appends a PUBREC, or puts it in line if it or one before it waits for Recorded.
func (s *Session) sendPubrec(dst []byte, id uint16, reason *Reason) []byte {
	if s.in.recording == nil {
		return s.appendAck(dst, id, 2, reason)
	}
	c := s.in.received.get(id)
	s.in.recording.line.Push(owed{id, c != nil && c.unsaved && !reason.failed(), reason})
	return s.sendOwed(dst)
}

func (s *Session) sendOwed(dst []byte) []byte {
	for line := &s.in.recording.line; line.Len() > 0 && !line.At(0).waits; {
		o := line.Pop()
		dst = s.appendAck(dst, o.id, 2, o.reason)
	}
	return dst
}

// forget ends the connection.
func (r *recording) forget() {
	if r != nil {
		r.line = fifo.Queue[owed]{}
	}
}
