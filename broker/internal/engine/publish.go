package engine

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// run is consecutive messages of one publisher, topic and QoS: they are given to each target at once.
type run struct {
	match  *match
	qos    byte
	retain bool
	items  []item
	size   int            // bytes of payloads
	stored []storedTarget // whom the store has the messages for
	sheets
}

// item is a message of a run. Its bytes belong to the read buffer, except for those of message.
type item struct {
	payload    []byte
	properties *codec.PublishProperties // nil: none
	id         uint16                   // packet identifier; 0 at QoS 0
	refused    codec.ReasonCode         // the publisher is told; Success: it is not refused
	repeated   bool                     // it came before
	kept       bool                     // a target has it, or does not want it
	unheard    bool                     // there is no target
	receipt    *session.Receipt         // at QoS 2, or when the acknowledgement has to wait
	message    *message                 // nil at QoS 0, where nobody keeps it
}

// runBound is how many bytes a run gathers.
const runBound = 64 << 10

// publish takes a PUBLISH and adds it to the run that it belongs to.
func (c *conn) publish(p *packet) error {
	var v codec.PublishView
	if err := v.Split(p.Header, p.Body(), c.version); err != nil {
		return err
	}
	it := item{payload: v.Payload, id: v.PacketID}
	m, err := c.resolve(&v, &it)
	if err != nil {
		return err
	}
	r := &c.run
	if len(r.items) > 0 && (r.match != m || r.qos != v.QoS || r.retain != v.Retain || r.size >= runBound) {
		if err := c.flush(); err != nil {
			return err
		}
	}
	r.match, r.qos, r.retain = m, v.QoS, v.Retain
	r.size += len(it.payload)
	r.items = append(r.items, it)
	return nil
}

// resolve finds out which topic a PUBLISH is for, and decodes its properties.
func (c *conn) resolve(v *codec.PublishView, it *item) (*match, error) {
	if len(v.Properties) == 0 {
		if m := c.matches[string(v.Topic)]; m != nil { // checked when it was remembered
			return c.lookUp(v.Topic), nil
		}
		if err := v.CheckTopic(); err != nil {
			return nil, err
		}
		return c.lookUp(v.Topic), nil
	}
	if err := v.CheckTopic(); err != nil {
		return nil, err
	}
	alias, ids, err := codec.DecodePublishProperties(v.Properties, &c.properties, nil)
	switch {
	case err != nil:
		return nil, err
	case len(ids) > 0:
		return nil, publishError(codec.ProtocolError, "MQTT-3.3.4-6", "Subscription Identifier from a client")
	}
	if alias != 0 {
		if err := c.unalias(v, alias); err != nil {
			return nil, err
		}
	}
	if !isPlain(&c.properties) {
		it.properties = cloneProperties(&c.properties)
	}
	return c.lookUp(v.Topic), nil
}

func isPlain(p *codec.PublishProperties) bool {
	return !p.UTF8Payload && p.MessageExpiry == 0 && p.ContentType == "" && p.ResponseTopic == "" && p.CorrelationData == nil &&
		len(p.UserProperties) == 0
}

// unalias puts the topic in place of its alias.
// [MQTT-3.3.2-7] [MQTT-3.3.2-8] [MQTT-3.3.2-12]
func (c *conn) unalias(v *codec.PublishView, alias uint16) error {
	if alias > TopicAliasMaximum {
		return publishError(codec.TopicAliasInvalid, "MQTT-3.3.2-9", "topic alias above the maximum")
	}
	if c.aliases == nil {
		c.aliases = make([]string, 1+TopicAliasMaximum)
	}
	switch {
	case len(v.Topic) > 0:
		if c.aliases[alias] != string(v.Topic) {
			c.aliases[alias] = string(v.Topic)
		}
	case c.aliases[alias] == "":
		return publishError(codec.ProtocolError, "3.3.4", "topic alias that stands for nothing")
	default:
		v.Topic = []byte(c.aliases[alias])
	}
	return nil
}

func publishError(code codec.ReasonCode, rule, detail string) error {
	return &codec.Error{Packet: codec.PUBLISH, Code: code, Rule: rule, Detail: detail}
}

// flush routes the run, and acknowledges what was in it.
func (c *conn) flush() error {
	r := &c.run
	if len(r.items) == 0 {
		return nil
	}
	defer r.forget()
	var broken error
	stores := c.stores(r)
	if r.qos > 0 {
		broken = c.claimRun(r, stores || r.qos == 2)
	}
	if len(r.items) == 0 {
		return broken
	}
	c.judge(r)
	if stores {
		c.store(r)
		return broken
	}
	c.engine.route(c.client, r, &c.wakes)
	if r.qos > 0 {
		if err := c.acknowledgeRun(r, &c.wakes); broken == nil {
			broken = err
		}
	}
	return broken
}

// claimRun enters messages at QoS 1 and 2 into the session before they are routed: a connection that was taken over can
// claim nothing more. With an error, what came before the fault is still in the run.
// [MQTT-3.3.4-7] [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT311-4.3.3-2]
func (c *conn) claimRun(r *run, hold bool) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		r.items = r.items[:0]
		return takenOver
	}
	before := c.out.Waiting()
	b := c.out.Buffer()
	var broken error
	for i := range r.items {
		it := &r.items[i]
		view := codec.PublishView{QoS: r.qos, PacketID: it.id}
		var verdict session.Verdict
		b, verdict = s.state.Arrive(b, &view)
		it.repeated = verdict == session.Repeated
		if verdict == session.Exceeded {
			r.items, broken = r.items[:i], receiveMaximum
			break
		}
		if hold && !it.repeated {
			it.receipt = s.state.Hold(&view)
		}
	}
	c.out.Commit(b)
	c.answered(before)
	return broken
}

