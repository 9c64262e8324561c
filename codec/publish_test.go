package codec

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var publishVectors = []vector{
	{
		name: "[MQTT-2.2.1-2] QoS 0 has no packet identifier", v: V5,
		bytes: "30 08" + // PUBLISH, QoS 0, Remaining Length 8
			"0003 612F62" + // topic name
			"00" + // property length
			"6869", // payload
		packet: &Publish{Topic: "a/b", Payload: []byte("hi")},
	},
	{
		name: "[MQTT311-2.3.1-5] QoS 0 has no packet identifier", v: V311,
		bytes:  "30 07 0003 612F62 6869",
		packet: &Publish{Topic: "a/b", Payload: []byte("hi")},
	},
	{
		name: "QoS 1, retained", v: V5,
		bytes: "33 08" +
			"0001 61" +
			"1234" + // packet identifier
			"00" +
			"0000",
		packet: &Publish{QoS: 1, Retain: true, Topic: "a", PacketID: 0x1234, Payload: []byte{0, 0}},
	},
	{
		name: "QoS 2, repeated, empty payload", v: V5,
		bytes:  "3C 06 0001 61 FFFF 00",
		packet: &Publish{Dup: true, QoS: 2, Topic: "a", PacketID: 65535, Payload: []byte{}},
	},
	{
		name: "QoS 2, repeated, empty payload", v: V311,
		bytes:  "3C 05 0001 61 0001",
		packet: &Publish{Dup: true, QoS: 2, Topic: "a", PacketID: 1, Payload: []byte{}},
	},
	{
		name: "all properties", v: V5,
		bytes: "30 32" +
			"0001 61" +
			"2D" +
			"23 FFFF" + // Topic Alias
			"0B 01" + // Subscription Identifier
			"0B FFFFFF7F" + // Subscription Identifier
			"01 01" + // Payload Format Indicator
			"02 00000E10" + // Message Expiry Interval
			"03 0002 6374" + // Content Type
			"08 0002 7274" + // Response Topic
			"09 0002 00FF" + // Correlation Data
			"26 0001 62 0001 31" + // User Property
			"26 0001 61 0000" + // User Property
			"21", // payload
		packet: &Publish{
			Topic: "a", TopicAlias: 65535, SubscriptionIdentifiers: []uint32{1, 268435455}, Payload: []byte("!"),
			Properties: PublishProperties{
				UTF8Payload: true, MessageExpiry: time.Hour, ContentType: "ct", ResponseTopic: "rt", CorrelationData: []byte{0, 0xFF},
				UserProperties: UserProperties{{"b", "1"}, {"a", ""}},
			},
		},
	},
	{
		name: "3.3.2.3.4 topic alias instead of a topic name", v: V5,
		bytes:  "30 06 0000 03 23 0001",
		packet: &Publish{TopicAlias: 1, Payload: []byte{}},
	},
	{
		name: "[MQTT-1.5.4-3] the byte order mark is a character", v: V5,
		bytes:  "30 07 0004 EFBBBF61 00",
		packet: &Publish{Topic: "\ufeffa", Payload: []byte{}},
	},
	{
		name: "1.5.4 control characters and non-characters are tolerated", v: V5,
		bytes:  "30 07 0004 01 EFBFBF 00",
		packet: &Publish{Topic: "\x01\uffff", Payload: []byte{}},
	},
	{
		name: "1.5.3 the largest character", v: V311,
		bytes:  "30 06 0004 F48FBFBF",
		packet: &Publish{Topic: "\U0010ffff", Payload: []byte{}},
	},
	{
		name: "3.3.2.3.3 expired", v: V5,
		bytes:  "30 09 0001 61 05 02 00000000",
		packet: &Publish{Topic: "a", Payload: []byte{}, Properties: PublishProperties{MessageExpiry: 1}},
	},
	{
		name: "3.3.2.3.3 longest expiry", v: V5,
		bytes:  "30 09 0001 61 05 02 FFFFFFFF",
		packet: &Publish{Topic: "a", Payload: []byte{}, Properties: PublishProperties{MessageExpiry: (1<<32 - 1) * time.Second}},
	},
	{
		name: "empty Correlation Data is present", v: V5,
		bytes:  "30 07 0001 61 03 09 0000",
		packet: &Publish{Topic: "a", Payload: []byte{}, Properties: PublishProperties{CorrelationData: []byte{}}},
	},
	{
		name: "Payload Format Indicator 0 and an empty Content Type are the default", v: V5,
		bytes:  "30 09 0001 61 05 01 00 03 0000",
		packet: &Publish{Topic: "a", Payload: []byte{}}, longer: true,
	},
}

