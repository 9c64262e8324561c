// Package topic checks topic names and topic filters, matches one against the other, and finds subscriptions by a topic
// name (Index) and topic names by a filter (Names).
//
// Comparison is byte for byte: no normalisation, no case folding, and empty levels count [MQTT-4.7.3-4].
package topic

import (
	"strings"
	"unicode/utf8"
)

// maxLength is how many bytes a topic name or topic filter may have [MQTT-4.7.3-3].
const maxLength = 65535

// sharePrefix begins the topic filter of a shared subscription (MQTT 5.0 section 4.8.2).
const sharePrefix = "$share/"

// Error is a rule that a topic name or topic filter breaks.
type Error struct {
	Rule string // the statement in MQTT 5.0, such as "MQTT-4.7.1-1"
	Text string // what the rule asks
}

func (e *Error) Error() string { return e.Text + " [" + e.Rule + "]" }

var (
	errEmpty       = &Error{"MQTT-4.7.3-1", "must have at least one character"}
	errLength      = &Error{"MQTT-4.7.3-3", "must not be longer than 65,535 bytes"}
	errNull        = &Error{"MQTT-4.7.3-2", "must not contain U+0000"}
	errUTF8        = &Error{"MQTT-1.5.4-1", "must be well-formed UTF-8"}
	errWildcard    = &Error{"MQTT-4.7.0-1", "a topic name must not contain + or #"}
	errMultiLevel  = &Error{"MQTT-4.7.1-1", "# must be a level of its own, and the last one"}
	errSingleLevel = &Error{"MQTT-4.7.1-2", "+ must be a level of its own"}
	errShareEmpty  = &Error{"MQTT-4.8.2-1", "$share/ must be followed by a share name"}
	errShareName   = &Error{"MQTT-4.8.2-2", "a share name must not contain + or #"}
	errShareFilter = &Error{"MQTT-4.8.2-2", "a share name must be followed by / and a topic filter"}
)

// CheckName says which rule name breaks as a topic name: nil or a *Error. It does not allocate.
func CheckName(name string) error {
	if len(name) > 0 && len(name) <= maxLength && plain(name) {
		return nil
	}
	if err := checkString(name); err != nil {
		return err
	}
	if wild(name) {
		return errWildcard // also [MQTT-3.3.2-2]
	}
	return nil
}

// CheckFilter says which rule filter breaks as a topic filter, shared or not: nil or a *Error. It does not allocate.
// [MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT311-3.8.3-1] [MQTT311-3.10.3-1]
func CheckFilter(filter string) error {
	if err := checkString(filter); err != nil {
		return err
	}
	share, shared := strings.CutPrefix(filter, sharePrefix)
	if !shared {
		return checkWildcards(filter)
	}
	name, inner, _ := strings.Cut(share, "/")
	switch {
	case name == "":
		return errShareEmpty
	case wild(name):
		return errShareName
	case inner == "":
		return errShareFilter
	}
	return checkWildcards(inner)
}

// checkString checks what names and filters have in common.
// [MQTT311-4.7.3-1] [MQTT311-4.7.3-2] [MQTT311-4.7.3-3]
func checkString(s string) error {
	switch {
	case s == "":
		return errEmpty
	case len(s) > maxLength:
		return errLength
	case !utf8.ValidString(s):
		return errUTF8
	case strings.IndexByte(s, 0) >= 0:
		return errNull // also [MQTT-1.5.4-2]
	}
	return nil
}

func wild(s string) bool {
	return strings.IndexByte(s, '+') >= 0 || strings.IndexByte(s, '#') >= 0
}

// [MQTT311-4.7.1-2] [MQTT311-4.7.1-3]
func checkWildcards(filter string) error {
	for {
		level, rest, more := strings.Cut(filter, "/")
		if strings.Contains(level, "#") && (level != "#" || more) {
			return errMultiLevel
		}
		if strings.Contains(level, "+") && level != "+" {
			return errSingleLevel
		}
		if !more {
			return nil
		}
		filter = rest
	}
}

// Shared reports whether filter is that of a shared subscription.
func Shared(filter string) bool {
	return strings.HasPrefix(filter, sharePrefix)
}

// Inner returns the filter that the topic names of arriving messages match: a valid filter without $share/{name}/, and
// then without the first of prefixes that it begins with. The prefixes are those by which some servers mark a special
// subscription, such as "$queue/" and "$exclusive/".
func Inner(filter string, prefixes []string) string {
	if share, shared := strings.CutPrefix(filter, sharePrefix); shared {
		_, filter, _ = strings.Cut(share, "/")
	}
	for _, p := range prefixes {
		if inner, found := strings.CutPrefix(filter, p); found && inner != "" {
			return inner
		}
	}
	return filter
}

// Match reports whether the topic name matches the topic filter. Both must be valid, and filter an inner one. It takes
// time in proportion to their lengths and does not allocate.
// [MQTT-3.3.2-3] [MQTT-4.7.3-4] [MQTT311-3.3.2-3] [MQTT311-4.7.3-4] [MQTT311-4.7.2-1]
func Match(filter, name string) bool {
	if strings.HasPrefix(name, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false // [MQTT-4.7.2-1]
	}
	n := 0 // bytes of name that are matched
	for f := range len(filter) {
		switch c := filter[f]; {
		case c == '#':
			return true
		case c == '+':
			for n < len(name) && name[n] != '/' {
				n++
			}
		case n < len(name) && name[n] == c:
			n++
		default:
			return n == len(name) && filter[f:] == "/#" // a/# matches a as well
		}
	}
	return n == len(name)
}
