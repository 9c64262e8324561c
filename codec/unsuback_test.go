package codec

import "testing"

var unsubackVectors = []vector{
	{
		name: "[MQTT-3.11.3-1] a code for each filter", v: V5,
		bytes: "B0 05" + // UNSUBACK, Remaining Length 5
			"0001" + // packet identifier
			"00" + // property length
			"00 11", // reason codes
		packet: &Unsuback{PacketID: 1, Codes: []ReasonCode{Success, NoSubscriptionExisted}},
	},
	{name: "3.11.3 no payload", v: V311, bytes: "B0 02 0001", packet: &Unsuback{PacketID: 1}},
	{
		name: "all properties", v: V5,
		bytes:  "B0 0F 0001 0B 1F 0001 78 26 0001 61 0001 62 8F",
		packet: &Unsuback{PacketID: 1, ReasonString: "x", UserProperties: UserProperties{{"a", "b"}}, Codes: []ReasonCode{TopicFilterInvalid}},
	},
}

var malformedUnsubacks = []malformed{
	{"packet identifier 0", V5, "B0 04 0000 00 00", ProtocolError, "MQTT-2.2.1-6"},
	{"packet identifier 0", V311, "B0 02 0000", ProtocolError, "MQTT-2.3.1-7"},
	{"empty", V5, "B0 00", MalformedPacket, "2.1.4"},
	{"half a packet identifier", V311, "B0 01 01", MalformedPacket, "2.2.3"},
	{"property length missing", V5, "B0 02 0001", MalformedPacket, "2.1.4"},
	{"no code", V5, "B0 03 0001 00", ProtocolError, "MQTT-3.11.3-1"},
	{"code of a SUBACK", V5, "B0 04 0001 00 01", ProtocolError, "MQTT-3.11.3-2"},
	{"code 0x97", V5, "B0 05 0001 00 00 97", ProtocolError, "MQTT-3.11.3-2"},
	{"payload", V311, "B0 03 0001 00", MalformedPacket, "3.11.3"},
	{"Reason String twice", V5, "B0 0A 0001 06 1F 0000 1F 0000 00", ProtocolError, "3.2.2.3.9"},
	{"reserved flags", V5, "B2 04 0001 00 00", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "B8 02 0001", MalformedPacket, "MQTT-2.2.2-2"},
}

var forbiddenUnsubacks = []forbidden{
	{"packet identifier 0", V5, &Unsuback{Codes: []ReasonCode{0}}, ProtocolError, "MQTT-2.2.1-6"},
	{"no code", V5, &Unsuback{PacketID: 1}, ProtocolError, "MQTT-3.11.3-1"},
	{"code of another packet", V5, &Unsuback{PacketID: 1, Codes: []ReasonCode{0, QuotaExceeded}}, ProtocolError, "MQTT-3.11.3-2"},
	{"code", V311, &Unsuback{PacketID: 1, Codes: []ReasonCode{0}}, MalformedPacket, "3.11.3"},
	{"Reason String", V311, &Unsuback{PacketID: 1, ReasonString: "x"}, MalformedPacket, "2.3"},
}

func TestUnsuback(t *testing.T) { testVectors(t, unsubackVectors) }

// [MQTT-2.1.3-1] [MQTT-2.2.1-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] [MQTT311-2.2.2-2] [MQTT311-2.3.1-7]
func TestMalformedUnsuback(t *testing.T) { testMalformed(t, malformedUnsubacks) }
func TestForbiddenUnsuback(t *testing.T) { testForbidden(t, forbiddenUnsubacks) }
func FuzzUnsuback(f *testing.F)          { fuzzPacket(f, UNSUBACK, unsubackVectors, malformedUnsubacks) }
