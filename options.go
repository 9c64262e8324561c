package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/session"
	"github.com/petrel-mqtt/mqtt/internal/topic"
	"github.com/petrel-mqtt/mqtt/transport"
)

// OptionV5 configures an MQTT 5 client.
type OptionV5 interface {
	clientV5(*config) error
}

// Option configures a client of either version.
type Option interface {
	OptionV5
	clientV311()
}

// Options is a slice of options that is itself one option.
type Options []Option

// OptionsV5 is a slice of options of MQTT 5 that is itself one option.
type OptionsV5 []OptionV5

func (o OptionsV5) clientV5(c *config) error { return applyAll(c, o) }

// applyAll applies options, without those that are nil.
func applyAll[O OptionV5](c *config, opts []O) error {
	for _, opt := range opts {
		if any(opt) == nil {
			continue
		}
		if err := opt.clientV5(c); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) clientV311()              {}
func (o Options) clientV5(c *config) error { return applyAll(c, o) }

// option and optionV5 are the client options of this package. Their errors begin with the option's name.
type (
	option   func(*config) error
	optionV5 func(*config) error
)

func (o option) clientV311()                {}
func (o option) clientV5(c *config) error   { return o(c) }
func (o optionV5) clientV5(c *config) error { return o(c) }

// WithClientID sets the client identifier (section 3.1.3.1). Without this option the client uses a random one, which
// stays the same until the client ends. With "" the server assigns one.
func WithClientID(id string) Option {
	return option(func(c *config) error {
		c.clientID, c.clientIDGiven = id, true
		return nil
	})
}

// WithCleanStart says whether the first connect begins a new session (section 3.1.2.4), which is the default. On MQTT 5
// a client that generated its client identifier asks with Clean Start 0 all the same, because there is no session to
// end. This matters with Mosquitto (seen with 2.0.11): it does not write a session to disk that began with Clean Start
// 1, so such a session, and all that waits in it, is lost at its first restart. To keep the sessions of a client with an
// identifier of its own through restarts of Mosquitto, use false.
//
// With false the client asks for the session of an earlier client with the same client identifier, and the application is
// responsible for the earlier client's messages. This client does not know the packet identifiers of messages at QoS 2
// that the earlier client did not complete: if a new message gets such an identifier, the server takes it for the old
// message, and it is lost.
func WithCleanStart(clean bool) Option {
	return option(func(c *config) error {
		c.cleanStart, c.startGiven = clean, true
		return nil
	})
}

// WithStore keeps messages at QoS 1 and 2 in a store, so that they are delivered even if the process dies: PublishAsync returns
// once the message is on disk, and a client that is made with the same store goes on where the last one has ended. What is
// promised, while the server keeps the session:
//
//   - A message that PublishAsync has accepted is delivered, at QoS 2 exactly once from this client to the server, and in order.
//     If the server has lost the session, messages at QoS 1 are published afresh, and those at QoS 2 that were sent have the fate
//     ErrSessionLost, as without a store.
//   - A message at QoS 2 from the server is not delivered again by the protocol once its PUBREC was sent. The application may
//     have died before it was done with the message: see ManualAck.
//
// Publish stores the message as well. The end of ctx ends only the waiting, with an ErrOutcomeUnknown: the message stays and is
// delivered. A message that cannot be stored fails with a *StoreError and is not sent; the client lives, and keeps what
// it has accepted. A message that the server refuses blocks nothing: Outcomes
// keeps it, as a dead letter. Requests are not stored. Close and Disconnect leave in the store what is not acknowledged. Messages in the store
// are in memory too, within the bounds of WithQueue.
//
// The store belongs to the first client identifier and the server that it was used with, and to one client at a time. Without
// WithClientID the client takes the store's identifier. The client asks for its old session, which WithCleanStart(true) and a
// WithSessionExpiry of 0 would contradict; the Session Expiry Interval is a day by default, and stays in force after Disconnect and
// Close. It has one server, and follows no redirects.
func WithStore(s Store) Option {
	return option(func(c *config) error {
		if s == nil {
			return errors.New("mqtt: WithStore: nil")
		}
		c.store = s
		return nil
	})
}

// WithKeepAlive sets the Keep Alive interval (section 3.1.2.10), in whole seconds from 0 to 65,535; 0 switches it off.
// The default is 60 s. The server may set another interval. PINGREQ is sent when nothing was sent, or nothing was
// received, during the interval.
func WithKeepAlive(d time.Duration) Option {
	return option(func(c *config) error {
		c.keepAlive = d
		return wholeSeconds("WithKeepAlive", d, math.MaxUint16)
	})
}

// WithPingLead makes the client send PINGREQ earlier by d than WithKeepAlive says, and at the earliest after half of
// the keep alive interval. It is for servers that close a connection earlier than after one and a half intervals, which
// the specification allows (section 3.1.2.10). The default is 0.
func WithPingLead(d time.Duration) Option {
	return option(func(c *config) error {
		c.pingLead = d
		if d < 0 {
			return fmt.Errorf("mqtt: WithPingLead: %v is negative", d)
		}
		return nil
	})
}

// WithPingTimeout sets how long the client waits for PINGRESP, and for the server to accept a byte of what is written,
// before the connection is lost. By default it waits for PINGRESP half the keep alive interval, at least 2 s and at most 10 s,
// and for a byte to be accepted 10 s.
func WithPingTimeout(d time.Duration) Option {
	return option(func(c *config) error {
		c.pingTimeout = d
		return positive("WithPingTimeout", d)
	})
}

// WithConnectTimeout bounds one attempt to connect: name look-up, dial, proxy, TLS, WebSocket upgrade and CONNACK
// together. The default is 30 s.
func WithConnectTimeout(d time.Duration) Option {
	return option(func(c *config) error {
		c.connectTimeout = d
		return positive("WithConnectTimeout", d)
	})
}

// WithCredentials sets user name and password (sections 3.1.3.5 and 3.1.3.6). The password may contain any bytes, at
// most 65,535; convert a []byte with string(token). "" is sent as an empty password. Both replace those of the URL. No
// error, log or String method of this package shows them.
func WithCredentials(username, password string) Option {
	return option(func(c *config) error {
		c.hasUsername, c.username = true, username
		c.hasPassword, c.password = true, password
		return nil
	})
}

// WithUsername sets a user name and no password, for servers that take a token as user name. It replaces user name and
// password of the URL.
func WithUsername(username string) Option {
	return option(func(c *config) error {
		c.hasUsername, c.username = true, username
		c.hasPassword, c.password = false, ""
		return nil
	})
}

// WithCredentialsFunc makes the client call f for user name and password at every attempt to connect. ctx ends with the
// connect timeout. If f returns an error, the attempt has failed, and the next one follows as the reconnect policy
// says, except if the error is wrapped by Permanent. With this option the client does not end if the server refuses the
// credentials, because the next attempt may have new ones. The client waits for f, so f must not call Close, Disconnect
// or Reconnect.
func WithCredentialsFunc(f func(ctx context.Context) (username, password string, err error)) Option {
	return option(func(c *config) error {
		c.credentialsFunc = f
		return nil
	})
}

// WithAttemptFunc makes the client call f before every attempt to connect, and after a credentials function. f may
// change the attempt's URL, TLS configuration, header and credentials. For its ctx, its errors and what it must not
// call, see WithCredentialsFunc.
func WithAttemptFunc(f func(ctx context.Context, a *Attempt) error) Option {
	return option(func(c *config) error {
		c.attemptFunc = f
		return nil
	})
}

// WithServers adds servers in the form that NewClient takes. The client tries them in turn, after the one given to
// NewClient. It asks a server for the current session if the server may have it. Credentials in these URLs are not
// used.
func WithServers(hosts ...string) Option {
	return option(func(c *config) error {
		for _, h := range hosts {
			u, err := transport.ParseURL(h)
			if err != nil {
				return fmt.Errorf("mqtt: WithServers: %w", err)
			}
			c.servers = append(c.servers, u)
		}
		return nil
	})
}

// WithReconnect sets when the client connects again. If WithoutReconnect is given as well, the later option counts.
func WithReconnect(p ReconnectPolicy) Option {
	return option(func(c *config) error {
		c.reconnect, c.withoutReconnect = p, false
		return nil
	})
}

// WithoutReconnect ends the client when its connection ends. Reconnect still replaces the connection by another one.
func WithoutReconnect() Option {
	return option(func(c *config) error {
		c.withoutReconnect = true
		return nil
	})
}

// WithConnectRetry makes NewClient try again, as the reconnect policy says, until its ctx ends. Without it the first
// failure is NewClient's error.
func WithConnectRetry() Option {
	return option(func(c *config) error {
		c.connectRetry = true
		return nil
	})
}

// WithConnectInBackground makes NewClient return at once. Its ctx is not used then. Until the client is connected,
// messages at QoS 1 and 2 are queued, and Subscribe waits. See WaitConnected.
func WithConnectInBackground() Option {
	return option(func(c *config) error {
		c.inBackground = true
		return nil
	})
}

// WithoutRedirect makes the client treat a server's request to use another server as an ordinary failure, instead of
// following it.
func WithoutRedirect() Option {
	return option(func(c *config) error {
		c.noRedirect = true
		return nil
	})
}

// WithResubscribeOnResume makes subscriptions again even when the server has kept the session. MQTT 5 does that anyway;
// on MQTT 3.1.1 the server then sends all retained messages again.
func WithResubscribeOnResume() Option {
	return option(func(c *config) error {
		c.resubscribeResumed = true
		return nil
	})
}

// WithDialer replaces net.Dialer.DialContext, and is called with the same arguments: network is "tcp" or "unix". ctx
// bounds only dialling.
func WithDialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return option(func(c *config) error {
		if dial == nil {
			return errors.New("mqtt: WithDialer: nil")
		}
		c.dialer.NetDial = dial
		return nil
	})
}

