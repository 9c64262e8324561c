package mqtt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// Errors that say how a call ended. They are wrapped together with the cause: compare with errors.Is.
var (
	// ErrNotConnected is the error of a call that needs a live connection when there is none.
	ErrNotConnected = errors.New("mqtt: not connected")
	// ErrConnectionLost is the end of a connection that neither side ended with DISCONNECT.
	ErrConnectionLost = errors.New("mqtt: connection lost")
	// ErrClosed is the error of calls after Close or Disconnect, and of calls that waited then.
	ErrClosed = errors.New("mqtt: client closed")
	// ErrOutcomeUnknown says that a message was sent, and that it is unknown whether the server accepted it.
	ErrOutcomeUnknown = errors.New("mqtt: outcome unknown")
	// ErrSessionLost is the error of a message at QoS 2 that was in flight when the server lost the session; it is an
	// ErrOutcomeUnknown. It is also the error of an Ack for a message of a lost session.
	ErrSessionLost = error(sessionLost{})
	// ErrQueueFull is the error of a publish that finds the queue full.
	ErrQueueFull = errors.New("mqtt: queue full")
	// ErrSlowConsumer ends a subscription that holds up the others, see EndIfStalled and WithInboundLimit.
	ErrSlowConsumer = errors.New("mqtt: slow consumer")
	// ErrExpired is the error of a message whose Message Expiry Interval ended before it was sent. A store removes the message
	// soon after; if the process dies before, the next client may send it.
	ErrExpired = errors.New("mqtt: message expired before it was sent")
)

type sessionLost struct{}

func (sessionLost) Error() string        { return "mqtt: the server has lost the session: outcome unknown" }
func (sessionLost) Is(target error) bool { return target == ErrOutcomeUnknown }

// SafeToRetry reports whether the message or packet that err is about was certainly not sent, so that another try
// cannot make a duplicate. It does not say that another try is likely to succeed. It is always false for an
// ErrOutcomeUnknown, whatever its cause.
func SafeToRetry(err error) bool {
	var n *notSent
	return errors.As(err, &n) && !errors.Is(err, ErrOutcomeUnknown)
}

// notSent marks the error of a message or packet that was not sent.
type notSent struct{ err error }

func (e *notSent) Error() string { return e.err.Error() }
func (e *notSent) Unwrap() error { return e.err }

// ReasonCode is a reason code of MQTT 5 (section 2.4). It is an error, so that errors.Is finds it in the error of a
// call, and it is an option of Disconnect. Return codes of MQTT 3.1.1 are translated to it.
type ReasonCode uint8

