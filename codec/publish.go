package codec

import (
	"slices"
	"time"
)

// Publish is an application message on its way, section 3.3.
type Publish struct {
	Dup    bool // not at QoS 0
	QoS    byte // 0, 1 or 2
	Retain bool

	Topic      string // may be empty in MQTT 5.0 if TopicAlias stands for it
	PacketID   uint16 // 0 at QoS 0, and only there
	TopicAlias uint16 // 0: none; MQTT 5.0 only

	// SubscriptionIdentifiers are 1 to 268,435,455 each and come from servers only; MQTT 5.0 only.
	SubscriptionIdentifiers []uint32

	Properties PublishProperties
	Payload    []byte
}

// PublishProperties are the properties that belong to the message and may be handed on with it, section 3.3.2.3; the
// topic alias and the subscription identifiers belong to the packet. MQTT 3.1.1 has none of them.
type PublishProperties struct {
	UTF8Payload bool // Payload Format Indicator; not checked against the payload

	// MessageExpiry is 0 for a message that does not expire. A positive one is rounded up to seconds, at most
	// 4,294,967,295. Below 1 ms, or negative, the message has expired already: that is written as 0 seconds, and 0 seconds
	// is read as 1 ns.
	MessageExpiry time.Duration

	ContentType     string // "": absent
	ResponseTopic   string // "": absent; a topic name
	CorrelationData []byte // nil: absent; empty and not nil: present
	UserProperties  UserProperties
}

// Type returns PUBLISH.
func (p *Publish) Type() Type { return PUBLISH }

// Size returns the length of the whole packet in bytes, if the packet can be written in version v.
func (p *Publish) Size(v Version) int {
	n := p.remaining(p.blockSize(), v)
	return 1 + varintSize(uint32(n)) + n
}

// remaining returns the Remaining Length, for a property block of so many bytes.
func (p *Publish) remaining(block int, v Version) int {
	n := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if v == V5 {
		n += varintSize(uint32(block)) + block
	}
	return n
}

// blockSize returns the length of the property block. Every property takes one byte for its identifier.
func (p *Publish) blockSize() int {
	n := 0
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, id := range p.SubscriptionIdentifiers {
		n += 1 + varintSize(id)
	}
	return n + p.Properties.size()
}

func (p *PublishProperties) size() int {
	n := 0
	if p.UTF8Payload {
		n += 2
	}
	if p.MessageExpiry != 0 {
		n += 5
	}
	if p.ContentType != "" {
		n += 3 + len(p.ContentType)
	}
	if p.ResponseTopic != "" {
		n += 3 + len(p.ResponseTopic)
	}
	if p.CorrelationData != nil {
		n += 3 + len(p.CorrelationData)
	}
	for i := range p.UserProperties {
		n += 5 + len(p.UserProperties[i].Key) + len(p.UserProperties[i].Value)
	}
	return n
}

// Append implements Packet. Lengths and ranges are checked, and so are the properties. The characters of Topic are not:
// the caller calls CheckTopicName before.
// [MQTT-3.3.2-1] [MQTT311-3.3.2-1]
func (p *Publish) Append(dst []byte, v Version) ([]byte, error) {
	block := p.blockSize()
	n := p.remaining(block, v)
	if !p.writable(n, block, v) {
		return dst, p.appendError(block, v)
	}
	b := appendPublishStart(slices.Grow(dst, 5+n), PublishFlags(p.Dup, p.QoS, p.Retain), n, p.Topic, p.PacketID)
	if block > 0 {
		w := writer{latch: latch{packet: PUBLISH, v: v}, b: appendVarint(b, uint32(block))}
		p.appendProperties(&w)
		if w.err != nil {
			return dst, w.err
		}
		b = w.b
	} else if v == V5 {
		b = append(b, 0)
	}
	return append(b, p.Payload...), nil
}

// appendPublishStart appends a PUBLISH up to its properties. id is 0 at QoS 0.
func appendPublishStart(b []byte, flags byte, n int, topic string, id uint16) []byte {
	b = append(b, byte(PUBLISH)<<4|flags)
	b = appendVarint(b, uint32(n))
	b = append(b, byte(len(topic)>>8), byte(len(topic)))
	b = append(b, topic...)
	if id > 0 {
		b = append(b, byte(id>>8), byte(id))
	}
	return b
}

