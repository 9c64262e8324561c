package mqtttest

import (
	"strings"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// subscribe handles a SUBSCRIBE.
func (c *conn) subscribe(p *codec.Subscribe) {
	ack := &codec.Suback{PacketID: p.PacketID}
	var retained []*subscription
	for _, f := range p.Filters {
		code := c.grant(&f)
		ack.Codes = append(ack.Codes, code)
		if code.Failed() {
			continue
		}
		sub, isNew := c.sess.subscribe(f, p.SubscriptionIdentifier)
		if sub.shared == nil && (f.RetainHandling == 0 || f.RetainHandling == 1 && isNew) { // [MQTT-3.3.1-9] [MQTT-3.3.1-10]
			retained = append(retained, sub)
		}
	}
	if !c.settings.early {
		c.send(ack)
	}
	for _, sub := range retained {
		c.b.sendRetained(sub)
	}
	if c.settings.early {
		c.send(ack)
	}
	c.b.content.endSubscriptionWaits(c.sess)
}

// grant returns the reason code for a filter, and lowers its QoS to what is granted.
func (c *conn) grant(f *codec.SubscribeFilter) codec.ReasonCode {
	code := codec.Success
	switch {
	case topic.CheckFilter(f.Filter) != nil:
		code = codec.TopicFilterInvalid
	case c.settings.noWildcards && strings.ContainsAny(f.Filter, "+#"):
		code = codec.WildcardSubscriptionsNotSupported
	case c.settings.noShared && topic.Shared(f.Filter):
		code = codec.SharedSubscriptionsNotSupported
	}
	if code.Failed() && c.version != codec.V5 {
		return codec.UnspecifiedError
	}
	if code.Failed() {
		return code
	}
	f.QoS = min(f.QoS, c.settings.maximumQoS)
	return codec.ReasonCode(f.QoS)
}

// subscribe makes a subscription, or replaces that of the same filter [MQTT-3.8.4-3].
func (s *session) subscribe(f codec.SubscribeFilter, id uint32) (sub *subscription, isNew bool) {
	if sub = s.subs[f.Filter]; sub != nil {
		sub.options, sub.id = f, id
		return sub, false
	}
	sub = &subscription{session: s, options: f, inner: topic.Inner(f.Filter, nil), id: id}
	s.subs[f.Filter] = sub
	s.b.content.router.add(sub)
	return sub, true
}

// unsubscribe handles an UNSUBSCRIBE.
func (c *conn) unsubscribe(p *codec.Unsubscribe) {
	ack := &codec.Unsuback{PacketID: p.PacketID}
	for _, filter := range p.Filters {
		code := codec.NoSubscriptionExisted
		if sub := c.sess.subs[filter]; sub != nil {
			code = codec.Success
			delete(c.sess.subs, filter)
			c.b.content.router.remove(sub)
		}
		if c.version == codec.V5 {
			ack.Codes = append(ack.Codes, code)
		}
	}
	c.send(ack)
}