// The reason codes, with the names of the specification.
const (
	Success                             ReasonCode = 0x00
	NormalDisconnection                 ReasonCode = 0x00
	DisconnectWithWill                  ReasonCode = 0x04
	NoMatchingSubscribers               ReasonCode = 0x10
	NoSubscriptionExisted               ReasonCode = 0x11
	ContinueAuthentication              ReasonCode = 0x18
	ReAuthenticate                      ReasonCode = 0x19
	UnspecifiedError                    ReasonCode = 0x80
	MalformedPacket                     ReasonCode = 0x81
	ProtocolError                       ReasonCode = 0x82
	ImplementationSpecificError         ReasonCode = 0x83
	UnsupportedProtocolVersion          ReasonCode = 0x84
	ClientIdentifierNotValid            ReasonCode = 0x85
	BadUserNameOrPassword               ReasonCode = 0x86
	NotAuthorized                       ReasonCode = 0x87
	ServerUnavailable                   ReasonCode = 0x88
	ServerBusy                          ReasonCode = 0x89
	Banned                              ReasonCode = 0x8A
	ServerShuttingDown                  ReasonCode = 0x8B
	BadAuthenticationMethod             ReasonCode = 0x8C
	KeepAliveTimeout                    ReasonCode = 0x8D
	SessionTakenOver                    ReasonCode = 0x8E
	TopicFilterInvalid                  ReasonCode = 0x8F
	TopicNameInvalid                    ReasonCode = 0x90
	PacketIdentifierInUse               ReasonCode = 0x91
	PacketIdentifierNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded              ReasonCode = 0x93
	TopicAliasInvalid                   ReasonCode = 0x94
	PacketTooLarge                      ReasonCode = 0x95
	MessageRateTooHigh                  ReasonCode = 0x96
	QuotaExceeded                       ReasonCode = 0x97
	AdministrativeAction                ReasonCode = 0x98
	PayloadFormatInvalid                ReasonCode = 0x99
	RetainNotSupported                  ReasonCode = 0x9A
	QoSNotSupported                     ReasonCode = 0x9B
	UseAnotherServer                    ReasonCode = 0x9C
	ServerMoved                         ReasonCode = 0x9D
	SharedSubscriptionsNotSupported     ReasonCode = 0x9E
	ConnectionRateExceeded              ReasonCode = 0x9F
	MaximumConnectTime                  ReasonCode = 0xA0
	SubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	WildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

// Failed reports whether r says that something failed: it is 0x80 or more.
func (r ReasonCode) Failed() bool { return codec.ReasonCode(r).Failed() }

// Error returns the specification's name of r and its number.
func (r ReasonCode) Error() string {
	return fmt.Sprintf("%v (0x%02X)", codec.ReasonCode(r), uint8(r))
}

// MarshalText returns the text of Error, for logs.
func (r ReasonCode) MarshalText() ([]byte, error) { return []byte(r.Error()), nil }

// Refusal is the server's reason for a refusal. It is part of the errors below.
type Refusal struct {
	Code           ReasonCode // 0: the server gave none
	Reason         string     // the Reason String, for people
	UserProperties UserProperties
}

// text returns the reason code and the Reason String.
func (r *Refusal) text() string {
	switch {
	case r.Code == 0:
		return r.Reason
	case r.Reason == "":
		return r.Code.Error()
	}
	return r.Code.Error() + ": " + r.Reason
}

// unwrap returns the reason code and err. Success is left out, because the zero Code means that there was none.
func (r *Refusal) unwrap(err error) []error {
	var errs []error
	if r.Code != Success {
		errs = append(errs, r.Code)
	}
	if err != nil {
		errs = append(errs, err)
	}
	return errs
}

// ConnectError is a failed attempt to connect. Code is set if the server refused. Err is set if the server was not
// reached or broke the protocol.
type ConnectError struct {
	Server          string // without password
	ServerReference string // another server to use, if the server named one
	Refusal
	Err error
}

func (e *ConnectError) Error() string {
	text := "mqtt: connecting to " + e.Server + join(e.text(), e.Err)
	if e.Code == UnsupportedProtocolVersion {
		text += "; does the server know the other version only? NewClient is for MQTT 5, NewClientV311 for 3.1.1"
	}
	return text
}

// Unwrap returns the reason code, if there is one, and Err.
func (e *ConnectError) Unwrap() []error { return e.unwrap(e.Err) }

// DisconnectError is the end of a connection by DISCONNECT, from the server or from this client.
type DisconnectError struct {
	ByServer        bool
	ServerReference string // another server to use, if the server named one
	Refusal
	Err error // why this client disconnected, often a *PacketError
}

func (e *DisconnectError) Error() string {
	who := "mqtt: disconnected"
	if e.ByServer {
		who = "mqtt: disconnected by the server"
	}
	return who + join(e.text(), e.Err)
}

// Unwrap returns the reason code, if there is one, and Err.
func (e *DisconnectError) Unwrap() []error { return e.unwrap(e.Err) }

// PublishError is a message that was refused: by the server or, if Local is set, by this client, because the server had
// announced in CONNACK that it does not accept such messages.
type PublishError struct {
	Topic string
	Local bool // it was not sent
	Refusal
}

func (e *PublishError) Error() string {
	return fmt.Sprintf("mqtt: publishing to %q%s", e.Topic, join(e.text(), nil))
}

// Unwrap returns the reason code.
func (e *PublishError) Unwrap() []error { return e.unwrap(nil) }

// SubscribeError names the refused filters of a Subscribe, or those that could not be unsubscribed. Filters of the same
// Subscribe that were accepted are unsubscribed again.
type SubscribeError struct {
	Failures       []FilterError
	UserProperties UserProperties // of all SUBACKs or UNSUBACKs, also of those without a failure
}

// FilterError is one refused filter.
type FilterError struct {
	Filter string
	Code   ReasonCode
	Reason string // the Reason String, for people
}

func (e *SubscribeError) Error() string {
	var b strings.Builder
	b.WriteString("mqtt: refused")
	for i, f := range e.Failures {
		if i > 0 {
			b.WriteByte(',')
		}
		r := Refusal{Code: f.Code, Reason: f.Reason}
		fmt.Fprintf(&b, " filter %q%s", f.Filter, join(r.text(), nil))
	}
	return b.String()
}

// Unwrap returns the reason codes.
func (e *SubscribeError) Unwrap() (errs []error) {
	for _, f := range e.Failures {
		errs = append(errs, f.Code)
	}
	return errs
}

// TopicError is a topic name or topic filter that breaks the rules (section 4.7). Nothing was sent.
type TopicError struct {
	Topic  string
	Filter bool
	Rule   string // the statement of the specification and its number
}

func (e *TopicError) Error() string {
	what := "topic name"
	if e.Filter {
		what = "topic filter"
	}
	return fmt.Sprintf("mqtt: %s %q: %s", what, shorten(e.Topic), e.Rule)
}

func topicError(name string, filter bool, err error) error {
	if err == nil {
		return nil
	}
	rule := err.Error()
	var e *topic.Error
	if errors.As(err, &e) {
		rule = e.Text + " [" + e.Rule + "]"
	}
	return &notSent{&TopicError{Topic: name, Filter: filter, Rule: rule}}
}

// shorten cuts a very long topic, which would fill a log.
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// PacketError is a packet that breaks the specification.
type PacketError struct {
	Packet string     // "PUBLISH"
	Code   ReasonCode // of the DISCONNECT that it was answered with
	Rule   string     // "MQTT-3.3.1-4", or a section
	Err    error
}

func (e *PacketError) Error() string { return "mqtt: bad packet from the server: " + e.Err.Error() }

// Unwrap returns the reason code and Err.
func (e *PacketError) Unwrap() []error { return []error{e.Code, e.Err} }

// packetError makes the public error of a packet that the codec or another check refused.
func packetError(e *codec.Error) *PacketError {
	return &PacketError{Packet: e.Packet.String(), Code: ReasonCode(e.Code), Rule: e.Rule, Err: e}
}

// join formats what follows the subject in an error's text.
func join(text string, err error) string {
	var b strings.Builder
	if text != "" {
		b.WriteString(": " + text)
	}
	if err != nil {
		b.WriteString(": " + err.Error())
	}
	return b.String()
}
