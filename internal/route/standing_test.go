package route

import (
	"fmt"
	"slices"
	"testing"
)

// standings has a script that leads to each standing of the route f. The route o is there for the doubt to be ended by.
var standings = []struct {
	name, script string
	standing     standing
}{
	{"absent", "join A f:1", absent},
	{"absent, unsubscribed", "join A f:1; send 1 f; leaving A = f", absent},
	{"uncertain", "join A f:1; send 1 f; cut f", uncertain},
	{"uncertain, unsubscribed before", "join A f:1; send 1 f; leaving A = f; join B f:1; send 2 f; cut f", uncertain},
	{"confirmed", "join A f:1; send 1 f; grant 1 1", confirmed},
	{"confirmed by a message", "join A f:1; send 1 f; message f 1 = A:1", confirmed},
	{"confirmed again", "join A f:1; send 1 f; grant 1 1; leaving A = f; join B f:1; send 2 f; grant 2 1", confirmed},
	{"doubted", "join A f:1; send 1 f; grant 1 1; doubt", doubted},
	{"ending", "join A f:1; send 1 f; grant 1 1; leaving A = f", ending},
	{"ending, known late", "join A f:1; send 1 f; leaving A = f; message f 1 = A:1", ending},
	{"again", "join A f:1; send 1 f; grant 1 1; leaving A = f; join B f:1; send 2 f; cut f", again},
}

// TestTransitions goes through the table: each standing, and each event that can come there.
func TestTransitions(t *testing.T) {
	for _, event := range []struct {
		name, script string
		next         [6]string // by standing: absent, uncertain, confirmed, doubted, ending, again
	}{
		{"SUBACK", "join C f:1; send 50 f; grant 50 1",
			[...]string{"confirmed", "confirmed", "confirmed", "confirmed", "confirmed", "confirmed"}},
		{"a message before SUBACK", "join C f:1; send 50 f; message f 50",
			[...]string{"confirmed", "confirmed", "confirmed", "confirmed", "confirmed", "confirmed"}},
		{"a refusal", "join C f:1; send 50 f; refuse 50",
			[...]string{"absent", "uncertain", "confirmed", "doubted", "ending", "again"}},
		{"a cut before SUBACK", "join C f:1; send 50 f; cut f",
			[...]string{"uncertain", "uncertain", "confirmed", "doubted", "again", "again"}},
		{"a lost session", "lose",
			[...]string{"absent", "absent", "absent", "absent", "absent", "absent"}},
		{"a CONNECT without an answer", "doubt",
			[...]string{"absent", "uncertain", "doubted", "doubted", "ending", "again"}},
		{"a message of the session we know", "message o 99",
			[...]string{"absent", "uncertain", "confirmed", "confirmed", "ending", "again"}},
		{"a CONNECT without an answer, and a message of the session we know", "doubt; message o 99",
			[...]string{"absent", "uncertain", "confirmed", "confirmed", "ending", "again"}},
	} {
		for _, from := range standings {
			t.Run(from.name+"/"+event.name, func(t *testing.T) {
				p := play(t, "join O o:1; send 99 o; grant 99 1; "+from.script)
				if p.routes["f"].standing != from.standing {
					t.Fatalf("the script leads to %v", p.routes["f"].standing)
				}
				p.quietly(event.script)
				if got := p.routes["f"].standing.String(); got != event.next[from.standing] {
					t.Errorf("%v, want %v", got, event.next[from.standing])
				}
			})
		}
	}
}

// quietly plays a script without a look at what its steps lead to.
func (p *player) quietly(script string) {
	quiet := *p
	quiet.t = &testing.T{}
	quiet.play(script)
}

// When the last who wants a route begins to leave, an UNSUBSCRIBE goes out.
func TestUnsubscribeFromEachStanding(t *testing.T) {
	next := [...]string{"absent", "absent", "ending", "ending", "ending", "ending"}
	for _, from := range standings {
		t.Run(from.name, func(t *testing.T) {
			p := play(t, from.script)
			p.play("join C f:1")
			for _, h := range p.routes["f"].Holders() {
				p.r.StartLeaving(h)
			}
			if got := p.routes["f"].standing.String(); got != next[from.standing] {
				t.Errorf("%v, want %v", got, next[from.standing])
			}
		})
	}
}

// Whoever leaves last has the server unsubscribe what it may have, and nothing else.
func TestLeaveFromEachStanding(t *testing.T) {
	want := [...]int{absent: 0, uncertain: 1, confirmed: 1, doubted: 1, ending: 0, again: 1}
	for _, from := range standings {
		t.Run(from.name, func(t *testing.T) {
			p := play(t, from.script)
			unsubscribes := 0
			for _, h := range p.routes["f"].Holders() {
				unsubscribes += len(p.r.Leave(h))
			}
			if unsubscribes != want[from.standing] {
				t.Errorf("%d UNSUBSCRIBEs, want %d", unsubscribes, want[from.standing])
			}
			if p.r.Holds("f") {
				t.Error("the route is still there")
			}
		})
	}
}

// A message of a SUBSCRIBE from before the UNSUBSCRIBE does not show that the server has the filter.
func TestLinger(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"absent", "join A f:1; send 1 f; leaving A = f; message f 1 = A:1; is f = ending"},
		{"uncertain", "join A f:1; send 1 f; leaving A = f; join B f:1; send 2 f; cut f; message f 1 = A:1 B:1; is f = again"},
		{"confirmed", "join A f:1; send 1 f; grant 1 1; leaving A = f; join B f:1; send 2 f; grant 2 1; message f 1 = A:1 B:1; is f = confirmed"},
		{"ending", "join A f:1; send 1 f; grant 1 1; leaving A = f; message f 1 = A:1; is f = ending"},
		{"again", "join A f:1; send 1 f; grant 1 1; leaving A = f; join B f:1; send 2 f; cut f; message f 1 = A:1 B:1; is f = again"},
		{"its SUBACK", "join A f:1; send 1 f; leaving A = f; grant 1 1; is f = absent"},
	} {
		t.Run(c.name, func(t *testing.T) { play(t, c.script) })
	}
}

// The standings are those of the table, and each is reached by a script above.
func TestStandingsAreReached(t *testing.T) {
	for s := range standing(len(transitions)) {
		if !slices.ContainsFunc(standings, func(c struct {
			name, script string
			standing     standing
		}) bool {
			return c.standing == s
		}) {
			t.Errorf("no script leads to %v", s)
		}
		if next := transitions[s]; next[grant] != confirmed || next[lose] != absent {
			t.Errorf("%v: %v", s, fmt.Sprint(next))
		}
	}
}
