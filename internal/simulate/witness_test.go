package simulate_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// published is a message that a client publishes. The publisher's goroutine owns the first fields until the end.
type published struct {
	publisher *publisher
	topic     string
	number    int // on its topic
	qos       mqtt.QoS
	retain    bool
	offline   bool // QueueOffline
	call      int  // in the order of the publisher's calls at QoS 1 and 2
	size      int  // of the payload
	expiry    time.Duration
	began     time.Time
	timeout   time.Duration // of the ctx
	instance  *instance
	delivery  *mqtt.Delivery
	onDisk    bool // accepted by a client with a store
	done      bool
	took      time.Duration // until done
	err       error

	sightings
}

// sightings is what the witness has seen of a message. Its mutex guards them.
type sightings struct {
	seen     int                 // PUBLISHes that came
	then     int                 // how many sessions its client had had when it was published
	known    int                 // QoS 2: the session, as its client knew, in which it came first
	session  int                 // QoS 2: the one at a server in which it came latest
	sessions int                 // QoS 2: how many those are
	mistaken bool                // QoS 2: the server took it for another one
	came     time.Time           // the first PUBLISH
	accepted []span              // in which a server took it
	to       map[string]*passage // by client
}

// span is a time within which something happened at a server.
type span struct {
	from, to time.Time
	server   int
}

// passage is what happened to a message on its way to one client.
type passage struct {
	first  time.Time
	unsure bool // the client may not know that the server has granted all filters for which it comes
	sends  int  // PUBLISHes
	repeat bool // one was at QoS 1
	loose  bool // one was at QoS 0 although the message is not: it may overtake others
	denied bool // the client has refused it once
	acked  []ack
}

// ack is an acknowledgement by a client.
type ack struct {
	filters []string // for which the message came; nil: not known
	sent    time.Time
	at      time.Time
	by      *instance // in use then
}

func (m *published) settle(err error) {
	m.err, m.done, m.took = err, true, time.Since(m.began)
}

func (m *published) String() string { return fmt.Sprintf("%s#%d", m.topic, m.number) }

// payload is the number, and then what makes it as long as it has to be.
func (m *published) payload() []byte {
	b := fmt.Append(nil, m.number, " ")
	return append(b, bytes.Repeat([]byte("x"), m.length()-len(b))...)
}

// length is that of the payload.
func (m *published) length() int { return max(m.size, len(strconv.Itoa(m.number))+1) }

// witness sees every packet at the servers: those of clients before the server acts on them, its own before faults.
type witness struct {
	s  *simulation
	mu sync.Mutex // guards what is below

	topics   map[string][]*published // by topic and number
	order    map[string][]taken      // by topic: as servers got them
	clients  map[string]*acquaintance
	accounts map[accountKey]*account
	numbers  int // how many sessions and beliefs have been numbered
}

// taken is a message, by its number, that a server took.
type taken struct{ number, server int }

// acquaintance is what the witness knows of a client, whichever server it uses.
type acquaintance struct {
	at     int // the server that has welcomed it last
	belief int // the number of the session that it believes to have

	// astray: a server had a session for it that was not the one that it believed to go on with. That session had begun when
	// a CONNACK was lost. No client can tell that from a cluster, whose servers share one session. From then on the client may
	// meet again what it has left behind at a server long ago, so of what it receives little is sure.
	astray bool
}

type accountKey struct {
	server   int
	clientID string
}

// account is what the witness knows of a client at a server.
type account struct {
	session  int      // its number
	sessions int      // how many there have been
	known    int      // the session that the client believes to have here
	welcome  greeting // what the latest CONNACK has said, if the client has yet to show that it knows
	heard    time.Time
	expiry   time.Duration // of the session
	number   int           // of the connection

	asked       map[string]bool      // filters of which a SUBSCRIBE has come in this session
	standing    map[string]*standing // what the server has subscribed, by filter
	left        map[string]time.Time // when the latest UNSUBSCRIBE came, by filter
	renewed     time.Time            // when the latest session began, and the one before was lost
	identifiers map[uint32]string    // filters by subscription identifier

	// On this connection, by packet identifier.
	requests  map[uint16]*openSubscribe
	publishes map[uint16]*arrival
	flights   map[uint16]*passing // in this session
	halves    map[uint16]half     // in this session: PUBLISHes at QoS 2 whose PUBREL has not come

	calls map[*publisher]int // the latest call whose message came for the first time in this session

	clean  bool     // the latest CONNECT asks for Clean Start
	before *account // what was there before the latest CONNECT with Clean Start, if none is accepted yet; otherwise nil
}

