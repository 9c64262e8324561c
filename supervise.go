package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"slices"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/link"
	"github.com/petrel-mqtt/mqtt/transport"
)

// supervisor makes a client's connections, one after another. Only the supervisor's goroutine uses its fields. There is
// one such goroutine at a time: one that connects, and then another one that attends to the connection.
type supervisor struct {
	client    *client
	first     *firstConnect // nil when no NewClient waits
	servers   []*url.URL
	next      int        // index of the server to try
	redirect  *url.URL   // a server to try once instead
	tried     *url.URL   // in the latest attempt
	served    []visit    // the latest visit to each address
	latest    string     // address of the latest connection; "": there has been none
	redirects int        // followed since the last stable connection
	attempts  int        // to connect, since the last stable connection
	failures  int        // of attempts and connections, since the last stable connection
	failed    int        // attempts in a row that failed
	original  []*url.URL // the servers that the application named
	known     bool       // a CONNECT was sent: a server may have a session of this client
	stranger  bool       // a server has somebody else's session under our client identifier
	down      time.Time  // when the latest connection ended
	lastErr   error      // of the latest attempt or connection
	blamed    bool       // the latest connection may have been lost over a SUBSCRIBE
	relieved  bool       // what the latest connections were lost over was given up with the latest
	silent    int        // unstable connections in a row that the server closed without DISCONNECT
}

// firstConnect is a NewClient call that waits for the first connection.
type firstConnect struct {
	ctx     context.Context // of the caller; bounds connecting
	outcome chan<- error    // capacity 1
}

// maxRedirects bounds the redirects that are followed in a row.
const maxRedirects = 5

// run is the supervisor while there is no connection. It tries to connect until there is a connection or the client
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
	// Dialling makes the stack of this goroutine large, and it would stay larger than a new one.
	s.client.goroutines.Go(s.attend)
}

// attend is the supervisor while there is a connection.
func (s *supervisor) attend() {
	if s.continueAfter(s.serve()) {
		s.run()
	}
}

// continueAfter handles a failed attempt or a lost connection, and waits before the next attempt. It reports false if
// the client has ended.
func (s *supervisor) continueAfter(err error) bool {
	s.lastErr = err
	end := s.handleFailure(err)
	if end != nil {
		s.endClient(end)
	}
	return end == nil
}

// endClient ends the client with an error, and tells a NewClient that waits.
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
	s.blamed, s.relieved = false, false
	c.notices.setState(StateConnecting)
	a := s.newAttempt(to)
	c.notices.traceConnectStart(transport.Redact(a.URL), a.Number)
	l, ack, err := c.dial(ctx, a, s.prepare)
	s.tried = a.URL
	c.notices.traceConnectDone(transport.Redact(a.URL), a.Number, err)
	s.known = s.known || a.sent
	if err != nil {
		s.next++
		s.failed++
		s.stranger = s.stranger || a.stranger
		c.attempts.attemptFailed(a, err)
		s.returnToOriginal()
		return err
	}
	s.logConnected(a)
	s.failed = 0
	if c.journal != nil && !ack.SessionPresent {
		if err := s.renewStore(ctx, l, ack); err != nil {
			l.Close(err)
			l.Wait()
			return err
		}
	}
	c.auth.scheduleRenewal() // before attach, after which re-authentication is possible: calls of the Authenticator must not overlap
	at := address(a.URL)
	if s.latest != "" && s.latest != at {
		c.attempts.doubt()
	}
	s.note(visit{at, c.attach(l, ack)})
	s.latest = at
	return nil
}

// renewStore has the end of the old session written, and keeps the connection alive meanwhile. Whether the connection has ended is
// noticed when its reader starts: the new session has begun at the server anyway, and that must be known here.
// [MQTT-3.1.2-20] [MQTT311-3.1.2-23]
func (s *supervisor) renewStore(ctx context.Context, l *link.Link, ack *codec.Connack) error {
	c := s.client
	packet, err := (&codec.Pingreq{}).Append(nil, c.version)
	if err != nil {
		panic(err) // a PINGREQ has no content that could be wrong
	}
	interval := c.config.pingAfter(c.config.connAck(ack, "").KeepAlive)
	return c.outbox.renewStore(ctx, interval, func() { _ = l.Write(packet) })
}

// prepare completes an attempt. It decides about Clean Start last, because the application may change the URL.
func (s *supervisor) prepare(ctx context.Context, a *connectAttempt) error {
	if err := s.client.config.completeAttempt(ctx, a); err != nil {
		return err
	}
	a.cleanStart = s.cleanStart(a.URL)
	a.fresh = s.client.config.invented && !s.known
	return nil
}

