package codec

import (
	"strings"
	"testing"
)

// Strings of sections 1.5.4 and, in MQTT 3.1.1, 1.5.3.
func TestValidString(t *testing.T) {
	for _, c := range []struct {
		name string
		s    string
		want bool
	}{
		{"empty", "", true},
		{"ASCII", "abc/+#", true},
		{"[MQTT-1.5.4-3] byte order mark", "\ufeff", true},
		{"1.5.4 control characters", "\x01\x1f\x7f\u0080\u009f", true},
		{"1.5.4 non-characters", "\ufffe\uffff\U0001ffff", true},
		{"before the surrogates", "\ud7ff", true},
		{"behind the surrogates", "\ue000", true},
		{"largest character", "\U0010ffff", true},
		{"65,535 bytes", strings.Repeat("x", 65535), true},
		{"1.5.4 65,536 bytes", strings.Repeat("x", 65536), false},
		{"65,535 bytes that are not ASCII", strings.Repeat("日", 21845), true},
		{"65,538 bytes that are not ASCII", strings.Repeat("日", 21846), false},
		{"[MQTT-1.5.4-2] U+0000", "\x00", false},
		{"[MQTT-1.5.4-2] U+0000 behind others", "äb\x00", false},
		{"[MQTT-1.5.4-1] lone continuation", "a\x80", false},
		{"[MQTT-1.5.4-1] truncated", "\xe6\x97", false},
		{"[MQTT-1.5.4-1] overlong U+0000", "\xc0\x80", false},
		{"[MQTT-1.5.4-1] overlong slash", "\xe0\x80\xaf", false},
		{"[MQTT-1.5.4-1] first surrogate", "\xed\xa0\x80", false},
		{"[MQTT-1.5.4-1] last surrogate", "\xed\xbf\xbf", false},
		{"[MQTT-1.5.4-1] surrogate pair", "\xed\xa0\xbd\xed\xb8\x80", false},
		{"[MQTT-1.5.4-1] beyond U+10FFFF", "\xf4\x90\x80\x80", false},
		{"[MQTT-1.5.4-1] five bytes", "\xf8\x88\x80\x80\x80", false},
		{"[MQTT-1.5.4-1] FE", "\xfe", false},
		{"[MQTT-1.5.4-1] FF", "\xff", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ValidString(c.s); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
			if got := textFlaw([]byte(c.s)) == sound; got != c.want {
				t.Errorf("as bytes: %v, want %v", got, c.want)
			}
		})
	}
}