// PublishFlags are the low four bits of the first byte of a PUBLISH, section 3.3.1.
func PublishFlags(dup bool, qos byte, retain bool) byte {
	flags := qos << 1
	if dup {
		flags |= flagDup
	}
	if retain {
		flags |= flagRetain
	}
	return flags
}

// AppendPlainPublish appends what (*Publish).Append does for a message without properties and alias, with the same errors,
// in half the time, because no Publish has to be filled and searched for properties. flags are those of PublishFlags.
func AppendPlainPublish(dst []byte, flags byte, topic string, id uint16, payload []byte, v Version) ([]byte, error) {
	n := 2 + len(topic) + len(payload)
	if id > 0 {
		n += 2
	}
	if v == V5 {
		n++
	}
	if qos := flags >> 1 & 3; qos > 2 || (qos > 0) != (id > 0) || qos == 0 && flags&flagDup != 0 ||
		topic == "" || len(topic) > maxText || n > MaxRemainingLength {
		p := Publish{Dup: flags&flagDup != 0, QoS: qos, Retain: flags&flagRetain != 0, Topic: topic, PacketID: id, Payload: payload}
		return p.Append(dst, v) // which says why not
	}
	b := appendPublishStart(slices.Grow(dst, 5+n), flags, n, topic, id)
	if v == V5 {
		b = append(b, 0)
	}
	return append(b, payload...), nil
}

// writable reports whether a packet with a Remaining Length of n and a property block of so many bytes may be written. What
// is in the block is not checked.
func (p *Publish) writable(n, block int, v Version) bool {
	return p.QoS <= 2 && (p.QoS > 0) == (p.PacketID > 0) && !(p.Dup && p.QoS == 0) &&
		len(p.Topic) <= maxText && n <= MaxRemainingLength && (p.Topic != "" || p.TopicAlias != 0) &&
		(v == V5 || block == 0)
}

// appendError says why the packet is not writable.
//
//go:noinline
func (p *Publish) appendError(block int, v Version) error {
	l := latch{packet: PUBLISH, v: v}
	switch {
	case p.QoS > 2:
		l.fail(MalformedPacket, "MQTT-3.3.1-4", "MQTT-3.3.1-4", "QoS above 2")
	case p.QoS == 0 && p.PacketID > 0:
		l.fail(ProtocolError, "MQTT-2.2.1-2", "MQTT-2.3.1-5", "packet identifier at QoS 0")
	case p.QoS > 0 && p.PacketID == 0:
		l.fail(ProtocolError, "MQTT-2.2.1-3", "MQTT-2.3.1-1", "packet identifier 0")
	case p.Dup && p.QoS == 0:
		l.fail(MalformedPacket, "MQTT-3.3.1-2", "MQTT-3.3.1-2", "DUP at QoS 0")
	case len(p.Topic) > maxText:
		l.failText(tooLong)
	case v != V5 && block > 0:
		l.fail(MalformedPacket, "", "2.3", "properties do not exist in MQTT 3.1.1")
	case p.Topic == "" && p.TopicAlias == 0:
		return topicMissing(v)
	default:
		l.fail(PacketTooLarge, "2.1.4", "2.2.3", "packet longer than the Remaining Length can say")
	}
	return l.err
}

func (p *Publish) appendProperties(w *writer) {
	w.uint16Property(propTopicAlias, p.TopicAlias)
	for _, id := range p.SubscriptionIdentifiers {
		w.subscriptionIdentifier(id, "3.3.2.3.8")
	}
	p.Properties.append(w)
}

// subscriptionIdentifier writes one; the rule is the section about the packet.
func (w *writer) subscriptionIdentifier(id uint32, rule string) {
	w.property(propSubscriptionIdentifier)
	if id == 0 || id > MaxRemainingLength {
		w.fail(ProtocolError, rule, "", "Subscription Identifier is not 1 to 268,435,455")
		return
	}
	w.b = appendVarint(w.b, id)
}