// greeting is what a CONNACK says of the session.
type greeting int

const (
	noGreeting greeting = iota
	sessionResumed
	sessionBegun
)

// standing is a subscription that the broker has.
type standing struct {
	since  time.Time
	suback time.Time // the latest one
	on     int       // its connection
	sure   bool      // the client has answered something that came after it
	qos    byte
}

// openSubscribe is a SUBSCRIBE without an answer.
type openSubscribe struct {
	filters []codec.SubscribeFilter
	undone  map[string]bool // by an UNSUBSCRIBE that came after it
}

// arrival is a PUBLISH without an acknowledgement.
type arrival struct {
	message *published
	since   time.Time
}

// half is a message at QoS 2 that the broker would recognise by its packet identifier.
type half struct {
	message *published // nil: unobserved
	by      *instance
}

// passing is a PUBLISH to a client without an acknowledgement.
type passing struct {
	message *published
	qos     byte
	filters []string
	since   time.Time
	latest  time.Time // of the PUBLISHes
}

func newWitness(s *simulation) *witness {
	return &witness{
		s: s, topics: make(map[string][]*published), order: make(map[string][]taken),
		clients: make(map[string]*acquaintance), accounts: make(map[accountKey]*account),
	}
}

// messages returns all that were published.
func (w *witness) messages() (all []*published) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, list := range w.topics {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b *published) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.number, b.number))
	})
	return all
}

// add numbers a message that is about to be published.
func (w *witness) add(m *published) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.number, m.session = len(w.topics[m.topic]), -1
	m.to = make(map[string]*passage)
	m.then = w.sessionsOf(m.publisher.client.id)
	w.topics[m.topic] = append(w.topics[m.topic], m)
}

// find returns the message that a PUBLISH carries.
func (w *witness) find(topic string, payload []byte) *published {
	digits, filling, _ := bytes.Cut(payload, []byte(" "))
	n, err := strconv.Atoi(string(digits))
	list := w.topics[topic]
	if err != nil || n < 0 || n >= len(list) || len(bytes.Trim(filling, "x")) > 0 || len(payload) != list[n].length() {
		return nil
	}
	return list[n]
}

func (w *witness) account(server int, clientID string) *account {
	key := accountKey{server, clientID}
	a := w.accounts[key]
	if a == nil {
		a = &account{identifiers: make(map[uint32]string), calls: make(map[*publisher]int), left: make(map[string]time.Time)}
		w.renew(a)
		w.accounts[key] = a
	}
	return a
}

// client returns what is known of a client.
func (w *witness) client(clientID string) *acquaintance {
	c := w.clients[clientID]
	if c == nil {
		c = &acquaintance{belief: w.number()}
		w.clients[clientID] = c
	}
	return c
}

// at returns the account of a client at the server that has welcomed it last, and that server.
func (w *witness) at(clientID string) (*account, int) {
	server := w.client(clientID).at
	return w.account(server, clientID), server
}

// number returns a number that nothing else has.
func (w *witness) number() int {
	w.numbers++
	return w.numbers
}

// renew forgets what belongs to a session, and gives the next one a number.
func (w *witness) renew(a *account) {
	a.session, a.renewed, a.before = w.number(), time.Now(), nil
	a.asked, a.standing = make(map[string]bool), make(map[string]*standing)
	a.flights = make(map[uint16]*passing)
	a.halves = make(map[uint16]half)
}

// lose notes that a server has lost the session, if there was one: one may have begun without a CONNACK.
func (w *witness) lose(a *account) {
	if !a.heard.IsZero() {
		a.sessions++
	}
	w.renew(a)
}

// forgotten notes that a server is about to lose the session of a client.
func (w *witness) forgotten(server int, clientID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose(w.account(server, clientID))
}

