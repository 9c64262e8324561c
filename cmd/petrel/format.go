package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/petrel-mqtt/mqtt"
)

// outputFlags say how messages are written.
type outputFlags struct {
	verbose, json, noNewline bool
	format                   string
}

// formatter appends a message that arrived at a time, as it is to be written.
type formatter func(dst []byte, m mqtt.Message, at time.Time) []byte

const formatHelp = `Formats (-F): %t topic, %p payload, %x and %X payload in hexadecimal, %l its length, %q QoS, %r retain (0 or 1),
%d duplicate, %I time of arrival (ISO 8601), %U as Unix time with nanoseconds, %j and %J all as JSON with the payload as
text and as JSON, %C content type, %R response topic, %D correlation data, %E message expiry in seconds, %F 1 if the
payload is said to be text, %P user properties, %S subscription identifiers, %% a percent sign; and \n, \r, \t, \0, \\.`

func (o *outputFlags) group() *group {
	g := newGroup("Output")
	g.BoolVarP(&o.verbose, "verbose", "v", false, "write the topic before the payload")
	g.BoolVar(&o.json, "json", false, "write a JSON object per line; payloads that are no text in base64")
	g.StringVarP(&o.format, "format", "F", "", "write messages in this `FORMAT`, see above")
	g.BoolVarP(&o.noNewline, "no-newline", "N", false, "write no newline after a message")
	return g
}

// formatter returns the one that the flags ask for. For a terminal it makes control characters harmless.
func (o *outputFlags) formatter(terminal bool) (formatter, error) {
	var f formatter
	n := 0
	if o.json {
		n++
		f = func(dst []byte, m mqtt.Message, at time.Time) []byte { return appendJSON(dst, m, at, false) }
	}
	if o.format != "" {
		n++
		parts, err := parseFormat(o.format, terminal)
		if err != nil {
			return nil, err
		}
		f = func(dst []byte, m mqtt.Message, at time.Time) []byte {
			for _, part := range parts {
				dst = part(dst, m, at)
			}
			return dst
		}
	}
	if o.verbose {
		n++
		f = verbose
		if terminal {
			f = coloured
		}
	}
	switch n {
	case 0:
		f = payload
		if terminal {
			f = harmless(payload)
		}
	case 1:
	default:
		return nil, usagef("give one of --verbose, --json and --format")
	}
	if o.noNewline {
		return f, nil
	}
	return func(dst []byte, m mqtt.Message, at time.Time) []byte { return append(f(dst, m, at), '\n') }, nil
}

func payload(dst []byte, m mqtt.Message, _ time.Time) []byte { return append(dst, m.Payload...) }

func verbose(dst []byte, m mqtt.Message, _ time.Time) []byte {
	return append(append(append(dst, m.Topic...), ' '), m.Payload...)
}

// coloured is verbose for a terminal.
func coloured(dst []byte, m mqtt.Message, _ time.Time) []byte {
	dst = append(dst, "\x1b[36m"...)
	dst = appendHarmless(dst, []byte(m.Topic))
	dst = append(dst, "\x1b[0m "...)
	return appendHarmless(dst, m.Payload)
}

// harmless writes control characters but newlines and tabs, and what is no UTF-8, as \xNN: a message must not be able to
// play with the terminal.
func harmless(f formatter) formatter {
	return func(dst []byte, m mqtt.Message, at time.Time) []byte { return appendHarmless(dst, f(nil, m, at)) }
}

func appendHarmless(dst, text []byte) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1, r != '\n' && r != '\t' && unicode.IsControl(r):
			for _, b := range text[:n] {
				dst = fmt.Appendf(dst, `\x%02x`, b)
			}
		default:
			dst = append(dst, text[:n]...)
		}
		text = text[n:]
	}
	return dst
}

// object is a message as JSON has it. Binary data that is no UTF-8 is in the fields that end in _base64.
type object struct {
	Time            string         `json:"time"`
	Topic           string         `json:"topic"`
	QoS             mqtt.QoS       `json:"qos"`
	Retain          bool           `json:"retain"`
	Duplicate       bool           `json:"duplicate,omitempty"`
	Payload         any            `json:"payload,omitempty"`
	PayloadBase64   *string        `json:"payload_base64,omitempty"`
	UTF8            bool           `json:"utf8,omitempty"`
	Expiry          float64        `json:"message_expiry,omitempty"` // seconds
	ContentType     string         `json:"content_type,omitempty"`
	ResponseTopic   string         `json:"response_topic,omitempty"`
	Correlation     any            `json:"correlation_data,omitempty"`
	CorrelationB64  *string        `json:"correlation_data_base64,omitempty"`
	UserProperties  []jsonProperty `json:"user_properties,omitempty"` // in their order, repeats kept
	SubscriptionIDs []uint32       `json:"subscription_identifiers,omitempty"`
}

type jsonProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// textOrBase64 returns one of the two.
func textOrBase64(b []byte) (text any, encoded *string) {
	if utf8.Valid(b) {
		return string(b), nil
	}
	e := base64.StdEncoding.EncodeToString(b)
	return nil, &e
}