// logConnected tells the logger that there is a connection.
func (s *supervisor) logConnected(a *connectAttempt) {
	n := &s.client.notices
	if s.latest == "" {
		n.report(slog.LevelInfo, "mqtt: connected", "server", transport.Redact(a.URL))
	} else {
		n.report(slog.LevelInfo, "mqtt: connected again", "server", transport.Redact(a.URL),
			"after", time.Since(s.down), "attempts", s.failed+1)
	}
}

// movedPatience is how many attempts in a row may fail at a server that another one has named for good.
const movedPatience = 5

// returnToOriginal tries the servers that the application named again, when the one that took their place cannot be
// reached.
func (s *supervisor) returnToOriginal() {
	if s.failed%movedPatience == 0 {
		s.servers, s.next = s.original, 0
	}
}

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

// cleanStart decides whether CONNECT asks for a new session. At the first connect the application's option says so.
// Later a new session is asked for only if the session cannot be continued at that server, or must not be.
// [MQTT-3.1.2-4] [MQTT311-3.1.2-6]
func (s *supervisor) cleanStart(to *url.URL) bool {
	c := s.client
	current := c.attempts.sessionNumber()
	switch {
	case current == 0 && c.config.invented:
		return s.stranger
	case current == 0 || c.version < codec.V5 && c.config.cleanStart:
		return c.config.cleanStart
	case c.version >= codec.V5 && c.config.sessionExpiry == 0:
		return true
	}
	// If a newer session began at another server, this one may have kept an older session, whose packet identifiers
	// would make it discard new messages as repeated ones.
	i := s.visited(address(to))
	return i >= 0 && s.served[i].session != current
}

// visit is a connection to a server, and the number of the session that it served.
type visit struct {
	address string
	session int
}

// visited returns the index of the visit to an address, or -1.
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

// serve attends to the connection until it has ended, and returns why it ended.
func (s *supervisor) serve() error {
	c := s.client
	l := c.currentLink()
	began := time.Now()
	s.watch(l)
	cause := l.Wait()
	s.down = time.Now()
	err := c.connectionError(cause)
	s.relieved = c.detach(err)
	c.auth.awaitAuth()
	s.blamed = c.inbox.subscribeBlamed()
	s.noteDuration(s.down.Sub(began), cause)
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

// watch does what has to be done during a connection. It returns when the connection has ended or is about to.
func (s *supervisor) watch(l *link.Link) {
	c := s.client
	closing, stop := c.inbox.parkingClosed()
	defer stop()
	var look alarm
	defer look.stop()
	look.set(c.inbox.checkStalls()) // a message of an earlier connection may hold up the others
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

// alarm is a timer that is made when it is first set, because most are never set.
type alarm struct {
	timer *time.Timer
	due   <-chan time.Time
}

// set makes the alarm go off after d; 0 means never.
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

// noteDuration notes how long a connection lasted. After a stable connection the backoff starts again from the
// beginning.
func (s *supervisor) noteDuration(lasted time.Duration, cause error) {
	switch {
	case lasted >= s.client.stableAfter():
		s.attempts, s.failures, s.redirects, s.silent = 0, 0, 0, 0
	case s.blamed, s.relieved, s.seeking():
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

// backoff is the number of failures that decides about the next delay. While the client finds out which message the server
// fails over, the delays do not grow: the other messages wait behind it. When that message, or a filter, is given up, the
// next delay is a first one too, because the reason of the losses has probably gone. It is only one: if the next connection
// fails as well, the delays go on where they were.
func (s *supervisor) backoff() int {
	if s.relieved || s.seeking() {
		return 1
	}
	return s.failures
}

// seeking reports whether the client is finding out which message the server fails over. It does that for one message since
// the last stable connection, because a server may as well fail for another reason.
func (s *supervisor) seeking() bool {
	return s.failures <= s.client.config.poisonLimit+1 && s.client.outbox.suspects()
}

// suspectTakeover is a number of short connections in a row, all closed by the server without DISCONNECT. After so
// many, a second client probably uses the same client identifier.
const suspectTakeover = 5

// handleFailure decides what follows a failed attempt or a lost connection, and waits if the decision is to wait. It
// returns an error if the client must end.
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
		Failed:    s.failed,
		Down:      time.Since(s.down),
		Delay:     c.config.reconnect.delay(s.backoff()),
		Permanent: c.config.permanent(err) && !(s.blamed && errors.Is(err, NotAuthorized)),
	}
	if s.silent >= suspectTakeover {
		f.Delay = c.config.reconnect.MaxDelay
		c.notices.report(slog.LevelWarn, "mqtt: the server keeps closing the connection; does another client use this client identifier?",
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
	c.notices.report(slog.LevelInfo, "mqtt: connecting again", "after", delay, "because", f.Err)
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

// followRedirect reports whether the server asked to use another server (section 4.11), which is then the next to be
// tried. Reason code 0x9C counts for one attempt, 0x9D until the client ends. Scheme and TLS options stay the same.
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

// redirection returns the Server Reference of a CONNACK or DISCONNECT that asks the client to use another server.
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
