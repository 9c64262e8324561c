package engine

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// message is an application message in the broker's hands. It does not change, and is shared by all that it is for.
type message struct {
	topic      string
	payload    []byte
	properties *codec.PublishProperties // nil: none
	expires    time.Duration            // on the engine's clock; 0: never
	qos        byte                     // as it was published
	retain     bool                     // as it was published
	size       int                      // bytes that it counts for
	holders    atomic.Int32             // sessions, groups and the retained store that keep it

	sequence uint64       // in the store; 0: it is not there
	debts    atomic.Int32 // sessions and groups that need it to be there
}

// newMessage copies what belongs to the read buffer.
// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
func newMessage(topic string, payload []byte, p *codec.PublishProperties, qos byte, retain bool, now time.Duration) *message {
	m := &message{topic: topic, payload: slices.Clone(payload), qos: qos, retain: retain}
	m.size = messageSize + len(topic) + len(payload)
	if p != nil {
		m.properties = p
		m.size += propertiesSize(p)
		if p.MessageExpiry != 0 {
			m.expires = now + p.MessageExpiry
		}
	}
	return m
}

// messageSize is what a message takes beside its content, about.
const messageSize = 200

func propertiesSize(p *codec.PublishProperties) int {
	n := messageSize + len(p.ContentType) + len(p.ResponseTopic) + len(p.CorrelationData)
	for i := range p.UserProperties {
		n += 32 + len(p.UserProperties[i].Key) + len(p.UserProperties[i].Value)
	}
	return n
}

// cloneProperties copies what the reader uses again.
func cloneProperties(p *codec.PublishProperties) *codec.PublishProperties {
	c := *p
	c.CorrelationData = slices.Clone(p.CorrelationData)
	c.UserProperties = slices.Clone(p.UserProperties)
	return &c
}

// expired reports whether the message may not be sent any more, if it has not been before [MQTT-3.3.2-5].
func (m *message) expired(now time.Duration) bool { return m.expires != 0 && m.expires <= now }

// full reports whether everything together takes as much memory as it may.
func (e *Engine) full() bool { return e.memory.Load() >= int64(e.config.MaxMemory) }

// hold counts one more holder. The first one makes the message count as memory.
func (e *Engine) hold(m *message) {
	if m.holders.Add(1) == 1 {
		e.memory.Add(int64(m.size))
		e.stats.stored.Add(1)
		e.stats.storedBytes.Add(int64(m.size))
	}
}

// letGo counts one holder less.
func (e *Engine) letGo(m *message) {
	if m.holders.Add(-1) == 0 {
		e.memory.Add(-int64(m.size))
		e.stats.stored.Add(-1)
		e.stats.storedBytes.Add(-int64(m.size))
	}
}

// copyOf makes what a session sends of a message.
func (m *message) copyOf(qos byte, retain bool, ids []uint32, owner any) session.Message {
	return session.Message{
		Topic: m.topic, Payload: m.payload, Properties: m.properties, Expires: m.expires,
		QoS: qos, Retain: retain, SubscriptionIdentifiers: ids, Owner: owner,
	}
}

// shared is the owner of a message that a session was given as the member of a group.
type shared struct {
	message *message
	group   *group
}

// replayed is the owner of a retained message that a session gets because it has subscribed. The store does not have it for
// the session, even where it has the same message that came live.
type replayed struct{ *message }

// messageOf returns the message behind an owner.
func messageOf(owner any) *message {
	switch o := owner.(type) {
	case *message:
		return o
	case replayed:
		return o.message
	case *shared:
		return o.message
	}
	return nil
}
