package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
)

// Authenticator runs enhanced authentication (section 4.12): an exchange of data with the server, in CONNECT, AUTH and
// CONNACK. There is one exchange at every attempt to connect, and one at every re-authentication.
//
// An exchange begins with Start, which forgets what is left of an earlier one. Exchanges never overlap, and neither do
// calls: they come from a goroutine of the client that holds no lock. ctx ends with the time for the exchange (see
// WithConnectTimeout), with the connection, and with the client. A call must return then: the client waits for it
// before it connects again, and so does Close. For the same reason it must not call Close, Disconnect, Reconnect or
// Reauthenticate.
//
// Data of the server belongs to the Authenticator; data that it returns is used until its next call. nil is no data,
// which is not the same as empty data. An error ends the exchange, and the connection with it if anything of the
// exchange was sent. Trying again follows as after any failed connect or lost connection, unless the error is wrapped
// by Permanent. An Authenticator serves one client.
//
// See PropertiesAuthenticator and RenewingAuthenticator for what it can do besides.
type Authenticator interface {
	// Method returns the name of the Authentication Method. It is called once.
	Method() string
	// Start returns the first data, which goes with CONNECT, or with the AUTH that begins a re-authentication.
	Start(ctx context.Context) ([]byte, error)
	// Continue answers the server's data.
	Continue(ctx context.Context, data []byte) ([]byte, error)
	// Finish checks the data that came with the server's success; nil where none came.
	Finish(ctx context.Context, data []byte) error
}

// PropertiesAuthenticator is an Authenticator that also sends and receives the Reason String and the user properties of
// AUTH (section 3.15.2.2). The rules for calls of the other methods apply to its methods too. The reason of a server
// that refuses is in the error, see Refusal.
type PropertiesAuthenticator interface {
	Authenticator
	// Sending is called after Start and Continue, and returns what is sent with their data. CONNECT has no Reason
	// String; its user properties go after those of WithUserProperties. They are left out if the packet would exceed
	// the server's Maximum Packet Size.
	Sending() AuthProperties
	// Received is called before Continue and Finish with what came with their data.
	Received(p AuthProperties)
}

// AuthProperties are the properties of AUTH (section 3.15.2.2) besides method and data.
type AuthProperties struct {
	ReasonString   string // for people
	UserProperties UserProperties
}

// RenewingAuthenticator is an Authenticator that asks for re-authentication before its credentials expire.
type RenewingAuthenticator interface {
	Authenticator
	// RenewAfter returns how long the client waits before it re-authenticates. With 0 or less it does not. It is called
	// after each exchange that does not end the connection: after a success, and after a re-authentication whose Start
	// failed. After any other failure the client connects again, with a new exchange.
	RenewAfter() time.Duration
}

// AuthError is an authentication that did not succeed: inside the *ConnectError of an attempt to connect, inside the
// *DisconnectError of the connection that a failed re-authentication has ended, and from Reauthenticate.
type AuthError struct {
	Method string
	Step   string // the Authenticator's method that failed: "Start", "Continue", "Finish"; "": it failed in no method
	Err    error
}

func (e *AuthError) Error() string {
	text := "mqtt: authentication by " + e.Method
	if e.Step != "" {
		text += ": " + e.Step
	}
	return text + join("", e.Err)
}

// Unwrap returns Err.
func (e *AuthError) Unwrap() error { return e.Err }

// WithAuthenticator authenticates with enhanced authentication (section 4.12), at every attempt to connect. Then a
// refusal as not authorised does not end the client, because the next exchange may have new credentials.
func WithAuthenticator(a Authenticator) OptionV5 {
	return optionV5(func(c *config) error {
		if a == nil {
			return errors.New("mqtt: WithAuthenticator: nil")
		}
		c.authenticator, c.authMethod = a, a.Method()
		if c.authMethod == "" {
			return errors.New("mqtt: WithAuthenticator: no Authentication Method")
		}
		return nil
	})
}

// The methods below run the application's Authenticator. No lock is held.

// startAuth begins an exchange. It returns the packet that does so on a live connection.
func (c *config) startAuth(ctx context.Context) (codec.Auth, error) {
	data, err := c.authenticator.Start(ctx)
	if err != nil {
		return codec.Auth{}, c.authError("Start", err)
	}
	return c.authPacket(codec.ReAuthenticate, data), nil // [MQTT-4.12.1-1]
}

// continueAuth returns the answer to the server's AUTH.
func (c *config) continueAuth(ctx context.Context, p codec.Auth) (codec.Auth, error) {
	c.receivedAuth(p.ReasonString, p.UserProperties)
	data, err := c.authenticator.Continue(ctx, p.Data)
	if err != nil {
		return codec.Auth{}, c.authError("Continue", err)
	}
	return c.authPacket(codec.ContinueAuthentication, data), nil // [MQTT-4.12.0-3]
}

