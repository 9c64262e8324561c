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
	for i := 0; !s.ended && !s.line.sending && !s.line.gated; i++ {
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
	if s.options.ack == ManualAck {
		m.origin = &origin{sub: s, receipt: receipt, ids: m.origin.identifiers()}
		if r.try(s, m) {
			return
		}
	}
	if s.ended {
		r.link.Commit(r.client.session.Settle(r.link.Buffer(), receipt, s, nil))
		return
	}
	s.line.held.Push(s.inLine(waiting{message: *m, receipt: receipt}))
	s.startPump()
}

// offer hands over a message at QoS 0, or drops one.
// The caller holds mu.
func (r *receiver) offer(s *Subscription, m *Message) {
	if r.try(s, m) || s.ended {
		return
	}
	switch {
	case s.options.overflow == Block && s.leaving == nil && !s.call.waiting() && !s.line.gated:
		r.block(s, m)
		return
	case s.line.loose.Len() < s.options.buffer:
	case s.options.overflow == DropNewest:
		s.drop(*m)
		return
	default:
		w := s.line.loose.Pop()
		s.leaveLine(w)
		s.drop(w.message)
	}
	s.line.loose.Push(s.inLine(waiting{message: *m}))
	s.startPump()
}

// block waits until the consumer takes m, or the subscription or the connection ends. After the first Unsubscribe it
// does not wait: the reader has to get to the UNSUBACK, and m goes in line.
// The caller holds mu. It is free meanwhile.
func (r *receiver) block(s *Subscription, m *Message) {
	if s.line.sending { // messages at QoS 1 or 2 are in line before it
		stopped := s.stopped()
		r.client.mu.Unlock()
		r.Flush()
		select {
		case <-stopped:
		case <-s.left:
		case <-r.link.Ended():
		}
		r.client.mu.Lock()
	}
	switch {
	case !s.ended && !s.line.sending && r.sendBlocking(s, m):
	case s.ended:
		s.giveUp(waiting{message: *m})
	default:
		s.line.loose.Push(s.inLine(waiting{message: *m}))
		s.startPump()
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

// waiting is a message in line.
type waiting struct {
	message Message
	place   uint64           // in the subscription's line
	parked  *parked          // what it was before its subscription claimed it; nil: it came for the subscription
	receipt *session.Receipt // settled when the message enters the channel, but with ManualAck; nil at QoS 0
}

// The caller holds mu.
func (s *Subscription) inLine(w waiting) waiting {
	s.line.place++
	w.place = s.line.place
	s.line.bytes += w.size()
	s.inbox.waiting += w.size()
	return w
}

// The caller holds mu.
func (s *Subscription) leaveLine(w waiting) {
	s.line.bytes -= w.size()
	s.inbox.waiting -= w.size()
}

// size is what the message costs in memory, about.
func (w *waiting) size() int {
	p := &w.message.Properties
	n := messageSize + len(w.message.Topic) + len(w.message.Payload) + len(p.ContentType) + len(p.ResponseTopic) + len(p.CorrelationData)
	for i := range p.UserProperties {
		n += userPropertySize + len(p.UserProperties[i].Key) + len(p.UserProperties[i].Value)
	}
	return n + identifierSize*len(w.message.origin.identifiers())
}

// The sizes of a Message in line, of a user property and of a subscription identifier, without what they point to.
const (
	messageSize      = 200
	userPropertySize = 32
	identifierSize   = 4
)

// next takes the first message out of line.
// The caller holds mu.
func (s *Subscription) next() (w waiting, ok bool) {
	switch loose, held := s.line.loose.Len() > 0, s.line.held.Len() > 0; {
	case loose && (!held || s.line.loose.At(0).place < s.line.held.At(0).place):
		w = s.line.loose.Pop()
	case held:
		w = s.line.held.Pop()
	default:
		return w, false
	}
	s.leaveLine(w)
	return w, true
}

// The caller holds mu.
func (s *Subscription) drop(m Message) {
	s.dropped++
	s.inbox.stats.Dropped++
	s.inbox.notices.traceDropped(s, m)
}

// The caller holds mu.
func (s *Subscription) startPump() {
	if s.line.sending || s.line.gated {
		return
	}
	s.line.sending = true
	s.inbox.goroutines.Go(s.pump)
}

// pump carries what is in line into the channel, until the line is empty or the subscription has ended.
// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]
func (s *Subscription) pump() {
	mu := &s.inbox.mu
	mu.Lock()
	defer mu.Unlock()
	for !s.ended {
		w, ok := s.next()
		if !ok {
			break
		}
		mu.Unlock()
		sent := false
		select {
		case s.channel <- w.message:
			sent = true
		case <-s.done:
		}
		mu.Lock()
		if !sent {
			s.giveUp(w)
			break
		}
		if s.options.ack == AutoAck {
			s.inbox.settle(w.receipt, s, nil)
		}
	}
	s.stopSending()
}

// stopSending ends the time in which somebody sent without holding the mutex.
// The caller holds mu.
func (s *Subscription) stopSending() {
	s.line.sending = false
	if s.line.idle != nil {
		close(s.line.idle)
		s.line.idle = nil
	}
	if s.ended {
		close(s.channel)
	}
}

// stopped returns a channel that is closed when whoever sends now has stopped.
// The caller holds mu.
func (s *Subscription) stopped() <-chan struct{} {
	if s.line.idle == nil {
		s.line.idle = make(chan struct{})
	}
	return s.line.idle
}

// giveUp acknowledges a message that nobody will take any more, and counts it as dropped, unless the client has ended.
// The caller holds mu.
func (s *Subscription) giveUp(w waiting) {
	if s.inbox.err != nil {
		return
	}
	s.drop(w.message)
	s.inbox.settle(w.receipt, s, nil)
}

// origin is what the copies of a message share.
type origin struct {
	ids     []uint32         // subscription identifiers
	receipt *session.Receipt // nil: nothing to acknowledge
	sub     *Subscription    // who has to settle it
	settled bool             // guarded by client.mu
}

func (o *origin) identifiers() []uint32 {
	if o == nil {
		return nil
	}
	return o.ids
}

func (m Message) settle(reason *session.Reason) error {
	o := m.origin
	if o == nil || o.receipt == nil {
		return nil
	}
	in := o.sub.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case o.settled:
		return nil
	case in.err != nil:
		return in.err
	case o.receipt.Forgotten():
		return ErrSessionLost
	}
	o.settled = true
	in.settle(o.receipt, o.sub, reason)
	return nil
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
