// Package session holds what a client's session is made of, and what outlives a connection: packet identifiers, the
// messages in flight and queued, the QoS 1 and 2 handshakes in both directions, flow control and the order of
// acknowledgements.
//
// It is a state machine and nothing else. It does no I/O, starts no goroutine, reads no clock and takes no lock: its
// owner does, and calls one method at a time. A transition that has something to send appends the packet to the
// buffer it is given and returns it, so that a change of state and its packet can never come apart.
package session

import (
	"hash/maphash"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// MaxInFlight is how many PUBLISH packets may be in flight, whatever the server allows: the packet identifiers beyond
// it are there for SUBSCRIBE and UNSUBSCRIBE, of which more than a thousand may wait for their answers then.
const MaxInFlight = 64_511

// Message is an application message on its way to the server. Its slices and properties are the publisher's until
// its fate is known or Keep has copied them.
type Message struct {
	Topic      string
	Payload    []byte
	Properties *codec.PublishProperties // nil: none
	Expires    time.Duration            // on the owner's clock; 0: never
	QoS        byte
	Retain     bool
	Owner      any // handed back with the message's fate
}

func (m *Message) size() int { return len(m.Topic) + len(m.Payload) }

// Limits bound what waits and what is in flight.
type Limits struct {
	InFlight       int // PUBLISH packets in flight, at most MaxInFlight
	QueueMessages  int
	QueueBytes     int // topics and payloads
	ReceiveMaximum int // QoS 1 and 2 messages from the server that are not acknowledged; 0: as many as packet identifiers
}

// Session is one client's state. Its methods may not be called concurrently.
// [MQTT-2.2.1-4] [MQTT-4.1.0-1] [MQTT311-2.3.1-4] [MQTT311-4.1.0-1] [MQTT311-4.1.0-2]
type Session struct {
	version codec.Version
	limits  Limits

	// Outgoing. Everything that has a packet identifier of ours is in sent.
	sent     ring[outgoing]
	lastID   uint16
	seq      uint64 // of the latest entry in sent
	window   int    // how many PUBLISHes this connection allows in flight
	inFlight int    // PUBLISHes that count against window
	messages int    // in sent: PUBLISH or PUBREL
	requests int    // in sent: SUBSCRIBE or UNSUBSCRIBE
	ticket   uint64 // of the latest message that was queued
	queue    queue
	offline  queue    // of messages at QoS 0, which take no place in the window
	aliases  *aliases // nil: the server takes none
	largest  int      // packet that the server takes, in bytes; 0: any

	resends []uint16 // PUBLISHes to be sent again on this connection, oldest first
	suspect suspect
	again   fifo.Queue[outgoing] // of a lost session, to be published afresh before the queue

	// Incoming.
	seed      maphash.Seed
	received  ring[completing]
	held      ring[*Receipt] // QoS 2 messages with PUBREC to come, on this connection
	pubacks   order
	pubrecs   order
	away      map[awayKey]*Receipt // unacknowledged messages of earlier connections
	unsettled int                  // QoS 1 and 2 messages that occupy our Receive Maximum
	excess    int                  // by how much the server's resends have exceeded it on this connection
}

// New returns an empty session.
func New(v codec.Version, limits Limits) *Session {
	limits.InFlight = min(limits.InFlight, MaxInFlight)
	if limits.ReceiveMaximum == 0 {
		limits.ReceiveMaximum = maxID
	}
	return &Session{version: v, limits: limits, seed: maphash.MakeSeed()}
}

// Serve says what the server of a new connection takes: the largest packet, in bytes, 0 being any, and how many topic
// aliases. Those of an earlier connection are forgotten [MQTT-3.3.2-7]. Resumed or Renewed follows.
// [MQTT-3.2.2-17] [MQTT-3.2.2-18] [MQTT-3.3.2-9]
func (s *Session) Serve(largest, topicAliases int) {
	s.largest, s.aliases = largest, nil
	if topicAliases > 0 {
		s.aliases = &aliases{maximum: topicAliases}
	}
}

// Trim gives back memory that a burst has left behind. It is called when nothing has happened for a while.
func (s *Session) Trim() {
	s.sent.trim()
	s.received.trim()
	s.held.trim()
}

// StartAt sets the packet identifier before the first one that is handed out. A client that resumes the session of an
// earlier one picks it at random, so as not to use identifiers which that one had in flight.
func (s *Session) StartAt(id uint16) { s.lastID = id }

// InFlight returns the number of messages sent and not completed, on this connection or an earlier one.
func (s *Session) InFlight() int { return s.messages }

// Requests returns the number of SUBSCRIBEs and UNSUBSCRIBEs without an answer.
func (s *Session) Requests() int { return s.requests }

// Queued returns the number of messages that wait to be sent, and the bytes of their topics and payloads.
func (s *Session) Queued() (messages, bytes int) {
	return s.queue.length + s.offline.length + s.again.Len(), s.queue.bytes + s.offline.bytes
}

// Unacknowledged returns the number of messages from the server that are not completely acknowledged.
func (s *Session) Unacknowledged() int {
	return max(0, s.unsettled) // one that is arriving when the connection ends is accepted after Leave
}
