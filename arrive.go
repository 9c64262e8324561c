package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// publish handles a message.
// The caller holds mu.
func (r *receiver) publish(h codec.Header, body []byte) error {
	c := r.client
	p := &r.view
	if err := p.Split(h, body, c.version); err != nil {
		return err
	}
	alias, err := r.readProperties(p)
	if err != nil {
		return r.badProperties(p, alias, err)
	}
	t, err := r.topic(p, alias)
	switch {
	case err != nil:
		return err
	case t == nil:
		r.dropInvalid(p)
		return nil
	}
	c.stats.Received++
	if p.QoS > 0 {
		b, verdict := c.session.Arrive(r.link.Buffer(), p)
		r.link.Commit(b)
		switch verdict {
		case session.Repeated:
			c.stats.Received--
			c.inbox.watchStalls() // it may have been joined to a message that waits for its acknowledgement
			c.inbox.router.Prove(t, r.ids)
			return nil
		case session.Exceeded:
			return &codec.Error{
				Packet: h.Type, Code: codec.ReceiveMaximumExceeded, Rule: "MQTT-3.3.4-9",
				Detail: "more messages without acknowledgement than this client's Receive Maximum",
			}
		}
	}
	targets, known := c.inbox.router.Targets(t, r.ids, p.Retain)
	if p.QoS > 0 && r.leaves(targets, known) {
		r.holdFor(p, t, &c.inbox.leaving)
		return nil
	}
	if p.QoS > 0 && len(targets) == 0 && !known {
		if r.park(p, t) {
			return nil
		}
		c.inbox.noteUnmatched(t.Name, r.ids)
		if c.config.unmatched != nil {
			c.inbox.passUnmatched(r.message(p, t.Name))
		}
	}
	r.deliver(p, t, targets)
	c.inbox.router.Clear()
	return nil
}

// leaves reports whether a message is left to the server, without acknowledgement: after Drain was called, one that no
// subscription takes any more, for example because the server had it in its queue when it answered UNSUBSCRIBE. Those that come
// later are left as well, except replies to requests, because their acknowledgements would have to wait for that one's.
// The caller holds mu.
func (r *receiver) leaves(targets []route.Target, known bool) bool {
	in := &r.client.inbox
	if !in.stopping || known && len(targets) == 0 {
		return false
	}
	in.leaving = in.leaving || len(targets) == 0
	return in.leaving && !slices.ContainsFunc(targets, func(to route.Target) bool { return to.Holder.Owner.(*Subscription).sink != nil })
}

// topic looks up the topic name of a PUBLISH, and sets it if the PUBLISH has only an alias; alias 0 means none. It
// returns nil if the message must be dropped because its topic name is invalid.
// The caller holds mu.
// [MQTT-3.3.2-10] [MQTT-3.3.4]
func (r *receiver) topic(p *codec.PublishView, alias int) (*route.Topic, error) {
	switch {
	case len(p.Topic) > 0 && alias > 0:
		r.setAlias(alias, p.Topic)
	case len(p.Topic) == 0 && alias < len(r.aliases):
		p.Topic = r.aliases[alias] // a resend must have the same content, with and without an alias
	}
	if len(p.Topic) == 0 {
		return nil, r.client.protocolError(codec.PUBLISH, "MQTT-4.7.3-1", "MQTT-4.7.3-1", "no topic name, and no alias that stands for one")
	}
	if t := r.topics.Get(p.Topic, r.client.inbox.router); t != nil {
		return t, nil
	}
	switch err := p.CheckTopic(); {
	case err == nil:
	case r.client.config.dropInvalidTopics:
		return nil, nil
	default:
		return nil, naming(err, p.Topic)
	}
	return r.topics.Put(r.client.inbox.router.Lookup(string(p.Topic))), nil
}

// naming adds the topic name to the error about it.
func naming(err error, topic []byte) error {
	var invalid *codec.Error
	if !errors.As(err, &invalid) {
		return err
	}
	named := *invalid
	named.Detail += ": " + escaped(topic)
	return &named
}

