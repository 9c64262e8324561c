package broker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// hook is how mochi asks and tells the broker. Its methods run on the goroutine that reads from the client, unless they
// say otherwise.
type hook struct {
	mochi.HookBase
	b *Broker
}

func (h *hook) ID() string { return "petrel" }

func (h *hook) Provides(b byte) bool {
	switch b {
	case mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnAuthPacket, mochi.OnSessionEstablished,
		mochi.OnDisconnect, mochi.OnPacketRead, mochi.OnPacketEncode, mochi.OnPacketSent, mochi.OnSubscribe,
		mochi.OnSubscribed, mochi.OnUnsubscribed, mochi.OnPublished, mochi.OnPublishDropped, mochi.OnQosPublish:
		return true
	}
	return false
}

// denied is put in place of a topic or filter that the client may not use. It is not a valid one, so no rule allows it.
const denied = "\x00"

// OnConnect decides whether the client may connect, and answers if it may not: mochi knows only one refusal.
func (h *hook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return packets.ErrImplementationSpecificError
	}
	c.socket.connected.Store(true)
	c.client = Client{
		ID:       cl.ID,
		Username: string(pk.Connect.Username),
		Version:  pk.ProtocolVersion,
		Listener: c.listener.config.Name,
		Remote:   c.RemoteAddr(),
		TLS:      c.tlsState(),
	}
	if code := h.admit(cl, c, pk); code != packets.CodeSuccess {
		h.b.log.Info("client refused", "client", c.client, "reason", code.Reason)
		cl.WritePacket(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Connack},
			ReasonCode:  code.Code,
		})
		return code
	}
	h.b.mend(c, cl, pk)
	h.watch(c, cl)
	return nil
}

// admit returns why the client may not connect, or CodeSuccess.
func (h *hook) admit(cl *mochi.Client, c *conn, pk packets.Packet) packets.Code {
	will := pk.Connect.WillTopic
	switch {
	case c.socket.surplus:
		return packets.ErrServerBusy
	case pk.Properties.AuthenticationMethod != "":
		return packets.ErrBadAuthenticationMethod // [MQTT-4.12.0-1]
	case pk.Connect.WillFlag && topic.CheckName(will) != nil:
		return packets.ErrTopicNameInvalid
	}
	if code := c.listener.config.identify(&c.client, pk.Connect.ClientIdentifier == ""); code != codec.Success {
		return packets.Code{Code: byte(code), Reason: code.String()}
	}
	cl.ID = c.client.ID
	if pk.Connect.ClientIdentifier == "" {
		cl.Properties.Props.AssignedClientID = cl.ID
	}
	if code := h.authenticate(c, pk.Connect); code != packets.CodeSuccess {
		return code
	}
	if pk.Connect.WillFlag && (isSys(will) || !h.b.authorized(c.client, Publish, will)) {
		return packets.ErrNotAuthorized // mochi would publish it unasked
	}
	return packets.CodeSuccess
}

func (h *hook) authenticate(c *conn, connect packets.ConnectParams) packets.Code {
	ctx, cancel := context.WithTimeout(h.b.ctx, connectTimeout)
	defer cancel()
	var password []byte
	if connect.PasswordFlag {
		password = connect.Password
	}
	decision := firstOpinion(h.b.plugins, func(p Plugin) Decision {
		if p.Authenticate == nil {
			return Abstain
		}
		return p.Authenticate(ctx, c.client, password)
	})
	passwords := h.b.passwords.Load()
	switch {
	case decision == Allow:
		return packets.CodeSuccess
	case decision == Deny:
		return packets.ErrBadUsernameOrPassword
	case c.listener.config.UseIdentityAsUsername:
		return packets.CodeSuccess // by the certificate
	case c.client.Username == "" && h.b.config.Auth.AllowAnonymous:
		return packets.CodeSuccess
	case c.client.Username == "":
		return packets.ErrNotAuthorized
	case passwords == nil && h.b.config.Auth.AllowAnonymous: // nothing to check a name against
		return packets.CodeSuccess
	case passwords == nil:
		return packets.ErrBadUsernameOrPassword
	}
	code := h.b.door.check(h.b.ctx, passwords, c.client.Username, password, c.client.Remote)
	if code == codec.Success {
		c.user, c.hash = c.client.Username, passwords.hashOf(c.client.Username)
		return packets.CodeSuccess
	}
	return packets.Code{Code: byte(code), Reason: code.String()}
}

