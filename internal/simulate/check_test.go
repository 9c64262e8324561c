package simulate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// check compares what came with what was promised. Everything has ended.
func (s *simulation) check() {
	s.messages = s.witness.messages()
	for _, m := range s.messages {
		s.checkOutcome(m)
	}
	for _, c := range s.clients {
		for _, l := range c.listeners {
			if l.sub == nil {
				continue
			}
			l.have = make(map[*published]bool)
			for name, got := range l.got {
				for _, r := range got {
					l.have[s.witness.topics[name][r.number]] = true
				}
			}
			l.checkEnd()
			if s.witness.client(c.id).astray {
				continue
			}
			l.checkAcknowledged()
			l.checkTopics()
			if l.survived() {
				l.checkComplete([]*listener{l}, l.since)
				l.checkKept()
			}
		}
		c.checkMortal()
		c.checkReceivedOnce()
		c.checkStanding()
	}
	for _, filter := range []string{sharedFilter, otherSharedFilter} {
		s.checkSharedOnce(filter)
		for _, server := range s.network.servers {
			s.checkShare(server.number, filter)
		}
	}
}

// checkOutcome checks what a publisher was told.
func (s *simulation) checkOutcome(m *published) {
	refused, failed := new(mqtt.PublishError), new(mqtt.StoreError)
	s.checkStored(m)
	switch {
	case m.publisher.client.stored && (m.endedWithClient() || errors.As(m.err, &failed) && m.seen == 0):
	case !m.done:
		if m.delivery != nil {
			s.problem("%v has no outcome", m)
		}
	case m.err == nil:
		if m.qos > 0 && len(m.accepted) == 0 && !m.mistaken {
			s.problem("%v is said to be published, and was not", m)
		}
	case mqtt.SafeToRetry(m.err):
		if m.seen > 0 && !m.sentAfterDeath() {
			s.problem("%v was sent, and is said to be safe to retry: %v", m, m.err)
		}
		if !s.mayBeUnsent(m) {
			s.problem("%v is not sent: %v", m, m.err)
		}
	case errors.As(m.err, &refused):
		if !m.publisher.client.refused.Load() {
			s.problem("%v is refused, by nobody: %v", m, m.err)
		}
	case !errors.Is(m.err, mqtt.ErrOutcomeUnknown) || m.qos == 0 || !s.mayBeUnknown(m):
		s.problem("%v ends with %v", m, m.err)
	}
}

// mayBeUnsent reports whether there is a reason that a message was not sent.
func (s *simulation) mayBeUnsent(m *published) bool {
	local := new(mqtt.PublishError)
	ended := m.instance.Err() != nil && errors.Is(m.err, m.instance.Err())
	switch {
	case errors.Is(m.err, mqtt.ErrExpired):
		return m.expiry > 0
	case errors.As(m.err, &local):
		return local.Local && local.Code == mqtt.PacketTooLarge && s.mayNotTake(m)
	case errors.Is(m.err, mqtt.ErrNotConnected):
		return m.qos == 0 && !m.offline
	case errors.Is(m.err, context.DeadlineExceeded), errors.Is(m.err, mqtt.ErrQueueFull), errors.Is(m.err, mqtt.ErrClosed):
		return true
	}
	return ended || strings.Contains(m.err.Error(), "withdrawn")
}

// mayNotTake reports whether a message may be too large for the servers.
func (s *simulation) mayNotTake(m *published) bool {
	return s.largest > 0 && m.size+len(m.topic) > int(s.largest)-20
}

// mayBeUnknown reports whether there is a reason that the outcome of a message is not known.
func (s *simulation) mayBeUnknown(m *published) bool {
	switch {
	case errors.Is(m.err, mqtt.ErrSessionLost):
		return m.qos == mqtt.ExactlyOnce && s.witness.sessions(m.publisher.client.id) > 1
	case errors.Is(m.err, context.DeadlineExceeded):
		return m.delivery == nil && m.took >= m.timeout
	}
	return m.instance != m.publisher.client.current() // it has ended with that client
}

// lookUp is find for everybody.
func (w *witness) lookUp(topic string, payload []byte) *published {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.find(topic, payload)
}

// denied notes that a client is about to refuse a message. It may come again if nobody hears of that.
func (w *witness) denied(clientID string, m mqtt.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.find(m.Topic, m.Payload).to[clientID]; p != nil {
		p.denied = true
	}
}

// copies returns how often a message may have been taken by the broker.
func (w *witness) copies(m *published) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.qos == mqtt.ExactlyOnce {
		return m.sessions
	}
	return m.seen
}

// sessions returns how many sessions a client has had.
func (w *witness) sessions(clientID string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sessionsOf(clientID)
}

func (w *witness) sessionsOf(clientID string) (all int) {
	for key, a := range w.accounts {
		if key.clientID == clientID {
			all += a.sessions
		}
	}
	return all
}

// survived reports whether the subscription lived until the end.
func (l *listener) survived() bool {
	return l.left.IsZero() && l.instance == l.client.current() && errors.Is(l.sub.Err(), mqtt.ErrClosed)
}

