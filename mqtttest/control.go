package mqtttest

import (
	"crypto/tls"
	"slices"
	"sync"

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

// Unacknowledged returns the messages at QoS 1 and 2 that the broker has sent to a client, in the order of sending, and for
// which no PUBACK or PUBREC has come: so a test asserts that a service acknowledges a message only after it has done its work.
// Messages stay unacknowledged when their connection ends, as long as the session lasts. Those that were never sent, because
// the client was not connected or its Receive Maximum was reached, are not among them. QoS and Retain are those that the
// client got. The result is empty if there is no such client.
//
// The broker may learn of an acknowledgement some time after the client has sent it. In a testing/synctest bubble, call
// synctest.Wait first.
func (b *Broker) Unacknowledged(clientID string) []Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[clientID]
	if s == nil {
		return nil
	}
	var open []Message
	for _, f := range s.inOrder() {
		if !f.released {
			m := f.message
			open = append(open, Message{
				Topic: m.topic, ClientID: m.from, Payload: m.payload, QoS: f.qos, Retain: f.retain, Properties: m.props,
			})
		}
	}
	return open
}

// Cut breaks the connections of the clients, of all if none are named, as a pulled plug does: what is on its way in either
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

// HalfOpen makes the connections of the clients, of all if none are named, half-open: from now on, nothing that one side sends
// reaches the other side, and when one side closes, the other one does not notice. It works only on connections made by
// DialContext.
func (b *Broker) HalfOpen(clientIDs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.endpoints(clientIDs) {
		e.vanish()
	}
}

// Throttle limits the connections of the clients, of all if none are named, to a number of bytes per second in each direction;
// 0 is no limit. It works only on connections made by DialContext.
func (b *Broker) Throttle(bytesPerSecond int, clientIDs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.endpoints(clientIDs) {
		e.throttle(max(bytesPerSecond, 0))
	}
}

// endpoints returns our ends of the connections that clients, all if none are named, have made through memory.
func (b *Broker) endpoints(clientIDs []string) []*endpoint {
	var found []*endpoint
	for c := range b.entrance.conns {
		if e, ok := c.raw.(*endpoint); ok && (len(clientIDs) == 0 || slices.Contains(clientIDs, c.clientID)) {
			found = append(found, e)
		}
	}
	return found
}

// Kick ends the connection of a client: in MQTT 5.0 with a DISCONNECT that has this reason code, which a DISCONNECT of a server
// must be allowed to have.
func (b *Broker) Kick(clientID string, reason byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[clientID]; s != nil && s.conn != nil {
		s.conn.end(codec.ReasonCode(reason))
	}
}

// Refuse answers the next n CONNECTs with this reason code of MQTT 5.0; negative n is every one, 0 none any more. In MQTT
// 3.1.1 it becomes the return code that means the same, or "server unavailable". It replaces an earlier Refuse or HangUp.
func (b *Broker) Refuse(n int, reason byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entrance.refusal = refusal{left: n, code: codec.ReasonCode(reason)}
}

// HangUp ends the connections of the next n CONNECTs without an answer, as a proxy does whose server is down; negative n is
// every one, 0 none any more. It replaces an earlier Refuse or HangUp.
func (b *Broker) HangUp(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entrance.refusal = refusal{left: n, silent: true}
}

// Offline cuts all connections and refuses new ones until Online. Sessions and retained messages stay, and time goes on for them.
func (b *Broker) Offline() {
	b.mu.Lock()
	b.entrance.offline = true
	b.mu.Unlock()
	b.Cut()
}

// Online ends Offline.
func (b *Broker) Online() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entrance.offline = false
}

// Forget ends the sessions of the clients, of all if none are named, and cuts those that are connected. Wills that wait are
// published. Retained messages stay.
func (b *Broker) Forget(clientIDs ...string) {
	conns := b.abandon(clientIDs)
	b.mu.Lock()
	for id, s := range b.sessions {
		if s.conn == nil && (len(clientIDs) == 0 || slices.Contains(clientIDs, id)) {
			b.endSession(s)
		}
	}
	b.mu.Unlock()
	for _, c := range conns {
		c.cut()
	}
}

// Send sends packets to a client, in its present connection or in one that waits for its CONNACK, also packets that are wrong
// there. Intercept and Fault do not see them. A hook of Intercept may call Send, to answer a packet that it keeps from the
// broker. If the client is not connected, nothing happens.
func (b *Broker) Send(clientID string, packets ...codec.Packet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var latest *conn
	for c := range b.entrance.conns {
		if c.admission.greeted && !c.ended && c.clientID == clientID && (latest == nil || c.number > latest.number) {
			latest = c
		}
	}
	if latest == nil {
		return
	}
	for _, p := range packets {
		latest.sendSettled(p)
	}
}

// Reconfigure applies opts, on top of what the broker was made with, to connections from now on: a service may find other
// limits after a cut. Without options it goes back to what the broker was made with. Existing connections keep what their
// CONNACK has said; MergeOverlapping and KeepReceived, of which no client is told, change at once.
func (b *Broker) Reconfigure(opts ...Option) {
	s := b.base
	for _, opt := range opts {
		opt(&s)
	}
	change := s.changeTLS
	s.serverTLS = sync.OnceValue(func() *tls.Config { return b.newServerTLS(change) })
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settings = &s
	b.content.record.limit = s.record
}

// Fault applies f to packets from now on, until remove is called. To hold acknowledgements, and to release them:
//
//	release := broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Hold: true})
//	…
//	release()
func (b *Broker) Fault(f Fault) (remove func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	active := &activeFault{Fault: f}
	b.hooks.faults = append(b.hooks.faults, active)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.hooks.faults = slices.DeleteFunc(b.hooks.faults, func(other *activeFault) bool { return other == active })
		held := active.held
		active.held = nil
		for _, h := range held {
			h.conn.letGo(h.packet, h.outbound)
		}
	}
}

// Intercept shows every packet to f from now on, until remove is called: those of clients before the broker acts on them,
// and those of the broker before they are sent, each before faults. A packet is lost unless f returns true. f may keep the
// packet and set its fields. It must not write into its slices, which others share. It may answer a packet with Send, and call
// the broker's other methods except Close. Calls for one connection and direction come in order; others are concurrent.
func (b *Broker) Intercept(f func(clientID string, outbound bool, p codec.Packet) (keep bool)) (remove func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	active := &intercept{keep: f}
	b.hooks.intercepts = append(slices.Clone(b.hooks.intercepts), active)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		others := slices.Clone(b.hooks.intercepts)
		b.hooks.intercepts = slices.DeleteFunc(others, func(other *intercept) bool { return other == active })
	}
}

// Restarted tells the broker that the program with this client identifier has ended, and begins again without its memory of
// the session: it is no violation if the next client does not finish what the last one had begun. Call it between the two.
func (b *Broker) Restarted(clientID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[clientID]; s != nil {
		s.ledger = newLedger()
	}
}
