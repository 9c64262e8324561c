package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/transport"
)

// ReconnectPolicy says when to connect again. Zero fields mean the defaults.
type ReconnectPolicy struct {
	// InitialDelay bounds the first wait, MaxDelay all of them; in between the bound grows by Factor with each failure.
	// The wait itself is random, between 0 and the bound, so that many clients do not come back at once.
	InitialDelay time.Duration // 1 s
	MaxDelay     time.Duration // 60 s
	Factor       float64       // 2
	MaxAttempts  int           // in a row; 0: no limit
	// StableAfter is how long a connection must last for its loss to count as the first failure again; by default
	// MaxDelay or twice the keep alive interval, whichever is longer.
	StableAfter time.Duration
	// Decide is asked after every failed attempt and every loss, by the client's supervisor, without locks held. It
	// returns how long to wait, or an error that ends the client; the client waits for it, so it must not call Close,
	// Disconnect or Reconnect. ctx ends with the client. nil returns f.Err if f.Permanent, else f.Delay.
	Decide func(ctx context.Context, f Failure) (time.Duration, error)
}

// Failure is a failed attempt or a lost connection.
type Failure struct {
	Err       error
	Server    string        // without password
	Attempts  int           // since the last stable connection
	Down      time.Duration // how long there has been no connection
	Delay     time.Duration // the policy's, jitter included
	Permanent bool          // trying again cannot help
}

// Permanent wraps an error of a credentials function or an Authenticator, to say that trying again cannot help: the client ends with it.
func Permanent(err error) error { return &permanent{err} }

type permanent struct{ err error }

func (e *permanent) Error() string { return e.err.Error() }
func (e *permanent) Unwrap() error { return e.err }

// fill replaces zero fields by the defaults.
func (p *ReconnectPolicy) fill() {
	if p.InitialDelay == 0 {
		p.InitialDelay = time.Second
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(time.Minute, p.InitialDelay)
	}
	if p.Factor == 0 {
		p.Factor = 2
	}
}

func (p *ReconnectPolicy) check() error {
	if p.InitialDelay < 0 || p.MaxDelay < p.InitialDelay || !(p.Factor >= 1) || p.MaxAttempts < 0 || p.StableAfter < 0 {
		return errors.New("mqtt: WithReconnect: negative or contradictory values")
	}
	return nil
}

// delay is how long to wait after n failures in a row.
func (p *ReconnectPolicy) delay(n int) time.Duration {
	bound := float64(p.InitialDelay) * math.Pow(p.Factor, float64(n-1))
	return time.Duration(rand.Float64() * min(bound, float64(p.MaxDelay)))
}

// decide asks the application, if it wants to be asked.
func (p *ReconnectPolicy) decide(ctx context.Context, f Failure) (time.Duration, error) {
	switch {
	case p.MaxAttempts > 0 && f.Attempts >= p.MaxAttempts:
		return 0, f.Err
	case p.Decide != nil:
		return p.Decide(ctx, f)
	case f.Permanent:
		return 0, f.Err
	}
	return f.Delay, nil
}

// Attempt is one connect about to be made. Its text shows none of its secrets.
type Attempt struct {
	Number  int   // since the last stable connection, from 1
	LastErr error // of the attempt or connection before; nil at the first
	// URL is the attempt's own. A user name and password in it are not used: they were taken from NewClient's.
	URL *url.URL
	// TLS is what the options say, as it is now in the files, for a URL with TLS. It is the attempt's own.
	TLS *tls.Config
	// Header goes into the request for a WebSocket, for a URL of scheme ws or wss. It is never nil, and the attempt's own.
	Header http.Header
	// Username and Password go into CONNECT unless they are empty and no option gave any.
	Username, Password string
}

// connectAttempt is an Attempt with what the application has no say in.
type connectAttempt struct {
	Attempt
	cleanStart bool
	clientID   string
	auth       codec.Auth // the first step of enhanced authentication; its data and user properties go with CONNECT
	sent       bool       // CONNECT went out
}

// completeAttempt lets the application's functions complete an attempt.
func (c *config) completeAttempt(ctx context.Context, a *connectAttempt) (err error) {
	if a.TLS, err = c.tlsConfig(); err != nil {
		return err
	}
	if a.Header = c.header.Clone(); a.Header == nil {
		a.Header = make(http.Header)
	}
	if c.credentialsFunc != nil {
		if a.Username, a.Password, err = c.credentialsFunc(ctx); err != nil {
			return err
		}
	}
	if c.attemptFunc != nil {
		if err := c.askAttempt(ctx, a); err != nil {
			return err
		}
	}
	if c.authenticator == nil {
		return nil
	}
	a.auth, err = c.startAuth(ctx)
	return err
}

// askAttempt lets the attempt function see to an attempt.
func (c *config) askAttempt(ctx context.Context, a *connectAttempt) error {
	to := *a.URL
	err := c.attemptFunc(ctx, &a.Attempt)
	if a.URL == nil {
		a.URL = &to // for the error to name
		err = errors.Join(err, errors.New("the attempt function leaves no URL"))
	}
	return err
}

