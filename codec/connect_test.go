package codec

import (
	"strings"
	"testing"
	"time"
)

var connectVectors = []vector{
	{
		name: "[MQTT-3.1.3-3] smallest", v: V5,
		bytes: "10 0D" + // CONNECT, Remaining Length 13
			"0004 4D515454 05" + // protocol name, version
			"00 0000" + // connect flags, keep alive
			"00" + // property length
			"0000", // client identifier
		packet: &Connect{Version: V5},
	},
	{
		name: "[MQTT311-3.1.3-3] smallest", v: V311,
		bytes: "10 0C" +
			"0004 4D515454 04" +
			"02 0000" + // Clean Session
			"0000",
		packet: &Connect{Version: V311, CleanStart: true},
	},
	{
		name: "[MQTT-3.1.3-1] all fields and properties", v: V5,
		bytes: "10 65" +
			"0004 4D515454 05" +
			"F6 003C" + // user name, password, will retain, will QoS 2, will, clean start; keep alive
			"28" + // property length
			"11 0000012C" + // Session Expiry Interval
			"21 0014" + // Receive Maximum
			"27 00010000" + // Maximum Packet Size
			"22 000A" + // Topic Alias Maximum
			"19 01" + // Request Response Information
			"17 00" + // Request Problem Information
			"26 0001 61 0001 62" + // User Property
			"15 0005 534352414D" + // Authentication Method
			"16 0002 00FF" + // Authentication Data
			"0001 63" + // client identifier
			"1F" + // length of the will properties
			"18 0000000A" + // Will Delay Interval
			"01 01" + // Payload Format Indicator
			"02 0000003C" + // Message Expiry Interval
			"03 0001 74" + // Content Type
			"08 0001 72" + // Response Topic
			"09 0001 00" + // Correlation Data
			"26 0001 6B 0001 76" + // User Property
			"0001 77" + // will topic
			"0003 627965" + // will payload
			"0001 75" + // user name
			"0002 00FF", // password
		packet: &Connect{
			Version: V5, CleanStart: true, KeepAlive: 60, ClientID: "c",
			HasUsername: true, Username: "u", HasPassword: true, Password: []byte{0, 0xFF},
			Properties: ConnectProperties{
				SessionExpiry: pointer[uint32](300), ReceiveMaximum: 20, MaximumPacketSize: 65536, TopicAliasMaximum: 10,
				RequestResponseInformation: pointer(true), RequestProblemInformation: pointer(false),
				UserProperties:       UserProperties{{"a", "b"}},
				AuthenticationMethod: "SCRAM", AuthenticationData: []byte{0, 0xFF},
			},
			Will: &Will{
				Topic: "w", Payload: []byte("bye"), QoS: 2, Retain: true,
				Properties: WillProperties{
					WillDelay: 10 * time.Second, UTF8Payload: true, MessageExpiry: time.Minute, ContentType: "t",
					ResponseTopic: "r", CorrelationData: []byte{0}, UserProperties: UserProperties{{"k", "v"}},
				},
			},
		},
	},
	{
		name: "[MQTT311-3.1.3-1] all fields", v: V311,
		bytes: "10 1C" +
			"0004 4D515454 04" +
			"EE FFFF" + // user name, password, will retain, will QoS 1, will, Clean Session
			"0001 63" +
			"0001 77" + // will topic
			"0003 627965" + // will payload
			"0001 75" +
			"0002 00FF",
		packet: &Connect{
			Version: V311, CleanStart: true, KeepAlive: 65535, ClientID: "c",
			HasUsername: true, Username: "u", HasPassword: true, Password: []byte{0, 0xFF},
			Will: &Will{Topic: "w", Payload: []byte("bye"), QoS: 1, Retain: true},
		},
	},
	{
		name: "[MQTT-3.1.2-17] empty user name and password are present", v: V5,
		bytes: "10 11" +
			"0004 4D515454 05" +
			"C2 0000 00" +
			"0000 0000 0000", // client identifier, user name, password
		packet: &Connect{Version: V5, CleanStart: true, HasUsername: true, HasPassword: true, Password: []byte{}},
	},
	{
		name: "[MQTT311-3.1.2-19] empty user name is present", v: V311,
		bytes: "10 0E" +
			"0004 4D515454 04" +
			"82 0000" +
			"0000 0000",
		packet: &Connect{Version: V311, CleanStart: true, HasUsername: true},
	},
	{
		name: "[MQTT-3.1.2.9] password without user name", v: V5,
		bytes: "10 11" +
			"0004 4D515454 05" +
			"40 0000 00" +
			"0000 0002 7077",
		packet: &Connect{Version: V5, HasPassword: true, Password: []byte("pw")},
	},
	{
		name: "will with nothing in it", v: V5,
		bytes: "10 13" +
			"0004 4D515454 05" +
			"04 0000 00" +
			"0000" +
			"00" + // will properties
			"0001 77 0000",
		packet: &Connect{Version: V5, Will: &Will{Topic: "w", Payload: []byte{}}},
	},
	{
		name: "2.2.2.2 property order is free", v: V5,
		bytes: "10 1E" +
			"0004 4D515454 05" +
			"00 0000" +
			"11" +
			"26 0001 62 0001 31" + // the order of user properties is kept
			"22 0001" +
			"26 0001 61 0001 32" +
			"0000",
		packet: &Connect{Version: V5, Properties: ConnectProperties{
			TopicAliasMaximum: 1, UserProperties: UserProperties{{"b", "1"}, {"a", "2"}},
		}},
		longer: true,
	},
	{
		name: "3.1.2.11.2 values that mean something at zero", v: V5,
		bytes: "10 16" +
			"0004 4D515454 05" +
			"00 0000" +
			"09" +
			"11 00000000" +
			"19 00" +
			"17 01" +
			"0000",
		packet: &Connect{Version: V5, Properties: ConnectProperties{
			SessionExpiry: pointer[uint32](0), RequestResponseInformation: pointer(false), RequestProblemInformation: pointer(true),
		}},
	},
	{
		name: "3.1.3.2.3 will that has expired", v: V5,
		bytes: "10 18" +
			"0004 4D515454 05" +
			"04 0000 00" +
			"0000" +
			"05 02 00000000" +
			"0001 77 0000",
		packet: &Connect{Version: V5, Will: &Will{Topic: "w", Payload: []byte{}, Properties: WillProperties{MessageExpiry: 1}}},
	},
}

