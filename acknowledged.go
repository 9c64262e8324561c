package mqtt

import (
	"fmt"
	"log/slog"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

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
		return r.client.misplaced(h)
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
		return r.client.misplaced(h)
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
	j.then(step{kind: stepRelease, id: p.PacketID, d: d, link: r.link})
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
		return r.client.misplaced(h)
	}
	// Whatever the code is, PUBREC has said that the server took the message. PUBCOMP has one code besides Success, which
	// only says that the server has forgotten the packet identifier since (section 3.7.2.1).
	r.complete(m, ok, codec.Success, p.ReasonString, p.UserProperties)
	return nil
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
