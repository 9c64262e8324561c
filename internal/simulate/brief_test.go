package simulate_test

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/petrel-mqtt/mqtt/codec"
)

// brief says what a packet is, in a line of the report.
func brief(packet codec.Packet) string {
	name := packet.Type().String()
	switch p := packet.(type) {
	case *codec.Connect:
		return fmt.Sprintf("%s clean %v", name, p.CleanStart)
	case *codec.Connack:
		return fmt.Sprintf("%s %v present %v maximum %d", name, p.Code, p.SessionPresent, p.Properties.ReceiveMaximum)
	case *codec.Publish:
		return briefPublish(p)
	case *codec.Puback:
		return fmt.Sprintf("%s %d %v", name, p.PacketID, p.Code)
	case *codec.Pubrec:
		return fmt.Sprintf("%s %d %v", name, p.PacketID, p.Code)
	case *codec.Pubrel:
		return fmt.Sprintf("%s %d %v", name, p.PacketID, p.Code)
	case *codec.Pubcomp:
		return fmt.Sprintf("%s %d %v", name, p.PacketID, p.Code)
	case *codec.Subscribe:
		var filters []string
		for _, f := range p.Filters {
			filters = append(filters, fmt.Sprintf("%s q%d rh%d", f.Filter, f.QoS, f.RetainHandling))
		}
		return fmt.Sprintf("%s %d %s id%d", name, p.PacketID, strings.Join(filters, ", "), p.SubscriptionIdentifier)
	case *codec.Suback:
		return fmt.Sprintf("%s %d %v", name, p.PacketID, p.Codes)
	case *codec.Unsubscribe:
		return fmt.Sprintf("%s %d %s", name, p.PacketID, strings.Join(p.Filters, ", "))
	case *codec.Unsuback:
		return fmt.Sprintf("%s %d %v", name, p.PacketID, p.Codes)
	case *codec.Disconnect:
		return fmt.Sprintf("%s %v", name, p.Code)
	}
	return name
}

// briefPublish shows a PUBLISH with its number, which begins the payload.
func briefPublish(p *codec.Publish) string {
	number, _, _ := bytes.Cut(p.Payload, []byte(" "))
	s := fmt.Sprintf("PUBLISH %d %s#%.20s q%d", p.PacketID, p.Topic, number, p.QoS)
	if p.Dup {
		s += " dup"
	}
	if p.Retain {
		s += " retain"
	}
	if len(p.SubscriptionIdentifiers) > 0 {
		s += fmt.Sprint(" ids", p.SubscriptionIdentifiers)
	}
	return s
}
