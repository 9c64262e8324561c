package mqtttest

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// will is a message to publish when the client is gone.
type will struct {
	publish codec.Publish
	from    string
	delay   time.Duration
}

func newWill(from string, w *codec.Will) *will {
	p := w.Properties
	return &will{
		from:  from,
		delay: p.WillDelay,
		publish: codec.Publish{
			Topic:   w.Topic,
			Payload: w.Payload,
			QoS:     w.QoS,
			Retain:  w.Retain,
			Properties: codec.PublishProperties{
				UTF8Payload:     p.UTF8Payload,
				MessageExpiry:   p.MessageExpiry,
				ContentType:     p.ContentType,
				ResponseTopic:   p.ResponseTopic,
				CorrelationData: p.CorrelationData,
				UserProperties:  p.UserProperties,
			},
		},
	}
}

// leaveWill publishes a will after its delay, or when the session ends [MQTT-3.1.2-8]. w may be nil.
func (s *session) leaveWill(w *will) {
	if w == nil {
		return
	}
	s.will = w
	if w.delay == 0 {
		s.publishWill()
		return
	}
	s.willAt.set(s.b, w.delay, s.publishWill)
}

// publishWill publishes the will, if there is one [MQTT-3.1.2-10].
func (s *session) publishWill() {
	w := s.will
	s.will = nil
	if w != nil {
		s.b.take(s.b.content.newMessage(w.from, &w.publish))
	}
}
