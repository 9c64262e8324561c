package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// logPacket tells about a packet in a line, with its fields.
func logPacket(logger *slog.Logger, p mqtt.PacketTrace, v protocol) {
	direction := "<-in--"
	if p.Sent {
		direction = "-out->"
	}
	attrs := append(packetFields(p, codec.Version(v)), slog.Int("size", p.Size))
	logger.LogAttrs(context.Background(), slog.LevelDebug, direction+" "+p.Type, attrs...)
}

// packetFields returns what is in a packet, without what is empty.
func packetFields(p mqtt.PacketTrace, v codec.Version) []slog.Attr {
	h, n, err := codec.ParseHeader(p.Packet, v)
	if err != nil || n == 0 {
		return []slog.Attr{slog.Bool("malformed", true)}
	}
	packet, err := codec.Decode(h, p.Packet[n:], v)
	if err != nil {
		return []slog.Attr{slog.Bool("malformed", true)}
	}
	var f fields
	switch p := packet.(type) {
	case *codec.Connect:
		f.connect(p)
	case *codec.Connack:
		f.connack(p)
	case *codec.Publish:
		f.publish(p)
	case *codec.Puback:
		f.ack(p.PacketID, p.Code, p.ReasonString, p.UserProperties)
	case *codec.Pubrec:
		f.ack(p.PacketID, p.Code, p.ReasonString, p.UserProperties)
	case *codec.Pubrel:
		f.ack(p.PacketID, p.Code, p.ReasonString, p.UserProperties)
	case *codec.Pubcomp:
		f.ack(p.PacketID, p.Code, p.ReasonString, p.UserProperties)
	case *codec.Subscribe:
		f.subscribe(p)
	case *codec.Suback:
		f.id(p.PacketID)
		f.codes(p.Codes)
		f.reason(p.ReasonString, p.UserProperties)
	case *codec.Unsubscribe:
		f.id(p.PacketID)
		f.text("filters", strings.Join(p.Filters, " "))
		f.user(p.UserProperties)
	case *codec.Unsuback:
		f.id(p.PacketID)
		f.codes(p.Codes)
		f.reason(p.ReasonString, p.UserProperties)
	case *codec.Disconnect:
		f.code(p.Code)
		f.seconds("session_expiry", p.SessionExpiry)
		f.text("server_reference", p.ServerReference)
		f.reason(p.ReasonString, p.UserProperties)
	case *codec.Auth:
		f.code(p.Code)
		f.text("method", p.Method)
		f.reason(p.ReasonString, p.UserProperties)
	}
	return f
}

// fields are the attributes of a packet's line. What is absent is left out.
type fields []slog.Attr

func (f *fields) add(a slog.Attr) { *f = append(*f, a) }

func (f *fields) id(id uint16) { f.add(slog.Int("id", int(id))) }

func (f *fields) text(name, text string) {
	if text != "" {
		f.add(slog.String(name, text))
	}
}

func (f *fields) number(name string, n int) {
	if n != 0 {
		f.add(slog.Int(name, n))
	}
}

func (f *fields) flag(name string, set bool) {
	if set {
		f.add(slog.Bool(name, true))
	}
}

func (f *fields) seconds(name string, s *uint32) {
	if s != nil {
		f.add(slog.Uint64(name, uint64(*s)))
	}
}

func (f *fields) duration(name string, d time.Duration) {
	if d != 0 {
		f.add(slog.String(name, d.String()))
	}
}

// available is a property of CONNACK that is told where it says no.
func (f *fields) available(name string, yes *bool) {
	if yes != nil {
		f.add(slog.Bool(name, *yes))
	}
}

func (f *fields) code(c codec.ReasonCode) {
	if c != codec.Success {
		f.add(slog.String("reason", mqtt.ReasonCode(c).Error()))
	}
}

func (f *fields) codes(codes []codec.ReasonCode) {
	text := make([]string, len(codes))
	for i, c := range codes {
		text[i] = fmt.Sprintf("0x%02X", byte(c))
	}
	f.text("codes", strings.Join(text, " "))
}

func (f *fields) user(u codec.UserProperties) {
	text := make([]string, len(u))
	for i, p := range u {
		text[i] = p.Key + "=" + p.Value
	}
	f.text("user_properties", strings.Join(text, " "))
}

func (f *fields) reason(text string, u codec.UserProperties) {
	f.text("reason_string", text)
	f.user(u)
}

func (f *fields) ack(id uint16, c codec.ReasonCode, text string, u codec.UserProperties) {
	f.id(id)
	f.code(c)
	f.reason(text, u)
}

