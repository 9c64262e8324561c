package mqtt

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/session"
)

// StoredMessage is a message that a store keeps, see WithStore.
type StoredMessage struct {
	Number  uint64    // in the order in which the messages were published
	Name    string    // see StoreName
	Message Message   // of one that the server has taken: only the topic, the QoS and the retain flag
	Expires time.Time // zero: never
	Sent    bool      // the server may have it
	Outcome *Outcome  // nil: it is not known
}

// Outcome is what became of a message.
type Outcome struct {
	Time time.Time
	// Err is nil if the server has taken the message. A refusal is a *PublishError. ErrSessionLost, ErrOutcomeUnknown and
	// ErrExpired are found by errors.Is, and of any other error the text is kept.
	Err error
}

// Outcomes are kept for outcomeLife, but at most mostOutcomes of them with mostOutcomeBytes of messages, the latest.
const (
	outcomeLife      = 7 * 24 * time.Hour
	mostOutcomes     = 1000
	mostOutcomeBytes = 16 << 20
)

// keptErrors are those that an outcome keeps by their number, from 1.
var keptErrors = []error{ErrSessionLost, ErrOutcomeUnknown, ErrExpired}

// keptError is an error that was read from a store.
type keptError struct {
	text string
	is   error // nil: none of keptErrors
}

func (e *keptError) Error() string { return e.text }

// Unwrap returns the error that errors.Is is to find.
func (e *keptError) Unwrap() error { return e.is }

// outcome is the record of an outcome.
type outcome struct {
	milliseconds int64 // on the wall clock
	failed       bool
	code         ReasonCode // of a refusal; 0: it is none
	is           byte       // the number of one of keptErrors; 0: none
	text         string     // the Reason String of a refusal, or the error's text
	message      []byte     // as appendMessage has it
}

// newOutcome makes the record of what has become of a message now. record is the message's.
func newOutcome(record []byte, err error) (*outcome, error) {
	o := &outcome{milliseconds: time.Now().UnixMilli(), failed: err != nil, message: record}
	if err == nil {
		var short error
		o.message, short = withoutPayload(record)
		return o, short
	}
	var refused *PublishError
	if errors.As(err, &refused) && !refused.Local {
		o.code, o.text = refused.Code, refused.Reason
		return o, nil
	}
	o.text = err.Error()
	o.is = byte(1 + slices.IndexFunc(keptErrors, func(kept error) bool { return errors.Is(err, kept) }))
	return o, nil
}

func withoutPayload(record []byte) ([]byte, error) {
	m, name, _, err := decodeMessage(record)
	if err != nil {
		return nil, err
	}
	return appendMessage(nil, &session.Message{Topic: m.Topic, QoS: m.QoS, Retain: m.Retain}, name, 0)
}

func (o *outcome) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordVersion}, uint64(o.milliseconds))
	b = append(b, 0, byte(o.code), o.is)
	if o.failed {
		b[9] = 1
	}
	b = binary.AppendUvarint(b, uint64(len(o.text)))
	b = append(b, o.text...)
	return append(b, o.message...)
}

// decodeOutcome reads a record. The message's bytes are the record's.
func decodeOutcome(b []byte) (*outcome, error) {
	if len(b) < 12 || b[0] != recordVersion || b[9] > 1 || int(b[11]) > len(keptErrors) {
		return nil, errDamaged
	}
	o := &outcome{
		milliseconds: int64(binary.BigEndian.Uint64(b[1:])), failed: b[9] == 1, code: ReasonCode(b[10]), is: b[11],
	}
	b = b[12:]
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return nil, errDamaged
	}
	o.text, o.message = string(b[n:n+int(length)]), b[n+int(length):]
	_, _, _, err := decodeMessage(o.message)
	return o, err
}

// err is the error that the application gets. topic is the message's.
func (o *outcome) err(topic string) error {
	switch {
	case !o.failed:
		return nil
	case o.code != 0:
		return &PublishError{Topic: topic, Refusal: Refusal{Code: o.code, Reason: o.text}}
	case o.is != 0:
		return &keptError{o.text, keptErrors[o.is-1]}
	}
	return &keptError{text: o.text}
}

func (o *outcome) over(now time.Time) bool {
	return now.After(time.UnixMilli(o.milliseconds).Add(outcomeLife))
}

// public is the outcome as the application gets it.
func (o *outcome) public(number uint64) (StoredMessage, error) {
	s, err := publicMessage(number, o.message)
	s.Outcome = &Outcome{time.UnixMilli(o.milliseconds), o.err(s.Message.Topic)}
	return s, err
}

// publicMessage is the record of a message as the application gets it. Its bytes are the record's.
func publicMessage(number uint64, record []byte) (StoredMessage, error) {
	m, name, expires, err := decodeMessage(record)
	s := StoredMessage{Number: number, Name: name, Message: Message{Topic: m.Topic, Payload: m.Payload, QoS: QoS(m.QoS), Retain: m.Retain}}
	if expires != 0 {
		s.Expires = time.UnixMilli(expires)
	}
	if m.Properties != nil {
		s.Message.Properties = PublishProperties(*m.Properties)
	}
	return s, err
}

// outcomes are those that a client's store has, by the numbers of their messages.
type outcomes map[uint64]*outcome

// surplus returns the numbers of those that are not to be kept any longer.
func (all outcomes) surplus(now time.Time) (numbers []uint64) {
	bytes, kept := 0, 0
	for _, number := range all.latestFirst() {
		o := all[number]
		bytes += len(o.message) + len(o.text)
		if kept++; o.over(now) || kept > mostOutcomes || bytes > mostOutcomeBytes {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

func (all outcomes) latestFirst() []uint64 {
	numbers := make([]uint64, 0, len(all))
	for number := range all {
		numbers = append(numbers, number)
	}
	slices.SortFunc(numbers, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(all[b].milliseconds, all[a].milliseconds), cmp.Compare(b, a))
	})
	return numbers
}
