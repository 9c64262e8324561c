package codec

import "testing"

var authVectors = []vector{
	{name: "3.15.2.1 shortest", v: V5, bytes: "F0 00", packet: &Auth{}},
	{
		name: "method alone", v: V5,
		bytes: "F0 06" + // AUTH, Remaining Length 6
			"18" + // Continue authentication
			"04" + // property length
			"15 0001 6D", // Authentication Method
		packet: &Auth{Code: ContinueAuthentication, Method: "m"},
	},
	{
		name: "all properties", v: V5,
		bytes: "F0 16" +
			"19" + // Re-authenticate
			"14" +
			"15 0001 6D" +
			"16 0002 00FF" + // Authentication Data
			"1F 0001 78" + // Reason String
			"26 0001 61 0001 62", // User Property
		packet: &Auth{
			Code: ReAuthenticate, Method: "m", Data: []byte{0, 0xFF}, ReasonString: "x", UserProperties: UserProperties{{"a", "b"}},
		},
	},
	{
		name: "success with empty data", v: V5,
		bytes:  "F0 09 00 07 15 0001 6D 16 0000",
		packet: &Auth{Method: "m", Data: []byte{}},
	},
	{name: "nothing but success, long form", v: V5, bytes: "F0 02 00 00", packet: &Auth{}, longer: true},
}

var malformedAuths = []malformed{
	{"AUTH", V311, "F0 00", MalformedPacket, "2.2.1"},
	{"property length missing", V5, "F0 01 18", MalformedPacket, "2.1.4"},
	{"code of another packet", V5, "F0 06 80 04 15 0001 6D", ProtocolError, "MQTT-3.15.2-1"},
	{"code 0x01", V5, "F0 02 01 00", ProtocolError, "MQTT-3.15.2-1"},
	{"no method", V5, "F0 02 18 00", ProtocolError, "3.15.2.2.2"},
	{"data without method", V5, "F0 05 18 03 16 0000", ProtocolError, "3.15.2.2.2"},
	{"success with data without method", V5, "F0 05 00 03 16 0000", ProtocolError, "3.15.2.2.2"},
	{"user property without method", V5, "F0 07 00 05 26 0000 0000", ProtocolError, "3.15.2.2.2"},
	{"empty method", V5, "F0 05 18 03 15 0000", ProtocolError, "3.15.2.2.2"},
	{"method twice", V5, "F0 0A 18 08 15 0001 6D 15 0001 6D", ProtocolError, "3.1.2.11.9"},
	{"data twice", V5, "F0 0C 18 0A 15 0001 6D 16 0000 16 0000", ProtocolError, "3.1.2.11.10"},
	{"bad UTF-8", V5, "F0 06 18 04 15 0001 FF", MalformedPacket, "MQTT-1.5.4-1"},
	{"bytes left", V5, "F0 07 18 04 15 0001 6D 00", MalformedPacket, "2.1.4"},
	{"reserved flags", V5, "F1 00", MalformedPacket, "MQTT-2.1.3-1"},
}

var forbiddenAuths = []forbidden{
	{"AUTH", V311, &Auth{}, MalformedPacket, "2.2.1"},
	{"AUTH", V311, &Auth{Method: "m"}, MalformedPacket, "2.2.1"},
	{"no method", V5, &Auth{Code: ContinueAuthentication}, ProtocolError, "3.15.2.2.2"},
	{"data without method", V5, &Auth{Data: []byte{}}, ProtocolError, "3.15.2.2.2"},
	{"Reason String without method", V5, &Auth{ReasonString: "x"}, ProtocolError, "3.15.2.2.2"},
	{"User Property without method", V5, &Auth{UserProperties: UserProperties{{}}}, ProtocolError, "3.15.2.2.2"},
	{"code of another packet", V5, &Auth{Code: NotAuthorized, Method: "m"}, ProtocolError, "MQTT-3.15.2-1"},
	{"data too long", V5, &Auth{Method: "m", Data: make([]byte, 65536)}, MalformedPacket, "1.5.6"},
	{"bad UTF-8", V5, &Auth{Method: "\xff"}, MalformedPacket, "MQTT-1.5.4-1"},
}

func TestAuth(t *testing.T) { testVectors(t, authVectors) }

// [MQTT-1.5.4-1] [MQTT-2.1.3-1] [MQTT-3.15.2-1]
func TestMalformedAuth(t *testing.T) { testMalformed(t, malformedAuths) }

// [MQTT-1.5.4-1] [MQTT-3.15.2-1]
func TestForbiddenAuth(t *testing.T) { testForbidden(t, forbiddenAuths) }
func FuzzAuth(f *testing.F)          { fuzzPacket(f, AUTH, authVectors, malformedAuths) }
