package engine

import (
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// subscribe takes a SUBSCRIBE.
// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT311-3.8.4-1]
// [MQTT311-3.8.4-2] [MQTT311-3.8.4-4] [MQTT311-3.8.4-5] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2]
func (c *conn) subscribe(p *packet) error {
	var packet codec.Subscribe
	if err := packet.Decode(p.Header, p.Body(), c.version); err != nil {
		return err
	}
	codes := make([]codec.ReasonCode, len(packet.Filters))
	var refused []string
	for i := range packet.Filters {
		if codes[i] = c.grant(&packet.Filters[i]); codes[i].Failed() {
			refused = append(refused, packet.Filters[i].Filter)
		}
	}
	if len(refused) > 0 {
		c.engine.log.Info("subscription refused", "client", logged{c.client}, "filter", brief(refused[0]), "filters", len(refused))
	}
	suback := &codec.Suback{PacketID: packet.PacketID, Codes: codes}
	if err := c.enter(&packet, suback); err != nil {
		return err
	}
	for i, code := range codes {
		if !code.Failed() {
			c.engine.policy.Subscribed(c.client, packet.Filters[i].Filter, byte(code))
		}
	}
	return nil
}

// grant decides about one filter. [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.8.2-1] [MQTT-4.8.2-2] [MQTT311-4.7.1-2]
// [MQTT-3.8.4-7]
func (c *conn) grant(f *codec.SubscribeFilter) codec.ReasonCode {
	switch {
	case topic.CheckFilter(f.Filter) != nil:
		return c.failure(codec.TopicFilterInvalid)
	case !c.engine.authorized(c.client, Subscribe, topic.Inner(f.Filter, nil)):
		return c.failure(codec.NotAuthorized)
	}
	return codec.ReasonCode(f.QoS)
}

// failure is what SUBACK says instead of a QoS: MQTT 3.1.1 has 0x80 only.
func (c *conn) failure(code codec.ReasonCode) codec.ReasonCode {
	if c.version != codec.V5 {
		return codec.UnspecifiedError
	}
	return code
}

// enter makes the subscriptions that are granted, and answers.
// [MQTT-3.8.4] [MQTT311-3.8.4]
func (c *conn) enter(packet *codec.Subscribe, suback *codec.Suback) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return takenOver
	}
	for i := range packet.Filters {
		if !suback.Codes[i].Failed() && s.subscriptions[packet.Filters[i].Filter] == nil && s.engine.full() {
			suback.Codes[i] = c.failure(codec.QuotaExceeded)
		}
		if !suback.Codes[i].Failed() {
			s.subscribe(&packet.Filters[i], packet.SubscriptionIdentifier)
		}
	}
	c.whenSaved(func() {
		c.reply(suback)
		s.pump(c)
	})
	if c.out.Waiting() > 0 {
		c.wakeLater(&c.wakes)
	}
	return nil
}

// subscribe makes a subscription, or replaces the one with the same filter. The session's lock is held.
// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-3] [MQTT-3.8.4-4] [MQTT311-3.8.4-3]
func (s *Session) subscribe(f *codec.SubscribeFilter, id uint32) {
	by := &subscription{
		session: s, filter: f.Filter, inner: topic.Inner(f.Filter, nil),
		options: options{qos: f.QoS, noLocal: f.NoLocal, retainAsPublished: f.RetainAsPublished, id: id},
	}
	old := s.subscriptions[f.Filter]
	if s.subscriptions == nil {
		s.subscriptions = map[string]*subscription{}
	}
	s.subscriptions[f.Filter] = by
	if old == nil {
		s.engine.stats.subscriptions.Add(1)
		s.engine.memory.Add(int64(by.size()))
	}
	if topic.Shared(f.Filter) { // never with retained messages, section 4.8.2
		s.join(by)
		return
	}
	r := &s.engine.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	s.engine.index.replace(old, by)
	if f.RetainHandling == 0 || f.RetainHandling == 1 && old == nil {
		s.cursors = append(s.withoutCursor(old), r.open(by))
	}
}

// ids returns the identifier of a subscription, in the form that messages have it.
func (s *subscription) ids() []uint32 {
	if s.id == 0 {
		return nil
	}
	return []uint32{s.id}
}

// unsubscribe takes an UNSUBSCRIBE.
// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2]
// [MQTT311-3.10.4-1] [MQTT311-3.10.4-2] [MQTT311-3.10.4-4] [MQTT311-3.10.4-5] [MQTT311-3.10.4-6] [MQTT-3.10.4-3]
// [MQTT311-3.10.4-3]
func (c *conn) unsubscribe(p *packet) error {
	var packet codec.Unsubscribe
	if err := packet.Decode(p.Header, p.Body(), c.version); err != nil {
		return err
	}
	unsuback := &codec.Unsuback{PacketID: packet.PacketID}
	s := c.session
	s.mu.Lock()
	if s.conn != c {
		s.mu.Unlock()
		return takenOver
	}
	var gone []string
	for _, filter := range packet.Filters {
		code := codec.NoSubscriptionExisted
		switch {
		case s.unsubscribe(filter):
			code = codec.Success
			gone = append(gone, filter)
		case topic.CheckFilter(filter) != nil:
			code = codec.TopicFilterInvalid
		}
		if c.version == codec.V5 {
			unsuback.Codes = append(unsuback.Codes, code)
		}
	}
	c.whenSaved(func() { c.reply(unsuback) })
	if c.out.Waiting() > 0 {
		c.wakeLater(&c.wakes)
	}
	s.mu.Unlock()
	for _, filter := range gone {
		c.engine.policy.Unsubscribed(c.client, filter)
	}
	return nil
}

// unsubscribe ends a subscription, and reports whether there was one. What has been sent or queued stays.
func (s *Session) unsubscribe(filter string) bool {
	old := s.subscriptions[filter]
	if old == nil {
		return false
	}
	delete(s.subscriptions, filter)
	s.engine.stats.subscriptions.Add(-1)
	s.engine.memory.Add(-int64(old.size()))
	if topic.Shared(filter) {
		s.quit(old)
		return true
	}
	s.engine.index.replace(old, nil)
	s.unsubscribed = s.engine.index.generation.Load()
	s.cursors = s.withoutCursor(old)
	return true
}

// withoutCursor returns the cursors without that of a subscription that is no more; nil is none.
func (s *Session) withoutCursor(old *subscription) []*cursor {
	if old == nil {
		return s.cursors
	}
	return slices.DeleteFunc(s.cursors, func(c *cursor) bool {
		gone := c.subscription == old
		if gone {
			c.drop(s.engine)
		}
		return gone
	})
}

// unsubscribeAll ends all subscriptions, and returns their filters.
func (s *Session) unsubscribeAll() (filters []string) {
	var plain []*subscription
	for filter, sub := range s.subscriptions {
		filters = append(filters, filter)
		s.engine.memory.Add(-int64(sub.size()))
		if topic.Shared(filter) {
			s.quit(sub)
		} else {
			plain = append(plain, sub)
		}
	}
	s.engine.stats.subscriptions.Add(-int64(len(filters)))
	s.subscriptions = nil
	if len(plain) > 0 {
		s.engine.index.removeAll(plain)
	}
	return filters
}
