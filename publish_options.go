package mqtt

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// QoS is a quality of service level (section 4.3). It is a publish option and a subscribe option.
type QoS uint8

// The levels of the specification. A server of MQTT 3.1.1 cannot announce that it knows no QoS 2. RabbitMQ answers a message at
// ExactlyOnce with PUBACK, as one at QoS 1: then the error is an ErrOutcomeUnknown, and errors.Is(err, QoSNotSupported) is true.
const (
	AtMostOnce QoS = iota
	AtLeastOnce
	ExactlyOnce
)

func (q QoS) String() string { return fmt.Sprintf("QoS %d", uint8(q)) }

// MarshalText returns the text of String, for logs.
func (q QoS) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// PublishOptionV5 is an option of one MQTT 5 publish: every PublishOption, and *PublishProperties.
type PublishOptionV5 interface {
	publishV5()
}

// PublishOption is an option of one publish, in either version: QoS, RetainFlag, StoreName, Forwards, PublishFlag, PublishOptions.
type PublishOption interface {
	PublishOptionV5
	publishV311()
}

// PublishOptions is a slice of options that is itself one option, so that shared code can pass options to a client of
// either version.
type PublishOptions []PublishOption

// PublishOptionsV5 is a slice of options of MQTT 5 that is itself one option.
type PublishOptionsV5 []PublishOptionV5

// RetainFlag is a publish option (section 3.3.1.3).
type RetainFlag bool

// Retain asks the server to keep the message for later subscribers; NoRetain overrides a topic default.
const (
	Retain   RetainFlag = true
	NoRetain RetainFlag = false
)

// StoreName is a publish option: a name that the application gives a message in a store, and finds again in Outstanding, also
// after a restart. It is at most 65,535 bytes, and need not be unique. Without WithStore it means nothing.
type StoreName string

// maxStoreName is the length of the longest StoreName, in bytes.
const maxStoreName = 65_535

// forwards is the option Forwards: the origin of the message that is passed on.
type forwards origin

// PublishFlag is a publish option.
type PublishFlag uint8

// QueueOffline lets a message at QoS 0 wait in the queue when there is no connection, as messages at the other levels do.
// Publish then waits too.
const QueueOffline PublishFlag = 1

func (QoS) publishV5()                {}
func (QoS) publishV311()              {}
func (RetainFlag) publishV5()         {}
func (RetainFlag) publishV311()       {}
func (StoreName) publishV5()          {}
func (StoreName) publishV311()        {}
func (*forwards) publishV5()          {}
func (*forwards) publishV311()        {}
func (PublishFlag) publishV5()        {}
func (PublishFlag) publishV311()      {}
func (PublishOptions) publishV5()     {}
func (PublishOptionsV5) publishV5()   {}
func (PublishOptions) publishV311()   {}
func (*PublishProperties) publishV5() {}

// publishOptions is the result of the options of one publish.
type publishOptions struct {
	qos        QoS
	retain     bool
	qosSet     bool
	retainSet  bool
	flags      PublishFlag
	name       StoreName
	forwards   *origin // nil: see Forwards
	properties *PublishProperties
	publishing *publishing // set by compose; nil: no hook wants to know the outcome
}

// addOptions applies options to o. It uses a type switch instead of a method of each option, because then o stays on
// the caller's stack.
func addOptions[O PublishOptionV5](o *publishOptions, opts []O) {
	for _, opt := range opts {
		switch v := any(opt).(type) {
		case QoS:
			o.qos, o.qosSet = v, true
		case RetainFlag:
			o.retain, o.retainSet = bool(v), true
		case StoreName:
			o.name = v
		case *forwards:
			o.forwards = (*origin)(v)
		case PublishFlag:
			o.flags |= v
		case *PublishProperties:
			o.addProperties(v)
		case PublishOptions:
			addOptions(o, v)
		case PublishOptionsV5:
			addOptions(o, v)
		}
	}
}

// addProperties merges properties into those of earlier options, field by field: a field that is set replaces the earlier
// value, and user properties are appended. The structs of the caller do not change.
func (o *publishOptions) addProperties(p *PublishProperties) {
	if o.properties == nil || p == nil {
		if p != nil {
			o.properties = p
		}
		return
	}
	m := *o.properties
	m.UTF8Payload = m.UTF8Payload || p.UTF8Payload
	m.MessageExpiry = cmp.Or(p.MessageExpiry, m.MessageExpiry)
	m.ContentType = cmp.Or(p.ContentType, m.ContentType)
	m.ResponseTopic = cmp.Or(p.ResponseTopic, m.ResponseTopic)
	if p.CorrelationData != nil {
		m.CorrelationData = p.CorrelationData
	}
	m.UserProperties = slices.Concat(m.UserProperties, p.UserProperties)
	o.properties = &m
}

// defaults sets what neither the options of the publish nor earlier defaults have set.
func (o *publishOptions) defaults(d *publishOptions) {
	if !o.qosSet && d.qosSet {
		o.qos, o.qosSet = d.qos, true
	}
	if !o.retainSet && d.retainSet {
		o.retain, o.retainSet = d.retain, true
	}
	o.flags |= d.flags
}

// applyDefaults applies the options of WithTopicDefaults.
func (c *config) applyDefaults(topicName string, o *publishOptions) {
	for i := len(c.topicDefaults) - 1; i >= 0; i-- { // by index: most do not match, and need not be copied
		if d := &c.topicDefaults[i]; topic.Match(d.filter, topicName) {
			o.defaults(&d.options)
		}
	}
}
