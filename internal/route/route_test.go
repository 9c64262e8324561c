package route

import (
	"testing"
	"time"
)

func TestRoutes(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"granted", `
			join A f:1; complete f = false; send 1 f; complete f = false; grant 1 1; settle A
			complete f = true; eldest f = A; message f 1 = A:1; message f - = A:1; message g - =`},
		{"refused", `
			join A f:1; send 1 f; refuse 1; is f = absent
			leave A =; message f 1 =`},
		{"refused, while another has it", `
			join A f:0; send 1 f; grant 1 0; join B f:2; qos f = 2; complete f = false; send 2 f; refuse 2
			leave B =; qos f = 0; complete f = true; message f 1 = A:0; leave A = f`},
		{"granted at a lower QoS", "join A f:2; send 1 f; grant 1 1; complete f = true; message f 1 = A:2"},
		{"SUBACKs in another order", `
			join A f:1; send 1 f; join B f:2; send 2 f; grant 2 2; grant 1 1; granted f = 2; complete f = true`},
		{"left before its SUBACK", "join A f:1; send 1 f; leave A =; grant 1 1; back 1 = true; back 1 = false"},
		{"left before its SUBACK, and joined again", "join A f:1; send 1 f; leave A =; join B f:1; grant 1 1; back 1 = false"},

		{"cut before SUBACK", `
			join A f:1; send 1 f; cut f; is f = uncertain; complete f = false
			message f 1 = A:1; is f = confirmed`},
		{"cut before SUBACK, and left", "join A f:1; send 1 f; cut f; leave A = f"},
		{"doubtful after a cut", `
			join A +/b:1 a/b:2; send 1 +/b; grant 1 1; send 2 a/b; grant 2 2; doubt
			is +/b = doubted; is a/b = doubted; complete a/b = false`},
		{"believed", `
			join A +/b:1 a/b:2; send 1 +/b; grant 1 1; send 2 a/b; grant 2 2; doubt
			message a/b 1 =; is +/b = confirmed; is a/b = confirmed; message a/b 2 = A:2`},
		{"believed by a copy of what is gone", `
			join A f:1; send 1 f; grant 1 1; leaving A = f; join B f:1 g:1; send 2 f; grant 2 1; send 3 g; grant 3 1; doubt
			is g = doubted; message f 1 = A:1 B:1; is g = confirmed; is f = confirmed`},
		{"believed by what was never answered", `
			join A +/b:2 a/b:2; send 1 +/b; send 2 a/b; message a/b 1 = A:2; message a/b 2 =; cut +/b; cut a/b; doubt
			message a/b 2 =; is +/b = confirmed`},
		{"believed by what came before", `
			join A +/b:2 a/b:2; send 1 +/b; grant 1 2; send 2 a/b; grant 2 2; doubt; repeated a/b 1; is +/b = confirmed
			send 3 +/b; send 4 a/b; message a/b 4 =; message a/b 3 = A:2`},
		{"confirmed by what came before", "join A f:1; send 1 f; cut f; repeated f 1; is f = confirmed; repeated g 1; repeated f 7"},
		{"left in doubt: the choice stays", `
			join A +/b:2 a/b:2; send 1 +/b; grant 1 2; send 2 a/b; grant 2 2; doubt; leaving A = +/b a/b
			message a/b 2 =; message a/b 1 = A:2`},
		{"not believed for what was granted since", `
			join A f:1 g:1; send 1 f; grant 1 1; send 2 g; grant 2 1; doubt
			send 3 f; grant 3 1; message f 3 = A:1; is f = confirmed; is g = doubted`},
		{"doubted twice", `
			join A f:1 g:1; send 1 f; grant 1 1; send 2 g; grant 2 1; doubt; message f 1 = A:1; is g = confirmed
			doubt; is g = doubted; message f 1 = A:1; is g = confirmed`},
		{"lost after a doubt", `
			join A f:1 g:1; send 1 f; grant 1 1; send 2 g; grant 2 1; doubt; lose
			message f 1 = A:1; is f = confirmed; is g = absent`},

		{"ending while subscribing", `
			join A f:1; send 1 f; grant 1 1; leaving A = f; join B f:1; complete f = false; send 2 f
			message f 1 = A:1 B:1; message f 2 = A:1 B:1; is f = confirmed; leave A =; message f 2 = B:1; leave B = f`},
		{"ending: the choice stays", `
			join A +/b:1 a/b:2; send 1 +/b; grant 1 1; send 2 a/b; grant 2 2; message a/b 1 =; leaving A = +/b a/b
			message a/b 1 =; message a/b 2 = A:2`},
		{"ending in part: the choice stays", `
			join A +/b:1 a/b:2; send 1 +/b; grant 1 1; send 2 a/b; grant 2 2; join B +/b:1; leaving A = a/b
			message a/b 1 = B:1; message a/b 2 = A:2`},

		{"shared", `
			join A $share/g/f:1; send 1 $share/g/f; grant 1 1; message f 1 = A:1; message f - = A:1`},
		{"shared and not shared", `
			join A $share/g/f:2 f:1; send 1 $share/g/f; grant 1 2; send 2 f; grant 2 1
			message f 1 =; message f 2 = A:1; message f - = A:2`},
		{"shared by two groups", `
			join A $share/g/f:1 $share/h/f:1; send 1 $share/g/f; grant 1 1; send 2 $share/h/f; grant 2 1
			message f 1 = A:1; message f 2 = A:1`},

		{"overlapping", `
			join A a/+:1 a/b:2 #:0; send 1 a/+; grant 1 1; send 2 a/b; grant 2 2; send 3 #; grant 3 0
			message a/b 1 =; message a/b 2 = A:2; message a/b 3 =; message a/c 1 = A:1; message a/c 3 =; message x 3 = A:0
			message a/b 1,2,3 = A:2; message a/b - = A:2`},
		{"overlapping, one not granted yet", `
			join A a/+:2 a/b:1; send 1 a/+; send 2 a/b; grant 2 1
			message a/b 2 = A:1; message a/b 1 = A:2; message a/b 2 =`},
		{"overlapping, of two holders", `
			join A a/+:1; join B a/b:1; send 1 a/+; grant 1 1; send 2 a/b; grant 2 1
			message a/b 1 = A:1; message a/b 2 = B:1; message a/b 1,2 = A:1 B:1; message a/b 7 = A:1 B:1`},

		{"held twice", `
			join A f:1; send 1 f; grant 1 1; settle A; join B f:1; settle B; complete f = true; eldest f = A
			message f 1 = A:1 B:1; leaving A =; eldest f = B; message f 1 = A:1 B:1; leave A =; message f 1 = B:1; leave B = f`},
		{"held twice, one for more", `
			join A f:0; send 1 f; grant 1 0; join B f:2; complete f = false; qos f = 2; send 2 f; grant 2 2
			message f 2 = A:0 B:2; leave B =; qos f = 2; complete f = true`},
		{"held twice, one for more and not sent", "join A f:0; send 1 f; grant 1 0; join B f:2; leave B =; qos f = 0; complete f = true"},
		{"the eldest waits", "join A f:1; join B f:1; settle B; eldest f = B; settle A; eldest f = A; leaving A =; eldest f = B; leaving B = f; eldest f = nobody"},

		{"resubscribed after a lost session", `
			join A f:1; send 1 f; grant 1 1; lose; is f = absent; complete f = false
			send 2 f; grant 2 1; message f 2 = A:1; message f 1 = A:1`},
		{"resubscribed, an old copy comes late", `
			join A a/+:1 a/b:2; send 1 a/+; grant 1 1; send 2 a/b; grant 2 2; send 3 a/+; grant 3 1; send 4 a/b; grant 4 2
			message a/b 1 =; message a/b 2 = A:2; message a/b 3 =; message a/b 4 = A:2`},

		{"retained for a late holder", `
			join A f:1; send 1 f for A; grant 1 1; join B f:1; send 2 f for B; grant 2 1
			retained f 2 = B:1; message f 2 = A:1 B:1; retained f 1 = A:1`},
		{"retained for a late holder, without identifiers", `
			join A f:1; send 0 f for A; grant 0 1; retained f - = A:1; join B f:1; send 0 f for B; retained f - = A:1
			grant 0 1; retained f - = B:1; message f - = A:1 B:1`},
		{"retained for all", "join A f:1; join B f:1; send 1 f for all; grant 1 1; retained f 1 = A:1 B:1; retained f - = A:1 B:1"},
		{"retained for one who left", "join A f:1; join B f:1; send 1 f for B; grant 1 1; leave B =; retained f 1 = A:1"},
		{"retained, overlapping", `
			join A +/b:1 a/b:2; send 1 +/b for A; grant 1 1; send 2 a/b; grant 2 2
			retained a/b 1 = A:1; retained a/b 2 =; message a/b 1 =; message a/b 2 = A:2`},

		{"gone and wanted again", `
			join A f:1; join B #:1; send 1 f; grant 1 1; send 2 #; grant 2 1; leave A = f; join C f:1
			message f 1 = C:1; message f 2 = B:1; message f 1,2 = B:1 C:1
			send 3 f; message f 1 = C:1; message f 3 = C:1; leave C = f; message f 1 =; message f 3 =`},
		{"gone, and somebody has it and another filter", `
			join A f:1; send 1 f; grant 1 1; leave A = f; join C f:1 #:2; send 2 #; grant 2 2; send 3 f; grant 3 1
			message f 1 =; message f 2 = C:2; message f 3 =`},
		{"gone", "join A f:1; join B #:1; send 1 f; grant 1 1; send 2 #; grant 2 1; leave A = f; message f 1 =; message f 2 = B:1; message f 9 = B:1"},
	} {
		t.Run(c.name, func(t *testing.T) { play(t, c.script) })
	}
}

