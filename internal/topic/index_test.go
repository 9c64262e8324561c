package topic_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

func TestIndexSeveralValues(t *testing.T) {
	var x topic.Index[string]
	x.Add("a/+", "first")
	x.Add("a/+", "second")
	x.Add("a/+", "first")
	x.Add("a/b", "exact")
	x.Add("#", "all")
	want(t, &x, "a/b", "all", "first", "second", "first", "exact")
	if !x.Remove("a/+", "first") {
		t.Error("a value is not found")
	}
	want(t, &x, "a/b", "all", "second", "first", "exact")
	if x.Len() != 4 {
		t.Errorf("Len() = %d", x.Len())
	}
}

func want[T comparable](t *testing.T, x *topic.Index[T], name string, values ...T) {
	t.Helper()
	if got := x.AppendMatches(nil, name); !slices.Equal(got, values) {
		t.Errorf("%q matches %v, want %v", name, got, values)
	}
}

func TestIndexRemoveWhatIsNotThere(t *testing.T) {
	var x topic.Index[int]
	x.Add("a/b/c", 1)
	x.Add("a/+", 2)
	for _, c := range []struct {
		filter string
		v      int
	}{{"a/b/c", 2}, {"a/b", 1}, {"a", 1}, {"a/b/c/d", 1}, {"a/+/c", 2}, {"a/#", 2}, {"#", 1}, {"x", 1}} {
		if x.Remove(c.filter, c.v) {
			t.Errorf("%d was removed from %q", c.v, c.filter)
		}
	}
	if x.Len() != 2 {
		t.Errorf("Len() = %d", x.Len())
	}
	want(t, &x, "a/b/c", 1)
	want(t, &x, "a/b", 2)
}

func TestIndexAppends(t *testing.T) {
	var x topic.Index[int]
	x.Add("a", 2)
	if got := x.AppendMatches([]int{1}, "a"); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("got %v", got)
	}
	if got := x.AppendMatches(nil, ""); len(got) != 0 {
		t.Errorf("the empty name matches %v", got)
	}
}

