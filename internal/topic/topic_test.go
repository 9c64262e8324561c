package topic_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// check is a string and the rule it breaks; none if rule is empty.
type check struct {
	name string
	in   string
	rule string
}

// strings that are wrong, or unusual and right, as a name and as a filter alike.
var common = []check{
	{"4.7.3-1 empty", "", "MQTT-4.7.3-1"},
	{"4.7.3-1 one byte", "a", ""},
	{"4.7.3-1 one slash", "/", ""},
	{"4.7.3-1 one space", " ", ""},
	{"4.7.3-2 alone", "\x00", "MQTT-4.7.3-2"},
	{"4.7.3-2 first", "\x00bcdefghijk", "MQTT-4.7.3-2"},
	{"4.7.3-2 middle of a long one", "abcdefghij\x00klmnopqrstuvwxyz", "MQTT-4.7.3-2"},
	{"4.7.3-2 last", "abcdefghijk\x00", "MQTT-4.7.3-2"},
	{"4.7.3-2 after other bytes than ASCII", "température/\x00", "MQTT-4.7.3-2"},
	{"4.7.3-3 longest", strings.Repeat("x", 65535), ""},
	{"4.7.3-3 too long", strings.Repeat("x", 65536), "MQTT-4.7.3-3"},
	{"4.7.3-3 counts bytes: longest", strings.Repeat("é", 32767) + "x", ""},
	{"4.7.3-3 counts bytes: too long", strings.Repeat("é", 32768), "MQTT-4.7.3-3"},
	{"4.7.3-3 only slashes", strings.Repeat("/", 65535), ""},
	{"4.7.3-4 empty levels", "//a//", ""},
	{"4.7.3-4 spaces", " a b / c ", ""},
	{"4.7.2 dollar first", "$SYS/uptime", ""},
	{"4.7.2 dollar later", "a/$b", ""},
	{"4.8.2 $share without slash is no share", "$share", ""},
	{"4.8.2 $shared is no share", "$shared/g/a", ""},
	{"1.5.4-1 two, three and four bytes", "é/€/𝄞", ""},
	{"1.5.4-1 continuation alone", "a/\x80", "MQTT-1.5.4-1"},
	{"1.5.4-1 truncated", "abcdefghijk\xe2\x82", "MQTT-1.5.4-1"},
	{"1.5.4-1 overlong", "a\xc0\xaf", "MQTT-1.5.4-1"},
	{"1.5.4-1 overlong U+0000", "\xc0\x80", "MQTT-1.5.4-1"},
	{"1.5.4-1 surrogate", "\xed\xa0\x80", "MQTT-1.5.4-1"},
	{"1.5.4-1 above U+10FFFF", "\xf4\x90\x80\x80", "MQTT-1.5.4-1"},
	{"1.5.4-1 not UTF-8 at all", "\xff", "MQTT-1.5.4-1"},
	{"1.5.4-3 byte order mark", "\ufeffa", ""},
	{"1.5.4 control and non-characters", "\x01\x1f\x7f\u0085\uffff", ""},
}

var names = []check{
	{"4.7.0-1 + alone", "+", "MQTT-4.7.0-1"},
	{"4.7.0-1 # alone", "#", "MQTT-4.7.0-1"},
	{"4.7.0-1 + in a level", "abc+def", "MQTT-4.7.0-1"},
	{"4.7.0-1 # in a level", "abcdefghijklm#nop", "MQTT-4.7.0-1"},
	{"4.7.0-1 # last", "a/b/c/d/e/f/g/#", "MQTT-4.7.0-1"},
	{"4.7.0-1 + after other bytes than ASCII", "é/+", "MQTT-4.7.0-1"},
	{"4.7.0-1 neighbours of # and +", "\"$*,!3cks\x01", ""},
	{"4.8.2 not for names", "$share/", ""},
	{"4.8.2 not for names either", "$share/g", ""},
}

