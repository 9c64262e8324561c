package codec

import (
	"math"
	"slices"
	"time"
)

// writer appends one packet. It keeps the first error, so that an encoder has no checks in between and calls end once.
type writer struct {
	latch
	dst []byte // as the caller gave it
	b   []byte // dst and the packet so far
	at  int    // where the length of the open property block stands in b
}

// newWriter begins a packet: the first byte, and one byte for the Remaining Length.
func newWriter(dst []byte, t Type, v Version) writer {
	return writer{latch: latch{packet: t, v: v}, dst: dst, b: append(dst, byte(t)<<4|flagsOf[t], 0)}
}

// end writes the Remaining Length and returns dst with the packet, or as it was.
func (w *writer) end() ([]byte, error) {
	at := len(w.dst) + 1
	if len(w.b)-at-1 > MaxRemainingLength {
		w.fail(PacketTooLarge, "2.1.4", "2.2.3", "packet longer than the Remaining Length can say")
	}
	if w.err != nil {
		return w.dst, w.err
	}
	return setLength(w.b, at), nil
}

// setLength makes the byte at b[at] the number of the bytes behind it, which move up if the number takes more than one.
func setLength(b []byte, at int) []byte {
	n := len(b) - at - 1
	if n < 0x80 {
		b[at] = byte(n)
		return b
	}
	var length [5]byte
	return slices.Replace(b, at, at+1, appendVarint(length[:0], uint32(n))...)
}

func (w *writer) byte(c byte) { w.b = append(w.b, c) }

func (w *writer) uint16(n uint16) { w.b = append(w.b, byte(n>>8), byte(n)) }

func (w *writer) uint32(n uint32) { w.b = append(w.b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n)) }

func (w *writer) text(s string) {
	if f := textFlaw(s); f != sound {
		w.failText(f)
		return
	}
	w.rawText(s)
}

// rawText writes a string that has been checked.
func (w *writer) rawText(s string) {
	w.uint16(uint16(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) binary(b []byte) {
	if len(b) > maxText {
		w.fail(MalformedPacket, "1.5.6", "1.5.3", "binary data of more than 65,535 bytes")
		return
	}
	w.uint16(uint16(len(b)))
	w.b = append(w.b, b...)
}

// packetID writes a packet identifier. The rules are those about the packet that carries it.
func (w *writer) packetID(id uint16, v5, v311 string) {
	if id == 0 {
		w.fail(ProtocolError, v5, v311, "packet identifier 0")
	}
	w.uint16(id)
}

// reasonCode writes a reason code of MQTT 5.0 from the packet's table.
func (w *writer) reasonCode(c ReasonCode, rule string) {
	if w.v != V5 && c != Success {
		w.fail(MalformedPacket, "", "2.3", "reason codes do not exist in MQTT 3.1.1")
	}
	if !c.in(1 << w.packet) {
		w.fail(ProtocolError, rule, "", "reason code that the packet does not have")
	}
	w.byte(byte(c))
}

// properties begins the property block. Without properties it stays one byte, 0 [MQTT-2.2.2-1]. MQTT 3.1.1 has none.
func (w *writer) properties() {
	if w.v == V5 {
		w.at = len(w.b)
		w.b = append(w.b, 0)
	}
}

// endProperties writes the block's length.
func (w *writer) endProperties() {
	if w.v == V5 && w.err == nil {
		w.b = setLength(w.b, w.at)
	}
}

// property writes an identifier, in MQTT 3.1.1 an error. The methods below write a property if it is set.
func (w *writer) property(id byte) {
	if w.v != V5 {
		w.failProperty(id)
	}
	w.b = append(w.b, id)
}

//go:noinline
func (w *writer) failProperty(id byte) {
	w.fail(MalformedPacket, "", "2.3", propertyTable[id].name+" does not exist in MQTT 3.1.1")
}

func (w *writer) flagProperty(id byte, value *bool) {
	if value == nil {
		return
	}
	w.property(id)
	if *value {
		w.byte(1)
	} else {
		w.byte(0)
	}
}

func (w *writer) uint16Property(id byte, n uint16) {
	if n != 0 {
		w.property(id)
		w.uint16(n)
	}
}

func (w *writer) uint32Property(id byte, n uint32) {
	if n != 0 {
		w.property(id)
		w.uint32(n)
	}
}

func (w *writer) pointer16Property(id byte, n *uint16) {
	if n != nil {
		w.property(id)
		w.uint16(*n)
	}
}

func (w *writer) pointer32Property(id byte, n *uint32) {
	if n != nil {
		w.property(id)
		w.uint32(*n)
	}
}

func (w *writer) textProperty(id byte, s string) {
	if s != "" {
		w.property(id)
		w.text(s)
	}
}

func (w *writer) binaryProperty(id byte, b []byte) {
	if b != nil {
		w.property(id)
		w.binary(b)
	}
}

func (w *writer) userProperties(u UserProperties) {
	if len(u) > MaxProperties {
		w.fail(PacketTooLarge, "", "", manyProperties)
		return
	}
	for i := range u {
		w.property(propUserProperty)
		w.text(u[i].Key)
		w.text(u[i].Value)
	}
}

// secondsProperty writes d rounded up to whole seconds.
func (w *writer) secondsProperty(id byte, d time.Duration) {
	w.property(id)
	s := d / time.Second
	if d%time.Second > 0 {
		s++
	}
	if s < 0 || s > math.MaxUint32 {
		w.fail(MalformedPacket, propertyTable[id].section, "", propertyTable[id].name+" is negative or beyond 4,294,967,295 seconds")
		return
	}
	w.uint32(uint32(s))
}
