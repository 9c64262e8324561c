package mqtt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// receiver handles the packets of one connection. Only the goroutine that holds the client's mutex uses its fields.
type receiver struct {
	client *client
	link   *link.Link
	toWake []*Delivery // to be woken by Flush

	topics     route.Cache
	view       codec.PublishView
	properties codec.PublishProperties
	ids        []uint32 // subscription identifiers of the current PUBLISH
	aliases    [][]byte // topic names by the server's alias, from 1
}

func newReceiver(c *client, l *link.Link) *receiver { return &receiver{client: c, link: l} }

// Room wakes the publishes that wait for room in the write buffer, and sends from the queue.
// The caller holds mu.
func (r *receiver) Room() {
	r.client.outbox.room.wake()
	wake(r.client.outbox.sendQueued(nil))
}

// Refused notes that no more acknowledgements are sent on this connection. The server will send messages without
// acknowledgement again.
// The caller holds mu.
func (r *receiver) Refused() { r.client.session.EndIncoming() }

// Idle releases memory that an idle connection does not need.
// The caller holds mu.
func (r *receiver) Idle() {
	r.client.session.Trim()
	for s := range r.client.inbox.subs {
		s.line.trim()
	}
}

// Awaiting reports whether the server has something to acknowledge.
// The caller holds mu.
func (r *receiver) Awaiting() bool {
	return r.client.session.InFlight() > 0 || r.client.session.TakenIDs() > 0
}

// Packet handles one packet from the server.
// The caller holds mu.
func (r *receiver) Packet(h codec.Header, body []byte) error {
	switch h.Type {
	case codec.PUBLISH:
		err := r.publish(h, body)
		if in := &r.client.inbox; in.session.Exhausted() {
			in.fillings.complete()
		}
		return err
	case codec.PUBACK:
		return r.puback(h, body)
	case codec.PUBREC:
		return r.pubrec(h, body)
	case codec.PUBREL:
		return r.pubrel(h, body)
	case codec.PUBCOMP:
		return r.pubcomp(h, body)
	case codec.SUBACK:
		return r.suback(h, body)
	case codec.UNSUBACK:
		return r.unsuback(h, body)
	case codec.DISCONNECT:
		return r.disconnect(h, body)
	case codec.AUTH:
		return r.auth(h, body)
	}
	return r.unexpected(h)
}

// unexpected makes the error for a packet that a server never sends after CONNACK.
func (r *receiver) unexpected(h codec.Header) error {
	const detail = "a server must not send this packet now"
	if h.Type == codec.CONNACK {
		return r.client.protocolError(h.Type, "MQTT-3.2.0-2", "3.2", detail)
	}
	return r.client.protocolError(h.Type, "4.13.1", "MQTT-4.8.0-1", detail)
}

// puback completes a message at QoS 1. An acknowledgement of an identifier that is not in use is late: it is counted
// and ignored.
// The caller holds mu.
func (r *receiver) puback(h codec.Header, body []byte) error {
	var p codec.Puback
	code := r.translate(body)
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	p.Code = max(p.Code, code)
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	m, ok := r.client.session.Puback(p.PacketID)
	if !ok && r.client.session.Misplaced(h.Type, p.PacketID) {
		if r.client.version < codec.V5 && r.downgraded(p.PacketID) {
			return nil
		}
		return r.misplaced(h)
	}
	r.complete(m, ok, p.Code, p.ReasonString, p.UserProperties)
	return nil
}

// downgraded completes a message at QoS 2 that the server has answered with PUBACK. RabbitMQ does so on MQTT 3.1.1, where a server
// cannot announce that it knows no QoS 2. To end the connection would bring the same answer again.
// The caller holds mu.
func (r *receiver) downgraded(id uint16) bool {
	m, ok := r.client.session.PubackForQoS2(id)
	if !ok {
		return false
	}
	err := fmt.Errorf("%w: publishing to %q: the server answered QoS 2 with PUBACK, so it has taken the message at QoS 1 at most: %w",
		ErrOutcomeUnknown, m.Topic, QoSNotSupported)
	r.toWake = resolveOwner(r.toWake, m.Owner, err)
	r.toWake = r.client.outbox.sendQueued(r.toWake)
	r.client.inbox.probe()
	return true
}

