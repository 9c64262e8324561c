package route

import "slices"

// Topic is a topic name with the routes that match it.
type Topic struct {
	Name       string
	routes     []*Route
	targets    []Target // of a message without identifiers that is not retained; nil: not asked for yet
	generation uint64
}

// Target is a holder that a message goes to, and the QoS that it asked for.
type Target struct {
	Holder *Holder
	QoS    byte
}

// Lookup finds the routes that match a topic name. The result is good until the next Join or Leave.
func (r *Router) Lookup(name string) *Topic {
	return &Topic{Name: name, routes: r.index.AppendMatches(nil, name), generation: r.generation}
}

// Targets returns the holders that a message is for, each once. The slice is the Router's, until Clear.
//
// A server may send a message once for each matching filter, with the identifier of that one, or once with all
// identifiers. Either way a holder takes it for one of its filters only. A message without an identifier that we
// know goes to everybody whose filter matches. One with the identifier of a route that is gone was sent for the filter of that
// route, and goes to those who hold the filter again: it may have waited at a server on which the client was before. known says that an identifier is that of a filter that matches: somebody
// has the message, even if this copy is for nobody.
// [MQTT-3.3.2-3] [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5] [MQTT311-3.3.2-3] [MQTT311-3.3.5-1]
func (r *Router) Targets(t *Topic, ids []uint32, retain bool) (targets []Target, known bool) {
	if len(ids) == 0 && !retain { // the same for every message on the topic
		if t.targets == nil {
			t.targets = t.appendAll([]Target{}, false)
		}
		return t.targets, false
	}
	r.targets = r.targets[:0]
	found := 0
	for _, rt := range t.routes {
		if s := rt.find(ids); s != nil {
			found++
			r.prove(rt, s)
			r.targets = rt.appendHolders(r.targets, t, s, true, retain)
		}
	}
	known = found > 0
	if found < len(ids) && r.appendSuccessors(t, ids, retain) {
		known = true
	}
	if !known && !r.Retired(ids) {
		r.targets = t.appendAll(r.targets, retain)
	}
	return r.targets, known
}

// appendSuccessors appends the holders of filters that have been held before, under one of these identifiers. It reports
// whether there are any.
func (r *Router) appendSuccessors(t *Topic, ids []uint32, retain bool) (any bool) {
	for i := range r.retired {
		old := &r.retired[i]
		if !slices.Contains(ids, old.identifier) {
			continue
		}
		if rt := r.routes[old.filter]; rt != nil && rt.find(ids) == nil && slices.Contains(t.routes, rt) {
			r.targets = rt.appendHolders(r.targets, t, nil, true, retain)
			any = true
		}
	}
	return any
}

// Clear forgets the latest Targets, so that no Holder is kept that has left.
func (r *Router) Clear() { clear(r.targets) }

// appendAll appends those who get a message without an identifier that we know.
func (t *Topic) appendAll(dst []Target, retain bool) []Target {
	for _, rt := range t.routes {
		dst = rt.appendHolders(dst, t, rt.guess(), false, retain)
	}
	return dst
}

// Retired reports whether one of these is the identifier of a filter that nobody holds any more.
func (r *Router) Retired(ids []uint32) bool {
	return len(ids) > 0 && slices.ContainsFunc(r.retired, func(old retired) bool { return slices.Contains(ids, old.identifier) })
}

// Wants returns the highest QoS that h asks for on topic t, and whether one of its filters matches it.
func (h *Holder) Wants(t *Topic) (qos byte, ok bool) {
	for _, rt := range t.routes {
		if i := slices.Index(h.routes, rt); i >= 0 {
			qos, ok = max(qos, h.holds[i].qos), true
		}
	}
	return qos, ok
}

// find returns the SUBSCRIBE that brought a message with these identifiers, nil if the route has none such.
func (rt *Route) find(ids []uint32) *Subscribe {
	for _, s := range slices.Backward(rt.subscribes) {
		if slices.Contains(ids, s.identifier) {
			return s
		}
	}
	return nil
}

// guess returns the SUBSCRIBE that a retained message without identifiers is attributed to: the latest one granted that
// brings any, because servers send them after SUBACK. It is nil while there is none.
func (rt *Route) guess() *Subscribe {
	for _, s := range slices.Backward(rt.subscribes) {
		if s.granted && s.retained {
			return s
		}
	}
	return nil
}

// bringsTo reports whether a SUBSCRIBE may bring h retained messages for this filter.
func (rt *Route) bringsTo(h *Holder) bool {
	return slices.ContainsFunc(rt.subscribes, func(s *Subscribe) bool { return s.retained && s.retainTo == h })
}

// appendHolders appends those who get a message that came because of the SUBSCRIBE s, if that is known. exact says that
// the server tells for which filter it sends it. With Retain As Published the RETAIN flag does not tell a message kept
// from before from a new one: then everybody gets both, because none may be lost.
func (rt *Route) appendHolders(dst []Target, t *Topic, s *Subscribe, exact, retain bool) []Target {
	var alone *Holder
	earlier := len(dst) // of other routes: in this one each holder is once
	exact = exact && len(t.routes) > 1
	kept := retain && !rt.options.RetainAsPublished
	if kept && s != nil {
		alone = s.retainTo
	}
	for i := range rt.holds {
		part := &rt.holds[i]
		h := part.holder
		switch {
		case h == nil || alone != nil && alone != h:
		case exact && len(h.routes) > 1 && !h.prefers(rt, t.routes, kept):
		default:
			dst = addTarget(dst, earlier, Target{h, part.qos})
		}
	}
	return dst
}

// addTarget appends a target, or raises the QoS of the one that is among the first n.
func addTarget(dst []Target, n int, to Target) []Target {
	for i := range dst[:n] {
		if dst[i].Holder == to.Holder {
			dst[i].QoS = max(dst[i].QoS, to.QoS)
			return dst
		}
	}
	return append(dst, to)
}

// prefers reports whether rt is the one of these routes for which h takes a message that matches several of its filters.
// That is one with the highest QoS that h asked for, which does not change, so that the copies of a message that come in
// between something else are not taken twice or not at all. A filter for which the message need not come as well does not
// count: one that the server has not confirmed, a shared one, and for a retained message one that brings h none. If no
// filter counts, every copy is taken.
func (h *Holder) prefers(rt *Route, routes []*Route, kept bool) bool {
	var best *Route
	var highest byte
	for _, other := range routes {
		i := slices.Index(h.routes, other)
		if i < 0 || other.shared || kept && !other.bringsTo(h) || !kept && !h.counts(other) {
			continue
		}
		if qos := h.holds[i].qos; best == nil || qos > highest {
			best, highest = other, qos
		}
	}
	return best == nil || best == rt
}

// counts reports whether h can rely on the messages of a route: the server has it or, while h leaves and its choice must not
// change, had it before the UNSUBSCRIBE.
func (h *Holder) counts(rt *Route) bool {
	return rt.standing == confirmed || h.phase == leaving && (rt.standing == ending || rt.standing == again)
}