// WithWill sets the message that the server publishes when the connection ends without a DISCONNECT (section 3.1.2.5).
// Only the options QoS and RetainFlag have an effect; for properties use WithWillProperties.
func WithWill(topicName string, payload []byte, opts ...PublishOption) Option {
	return option(func(c *config) error {
		var o publishOptions
		addOptions(&o, opts)
		switch {
		case o.qos > ExactlyOnce:
			return fmt.Errorf("mqtt: WithWill: %v", o.qos)
		case o.properties != nil || o.flags != 0:
			return errors.New("mqtt: WithWill: of the options only QoS and RetainFlag count; for properties there is WithWillProperties")
		}
		c.will = &codec.Will{Topic: topicName, Payload: bytes.Clone(payload), QoS: byte(o.qos), Retain: o.retain}
		return topicError(topicName, false, topic.CheckName(topicName)) // [MQTT-3.1.3-11]
	})
}

// WithTopicDefaults sets options for all publishes to topics that match filter. Options of the publish itself override
// them, also an explicit QoS 0 and NoRetain. If several filters match, the option given last counts.
func WithTopicDefaults(filter string, opts ...PublishOption) Option {
	return option(func(c *config) error {
		d := topicDefault{filter: filter}
		addOptions(&d.options, opts)
		if d.options.qos > ExactlyOnce {
			return fmt.Errorf("mqtt: WithTopicDefaults: %v", d.options.qos)
		}
		c.topicDefaults = append(c.topicDefaults, d)
		return topicError(filter, true, topic.CheckFilter(filter))
	})
}