var filters = []check{
	{"4.7.1-1 alone", "#", ""},
	{"4.7.1-1 last level", "a/#", ""},
	{"4.7.1-1 after an empty level", "/#", ""},
	{"4.7.1-1 after +", "+/#", ""},
	{"4.7.1-1 after $", "$SYS/#", ""},
	{"4.7.1-1 end of a level", "a#", "MQTT-4.7.1-1"},
	{"4.7.1-1 start of a level", "a/#b", "MQTT-4.7.1-1"},
	{"4.7.1-1 not last", "a/#/b", "MQTT-4.7.1-1"},
	{"4.7.1-1 first", "#/a", "MQTT-4.7.1-1"},
	{"4.7.1-1 slash after it", "#/", "MQTT-4.7.1-1"},
	{"4.7.1-1 twice", "##", "MQTT-4.7.1-1"},
	{"4.7.1-1 with +", "+#", "MQTT-4.7.1-1"},
	{"4.7.1-2 alone", "+", ""},
	{"4.7.1-2 first", "+/a", ""},
	{"4.7.1-2 middle", "a/+/b", ""},
	{"4.7.1-2 last", "/+", ""},
	{"4.7.1-2 every level", "+/+/+", ""},
	{"4.7.1-2 end of a level", "a+", "MQTT-4.7.1-2"},
	{"4.7.1-2 start of a level", "a/+b/c", "MQTT-4.7.1-2"},
	{"4.7.1-2 twice", "a/++", "MQTT-4.7.1-2"},
	{"4.8.2-1 shared", "$share/g/a/+/#", ""},
	{"4.8.2-1 shared $", "$share/g/$SYS/#", ""},
	{"4.8.2-1 shared slash", "$share/g//", ""},
	{"4.8.2-1 shared name with $", "$share/$/a", ""},
	{"4.8.2-1 no share name", "$share/", "MQTT-4.8.2-1"},
	{"4.8.2-1 empty share name", "$share//a", "MQTT-4.8.2-1"},
	{"4.8.2-2 + in the share name", "$share/g+/a", "MQTT-4.8.2-2"},
	{"4.8.2-2 # in the share name", "$share/#/a", "MQTT-4.8.2-2"},
	{"4.8.2-2 # as the share name", "$share/#", "MQTT-4.8.2-2"},
	{"4.8.2-2 no filter", "$share/g", "MQTT-4.8.2-2"},
	{"4.8.2-2 empty filter", "$share/g/", "MQTT-4.8.2-2"},
	{"4.7.1-1 in a shared filter", "$share/g/a#", "MQTT-4.7.1-1"},
	{"4.7.1-2 in a shared filter", "$share/g/a+", "MQTT-4.7.1-2"},
	{"4.7.3-2 in a shared filter", "$share/g/\x00", "MQTT-4.7.3-2"},
}

func (c check) run(t *testing.T, err error) {
	t.Helper()
	if c.rule == "" {
		if err != nil {
			t.Errorf("%.40q: %v", c.in, err)
		}
		return
	}
	var e *topic.Error
	if !errors.As(err, &e) || e.Rule != c.rule {
		t.Fatalf("%.40q: %v, want %s", c.in, err, c.rule)
	}
	if e.Text == "" || !strings.Contains(e.Error(), e.Text) || !strings.Contains(e.Error(), e.Rule) {
		t.Errorf("error %q does not say its text and rule", e.Error())
	}
}

// [MQTT-1.5.4] [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-4.7.0-1] [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3]
// [MQTT311-1.5.3-1] [MQTT311-1.5.3-2] [MQTT311-1.5.3a] [MQTT311-4.7.1-1] [MQTT311-4.7.3-1] [MQTT311-4.7.3-2]
// [MQTT311-4.7.3-3]
func TestCheckName(t *testing.T) {
	for _, c := range append(names, common...) {
		t.Run(c.name, func(t *testing.T) { c.run(t, topic.CheckName(c.in)) })
	}
}

// [MQTT-3.8.3-1] [MQTT-3.10.3-1] [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3]
// [MQTT-4.8.2-1] [MQTT-4.8.2-2] [MQTT311-3.8.3-1] [MQTT311-3.10.3-1] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3]
// [MQTT311-4.7.3-1] [MQTT311-4.7.3-2] [MQTT311-4.7.3-3]
func TestCheckFilter(t *testing.T) {
	for _, c := range append(filters, common...) {
		t.Run(c.name, func(t *testing.T) { c.run(t, topic.CheckFilter(c.in)) })
	}
}

