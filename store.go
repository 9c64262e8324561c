package mqtt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// Store keeps on disk what a client must know again after its process has died, see WithStore: a sorted table of short keys
// and their values. The module boltstore has one, and package storetest tests others.
//
// A client writes a packet to the connection only after the store has what the packet depends on. The table says what has to be
// on disk, in the order in which it happens, and what would go wrong otherwise:
//
//	Before this                          this is on disk                       otherwise, after a crash,
//	PublishAsync returns                 the message and its place             an accepted message is lost
//	PUBLISH at QoS 1 or 2                the message and its identifier        it is sent with another identifier, and at QoS 2
//	                                                                           delivered twice
//	PUBREL                               that PUBREC came                      PUBLISH is sent again, and delivered twice
//	PUBLISH with an identifier           the end of its earlier message        the earlier message is sent with it
//	that was in use
//	PUBREC                               the identifier                        the message is delivered twice
//	PUBCOMP                              the end of the identifier             the next message with it is taken for a resend and
//	                                                                           lost
//	a message is removed                 its outcome, if that is kept          nobody learns what became of it
//	the first SUBSCRIBE or PUBLISH       that the old one has ended            the same, and messages at QoS 2 are sent again though
//	of a new session                                                           nobody knows whether they arrived
//	any of these                         client identifier and server          another client takes the state for its own
//
// What is not in the table is written soon after: that PUBACK or PUBCOMP has come, for example. When that is lost, the message at
// QoS 1 is sent once more, and at QoS 2 PUBREL is, which the server answers and otherwise ignores.
type Store interface {
	// Load takes the store for one client, until Release, and calls f with each key and its value. The error is
	// ErrStoreInUse if another client has it, f's error, or why the store cannot be read. After an error the store is free. f
	// may keep the slices.
	Load(ctx context.Context, f func(key, value []byte) error) error
	// Apply makes all changes, in their order, or none, and returns nil once they would survive the death of the process or,
	// as far as the store promises that, of the machine. Calls are never concurrent. The store may keep the slices, which do not
	// change. After an error the client calls again.
	Apply(ctx context.Context, changes []StoreChange) error
	// Release ends the use by the client that has called Load.
	Release() error
}

// StoreChange sets the value of a key or, if Value is nil, removes the key.
type StoreChange struct {
	Key, Value []byte
	// Bounded says that a store with a bound may refuse the change, with ErrQueueFull. It is a new message. What the other
	// changes are about has happened: a store that refuses them because of its bound stops the client.
	Bounded bool

	forwards *origin // of a new message; nil: see Forwards
}

// Errors of stores.
var (
	// ErrStoreInUse says that another client uses the store.
	ErrStoreInUse = errors.New("mqtt: the store is used by another client")
	// ErrStoreForeign says that the store belongs to another client identifier or server, or to another program.
	ErrStoreForeign = errors.New("mqtt: the store belongs to another client or server")
)

// StoreError says that the store failed, and what the client was doing.
type StoreError struct {
	Doing string // "storing a message", "loading"
	Err   error
}

func (e *StoreError) Error() string { return "mqtt: " + e.Doing + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *StoreError) Unwrap() error { return e.Err }

// The kinds of keys. A key is the kind and, except for the identity, a number or a packet identifier.
const (
	keyIdentity   byte = iota + 1 // identity, as JSON
	keyMessage                    // message, see appendMessage
	keyFlight                     // flight, see appendFlight
	keyReceived                   // a message at QoS 2 from the server whose PUBREL has not come, see encodeReceived
	keyOutcome                    // what became of a message, see outcome
	keyForwarding                 // before the keys of the receiving client, see ForwardingStores
	keyRenewal                    // never there: its removal tells ForwardingStores that the session is lost
)

func numberKey(kind byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, n)
}

func receivedKey(id uint16) []byte { return binary.BigEndian.AppendUint16([]byte{keyReceived}, id) }

// identity says whose state is in a store.
type identity struct {
	Version  int // of the records
	ClientID string
	Server   string // host and path of the first URL
}

const recordVersion = 1

var errDamaged = errors.New("a record is damaged")