// escaped returns a topic name in printable form, although it may be invalid; of a long one only the beginning.
func escaped(topic []byte) string {
	const most = 200 // bytes
	if len(topic) > most {
		return strconv.QuoteToASCII(string(topic[:most])) + "..."
	}
	return strconv.QuoteToASCII(string(topic))
}

// setAlias sets the topic name of an alias on this connection [MQTT-3.3.2-7].
func (r *receiver) setAlias(alias int, name []byte) {
	if missing := alias + 1 - len(r.aliases); missing > 0 {
		r.aliases = append(r.aliases, make([][]byte, missing)...)
	}
	r.aliases[alias] = bytes.Clone(name)
}

// manyProperties bounds the memory that is kept for the properties of the next message.
const manyProperties = 1000

// readProperties decodes the properties of a message, and returns the topic alias; 0 means none.
// [MQTT-3.1.2-27] [MQTT-3.3.2.3.8]
func (r *receiver) readProperties(p *codec.PublishView) (alias int, err error) {
	r.ids = r.ids[:0]
	if cap(r.ids)+cap(r.properties.UserProperties) > manyProperties {
		r.ids, r.properties = nil, codec.PublishProperties{}
	}
	if len(p.Properties) == 0 {
		return 0, nil
	}
	number, ids, err := codec.DecodeRelayedProperties(p.Properties, &r.properties, r.ids)
	r.ids = ids
	if most := r.client.config.topicAliasMaximum; err == nil && int(number) > most {
		err = &codec.Error{
			Packet: codec.PUBLISH, Code: codec.TopicAliasInvalid, Rule: "MQTT-3.1.2-26",
			Detail: fmt.Sprintf("topic alias %d, above this client's Topic Alias Maximum of %d", number, most),
		}
	}
	return int(number), err
}

// deliver passes the message to its targets, and acknowledges it now or lets it wait for its acknowledgement.
// The caller holds mu.
// [MQTT-3.3.4-1] [MQTT-4.5.0-2] [MQTT311-3.3.4-1] [MQTT311-4.5.0-2]
func (r *receiver) deliver(p *codec.PublishView, t *route.Topic, targets []route.Target) {
	c := r.client
	var receipt *session.Receipt
	accepted := false
	for _, to := range targets {
		s := to.Holder.Owner.(*Subscription)
		var m Message
		r.fill(&m, p, t.Name, s, QoS(to.QoS))
		if m.QoS == 0 {
			r.offer(s, &m)
			accepted = true // at QoS 0 it cannot be refused: if a refusal were lost, the message would come again as a new one
			continue
		}
		if s.options.ack == AutoAck && r.try(s, &m) {
			accepted = true
			continue
		}
		var o *origin
		if receipt == nil {
			first := new(firstOrigin)
			o, receipt = &first.origin, &first.receipt
			c.session.HoldIn(receipt, p)
			receipt.Topic = &t.Name
		} else {
			o = new(origin)
		}
		receipt.AddHolder(s)
		*o = origin{sub: s, receipt: receipt, ids: m.origin.identifiers()}
		m.origin = o
		r.hold(s, &m)
	}
	switch {
	case p.QoS == 0:
	case receipt != nil:
		r.link.Commit(c.session.Release(r.link.Buffer(), receipt, accepted))
	default: // all have accepted it, or no subscription got it
		r.link.Commit(c.session.Accept(r.link.Buffer(), p, nil))
	}
	if c.inbox.lineBytes > c.config.inboundLimit {
		c.inbox.boundInbound()
	}
}

// firstOrigin is the origin of a message's first copy that waits, and the receipt that all copies share: one allocation.
type firstOrigin struct {
	origin  origin
	receipt session.Receipt
}

