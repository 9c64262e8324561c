package mqtttest

import (
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// A program that begins again owes nothing of what it has forgotten, and may use its packet identifiers for new messages.
func TestRestarted(t *testing.T) {
	forBoth(t, func(t *testing.T, b *Broker, v codec.Version) {
		s, _ := connectAs(t, b, v, persistent(v, "c", false))
		b.Fault(Fault{Packet: "PUBACK", Outbound: true, Drop: true, Times: 1})
		s.Send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1})
		s.barrier()
		s.Cut()
		b.Restarted("c")
		b.Restarted("nobody")
		s, ack := connectAs(t, b, v, persistent(v, "c", false))
		if !ack.SessionPresent {
			t.Error("the session is gone")
		}
		s.publish(&codec.Publish{Topic: "b", QoS: 1, PacketID: 1})
	})
}
