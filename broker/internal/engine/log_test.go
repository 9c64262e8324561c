package engine

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// lines is a log that may be written to by many.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.b.String()), "\n")
}

// However long the names are that clients choose, and however many filters a packet has, a line of the log is not, and a
// packet does not make more than a few.
func TestLinesOfTheLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log lines
		l := newLab(t, func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			c.MaxQueuedMessages, c.MaxPacketSize = 1, 4<<20
			c.Policy = &rules{
				authenticate: func(c *Client, _ []byte) codec.ReasonCode {
					if c.Listener == "test" && strings.HasPrefix(c.Username, "refused") {
						return codec.NotAuthorized
					}
					return codec.Success
				},
				allows: func(_ *Client, access Access, topic string) bool {
					return !strings.HasPrefix(topic, "secret") && (access != Publish || !strings.HasPrefix(topic, "will"))
				},
			}
		})
		long := func(s string) string { return s + strings.Repeat("ä", 30_000) }
		connect := kept5(long("c"), true)
		connect.HasUsername, connect.Username = true, long("u")
		p, _ := l.join(codec.V5, connect)
		p.subscribe(1, long("a"), "$share/g/"+long("s"))
		refused := make([]string, 2000)
		for i := range refused {
			refused[i] = "secret"
		}
		refused[0] = long("secret")
		p.subscribe(1, refused...)
		p.send(&codec.Unsubscribe{PacketID: 1, Filters: refused})
		receive[*codec.Unsuback](p)
		p.leave(false)
		pub := l.client("p")
		for range 2 { // the second one is dropped
			pub.publish(long("a"), "x")
			pub.publish(long("s"), "x")
		}
		pub.publish(long("secret"), "x")
		other := &codec.Connect{CleanStart: true, HasUsername: true, Username: long("refused")}
		l.join(codec.V5, other)
		l.join(codec.V5, &codec.Connect{CleanStart: true, Will: &codec.Will{Topic: long("will")}})
		all := log.all()
		if len(all) > 100 {
			t.Errorf("%d lines", len(all))
		}
		for _, line := range all {
			if len(line) > 2000 {
				t.Errorf("%d bytes: %.300s", len(line), line)
			}
		}
	})
}
