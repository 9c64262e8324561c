package topic_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// matching walks to the end, looking at so many names at a time, and returns the names.
func matching[V any](x *topic.Names[V], filter string, look int) (names []string) {
	c := topic.NewCursor(filter)
	for !x.Walk(&c, look, func(name string, _ V) bool {
		names = append(names, name)
		return true
	}) {
	}
	return names
}

// linear searches names with Match.
func linear(names []string, filter string) (matches []string) {
	for _, name := range names {
		if topic.Match(filter, name) {
			matches = append(matches, name)
		}
	}
	return matches
}

func TestNames(t *testing.T) {
	var x topic.Names[int]
	all := []string{"/", "/a", "a", "a/", "a//", "a/b", "a/b/c", "a/b/d", "a/c", "a/c/c", "a!", "a.b", "a0", "b", "b/c",
		"$SYS", "$SYS/a", "$SYS/a/b", "$", "$/a", "%", "#x"[1:], "é", "é/b"}
	for i, name := range all {
		if _, replaced := x.Set(name, i); replaced {
			t.Errorf("%q is there already", name)
		}
	}
	for i, name := range all {
		if v, ok := x.Get(name); !ok || v != i {
			t.Errorf("%q has the value %d, %v, want %d", name, v, ok, i)
		}
	}
	for _, filter := range []string{"#", "+", "+/+", "a", "a/#", "a/+", "a/+/c", "+/c", "+/b/#", "/#", "/+", "a/b/c", "a//", "a/+/", "$SYS/#",
		"$SYS/+", "$SYS", "$/+", "+/a", "+/+/b", "x", "a/b/c/d", "zzz/+", "é/+", "a/+/+", "+/+/+", "+/#", "%", "+/b"} {
		got, want := matching(&x, filter, 3), linear(all, filter)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s matches %q, want %q", filter, got, want)
		}
	}
	if old, replaced := x.Set("a/b", 100); !replaced || old != 5 {
		t.Errorf("replaced %d, %v", old, replaced)
	}
	if old, ok := x.Delete("a/b"); !ok || old != 100 {
		t.Errorf("deleted %d, %v", old, ok)
	}
	if _, ok := x.Delete("a/b"); ok || x.Len() != len(all)-1 {
		t.Errorf("%d names are left", x.Len())
	}
}

func TestNamesEmpty(t *testing.T) {
	var x topic.Names[int]
	if _, ok := x.Get("a"); ok || matching(&x, "#", 1) != nil {
		t.Error("there is something")
	}
	if _, ok := x.Delete("a"); ok || x.Len() != 0 {
		t.Error("something is deleted")
	}
}

// A name that is not taken comes again, also when it, and others, have gone or come meanwhile.
func TestWalkGoesOn(t *testing.T) {
	var x topic.Names[int]
	for _, name := range []string{"a/1", "a/2", "a/3", "a/5"} {
		x.Set(name, 0)
	}
	c := topic.NewCursor("a/+")
	var got []string
	take := func(most int) {
		x.Walk(&c, 100, func(name string, _ int) bool {
			if most == 0 {
				return false
			}
			most--
			got = append(got, name)
			return true
		})
	}
	take(1)
	x.Delete("a/1")
	take(0)
	x.Set("a/0", 0) // behind the cursor
	x.Delete("a/2")
	take(1)
	x.Set("a/4", 0)
	take(100)
	if want := []string{"a/1", "a/3", "a/4", "a/5"}; !slices.Equal(got, want) || !c.Done() {
		t.Errorf("visited %q, want %q; done %v", got, want, c.Done())
	}
	if take(100); len(got) != 4 {
		t.Errorf("after its end the walk visits %q", got[4:])
	}
}

// A walk looks at what can match, and not at everything: a name for each level that + stands for, besides the matches.
func TestWalkSkips(t *testing.T) {
	var x topic.Names[int]
	for i := range 100 {
		for j := range 1000 {
			x.Set(fmt.Sprintf("site/%d/device/%d/temperature", i, j), 0)
		}
		x.Set(fmt.Sprintf("site/%d", i), 0)
	}
	for _, c := range []struct {
		filter        string
		matches, most int // how many names it may look at
	}{
		{"site/+", 100, 301},
		{"+", 0, 2},
		{"+/+", 100, 301},
		{"site/50/device/7/temperature", 1, 5},
		{"site/50/#", 1001, 1004},
		{"site/+/device/500/+", 100, 501},
		{"site/+/nothing/#", 0, 401},
		{"other/#", 0, 2},
		{"zzz/#", 0, 2},
		{"$SYS/#", 0, 2},
		{"site/99/+/+/humidity", 0, 2100},
	} {
		n := len(matching(&x, c.filter, 1<<30))
		if n != c.matches {
			t.Errorf("%s: %d matches, want %d", c.filter, n, c.matches)
		}
		cursor, looks := topic.NewCursor(c.filter), 1
		for !x.Walk(&cursor, 1, func(string, int) bool { return true }) {
			looks++
		}
		if looks > c.most {
			t.Errorf("%s: a walk looks at %d names, want at most %d", c.filter, looks, c.most)
		}
	}
}