// finishAuth checks what came with the server's success.
func (c *config) finishAuth(ctx context.Context, data []byte, reason string, u UserProperties) error {
	c.receivedAuth(reason, u)
	if err := c.authenticator.Finish(ctx, data); err != nil {
		return c.authError("Finish", err)
	}
	return nil
}

func (c *config) authPacket(code codec.ReasonCode, data []byte) codec.Auth {
	p := codec.Auth{Code: code, Method: c.authMethod, Data: data}
	if a, ok := c.authenticator.(PropertiesAuthenticator); ok {
		s := a.Sending()
		p.ReasonString, p.UserProperties = s.ReasonString, s.UserProperties
	}
	return p
}

func (c *config) receivedAuth(reason string, u UserProperties) {
	if a, ok := c.authenticator.(PropertiesAuthenticator); ok {
		a.Received(AuthProperties{ReasonString: reason, UserProperties: u})
	}
}

// renewAfter returns when to authenticate again.
func (c *config) renewAfter() time.Duration {
	if a, ok := c.authenticator.(RenewingAuthenticator); ok {
		if d := a.RenewAfter(); d > 0 {
			return d
		}
	}
	return never
}

func (c *config) authError(step string, err error) error {
	return &AuthError{Method: c.authMethod, Step: step, Err: err}
}

// decodeAuth decodes and checks a server's AUTH. Only on a live connection it may mean success; before CONNACK it
// always asks for more data.
func (c *core) decodeAuth(h codec.Header, body []byte, live bool) (p codec.Auth, err error) {
	if err = p.Decode(h, body, c.version); err != nil {
		return p, err
	}
	switch {
	case c.config.authenticator == nil:
		return p, c.protocolError(h.Type, "MQTT-4.12.0-6", "", "no authentication was asked for")
	case p.Method != c.config.authMethod:
		return p, c.protocolError(h.Type, "MQTT-4.12.0-5", "", "another authentication method than CONNECT's")
	case p.Code == codec.ReAuthenticate:
		return p, c.protocolError(h.Type, "MQTT-3.15.2-1", "", "a server does not re-authenticate")
	case p.Code == codec.Success && !live:
		return p, c.protocolError(h.Type, "MQTT-4.12.0-2", "", "success before CONNACK")
	}
	p.Data = bytes.Clone(p.Data)
	return p, c.checkProblem(h, p.ReasonString, p.UserProperties)
}

// encodeAuth encodes an AUTH in at most so many bytes. If it is too large, the human-readable properties are dropped
// [MQTT-3.15.2-2] [MQTT-3.15.2-3].
func (c *config) encodeAuth(p codec.Auth, most int) ([]byte, error) {
	full, err := p.Append(nil, c.version)
	if err != nil {
		return nil, c.authError("", err)
	}
	if len(full) <= most {
		return full, nil
	}
	short, err := (&codec.Auth{Code: p.Code, Method: p.Method, Data: p.Data}).Append(nil, c.version)
	if err != nil || len(short) > most {
		return nil, c.authError("", fmt.Errorf("AUTH has more than the server's maximum of %d bytes: %w", most, PacketTooLarge))
	}
	return short, nil
}

// authentication is the state of a client's re-authentications.
type authentication struct {
	*core
	notices *notices
	due     *time.Timer // goes off when the next re-authentication is due; nil: there is no Authenticator

	// Guarded by mu.
	running *reauthentication // nil: none
}

func (a *authentication) init(c *core, n *notices) {
	a.notices = n
	a.core = c
	if c.config.authenticator != nil {
		a.due = time.NewTimer(never)
	}
}

// reauthentication is an exchange on a live connection. It runs in a goroutine of its own, because the Authenticator
// may be slow.
type reauthentication struct {
	link    *link.Link
	ctx     context.Context // ends with the time for the exchange, the connection and the client
	cancel  context.CancelFunc
	answers chan codec.Auth // from the reader; capacity 1
	sent    bool            // a step was sent; only the goroutine of the exchange uses this
	done    chan struct{}   // closed once the outcome is known
	err     error           // the outcome; written before done is closed
	gone    chan struct{}   // closed when the Authenticator has returned

	// Guarded by mu.
	asked bool // the server's answer to the latest step has not come
}

// finish wakes the calls that wait for the outcome. Only the first call of finish counts.
// The caller holds mu.
func (r *reauthentication) finish(err error) {
	select {
	case <-r.done:
	default:
		r.err = err
		close(r.done)
	}
}