// The caller holds mu.
func (r *receiver) pubrec(h codec.Header, body []byte) error {
	var p codec.Pubrec
	code := r.translate(body)
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	p.Code = max(p.Code, code)
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	if r.client.session.Misplaced(h.Type, p.PacketID) {
		return r.misplaced(h)
	}
	if r.client.journal != nil && r.recordPubrec(&p) {
		return nil
	}
	b, m, done, known := r.client.session.Pubrec(r.link.Buffer(), p.PacketID, p.Code)
	r.link.Commit(b)
	if done || !known {
		r.complete(m, known, p.Code, p.ReasonString, p.UserProperties)
	} else if d, ok := m.Owner.(*Delivery); ok && !p.Code.Failed() { // a refusal comes too late, after PUBREL
		d.reason = ReasonCode(p.Code) // PUBCOMP may have none
		d.say(newExplanation(p.ReasonString, p.UserProperties))
	}
	return nil
}

// recordPubrec has it written that the server has accepted a message, if that is to be on disk before PUBREL is sent.
// The caller holds mu.
func (r *receiver) recordPubrec(p *codec.Pubrec) bool {
	j := r.client.journal
	if p.Code.Failed() {
		return false
	}
	m, released := r.client.session.InFlightMessage(p.PacketID)
	if m == nil || released || m.QoS != 2 {
		return false
	}
	d, ok := m.Owner.(*Delivery)
	if !ok || d.number() == 0 {
		return false
	}
	r.client.session.Acknowledged()
	d.reason = ReasonCode(p.Code)
	d.say(newExplanation(p.ReasonString, p.UserProperties))
	j.released++
	j.putFlight(d.number(), flight{id: p.PacketID, released: j.released})
	j.then(step{kind: stepRelease, id: p.PacketID, d: d})
	return true
}

// The caller holds mu.
func (r *receiver) pubcomp(h codec.Header, body []byte) error {
	var p codec.Pubcomp
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	m, ok := r.client.session.Pubcomp(p.PacketID)
	if !ok && r.client.session.Misplaced(h.Type, p.PacketID) {
		return r.misplaced(h)
	}
	// Whatever the code is, PUBREC has said that the server took the message. PUBCOMP has one code besides Success, which
	// only says that the server has forgotten the packet identifier since (section 3.7.2.1).
	r.complete(m, ok, codec.Success, p.ReasonString, p.UserProperties)
	return nil
}

// misplaced makes the error for an acknowledgement whose packet identifier is in use for something else. If it were
// ignored, the call that waits for the right acknowledgement would wait for ever.
func (r *receiver) misplaced(h codec.Header) error {
	const detail = "the packet identifier is in use for something else"
	if h.Type == codec.SUBACK || h.Type == codec.UNSUBACK {
		return r.client.protocolError(h.Type, "MQTT-2.2.1-6", "MQTT-2.3.1-7", detail)
	}
	return r.client.protocolError(h.Type, "MQTT-2.2.1-5", "MQTT-2.3.1-6", detail)
}

// translate replaces a reason code that PUBACK and PUBREC do not have by one that they have, for the decoder. Below 0x80
// all codes stand for success, and from 0x80 on all for a refusal of the message (section 2.4): mochi 2.7.9 answers a PUBLISH that
// has properties with 0x01, Mosquitto 2.0.11 one that is too large with 0x95 (seen). It returns the code of a refusal, as the
// server sent it.
func (r *receiver) translate(body []byte) (refusal codec.ReasonCode) {
	switch {
	case len(body) < 3:
	case codec.ReasonCode(body[2]).Failed():
		refusal = codec.ReasonCode(body[2])
		body[2] = byte(codec.UnspecifiedError)
	case body[2] != byte(codec.NoMatchingSubscribers):
		body[2] = byte(codec.Success)
	}
	return refusal
}

