package codec

import (
	"strings"
	"testing"
)

var connackVectors = []vector{
	{
		name: "accepted", v: V5,
		bytes: "20 03" + // CONNACK, Remaining Length 3
			"00" + // acknowledge flags
			"00" + // reason code
			"00", // property length
		packet: &Connack{},
	},
	{name: "accepted", v: V311, bytes: "20 02 00 00", packet: &Connack{}},
	{name: "session present", v: V5, bytes: "20 03 01 00 00", packet: &Connack{SessionPresent: true}},
	{name: "session present", v: V311, bytes: "20 02 01 00", packet: &Connack{SessionPresent: true}},
	{
		name: "refused with a reason", v: V5,
		bytes: "20 0E" +
			"00 9C" + // Use another server
			"0B" +
			"1F 0001 78" + // Reason String
			"1C 0004 683A3831", // Server Reference
		packet: &Connack{Code: UseAnotherServer, Properties: ConnackProperties{ReasonString: "x", ServerReference: "h:81"}},
	},
	{name: "return code 1", v: V311, bytes: "20 02 00 01", packet: &Connack{Code: UnsupportedProtocolVersion}},
	{name: "return code 2", v: V311, bytes: "20 02 00 02", packet: &Connack{Code: ClientIdentifierNotValid}},
	{name: "return code 3", v: V311, bytes: "20 02 00 03", packet: &Connack{Code: ServerUnavailable}},
	{name: "return code 4", v: V311, bytes: "20 02 00 04", packet: &Connack{Code: BadUserNameOrPassword}},
	{name: "return code 5", v: V311, bytes: "20 02 00 05", packet: &Connack{Code: NotAuthorized}},
	{
		name: "all properties", v: V5,
		bytes: "20 48" +
			"01 00" +
			"45" +
			"11 FFFFFFFF" + // Session Expiry Interval
			"21 0001" + // Receive Maximum
			"24 01" + // Maximum QoS
			"25 00" + // Retain Available
			"27 000003E8" + // Maximum Packet Size
			"12 0002 6964" + // Assigned Client Identifier
			"22 0005" + // Topic Alias Maximum
			"1F 0002 6F6B" + // Reason String
			"26 0001 61 0001 31" + // User Property
			"26 0001 61 0001 32" + // the same name again
			"28 00" + // Wildcard Subscription Available
			"29 01" + // Subscription Identifiers Available
			"2A 00" + // Shared Subscription Available
			"13 0000" + // Server Keep Alive
			"1A 0001 72" + // Response Information
			"1C 0001 73" + // Server Reference
			"15 0001 6D" + // Authentication Method
			"16 0001 FF", // Authentication Data
		packet: &Connack{SessionPresent: true, Properties: ConnackProperties{
			SessionExpiry: pointer[uint32](0xFFFFFFFF), ReceiveMaximum: 1, MaximumQoS: pointer[byte](1), RetainAvailable: pointer(false),
			MaximumPacketSize: 1000, AssignedClientID: "id", TopicAliasMaximum: 5, ReasonString: "ok",
			UserProperties:                UserProperties{{"a", "1"}, {"a", "2"}},
			WildcardSubscriptionAvailable: pointer(false), SubscriptionIdentifiersAvailable: pointer(true),
			SharedSubscriptionAvailable: pointer(false), ServerKeepAlive: pointer[uint16](0), ResponseInformation: "r",
			ServerReference: "s", AuthenticationMethod: "m", AuthenticationData: []byte{0xFF},
		}},
	},
	{
		name: "Maximum QoS 0", v: V5, bytes: "20 05 00 00 02 24 00",
		packet: &Connack{Properties: ConnackProperties{MaximumQoS: pointer[byte](0)}},
	},
	{
		name: "an empty string is as good as none", v: V5, bytes: "20 0C 00 00 09 12 0000 1F 0000 1C 0000",
		packet: &Connack{}, longer: true,
	},
}

