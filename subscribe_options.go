package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/route"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// SubscribeOptionV5 is an option of one MQTT 5 subscription: every SubscribeOption, SubscribeFlag, RetainHandling,
// SubscriptionIdentifier, *SubscribeProperties and *UnsubscribeProperties.
type SubscribeOptionV5 interface {
	subscribeV5(*subscribeOptions)
}

// SubscribeOption is an option of one subscription, in either version: QoS, AckMode, Overflow, Also, Buffer,
// SubscribeOptions.
type SubscribeOption interface {
	SubscribeOptionV5
	subscribeV311()
}

// SubscribeOptions is a slice of options that is itself one option, so that shared code can pass options to a client of
// either version.
type SubscribeOptions []SubscribeOption

// SubscribeOptionsV5 is a slice of options of MQTT 5 that is itself one option.
type SubscribeOptionsV5 []SubscribeOptionV5

// AckMode is a subscribe option: when messages at QoS 1 and 2 are acknowledged.
type AckMode uint8

const (
	AutoAck   AckMode = iota // when the consumer is done with the message; see All, Batches, Handle, Next and Messages
	ManualAck                // only by Message.Ack and Message.Reject
)

func (m AckMode) String() string {
	if m == ManualAck {
		return "manual"
	}
	return "automatic"
}

