package boltoutbox

import (
	"reflect"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/outbox"
)

func FuzzRecord(f *testing.F) {
	for _, m := range []outbox.Message{
		{ID: "i", Key: "k", Topic: "t", QoS: mqtt.AtLeastOnce},
		{ID: "i", Key: "k", Topic: "t", QoS: mqtt.ExactlyOnce, Retain: true, Payload: []byte("x"), Created: time.Unix(1, 0),
			Expires: time.Unix(2, 0), Attempts: 3, Reason: "r", Properties: mqtt.PublishProperties{ContentType: "c"}},
	} {
		b, err := encode(&m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{version, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{version, 2, '{', '}', 0x32, 5, 0, 1, 't', 0, 1})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		again, err := encode(&m)
		if err != nil {
			t.Skip() // of what nobody would write, such as a year above 9999
		}
		m2, err := decode(again)
		if err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%+v, then %+v, %v", m, m2, err)
		}
	})
}
