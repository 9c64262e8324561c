package mqtttest

import "github.com/petrel-mqtt/mqtt/codec"

// AuthStep is the broker's side of an authentication method of MQTT 5.0. It gets what the client has sent, nil if nothing,
// and returns what to answer with: codec.ContinueAuthentication, codec.Success, or the reason code of a refusal. Calls may
// be concurrent.
type AuthStep func(clientID string, data []byte) (answer []byte, code codec.ReasonCode)

// Authentication lets clients use an authentication method. Others are refused with 0x8C.
func Authentication(method string, step AuthStep) Option {
	return func(s *settings) {
		others := s.auth
		s.auth = map[string]AuthStep{method: step}
		for m, other := range others {
			if m != method {
				s.auth[m] = other
			}
		}
	}
}

// authentication is the state of one connection's authentication. The broker's lock guards it.
type authentication struct {
	method  string
	step    AuthStep
	waiting *codec.Connect // CONNECT that has not been answered; nil: it has
	answer  []byte         // what the latest step returned
	code    codec.ReasonCode
}

// consult asks the functions of the test about a packet, without the lock, and keeps what they say.
func (c *conn) consult(p codec.Packet) {
	switch p := p.(type) {
	case *codec.Connect:
		if authorize := c.settings.authorize; authorize != nil {
			verdict := authorize(p)
			c.b.mu.Lock()
			c.admission.verdict = verdict
			c.b.mu.Unlock()
		}
		method := p.Properties.AuthenticationMethod
		if step := c.settings.auth[method]; step != nil {
			c.consultStep(&authentication{method: method, step: step}, p.ClientID, p.Properties.AuthenticationData)
		}
	case *codec.Auth:
		c.b.mu.Lock()
		a, clientID := c.admission.auth, c.clientID
		c.b.mu.Unlock()
		if a != nil {
			c.consultStep(a, clientID, p.Data)
		}
	}
}

func (c *conn) consultStep(a *authentication, clientID string, data []byte) {
	answer, code := a.step(clientID, data)
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	a.answer, a.code = answer, code
	c.admission.auth = a
}

// authenticated begins the authentication that a CONNECT asks for, and reports whether that is all it takes.
func (c *conn) authenticated(p *codec.Connect) bool {
	switch {
	case c.admission.auth == nil:
		c.refuse(codec.BadAuthenticationMethod)
	case c.admission.auth.code.Failed():
		c.refuse(c.admission.auth.code)
	case c.admission.auth.code == codec.ContinueAuthentication:
		c.admission.auth.waiting = p
		c.sendAuth()
	default:
		return true
	}
	return false
}

func (c *conn) sendAuth() {
	c.send(&codec.Auth{Code: c.admission.auth.code, Method: c.admission.auth.method, Data: c.admission.auth.answer})
}
