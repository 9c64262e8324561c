package broker

import (
	"context"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/codec"
)

// policy is what the engine asks and tells: first the plugins, then the files.
type policy struct{ b *Broker }

// credential is a password that was right.
type credential struct {
	user string
	hash string // what it was checked against
}

// Authenticate completes who the client is, as its listener wants it; then it asks the plugins in their order, the password
// file, and whether clients without a name are allowed.
func (p *policy) Authenticate(ctx context.Context, c *engine.Client, assigned bool, password []byte) (any, codec.ReasonCode) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.b.ctx, cancel)()
	listener := p.b.listenerOf(c)
	if code := listener.identify((*Client)(c), assigned); code != codec.Success {
		return nil, code
	}
	decision := firstOpinion(p.b.plugins, func(plugin Plugin) Decision {
		if plugin.Authenticate == nil {
			return Abstain
		}
		return plugin.Authenticate(ctx, Client(*c), password)
	})
	passwords, anonymous := p.b.passwords.Load(), p.b.config.Auth.AllowAnonymous
	switch {
	case decision == Allow:
		return nil, codec.Success
	case decision == Deny:
		return nil, codec.BadUserNameOrPassword
	case listener.UseIdentityAsUsername:
		return nil, codec.Success // by the certificate
	case c.Username == "" && anonymous:
		return nil, codec.Success
	case c.Username == "":
		return nil, codec.NotAuthorized
	case passwords == nil && anonymous: // nothing to check a name against
		return nil, codec.Success
	case passwords == nil:
		return nil, codec.BadUserNameOrPassword
	}
	code := p.b.door.check(ctx, passwords, c.Username, password, c.Remote)
	return credential{c.Username, passwords.hashOf(c.Username)}, code
}

// listenerOf returns the configuration of the listener that a client came through.
func (b *Broker) listenerOf(c *engine.Client) *Listener {
	for i := range b.config.Listeners {
		if l := &b.config.Listeners[i]; l.Name == c.Listener {
			return l
		}
	}
	return new(Listener)
}

// Valid reports whether a password is still in force.
func (p *policy) Valid(of any) bool {
	c, ok := of.(credential)
	return !ok || p.b.passwords.Load().hashOf(c.user) == c.hash
}

// Exchange asks the plugins for an authentication method.
func (p *policy) Exchange(c *engine.Client, method string) engine.Exchange {
	for _, plugin := range p.b.plugins {
		if plugin.Exchange != nil {
			if x := plugin.Exchange(Client(*c), method); x != nil {
				return exchange{x}
			}
		}
	}
	return nil
}

// exchange is a plugin's enhanced authentication, as the engine knows it.
type exchange struct{ Exchange }

func (x exchange) Next(ctx context.Context, data []byte) (engine.Step, error) {
	step, err := x.Exchange.Next(ctx, data)
	return engine.Step(step), err
}

// Allows asks the ACL.
func (p *policy) Allows(c *engine.Client, access engine.Access, topic string) bool {
	rules := p.b.acl.Load()
	return rules == nil || rules.allows(Client(*c), Access(access), topic)
}

func (p *policy) Asks() bool { return p.b.asks }

// Ask asks the plugins.
func (p *policy) Ask(c *engine.Client, access engine.Access, topic string) engine.Decision {
	return engine.Decision(firstOpinion(p.b.plugins, func(plugin Plugin) Decision {
		if plugin.Authorize == nil {
			return Abstain
		}
		return plugin.Authorize(Client(*c), Access(access), topic)
	}))
}

func (p *policy) Connected(c *engine.Client) {
	for _, plugin := range p.b.plugins {
		if plugin.Connected != nil {
			plugin.Connected(Client(*c))
		}
	}
}

func (p *policy) Disconnected(c *engine.Client, err error) {
	for _, plugin := range p.b.plugins {
		if plugin.Disconnected != nil {
			plugin.Disconnected(Client(*c), err)
		}
	}
}

func (p *policy) Subscribed(c *engine.Client, filter string, qos byte) {
	for _, plugin := range p.b.plugins {
		if plugin.Subscribed != nil {
			plugin.Subscribed(Client(*c), filter, qos)
		}
	}
}

func (p *policy) Unsubscribed(c *engine.Client, filter string) {
	for _, plugin := range p.b.plugins {
		if plugin.Unsubscribed != nil {
			plugin.Unsubscribed(Client(*c), filter)
		}
	}
}

func (p *policy) Hears() bool { return p.b.hears }

func (p *policy) Published(c *engine.Client, m engine.Message) {
	for _, plugin := range p.b.plugins {
		if plugin.Published != nil {
			plugin.Published(Client(*c), Message(m))
		}
	}
}