// permanent reports whether trying again cannot help.
func (c *config) permanent(err error) bool {
	var said *permanent
	if errors.As(err, &said) {
		return true
	}
	var proxy *transport.ProxyError
	var upgrade *transport.UpgradeError
	var refused *ConnectError
	var disconnected *DisconnectError
	switch {
	case errors.As(err, &proxy): // not the server's word
	case errors.As(err, &upgrade):
		unauthorised := upgrade.StatusCode == http.StatusUnauthorized || upgrade.StatusCode == http.StatusForbidden
		return unauthorised && c.attemptFunc == nil // which may bring another token
	case errors.As(err, &refused):
		return c.permanentRefusal(refused.Code)
	case errors.As(err, &disconnected) && disconnected.ByServer:
		return disconnected.Code == SessionTakenOver || disconnected.Code == NotAuthorized && !c.freshCredentials()
	}
	return false
}

// permanentRefusal reports whether a CONNACK with this reason code would come again.
func (c *config) permanentRefusal(code ReasonCode) bool {
	switch code {
	case BadUserNameOrPassword, NotAuthorized:
		return !c.freshCredentials()
	case UnsupportedProtocolVersion, ClientIdentifierNotValid, Banned, BadAuthenticationMethod, TopicNameInvalid,
		PacketTooLarge, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported:
		return true
	}
	return false
}

// freshCredentials reports whether the next attempt may come with others.
func (c *config) freshCredentials() bool {
	return c.credentialsFunc != nil || c.attemptFunc != nil || c.authenticator != nil
}

// redirected returns the URL that a Server Reference means (section 4.11): the first of its hosts, with the scheme of
// the old URL. It is nil if there is none.
func redirected(old *url.URL, reference string) *url.URL {
	for host := range strings.FieldsSeq(reference) {
		u, err := transport.ParseURL(old.Scheme + "://" + host)
		if err == nil && u.Host != "" && u.User == nil {
			u.Path, u.RawQuery = old.Path, old.RawQuery
			return u
		}
	}
	return nil
}

// reconnecting is a Reconnect that waits for the next attempt.
type reconnecting struct {
	done chan struct{}
	err  error
}

// attempts is what the parts of a client, and its callers, know of its connects.
type attempts struct {
	*core

	// Guarded by mu.
	up           chan struct{}     // closed while connected, and when the client has ended
	sessions     int               // how many have begun
	doubtful     bool              // the session that a server has may be another one than ours; see doubt
	returnCode   codec.ReasonCode  // of the latest CONNACK
	reconnecting *reconnecting     // Reconnects that wait for an attempt; nil: none
	farewell     *codec.Disconnect // what the last DISCONNECT says; nil: nothing in particular
}

func (at *attempts) init(c *core) { at.core, at.up = c, make(chan struct{}) }

// reconnect drops the connection, if there is one, and connects at once.
func (at *attempts) reconnect(ctx context.Context) error {
	at.mu.Lock()
	if at.err != nil || at.draining {
		defer at.mu.Unlock()
		return at.notConnected()
	}
	r := at.reconnecting
	if r == nil {
		r = &reconnecting{done: make(chan struct{})}
		at.reconnecting = r
		at.callSupervisor()
	}
	at.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("mqtt: waiting for CONNACK: %w", ctx.Err())
	}
}

func (at *attempts) reconnectWanted() bool {
	at.mu.Lock()
	defer at.mu.Unlock()
	return at.reconnecting != nil
}

// doubt notes that the session which the next server has may be another one than ours, although Session Present says that it
// has one. A CONNECT without an answer may have begun a session there. A server that is not the latest one may share the
// session with it, and may as well have one of its own, from an earlier visit.
func (at *attempts) doubt() {
	at.mu.Lock()
	defer at.mu.Unlock()
	at.doubtful = true
}

// attemptFailed notes what an attempt may have left at the server, and tells everybody who waits in Reconnect.
func (at *attempts) attemptFailed(a *connectAttempt, err error) {
	var refused *ConnectError
	at.mu.Lock()
	defer at.mu.Unlock()
	switch {
	case errors.As(err, &refused) && refused.Code.Failed():
		at.returnCode = codec.ReasonCode(refused.Code)
	case a.sent:
		at.doubtful = true
	}
	at.tellReconnects(err)
}

// tellReconnects tells everybody who waits in Reconnect the outcome of an attempt.
// The caller holds mu.
func (at *attempts) tellReconnects(err error) {
	r := at.reconnecting
	if r == nil {
		return
	}
	at.reconnecting = nil
	r.err = err
	close(r.done)
}

func (at *attempts) sessionNumber() int {
	at.mu.Lock()
	defer at.mu.Unlock()
	return at.sessions
}

func (at *attempts) wait(ctx context.Context) error {
	at.mu.Lock()
	up := at.up
	at.mu.Unlock()
	select {
	case <-up:
		return at.Err()
	case <-ctx.Done():
		return fmt.Errorf("mqtt: waiting for a connection: %w", ctx.Err())
	}
}

// noteUp lets go of those who wait for the connection, or for the client's end.
// The caller holds mu.
func (at *attempts) noteUp() {
	select {
	case <-at.up:
	default:
		close(at.up)
	}
}