// WithFilterPrefixes sets the prefixes that the server removes from topic filters before it matches them. Each ends in
// "/". The default is "$queue/" and "$exclusive/". The prefix "$share/{name}/" of shared subscriptions is always known.
func WithFilterPrefixes(prefixes ...string) Option {
	return option(func(c *config) error {
		for _, p := range prefixes {
			if len(p) < 2 || p[len(p)-1] != '/' {
				return fmt.Errorf("mqtt: WithFilterPrefixes: %q does not end in a level's separator", p)
			}
		}
		c.filterPrefixes = slices.Clone(prefixes)
		return nil
	})
}

// WithQueue bounds the queue in which messages at QoS 1 and 2 wait to be sent, in messages and in bytes of their topics
// and payloads. Messages at QoS 0 with QueueOffline wait there too. The default is 10,000 messages and 64 MiB. An empty queue
// takes a message of any size. When the queue is full, Publish and PublishAsync wait for room until their ctx ends, or, without
// a connection, fail at once with ErrQueueFull. With 0 messages there is no queue.
func WithQueue(messages, bytes int) Option {
	return option(func(c *config) error {
		c.limits.QueueMessages, c.limits.QueueBytes = messages, bytes
		if messages < 0 || bytes < 0 {
			return errors.New("mqtt: WithQueue: negative")
		}
		return nil
	})
}

// WithMaxInFlight bounds the messages at QoS 1 and 2 that are sent and not acknowledged, 1 to 64,511. The default is
// 1,024; the server's Receive Maximum may bound them further. On MQTT 3.1.1, where a server cannot announce what it takes,
// the default is 20 from the client's first message at QoS 2 on.
//
// A larger number loses messages on servers with a smaller window. Mosquitto as it is installed
// (max_inflight_messages 20; seen with 2.0.11) acknowledges what goes beyond 20 at QoS 2, with a normal PUBREC, and
// drops it.
func WithMaxInFlight(n int) Option {
	return option(func(c *config) error {
		c.limits.InFlight, c.limits.InFlightQoS2 = n, 0
		return between("WithMaxInFlight", n, 1, session.MaxInFlight)
	})
}

