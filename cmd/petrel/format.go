package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ncruces/go-strftime"

	"github.com/petrel-mqtt/mqtt"
)

// outputFlags say how messages are written.
type outputFlags struct {
	verbose, json, noNewline, pretty bool
	format                           string
}

// formatter appends a message that arrived at a time, as it is to be written.
type formatter func(dst []byte, m mqtt.Message, at time.Time) []byte

const formatHelp = `Formats (-F) are those of mosquitto_sub: %t topic, %p payload, %x and %X payload in hexadecimal, %l its length, %q QoS,
%r retain (0 or 1), %d duplicate, %I time of arrival (ISO 8601), %U as Unix time with nanoseconds, %j and %J all as JSON
with the payload as text and as JSON, %C content type, %R response topic, %D correlation data, %E message expiry in
seconds, %F 1 if the payload is said to be text, %P user properties, %S subscription identifiers, %% a percent sign.
%10t makes a field 10 wide, %-10t with spaces behind it, %010l with zeros, and %.5t takes 5 characters. @H and the like
are the time of arrival as strftime(3) has it, @N its nanoseconds, @@ an @; and there are \n, \r, \t, \v, \a, \e, \0 and
\\.`

func (o *outputFlags) group() *group {
	g := newGroup("Output")
	g.BoolVarP(&o.verbose, "verbose", "v", false, "write the topic before the payload")
	g.BoolVar(&o.json, "json", false, "write a JSON object per line; payloads that are no text in base64")
	g.StringVarP(&o.format, "format", "F", "", "write messages in this `FORMAT`, see above")
	g.BoolVar(&o.pretty, "pretty", false, "write JSON on several lines")
	g.BoolVarP(&o.noNewline, "no-newline", "N", false, "write no newline after a message")
	return g
}

