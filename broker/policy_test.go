package broker

import (
	"context"
	"log/slog"
	"strings"
	"sync"
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
	for topic, want := range map[string]codec.ReasonCode{"no": codec.NotAuthorized, "unseen": codec.NoMatchingSubscribers} {
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

// A plugin is asked about a session that nobody has come back to since the start. It may log the client.
func TestPluginAndRestoredSession(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.PersistenceFile = t.TempDir() + "/petrel.db"
	first, err := New(c)
	check(t, err)
	check(t, first.Start(t.Context()))
	p, _ := join(t, first, codec.V5, sessionOf("away"))
	p.subscribe(1, 1, "a")
	check(t, first.Shutdown(t.Context()))
	var mu sync.Mutex
	var lines strings.Builder
	b := start(t, c, Plugin{Name: "logs", Authorize: func(c Client, _ Access, topic string) Decision {
		mu.Lock()
		defer mu.Unlock()
		slog.New(slog.NewTextHandler(&lines, nil)).Info("authorize", "client", c, "topic", topic)
		return Abstain
	}})
	pub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("x")})
	receive[*codec.Puback](pub)
	back := sessionOf("away")
	back.CleanStart = false
	p, _ = join(t, b, codec.V5, back)
	if m := receive[*codec.Publish](p); string(m.Payload) != "x" {
		t.Errorf("got %q", m.Payload)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := lines.String(); !strings.Contains(got, "client.id=away") || strings.Contains(got, "panic") {
		t.Error(got)
	}
}
