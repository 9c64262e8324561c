package link

import (
	"slices"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

const (
	// The server may take half the keep alive interval to answer a PINGREQ, within these bounds.
	minPatience = 2 * time.Second
	maxPatience = 10 * time.Second

	// longTrip is how many times the usual round trip an acknowledgement may take before a PINGREQ asks whether the server is
	// there, and minOverdue the least time for it.
	longTrip   = 16
	minOverdue = 5 * time.Second

	// heldUp is how long a write takes that had to wait for the server to make room.
	heldUp = 100 * time.Millisecond
	// backlog is how long a PINGREQ may wait in the buffers on the way, behind what was written before it.
	backlog = 5 * time.Minute
)

// notAsked means that the server has nothing to acknowledge, or that a packet was handled that came since.
const notAsked time.Duration = -1

// keepAlive is how the writer notices that the server is gone.
type keepAlive struct {
	interval time.Duration // set by Start; 0: off
	patience time.Duration // set by Start; how long the server may take to answer
	pings    []ping        // mu; PINGREQs without PINGRESP, oldest first
	taken    int           // mu; how many of pings the writer has taken
	asked    time.Duration // mu; when the server was found to have something to acknowledge, or notAsked
	trip     time.Duration // mu; how long it usually takes until a packet comes then; 0: not known
	last     time.Duration // mu; how long it took the last time that it was measured; 0: never
	early    int           // mu; PINGREQs since then, because no packet came
	lastSent time.Duration // when the latest bytes were written; owned by the writer
	progress time.Duration // when the latest write ended that was held up; owned by the writer
	nextTick time.Duration // the earliest time at which tick has work; owned by the writer
}

// patience is what Config says, or follows the interval.
func (c *Config) patience(interval time.Duration) time.Duration {
	if c.Patience != 0 {
		return c.Patience
	}
	return min(maxPatience, max(minPatience, interval/2))
}

// later is t+d, or never.
func later(t, d time.Duration) time.Duration {
	if t > never-d {
		return never
	}
	return t + d
}

// ping is a PINGREQ that waits for its PINGRESP.
type ping struct {
	sent time.Duration   // when it was written, or unsent: other packets may keep the connection busy before it
	lag  time.Duration   // of the reader, at that time
	done chan<- struct{} // closed by the PINGRESP; nil for the link's own
}

const unsent time.Duration = -1

// Ping sends a PINGREQ. done is closed when its PINGRESP has come.
// The caller holds mu.
func (l *Link) Ping(done chan<- struct{}) {
	b, err := (&codec.Pingreq{}).Append(l.Buffer(), l.config.Version)
	if err != nil {
		panic(err) // a PINGREQ has no content that could be wrong
	}
	l.alive.pings = append(l.alive.pings, ping{sent: unsent, done: done})
	l.Commit(b)
}

// wrote notes that everything that the writer has taken is written.
// The caller holds mu.
func (l *Link) wrote() {
	l.out.Wrote()
	if l.out.underWay != nil {
		close(l.out.underWay)
		l.out.underWay = nil
	}
	for i := range l.alive.pings[:l.alive.taken] {
		if p := &l.alive.pings[i]; p.sent == unsent {
			p.sent = time.Since(l.began)
			_, p.lag = l.in.ear.state(p.sent)
		}
	}
}

// pingresp takes a PINGRESP. One without a PINGREQ is ignored.
// The caller holds mu.
// [MQTT-3.12.4-1] [MQTT311-3.12.4-1]
func (l *Link) pingresp(h codec.Header, body []byte) error {
	if err := (&codec.Pingresp{}).Decode(h, body, l.config.Version); err != nil {
		return err
	}
	if len(l.alive.pings) == 0 {
		return nil
	}
	p := &l.alive.pings[0]
	if p.done != nil {
		close(p.done)
	}
	if trip := l.in.came - p.sent; p.sent != unsent && trip > 0 {
		l.alive.last = trip
	}
	l.alive.pings = slices.Delete(l.alive.pings, 0, 1)
	l.alive.taken = max(0, l.alive.taken-1)
	return nil
}

// tick sends the PINGREQ that is due, or ends the link because the server is silent.
func (l *Link) tick() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	heard, lag := l.in.ear.state(now)
	switch {
	case now >= l.overdue(heard, lag):
		return ErrServerSilent
	case now >= l.due(now, heard):
		l.Ping(nil)
		l.handler.Idle()
	case now >= l.early(heard):
		l.alive.early++
		l.Ping(nil)
	}
	l.alive.nextTick = l.nextTick(now)
	return nil
}

