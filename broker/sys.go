package broker

import (
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/broker/internal/stats"
)

// version is what $SYS/broker/version says.
const version = "petrel"

// sys publishes the topics under $SYS at an interval, and knows the numbers that are not the engine's.
type sys struct {
	engine *engine.Engine
	topics *stats.Sys
	began  time.Time

	mu      sync.Mutex // guards maxHeap
	maxHeap int64

	done    chan struct{}
	running sync.WaitGroup
}

// startSys publishes for the first time, and then at the interval until stop; 0 means never.
func startSys(e *engine.Engine, interval time.Duration) *sys {
	s := &sys{engine: e, topics: stats.NewSys(), began: time.Now(), done: make(chan struct{})}
	if interval > 0 {
		s.publish()
		s.running.Go(func() { s.repeat(interval) })
	}
	return s
}

func (s *sys) repeat(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.publish()
		case <-s.done:
			return
		}
	}
}

func (s *sys) stop() {
	close(s.done)
	s.running.Wait()
}

func (s *sys) publish() {
	for _, t := range s.topics.Update(s.snapshot()) {
		s.engine.Publish(t.Name, []byte(t.Payload), 2, true) // each subscriber gets it at the QoS that it was granted
	}
}

// snapshot returns what the broker has counted.
func (s *sys) snapshot() stats.Snapshot {
	c := s.engine.Stats()
	now := heap()
	s.mu.Lock()
	s.maxHeap = max(s.maxHeap, now)
	highest := s.maxHeap
	s.mu.Unlock()
	return stats.Snapshot{
		Version: version, Uptime: time.Since(s.began),
		Connected: c.Connected, MaxConnected: c.MaxConnected, Disconnected: c.Sessions - c.Connected, ExpiredSessions: c.ExpiredSessions,
		Sockets: c.Sockets, Connects: c.Connects, Refused: c.Refused,
		Subscriptions: c.Subscriptions, SharedSubscriptions: c.SharedSubscriptions, Retained: c.Retained,
		Stored: c.Stored, StoredBytes: c.StoredBytes, InFlight: c.InFlight, Heap: now, MaxHeap: highest,
		PacketsReceived: c.PacketsReceived, PacketsSent: c.PacketsSent, BytesReceived: c.BytesReceived, BytesSent: c.BytesSent,
		PublishReceived: c.Published, PublishSent: c.Sent, PublishBytesReceived: c.PublishedBytes, PublishBytesSent: c.SentBytes,
		Dropped: c.Dropped, Expired: c.Expired, Denied: c.Denied,
	}
}