// translateAll does for the refusals in SUBACK and UNSUBACK what translate does. It returns all reason codes, as the server
// sent them.
func (r *receiver) translateAll(body []byte) []codec.ReasonCode {
	codes := body[min(2, len(body)):] // behind the packet identifier
	if r.client.version >= codec.V5 {
		length, size := binary.Uvarint(codes)
		if size <= 0 || length > uint64(len(codes)-size) {
			return nil // the decoder says what is wrong
		}
		codes = codes[size+int(length):]
	}
	sent := make([]codec.ReasonCode, len(codes))
	for i, code := range codes {
		if sent[i] = codec.ReasonCode(code); sent[i].Failed() {
			codes[i] = byte(codec.UnspecifiedError)
		}
	}
	return sent
}

// complete resolves a message that has its last acknowledgement, and sends messages from the queue.
// The caller holds mu.
// [MQTT-4.13.2]
func (r *receiver) complete(m session.Settled, known bool, code codec.ReasonCode, reason string, u UserProperties) {
	c := r.client
	if !known {
		c.stats.LateAcks++
		return
	}
	var err error
	if code.Failed() {
		err = &PublishError{Topic: m.Topic, Refusal: Refusal{Code: ReasonCode(code), Reason: reason, UserProperties: u}}
	} else {
		c.stats.Published++
	}
	if d, ok := m.Owner.(*Delivery); ok {
		if err != nil && d.details != nil && d.details.restored {
			c.notices.log(slog.LevelError, "mqtt: the server refuses a message of an earlier process",
				"topic", m.Topic, "name", d.details.name, "error", err)
		}
		if code == codec.Success {
			code = codec.ReasonCode(d.reason)
		}
		if w := newExplanation(reason, u); w != nil {
			d.say(w)
		}
		r.toWake = d.resolve(r.toWake, ReasonCode(code), err)
	}
	r.toWake = c.outbox.sendQueued(r.toWake)
	c.inbox.probe()
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

// disconnect handles the server's DISCONNECT: the connection ends, and nothing more is sent (section 3.14.4).
// [MQTT-3.14.4]
func (r *receiver) disconnect(h codec.Header, body []byte) error {
	if r.client.version < codec.V5 {
		return r.client.protocolError(h.Type, "", "3.14", "a server has no DISCONNECT in MQTT 3.1.1")
	}
	var p codec.Disconnect
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	if p.SessionExpiry != nil {
		return r.client.protocolError(h.Type, "MQTT-3.14.2-2", "", "Session Expiry Interval in a server's DISCONNECT")
	}
	return &DisconnectError{
		ByServer:        true,
		ServerReference: p.ServerReference,
		Refusal:         Refusal{Code: ReasonCode(p.Code), Reason: p.ReasonString, UserProperties: p.UserProperties},
	}
}

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

// firstOrigin is the origin of a message's first copy that waits, and the receipt that all copies share: one allocation.
type firstOrigin struct {
	origin  origin
	receipt session.Receipt
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
	c.inbox.boundInbound()
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

// auth handles the server's step of a re-authentication.
// The caller holds mu.
func (r *receiver) auth(h codec.Header, body []byte) error {
	p, err := r.client.decodeAuth(h, body, true)
	if err != nil {
		return err
	}
	running := r.client.auth.running
	if running == nil || !running.asked {
		return r.client.protocolError(h.Type, "4.12.1", "", "it answers nothing")
	}
	running.asked = false
	running.answers <- p // has room: the earlier answers were received
	return nil
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

// holdFor keeps a message that goes to no subscription unacknowledged until holder settles it.
// The caller holds mu.
func (r *receiver) holdFor(p *codec.PublishView, t *route.Topic, holder any) *session.Receipt {
	receipt := r.client.session.Hold(p)
	receipt.Topic = &t.Name
	receipt.AddHolder(holder)
	r.link.Commit(r.client.session.Release(r.link.Buffer(), receipt, false))
	return receipt
}

// refusedIdentifier reports whether the server refused a packet because the server uses the packet identifier itself.
// Then it sends the packet again with another identifier: mochi 2.7.9 has one table of identifiers for both directions
// (seen).
// The caller holds mu.
func (r *receiver) refusedIdentifier(q *filterPacket, codes []codec.ReasonCode) bool {
	if q.resends == maxResends || !slices.Contains(codes, codec.PacketIdentifierInUse) {
		return false
	}
	q.resends++
	return r.client.inbox.sendFilterPacket(q, q.encode) == nil
}

// suback handles the answer to a SUBSCRIBE.
// The caller holds mu.
// [MQTT-3.8.4-2] [MQTT-3.8.4-7] [MQTT311-3.8.4-2]
func (r *receiver) suback(h codec.Header, body []byte) error {
	var p codec.Suback
	codes := r.translateAll(body)
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	p.Codes = codes
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	q, err := r.takeAnswer(h, p.PacketID, len(p.Codes), "MQTT-3.8.4-6", "MQTT-3.8.4-5")
	if q == nil || err != nil || r.refusedIdentifier(q, p.Codes) {
		return err
	}
	r.client.inbox.suspicion.acquit(q)
	for i, rt := range q.routes {
		switch code := p.Codes[i]; {
		case !code.Failed():
			rt.Granted(q.sent[i], byte(code))
			q.granted(rt, QoS(code), newExplanation(p.ReasonString, p.UserProperties))
		case q.call != nil:
			rt.Refused(q.sent[i])
			q.refused(i, ReasonCode(code), p.ReasonString)
		default:
			rt.Refused(q.sent[i])
			failed := FilterError{rt.Filter(), ReasonCode(code), p.ReasonString}
			r.client.inbox.endHolders(rt, &SubscribeError{[]FilterError{failed}, p.UserProperties})
		}
	}
	r.client.inbox.unsubscribeUnheld(q)
	q.call.answered(p.UserProperties)
	if q.call != nil && len(q.call.rest) > 0 && !q.call.sub.ended {
		r.client.inbox.sendRest(q.call.sub)
	}
	r.client.inbox.probe()
	return nil
}

// unsuback handles the answer to an UNSUBSCRIBE.
// The caller holds mu.
// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT311-3.10.4-4] [MQTT311-3.10.4-5]
func (r *receiver) unsuback(h codec.Header, body []byte) error {
	var p codec.Unsuback
	sent := r.translateAll(body)
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	p.Codes = sent
	if err := r.client.checkProblem(h, p.ReasonString, p.UserProperties); err != nil {
		return err
	}
	codes := len(p.Codes)
	if r.client.version < codec.V5 {
		codes = -1 // an UNSUBACK of MQTT 3.1.1 has no codes
	}
	q, err := r.takeAnswer(h, p.PacketID, codes, "MQTT-3.11.3-1", "")
	if q == nil || err != nil || r.refusedIdentifier(q, p.Codes) {
		return err
	}
	for i, code := range p.Codes {
		if code.Failed() {
			q.refused(i, ReasonCode(code), p.ReasonString)
		}
	}
	q.call.answered(p.UserProperties)
	r.client.inbox.probe()
	return nil
}

// takeAnswer finds the packet that a SUBACK or UNSUBACK answers; nil if there is none. codes is the number of reason codes,
// which must be that of the filters; -1 means that the packet has none. v5 and v311 are the rule's numbers.
// The caller holds mu.
func (r *receiver) takeAnswer(h codec.Header, id uint16, codes int, v5, v311 string) (*filterPacket, error) {
	if r.client.session.Misplaced(h.Type, id) {
		return nil, r.misplaced(h)
	}
	owner, ok := r.client.session.ReturnID(id)
	if !ok {
		r.client.stats.LateAcks++
		return nil, nil
	}
	r.client.inbox.subscribeMore()
	r.toWake = r.client.outbox.sendQueued(r.toWake) // the packet identifier is free again, and a message may wait for one
	q := owner.(*filterPacket)
	var err error
	switch {
	case (h.Type == codec.SUBACK) != (q.routes != nil):
		err = r.misplaced(h)
	case codes >= 0 && codes != len(q.filters):
		err = r.client.protocolError(h.Type, v5, v311, fmt.Sprintf("%d reason codes do not answer the request for %d filters", codes, len(q.filters)))
	default:
		return q, nil
	}
	if q.routes == nil {
		r.client.inbox.unsubscribes = append(r.client.inbox.unsubscribes, q)
	} // a SUBSCRIBE need not be noted: its call still waits, and is sent again at the next connect
	return nil, err
}
