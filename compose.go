package mqtt

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// compose makes a message and checks everything that can be checked without a connection. It calls the hook of a Trace.
// [MQTT-3.3.1-3] [MQTT-3.3.2.1] [MQTT311-3.3.1-3]
func (out *outbox) compose(ctx context.Context, m *session.Message, topicName string, payload []byte, o *publishOptions) error {
	if err := topic.CheckName(topicName); err != nil {
		return topicError(topicName, false, err)
	}
	if out.amends {
		out.config.applyDefaults(topicName, o)
	}
	m.Topic, m.Payload, m.QoS, m.Retain = topicName, payload, byte(o.qos), o.retain
	m.Properties = (*codec.PublishProperties)(o.properties)
	if o.qos > ExactlyOnce {
		return &notSent{fmt.Errorf("mqtt: publishing to %q: %v does not exist", topicName, o.qos)} // [MQTT-3.3.1-4]
	}
	if out.amends && out.config.trace.Publish != nil {
		out.config.tracePublish(ctx, m, o)
	}
	if m.Properties != nil || len(payload) > codec.MaxRemainingLength/2 {
		return out.checkContent(m)
	}
	return nil
}

// scratches are buffers for packets that are encoded only to check them.
var scratches = sync.Pool{New: func() any {
	b := make([]byte, 0, 512)
	return &b
}}

// checkContent checks properties and size of a message, and notes when it expires.
func (out *outbox) checkContent(m *session.Message) error {
	if p := m.Properties; p != nil {
		// An error of the codec must be found now, before the message waits in the queue.
		probe := codec.Publish{Topic: m.Topic, Properties: *p}
		scratch := scratches.Get().(*[]byte)
		defer scratches.Put(scratch)
		if _, err := probe.Append((*scratch)[:0], out.version); err != nil {
			return &notSent{fmt.Errorf("mqtt: publishing to %q: %w", m.Topic, err)}
		}
		if p.MessageExpiry != 0 {
			if p.MessageExpiry < time.Millisecond {
				out.countExpired()
				return &notSent{ErrExpired}
			}
			m.Expires = out.now() + p.MessageExpiry
		}
	}
	if size := packetSize(m, out.version); size > maxPacketSize {
		return &notSent{fmt.Errorf("mqtt: publishing to %q: %d bytes are too many for a packet", m.Topic, size)}
	}
	return nil
}

// packetSize returns the length of the PUBLISH packet that m becomes.
func packetSize(m *session.Message, v codec.Version) int {
	p := codec.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, PacketID: 1}
	if m.Properties != nil {
		p.Properties = *m.Properties
	}
	return p.Size(v)
}

// maxPacketSize is the length of the largest packet that MQTT allows, with its fixed header.
const maxPacketSize = codec.MaxRemainingLength + 5
