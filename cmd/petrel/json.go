package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/petrel-mqtt/mqtt"
)

// object is a message as JSON has it. Binary data that is no UTF-8 is in the fields that end in _base64.
type object struct {
	Time            string         `json:"time"`
	Topic           string         `json:"topic"`
	QoS             int            `json:"qos"`
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

// appendJSON appends a message as an object.
func appendJSON(dst []byte, m mqtt.Message, at time.Time) []byte {
	o := object{
		Time: at.Format(time.RFC3339Nano), Topic: m.Topic, QoS: int(m.QoS), Retain: m.Retain, Duplicate: m.Duplicate,
		UTF8: m.Properties.UTF8Payload, Expiry: m.Properties.MessageExpiry.Seconds(), ContentType: m.Properties.ContentType,
		ResponseTopic: m.Properties.ResponseTopic, SubscriptionIDs: m.SubscriptionIdentifiers(),
	}
	o.Payload, o.PayloadBase64 = textOrBase64(m.Payload)
	if m.Properties.CorrelationData != nil {
		o.Correlation, o.CorrelationB64 = textOrBase64(m.Properties.CorrelationData)
	}
	for _, u := range m.Properties.UserProperties {
		o.UserProperties = append(o.UserProperties, jsonProperty{u.Key, u.Value})
	}
	return appendObject(dst, o)
}

// theirs is a message as mosquitto_sub's %j and %J have it.
type theirs struct {
	Time       string           `json:"tst"`
	Topic      string           `json:"topic"`
	QoS        int              `json:"qos"`
	Retain     int              `json:"retain"`
	Length     int              `json:"payloadlen"`
	Properties *theirProperties `json:"properties,omitempty"`
	Payload    any              `json:"payload"`
}

type theirProperties struct {
	UTF8            int             `json:"payload-format-indicator,omitempty"`
	Expiry          float64         `json:"message-expiry-interval,omitempty"` // seconds
	ContentType     string          `json:"content-type,omitempty"`
	ResponseTopic   string          `json:"response-topic,omitempty"`
	Correlation     any             `json:"correlation-data,omitempty"`
	SubscriptionIDs any             `json:"subscription-identifier,omitempty"`
	User            json.RawMessage `json:"user-properties,omitempty"` // an object, in which names may repeat
}

// appendTheirs appends a message as Mosquitto has it. With raw, a payload that is JSON is not made a string.
func appendTheirs(dst []byte, m mqtt.Message, at time.Time, raw bool) []byte {
	o := theirs{
		Time: at.Format("2006-01-02T15:04:05.000000-0700"), Topic: m.Topic, QoS: int(m.QoS), Retain: bit(m.Retain),
		Length: len(m.Payload), Properties: theirPropertiesOf(m), Payload: textOrNumbers(m.Payload),
	}
	if raw && json.Valid(m.Payload) {
		o.Payload = json.RawMessage(m.Payload)
	}
	return appendObject(dst, o)
}

func theirPropertiesOf(m mqtt.Message) *theirProperties {
	p := &m.Properties
	t := theirProperties{
		UTF8: bit(p.UTF8Payload), Expiry: p.MessageExpiry.Seconds(), ContentType: p.ContentType, ResponseTopic: p.ResponseTopic,
		User: userObject(p.UserProperties),
	}
	if p.CorrelationData != nil {
		t.Correlation = textOrNumbers(p.CorrelationData)
	}
	switch ids := m.SubscriptionIdentifiers(); len(ids) {
	case 0:
	case 1:
		t.SubscriptionIDs = ids[0]
	default:
		t.SubscriptionIDs = ids
	}
	if t.Correlation == nil && t.SubscriptionIDs == nil && t.User == nil && t.UTF8 == 0 && t.Expiry == 0 && t.ContentType+t.ResponseTopic == "" {
		return nil
	}
	return &t
}

func userObject(u mqtt.UserProperties) json.RawMessage {
	if len(u) == 0 {
		return nil
	}
	object := []byte{'{'}
	for i, p := range u {
		if i > 0 {
			object = append(object, ',')
		}
		object = appendObject(append(appendObject(object, p.Key), ':'), p.Value)
	}
	return append(object, '}')
}

// textOrNumbers is text as a string, other bytes as an array of numbers, and nothing as null.
func textOrNumbers(b []byte) any {
	switch {
	case len(b) == 0:
		return nil
	case utf8.Valid(b):
		return string(b)
	}
	numbers := make([]int, len(b))
	for i, n := range b {
		numbers[i] = int(n)
	}
	return numbers
}

func bit(set bool) int {
	if set {
		return 1
	}
	return 0
}

// appendObject appends v as JSON on one line. v can always be encoded.
func appendObject(dst []byte, v any) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v)
	return append(dst, strings.TrimSuffix(b.String(), "\n")...)
}

// pretty writes the JSON of f on several lines.
func pretty(f formatter) formatter {
	return func(dst []byte, m mqtt.Message, at time.Time) []byte {
		var b bytes.Buffer
		json.Indent(&b, f(nil, m, at), "", "\t") // of what is JSON
		return append(dst, b.Bytes()...)
	}
}