var malformedPublishes = []malformed{
	{"QoS 3", V5, "36 06 0001 61 0001 00", MalformedPacket, "MQTT-3.3.1-4"},
	{"QoS 3", V311, "36 05 0001 61 0001", MalformedPacket, "MQTT-3.3.1-4"},
	{"DUP at QoS 0", V5, "38 04 0001 61 00", MalformedPacket, "MQTT-3.3.1-2"},
	{"DUP at QoS 0", V311, "39 03 0001 61", MalformedPacket, "MQTT-3.3.1-2"},
	{"packet identifier 0", V5, "32 06 0001 61 0000 00", ProtocolError, "MQTT-2.2.1-3"},
	{"packet identifier 0", V311, "34 05 0001 61 0000", ProtocolError, "MQTT-2.3.1-1"},
	{"empty", V5, "30 00", MalformedPacket, "2.1.4"},
	{"empty", V311, "30 00", MalformedPacket, "2.2.3"},
	{"one byte", V5, "30 01 00", MalformedPacket, "2.1.4"},
	{"topic name longer than the packet", V5, "30 04 0002 61 00", MalformedPacket, "2.1.4"},
	{"topic name longer than the packet", V311, "30 03 0002 61", MalformedPacket, "2.2.3"},
	{"half a packet identifier", V5, "32 04 0001 61 00", MalformedPacket, "2.1.4"},
	{"half a packet identifier", V311, "32 04 0001 61 01", MalformedPacket, "2.2.3"},
	{"property length missing", V5, "30 03 0001 61", MalformedPacket, "2.1.4"},
	{"property length missing", V5, "32 05 0001 61 0001", MalformedPacket, "2.1.4"},
	{"property length beyond the packet", V5, "30 05 0001 61 02 01", MalformedPacket, "2.1.4"},
	{"property length not minimal", V5, "30 05 0001 61 8000", MalformedPacket, "MQTT-1.5.5-1"},
	{"property length of five bytes", V5, "30 08 0001 61 8080808001", MalformedPacket, "1.5.5"},
	{"property length cut", V5, "30 04 0001 61 80", MalformedPacket, "2.1.4"},
	{"# in the topic name", V5, "30 06 0003 612F23 00", MalformedPacket, "MQTT-3.3.2-2"},
	{"+ in the topic name", V311, "30 05 0003 2B2F61", MalformedPacket, "MQTT-3.3.2-2"},
	{"empty topic name", V5, "30 03 0000 00", ProtocolError, "3.3.2.1"},
	{"empty topic name, properties without an alias", V5, "30 05 0000 02 01 01", ProtocolError, "3.3.2.1"},
	{"empty topic name", V311, "30 02 0000", ProtocolError, "MQTT-4.7.3-1"},
	{"truncated character", V5, "30 05 0002 61C3 00", MalformedPacket, "MQTT-1.5.4-1"},
	{"lone continuation", V5, "30 04 0001 80 00", MalformedPacket, "MQTT-1.5.4-1"},
	{"overlong slash", V5, "30 05 0002 C0AF 00", MalformedPacket, "MQTT-1.5.4-1"},
	{"overlong U+0000", V311, "30 04 0002 C080", MalformedPacket, "MQTT-1.5.3-1"},
	{"first surrogate", V5, "30 06 0003 EDA080 00", MalformedPacket, "MQTT-1.5.4-1"},
	{"last surrogate", V311, "30 05 0003 EDBFBF", MalformedPacket, "MQTT-1.5.3-1"},
	{"beyond U+10FFFF", V5, "30 07 0004 F4908080 00", MalformedPacket, "MQTT-1.5.4-1"},
	{"U+0000 at the start", V5, "30 05 0002 0061 00", MalformedPacket, "MQTT-1.5.4-2"},
	{"U+0000 in the middle", V5, "30 06 0003 610062 00", MalformedPacket, "MQTT-1.5.4-2"},
	{"U+0000 at the end", V311, "30 04 0002 6100", MalformedPacket, "MQTT-1.5.3-2"},
	{"Topic Alias 0", V5, "30 07 0001 61 03 23 0000", TopicAliasInvalid, "MQTT-3.3.2-8"},
	{"Topic Alias 0 without topic name", V5, "30 06 0000 03 23 0000", TopicAliasInvalid, "MQTT-3.3.2-8"},
	{"Topic Alias twice", V5, "30 0A 0001 61 06 23 0001 23 0001", ProtocolError, "3.3.2.3.4"},
	{"Subscription Identifier 0", V5, "30 06 0001 61 02 0B 00", ProtocolError, "3.3.2.3.8"},
	{"Subscription Identifier not minimal", V5, "30 07 0001 61 03 0B 8100", MalformedPacket, "MQTT-1.5.5-1"},
	{"Subscription Identifier of five bytes", V5, "30 0A 0001 61 06 0B 8080808001", MalformedPacket, "1.5.5"},
	{"Payload Format Indicator 2", V5, "30 06 0001 61 02 01 02", ProtocolError, "3.3.2.3.2"},
	{"Message Expiry Interval cut", V5, "30 08 0001 61 04 02 000000", MalformedPacket, "2.1.4"},
	{"# in the Response Topic", V5, "30 08 0001 61 04 08 0001 23", ProtocolError, "MQTT-3.3.2-14"},
	{"empty Response Topic", V5, "30 07 0001 61 03 08 0000", ProtocolError, "MQTT-4.7.3-1"},
	{"bad UTF-8 in the Response Topic", V5, "30 08 0001 61 04 08 0001 FF", MalformedPacket, "MQTT-1.5.4-1"},
	{"bad UTF-8 in the Content Type", V5, "30 08 0001 61 04 03 0001 FF", MalformedPacket, "MQTT-1.5.4-1"},
	{"Correlation Data beyond the property length", V5, "30 0A 0001 61 04 09 0003 61 6262", MalformedPacket, "2.1.4"},
	{"property of a CONNECT", V5, "30 09 0001 61 05 11 00000000", MalformedPacket, "2.2.2.2"},
	{"property identifier 0", V5, "30 06 0001 61 02 00 00", MalformedPacket, "2.2.2.2"},
}

