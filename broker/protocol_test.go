package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/codec"
)

func uint32p(n uint32) *uint32 { return &n }

func sessionOf(id string) *codec.Connect {
	return &codec.Connect{ClientID: id, CleanStart: true, Properties: codec.ConnectProperties{SessionExpiry: uint32p(300)}}
}

// A client whose window is full gets the rest in order as it acknowledges. [MQTT-3.3.4-9] [MQTT-4.6.0-6]
func TestWindow(t *testing.T) {
	const n, window = 20, 2
	b := start(t, onLoopback())
	sub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Properties: codec.ConnectProperties{ReceiveMaximum: window}})
	sub.subscribe(1, 1, "a")
	pub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	for i := range n {
		pub.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: uint16(i + 1), Payload: fmt.Append(nil, i)})
		receive[*codec.Puback](pub)
	}
	var outstanding []uint16
	for i := range n {
		m := receive[*codec.Publish](sub)
		if string(m.Payload) != fmt.Sprint(i) || m.Dup {
			t.Fatalf("message %d is %s, dup %v", i, m.Payload, m.Dup)
		}
		if outstanding = append(outstanding, m.PacketID); len(outstanding) < window {
			continue
		}
		sub.quiet()
		sub.send(&codec.Puback{PacketID: outstanding[0]})
		outstanding = outstanding[1:]
	}
}

// Messages at QoS 2 leave the window at PUBCOMP, or at a PUBREC that refuses them. [MQTT-3.3.4-9]
func TestWindowQoS2(t *testing.T) {
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Properties: codec.ConnectProperties{ReceiveMaximum: 1}})
	p.subscribe(1, 2, "a")
	pub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	for i := range 4 {
		id := uint16(i + 1)
		pub.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: id, Payload: fmt.Append(nil, i)}, &codec.Pubrel{PacketID: id})
		receive[*codec.Pubrec](pub)
		receive[*codec.Pubcomp](pub)
	}
	for i := range 4 {
		m := receive[*codec.Publish](p)
		if string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Payload)
		}
		p.quiet()
		if i%2 == 1 {
			p.send(&codec.Pubrec{PacketID: m.PacketID, Code: codec.QuotaExceeded})
			continue
		}
		p.send(&codec.Pubrec{PacketID: m.PacketID})
		receive[*codec.Pubrel](p)
		p.quiet()
		p.send(&codec.Pubcomp{PacketID: m.PacketID})
	}
}

// What a client has taken at QoS 2 does not count against what it may publish.
func TestReceiveQuota(t *testing.T) {
	const n = engine.ReceiveMaximum
	b := start(t, onLoopback())
	p, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	if ack.Properties.ReceiveMaximum != n {
		t.Errorf("%+v", ack.Properties)
	}
	p.subscribe(1, 2, "a")
	other, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	for range n {
		other.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 1}, &codec.Pubrel{PacketID: 1})
		receive[*codec.Pubrec](other)
		receive[*codec.Pubcomp](other)
		p.send(&codec.Pubrec{PacketID: receive[*codec.Publish](p).PacketID})
		receive[*codec.Pubrel](p)
	}
	p.send(&codec.Publish{Topic: "b", QoS: 1, PacketID: 2000})
	receive[*codec.Puback](p)
}

// Both directions use the same packet identifiers at the same time. [MQTT-2.2.1-4]
func TestSameIdentifierInBothDirections(t *testing.T) {
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, sessionOf("both"))
	p.subscribe(9, 1, "a")
	other, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	other.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: []byte("kept")})
	id := receive[*codec.Publish](p).PacketID

	if ack := p.subscribe(id, 1, "b"); ack.PacketID != id || ack.Codes[0] != 1 {
		t.Errorf("%+v", ack)
	}
	p.send(&codec.Unsubscribe{PacketID: id, Filters: []string{"b"}})
	if ack := receive[*codec.Unsuback](p); ack.PacketID != id || ack.Codes[0] != 0 {
		t.Errorf("%+v", ack)
	}
	p.send(&codec.Publish{Topic: "c", QoS: 1, PacketID: id})
	if ack := receive[*codec.Puback](p); ack.PacketID != id {
		t.Errorf("%+v", ack)
	}
	p.send(&codec.Publish{Topic: "c", QoS: 2, PacketID: id})
	if ack := receive[*codec.Pubrec](p); ack.PacketID != id || ack.Code != codec.NoMatchingSubscribers {
		t.Errorf("%+v", ack)
	}

	// The session goes on, on another connection, with both messages in flight.
	again := sessionOf("both")
	again.CleanStart = false
	p, ack := join(t, b, codec.V5, again)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	seen := map[codec.Type]uint16{}
	p.send(&codec.Publish{Topic: "c", QoS: 2, PacketID: id, Dup: true})
	for range 2 {
		packet, err := codec.ReadPacket(p.conn, codec.V5, 1000)
		check(t, err)
		switch packet := packet.(type) {
		case *codec.Publish:
			seen[packet.Type()] = packet.PacketID
			if string(packet.Payload) != "kept" || !packet.Dup {
				t.Errorf("%+v", packet)
			}
		case *codec.Pubrec:
			seen[packet.Type()] = packet.PacketID
		}
	}
	if seen[codec.PUBLISH] != id || seen[codec.PUBREC] != id {
		t.Errorf("resent: %v, want identifier %d", seen, id)
	}
	p.send(&codec.Puback{PacketID: id}, &codec.Pubrel{PacketID: id})
	if ack := receive[*codec.Pubcomp](p); ack.PacketID != id || ack.Code != 0 {
		t.Errorf("%+v", ack)
	}
	p.quiet()
}

