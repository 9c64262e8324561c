package topic

const (
	ones  = 0x0101010101010101 // 1 in each byte of a word
	highs = 0x8080808080808080 // the highest bit of each byte
)

// plain reports whether s has only bytes that may stand anywhere in a topic name: ASCII except U+0000, + and #. It
// reads eight bytes at a time, because it runs for every message that is published.
func plain(s string) bool {
	if len(s) < 8 {
		w := uint64('a' * ones)
		for i := range len(s) {
			w = w<<8 | uint64(s[i])
		}
		return !special(w)
	}
	if special(word(s[len(s)-8:])) {
		return false
	}
	for ; len(s) > 8; s = s[8:] {
		if special(word(s)) {
			return false
		}
	}
	return true
}

// word returns the first eight bytes of s. The compiler makes one load of it.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// special reports whether a byte of w is 0, + or #, or not ASCII. Where all bytes are ASCII, subtracting 1 from each
// sets a highest bit only if one of them was 0. A bit tells + from #, so that setting it makes them equal.
func special(w uint64) bool {
	wild := (w | ('+'^'#')*ones) ^ '+'*ones // a byte is 0 where w has + or #
	return (w|(w-ones)|(wild-ones))&highs != 0
}
