package codec

// PublishView is a PUBLISH split in place, for readers that want to allocate nothing: its slices alias the body it was
// split from.
type PublishView struct {
	Dup, Retain bool
	QoS         byte
	PacketID    uint16 // 0 at QoS 0
	Topic       []byte // not checked; see CheckTopic
	Properties  []byte // the property block without its length, not checked; see DecodePublishProperties
	Payload     []byte

	v Version // set by Split
}

// Split finds the parts of a PUBLISH, whose body is the bytes behind the fixed header, and overwrites every field. It
// checks the header, that the parts fit the body, and the packet identifier. Errors are of type [*Error], and the fields
// mean nothing after one.
func (p *PublishView) Split(h Header, body []byte, v Version) error {
	if !h.fits(PUBLISH, len(body), v) || len(body) < 2 {
		return splitError(h, body, v)
	}
	qos := h.Flags & flagQoS >> 1
	topicEnd := 2 + (int(body[0])<<8 | int(body[1]))
	at := topicEnd
	var id uint16
	if qos > 0 {
		if at += 2; at > len(body) {
			return splitError(h, body, v)
		}
		if id = uint16(body[at-2])<<8 | uint16(body[at-1]); id == 0 { // [MQTT-2.2.1-3], [MQTT311-2.3.1-1]
			return splitError(h, body, v)
		}
	}
	block := at
	if v == V5 {
		if at >= len(body) {
			return splitError(h, body, v)
		}
		n, size := uint32(body[at]), 1
		if n >= 0x80 { // not varint: the call would make the common case a third slower
			if n, size = longVarint(body[at:]); size <= 0 {
				return splitError(h, body, v)
			}
		}
		block = at + size
		at = block + int(n)
	}
	if at > len(body) {
		return splitError(h, body, v)
	}
	// Field by field: the compiler builds a composite literal elsewhere and copies it, which takes longer than everything else here.
	p.Dup = h.Flags&flagDup != 0
	p.Retain = h.Flags&flagRetain != 0
	p.QoS = qos
	p.PacketID = id
	p.v = v
	p.Topic = body[2:topicEnd:topicEnd]
	p.Properties = body[block:at:at]
	p.Payload = body[at:]
	return nil
}

// splitError reads the body again, with a reader that says what is wrong.
//
//go:noinline
func splitError(h Header, body []byte, v Version) error {
	r := newReader(PUBLISH, h, body, v)
	r.binary()
	if h.Flags&flagQoS != 0 {
		r.packetID("MQTT-2.2.1-3", "MQTT-2.3.1-1")
	}
	r.properties(inPublish)
	return r.err
}

// CheckTopic checks the topic after Split: UTF-8, U+0000, wildcards. Without a topic there must be properties, which may
// hold a topic alias: the caller checks that they do, and that the alias is known. Errors are of type [*Error].
func (p *PublishView) CheckTopic() error {
	f := topicFlaw(p.Topic)
	if f == sound || f == empty && len(p.Properties) > 0 {
		return nil
	}
	if f == empty {
		return topicMissing(p.v)
	}
	l := latch{packet: PUBLISH, v: p.v}
	l.failTopic(f)
	return l.err
}

// topicMissing is the error for a PUBLISH with neither a topic nor an alias.
func topicMissing(v Version) error {
	return newError(PUBLISH, v, ProtocolError, "3.3.2.1", "MQTT-4.7.3-1", "neither topic name nor topic alias")
}
