package codec

import "testing"

var subackVectors = []vector{
	{
		name: "[MQTT-3.9.3-1] a code for each filter", v: V5,
		bytes: "90 07" + // SUBACK, Remaining Length 7
			"000A" + // packet identifier
			"00" + // property length
			"01 02 00 97", // reason codes
		packet: &Suback{PacketID: 10, Codes: []ReasonCode{GrantedQoS1, GrantedQoS2, GrantedQoS0, QuotaExceeded}},
	},
	{
		name: "[MQTT311-3.9.3-2] all return codes", v: V311,
		bytes:  "90 06 FFFF 00 01 02 80",
		packet: &Suback{PacketID: 65535, Codes: []ReasonCode{GrantedQoS0, GrantedQoS1, GrantedQoS2, UnspecifiedError}},
	},
	{
		name: "all properties", v: V5,
		bytes: "90 0F" +
			"0001" +
			"0B" +
			"1F 0001 78" +
			"26 0001 61 0001 62" +
			"A2",
		packet: &Suback{
			PacketID: 1, ReasonString: "x", UserProperties: UserProperties{{"a", "b"}},
			Codes: []ReasonCode{WildcardSubscriptionsNotSupported},
		},
	},
}

var malformedSubacks = []malformed{
	{"packet identifier 0", V5, "90 04 0000 00 00", ProtocolError, "MQTT-2.2.1-6"},
	{"packet identifier 0", V311, "90 03 0000 00", ProtocolError, "MQTT-2.3.1-7"},
	{"empty", V5, "90 00", MalformedPacket, "2.1.4"},
	{"property length missing", V5, "90 02 0001", MalformedPacket, "2.1.4"},
	{"no code", V5, "90 03 0001 00", ProtocolError, "MQTT-3.9.3-1"},
	{"no code", V311, "90 02 0001", ProtocolError, "MQTT-3.9.3-1"},
	{"code 0x03", V5, "90 04 0001 00 03", ProtocolError, "MQTT-3.9.3-2"},
	{"second code 0x04", V5, "90 05 0001 00 00 04", ProtocolError, "MQTT-3.9.3-2"},
	{"code of a CONNACK", V5, "90 04 0001 00 81", ProtocolError, "MQTT-3.9.3-2"},
	{"code of an UNSUBACK", V5, "90 04 0001 00 11", ProtocolError, "MQTT-3.9.3-2"},
	{"return code 0x03", V311, "90 03 0001 03", ProtocolError, "MQTT-3.9.3-2"},
	{"return code of MQTT 5.0", V311, "90 03 0001 87", ProtocolError, "MQTT-3.9.3-2"},
	{"Reason String twice", V5, "90 0A 0001 06 1F 0000 1F 0000 00", ProtocolError, "3.2.2.3.9"},
	{"Subscription Identifier", V5, "90 06 0001 02 0B 01 00", MalformedPacket, "2.2.2.2"},
	{"reserved flags", V5, "92 04 0001 00 00", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "91 03 0001 00", MalformedPacket, "MQTT-2.2.2-2"},
}

var forbiddenSubacks = []forbidden{
	{"packet identifier 0", V5, &Suback{Codes: []ReasonCode{0}}, ProtocolError, "MQTT-2.2.1-6"},
	{"packet identifier 0", V311, &Suback{Codes: []ReasonCode{0}}, ProtocolError, "MQTT-2.3.1-7"},
	{"no code", V5, &Suback{PacketID: 1}, ProtocolError, "MQTT-3.9.3-1"},
	{"code of another packet", V5, &Suback{PacketID: 1, Codes: []ReasonCode{0, ServerBusy}}, ProtocolError, "MQTT-3.9.3-2"},
	{"code of MQTT 5.0", V311, &Suback{PacketID: 1, Codes: []ReasonCode{NotAuthorized}}, ProtocolError, "MQTT-3.9.3-2"},
	{"Reason String", V311, &Suback{PacketID: 1, ReasonString: "x", Codes: []ReasonCode{0}}, MalformedPacket, "2.3"},
	{"bad UTF-8", V5, &Suback{PacketID: 1, ReasonString: "\xff", Codes: []ReasonCode{0}}, MalformedPacket, "MQTT-1.5.4-1"},
}

func TestSuback(t *testing.T) { testVectors(t, subackVectors) }

// [MQTT-2.1.3-1] [MQTT-2.2.1-6] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT311-2.2.2-2] [MQTT311-2.3.1-7] [MQTT311-3.9.3-1]
// [MQTT311-3.9.3-2]
func TestMalformedSuback(t *testing.T) { testMalformed(t, malformedSubacks) }
func TestForbiddenSuback(t *testing.T) { testForbidden(t, forbiddenSubacks) }
func FuzzSuback(f *testing.F)          { fuzzPacket(f, SUBACK, subackVectors, malformedSubacks) }
