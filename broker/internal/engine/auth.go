package engine

import (
	"context"
	"errors"
	"math"

	"github.com/petrel-mqtt/mqtt/codec"
)

// maxSteps bounds the packets of one enhanced authentication. [MQTT-4.12.0-4]
const maxSteps = 32

// exchangeAuth runs the enhanced authentication between CONNECT and CONNACK.
// [MQTT-3.1.2-30] [MQTT-4.12.0-1] [MQTT-4.12.0-2] [MQTT-4.12.0-5]
func (c *conn) exchangeAuth(ctx context.Context, p *codec.ConnectProperties, ack *codec.ConnackProperties) codec.ReasonCode {
	exchange := c.engine.policy.Exchange(c.client, p.AuthenticationMethod)
	if exchange == nil {
		return codec.BadAuthenticationMethod
	}
	c.method = p.AuthenticationMethod
	data := p.AuthenticationData
	for range maxSteps {
		step, err := nextStep(ctx, exchange, data)
		switch {
		case err != nil || ctx.Err() != nil:
			return codec.BadUserNameOrPassword
		case step.Done:
			ack.AuthenticationMethod, ack.AuthenticationData = c.method, step.Data
			if step.Username != "" {
				c.client.Username = step.Username
			}
			return codec.Success
		}
		challenge := &codec.Auth{Code: codec.ContinueAuthentication, Method: c.method, Data: step.Data}
		if packet, err := challenge.Append(nil, c.version); err != nil {
			return codec.UnspecifiedError
		} else if _, err := c.net.Write(packet); err != nil {
			return codec.UnspecifiedError
		}
		answer, code := c.readAuth()
		if code != codec.Success {
			return code
		}
		data = answer
	}
	return codec.NotAuthorized
}

// nextStep asks an exchange. What it answers has to fit into a packet.
func nextStep(ctx context.Context, exchange Exchange, data []byte) (Step, error) {
	step, err := exchange.Next(ctx, data)
	if err == nil && len(step.Data) > math.MaxUint16 {
		err = errors.New("authentication data of more than 65,535 bytes")
	}
	return step, err
}

// readAuth reads the client's answer to a challenge. [MQTT-4.12.0-3]
func (c *conn) readAuth() (data []byte, code codec.ReasonCode) {
	p, err := c.nextPacket(c.net)
	if err != nil {
		return nil, codec.UnspecifiedError
	}
	var auth codec.Auth
	if p.Type != codec.AUTH || auth.Decode(p.Header, p.Body(), c.version) != nil ||
		auth.Code != codec.ContinueAuthentication || auth.Method != c.method {
		return nil, codec.ProtocolError
	}
	return auth.Data, codec.Success
}

// auth takes AUTH after CONNACK: the client authenticates again. Everything else goes on meanwhile.
// [MQTT-3.15.2-1] [MQTT-4.12.0-6] [MQTT-4.12.0-7] [MQTT-4.12.1-1] [MQTT-4.12.1-2]
func (c *conn) auth(p *packet) error {
	var auth codec.Auth
	if err := auth.Decode(p.Header, p.Body(), c.version); err != nil {
		return err
	}
	again := auth.Code == codec.ReAuthenticate
	if c.method == "" || auth.Method != c.method || again == (c.exchange != nil) || !again && auth.Code != codec.ContinueAuthentication {
		return &codec.Error{Packet: p.Type, Code: codec.ProtocolError, Rule: "MQTT-4.12.1-1", Detail: "AUTH out of place"}
	}
	if again {
		c.exchange = c.engine.policy.Exchange(c.client, c.method)
	}
	if c.exchange == nil {
		return notAuthorized
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.engine.config.ConnectTimeout)
	defer cancel()
	step, err := nextStep(ctx, c.exchange, auth.Data)
	switch {
	case err != nil || step.Done && step.Username != "" && step.Username != c.client.Username:
		return notAuthorized
	case step.Done:
		c.exchange = nil
		return c.answer(&codec.Auth{Code: codec.Success, Method: c.method, Data: step.Data})
	}
	return c.answer(&codec.Auth{Code: codec.ContinueAuthentication, Method: c.method, Data: step.Data})
}
