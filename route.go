package mqtt

import (
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// router knows which subscriptions a message is for. The client's mutex guards it, and all that it holds.
type router struct {
	prefixes   []string
	routes     map[string]*route // by filter, as subscribed
	index      topic.Index[*route]
	identifier uint32   // the latest subscription identifier given out
	retired    []uint32 // the latest identifiers of routes that are gone
	doubtful   bool     // some routes are doubted
	generation uint64   // counts changes, so that caches of look-ups notice
}

// route is one topic filter that is subscribed at the server, once, however many subscriptions hold it: a second
// SUBSCRIBE would replace the first.
type route struct {
	filter     string
	inner      string // what topics are matched against
	shared     bool   // the server sends only some of the messages that match
	holders    []holder
	qos        QoS           // to subscribe at: the highest that a holder asks for, and not less than before
	granted    QoS           // to the latest SUBSCRIBE that was granted
	confirmed  bool          // a SUBSCRIBE was granted, and no UNSUBSCRIBE was sent after it
	uncertain  bool          // a SUBSCRIBE was cut before its SUBACK: the server may have granted it
	ending     bool          // it was confirmed until an UNSUBSCRIBE was sent
	doubted    bool          // it was confirmed before a CONNECT without an answer
	flags      SubscribeFlag // of all holders
	subscribes []*subscribe  // the latest SUBSCRIBEs of the filter that were not refused, oldest first
}

// subscribe is one SUBSCRIBE for a route.
type subscribe struct {
	identifier uint32        // 0: none
	qos        QoS           // asked for
	retained   bool          // it may bring retained messages
	retainTo   *Subscription // who alone gets them; nil: every holder
	granted    bool          // SUBACK has come
	undone     bool          // an UNSUBSCRIBE was sent after it
	old        bool          // it was granted before a CONNECT without an answer
}

// holder is a subscription that holds a route, and that a message goes to.
type holder struct {
	sub *Subscription
	qos QoS // asked for; a message's own may be lower
}

// What is remembered for messages that come later: they may have waited at the server through many reconnects, each of
// which subscribes with other identifiers. A message whose identifier is forgotten goes to everybody whose filter matches.
const (
	rememberedSubscribes  = 32   // of a route
	rememberedIdentifiers = 1024 // of routes that are gone; 4 bytes each
)

func (r *router) init(prefixes []string) {
	r.prefixes = prefixes
	r.routes = make(map[string]*route)
}

// join makes s a holder of a filter. What all holders of a filter must have in common is checked.
// [MQTT-3.8.4-3] [MQTT311-3.8.4-3]
func (r *router) join(s *Subscription, f filterRequest) (*route, error) {
	rt := r.routes[f.filter]
	if rt == nil {
		rt = &route{
			filter: f.filter,
			inner:  topic.Inner(f.filter, r.prefixes),
			shared: topic.Shared(f.filter),
			flags:  s.options.serverFlags(),
		}
		r.routes[f.filter] = rt
		r.index.Add(rt.inner, rt)
	}
	if rt.flags != s.options.serverFlags() {
		return nil, &notSent{fmt.Errorf(
			"mqtt: filter %q is subscribed already with other options: No Local and Retain As Published hold for all of a client's subscriptions to it",
			f.filter)}
	}
	rt.holders = append(rt.holders, holder{s, f.qos})
	rt.qos = max(rt.qos, f.qos)
	r.generation++
	return rt, nil
}

// leave ends s's hold on a route, and the route with the last holder's.
func (r *router) leave(s *Subscription, rt *route) {
	rt.holders = slices.DeleteFunc(rt.holders, func(h holder) bool { return h.sub == s })
	for _, sent := range rt.subscribes {
		if sent.retainTo == s {
			sent.retainTo = nil
		}
	}
	rt.qos = rt.asked() // what s asked for counts only if the server was asked
	for _, h := range rt.holders {
		rt.qos = max(rt.qos, h.qos)
	}
	r.generation++
	if len(rt.holders) > 0 || r.routes[rt.filter] != rt {
		return
	}
	delete(r.routes, rt.filter)
	r.index.Remove(rt.inner, rt)
	for _, s := range rt.subscribes {
		if s.identifier != 0 {
			r.retired = remember(r.retired, s.identifier, rememberedIdentifiers)
		}
	}
}

// nextIdentifier returns a subscription identifier for one more SUBSCRIBE.
func (r *router) nextIdentifier() uint32 {
	r.identifier++
	if r.identifier > maxIdentifier {
		r.identifier = 1
	}
	return r.identifier
}

// remember appends v to a list that keeps only so many of its latest entries.
func remember[T any](list []T, v T, most int) []T {
	if len(list) == most {
		list = slices.Delete(list, 0, 1)
	}
	return append(list, v)
}

// asked is the QoS in the latest SUBSCRIBE.
func (rt *route) asked() QoS {
	if n := len(rt.subscribes); n > 0 {
		return rt.subscribes[n-1].qos
	}
	return 0
}

// pending reports whether the server has yet to say what it makes of the latest SUBSCRIBE.
func (rt *route) pending() bool {
	n := len(rt.subscribes)
	return n > 0 && !rt.subscribes[n-1].granted
}

// wanted reports whether somebody holds the route who is not about to leave it.
func (rt *route) wanted() bool {
	return slices.ContainsFunc(rt.holders, func(h holder) bool { return h.sub.leaving == nil })
}

// hasAgain reports whether a filter is subscribed that somebody wants.
func (r *router) hasAgain(filter string) bool {
	rt := r.routes[filter]
	return rt != nil && rt.confirmed && rt.wanted()
}

// accepted notes that the server granted a SUBSCRIBE. SUBACKs may come in any order; what holds is what the latest
// SUBSCRIBE got.
func (rt *route) accepted(sent *subscribe, granted QoS) {
	sent.granted, rt.uncertain = true, false
	latest := slices.IndexFunc(rt.subscribes, func(s *subscribe) bool { return s == sent })
	if !slices.ContainsFunc(rt.subscribes[latest+1:], func(s *subscribe) bool { return s.granted }) {
		rt.granted = granted
	}
	if !sent.undone {
		rt.confirmed, rt.ending = true, false
	}
}

// refused notes that the server refused a SUBSCRIBE: what held before it holds on.
func (rt *route) refused(sent *subscribe) {
	rt.subscribes = slices.DeleteFunc(rt.subscribes, func(s *subscribe) bool { return s == sent })
}

// unsubscribed notes that an UNSUBSCRIBE goes out.
func (rt *route) unsubscribed() {
	ending := rt.ending || rt.confirmed
	rt.unknown()
	rt.ending = ending
	for _, s := range rt.subscribes {
		s.undone = true
	}
}

// unknown notes that the server does not have the filter.
func (rt *route) unknown() {
	rt.confirmed, rt.uncertain, rt.doubted, rt.ending = false, false, false, false
}

// doubt notes that the server may not have what it granted, because it may have begun a session that we know nothing of.
func (r *router) doubt() {
	r.doubtful = true
	for _, rt := range r.routes {
		rt.doubted = rt.doubted || rt.confirmed
		rt.uncertain = rt.uncertain || rt.confirmed
		rt.confirmed = false
		for _, s := range rt.subscribes {
			s.old = s.granted
		}
	}
}

// believe ends a doubt: a message has come that only the session we know can bring.
func (r *router) believe() {
	if !r.doubtful {
		return
	}
	r.doubtful = false
	for _, rt := range r.routes {
		rt.confirmed = rt.confirmed || rt.doubted
		rt.doubted = false
	}
}

// proved notes that the server has what a SUBSCRIBE asked for: it has brought a message, perhaps before its SUBACK, or
// although that was cut off.
func (r *router) proved(rt *route, s *subscribe) {
	if s.old {
		r.believe()
	}
	if s.undone {
		rt.ending = true
		return
	}
	rt.confirmed, rt.uncertain = true, false
}

// find returns the SUBSCRIBE that brought a message with these identifiers, nil if the route has none such.
func (rt *route) find(ids []uint32) *subscribe {
	for _, s := range slices.Backward(rt.subscribes) {
		if slices.Contains(ids, s.identifier) {
			return s
		}
	}
	return nil
}

// guess returns the SUBSCRIBE that a retained message without identifiers is attributed to: the latest one granted that
// brings any, because servers send them after SUBACK. It is nil while there is none.
func (rt *route) guess() *subscribe {
	for _, s := range slices.Backward(rt.subscribes) {
		if s.granted && s.retained {
			return s
		}
	}
	return nil
}

// bringsTo reports whether a SUBSCRIBE may bring s retained messages for this filter.
func (rt *route) bringsTo(s *Subscription) bool {
	return slices.ContainsFunc(rt.subscribes, func(sent *subscribe) bool { return sent.retained && sent.retainTo == s })
}

// appendTargets appends the subscriptions that a message is for, each once.
//
// A server may send a message once for each matching filter, with the identifier of that one, or once with all
// identifiers. Either way a subscription takes it for one of its filters only. A message without an identifier that we
// know goes to everybody whose filter matches. known says that an identifier is that of a filter that matches: somebody
// has the message, if not by this copy.
// [MQTT-3.3.2-3] [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5] [MQTT311-3.3.2-3] [MQTT311-3.3.5-1]
func (r *router) appendTargets(dst []holder, t *cachedTopic, ids []uint32, retain bool) (_ []holder, known bool) {
	for _, rt := range t.routes {
		if s := rt.find(ids); s != nil {
			known = true
			r.proved(rt, s)
			dst = rt.appendHolders(dst, t, s, true, retain)
		}
	}
	if known || r.isRetired(ids) {
		return dst, known
	}
	for _, rt := range t.routes {
		dst = rt.appendHolders(dst, t, rt.guess(), false, retain)
	}
	return dst, false
}

// isRetired reports whether these are identifiers of filters that we have unsubscribed.
func (r *router) isRetired(ids []uint32) bool {
	return slices.ContainsFunc(ids, func(id uint32) bool { return slices.Contains(r.retired, id) })
}

// appendHolders appends those who get a message that came because of the SUBSCRIBE s, if that is known. exact says that
// the server tells for which filter it sends it. With Retain As Published the RETAIN flag does not tell a message kept
// from before from a new one: then everybody gets both, because none may be lost.
func (rt *route) appendHolders(dst []holder, t *cachedTopic, s *subscribe, exact, retain bool) []holder {
	var alone *Subscription
	earlier := len(dst) // of other routes: in this one each subscription is once
	kept := retain && rt.flags&RetainAsPublished == 0
	if kept && s != nil {
		alone = s.retainTo
	}
	for _, h := range rt.holders {
		switch {
		case alone != nil && alone != h.sub:
		case exact && len(t.routes) > 1 && len(h.sub.routes) > 1 && !h.sub.prefers(rt, t.routes, kept):
		default:
			dst = addHolder(dst, earlier, h)
		}
	}
	return dst
}

// addHolder appends a holder, or raises the QoS of the one that is among the first n.
func addHolder(dst []holder, n int, h holder) []holder {
	for i := range dst[:n] {
		if dst[i].sub == h.sub {
			dst[i].qos = max(dst[i].qos, h.qos)
			return dst
		}
	}
	return append(dst, h)
}

// prefers reports whether rt is the one of these routes for which the subscription takes a message that matches several
// of its filters. That is one with the highest QoS that the subscription asked for, which does not change, so that the
// copies of a message that come in between something else are not taken twice or not at all. A filter for which the
// message need not come as well does not count: one that the server has not confirmed, a shared one, and for a retained
// message one that brings this subscription none. If no filter counts, every copy is taken.
func (s *Subscription) prefers(rt *route, routes []*route, kept bool) bool {
	var best *route
	var highest QoS
	for _, other := range routes {
		i := slices.Index(s.routes, other)
		confirmed := other.confirmed || s.leaving != nil && other.ending // while it leaves, its choice stays
		if i < 0 || other.shared || kept && !other.bringsTo(s) || !kept && !confirmed {
			continue
		}
		if qos := s.filters[i].QoS; best == nil || qos > highest {
			best, highest = other, qos
		}
	}
	return best == nil || best == rt
}

// cachedTopic is a topic name with the routes that match it.
type cachedTopic struct {
	name       string
	routes     []*route
	targets    []holder // of a message without identifiers that is not retained; nil: not asked for yet
	generation uint64
}

func (r *router) lookup(name string) *cachedTopic {
	return &cachedTopic{name: name, routes: r.index.AppendMatches(nil, name), generation: r.generation}
}

// topicCache holds the topics seen last, so that a topic that comes again is neither checked nor copied nor looked up.
// The zero value is empty.
type topicCache struct {
	places *[64]*cachedTopic // made when first needed
	seed   maphash.Seed
}

// cachedLength bounds the topics that are kept, in bytes.
const cachedLength = 256

func (c *topicCache) place(name []byte) **cachedTopic {
	return &c.places[maphash.Bytes(c.seed, name)%uint64(len(c.places))]
}

// get returns the topic if it is there and what is known of it still holds.
func (c *topicCache) get(name []byte, generation uint64) *cachedTopic {
	if c.places == nil {
		return nil
	}
	if t := *c.place(name); t != nil && t.generation == generation && t.name == string(name) {
		return t
	}
	return nil
}

func (c *topicCache) put(t *cachedTopic) *cachedTopic {
	if len(t.name) > cachedLength {
		return t
	}
	if c.places == nil {
		c.places, c.seed = new([64]*cachedTopic), maphash.MakeSeed()
	}
	*c.place([]byte(t.name)) = t
	return t
}