func TestOptionsAreCommon(t *testing.T) {
	p := play(t, "")
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"A", Options{NoLocal: true}, ""},
		{"B", Options{NoLocal: true}, ""},
		{"C", Options{}, "refused"},
		{"D", Options{NoLocal: true, RetainAsPublished: true}, "refused"},
	} {
		if got := p.join(c.name, c.o, []string{"f:1"}); got != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	if o := p.routes["f"].Options(); o != (Options{NoLocal: true}) {
		t.Errorf("%+v", o)
	}
}

// With Retain As Published the RETAIN flag does not tell a message kept from before: everybody gets it.
func TestRetainAsPublished(t *testing.T) {
	p := play(t, "")
	p.join("A", Options{RetainAsPublished: true}, []string{"f:1"})
	p.join("B", Options{RetainAsPublished: true}, []string{"f:1"})
	p.play("send 1 f for B; grant 1 1; retained f 1 = A:1 B:1; retained f - = A:1 B:1")
}

func TestPrefixes(t *testing.T) {
	r := New([]string{"$queue/"})
	h := &Holder{Owner: "A"}
	r.Join(h, "$queue/f", 1)
	if targets, _ := r.Targets(r.Lookup("f"), nil, false); len(targets) != 1 || targets[0].Holder != h {
		t.Errorf("targets %v", targets)
	}
}

