package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// seconds is a flag for a duration: a number of seconds, or with a unit as "500ms" and "1h30m".
type seconds time.Duration

func (s *seconds) Type() string { return "SECONDS" }

func (s *seconds) String() string {
	return strconv.FormatFloat(time.Duration(*s).Seconds(), 'f', -1, 64)
}

func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, numberErr := strconv.ParseFloat(text, 64); numberErr == nil {
		if !(math.Abs(n) <= math.MaxInt64/float64(time.Second)) {
			return errors.New("too long")
		}
		d, err = time.Duration(math.Round(n*1e9)), nil
	}
	switch {
	case err != nil:
		return errors.New("not a number of seconds, nor a duration like 1m30s")
	case d < 0:
		return errors.New("negative")
	}
	*s = seconds(d)
	return nil
}

// topicName is a flag for a topic without wildcards.
type topicName string

func (t *topicName) Type() string   { return "TOPIC" }
func (t *topicName) String() string { return string(*t) }

func (t *topicName) Set(text string) error {
	if text == "" || strings.ContainsAny(text, "+#\x00") {
		return errors.New("not a topic: it must have a character, and no + or #")
	}
	*t = topicName(text)
	return nil
}

// wholeSeconds is a flag for what goes over the wire in whole seconds.
type wholeSeconds time.Duration

func (s *wholeSeconds) Type() string { return "SECONDS" }

func (s *wholeSeconds) String() string { return (*seconds)(s).String() }

func (s *wholeSeconds) Set(text string) error {
	var d seconds
	err := d.Set(text)
	switch {
	case err != nil:
		return err
	case time.Duration(d)%time.Second != 0:
		return errors.New("not a whole number of seconds")
	case time.Duration(d) > mqtt.SessionNeverExpires:
		return fmt.Errorf("more than %d seconds", uint32(math.MaxUint32))
	}
	*s = wholeSeconds(d)
	return nil
}

// sessionExpiry is wholeSeconds, or for ever in our word or Mosquitto's.
type sessionExpiry wholeSeconds

func (s *sessionExpiry) Type() string   { return "SECONDS" }
func (s *sessionExpiry) String() string { return (*seconds)(s).String() }

func (s *sessionExpiry) Set(text string) error {
	if slices.Contains([]string{"never", "-1", "∞"}, text) {
		*s = sessionExpiry(mqtt.SessionNeverExpires)
		return nil
	}
	return (*wholeSeconds)(s).Set(text)
}

// once is a flag for a text that another one would replace: it may be given one time.
type once struct {
	text  string
	given bool
}

func (o *once) Type() string   { return "TEXT" }
func (o *once) String() string { return o.text }

func (o *once) Set(text string) error {
	if o.given {
		return errors.New("given twice, and there is one message")
	}
	*o = once{text, true}
	return nil
}

// percent is a flag for a part of what comes, over 0 to 100.
type percent float64

func (p *percent) Type() string   { return "PERCENT" }
func (p *percent) String() string { return strconv.FormatFloat(float64(*p), 'f', -1, 64) }

func (p *percent) Set(text string) error {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0 && n <= 100) {
		return errors.New("must be more than 0, and at most 100")
	}
	*p = percent(n)
	return nil
}

// level is a flag for a QoS.
type level mqtt.QoS

func (l *level) Type() string   { return "QOS" }
func (l *level) String() string { return strconv.Itoa(int(*l)) }

func (l *level) Set(text string) error {
	q, err := parseLevel(text)
	*l = level(q)
	return err
}

func parseLevel(text string) (mqtt.QoS, error) {
	if len(text) != 1 || text[0] < '0' || text[0] > '2' {
		return 0, errors.New("must be 0, 1 or 2")
	}
	return mqtt.QoS(text[0] - '0'), nil
}

// levels is a flag for a list of QoS, repeated or with commas.
type levels []mqtt.QoS

func (l *levels) Type() string { return "QOS" }

func (l *levels) String() string {
	text := make([]string, len(*l))
	for i, q := range *l {
		text[i] = strconv.Itoa(int(q))
	}
	return strings.Join(text, ",")
}

func (l *levels) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		q, err := parseLevel(part)
		if err != nil {
			return err
		}
		*l = append(*l, q)
	}
	return nil
}

// properties is a flag, to be repeated, for user properties.
type properties mqtt.UserProperties

func (p *properties) Type() string { return "NAME=VALUE" }

func (p *properties) String() string {
	text := make([]string, len(*p))
	for i, u := range *p {
		text[i] = u.Key + "=" + u.Value
	}
	return strings.Join(text, " ")
}

func (p *properties) Set(text string) error {
	key, value, found := strings.Cut(text, "=")
	if !found {
		key, value, found = strings.Cut(text, ": ") // MQTTX's way
	}
	if !found {
		return errors.New("must be NAME=VALUE")
	}
	*p = append(*p, mqtt.UserProperty{Key: key, Value: value})
	return nil
}

// size is a flag for a number of bytes, "1000", "1kB", "64KiB" or "2MB".
type size int

func (s *size) Type() string   { return "BYTES" }
func (s *size) String() string { return strconv.Itoa(int(*s)) }

var units = map[string]int{
	"": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1 << 10, "m": 1000_000, "mb": 1000_000, "mib": 1 << 20,
}

func (s *size) Set(text string) error {
	digits := strings.TrimRight(text, "abikmABIKM")
	n, err := strconv.Atoi(digits)
	unit, known := units[strings.ToLower(text[len(digits):])]
	switch {
	case err != nil || !known || n < 0:
		return errors.New("not a size like 1000, 64KiB or 2MB")
	case n > maxPacket/unit:
		return fmt.Errorf("more than %d bytes", maxPacket)
	}
	*s = size(n * unit)
	return nil
}

// maxPacket is the size of the largest packet, in bytes.
const maxPacket = 268_435_460

// protocol is a flag for the version of the protocol.
type protocol int

const (
	v5   protocol = 5
	v311 protocol = 4
)

func (p *protocol) Type() string { return "VERSION" }

func (p *protocol) String() string {
	if *p == v311 {
		return "3.1.1"
	}
	return "5"
}

func (p *protocol) Set(text string) error {
	switch strings.TrimPrefix(strings.ToLower(text), "mqttv") {
	case "5", "5.0":
		*p = v5
	case "3.1.1", "311", "4":
		*p = v311
	default:
		return errors.New("must be 5 or 3.1.1")
	}
	return nil
}

// bytesFlag is a flag for binary data: text, or hexadecimal digits after "0x".
type bytesFlag []byte

func (b *bytesFlag) Type() string { return "DATA" }

func (b *bytesFlag) String() string {
	if *b == nil {
		return ""
	}
	return "0x" + hex.EncodeToString(*b)
}

func (b *bytesFlag) Set(text string) error {
	digits, isHex := strings.CutPrefix(text, "0x")
	if !isHex {
		*b = []byte(text)
		return nil
	}
	data, err := hex.DecodeString(digits)
	if err != nil {
		return errors.New("0x is not followed by pairs of hexadecimal digits")
	}
	*b = data
	return nil
}

// choice is a flag for one of a few words.
type choice struct {
	word  string
	words []string
}

func (c *choice) Type() string   { return strings.Join(c.words, "|") }
func (c *choice) String() string { return c.word }

func (c *choice) Set(text string) error {
	for _, w := range c.words {
		if text == w {
			c.word = w
			return nil
		}
	}
	if len(c.words) == 1 {
		return errors.New("must be " + c.words[0])
	}
	return errors.New("must be " + strings.Join(c.words[:len(c.words)-1], ", ") + " or " + c.words[len(c.words)-1])
}