// WithMaximumPacketSize bounds the packets that the server may send, in bytes from 1 to 268,435,460, which is the largest
// packet that MQTT allows. The default is 64 MiB (67,108,864). Buffers grow with the bytes that arrive, never only because a
// length field is large. While a message arrives and is delivered it takes up to three times its size in memory, and once more
// for each further subscription that it is for. Whoever may publish to the client's topics can make it take that much.
//
// On MQTT 5 the bound is announced (section 3.1.2.11.4). A server then silently discards larger messages, although
// their publishers get a success: raise the bound if there are such messages. A server that sends one anyway is disconnected
// with reason code 0x95. On MQTT 3.1.1 the bound cannot be announced: a larger PUBLISH is discarded while it arrives,
// acknowledged, counted in Stats.Oversized and logged.
func WithMaximumPacketSize(bytes int) Option {
	return option(func(c *config) error {
		c.maximumPacketSize = bytes
		return between("WithMaximumPacketSize", bytes, 1, maxPacketSize)
	})
}

// WithDropInvalidTopics lets the client live with messages whose topic name the specification forbids: one that is not
// UTF-8, or has U+0000 or a wildcard in it. Such a message is acknowledged, counted in Stats.InvalidTopics, logged with its
// topic name, and goes to nobody. By default it ends the connection, as the specification asks for (section 4.13.1), and the
// error names the topic. If the server has retained the message, that happens again whenever the client subscribes.
func WithDropInvalidTopics() Option {
	return option(func(c *config) error {
		c.dropInvalidTopics = true
		return nil
	})
}

// WithInboundLimit bounds the messages that wait in the lines of all subscriptions together, in bytes of memory with
// properties, without those that WithParking keeps. If they exceed the bound, messages at QoS 0 of the subscription with
// the most bytes are dropped, as its Overflow says. If that is not enough, or with Block, that subscription ends as with
// EndIfStalled. The default is 64 MiB. On MQTT 3.1.1 the only other bound is the number of packet identifiers,
// 65,535.
func WithInboundLimit(bytes int) Option {
	return option(func(c *config) error {
		c.inboundLimit = bytes
		return between("WithInboundLimit", bytes, 1, math.MaxInt)
	})
}

// WithParking bounds the messages that are kept for later subscriptions. If the server resumes the session of an
// earlier client at the first connect, messages at QoS 1 and 2 that match no subscription are parked without
// acknowledgement: at most n of them, for the time d. A later Subscribe with a filter that matches gets them. Messages
// that no subscription claims are acknowledged when the time is over. At any other time a message that matches no
// subscription is acknowledged at once. The default is 65,535 messages and 30 s; with 0 messages there is no parking.
// Together they are never more than WithInboundLimit in bytes; what comes beyond either bound is acknowledged at once.
func WithParking(n int, d time.Duration) Option {
	return option(func(c *config) error {
		c.parkingPlaces, c.parkingTime = n, d
		if n < 0 || d < 0 {
			return errors.New("mqtt: WithParking: negative")
		}
		return nil
	})
}

// WithPoisonLimit sets when the client gives up a message that seems to make the server fail: after n connections in a
// row on which that message was the first one sent again, or the first one published again in a new session, and which
// ended without any acknowledgement. Its publisher gets an ErrOutcomeUnknown that names topic and size, and wraps the last
// connection's error. Servers of MQTT 3.1.1 can refuse a message, for its size or its topic, in no other way than by closing the
// connection. Messages are sent again in the order of their publishing (section 4.6), so that those behind it wait. Therefore the
// delays of the ReconnectPolicy do not grow until the first such message since a stable connection is given up.
//
// The same limit holds for a filter whose SUBSCRIBE the server answers by closing the connection. After two such losses
// in a row it is subscribed last and alone. At the limit the Subscribe fails, or the subscription ends, with an error
// that names the filter and wraps the last connection's error. A DISCONNECT with reason code 0x87 (Not authorized) counts
// as the answer to a SUBSCRIBE at once if nothing else waits for an answer; if more does, further connections show it.
//
// The default is 5; with 0 no message and no filter is given up.
func WithPoisonLimit(n int) Option {
	return option(func(c *config) error {
		c.poisonLimit = n
		return between("WithPoisonLimit", n, 0, math.MaxInt)
	})
}

