package mqtt

import (
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/internal/route"
)

// receiver handles the packets of one connection. Only the goroutine that holds the client's mutex uses its fields.
type receiver struct {
	client *client
	link   *link.Link
	toWake []*Delivery // to be woken by Flush

	topics     route.Cache
	view       codec.PublishView
	properties codec.PublishProperties
	ids        []uint32 // subscription identifiers of the current PUBLISH
	aliases    [][]byte // topic names by the server's alias, from 1
}

func newReceiver(c *client, l *link.Link) *receiver { return &receiver{client: c, link: l} }

// Room wakes the publishes that wait for room in the write buffer, and sends from the queue.
// The caller holds mu.
func (r *receiver) Room() {
	r.client.outbox.room.wake()
	wake(r.client.outbox.sendQueued(nil))
}

// Refused notes that no more acknowledgements are sent on this connection. The server will send messages without
// acknowledgement again.
// The caller holds mu.
func (r *receiver) Refused() { r.client.session.EndIncoming() }

// Idle releases memory that an idle connection does not need.
// The caller holds mu.
func (r *receiver) Idle() {
	r.client.session.Trim()
	for s := range r.client.inbox.subs {
		s.line.trim()
	}
}

// Awaiting reports whether the server has something to acknowledge.
// The caller holds mu.
func (r *receiver) Awaiting() bool {
	return r.client.session.InFlight() > 0 || r.client.session.TakenIDs() > 0
}

// Packet handles one packet from the server.
// The caller holds mu.
func (r *receiver) Packet(h codec.Header, body []byte) error {
	switch h.Type {
	case codec.PUBLISH:
		err := r.publish(h, body)
		if r.view.QoS > 0 && r.client.session.Exhausted() {
			r.client.inbox.fillings.complete()
		}
		return err
	case codec.PUBACK:
		return r.puback(h, body)
	case codec.PUBREC:
		return r.pubrec(h, body)
	case codec.PUBREL:
		return r.pubrel(h, body)
	case codec.PUBCOMP:
		return r.pubcomp(h, body)
	case codec.SUBACK:
		return r.suback(h, body)
	case codec.UNSUBACK:
		return r.unsuback(h, body)
	case codec.DISCONNECT:
		return r.disconnect(h, body)
	case codec.AUTH:
		return r.auth(h, body)
	}
	return r.unexpected(h)
}

// unexpected makes the error for a packet that a server never sends after CONNACK.
func (r *receiver) unexpected(h codec.Header) error {
	const detail = "a server must not send this packet now"
	if h.Type == codec.CONNACK {
		return r.client.protocolError(h.Type, "MQTT-3.2.0-2", "3.2", detail)
	}
	return r.client.protocolError(h.Type, "4.13.1", "MQTT-4.8.0-1", detail)
}

// disconnect handles the server's DISCONNECT: the connection ends, and nothing more is sent (section 3.14.4).
// [MQTT-3.14.4]
func (r *receiver) disconnect(h codec.Header, body []byte) error {
	if r.client.version < codec.V5 {
		return r.client.protocolError(h.Type, "", "3.14", "a server has no DISCONNECT in MQTT 3.1.1")
	}
	var p codec.Disconnect
	if err := p.Decode(h, body, r.client.version); err != nil {
		return err
	}
	if p.SessionExpiry != nil {
		return r.client.protocolError(h.Type, "MQTT-3.14.2-2", "", "Session Expiry Interval in a server's DISCONNECT")
	}
	return &DisconnectError{
		ByServer:        true,
		ServerReference: p.ServerReference,
		Refusal:         Refusal{Code: ReasonCode(p.Code), Reason: p.ReasonString, UserProperties: p.UserProperties},
	}
}

// auth handles the server's step of a re-authentication.
// The caller holds mu.
func (r *receiver) auth(h codec.Header, body []byte) error {
	p, err := r.client.decodeAuth(h, body, true)
	if err != nil {
		return err
	}
	running := r.client.auth.running
	if running == nil || !running.asked {
		return r.client.protocolError(h.Type, "4.12.1", "", "it answers nothing")
	}
	running.asked = false
	running.answers <- p // has room: the earlier answers were received
	return nil
}