var forbiddenPublishes = []forbidden{
	{"QoS 3", V5, &Publish{Topic: "a", QoS: 3, PacketID: 1}, MalformedPacket, "MQTT-3.3.1-4"},
	{"DUP at QoS 0", V5, &Publish{Topic: "a", Dup: true}, MalformedPacket, "MQTT-3.3.1-2"},
	{"packet identifier at QoS 0", V5, &Publish{Topic: "a", PacketID: 1}, ProtocolError, "MQTT-2.2.1-2"},
	{"packet identifier at QoS 0", V311, &Publish{Topic: "a", PacketID: 1}, ProtocolError, "MQTT-2.3.1-5"},
	{"packet identifier 0", V5, &Publish{Topic: "a", QoS: 1}, ProtocolError, "MQTT-2.2.1-3"},
	{"packet identifier 0", V311, &Publish{Topic: "a", QoS: 2}, ProtocolError, "MQTT-2.3.1-1"},
	{"empty topic name", V5, &Publish{}, ProtocolError, "3.3.2.1"},
	{"empty topic name", V311, &Publish{}, ProtocolError, "MQTT-4.7.3-1"},
	{"topic name too long", V5, &Publish{Topic: strings.Repeat("x", 65536)}, MalformedPacket, "1.5.4"},
	{"topic name too long", V311, &Publish{Topic: strings.Repeat("x", 65536)}, MalformedPacket, "1.5.3"},
	{"Topic Alias", V311, &Publish{Topic: "a", TopicAlias: 1}, MalformedPacket, "2.3"},
	{"Topic Alias and no topic name", V311, &Publish{TopicAlias: 1}, MalformedPacket, "2.3"},
	{"Subscription Identifier", V311, &Publish{Topic: "a", SubscriptionIdentifiers: []uint32{1}}, MalformedPacket, "2.3"},
	{"Payload Format Indicator", V311, &Publish{Topic: "a", Properties: PublishProperties{UTF8Payload: true}}, MalformedPacket, "2.3"},
	{"Message Expiry Interval", V311, &Publish{Topic: "a", Properties: PublishProperties{MessageExpiry: -1}}, MalformedPacket, "2.3"},
	{"Content Type", V311, &Publish{Topic: "a", Properties: PublishProperties{ContentType: "t"}}, MalformedPacket, "2.3"},
	{"Response Topic", V311, &Publish{Topic: "a", Properties: PublishProperties{ResponseTopic: "t"}}, MalformedPacket, "2.3"},
	{"Correlation Data", V311, &Publish{Topic: "a", Properties: PublishProperties{CorrelationData: []byte{}}}, MalformedPacket, "2.3"},
	{"User Property", V311, &Publish{Topic: "a", Properties: PublishProperties{UserProperties: UserProperties{{}}}}, MalformedPacket, "2.3"},
	{"Subscription Identifier 0", V5, &Publish{Topic: "a", SubscriptionIdentifiers: []uint32{1, 0}}, ProtocolError, "3.3.2.3.8"},
	{"Subscription Identifier too large", V5, &Publish{Topic: "a", SubscriptionIdentifiers: []uint32{268435456}}, ProtocolError, "3.3.2.3.8"},
	{"Message Expiry Interval too long", V5, &Publish{Topic: "a", Properties: PublishProperties{MessageExpiry: (1<<32-1)*time.Second + 1}}, MalformedPacket, "3.3.2.3.3"},
	{"wildcard in the Response Topic", V5, &Publish{Topic: "a", Properties: PublishProperties{ResponseTopic: "a/+"}}, ProtocolError, "MQTT-3.3.2-14"},
	{"U+0000 in the Response Topic", V5, &Publish{Topic: "a", Properties: PublishProperties{ResponseTopic: "\x00"}}, MalformedPacket, "MQTT-1.5.4-2"},
	{"bad UTF-8 in the Content Type", V5, &Publish{Topic: "a", Properties: PublishProperties{ContentType: "\x80"}}, MalformedPacket, "MQTT-1.5.4-1"},
	{"bad UTF-8 in a User Property", V5, &Publish{Topic: "a", Properties: PublishProperties{UserProperties: UserProperties{{"a", "\xff"}}}}, MalformedPacket, "MQTT-1.5.4-1"},
	{"Correlation Data too long", V5, &Publish{Topic: "a", Properties: PublishProperties{CorrelationData: make([]byte, 65536)}}, MalformedPacket, "1.5.6"},
	{"longer than the Remaining Length can say", V5, &Publish{Topic: "a", Payload: make([]byte, MaxRemainingLength-3)}, PacketTooLarge, "2.1.4"},
	{"longer than the Remaining Length can say", V311, &Publish{Topic: "a", Payload: make([]byte, MaxRemainingLength-2)}, PacketTooLarge, "2.2.3"},
}