// appendJSON appends a message as an object. With raw, a payload that is JSON is not made a string.
func appendJSON(dst []byte, m mqtt.Message, at time.Time, raw bool) []byte {
	o := object{
		Time: at.Format(time.RFC3339Nano), Topic: m.Topic, QoS: m.QoS, Retain: m.Retain, Duplicate: m.Duplicate,
		UTF8: m.Properties.UTF8Payload, Expiry: m.Properties.MessageExpiry.Seconds(), ContentType: m.Properties.ContentType,
		ResponseTopic: m.Properties.ResponseTopic, SubscriptionIDs: m.SubscriptionIdentifiers(),
	}
	o.Payload, o.PayloadBase64 = textOrBase64(m.Payload)
	if raw && json.Valid(m.Payload) {
		o.Payload = json.RawMessage(m.Payload)
	}
	if m.Properties.CorrelationData != nil {
		o.Correlation, o.CorrelationB64 = textOrBase64(m.Properties.CorrelationData)
	}
	for _, u := range m.Properties.UserProperties {
		o.UserProperties = append(o.UserProperties, jsonProperty{u.Key, u.Value})
	}
	return appendObject(dst, o)
}

// appendObject appends v as JSON on one line. v can always be encoded.
func appendObject(dst []byte, v any) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v)
	return append(dst, strings.TrimSuffix(b.String(), "\n")...)
}

// fieldsOf are what a letter after a percent sign stands for.
var fieldsOf = map[rune]formatter{
	'%': func(dst []byte, _ mqtt.Message, _ time.Time) []byte { return append(dst, '%') },
	't': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return append(dst, m.Topic...) },
	'p': payload,
	'x': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return hex.AppendEncode(dst, m.Payload) },
	'X': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return fmt.Appendf(dst, "%X", m.Payload) },
	'l': func(dst []byte, m mqtt.Message, _ time.Time) []byte {
		return strconv.AppendInt(dst, int64(len(m.Payload)), 10)
	},
	'q': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return strconv.AppendInt(dst, int64(m.QoS), 10) },
	'r': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return appendBit(dst, m.Retain) },
	'd': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return appendBit(dst, m.Duplicate) },
	'I': func(dst []byte, _ mqtt.Message, at time.Time) []byte {
		return at.AppendFormat(dst, "2006-01-02T15:04:05-0700")
	},
	'U': func(dst []byte, _ mqtt.Message, at time.Time) []byte {
		return fmt.Appendf(dst, "%d.%09d", at.Unix(), at.Nanosecond())
	},
	'j': func(dst []byte, m mqtt.Message, at time.Time) []byte { return appendJSON(dst, m, at, false) },
	'J': func(dst []byte, m mqtt.Message, at time.Time) []byte { return appendJSON(dst, m, at, true) },
	'C': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return append(dst, m.Properties.ContentType...) },
	'R': func(dst []byte, m mqtt.Message, _ time.Time) []byte {
		return append(dst, m.Properties.ResponseTopic...)
	},
	'D': func(dst []byte, m mqtt.Message, _ time.Time) []byte {
		return append(dst, m.Properties.CorrelationData...)
	},
	'E': func(dst []byte, m mqtt.Message, _ time.Time) []byte {
		if m.Properties.MessageExpiry == 0 {
			return dst
		}
		return strconv.AppendFloat(dst, m.Properties.MessageExpiry.Seconds(), 'f', 0, 64)
	},
	'F': func(dst []byte, m mqtt.Message, _ time.Time) []byte { return appendBit(dst, m.Properties.UTF8Payload) },
	'P': func(dst []byte, m mqtt.Message, _ time.Time) []byte {
		for i, u := range m.Properties.UserProperties {
			if i > 0 {
				dst = append(dst, ' ')
			}
			dst = append(append(append(dst, u.Key...), ':'), u.Value...)
		}
		return dst
	},
	'S': func(dst []byte, m mqtt.Message, _ time.Time) []byte {
		for i, id := range m.SubscriptionIdentifiers() {
			if i > 0 {
				dst = append(dst, ' ')
			}
			dst = strconv.AppendUint(dst, uint64(id), 10)
		}
		return dst
	},
}

func appendBit(dst []byte, set bool) []byte {
	if set {
		return append(dst, '1')
	}
	return append(dst, '0')
}

// escapes are what a letter after a backslash stands for.
var escapes = map[rune]byte{'n': '\n', 'r': '\r', 't': '\t', 'v': '\v', 'a': '\a', 'e': '\x1b', '0': 0, '\\': '\\'}

// parseFormat returns the parts of a format; for a terminal, those that come from a message are harmless.
func parseFormat(format string, terminal bool) ([]formatter, error) {
	var parts []formatter
	runes := []rune(format)
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		if r != '%' && r != '\\' {
			parts = append(parts, literal(string(r)))
			continue
		}
		if i++; i == len(runes) {
			return nil, usagef("--format %q ends in %q", format, r)
		}
		if r == '\\' {
			b, known := escapes[runes[i]]
			if !known {
				return nil, usagef(`--format %q: unknown escape \%c`, format, runes[i])
			}
			parts = append(parts, literal(string(b)))
			continue
		}
		f, known := fieldsOf[runes[i]]
		if !known {
			return nil, usagef("--format %q: unknown field %%%c; known are %s", format, runes[i], knownFields())
		}
		if terminal {
			f = harmless(f)
		}
		parts = append(parts, f)
	}
	return parts, nil
}

func literal(text string) formatter {
	return func(dst []byte, _ mqtt.Message, _ time.Time) []byte { return append(dst, text...) }
}

func knownFields() string {
	var letters []string
	for r := range fieldsOf {
		letters = append(letters, "%"+string(r))
	}
	slices.Sort(letters)
	return strings.Join(letters, " ")
}
