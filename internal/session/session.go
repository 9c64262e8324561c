// Package session holds the state of an MQTT session, for either end: packet identifiers, the messages in flight and those
// that wait, the QoS 1 and 2 handshakes in both directions, flow control, and the order of acknowledgements.
//
// It is only a state machine. It does no I/O, starts no goroutine, reads no clock and takes no lock: its owner does that,
// and calls one method at a time. A transition that has something to send appends the packet to the buffer that it is given
// and returns the buffer, so that a change of state always comes with its packet.
//
// # Connections
//
// A Session outlives connections. Each begins with Serve, which says what holds on it, and then Resumed if the peer has the
// session too, or Renewed if it has lost it. It ends with Lost; EndIncoming may come before, when nothing that is appended
// will be written any more. Between connections messages can still be queued, and receipts settled.
//
// # Sending
//
// A message at QoS 1 or 2 is sent with Send if Ready says so, and otherwise waits after Queue, if CanQueue says so. After
// every acknowledgement, and after Resumed and Renewed, the owner sends what may go out:
//
//	for m := s.Resending(); m != nil; m = s.Resending() { dst, err = s.Resend(dst, now) }
//	for m := s.Front(); m != nil; m = s.Front() { dst, id, err = s.SendFront(dst, now) }
//
// Either loop may pause when the buffer is full. Puback, Pubrec and Pubcomp take the acknowledgements and return the message
// that is complete. A message at QoS 0 is encoded with AppendPublish and leaves no trace.
//
// # Receiving
//
// Arrive takes a PUBLISH at QoS 1 or 2 and says whether it is new. A new one is acknowledged with Accept, at once, or held
// with Hold until the owner or its subscribers are done with it. Acknowledgements of one kind leave in the order in which
// their messages came. A PUBLISH at QoS 0 does not concern the session. Pubrel takes the third packet of QoS 2.
//
// # Stores
//
// The owner can have a record written to disk between the cause and the packet:
//
//	PUBACK, PUBREC   Hold; when the message, and for PUBREC its identifier, is on disk: Release
//	PUBCOMP          when the end of the identifier is on disk: Pubrel
//	PUBLISH          Prepare, or PrepareFront; when the identifier is on disk: Confirm, and the loop above sends it
//	PUBREL           Acknowledged; when it is on disk that PUBREC came: Pubrec. InFlightMessage says beforehand what it will find
//
// State and Restore bring a session across the death of the process.
package session

