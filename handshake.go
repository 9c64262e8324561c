package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/transport"
)

// handshake is the exchange that begins a connection, from CONNECT to CONNACK. It runs in the supervisor, without the mutex.
type handshake struct {
	*core
	link    *link.Link
	attempt *connectAttempt
}

// answerAuth answers a server's AUTH before CONNACK.
func (s *handshake) answerAuth(ctx context.Context, h codec.Header, body []byte) error {
	p, err := s.decodeAuth(h, body, false)
	if err != nil {
		return err
	}
	answer, err := s.config.continueAuth(ctx, p)
	if err != nil {
		return err
	}
	packet, err := s.config.encodeAuth(answer, maxPacketSize)
	if err != nil {
		return err
	}
	return s.link.Write(packet)
}

// authenticated checks the authentication method and data of a successful CONNACK.
func (s *handshake) authenticated(ctx context.Context, p *codec.ConnackProperties) error {
	p.AuthenticationData = bytes.Clone(p.AuthenticationData)
	switch {
	case s.config.authenticator == nil && p.AuthenticationMethod != "":
		return s.protocolError(codec.CONNACK, "MQTT-4.12.0-6", "", "an authentication method that was not asked for")
	case s.config.authenticator == nil:
		return nil
	case p.AuthenticationMethod != s.config.authMethod:
		return s.protocolError(codec.CONNACK, "MQTT-4.12.0-5", "", "another authentication method than CONNECT's")
	}
	return s.config.finishAuth(ctx, bytes.Clone(p.AuthenticationData), p.ReasonString, p.UserProperties)
}

// run sends CONNECT and waits for CONNACK. Before CONNACK the client sends nothing except AUTH and DISCONNECT
// [MQTT-3.1.2-30].
// [MQTT-3.1.0-1] [MQTT-3.1.0-2] [MQTT-3.1.4] [MQTT311-3.1.0-1] [MQTT311-3.1.0-2] [MQTT311-3.1.4]
func (s *handshake) run(ctx context.Context, connect []byte) (*codec.Connack, error) {
	if err := s.link.Write(connect); err != nil {
		return nil, s.explainWriteError(ctx, err)
	}
	s.attempt.sent = true
	ack, err := s.readConnack(ctx)
	if code := refusal(err); code != codec.Success && s.version >= codec.V5 {
		if packet, err := (&codec.Disconnect{Code: code}).Append(nil, s.version); err == nil {
			_ = s.link.Write(packet) // [MQTT-4.13.1] as far as it goes: the connection ends anyway
		}
	}
	return ack, err
}

// explainWriteError adds the server's reason to the error of writing CONNECT, if the server gave one before it closed
// the connection. In TLS 1.3 a server refuses a client's certificate only after the TLS handshake.
func (s *handshake) explainWriteError(ctx context.Context, err error) error {
	if errors.Is(err, link.ErrServerSilent) {
		return err
	}
	_, said := s.readConnack(ctx)
	var refused *ConnectError
	switch {
	case errors.As(said, &refused):
		return refused
	case said != nil:
		return fmt.Errorf("%w: %w", err, said)
	}
	return err
}

// refusal returns the reason code of the DISCONNECT that an error of the handshake is answered with, or Success if none
// is sent.
func refusal(err error) codec.ReasonCode {
	var failed *AuthError
	var broken *codec.Error
	switch {
	case errors.As(err, &failed):
		return codec.UnspecifiedError // no other reason code that a client may send fits
	case errors.As(err, &broken):
		return broken.Code
	}
	return codec.Success
}

// [MQTT-3.2.2-7] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.2.2.3.16] [MQTT-3.14.0-1] [MQTT-4.12.0-1] [MQTT-4.12.0-4]
// [MQTT311-3.2.2-5]
func (s *handshake) readConnack(ctx context.Context) (*codec.Connack, error) {
	h, body, err := s.link.ReadPacket()
	for err == nil && h.Type == codec.AUTH {
		if err = s.answerAuth(ctx, h, body); err == nil {
			h, body, err = s.link.ReadPacket()
		}
	}
	if err != nil {
		return nil, err
	}
	if s.version >= codec.V5 && h.Type == codec.CONNACK && bytes.Equal(body, oldVersionRefused) {
		return nil, &ConnectError{Server: transport.Redact(s.attempt.URL), Refusal: Refusal{Code: UnsupportedProtocolVersion}}
	}
	if h.Type != codec.CONNACK {
		return nil, s.protocolError(h.Type, "MQTT-3.2.0-1", "MQTT-3.2.0-1", "the first packet from a server is CONNACK")
	}
	ack := new(codec.Connack)
	if err := ack.Decode(h, body, s.version); err != nil {
		return nil, err
	}
	switch {
	case ack.Code != codec.Success:
		p := &ack.Properties
		return nil, &ConnectError{
			Server:          transport.Redact(s.attempt.URL),
			ServerReference: p.ServerReference,
			Refusal:         Refusal{Code: ReasonCode(ack.Code), Reason: p.ReasonString, UserProperties: p.UserProperties},
		}
	case ack.SessionPresent && s.attempt.fresh:
		s.attempt.stranger = true
		return nil, s.protocolError(h.Type, "MQTT-3.2.2-2", "MQTT-3.2.2-1", "a session is present for a client identifier that was just generated")
	case ack.SessionPresent && s.attempt.cleanStart:
		return nil, s.protocolError(h.Type, "MQTT-3.2.2-2", "MQTT-3.2.2-1", "a session is present although a clean start was asked for")
	}
	return ack, s.authenticated(ctx, &ack.Properties)
}

