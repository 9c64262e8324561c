package mqtt

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// UserProperty is a name-value pair.
type UserProperty = codec.UserProperty

// UserProperties keep their order, and a name may occur several times. Get returns the first value of a name.
type UserProperties = codec.UserProperties

// PublishProperties are the MQTT 5 properties of a message (section 3.3.2.3). A pointer to it is a publish option; nil
// means no properties. Of several in one call each sets the fields that are not zero, and user properties are appended. The
// client may read the slices until Publish has returned, or the Delivery is done.
//
// Topic alias and subscription identifiers are not among them, because the client handles those itself. So the
// properties of a received message can be used to publish another one.
type PublishProperties struct {
	// UTF8Payload says that the payload is UTF-8 text (Payload Format Indicator). It is not checked.
	UTF8Payload bool
	// MessageExpiry is how long the message is valid, counted from the publish; time in a queue is subtracted. 0 means
	// for ever. It is rounded up to whole seconds, at most 4,294,967,295. A message with a negative value or one below
	// 1 ms has expired already.
	MessageExpiry time.Duration
	ContentType   string // "": none
	ResponseTopic string // "": none
	// CorrelationData is at most 65,535 bytes; nil: none.
	CorrelationData []byte
	UserProperties  UserProperties
}

// WillProperties are the MQTT 5 properties of a will (section 3.1.3.2), see PublishProperties.
type WillProperties struct {
	// WillDelay is how long the server waits before it publishes the will, in whole seconds.
	WillDelay       time.Duration
	UTF8Payload     bool
	MessageExpiry   time.Duration
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UserProperties  UserProperties
}

// SubscribeProperties is a subscribe option of MQTT 5 (section 3.8.2.1).
type SubscribeProperties struct{ UserProperties UserProperties }

// UnsubscribeProperties is a subscribe option of MQTT 5: the properties of the UNSUBSCRIBE that ends the subscription
// (section 3.10.2.1). They are left out if the packet would be larger than the server accepts.
type UnsubscribeProperties struct{ UserProperties UserProperties }

// DisconnectProperties is an option of Disconnect (section 3.14.2.2).
type DisconnectProperties struct {
	ReasonString   string
	UserProperties UserProperties
}

// ConnAck is the server's CONNACK (section 3.2), with the specification's defaults for what it leaves out.
type ConnAck struct {
	SessionPresent          bool
	ClientID                string        // given, or assigned by the server
	KeepAlive               time.Duration // 0: off
	SessionExpiry           time.Duration
	ReceiveMaximum          uint16 // of the server
	MaximumQoS              QoS
	MaximumPacketSize       uint32 // bytes; 0: no limit
	TopicAliasMaximum       uint16
	RetainAvailable         bool
	WildcardSubscriptions   bool
	SubscriptionIdentifiers bool
	SharedSubscriptions     bool
	ResponseInformation     string
	ServerReference         string
	ReasonString            string
	AuthenticationMethod    string
	AuthenticationData      []byte
	UserProperties          UserProperties
}
