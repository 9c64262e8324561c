package broker

import (
	"context"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// A plugin that panics denies, and ends neither the broker nor a connection: not where a message waits for the persistence
// file, not in a will that is sent later, and not where it is only told.
func TestPluginPanics(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.PersistenceFile = t.TempDir() + "/petrel.db"
	b := start(t, c, Plugin{
		Name: "broken",
		Authenticate: func(_ context.Context, c Client, _ []byte) Decision {
			if c.Username == "mallory" {
				panic("authenticate")
			}
			return Allow
		},
		Authorize: func(_ Client, access Access, topic string) Decision {
			if access != Subscribe && topic == "no" || access == Receive && topic == "unseen" {
				panic("authorize")
			}
			return Abstain
		},
		Exchange:  func(Client, string) Exchange { panic("exchange") },
		Connected: func(Client) { panic("connected") },
		Published: func(Client, Message) { panic("published") },
	})
	if _, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true, HasUsername: true, Username: "mallory"}); ack.Code != codec.BadUserNameOrPassword {
		t.Errorf("authenticate: %v", ack.Code)
	}
	method := codec.ConnectProperties{AuthenticationMethod: "M"}
	if _, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Properties: method}); ack.Code != codec.BadAuthenticationMethod {
		t.Errorf("exchange: %v", ack.Code)
	}
	kept, _ := join(t, b, codec.V5, sessionOf("kept"))
	kept.subscribe(1, 1, "#")
	delay := sessionOf("delayed")
	delay.Will = &codec.Will{Topic: "unseen", QoS: 1, Payload: []byte("x"), Properties: codec.WillProperties{WillDelay: 1e9}}
	p, _ := join(t, b, codec.V5, delay)
	p.conn.Close()
	pub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	for topic, want := range map[string]codec.ReasonCode{"no": codec.NotAuthorized, "unseen": codec.Success} {
		pub.send(&codec.Publish{Topic: topic, QoS: 1, PacketID: 1, Payload: []byte("x")})
		if ack := receive[*codec.Puback](pub); ack.Code != want {
			t.Errorf("%s: %v", topic, ack.Code)
		}
	}
	await(t, "the will", func() bool { return b.engine.Stats().Published >= 2 })
	pub.send(&codec.Publish{Topic: "seen", QoS: 1, PacketID: 2, Payload: []byte("x")})
	if m := receive[*codec.Publish](kept); m.Topic != "seen" {
		t.Errorf("got %s", m.Topic)
	}
}