// answered has answers written that were appended since so many bytes waited.
func (c *conn) answered(before int) {
	if n := c.out.Waiting() - before; n > 0 {
		c.answers += n
		c.wakeLater(&c.wakes)
	}
}

// noRoom counts a retained message for which there is no memory, and tells the log now and then.
func (e *Engine) noRoom(client *Client, topic string) {
	e.stats.dropped.Add(1)
	now, told := e.now(), e.told.Load()
	if (told == 0 || now > time.Duration(told)+toldEvery) && e.told.CompareAndSwap(told, int64(now)) {
		e.log.Warn("memory is used up, so retained messages are refused", "client", logged{client}, "topic", brief(topic))
	}
}

// judge decides about each message whether the client may publish it, and whether there is memory if it is to be retained.
// [MQTT-4.13.2-1] and section 4.7.2
// [MQTT311-3.3.5-2] [MQTT-4.7.2] [MQTT311-4.7.2]
func (c *conn) judge(r *run) {
	allowed := r.match.publish && !isServers(r.match.topic)
	asks := c.engine.policy.Asks() && !isServers(r.match.topic)
	for i := range r.items {
		ok := allowed
		if asks && !r.items[i].repeated {
			ok = c.engine.authorized(c.client, Publish, r.match.topic)
		}
		switch it := &r.items[i]; {
		case !ok:
			it.refused = codec.NotAuthorized
		case r.retain && len(it.payload) > 0 && !it.repeated && c.engine.full():
			it.refused = codec.QuotaExceeded
			c.engine.noRoom(c.client, r.match.topic)
		}
	}
	if !allowed {
		c.engine.log.Debug("publish refused", "client", logged{c.client}, "topic", brief(r.match.topic))
	}
}

// acknowledgeRun answers the messages of a run that has been routed, in their order.
// [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT311-3.3.4-1] [MQTT311-4.3.2-2]
func (c *conn) acknowledgeRun(r *run, wakes *[]*conn) error {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	to := s.conn
	if to == nil || s.ended {
		s.answerLater(r)
		return takenOver
	}
	before := to.out.Waiting()
	b := to.out.Buffer()
	for i := range r.items {
		it := &r.items[i]
		if it.repeated || it.receipt == nil && to != c {
			continue // at QoS 1 the client sends it again on its new connection
		}
		b = s.answerItem(b, r.qos, it)
	}
	to.out.Commit(b)
	if n := to.out.Waiting() - before; n > 0 {
		to.answers += n
		to.wakeLater(wakes)
		s.engine.stats.packetsSent.Add(uint64(len(r.items)))
	}
	return nil
}

// answerLater decides about the messages at QoS 2 of a run whose connection is gone: their PUBRECs follow when the client sends
// them again. Undecided, they would hold up those of all later messages.
// The caller holds mu.
func (s *Session) answerLater(r *run) {
	for i := range r.items {
		if it := &r.items[i]; it.receipt != nil && !it.repeated {
			s.answerItem(nil, r.qos, it)
		}
	}
}

// answerItem acknowledges a message, or refuses it.
// [MQTT-4.13.2]
func (s *Session) answerItem(dst []byte, qos byte, it *item) []byte {
	reason := it.reason()
	view := codec.PublishView{QoS: qos, PacketID: it.id}
	if it.receipt == nil {
		return s.state.Accept(dst, &view, reason)
	}
	it.receipt.SetReason(reason)
	return s.state.Release(dst, it.receipt, reason == nil)
}

// unheard acknowledges a message that nobody has subscribed to who may receive it.
var unheard = &session.Reason{Code: codec.NoMatchingSubscribers}

// reason is what the acknowledgement of a message says; nil is success.
// [MQTT-3.4.2.1]
func (it *item) reason() *session.Reason {
	switch {
	case it.refused != codec.Success:
		return &session.Reason{Code: it.refused}
	case it.unheard:
		return unheard
	case !it.kept: // everybody whom it was for had too much already
		return &session.Reason{Code: codec.QuotaExceeded}
	}
	return nil
}

// pubrel takes a PUBREL. [MQTT-4.3.3-11] [MQTT-4.3.3-12] [MQTT311-4.3.3-2]
func (c *conn) pubrel(p *packet) error {
	var ack codec.Pubrel
	if err := ack.Decode(p.Header, p.Body(), c.version); err != nil {
		return err
	}
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return takenOver
	}
	complete := func() { c.out.Commit(s.state.Pubrel(c.out.Buffer(), ack.PacketID)) }
	if s.ledger == nil {
		before := c.out.Waiting()
		complete()
		c.answered(before)
		return nil
	}
	gone := []Change{{bucketReceived, identifier(s.ledger.number, ack.PacketID), nil}}
	s.engine.journal.submit(nil, gone, func(err error) {
		c.act(func() {
			if err != nil {
				c.finish(serverUnavailable)
				return
			}
			complete()
		})
	})
	return nil
}
