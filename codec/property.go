package codec

import "slices"

// packets is a set of Control Packet types, a bit for each. A will, which has properties of its own, takes the bit of
// the type that does not exist.
type packets uint16

const (
	inWill        packets = 1 << 0
	inConnect     packets = 1 << CONNECT
	inConnack     packets = 1 << CONNACK
	inPublish     packets = 1 << PUBLISH
	inPuback      packets = 1 << PUBACK
	inPubrec      packets = 1 << PUBREC
	inPubrel      packets = 1 << PUBREL
	inPubcomp     packets = 1 << PUBCOMP
	inSubscribe   packets = 1 << SUBSCRIBE
	inSuback      packets = 1 << SUBACK
	inUnsubscribe packets = 1 << UNSUBSCRIBE
	inUnsuback    packets = 1 << UNSUBACK
	inDisconnect  packets = 1 << DISCONNECT
	inAuth        packets = 1 << AUTH
)

// Property identifiers, section 2.2.2.2.
const (
	propPayloadFormatIndicator          = 0x01
	propMessageExpiryInterval           = 0x02
	propContentType                     = 0x03
	propResponseTopic                   = 0x08
	propCorrelationData                 = 0x09
	propSubscriptionIdentifier          = 0x0B
	propSessionExpiryInterval           = 0x11
	propAssignedClientIdentifier        = 0x12
	propServerKeepAlive                 = 0x13
	propAuthenticationMethod            = 0x15
	propAuthenticationData              = 0x16
	propRequestProblemInformation       = 0x17
	propWillDelayInterval               = 0x18
	propRequestResponseInformation      = 0x19
	propResponseInformation             = 0x1A
	propServerReference                 = 0x1C
	propReasonString                    = 0x1F
	propReceiveMaximum                  = 0x21
	propTopicAliasMaximum               = 0x22
	propTopicAlias                      = 0x23
	propMaximumQoS                      = 0x24
	propRetainAvailable                 = 0x25
	propUserProperty                    = 0x26
	propMaximumPacketSize               = 0x27
	propWildcardSubscriptionAvailable   = 0x28
	propSubscriptionIdentifierAvailable = 0x29
	propSharedSubscriptionAvailable     = 0x2A
)

// kind is the type of a property's value. Every property of one byte is 0 or 1.
type kind byte

const (
	kindNone kind = iota
	kindFlag
	kindUint16
	kindUint32
	kindVarint
	kindText
	kindBinary
	kindPair
)