func (id *identity) encode() []byte {
	text, err := json.Marshal(id)
	if err != nil {
		panic(err) // strings cannot fail
	}
	return text
}

func decodeIdentity(text []byte) (*identity, error) {
	id := new(identity)
	switch err := json.Unmarshal(text, id); {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrStoreForeign, err)
	case id.Version != recordVersion:
		return nil, fmt.Errorf("%w: its format is version %d, and this library reads version %d", ErrStoreForeign, id.Version, recordVersion)
	}
	return id, nil
}

// numberOf returns what follows the kind in a key; 0: nothing that is right.
func numberOf(key []byte) (number uint64, id uint16) {
	switch len(key) {
	case 9:
		number = binary.BigEndian.Uint64(key[1:])
	case 3:
		id = binary.BigEndian.Uint16(key[1:])
	}
	return number, id
}

// appendMessage appends the record of a message: when it expires, on the wall clock in milliseconds, its name, and its PUBLISH
// packet in MQTT 5.
func appendMessage(b []byte, m *session.Message, name string, expires int64) ([]byte, error) {
	b = binary.BigEndian.AppendUint64(append(b, recordVersion), uint64(expires))
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	p := codec.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, PacketID: 1}
	if m.Properties != nil {
		p.Properties = *m.Properties
	}
	return p.Append(b, codec.V5)
}

// decodeMessage reads a record. The message's bytes are the record's.
func decodeMessage(b []byte) (m session.Message, name string, expires int64, err error) {
	if len(b) < 9 || b[0] != recordVersion {
		return m, "", 0, errDamaged
	}
	expires, b = int64(binary.BigEndian.Uint64(b[1:])), b[9:]
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return m, "", 0, errDamaged
	}
	name, b = string(b[n:n+int(length)]), b[n+int(length):]
	h, body, err := splitPacket(b)
	if err != nil {
		return m, "", 0, err
	}
	p := new(codec.Publish)
	if err := p.Decode(h, body, codec.V5); err != nil {
		return m, "", 0, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if p.QoS == 0 {
		return m, "", 0, errDamaged
	}
	m = session.Message{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain}
	if p.Size(codec.V5) > (&codec.Publish{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, PacketID: 1}).Size(codec.V5) {
		m.Properties = &p.Properties
	}
	return m, name, expires, nil
}

// splitPacket reads the header of a PUBLISH that is all of b.
func splitPacket(b []byte) (h codec.Header, body []byte, err error) {
	h, n, err := codec.ParseHeader(b, codec.V5)
	if err != nil || n == 0 || h.Type != codec.PUBLISH || h.Length != len(b)-n {
		return h, nil, errDamaged
	}
	return h, b[n:], nil
}

// flight is how far a message has come that has a packet identifier.
type flight struct {
	id       uint16
	givenUp  bool
	released uint64 // the place among the PUBRECs that came; 0: none has come
}

func (f *flight) encode() []byte {
	b := binary.BigEndian.AppendUint16([]byte{recordVersion, 0}, f.id)
	if f.givenUp {
		b[1] = 1
	}
	return binary.BigEndian.AppendUint64(b, f.released)
}

func decodeFlight(b []byte) (flight, error) {
	if len(b) != 12 || b[0] != recordVersion || b[1] > 1 {
		return flight{}, errDamaged
	}
	f := flight{binary.BigEndian.Uint16(b[2:]), b[1] == 1, binary.BigEndian.Uint64(b[4:])}
	if f.id == 0 {
		return f, errDamaged
	}
	return f, nil
}

func encodeReceived(m session.Received) []byte {
	return binary.BigEndian.AppendUint64([]byte{recordVersion}, m.Content)
}

func decodeReceived(id uint16, b []byte) (session.Received, error) {
	if len(b) != 9 || b[0] != recordVersion {
		return session.Received{}, errDamaged
	}
	return session.Received{ID: id, Content: binary.BigEndian.Uint64(b[1:])}, nil
}

// wallClock is when a message expires, for a record; 0: never.
func wallClock(left time.Duration) int64 { return time.Now().Add(left).UnixMilli() }