// Eight bytes are read at a time, so every byte is tried at every place of names of several lengths.
func TestCheckNameEveryByteEverywhere(t *testing.T) {
	for length := 1; length <= 25; length++ {
		for at := range length {
			for b := range 256 {
				name := []byte(strings.Repeat("x", length))
				name[at] = byte(b)
				bad := b == 0 || b == '+' || b == '#' || b >= 0x80
				if err := topic.CheckName(string(name)); (err != nil) != bad {
					t.Fatalf("%q: %v", name, err)
				}
			}
		}
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	for _, s := range []string{"sensors/kitchen/temp", "température/€", "a/\x00", "$share/g/a#"} {
		if n := testing.AllocsPerRun(100, func() {
			topic.CheckName(s)
			topic.CheckFilter(s)
		}); n != 0 {
			t.Errorf("%q: %v allocations", s, n)
		}
	}
}

var matches = []struct {
	name   string
	filter string
	topic  string
	want   bool
}{
	{"4.7.1.2 # matches the parent", "plant/line1/#", "plant/line1", true},
	{"4.7.1.2 # matches a child", "plant/line1/#", "plant/line1/press", true},
	{"4.7.1.2 # matches all below", "plant/line1/#", "plant/line1/press/7/oil", true},
	{"4.7.1.2 # matches an empty level", "plant/line1/#", "plant/line1/", true},
	{"4.7.1.2 # does not match the grandparent", "plant/line1/#", "plant", false},
	{"4.7.1.2 # does not match within a level", "plant/line1/#", "plant/line10", false},
	{"4.7.1.2 # alone matches one level", "#", "plant", true},
	{"4.7.1.2 # alone matches many levels", "#", "plant/line1/press", true},
	{"4.7.1.2 # alone matches a slash", "#", "/", true},
	{"4.7.1.2 /# matches below the empty level", "/#", "/plant", true},
	{"4.7.1.2 /# does not match without it", "/#", "plant", false},
	{"4.7.1.3 + matches one level", "plant/+/oil", "plant/press/oil", true},
	{"4.7.1.3 + matches an empty level", "plant/+/oil", "plant//oil", true},
	{"4.7.1.3 + does not match no level", "plant/+", "plant", false},
	{"4.7.1.3 + matches a last empty level", "plant/+", "plant/", true},
	{"4.7.1.3 + does not match two levels", "plant/+", "plant/press/oil", false},
	{"4.7.1.3 + first", "+/oil", "press/oil", true},
	{"4.7.1.3 + alone", "+", "press", true},
	{"4.7.1.3 + alone does not match a leading slash", "+", "/press", false},
	{"4.7.1.3 /+ matches a leading slash", "/+", "/press", true},
	{"4.7.1.3 +/+ matches a leading slash", "+/+", "/press", true},
	{"4.7.1.3 +/# matches one level", "+/#", "press", true},
	{"4.7.1.3 +/# matches many levels", "+/#", "press/7/oil", true},
	{"4.7.2-1 # and $", "#", "$SYS/uptime", false},
	{"4.7.2-1 + and $", "+/uptime", "$SYS/uptime", false},
	{"4.7.2-1 +/# and $", "+/#", "$SYS/uptime", false},
	{"4.7.2-1 + and $ alone", "+", "$SYS", false},
	{"4.7.2-1 $SYS/#", "$SYS/#", "$SYS/uptime", true},
	{"4.7.2-1 $SYS/# matches its parent", "$SYS/#", "$SYS", true},
	{"4.7.2-1 $SYS/+", "$SYS/+", "$SYS/uptime", true},
	{"4.7.2-1 not below the first level", "a/+/b", "a/$x/b", true},
	{"4.7.2-1 not below the first level either", "a/#", "a/$x", true},
	{"4.7.3-4 same", "a/b", "a/b", true},
	{"4.7.3-4 case", "ACCOUNTS", "Accounts", false},
	{"4.7.3-4 leading slash", "/a", "a", false},
	{"4.7.3-4 trailing slash", "a/", "a", false},
	{"4.7.3-4 empty level", "a//b", "a/b", false},
	{"4.7.3-4 same empty level", "a//b", "a//b", true},
	{"4.7.3-4 composed and decomposed", "caf\u00e9", "cafe\u0301", false},
	{"4.7.3-4 longer name", "a", "a/b", false},
	{"4.7.3-4 longer filter", "a/b", "a", false},
	{"4.7.3-4 prefix of a level", "ab", "abc", false},
	{"4.7.3-4 space", "a b", "a b", true},
}

// [MQTT-3.3.2-3] [MQTT-4.7.2-1] [MQTT-4.7.3-4] [MQTT311-3.3.2-3] [MQTT311-4.7.2-1] [MQTT311-4.7.3-4]
func TestMatch(t *testing.T) {
	for _, c := range matches {
		t.Run(c.name, func(t *testing.T) {
			if got := topic.Match(c.filter, c.topic); got != c.want {
				t.Errorf("Match(%q, %q) = %v", c.filter, c.topic, got)
			}
			var x topic.Index[int]
			x.Add(c.filter, 1)
			if got := len(x.AppendMatches(nil, c.topic)) == 1; got != c.want {
				t.Errorf("an index with %q matches %q: %v", c.filter, c.topic, got)
			}
		})
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	matched := false
	if n := testing.AllocsPerRun(100, func() { matched = topic.Match("a/+/c/#", "a/b/c/d/e") }); n != 0 || !matched {
		t.Errorf("%v allocations, matched: %v", n, matched)
	}
}

func TestInner(t *testing.T) {
	prefixes := []string{"$queue/", "$exclusive/"}
	for _, c := range []struct {
		filter   string
		prefixes []string
		want     string
		shared   bool
	}{
		{"a/b", prefixes, "a/b", false},
		{"$share/g/a/b", nil, "a/b", true},
		{"$share/g/#", nil, "#", true},
		{"$share/g//", nil, "/", true},
		{"$share/g/$SYS/#", nil, "$SYS/#", true},
		{"$share/g/$share/h/a", nil, "$share/h/a", true},
		{"$share", nil, "$share", false},
		{"$queue/a", nil, "$queue/a", false},
		{"$queue/a", prefixes, "a", false},
		{"$exclusive/a/+", prefixes, "a/+", false},
		{"$exclusive/$queue/a", prefixes, "$queue/a", false},
		{"$share/g/$exclusive/a", prefixes, "a", true},
		{"$queue/", prefixes, "$queue/", false},
		{"a/$queue/b", prefixes, "a/$queue/b", false},
	} {
		if got := topic.Inner(c.filter, c.prefixes); got != c.want {
			t.Errorf("Inner(%q, %q) = %q, want %q", c.filter, c.prefixes, got, c.want)
		}
		if got := topic.Shared(c.filter); got != c.shared {
			t.Errorf("Shared(%q) = %v", c.filter, got)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, cases := range [][]check{common, names, filters} {
		for _, c := range cases {
			f.Add(c.in)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		filter, name := topic.CheckFilter(s), topic.CheckName(s)
		wild := strings.ContainsAny(s, "+#")
		if filter == nil && !wild && name != nil {
			t.Errorf("%q is a filter without wildcards, and not a name: %v", s, name)
		}
		if name == nil && !topic.Shared(s) && filter != nil {
			t.Errorf("%q is a name, and not a filter: %v", s, filter)
		}
		if inner := topic.Inner(s, nil); filter == nil && topic.CheckFilter(inner) != nil && !topic.Shared(inner) {
			t.Errorf("%q has the inner filter %q, which is wrong", s, inner)
		}
	})
}

func FuzzMatch(f *testing.F) {
	for _, c := range matches {
		f.Add(c.filter, c.topic)
	}
	f.Fuzz(func(t *testing.T, filter, name string) {
		got := topic.Match(filter, name) // whatever the strings are, no panic
		if topic.CheckFilter(filter) != nil || topic.CheckName(name) != nil {
			return
		}
		if want := matchSlowly(strings.Split(filter, "/"), strings.Split(name, "/")); got != want {
			t.Errorf("Match(%q, %q) = %v", filter, name, got)
		}
	})
}

// matchSlowly is Match written as the specification says it.
func matchSlowly(filter, name []string) bool {
	if strings.HasPrefix(name[0], "$") && (filter[0] == "+" || filter[0] == "#") {
		return false
	}
	for i, want := range filter {
		switch {
		case want == "#":
			return len(name) >= i
		case i == len(name):
			return false
		case want != "+" && want != name[i]:
			return false
		}
	}
	return len(name) == len(filter)
}

func BenchmarkCheckName(b *testing.B) {
	for _, c := range []struct{ name, topic string }{
		{"ascii-6", "a/b/cd"},
		{"ascii-20", "sensors/kitchen/temp"},
		{"ascii-100", strings.Repeat("level9/lev", 10)},
		{"utf8-20", "capteurs/cuisine/té"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if topic.CheckName(c.topic) != nil {
					b.Fatal("refused")
				}
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if !topic.Match("sensors/+/temp", "sensors/kitchen/temp") {
			b.Fatal("no match")
		}
	}
}