// propertyTable says, by identifier, what type a property has, which packets may carry it, and in which of them it
// may stand more than once. The section is the one that describes it.
// [MQTT-2.2.2.2a] [MQTT-2.2.2.2b]
var propertyTable = [...]struct {
	kind    kind
	packets packets
	repeats packets
	section string
	name    string
}{
	propPayloadFormatIndicator:          {kindFlag, inPublish | inWill, 0, "3.3.2.3.2", "Payload Format Indicator"},
	propMessageExpiryInterval:           {kindUint32, inPublish | inWill, 0, "3.3.2.3.3", "Message Expiry Interval"},
	propContentType:                     {kindText, inPublish | inWill, 0, "3.3.2.3.9", "Content Type"},
	propResponseTopic:                   {kindText, inPublish | inWill, 0, "3.3.2.3.5", "Response Topic"},
	propCorrelationData:                 {kindBinary, inPublish | inWill, 0, "3.3.2.3.6", "Correlation Data"},
	propSubscriptionIdentifier:          {kindVarint, inPublish | inSubscribe, inPublish, "3.8.2.1.2", "Subscription Identifier"},
	propSessionExpiryInterval:           {kindUint32, inConnect | inConnack | inDisconnect, 0, "3.1.2.11.2", "Session Expiry Interval"},
	propAssignedClientIdentifier:        {kindText, inConnack, 0, "3.2.2.3.7", "Assigned Client Identifier"},
	propServerKeepAlive:                 {kindUint16, inConnack, 0, "3.2.2.3.14", "Server Keep Alive"},
	propAuthenticationMethod:            {kindText, inConnect | inConnack | inAuth, 0, "3.1.2.11.9", "Authentication Method"},
	propAuthenticationData:              {kindBinary, inConnect | inConnack | inAuth, 0, "3.1.2.11.10", "Authentication Data"},
	propRequestProblemInformation:       {kindFlag, inConnect, 0, "3.1.2.11.7", "Request Problem Information"},
	propWillDelayInterval:               {kindUint32, inWill, 0, "3.1.3.2.2", "Will Delay Interval"},
	propRequestResponseInformation:      {kindFlag, inConnect, 0, "3.1.2.11.6", "Request Response Information"},
	propResponseInformation:             {kindText, inConnack, 0, "3.2.2.3.15", "Response Information"},
	propServerReference:                 {kindText, inConnack | inDisconnect, 0, "3.2.2.3.16", "Server Reference"},
	propReasonString:                    {kindText, inReasoned, 0, "3.2.2.3.9", "Reason String"},
	propReceiveMaximum:                  {kindUint16, inConnect | inConnack, 0, "3.1.2.11.3", "Receive Maximum"},
	propTopicAliasMaximum:               {kindUint16, inConnect | inConnack, 0, "3.1.2.11.5", "Topic Alias Maximum"},
	propTopicAlias:                      {kindUint16, inPublish, 0, "3.3.2.3.4", "Topic Alias"},
	propMaximumQoS:                      {kindFlag, inConnack, 0, "3.2.2.3.4", "Maximum QoS"},
	propRetainAvailable:                 {kindFlag, inConnack, 0, "3.2.2.3.5", "Retain Available"},
	propUserProperty:                    {kindPair, inPropertied, inPropertied, "3.1.2.11.8", "User Property"},
	propMaximumPacketSize:               {kindUint32, inConnect | inConnack, 0, "3.1.2.11.4", "Maximum Packet Size"},
	propWildcardSubscriptionAvailable:   {kindFlag, inConnack, 0, "3.2.2.3.11", "Wildcard Subscription Available"},
	propSubscriptionIdentifierAvailable: {kindFlag, inConnack, 0, "3.2.2.3.12", "Subscription Identifier Available"},
	propSharedSubscriptionAvailable:     {kindFlag, inConnack, 0, "3.2.2.3.13", "Shared Subscription Available"},
}

const (
	// inReasoned are the packets that answer, and so may carry a Reason String.
	inReasoned = inConnack | inPuback | inPubrec | inPubrel | inPubcomp | inSuback | inUnsuback | inDisconnect | inAuth
	// inPropertied are the packets that have properties at all.
	inPropertied = inReasoned | inConnect | inWill | inPublish | inSubscribe | inUnsubscribe
)

// MaxProperties is how many properties one packet may have. Only user properties and subscription identifiers can be so many.
// The specification has no bound. Without one, any publisher could send 16 MiB of empty user properties to any subscriber, and
// they would take a hundred MiB and a second to decode. A packet with more properties is an [*Error] with PacketTooLarge.
const MaxProperties = 16_384

// UserProperty is one name-value pair, section 3.1.2.11.8. ValidString must hold for both halves.
type UserProperty struct{ Key, Value string }

// UserProperties are pairs in the order sent, repeats kept.
type UserProperties []UserProperty

// Get returns the value of the first pair with the key, and whether there is one.
func (u UserProperties) Get(key string) (value string, ok bool) {
	for i := range u {
		if u[i].Key == key {
			return u[i].Value, true
		}
	}
	return "", false
}

// All returns the values of all pairs with the key, in their order.
func (u UserProperties) All(key string) (values []string) {
	for i := range u {
		if u[i].Key == key {
			values = append(values, u[i].Value)
		}
	}
	return values
}

// Add appends a pair.
func (u *UserProperties) Add(key, value string) {
	*u = append(*u, UserProperty{Key: key, Value: value})
}

// Set removes all pairs with the key and appends one.
func (u *UserProperties) Set(key, value string) {
	*u = slices.DeleteFunc(slices.Clone(*u), func(p UserProperty) bool { return p.Key == key })
	u.Add(key, value)
}