// oldVersionRefused is the body of a CONNACK of MQTT 3.1.1 with return code 1. Servers that know no MQTT 5 answer its
// CONNECT so; NATS and aedes do (seen).
var oldVersionRefused = []byte{0, 1}

// pingAfter is how long a connection may be idle before a PINGREQ is sent.
func (c *config) pingAfter(keepAlive time.Duration) time.Duration {
	return max(keepAlive-c.pingLead, keepAlive/2)
}

// connectPacket makes the CONNECT that the options and the attempt ask for.
// [MQTT-3.1.2.11.2]
func (c *config) connectPacket(a *connectAttempt) *codec.Connect {
	p := &codec.Connect{
		CleanStart:  a.cleanStart,
		KeepAlive:   uint16(c.keepAlive / time.Second),
		ClientID:    a.clientID,
		Will:        c.will,
		HasUsername: c.hasUsername || a.Username != "",
		HasPassword: c.hasPassword || a.Password != "",
		Username:    a.Username,
	}
	if p.HasPassword {
		p.Password = []byte(a.Password)
	}
	if c.version < codec.V5 {
		return p
	}
	if c.sessionExpiry > 0 {
		expiry := uint32(c.sessionExpiry / time.Second)
		p.Properties.SessionExpiry = &expiry
	}
	p.Properties.ReceiveMaximum = uint16(c.receiveMaximum)
	p.Properties.MaximumPacketSize = uint32(c.maximumPacketSize)
	p.Properties.TopicAliasMaximum = uint16(c.topicAliasMaximum)
	p.Properties.AuthenticationMethod, p.Properties.AuthenticationData = c.authMethod, a.auth.Data
	p.Properties.UserProperties = slices.Concat(c.userProperties, a.auth.UserProperties)
	yes := true
	p.Properties.RequestResponseInformation = &yes // Request may be called later, and this costs only two bytes
	if c.noProblemInformation {
		p.Properties.RequestProblemInformation = new(bool)
	}
	return p
}

// connAck makes the public ConnAck, with defaults for what CONNACK leaves out.
// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-9] [MQTT-3.2.2-21] [MQTT-3.2.2.3.2]
func (c *config) connAck(ack *codec.Connack, clientID string) ConnAck {
	p := &ack.Properties
	a := ConnAck{
		SessionPresent:          ack.SessionPresent,
		ClientID:                clientID,
		KeepAlive:               c.keepAlive,
		SessionExpiry:           c.sessionExpiry,
		ReceiveMaximum:          65_535,
		MaximumQoS:              ExactlyOnce,
		MaximumPacketSize:       p.MaximumPacketSize,
		TopicAliasMaximum:       p.TopicAliasMaximum,
		RetainAvailable:         isTrue(p.RetainAvailable),
		WildcardSubscriptions:   isTrue(p.WildcardSubscriptionAvailable),
		SubscriptionIdentifiers: c.version >= codec.V5 && isTrue(p.SubscriptionIdentifiersAvailable),
		SharedSubscriptions:     isTrue(p.SharedSubscriptionAvailable),
		ResponseInformation:     p.ResponseInformation,
		ServerReference:         p.ServerReference,
		ReasonString:            p.ReasonString,
		AuthenticationMethod:    p.AuthenticationMethod,
		AuthenticationData:      p.AuthenticationData,
		UserProperties:          p.UserProperties,
	}
	if p.AssignedClientID != "" && clientID == "" { // otherwise nobody has asked for one
		a.ClientID = p.AssignedClientID // [MQTT-3.2.2-16]
	}
	if p.ServerKeepAlive != nil {
		a.KeepAlive = time.Duration(*p.ServerKeepAlive) * time.Second // [MQTT-3.1.2-21]
	}
	if p.SessionExpiry != nil {
		a.SessionExpiry = time.Duration(*p.SessionExpiry) * time.Second
	}
	if p.ReceiveMaximum != 0 {
		a.ReceiveMaximum = p.ReceiveMaximum
	}
	if p.MaximumQoS != nil {
		a.MaximumQoS = QoS(*p.MaximumQoS)
	}
	return a
}

// isTrue reads a feature flag of CONNACK. Without it the feature is available.
func isTrue(b *bool) bool { return b == nil || *b }
