package session

import (
	"errors"
	"fmt"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// published appends a PUBLISH to the topic and returns what is on the wire: topic and alias.
func published(t *testing.T, s *Session, topic string, payload int) string {
	t.Helper()
	m := Message{Topic: topic, Payload: make([]byte, payload)}
	b, err := s.AppendPublish(nil, &m, 0, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s.largest > 0 && len(b) > s.largest {
		t.Errorf("%d bytes", len(b)) // [MQTT-3.1.2-24]
	}
	h, n, err := codec.ParseHeader(b, s.version)
	if err != nil {
		t.Fatal(err)
	}
	var p codec.Publish
	if err := p.Decode(h, b[n:], s.version); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(p.Topic, " ", p.TopicAlias)
}

func wantPublished(t *testing.T, s *Session, topic string, payload int, want string) {
	t.Helper()
	if got := published(t, s, topic, payload); got != want {
		t.Errorf("%q goes out as %q, want %q", topic, got, want)
	}
}

// The server says how many aliases it takes, and gets no more [MQTT-3.2.2-17] [MQTT-3.3.2-9]. The topic that was used
// least recently gives up its own.
func TestAliases(t *testing.T) {
	s := connected(codec.V5, 10)
	serve(s, 0, 2)
	for _, c := range []struct{ topic, want string }{
		{"first", "first 1"},
		{"first", " 1"},
		{"second", "second 2"},
		{"first", " 1"},
		{"third", "third 2"},
		{"second", "second 1"},
		{"second", " 1"},
		{"third", " 2"},
		{"tiny", "tiny 0"},
		{"third", " 2"},
		{"first", "first 1"},
	} {
		wantPublished(t, s, c.topic, 1, c.want)
	}
}

// A server that says nothing of aliases gets none [MQTT-3.2.2-18].
func TestNoAliases(t *testing.T) {
	s := connected(codec.V5, 10)
	for range 2 {
		wantPublished(t, s, "topic", 1, "topic 0")
	}
}

// Aliases are of one connection: on the next one nothing is known, and a message that is sent again says its topic
// [MQTT-3.3.2-7].
func TestAliasesOfAnotherConnection(t *testing.T) {
	s := connected(codec.V5, 10)
	serve(s, 0, 5)
	m := Message{Topic: "topic", QoS: 1}
	s.Send(nil, &m, 0)
	b, _, _ := s.Send(nil, &m, 0)
	wantBytes(t, "with an alias", b, "32 08 00 00 00 02 03 23 00 01")
	s.Lost()
	serve(s, 0, 5)
	resume(s, nil, 10)
	for _, want := range []string{
		"3A 0D 00 05 746F706963 00 01 03 23 00 01",
		"3A 08 00 00 00 02 03 23 00 01",
	} {
		b, err := s.Resend(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "sent again", b, want)
	}
	s.Lost()
	serve(s, 0, 0)
	resume(s, nil, 10)
	b, _ = s.Resend(nil, 0)
	wantBytes(t, "without aliases", b, "3A 0A 00 05 746F706963 00 01 00")
}

// An alias comes on top of the topic the first time. Where that is too much for the server, there is none, and nobody
// loses one over it.
func TestAliasInFullPacket(t *testing.T) {
	s := connected(codec.V5, 10)
	const largest = 60
	serve(s, largest, 1)
	wantPublished(t, s, "first", 1, "first 1")
	full := largest - 2 - 2 - len("second") - 1
	for range 2 {
		wantPublished(t, s, "second", full, "second 0")
	}
	wantPublished(t, s, "first", full, " 1")
	wantPublished(t, s, "second", full-aliasSize, "second 1")
	wantPublished(t, s, "second", full, " 1")
}

// What a packet that could not be made would have said is not known to the server.
func TestAliasOfPacketThatFailed(t *testing.T) {
	s := connected(codec.V5, 10)
	serve(s, 0, 2)
	bad := Message{Topic: "topic", Properties: &codec.PublishProperties{ContentType: "\x00"}}
	var e *codec.Error
	for range 3 {
		if _, err := s.AppendPublish(nil, &bad, 0, false, 0); !errors.As(err, &e) {
			t.Fatalf("a string with a NUL: %v", err)
		}
	}
	if got := published(t, s, "topic", 1); got != "topic 1" && got != "topic 2" {
		t.Errorf("goes out as %q", got)
	}
}

// The circle of uses against a plain list.
func TestAliasesModel(t *testing.T) {
	const maximum = 7
	s := connected(codec.V5, 10)
	serve(s, 0, maximum)
	var recent []string // the latest last
	x := uint32(1)
	for range 5000 {
		x = x*1664525 + 1013904223
		topic := fmt.Sprint("topic ", (x>>16)%12)
		known := false
		for i, r := range recent {
			if r == topic {
				known = true
				recent = append(recent[:i], recent[i+1:]...)
				break
			}
		}
		recent = append(recent, topic)
		if len(recent) > maximum {
			recent = recent[1:]
		}
		if sent := published(t, s, topic, 1)[0] != ' '; sent == known {
			t.Fatalf("%q: known %v, sent %v", topic, known, sent)
		}
		if n := s.out.aliases.find(topic); n < 1 || n > maximum {
			t.Fatalf("%q has the alias %d", topic, n)
		}
	}
}
