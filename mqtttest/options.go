package mqtttest

import (
	"crypto/tls"
	"net/http"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Option configures a Broker.
type Option func(*settings)

// settings are what options set. They do not change once they are in use: Reconfigure makes new ones.
type settings struct {
	announced

	merge       bool  // one copy of a message for each session
	early       bool  // retained messages come before SUBACK
	aliases     bool  // use topic aliases if the client allows them
	shape       shape // of the connections of DialContext
	record      int
	waiting     int // maxWaitingBytes, less in tests of it
	tolerated   []string
	subscribers []string                // topic filters of the test
	changeTLS   func(*tls.Config)       // of the option; nil: nothing
	serverTLS   func() *tls.Config      // made when it is needed
	upgrade     func(*http.Request) int // nil: every request is welcome
	authorize   func(*codec.Connect) codec.ReasonCode
	auth        map[string]AuthStep
}

// announced is what CONNACK tells clients of MQTT 5.0.
type announced struct {
	receiveMaximum    uint16 // 0: not announced, 65,535
	maximumPacketSize uint32 // bytes; 0: no limit
	maximumQoS        byte
	topicAliasMaximum uint16
	keepAlive         *uint16 // seconds, instead of the client's
	sessionExpiry     *uint32 // seconds, the most that a client gets
	responseInfo      string

	noRetain, noWildcards, noShared, noIdentifiers bool
}

func defaults() settings {
	return settings{announced: announced{maximumQoS: 2, topicAliasMaximum: 10}, record: 100_000, waiting: maxWaitingBytes}
}

// ReceiveMaximum announces how many messages at QoS 1 and 2 a client of MQTT 5.0 may have unacknowledged, 1 to 65,535. It is
// 65,535 by default.
func ReceiveMaximum(n uint16) Option {
	return func(s *settings) { s.receiveMaximum = n }
}

// MaximumPacketSize announces to clients of MQTT 5.0 the largest packet that the broker takes, in bytes. There is no limit
// by default.
func MaximumPacketSize(bytes uint32) Option {
	return func(s *settings) { s.maximumPacketSize = bytes }
}

// MaximumQoS announces to clients of MQTT 5.0 that publishing above qos, 0 or 1, is not possible. Subscriptions of both
// versions are granted no more.
func MaximumQoS(qos byte) Option {
	return func(s *settings) { s.maximumQoS = min(qos, 2) }
}

// TopicAliasMaximum announces how many topic aliases a client may use. It is 10 by default; 0 is none.
func TopicAliasMaximum(n uint16) Option {
	return func(s *settings) { s.topicAliasMaximum = n }
}

// NoRetain announces to clients of MQTT 5.0 that retained messages are not available. Messages of MQTT 3.1.1 clients are
// treated as not retained.
func NoRetain() Option {
	return func(s *settings) { s.noRetain = true }
}

// NoWildcards announces that wildcard subscriptions are not available.
func NoWildcards() Option {
	return func(s *settings) { s.noWildcards = true }
}

// NoSharedSubscriptions announces that shared subscriptions are not available.
func NoSharedSubscriptions() Option {
	return func(s *settings) { s.noShared = true }
}

// NoSubscriptionIdentifiers announces that subscription identifiers are not available.
func NoSubscriptionIdentifiers() Option {
	return func(s *settings) { s.noIdentifiers = true }
}

// ServerKeepAlive makes clients of MQTT 5.0 use this keep alive, whole seconds up to 65,535, instead of their own; 0
// switches it off.
func ServerKeepAlive(d time.Duration) Option {
	seconds := uint16(d / time.Second)
	return func(s *settings) { s.keepAlive = &seconds }
}

// SessionExpiryLimit is the longest session expiry interval that a client of MQTT 5.0 gets, in whole seconds. There is no
// limit by default.
func SessionExpiryLimit(d time.Duration) Option {
	seconds := uint32(d / time.Second)
	return func(s *settings) { s.sessionExpiry = &seconds }
}

// ResponseInformation is what clients get that ask for it.
func ResponseInformation(info string) Option {
	return func(s *settings) { s.responseInfo = info }
}

// MergeOverlapping sends a client one copy of a message that matches several of its subscriptions, at the highest QoS and
// with all the subscription identifiers. By default each subscription gets a copy.
func MergeOverlapping() Option {
	return func(s *settings) { s.merge = true }
}

// MessagesBeforeSuback sends a subscription's retained messages before its SUBACK, as servers may (section 3.8.4). What waits
// in a session is sent after CONNACK in any case, whether or not the client subscribes again.
func MessagesBeforeSuback() Option {
	return func(s *settings) { s.early = true }
}

// UseTopicAliases sends topic aliases to clients that allow them.
func UseTopicAliases() Option {
	return func(s *settings) { s.aliases = true }
}

// Fragment lets a client that comes through DialContext read no more than n bytes at a time, so that packets arrive in
// pieces. With Coalesce, one read may have the end of a packet, whole ones, and the start of another.
func Fragment(n int) Option {
	return func(s *settings) { s.shape.fragment = n }
}

// Coalesce gathers what the broker sends to a client that comes through DialContext for d, from the first byte on, so that
// packets arrive together.
func Coalesce(d time.Duration) Option {
	return func(s *settings) { s.shape.coalesce = d }
}

// Bandwidth limits the connections of DialContext to a number of bytes per second in each direction; 0 is no limit. Throttle
// limits existing connections.
func Bandwidth(bytesPerSecond int) Option {
	return func(s *settings) { s.shape.rate = max(bytesPerSecond, 0) }
}

// Tolerate lets clients do what these statements forbid, such as "MQTT-4.4.0-1": it is no violation. Packets that cannot be
// decoded stay violations.
func Tolerate(rules ...string) Option {
	return func(s *settings) { s.tolerated = append(slices.Clip(s.tolerated), rules...) }
}

// Subscribers says that topics which match one of filters have a subscriber: the test, which learns from Await what is
// published. In MQTT 5.0, messages that nobody has subscribed to are acknowledged with 0x10, which a client may take for a failure.
func Subscribers(filters ...string) Option {
	checkFilters(filters)
	return func(s *settings) { s.subscribers = append(slices.Clip(s.subscribers), filters...) }
}

// KeepReceived is how many of the latest messages Received and Await know, 100,000 by default.
func KeepReceived(n int) Option {
	return func(s *settings) { s.record = max(n, 0) }
}

// Authorize asks f about each CONNECT, whose fields f must not change. A reason code of 0x80 and above refuses it. Calls may
// be concurrent.
func Authorize(f func(c *codec.Connect) codec.ReasonCode) Option {
	return func(s *settings) { s.authorize = f }
}
