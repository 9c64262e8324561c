package engine

import (
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// will is a client's will: a whole message, kept apart from the connection.
// [MQTT-3.1.2-7] [MQTT-3.1.3-10]
type will struct {
	client     *Client
	topic      string
	payload    []byte
	properties *codec.PublishProperties
	qos        byte
	retain     bool
	delay      time.Duration
}

// willOf returns the will of a CONNECT, or nil.
// [MQTT-3.1.2.5] [MQTT311-3.1.2-12]
func willOf(connect *codec.Connect, c *Client) *will {
	w := connect.Will
	if w == nil {
		return nil
	}
	p := &w.Properties
	of := &will{client: c, topic: w.Topic, payload: slices.Clone(w.Payload), qos: w.QoS, retain: w.Retain, delay: p.WillDelay}
	if connect.Version == codec.V5 {
		of.properties = cloneProperties(&codec.PublishProperties{
			UTF8Payload: p.UTF8Payload, MessageExpiry: p.MessageExpiry, ContentType: p.ContentType,
			ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData, UserProperties: p.UserProperties,
		})
	}
	return of
}

// size is what a will takes, about.
func (w *will) size() int {
	n := messageSize + len(w.topic) + len(w.payload)
	if w.properties != nil {
		n += propertiesSize(w.properties)
	}
	return n
}

// keepWill gives the session a will, in place of the one that it has; nil: none.
func (s *Session) keepWill(w *will) {
	s.takeWill()
	if s.will = w; w != nil {
		s.engine.memory.Add(int64(w.size()))
	}
}

// takeWill takes the will away, and returns it; nil: there was none.
func (s *Session) takeWill() *will {
	w := s.will
	if s.will = nil; w != nil {
		s.engine.memory.Add(-int64(w.size()))
	}
	return w
}

// publishWill publishes a will, if its client may still publish to the topic.
// [MQTT-3.1.2-8] [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT311-3.1.2-16] [MQTT311-3.1.2-17] [MQTT-3.1.2.6] [MQTT311-3.1.2.5]
func (e *Engine) publishWill(w *will) {
	if !e.authorized(w.client, Publish, w.topic) {
		e.log.Info("will not published: not authorized", "client", logged{w.client}, "topic", brief(w.topic))
		return
	}
	m := newMessage(w.topic, w.payload, w.properties, w.qos, w.retain, e.now())
	if e.journal == nil {
		e.publish(w.client, m)
		return
	}
	// A will that is retained, or waits for somebody, has to be there after a restart. Should the store fail, those who are
	// connected hear of it all the same.
	r := &run{match: e.match(w.client, m.topic), qos: m.qos, retain: m.retain}
	r.items = []item{{payload: m.payload, properties: m.properties, message: m}}
	e.journal.submitRun(nil, r, func(error) {
		var wakes []*conn
		e.route(w.client, r, &wakes)
		wakeAll(wakes)
	})
}

// willIsDue publishes the will of a session that is away, because its delay is over.
func (e *Engine) willIsDue(s *Session) {
	s.mu.Lock()
	w := s.will
	if s.conn != nil || s.ended || e.timers.isSet(s.timers.will) {
		w = nil
	} else {
		s.takeWill() // [MQTT-3.1.2-10]
	}
	s.mu.Unlock()
	if w != nil {
		e.publishWill(w)
	}
}
