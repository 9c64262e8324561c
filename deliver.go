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

// try puts m into the subscription's channel if there is room and nothing waits before it. It may release the mutex in
// between.
func (r *receiver) try(s *Subscription, m *Message) bool {
	if s.sink != nil && !s.ended {
		s.sink.take(*m)
		return true
	}
	for i := 0; !s.ended && !s.sending && !s.gated; i++ {
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
func (r *receiver) hold(s *Subscription, m *Message, receipt *session.Receipt) {
	r.client.watchStalls()
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
	s.held.Push(s.inLine(waiting{message: *m, receipt: receipt}))
	s.startPump()
}

// offer hands over a message at QoS 0, or drops one.
func (r *receiver) offer(s *Subscription, m *Message) {
	if r.try(s, m) || s.ended {
		return
	}
	switch {
	case s.options.overflow == Block && s.leaving == nil && !s.call.waiting() && !s.gated:
		r.block(s, m)
		return
	case s.loose.Len() < s.options.buffer:
	case s.options.overflow == DropNewest:
		s.drop(*m)
		return
	default:
		w := s.loose.Pop()
		s.leaveLine(w)
		s.drop(w.message)
	}
	s.loose.Push(s.inLine(waiting{message: *m}))
	s.startPump()
}

// block waits until the consumer takes m, or the subscription or the connection ends. The mutex is free meanwhile. After
// the first Unsubscribe it does not wait: the reader has to get to the UNSUBACK, and m goes in line.
func (r *receiver) block(s *Subscription, m *Message) {
	if s.sending { // messages at QoS 1 or 2 are in line before it
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
	case !s.ended && !s.sending && r.sendBlocking(s, m):
	case s.ended:
		s.giveUp(waiting{message: *m})
	default:
		s.loose.Push(s.inLine(waiting{message: *m}))
		s.startPump()
	}
}

// sendBlocking is the wait of block. It reports whether the consumer took m.
func (r *receiver) sendBlocking(s *Subscription, m *Message) (sent bool) {
	s.sending = true
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

func (s *Subscription) inLine(w waiting) waiting {
	s.place++
	w.place = s.place
	s.bytes += w.size()
	s.client.waiting += w.size()
	return w
}

func (s *Subscription) leaveLine(w waiting) {
	s.bytes -= w.size()
	s.client.waiting -= w.size()
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
func (s *Subscription) next() (w waiting, ok bool) {
	switch loose, held := s.loose.Len() > 0, s.held.Len() > 0; {
	case loose && (!held || s.loose.At(0).place < s.held.At(0).place):
		w = s.loose.Pop()
	case held:
		w = s.held.Pop()
	default:
		return w, false
	}
	s.leaveLine(w)
	return w, true
}

func (s *Subscription) drop(m Message) {
	s.dropped++
	s.client.stats.Dropped++
	s.client.traceDropped(s, m)
}

func (s *Subscription) startPump() {
	if s.sending || s.gated {
		return
	}
	s.sending = true
	s.client.goroutines.Go(s.pump)
}

// pump carries what is in line into the channel, until the line is empty or the subscription has ended.
// [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]
func (s *Subscription) pump() {
	mu := &s.client.mu
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
			s.client.settle(w.receipt, s, nil)
		}
	}
	s.stopSending()
}

// stopSending ends the time in which somebody sent without holding the mutex.
func (s *Subscription) stopSending() {
	s.sending = false
	if s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
	if s.ended {
		close(s.channel)
	}
}

// stopped returns a channel that is closed when whoever sends now has stopped.
func (s *Subscription) stopped() <-chan struct{} {
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	return s.idle
}

// giveUp acknowledges a message that nobody will take any more, and counts it as dropped, unless the client has ended.
func (s *Subscription) giveUp(w waiting) {
	if s.client.err != nil {
		return
	}
	s.drop(w.message)
	s.client.settle(w.receipt, s, nil)
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

func (m Message) settle(refusal *session.Refusal) error {
	o := m.origin
	if o == nil || o.receipt == nil {
		return nil
	}
	c := o.sub.client
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case o.settled:
		return nil
	case c.err != nil:
		return c.err
	case o.receipt.Forgotten():
		return ErrSessionLost
	}
	o.settled = true
	c.settle(o.receipt, o.sub, refusal)
	return nil
}

// settle is a holder's word on a message, if that needs one: it sends the acknowledgements that may go out now; mu is held.
func (c *client) settle(r *session.Receipt, holder any, refusal *session.Refusal) {
	if r == nil {
		return // QoS 0
	}
	if l := c.live(); l != nil {
		l.Commit(c.session.Settle(l.Buffer(), r, holder, refusal))
	} else {
		c.session.Settle(nil, r, holder, refusal)
	}
}

// message makes the copy of a message that belongs to one subscription.
// [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.3.2-4] [MQTT-3.3.2-6] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17]
// [MQTT-3.3.2-18] [MQTT-3.3.2-20] [MQTT311-3.3.1-8] [MQTT311-3.3.1-9]
func (r *receiver) message(p *codec.PublishView, name string, to holder) (m Message) {
	r.fill(&m, p, name, to)
	return m
}

// fill is message in place: to copy a message costs as much as to hand it over.
func (r *receiver) fill(m *Message, p *codec.PublishView, name string, to holder) {
	m.Topic = name
	m.Payload = make([]byte, len(p.Payload))
	copy(m.Payload, p.Payload)
	m.QoS = min(QoS(p.QoS), to.qos)
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
		m.origin = to.sub.originOf(r.ids)
	}
}

// settleAll is a subscription's word on everything that it holds: accepted if refusal is nil; mu is held.
func (c *client) settleAll(s *Subscription, refusal *session.Refusal) {
	if l := c.live(); l != nil {
		l.Commit(c.session.SettleAll(l.Buffer(), s, refusal))
	} else {
		c.session.SettleAll(nil, s, refusal)
	}
}
