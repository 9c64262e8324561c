package session

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// inBothVersions runs f for each version.
func inBothVersions(t *testing.T, f func(t *testing.T, v codec.Version)) {
	for _, v := range []codec.Version{codec.V5, codec.V311} {
		t.Run(v.String(), func(t *testing.T) { f(t, v) })
	}
}

// wantBytes compares with bytes in hexadecimal digits; blanks do not count.
func wantBytes(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if w := strings.ReplaceAll(want, " ", ""); hex.EncodeToString(got) != strings.ToLower(w) {
		t.Errorf("%s: % X, want %s", what, got, want)
	}
}

// perVersion picks one of two texts.
func perVersion(v codec.Version, v5, v311 string) string {
	if v == codec.V5 {
		return v5
	}
	return v311
}

// serving returns a client's session that has a connection, on which nothing may be sent yet.
func serving(v codec.Version, limits Limits, receiveMaximum int) *Session {
	s := New(limits)
	s.Serve(Connection{Version: v, PeerMayForget: true, ReceiveMaximum: receiveMaximum})
	return s
}

// connection returns what holds on a session's connection.
func connection(s *Session) Connection {
	c := Connection{
		Version: s.version, PeerReceiveMaximum: s.out.window, PeerPacketSize: s.largest,
		PeerMayForget: s.mayForget, ReceiveMaximum: int(s.in.maximum),
	}
	if s.out.aliases != nil {
		c.PeerTopicAliases = s.out.aliases.maximum
	}
	return c
}

// serve changes what the peer takes.
func serve(s *Session, largest, aliases int) {
	c := connection(s)
	c.PeerPacketSize, c.PeerTopicAliases = largest, aliases
	s.Serve(c)
}

// renew begins a new session with a window of that many messages in flight.
func renew(s *Session, window int) (lost []Message) {
	c := connection(s)
	c.PeerReceiveMaximum = window
	s.Serve(c)
	return s.Renewed()
}

// resume continues the session with a window of that many messages in flight.
func resume(s *Session, dst []byte, window int) []byte {
	c := connection(s)
	c.PeerReceiveMaximum = window
	s.Serve(c)
	return s.Resumed(dst)
}

// connected returns a session with a window of that many messages in flight.
func connected(v codec.Version, window int) *Session {
	s := serving(v, Limits{InFlight: MaxInFlight, QueueMessages: 1000, QueueBytes: 1 << 20}, 0)
	renew(s, window)
	return s
}

// send sends a message whose owner is its payload.
func send(t *testing.T, s *Session, qos byte, payload string) (id uint16, packet []byte) {
	t.Helper()
	if !s.Ready() {
		t.Fatalf("not ready to send %q", payload)
	}
	b, id, err := s.Send(nil, &Message{Topic: "a", Payload: []byte(payload), QoS: qos, Owner: payload}, 0)
	if err != nil {
		t.Fatalf("sending %q: %v", payload, err)
	}
	return id, b
}

// owners returns the owners of messages, as send gives them.
func owners(messages []Message) string {
	var names []string
	for i := range messages {
		names = append(names, messages[i].Owner.(string))
	}
	return strings.Join(names, " ")
}

// view is an arriving PUBLISH; those with the same identifier have the same content.
func view(id uint16, qos byte, dup bool) *codec.PublishView {
	return &codec.PublishView{PacketID: id, QoS: qos, Dup: dup, Topic: []byte("t"), Payload: []byte{byte(id >> 8), byte(id)}}
}

// settle settles a receipt in the name of its first holder; there must be one.
func settle(s *Session, dst []byte, r *Receipt, code codec.ReasonCode, reason string) []byte {
	if !code.Failed() {
		return s.Settle(dst, r, r.Holders()[0], nil)
	}
	return s.Settle(dst, r, r.Holders()[0], &Reason{Code: code, String: reason})
}