// watch begins to end the connection when the client is silent for too long.
func (h *hook) watch(c *conn, cl *mochi.Client) {
	keepAlive := time.Duration(cl.State.Keepalive) * time.Second
	c.onSilence = func() {
		if c.client.Version == 5 {
			h.b.server.DisconnectClient(cl, packets.ErrKeepAliveTimeout)
		}
	}
	c.socket.SetReadDeadline(time.Time{})
	if keepAlive == 0 {
		return
	}
	delay := h.b.config.TimeoutDisconnectDelay
	if delay == 0 {
		delay = keepAlive / 2 // [MQTT-3.1.2-22]
	}
	c.silence.Store(int64(keepAlive + delay))
}

// OnConnectAuthenticate allows what OnConnect has.
func (h *hook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

// OnAuthPacket refuses AUTH, since no client has an authentication method.
func (h *hook) OnAuthPacket(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	return pk, packets.ErrProtocolViolation
}

// OnACLCheck runs on the goroutine of the client that publishes, too. Filters with wildcards, and shared ones, have been
// checked by OnSubscribe.
func (h *hook) OnACLCheck(cl *mochi.Client, name string, write bool) bool {
	access := Receive
	switch {
	case name == denied:
		return false
	case write:
		access = Publish
	case strings.ContainsAny(name, "+#") || topic.Shared(name):
		return true
	}
	return h.b.authorized(clientOf(cl), access, name)
}

// clientOf returns the client as plugins see it. One that was loaded from a file has no connection yet.
func clientOf(cl *mochi.Client) Client {
	if c, ok := cl.Net.Conn.(*conn); ok {
		return c.client
	}
	return Client{ID: cl.ID, Username: string(cl.Properties.Username), Version: cl.Properties.ProtocolVersion, Remote: new(net.TCPAddr)}
}

// OnSessionEstablished runs after CONNACK and what was resent.
func (h *hook) OnSessionEstablished(cl *mochi.Client, pk packets.Packet) {
	c := cl.Net.Conn.(*conn)
	c.begin(cl)
	h.b.log.Info("client connected", "client", c.client, "listener", c.client.Listener, "version", versionName(c.client.Version),
		"clean", pk.Connect.Clean, "keepalive", pk.Connect.Keepalive)
	for _, p := range h.b.plugins {
		if p.Connected != nil {
			p.Connected(c.client)
		}
	}
	switch { // Shutdown and Reload may have been too early to see this client
	case h.b.ctx.Err() != nil:
		h.b.server.DisconnectClient(cl, packets.ErrServerShuttingDown)
	case h.b.isOutdated(c):
		h.b.server.DisconnectClient(cl, packets.ErrNotAuthorized)
	}
}

// OnDisconnect is called for sessions that are loaded from a file, too.
func (h *hook) OnDisconnect(cl *mochi.Client, err error, _ bool) {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return
	}
	c.awaitSuccessor()
	if cause := cl.StopCause(); err != nil && cause != nil {
		err = cause
	}
	log := h.b.log.With("client", c.client)
	if err != nil {
		log = log.With("error", err)
	}
	log.Info("client disconnected")
	for _, p := range h.b.plugins {
		if p.Disconnected != nil {
			p.Disconnected(c.client, err)
		}
	}
}

// OnSubscribe refuses filters.
func (h *hook) OnSubscribe(cl *mochi.Client, pk packets.Packet) packets.Packet {
	client := clientOf(cl)
	for i, s := range pk.Filters {
		switch {
		case topic.CheckFilter(s.Filter) != nil:
			pk.Filters[i].Filter = "" // mochi answers 0x8F
		case !h.b.authorized(client, Subscribe, topic.Inner(s.Filter, nil)):
			h.b.log.Info("subscription refused", "client", client, "filter", s.Filter)
			pk.Filters[i].Filter = denied
		}
	}
	return pk
}

func (h *hook) OnSubscribed(cl *mochi.Client, pk packets.Packet, codes []byte) {
	for _, p := range h.b.plugins {
		for i, s := range pk.Filters {
			if p.Subscribed != nil && codes[i] < packets.ErrUnspecifiedError.Code {
				p.Subscribed(clientOf(cl), s.Filter, codes[i])
			}
		}
	}
}

// OnUnsubscribed is also called when a session ends.
func (h *hook) OnUnsubscribed(cl *mochi.Client, pk packets.Packet) {
	for _, p := range h.b.plugins {
		for _, s := range pk.Filters {
			if p.Unsubscribed != nil {
				p.Unsubscribed(clientOf(cl), s.Filter)
			}
		}
	}
}