var malformedConnacks = []malformed{
	{"empty", V5, "20 00", MalformedPacket, "2.1.4"},
	{"property length missing", V5, "20 02 00 00", MalformedPacket, "2.1.4"},
	{"reason code missing", V311, "20 01 00", MalformedPacket, "2.2.3"},
	{"bytes left", V5, "20 04 00 00 00 00", MalformedPacket, "2.1.4"},
	{"property length", V311, "20 03 00 00 00", MalformedPacket, "2.2.3"},
	{"acknowledge flag 1", V5, "20 03 02 00 00", MalformedPacket, "MQTT-3.2.2-1"},
	{"acknowledge flag 2", V5, "20 03 04 00 00", MalformedPacket, "MQTT-3.2.2-1"},
	{"acknowledge flag 3", V5, "20 03 08 00 00", MalformedPacket, "MQTT-3.2.2-1"},
	{"acknowledge flag 4", V5, "20 03 10 00 00", MalformedPacket, "MQTT-3.2.2-1"},
	{"acknowledge flag 5", V5, "20 03 20 00 00", MalformedPacket, "MQTT-3.2.2-1"},
	{"acknowledge flag 6", V5, "20 03 40 00 00", MalformedPacket, "MQTT-3.2.2-1"},
	{"acknowledge flag 7", V5, "20 03 81 00 00", MalformedPacket, "MQTT-3.2.2-1"},
	{"acknowledge flags", V311, "20 02 03 00", MalformedPacket, "3.2.2.1"},
	{"session present in a refusal", V5, "20 03 01 87 00", ProtocolError, "MQTT-3.2.2-6"},
	{"session present in a refusal", V311, "20 02 01 05", ProtocolError, "MQTT-3.2.2-4"},
	{"reason code 0x01", V5, "20 03 00 01 00", ProtocolError, "MQTT-3.2.2-8"},
	{"reason code 0x02", V5, "20 03 00 02 00", ProtocolError, "MQTT-3.2.2-8"},
	{"reason code 0xFF", V5, "20 03 00 FF 00", ProtocolError, "MQTT-3.2.2-8"},
	{"return code 6", V311, "20 02 00 06", ProtocolError, "MQTT-3.2.2-6"},
	{"return code 0x87", V311, "20 02 00 87", ProtocolError, "MQTT-3.2.2-6"},
	{"Receive Maximum 0", V5, "20 06 00 00 03 21 0000", ProtocolError, "3.2.2.3.3"},
	{"Maximum QoS 2", V5, "20 05 00 00 02 24 02", ProtocolError, "3.2.2.3.4"},
	{"Retain Available 2", V5, "20 05 00 00 02 25 02", ProtocolError, "3.2.2.3.5"},
	{"Maximum Packet Size 0", V5, "20 08 00 00 05 27 00000000", ProtocolError, "3.2.2.3.6"},
	{"Wildcard Subscription Available 2", V5, "20 05 00 00 02 28 02", ProtocolError, "3.2.2.3.11"},
	{"Subscription Identifier Available 255", V5, "20 05 00 00 02 29 FF", ProtocolError, "3.2.2.3.12"},
	{"Shared Subscription Available 2", V5, "20 05 00 00 02 2A 02", ProtocolError, "3.2.2.3.13"},
	{"Authentication Data without method", V5, "20 06 00 00 03 16 0000", ProtocolError, "3.2.2.3.18"},
	{"Reason String twice", V5, "20 0B 00 00 08 1F 0001 61 1F 0001 61", ProtocolError, "3.2.2.3.9"},
	{"bad UTF-8 in the Reason String", V5, "20 08 00 00 05 1F 0002 C3 28", MalformedPacket, "MQTT-1.5.4-1"},
	{"U+0000 in the Assigned Client Identifier", V5, "20 09 00 00 06 12 0003 61 00 62", MalformedPacket, "MQTT-1.5.4-2"},
	{"reserved flags", V5, "21 03 00 00 00", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "28 02 00 00", MalformedPacket, "MQTT-2.2.2-2"},
}

var forbiddenConnacks = []forbidden{
	{"session present in a refusal", V5, &Connack{SessionPresent: true, Code: ServerBusy}, ProtocolError, "MQTT-3.2.2-6"},
	{"session present in a refusal", V311, &Connack{SessionPresent: true, Code: NotAuthorized}, ProtocolError, "MQTT-3.2.2-4"},
	{"other reason code", V5, &Connack{Code: GrantedQoS1}, ProtocolError, "MQTT-3.2.2-8"},
	{"reason code without a return code", V311, &Connack{Code: Banned}, ProtocolError, "MQTT-3.2.2-6"},
	{"Maximum QoS 2", V5, &Connack{Properties: ConnackProperties{MaximumQoS: pointer[byte](2)}}, ProtocolError, "3.2.2.3.4"},
	{"Authentication Data without method", V5, &Connack{Properties: ConnackProperties{AuthenticationData: []byte{1}}}, ProtocolError, "3.2.2.3.18"},
	{"bad UTF-8", V5, &Connack{Properties: ConnackProperties{ServerReference: "\xed\xa0\x80"}}, MalformedPacket, "MQTT-1.5.4-1"},
	{"Reason String too long", V5, &Connack{Properties: ConnackProperties{ReasonString: strings.Repeat("x", 65536)}}, MalformedPacket, "1.5.4"},
	{"property", V311, &Connack{Properties: ConnackProperties{SessionExpiry: pointer[uint32](1)}}, MalformedPacket, "2.3"},
	{"property", V311, &Connack{Properties: ConnackProperties{MaximumQoS: pointer[byte](2)}}, MalformedPacket, "2.3"},
	{"property", V311, &Connack{Properties: ConnackProperties{ServerKeepAlive: pointer[uint16](1)}}, MalformedPacket, "2.3"},
	{"property", V311, &Connack{Properties: ConnackProperties{ReasonString: "x"}}, MalformedPacket, "2.3"},
}

func TestConnack(t *testing.T) { testVectors(t, connackVectors) }

// [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-2.1.3-1] [MQTT-3.2.2-1] [MQTT-3.2.2-6] [MQTT-3.2.2-8] [MQTT311-2.2.2-2]
// [MQTT311-3.2.2-4] [MQTT311-3.2.2-6]
func TestMalformedConnack(t *testing.T) { testMalformed(t, malformedConnacks) }
func TestForbiddenConnack(t *testing.T) { testForbidden(t, forbiddenConnacks) }
func FuzzConnack(f *testing.F)          { fuzzPacket(f, CONNACK, connackVectors, malformedConnacks) }
