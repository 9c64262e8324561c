package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/codec"
)

// policy is what the engine asks and tells: first the plugins, then the files.
type policy struct{ b *Broker }

// guard calls a plugin. A panic of it must not end a broker that serves others: some calls are made by goroutines that belong
// to no client, such as the one that brings messages from the persistence file to their targets.
func (b *Broker) guard(name string, f func()) {
	defer func() {
		if fault := recover(); fault != nil {
			b.log.Error("a plugin panics", "plugin", name, "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// firstOpinion returns the first decision of a plugin that is one. A plugin that panics denies.
func (b *Broker) firstOpinion(ask func(*Plugin) Decision) Decision {
	for i := range b.plugins {
		p, d := &b.plugins[i], Deny
		b.guard(p.Name, func() { d = ask(p) })
		if d != Abstain {
			return d
		}
	}
	return Abstain
}

// tell calls every plugin.
func (b *Broker) tell(f func(*Plugin)) {
	for i := range b.plugins {
		b.guard(b.plugins[i].Name, func() { f(&b.plugins[i]) })
	}
}

// credential is a password that was right.
type credential struct {
	user string
	hash string // what it was checked against
}

// Identify completes who the client is, as its listener wants it.
func (p *policy) Identify(c *engine.Client, assigned bool) codec.ReasonCode {
	return p.b.listenerOf(c).identify((*Client)(c), assigned)
}

// Authenticate completes who the client is, as its listener wants it; then it asks the plugins in their order, the password
// file, and whether clients without a name are allowed.
func (p *policy) Authenticate(ctx context.Context, c *engine.Client, assigned bool, password []byte) (any, codec.ReasonCode) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.b.ctx, cancel)()
	if code := p.Identify(c, assigned); code != codec.Success {
		return nil, code
	}
	decision := p.b.firstOpinion(func(plugin *Plugin) Decision {
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
	case p.b.listenerOf(c).UseIdentityAsUsername:
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
	for i := range p.b.plugins {
		plugin := &p.b.plugins[i]
		if plugin.Exchange == nil {
			continue
		}
		var x Exchange
		p.b.guard(plugin.Name, func() { x = plugin.Exchange(Client(*c), method) })
		if x != nil {
			return &exchange{x, p.b, plugin.Name}
		}
	}
	return nil
}

// exchange is a plugin's enhanced authentication, as the engine knows it.
type exchange struct {
	Exchange
	b      *Broker
	plugin string // its name
}

var errPanic = errors.New("the plugin panics")

func (x *exchange) Next(ctx context.Context, data []byte) (engine.Step, error) {
	step, err := Step{}, errPanic
	x.b.guard(x.plugin, func() { step, err = x.Exchange.Next(ctx, data) })
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
	return engine.Decision(p.b.firstOpinion(func(plugin *Plugin) Decision {
		if plugin.Authorize == nil {
			return Abstain
		}
		return plugin.Authorize(Client(*c), Access(access), topic)
	}))
}

func (p *policy) Connected(c *engine.Client) {
	p.b.tell(func(plugin *Plugin) {
		if plugin.Connected != nil {
			plugin.Connected(Client(*c))
		}
	})
}

func (p *policy) Disconnected(c *engine.Client, err error) {
	p.b.tell(func(plugin *Plugin) {
		if plugin.Disconnected != nil {
			plugin.Disconnected(Client(*c), err)
		}
	})
}

func (p *policy) Subscribed(c *engine.Client, filter string, qos byte) {
	p.b.tell(func(plugin *Plugin) {
		if plugin.Subscribed != nil {
			plugin.Subscribed(Client(*c), filter, qos)
		}
	})
}

func (p *policy) Unsubscribed(c *engine.Client, filter string) {
	p.b.tell(func(plugin *Plugin) {
		if plugin.Unsubscribed != nil {
			plugin.Unsubscribed(Client(*c), filter)
		}
	})
}

func (p *policy) Hears() bool { return p.b.hears }

func (p *policy) Published(c *engine.Client, m engine.Message) {
	p.b.tell(func(plugin *Plugin) {
		if plugin.Published != nil {
			plugin.Published(Client(*c), Message(m))
		}
	})
}
