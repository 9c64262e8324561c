package mqtt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/transport"
)

// supervisor makes a client's connections, one after another. All of it belongs to the supervisor's goroutine: one that
// connects, and then another one that attends to the connection.
type supervisor struct {
	client    *client
	first     *firstConnect // nil once that is over, or when nobody waits for it
	servers   []*url.URL
	next      int       // index of the server to try
	redirect  *url.URL  // to try instead, once
	tried     *url.URL  // by the latest attempt
	served    []visit   // the latest to each address
	latest    string    // address of the latest connection; "": there has been none
	redirects int       // followed since the last stable connection
	attempts  int       // to connect, since the last stable connection
	failures  int       // of attempts and connections, since the last stable connection
	down      time.Time // since when there has been no connection
	lastErr   error     // of the latest attempt or connection
	silent    int       // unstable connections in a row that ended without a word
}

// firstConnect is a NewClient that waits.
type firstConnect struct {
	ctx     context.Context // of its caller; bounds the connect
	outcome chan<- error    // capacity 1
}

// maxRedirects is how many redirects in a row are followed.
const maxRedirects = 5

// run is the supervisor while there is no connection: it connects, again and again, until there is one or the client
// ends.
func (s *supervisor) run() {
	for {
		err := s.connect()
		if err == nil {
			break
		}
		if !s.continueAfter(err) {
			return
		}
	}
	if s.first != nil {
		s.first.outcome <- nil
		s.first = nil
	}
	// Dialling takes a large stack, which would never shrink as far as a new one is small.
	s.client.goroutines.Go(s.attend)
}

// attend is the supervisor while there is a connection.
func (s *supervisor) attend() {
	if s.continueAfter(s.serve()) {
		s.run()
	}
}

// continueAfter decides, and waits if need be, after a failed attempt or a lost connection. It reports false when the client has
// ended.
func (s *supervisor) continueAfter(err error) bool {
	s.lastErr = err
	end := s.handleFailure(err)
	if end != nil {
		s.endClient(end)
	}
	return end == nil
}

// endClient ends the client.
func (s *supervisor) endClient(err error) {
	if s.first == nil {
		s.client.shutDown(err)
		return
	}
	if ended := s.first.ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = fmt.Errorf("%w: %w", err, ended)
	}
	s.client.shutDown(err)
	s.first.outcome <- err
}

// connect makes one attempt.
func (s *supervisor) connect() error {
	c := s.client
	ctx := c.ctx
	if s.first != nil {
		ctx = s.first.ctx
	}
	to := s.servers[s.next%len(s.servers)]
	if s.redirect != nil {
		to, s.redirect = s.redirect, nil
	}
	s.attempts++
	c.notices.setState(StateConnecting)
	a := s.newAttempt(to)
	c.notices.traceConnectStart(transport.Redact(a.URL), a.Number)
	l, ack, err := c.dial(ctx, a, s.prepare)
	s.tried = a.URL
	c.notices.traceConnectDone(transport.Redact(a.URL), a.Number, err)
	if err != nil {
		s.next++
		c.attempts.attemptFailed(a, err)
		return err
	}
	c.auth.scheduleRenewal() // before anybody can re-authenticate: calls of the Authenticator do not overlap
	at := address(a.URL)
	if s.latest != "" && s.latest != at {
		c.attempts.doubt()
	}
	s.note(visit{at, c.attach(l, ack)})
	s.latest = at
	return nil
}

// prepare completes an attempt, once it is known where it goes.
func (s *supervisor) prepare(ctx context.Context, a *connectAttempt) error {
	if err := s.client.config.completeAttempt(ctx, a); err != nil {
		return err
	}
	a.cleanStart = s.cleanStart(a.URL)
	return nil
}

// address tells servers apart.
func address(u *url.URL) string { return u.Host + u.Path }

// newAttempt describes the next attempt.
func (s *supervisor) newAttempt(to *url.URL) *connectAttempt {
	c := s.client
	u := *to
	return &connectAttempt{
		Attempt: Attempt{
			Number:   s.attempts,
			LastErr:  s.lastErr,
			URL:      &u,
			Username: c.config.username,
			Password: c.config.password,
		},
		clientID: c.ClientID(),
	}
}

// cleanStart decides whether the server is to begin a new session: as the application said at the first connect, later
// only if the session cannot be continued there, or must not be.
// [MQTT-3.1.2-4] [MQTT311-3.1.2-6]
func (s *supervisor) cleanStart(to *url.URL) bool {
	c := s.client
	current := c.attempts.sessionNumber()
	switch {
	case current == 0 || c.version < codec.V5 && c.config.cleanStart:
		return c.config.cleanStart
	case c.version >= codec.V5 && c.config.sessionExpiry == 0:
		return true
	}
	// A newer session began elsewhere: what this server has kept of an older one would swallow new messages.
	i := s.visited(address(to))
	return i >= 0 && s.served[i].session != current
}

// visit is a connection to a server, and the number of the session that it served.
type visit struct {
	address string
	session int
}

// visited returns the place of the visit to an address, or -1.
func (s *supervisor) visited(address string) int {
	return slices.IndexFunc(s.served, func(v visit) bool { return v.address == address })
}

func (s *supervisor) note(v visit) {
	if i := s.visited(v.address); i >= 0 {
		s.served[i] = v
	} else {
		s.served = append(s.served, v)
	}
}

