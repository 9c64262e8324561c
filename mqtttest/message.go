package mqtttest

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// message is an application message. It does not change.
type message struct {
	number  uint64 // in the order of arrival
	from    string // client identifier of the publisher, "" for the test's own
	topic   string
	payload []byte
	qos     byte
	retain  bool
	dup     bool
	props   codec.PublishProperties
	expires time.Time // zero: never
}

// expired reports whether the message must not be delivered any more [MQTT-3.3.2-5].
func (m *message) expired() bool {
	return !m.expires.IsZero() && !time.Now().Before(m.expires)
}

// delivery is a message for one client.
type delivery struct {
	message *message
	qos     byte
	retain  bool
	ids     []uint32 // subscription identifiers
}
