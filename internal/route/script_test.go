package route

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// player plays a script on a Router: one step a line, with what it must lead to behind the equals sign. Holders and
// SUBSCRIBEs are named by the script, and the name of a SUBSCRIBE is its subscription identifier.
//
//	join A a/b:1 c:2     A asks for these filters, and waits
//	settle A             A waits no longer
//	send 7 a/b           SUBSCRIBE 7 goes out; it brings no retained messages
//	send 7 a/b for A     the same, with retained messages for A alone
//	send 7 a/b for all   the same, with retained messages for all holders
//	grant 7 1            its SUBACK, at QoS 1
//	refuse 7             its SUBACK, which refuses it
//	cut a/b              the connection ended before a SUBACK for the filter
//	leaving A = a/b      A begins to leave; an UNSUBSCRIBE goes out for a/b
//	leave A = a/b        A leaves; an UNSUBSCRIBE goes out for a/b
//	back 7 = true        SUBACK has come for a filter that nobody may hold any more: an UNSUBSCRIBE goes out
//	lose                 the server has a new session
//	doubt                the session is resumed after a CONNECT without an answer
//	message a/b 7,8 = A:1 B:0     a message comes with these identifiers, - for none; it is for A at QoS 1 and B at QoS 0
//	retained a/b 7 = A:1          a retained one
//	repeated a/b 7                a message comes that is known already
//	is a/b = confirmed            the standing of a route
//	complete a/b = true           whether it needs no SUBSCRIBE
//	qos a/b = 1                   what the next SUBSCRIBE asks for
//	granted a/b = 1               what the server granted
//	eldest a/b = A                who makes it again
type player struct {
	t       *testing.T
	r       *Router
	holders map[string]*Holder
	sent    map[string]*Subscribe
	routes  map[string]*Route // of SUBSCRIBEs, and by filter the latest
}

func play(t *testing.T, script string) *player {
	t.Helper()
	p := &player{t: t, r: New(nil), holders: map[string]*Holder{}, sent: map[string]*Subscribe{}, routes: map[string]*Route{}}
	p.play(script)
	return p
}

func (p *player) play(script string) {
	p.t.Helper()
	for line := range strings.FieldsFuncSeq(script, func(r rune) bool { return r == '\n' || r == ';' }) {
		step, want, _ := strings.Cut(line, "=")
		words := strings.Fields(step)
		if len(words) == 0 {
			continue
		}
		if got, want := p.step(words[0], words[1:]), strings.TrimSpace(want); got != want {
			p.t.Errorf("%s: got %q", strings.TrimSpace(line), got)
		}
	}
}

func (p *player) step(verb string, args []string) string {
	switch verb {
	case "join":
		return p.join(args[0], Options{}, args[1:])
	case "settle":
		p.holders[args[0]].Settle()
	case "send":
		p.send(args[0], args[1], args[2:])
	case "grant":
		p.routes[args[0]].Granted(p.sent[args[0]], number(args[1]))
	case "refuse":
		p.routes[args[0]].Refused(p.sent[args[0]])
	case "cut":
		p.routes[args[0]].Cut()
	case "leaving":
		return strings.Join(p.r.StartLeaving(p.holders[args[0]]), " ")
	case "leave":
		return strings.Join(p.r.Leave(p.holders[args[0]]), " ")
	case "back":
		return strconv.FormatBool(p.r.GiveBack(p.routes[args[0]]))
	case "lose":
		p.r.Lose()
	case "doubt":
		p.r.Doubt()
	case "repeated":
		p.r.Prove(p.r.Lookup(args[0]), identifiers(args[1]))
	case "message", "retained":
		return p.message(args[0], args[1], verb == "retained")
	default:
		return p.ask(verb, p.routes[args[0]])
	}
	return ""
}

// ask is a step that changes nothing.
func (p *player) ask(verb string, rt *Route) string {
	switch verb {
	case "is":
		return rt.standing.String()
	case "complete":
		return strconv.FormatBool(rt.Complete())
	case "qos":
		return fmt.Sprint(rt.QoS())
	case "granted":
		return fmt.Sprint(rt.GrantedQoS())
	case "eldest":
		return p.name(rt.Eldest())
	}
	p.t.Fatalf("there is no step %q", verb)
	return ""
}

func number(s string) byte {
	n, _ := strconv.Atoi(s)
	return byte(n)
}

func (p *player) join(name string, o Options, filters []string) string {
	h := p.holders[name]
	if h == nil {
		h = &Holder{Owner: name, Options: o}
		p.holders[name] = h
	}
	for _, f := range filters {
		filter, qos, _ := strings.Cut(f, ":")
		if !p.r.Join(h, filter, number(qos)) {
			return "refused"
		}
		p.routes[filter] = h.Routes()[len(h.Routes())-1]
	}
	return ""
}

func (p *player) send(name, filter string, options []string) {
	id, _ := strconv.Atoi(name)
	var to *Holder
	if len(options) == 2 && options[1] != "all" {
		to = p.holders[options[1]]
	}
	p.sent[name] = p.r.Sent(p.routes[filter], uint32(id), len(options) > 0, to)
	p.routes[name] = p.routes[filter]
}

func (p *player) message(name, ids string, retain bool) string {
	targets, _ := p.r.Targets(p.r.Lookup(name), identifiers(ids), retain)
	var to []string
	for _, target := range targets {
		to = append(to, fmt.Sprintf("%s:%d", p.name(target.Holder), target.QoS))
	}
	slices.Sort(to)
	return strings.Join(to, " ")
}

func identifiers(text string) (ids []uint32) {
	for s := range strings.SplitSeq(text, ",") {
		if id, err := strconv.Atoi(s); err == nil {
			ids = append(ids, uint32(id))
		}
	}
	return ids
}

func (p *player) name(h *Holder) string {
	if h == nil {
		return "nobody"
	}
	return h.Owner.(string)
}

func (s standing) String() string {
	return [...]string{"absent", "uncertain", "confirmed", "doubted", "ending", "again"}[s]
}
