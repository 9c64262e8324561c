package mqtt

import (
	"reflect"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

func FuzzStoreRecords(f *testing.F) {
	add := func(key, value []byte) { // also what is too short
		for n := range value {
			f.Add(key, value[:n])
		}
		for n := range key {
			f.Add(key[:n], value)
		}
		f.Add(key, value)
	}
	for _, m := range []session.Message{
		{Topic: "t", QoS: 1},
		{Topic: "a/b", QoS: 2, Retain: true, Payload: []byte("payload"), Properties: &codec.PublishProperties{
			ContentType: "c", MessageExpiry: time.Hour, UserProperties: codec.UserProperties{{Key: "k", Value: "v"}}}},
	} {
		b, err := appendMessage(nil, &m, "name", 12345)
		if err != nil {
			f.Fatal(err)
		}
		add(numberKey(keyMessage, 7), b)
	}
	add(numberKey(keyFlight, 7), (&flight{id: 3, released: 5}).encode())
	add(receivedKey(9), encodeReceived(session.Received{ID: 9, Content: 5}))
	for _, fate := range []error{nil, ErrSessionLost, &PublishError{Topic: "t", Refusal: Refusal{Code: NotAuthorized, Reason: "no"}}} {
		record, err := appendMessage(nil, &session.Message{Topic: "t", QoS: 1}, "name", 0)
		if err != nil {
			f.Fatal(err)
		}
		o, err := newOutcome(record, fate)
		if err != nil {
			f.Fatal(err)
		}
		add(numberKey(keyOutcome, 7), o.encode())
	}
	add([]byte{keyIdentity}, (&identity{recordVersion, "c", "s"}).encode())
	add(numberKey(keyMessage, 1), []byte{recordVersion, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r := newRecovery(0)
		if r.take(key, value) != nil {
			return
		}
		for _, o := range r.outcomes {
			again, err := decodeOutcome(o.encode())
			if err != nil || !reflect.DeepEqual(again, o) {
				t.Fatalf("%+v, then %+v, %v", o, again, err)
			}
		}
		for _, m := range r.messages {
			_, name, expires, _ := decodeMessage(value)
			again, err := appendMessage(nil, &m.message, name, expires)
			if err != nil {
				t.Fatal(err)
			}
			m2, name2, expires2, err := decodeMessage(again)
			m2.Expires = m.message.Expires
			if err != nil || name2 != name || expires2 != expires || !reflect.DeepEqual(m2, m.message) {
				t.Fatalf("%+v, then %+v, %v", m.message, m2, err)
			}
		}
		for _, f := range r.flights {
			if again, err := decodeFlight(f.encode()); err != nil || again != f {
				t.Fatalf("%+v, then %+v, %v", f, again, err)
			}
		}
	})
}
