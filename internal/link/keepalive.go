package link

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// ping is a PINGREQ that waits for its PINGRESP.
type ping struct {
	sent time.Duration
	done chan<- struct{} // closed by the PINGRESP; nil for the link's own
}

// Ping sends a PINGREQ. done is closed when its PINGRESP has come. It is called with the mutex held.
func (l *Link) Ping(done chan<- struct{}) {
	b, err := (&codec.Pingreq{}).Append(l.Buffer(), l.config.Version)
	if err != nil {
		panic(err) // a PINGREQ has no content that could be wrong
	}
	l.pings = append(l.pings, ping{sent: time.Since(l.began), done: done})
	l.Commit(b)
}

// pingresp takes a PINGRESP, with the mutex held. One that nobody asked for is harmless.
func (l *Link) pingresp(h codec.Header, body []byte) error {
	if err := (&codec.Pingresp{}).Decode(h, body, l.config.Version); err != nil {
		return err
	}
	if len(l.pings) == 0 {
		return nil
	}
	if done := l.pings[0].done; done != nil {
		close(done)
	}
	l.pings = append(l.pings[:0], l.pings[1:]...)
	return nil
}

// untilTick returns how long the writer may rest until a PINGREQ is due [MQTT-3.1.2-20] or a PINGRESP overdue.
func (l *Link) untilTick() time.Duration {
	if l.keepAlive == 0 {
		return never
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nextTick() - time.Since(l.began)
}

func (l *Link) nextTick() time.Duration {
	lastRead := time.Duration(l.lastRead.Load())
	if len(l.pings) == 0 {
		// A client that only publishes must notice a dead server too: silence in either direction counts.
		return min(l.lastSent, lastRead) + l.keepAlive
	}
	// Bytes from the server are a sign of life, but not for ever.
	sent := l.pings[0].sent
	overdue := sent + l.config.Patience
	if lastRead > sent {
		overdue = max(overdue, min(lastRead+l.config.Patience, sent+2*l.keepAlive))
	}
	return overdue
}

// tick sends the PINGREQ that is due, or gives the server up.
func (l *Link) tick() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	if !l.reading.Load() {
		l.lastRead.Store(int64(now)) // it is our reader that is behind: do not blame the server
		if len(l.pings) > 0 {
			l.pings[0].sent = now
		}
	}
	switch {
	case now < l.nextTick():
		return nil
	case len(l.pings) > 0:
		return ErrServerSilent
	}
	l.Ping(nil)
	return nil
}
