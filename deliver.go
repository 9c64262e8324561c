package mqtt

import (
	"bytes"
	"runtime"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// This file is the way of a message from the connection's reader into a subscription's channel. The reader never waits
// for a consumer, but with Block. What finds no room waits in the subscription's line, and while something is in line
// a goroutine, the pump, carries it into the channel.

// yields is how often the reader gives a consumer whose channel is full the chance to empty it, before the message goes
// in line: the detour costs more than twice as much.
const yields = 4

// try puts m into the subscription's channel if there is room and nothing waits before it.
// The caller holds mu. It is free meanwhile.
func (r *receiver) try(s *Subscription, m *Message) bool {
	if s.sink != nil && !s.ended {
		s.sink.take(*m)
		return true
	}
	for i := 0; s.channel != nil && !s.ended && !s.line.sending && !s.line.gated; i++ {
		select {
		case s.channel <- *m:
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

// hold lets a message at QoS 1 or 2 wait for its acknowledgement: in line, until there is room in the channel, or with
// ManualAck in the application's hands.
// The caller holds mu.
func (r *receiver) hold(s *Subscription, m *Message, receipt *session.Receipt) {
	r.client.inbox.watchStalls()
	m.origin = &origin{sub: s, receipt: receipt, ids: m.origin.identifiers()}
	if s.options.ack == ManualAck && r.try(s, m) {
		return
	}
	if s.ended {
		r.link.Commit(r.client.session.Settle(r.link.Buffer(), receipt, s, nil))
		return
	}
	s.enqueue(entry{message: *m, receipt: receipt})
}

// offer hands over a message at QoS 0, or drops one.
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
		w := s.line.qos0.Pop()
		s.leaveLine(&w)
		s.drop(w.message)
	}
	s.enqueue(entry{message: *m})
}

// yield gives the loops that consume s the chance to take messages out of a line that is full at QoS 0.
// The caller holds mu. It is free meanwhile.
func (r *receiver) yield(s *Subscription) {
	for i := 0; i < yields && s.line.loops > 0 && !s.ended && s.line.qos0.Len() >= s.options.buffer; i++ {
		r.client.mu.Unlock()
		runtime.Gosched()
		r.client.mu.Lock()
	}
}

// block waits until the consumer takes m, or the subscription or the connection ends. After the first Unsubscribe it
// does not wait: the reader has to get to the UNSUBACK, and m goes in line.
// The caller holds mu. It is free meanwhile.
func (r *receiver) block(s *Subscription, m *Message) {
	if s.line.sending || s.channel == nil && s.line.qos0.Len() >= s.capacity() {
		moved := s.nextMove()
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
		s.enqueue(entry{message: *m})
	}
}

// sendBlocking is the wait of block. It reports whether the consumer took m.
// The caller holds mu. It is free meanwhile.
func (r *receiver) sendBlocking(s *Subscription, m *Message) (sent bool) {
	s.line.sending = true
	r.client.mu.Unlock()
	r.Flush() // a publisher whose acknowledgement came before m shall not wait for the consumer
	select {
	case s.channel <- *m:
		sent = true
	case <-s.done:
	case <-s.left:
	case <-r.link.Ended():
	}
	r.client.mu.Lock()
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
	m.Topic = name
	m.Payload = make([]byte, len(p.Payload))
	copy(m.Payload, p.Payload)
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
