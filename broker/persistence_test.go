package broker

import (
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// A will is there after a restart: retained, in place of what its client had published before, and for who was away.
func TestWillsOutliveTheBroker(t *testing.T) {
	t.Parallel()
	for _, qos := range []byte{0, 1, 2} {
		c := onLoopback()
		c.PersistenceFile = t.TempDir() + "/petrel.db"
		b := start(t, c)
		away, _ := join(t, b, codec.V5, sessionOf("away"))
		away.subscribe(1, 2, "status/+")
		away.send(&codec.Disconnect{})
		away.ended()
		watcher, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
		watcher.subscribe(1, 0, "status/+")
		a, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Will: &codec.Will{
			Topic: "status/a", Payload: []byte("off"), QoS: qos, Retain: true,
		}})
		a.send(&codec.Publish{Topic: "status/a", Payload: []byte("on"), Retain: true})
		receive[*codec.Publish](watcher)
		a.conn.Close()
		if m := receive[*codec.Publish](watcher); string(m.Payload) != "off" {
			t.Errorf("QoS %d: got %+v", qos, m)
		}
		check(t, b.Shutdown(t.Context()))

		b = start(t, c)
		late, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
		late.subscribe(1, 0, "status/+")
		if m := receive[*codec.Publish](late); string(m.Payload) != "off" || !m.Retain {
			t.Errorf("QoS %d: retained %+v", qos, m)
		}
		if qos == 0 {
			continue // it does not wait for anybody
		}
		resume := sessionOf("away")
		resume.CleanStart = false
		away, _ = join(t, b, codec.V5, resume)
		if m := receive[*codec.Publish](away); string(m.Payload) != "off" || m.QoS != qos {
			t.Errorf("QoS %d: after a restart %+v", qos, m)
		}
	}
}
