package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
	"github.com/petrel-mqtt/mqtt/internal/wire"
)

const (
	// maxConnect bounds CONNECT, in bytes without its fixed header. The largest that makes sense has a will of 64 KiB.
	maxConnect = 128 << 10

	// ReceiveMaximum and TopicAliasMaximum are what clients are told.
	ReceiveMaximum    = 1024
	TopicAliasMaximum = 64
)

// refusal is why a client may not connect.
type refusal struct{ code codec.ReasonCode }

func (r *refusal) Error() string { return "refused: " + r.code.String() }

// errNoConnect ends a connection that does not begin with CONNECT. [MQTT-3.1.0-1] [MQTT311-3.1.0-1]
var errNoConnect = errors.New("the first packet is not CONNECT, or one that is too large")

// shakeHands takes CONNECT and answers it. With an error the connection is of no more use.
// [MQTT-3.1.4] [MQTT311-3.1.4a] [MQTT-3.1.4-5] [MQTT311-3.1.4-4] [MQTT-3.1.3-5] [MQTT311-3.1.3-5] [MQTT-3.1.3.1]
// [MQTT-3.2.0-2]
func (c *conn) shakeHands(p Peer) error {
	connect, err := c.readConnect()
	if err != nil {
		return err
	}
	client := p.Connected()
	client.ID, client.Username, client.Version, client.Listener = connect.ClientID, connect.Username, byte(connect.Version), p.Listener
	c.client, c.version = &client, connect.Version
	if client.ID == "" {
		client.ID = rand.Text() // [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16] [MQTT311-3.1.3-6]
	}
	c.largest = int(connect.Properties.MaximumPacketSize)
	c.aliasing = min(int(connect.Properties.TopicAliasMaximum), TopicAliasMaximum)
	ack, err := c.admit(p, connect)
	if err == nil {
		err = c.engine.attach(c, connect, ack)
	}
	var no *refusal
	if errors.As(err, &no) {
		c.engine.stats.refused.Add(1)
		c.engine.log.Info("client refused", "client", logged{c.client}, "reason", no.code.String())
		c.refuse(no.code)
	}
	return err
}

// readConnect reads CONNECT. Whoever has not sent one gets no memory for the asking.
func (c *conn) readConnect() (*codec.Connect, error) {
	c.in.Version, c.in.Limit = codec.V5, maxConnect+4 // the header has four bytes then
	p, err := c.nextPacket(&greeting{Reader: c.net})
	if err != nil {
		return nil, errors.Join(errNoConnect, err)
	}
	connect := new(codec.Connect)
	if err := connect.Decode(p.Header, p.Body(), codec.V5); err != nil {
		c.refuseConnect(connect.Version, err)
		return nil, err
	}
	if c.engine.traces {
		c.client = &Client{ID: connect.ClientID}
		c.trace("packet in", &p)
	}
	c.in.Version, c.in.Limit, c.in.LimitRule = connect.Version, c.engine.config.MaxPacketSize, "MQTT-3.2.2-15"
	return connect, nil
}

// nextPacket waits for one packet, before the connection has a session.
func (c *conn) nextPacket(from io.Reader) (p packet, err error) {
	for {
		var ok bool
		if p.Header, p.bytes, ok, err = c.in.Next(); ok || err != nil {
			return p, err
		}
		if _, err := c.in.Fill(from); err != nil {
			return p, err
		}
	}
}

// greeting is a connection whose first byte must be that of a CONNECT.
type greeting struct {
	io.Reader
	begun bool
}

func (g *greeting) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if n > 0 && !g.begun {
		g.begun = true
		if p[0] != byte(codec.CONNECT)<<4 {
			return 0, errNoConnect
		}
	}
	return n, err
}

