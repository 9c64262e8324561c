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
	// InitialDelay is the upper bound of the first wait. With each failure the bound is multiplied by Factor, up to
	// MaxDelay. The wait itself is random, between 0 and the bound, so that many clients do not come back at the same
	// moment.
	InitialDelay time.Duration // 1 s
	MaxDelay     time.Duration // 60 s
	Factor       float64       // 2
	MaxAttempts  int           // failed attempts to connect in a row; 0: no limit
	// StableAfter is how long a connection must last to be stable: its loss counts as the first failure again. The
	// default is MaxDelay or twice the keep alive interval, whichever is longer.
	StableAfter time.Duration
	// Decide is called after every failed attempt and every lost connection, by the client's supervisor, without locks
	// held. It returns how long to wait, or an error that ends the client. The client waits for it, so it must not call
	// Close, Disconnect or Reconnect. ctx ends with the client. If Decide is nil, the client ends with f.Err if
	// f.Permanent is set, and otherwise waits for f.Delay.
	Decide func(ctx context.Context, f Failure) (time.Duration, error)
}

// Failure is a failed attempt or a lost connection.
type Failure struct {
	Err       error
	Server    string        // without password
	Attempts  int           // since the last stable connection
	Failed    int           // attempts that failed in a row, without a connection in between
	Down      time.Duration // how long there has been no connection
	Delay     time.Duration // as the policy says, with the random part
	Permanent bool          // trying again cannot help
}

// Permanent wraps an error of a credentials function or an Authenticator, to say that trying again cannot help. Then
// the client ends with this error.
func Permanent(err error) error { return &permanent{err} }

type permanent struct{ err error }

func (e *permanent) Error() string { return e.err.Error() }
func (e *permanent) Unwrap() error { return e.err }

// fill replaces zero fields with the defaults.
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

// decide returns how long to wait before the next attempt, or an error that ends the client. The application decides if
// Decide is set.
func (p *ReconnectPolicy) decide(ctx context.Context, f Failure) (time.Duration, error) {
	switch {
	case p.MaxAttempts > 0 && f.Failed >= p.MaxAttempts:
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
	LastErr error // why the previous attempt or connection failed; nil at the first attempt
	// URL is a copy for this attempt. A user name and password in it are not used: those of NewClient's URL are in
	// Username and Password.
	URL *url.URL
	// TLS is the configuration that the options give, with certificates as the files have them now, for a URL with TLS.
	// It is a copy for this attempt.
	TLS *tls.Config
	// Header is sent with the HTTP request for a WebSocket, for a URL with the scheme ws or wss. It is never nil, and a
	// copy for this attempt.
	Header http.Header
	// Username and Password go into CONNECT, except that an empty one is left out if no option gave one.
	Username, Password string
}

// connectAttempt is an Attempt with the values that the application cannot change.
type connectAttempt struct {
	Attempt
	cleanStart bool
	fresh      bool // no server can have a session of the client
	stranger   bool // but the server had one
	clientID   string
	auth       codec.Auth // the first step of enhanced authentication; its data and user properties go with CONNECT
	sent       bool       // CONNECT was written
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

// askAttempt lets the application's attempt function change an attempt.
func (c *config) askAttempt(ctx context.Context, a *connectAttempt) error {
	to := *a.URL
	err := c.attemptFunc(ctx, &a.Attempt)
	if a.URL == nil {
		a.URL = &to // the error names it
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
	case errors.As(err, &proxy): // the proxy refused, not the server
	case errors.As(err, &upgrade):
		unauthorised := upgrade.StatusCode == http.StatusUnauthorized || upgrade.StatusCode == http.StatusForbidden
		return unauthorised && c.attemptFunc == nil // an attempt function may bring another token
	case errors.As(err, &refused):
		return c.permanentRefusal(refused.Code)
	case errors.As(err, &disconnected) && disconnected.ByServer:
		return disconnected.Code == SessionTakenOver || disconnected.Code == NotAuthorized && !c.freshCredentials()
	}
	return false
}

// permanentRefusal reports whether another attempt would get the same reason code in CONNACK.
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

// freshCredentials reports whether the next attempt may have other credentials.
func (c *config) freshCredentials() bool {
	return c.credentialsFunc != nil || c.attemptFunc != nil || c.authenticator != nil
}

// redirected returns the URL for a Server Reference (section 4.11): the first valid host in it, with the scheme of the
// old URL. It returns nil if there is no valid host.
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

// reconnecting is what calls of Reconnect wait for: the outcome of the next attempt.
type reconnecting struct {
	done chan struct{}
	err  error
}

// attempts is the state of connecting that other parts of the client ask for. The supervisor's own state is in
// supervisor.
type attempts struct {
	*core

	// Guarded by mu.
	up           chan struct{}     // closed while connected, and after the client has ended
	sessions     int               // number of sessions that have begun
	doubtful     bool              // the session that a server has may be another one than ours; see doubt
	reconnecting *reconnecting     // nil: no Reconnect waits
	failed       int               // attempts in a row that failed
	lastErr      error             // of the latest attempt or connection
	farewell     *codec.Disconnect // the options of Disconnect; nil: it was not called
}

func (at *attempts) init(c *core) { at.core, at.up = c, make(chan struct{}) }

// reconnect closes the connection, if there is one, and connects at once.
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

// attemptFailed notes what a failed attempt may have changed at the server, and wakes the calls of Reconnect.
func (at *attempts) attemptFailed(a *connectAttempt, err error) {
	var refused *ConnectError
	at.mu.Lock()
	defer at.mu.Unlock()
	at.failed++
	at.lastErr = err
	if answered := errors.As(err, &refused) && refused.Code.Failed(); a.sent && !answered {
		at.doubtful = true
	}
	at.tellReconnects(err)
}

// tellReconnects wakes the calls of Reconnect with the outcome of an attempt.
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

// noteUp wakes the calls of WaitConnected.
// The caller holds mu.
func (at *attempts) noteUp() {
	select {
	case <-at.up:
	default:
		close(at.up)
	}
}
