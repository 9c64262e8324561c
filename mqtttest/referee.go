package mqtttest

import (
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// referee watches the packets of one connection as they are on the wire, those of the client before hooks and faults and
// those of the broker after them, and says what a conformant client would not have sent. It acts on nothing, except that it
// resolves topic aliases, which belong to the wire. The broker's lock guards it.
type referee struct {
	connected bool      // CONNECT has come
	accepted  bool      // CONNACK has been sent
	since     time.Time // then
	method    string    // of authentication
	authDue   bool      // the broker has sent AUTH 0x18
	reauth    bool      // the client has begun to re-authenticate
	ledger    *ledger   // nil: before CONNECT has been accepted
	fresh     bool      // the session was not resumed
	settled   bool      // a new message has been sent: what was unfinished has been sent again

	open       int             // publishes on this connection that are not finished
	lastResent uint64          // entry.number of the latest publish that was sent again
	requests   map[uint16]bool // SUBSCRIBE and UNSUBSCRIBE without an answer
	aliases    map[uint16]string
	pubrels    []uint16 // PUBRECs sent, which the client has to answer in order
	pubacks    []uint16 // the client's answers that are due, in order
	pubrecs    []uint16
	pubcomps   map[uint16]bool
}

// begin is called when the connection enters its session.
func (r *referee) begin(s *session, present bool) {
	r.ledger, r.fresh = &s.ledger, !present
	r.requests, r.pubcomps = make(map[uint16]bool), make(map[uint16]bool)
}

// sent notes a packet of the broker.
func (r *referee) sent(c *conn, p codec.Packet) {
	switch p := p.(type) {
	case *codec.Connack:
		r.accepted, r.since = p.Code == codec.Success, time.Now()
	case *codec.Auth:
		r.authDue = p.Code == codec.ContinueAuthentication
		r.reauth = r.reauth && r.authDue
	}
	if r.ledger == nil { // the test sends by itself
		return
	}
	switch p := p.(type) {
	case *codec.Publish:
		switch p.QoS {
		case 1:
			r.pubacks = append(r.pubacks, p.PacketID)
		case 2:
			r.pubrecs = append(r.pubrecs, p.PacketID)
		}
	case *codec.Puback:
		r.finished(c, p.PacketID)
	case *codec.Pubrec:
		r.pubrec(c, p)
	case *codec.Pubrel:
		r.pubcomps[p.PacketID] = true
	case *codec.Pubcomp:
		r.finished(c, p.PacketID)
	case *codec.Suback:
		delete(r.requests, p.PacketID)
	case *codec.Unsuback:
		delete(r.requests, p.PacketID)
	}
}

// acceptedFor reports whether the client has had its CONNACK for d.
func (r *referee) acceptedFor(d time.Duration) bool {
	return r.accepted && time.Since(r.since) >= d
}

// finished notes that the client is told that its message is finished.
func (r *referee) finished(c *conn, id uint16) {
	e := r.ledger.entries[id]
	if e == nil {
		return
	}
	if e.on == c {
		r.open--
	} else if e.on.sess != nil {
		return // the message has come again on a newer connection, which this one does not know of
	}
	delete(r.ledger.entries, id)
}

func (r *referee) pubrec(c *conn, p *codec.Pubrec) {
	if p.Code.Failed() {
		r.finished(c, p.PacketID)
		return
	}
	if e := r.ledger.entries[p.PacketID]; e != nil && e.recorded != c {
		e.recorded = c
		r.pubrels = append(r.pubrels, p.PacketID)
	}
}

// received returns what is wrong with a packet of the client, or nil.
func (r *referee) received(c *conn, p codec.Packet) *Violation {
	if !r.connected {
		r.connected = true
		return r.first(c, p)
	}
	if r.method != "" && !r.accepted && p.Type() != codec.AUTH && p.Type() != codec.DISCONNECT {
		return c.foul(codec.ProtocolError, "MQTT-3.1.2-30", "", p.Type().String()+" during authentication")
	}
	if p.Type() == codec.CONNECT {
		return c.foul(codec.ProtocolError, "MQTT-3.1.0-2", "MQTT-3.1.0-2", "second CONNECT")
	}
	if auth, ok := p.(*codec.Auth); ok {
		return r.auth(c, auth)
	}
	if r.ledger == nil { // CONNECT was delayed or lost by a fault: nothing is known yet
		return nil
	}
	switch p := p.(type) {
	case *codec.Publish:
		return r.publish(c, p)
	case *codec.Puback:
		return r.answered(c, p.PacketID, &r.pubacks, r.pubrecs, &pubackRules)
	case *codec.Pubrec:
		return r.answered(c, p.PacketID, &r.pubrecs, r.pubacks, &pubrecRules)
	case *codec.Pubrel:
		return r.pubrel(c, p)
	case *codec.Pubcomp:
		return r.pubcomp(c, p)
	case *codec.Subscribe:
		return r.subscribe(c, p)
	case *codec.Unsubscribe:
		return r.unsubscribe(c, p)
	case *codec.Disconnect:
		return r.disconnect(c, p)
	case *codec.Pingreq:
		return nil
	}
	return c.foul(codec.ProtocolError, "2.1.2", "2.2.1", p.Type().String()+", which only a server sends")
}

// first looks at the first packet.
func (r *referee) first(c *conn, p codec.Packet) *Violation {
	connect, ok := p.(*codec.Connect)
	if !ok {
		return c.foul(codec.ProtocolError, "MQTT-3.1.0-1", "MQTT-3.1.0-1", p.Type().String()+" before CONNECT")
	}
	r.method = connect.Properties.AuthenticationMethod
	return nil
}

func (r *referee) auth(c *conn, p *codec.Auth) *Violation {
	switch {
	case r.method == "":
		return c.foul(codec.ProtocolError, "MQTT-4.12.0-6", "", "AUTH without an Authentication Method in CONNECT")
	case p.Method != r.method:
		return c.foul(codec.ProtocolError, "MQTT-4.12.0-5", "", "AUTH with another Authentication Method than CONNECT")
	case p.Code == codec.ContinueAuthentication && r.authDue:
		r.authDue = false
		return nil
	case p.Code == codec.ReAuthenticate && r.accepted && !r.reauth:
		r.reauth = true
		return nil
	}
	return c.foul(codec.ProtocolError, "MQTT-3.15.2-1", "", "AUTH that answers nothing")
}

// answerRules are the statements about PUBACK or PUBREC.
type answerRules struct {
	name         string
	order        string // in both versions
	kind, kind31 string // what a message at the other QoS has to be answered with
}

var (
	pubackRules = answerRules{name: "PUBACK", order: "MQTT-4.6.0-2", kind: "MQTT-4.3.3-8", kind31: "MQTT-4.3.3-2"}
	pubrecRules = answerRules{name: "PUBREC", order: "MQTT-4.6.0-3", kind: "MQTT-4.3.2-4", kind31: "MQTT-4.3.2-2"}
)

// answered looks at an acknowledgement, which has to be for the oldest message that waits for one. others are the messages
// that have to be answered with the other packet.
func (r *referee) answered(c *conn, id uint16, due *[]uint16, others []uint16, rules *answerRules) *Violation {
	at := slices.Index(*due, id)
	switch {
	case at == 0:
		*due = (*due)[1:]
	case at > 0:
		*due = slices.Delete(*due, at, at+1)
		return c.foul(codec.ProtocolError, rules.order, rules.order, rules.name+" out of order")
	case slices.Contains(others, id):
		return c.foul(codec.ProtocolError, rules.kind, rules.kind31, rules.name+" for a message at another QoS")
	case r.fresh:
		return r.unknown(c, rules.name)
	}
	return nil
}

func (r *referee) unknown(c *conn, name string) *Violation {
	return c.foul(codec.ProtocolError, "MQTT-2.2.1-5", "MQTT-2.3.1-6", name+" that belongs to nothing")
}

func (r *referee) pubcomp(c *conn, p *codec.Pubcomp) *Violation {
	if !r.pubcomps[p.PacketID] && r.fresh {
		return r.unknown(c, "PUBCOMP")
	}
	delete(r.pubcomps, p.PacketID)
	return nil
}
