package mqtt

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
)

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
		return nil, r.client.misplaced(h)
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
		err = r.client.misplaced(h)
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