// holdFor keeps a message that goes to no subscription unacknowledged until holder settles it.
// The caller holds mu.
func (r *receiver) holdFor(p *codec.PublishView, t *route.Topic, holder any) *session.Receipt {
	receipt := r.client.session.Hold(p)
	receipt.Topic = &t.Name
	receipt.AddHolder(holder)
	r.link.Commit(r.client.session.Release(r.link.Buffer(), receipt, false))
	return receipt
}

// park keeps a message for a later subscription. It reports false if there is no room for it.
// The caller holds mu.
func (r *receiver) park(p *codec.PublishView, t *route.Topic) bool {
	lot := &r.client.inbox.parking
	size := messageSize + len(t.Name) + len(p.Payload) + len(p.Properties)
	if !lot.takes(t.Name, size, r.client.config) || r.client.inbox.router.Retired(r.ids) {
		return false
	}
	receipt := r.holdFor(p, t, lot)
	lot.count++
	lot.messages = append(lot.messages, &parked{r.message(p, t.Name), receipt, lot.count, size})
	lot.bytes += size
	return true
}

// Oversized acknowledges a message that exceeds WithMaximumPacketSize, on MQTT 3.1.1. Otherwise the server would send
// it again and again.
// The caller holds mu.
func (r *receiver) Oversized(h codec.Header, start []byte) error {
	c := r.client
	p := &r.view
	size := h.Length
	h.Length = len(start)
	if err := p.Split(h, start, c.version); err != nil {
		return err
	}
	c.stats.Oversized++
	c.notices.log(slog.LevelWarn, "mqtt: a message larger than WithMaximumPacketSize was thrown away",
		"topic", string(p.Topic), "bytes", size)
	r.acknowledge(p)
	return nil
}

// dropInvalid acknowledges a message whose topic name is invalid.
// The caller holds mu.
func (r *receiver) dropInvalid(p *codec.PublishView) {
	r.client.stats.InvalidTopics++
	r.client.notices.log(slog.LevelWarn, "mqtt: a message with an invalid topic name was dropped", "topic", escaped(p.Topic))
	r.acknowledge(p)
}

// badProperties refuses a message with more properties than the client decodes. To end the connection over it would let any
// publisher keep any subscriber from working. Every other error in the properties ends it.
// The caller holds mu.
func (r *receiver) badProperties(p *codec.PublishView, alias int, err error) error {
	var broken *codec.Error
	if !errors.As(err, &broken) || broken.Code != codec.PacketTooLarge {
		return err
	}
	if _, err := r.topic(p, alias); err != nil {
		return err
	}
	r.client.stats.Oversized++
	r.client.notices.log(slog.LevelWarn, "mqtt: a message with too many properties was thrown away",
		"topic", escaped(p.Topic), "bytes", len(p.Properties), "most", codec.MaxProperties)
	r.refuse(p, &session.Reason{Code: codec.QuotaExceeded})
	return nil
}

// acknowledge accepts a message that goes to no subscription.
// The caller holds mu.
func (r *receiver) acknowledge(p *codec.PublishView) { r.refuse(p, nil) }

// refuse acknowledges a message that goes to no subscription, with a reason unless that is nil.
// The caller holds mu.
func (r *receiver) refuse(p *codec.PublishView, reason *session.Reason) {
	if p.QoS == 0 {
		return
	}
	b, verdict := r.client.session.Arrive(r.link.Buffer(), p)
	if verdict == session.Deliver {
		b = r.client.session.Accept(b, p, reason)
	}
	r.link.Commit(b)
}

// The caller holds mu.
func (r *receiver) pubrel(h codec.Header, body []byte) error {
	var p codec.Pubrel
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	if j := r.client.journal; j != nil {
		j.put(receivedKey(p.PacketID), nil)
		j.then(step{kind: stepEnded, id: p.PacketID, link: r.link})
		return nil
	}
	r.link.Commit(r.client.session.Pubrel(r.link.Buffer(), p.PacketID))
	return nil
}
