package mqtt_test

import (
	"strings"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// hostile is something that a server must not send. The name ends with the rules that it breaks, in brackets; the client's
// error names one of them.
type hostile struct {
	name  string
	only  codec.Version // both if 0
	bytes string
	code  mqtt.ReasonCode // of the DISCONNECT that MQTT 5 has for it
	first string          // what the client answers to the packets before the last
}

// split divides the packets before the bad one from it.
func (h *hostile) split() (before, bad string) {
	if h.first == "" {
		return "", h.bytes
	}
	at := 0
	for end := 0; end < len(h.bytes); end += 2 + int(h.bytes[end+1]) {
		at = end
	}
	return h.bytes[:at], h.bytes[at:]
}

const (
	v5, v311  = codec.V5, codec.V311
	malformed = mqtt.MalformedPacket
	illegal   = mqtt.ProtocolError
	badAlias  = mqtt.TopicAliasInvalid
	tooMany   = mqtt.ReceiveMaximumExceeded
	tooLarge  = mqtt.PacketTooLarge
)

// hostileHeaders are headers that no packet may have, with bodies that do not matter.
var hostileHeaders = []hostile{
	{"type 0 [MQTT-2.1.2] [MQTT311-2.2.1]", 0, "\x00\x00", malformed, ""},
	{"type 0, with flags [MQTT-2.1.2] [MQTT311-2.2.1]", 0, "\x0f\x00", malformed, ""},
	{"type 15 [MQTT311-2.2.1]", v311, "\xf0\x00", malformed, ""},
	{"HTTP [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "HTTP/1.1 400 Bad Request\r\n\r\n", malformed, ""},
	{"TLS alert [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x15\x03\x03\x00\x02\x02\x28", malformed, ""},
	{"flags of CONNACK [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x21\x00", malformed, ""},
	{"flags of PUBACK [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x41\x02\x00\x01", malformed, ""},
	{"flags of PUBREC [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x52\x02\x00\x02", malformed, ""},
	{"flags of PUBREL, none [MQTT-3.6.1-1] [MQTT311-3.6.1-1] [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x60\x02\x00\x01", malformed, ""},
	{"flags of PUBREL, too many [MQTT-3.6.1-1] [MQTT311-3.6.1-1] [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x6a\x02\x00\x01", malformed, ""},
	{"flags of PUBCOMP [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x74\x02\x00\x02", malformed, ""},
	{"flags of SUBACK [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\x92\x03\x00\x03\x00", malformed, ""},
	{"flags of UNSUBACK [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\xb2\x02\x00\x04", malformed, ""},
	{"flags of PINGRESP [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\xd1\x00", malformed, ""},
	{"flags of DISCONNECT [MQTT-3.14.1-1] [MQTT-2.1.3-1] [MQTT311-2.2.2-2]", 0, "\xe8\x00", malformed, ""},
	{"flags of AUTH [MQTT-3.15.1-1] [MQTT-2.1.3-1]", v5, "\xf1\x00", malformed, ""},
	{"QoS 3 [MQTT-3.3.1-4] [MQTT311-3.3.1-4]", 0, "\x36\x06\x00\x01t\x00\x01\x00", malformed, ""},
	{"QoS 3 with DUP and RETAIN [MQTT-3.3.1-4] [MQTT311-3.3.1-4]", 0, "\x3f\x06\x00\x01t\x00\x01\x00", malformed, ""},
	{"DUP at QoS 0 [MQTT-3.3.1-2] [MQTT311-3.3.1-2]", 0, "\x38\x04\x00\x01t\x00", malformed, ""},
	{"DUP at QoS 0 with RETAIN [MQTT-3.3.1-2] [MQTT311-3.3.1-2]", 0, "\x39\x04\x00\x01t\x00", malformed, ""},
	{"length of five bytes [1.5.5] [2.2.3]", 0, "\x30\xff\xff\xff\xff\x7f", malformed, ""},
	{"length of four bytes and another [1.5.5] [2.2.3]", 0, "\x30\x80\x80\x80\x80", malformed, ""},
	{"length of two bytes for 0 [MQTT-1.5.5-1] [MQTT311-2.2.3]", 0, "\xd0\x80\x00", malformed, ""},
	{"length of four bytes for 4 [MQTT-1.5.5-1] [MQTT311-2.2.3]", 0, "\x30\x84\x80\x80\x00\x00\x01t\x00", malformed, ""},
	{"larger than Maximum Packet Size, by its header alone [MQTT-3.1.2-24]", v5, "\x30\xff\xff\xff\x7f", tooLarge, ""},
	{"one byte larger than Maximum Packet Size [MQTT-3.1.2-24]", v5, "\x30\xc6\x01", tooLarge, ""},
	{"SUBACK larger than WithMaximumPacketSize [2.2.3]", v311, "\x90\xc6\x01", tooLarge, ""},
}

// hostileTypes are packets that are not for clients, or not after CONNACK.
var hostileTypes = []hostile{
	{"second CONNACK [MQTT-3.2.0-2]", v5, "\x20\x03\x00\x00\x00", illegal, ""},
	{"second CONNACK [MQTT311-3.2]", v311, "\x20\x02\x00\x00", illegal, ""},
	{"CONNACK that refuses [MQTT-3.2.0-2]", v5, "\x20\x03\x00\x87\x00", illegal, ""},
	{"CONNACK that refuses [MQTT311-3.2]", v311, "\x20\x02\x00\x05", illegal, ""},
	{"CONNECT [4.13.1]", v5, "\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00", illegal, ""},
	{"CONNECT [MQTT311-4.8.0-1]", v311, "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", illegal, ""},
	{"SUBSCRIBE [4.13.1]", v5, "\x82\x07\x00\x01\x00\x00\x01t\x00", illegal, ""},
	{"SUBSCRIBE [MQTT311-4.8.0-1]", v311, "\x82\x06\x00\x01\x00\x01t\x00", illegal, ""},
	{"UNSUBSCRIBE [4.13.1]", v5, "\xa2\x06\x00\x01\x00\x00\x01t", illegal, ""},
	{"UNSUBSCRIBE [MQTT311-4.8.0-1]", v311, "\xa2\x05\x00\x01\x00\x01t", illegal, ""},
	{"PINGREQ [4.13.1] [MQTT311-4.8.0-1]", 0, "\xc0\x00", illegal, ""},
	{"DISCONNECT [3.14]", v311, "\xe0\x00", illegal, ""},
	{"AUTH that was not asked for [MQTT-4.12.0-6]", v5, "\xf0\x00", illegal, ""},
	{"AUTH with a method [MQTT-4.12.0-6]", v5, "\xf0\x06\x18\x04\x15\x00\x01m", illegal, ""},
	{"AUTH that re-authenticates [MQTT-4.12.0-6]", v5, "\xf0\x06\x19\x04\x15\x00\x01m", illegal, ""},
}

// hostilePublishes are PUBLISH packets.
var hostilePublishes = []hostile{
	{"empty [2.1.4] [2.2.3]", 0, "\x30\x00", malformed, ""},
	{"half a length [2.1.4] [2.2.3]", 0, "\x30\x01\x00", malformed, ""},
	{"topic beyond the end [2.1.4] [2.2.3]", 0, "\x30\x04\x00\x09tt", malformed, ""},
	{"half an identifier [2.1.4]", v5, "\x32\x04\x00\x01t\x00", malformed, ""},
	{"half an identifier [2.2.3]", v311, "\x32\x04\x00\x01t\x00", malformed, ""},
	{"no identifier at QoS 2 [2.1.4] [2.2.3]", 0, "\x34\x03\x00\x01t", malformed, ""},
	{"identifier 0 at QoS 1 [MQTT-2.2.1-3]", v5, "\x32\x06\x00\x01t\x00\x00\x00", illegal, ""},
	{"identifier 0 at QoS 1 [MQTT311-2.3.1-1]", v311, "\x32\x05\x00\x01t\x00\x00", illegal, ""},
	{"identifier 0 at QoS 2 [MQTT-2.2.1-3]", v5, "\x34\x06\x00\x01t\x00\x00\x00", illegal, ""},
	{"identifier 0 at QoS 2, again [MQTT311-2.3.1-1]", v311, "\x3c\x05\x00\x01t\x00\x00", illegal, ""},
	{"topic with # [MQTT-3.3.2-2]", v5, "\x30\x06\x00\x03a/#\x00", malformed, ""},
	{"topic with # [MQTT311-3.3.2-2]", v311, "\x30\x03\x00\x01#", malformed, ""},
	{"topic with + [MQTT-3.3.2-2]", v5, "\x31\x04\x00\x01+\x00", malformed, ""},
	{"topic with + [MQTT311-3.3.2-2]", v311, "\x32\x07\x00\x03+/a\x00\x07", malformed, ""},
	{"topic with a lone continuation byte [MQTT-1.5.4-1]", v5, "\x30\x04\x00\x01\x80\x00", malformed, ""},
	{"topic with 0xFF [MQTT311-1.5.3-1]", v311, "\x30\x03\x00\x01\xff", malformed, ""},
	{"topic with an overlong form [MQTT-1.5.4-1]", v5, "\x30\x05\x00\x02\xc0\xaf\x00", malformed, ""},
	{"topic with an overlong U+0000 [MQTT311-1.5.3-1]", v311, "\x30\x04\x00\x02\xc0\x80", malformed, ""},
	{"topic with a surrogate [MQTT-1.5.4-1]", v5, "\x30\x06\x00\x03\xed\xbf\xbf\x00", malformed, ""},
	{"topic with a surrogate [MQTT311-1.5.3-1]", v311, "\x30\x05\x00\x03\xed\xa0\x80", malformed, ""},
	{"topic beyond U+10FFFF [MQTT-1.5.4-1]", v5, "\x30\x07\x00\x04\xf4\x90\x80\x80\x00", malformed, ""},
	{"topic that ends inside of a character [MQTT311-1.5.3-1]", v311, "\x30\x04\x00\x02a\xc3", malformed, ""},
	{"topic with U+0000 [MQTT-1.5.4-2]", v5, "\x30\x06\x00\x03a\x00b\x00", malformed, ""},
	{"topic with U+0000 [MQTT311-1.5.3-2]", v311, "\x30\x05\x00\x03ab\x00", malformed, ""},
	{"no topic [MQTT311-4.7.3-1]", v311, "\x30\x02\x00\x00", illegal, ""},

	// What follows is of MQTT 5: the properties.
	{"no topic and no alias [MQTT-4.7.3-1]", v5, "\x30\x03\x00\x00\x00", illegal, ""},
	{"no topic, no alias, but a property [MQTT-4.7.3-1]", v5, "\x30\x05\x00\x00\x02\x01\x00", illegal, ""},
	{"no properties [2.1.4]", v5, "\x30\x03\x00\x01t", malformed, ""},
	{"properties beyond the end [2.1.4]", v5, "\x30\x05\x00\x01t\x02\x01", malformed, ""},
	{"property cut off [2.1.4]", v5, "\x30\x06\x00\x01t\x02\x02\x00", malformed, ""},
	{"string beyond the properties [2.1.4]", v5, "\x30\x08\x00\x01t\x03\x03\x00\x01a", malformed, ""},
	{"property length not minimal [MQTT-1.5.5-1]", v5, "\x30\x05\x00\x01t\x80\x00", malformed, ""},
	{"property length of five bytes [1.5.5]", v5, "\x30\x08\x00\x01t\x80\x80\x80\x80\x00", malformed, ""},
	{"property of CONNACK [MQTT-2.2.2.2a]", v5, "\x30\x06\x00\x01t\x02\x25\x01", malformed, ""},
	{"Reason String [MQTT-2.2.2.2a]", v5, "\x30\x08\x00\x01t\x04\x1f\x00\x01a", malformed, ""},
	{"Will Delay Interval [MQTT-2.2.2.2a]", v5, "\x30\x09\x00\x01t\x05\x18\x00\x00\x00\x00", malformed, ""},
	{"unknown property 0x7F [MQTT-2.2.2.2a]", v5, "\x30\x06\x00\x01t\x02\x7f\x01", malformed, ""},
	{"unknown property 0x00 [MQTT-2.2.2.2a]", v5, "\x30\x06\x00\x01t\x02\x00\x01", malformed, ""},
	{"property identifier of two bytes [MQTT-2.2.2.2a]", v5, "\x30\x07\x00\x01t\x03\x81\x00\x01", malformed, ""},
	{"Payload Format Indicator twice [MQTT-2.2.2.2b] [3.3.2.3.2]", v5, "\x30\x08\x00\x01t\x04\x01\x01\x01\x01", illegal, ""},
	{"Message Expiry Interval twice [MQTT-2.2.2.2b] [3.3.2.3.3]", v5, "\x30\x0e\x00\x01t\x0a\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", illegal, ""},
	{"Content Type twice [MQTT-2.2.2.2b] [3.3.2.3.9]", v5, "\x30\x0a\x00\x01t\x06\x03\x00\x00\x03\x00\x00", illegal, ""},
	{"Response Topic twice [MQTT-2.2.2.2b] [3.3.2.3.5]", v5, "\x30\x0c\x00\x01t\x08\x08\x00\x01r\x08\x00\x01r", illegal, ""},
	{"Correlation Data twice [MQTT-2.2.2.2b] [3.3.2.3.6]", v5, "\x30\x0a\x00\x01t\x06\x09\x00\x00\x09\x00\x00", illegal, ""},
	{"Topic Alias twice [MQTT-2.2.2.2b] [3.3.2.3.4]", v5, "\x30\x0a\x00\x01t\x06\x23\x00\x01\x23\x00\x01", illegal, ""},
	{"Topic Alias above our maximum [MQTT-3.1.2-26]", v5, "\x30\x07\x00\x01t\x03\x23\x00\x21", badAlias, ""},
	{"Topic Alias above our maximum, alone [MQTT-3.1.2-26]", v5, "\x30\x06\x00\x00\x03\x23\xff\xff", badAlias, ""},
	{"Topic Alias that stands for nothing [MQTT-4.7.3-1] [MQTT-3.3.4]", v5, "\x30\x06\x00\x00\x03\x23\x00\x01", illegal, ""},
	{"Topic Alias 0, alone [MQTT-3.3.2-8]", v5, "\x30\x06\x00\x00\x03\x23\x00\x00", badAlias, ""},
	{"Topic Alias 0 [MQTT-3.3.2-8]", v5, "\x30\x07\x00\x01t\x03\x23\x00\x00", badAlias, ""},
	{"Subscription Identifier 0 [MQTT-3.3.2.3.8]", v5, "\x30\x06\x00\x01t\x02\x0b\x00", illegal, ""},
	{"Subscription Identifier 0 behind another [MQTT-3.3.2.3.8]", v5, "\x30\x08\x00\x01t\x04\x0b\x01\x0b\x00", illegal, ""},
	{"Subscription Identifier of five bytes [1.5.5]", v5, "\x30\x0a\x00\x01t\x06\x0b\x80\x80\x80\x80\x01", malformed, ""},
	{"Response Topic not UTF-8 [MQTT-1.5.4-1] [MQTT-3.3.2-13]", v5, "\x30\x08\x00\x01t\x04\x08\x00\x01\xff", malformed, ""},
	{"Content Type not UTF-8 [MQTT-1.5.4-1] [MQTT-3.3.2-19]", v5, "\x30\x08\x00\x01t\x04\x03\x00\x01\xff", malformed, ""},
	{"user property's name not UTF-8 [MQTT-1.5.4-1] [MQTT-1.5.7-1]", v5, "\x30\x0a\x00\x01t\x06\x26\x00\x01\xff\x00\x00", malformed, ""},
	{"user property's value with U+0000 [MQTT-1.5.4-2] [MQTT-1.5.7-1]", v5, "\x30\x0b\x00\x01t\x07\x26\x00\x00\x00\x02a\x00", malformed, ""},
	{"more than our Receive Maximum [MQTT-3.3.4-9]", v5, "\x34\x06\x00\x01t\x00\x07\x00" + "\x34\x06\x00\x01t\x00\x08\x00" + "\x34\x06\x00\x01t\x00\x09\x00",
		tooMany, "\x50\x02\x00\x07" + "\x50\x02\x00\x08"},
	{"more than our Receive Maximum, at QoS 1 [MQTT-3.3.4-9]", v5, "\x34\x06\x00\x01t\x00\x07\x00" + "\x34\x06\x00\x01t\x00\x08\x00" + "\x32\x06\x00\x01t\x00\x09\x00",
		tooMany, "\x50\x02\x00\x07" + "\x50\x02\x00\x08"},
}

// hostileAcks are answers to the PUBLISHes with the identifiers 1, at QoS 1, and 2, at QoS 2, and to nothing.
var hostileAcks = []hostile{
	{"PUBACK, empty [2.1.4] [2.2.3]", 0, "\x40\x00", malformed, ""},
	{"PUBACK, one byte [2.1.4] [2.2.3]", 0, "\x40\x01\x00", malformed, ""},
	{"PUBREC, empty [2.1.4] [2.2.3]", 0, "\x50\x00", malformed, ""},
	{"PUBREL, one byte [2.1.4] [2.2.3]", 0, "\x62\x01\x02", malformed, ""},
	{"PUBCOMP, one byte [2.1.4] [2.2.3]", 0, "\x70\x01\x02", malformed, ""},
	{"PUBACK, too long [2.2.3]", v311, "\x40\x03\x00\x01\x00", malformed, ""},
	{"PUBREC, too long [2.2.3]", v311, "\x50\x03\x00\x02\x00", malformed, ""},
	{"PUBREL, too long [2.2.3]", v311, "\x62\x03\x00\x02\x00", malformed, ""},
	{"PUBCOMP, too long [2.2.3]", v311, "\x70\x04\x00\x02\x00\x00", malformed, ""},
	{"PUBACK, too long [2.1.4]", v5, "\x40\x05\x00\x01\x00\x00\x00", malformed, ""},
	{"PUBREC, too long [2.1.4]", v5, "\x50\x05\x00\x02\x00\x00\x00", malformed, ""},
	{"PUBREL, too long [2.1.4]", v5, "\x62\x05\x00\x02\x00\x00\x00", malformed, ""},
	{"PUBCOMP, too long [2.1.4]", v5, "\x70\x05\x00\x02\x00\x00\x00", malformed, ""},
	{"PUBACK, identifier 0 [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x40\x02\x00\x00", illegal, ""},
	{"PUBREC, identifier 0 [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x50\x02\x00\x00", illegal, ""},
	{"PUBREL, identifier 0 [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x62\x02\x00\x00", illegal, ""},
	{"PUBCOMP, identifier 0 [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x70\x02\x00\x00", illegal, ""},
	{"PUBACK to QoS 2 [MQTT-2.2.1-5]", v5, "\x40\x02\x00\x02", illegal, ""},
	{"PUBACK to QoS 2 that was released [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x50\x02\x00\x02" + "\x40\x02\x00\x02", illegal, "\x62\x02\x00\x02"},
	{"PUBACK to SUBSCRIBE [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x40\x02\x00\x03", illegal, ""},
	{"PUBREC to QoS 1 [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x50\x02\x00\x01", illegal, ""},
	{"PUBREC to QoS 1, refusing [MQTT-2.2.1-5]", v5, "\x50\x03\x00\x01\x80", illegal, ""},
	{"PUBREC to UNSUBSCRIBE [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x50\x02\x00\x04", illegal, ""},
	{"PUBCOMP to QoS 1 [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x70\x02\x00\x01", illegal, ""},
	{"PUBCOMP before PUBREL [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x70\x02\x00\x02", illegal, ""},
	{"PUBCOMP to SUBSCRIBE [MQTT-2.2.1-5] [MQTT311-2.3.1-6]", 0, "\x70\x02\x00\x03", illegal, ""},

	// What follows is of MQTT 5: reason codes and properties.
	{"PUBREL, code of PUBACK [MQTT-3.6.2-1]", v5, "\x62\x03\x00\x02\x80", illegal, ""},
	{"PUBCOMP, code of PUBREC [MQTT-3.7.2-1]", v5, "\x50\x02\x00\x02" + "\x70\x03\x00\x02\x10", illegal, "\x62\x02\x00\x02"},
	{"PUBACK, properties beyond the end [2.1.4]", v5, "\x40\x05\x00\x01\x00\x02\x1f", malformed, ""},
	{"PUBACK, Reason String twice [MQTT-2.2.2.2b] [3.2.2.3.9]", v5, "\x40\x0a\x00\x01\x00\x06\x1f\x00\x00\x1f\x00\x00", illegal, ""},
	{"PUBACK, Reason String not UTF-8 [MQTT-1.5.4-1]", v5, "\x40\x08\x00\x01\x00\x04\x1f\x00\x01\xff", malformed, ""},
	{"PUBREC, user property with U+0000 [MQTT-1.5.4-2]", v5, "\x50\x0a\x00\x02\x00\x06\x26\x00\x01\x00\x00\x00", malformed, ""},
	{"PUBREL, property of PUBLISH [MQTT-2.2.2.2a]", v5, "\x62\x06\x00\x02\x00\x02\x01\x01", malformed, ""},
	{"PUBCOMP, unknown property [MQTT-2.2.2.2a]", v5, "\x70\x06\x00\x02\x00\x02\x7e\x01", malformed, ""},
	{"PUBCOMP, Reason String twice [MQTT-2.2.2.2b] [3.2.2.3.9]", v5, "\x70\x0a\x00\x02\x00\x06\x1f\x00\x00\x1f\x00\x00", illegal, ""},
}

// hostileAnswers are answers to the SUBSCRIBE with identifier 3 and the UNSUBSCRIBE with identifier 4, of one filter each,
// to a PINGREQ that was not sent, and DISCONNECTs.
var hostileAnswers = []hostile{
	{"SUBACK, empty [2.1.4] [2.2.3]", 0, "\x90\x00", malformed, ""},
	{"SUBACK, identifier 0 [MQTT-2.2.1-6]", v5, "\x90\x04\x00\x00\x00\x00", illegal, ""},
	{"SUBACK, identifier 0 [MQTT311-2.3.1-7]", v311, "\x90\x03\x00\x00\x00", illegal, ""},
	{"SUBACK, no codes [MQTT-3.9.3-1]", v5, "\x90\x03\x00\x03\x00", illegal, ""},
	{"SUBACK, no codes [MQTT311-3.9.3-1]", v311, "\x90\x02\x00\x03", illegal, ""},
	{"SUBACK, a code too many [MQTT-3.8.4-6] [MQTT-3.9.3-1]", v5, "\x90\x05\x00\x03\x00\x00\x00", illegal, ""},
	{"SUBACK, a code too many [MQTT311-3.8.4-5] [MQTT311-3.9.3-1]", v311, "\x90\x04\x00\x03\x00\x00", illegal, ""},
	{"SUBACK, code 3 [MQTT-3.9.3-2]", v5, "\x90\x04\x00\x03\x00\x03", illegal, ""},
	{"SUBACK, code 3 [MQTT311-3.9.3-2]", v311, "\x90\x03\x00\x03\x03", illegal, ""},
	{"SUBACK, code of UNSUBACK [MQTT-3.9.3-2]", v5, "\x90\x04\x00\x03\x00\x11", illegal, ""},
	{"SUBACK, no properties [2.1.4]", v5, "\x90\x02\x00\x03", malformed, ""},
	{"SUBACK, properties beyond the end [2.1.4]", v5, "\x90\x04\x00\x03\x02\x00", malformed, ""},
	{"SUBACK, Subscription Identifier [MQTT-2.2.2.2a]", v5, "\x90\x06\x00\x03\x02\x0b\x01\x00", malformed, ""},
	{"SUBACK, Reason String twice [MQTT-2.2.2.2b] [3.2.2.3.9]", v5, "\x90\x0a\x00\x03\x06\x1f\x00\x00\x1f\x00\x00\x00", illegal, ""},
	{"SUBACK to UNSUBSCRIBE [MQTT-2.2.1-6]", v5, "\x90\x04\x00\x04\x00\x00", illegal, ""},
	{"SUBACK to UNSUBSCRIBE [MQTT311-2.3.1-7]", v311, "\x90\x03\x00\x04\x00", illegal, ""},
	{"SUBACK to PUBLISH [MQTT-2.2.1-6]", v5, "\x90\x04\x00\x01\x00\x00", illegal, ""},
	{"SUBACK to PUBLISH [MQTT311-2.3.1-7]", v311, "\x90\x03\x00\x02\x00", illegal, ""},
	{"UNSUBACK, empty [2.1.4] [2.2.3]", 0, "\xb0\x00", malformed, ""},
	{"UNSUBACK, identifier 0 [MQTT-2.2.1-6]", v5, "\xb0\x04\x00\x00\x00\x00", illegal, ""},
	{"UNSUBACK, identifier 0 [MQTT311-2.3.1-7]", v311, "\xb0\x02\x00\x00", illegal, ""},
	{"UNSUBACK, no codes [MQTT-3.11.3-1]", v5, "\xb0\x03\x00\x04\x00", illegal, ""},
	{"UNSUBACK, a code too many [MQTT-3.11.3-1]", v5, "\xb0\x05\x00\x04\x00\x00\x00", illegal, ""},
	{"UNSUBACK, code of SUBACK [MQTT-3.11.3-2]", v5, "\xb0\x04\x00\x04\x00\x01", illegal, ""},
	{"UNSUBACK with a payload [MQTT311-3.11.3]", v311, "\xb0\x03\x00\x04\x00", malformed, ""},
	{"UNSUBACK, unknown property [MQTT-2.2.2.2a]", v5, "\xb0\x06\x00\x04\x02\x04\x00\x00", malformed, ""},
	{"UNSUBACK to SUBSCRIBE [MQTT-2.2.1-6]", v5, "\xb0\x04\x00\x03\x00\x00", illegal, ""},
	{"UNSUBACK to SUBSCRIBE [MQTT311-2.3.1-7]", v311, "\xb0\x02\x00\x03", illegal, ""},
	{"UNSUBACK to PUBLISH [MQTT-2.2.1-6]", v5, "\xb0\x04\x00\x02\x00\x00", illegal, ""},
	{"UNSUBACK to PUBLISH [MQTT311-2.3.1-7]", v311, "\xb0\x02\x00\x01", illegal, ""},
	{"PINGRESP with a body [2.1.4] [2.2.3]", 0, "\xd0\x01\x00", malformed, ""},

	{"DISCONNECT, unknown code [MQTT-3.14.2-1]", v5, "\xe0\x01\x05", illegal, ""},
	{"DISCONNECT, code of CONNACK [MQTT-3.14.2-1]", v5, "\xe0\x01\x85", illegal, ""},
	{"DISCONNECT, Session Expiry Interval [MQTT-3.14.2-2]", v5, "\xe0\x07\x00\x05\x11\x00\x00\x00\x01", illegal, ""},
	{"DISCONNECT, too long [2.1.4]", v5, "\xe0\x03\x00\x00\x00", malformed, ""},
	{"DISCONNECT, properties beyond the end [2.1.4]", v5, "\xe0\x03\x00\x02\x1f", malformed, ""},
	{"DISCONNECT, property of CONNACK [MQTT-2.2.2.2a]", v5, "\xe0\x04\x8b\x02\x25\x01", malformed, ""},
	{"DISCONNECT, Server Reference twice [MQTT-2.2.2.2b] [3.2.2.3.16]", v5, "\xe0\x0a\x9c\x08\x1c\x00\x01a\x1c\x00\x01b", illegal, ""},
	{"DISCONNECT, Reason String not UTF-8 [MQTT-1.5.4-1]", v5, "\xe0\x06\x8b\x04\x1f\x00\x01\xff", malformed, ""},
}

// hostileConnacks come where CONNACK should, to a client that asks for a clean start.
var hostileConnacks = []hostile{
	{"PUBLISH first [MQTT-3.2.0-1]", v5, "\x30\x04\x00\x01t\x00", illegal, ""},
	{"PUBLISH first [MQTT311-3.2.0-1]", v311, "\x30\x03\x00\x01t", illegal, ""},
	{"PUBACK first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\x40\x02\x00\x01", illegal, ""},
	{"PUBREC first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\x50\x02\x00\x01", illegal, ""},
	{"PUBREL first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\x62\x02\x00\x01", illegal, ""},
	{"PUBCOMP first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\x70\x02\x00\x01", illegal, ""},
	{"SUBACK first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\x90\x04\x00\x01\x00\x00", illegal, ""},
	{"UNSUBACK first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\xb0\x02\x00\x01", illegal, ""},
	{"PINGRESP first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\xd0\x00", illegal, ""},
	{"PINGREQ first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\xc0\x00", illegal, ""},
	{"DISCONNECT first [MQTT-3.14.0-1] [MQTT-3.2.0-1]", v5, "\xe0\x01\x87", illegal, ""},
	{"DISCONNECT first [MQTT311-3.2.0-1]", v311, "\xe0\x00", illegal, ""},
	{"CONNECT first [MQTT-3.2.0-1] [MQTT311-3.2.0-1]", 0, "\x10\x00", illegal, ""},
	{"AUTH first [MQTT-4.12.0-6] [MQTT-3.2.0-1]", v5, "\xf0\x00", illegal, ""},
	{"empty [2.1.4] [2.2.3]", 0, "\x20\x00", malformed, ""},
	{"one byte [2.1.4] [2.2.3]", 0, "\x20\x01\x00", malformed, ""},
	{"no properties [2.1.4]", v5, "\x20\x02\x00\x00", malformed, ""},
	{"properties beyond the end [2.1.4]", v5, "\x20\x04\x00\x00\x02\x25", malformed, ""},
	{"too long [2.1.4]", v5, "\x20\x04\x00\x00\x00\x00", malformed, ""},
	{"too long [2.2.3]", v311, "\x20\x03\x00\x00\x00", malformed, ""},
	{"reserved acknowledge flag 1 [MQTT-3.2.2-1]", v5, "\x20\x03\x02\x00\x00", malformed, ""},
	{"reserved acknowledge flags, all [MQTT-3.2.2-1]", v5, "\x20\x03\xfe\x00\x00", malformed, ""},
	{"reserved acknowledge flag 7 [MQTT311-3.2.2.1]", v311, "\x20\x02\x80\x00", malformed, ""},
	{"session present after a clean start [MQTT-3.2.2-2]", v5, "\x20\x03\x01\x00\x00", illegal, ""},
	{"session present after a clean session [MQTT311-3.2.2-1]", v311, "\x20\x02\x01\x00", illegal, ""},
	{"refusal with session present [MQTT-3.2.2-6]", v5, "\x20\x03\x01\x87\x00", illegal, ""},
	{"refusal with session present [MQTT311-3.2.2-4]", v311, "\x20\x02\x01\x05", illegal, ""},
	{"code 0x01 [MQTT-3.2.2-8]", v5, "\x20\x03\x00\x01\x00", illegal, ""},
	{"code 0x8E, of DISCONNECT alone [MQTT-3.2.2-8]", v5, "\x20\x03\x00\x8e\x00", illegal, ""},
	{"code 0xFF [MQTT-3.2.2-8]", v5, "\x20\x03\x00\xff\x00", illegal, ""},
	{"return code 6 [MQTT311-3.2.2-6]", v311, "\x20\x02\x00\x06", illegal, ""},
	{"return code 0x87 [MQTT311-3.2.2-6]", v311, "\x20\x02\x00\x87", illegal, ""},
	{"Receive Maximum 0 [3.2.2.3.3]", v5, "\x20\x06\x00\x00\x03\x21\x00\x00", illegal, ""},
	{"Maximum QoS 2 [3.2.2.3.4]", v5, "\x20\x05\x00\x00\x02\x24\x02", illegal, ""},
	{"Retain Available 2 [3.2.2.3.5]", v5, "\x20\x05\x00\x00\x02\x25\x02", illegal, ""},
	{"Wildcard Subscription Available 2 [3.2.2.3.11]", v5, "\x20\x05\x00\x00\x02\x28\x02", illegal, ""},
	{"Subscription Identifiers Available 0xFF [3.2.2.3.12]", v5, "\x20\x05\x00\x00\x02\x29\xff", illegal, ""},
	{"Shared Subscription Available 2 [3.2.2.3.13]", v5, "\x20\x05\x00\x00\x02\x2a\x02", illegal, ""},
	{"Maximum Packet Size 0 [3.2.2.3.6]", v5, "\x20\x08\x00\x00\x05\x27\x00\x00\x00\x00", illegal, ""},
	{"Retain Available twice [MQTT-2.2.2.2b] [3.2.2.3.5]", v5, "\x20\x07\x00\x00\x04\x25\x01\x25\x01", illegal, ""},
	{"Session Expiry Interval twice [MQTT-2.2.2.2b] [3.1.2.11.2]", v5, "\x20\x0d\x00\x00\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01", illegal, ""},
	{"Server Keep Alive twice [MQTT-2.2.2.2b] [3.2.2.3.14]", v5, "\x20\x09\x00\x00\x06\x13\x00\x01\x13\x00\x01", illegal, ""},
	{"Topic Alias, of PUBLISH [MQTT-2.2.2.2a]", v5, "\x20\x06\x00\x00\x03\x23\x00\x01", malformed, ""},
	{"Request Problem Information, of CONNECT [MQTT-2.2.2.2a]", v5, "\x20\x05\x00\x00\x02\x17\x01", malformed, ""},
	{"unknown property [MQTT-2.2.2.2a]", v5, "\x20\x05\x00\x00\x02\x7f\x01", malformed, ""},
	{"Reason String not UTF-8 [MQTT-1.5.4-1]", v5, "\x20\x07\x00\x00\x04\x1f\x00\x01\xff", malformed, ""},
	{"Assigned Client Identifier with U+0000 [MQTT-1.5.4-2]", v5, "\x20\x07\x00\x00\x04\x12\x00\x01\x00", malformed, ""},
	{"Server Reference with a surrogate [MQTT-1.5.4-1]", v5, "\x20\x09\x00\x9c\x06\x1c\x00\x03\xed\xa0\x80", malformed, ""},
	{"method that was not asked for [MQTT-4.12.0-6]", v5, "\x20\x07\x00\x00\x04\x15\x00\x01m", illegal, ""},
	{"data without a method [3.2.2.3.18]", v5, "\x20\x07\x00\x00\x04\x16\x00\x01m", illegal, ""},
	{"larger than Maximum Packet Size [MQTT-3.1.2-24]", v5, "\x20\xc6\x01\x00\x00", tooLarge, ""},
}

// breaks reports whether the name says that the packet breaks the rule of version v. Statements of MQTT 3.1.1 are written
// [MQTT311-1.5.3-1], those that have no number by their section, and several of one section with a letter.
func (h *hostile) breaks(rule string, v codec.Version) bool {
	prefix := "[MQTT-"
	if v == v311 {
		prefix = "[MQTT311-"
	}
	rule = strings.TrimPrefix(rule, "MQTT-")
	for _, ending := range []string{"]", "a]", "b]", "c]"} {
		if strings.Contains(h.name, prefix+rule+ending) {
			return true
		}
	}
	return strings.Contains(h.name, "["+rule+"]")
}
