package mqtttest

import (
	"slices"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// keepRetained keeps the message for its topic; an empty one removes what was kept [MQTT-3.3.1-5] [MQTT-3.3.1-6].
func (all *content) keepRetained(m *message) {
	if len(m.payload) == 0 {
		delete(all.retained, m.topic)
		return
	}
	all.retained[m.topic] = m
}

// sendRetained sends a new subscription the retained messages that match it, the oldest first.
func (b *Broker) sendRetained(sub *subscription) {
	var found []*message
	for _, m := range b.content.retained {
		switch {
		case m.expired():
			delete(b.content.retained, m.topic)
		case topic.Match(sub.inner, m.topic):
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(a, b *message) int { return int(a.number) - int(b.number) })
	for _, m := range found {
		sub.session.deliver(sub.delivery(m, true))
	}
}
