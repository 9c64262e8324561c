package mqtttest

import (
	"errors"
	"slices"
	"strings"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// publish looks at a PUBLISH and resolves its topic alias.
func (r *referee) publish(c *conn, p *codec.Publish) *Violation {
	if v := r.limits(c, p); v != nil {
		return v
	}
	if v := r.alias(c, p); v != nil {
		return v
	}
	if p.QoS == 0 {
		return nil
	}
	if v := r.identifier(c, p); v != nil {
		return v
	}
	if limit := c.settings.receiveMaximum; limit > 0 && c.version == codec.V5 && r.open > int(limit) {
		return c.foul(codec.ReceiveMaximumExceeded, "MQTT-3.3.4-7", "", "more unacknowledged messages than Receive Maximum")
	}
	return nil
}

// limits compares a PUBLISH with what CONNACK said.
func (r *referee) limits(c *conn, p *codec.Publish) *Violation {
	set := c.settings
	switch {
	case len(p.SubscriptionIdentifiers) > 0:
		return c.foul(codec.ProtocolError, "MQTT-3.3.4-6", "", "Subscription Identifier in a client's PUBLISH")
	case c.version != codec.V5:
		return nil
	case p.QoS > set.maximumQoS:
		return c.foul(codec.QoSNotSupported, "MQTT-3.2.2-11", "", "PUBLISH above Maximum QoS")
	case p.Retain && set.noRetain:
		return c.foul(codec.RetainNotSupported, "MQTT-3.2.2-14", "", "RETAIN although it is not available")
	case p.TopicAlias > set.topicAliasMaximum:
		return c.foul(codec.TopicAliasInvalid, "MQTT-3.2.2-17", "", "topic alias above Topic Alias Maximum")
	}
	return nil
}

func (r *referee) alias(c *conn, p *codec.Publish) *Violation {
	if p.TopicAlias == 0 {
		return nil
	}
	if p.Topic == "" {
		p.Topic = r.aliases[p.TopicAlias]
	} else {
		if r.aliases == nil {
			r.aliases = make(map[uint16]string)
		}
		r.aliases[p.TopicAlias] = p.Topic
	}
	if p.Topic == "" {
		return c.foul(codec.ProtocolError, "MQTT-3.3.2-7", "", "topic alias that stands for nothing on this connection")
	}
	return nil
}

// identifier looks at the packet identifier and DUP of a PUBLISH.
func (r *referee) identifier(c *conn, p *codec.Publish) *Violation {
	e := r.ledger.entries[p.PacketID]
	switch {
	case r.requests[p.PacketID]:
		return r.inUse(c)
	case e != nil && e.on == c:
		return r.resentTooSoon(c, e, p)
	case e != nil:
		return r.resent(c, e, p)
	case p.Dup && r.neverSent(c):
		return c.foul(codec.ProtocolError, "MQTT-3.3.1-3", "MQTT-3.3.1-3", "DUP on a message that was not sent before")
	}
	r.ledger.numbers++
	number := r.ledger.numbers
	if p.Dup { // its acknowledgement was lost: it belongs before what is still to be sent again
		number = r.lastResent
	} else if r.owes(c) {
		return c.foul(codec.ProtocolError, "MQTT-4.4.0-1", "MQTT-4.4.0-1", "new message before all unfinished ones were sent again")
	}
	r.ledger.entries[p.PacketID] = &entry{
		topic: p.Topic, payload: p.Payload, qos: p.QoS, retain: p.Retain, size: p.Size(c.version), number: number, on: c,
	}
	r.open++
	return nil
}

// owes reports whether the client has still to send something again in a session that was resumed. It is asked about the
// first new message.
func (r *referee) owes(c *conn) bool {
	if r.fresh || r.settled {
		return false
	}
	r.settled = true
	for _, e := range r.ledger.entries {
		if e.on != c && e.released != c && (e.released != nil || !c.settings.forbid(e, c.version)) {
			return true
		}
	}
	return false
}

// forbid reports whether a message, sent on an earlier connection, is one that CONNACK does not allow any more.
func (s *settings) forbid(e *entry, v codec.Version) bool {
	limit := int(s.maximumPacketSize)
	return v == codec.V5 && (e.qos > s.maximumQoS || e.retain && s.noRetain || limit > 0 && e.size > limit)
}

// neverSent reports whether a message with an identifier that is not in use cannot be one sent again. In MQTT 3.1.1 it can be one whose
// acknowledgement has crossed it.
func (r *referee) neverSent(c *conn) bool {
	return r.fresh && (c.version == codec.V5 || r.ledger.numbers == 0)
}

func (r *referee) inUse(c *conn) *Violation {
	return c.foul(codec.ProtocolError, "MQTT-2.2.1-3", "MQTT-2.3.1-2", "packet identifier that is in use")
}

// resentTooSoon looks at a message that has come on the same connection already. MQTT 3.1.1 allows that.
func (r *referee) resentTooSoon(c *conn, e *entry, p *codec.Publish) *Violation {
	if !p.Dup || !e.same(p) || e.released != nil {
		return r.inUse(c)
	}
	if c.version == codec.V5 {
		return c.foul(codec.ProtocolError, "MQTT-4.4.0-1", "", "message sent again on the same connection")
	}
	return nil
}

// resent looks at a message that has come on an earlier connection.
func (r *referee) resent(c *conn, e *entry, p *codec.Publish) *Violation {
	switch {
	case !e.same(p):
		return r.inUse(c)
	case !p.Dup:
		return c.foul(codec.ProtocolError, "MQTT-3.3.1-1", "MQTT-3.3.1-1", "message sent again without DUP")
	case e.released != nil:
		return c.foul(codec.ProtocolError, "MQTT-4.3.3-6", "MQTT-4.3.3-1", "PUBLISH again after PUBREL")
	case e.number < r.lastResent:
		return c.foul(codec.ProtocolError, "MQTT-4.6.0-1", "MQTT-4.6.0-1", "messages sent again in another order")
	}
	r.lastResent = e.number
	e.on = c
	r.open++
	return nil
}

func (r *referee) pubrel(c *conn, p *codec.Pubrel) *Violation {
	e := r.ledger.entries[p.PacketID]
	at := slices.Index(r.pubrels, p.PacketID)
	switch {
	case e == nil && (!r.fresh || p.Code == codec.PacketIdentifierNotFound):
		return nil
	case e == nil || e.recorded == nil:
		return c.foul(codec.ProtocolError, "MQTT-4.3.3-4", "MQTT-4.3.3-1", "PUBREL without a PUBREC")
	case e.released == c && c.version == codec.V5:
		return c.foul(codec.ProtocolError, "MQTT-4.4.0-1", "", "PUBREL sent again on the same connection")
	case at > 0:
		return c.foul(codec.ProtocolError, "MQTT-4.6.0-4", "MQTT-4.6.0-4", "PUBREL out of order")
	case at == 0:
		r.pubrels = r.pubrels[1:]
	}
	e.released = c
	return nil
}

func (r *referee) subscribe(c *conn, p *codec.Subscribe) *Violation {
	if p.SubscriptionIdentifier != 0 && c.settings.noIdentifiers {
		return c.foul(codec.SubscriptionIdentifiersNotSupported, "3.2.2.3.12", "", "subscription identifiers are not available")
	}
	for _, f := range p.Filters {
		if v := r.filter(c, f.Filter); v != nil {
			return v
		}
	}
	return r.request(c, p.PacketID)
}

func (r *referee) unsubscribe(c *conn, p *codec.Unsubscribe) *Violation {
	for _, f := range p.Filters {
		if err := topic.CheckFilter(f); err != nil {
			return badFilter(c, err)
		}
	}
	return r.request(c, p.PacketID)
}

// request looks at the packet identifier of a SUBSCRIBE or UNSUBSCRIBE.
func (r *referee) request(c *conn, id uint16) *Violation {
	if r.requests[id] || r.ledger.entries[id] != nil {
		return r.inUse(c)
	}
	r.requests[id] = true
	return nil
}

func (r *referee) filter(c *conn, filter string) *Violation {
	set := c.settings
	err := topic.CheckFilter(filter)
	switch {
	case err != nil:
		return badFilter(c, err)
	case c.version != codec.V5:
	case set.noWildcards && strings.ContainsAny(filter, "+#"):
		return c.foul(codec.WildcardSubscriptionsNotSupported, "3.2.2.3.11", "", "wildcard subscriptions are not available")
	case set.noShared && topic.Shared(filter):
		return c.foul(codec.SharedSubscriptionsNotSupported, "3.2.2.3.13", "", "shared subscriptions are not available")
	}
	return nil
}

// filterRules are the statements of MQTT 3.1.1 about topic filters, by those of MQTT 5.0.
var filterRules = map[string]string{
	"MQTT-4.7.1-1": "MQTT-4.7.1-2",
	"MQTT-4.7.1-2": "MQTT-4.7.1-3",
	"MQTT-4.7.3-1": "MQTT-4.7.3-1",
	"MQTT-4.7.3-2": "MQTT-4.7.3-2",
	"MQTT-4.7.3-3": "MQTT-4.7.3-3",
	"MQTT-1.5.4-1": "MQTT-1.5.3-1",
}

func badFilter(c *conn, err error) *Violation {
	var flaw *topic.Error
	errors.As(err, &flaw)
	return c.foul(codec.TopicFilterInvalid, flaw.Rule, filterRules[flaw.Rule], "topic filter: "+flaw.Text)
}

func (r *referee) disconnect(c *conn, p *codec.Disconnect) *Violation {
	switch {
	case !clientMaySay(p.Code):
		return c.foul(codec.ProtocolError, "MQTT-3.14.2-1", "", "reason code that only a server sends")
	case p.ServerReference != "":
		return c.foul(codec.ProtocolError, "3.14.2.2.5", "", "Server Reference in a client's DISCONNECT")
	case p.SessionExpiry != nil && *p.SessionExpiry != 0 && !c.client.expirySet:
		return c.foul(codec.ProtocolError, "3.14.2.2.2", "", "Session Expiry Interval changes from 0")
	}
	return nil
}

// clientMaySay reports whether a client may send a reason code in DISCONNECT [MQTT-3.14.2-1].
func clientMaySay(code codec.ReasonCode) bool {
	switch code {
	case codec.NormalDisconnection, codec.DisconnectWithWill, codec.UnspecifiedError, codec.MalformedPacket, codec.ProtocolError,
		codec.ImplementationSpecificError, codec.TopicNameInvalid:
		return true
	}
	return code >= codec.ReceiveMaximumExceeded && code <= codec.PayloadFormatInvalid
}