// serve waits for the end of the connection, and returns why it ended.
func (s *supervisor) serve() error {
	c := s.client
	l := c.currentLink()
	began := time.Now()
	s.watch(l)
	cause := l.Wait()
	s.down = time.Now()
	err := c.connectionError(cause)
	c.detach(err)
	c.auth.awaitAuth()
	s.noteDuration(s.down.Sub(began), cause)
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

// watch returns when the connection is of no more use.
func (s *supervisor) watch(l *link.Link) {
	c := s.client
	closing, stop := c.inbox.parkingClosed()
	defer stop()
	var look alarm
	defer look.stop()
	look.set(c.inbox.checkStalls()) // what waits may be of an earlier connection
	for {
		select {
		case <-l.Ended():
			return
		case <-c.ctx.Done():
			c.sendDisconnect(l, true)
			return
		case <-c.attention:
			if c.attempts.reconnectWanted() {
				c.sendDisconnect(l, false)
				return
			}
			look.set(c.inbox.checkStalls())
		case <-closing:
			c.inbox.closeParking()
		case <-c.auth.renewalDue():
			c.auth.renew()
		case <-look.due:
			look.set(c.inbox.checkStalls())
		}
	}
}

// never is a duration after which nothing happens.
const never = time.Duration(math.MaxInt64)

// alarm is a timer that exists from the first time it is set: most never are.
type alarm struct {
	timer *time.Timer
	due   <-chan time.Time
}

// set lets the alarm go off after d, never if that is 0.
func (a *alarm) set(d time.Duration) {
	switch {
	case d == 0:
		a.stop()
	case a.timer == nil:
		a.timer = time.NewTimer(d)
		a.due = a.timer.C
	default:
		a.timer.Reset(d)
	}
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// noteDuration notes how long a connection lasted: only after a stable one does the backoff begin anew.
func (s *supervisor) noteDuration(lasted time.Duration, cause error) {
	switch {
	case lasted >= s.client.stableAfter():
		s.attempts, s.failures, s.redirects, s.silent = 0, 0, 0, 0
	case errors.Is(cause, link.ErrServerClosed):
		s.silent++
	default:
		s.silent = 0
	}
}

// stableAfter is how long a connection must last to count as stable.
func (c *client) stableAfter() time.Duration {
	if d := c.config.reconnect.StableAfter; d != 0 {
		return d
	}
	return max(c.config.reconnect.MaxDelay, 2*c.config.keepAlive)
}

// suspectTakeover is how many short connections in a row that end without a word look like a second client with our
// identifier.
const suspectTakeover = 5

// handleFailure decides what follows a failed attempt or a lost connection, and waits where it decides to wait. An error ends
// the client.
func (s *supervisor) handleFailure(err error) error {
	c := s.client
	switch {
	case c.ctx.Err() != nil:
		return ErrClosed
	case c.attempts.reconnectWanted():
		return nil
	case c.config.withoutReconnect && s.first == nil:
		return err
	case s.followRedirect(err):
		return nil
	case s.first != nil && (s.first.ctx.Err() != nil || !c.config.connectRetry):
		return err
	}
	s.failures++
	f := Failure{
		Err:       err,
		Server:    transport.Redact(s.tried),
		Attempts:  s.attempts,
		Down:      time.Since(s.down),
		Delay:     c.config.reconnect.delay(s.failures),
		Permanent: c.config.permanent(err),
	}
	if s.silent >= suspectTakeover {
		f.Delay = c.config.reconnect.MaxDelay
		c.config.logger.Warn("mqtt: the server keeps closing the connection; does another client use this client identifier?",
			"client", c.ClientID(), "connections", s.silent)
	}
	delay, err := c.config.reconnect.decide(c.ctx, f)
	switch {
	case c.ctx.Err() != nil:
		return ErrClosed
	case err != nil:
		return err
	}
	c.notices.traceRetrying(f, delay)
	c.config.logger.Info("mqtt: connecting again", "after", delay, "because", f.Err)
	return s.pause(delay, f.Err)
}

// pause waits before the next attempt.
func (s *supervisor) pause(delay time.Duration, err error) error {
	c := s.client
	c.notices.setState(StateWaiting)
	var ended <-chan struct{}
	if s.first != nil {
		ended = s.first.ctx.Done()
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for !c.attempts.reconnectWanted() {
		select {
		case <-timer.C:
			return nil
		case <-c.attention:
		case <-c.ctx.Done():
			return ErrClosed
		case <-ended:
			return err
		}
	}
	return nil
}

// followRedirect takes a server's word that another one should be used (section 4.11). 0x9C holds for one attempt, 0x9D until
// the client ends. Scheme and TLS stay as they are.
// [MQTT-4.11]
func (s *supervisor) followRedirect(err error) bool {
	reference, code := redirection(err)
	if reference == "" || s.client.config.noRedirect || s.redirects == maxRedirects {
		return false
	}
	to := redirected(s.tried, reference)
	if to == nil {
		return false
	}
	s.redirects++
	if code == ServerMoved {
		s.servers, s.next = []*url.URL{to}, 0
	} else {
		s.redirect = to
	}
	return true
}

// redirection returns the Server Reference of a refusal or a DISCONNECT that asks to go elsewhere.
func redirection(err error) (reference string, code ReasonCode) {
	var refused *ConnectError
	var disconnected *DisconnectError
	switch {
	case errors.As(err, &refused):
		reference, code = refused.ServerReference, refused.Code
	case errors.As(err, &disconnected) && disconnected.ByServer:
		reference, code = disconnected.ServerReference, disconnected.Code
	}
	if code != UseAnotherServer && code != ServerMoved {
		return "", 0
	}
	return reference, code
}