// [MQTT-3.3.2-19]
func (p *PublishProperties) append(w *writer) {
	if p.UTF8Payload {
		w.property(propPayloadFormatIndicator)
		w.byte(1)
	}
	if p.MessageExpiry != 0 {
		w.secondsProperty(propMessageExpiryInterval, remainingLife(p.MessageExpiry))
	}
	w.textProperty(propContentType, p.ContentType)
	if p.ResponseTopic != "" {
		w.responseTopic(p.ResponseTopic)
	}
	w.binaryProperty(propCorrelationData, p.CorrelationData)
	w.userProperties(p.UserProperties)
}

// remainingLife makes 0 of an expiry that has passed.
func remainingLife(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return 0
	}
	return d
}

// [MQTT-3.3.2-13]
func (w *writer) responseTopic(topic string) {
	w.property(propResponseTopic)
	if f := topicFlaw(topic); f != sound {
		w.failResponseTopic(f)
		return
	}
	w.rawText(topic)
}

// Decode implements Packet.
func (p *Publish) Decode(h Header, body []byte, v Version) error {
	var view PublishView
	if err := view.Split(h, body, v); err != nil {
		return err
	}
	if err := view.CheckTopic(); err != nil {
		return err
	}
	alias, ids, err := DecodePublishProperties(view.Properties, &p.Properties, p.SubscriptionIdentifiers[:0])
	if err != nil {
		return err
	}
	if len(view.Topic) == 0 && alias == 0 {
		return topicMissing(v)
	}
	p.Dup, p.QoS, p.Retain = view.Dup, view.QoS, view.Retain
	p.PacketID, p.TopicAlias, p.SubscriptionIdentifiers = view.PacketID, alias, ids
	p.Payload = view.Payload
	if p.Topic != string(view.Topic) {
		p.Topic = string(view.Topic)
	}
	return nil
}

// DecodePublishProperties decodes a property block, the Properties of a PublishView, into every field of into. It returns
// the topic alias, 0 if there is none, and ids with the subscription identifiers appended, in their order. Strings are
// copies; CorrelationData aliases block; the UserProperties slice of into is reused. Errors are of type [*Error], and the
// results mean nothing after one.
func DecodePublishProperties(block []byte, into *PublishProperties, ids []uint32) (alias uint16, identifiers []uint32, err error) {
	return decodePublishProperties(block, into, ids, false)
}

// DecodeRelayedProperties is DecodePublishProperties for a client, which gets what some publisher wrote and the server
// handed on. Mosquitto 2.0.11 does not check the payload format and the response topic (seen). So values of those that
// the specification forbids are read as if they were absent: if they were refused, any publisher could stop any subscriber.
func DecodeRelayedProperties(block []byte, into *PublishProperties, ids []uint32) (alias uint16, identifiers []uint32, err error) {
	return decodePublishProperties(block, into, ids, true)
}

func decodePublishProperties(block []byte, into *PublishProperties, ids []uint32, relayed bool) (alias uint16, identifiers []uint32, err error) {
	user := into.UserProperties[:0]
	*into = PublishProperties{}
	into.UserProperties = user
	if len(block) == 0 {
		return 0, ids, nil
	}
	r := reader{latch: latch{packet: PUBLISH, v: V5}, b: block, where: inPublish, relayed: relayed}
	for r.next() {
		switch r.id {
		case propTopicAlias:
			alias = uint16(r.notZero(TopicAliasInvalid, "MQTT-3.3.2-8"))
		case propSubscriptionIdentifier:
			ids = append(ids, r.notZero(ProtocolError, "3.3.2.3.8"))
		default:
			into.set(&r)
		}
	}
	return alias, ids, r.end()
}

// set takes a property that a PUBLISH shares with a will.
// [MQTT-3.3.2.3.2]
func (p *PublishProperties) set(r *reader) {
	switch r.id {
	case propPayloadFormatIndicator:
		p.UTF8Payload = r.number == 1
	case propMessageExpiryInterval:
		p.MessageExpiry = time.Duration(r.number) * time.Second
		if r.number == 0 {
			p.MessageExpiry = 1
		}
	case propContentType:
		p.ContentType = string(r.data)
	case propResponseTopic:
		f := nameFlaw(r.data)
		if f != sound && r.relayed {
			return
		}
		if f != sound {
			r.failResponseTopic(f)
		}
		p.ResponseTopic = string(r.data)
	case propCorrelationData:
		p.CorrelationData = r.data
	case propUserProperty:
		p.UserProperties = r.userProperty(p.UserProperties)
	}
}
