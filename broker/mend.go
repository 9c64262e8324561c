package broker

import (
	"bytes"
	"math"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// This file mends from outside what mochi 2.7.9 was seen to do against the specification, as far as that is possible.
// What cannot be mended:
//   - The properties of a will, but for user properties and the delay, are lost.
//   - Messages that are resent after a reconnect come in the order of their packet identifiers, so not in theirs where
//     the identifiers begin again at 1.
//   - A message that is passed on in the instant in which a new connection takes over the session of a client is lost.
//   - A malformed packet, or one that is too large, ends the connection without DISCONNECT.

// flow is the state of the mends for one connection.
type flow struct {
	// window has an element for each PUBLISH at QoS 1 and 2 that the client has still to acknowledge, and room for as
	// many as its Receive Maximum; nil for 3.1.1. Mochi's own count loses an acknowledgement for each message that had to
	// wait, until nothing is sent any more, and it sends those that had to wait in any order.
	window  chan struct{}
	resumed atomic.Bool // what was to be resent has been: a full window is waited for from now on

	ids       *idTable
	aliases   map[uint16]string // of the client's topics; owned by the goroutine that reads
	emptyWill bool
	slow      atomic.Bool // messages were dropped
}

// idTable translates packet identifiers. Mochi keeps the messages of both directions in one table by packet identifier:
// a PUBLISH from the client removes a message to the client of the same identifier, and a SUBSCRIBE is refused. So one
// that would collide is given another identifier inside. The table lives as long as the session, in one process.
type idTable struct {
	mu     sync.Mutex        // guards the maps: an old connection of the session may still be ending
	inside map[uint16]uint16 // by the client's identifier
	client map[uint16]uint16 // by the one inside
}

// mend prepares a client that may connect.
func (b *Broker) mend(c *conn, cl *mochi.Client, pk packets.Packet) {
	if c.client.Version == 5 {
		n := int(cl.Properties.Props.ReceiveMaximum)
		if n == 0 {
			n = math.MaxUint16 // section 3.1.2.11.3
		}
		c.window = make(chan struct{}, n)
	}
	cl.Properties.Props.ReceiveMaximum = 0 // no count by mochi
	cl.State.Inflight.ResetSendQuota(0)

	// Mochi assigns an alias when a message is queued. If that message is dropped, or resent on a later connection, the
	// client gets an alias it does not know.
	cl.Properties.Props.TopicAliasMaximum = 0

	if c.emptyWill {
		cl.Properties.Will.Payload = nil
	}
	c.ids = &idTable{inside: map[uint16]uint16{}, client: map[uint16]uint16{}}
	if old, ok := b.server.Clients.Get(cl.ID); ok {
		c.takeOver(cl, old, pk.Connect.Clean)
	}
}

// takeOver prepares for mochi to end an older connection of the client, and to resume its session.
func (c *conn) takeOver(cl, old *mochi.Client, clean bool) {
	for _, pk := range old.State.Inflight.GetAll(false) {
		if pk.FixedHeader.Type == packets.Publish && tooLarge(cl, pk) {
			old.State.Inflight.Delete(pk.PacketID) // mochi would end the connection instead, each time
		}
	}
	if before, ok := old.Net.Conn.(*conn); ok {
		before.successor.Store(c)
		before.socket.end(lingerTimeout) // mochi waits for what is being written, which a dead client would never take
		if !clean {
			c.ids = before.ids
		}
	}
}

// awaitSuccessor waits until mochi has put the connection that takes over in this one's place. Else it may remove the
// new client, by the identifier, in the belief that it removes the old one.
func (c *conn) awaitSuccessor() {
	if next := c.successor.Load(); next != nil {
		select {
		case <-next.answered:
		case <-next.closed:
		}
	}
}

// begin ends the time in which messages are resent.
func (c *conn) begin(cl *mochi.Client) {
	// Mochi takes from this quota for QoS 2 in both directions, and would end the connection with 0x93.
	cl.State.Inflight.ResetReceiveQuota(math.MaxInt32)
	c.resumed.Store(true)
}

// in changes a packet from the client before mochi looks at it.
func (c *conn) in(cl *mochi.Client, pk *packets.Packet) {
	switch pk.FixedHeader.Type {
	case packets.Connect:
		c.inConnect(&pk.Connect)
	case packets.Publish:
		c.resolve(pk)
		if isSys(pk.TopicName) {
			pk.TopicName = denied // mochi would drop it and never acknowledge
		}
		if pk.FixedHeader.Qos > 0 {
			c.ids.translateIn(cl, pk)
		}
	case packets.Subscribe, packets.Unsubscribe, packets.Pubrel:
		c.ids.translateIn(cl, pk)
	case packets.Puback, packets.Pubcomp:
		c.release()
	case packets.Pubrec:
		if pk.ReasonCode >= packets.ErrUnspecifiedError.Code {
			c.release()
		}
	}
}

// maxAliases is the Topic Alias Maximum for clients.
const maxAliases = 64

// resolve puts the topic in place of its alias. An alias that is wrong stays, and mochi refuses it.
func (c *conn) resolve(pk *packets.Packet) {
	alias := pk.Properties.TopicAlias
	if alias == 0 || alias > maxAliases {
		return
	}
	switch {
	case pk.TopicName != "":
		if c.aliases == nil {
			c.aliases = map[uint16]string{}
		}
		c.aliases[alias] = pk.TopicName
	case c.aliases[alias] == "":
		return
	}
	pk.TopicName = c.aliases[alias]
	pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 0, false
}

// inConnect gets an empty will message and an empty password, which are legal, past mochi.
func (c *conn) inConnect(connect *packets.ConnectParams) {
	if connect.WillFlag && len(connect.WillPayload) == 0 {
		c.emptyWill = true
		connect.WillPayload = []byte{0}
	}
	if len(connect.Password) == 0 {
		connect.PasswordFlag = false
	}
}

// out changes a packet to the client before mochi encodes it.
func (c *conn) out(cl *mochi.Client, pk *packets.Packet) {
	switch pk.FixedHeader.Type {
	case packets.Connack:
		c.answer.Do(func() { close(c.answered) })
		if cl.Properties.ProtocolVersion != 5 {
			pk.ReasonCode = returnCode(pk.ReasonCode)
		}
	case packets.Publish:
		pk.Mods.DisallowProblemInfo = false // it is not about PUBLISH [MQTT-3.1.2-29]
		if pk.FixedHeader.Qos > 0 {
			c.outPublish(cl, pk)
		}
	case packets.Pubrec:
		if pk.ReasonCode == packets.ErrPacketIdentifierInUse.Code { // mochi's answer to a message that is sent again
			pk.ReasonCode, pk.Properties.ReasonString = 0, "" // [MQTT-4.3.3-10]
		}
		c.ids.translateOut(pk, pk.ReasonCode >= packets.ErrUnspecifiedError.Code)
	case packets.Puback, packets.Pubcomp, packets.Suback, packets.Unsuback:
		c.ids.translateOut(pk, true)
	case packets.Disconnect:
		if cl.Properties.ProtocolVersion != 5 {
			dontSend(pk) // 3.1.1 has none from the server
		}
		pk.Properties.ReasonString = "" // mochi's says no more than the code
	}
}

// outPublish waits for room in the window, and sees to DUP: mochi sets it on everything that it sends after a reconnect.
func (c *conn) outPublish(cl *mochi.Client, pk *packets.Packet) {
	if tooLarge(cl, *pk) {
		cl.State.Inflight.Delete(pk.PacketID) // done with it [MQTT-3.1.2-25]; mochi will not send it, but would count it for ever
		return
	}
	if c.window != nil && !c.acquire() {
		dontSend(pk)
		return
	}
	stored, ok := cl.State.Inflight.Get(pk.PacketID)
	sent := stored.Created&sentBit != 0
	if !ok || !sent && pk.Expiry > 0 && pk.Expiry < time.Now().Unix() { // it waited for too long [MQTT-3.3.2-5]
		cl.State.Inflight.Delete(pk.PacketID)
		dontSend(pk)
		c.release()
		return
	}
	pk.FixedHeader.Dup = sent // [MQTT-3.3.1-1]
	stored.Created |= sentBit
	cl.State.Inflight.Set(stored)
}

// inFlight makes mochi resend in order: it sorts by the low 16 bits of Created, a time in seconds, which here is the
// packet identifier. What is above them says whether the message has been sent.
func inFlight(cl *mochi.Client, pk packets.Packet) {
	if stored, ok := cl.State.Inflight.Get(pk.PacketID); ok && pk.FixedHeader.Type == packets.Publish {
		stored.Created = int64(pk.PacketID) | stored.Created&sentBit
		cl.State.Inflight.Set(stored)
	}
}

const sentBit = 1 << 40

// dontSend makes of the packet one that mochi does not know how to send.
func dontSend(pk *packets.Packet) { pk.FixedHeader.Type = packets.Reserved }

// acquire waits for room in the window, and reports whether the connection still lives.
func (c *conn) acquire() bool {
	if !c.resumed.Load() {
		select {
		case c.window <- struct{}{}:
		default: // on the goroutine that reads acknowledgements, nobody would make room
		}
		return true
	}
	select {
	case c.window <- struct{}{}:
		return true
	case <-c.closed:
		return false
	}
}

func (c *conn) release() {
	select {
	case <-c.window:
	default:
	}
}

// tooLarge reports whether the client takes no message of this size.
func tooLarge(cl *mochi.Client, pk packets.Packet) bool {
	most := cl.Properties.Props.MaximumPacketSize
	if most == 0 {
		return false
	}
	pk.ProtocolVersion = cl.Properties.ProtocolVersion
	var b bytes.Buffer
	return pk.PublishEncode(&b) == nil && uint32(b.Len()) > most
}

// returnCode is the code of 3.1.1 for one that mochi, or OnConnect, has for a refusal.
func returnCode(code byte) byte {
	switch {
	case code <= 5:
		return code
	case code == packets.ErrUnsupportedProtocolVersion.Code, code == packets.ErrProtocolViolation.Code:
		return 1 // mochi's protocol violation is a version it does not know
	case code == packets.ErrClientIdentifierNotValid.Code, code == packets.ErrUnspecifiedError.Code:
		return 2 // mochi's unspecified error is a missing client identifier
	case code == packets.ErrBadUsernameOrPassword.Code:
		return 4
	case code == packets.ErrNotAuthorized.Code:
		return 5
	}
	return 3
}

// translateIn replaces the identifier of a packet from the client if it must be, or was before.
func (t *idTable) translateIn(cl *mochi.Client, pk *packets.Packet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if inside, ok := t.inside[pk.PacketID]; ok {
		pk.PacketID = inside
		return
	}
	mine, ok := cl.State.Inflight.Get(pk.PacketID)
	if !ok || pk.FixedHeader.Type == packets.Pubrel || mine.FixedHeader.Type != packets.Publish && mine.FixedHeader.Type != packets.Pubrel {
		return
	}
	inside, err := cl.NextPacketID()
	if err != nil {
		return
	}
	t.inside[pk.PacketID], t.client[uint16(inside)] = uint16(inside), pk.PacketID
	pk.PacketID = uint16(inside)
}

// translateOut is the reverse for a packet to the client, the last about this identifier or not.
func (t *idTable) translateOut(pk *packets.Packet, last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, ok := t.client[pk.PacketID]
	if !ok {
		return
	}
	if last {
		delete(t.client, pk.PacketID)
		delete(t.inside, id)
	}
	pk.PacketID = id
}