func TestIndexMatchAllocatesNothing(t *testing.T) {
	var x topic.Index[int]
	for i, f := range []string{"a/b/c", "a/+/c", "+/b/#", "#", "x/y"} {
		x.Add(f, i)
	}
	dst := make([]int, 0, 8)
	if n := testing.AllocsPerRun(100, func() { dst = x.AppendMatches(dst[:0], "a/b/c") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(dst) != 4 {
		t.Errorf("matches %v", dst)
	}
}

// The name of most levels that there can be, against filters of as many, must cost neither stack nor time.
func TestIndexOfDeepFilters(t *testing.T) {
	slashes := strings.Repeat("/", 65535)
	plusses := strings.Repeat("+/", 32767) + "+"
	var x topic.Index[int]
	for i, f := range []string{slashes, plusses, slashes[:65534] + "#", "+/+/#"} {
		if err := topic.CheckFilter(f); err != nil {
			t.Fatal(err)
		}
		x.Add(f, i)
	}
	want(t, &x, slashes, 3, 2, 0)
	want(t, &x, slashes[:32767], 3, 1)
	if !x.Remove(slashes, 0) || !x.Remove(plusses, 1) {
		t.Error("a value is not found")
	}
	want(t, &x, slashes, 3, 2)
}

// All filters of n levels, each level "a" or +: every look-up splits at every level, and still visits a node once.
func TestIndexOfAllSplits(t *testing.T) {
	const levels = 12
	var x topic.Index[int]
	for bits := range 1 << levels {
		f := make([]string, levels)
		for i := range f {
			f[i] = "a+"[bits>>i&1:][:1]
		}
		x.Add(strings.Join(f, "/"), bits)
	}
	name := strings.Repeat("a/", levels-1) + "a"
	if got := x.AppendMatches(nil, name); len(got) != 1<<levels {
		t.Errorf("%d matches", len(got))
	}
	if got := x.AppendMatches(nil, name+strings.Repeat("/a", 30000)); len(got) != 0 {
		t.Errorf("%d matches of a longer name", len(got))
	}
}

// FuzzIndex adds and removes filters as the bytes say, and compares the index with a list that is searched with Match.
func FuzzIndex(f *testing.F) {
	f.Add([]byte("a/+\na\n-a\n+/#\n"), "a/b")
	f.Add([]byte("#\n$SYS/#\n+/+\n-#\n-$SYS/#"), "$SYS/x")
	f.Add([]byte("//\n/+/\n+\n-//\n+\n"), "//")
	f.Fuzz(func(t *testing.T, script []byte, name string) {
		var x topic.Index[int]
		var list listed
		for i, line := range strings.Split(string(script), "\n") {
			filter, remove := strings.CutPrefix(line, "-")
			if topic.CheckFilter(filter) != nil {
				continue
			}
			v := i % 2
			if remove {
				if got, want := x.Remove(filter, v), list.remove(filter, v); got != want {
					t.Fatalf("Remove(%q, %d) = %v", filter, v, got)
				}
				continue
			}
			x.Add(filter, v)
			list = append(list, entry{filter, v})
		}
		if topic.CheckName(name) == nil {
			list.compare(t, &x, name)
		}
		list.empty(t, &x)
	})
}

// The same with random filters of few different levels, so that they often match and share nodes.
func TestIndexAgainstMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(levels ...string) string {
		s := make([]string, 1+r.IntN(5))
		for i := range s {
			s[i] = levels[r.IntN(len(levels))]
		}
		return strings.Join(s, "/")
	}
	for range 300 {
		var x topic.Index[int]
		var list listed
		for range r.IntN(60) {
			filter, v := random("a", "b", "", "+", "+", "$x"), r.IntN(3)
			if r.IntN(4) == 0 {
				filter += "/#"
			}
			if filter == "" {
				continue
			}
			x.Add(filter, v)
			list = append(list, entry{filter, v})
			if e := list[r.IntN(len(list))]; r.IntN(3) == 0 {
				if x.Remove(e.filter, e.v) != list.remove(e.filter, e.v) {
					t.Fatalf("%v is not found", e)
				}
			}
		}
		for range 20 {
			if name := random("a", "b", "", "$x"); name != "" {
				list.compare(t, &x, name)
			}
		}
		list.empty(t, &x)
	}
}

type entry struct {
	filter string
	v      int
}

// listed is an index that is right because it is simple.
type listed []entry

func (l *listed) remove(filter string, v int) bool {
	i := slices.Index(*l, entry{filter, v})
	if i >= 0 {
		*l = slices.Delete(*l, i, i+1)
	}
	return i >= 0
}

func (l *listed) compare(t *testing.T, x *topic.Index[int], name string) {
	t.Helper()
	var want []int
	for _, e := range *l {
		if topic.Match(e.filter, name) {
			want = append(want, e.v)
		}
	}
	got := x.AppendMatches(nil, name)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%q matches %v, want %v of %v", name, got, want, *l)
	}
	if x.Len() != len(*l) {
		t.Fatalf("Len() = %d, want %d", x.Len(), len(*l))
	}
}

// empty removes everything from x and checks that nothing is left.
func (l *listed) empty(t *testing.T, x *topic.Index[int]) {
	t.Helper()
	for _, e := range *l {
		if !x.Remove(e.filter, e.v) {
			t.Fatalf("%v is not found", e)
		}
	}
	if !x.Unused() {
		t.Fatalf("nodes are left of %v", *l)
	}
}

// The cost of a look-up does not depend on how many filters there are.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var x topic.Index[int]
			for i := range n {
				x.Add(fmt.Sprintf("devices/%d/temp", i), i)
			}
			x.Add("devices/+/humidity", n)
			x.Add("devices/#", n)
			name := fmt.Sprintf("devices/%d/temp", n/2)
			dst := make([]int, 0, 4)
			b.ReportAllocs()
			for b.Loop() {
				dst = x.AppendMatches(dst[:0], name)
			}
			if len(dst) != 2 {
				b.Fatalf("%v", dst)
			}
		})
	}
}