const (
	connect5   = "0004 4D515454 05"
	connect311 = "0004 4D515454 04"
)

var malformedConnects = []malformed{
	{"other protocol name", V5, "10 0D 0004 4D515455 05 02 0000 00 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-1"},
	{"shorter protocol name", V5, "10 0D 0003 4D515454 05 02 0000 00 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-1"},
	{"protocol name of MQTT 3.1", V311, "10 0E 0006 4D5149736470 03 02 0000 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-1"},
	{"version 3", V311, "10 0C 0004 4D515454 03 02 0000 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-2"},
	{"version 6", V5, "10 0D 0004 4D515454 06 02 0000 00 0000", UnsupportedProtocolVersion, "MQTT-3.1.2-2"},
	{"empty", V5, "10 00", MalformedPacket, "2.1.4"},
	{"empty", V311, "10 00", MalformedPacket, "2.2.3"},
	{"ends in the connect flags", V5, "10 07" + connect5, MalformedPacket, "2.1.4"},
	{"bytes left", V5, "10 0E" + connect5 + "02 0000 00 0000 00", MalformedPacket, "2.1.4"},
	{"bytes left", V311, "10 0D" + connect311 + "02 0000 0000 00", MalformedPacket, "2.2.3"},
	{"reserved connect flag", V5, "10 0D" + connect5 + "03 0000 00 0000", MalformedPacket, "MQTT-3.1.2-3"},
	{"reserved connect flag", V311, "10 0C" + connect311 + "03 0000 0000", MalformedPacket, "MQTT-3.1.2-3"},
	{"will QoS without will", V5, "10 0D" + connect5 + "0A 0000 00 0000", ProtocolError, "MQTT-3.1.2-11"},
	{"will QoS without will", V311, "10 0C" + connect311 + "0A 0000 0000", ProtocolError, "MQTT-3.1.2-13"},
	{"will retain without will", V5, "10 0D" + connect5 + "22 0000 00 0000", ProtocolError, "MQTT-3.1.2-13"},
	{"will retain without will", V311, "10 0C" + connect311 + "22 0000 0000", ProtocolError, "MQTT-3.1.2-15"},
	{"will QoS 3", V5, "10 13" + connect5 + "1E 0000 00 0000 00 0001 77 0000", MalformedPacket, "MQTT-3.1.2-12"},
	{"will QoS 3", V311, "10 11" + connect311 + "1E 0000 0000 0001 77 0000", MalformedPacket, "MQTT-3.1.2-14"},
	{"password without user name", V311, "10 0E" + connect311 + "42 0000 0000 0000", ProtocolError, "MQTT-3.1.2-22"},
	{"empty client identifier without Clean Session", V311, "10 0C" + connect311 + "00 0000 0000", ClientIdentifierNotValid, "MQTT-3.1.3-8"},
	{"client identifier missing", V5, "10 0B" + connect5 + "02 0000 00", MalformedPacket, "2.1.4"},
	{"user name missing", V5, "10 0D" + connect5 + "82 0000 00 0000", MalformedPacket, "2.1.4"},
	{"password missing", V5, "10 0F" + connect5 + "C2 0000 00 0000 0000", MalformedPacket, "2.1.4"},
	{"will missing", V311, "10 0C" + connect311 + "06 0000 0000", MalformedPacket, "2.2.3"},
	{"bad UTF-8 in the client identifier", V5, "10 0E" + connect5 + "02 0000 00 0001 FF", MalformedPacket, "MQTT-1.5.4-1"},
	{"bad UTF-8 in the client identifier", V311, "10 0D" + connect311 + "02 0000 0001 FF", MalformedPacket, "MQTT-1.5.3-1"},
	{"U+0000 in the client identifier", V5, "10 0E" + connect5 + "02 0000 00 0001 00", MalformedPacket, "MQTT-1.5.4-2"},
	{"U+0000 in the user name", V311, "10 0F" + connect311 + "82 0000 0000 0001 00", MalformedPacket, "MQTT-1.5.3-2"},
	{"bad UTF-8 in the user name", V5, "10 10" + connect5 + "82 0000 00 0000 0001 C0", MalformedPacket, "MQTT-1.5.4-1"},
	{"empty will topic", V5, "10 12" + connect5 + "06 0000 00 0000 00 0000 0000", ProtocolError, "MQTT-4.7.3-1"},
	{"empty will topic", V311, "10 10" + connect311 + "06 0000 0000 0000 0000", ProtocolError, "MQTT-4.7.3-1"},
	{"wildcard in the will topic", V5, "10 13" + connect5 + "06 0000 00 0000 00 0001 2B 0000", TopicNameInvalid, "MQTT-4.7.0-1"},
	{"wildcard in the will topic", V311, "10 11" + connect311 + "06 0000 0000 0001 23 0000", TopicNameInvalid, "MQTT-4.7.1-1"},
	{"surrogate in the will topic", V5, "10 15" + connect5 + "06 0000 00 0000 00 0003 EDA080 0000", MalformedPacket, "MQTT-1.5.4-1"},
	{"Receive Maximum 0", V5, "10 10" + connect5 + "02 0000 03 21 0000 0000", ProtocolError, "3.1.2.11.3"},
	{"Maximum Packet Size 0", V5, "10 12" + connect5 + "02 0000 05 27 00000000 0000", ProtocolError, "3.1.2.11.4"},
	{"Request Response Information 2", V5, "10 0F" + connect5 + "02 0000 02 19 02 0000", ProtocolError, "3.1.2.11.6"},
	{"Request Problem Information 2", V5, "10 0F" + connect5 + "02 0000 02 17 02 0000", ProtocolError, "3.1.2.11.7"},
	{"Authentication Data without method", V5, "10 10" + connect5 + "02 0000 03 16 0000 0000", ProtocolError, "3.1.2.11.10"},
	{"Authentication Data with an empty method", V5, "10 13" + connect5 + "02 0000 06 15 0000 16 0000 0000", ProtocolError, "3.1.2.11.10"},
	{"Payload Format Indicator 2 in the will", V5, "10 15" + connect5 + "06 0000 00 0000 02 01 02 0001 77 0000", ProtocolError, "3.3.2.3.2"},
	{"wildcard in the will's Response Topic", V5, "10 17" + connect5 + "06 0000 00 0000 04 08 0001 23 0001 77 0000", ProtocolError, "MQTT-3.3.2-14"},
	{"property length beyond the packet", V5, "10 0D" + connect5 + "02 0000 7F 0000", MalformedPacket, "2.1.4"},
	{"property length of five bytes", V5, "10 11" + connect5 + "02 0000 8080808000 0000", MalformedPacket, "1.5.5"},
	{"property length not minimal", V5, "10 0E" + connect5 + "02 0000 8000 0000", MalformedPacket, "MQTT-1.5.5-1"},
	{"property cut by the property length", V5, "10 10" + connect5 + "02 0000 02 21 0001 0000", MalformedPacket, "2.1.4"},
	{"unknown property", V5, "10 0F" + connect5 + "02 0000 02 7E 00 0000", MalformedPacket, "2.2.2.2"},
	{"property identifier of two bytes", V5, "10 0F" + connect5 + "02 0000 02 A101 0000", MalformedPacket, "2.2.2.2"},
	{"bad UTF-8 in a user property's name", V5, "10 13" + connect5 + "02 0000 06 26 0001 FF 0000 0000", MalformedPacket, "MQTT-1.5.4-1"},
	{"U+0000 in a user property's value", V5, "10 13" + connect5 + "02 0000 06 26 0000 0001 00 0000", MalformedPacket, "MQTT-1.5.4-2"},
	{"reserved flags", V5, "11 0D" + connect5 + "02 0000 00 0000", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "12 0C" + connect311 + "02 0000 0000", MalformedPacket, "MQTT-2.2.2-2"},
}

