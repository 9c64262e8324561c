package mqtttest

import "github.com/petrel-mqtt/mqtt/codec"

// subscription is one topic filter of a session.
type subscription struct {
	session *session
	options codec.SubscribeFilter // QoS is the one granted
	inner   string                // the filter without $share/{name}/
	id      uint32                // subscription identifier; 0: none
	shared  *share                // nil: not shared
}

// delivery returns what the subscription gets of a message.
func (sub *subscription) delivery(m *message, retained bool) delivery {
	d := delivery{
		message: m,
		qos:     min(m.qos, sub.options.QoS),
		retain:  retained || m.retain && sub.options.RetainAsPublished, // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
	}
	if sub.id != 0 {
		d.ids = []uint32{sub.id}
	}
	return d
}
