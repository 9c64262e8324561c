package mqtttest

import (
	"fmt"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// A topic alias of the client stands for its topic, and may be changed [MQTT-3.3.2-10].
func TestBrokerTopicAliases(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s := connect(t, b, codec.V5, "c")
		s.Send(
			&codec.Publish{Topic: "a", TopicAlias: 2}, &codec.Publish{TopicAlias: 2},
			&codec.Publish{Topic: "b", TopicAlias: 2}, &codec.Publish{TopicAlias: 2},
		)
		s.barrier()
		var topics []string
		for _, m := range b.Received() {
			topics = append(topics, m.Topic)
		}
		if fmt.Sprint(topics) != "[a a b b]" {
			t.Errorf("topics %v", topics)
		}
	}, TopicAliasMaximum(2))
}

// The broker uses no more aliases than the client allows [MQTT-3.1.2-26], none if it allows none [MQTT-3.1.2-27], and new
// ones on each connection [MQTT-3.3.2-7].
func TestBrokerUsesTopicAliases(t *testing.T) {
	for _, limit := range []uint16{0, 2} {
		forV5(t, func(t *testing.T, b *Broker) {
			for range 2 {
				s, _ := connectAs(t, b, codec.V5, &codec.Connect{ClientID: "c", CleanStart: true, Properties: codec.ConnectProperties{TopicAliasMaximum: limit}})
				s.subscribe(at(0, "#"))
				known := map[uint16]string{}
				for i := range 8 {
					b.Publish(Message{Topic: fmt.Sprint(i % 4)})
					p := ReceiveAs[*codec.Publish](s)
					if p.TopicAlias > limit {
						t.Errorf("topic alias %d", p.TopicAlias)
					}
					if p.Topic != "" && p.TopicAlias != 0 {
						known[p.TopicAlias] = p.Topic
					}
					if i >= 4 && i%4 < int(limit) && p.Topic != "" {
						t.Errorf("%q comes in full again", p.Topic)
					}
					if p.Topic == "" {
						p.Topic = known[p.TopicAlias]
					}
					if p.Topic != fmt.Sprint(i%4) {
						t.Errorf("topic %q, want %d", p.Topic, i%4)
					}
				}
			}
		}, UseTopicAliases())
	}
}

// An alias is not used where the packet would become too large for the client, and one in a packet that a fault loses is not
// defined.
func TestBrokerTopicAliasNotDefined(t *testing.T) {
	forV5(t, func(t *testing.T, b *Broker) {
		s, _ := connectAs(t, b, codec.V5, &codec.Connect{
			ClientID: "c", CleanStart: true, Properties: codec.ConnectProperties{TopicAliasMaximum: 1, MaximumPacketSize: 20},
		})
		s.subscribe(at(0, "a"))
		b.Fault(Fault{Packet: "PUBLISH", Outbound: true, Drop: true, Times: 1})
		for _, n := range []int{1, 14, 1, 1} {
			b.Publish(Message{Topic: "a", Payload: make([]byte, n)})
		}
		for i, want := range []codec.Publish{{Topic: "a"}, {Topic: "a", TopicAlias: 1}, {TopicAlias: 1}} {
			if p := ReceiveAs[*codec.Publish](s); p.Topic != want.Topic || p.TopicAlias != want.TopicAlias {
				t.Errorf("packet %d: topic %q, alias %d", i, p.Topic, p.TopicAlias)
			}
		}
	}, UseTopicAliases())
}
