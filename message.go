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
	Payload    []byte            // belongs to the receiver; other subscriptions have copies
	QoS        QoS               // the lower of the message's own and the one granted to the subscription
	Retain     bool              // the server had kept it from before the subscribe; see also RetainAsPublished
	Duplicate  bool              // the server sends it again, which does not mean that it arrived before
	Properties PublishProperties // zero on 3.1.1; &m.Properties is an option that publishes the same ones

	origin  *origin       // nil: nothing to acknowledge, no subscription identifiers
	expires time.Duration // on the client's clock; 0: never
}

// Ack acknowledges a message before its consumer is done with it, or one of a subscription with ManualAck.
// Acknowledgements leave in the order in which their messages came, whatever the order of the calls [MQTT-4.6.0-2]: a
// message that is never acknowledged holds up those behind it, on all subscriptions.
//
// Only the first of Ack and Reject counts, for all copies of the message. At QoS 0, and for a message that came through
// the channel of Messages without ManualAck, there is nothing to do. A message of an earlier connection is acknowledged
// when the server sends it again, which is not delivered again. The error is ErrSessionLost when the server has lost the
// session that the message belongs to, or why the client ended. After ErrSessionLost too the client does not deliver
// the message again; another session may.
func (m Message) Ack() error { return m.settle(nil) }

// Redeliver puts a message that is not acknowledged back in line after a time, in its place before all messages that were
// not delivered yet. In a loop of All or Batches the message is then not acknowledged when the body returns. Until it is
// delivered again and acknowledged it holds back the acknowledgements of later messages, as with Ack. When the
// subscription ends before, the message is acknowledged and counted as dropped.
//
// At QoS 0, and for a message that came through the channel of Messages without ManualAck, it does nothing. The error is as
// Ack's.
func (m Message) Redeliver(after time.Duration) error { return m.sleep(after) }

// Reject refuses a message that is not acknowledged, with a reason code of 0x80 or more, a reason for people,
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

// undecided reports whether the application may still acknowledge or reject a message. If not, the error says why; it
// is nil if the application has done so already.
// The caller holds mu.
func (o *origin) undecided() (bool, error) {
	switch in := o.sub.inbox; {
	case o.fate == fateSettled:
		return false, nil
	case in.err != nil:
		return false, in.err
	case o.receipt.Forgotten():
		return false, ErrSessionLost
	}
	return true, nil
}

func (m Message) settle(reason *session.Reason) error {
	o := m.origin
	if o == nil || o.receipt == nil {
		return nil
	}
	o.sub.lock()
	defer o.sub.unlock()
	ok, err := o.undecided()
	if !ok && err != ErrSessionLost {
		return err
	}
	if o.fate == fateAsleep {
		o.sub.cancelRedelivery(o)
	}
	if !ok {
		o.fate = fateTooLate // the server cannot be told; the application is done with the message
		return err
	}
	o.fate = fateSettled
	o.sub.inbox.settle(o.receipt, o.sub, reason)
	return nil
}

// cancelRedelivery forgets the redelivery of a message that is acknowledged instead.
// The caller holds mu.
func (s *Subscription) cancelRedelivery(o *origin) {
	s.line.asleep = slices.DeleteFunc(s.line.asleep, func(w *sleeper) bool {
		if w.message.origin != o {
			return false
		}
		w.timer.Stop()
		s.line.release(&w.entry)
		return true
	})
	s.line.noteMove()
}

// sleep puts a message that is not settled back in line after the time d.
func (m Message) sleep(d time.Duration) error {
	o := m.origin
	if o == nil || o.receipt == nil {
		return nil
	}
	s := o.sub
	s.lock()
	defer s.unlock()
	if ok, err := o.undecided(); !ok || o.fate == fateAsleep || s.ended {
		return err
	}
	o.fate = fateAsleep
	w := &sleeper{entry: entry{message: m, place: o.place, receipt: o.receipt}}
	s.line.count(&w.entry)
	s.line.asleep = append(s.line.asleep, w)
	w.timer = time.AfterFunc(d, func() { s.awake(w) })
	return nil
}

// awake puts a message back in line whose time is over.
func (s *Subscription) awake(w *sleeper) {
	s.lock()
	defer s.unlock()
	i := slices.Index(s.line.asleep, w)
	if i < 0 {
		return // the subscription has ended, or the message was acknowledged
	}
	s.line.asleep = slices.Delete(s.line.asleep, i, i+1)
	s.redeliver(&w.entry)
}