// formatter returns the one that the flags ask for. For a terminal it makes control characters harmless.
func (o *outputFlags) formatter(terminal bool) (formatter, error) {
	var f formatter
	n := 0
	if o.json {
		n++
		f = appendJSON
		if o.pretty {
			f = pretty(f)
		}
		if terminal {
			f = harmless(f)
		}
	}
	if o.format != "" {
		n++
		parts, err := o.parse(terminal)
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
	if o.pretty && !o.json && !strings.Contains(o.format, "%j") && !strings.Contains(o.format, "%J") {
		return nil, usagef("--pretty is for JSON: it needs --json, or %%j or %%J in --format")
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
	'j': func(dst []byte, m mqtt.Message, at time.Time) []byte { return appendTheirs(dst, m, at, false) },
	'J': func(dst []byte, m mqtt.Message, at time.Time) []byte { return appendTheirs(dst, m, at, true) },
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
	'F': func(dst []byte, m mqtt.Message, _ time.Time) []byte {
		if !m.Properties.UTF8Payload {
			return dst
		}
		return append(dst, '1')
	},
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

// parse returns the parts of the format; for a terminal, those that come from a message are harmless.
func (o *outputFlags) parse(terminal bool) ([]formatter, error) {
	p := formatParser{text: o.format, left: []rune(o.format), pretty: o.pretty, terminal: terminal}
	var parts []formatter
	for len(p.left) > 0 {
		part, err := p.part()
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// formatParser reads a format.
type formatParser struct {
	text             string
	left             []rune
	pretty, terminal bool
}

func (p *formatParser) part() (formatter, error) {
	switch r := p.next(); r {
	case '%':
		return p.field()
	case '@':
		return p.time()
	case '\\':
		return p.escape()
	default:
		return literal(string(r)), nil
	}
}

// next takes a character; 0 stands for the end.
func (p *formatParser) next() rune {
	if len(p.left) == 0 {
		return 0
	}
	r := p.left[0]
	p.left = p.left[1:]
	return r
}

func (p *formatParser) errorf(format string, args ...any) error {
	return usagef("--format %q: %s", p.text, fmt.Sprintf(format, args...))
}

func (p *formatParser) escape() (formatter, error) {
	r := p.next()
	b, known := escapes[r]
	switch {
	case r == 0:
		return nil, p.errorf(`ends in \`)
	case !known:
		return nil, p.errorf(`unknown escape \%c`, r)
	}
	return literal(string(b)), nil
}

// times are the letters that strftime(3) knows.
const times = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ"

// time is a part of the time of arrival: @H.
func (p *formatParser) time() (formatter, error) {
	switch r := p.next(); {
	case r == 0:
		return nil, p.errorf("ends in @")
	case r == '@':
		return literal("@"), nil
	case r == 'N':
		return func(dst []byte, _ mqtt.Message, at time.Time) []byte {
			return fmt.Appendf(dst, "%09d", at.Nanosecond())
		}, nil
	case strings.ContainsRune(times, r):
		layout := "%" + string(r)
		return func(dst []byte, _ mqtt.Message, at time.Time) []byte { return strftime.AppendFormat(dst, layout, at) }, nil
	default:
		return nil, p.errorf("unknown time @%c; known are those of strftime, as @H and @M, @N, and @@ for an @", r)
	}
}

// field is a part of the message: %-10.5t.
func (p *formatParser) field() (formatter, error) {
	s := spec{precision: -1}
	r := p.next()
	if s.left = r == '-'; s.left {
		r = p.next()
	}
	if s.zeros = r == '0'; s.zeros {
		r = p.next()
	}
	s.width, r = p.number(r)
	if r == '.' {
		s.precision, r = p.number(p.next())
	}
	f, known := fieldsOf[r]
	switch {
	case s.width > widest || s.precision > widest:
		return nil, p.errorf("a field is wider than %d", widest)
	case r == 0:
		return nil, p.errorf("ends within a field")
	case r == 'm':
		return nil, p.errorf("packet identifiers, %%m, are for -d or --debug to show")
	case r == 'A':
		return nil, p.errorf("topic aliases, %%A, are for -d or --debug to show")
	case !known:
		return nil, p.errorf("unknown field %%%c; known are %s", r, knownFields())
	}
	if p.pretty && (r == 'j' || r == 'J') {
		f = pretty(f)
	}
	f = s.apply(r, f)
	if p.terminal {
		f = harmless(f)
	}
	return f, nil
}

// widest is the most characters of a field that a format may ask for.
const widest = 10_000

// number takes digits, of which r is the first, and the character after them.
func (p *formatParser) number(r rune) (int, rune) {
	n := 0
	for r >= '0' && r <= '9' {
		n = min(10*n+int(r-'0'), widest+1)
		r = p.next()
	}
	return n, r
}

// spec says how wide a field is.
type spec struct {
	left, zeros bool
	width       int // 0: as wide as it is
	precision   int // the most characters of a text; -1: all
}

// apply returns f with its width. As mosquitto_sub has it, payloads are cut to the width, other texts to the precision.
func (s spec) apply(letter rune, f formatter) formatter {
	if s.width == 0 && s.precision < 0 {
		return f
	}
	isPayload, isNumber := strings.ContainsRune("pxX", letter), strings.ContainsRune("lEFSqrd", letter)
	most := s.precision
	switch {
	case letter == 'p' && s.width > 0:
		most = s.width
	case isPayload && s.width > 0:
		most = s.width &^ 1 // whole bytes
	case isPayload, isNumber, letter == 'j', letter == 'J':
		most = -1
	}
	pad := byte(' ')
	if s.zeros && (isPayload || isNumber) && !s.left {
		pad = '0'
	}
	return func(dst []byte, m mqtt.Message, at time.Time) []byte {
		text := f(nil, m, at)
		if most >= 0 {
			text = firstOf(text, most)
		}
		missing := bytes.Repeat([]byte{pad}, max(0, s.width-utf8.RuneCount(text)))
		if s.left {
			return append(append(dst, text...), missing...)
		}
		return append(append(dst, missing...), text...)
	}
}

// firstOf returns the first n characters.
func firstOf(text []byte, n int) []byte {
	end := 0
	for ; n > 0 && end < len(text); n-- {
		_, size := utf8.DecodeRune(text[end:])
		end += size
	}
	return text[:end]
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
