package codec

// reader reads the body of one packet. It keeps the first error, so that a decoder has no checks in between and calls
// end once. After a wrong value, noted with fail, reading goes on. When the reader cannot know where the next field begins, it
// stops: then nothing is left to read, and every method returns zero values.
type reader struct {
	latch
	b []byte // what is left, up to the end of the property block while in one

	// The properties, valid between properties and the next that returns false.
	after   []byte  // what follows the block
	where   packets // the packet or will; 0 outside of a block
	relayed bool    // see DecodeRelayedProperties
	seen    uint64  // a bit for each identifier that has come
	count   int     // how many properties have come
	id      byte    // the latest property; its value is in one or two of the next fields
	number  uint32
	data    []byte // a string, binary data, or a user property's value
	key     []byte // a user property's name
}

// newReader returns a reader of the body of a packet of type t.
func newReader(t Type, h Header, body []byte, v Version) reader {
	r := reader{latch: latch{packet: t, v: v}, b: body}
	if !h.fits(t, len(body), v) {
		r.failHeader(h)
	}
	return r
}

// fits reports whether h is a legal header of a packet of type t with a body of n bytes.
func (h Header) fits(t Type, n int, v Version) bool {
	return h.Type == t && h.Length == n && h.legal(v)
}

// failHeader says why a header does not fit.
func (r *reader) failHeader(h Header) {
	switch {
	case h.Type != r.packet:
		r.stop(MalformedPacket, "2.1.2", "2.2.1", "header of another Control Packet type")
	case !h.legal(r.v):
		r.err, r.b = headerError(h, r.v), nil
	default:
		r.stop(MalformedPacket, "2.1.4", "2.2.3", "body is not as long as the Remaining Length")
	}
}

// stop is fail, and leaves nothing to read.
//
//go:noinline
func (r *reader) stop(code ReasonCode, v5, v311, detail string) {
	r.fail(code, v5, v311, detail)
	r.b, r.after = nil, nil
}

// end returns the first error; bytes that are left are one.
func (r *reader) end() error {
	if len(r.b) > 0 {
		r.stop(MalformedPacket, "2.1.4", "2.2.3", "bytes behind the end of the packet")
	}
	if r.err != nil {
		return r.err
	}
	return nil
}

// take returns the next n bytes.
func (r *reader) take(n int) []byte {
	b := r.b
	if n > len(b) {
		r.stopShort()
		return nil
	}
	r.b = b[n:]
	return b[:n:n]
}

//go:noinline
func (r *reader) stopShort() {
	r.stop(MalformedPacket, "2.1.4", "2.2.3", "packet ends in the middle of a field")
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return uint16(b[0])<<8 | uint16(b[1])
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	return 0
}

// varint reads a variable byte integer of the body, which is always one of MQTT 5.0.
func (r *reader) varint() uint32 {
	value, n := varint(r.b)
	if n <= 0 {
		r.stopVarint(n)
		return 0
	}
	r.b = r.b[n:]
	return value
}

// stopVarint says why varint returned n.
//
//go:noinline
func (r *reader) stopVarint(n int) {
	switch n {
	case varintTooLong:
		r.stop(MalformedPacket, "1.5.5", "", "variable byte integer of more than four bytes")
	case varintNotMinimal:
		r.stop(MalformedPacket, "MQTT-1.5.5-1", "", "variable byte integer in more bytes than it needs")
	default:
		r.stopShort()
	}
}

// binary reads binary data, which aliases the body. It is not nil unless there is an error.
func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

// text reads a string, which aliases the body.
func (r *reader) text() []byte {
	b := r.binary()
	if f := textFlaw(b); f != sound {
		r.failText(f)
	}
	return b
}

// topic reads a topic name, which aliases the body.
func (r *reader) topic() []byte {
	b := r.text()
	if f := nameFlaw(b); f != sound {
		r.failText(f)
	}
	return b
}

// packetID reads a packet identifier. The rules are those about the packet that carries it.
func (r *reader) packetID(v5, v311 string) uint16 {
	id := r.uint16()
	if id == 0 {
		r.fail(ProtocolError, v5, v311, "packet identifier 0")
	}
	return id
}

// reasonCode reads a reason code of MQTT 5.0 from the packet's table.
func (r *reader) reasonCode(rule string) ReasonCode {
	c := ReasonCode(r.byte())
	if !c.in(1 << r.packet) {
		r.fail(ProtocolError, rule, "", "reason code that the packet does not have")
	}
	return c
}

// properties begins the property block of a packet or will. In MQTT 3.1.1 there is none, and next returns false.
func (r *reader) properties(where packets) {
	if r.v != V5 {
		return
	}
	block := r.take(int(r.varint()))
	r.after, r.b = r.b, block
	r.where, r.seen, r.count = where, 0, 0
}

// next reads one property and checks it against the table. It returns false at the end of the block, which it leaves, and
// after an error.
// [MQTT-2.2.2.2c]
func (r *reader) next() bool {
	if r.where == 0 || r.err != nil {
		return false
	}
	if len(r.b) == 0 {
		r.b, r.after, r.where = r.after, nil, 0
		return false
	}
	r.id = r.byte()
	if int(r.id) >= len(propertyTable) || propertyTable[r.id].packets&r.where == 0 {
		r.stop(MalformedPacket, "2.2.2.2", "", "property that the packet does not have")
		return false
	}
	row := &propertyTable[r.id]
	if r.seen>>r.id&1 != 0 && row.repeats&r.where == 0 {
		r.fail(ProtocolError, row.section, "", row.name+" twice")
	}
	r.seen |= 1 << r.id
	if r.count++; r.count > MaxProperties {
		r.stop(PacketTooLarge, "", "", manyProperties)
		return false
	}
	r.value(row.kind)
	return r.err == nil
}

// value reads the value of the property r.id.
func (r *reader) value(k kind) {
	switch k {
	case kindFlag:
		r.number = uint32(r.byte())
		if r.number > 1 && r.relayed && r.id == propPayloadFormatIndicator {
			r.number = 0
		}
		if r.number > 1 {
			row := &propertyTable[r.id]
			r.fail(ProtocolError, row.section, "", row.name+" is neither 0 nor 1")
		}
	case kindUint16:
		r.number = uint32(r.uint16())
	case kindUint32:
		r.number = r.uint32()
	case kindVarint:
		r.number = r.varint()
	case kindText:
		r.data = r.text()
	case kindBinary:
		r.data = r.binary()
	case kindPair: // [MQTT-1.5.7-1]
		r.key = r.text()
		r.data = r.text()
	}
}

// notZero returns the number, which must not be 0.
func (r *reader) notZero(code ReasonCode, rule string) uint32 {
	if r.number == 0 {
		r.fail(code, rule, "", propertyTable[r.id].name+" is 0")
	}
	return r.number
}

// flag and the methods below return the value of the property in the form that the packets keep.
func (r *reader) flag() *bool {
	b := r.number == 1
	return &b
}

func (r *reader) pointer16() *uint16 {
	n := uint16(r.number)
	return &n
}

func (r *reader) pointer32() *uint32 {
	n := r.number
	return &n
}

func (r *reader) userProperty(to UserProperties) UserProperties {
	return append(to, UserProperty{string(r.key), string(r.data)})
}