// Messages that waited for the client come in their order, and those that were sent before come first, with DUP.
// [MQTT-4.6.0-1] [MQTT-3.3.1-1]
func TestOrderAfterReconnect(t *testing.T) {
	const sent, n = 5, 200
	b := start(t, onLoopback())
	connect := sessionOf("away")
	connect.Properties.ReceiveMaximum = sent
	p, _ := join(t, b, codec.V5, connect)
	p.subscribe(1, 1, "a")
	other, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			other.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: fmt.Append(nil, i)})
			receive[*codec.Puback](other)
		}
	}
	publish(0, n/2) // most of them wait for room in the window
	for range sent {
		receive[*codec.Publish](p)
	}
	p.send(&codec.Disconnect{})
	p.ended()
	publish(n/2, n)
	connect.CleanStart, connect.Properties.ReceiveMaximum = false, 0
	p, _ = join(t, b, codec.V5, connect)
	for i := range n {
		if m := receive[*codec.Publish](p); string(m.Payload) != fmt.Sprint(i) || m.Dup != (i < sent) {
			t.Fatalf("message %d is %s, dup %v", i, m.Payload, m.Dup)
		}
	}
	p.quiet()
}

// A message whose expiry passes while it waits for room in the window is not sent. [MQTT-3.3.2-5]
func TestExpiryInWindow(t *testing.T) {
	t.Parallel()
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Properties: codec.ConnectProperties{ReceiveMaximum: 1}})
	p.subscribe(1, 1, "a")
	first := receiveAfter(p, &codec.Publish{Topic: "a", QoS: 1, PacketID: 1})
	expiry := codec.PublishProperties{MessageExpiry: time.Second}
	p.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 2, Properties: expiry, Payload: []byte("late")})
	receive[*codec.Puback](p)
	p.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 3, Payload: []byte("last")})
	receive[*codec.Puback](p)
	for began := time.Now(); time.Since(began) < 2100*time.Millisecond; { // the clock has whole seconds
		p.quiet()
		<-time.After(100 * time.Millisecond)
	}
	p.send(&codec.Puback{PacketID: first.PacketID})
	if m := receive[*codec.Publish](p); string(m.Payload) != "last" {
		t.Errorf("%s", m.Payload)
	}
}

// receiveAfter publishes at QoS 1 and returns the message that comes back, before or after the acknowledgement.
func receiveAfter(p *peer, m *codec.Publish) (back *codec.Publish) {
	p.t.Helper()
	p.send(m)
	for range 2 {
		packet, err := codec.ReadPacket(p.conn, p.version, 1<<20)
		check(p.t, err)
		if m, ok := packet.(*codec.Publish); ok {
			back = m
		}
	}
	return back
}

// A QoS 2 message that is sent again is acknowledged again, and passed on once. [MQTT-4.3.3-10]
func TestResentQoS2(t *testing.T) {
	b := start(t, onLoopback())
	sub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	sub.subscribe(1, 0, "a")
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	for _, dup := range []bool{false, true} {
		p.send(&codec.Publish{Topic: "a", QoS: 2, PacketID: 7, Dup: dup})
		if ack := receive[*codec.Pubrec](p); ack.Code != 0 || ack.ReasonString != "" {
			t.Errorf("%+v", ack)
		}
	}
	p.send(&codec.Pubrel{PacketID: 7})
	receive[*codec.Pubcomp](p)
	receive[*codec.Publish](sub)
	sub.quiet()
}

