package codec

import "testing"

var pingreqVectors = []vector{
	{name: "3.12", v: V5, bytes: "C0 00", packet: &Pingreq{}},
	{name: "3.12", v: V311, bytes: "C0 00", packet: &Pingreq{}},
}

var malformedPingreqs = []malformed{
	{"body", V5, "C0 01 00", MalformedPacket, "2.1.4"},
	{"body", V311, "C0 02 0000", MalformedPacket, "2.2.3"},
	{"reserved flags", V5, "C1 00", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "C8 00", MalformedPacket, "MQTT-2.2.2-2"},
}

var pingrespVectors = []vector{
	{name: "3.13", v: V5, bytes: "D0 00", packet: &Pingresp{}},
	{name: "3.13", v: V311, bytes: "D0 00", packet: &Pingresp{}},
}

var malformedPingresps = []malformed{
	{"body", V5, "D0 01 00", MalformedPacket, "2.1.4"},
	{"body", V311, "D0 01 00", MalformedPacket, "2.2.3"},
	{"reserved flags", V5, "D2 00", MalformedPacket, "MQTT-2.1.3-1"},
	{"reserved flags", V311, "D4 00", MalformedPacket, "MQTT-2.2.2-2"},
}

func TestPingreq(t *testing.T)          { testVectors(t, pingreqVectors) }
func TestMalformedPingreq(t *testing.T) { testMalformed(t, malformedPingreqs) }
func FuzzPingreq(f *testing.F)          { fuzzPacket(f, PINGREQ, pingreqVectors, malformedPingreqs) }
func TestPingresp(t *testing.T)         { testVectors(t, pingrespVectors) }

// [MQTT-2.1.3-1] [MQTT311-2.2.2-2]
func TestMalformedPingresp(t *testing.T) { testMalformed(t, malformedPingresps) }
func FuzzPingresp(f *testing.F)          { fuzzPacket(f, PINGRESP, pingrespVectors, malformedPingresps) }
