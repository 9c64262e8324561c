package codec

import "testing"

var disconnectVectors = []vector{
	{name: "3.14.2.1 shortest", v: V5, bytes: "E0 00", packet: &Disconnect{}},
	{name: "3.14 empty", v: V311, bytes: "E0 00", packet: &Disconnect{}},
	{
		name: "3.14.2.2.1 without properties", v: V5,
		bytes: "E0 01" + // DISCONNECT, Remaining Length 1
			"04", // Disconnect with Will Message
		packet: &Disconnect{Code: DisconnectWithWill},
	},
	{
		name: "all properties", v: V5,
		bytes: "E0 16" +
			"9D" + // Server moved
			"14" +
			"11 00000000" + // Session Expiry Interval
			"1F 0001 78" + // Reason String
			"26 0001 61 0001 62" + // User Property
			"1C 0001 68", // Server Reference
		packet: &Disconnect{
			Code: ServerMoved, SessionExpiry: pointer[uint32](0), ReasonString: "x", UserProperties: UserProperties{{"a", "b"}},
			ServerReference: "h",
		},
	},
	{
		name: "normal with a session expiry", v: V5,
		bytes:  "E0 07 00 05 11 0000003C",
		packet: &Disconnect{SessionExpiry: pointer[uint32](60)},
	},
	{name: "normal in one byte", v: V5, bytes: "E0 01 00", packet: &Disconnect{}, longer: true},
	{name: "normal in two bytes", v: V5, bytes: "E0 02 00 00", packet: &Disconnect{}, longer: true},
	{name: "with a property length", v: V5, bytes: "E0 02 8E 00", packet: &Disconnect{Code: SessionTakenOver}, longer: true},
}

var malformedDisconnects = []malformed{
	{"body", V311, "E0 01 00", MalformedPacket, "2.2.3"},
	{"code of a SUBACK", V5, "E0 01 01", ProtocolError, "MQTT-3.14.2-1"},
	{"code of a CONNACK", V5, "E0 02 84 00", ProtocolError, "MQTT-3.14.2-1"},
	{"bytes left", V5, "E0 03 00 00 00", MalformedPacket, "2.1.4"},
	{"property length beyond the packet", V5, "E0 02 00 01", MalformedPacket, "2.1.4"},
	{"property length not minimal", V5, "E0 03 00 8000", MalformedPacket, "MQTT-1.5.5-1"},
	{"Session Expiry Interval twice", V5, "E0 0C 00 0A 11 00000001 11 00000001", ProtocolError, "3.1.2.11.2"},
	{"Server Reference twice", V5, "E0 08 00 06 1C 0000 1C 0000", ProtocolError, "3.2.2.3.16"},
	{"Authentication Method", V5, "E0 06 00 04 15 0001 61", MalformedPacket, "2.2.2.2"},
	{"bad UTF-8", V5, "E0 06 00 04 1C 0001 FF", MalformedPacket, "MQTT-1.5.4-1"},
	{"reserved flags", V5, "E1 00", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "E2 00", MalformedPacket, "MQTT-2.2.2-2"},
}

var forbiddenDisconnects = []forbidden{
	{"code of another packet", V5, &Disconnect{Code: BadUserNameOrPassword}, ProtocolError, "MQTT-3.14.2-1"},
	{"code", V311, &Disconnect{Code: ProtocolError}, MalformedPacket, "2.3"},
	{"Session Expiry Interval", V311, &Disconnect{SessionExpiry: pointer[uint32](0)}, MalformedPacket, "2.3"},
	{"Reason String", V311, &Disconnect{ReasonString: "x"}, MalformedPacket, "2.3"},
	{"Server Reference", V311, &Disconnect{ServerReference: "x"}, MalformedPacket, "2.3"},
	{"User Property", V311, &Disconnect{UserProperties: UserProperties{{}}}, MalformedPacket, "2.3"},
	{"bad UTF-8", V5, &Disconnect{ServerReference: "\xff"}, MalformedPacket, "MQTT-1.5.4-1"},
}

// [MQTT-3.14.1-1] [MQTT311-3.14.1-1]
func TestDisconnect(t *testing.T) { testVectors(t, disconnectVectors) }

// [MQTT-1.5.4-1] [MQTT-1.5.5-1] [MQTT-2.1.3-1] [MQTT-3.14.2-1] [MQTT311-2.2.2-2]
func TestMalformedDisconnect(t *testing.T) { testMalformed(t, malformedDisconnects) }

// [MQTT-1.5.4-1] [MQTT-3.14.2-1]
func TestForbiddenDisconnect(t *testing.T) { testForbidden(t, forbiddenDisconnects) }
func FuzzDisconnect(f *testing.F)          { fuzzPacket(f, DISCONNECT, disconnectVectors, malformedDisconnects) }