// checkEnd checks why the subscription has ended.
func (l *listener) checkEnd() {
	refused := new(mqtt.SubscribeError)
	err := l.sub.Err()
	switch {
	case err == nil && !l.left.IsZero():
	case err != nil && errors.Is(err, l.instance.Err()) && l.instance.Err() != nil:
	case errors.Is(err, mqtt.ErrSlowConsumer) && l.mayBeSlow():
	case errors.As(err, &refused) && l.client.refused.Load():
	default:
		l.problem("ends with %v", err)
	}
}

func (l *listener) problem(format string, args ...any) {
	l.client.s.t.Helper()
	l.client.s.problem("%s: "+format, append([]any{l.name}, args...)...)
}

// matches reports whether the subscription is for a topic.
func (l *listener) matches(name string) bool {
	return slices.ContainsFunc(l.filters, func(f string) bool { return topic.Match(topic.Inner(f, nil), name) })
}

// has reports whether the subscription got a message.
func (l *listener) has(m *published) bool {
	return l.have[m]
}

// checkAcknowledged checks that what the client has acknowledged was delivered, or counted as dropped: of messages that came
// and were published while the subscription stood. Where it has several filters, nobody knows by which copy it took a message.
func (l *listener) checkAcknowledged() {
	if l.qos == 0 || len(l.filters) > 1 {
		return
	}
	var missing []*published
	for _, m := range l.client.s.messages {
		if m.qos > 0 && !m.retain && m.came.After(l.since) && l.matches(m.topic) && !l.has(m) && slices.ContainsFunc(m.passage(l.client).acked, l.mustHave) {
			missing = append(missing, m)
		}
	}
	if len(missing) > int(l.sub.Dropped()) {
		l.problem("%v were acknowledged and not delivered, %d dropped", missing, l.sub.Dropped())
	}
}

// mustHave reports whether a message with this acknowledgement was for the subscription.
func (l *listener) mustHave(a ack) bool {
	return a.sent.After(l.since) && (l.left.IsZero() || a.at.Before(l.left)) && a.at.Before(l.ended) && a.by == l.instance &&
		(a.filters == nil || slices.Contains(a.filters, l.filters[0]))
}

// passage is what happened to m on its way to a client.
func (m *published) passage(c *simulated) *passage {
	if p := m.to[c.id]; p != nil {
		return p
	}
	return new(passage)
}

