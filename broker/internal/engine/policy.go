package engine

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Policy decides who may do what, and hears what happens. Its methods are called from many goroutines at once, none of which
// holds a lock, except that Allows and Valid must be quick and call nobody.
type Policy interface {
	// Authenticate says whether a client may connect: Success, or the reason why not. It may change what is known of the
	// client; assigned says that the client identifier is the engine's choice. ctx bounds it. password is nil if the client
	// sent none, and must not be kept. The credential is handed to Valid later.
	Authenticate(ctx context.Context, c *Client, assigned bool, password []byte) (credential any, code codec.ReasonCode)

	// Valid reports whether a client that has this credential may stay.
	Valid(credential any) bool

	// Exchange begins an enhanced authentication, section 4.12; nil means that there is no such method.
	Exchange(c *Client, method string) Exchange
	// Identify is called once that has said who the client is. It may change what is known of the client, as Authenticate
	// may; the answer is Success, or why the client may not connect all the same.
	Identify(c *Client, assigned bool) codec.ReasonCode

	// Allows is what the rules say about a client and a topic, or a filter when access is Subscribe. The answer holds until
	// Engine.Recheck.
	Allows(c *Client, access Access, topic string) bool

	// Asks reports whether Ask has to be called at all. The answer never changes.
	Asks() bool
	// Ask asks code of the application, each time. Where it abstains, the rules decide.
	Ask(c *Client, access Access, topic string) Decision

	Connected(c *Client)
	Disconnected(c *Client, err error) // err is nil after the client's DISCONNECT
	Subscribed(c *Client, filter string, qos byte)
	Unsubscribed(c *Client, filter string)
	// Hears reports whether Published has to be called at all. The answer never changes.
	Hears() bool
	Published(c *Client, m Message) // the message is only on loan
}

// Client is a client of the broker. It does not change once it is authenticated.
type Client struct {
	ID       string
	Username string // empty if there is none
	Version  byte   // 5, or 4 for MQTT 3.1.1
	Listener string // the name of the listener it came through
	Remote   net.Addr
	TLS      *tls.ConnectionState // nil without TLS
}

// Message is a message that a client has published.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// Access is what a client wants to do with a topic.
type Access int

const (
	Publish   Access = iota // publish to it
	Receive                 // be sent a message that was published to it
	Subscribe               // subscribe to a filter, for a shared subscription without $share and the share name
)

// Decision is an opinion.
type Decision int

const (
	Abstain Decision = iota // no opinion: whoever comes next decides
	Allow
	Deny
)

// Exchange is one enhanced authentication. Next is called by one goroutine at a time.
type Exchange interface {
	// Next takes what the client has sent, and returns what to answer. An error refuses the client.
	Next(ctx context.Context, data []byte) (Step, error)
}

// Step is the server's side of an enhanced authentication, one packet of it.
type Step struct {
	Data     []byte // for the client; nil: none
	Done     bool   // the client has proved who it is
	Username string // who that is, if CONNECT did not say so; counts with Done
}

// authorized asks the application, then the rules. No lock is held.
func (e *Engine) authorized(c *Client, access Access, topic string) bool {
	if e.policy.Asks() {
		switch e.policy.Ask(c, access, topic) {
		case Allow:
			return true
		case Deny:
			return false
		}
	}
	return e.policy.Allows(c, access, topic)
}

// isServers reports whether a topic belongs to the server, section 4.7.2: clients publish to none of these.
func isServers(name string) bool {
	return len(name) > 0 && name[0] == '$' && (hasFold(name, "$SYS") || hasFold(name, "$share"))
}

// hasFold reports whether s begins with prefix, in upper or lower case.
func hasFold(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if s[i]|0x20 != prefix[i]|0x20 {
			return false
		}
	}
	return true
}
