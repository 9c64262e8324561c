package engine

import "sync/atomic"

// counters are what the engine counts.
type counters struct {
	connected, maxConnected atomic.Int64
	sessions                atomic.Int64
	subscriptions, shares   atomic.Int64
	retained                atomic.Int64
	stored, storedBytes     atomic.Int64 // messages that somebody keeps

	sockets, connects, refused atomic.Uint64
	expiredSessions            atomic.Uint64

	packetsReceived, packetsSent atomic.Uint64
	bytesReceived, bytesSent     atomic.Uint64

	published, publishedBytes atomic.Uint64 // messages that came, and bytes of their payloads
	sent, sentBytes           atomic.Uint64 // messages that went out, and bytes of their payloads

	dropped atomic.Uint64 // deliveries that a bound did not let through
	expired atomic.Uint64 // deliveries whose time was over before they began
	denied  atomic.Uint64 // deliveries that a client had no right to any more when it was their turn
	commits atomic.Uint64 // of the store
}

// Stats is what an engine has counted, and what there is now.
type Stats struct {
	Connected, MaxConnected            int64
	Sessions                           int64
	Subscriptions, SharedSubscriptions int64
	Retained                           int64
	Stored                             int64 // messages that are retained, queued or in flight
	StoredBytes                        int64 // of them
	Memory                             int64 // bytes of all that MaxMemory bounds
	InFlight                           int64

	Sockets, Connects, Refused uint64
	ExpiredSessions            uint64

	PacketsReceived, PacketsSent uint64
	BytesReceived, BytesSent     uint64
	Published, PublishedBytes    uint64
	Sent, SentBytes              uint64
	Dropped, Expired, Denied     uint64
	Commits                      uint64
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	c := &e.stats
	inFlight := int64(0)
	e.sessions.each(func(s *Session) {
		s.mu.Lock()
		defer s.mu.Unlock()
		inFlight += int64(s.state.InFlight())
	})
	return Stats{
		Connected: c.connected.Load(), MaxConnected: c.maxConnected.Load(), Sessions: c.sessions.Load(),
		Subscriptions: c.subscriptions.Load(), SharedSubscriptions: c.shares.Load(), Retained: c.retained.Load(),
		Stored: c.stored.Load(), StoredBytes: c.storedBytes.Load(), Memory: e.memory.Load(), InFlight: inFlight,
		Sockets: c.sockets.Load(), Connects: c.connects.Load(), Refused: c.refused.Load(), ExpiredSessions: c.expiredSessions.Load(),
		PacketsReceived: c.packetsReceived.Load(), PacketsSent: c.packetsSent.Load(),
		BytesReceived: c.bytesReceived.Load(), BytesSent: c.bytesSent.Load(),
		Published: c.published.Load(), PublishedBytes: c.publishedBytes.Load(), Sent: c.sent.Load(), SentBytes: c.sentBytes.Load(),
		Dropped: c.dropped.Load(), Expired: c.expired.Load(), Denied: c.denied.Load(), Commits: c.commits.Load(),
	}
}

// countSent counts messages that go out.
func (c *counters) countSent(messages, payload int) {
	c.sent.Add(uint64(messages))
	c.sentBytes.Add(uint64(payload))
	c.packetsSent.Add(uint64(messages))
}

// raise raises a maximum.
func raise(to *atomic.Int64, n int64) {
	for old := to.Load(); n > old && !to.CompareAndSwap(old, n); old = to.Load() {
	}
}