// [MQTT-2.2.2-1] [MQTT-3.3.2-1] [MQTT311-3.3.2-1]
func TestPublish(t *testing.T) { testVectors(t, publishVectors) }

// [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-1.5.5-1] [MQTT-2.2.1-3] [MQTT-3.3.1-2] [MQTT-3.3.1-4] [MQTT-3.3.2-2]
// [MQTT-3.3.2-8] [MQTT-3.3.2-14] [MQTT-4.7.3-1] [MQTT311-1.5.3-1] [MQTT311-1.5.3-2] [MQTT311-2.3.1-1]
// [MQTT311-3.3.1-2] [MQTT311-3.3.1-4] [MQTT311-3.3.2-2] [MQTT311-4.7.3-1]
func TestMalformedPublish(t *testing.T) { testMalformed(t, malformedPublishes) }

// [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-2.2.1-2] [MQTT-2.2.1-3] [MQTT-3.3.1-2] [MQTT-3.3.1-4] [MQTT-3.3.2-14]
// [MQTT311-2.3.1-1] [MQTT311-2.3.1-5] [MQTT311-4.7.3-1] [MQTT-3.3.2.1]
func TestForbiddenPublish(t *testing.T) { testForbidden(t, forbiddenPublishes) }
func FuzzPublish(f *testing.F)          { fuzzPacket(f, PUBLISH, publishVectors, malformedPublishes) }

// The Remaining Length takes one byte more at each of these sizes.
func TestPublishSize(t *testing.T) {
	for _, v := range []Version{V5, V311} {
		for _, n := range []int{0, 1, 100, 122, 123, 124, 125, 126, 16378, 16379, 16380, 16381, 2097146, 2097147, 2097148, 2097149} {
			p := &Publish{Topic: "a", Payload: make([]byte, n)}
			b := encode(t, p, v)
			if got := p.Size(v); got != len(b) {
				t.Errorf("%v, payload of %d bytes: Size %d, and %d bytes", v, n, got, len(b))
			}
			got, err := parse(b, v)
			if err != nil || !bytes.Equal(got.(*Publish).Payload, p.Payload) {
				t.Errorf("%v, payload of %d bytes: %v", v, n, err)
			}
		}
	}
}

