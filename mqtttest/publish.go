package mqtttest

import (
	"bytes"
	"fmt"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// newMessage takes the contents of a PUBLISH. Its payload is shared.
func (all *content) newMessage(from string, p *codec.Publish) *message {
	all.numbered++
	m := &message{
		number: all.numbered, from: from, topic: p.Topic, payload: p.Payload, qos: p.QoS,
		retain: p.Retain, dup: p.Dup, props: p.Properties,
	}
	if p.Properties.MessageExpiry != 0 {
		m.expires = time.Now().Add(p.Properties.MessageExpiry)
	}
	return m
}

// publish handles a PUBLISH.
func (c *conn) publish(p *codec.Publish) {
	matched := true
	if p.QoS < 2 || !c.sess.received[p.PacketID] { // [MQTT-4.3.3-10]
		m := c.b.content.newMessage(c.clientID, p)
		m.retain = p.Retain && !c.settings.noRetain
		matched = c.b.take(m)
	}
	code := codec.Success
	if !matched && c.version == codec.V5 && !matchesAny(c.settings.subscribers, p.Topic) {
		code = codec.NoMatchingSubscribers
	}
	switch p.QoS {
	case 1:
		c.send(&codec.Puback{PacketID: p.PacketID, Code: code})
	case 2:
		c.sess.received[p.PacketID] = true
		c.send(&codec.Pubrec{PacketID: p.PacketID, Code: code})
	}
}

// forgetReceived makes a packet identifier of a client stand for a new message.
func (b *Broker) forgetReceived(clientID string, id uint16) {
	if s := b.sessions[clientID]; s != nil {
		delete(s.received, id)
	}
}

// pubrel handles a PUBREL: from now on the packet identifier stands for a new message [MQTT-4.3.3-12].
func (c *conn) pubrel(id uint16) {
	ack := &codec.Pubcomp{PacketID: id}
	if !c.sess.received[id] && c.version == codec.V5 {
		ack.Code = codec.PacketIdentifierNotFound
	}
	delete(c.sess.received, id)
	c.send(ack)
}

// take accepts the message of a client or a will, and reports whether it matches a subscription.
func (b *Broker) take(m *message) (matched bool) {
	b.content.record.add(Message{
		Topic: m.topic, ClientID: m.from, Payload: m.payload, QoS: m.qos, Retain: m.retain, Dup: m.dup, Properties: m.props,
	})
	return b.distribute(m)
}

func (b *Broker) distribute(m *message) (matched bool) {
	if m.retain {
		b.content.keepRetained(m)
	}
	return b.route(m)
}

// Publish gives m to the clients that have subscribed to its topic. It waits for nobody. It panics if the topic or the QoS
// is invalid.
func (b *Broker) Publish(m Message) {
	if err := topic.CheckName(m.Topic); err != nil {
		panic("mqtttest: " + err.Error())
	}
	if m.QoS > 2 {
		panic(fmt.Sprintf("mqtttest: QoS %d", m.QoS))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.distribute(b.content.newMessage("", &codec.Publish{
		Topic: m.Topic, Payload: bytes.Clone(m.Payload), QoS: m.QoS, Retain: m.Retain && !b.settings.noRetain, Properties: m.Properties,
	}))
}
