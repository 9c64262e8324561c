package broker

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
)

// Plugin is code of the application that the broker asks about its clients, or tells about them. Every function may be
// nil. They are called from many goroutines at once, and whatever client a call is about waits for it, so they should be
// quick. A panic of one goes to the log; where it was asked, that denies.
type Plugin struct {
	Name string // as configuration files call it

	// Authenticate says whether a client may connect. Plugins are asked in their order, then the password file, then
	// whether clients without a user name are allowed; the first to say Allow or Deny decides. The ctx ends when the
	// client has waited for too long, or the broker shuts down. password is nil if the client sent none, and must not
	// be kept.
	Authenticate func(ctx context.Context, c Client, password []byte) Decision

	// Exchange begins an enhanced authentication (MQTT 5.0 section 4.12) by a method that the client has named, such as
	// SCRAM-SHA-256; nil means that the method is not this plugin's. Authenticate and the password file are not asked then.
	Exchange func(c Client, method string) Exchange

	// Authorize says whether a client may publish to a topic, receive from it, or subscribe to a filter. Plugins are asked
	// in their order, then the ACL; the first to say Allow or Deny decides. What nobody has an opinion about is allowed.
	Authorize func(c Client, access Access, topic string) Decision

	Connected    func(c Client)
	Disconnected func(c Client, err error) // err is nil after the client's DISCONNECT
	Subscribed   func(c Client, filter string, qos byte)
	Unsubscribed func(c Client, filter string)
	Published    func(c Client, m Message) // the message is only on loan
}

// Client is a client of the broker, as plugins see it.
type Client struct {
	ID       string
	Username string               // empty if there is none
	Version  byte                 // 5, or 4 for MQTT 3.1.1
	Listener string               // the name of the listener it came through
	Remote   net.Addr             // nil if the client has been away since the broker started
	TLS      *tls.ConnectionState // nil without ssl, and then
}

// LogValue groups what identifies a client.
func (c Client) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("id", c.ID)}
	if c.Remote != nil {
		attrs = append(attrs, slog.String("from", c.Remote.String()))
	}
	if c.Username != "" {
		attrs = append(attrs, slog.String("user", c.Username))
	}
	return slog.GroupValue(attrs...)
}

// Message is a message that a client has published.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// Exchange is one enhanced authentication. Next is called by one goroutine at a time.
type Exchange interface {
	// Next takes the Authentication Data of a packet from the client, nil if it has none, and returns what to answer. The
	// data must not be kept. An error refuses the client: a CONNECT with Bad User
	// Name or Password (0x86), a re-authentication with Not authorized (0x87). ctx ends when the client has taken
	// too long.
	Next(ctx context.Context, data []byte) (Step, error)
}

// Step is what the broker answers in an enhanced authentication.
type Step struct {
	Data     []byte // Authentication Data; nil: none
	Done     bool   // the client has proved who it is
	Username string // who that is, where it is not the user name of CONNECT; counts with Done
}

// Decision is a plugin's opinion.
type Decision int

const (
	Abstain Decision = iota // no opinion: whoever comes next decides
	Allow
	Deny
)

// Access is what a client wants to do with a topic.
type Access int

const (
	Publish   Access = iota // publish to it
	Receive                 // be sent a message that was published to it
	Subscribe               // subscribe to a filter, for a shared subscription without $share and the share name
)