// Names that come in order fill their leaves, and an emptied index holds nothing.
func TestNamesGrowAndShrink(t *testing.T) {
	var x topic.Names[int]
	const n = 20_000
	for i := range n {
		x.Set(fmt.Sprintf("%06d", i), i)
	}
	if leaves := x.Leaves(); leaves > n/100 {
		t.Errorf("%d names in order take %d leaves", n, leaves)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	order := rng.Perm(n)
	for k, i := range order {
		if old, ok := x.Delete(fmt.Sprintf("%06d", i)); !ok || old != i {
			t.Fatalf("%d is not there", i)
		}
		if left := n - k - 1; x.Len() != left || x.Leaves() > 1+left/16 {
			t.Fatalf("%d names in %d leaves, want %d", x.Len(), x.Leaves(), left)
		}
	}
}

// Whatever comes and goes during a walk: what is there all the time is visited once, in order, and nothing that does not match.
func TestWalkModel(t *testing.T) {
	levels := []string{"", "a", "b", "a.", "a-", "$", "é", "aa"}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		level := func() string { return levels[rng.IntN(len(levels))] }
		name := func() string {
			parts := make([]string, 1+rng.IntN(4))
			for i := range parts {
				parts[i] = level()
			}
			if n := strings.Join(parts, "/"); n != "" {
				return n
			}
			return "a"
		}
		filter := func() string {
			parts := strings.Split(name(), "/")
			for i := range parts {
				if rng.IntN(3) == 0 {
					parts[i] = "+"
				}
			}
			if rng.IntN(3) == 0 {
				parts[len(parts)-1] = "#"
			}
			return strings.Join(parts, "/")
		}
		var x topic.Names[string]
		model, gone := map[string]string{}, map[string]bool{}
		change := func() {
			if n := name(); rng.IntN(3) > 0 {
				x.Set(n, n)
				model[n] = n
			} else {
				_, want := model[n]
				if _, ok := x.Delete(n); ok != want {
					t.Fatalf("seed %d: deleting %q: %v", seed, n, ok)
				}
				delete(model, n)
				gone[n] = true
			}
		}
		for range 300 {
			change()
		}
		for range 50 {
			f := filter()
			there := maps.Clone(model)
			clear(gone)
			c, visited := topic.NewCursor(f), map[string]bool{}
			for !x.Walk(&c, 1+rng.IntN(4), func(n, v string) bool {
				if n != v || visited[n] || !topic.Match(f, n) {
					t.Fatalf("seed %d: %q visits %q", seed, f, n)
				}
				if rng.IntN(5) == 0 {
					return false
				}
				visited[n] = true
				return true
			}) {
				change()
			}
			for n := range there {
				if !gone[n] && topic.Match(f, n) && !visited[n] {
					t.Fatalf("seed %d: %q does not visit %q", seed, f, n)
				}
			}
		}
		if x.Len() != len(model) {
			t.Fatalf("seed %d: %d names, want %d", seed, x.Len(), len(model))
		}
	}
}

// FuzzNames puts names in and takes some out, and compares a walk with a search by Match.
func FuzzNames(f *testing.F) {
	f.Add("a/b\na/c\na\n$SYS/x\na.b/c", "a/#", uint8(1))
	f.Add("a/b/c\na/b/d\nx/b/c\n/\n//", "+/b/+", uint8(2))
	f.Add("$\n$/a\n%\n!\na", "+/#", uint8(0))
	f.Fuzz(func(t *testing.T, text, filter string, gone uint8) {
		if topic.CheckFilter(filter) != nil || topic.Shared(filter) {
			return
		}
		var x topic.Names[int]
		model := map[string]bool{}
		for i, name := range strings.Split(text, "\n") {
			if topic.CheckName(name) != nil {
				continue
			}
			x.Set(name, i)
			model[name] = true
			if gone > 0 && i%int(gone) == 1 {
				x.Delete(name)
				delete(model, name)
			}
		}
		got := matching(&x, filter, 2)
		want := linear(slices.Collect(maps.Keys(model)), filter)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q matches %q of %q, want %q", filter, got, text, want)
		}
	})
}

func TestWalkAllocatesNothing(t *testing.T) {
	var x topic.Names[int]
	for i := range 1000 {
		x.Set(fmt.Sprintf("a/%d/b", i), i)
	}
	if n := testing.AllocsPerRun(10, func() {
		c := topic.NewCursor("+/+/b")
		for !x.Walk(&c, 64, func(string, int) bool { return true }) {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkNames(b *testing.B) {
	const n = 100_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("site/%d/device/%d/temperature", i%100, i/100)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { names[i], names[j] = names[j], names[i] })
	b.Run("Set", func(b *testing.B) {
		for b.Loop() {
			var x topic.Names[int]
			for i, name := range names {
				x.Set(name, i)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/name")
	})
	var x topic.Names[int]
	for i, name := range names {
		x.Set(name, i)
	}
	for _, filter := range []string{"#", "site/+/device/+/temperature", "site/7/device/500/temperature", "site/+/device/500/+"} {
		b.Run(strings.ReplaceAll(filter, "/", "."), func(b *testing.B) {
			matches := 0
			for b.Loop() {
				c := topic.NewCursor(filter)
				for !x.Walk(&c, 64, func(string, int) bool { matches++; return true }) {
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(matches), "ns/match")
		})
	}
}
