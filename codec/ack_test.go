package codec

import (
	"fmt"
	"testing"
)

// newAck makes a packet of one of the four types.
func newAck(t Type, a ack) Packet {
	p := newPacket(t)
	switch p := p.(type) {
	case *Puback:
		*p = Puback(a)
	case *Pubrec:
		*p = Pubrec(a)
	case *Pubrel:
		*p = Pubrel(a)
	case *Pubcomp:
		*p = Pubcomp(a)
	}
	return p
}

// ackSection is where the packet is described, in both versions.
var ackSection = map[Type]string{PUBACK: "3.4", PUBREC: "3.5", PUBREL: "3.6", PUBCOMP: "3.7"}

// ackVectors are those of a type whose first byte is given, with a failure from its table.
func ackVectors(t Type, first string, failure ReasonCode) []vector {
	return []vector{
		{
			name: ackSection[t] + ".2.1 shortest", v: V5,
			bytes: first + "02" + // Remaining Length 2
				"1234", // packet identifier
			packet: newAck(t, ack{PacketID: 0x1234}),
		},
		{name: "packet identifier alone", v: V311, bytes: first + "02 FFFF", packet: newAck(t, ack{PacketID: 65535})},
		{
			name: ackSection[t] + ".2.2.1 without properties", v: V5,
			bytes:  first + fmt.Sprintf("03 0001 %02X", byte(failure)),
			packet: newAck(t, ack{PacketID: 1, Code: failure}),
		},
		{
			name: "all properties", v: V5,
			bytes: first + fmt.Sprintf("18 0001 %02X", byte(failure)) +
				"14" + // property length
				"1F 0003 776879" + // Reason String
				"26 0001 61 0001 62" + // User Property
				"26 0001 61 0001 63",
			packet: newAck(t, ack{1, failure, "why", UserProperties{{"a", "b"}, {"a", "c"}}}),
		},
		{
			name: "success with a reason string", v: V5,
			bytes:  first + "08 0001 00 04 1F 0001 78",
			packet: newAck(t, ack{PacketID: 1, ReasonString: "x"}),
		},
		{name: "success in three bytes", v: V5, bytes: first + "03 0001 00", packet: newAck(t, ack{PacketID: 1}), longer: true},
		{name: "success in four bytes", v: V5, bytes: first + "04 0001 00 00", packet: newAck(t, ack{PacketID: 1}), longer: true},
		{
			name: "failure with a property length", v: V5, longer: true,
			bytes:  first + fmt.Sprintf("04 0001 %02X 00", byte(failure)),
			packet: newAck(t, ack{PacketID: 1, Code: failure}),
		},
	}
}

// malformedAcks are those of a type, with the statement about its reason codes, a code that it does not have, and its first byte with a wrong flag.
func malformedAcks(first, codeRule, code, flagged string) []malformed {
	return []malformed{
		{"empty", V5, first + "00", MalformedPacket, "2.1.4"},
		{"half a packet identifier", V5, first + "01 01", MalformedPacket, "2.1.4"},
		{"half a packet identifier", V311, first + "01 01", MalformedPacket, "2.2.3"},
		{"packet identifier 0", V5, first + "02 0000", ProtocolError, "MQTT-2.2.1-5"},
		{"packet identifier 0", V311, first + "02 0000", ProtocolError, "MQTT-2.3.1-6"},
		{"packet identifier 0, long form", V5, first + "04 0000 00 00", ProtocolError, "MQTT-2.2.1-5"},
		{"reason code", V311, first + "03 0001 00", MalformedPacket, "2.2.3"},
		{"reason code of another packet", V5, first + "03 0001" + code, ProtocolError, codeRule},
		{"reason code 0xFF", V5, first + "04 0001 FF 00", ProtocolError, codeRule},
		{"bytes left", V5, first + "05 0001 00 00 00", MalformedPacket, "2.1.4"},
		{"property length beyond the packet", V5, first + "04 0001 00 01", MalformedPacket, "2.1.4"},
		{"property length not minimal", V5, first + "05 0001 00 8000", MalformedPacket, "MQTT-1.5.5-1"},
		{"Reason String twice", V5, first + "0A 0001 00 06 1F 0000 1F 0000", ProtocolError, "3.2.2.3.9"},
		{"bad UTF-8 in the Reason String", V5, first + "08 0001 00 04 1F 0001 FF", MalformedPacket, "MQTT-1.5.4-1"},
		{"property of a DISCONNECT", V5, first + "07 0001 00 03 1C 0000", MalformedPacket, "2.2.2.2"},
		{"reserved flags", V5, flagged + "02 0001", MalformedPacket, "MQTT-2.1.3-1"},
		{"reserved flags", V311, flagged + "02 0001", MalformedPacket, "MQTT-2.2.2-2"},
	}
}

