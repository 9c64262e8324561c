package boltoutbox

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/outbox"
)

// errDamaged says that a record was not written by this package, or by a later version of it.
var errDamaged = errors.New("the record of a message is damaged")

// version begins each record.
const version = 1

// head is what a record has beside the PUBLISH packet. A record is version, length of the head as a varint, the head as JSON, the
// packet in MQTT 5.
type head struct {
	ID       string
	Key      string
	Expires  time.Time `json:",omitzero"`
	Created  time.Time
	Attempts int    `json:",omitempty"`
	Reason   string `json:",omitempty"`
}

func encode(m *outbox.Message) ([]byte, error) {
	text, err := json.Marshal(head{m.ID, m.Key, m.Expires, m.Created, m.Attempts, m.Reason})
	if err != nil {
		return nil, err
	}
	b := binary.AppendUvarint([]byte{version}, uint64(len(text)))
	b = append(b, text...)
	p := codec.Publish{Topic: m.Topic, Payload: m.Payload, QoS: byte(m.QoS), Retain: m.Retain, PacketID: 1,
		Properties: codec.PublishProperties(m.Properties)}
	return p.Append(b, codec.V5)
}

// decode reads a record. The message's bytes are those of b.
func decode(b []byte) (m outbox.Message, err error) {
	if len(b) == 0 || b[0] != version {
		return m, errDamaged
	}
	length, n := binary.Uvarint(b[1:])
	if n <= 0 || length > uint64(len(b)-1-n) {
		return m, errDamaged
	}
	text, packet := b[1+n:1+n+int(length)], b[1+n+int(length):]
	var h head
	if err := json.Unmarshal(text, &h); err != nil {
		return m, fmt.Errorf("%w: %w", errDamaged, err)
	}
	r := bytes.NewReader(packet)
	read, err := codec.ReadPacket(r, codec.V5, 0)
	if err != nil {
		return m, fmt.Errorf("%w: %w", errDamaged, err)
	}
	p, ok := read.(*codec.Publish)
	if !ok || r.Len() > 0 {
		return m, errDamaged
	}
	return outbox.Message{ID: h.ID, Key: h.Key, Topic: p.Topic, Payload: p.Payload, QoS: mqtt.QoS(p.QoS), Retain: p.Retain,
		Properties: mqtt.PublishProperties(p.Properties), Expires: h.Expires, Created: h.Created,
		Attempts: h.Attempts, Reason: h.Reason}, nil
}