func (h *hook) OnPublished(cl *mochi.Client, pk packets.Packet) {
	for _, p := range h.b.plugins {
		if p.Published != nil {
			p.Published(clientOf(cl), Message{pk.TopicName, pk.Payload, pk.FixedHeader.Qos, pk.FixedHeader.Retain})
		}
	}
}

// OnQosPublish runs on the goroutine of the client that publishes, and before what is resent.
func (h *hook) OnQosPublish(cl *mochi.Client, pk packets.Packet, _ int64, _ int) { inFlight(cl, pk) }

// OnPublishDropped runs on the goroutine of the client that publishes.
func (h *hook) OnPublishDropped(cl *mochi.Client, pk packets.Packet) {
	if c, ok := cl.Net.Conn.(*conn); ok && c.slow.CompareAndSwap(false, true) {
		h.b.log.Warn("client is too slow, so messages to it are dropped", "client", c.client, "topic", pk.TopicName)
	}
}

func (h *hook) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	c, ok := cl.Net.Conn.(*conn)
	if !ok || c.isClosed() {
		return pk, packets.ErrRejectPacket
	}
	h.trace("packet in", cl, pk)
	c.in(cl, &pk)
	return pk, nil
}

// OnPacketEncode runs on the goroutine that writes to the client, and wherever a connection is ended.
func (h *hook) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	if c, ok := cl.Net.Conn.(*conn); ok {
		c.out(cl, &pk)
		if pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == packets.CodeSuccess.Code {
			pk.Properties.MaximumPacketSize = uint32(h.b.config.MaxPacketSize)
			pk.Properties.TopicAliasMaximum = maxAliases
		}
	}
	return pk
}

// OnPacketSent runs where OnPacketEncode does. Nothing is left of the bytes.
func (h *hook) OnPacketSent(cl *mochi.Client, pk packets.Packet, _ []byte) {
	h.trace("packet out", cl, pk)
}

// trace logs a packet.
func (h *hook) trace(what string, cl *mochi.Client, pk packets.Packet) {
	if !h.b.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	attrs := []any{"type", packets.PacketNames[pk.FixedHeader.Type], "client", cmp.Or(cl.ID, pk.Connect.ClientIdentifier),
		"size", packetSize(pk.FixedHeader.Remaining)}
	if pk.PacketID != 0 {
		attrs = append(attrs, "id", pk.PacketID)
	}
	if pk.FixedHeader.Type == packets.Publish {
		attrs = append(attrs, "topic", pk.TopicName, "qos", pk.FixedHeader.Qos, "retain", pk.FixedHeader.Retain,
			"dup", pk.FixedHeader.Dup, "payload", len(pk.Payload))
	}
	for _, s := range pk.Filters {
		attrs = append(attrs, "filter", s.Filter, "qos", s.Qos)
	}
	if codes := reasons(&pk); codes != "" {
		attrs = append(attrs, "reason", codes)
	}
	h.b.log.Debug(what, attrs...)
}

// packetSize is the size of a packet whose remaining length is n.
func packetSize(n int) int {
	size := 2 + n
	for ; n > 127; n >>= 7 {
		size++
	}
	return size
}

// reasons are the reason codes that a packet has on the wire, unless it has one that says success.
func reasons(pk *packets.Packet) string {
	codes := []byte{pk.ReasonCode}
	switch pk.FixedHeader.Type {
	case packets.Connack:
	case packets.Suback:
		codes = pk.ReasonCodes
	case packets.Unsuback:
		codes = pk.ReasonCodes
		if pk.ProtocolVersion < 5 {
			return ""
		}
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		if pk.FixedHeader.Remaining <= 2 { // the packet identifier alone
			return ""
		}
	case packets.Disconnect, packets.Auth:
		if pk.FixedHeader.Remaining == 0 {
			return ""
		}
	default:
		return ""
	}
	if len(codes) == 1 && codes[0] == 0 {
		return ""
	}
	return fmt.Sprintf("% X", codes)
}

// isSys reports whether a topic belongs to the server.
func isSys(name string) bool { return len(name) >= 4 && strings.EqualFold(name[:4], mochi.SysPrefix) }

func versionName(v byte) string {
	if v == 5 {
		return "5.0"
	}
	return "3.1.1"
}
