package mqtt

import (
	"fmt"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// Message is a message received, passed by value (160 bytes); copies share one acknowledgement.
type Message struct {
	Topic      string
	Payload    []byte            // the receiver's, which no other subscription sees
	QoS        QoS               // the lower of the message's own and the one granted to the subscription
	Retain     bool              // kept by the server from before the subscribe; see also RetainAsPublished
	Duplicate  bool              // the server sends it again; it need not have arrived before
	Properties PublishProperties // zero on 3.1.1; &m.Properties hands them on

	origin  *origin       // nil: nothing to acknowledge, no subscription identifiers
	expires time.Duration // on the client's clock; 0: never
}

// Ack acknowledges a message of a subscription with ManualAck. Acknowledgements leave in the order in which their
// messages came, whatever the order of the calls [MQTT-4.6.0-2]: a message that is never acknowledged holds up those
// behind it, on all subscriptions.
//
// Only the first of Ack and Reject counts, for all copies of the message. At QoS 0, and without ManualAck, there is
// nothing to do. A message of an earlier connection is acknowledged when the server sends it again, which is not
// delivered again. The error is ErrSessionLost when the server has lost the session that the message belongs to, or why
// the client ended.
func (m Message) Ack() error { return m.settle(nil) }

// Reject refuses a message of a subscription with ManualAck, with a reason code of 0x80 or more, a reason for people,
// which may be empty, and user properties. The server gets neither of the latter if they would make the packet larger
// than it takes. Every other subscription that got the message must refuse it too, or the server is told that it was
// accepted. MQTT 3.1.1 cannot say no: there it is Ack. The codes that the specification allows are UnspecifiedError,
// ImplementationSpecificError, NotAuthorized, TopicNameInvalid, PacketIdentifierInUse, QuotaExceeded and
// PayloadFormatInvalid. See Ack.
func (m Message) Reject(code ReasonCode, reason string, user ...UserProperty) error {
	switch code {
	case UnspecifiedError, ImplementationSpecificError, NotAuthorized, TopicNameInvalid, PacketIdentifierInUse,
		QuotaExceeded, PayloadFormatInvalid:
	default:
		return fmt.Errorf("mqtt: Reject: %v cannot refuse a message", code) // [MQTT-3.4.2-1]
	}
	probe := codec.Puback{PacketID: 1, Code: codec.ReasonCode(code), ReasonString: reason, UserProperties: user}
	if _, err := probe.Append(nil, codec.V5); err != nil {
		return fmt.Errorf("mqtt: Reject: %w", err)
	}
	return m.settle(&session.Reason{Code: codec.ReasonCode(code), String: reason, UserProperties: slices.Clone(user)})
}

// SubscriptionIdentifiers returns those that the server sent with the message (section 3.3.2.3.8), of all subscriptions
// of this client that it was for.
func (m Message) SubscriptionIdentifiers() []uint32 { return slices.Clone(m.origin.identifiers()) }
