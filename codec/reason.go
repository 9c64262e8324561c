package codec

import "fmt"

// ReasonCode is the result of an operation, section 2.4. In MQTT 3.1.1 it stands for the return codes of CONNACK, translated
// by FromReturnCode, and for those of SUBACK, which are the same numbers.
type ReasonCode byte

// The reason codes, with the specification's names. Three of them share 0x00.
const (
	Success                             ReasonCode = 0x00
	NormalDisconnection                 ReasonCode = 0x00
	GrantedQoS0                         ReasonCode = 0x00
	GrantedQoS1                         ReasonCode = 0x01
	GrantedQoS2                         ReasonCode = 0x02
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

// Sets of packets that share a table of reason codes.
const (
	inPubackPubrec  = inPuback | inPubrec
	inPubrelPubcomp = inPubrel | inPubcomp
)

// reasonCodes says which packets may carry a code, and its name.
// [MQTT-2.4]
var reasonCodes = [...]struct {
	packets packets
	name    string
}{
	Success:                             {inConnack | inPubackPubrec | inPubrelPubcomp | inSuback | inUnsuback | inDisconnect | inAuth, "Success"},
	GrantedQoS1:                         {inSuback, "Granted QoS 1"},
	GrantedQoS2:                         {inSuback, "Granted QoS 2"},
	DisconnectWithWill:                  {inDisconnect, "Disconnect with Will Message"},
	NoMatchingSubscribers:               {inPubackPubrec, "No matching subscribers"},
	NoSubscriptionExisted:               {inUnsuback, "No subscription existed"},
	ContinueAuthentication:              {inAuth, "Continue authentication"},
	ReAuthenticate:                      {inAuth, "Re-authenticate"},
	UnspecifiedError:                    {inConnack | inPubackPubrec | inSuback | inUnsuback | inDisconnect, "Unspecified error"},
	MalformedPacket:                     {inConnack | inDisconnect, "Malformed Packet"},
	ProtocolError:                       {inConnack | inDisconnect, "Protocol Error"},
	ImplementationSpecificError:         {inConnack | inPubackPubrec | inSuback | inUnsuback | inDisconnect, "Implementation specific error"},
	UnsupportedProtocolVersion:          {inConnack, "Unsupported Protocol Version"},
	ClientIdentifierNotValid:            {inConnack, "Client Identifier not valid"},
	BadUserNameOrPassword:               {inConnack, "Bad User Name or Password"},
	NotAuthorized:                       {inConnack | inPubackPubrec | inSuback | inUnsuback | inDisconnect, "Not authorized"},
	ServerUnavailable:                   {inConnack, "Server unavailable"},
	ServerBusy:                          {inConnack | inDisconnect, "Server busy"},
	Banned:                              {inConnack, "Banned"},
	ServerShuttingDown:                  {inDisconnect, "Server shutting down"},
	BadAuthenticationMethod:             {inConnack | inDisconnect, "Bad authentication method"},
	KeepAliveTimeout:                    {inDisconnect, "Keep Alive timeout"},
	SessionTakenOver:                    {inDisconnect, "Session taken over"},
	TopicFilterInvalid:                  {inSuback | inUnsuback | inDisconnect, "Topic Filter invalid"},
	TopicNameInvalid:                    {inConnack | inPubackPubrec | inDisconnect, "Topic Name invalid"},
	PacketIdentifierInUse:               {inPubackPubrec | inSuback | inUnsuback, "Packet Identifier in use"},
	PacketIdentifierNotFound:            {inPubrelPubcomp, "Packet Identifier not found"},
	ReceiveMaximumExceeded:              {inDisconnect, "Receive Maximum exceeded"},
	TopicAliasInvalid:                   {inDisconnect, "Topic Alias invalid"},
	PacketTooLarge:                      {inConnack | inDisconnect, "Packet too large"},
	MessageRateTooHigh:                  {inDisconnect, "Message rate too high"},
	QuotaExceeded:                       {inConnack | inPubackPubrec | inSuback | inDisconnect, "Quota exceeded"},
	AdministrativeAction:                {inDisconnect, "Administrative action"},
	PayloadFormatInvalid:                {inConnack | inPubackPubrec | inDisconnect, "Payload format invalid"},
	RetainNotSupported:                  {inConnack | inDisconnect, "Retain not supported"},
	QoSNotSupported:                     {inConnack | inDisconnect, "QoS not supported"},
	UseAnotherServer:                    {inConnack | inDisconnect, "Use another server"},
	ServerMoved:                         {inConnack | inDisconnect, "Server moved"},
	SharedSubscriptionsNotSupported:     {inSuback | inDisconnect, "Shared Subscriptions not supported"},
	ConnectionRateExceeded:              {inConnack | inDisconnect, "Connection rate exceeded"},
	MaximumConnectTime:                  {inDisconnect, "Maximum connect time"},
	SubscriptionIdentifiersNotSupported: {inSuback | inDisconnect, "Subscription Identifiers not supported"},
	WildcardSubscriptionsNotSupported:   {inSuback | inDisconnect, "Wildcard Subscriptions not supported"},
}

// String returns the specification's words, "Malformed Packet", or the number of an unknown code, "0x7F".
func (r ReasonCode) String() string {
	if int(r) < len(reasonCodes) && reasonCodes[r].name != "" {
		return reasonCodes[r].name
	}
	return fmt.Sprintf("0x%02X", byte(r))
}

// Failed reports whether the code is 0x80 or above.
func (r ReasonCode) Failed() bool { return r >= 0x80 }

// in reports whether a packet of MQTT 5.0 may carry the code.
func (r ReasonCode) in(p packets) bool {
	return int(r) < len(reasonCodes) && reasonCodes[r].packets&p != 0
}

// returnCodes are the return codes of CONNACK in MQTT 3.1.1, section 3.2.2.3.
var returnCodes = [...]ReasonCode{
	Success, UnsupportedProtocolVersion, ClientIdentifierNotValid, ServerUnavailable, BadUserNameOrPassword, NotAuthorized,
}

// noReturnCode stands for a reason code that MQTT 3.1.1 cannot say.
const noReturnCode = 0xFF

// FromReturnCode translates a return code of CONNACK in MQTT 3.1.1. Codes above 5 are reserved: they become
// UnspecifiedError.
func FromReturnCode(code byte) ReasonCode {
	if int(code) < len(returnCodes) {
		return returnCodes[code]
	}
	return UnspecifiedError
}

// ReturnCode is the inverse of FromReturnCode. It returns 0xFF for a code that MQTT 3.1.1 does not have.
func (r ReasonCode) ReturnCode() byte {
	for i, code := range returnCodes {
		if code == r {
			return byte(i)
		}
	}
	return noReturnCode
}