// nextTick returns the earliest time at which tick has work.
// The caller holds mu.
func (l *Link) nextTick(now time.Duration) time.Duration {
	if l.alive.asked == notAsked && l.handler.Awaiting() {
		l.alive.asked = now
	}
	heard, lag := l.in.ear.state(now)
	return min(l.due(now, heard), l.overdue(heard, lag), l.early(heard))
}

// In early, due and overdue, heard and lag are what the ear's state returned.

// early returns when an acknowledgement is so late that a PINGREQ asks whether the server is there: a dead connection need
// not wait for the keep alive. A server that answers is only slow, and is asked less and less often.
// The caller holds mu.
func (l *Link) early(heard time.Duration) time.Duration {
	if l.alive.interval == 0 || len(l.alive.pings) > 0 || l.alive.asked == notAsked {
		return never
	}
	late := max(minOverdue, longTrip*l.alive.trip) << min(l.alive.early, 20)
	return later(max(heard, l.alive.asked), min(late, l.alive.interval))
}

// answered notes that the server sent a packet other than PINGRESP. What counts is when it came: the reader may have been
// busy with others since.
// The caller holds mu. It is the reader.
func (l *Link) answered() {
	if l.alive.asked == notAsked {
		return
	}
	trip := l.in.came - l.alive.asked
	if trip < 0 && l.handler.Awaiting() {
		return // it had come before
	}
	if trip > 0 {
		l.alive.last = trip
		if l.alive.trip == 0 {
			l.alive.trip = trip
		} else {
			l.alive.trip += (trip - l.alive.trip) / 8
		}
	}
	l.alive.asked, l.alive.early = notAsked, 0
}

// RoundTrip returns how long the server took to answer, the last time that it was measured; 0 if it was not.
// The caller holds mu.
func (l *Link) RoundTrip() time.Duration { return l.alive.last }

// due returns when a PINGREQ is due [MQTT-3.1.2-20], whether or not an earlier one was answered.
// The caller holds mu.
// [MQTT-3.1.2-22] [MQTT-3.1.2.10b] [MQTT311-3.1.2-23] [MQTT311-3.1.2-24] [MQTT311-3.1.2.10b]
func (l *Link) due(now, heard time.Duration) time.Duration {
	if l.alive.interval == 0 {
		return never
	}
	since := l.alive.lastSent
	if l.out.Waiting() > 0 {
		since = now // something is about to be sent
	}
	if len(l.alive.pings) == 0 {
		// A client that only publishes must notice a dead server too: silence in either direction counts.
		since = min(since, heard)
	}
	return later(since, l.alive.interval)
}

// overdue returns when the PINGRESP to the oldest PINGREQ is overdue. Time in which the reader did not read does not count.
// The caller holds mu.
// [MQTT-3.1.2.10a] [MQTT311-3.1.2.10a]
func (l *Link) overdue(heard, lag time.Duration) time.Duration {
	if l.alive.interval == 0 || len(l.alive.pings) == 0 || l.alive.pings[0].sent == unsent {
		return never
	}
	p := &l.alive.pings[0]
	sent := p.sent + lag - p.lag
	overdue := later(sent, l.alive.patience)
	if heard > p.sent {
		// Bytes from the server are a sign of life for a limited time.
		overdue = max(overdue, min(later(heard, l.alive.patience), sent+2*l.alive.interval))
	}
	if l.alive.progress > 0 {
		// So is room that the server made for what is written: the PINGREQ may be behind many other bytes.
		overdue = max(overdue, min(later(l.alive.progress, max(l.alive.patience, l.alive.interval)), sent+backlog))
	}
	return overdue
}

// ear knows how the reader spends its time. The reader and the writer use it.
type ear struct {
	mu      sync.Mutex
	waiting bool          // for the server, which is silent if this lasts
	heard   time.Duration // when the latest bytes came, or the reader began to wait for the next ones
	lag     time.Duration // for how long, in all, the reader was busy with what had come
}

// listen begins a wait for the server.
func (e *ear) listen(now time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = true
	e.lag += now - e.heard
	e.heard = now
}

// hear ends it.
func (e *ear) hear(now time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = false
	e.heard = now
}

// state returns since when the server is silent, which is now while the reader is busy with what it said, and the lag.
func (e *ear) state(now time.Duration) (heard, lag time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting {
		return e.heard, e.lag
	}
	return now, e.lag + now - e.heard
}