import (
	"cmp"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// MaxInFlight is how many PUBLISH packets may be in flight, whatever the peer allows: the packet identifiers beyond it
// are left for SUBSCRIBE and UNSUBSCRIBE, of which more than a thousand may then wait for their answers.
const MaxInFlight = 64_511

// Message is an application message on its way to the peer. Its slices and properties must not change until its fate is
// known, or Keep has copied them; several sessions may share them.
type Message struct {
	Topic      string
	Payload    []byte
	Properties *codec.PublishProperties // nil: none; they are left out on MQTT 3.1.1
	// SubscriptionIdentifiers are sent by a server only; they are left out on MQTT 3.1.1.
	SubscriptionIdentifiers []uint32
	Expires                 time.Duration // on the owner's clock; 0: never. It counts only with Properties
	QoS                     byte
	Retain                  bool
	Owner                   any // handed back with the message's fate
}

func (m *Message) size() int { return len(m.Topic) + len(m.Payload) }

// Limits bound what waits and what is in flight. They hold as long as the session.
type Limits struct {
	InFlight      int // PUBLISH packets in flight, at most MaxInFlight
	InFlightQoS2  int // the same from the first message at QoS 2 on, see ExpectQoS2; 0: as before
	QueueMessages int
	QueueBytes    int // topics and payloads
}

// Connection is what holds on one connection.
type Connection struct {
	Version codec.Version
	// PeerReceiveMaximum is how many PUBLISHes at QoS 1 and 2 the peer lets be in flight; on MQTT 3.1.1, which has no such
	// bound, 65,535. [MQTT-3.3.4-7]
	PeerReceiveMaximum int
	// PeerPacketSize is the largest packet that the peer takes, in bytes; 0: any.
	PeerPacketSize int
	// PeerTopicAliases is how many topic aliases the peer takes [MQTT-3.2.2-17] [MQTT-3.2.2-18].
	PeerTopicAliases int
	// PeerMayForget says that the peer may lose its state without a word, as servers do that crash: then a resend is
	// recognised by its content too, and a packet identifier in use that comes with another content is a new message. A server
	// leaves it out: to it an identifier in use is a duplicate whatever the content [MQTT-4.3.3-10].
	PeerMayForget bool
	// ReceiveMaximum is how many messages at QoS 1 and 2 from the peer may be unacknowledged; 0: as many as there are packet
	// identifiers.
	ReceiveMaximum int
	// Announced is the Receive Maximum that the peer was told, for Exhausted; 0: ReceiveMaximum.
	Announced int
}

// Session is the state of one session. Its methods may not be called concurrently.
// [MQTT-2.2.1-4] [MQTT-4.1.0-1] [MQTT311-2.3.1-4] [MQTT311-4.1.0-1] [MQTT311-4.1.0-2]
type Session struct {
	limits    Limits
	version   codec.Version
	mayForget bool // Connection.PeerMayForget
	largest   int  // Connection.PeerPacketSize
	out       outgoing
	in        incoming
}

// New returns an empty session.
func New(limits Limits) *Session {
	limits.InFlight = min(limits.InFlight, MaxInFlight)
	return &Session{limits: limits}
}

// Serve begins a connection. Topic aliases of an earlier one are forgotten [MQTT-3.3.2-7]. Resumed or Renewed follows.
// [MQTT-3.2.2-17] [MQTT-3.2.2-18] [MQTT-3.3.2-9]
func (s *Session) Serve(c Connection) {
	s.version, s.mayForget, s.largest = c.Version, c.PeerMayForget, c.PeerPacketSize
	s.out.window = min(s.limits.InFlight, c.PeerReceiveMaximum)
	s.out.aliases = nil
	if c.PeerTopicAliases > 0 && c.Version >= codec.V5 {
		s.out.aliases = &aliases{maximum: c.PeerTopicAliases}
	}
	maximum := min(cmp.Or(c.ReceiveMaximum, maxID), maxID)
	s.in.maximum, s.in.announced = uint16(maximum), uint16(cmp.Or(c.Announced, maximum))
}

// ExpectQoS2 says that a message at QoS 2 is about to be sent or queued. From the first one on InFlightQoS2 is the limit:
// there are servers that acknowledge more messages at QoS 2 than they keep, and do not announce how many they keep.
func (s *Session) ExpectQoS2() {
	if n := s.limits.InFlightQoS2; n > 0 {
		s.limits.InFlight = min(s.limits.InFlight, n)
		s.limits.InFlightQoS2 = 0
		s.out.window = min(s.out.window, n)
	}
}

// Trim gives back memory that a burst has left behind. It is called when nothing has happened for a while.
func (s *Session) Trim() {
	s.out.trim()
	s.in.trim()
}

// InFlight returns the number of messages sent and not completed, on this connection or an earlier one, and those prepared.
func (s *Session) InFlight() int { return s.out.messages }

// Queued returns the number of messages that wait to be sent, and the bytes of their topics and payloads.
func (s *Session) Queued() (messages, bytes int) {
	if q := s.out.queues; q != nil {
		messages, bytes = q.length(), q.bytes()
	}
	if r := s.out.recovery; r != nil {
		messages += r.again.Len()
	}
	return messages, bytes
}

// Exhausted reports whether the peer, as far as it knows, may send no more messages at QoS 1 and 2 before one of those is
// acknowledged that wait for that.
func (s *Session) Exhausted() bool {
	p := s.in.pending
	return p != nil && p.pubacks.receipts.Len()+p.pubrecs.receipts.Len() >= int(s.in.announced)
}

// Unacknowledged returns the number of messages from the peer that are not completely acknowledged.
func (s *Session) Unacknowledged() int {
	return max(0, s.in.unsettled) // one that is arriving when the connection ends is accepted after EndIncoming
}