func TestIdentifiers(t *testing.T) {
	r := New(nil)
	r.StartAt(MaxIdentifier - 1)
	if a, b := r.NextIdentifier(), r.NextIdentifier(); a != MaxIdentifier || b != 1 {
		t.Errorf("%d, %d", a, b)
	}
}

// What is remembered of a route, and of routes that are gone, is bounded.
func TestRemembered(t *testing.T) {
	r := New(nil)
	h := &Holder{Owner: "A"}
	r.Join(h, "f", 1)
	for id := range uint32(3 * rememberedSubscribes) {
		r.Sent(h.Routes()[0], id+1, false, nil)
	}
	if n := len(h.Routes()[0].subscribes); n != rememberedSubscribes {
		t.Errorf("%d SUBSCRIBEs", n)
	}
	last := uint32(3 * rememberedSubscribes)
	if rt := h.Routes()[0]; rt.find([]uint32{last}) == nil || rt.find([]uint32{last - rememberedSubscribes}) != nil {
		t.Error("not the latest")
	}
	for id := range uint32(2 * rememberedIdentifiers) {
		h := &Holder{}
		r.Join(h, "g", 1)
		r.Sent(h.Routes()[0], 1000+id, false, nil)
		r.Leave(h)
	}
	if n := len(r.retired); n != rememberedIdentifiers {
		t.Errorf("%d identifiers", n)
	}
	if r.Retired([]uint32{1000}) || !r.Retired([]uint32{7, 999 + 2*rememberedIdentifiers}) {
		t.Error("not the latest")
	}
}

func TestCache(t *testing.T) {
	r := New(nil)
	var c Cache
	get := func(name string) *Topic { return c.Get([]byte(name), r) }
	if get("f") != nil {
		t.Error("something is in an empty cache")
	}
	f := c.Put(r.Lookup("f"))
	if get("f") != f || get("g") != nil {
		t.Error("f is not there, or g is")
	}
	h := &Holder{}
	r.Join(h, "f", 1)
	if get("f") != nil {
		t.Error("what was looked up before a Join is there")
	}
	c.Put(r.Lookup("f"))
	r.Leave(h)
	if get("f") != nil {
		t.Error("what was looked up before a Leave is there")
	}
	long := string(make([]byte, cachedLength+1))
	if c.Put(r.Lookup(long)); get(long) != nil {
		t.Error("a long name is there")
	}
}

// Holders of one filter leave in any order, in time that grows with their number.
func TestManyLeave(t *testing.T) {
	const n = 100_000
	r := New(nil)
	holders := make([]*Holder, n)
	for i := range holders {
		holders[i] = &Holder{Owner: i}
		r.Join(holders[i], "f", byte(i%3))
	}
	rt := holders[0].Routes()[0]
	began := time.Now()
	for i := range holders {
		h := holders[(i*7919)%n]
		if got := r.StartLeaving(h); (len(got) > 0) != (i == n-1) {
			t.Fatalf("%d: %q", i, got)
		}
		r.Leave(h)
		if left := n - 1 - i; left < 100 && len(rt.Holders()) != left {
			t.Fatalf("%d holders, want %d", len(rt.Holders()), left)
		}
	}
	if r.Holds("f") {
		t.Error("the route is still there")
	}
	if lasts := time.Since(began); lasts > 10*time.Second { // some 30 ms; quadratic it was a minute
		t.Errorf("it took %v", lasts)
	}
}