// Topics of the server are not for clients, who get an answer all the same. [MQTT-4.3.2-4]
func TestPublishToSys(t *testing.T) {
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	p.send(&codec.Publish{Topic: "$SYS/a", QoS: 1, PacketID: 1})
	if ack := receive[*codec.Puback](p); ack.Code != codec.NotAuthorized {
		t.Errorf("%+v", ack)
	}
	p.send(&codec.Publish{Topic: "$SYS/a"})
	p.quiet()
	if _, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Will: &codec.Will{Topic: "$SYS/a"}}); ack.Code != codec.NotAuthorized {
		t.Errorf("%+v", ack)
	}
}

// Nobody has an authentication method, so nobody may send AUTH. Section 4.12.1
func TestAuthPacket(t *testing.T) {
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	p.send(&codec.Auth{Code: codec.ReAuthenticate, Method: "x"})
	if got := receive[*codec.Disconnect](p); got.Code != codec.ProtocolError {
		t.Errorf("%+v", got)
	}
}

// Acknowledgements do not carry the user properties of what they acknowledge.
func TestPlainAcknowledgements(t *testing.T) {
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	properties := codec.PublishProperties{UserProperties: codec.UserProperties{{Key: "a", Value: "b"}}}
	p.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Properties: properties})
	if ack := receive[*codec.Puback](p); ack.Code != codec.NoMatchingSubscribers || ack.UserProperties != nil {
		t.Errorf("%+v", ack)
	}
}

// Messages at QoS 0, which are encoded once for all clients, have no aliases.
func TestNoAliases(t *testing.T) {
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Properties: codec.ConnectProperties{TopicAliasMaximum: 10}})
	p.subscribe(1, 1, "a")
	for range 2 {
		p.send(&codec.Publish{Topic: "a"})
		if m := receive[*codec.Publish](p); m.Topic != "a" || m.TopicAlias != 0 {
			t.Errorf("%+v", m)
		}
	}
}

// Clients may use aliases, which do not get around the ACL. [MQTT-3.3.2-12]
func TestAliasesOfClients(t *testing.T) {
	c := onLoopback()
	c.Auth.ACLFile = writeFile(t, t.TempDir()+"/acl", "topic a\n")
	b := start(t, c)
	p, ack := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	if ack.Properties.TopicAliasMaximum != engine.TopicAliasMaximum {
		t.Errorf("%+v", ack.Properties)
	}
	p.subscribe(1, 0, "a")
	p.send(&codec.Publish{Topic: "a", TopicAlias: 1}, &codec.Publish{TopicAlias: 1}, &codec.Publish{Topic: "b", TopicAlias: 1})
	for range 2 {
		if m := receive[*codec.Publish](p); m.Topic != "a" {
			t.Errorf("%+v", m)
		}
	}
	p.send(&codec.Publish{TopicAlias: 1, QoS: 1, PacketID: 1})
	if ack := receive[*codec.Puback](p); ack.Code != codec.NotAuthorized {
		t.Errorf("%+v", ack)
	}
	for _, wrong := range []struct {
		publish codec.Publish
		want    codec.ReasonCode
	}{
		{codec.Publish{TopicAlias: 2}, codec.ProtocolError},
		{codec.Publish{Topic: "a", TopicAlias: engine.TopicAliasMaximum + 1}, codec.TopicAliasInvalid},
	} {
		p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
		p.send(&wrong.publish)
		if got := receive[*codec.Disconnect](p); got.Code != wrong.want {
			t.Errorf("%+v: %v", wrong.publish, got.Code)
		}
	}
}

// Without problem information, messages keep their user properties. [MQTT-3.1.2-29]
func TestUserPropertiesWithoutProblemInformation(t *testing.T) {
	b := start(t, onLoopback())
	no := false
	p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Properties: codec.ConnectProperties{RequestProblemInformation: &no}})
	p.subscribe(1, 0, "a")
	p.send(&codec.Publish{Topic: "a", Properties: codec.PublishProperties{UserProperties: codec.UserProperties{{Key: "a", Value: "b"}}}})
	if m := receive[*codec.Publish](p); len(m.Properties.UserProperties) != 1 {
		t.Errorf("%+v", m)
	}
}

// A message that is larger than the client takes is skipped, and takes no place in the window. [MQTT-3.1.2-25]
func TestTooLargeForClient(t *testing.T) {
	b := start(t, onLoopback())
	p, _ := join(t, b, codec.V5, &codec.Connect{
		CleanStart: true, Properties: codec.ConnectProperties{MaximumPacketSize: 100, ReceiveMaximum: 1},
	})
	p.subscribe(1, 1, "a")
	other, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	for _, size := range []int{200, 200, 10} {
		other.send(&codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: make([]byte, size)})
		receive[*codec.Puback](other)
	}
	if m := receive[*codec.Publish](p); len(m.Payload) != 10 {
		t.Errorf("%d bytes", len(m.Payload))
	}
}

