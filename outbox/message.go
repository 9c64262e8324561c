package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// IDProperty is the name of the user property that carries a message's identifier. No other user property of a message may
// have it.
const IDProperty = "outbox-id"

// maxName is how long a key and an identifier may be, in bytes.
const maxName = 1024

// ID returns the identifier that a message received was published with, "" if it has none. It is the same at each
// publish of the message, so receivers can tell repetitions by it.
func ID(m mqtt.Message) string {
	id, _ := m.Properties.UserProperties.Get(IDProperty)
	return id
}

// Message is a message in an outbox.
type Message struct {
	Seq        int64 // its place: within a key, the order of the commits. No two messages of an outbox ever have the same.
	ID         string
	Key        string
	Topic      string
	Payload    []byte
	QoS        mqtt.QoS // 1 or 2
	Retain     bool
	Properties mqtt.PublishProperties // without IDProperty; MessageExpiry is not used, see Expires
	Expires    time.Time              // zero: never
	Created    time.Time
	Attempts   int    // how often the server refused it, or its fate stayed unknown
	Reason     string // of the latest failure, for people

	flaw error // why it cannot be read, if somebody else has written it
}

// check says why m cannot be published.
func (m *Message) check() error {
	if m.flaw != nil {
		return m.flaw
	}
	if err := codec.CheckTopicName(m.Topic); err != nil {
		return fmt.Errorf("outbox: publishing to %q: %w", m.Topic, err)
	}
	for what, s := range map[string]string{"key": m.Key, "identifier": m.ID} {
		if s == "" || len(s) > maxName || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return fmt.Errorf("outbox: the %s %q is not UTF-8 text of 1 to %d bytes without U+0000", what, s, maxName)
		}
	}
	if m.QoS != mqtt.AtLeastOnce && m.QoS != mqtt.ExactlyOnce {
		return fmt.Errorf("outbox: publishing to %q: %v does not say whether a message has arrived", m.Topic, m.QoS)
	}
	return m.checkPacket()
}

// checkPacket looks at the properties and at the length of the PUBLISH that m becomes.
func (m *Message) checkPacket() error {
	if _, taken := m.Properties.UserProperties.Get(IDProperty); taken {
		return fmt.Errorf("outbox: the user property %q is the outbox's own: use the option outbox.ID", IDProperty)
	}
	p := codec.Publish{Topic: m.Topic, QoS: byte(m.QoS), PacketID: 1, Properties: codec.PublishProperties(m.properties(time.Minute))}
	head, err := p.Append(nil, codec.V5)
	if err != nil {
		return fmt.Errorf("outbox: publishing to %q: %w", m.Topic, err)
	}
	if len(head)+len(m.Payload) > codec.MaxRemainingLength {
		return fmt.Errorf("outbox: publishing to %q: %d bytes are too many for a packet", m.Topic, len(m.Payload))
	}
	return nil
}

// properties returns what m is published with when it has left so much of its life; 0 is for ever.
func (m *Message) properties(left time.Duration) mqtt.PublishProperties {
	p := m.Properties
	p.MessageExpiry = left
	p.UserProperties = append(slices.Clip(mqtt.UserProperties{{Key: IDProperty, Value: m.ID}}), p.UserProperties...)
	return p
}

// errPairs says that the column user_properties was not written by Publish.
var errPairs = errors.New(`outbox: user properties must be JSON like [["name","value"]]`)

// marshalPairs makes the text of user properties as the databases have it: JSON pairs, because order and repeats count.
func marshalPairs(p mqtt.UserProperties) string {
	pairs := make([][2]string, len(p))
	for i := range p {
		pairs[i] = [2]string{p[i].Key, p[i].Value}
	}
	text, err := json.Marshal(pairs)
	if err != nil {
		panic(err) // strings cannot fail
	}
	return string(text)
}

func unmarshalPairs(text string) (mqtt.UserProperties, error) {
	var pairs [][]string
	if err := json.Unmarshal([]byte(text), &pairs); err != nil {
		return nil, fmt.Errorf("%w: %w", errPairs, err)
	}
	var p mqtt.UserProperties
	for _, pair := range pairs {
		if len(pair) != 2 {
			return nil, errPairs
		}
		p = append(p, mqtt.UserProperty{Key: pair[0], Value: pair[1]})
	}
	return p, nil
}