// mostPayload is how many bytes of a payload are shown.
const mostPayload = 64

// payload shows the beginning of a payload: text as text, else bytes in hexadecimal.
func (f *fields) payload(name string, b []byte) {
	more := ""
	if len(b) > mostPayload {
		b, more = b[:mostPayload], "…"
		for len(b) > 0 && !utf8.Valid(b) && len(b) > mostPayload-utf8.UTFMax {
			b = b[:len(b)-1] // a character was cut
		}
	}
	if utf8.Valid(b) {
		f.add(slog.String(name, string(b)+more))
		return
	}
	f.add(slog.String(name, fmt.Sprintf("0x%x%s", b, more)))
}

func (f *fields) data(name string, b []byte) {
	if b != nil {
		f.payload(name, b)
	}
}

func (f *fields) connect(p *codec.Connect) {
	f.add(slog.String("version", p.Version.String()))
	f.add(slog.String("client", p.ClientID))
	f.add(slog.Bool("clean", p.CleanStart))
	f.add(slog.Int("keep_alive", int(p.KeepAlive)))
	if p.HasUsername {
		f.add(slog.String("username", p.Username))
	}
	if p.HasPassword {
		f.add(slog.String("password", string(p.Password)))
	}
	if w := p.Will; w != nil {
		f.text("will_topic", w.Topic)
		f.payload("will_payload", w.Payload)
		f.number("will_qos", int(w.QoS))
		f.flag("will_retain", w.Retain)
		f.duration("will_delay", w.Properties.WillDelay)
	}
	f.seconds("session_expiry", p.Properties.SessionExpiry)
	f.number("receive_maximum", int(p.Properties.ReceiveMaximum))
	f.number("maximum_packet_size", int(p.Properties.MaximumPacketSize))
	f.number("topic_alias_maximum", int(p.Properties.TopicAliasMaximum))
	f.text("auth_method", p.Properties.AuthenticationMethod)
	f.user(p.Properties.UserProperties)
}

func (f *fields) connack(p *codec.Connack) {
	c := &p.Properties
	f.code(p.Code)
	f.add(slog.Bool("session_present", p.SessionPresent))
	f.seconds("session_expiry", c.SessionExpiry)
	f.number("receive_maximum", int(c.ReceiveMaximum))
	if c.MaximumQoS != nil {
		f.add(slog.Int("maximum_qos", int(*c.MaximumQoS)))
	}
	f.available("retain_available", c.RetainAvailable)
	f.number("maximum_packet_size", int(c.MaximumPacketSize))
	f.text("assigned_client", c.AssignedClientID)
	f.number("topic_alias_maximum", int(c.TopicAliasMaximum))
	f.available("wildcard_available", c.WildcardSubscriptionAvailable)
	f.available("subscription_identifier_available", c.SubscriptionIdentifiersAvailable)
	f.available("shared_available", c.SharedSubscriptionAvailable)
	if c.ServerKeepAlive != nil {
		f.add(slog.Int("server_keep_alive", int(*c.ServerKeepAlive)))
	}
	f.text("response_information", c.ResponseInformation)
	f.text("server_reference", c.ServerReference)
	f.text("auth_method", c.AuthenticationMethod)
	f.reason(c.ReasonString, c.UserProperties)
}

func (f *fields) publish(p *codec.Publish) {
	f.number("id", int(p.PacketID))
	f.add(slog.String("topic", p.Topic))
	f.add(slog.Int("qos", int(p.QoS)))
	f.flag("retain", p.Retain)
	f.flag("dup", p.Dup)
	f.number("topic_alias", int(p.TopicAlias))
	for _, id := range p.SubscriptionIdentifiers {
		f.number("subscription_identifier", int(id))
	}
	f.flag("utf8", p.Properties.UTF8Payload)
	f.duration("message_expiry", p.Properties.MessageExpiry)
	f.text("content_type", p.Properties.ContentType)
	f.text("response_topic", p.Properties.ResponseTopic)
	f.data("correlation_data", p.Properties.CorrelationData)
	f.user(p.Properties.UserProperties)
	f.payload("payload", p.Payload)
}

func (f *fields) subscribe(p *codec.Subscribe) {
	f.id(p.PacketID)
	for _, s := range p.Filters {
		f.add(slog.String("filter", s.Filter))
		f.add(slog.Int("qos", int(s.QoS)))
		f.flag("no_local", s.NoLocal)
		f.flag("retain_as_published", s.RetainAsPublished)
		f.number("retain_handling", int(s.RetainHandling))
	}
	f.number("subscription_identifier", int(p.SubscriptionIdentifier))
	f.user(p.UserProperties)
}