// A session with a message that has become too large can be resumed.
func TestTooLargeAfterReconnect(t *testing.T) {
	b := start(t, onLoopback())
	connect := sessionOf("shrinking")
	p, _ := join(t, b, codec.V5, connect)
	p.subscribe(1, 1, "a")
	receiveAfter(p, &codec.Publish{Topic: "a", QoS: 1, PacketID: 1, Payload: make([]byte, 200)})
	receiveAfter(p, &codec.Publish{Topic: "a", QoS: 1, PacketID: 2, Payload: make([]byte, 20)})
	connect.CleanStart, connect.Properties.MaximumPacketSize = false, 100
	p, _ = join(t, b, codec.V5, connect)
	if m := receive[*codec.Publish](p); len(m.Payload) != 20 {
		t.Errorf("%d bytes", len(m.Payload))
	}
	p.quiet()
}

// An empty will message and an empty password are legal.
func TestEmptyWillAndPassword(t *testing.T) {
	b := start(t, onLoopback())
	sub, _ := join(t, b, codec.V311, &codec.Connect{CleanStart: true, ClientID: "s"})
	sub.subscribe(1, 0, "will")
	for _, v := range []codec.Version{codec.V311, codec.V5} {
		p, ack := join(t, b, v, &codec.Connect{
			CleanStart: true, ClientID: "p", Will: &codec.Will{Topic: "will"}, HasUsername: true, HasPassword: true, Username: "u",
		})
		if ack.Code != 0 {
			t.Fatalf("%+v", ack)
		}
		p.conn.Close()
		if m := receive[*codec.Publish](sub); len(m.Payload) != 0 {
			t.Errorf("%+v", m)
		}
	}
}

// Refusals have the codes of the version. [MQTT311-3.2.2-4] and section 3.2.2.3 of 3.1.1.
func TestRefusals(t *testing.T) {
	c := onLoopback()
	c.Auth = Auth{PasswordFile: writeFile(t, t.TempDir()+"/passwd", "alice:$7$101$AAAA$"+key)}
	b := start(t, c)
	for _, c := range []struct {
		version codec.Version
		connect codec.Connect
		want    codec.ReasonCode
	}{
		{codec.V5, codec.Connect{}, codec.NotAuthorized},
		{codec.V5, codec.Connect{HasUsername: true, Username: "alice"}, codec.BadUserNameOrPassword},
		{codec.V5, codec.Connect{HasUsername: true, Username: "eve"}, codec.BadUserNameOrPassword},
		{codec.V5, codec.Connect{Properties: codec.ConnectProperties{AuthenticationMethod: "x"}}, codec.BadAuthenticationMethod},
		{codec.V311, codec.Connect{}, codec.FromReturnCode(5)},
		{codec.V311, codec.Connect{HasUsername: true, Username: "alice"}, codec.FromReturnCode(4)},
	} {
		c.connect.CleanStart, c.connect.ClientID = true, "x"
		p, ack := join(t, b, c.version, &c.connect)
		if ack.Code != c.want {
			t.Errorf("%+v: %v, want %v", c.connect, ack.Code, c.want)
		}
		p.ended()
	}
	for _, c := range []struct {
		name    string
		connect string
		want    string
	}{
		{"3.1.1 without an identifier, not clean", "\x10\x0c\x00\x04MQTT\x04\x00\x00\x00\x00\x00", "\x20\x02\x00\x02"},
		{"version 6", "\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x01x", "\x20\x02\x00\x01"},
		{"3.1", "\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01x", "\x20\x02\x00\x01"},
	} {
		p := dial(t, b, codec.V311)
		_, err := p.conn.Write([]byte(c.connect))
		check(t, err)
		got := make([]byte, 10)
		n, err := p.conn.Read(got)
		if string(got[:n]) != c.want || err != nil {
			t.Errorf("%s: % x, %v", c.name, got[:n], err)
		}
	}
}

// Who takes over a session is known to the broker, although the old connection may get to its end only afterwards,
// because of its many subscriptions.
func TestTakeOverIsKnown(t *testing.T) {
	t.Parallel()
	b := start(t, onLoopback())
	other, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	filters := []string{"a"}
	for n := range 2000 {
		filters = append(filters, fmt.Sprint("b/", n))
	}
	for range 20 {
		p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, ClientID: "same"})
		p.subscribe(1, 0, filters...)
		other.send(&codec.Publish{Topic: "a"})
		receive[*codec.Publish](p)
	}
}