var forbiddenConnects = []forbidden{
	{"version 3", 3, &Connect{CleanStart: true}, UnsupportedProtocolVersion, "MQTT-3.1.2-2"},
	{"user name without its flag", V5, &Connect{Username: "u"}, ProtocolError, "MQTT-3.1.2-16"},
	{"user name without its flag", V311, &Connect{ClientID: "c", Username: "u"}, ProtocolError, "MQTT-3.1.2-18"},
	{"password without its flag", V5, &Connect{Password: []byte("p")}, ProtocolError, "MQTT-3.1.2-18"},
	{"password without its flag", V311, &Connect{ClientID: "c", Password: []byte("p")}, ProtocolError, "MQTT-3.1.2-20"},
	{"password without user name", V311, &Connect{ClientID: "c", HasPassword: true}, ProtocolError, "MQTT-3.1.2-22"},
	{"empty client identifier without Clean Session", V311, &Connect{}, ClientIdentifierNotValid, "MQTT-3.1.3-8"},
	{"bad UTF-8", V5, &Connect{ClientID: "\xff"}, MalformedPacket, "MQTT-1.5.4-1"},
	{"bad UTF-8", V311, &Connect{ClientID: "\xff"}, MalformedPacket, "MQTT-1.5.3-1"},
	{"U+0000", V5, &Connect{HasUsername: true, Username: "a\x00b"}, MalformedPacket, "MQTT-1.5.4-2"},
	{"client identifier too long", V5, &Connect{ClientID: strings.Repeat("x", 65536)}, MalformedPacket, "1.5.4"},
	{"client identifier too long", V311, &Connect{ClientID: strings.Repeat("x", 65536)}, MalformedPacket, "1.5.3"},
	{"password too long", V5, &Connect{HasPassword: true, Password: make([]byte, 65536)}, MalformedPacket, "1.5.6"},
	{"will QoS 3", V5, &Connect{Will: &Will{Topic: "w", QoS: 3}}, MalformedPacket, "MQTT-3.1.2-12"},
	{"will QoS 4", V311, &Connect{ClientID: "c", Will: &Will{Topic: "w", QoS: 4}}, MalformedPacket, "MQTT-3.1.2-14"},
	{"empty will topic", V5, &Connect{Will: &Will{}}, ProtocolError, "MQTT-4.7.3-1"},
	{"wildcard in the will topic", V5, &Connect{Will: &Will{Topic: "a/#"}}, TopicNameInvalid, "MQTT-4.7.0-1"},
	{"wildcard in the will topic", V311, &Connect{ClientID: "c", Will: &Will{Topic: "+"}}, TopicNameInvalid, "MQTT-4.7.1-1"},
	{"will payload too long", V5, &Connect{Will: &Will{Topic: "w", Payload: make([]byte, 65536)}}, MalformedPacket, "1.5.6"},
	{"negative will delay", V5, &Connect{Will: &Will{Topic: "w", Properties: WillProperties{WillDelay: -time.Second}}}, MalformedPacket, "3.1.3.2.2"},
	{"will delay too long", V5, &Connect{Will: &Will{Topic: "w", Properties: WillProperties{WillDelay: 1 << 32 * time.Second}}}, MalformedPacket, "3.1.3.2.2"},
	{"will expiry too long", V5, &Connect{Will: &Will{Topic: "w", Properties: WillProperties{MessageExpiry: 1 << 32 * time.Second}}}, MalformedPacket, "3.3.2.3.3"},
	{"wildcard in the will's Response Topic", V5, &Connect{Will: &Will{Topic: "w", Properties: WillProperties{ResponseTopic: "#"}}}, ProtocolError, "MQTT-3.3.2-14"},
	{"Authentication Data without method", V5, &Connect{Properties: ConnectProperties{AuthenticationData: []byte{}}}, ProtocolError, "3.1.2.11.10"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{SessionExpiry: pointer[uint32](0)}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{ReceiveMaximum: 1}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{MaximumPacketSize: 1}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{TopicAliasMaximum: 1}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{RequestProblemInformation: pointer(true)}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{RequestResponseInformation: pointer(true)}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{UserProperties: UserProperties{{"a", "b"}}}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{AuthenticationMethod: "m"}}, MalformedPacket, "2.3"},
	{"property", V311, &Connect{ClientID: "c", Properties: ConnectProperties{AuthenticationData: []byte{}}}, MalformedPacket, "2.3"},
	{"will property", V311, &Connect{ClientID: "c", Will: &Will{Topic: "w", Properties: WillProperties{WillDelay: -1}}}, MalformedPacket, "2.3"},
	{"will property", V311, &Connect{ClientID: "c", Will: &Will{Topic: "w", Properties: WillProperties{UTF8Payload: true}}}, MalformedPacket, "2.3"},
	{"will property", V311, &Connect{ClientID: "c", Will: &Will{Topic: "w", Properties: WillProperties{CorrelationData: []byte{}}}}, MalformedPacket, "2.3"},
}