// refuseConnect answers a CONNECT that breaks the specification, where there is an answer. MQTT 3.1.1 has none, except for
// two cases. [MQTT-3.1.2-1] [MQTT-3.1.2-2] [MQTT-3.1.4-1] [MQTT311-3.1.2-2] [MQTT311-3.1.3-8] [MQTT311-3.1.4-1]
// [MQTT311-3.1.3-7]
func (c *conn) refuseConnect(v codec.Version, err error) {
	var broken *codec.Error
	if !errors.As(err, &broken) {
		return
	}
	c.version = v
	code := broken.Code
	if v != codec.V5 {
		c.version = codec.V311
		if code != codec.UnsupportedProtocolVersion && code != codec.ClientIdentifierNotValid {
			return
		}
	}
	c.refuse(code)
}

// refuse writes a CONNACK that says no. [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5]
// [MQTT-3.1.4-6] [MQTT311-3.1.4-5]
func (c *conn) refuse(code codec.ReasonCode) {
	if c.version != codec.V5 && code.ReturnCode() == 0xFF {
		code = codec.ServerUnavailable
	}
	packet, err := (&codec.Connack{Code: code}).Append(nil, c.version)
	if err != nil {
		return
	}
	if c.engine.traces {
		c.traceOut(net.Buffers{packet})
	}
	c.net.Hurry(wire.Farewell)
	c.net.Write(packet)
}

// admit decides whether a client may connect, and returns what of CONNACK is known then.
// [MQTT-3.1.4-2] [MQTT311-3.1.4] [MQTT-3.1.2-28] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-5.4.2] [MQTT311-5.4.2]
// [MQTT-3.1.3-8] [MQTT311-3.1.3-9]
func (c *conn) admit(p Peer, connect *codec.Connect) (*codec.Connack, error) {
	ack := new(codec.Connack)
	if c.version == codec.V5 {
		ack.Properties.MaximumPacketSize = uint32(c.engine.config.MaxPacketSize)
		ack.Properties.TopicAliasMaximum = TopicAliasMaximum
		ack.Properties.ReceiveMaximum = ReceiveMaximum
	}
	will := connect.Will
	switch {
	case p.Surplus:
		return nil, &refusal{codec.ServerBusy}
	case will != nil && topic.CheckName(will.Topic) != nil:
		return nil, &refusal{codec.TopicNameInvalid}
	}
	if code := c.authenticate(connect, ack); code != codec.Success {
		return nil, &refusal{code}
	}
	if c.version == codec.V5 && connect.ClientID == "" {
		ack.Properties.AssignedClientID = c.client.ID
	}
	if will != nil && (isServers(will.Topic) || !c.engine.authorized(c.client, Publish, will.Topic)) {
		return nil, &refusal{codec.NotAuthorized}
	}
	return ack, nil
}

// authenticate finds out who the client is.
func (c *conn) authenticate(connect *codec.Connect, ack *codec.Connack) (code codec.ReasonCode) {
	ctx, cancel := context.WithTimeout(context.Background(), c.engine.config.ConnectTimeout)
	defer cancel()
	if connect.Properties.AuthenticationMethod != "" {
		if code = c.exchangeAuth(ctx, &connect.Properties, &ack.Properties); code != codec.Success {
			return code
		}
		return c.engine.policy.Identify(c.client, connect.ClientID == "")
	}
	var password []byte
	if connect.HasPassword {
		password = connect.Password
	}
	c.credential, code = c.engine.policy.Authenticate(ctx, c.client, connect.ClientID == "", password)
	return code
}

// keepAlive sets how long the client may be silent. [MQTT-3.1.2-22] [MQTT-3.2.2-22] [MQTT311-3.1.2-24]
// [MQTT-3.1.2.10] [MQTT311-3.1.2.10]
func (c *conn) keepAlive(seconds uint16) {
	if seconds == 0 {
		return
	}
	d := time.Duration(seconds) * time.Second
	grace := c.engine.config.Grace
	if grace == 0 {
		grace = d / 2
	}
	c.silence = d + grace
}