// sessionExpiry is how long the session that a CONNECT asks for lives without a connection.
func sessionExpiry(p *codec.Connect) time.Duration {
	switch {
	case p.Version == codec.V311 && !p.CleanStart:
		return math.MaxInt64
	case p.Properties.SessionExpiry == nil:
		return 0
	}
	return time.Duration(*p.Properties.SessionExpiry) * time.Second
}

// see is the intercept of a server. It loses nothing.
func (w *witness) see(server int, clientID string, outbound bool, packet codec.Packet) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.account(server, clientID)
	if *simulateSeeds == 1 {
		w.s.note(clientID, "%s %d %s", map[bool]string{false: "to server", true: "   from server"}[outbound], server, brief(packet))
	}
	if outbound {
		w.sent(server, clientID, a, packet)
	} else {
		w.came(server, clientID, a, packet)
	}
	a.heard = time.Now()
	return true
}

// came notes a packet of a client.
func (w *witness) came(server int, clientID string, a *account, packet codec.Packet) {
	w.heardOf(clientID, a, packet.Type() != codec.CONNECT)
	switch p := packet.(type) {
	case *codec.Connect:
		a.number++
		for _, st := range a.standing {
			st.sure = false // if a CONNECT before this one was lost, the client may doubt that the session has gone on
		}
		w.connecting(a, p)
		a.expiry = sessionExpiry(p)
		a.requests, a.publishes = make(map[uint16]*openSubscribe), make(map[uint16]*arrival)
	case *codec.Publish:
		w.publishCame(server, clientID, a, p)
	case *codec.Pubrel:
		delete(a.halves, p.PacketID)
	case *codec.Puback:
		w.acknowledged(clientID, a, p.PacketID, p.Code, 1)
	case *codec.Pubrec:
		w.acknowledged(clientID, a, p.PacketID, p.Code, 2)
	case *codec.Subscribe:
		a.requests[p.PacketID] = &openSubscribe{filters: p.Filters, undone: make(map[string]bool)}
		for _, f := range p.Filters {
			a.asked[f.Filter] = true
		}
		if p.SubscriptionIdentifier != 0 {
			a.identifiers[p.SubscriptionIdentifier] = p.Filters[0].Filter
		}
	case *codec.Unsubscribe:
		for _, f := range p.Filters {
			delete(a.standing, f)
			delete(a.asked, f)
			a.left[f] = time.Now()
			for _, q := range a.requests {
				q.undone[f] = true
			}
		}
	}
}

// connecting notes that a CONNECT may end the session, whether or not its CONNACK will come to tell.
func (w *witness) connecting(a *account, p *codec.Connect) {
	a.clean = p.CleanStart
	switch {
	case time.Since(a.heard) >= a.expiry:
		w.lose(a)
	case p.CleanStart:
		before := *a
		w.lose(a)
		a.before = &before
	}
}

// refused notes that a CONNECT has changed nothing.
func (a *account) refused() {
	if b := a.before; a.clean && b != nil {
		a.session, a.sessions, a.expiry, a.renewed = b.session, b.sessions, b.expiry, b.renewed
		a.asked, a.standing, a.flights, a.halves = b.asked, b.standing, b.flights, b.halves
		a.before = b.before
	}
}

// mayStand reports whether a filter may still be subscribed in a session that a CONNECT with Clean Start was to end: a server
// that hangs up, or that loses the CONNECT, keeps it.
func (a *account) mayStand(filter string) bool {
	b := a.before
	return b != nil && (b.standing[filter] != nil || b.mayStand(filter))
}

// heardOf notes what a client knows of its session, as soon as its next packet comes. It has received the CONNACK if that
// packet comes on the same connection, and it may have received it otherwise.
func (w *witness) heardOf(clientID string, a *account, surely bool) {
	if a.welcome == sessionBegun {
		a.calls = make(map[*publisher]int) // in the new session, the client publishes again what was unfinished, from the start
	}
	if surely && a.welcome != noGreeting {
		c := w.client(clientID)
		if a.welcome == sessionBegun {
			c.belief = w.number()
		}
		a.known = c.belief
	}
	a.welcome = noGreeting
}