// The property length takes one byte more at each of these sizes, and with it the packet.
func TestPublishPropertyLength(t *testing.T) {
	for _, n := range []int{0, 1, 123, 124, 125, 126, 16379, 16380, 16381, 16382} {
		p := &Publish{Topic: "a", Payload: []byte("p"), Properties: PublishProperties{CorrelationData: make([]byte, n)}}
		b := encode(t, p, V5)
		if got := p.Size(V5); got != len(b) {
			t.Errorf("property block of %d bytes: Size %d, and %d bytes", 3+n, got, len(b))
		}
		got, err := parse(b, V5)
		if err != nil || !bytes.Equal(got.(*Publish).Properties.CorrelationData, p.Properties.CorrelationData) {
			t.Errorf("property block of %d bytes: %v", 3+n, err)
		}
	}
}

func TestMessageExpiry(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		0:                         0,
		-time.Hour:                1,
		1:                         1,
		time.Millisecond - 1:      1,
		time.Millisecond:          time.Second,
		time.Second:               time.Second,
		time.Second + 1:           2 * time.Second,
		(1<<32 - 1) * time.Second: (1<<32 - 1) * time.Second,
	} {
		p := &Publish{Topic: "a", Properties: PublishProperties{MessageExpiry: d}}
		got, err := parse(encode(t, p, V5), V5)
		if err != nil {
			t.Fatal(err)
		}
		if got := got.(*Publish).Properties.MessageExpiry; got != want {
			t.Errorf("%v became %v, want %v", d, got, want)
		}
	}
}

// Strings are copies, byte slices are not.
func TestPublishAliases(t *testing.T) {
	b := unhex(t, "30 11 0001 61 0C 03 0001 62 09 0001 63 08 0001 64 65")
	h, body := split(t, b, V5)
	var p Publish
	if err := p.Decode(h, body, V5); err != nil {
		t.Fatal(err)
	}
	for i := range body {
		body[i] = 'x'
	}
	want := Publish{Topic: "a", Payload: []byte("x"), Properties: PublishProperties{ContentType: "b", ResponseTopic: "d", CorrelationData: []byte("x")}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	if cap(p.Properties.CorrelationData) != 1 {
		t.Error("appending to the Correlation Data would write to the body")
	}
}

func TestCheckTopicName(t *testing.T) {
	for topic, rule := range map[string]string{
		"a":                         "",
		"/":                         "",
		"$SYS/ä/日本":                 "",
		strings.Repeat("x", 65535):  "",
		"":                          "MQTT-4.7.3-1",
		"+":                         "MQTT-3.3.2-2",
		"a/#":                       "MQTT-3.3.2-2",
		"ä/#":                       "MQTT-3.3.2-2",
		"\x00":                      "MQTT-1.5.4-2",
		"#\x00":                     "MQTT-1.5.4-2",
		"\xff":                      "MQTT-1.5.4-1",
		strings.Repeat("x", 65536):  "1.5.4",
		strings.Repeat("x#", 32768): "1.5.4",
	} {
		err := CheckTopicName(topic)
		if rule == "" {
			if err != nil {
				t.Errorf("%.20q: %v", topic, err)
			}
			continue
		}
		if e, ok := err.(*Error); !ok || e.Rule != rule || e.Packet != PUBLISH {
			t.Errorf("%.20q: %v, want [%s]", topic, err, rule)
		}
	}
}

// The parts of a view, put together by a reader as it should, are what Decode says.
func FuzzPublishView(f *testing.F) {
	add := func(b []byte, v Version) {
		if h, n, err := ParseHeader(b, v); err == nil && n > 0 {
			f.Add(h.Flags, b[n:], v == V5)
		}
	}
	for _, c := range publishVectors {
		add(unhex(f, c.bytes), c.v)
	}
	for _, c := range malformedPublishes {
		add(unhex(f, c.bytes), c.v)
	}
	f.Fuzz(func(t *testing.T, flags byte, body []byte, v5 bool) {
		v := V311
		if v5 {
			v = V5
		}
		h := Header{PUBLISH, flags & 0x0F, len(body)}
		var want Publish
		wantErr := want.Decode(h, body, v)
		got, err := viewPublish(h, body, v)
		checkError(t, err)
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
			t.Fatalf("view: %v; Decode: %v", err, wantErr)
		}
		if err == nil && !cmp.Equal(&want, got) {
			t.Fatalf("view (+) and Decode (-) differ:\n%s", cmp.Diff(&want, got))
		}
	})
}