func forbiddenAcks(t Type, code ReasonCode, failure ReasonCode) []forbidden {
	return []forbidden{
		{"packet identifier 0", V5, newAck(t, ack{}), ProtocolError, "MQTT-2.2.1-5"},
		{"packet identifier 0", V311, newAck(t, ack{}), ProtocolError, "MQTT-2.3.1-6"},
		{"reason code of another packet", V5, newAck(t, ack{PacketID: 1, Code: code}), ProtocolError, ackCodeRule[t]},
		{"reason code", V311, newAck(t, ack{PacketID: 1, Code: failure}), MalformedPacket, "2.3"},
		{"Reason String", V311, newAck(t, ack{PacketID: 1, ReasonString: "x"}), MalformedPacket, "2.3"},
		{"User Property", V311, newAck(t, ack{PacketID: 1, UserProperties: UserProperties{{"a", "b"}}}), MalformedPacket, "2.3"},
		{"U+0000 in the Reason String", V5, newAck(t, ack{PacketID: 1, ReasonString: "\x00"}), MalformedPacket, "MQTT-1.5.4-2"},
		{"bad UTF-8 in a User Property", V5, newAck(t, ack{PacketID: 1, UserProperties: UserProperties{{"\xff", ""}}}), MalformedPacket, "MQTT-1.5.4-1"},
	}
}

var (
	pubackVectors    = ackVectors(PUBACK, "40", QuotaExceeded)
	malformedPubacks = malformedAcks("40", "MQTT-3.4.2-1", "92", "42")
)

func TestPuback(t *testing.T) { testVectors(t, pubackVectors) }

// [MQTT-3.4.2-1]
func TestMalformedPuback(t *testing.T) { testMalformed(t, malformedPubacks) }

// [MQTT-3.4.2-1]
func TestForbiddenPuback(t *testing.T) {
	testForbidden(t, forbiddenAcks(PUBACK, PacketIdentifierNotFound, NotAuthorized))
}
func FuzzPuback(f *testing.F) { fuzzPacket(f, PUBACK, pubackVectors, malformedPubacks) }

var (
	pubrecVectors    = ackVectors(PUBREC, "50", PacketIdentifierInUse)
	malformedPubrecs = malformedAcks("50", "MQTT-3.5.2-1", "92", "52")
)

func TestPubrec(t *testing.T) { testVectors(t, pubrecVectors) }

// [MQTT-3.5.2-1]
func TestMalformedPubrec(t *testing.T) { testMalformed(t, malformedPubrecs) }

// [MQTT-3.5.2-1]
func TestForbiddenPubrec(t *testing.T) {
	testForbidden(t, forbiddenAcks(PUBREC, PacketIdentifierNotFound, NotAuthorized))
}
func FuzzPubrec(f *testing.F) { fuzzPacket(f, PUBREC, pubrecVectors, malformedPubrecs) }

// The flags of PUBREL are 0010 [MQTT-3.6.1-1] [MQTT311-3.6.1-1].
var (
	pubrelVectors    = ackVectors(PUBREL, "62", PacketIdentifierNotFound)
	malformedPubrels = malformedAcks("62", "MQTT-3.6.2-1", "10", "60")
)

func TestPubrel(t *testing.T) { testVectors(t, pubrelVectors) }

// [MQTT-3.6.2-1]
func TestMalformedPubrel(t *testing.T) { testMalformed(t, malformedPubrels) }

// [MQTT-3.6.2-1]
func TestForbiddenPubrel(t *testing.T) {
	testForbidden(t, forbiddenAcks(PUBREL, UnspecifiedError, PacketIdentifierNotFound))
}
func FuzzPubrel(f *testing.F) { fuzzPacket(f, PUBREL, pubrelVectors, malformedPubrels) }

var (
	pubcompVectors    = ackVectors(PUBCOMP, "70", PacketIdentifierNotFound)
	malformedPubcomps = malformedAcks("70", "MQTT-3.7.2-1", "80", "72")
)

func TestPubcomp(t *testing.T) { testVectors(t, pubcompVectors) }

// [MQTT-3.7.2-1]
func TestMalformedPubcomp(t *testing.T) { testMalformed(t, malformedPubcomps) }

// [MQTT-3.7.2-1]
func TestForbiddenPubcomp(t *testing.T) {
	testForbidden(t, forbiddenAcks(PUBCOMP, NoMatchingSubscribers, PacketIdentifierNotFound))
}
func FuzzPubcomp(f *testing.F) { fuzzPacket(f, PUBCOMP, pubcompVectors, malformedPubcomps) }