// sent notes a packet of a server.
func (w *witness) sent(server int, clientID string, a *account, packet codec.Packet) {
	switch p := packet.(type) {
	case *codec.Connack:
		if p.Code == codec.Success {
			w.welcomed(server, clientID, a, p.SessionPresent)
		} else {
			a.refused()
		}
	case *codec.Publish:
		w.publishGoes(clientID, a, p)
	case *codec.Puback:
		a.answered(server, p.PacketID, p.Code)
	case *codec.Pubrec:
		if p.Code.Failed() {
			delete(a.halves, p.PacketID)
		}
		a.answered(server, p.PacketID, p.Code)
	case *codec.Suback:
		a.granted(p)
	}
}

// welcomed notes that a server has accepted a client.
func (w *witness) welcomed(server int, clientID string, a *account, present bool) {
	for key, other := range w.accounts {
		if key.clientID == clientID {
			other.welcome = noGreeting // what still comes from an earlier connection to another server says nothing new
		}
	}
	a.welcome = sessionResumed
	c := w.client(clientID)
	c.at = server
	c.astray = c.astray || present && a.known != c.belief && w.s.network.apart()
	if c.astray {
		w.s.network.servers[server].Restarted(clientID) // do not blame it for what it does not know
	}
	if !present {
		a.welcome = sessionBegun
		a.sessions++
		w.renew(a)
	}
}

// publishCame notes a PUBLISH of a client.
func (w *witness) publishCame(server int, clientID string, a *account, p *codec.Publish) {
	if unobserved(p.Topic) {
		delete(a.publishes, p.PacketID)
		w.mistaken(clientID, a, p, nil)
		return
	}
	m := w.find(p.Topic, p.Payload)
	switch {
	case m == nil:
		w.s.problem("%s publishes what nobody has asked for: %v %.20q", clientID, p.Topic, p.Payload)
		return
	case m.publisher.client.id != clientID || mqtt.QoS(p.QoS) != m.qos:
		w.s.problem("%s publishes %v at QoS %d", clientID, m, p.QoS)
	case !p.Dup && m.qos > 0 && m.call < a.calls[m.publisher]:
		w.s.problem("%v leaves after a later one", m)
	case m.qos == 2 && m.seen > 0 && m.known != a.known:
		w.s.problem("%v is sent again on another session", m)
	}
	if !p.Dup && m.qos > 0 {
		a.calls[m.publisher] = m.call
	}
	w.checkExpiry(m, p)
	now := time.Now()
	m.mistaken = w.mistaken(clientID, a, p, m)
	fresh := !m.mistaken && (m.qos < 2 || m.session != a.session) // not one that the server has already
	if m.seen++; m.seen == 1 {
		m.came = now
	}
	if fresh {
		w.order[m.topic] = append(w.order[m.topic], taken{m.number, server})
	}
	if m.qos == 2 && (fresh || m.mistaken) {
		m.known = a.known
	}
	if m.qos == 2 && fresh {
		m.session = a.session
		m.sessions++
	}
	switch {
	case m.mistaken:
		delete(a.publishes, p.PacketID)
	case m.qos == 1:
		a.publishes[p.PacketID] = &arrival{m, now}
	case m.qos == 2: // the broker takes it once
		a.publishes[p.PacketID] = &arrival{m, m.came}
	}
}

// mistaken reports whether the broker takes a message at QoS 2 for another one, which an earlier client left half done under
// the same packet identifier: whoever asks for the session of that client, without its state, cannot know which were in use.
func (w *witness) mistaken(clientID string, a *account, p *codec.Publish, m *published) bool {
	if p.QoS < 2 {
		return false
	}
	h, known := a.halves[p.PacketID]
	if !known {
		a.halves[p.PacketID] = half{m, w.s.instance(clientID)}
		return false
	}
	if h.message == m {
		return false
	}
	stored := m != nil && m.publisher.client.stored // its clients know which identifiers are in use
	if (h.by == w.s.instance(clientID) || stored) && !w.client(clientID).astray {
		w.s.problem("%s publishes %v under packet identifier %d, which it uses for %v", clientID, m, p.PacketID, h.message)
	}
	return true
}

