// Package stats turns what a broker has counted into topics under $SYS, by the names that Mosquitto's have, and into text
// for Prometheus.
package stats

import "time"

// Snapshot is what a broker has counted since it started, and what there is now.
type Snapshot struct {
	Version string
	Uptime  time.Duration

	// Clients.
	Connected       int64
	MaxConnected    int64 // the most at a time
	Disconnected    int64 // away, with a session that is kept
	ExpiredSessions uint64
	Sockets         uint64 // connections that were accepted
	Connects        uint64 // clients that were let in
	Refused         uint64 // clients that were not

	// What there is.
	Subscriptions       int64
	SharedSubscriptions int64
	Retained            int64
	Stored              int64 // messages that are retained, queued or in flight
	StoredBytes         int64
	InFlight            int64
	Heap                int64 // bytes
	MaxHeap             int64

	// Packets of all types, with their headers.
	PacketsReceived, PacketsSent uint64
	BytesReceived, BytesSent     uint64

	// PUBLISH.
	PublishReceived, PublishSent           uint64
	PublishBytesReceived, PublishBytesSent uint64 // of payloads
	Dropped                                uint64 // deliveries that a bound did not let through
	Expired                                uint64 // deliveries whose time was over before they began
	Denied                                 uint64 // deliveries that the client had no right to when it was their turn
}

// row is a number that is told.
type row struct {
	topics  []string // below $SYS/broker/
	load    string   // below $SYS/broker/load/, for a counter; "": it has no average
	metric  string   // of Prometheus, without its prefix
	help    string
	counter bool // it only grows
	of      func(*Snapshot) int64
}

func gauge(metric, help string, of func(*Snapshot) int64, topics ...string) row {
	return row{topics: topics, metric: metric, help: help, of: of}
}

func counter(metric, help, load string, of func(*Snapshot) uint64, topics ...string) row {
	return row{
		topics: topics, load: load, metric: metric + "_total", help: help, counter: true,
		of: func(s *Snapshot) int64 { return int64(of(s)) },
	}
}

var rows = []row{
	gauge("clients_connected", "Clients that are connected.",
		func(s *Snapshot) int64 { return s.Connected }, "clients/connected", "clients/active"),
	gauge("clients_disconnected", "Clients that are away, whose session is kept.",
		func(s *Snapshot) int64 { return s.Disconnected }, "clients/disconnected", "clients/inactive"),
	gauge("clients_maximum", "The most clients that were connected at a time.",
		func(s *Snapshot) int64 { return s.MaxConnected }, "clients/maximum"),
	gauge("clients", "Clients that are connected or have a session.",
		func(s *Snapshot) int64 { return s.Connected + s.Disconnected }, "clients/total"),
	counter("sessions_expired", "Sessions that ended because their client stayed away.", "",
		func(s *Snapshot) uint64 { return s.ExpiredSessions }, "clients/expired"),
	counter("sockets", "Connections that were accepted.", "sockets",
		func(s *Snapshot) uint64 { return s.Sockets }),
	counter("connects", "Clients that were let in.", "connections",
		func(s *Snapshot) uint64 { return s.Connects }),
	counter("connects_refused", "Clients that were not let in.", "",
		func(s *Snapshot) uint64 { return s.Refused }, "clients/refused"),

	gauge("subscriptions", "Subscriptions.",
		func(s *Snapshot) int64 { return s.Subscriptions }, "subscriptions/count"),
	gauge("shared_subscriptions", "Shared subscriptions.",
		func(s *Snapshot) int64 { return s.SharedSubscriptions }, "shared_subscriptions/count"),
	gauge("messages_retained", "Retained messages.",
		func(s *Snapshot) int64 { return s.Retained }, "retained messages/count"),
	gauge("messages_stored", "Messages that are retained, queued or in flight.",
		func(s *Snapshot) int64 { return s.Stored }, "store/messages/count", "messages/stored"),
	gauge("messages_stored_bytes", "Bytes of the messages that are retained, queued or in flight.",
		func(s *Snapshot) int64 { return s.StoredBytes }, "store/messages/bytes"),
	gauge("messages_in_flight", "Messages that wait for an acknowledgement.",
		func(s *Snapshot) int64 { return s.InFlight }, "messages/inflight"),
	gauge("heap_bytes", "Bytes of objects on the heap.",
		func(s *Snapshot) int64 { return s.Heap }, "heap/current"),
	gauge("heap_maximum_bytes", "The most bytes of objects on the heap.",
		func(s *Snapshot) int64 { return s.MaxHeap }, "heap/maximum"),

	counter("packets_received", "Packets that were received.", "messages/received",
		func(s *Snapshot) uint64 { return s.PacketsReceived }, "messages/received"),
	counter("packets_sent", "Packets that were sent.", "messages/sent",
		func(s *Snapshot) uint64 { return s.PacketsSent }, "messages/sent"),
	counter("received_bytes", "Bytes that were received.", "bytes/received",
		func(s *Snapshot) uint64 { return s.BytesReceived }, "bytes/received"),
	counter("sent_bytes", "Bytes that were sent.", "bytes/sent",
		func(s *Snapshot) uint64 { return s.BytesSent }, "bytes/sent"),

	counter("publish_received", "PUBLISH packets that were received.", "publish/received",
		func(s *Snapshot) uint64 { return s.PublishReceived }, "publish/messages/received"),
	counter("publish_sent", "PUBLISH packets that were sent.", "publish/sent",
		func(s *Snapshot) uint64 { return s.PublishSent }, "publish/messages/sent"),
	counter("publish_received_bytes", "Bytes of payloads that were received.", "",
		func(s *Snapshot) uint64 { return s.PublishBytesReceived }, "publish/bytes/received"),
	counter("publish_sent_bytes", "Bytes of payloads that were sent.", "",
		func(s *Snapshot) uint64 { return s.PublishBytesSent }, "publish/bytes/sent"),
	counter("deliveries_dropped", "Deliveries that a bound did not let through.", "publish/dropped",
		func(s *Snapshot) uint64 { return s.Dropped }, "publish/messages/dropped"),
	counter("deliveries_expired", "Deliveries whose time was over before they began.", "",
		func(s *Snapshot) uint64 { return s.Expired }, "publish/messages/expired"),
	counter("deliveries_denied", "Deliveries that the client had no right to when it was their turn.", "",
		func(s *Snapshot) uint64 { return s.Denied }, "publish/messages/denied"),
}
