package codec

// MaxRemainingLength is the largest Remaining Length, and the largest value of any variable byte integer, section 1.5.5.
const MaxRemainingLength = 268_435_455

// Header is a fixed header, section 2.1.
type Header struct {
	Type   Type
	Flags  byte // the low four bits of the first byte
	Length int  // the Remaining Length: how many bytes follow the header
}

// flagsOf is the one legal value of the flags, by type. PUBLISH has none.
// [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1] [MQTT311-2.2.2-1]
// [MQTT311-3.6.1-1] [MQTT311-3.8.1-1] [MQTT311-3.10.1-1] [MQTT311-3.14.1-1]
var flagsOf = [16]byte{PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2}

// The flags of PUBLISH.
const (
	flagRetain = 0x01
	flagQoS    = 0x06
	flagDup    = 0x08
)

// ParseHeader reads the fixed header at the start of b and returns the number of bytes it takes: 2 to 5, or 0 with a nil
// error when b ends before the header does. It rejects a type that version v does not have, flags that the type does not
// allow, QoS 3, DUP at QoS 0, and a Remaining Length of more than four bytes or of more bytes than it needs. Errors are of
// type [*Error].
func ParseHeader(b []byte, v Version) (h Header, n int, err error) {
	if len(b) == 0 {
		return h, 0, nil
	}
	h.Type, h.Flags = Type(b[0]>>4), b[0]&0x0F
	if !h.legal(v) {
		return h, 0, headerError(h, v)
	}
	if len(b) > 1 && b[1] < 0x80 {
		h.Length = int(b[1])
		return h, 2, nil
	}
	return h.parseLength(b[1:], v)
}

// parseLength reads the Remaining Length behind the first byte.
//
//go:noinline
func (h Header) parseLength(b []byte, v Version) (_ Header, n int, err error) {
	length, n := varint(b)
	if n < 0 {
		return h, 0, lengthError(h.Type, v, n)
	}
	if n == 0 {
		return h, 0, nil
	}
	h.Length = int(length)
	return h, 1 + n, nil
}

// legal reports whether version v has the type and allows it the flags.
func (h Header) legal(v Version) bool {
	if h.Type == PUBLISH {
		return h.Flags&flagQoS != flagQoS && h.Flags&(flagDup|flagQoS) != flagDup
	}
	return h.Flags == flagsOf[h.Type&0x0F] && h.Type-1 < AUTH && (h.Type != AUTH || v == V5)
}

// headerError says why h is not legal.
//
//go:noinline
func headerError(h Header, v Version) *Error {
	switch {
	case h.Type == 0 || h.Type > AUTH || h.Type == AUTH && v != V5:
		return newError(h.Type, v, MalformedPacket, "2.1.2", "2.2.1", "no such Control Packet type")
	case h.Type != PUBLISH:
		return newError(h.Type, v, MalformedPacket, "MQTT-2.1.3-1", "MQTT-2.2.2-2", "reserved flags in the fixed header")
	case h.Flags&flagQoS == flagQoS:
		return newError(h.Type, v, MalformedPacket, "MQTT-3.3.1-4", "MQTT-3.3.1-4", "QoS 3")
	}
	return newError(h.Type, v, MalformedPacket, "MQTT-3.3.1-2", "MQTT-3.3.1-2", "DUP at QoS 0")
}

// What varint returns for n when it cannot read a value.
const (
	varintTooLong    = -1
	varintNotMinimal = -2
)

// varint reads the variable byte integer at the start of b and returns the number of bytes it takes, 0 when b ends before
// it does, or one of the constants above.
func varint(b []byte) (value uint32, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint32(b[0]), 1
	}
	return longVarint(b)
}

//go:noinline
func longVarint(b []byte) (value uint32, n int) {
	for n < 4 {
		if n == len(b) {
			return 0, 0
		}
		c := b[n]
		value |= uint32(c&0x7F) << (7 * n)
		n++
		if c < 0x80 {
			if c == 0 && n > 1 { // [MQTT-1.5.5-1]
				return 0, varintNotMinimal
			}
			return value, n
		}
	}
	return 0, varintTooLong
}

//go:noinline
func lengthError(t Type, v Version, n int) *Error {
	if n == varintNotMinimal {
		return newError(t, v, MalformedPacket, "MQTT-1.5.5-1", "2.2.3", "Remaining Length in more bytes than it needs")
	}
	return newError(t, v, MalformedPacket, "1.5.5", "2.2.3", "Remaining Length of more than four bytes")
}

// appendVarint appends n, which is at most MaxRemainingLength, as a variable byte integer of the fewest bytes.
func appendVarint(dst []byte, n uint32) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// varintSize returns how many bytes appendVarint appends.
func varintSize(n uint32) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}
