package mqtttest

import (
	"slices"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Clients returns the identifiers of the clients that are connected, sorted.
func (b *Broker) Clients() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for id, s := range b.sessions {
		if s.conn != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Cut breaks the connections of the clients, of all if none are named, as a pulled plug would: what is on its way in either
// direction is lost, and the client gets an error. Wills are published.
func (b *Broker) Cut(clientIDs ...string) {
	for _, c := range b.abandon(clientIDs) {
		c.cut()
	}
}

// abandon takes connections out of their sessions and returns them.
func (b *Broker) abandon(clientIDs []string) []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(clientIDs) == 0 {
		return b.leaveAll()
	}
	var conns []*conn
	for _, id := range clientIDs {
		if s := b.sessions[id]; s != nil && s.conn != nil {
			conns = append(conns, s.conn)
			s.conn.abandon()
		}
	}
	return conns
}

// HalfOpen makes the connections of the clients, of all if none are named, half-open: from now on what either side sends,
// and that it closes, does not reach the other, and neither is told. Only connections made by DialContext can be so.
func (b *Broker) HalfOpen(clientIDs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if e, ok := c.nc.(*endpoint); ok && (len(clientIDs) == 0 || slices.Contains(clientIDs, c.clientID)) {
			e.vanish()
		}
	}
}

// Kick ends the connection of a client: in MQTT 5.0 with a DISCONNECT that has this reason code, which must be one of DISCONNECT.
func (b *Broker) Kick(clientID string, reason byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[clientID]; s != nil && s.conn != nil {
		s.conn.end(codec.ReasonCode(reason))
	}
}

// Refuse answers the next n CONNECTs with this reason code of MQTT 5.0; negative n is every one, 0 none any more. In MQTT
// 3.1.1 it becomes the return code that means the same, or "server unavailable".
func (b *Broker) Refuse(n int, reason byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusal = refusal{left: n, code: codec.ReasonCode(reason)}
}

// Offline cuts all connections and refuses new ones until Online. Sessions and retained messages stay, and time goes on for them.
func (b *Broker) Offline() {
	b.mu.Lock()
	b.offline = true
	b.mu.Unlock()
	b.Cut()
}

// Online ends Offline.
func (b *Broker) Online() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offline = false
}

// Forget ends the session of a client, and cuts its connection if it has one. A will that waits is published.
func (b *Broker) Forget(clientID string) {
	conns := b.abandon([]string{clientID})
	b.mu.Lock()
	if s := b.sessions[clientID]; s != nil && s.conn == nil {
		b.endSession(s)
	}
	b.mu.Unlock()
	for _, c := range conns {
		c.cut()
	}
}

// Reconfigure applies opts, on top of what the broker was made with, to connections from now on: a service may find other
// limits after a cut. Without options it goes back to what the broker was made with. Connections that are there keep what
// their CONNACK has said; MergeOverlapping and KeepReceived, which no client is told, change at once.
func (b *Broker) Reconfigure(opts ...Option) {
	s := b.base
	for _, opt := range opts {
		opt(&s)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settings = &s
	b.record.limit = s.record
}