// WithUnmatched makes the client call f with each message at QoS 1 and 2 that matches no subscription, one at a time,
// after it was acknowledged. At most 1,000 messages wait for f; further ones are left out. f runs in a goroutine of the
// client. Close and Disconnect wait for it, so f must not call them.
func WithUnmatched(f func(Message)) Option {
	return option(func(c *config) error {
		c.unmatched = f
		return nil
	})
}

// WithLogger sets the logger for events that are not the error of any call. By default nothing is logged, with one exception:
// a message that has held up all acknowledgements for a minute is reported to slog's default logger.
func WithLogger(l *slog.Logger) Option {
	return option(func(c *config) error {
		if l == nil {
			return errors.New("mqtt: WithLogger: nil")
		}
		c.logger = l
		return nil
	})
}

// SessionNeverExpires is the longest session expiry interval.
const SessionNeverExpires = math.MaxUint32 * time.Second

// WithSessionExpiry sets the Session Expiry Interval (section 3.1.2.11.2), in whole seconds; SessionNeverExpires is the
// longest. It stays in force after Disconnect and Close. By default the interval is 5 minutes, and Disconnect and Close
// end the session.
func WithSessionExpiry(d time.Duration) OptionV5 {
	return optionV5(func(c *config) error {
		c.sessionExpiry, c.keepsSession = d, true
		return wholeSeconds("WithSessionExpiry", d, math.MaxUint32)
	})
}

// WithWillProperties sets the properties of the will.
func WithWillProperties(p *WillProperties) OptionV5 {
	return optionV5(func(c *config) error {
		if c.willProperties = p; p == nil {
			return nil
		}
		own := *p
		own.CorrelationData, own.UserProperties = bytes.Clone(p.CorrelationData), slices.Clone(p.UserProperties)
		c.willProperties = &own
		return wholeSeconds("WithWillProperties: WillDelay", p.WillDelay, math.MaxUint32)
	})
}

// WithUserProperties sets the user properties of CONNECT (section 3.1.2.11.8).
func WithUserProperties(u ...UserProperty) OptionV5 {
	return optionV5(func(c *config) error {
		c.userProperties = slices.Clone(u)
		return nil
	})
}

// WithReceiveMaximum bounds the messages at QoS 1 and 2 that the server may send before they are acknowledged, 1 to
// 65,535 (section 3.1.2.11.3). A server that sends more is disconnected with reason code 0x93.
//
// Without this option the client announces 1,024 and accepts more, because Mosquitto 2.0.11 exceeds the announced value
// once a slow consumer has acknowledged its first message (seen). Disconnecting would not help then.
func WithReceiveMaximum(n int) OptionV5 {
	return optionV5(func(c *config) error {
		c.receiveMaximum, c.receiveBound = n, n
		return between("WithReceiveMaximum", n, 1, math.MaxUint16)
	})
}

// WithTopicAliasMaximum sets how many topic aliases the server may use (section 3.1.2.11.5), 0 to 65,535. A server that
// uses more is disconnected with reason code 0x94. Messages have their topic names in any case. For the messages that
// it sends, the client uses as many aliases as the server allows.
//
// The default is 0, because not every server does it right: mochi 2.7.9 sends a kept message with an alias of an
// earlier connection (seen). The client has to end the connection then, and this repeats.
func WithTopicAliasMaximum(n int) OptionV5 {
	return optionV5(func(c *config) error {
		c.topicAliasMaximum = n
		return between("WithTopicAliasMaximum", n, 0, math.MaxUint16)
	})
}

// WithoutProblemInformation asks the server to send no Reason String and no User Property (section 3.1.2.11.7), except
// in PUBLISH, CONNACK and DISCONNECT. A server that sends one anyway is disconnected with reason code 0x82.
func WithoutProblemInformation() OptionV5 {
	return optionV5(func(c *config) error {
		c.noProblemInformation = true
		return nil
	})
}

func wholeSeconds(name string, d time.Duration, most int64) error {
	if d < 0 || d%time.Second != 0 || int64(d/time.Second) > most {
		return fmt.Errorf("mqtt: %s: %v is not a whole number of seconds from 0 to %d", name, d, most)
	}
	return nil
}

func positive(name string, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("mqtt: %s: %v is not positive", name, d)
	}
	return nil
}

func between(name string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("mqtt: %s: %d is not between %d and %d", name, n, least, most)
	}
	return nil
}
