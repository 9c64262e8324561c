package mqtttest

import (
	"bytes"

	"github.com/petrel-mqtt/mqtt/codec"
)

// ledger are the messages of a client that are not finished. It lives as long as the session.
type ledger struct {
	entries map[uint16]*entry
	numbers uint64
}

// entry is a message of the client at QoS 1 or 2 that it has no reason to think finished.
type entry struct {
	topic    string
	payload  []byte
	qos      byte
	retain   bool
	size     int    // of the packet, in bytes
	number   uint64 // in the order in which the client has sent them first
	on       *conn  // where it last came
	recorded *conn  // where PUBREC was last sent
	released *conn  // where PUBREL last came
}

func newLedger() ledger {
	return ledger{entries: make(map[uint16]*entry)}
}

// same reports whether p is the entry's message.
func (e *entry) same(p *codec.Publish) bool {
	return e.qos == p.QoS && e.retain == p.Retain && e.topic == p.Topic && bytes.Equal(e.payload, p.Payload)
}
