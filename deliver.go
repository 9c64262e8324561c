package mqtt

import (
	"bytes"
	"runtime"

	"github.com/petrel-mqtt/mqtt/codec"
)

// This file is the way of a message from the connection's reader into a subscription's channel. The reader never waits
// for a consumer, except with Block. A message for which the channel has no room waits in the subscription's line.
// While messages are in line, a goroutine, the pump, carries them into the channel.

// yields is how many times the reader lets a consumer run whose channel is full, before it puts the message in line:
// the way through the line costs more than twice as much.
const yields = 4

// try puts m into the subscription's channel, and reports false if the channel has no room or messages wait before m.
// The caller holds mu. It is free meanwhile.
func (r *receiver) try(s *Subscription, m *Message) bool {
	if s.sink != nil && !s.ended {
		s.sink.take(*m)
		return true
	}
	for i := 0; s.channel != nil && !s.ended && !s.line.sending && !s.line.gated; i++ {
		select {
		case s.channel <- *m:
			s.noteSent(m)
			return true
		default:
		}
		if i == yields {
			break
		}
		r.client.mu.Unlock()
		runtime.Gosched()
		r.client.mu.Lock()
	}
	return false
}

// hold lets a message at QoS 1 or 2 wait for its acknowledgement: in line, or with ManualAck until the application
// acknowledges it.
// The caller holds mu.
func (r *receiver) hold(s *Subscription, m *Message) {
	r.client.inbox.watchStalls()
	receipt := m.origin.receipt
	if s.options.ack == ManualAck && r.try(s, m) {
		return
	}
	if s.ended {
		if !s.inbox.stopping {
			r.link.Commit(r.client.session.Settle(r.link.Buffer(), receipt, s, nil))
		}
		return
	}
	s.enqueue(m, receipt, nil)
}

// offer passes a message at QoS 0 to the subscription. If its line is full, a message is dropped.
// The caller holds mu. It is free meanwhile.
func (r *receiver) offer(s *Subscription, m *Message) {
	if r.try(s, m) {
		return
	}
	r.yield(s)
	switch {
	case s.ended:
		return
	case s.options.overflow == Block && s.leaving == nil && !s.call.unfinished() && !s.line.gated:
		r.block(s, m)
		return
	case s.line.qos0.Len() < s.options.buffer:
	case s.options.overflow == DropNewest:
		s.drop(*m)
		return
	default:
		s.dropQoS0()
	}
	s.enqueue(m, nil, nil)
}

// yield lets the loops that consume s run if the line is full at QoS 0, so that they take messages out of it.
// The caller holds mu. It is free meanwhile.
func (r *receiver) yield(s *Subscription) {
	for i := 0; i < yields && s.line.loops > 0 && !s.ended && s.line.qos0.Len() >= s.options.buffer; i++ {
		r.client.mu.Unlock()
		runtime.Gosched()
		r.client.mu.Lock()
	}
}

// block waits until the consumer takes m, or the subscription or the connection ends. After the first Unsubscribe it
// does not wait, because the reader must reach the UNSUBACK; then m goes in line.
// The caller holds mu. It is free meanwhile.
func (r *receiver) block(s *Subscription, m *Message) {
	if s.line.sending || s.channel == nil && s.line.qos0.Len() >= s.capacity() {
		moved := s.line.nextMove()
		r.client.mu.Unlock()
		r.Flush()
		select {
		case <-moved:
		case <-s.left:
		case <-s.done:
		case <-r.link.Ended():
		}
		r.client.mu.Lock()
	}
	switch {
	case s.channel != nil && !s.ended && !s.line.sending && r.sendBlocking(s, m):
	case s.ended:
		s.discard(entry{message: *m})
	default:
		s.enqueue(m, nil, nil)
	}
}

// sendBlocking is the wait of block. It reports whether the consumer took m.
// The caller holds mu. It is free meanwhile.
func (r *receiver) sendBlocking(s *Subscription, m *Message) (sent bool) {
	s.line.sending = true
	r.client.mu.Unlock()
	r.Flush() // a publisher whose acknowledgement came before m must not wait for the consumer
	select {
	case s.channel <- *m:
		sent = true
	case <-s.done:
	case <-s.left:
	case <-r.link.Ended():
	}
	r.client.mu.Lock()
	if sent {
		s.noteSent(m)
	}
	s.stopSending()
	return sent
}

// message makes a copy of a message that belongs to no subscription.
// The caller holds mu.
func (r *receiver) message(p *codec.PublishView, name string) (m Message) {
	r.fill(&m, p, name, nil, QoS(p.QoS))
	return m
}

// fill makes, in place, the copy of a message that belongs to s, which asked for qos: to copy a message costs as much as to
// hand it over.
// The caller holds mu.
// [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.3.2-4] [MQTT-3.3.2-6] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17]
// [MQTT-3.3.2-18] [MQTT-3.3.2-20] [MQTT311-3.3.1-8] [MQTT311-3.3.1-9]
func (r *receiver) fill(m *Message, p *codec.PublishView, name string, s *Subscription, qos QoS) {
	content := p.Payload
	payload := make([]byte, len(content))
	copy(payload, content) // right behind make, so that the compiler does not clear the memory before
	m.Topic, m.Payload = name, payload
	m.QoS = min(QoS(p.QoS), qos)
	m.Retain, m.Duplicate = p.Retain, p.Dup
	if len(p.Properties) > 0 {
		m.Properties = PublishProperties(r.properties)
		if m.Properties.MessageExpiry > 0 {
			m.expires = r.client.now() + m.Properties.MessageExpiry
		}
		m.Properties.CorrelationData = bytes.Clone(r.properties.CorrelationData)
		m.Properties.UserProperties = append(UserProperties(nil), r.properties.UserProperties...)
	}
	if len(r.ids) > 0 {
		m.origin = s.originOf(r.ids)
	}
}
