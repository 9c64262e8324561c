package main

import (
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// propertyFlags are the MQTT 5 properties of a message.
type propertyFlags struct {
	utf8            bool
	expiry          wholeSeconds
	contentType     string
	responseTopic   topicName
	correlationData bytesFlag
	user            properties
}

// add adds the flags to a group, their names with a prefix.
func (p *propertyFlags) add(g *group, prefix, whose string) {
	g.Var(&p.responseTopic, prefix+"response-topic", "the topic for replies to it")
	g.Var(&p.correlationData, prefix+"correlation-data", "what a reply has to repeat: text, or hexadecimal after 0x")
	g.only5(prefix+"response-topic", prefix+"correlation-data")
	p.addForReply(g, prefix, whose)
}

// addForReply is add for replies, whose address is that of the request.
func (p *propertyFlags) addForReply(g *group, prefix, whose string) {
	expiry := prefix + "expiry"
	if prefix == "" {
		expiry = "message-expiry"
	}
	g.StringVar(&p.contentType, prefix+"content-type", "", whose+"content `TYPE`")
	g.Var(&p.expiry, expiry, "how long it is of use (default for ever)")
	g.BoolVar(&p.utf8, prefix+"utf8", false, "say that the payload is text")
	g.Var(&p.user, prefix+"user-property", whose+"user property; may be repeated")
	for _, name := range []string{"content-type", "utf8", "user-property"} {
		g.only5(prefix + name)
	}
	g.only5(expiry)
}

// publish returns the properties, nil if there are none.
func (p *propertyFlags) publish() *mqtt.PublishProperties {
	if !p.utf8 && p.expiry == 0 && p.contentType == "" && p.responseTopic == "" && p.correlationData == nil && p.user == nil {
		return nil
	}
	return &mqtt.PublishProperties{
		UTF8Payload:     p.utf8,
		MessageExpiry:   time.Duration(p.expiry),
		ContentType:     p.contentType,
		ResponseTopic:   string(p.responseTopic),
		CorrelationData: p.correlationData,
		UserProperties:  mqtt.UserProperties(p.user),
	}
}
