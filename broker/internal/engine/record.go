package engine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Records begin with a byte that names their form, so that a later version can have another one.
const recordForm = 1

// errRecord is a record that cannot be read.
var errRecord = errors.New("a record that this version cannot read")

// recordReader takes a record apart. After something bad everything is zero.
type recordReader struct {
	b   []byte
	bad bool
}

func (r *recordReader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *recordReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *recordReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	b := r.b[0]
	r.b = r.b[1:]
	return b
}

func (r *recordReader) string() string { return string(r.bytes()) }
func (r *recordReader) bool() bool     { return r.byte() == 1 }

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// storedTarget is one that a stored message is for: a session or a group.
type storedTarget struct {
	number            uint64
	qos               byte // that was granted; of a session
	retainAsPublished bool // of a session
	ids               []uint32
}

// messageRecord is a message and whom it is for. Nobody means that it is retained.
func (e *Engine) messageRecord(m *message, targets []storedTarget) []byte {
	b := append(make([]byte, 0, 64+m.size), recordForm)
	b = binary.AppendUvarint(b, uint64(len(targets)))
	for i := range targets {
		t := &targets[i]
		b = binary.AppendUvarint(b, t.number)
		b = appendBool(append(b, t.qos), t.retainAsPublished)
		b = binary.AppendUvarint(b, uint64(len(t.ids)))
		for _, id := range t.ids {
			b = binary.AppendUvarint(b, uint64(id))
		}
	}
	b = append(b, m.qos)
	b = appendBool(b, m.retain)
	b = binary.AppendVarint(b, e.wallTime(m.expires))
	b = appendText(b, m.topic)
	b = binary.AppendUvarint(b, uint64(len(m.payload)))
	b = append(b, m.payload...)
	return appendProperties(b, m.properties)
}

// appendProperties appends those that matter, except for the expiry, which is a time and no longer an interval.
func appendProperties(b []byte, p *codec.PublishProperties) []byte {
	b = appendBool(b, p != nil)
	if p == nil {
		return b
	}
	b = appendBool(b, p.UTF8Payload)
	b = appendText(b, p.ContentType)
	b = appendText(b, p.ResponseTopic)
	b = appendBool(b, p.CorrelationData != nil)
	b = appendText(b, string(p.CorrelationData))
	b = binary.AppendUvarint(b, uint64(len(p.UserProperties)))
	for i := range p.UserProperties {
		b = appendText(appendText(b, p.UserProperties[i].Key), p.UserProperties[i].Value)
	}
	return b
}

// readMessage is the inverse of messageRecord.
func (e *Engine) readMessage(record []byte) (*message, []storedTarget, error) {
	r := &recordReader{b: record}
	if r.byte() != recordForm {
		return nil, nil, errRecord
	}
	var targets []storedTarget
	for range r.uvarint() {
		if r.bad {
			return nil, nil, errRecord
		}
		t := storedTarget{number: r.uvarint(), qos: r.byte(), retainAsPublished: r.bool()}
		for range min(r.uvarint(), uint64(len(r.b))) {
			t.ids = append(t.ids, uint32(r.uvarint()))
		}
		targets = append(targets, t)
	}
	m := &message{qos: r.byte(), retain: r.bool()}
	m.expires = e.engineTime(r.varint())
	m.topic = r.string()
	m.payload = append([]byte{}, r.bytes()...)
	m.properties = r.properties()
	m.size = messageSize + len(m.topic) + len(m.payload)
	if p := m.properties; p != nil {
		m.size += propertiesSize(p)
		if m.expires != 0 {
			p.MessageExpiry = time.Second // any: what is left is counted when it is sent
		}
	}
	if r.bad || m.topic == "" || m.qos > 2 {
		return nil, nil, errRecord
	}
	return m, targets, nil
}

func (r *recordReader) properties() *codec.PublishProperties {
	if !r.bool() {
		return nil
	}
	p := &codec.PublishProperties{UTF8Payload: r.bool(), ContentType: r.string(), ResponseTopic: r.string()}
	if has := r.bool(); has {
		p.CorrelationData = append([]byte{}, r.bytes()...)
	} else {
		r.bytes()
	}
	for range min(r.uvarint(), uint64(len(r.b))) {
		p.UserProperties = append(p.UserProperties, codec.UserProperty{Key: r.string(), Value: r.string()})
	}
	return p
}

func (r *recordReader) varint() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

// flightKey says which message a session has in flight at QoS 2, and for whom the store has that: for itself, or for the
// group that the message came through.
type flightKey struct{ sequence, debtor uint64 }

// record is the key with what is known of the flight.
func (k flightKey) record(released bool) []byte {
	return appendBool(append(number(k.sequence), number(k.debtor)...), released)
}

// readFlight is the inverse of record.
func readFlight(record []byte) (k flightKey, released bool, err error) {
	if len(record) != 17 {
		return k, false, errRecord
	}
	return flightKey{binary.BigEndian.Uint64(record), binary.BigEndian.Uint64(record[8:])}, record[16] == 1, nil
}

// wallTime turns a time on the engine's clock into milliseconds since 1970; 0 stays 0.
func (e *Engine) wallTime(t time.Duration) int64 {
	if t == 0 {
		return 0
	}
	return e.began.Add(t).UnixMilli()
}

// engineTime is the inverse of wallTime. A time that is over by now is the beginning of the engine's.
func (e *Engine) engineTime(ms int64) time.Duration {
	if ms == 0 {
		return 0
	}
	return max(1, time.UnixMilli(ms).Sub(e.began))
}

// storedSession is what the store has of a session, in JSON.
type storedSession struct {
	Form          int // recordForm
	ID            string
	Owner         string
	Version       byte   // of the latest connection
	Listener      string // of the latest connection
	Expiry        uint32
	EndsAt        int64 // milliseconds since 1970; 0: the client is connected, or the session does not expire
	Subscriptions []storedSubscription
	Will          *storedWill
}

type storedSubscription struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	ID                uint32
}

type storedWill struct {
	Topic      string
	Payload    []byte
	Properties *codec.PublishProperties
	QoS        byte
	Retain     bool
	Delay      time.Duration
}

// record returns what is stored of the session. Its lock is held.
func (s *Session) record() []byte {
	client := s.client.Load()
	of := storedSession{
		Form: recordForm, ID: s.id, Owner: s.owner, Version: client.Version, Listener: client.Listener,
		Expiry: s.expiry, EndsAt: s.engine.wallTime(s.endsAt),
	}
	for filter, sub := range s.subscriptions {
		of.Subscriptions = append(of.Subscriptions, storedSubscription{filter, sub.qos, sub.noLocal, sub.retainAsPublished, sub.id})
	}
	if w := s.will; w != nil {
		of.Will = &storedWill{w.topic, w.payload, w.properties, w.qos, w.retain, w.delay}
	}
	b, err := json.Marshal(of)
	if err != nil {
		panic(err) // it has only what JSON has
	}
	return b
}