// Reauthenticate is documented with ClientV5.
func (c clientV5) Reauthenticate(ctx context.Context) error {
	r, err := c.auth.reauthenticate()
	if err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("mqtt: waiting for the re-authentication: %w", ctx.Err())
	}
}

// reauthenticate begins an exchange on the live connection, or returns the one that runs.
func (a *authentication) reauthenticate() (*reauthentication, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.live()
	switch {
	case a.config.authenticator == nil:
		return nil, errors.New("mqtt: Reauthenticate: there is no Authenticator") // [MQTT-4.12.0-7]
	case l == nil:
		return nil, a.notConnected()
	case a.running != nil:
		return a.running, nil
	}
	r := &reauthentication{
		link:    l,
		answers: make(chan codec.Auth, 1),
		done:    make(chan struct{}),
		gone:    make(chan struct{}),
	}
	r.ctx, r.cancel = context.WithTimeout(a.ctx, a.config.connectTimeout)
	a.running = r
	a.goroutines.Go(func() { a.runReauthentication(r) })
	return r, nil
}

// runReauthentication is the goroutine of an exchange.
func (a *authentication) runReauthentication(r *reauthentication) {
	defer r.cancel()
	err := a.exchange(r)
	stands := (err == nil || !r.sent) && a.currentLink() == r.link
	var again time.Duration
	if stands {
		again = a.config.renewAfter()
	}
	if stands && err != nil {
		a.notices.report(slog.LevelWarn, "mqtt: no re-authentication", "because", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && a.ctx.Err() != nil {
		err = a.config.authError("", ErrClosed)
	}
	r.finish(err)
	switch l := a.live(); {
	case l == nil || a.ctx.Err() != nil: // there is no connection to end, or the client ends it
	case stands:
		a.due.Reset(again)
	default:
		a.rejectServer(l, err)
	}
	a.running = nil
	close(r.gone)
}

// exchange runs an exchange to its end.
func (a *authentication) exchange(r *reauthentication) error {
	p, err := a.config.startAuth(r.ctx)
	for err == nil {
		if err = a.sendAuth(r, p); err != nil {
			return err
		}
		select {
		case p = <-r.answers:
		case <-r.ctx.Done():
			return a.config.authError("", fmt.Errorf("no answer from the server: %w", r.ctx.Err()))
		}
		if p.Code == codec.Success {
			return a.config.finishAuth(r.ctx, p.Data, p.ReasonString, p.UserProperties)
		}
		p, err = a.config.continueAuth(r.ctx, p)
	}
	return err
}

// sendAuth sends a step. If the connection has ended it does nothing: r's ctx ends soon.
func (a *authentication) sendAuth(r *reauthentication, p codec.Auth) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	packet, err := a.config.encodeAuth(p, a.largest())
	if err != nil || a.live() == nil {
		return err
	}
	r.sent, r.asked = true, true
	r.link.Commit(append(r.link.Buffer(), packet...))
	return nil
}

// rejectServer ends a connection whose re-authentication failed in this client [MQTT-4.12.1-2].
// The caller holds mu.
func (a *authentication) rejectServer(l *link.Link, err error) {
	packet, _ := (&codec.Disconnect{Code: codec.UnspecifiedError}).Append(nil, a.version) // it has nothing that could fail to encode
	l.Finish(&DisconnectError{Refusal: Refusal{Code: UnspecifiedError}, Err: err}, packet)
	a.session.EndIncoming()
}

// loseAuth ends the exchange of a connection that has ended.
// The caller holds mu.
func (a *authentication) loseAuth(err error) {
	if r := a.running; r != nil {
		if errors.Is(err, ErrClosed) {
			err = ErrClosed
		}
		r.finish(a.config.authError("", err))
		r.cancel()
	}
}

// awaitAuth waits until the Authenticator has returned, after its connection has ended.
func (a *authentication) awaitAuth() {
	a.mu.Lock()
	r := a.running
	a.mu.Unlock()
	if r != nil {
		<-r.gone
	}
}

// scheduleRenewal sets the timer for the first re-authentication of a new connection.
func (a *authentication) scheduleRenewal() {
	if a.due != nil {
		a.due.Reset(a.config.renewAfter())
	}
}

// renewalDue returns a channel that gets a value when a re-authentication is due.
func (a *authentication) renewalDue() <-chan time.Time {
	if a.due == nil {
		return nil
	}
	return a.due.C
}

// renew begins a re-authentication that is due. Without a connection nothing needs to be done: the next connect has an
// exchange of its own.
func (a *authentication) renew() { _, _ = a.reauthenticate() }