// checkComplete checks that nothing is missing that the broker took after the subscription began, in the last session: all
// must have it together.
func (l *listener) checkComplete(all []*listener, since time.Time) {
	if l.qos == 0 {
		return
	}
	var missing []*published
	for _, m := range l.client.s.messages {
		if m.qos > 0 && m.expiry == 0 && l.wanted(m, since) && !slices.ContainsFunc(all, func(l *listener) bool { return l.has(m) }) {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		l.problem("%v are lost", missing)
	}
}

// wanted reports whether the server that the client uses in the end has taken a message for the subscription after since. Of
// a shared subscription it is only one of several that get the message: see checkShares.
func (l *listener) wanted(m *published, since time.Time) bool {
	if l.client.mayNotTake(m) {
		return false
	}
	account, server := l.client.s.witness.at(l.client.id)
	for _, f := range l.filters {
		st := account.standing[f]
		if st != nil && !topic.Shared(f) && topic.Match(f, m.topic) && m.wasAccepted(server, st.since, since) {
			return true
		}
	}
	return false
}

// mayNotTake reports whether a message may be too large for the client.
func (c *simulated) mayNotTake(m *published) bool {
	return c.largest > 0 && m.size+len(m.topic)+50 > c.largest
}

// wasAccepted reports whether a server has taken a message after two moments.
func (m *published) wasAccepted(server int, after, since time.Time) bool {
	return slices.ContainsFunc(m.accepted, func(a span) bool {
		return a.server == server && a.from.After(after) && a.from.After(since)
	})
}

// checkMortal checks that the subscriptions of all clients of a mortal together lost nothing.
func (c *simulated) checkMortal() {
	if !c.mortal {
		return
	}
	var all []*listener
	for _, l := range c.listeners {
		if l.sub == nil {
			continue
		}
		if l.failed() {
			return // in the middle of its client's life: what came then was nobody's
		}
		all = append(all, l)
	}
	if last := all[len(all)-1]; last.survived() {
		last.checkComplete(all, c.s.began)
	}
}

// failed reports whether the subscription has ended although nobody wanted that.
func (l *listener) failed() bool {
	refused := new(mqtt.SubscribeError)
	return errors.As(l.sub.Err(), &refused) || errors.Is(l.sub.Err(), mqtt.ErrSlowConsumer)
}

// checkStanding checks that the broker has those filters that somebody has subscribed to, at no less than the QoS, and no
// others.
func (c *simulated) checkStanding() {
	wanted := make(map[string]mqtt.QoS)
	for _, l := range c.listeners {
		if l.sub == nil || !l.survived() {
			continue
		}
		for _, f := range l.filters {
			wanted[f] = max(wanted[f], l.qos)
		}
	}
	account, _ := c.s.witness.at(c.id)
	standing := account.standing
	for f, qos := range wanted {
		if st := standing[f]; st == nil || mqtt.QoS(st.qos) < qos {
			c.s.problem("%s has subscribed to %q at %v, and the server has %+v", c.id, f, qos, st)
		}
	}
	for f := range standing {
		if _, ok := wanted[f]; !ok && !c.mortal && !unobserved(f) && !c.s.witness.client(c.id).astray {
			c.s.problem("%s has left %q, and the server has it still", c.id, f)
		}
	}
}

// checkKept checks that the last that a subscription got of a retained message is the last that the broker took: whatever
// came in between.
func (l *listener) checkKept() {
	if l.qos == 0 {
		return
	}
	w := l.client.s.witness
	_, server := w.at(l.client.id)
	for name := range w.order {
		last, any := w.lastAt(server, name)
		if !any || !strings.HasPrefix(name, "kept/") || !l.matches(name) {
			continue
		}
		all := w.topics[name]
		unsure := len(all[last].accepted) == 0 || all[last].publisher.client.denied.Load()
		// Without identifiers nobody can tell for whom of several subscriptions to a filter a retained message comes.
		if unsure || !l.client.told() && !l.wanted(all[last], l.since) {
			continue
		}
		got := l.got[name]
		for i := len(got) - 1; i > 0; i-- {
			if !got[i].duplicate { // what comes after it may be older, sent again
				got = got[i:]
				break
			}
		}
		if !slices.ContainsFunc(got, func(r receipt) bool { return r.number == last }) {
			l.problem("the last of %s is %d, got %v", name, last, l.got[name])
		}
	}
}

// lastAt returns the number of the last message on a topic that a server took, if there is any.
func (w *witness) lastAt(server int, name string) (number int, any bool) {
	for _, t := range slices.Backward(w.order[name]) {
		if t.server == server {
			return t.number, true
		}
	}
	return 0, false
}

// checkTopics checks order and number of the messages of each topic.
func (l *listener) checkTopics() {
	if !l.client.exact {
		return
	}
	for name, got := range l.got {
		if strings.HasPrefix(name, "kept/") {
			continue
		}
		l.checkNumber(name, got)
		if l.qos > 0 || strings.HasSuffix(name, "q0") {
			l.checkOrder(name, got)
		}
	}
}

// checkNumber checks that no message came too often: not at QoS 2 and 0; at QoS 1 not more often than it was sent.
func (l *listener) checkNumber(name string, got []receipt) {
	w := l.client.s.witness
	if w.topics[name][0].publisher.client.denied.Load() { // a message may be refused after it was taken
		return
	}
	came := make(map[int]int)
	for _, r := range got {
		came[r.number]++
	}
	for n, times := range came {
		m := w.topics[name][n]
		most := w.copies(m)
		if p := m.passage(l.client); p.repeat || p.denied {
			most = p.sends
		}
		if times > most && !l.mayComeTwice(m) {
			l.problem("%v comes %d times, and may come %d times: %v", m, times, most, got)
		}
	}
}

// mayComeTwice reports whether a message was sent before the client knew that the server had granted all filters of the
// subscription: the SUBACK may have been lost. The message comes for one filter, and the client cannot know that it will come
// for another one as well.
func (l *listener) mayComeTwice(m *published) bool {
	w := l.client.s.witness
	w.mu.Lock()
	defer w.mu.Unlock()
	p := m.passage(l.client)
	return len(l.filters) > 1 && (p.unsure || !p.first.After(l.since))
}

// told reports whether the client is told for which filter a message comes.
func (c *simulated) told() bool { return c.s.identifiers && c.version == codec.V5 }

// checkOrder checks that messages came in the order in which the broker got them. One that it has refused may be taken
// later, if its publisher did not hear of the refusal.
func (l *listener) checkOrder(name string, got []receipt) {
	w := l.client.s.witness
	order := w.order[name]
	if w.topics[name][0].publisher.client.denied.Load() {
		return
	}
	for i, r := range l.withoutRepeats(name) {
		if w.topics[name][r.number].passage(l.client).loose {
			continue
		}
		next := slices.IndexFunc(order, func(t taken) bool { return t.number == r.number })
		if next < 0 {
			l.problem("%s comes out of order at %d: %v of %v", name, i, got, w.order[name])
			return
		}
		order = order[next+1:]
	}
}

// withoutRepeats leaves out what the server sent again although it had come, or had gone to others before the subscription
// began: that may come at any time.
func (l *listener) withoutRepeats(name string) (first []receipt) {
	seen := make(map[int]bool)
	for _, r := range l.got[name] {
		m := l.client.s.witness.topics[name][r.number]
		switch began := m.passage(l.client).first; {
		case seen[r.number] && l.mayComeTwice(m):
		case !r.duplicate || !seen[r.number] && began.After(l.asked):
			first = append(first, r)
		}
		seen[r.number] = true
	}
	return first
}
