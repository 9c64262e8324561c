package codec

import (
	"strings"
	"testing"
)

var subscribeVectors = []vector{
	{
		name: "[MQTT-3.8.1-1] one filter", v: V5,
		bytes: "82 08" + // SUBSCRIBE, flags 0010, Remaining Length 8
			"000A" + // packet identifier
			"00" + // property length
			"0002 612F" + // topic filter
			"01", // subscription options: QoS 1
		packet: &Subscribe{PacketID: 10, Filters: []SubscribeFilter{{Filter: "a/", QoS: 1}}},
	},
	{
		name: "[MQTT311-3.8.1-1] three filters", v: V311,
		bytes: "82 0F" +
			"FFFF" +
			"0001 23 02" +
			"0001 2B 00" +
			"0002 612F 01",
		packet: &Subscribe{PacketID: 65535, Filters: []SubscribeFilter{{Filter: "#", QoS: 2}, {Filter: "+"}, {Filter: "a/", QoS: 1}}},
	},
	{
		name: "[MQTT-3.8.3-3] all options and properties", v: V5,
		bytes: "82 23" +
			"0001" +
			"0C" +
			"0B FFFFFF7F" + // Subscription Identifier
			"26 0001 61 0001 62" + // User Property
			"0001 61 04" + // No Local
			"0001 62 08" + // Retain As Published
			"0001 63 10" + // Retain Handling 1
			"0001 64 2E" + // Retain Handling 2, both flags, QoS 2
			"0001 65 01", // QoS 1
		packet: &Subscribe{
			PacketID: 1, SubscriptionIdentifier: 268435455, UserProperties: UserProperties{{"a", "b"}},
			Filters: []SubscribeFilter{
				{Filter: "a", NoLocal: true},
				{Filter: "b", RetainAsPublished: true},
				{Filter: "c", RetainHandling: 1},
				{Filter: "d", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
				{Filter: "e", QoS: 1},
			},
		},
	},
	{
		name: "shared subscription", v: V5,
		bytes:  "82 10 0001 00 000A 2473686172652F672F61 02",
		packet: &Subscribe{PacketID: 1, Filters: []SubscribeFilter{{Filter: "$share/g/a", QoS: 2}}},
	},
	{
		name: "No Local on a filter that only looks shared", v: V5,
		bytes:  "82 0C 0001 00 0006 247368617265 04",
		packet: &Subscribe{PacketID: 1, Filters: []SubscribeFilter{{Filter: "$share", NoLocal: true}}},
	},
}

var malformedSubscribes = []malformed{
	{"packet identifier 0", V5, "82 07 0000 00 0001 61 00", ProtocolError, "MQTT-2.2.1-3"},
	{"packet identifier 0", V311, "82 06 0000 0001 61 00", ProtocolError, "MQTT-2.3.1-1"},
	{"empty", V5, "82 00", MalformedPacket, "2.1.4"},
	{"property length missing", V5, "82 02 0001", MalformedPacket, "2.1.4"},
	{"no filter", V5, "82 03 0001 00", ProtocolError, "MQTT-3.8.3-2"},
	{"no filter", V311, "82 02 0001", ProtocolError, "MQTT-3.8.3-3"},
	{"empty filter", V5, "82 06 0001 00 0000 00", ProtocolError, "MQTT-4.7.3-1"},
	{"empty filter", V311, "82 09 0001 0001 61 00 0000 00", ProtocolError, "MQTT-4.7.3-1"},
	{"options missing", V5, "82 06 0001 00 0001 61", MalformedPacket, "2.1.4"},
	{"QoS missing", V311, "82 05 0001 0001 61", MalformedPacket, "2.2.3"},
	{"half a filter", V5, "82 0A 0001 00 0001 61 00 0002 62", MalformedPacket, "2.1.4"},
	{"QoS 3", V5, "82 07 0001 00 0001 61 03", ProtocolError, "3.8.3.1"},
	{"QoS 3", V311, "82 06 0001 0001 61 03", MalformedPacket, "MQTT-3.8.3-4"},
	{"Retain Handling 3", V5, "82 07 0001 00 0001 61 30", ProtocolError, "3.8.3.1"},
	{"reserved option bit 6", V5, "82 07 0001 00 0001 61 40", MalformedPacket, "MQTT-3.8.3-5"},
	{"reserved option bit 7", V5, "82 07 0001 00 0001 61 80", MalformedPacket, "MQTT-3.8.3-5"},
	{"No Local", V311, "82 06 0001 0001 61 04", MalformedPacket, "MQTT-3.8.3-4"},
	{"Retain As Published", V311, "82 06 0001 0001 61 08", MalformedPacket, "MQTT-3.8.3-4"},
	{"Retain Handling", V311, "82 06 0001 0001 61 10", MalformedPacket, "MQTT-3.8.3-4"},
	{"reserved option bit 7", V311, "82 06 0001 0001 61 80", MalformedPacket, "MQTT-3.8.3-4"},
	{"No Local on a shared subscription", V5, "82 10 0001 00 000A 2473686172652F672F61 04", ProtocolError, "MQTT-3.8.3-4"},
	{"Subscription Identifier 0", V5, "82 09 0001 02 0B 00 0001 61 00", ProtocolError, "3.8.2.1.2"},
	{"Subscription Identifier twice", V5, "82 0B 0001 04 0B 01 0B 02 0001 61 00", ProtocolError, "3.8.2.1.2"},
	{"Subscription Identifier not minimal", V5, "82 0A 0001 03 0B 8100 0001 61 00", MalformedPacket, "MQTT-1.5.5-1"},
	{"Subscription Identifier of five bytes", V5, "82 0D 0001 06 0B 8080808001 0001 61 00", MalformedPacket, "1.5.5"},
	{"bad UTF-8", V5, "82 07 0001 00 0001 FF 00", MalformedPacket, "MQTT-1.5.4-1"},
	{"bad UTF-8", V311, "82 06 0001 0001 FF 00", MalformedPacket, "MQTT-1.5.3-1"},
	{"U+0000", V5, "82 07 0001 00 0001 00 00", MalformedPacket, "MQTT-1.5.4-2"},
	{"reserved flags", V5, "80 07 0001 00 0001 61 00", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "81 06 0001 0001 61 00", MalformedPacket, "MQTT-2.2.2-2"},
}

// subscribeTo is a SUBSCRIBE of one filter.
func subscribeTo(f SubscribeFilter) *Subscribe {
	return &Subscribe{PacketID: 1, Filters: []SubscribeFilter{f}}
}

var forbiddenSubscribes = []forbidden{
	{"packet identifier 0", V5, &Subscribe{Filters: []SubscribeFilter{{Filter: "a"}}}, ProtocolError, "MQTT-2.2.1-3"},
	{"no filter", V5, &Subscribe{PacketID: 1}, ProtocolError, "MQTT-3.8.3-2"},
	{"no filter", V311, &Subscribe{PacketID: 1}, ProtocolError, "MQTT-3.8.3-3"},
	{"empty filter", V5, subscribeTo(SubscribeFilter{}), ProtocolError, "MQTT-4.7.3-1"},
	{"filter too long", V5, subscribeTo(SubscribeFilter{Filter: strings.Repeat("x", 65536)}), MalformedPacket, "1.5.4"},
	{"bad UTF-8", V5, subscribeTo(SubscribeFilter{Filter: "\xff"}), MalformedPacket, "MQTT-1.5.4-1"},
	{"QoS 3", V5, subscribeTo(SubscribeFilter{Filter: "a", QoS: 3}), ProtocolError, "3.8.3.1"},
	{"QoS 3", V311, subscribeTo(SubscribeFilter{Filter: "a", QoS: 3}), MalformedPacket, "MQTT-3.8.3-4"},
	{"QoS 4", V5, subscribeTo(SubscribeFilter{Filter: "a", QoS: 4}), MalformedPacket, "MQTT-3.8.3-5"},
	{"Retain Handling 3", V5, subscribeTo(SubscribeFilter{Filter: "a", RetainHandling: 3}), ProtocolError, "3.8.3.1"},
	{"Retain Handling 4", V5, subscribeTo(SubscribeFilter{Filter: "a", RetainHandling: 4}), MalformedPacket, "MQTT-3.8.3-5"},
	{"Retain Handling 16", V311, subscribeTo(SubscribeFilter{Filter: "a", RetainHandling: 16}), MalformedPacket, "MQTT-3.8.3-4"},
	{"No Local on a shared subscription", V5, subscribeTo(SubscribeFilter{Filter: "$share/g/a", NoLocal: true}), ProtocolError, "MQTT-3.8.3-4"},
	{"No Local", V311, subscribeTo(SubscribeFilter{Filter: "a", NoLocal: true}), MalformedPacket, "MQTT-3.8.3-4"},
	{"Retain As Published", V311, subscribeTo(SubscribeFilter{Filter: "a", RetainAsPublished: true}), MalformedPacket, "MQTT-3.8.3-4"},
	{"Retain Handling 1", V311, subscribeTo(SubscribeFilter{Filter: "a", RetainHandling: 1}), MalformedPacket, "MQTT-3.8.3-4"},
	{"Subscription Identifier too large", V5, &Subscribe{PacketID: 1, SubscriptionIdentifier: 268435456, Filters: []SubscribeFilter{{Filter: "a"}}}, ProtocolError, "3.8.2.1.2"},
	{"Subscription Identifier", V311, &Subscribe{PacketID: 1, SubscriptionIdentifier: 1, Filters: []SubscribeFilter{{Filter: "a"}}}, MalformedPacket, "2.3"},
	{"User Property", V311, &Subscribe{PacketID: 1, UserProperties: UserProperties{{}}, Filters: []SubscribeFilter{{Filter: "a"}}}, MalformedPacket, "2.3"},
}

// [MQTT-2.2.2-1]
func TestSubscribe(t *testing.T)          { testVectors(t, subscribeVectors) }
func TestMalformedSubscribe(t *testing.T) { testMalformed(t, malformedSubscribes) }

// [MQTT-1.5.4-1] [MQTT-2.2.1-3] [MQTT-3.8.3-2] [MQTT-3.8.3-4] [MQTT-3.8.3-5] [MQTT-4.7.3-1] [MQTT311-3.8.3-3]
// [MQTT311-3.8.3-4]
func TestForbiddenSubscribe(t *testing.T) { testForbidden(t, forbiddenSubscribes) }
func FuzzSubscribe(f *testing.F)          { fuzzPacket(f, SUBSCRIBE, subscribeVectors, malformedSubscribes) }
