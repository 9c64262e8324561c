package route

// standing is what is known of a route at the server.
type standing uint8

const (
	absent    standing = iota // the server does not have the filter, as far as we know
	uncertain                 // a SUBSCRIBE was cut off before its SUBACK: the server may have granted it
	confirmed                 // a SUBSCRIBE was granted, and no UNSUBSCRIBE was sent after it
	doubted                   // it was confirmed before a CONNECT without an answer, which may have begun a new session
	ending                    // it was confirmed or doubted until an UNSUBSCRIBE was sent
	again                     // as ending, and a later SUBSCRIBE was cut off before its SUBACK
)

// event is what changes a standing.
type event uint8

const (
	grant       event = iota // the server granted a SUBSCRIBE, or sent a message that only this SUBSCRIBE can have brought
	cut                      // the connection ended before a SUBACK
	unsubscribe              // an UNSUBSCRIBE is sent
	lose                     // the server has a new session
	doubt                    // the session is resumed after a CONNECT without an answer
	believe                  // a message has come that only the session we know can bring
	linger                   // a message has come that a SUBSCRIBE from before the UNSUBSCRIBE brought
)

// transitions is the life of a route at the server. A refused SUBSCRIBE changes nothing: the state before it stays in
// force. Nor does the SUBACK of a SUBSCRIBE from before the latest UNSUBSCRIBE.
//
//	            grant      cut        unsubscribe  lose    doubt      believe    linger
//	absent      confirmed  uncertain  absent       absent  absent     absent     ending
//	uncertain   confirmed  uncertain  absent       absent  uncertain  uncertain  again
//	confirmed   confirmed  confirmed  ending       absent  doubted    confirmed  confirmed
//	doubted     confirmed  doubted    ending       absent  doubted    confirmed  doubted
//	ending      confirmed  again      ending       absent  ending     ending     ending
//	again       confirmed  again      ending       absent  again      again      again
var transitions = [...][7]standing{
	absent:    {confirmed, uncertain, absent, absent, absent, absent, ending},
	uncertain: {confirmed, uncertain, absent, absent, uncertain, uncertain, again},
	confirmed: {confirmed, confirmed, ending, absent, doubted, confirmed, confirmed},
	doubted:   {confirmed, doubted, ending, absent, doubted, confirmed, doubted},
	ending:    {confirmed, again, ending, absent, ending, ending, ending},
	again:     {confirmed, again, ending, absent, again, again, again},
}

func (s *standing) after(e event) { *s = transitions[*s][e] }

// possible reports whether the server may have the filter, except for an UNSUBSCRIBE that is on its way.
func (s standing) possible() bool {
	return s == uncertain || s == confirmed || s == doubted || s == again
}

// Subscribe is one SUBSCRIBE for a route.
//
// Its life: it is sent; SUBACK grants it, or refuses it and it is forgotten. After an UNSUBSCRIBE it is undone: what it
// still brings does not confirm the route. After a CONNECT without an answer it is old, granted or not, and a message that
// it brings shows that the server has kept the session. Both hold for all SUBSCRIBEs up to a number, Route.undone and Router.doubted.
type Subscribe struct {
	number     uint64 // in the order of sending
	identifier uint32 // 0: none
	qos        byte   // asked for
	retained   bool
	retainTo   *Holder
	granted    bool // SUBACK has come
}

// rememberedSubscribes and rememberedIdentifiers bound what is remembered for messages that come later: they may have waited
// at the server through many reconnects, each of which subscribes with other identifiers. A message whose identifier is
// forgotten goes to everybody whose filter matches.
const (
	rememberedSubscribes  = 32   // of a route
	rememberedIdentifiers = 1024 // of routes that are gone; 24 bytes each, and the filter
)

// remember appends v to a list that keeps only so many of its latest entries.
func remember[T any](list []T, v T, most int) []T {
	if n := len(list); n >= most {
		copy(list, list[n-most+1:])
		list = list[:most-1]
	}
	return append(list, v)
}

// Sent notes that a SUBSCRIBE goes out for the route, with this subscription identifier, 0 for none, at the route's QoS.
// retained says that it may bring retained messages. They are for retainTo alone, or for all holders if that is nil.
func (r *Router) Sent(rt *Route, identifier uint32, retained bool, retainTo *Holder) *Subscribe {
	r.sent++
	s := &Subscribe{number: r.sent, identifier: identifier, qos: rt.QoS(), retained: retained, retainTo: retainTo}
	rt.subscribes = remember(rt.subscribes, s, rememberedSubscribes)
	return s
}

// Granted notes that the server granted a SUBSCRIBE. SUBACKs may come in any order; what holds is what the latest
// SUBSCRIBE got.
func (rt *Route) Granted(s *Subscribe, qos byte) {
	s.granted = true
	if !rt.grantedAfter(s) {
		rt.granted = qos
	}
	if !rt.isUndone(s) {
		rt.standing.after(grant)
	}
}

// Refused notes that the server refused a SUBSCRIBE: the state before it stays in force.
func (rt *Route) Refused(s *Subscribe) {
	for i, other := range rt.subscribes {
		if other == s {
			rt.subscribes = append(rt.subscribes[:i], rt.subscribes[i+1:]...)
			return
		}
	}
}

// Cut notes that the connection ended before the SUBACK of a SUBSCRIBE.
func (rt *Route) Cut() { rt.standing.after(cut) }

// unsubscribe notes that an UNSUBSCRIBE is sent for the route.
func (rt *Route) unsubscribe() {
	rt.standing.after(unsubscribe)
	if s := rt.latest(); s != nil {
		rt.undone = s.number
	}
}

// Lose notes that the server has a new session, with no subscription in it.
func (r *Router) Lose() {
	r.doubted = 0
	for _, rt := range r.routes {
		rt.standing.after(lose)
	}
}

// Doubt notes that the server may not have what it granted, because it may have begun a session that we know nothing of.
func (r *Router) Doubt() {
	r.doubted = r.sent
	for _, rt := range r.routes {
		rt.standing.after(doubt)
	}
}

// believe ends a doubt: a message has come that only the session we know can bring.
func (r *Router) believe() {
	r.doubted = 0
	for _, rt := range r.routes {
		rt.standing.after(believe)
	}
}

// Prove notes that a message with these identifiers has come which is for nobody, because it came before.
func (r *Router) Prove(t *Topic, ids []uint32) {
	for _, rt := range t.routes {
		if s := rt.find(ids); s != nil {
			r.prove(rt, s)
		}
	}
}

// prove notes that the server has what a SUBSCRIBE asked for: it has brought a message, perhaps before its SUBACK, or
// although that was cut off. A session that was begun since a SUBSCRIBE was sent does not have it.
func (r *Router) prove(rt *Route, s *Subscribe) {
	if s.number <= r.doubted {
		r.believe()
	}
	switch {
	case rt.isUndone(s):
		rt.standing.after(linger)
	case rt.standing != confirmed:
		rt.standing.after(grant)
	}
}

// latest returns the latest SUBSCRIBE that was not refused, nil if there is none.
func (rt *Route) latest() *Subscribe {
	if n := len(rt.subscribes); n > 0 {
		return rt.subscribes[n-1]
	}
	return nil
}

// isUndone reports whether an UNSUBSCRIBE was sent after s.
func (rt *Route) isUndone(s *Subscribe) bool { return s.number <= rt.undone }

// grantedAfter reports whether a later SUBSCRIBE than s was granted.
func (rt *Route) grantedAfter(s *Subscribe) bool {
	for _, other := range rt.subscribes {
		if other.number > s.number && other.granted {
			return true
		}
	}
	return false
}