func viewPublish(h Header, body []byte, v Version) (*Publish, error) {
	var view PublishView
	if err := view.Split(h, body, v); err != nil {
		return nil, err
	}
	if err := view.CheckTopic(); err != nil {
		return nil, err
	}
	p := &Publish{Dup: view.Dup, QoS: view.QoS, Retain: view.Retain, PacketID: view.PacketID, Topic: string(view.Topic), Payload: view.Payload}
	var err error
	if p.TopicAlias, p.SubscriptionIdentifiers, err = DecodePublishProperties(view.Properties, &p.Properties, nil); err != nil {
		return nil, err
	}
	if p.Topic == "" && p.TopicAlias == 0 {
		return nil, topicMissing(v)
	}
	return p, nil
}

// A body that is longer or shorter than the header says is refused, whatever it holds.
func TestSplitLength(t *testing.T) {
	body := []byte("\x00\x01a\x00")
	var view PublishView
	for _, n := range []int{0, 3, 5, MaxRemainingLength} {
		wantError(t, view.Split(Header{PUBLISH, 0, n}, body, V5), PUBLISH, MalformedPacket, "2.1.4")
	}
	wantError(t, view.Split(Header{PUBACK, 0, 4}, body, V5), PUBLISH, MalformedPacket, "2.1.2")
	if err := view.Split(Header{PUBLISH, 0, 4}, body, V5); err != nil || !bytes.Equal(view.Topic, []byte("a")) {
		t.Errorf("%v, %+v", err, view)
	}
}

// What servers hand on unchecked is read as absent, and all the rest as ever.
func TestDecodeRelayedProperties(t *testing.T) {
	for _, c := range []struct {
		name, block, strict string // strict is the rule that DecodePublishProperties names
	}{
		{"Payload Format Indicator 2", "0102 030001 63", "3.3.2.3.2"},
		{"Payload Format Indicator 255", "030001 63 01FF", "3.3.2.3.2"},
		{"wildcard in the Response Topic", "08 0001 23 03 0001 63", "MQTT-3.3.2-14"},
		{"empty Response Topic", "03 0001 63 08 0000", "MQTT-4.7.3-1"},
	} {
		block := unhex(t, c.block)
		var p PublishProperties
		if _, _, err := DecodeRelayedProperties(block, &p, nil); err != nil || !cmp.Equal(p, PublishProperties{ContentType: "c"}) {
			t.Errorf("%s: %+v, %v", c.name, p, err)
		}
		_, _, err := DecodePublishProperties(block, &p, nil)
		if e, ok := err.(*Error); !ok || e.Rule != c.strict {
			t.Errorf("%s: strictly %v", c.name, err)
		}
	}
	for _, block := range []string{"0101 0102", "08 0001 23 08 0001 23", "08 0001 FF", "08 0001 00", "1A 0000", "24 02"} {
		var p PublishProperties
		if _, _, err := DecodeRelayedProperties(unhex(t, block), &p, nil); err == nil {
			t.Errorf("%s is accepted", block)
		}
	}
}

// AppendPlainPublish is Append for those who are in a hurry.
func TestAppendPlainPublish(t *testing.T) {
	topics := []string{"", "a", strings.Repeat("t", maxText), strings.Repeat("t", maxText+1)}
	payloads := [][]byte{nil, []byte("payload"), make([]byte, 200), make([]byte, MaxRemainingLength)}
	for _, v := range []Version{V311, V5} {
		for _, topic := range topics {
			for _, payload := range payloads {
				for flags := range byte(16) {
					for _, id := range []uint16{0, 0x1234} {
						p := &Publish{Dup: flags&8 != 0, QoS: flags >> 1 & 3, Retain: flags&1 != 0, Topic: topic, PacketID: id, Payload: payload}
						if len(payload) > 1000 && (len(topic) > 1 || flags > 0 || id > 0) {
							continue // once is enough
						}
						want, wantErr := p.Append([]byte("before"), v)
						got, err := AppendPlainPublish([]byte("before"), flags, topic, id, payload, v)
						if !bytes.Equal(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
							t.Errorf("%v, flags %x, topic of %d bytes, identifier %d, payload of %d: %d bytes, %v, want %d, %v",
								v, flags, len(topic), id, len(payload), len(got), err, len(want), wantErr)
						}
						if wantErr == nil && PublishFlags(p.Dup, p.QoS, p.Retain) != flags {
							t.Errorf("flags %x are %x", flags, PublishFlags(p.Dup, p.QoS, p.Retain))
						}
					}
				}
			}
		}
	}
}
