package codec

import "strings"

// Subscribe asks for subscriptions, section 3.8.
type Subscribe struct {
	PacketID               uint16 // not 0
	SubscriptionIdentifier uint32 // 1 to 268,435,455; 0: none; MQTT 5.0 only
	UserProperties         UserProperties
	Filters                []SubscribeFilter // at least one
}

// SubscribeFilter is one topic filter and its subscription options, section 3.8.3.1. MQTT 3.1.1 has the QoS only.
type SubscribeFilter struct {
	Filter            string // not empty; where its wildcards stand is not checked
	QoS               byte   // 0, 1 or 2
	NoLocal           bool   // not with a shared subscription
	RetainAsPublished bool
	RetainHandling    byte // 0, 1 or 2
}

// The subscription options, section 3.8.3.1.
const (
	optionQoS               = 0x03
	optionNoLocal           = 0x04
	optionRetainAsPublished = 0x08
	optionRetainHandling    = 0x30
	optionReserved          = 0xC0
)

// Type returns SUBSCRIBE.
func (p *Subscribe) Type() Type { return SUBSCRIBE }

// Append implements Packet.
func (p *Subscribe) Append(dst []byte, v Version) ([]byte, error) {
	w := newWriter(dst, SUBSCRIBE, v)
	w.packetID(p.PacketID, "MQTT-2.2.1-3", "MQTT-2.3.1-1")
	w.properties()
	if p.SubscriptionIdentifier != 0 {
		w.subscriptionIdentifier(p.SubscriptionIdentifier, "3.8.2.1.2")
	}
	w.userProperties(p.UserProperties)
	w.endProperties()
	if len(p.Filters) == 0 {
		w.failNoFilters()
	}
	for i := range p.Filters {
		w.filter(p.Filters[i].Filter)
		w.byte(p.Filters[i].options(&w.latch))
	}
	return w.end()
}

func (l *latch) failNoFilters() {
	l.fail(ProtocolError, "MQTT-3.8.3-2", "MQTT-3.8.3-3", "no topic filter")
}

// filter writes a topic filter.
func (w *writer) filter(s string) {
	if s == "" {
		w.failText(empty)
	}
	w.text(s)
}

// filter reads a topic filter.
func (r *reader) filter() string {
	b := r.text()
	if len(b) == 0 {
		r.failText(empty)
	}
	return string(b)
}

// options returns the subscription options byte.
// [MQTT-3.8.3-3]
func (f *SubscribeFilter) options(l *latch) byte {
	b := f.QoS&optionQoS | f.RetainHandling<<4&optionRetainHandling
	if f.NoLocal {
		b |= optionNoLocal
	}
	if f.RetainAsPublished {
		b |= optionRetainAsPublished
	}
	if f.QoS > optionQoS || f.RetainHandling > 3 || l.v != V5 && b&^optionQoS != 0 {
		l.failReservedOptions()
	}
	f.check(l)
	return b
}

func (l *latch) failReservedOptions() {
	l.fail(MalformedPacket, "MQTT-3.8.3-5", "MQTT-3.8.3-4", "reserved subscription options")
}

// check refuses options that contradict the specification.
func (f *SubscribeFilter) check(l *latch) {
	switch {
	case f.QoS == 3 && l.v != V5:
		l.failReservedOptions()
	case f.QoS == 3:
		l.fail(ProtocolError, "3.8.3.1", "", "QoS 3")
	case f.RetainHandling == 3:
		l.fail(ProtocolError, "3.8.3.1", "", "Retain Handling 3")
	case f.NoLocal && strings.HasPrefix(f.Filter, "$share/"):
		l.fail(ProtocolError, "MQTT-3.8.3-4", "", "No Local on a shared subscription")
	}
}

// Decode implements Packet.
func (p *Subscribe) Decode(h Header, body []byte, v Version) error {
	r := newReader(SUBSCRIBE, h, body, v)
	*p = Subscribe{UserProperties: p.UserProperties[:0], Filters: p.Filters[:0]}
	p.PacketID = r.packetID("MQTT-2.2.1-3", "MQTT-2.3.1-1")
	r.properties(inSubscribe)
	for r.next() {
		switch r.id {
		case propSubscriptionIdentifier:
			p.SubscriptionIdentifier = r.notZero(ProtocolError, "3.8.2.1.2")
		case propUserProperty:
			p.UserProperties = r.userProperty(p.UserProperties)
		}
	}
	if len(r.b) == 0 {
		r.failNoFilters()
	}
	for len(r.b) > 0 && r.err == nil {
		p.Filters = append(p.Filters, r.subscribeFilter())
	}
	return r.end()
}

func (r *reader) subscribeFilter() SubscribeFilter {
	filter := r.filter()
	b := r.byte()
	if b&optionReserved != 0 || r.v != V5 && b&^optionQoS != 0 {
		r.failReservedOptions()
	}
	f := SubscribeFilter{
		Filter:            filter,
		QoS:               b & optionQoS,
		NoLocal:           b&optionNoLocal != 0,
		RetainAsPublished: b&optionRetainAsPublished != 0,
		RetainHandling:    b & optionRetainHandling >> 4,
	}
	f.check(&r.latch)
	return f
}