// MarshalText returns the text of String, for logs.
func (m AckMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Overflow is a subscribe option: what happens to QoS 0 messages that find the buffer full.
type Overflow uint8

const (
	DropOldest Overflow = iota // the oldest message is dropped
	DropNewest                 // the new message is dropped
	// Block makes the whole connection wait, with acknowledgements and all other subscriptions. Before SUBACK, and after
	// Unsubscribe was called, it works as DropOldest.
	Block
)

// SubscribeFlag is a subscribe option of MQTT 5 (section 3.8.3.1), for all filters of the subscription.
type SubscribeFlag uint8

const (
	NoLocal           SubscribeFlag = 1 << iota // do not deliver what this client publishes itself
	RetainAsPublished                           // keep the RETAIN flag of messages
	// NoRetainedOnResubscribe asks for no retained messages when the subscription is made again after the server has
	// lost the session. Without it they are sent again as at the Subscribe.
	NoRetainedOnResubscribe
)

// RetainHandling is a subscribe option of MQTT 5, with the values of the specification (section 3.8.3.1): whether the
// server sends retained messages after SUBSCRIBE.
type RetainHandling uint8

const (
	SendRetained      RetainHandling = iota // always
	SendRetainedIfNew                       // unless the subscription exists
	SkipRetained                            // never
)

// SubscriptionIdentifier is a subscribe option of MQTT 5: this identifier, 1 to 268,435,455, instead of those that the
// client chooses (section 3.8.2.1.2). The client counts from 1 upwards, so choose a large one: if two filters have the
// same identifier, the client cannot tell for which of them the server sends a copy of a message, and each copy reaches
// both subscriptions.
type SubscriptionIdentifier uint32

type (
	also         filterRequest
	buffer       int
	endIfStalled time.Duration
)

// filterRequest is one filter that a Subscribe asks for.
type filterRequest struct {
	filter string
	qos    QoS
}

// Also adds filters, with a QoS of their own, to a subscription.
func Also(qos QoS, filters ...string) SubscribeOption {
	opts := make(SubscribeOptions, len(filters))
	for i, f := range filters {
		opts[i] = also{f, qos}
	}
	return opts
}

// Buffer sets how many messages at QoS 0 may wait in the subscription's line, 1 or more. The default is 1,000. Messages
// wait in line when the subscription's channel is full, whose capacity is the same number, at most 64. Messages at QoS
// 1 and 2 wait in the same line and are not counted, because the Receive Maximum bounds them.
func Buffer(n int) SubscribeOption { return buffer(n) }

// maxIdentifier is the largest subscription identifier.
const maxIdentifier = 268_435_455

// EndIfStalled ends the subscription with ErrSlowConsumer when one of its messages has been the client's oldest
// unacknowledged message for the time d. The time goes on after a reconnect; the time without a connection does
// not count. Such a message holds up the acknowledgements of all later messages, and finally the server sends no more.
// Messages in the line are refused with reason code 0x97 (acknowledged on 3.1.1) and counted as dropped. d is positive.
// Without this option a subscription may hold up the others for ever. With ManualAck, a message that the application
// works on counts as well.
func EndIfStalled(d time.Duration) SubscribeOption { return endIfStalled(d) }

const (
	defaultBuffer   = 1000
	channelCapacity = 64 // a larger channel is not faster, and each element takes 160 bytes
)

// subscribeOptions is the result of the options of one subscription.
type subscribeOptions struct {
	qos         QoS
	also        []filterRequest
	ack         AckMode
	overflow    Overflow
	buffer      int
	stalled     *time.Duration // of EndIfStalled; nil: not given
	flags       SubscribeFlag
	retain      RetainHandling
	identifier  *SubscriptionIdentifier // nil: the client chooses
	properties  SubscribeProperties
	unsubscribe UnsubscribeProperties
}

func (o SubscribeOptions) subscribeV5(s *subscribeOptions)   { subscribeAll(s, o) }
func (o SubscribeOptionsV5) subscribeV5(s *subscribeOptions) { subscribeAll(s, o) }

// subscribeAll applies options, without those that are nil.
func subscribeAll[O SubscribeOptionV5](s *subscribeOptions, opts []O) {
	for _, opt := range opts {
		if any(opt) != nil {
			opt.subscribeV5(s)
		}
	}
}

func (q QoS) subscribeV5(s *subscribeOptions)                    { s.qos = q }
func (a also) subscribeV5(s *subscribeOptions)                   { s.also = append(s.also, filterRequest(a)) }
func (m AckMode) subscribeV5(s *subscribeOptions)                { s.ack = m }
func (p Overflow) subscribeV5(s *subscribeOptions)               { s.overflow = p }
func (n buffer) subscribeV5(s *subscribeOptions)                 { s.buffer = int(n) }
func (d endIfStalled) subscribeV5(s *subscribeOptions)           { s.stalled = (*time.Duration)(&d) }
func (f SubscribeFlag) subscribeV5(s *subscribeOptions)          { s.flags |= f }
func (h RetainHandling) subscribeV5(s *subscribeOptions)         { s.retain = h }
func (i SubscriptionIdentifier) subscribeV5(s *subscribeOptions) { s.identifier = &i }
func (p *SubscribeProperties) subscribeV5(s *subscribeOptions) {
	if p != nil {
		s.properties.UserProperties = slices.Clone(p.UserProperties)
	}
}

func (p *UnsubscribeProperties) subscribeV5(s *subscribeOptions) {
	if p != nil {
		s.unsubscribe.UserProperties = slices.Clone(p.UserProperties)
	}
}

func (SubscribeOptions) subscribeV311() {}
func (QoS) subscribeV311()              {}
func (also) subscribeV311()             {}
func (AckMode) subscribeV311()          {}
func (Overflow) subscribeV311()         {}
func (buffer) subscribeV311()           {}
func (endIfStalled) subscribeV311()     {}

// server returns the options that the server gets to see, and that all subscriptions to a filter have in common.
func (o *subscribeOptions) server() route.Options {
	return route.Options{NoLocal: o.flags&NoLocal != 0, RetainAsPublished: o.flags&RetainAsPublished != 0}
}

// parseSubscribe reads and checks the options of a subscription to filter and returns its filters.
func parseSubscribe[O SubscribeOptionV5](filter string, opts []O) (o subscribeOptions, filters []filterRequest, err error) {
	o.buffer = defaultBuffer
	subscribeAll(&o, opts)
	filters = append([]filterRequest{{filter, o.qos}}, o.also...)
	return o, filters, o.check(filters)
}

func (o *subscribeOptions) check(filters []filterRequest) error {
	switch {
	case o.buffer < 1:
		return errors.New("mqtt: Buffer: less than 1")
	case o.stalled != nil && *o.stalled <= 0:
		return errors.New("mqtt: EndIfStalled: not positive")
	case o.ack > ManualAck:
		return fmt.Errorf("mqtt: AckMode %d does not exist", o.ack)
	case o.overflow > Block:
		return fmt.Errorf("mqtt: Overflow %d does not exist", o.overflow)
	case o.flags&^(NoLocal|RetainAsPublished|NoRetainedOnResubscribe) != 0:
		return fmt.Errorf("mqtt: SubscribeFlag %#x does not exist", uint8(o.flags))
	case o.retain > SkipRetained:
		return fmt.Errorf("mqtt: RetainHandling %d does not exist", o.retain)
	case o.identifier != nil && (*o.identifier < 1 || *o.identifier > maxIdentifier):
		return fmt.Errorf("mqtt: SubscriptionIdentifier: %d is not between 1 and %d", *o.identifier, maxIdentifier)
	}
	for _, u := range []UserProperties{o.properties.UserProperties, o.unsubscribe.UserProperties} {
		probe := codec.Unsubscribe{PacketID: 1, Filters: []string{"probe"}, UserProperties: u}
		if _, err := probe.Append(nil, codec.V5); err != nil {
			return fmt.Errorf("mqtt: user properties of a subscription: %w", err)
		}
	}
	seen := make(map[string]bool, len(filters))
	for _, f := range filters {
		if err := o.checkFilter(f); err != nil {
			return err
		}
		if seen[f.filter] {
			return fmt.Errorf("mqtt: filter %q stands twice in one subscription", f.filter)
		}
		seen[f.filter] = true
	}
	return nil
}

func (o *subscribeOptions) checkFilter(f filterRequest) error {
	if err := topic.CheckFilter(f.filter); err != nil {
		return topicError(f.filter, true, err)
	}
	if f.qos > ExactlyOnce {
		return fmt.Errorf("mqtt: filter %q: %v does not exist", f.filter, f.qos) // [MQTT-3.8.3-5]
	}
	if o.flags&NoLocal != 0 && topic.Shared(f.filter) {
		return fmt.Errorf("mqtt: filter %q: a shared subscription has no No Local [MQTT-3.8.3-4]", f.filter)
	}
	return nil
}