// checkExpiry checks the seconds that a message says it has left, and that it is not sent for the first time after it has
// expired.
func (w *witness) checkExpiry(m *published, p *codec.Publish) {
	left := p.Properties.MessageExpiry
	waited := time.Since(m.began)
	most := (m.expiry + time.Second - 1).Truncate(time.Second)
	least := max(time.Second, most-waited-time.Second)
	switch {
	case m.expiry == 0 && left == 0:
	case left > most || left < least:
		w.s.problem("%v says that it expires in %v, of %v, %v later", m, left, m.expiry, waited)
	case m.publisher.client.stored: // a message that waits for the store when the connection ends counts as sent
	case !p.Dup && m.then == w.sessionsOf(m.publisher.client.id) && !m.publisher.client.slow.Load() && waited > m.expiry+maxLatency:
		w.s.problem("%v is sent %v after it was published, and expires after %v", m, waited, m.expiry)
	}
}

// answered notes a server's PUBACK or PUBREC.
func (a *account) answered(server int, id uint16, code codec.ReasonCode) {
	in := a.publishes[id]
	if in == nil {
		return
	}
	delete(a.publishes, id)
	if !code.Failed() {
		in.message.accepted = append(in.message.accepted, span{in.since, time.Now(), server})
	}
}

// granted notes a server's SUBACK. A filter that stood before stands on.
func (a *account) granted(p *codec.Suback) {
	q := a.requests[p.PacketID]
	if q == nil {
		return
	}
	delete(a.requests, p.PacketID)
	for i, f := range q.filters {
		if p.Codes[i].Failed() || q.undone[f.Filter] {
			continue
		}
		st := a.standing[f.Filter]
		if st == nil {
			st = &standing{since: time.Now()}
			a.standing[f.Filter] = st
		}
		st.qos, st.suback, st.on = byte(p.Codes[i]), time.Now(), a.number
	}
}

// publishGoes notes a PUBLISH to a client.
func (w *witness) publishGoes(clientID string, a *account, p *codec.Publish) {
	if unobserved(p.Topic) {
		delete(a.flights, p.PacketID)
		return
	}
	m := w.find(p.Topic, p.Payload)
	if m == nil {
		w.s.problem("the broker sends what nobody has published: %v %.20q", p.Topic, p.Payload)
		return
	}
	pass := m.to[clientID]
	if pass == nil {
		pass = &passage{first: time.Now()}
		m.to[clientID] = pass
	}
	pass.unsure = pass.unsure || a.unsureOf(p.Topic)
	pass.sends++
	pass.repeat = pass.repeat || p.QoS == 1
	pass.loose = pass.loose || p.QoS == 0 && m.qos > 0
	if p.QoS == 0 {
		return
	}
	f := &passing{message: m, qos: p.QoS, since: time.Now(), latest: time.Now()}
	for _, id := range p.SubscriptionIdentifiers {
		f.filters = append(f.filters, a.identifiers[id])
	}
	if before := a.flights[p.PacketID]; before != nil && before.message == m && p.Dup {
		f.since = before.since
	}
	a.flights[p.PacketID] = f
}

// unsureOf reports whether the client may not know of a filter for a topic that the server has granted it: its SUBACK may have
// been lost.
func (a *account) unsureOf(name string) bool {
	for filter := range a.asked {
		st := a.standing[filter]
		if (st == nil || !st.sure) && topic.Match(topic.Inner(filter, nil), name) {
			return true
		}
	}
	return false
}

// checkWork checks that a client acknowledges a message only after its listeners have finished their work.
func (w *witness) checkWork(clientID string, f *passing, pass *passage) {
	now := w.s.instance(clientID)
	for _, c := range w.s.clients {
		for _, l := range c.listenersOf(now) {
			if c.id == clientID && l.prematurely(f, pass) {
				w.s.problem("%s: %v is acknowledged before the work is done", l.name, f.message)
			}
		}
	}
}

// acknowledged notes a client's PUBACK or PUBREC.
func (w *witness) acknowledged(clientID string, a *account, id uint16, code codec.ReasonCode, qos byte) {
	f := a.flights[id]
	if f == nil || f.qos != qos {
		return
	}
	delete(a.flights, id)
	for _, st := range a.standing {
		st.sure = st.sure || st.on == a.number && st.suback.Before(f.latest)
	}
	if code.Failed() {
		return
	}
	pass := f.message.to[clientID]
	w.checkWork(clientID, f, pass)
	pass.acked = append(pass.acked, ack{f.filters, f.since, time.Now(), w.s.instance(clientID)})
}