// [MQTT-2.2.2-1] [MQTT-3.1.2-1] [MQTT-3.1.2-2] [MQTT-3.1.2-3] [MQTT311-3.1.2-1] [MQTT311-3.1.2-2] [MQTT311-3.1.2-3]
func TestConnect(t *testing.T)          { testVectors(t, connectVectors) }
func TestMalformedConnect(t *testing.T) { testMalformed(t, malformedConnects) }

// [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-3.1.2-2] [MQTT-3.1.2-12] [MQTT-3.1.2-16] [MQTT-3.1.2-18] [MQTT-3.3.2-14]
// [MQTT-4.7.0-1] [MQTT-4.7.3-1] [MQTT311-1.5.3-1] [MQTT311-3.1.2-14] [MQTT311-3.1.2-18] [MQTT311-3.1.2-20]
// [MQTT311-3.1.2-22] [MQTT311-3.1.3-8] [MQTT311-4.7.1-1]
func TestForbiddenConnect(t *testing.T) { testForbidden(t, forbiddenConnects) }
func FuzzConnect(f *testing.F)          { fuzzPacket(f, CONNECT, connectVectors, malformedConnects) }

// A server learns the version from the packet: what it was told before does not matter.
func TestConnectFindsVersion(t *testing.T) {
	for _, c := range connectVectors {
		other := V5 + V311 - c.v
		got, err := parse(unhex(t, c.bytes), other)
		if err != nil || got.(*Connect).Version != c.v {
			t.Errorf("%s, decoded as %v: %+v, %v", c.name, other, got, err)
		}
	}
}

// A will delay is rounded up, never down to none.
func TestWillDelay(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		0:                         0,
		1:                         time.Second,
		time.Second:               time.Second,
		time.Second + 1:           2 * time.Second,
		(1<<32 - 1) * time.Second: (1<<32 - 1) * time.Second,
	} {
		p := &Connect{Will: &Will{Topic: "w", Properties: WillProperties{WillDelay: d}}}
		got, err := parse(encode(t, p, V5), V5)
		if err != nil {
			t.Fatal(err)
		}
		if got := got.(*Connect).Will.Properties.WillDelay; got != want {
			t.Errorf("%v became %v, want %v", d, got, want)
		}
	}
}
