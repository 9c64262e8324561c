package codec

import (
	"math"
	"unicode/utf8"
)

// maxText is the length limit of strings and binary data, in bytes, sections 1.5.4 and 1.5.6.
// [MQTT-1.5.6] [MQTT311-1.5.3b]
const maxText = math.MaxUint16

// flaw is what is wrong with a string.
type flaw byte

const (
	sound flaw = iota
	empty
	tooLong
	notUTF8
	hasNull
	hasWildcard
)

// What scan finds in a string.
const (
	markNull     = 0x01
	markWildcard = 0x02
	markNotASCII = 0x80
)

var marks = [256]byte{0: markNull, '+': markWildcard, '#': markWildcard}

// scan returns the marks of all the bytes of s.
func scan[T string | []byte](s T) (found byte) {
	for i := range len(s) {
		found |= marks[s[i]] | s[i]&markNotASCII
	}
	return found
}

// ValidString reports whether s may stand in a packet: well-formed UTF-8 without U+0000, at most 65,535 bytes, section
// 1.5.4.
func ValidString(s string) bool { return textFlaw(s) == sound }

// textFlaw says what keeps s from being a UTF-8 encoded string. Surrogates and overlong forms are not UTF-8.
// [MQTT-1.5.4] [MQTT-1.5.4-3] [MQTT311-1.5.3-3] [MQTT311-1.5.3a]
func textFlaw[T string | []byte](s T) flaw {
	if len(s) > maxText {
		return tooLong
	}
	found := scan(s)
	switch {
	case found&markNull != 0: // [MQTT-1.5.4-2], [MQTT311-1.5.3-2]
		return hasNull
	case found&markNotASCII != 0 && !utf8.Valid([]byte(s)): // [MQTT-1.5.4-1], [MQTT311-1.5.3-1]
		return notUTF8
	}
	return sound
}

// topicFlaw says what keeps s from being a topic name, section 4.7.
func topicFlaw[T string | []byte](s T) flaw {
	if len(s) > 0 && len(s) <= maxText && scan(s) == 0 {
		return sound
	}
	if f := textFlaw(s); f != sound {
		return f
	}
	return nameFlaw(s)
}

// nameFlaw says what keeps a valid string from being a topic name.
func nameFlaw[T string | []byte](s T) flaw {
	switch {
	case len(s) == 0: // [MQTT-4.7.3-1]
		return empty
	case scan(s)&markWildcard != 0: // [MQTT-4.7.0-1], [MQTT311-4.7.1-1]
		return hasWildcard
	}
	return sound
}

// failText keeps the error for a flaw in a string or in binary data that is not sound.
func (l *latch) failText(f flaw) {
	switch f {
	case empty:
		l.fail(ProtocolError, "MQTT-4.7.3-1", "MQTT-4.7.3-1", "empty topic name or topic filter")
	case tooLong:
		l.fail(MalformedPacket, "1.5.4", "1.5.3", "string of more than 65,535 bytes")
	case notUTF8:
		l.fail(MalformedPacket, "MQTT-1.5.4-1", "MQTT-1.5.3-1", "string is not well-formed UTF-8")
	case hasNull:
		l.fail(MalformedPacket, "MQTT-1.5.4-2", "MQTT-1.5.3-2", "U+0000 in a string")
	case hasWildcard:
		l.fail(TopicNameInvalid, "MQTT-4.7.0-1", "MQTT-4.7.1-1", "wildcard in a topic name")
	}
}

// failTopic is failText for the topic name of a PUBLISH, where wildcards have a rule of their own.
func (l *latch) failTopic(f flaw) {
	if f == hasWildcard {
		l.fail(MalformedPacket, "MQTT-3.3.2-2", "MQTT-3.3.2-2", "wildcard in the topic name") // 0x90 is for what is not malformed
		return
	}
	l.failText(f)
}

// failResponseTopic is failText for a Response Topic.
func (l *latch) failResponseTopic(f flaw) {
	if f == hasWildcard {
		l.fail(ProtocolError, "MQTT-3.3.2-14", "", "wildcard in the Response Topic")
		return
	}
	l.failText(f)
}

// CheckTopicName returns nil if topic may stand in a PUBLISH: a valid string, not empty, without wildcards, section 4.7.
// Otherwise the error is an [*Error] with the rule's identifier in MQTT 5.0.
func CheckTopicName(topic string) error {
	f := topicFlaw(topic)
	if f == sound {
		return nil
	}
	l := latch{packet: PUBLISH, v: V5}
	l.failTopic(f)
	return l.err
}
