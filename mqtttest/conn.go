package mqtttest

import (
	"net"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

const (
	// linger is how long the broker waits, after its last packet or the client's DISCONNECT, for the client to close.
	linger = 5 * time.Second
	// maxExtra is how many bytes the broker reads then, before it closes all the same.
	maxExtra = 1 << 20
	// maxWaiting is how many packets may wait for a client that does not read before the broker stops reading from it.
	maxWaiting = 10_000
	// maxWaitingBytes is how many bytes of messages may wait for such a client before those at QoS 0 are dropped.
	maxWaitingBytes = 64 << 20
)

// conn is a connection of a client. A reader and a writer serve it. The broker's lock guards what has no other owner.
type conn struct {
	b        *Broker
	number   int           // in the order of the connections
	raw      net.Conn      // the connection of the network
	nc       net.Conn      // what speaks MQTT on it
	settings *settings     // those in force when the connection was made
	frames   frames        // the reader's
	version  codec.Version // written by the reader under the lock, when CONNECT comes

	clientID  string
	admission admission
	sess      *session // nil before CONNECT has been accepted, and once the connection has left its session
	client    terms    // what the client announced
	will      *will
	referee   referee
	outbox    outbox
	unacked   int // publishes sent on this connection that the client has not finished
	vigil     vigil
	late      late

	ended  bool // nothing more is handled; the writer sends what is in the outbox, and the reader waits for the client to close
	broken bool // it ended without a last packet, and the function that broke it closes it
	silent bool // the client has sent DISCONNECT
}

// admission is what is known of a connection before its CONNECT is answered.
type admission struct {
	greeted bool             // CONNECT has come; written by the reader under the lock
	verdict codec.ReasonCode // of the option Authorize
	auth    *authentication  // nil: none
}

// outbox is what waits for the writer. The broker's lock guards it.
type outbox struct {
	packets []parcel // to be sent, in order
	bytes   int      // of payload in packets
	changed sync.Cond
	aliases map[string]uint16 // topic aliases that the broker uses
}

// vigil watches whether the client sends something in time. The broker's lock guards it.
type vigil struct {
	heard   time.Time // when a packet was last handled
	alarm   alarm
	overdue bool // the client has sent nothing for too long
}

// parcel is a packet on its way to the client. A settled one has been through hooks and faults.
type parcel struct {
	packet  codec.Packet
	settled bool
	bytes   int // how many are sent, the last of the connection; 0: all
}

// terms are what the client's CONNECT says about packets to it.
type terms struct {
	receiveMaximum    int
	maximumPacketSize int // 0: no limit
	topicAliasMaximum uint16
	expirySet         bool // Session Expiry Interval was not 0
}

// send queues a packet. What comes after the end is not sent.
func (c *conn) send(p codec.Packet) {
	if c.ended {
		return
	}
	c.outbox.packets = append(c.outbox.packets, parcel{packet: p})
	if len(c.outbox.packets) == 1 {
		c.outbox.changed.Broadcast()
	}
}

// sendSettled queues a packet that hooks and faults leave alone.
func (c *conn) sendSettled(p codec.Packet) {
	c.outbox.packets = append(c.outbox.packets, parcel{packet: p, settled: true})
	c.outbox.changed.Broadcast()
}
