package codec

import "testing"

var unsubscribeVectors = []vector{
	{
		name: "[MQTT-3.10.1-1] two filters", v: V5,
		bytes: "A2 09" + // UNSUBSCRIBE, flags 0010, Remaining Length 9
			"0001" + // packet identifier
			"00" + // property length
			"0001 61" +
			"0001 23",
		packet: &Unsubscribe{PacketID: 1, Filters: []string{"a", "#"}},
	},
	{
		name: "[MQTT311-3.10.1-1] one filter", v: V311,
		bytes:  "A2 05 0001 0001 61",
		packet: &Unsubscribe{PacketID: 1, Filters: []string{"a"}},
	},
	{
		name: "user property", v: V5,
		bytes:  "A2 0D 0001 07 26 0001 61 0001 62 0001 63",
		packet: &Unsubscribe{PacketID: 1, UserProperties: UserProperties{{"a", "b"}}, Filters: []string{"c"}},
	},
}

var malformedUnsubscribes = []malformed{
	{"packet identifier 0", V5, "A2 06 0000 00 0001 61", ProtocolError, "MQTT-2.2.1-3"},
	{"packet identifier 0", V311, "A2 05 0000 0001 61", ProtocolError, "MQTT-2.3.1-1"},
	{"empty", V5, "A2 00", MalformedPacket, "2.1.4"},
	{"no filter", V5, "A2 03 0001 00", ProtocolError, "MQTT-3.10.3-2"},
	{"no filter", V311, "A2 02 0001", ProtocolError, "MQTT-3.10.3-2"},
	{"empty filter", V5, "A2 05 0001 00 0000", ProtocolError, "MQTT-4.7.3-1"},
	{"half a filter", V311, "A2 08 0001 0001 61 0002 62", MalformedPacket, "2.2.3"},
	{"one byte behind the filters", V5, "A2 07 0001 00 0001 61 00", MalformedPacket, "2.1.4"},
	{"bad UTF-8", V5, "A2 06 0001 00 0001 FF", MalformedPacket, "MQTT-1.5.4-1"},
	{"U+0000", V311, "A2 05 0001 0001 00", MalformedPacket, "MQTT-1.5.3-2"},
	{"Reason String", V5, "A2 09 0001 03 1F 0000 0001 61", MalformedPacket, "2.2.2.2"},
	{"reserved flags", V5, "A0 06 0001 00 0001 61", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "A6 05 0001 0001 61", MalformedPacket, "MQTT-2.2.2-2"},
}

var forbiddenUnsubscribes = []forbidden{
	{"packet identifier 0", V5, &Unsubscribe{Filters: []string{"a"}}, ProtocolError, "MQTT-2.2.1-3"},
	{"no filter", V311, &Unsubscribe{PacketID: 1}, ProtocolError, "MQTT-3.10.3-2"},
	{"empty filter", V5, &Unsubscribe{PacketID: 1, Filters: []string{"a", ""}}, ProtocolError, "MQTT-4.7.3-1"},
	{"bad UTF-8", V311, &Unsubscribe{PacketID: 1, Filters: []string{"\xff"}}, MalformedPacket, "MQTT-1.5.3-1"},
	{"User Property", V311, &Unsubscribe{PacketID: 1, UserProperties: UserProperties{{}}, Filters: []string{"a"}}, MalformedPacket, "2.3"},
}

// [MQTT-2.2.2-1]
func TestUnsubscribe(t *testing.T)          { testVectors(t, unsubscribeVectors) }
func TestMalformedUnsubscribe(t *testing.T) { testMalformed(t, malformedUnsubscribes) }

// [MQTT-2.2.1-3] [MQTT-4.7.3-1] [MQTT311-1.5.3-1] [MQTT311-3.10.3-2]
func TestForbiddenUnsubscribe(t *testing.T) { testForbidden(t, forbiddenUnsubscribes) }
func FuzzUnsubscribe(f *testing.F) {
	fuzzPacket(f, UNSUBSCRIBE, unsubscribeVectors, malformedUnsubscribes)
}
