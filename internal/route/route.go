// Package route knows which subscriptions a message is for, and what is known of their topic filters at the server.
//
// It is a state machine and nothing else, like package session: it does no I/O, starts no goroutine, reads no clock and
// takes no lock. Its owner says what was sent and what has come, and calls one method at a time.
package route

import (
	"cmp"
	"slices"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// MaxIdentifier is the largest subscription identifier (section 3.8.2.1.2).
const MaxIdentifier = 268_435_455

// Router has the routes of a client.
type Router struct {
	prefixes   []string
	routes     map[string]*Route // by filter, as subscribed
	index      topic.Index[*Route]
	identifier uint32    // the latest subscription identifier given out
	sent       uint64    // counts SUBSCRIBEs
	joined     uint64    // counts holds
	doubted    uint64    // up to this SUBSCRIBE all were sent before a CONNECT without an answer; 0: nothing is in doubt
	targets    []Target  // of the message at hand
	retired    []retired // the latest identifiers of routes that are gone
	generation uint64    // counts changes, so that what was looked up before notices
}

// retired is the subscription identifier of a route that is gone.
type retired struct {
	identifier uint32
	filter     string
}

// New returns a Router without routes. Topics match a filter without these prefixes, see topic.Inner.
func New(prefixes []string) *Router {
	return &Router{prefixes: prefixes, routes: make(map[string]*Route)}
}

// Options are what the server gets to know of a subscription, besides filter and QoS.
type Options struct {
	NoLocal           bool
	RetainAsPublished bool
}

// Route is one topic filter that is subscribed at the server, once, however many subscriptions hold it: a second
// SUBSCRIBE would replace the first.
type Route struct {
	filter     string
	inner      string // what topics are matched against
	shared     bool   // the server sends only some of the messages that match
	options    Options
	holds      []hold // in the order of joining, with gaps where holders have left
	gaps       int
	asked      [3]int // how many holders ask for a QoS
	wanted     int    // holders that are not about to leave
	standing   standing
	granted    byte         // QoS, to the latest SUBSCRIBE that was granted
	subscribes []*Subscribe // the latest SUBSCRIBEs of the filter that were not refused, oldest first
	undone     uint64       // up to this SUBSCRIBE all were sent before the latest UNSUBSCRIBE
	lowered    uint64       // up to this SUBSCRIBE all were sent before the latest Lower
}

// hold is a holder's part in a route.
type hold struct {
	holder *Holder // nil: a gap
	qos    byte    // asked for; a message's own may be lower
	number uint64  // in the order of joining
}

// Holder is a subscription: it holds the routes of its filters, and messages go to it. Owner and Options do not change.
type Holder struct {
	Owner   any
	Options Options

	routes []*Route
	holds  []hold // as routes
	phase  phase
}

// phase is how far a subscription has come.
type phase uint8

const (
	waiting phase = iota // for the server's first answer
	holding
	leaving // about to be unsubscribed, while messages for it are still taken
)

// Routes returns the routes that h holds, in the order of Join. They are the Holder's.
func (h *Holder) Routes() []*Route { return h.routes }

// Settle notes that h waits no longer for the answer to its first SUBSCRIBEs.
func (h *Holder) Settle() {
	if h.phase == waiting {
		h.phase = holding
	}
}

// Join makes h, which is not leaving, a holder of a filter that it does not hold yet, for messages up to a QoS. It reports false if others hold the
// filter with other Options, which all holders have in common.
// [MQTT-3.8.4-3] [MQTT311-3.8.4-3]
func (r *Router) Join(h *Holder, filter string, qos byte) bool {
	rt := r.routes[filter]
	switch {
	case rt == nil:
		rt = r.add(filter, h.Options)
	case rt.options != h.Options:
		return false
	}
	r.joined++
	part := hold{h, qos, r.joined}
	rt.holds = append(rt.holds, part)
	rt.asked[qos]++
	rt.wanted++
	h.routes, h.holds = append(h.routes, rt), append(h.holds, part)
	r.generation++
	return true
}

func (r *Router) add(filter string, o Options) *Route {
	rt := &Route{filter: filter, inner: topic.Inner(filter, r.prefixes), shared: topic.Shared(filter), options: o}
	r.routes[filter] = rt
	r.index.Add(rt.inner, rt)
	return rt
}

// StartLeaving notes that h is about to leave its routes. It still gets messages. The result is the filters that nobody
// wants any more; an UNSUBSCRIBE is to be sent for them.
func (r *Router) StartLeaving(h *Holder) (unwanted []string) {
	if h.phase == leaving {
		return nil
	}
	h.phase = leaving
	for _, rt := range h.routes {
		rt.wanted--
		if rt.wanted == 0 {
			rt.unsubscribe()
			unwanted = append(unwanted, rt.filter)
		}
	}
	return unwanted
}

// Leave ends h's hold on all its routes, and the routes with their last holder's. The result is the filters that the
// server may have although nobody wants them any more; an UNSUBSCRIBE is to be sent for them.
func (r *Router) Leave(h *Holder) (unwanted []string) {
	for i, rt := range h.routes {
		if h.phase != leaving {
			rt.wanted--
		}
		r.leave(rt, h.holds[i])
		if rt.wanted == 0 && rt.standing.possible() {
			rt.unsubscribe()
			unwanted = append(unwanted, rt.filter)
		}
	}
	h.routes, h.holds = nil, nil
	return unwanted
}

// leave takes a hold out of a route, and the route out of the Router if that was the last.
func (r *Router) leave(rt *Route, part hold) {
	rt.remove(part)
	for _, s := range rt.subscribes {
		if s.retainTo == part.holder {
			s.retainTo = nil
		}
	}
	r.generation++
	if len(rt.holds) > 0 {
		return
	}
	delete(r.routes, rt.filter)
	r.index.Remove(rt.inner, rt)
	for _, s := range rt.subscribes {
		if s.identifier != 0 {
			r.retired = remember(r.retired, retired{s.identifier, rt.filter}, rememberedIdentifiers)
		}
	}
}

// remove leaves a gap where part was. When gaps are most of the list it is made anew, so that n holders leave in time that
// grows with n.
func (rt *Route) remove(part hold) {
	rt.holds[rt.position(part.number)].holder = nil
	rt.gaps++
	rt.asked[part.qos]--
	if 2*rt.gaps > len(rt.holds) {
		rt.holds = slices.DeleteFunc(rt.holds, func(h hold) bool { return h.holder == nil })
		rt.gaps = 0
	}
}

// GiveBack reports whether nobody holds a route that the server has granted after all; then an UNSUBSCRIBE is to be sent
// for it.
func (r *Router) GiveBack(rt *Route) bool {
	if rt.standing != confirmed || r.Holds(rt.filter) {
		return false
	}
	rt.unsubscribe()
	return true
}

// Holds reports whether somebody holds a filter.
func (r *Router) Holds(filter string) bool { return r.routes[filter] != nil }

// Has reports whether the server is known to have a filter that somebody wants.
func (r *Router) Has(filter string) bool {
	rt := r.routes[filter]
	return rt != nil && rt.standing == confirmed && rt.wanted > 0
}

// StartAt makes n the latest subscription identifier given out.
func (r *Router) StartAt(n uint32) { r.identifier = n }

// NextIdentifier returns a subscription identifier for one more SUBSCRIBE.
func (r *Router) NextIdentifier() uint32 {
	r.identifier++
	if r.identifier > MaxIdentifier {
		r.identifier = 1
	}
	return r.identifier
}

// Inner returns what topics are matched against instead of a filter, see topic.Inner.
func (r *Router) Inner(filter string) string { return topic.Inner(filter, r.prefixes) }

// Filter returns the route's topic filter.
func (rt *Route) Filter() string { return rt.filter }

// Options returns what all holders of the route have in common.
func (rt *Route) Options() Options { return rt.options }

// QoS is what the next SUBSCRIBE asks for: the highest that a holder asks for, and not less than the latest SUBSCRIBE, unless
// Lower has been called since.
func (rt *Route) QoS() byte {
	var least byte
	if s := rt.latest(); s != nil && s.number > rt.lowered {
		least = s.qos
	}
	for qos := byte(2); qos > least; qos-- {
		if rt.asked[qos] > 0 {
			return qos
		}
	}
	return least
}

// Lower makes a route's holder ask for a lower QoS than it did. A SUBSCRIBE is to be sent if the result is true: the
// server's QoS is higher than any holder asks for.
func (r *Router) Lower(h *Holder, rt *Route, qos byte) bool {
	i := slices.Index(h.routes, rt)
	part := &h.holds[i]
	if part.qos <= qos {
		return false
	}
	rt.asked[part.qos]--
	rt.asked[qos]++
	part.qos = qos
	rt.holds[rt.position(part.number)].qos = qos
	if s := rt.latest(); s != nil {
		rt.lowered = s.number
	}
	r.generation++
	return rt.QoS() < rt.requested()
}

// position returns where the hold with a number is in holds.
func (rt *Route) position(number uint64) int {
	i, _ := slices.BinarySearchFunc(rt.holds, number, func(h hold, n uint64) int { return cmp.Compare(h.number, n) })
	return i
}

// requested is the QoS in the latest SUBSCRIBE.
func (rt *Route) requested() byte {
	if s := rt.latest(); s != nil {
		return s.qos
	}
	return 0
}

// GrantedQoS is what the server granted to the latest SUBSCRIBE that it has granted.
func (rt *Route) GrantedQoS() byte { return rt.granted }

// Confirmed reports whether the server is known to have the filter.
func (rt *Route) Confirmed() bool { return rt.standing == confirmed }

// Complete reports whether the server has the filter as its holders ask for it, and owes no SUBACK for it.
func (rt *Route) Complete() bool {
	s := rt.latest()
	return rt.standing == confirmed && (s == nil || s.granted) && rt.QoS() == rt.requested()
}

// Holders returns those who hold the route, in the order of joining. The slice is the caller's.
func (rt *Route) Holders() []*Holder {
	list := make([]*Holder, 0, len(rt.holds)-rt.gaps)
	for i := range rt.holds {
		if h := rt.holds[i].holder; h != nil {
			list = append(list, h)
		}
	}
	return list
}

// Eldest returns the route's first holder that waits for no answer and is not about to leave; nil if there is none.
func (rt *Route) Eldest() *Holder {
	for i := range rt.holds {
		if h := rt.holds[i].holder; h != nil && h.phase == holding {
			return h
		}
	}
	return nil
}
