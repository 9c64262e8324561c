package topic

import (
	"slices"
	"sort"
	"strings"
)

// leafSize is how many names a leaf of Names holds at most.
const leafSize = 128

// Names finds the values whose topic names match a topic filter: the mirror image of Index. The names are kept in order, in
// leaves of up to 128. The zero value is empty. It is not safe for concurrent use: its owner locks.
//
// In this order / comes before every other character. So a name is followed by all names that begin with its levels, and
// a walk can skip them with one search. A walk makes one search, in O(log n), for each match and for each level
// that a + stands for, at most, and the other names cost nothing.
type Names[V any] struct {
	leaves []*leaf[V] // none is empty
	size   int
}

type leaf[V any] struct{ items []named[V] }

type named[V any] struct {
	name  string
	value V
}

// Len returns how many names there are.
func (x *Names[V]) Len() int { return x.size }

// Get returns the value of name.
func (x *Names[V]) Get(name string) (v V, ok bool) {
	l, i, found := x.find(name)
	if !found {
		return v, false
	}
	return x.leaves[l].items[i].value, true
}

// Set gives name, which must be valid and is kept, the value v. It returns the value that name had before.
func (x *Names[V]) Set(name string, v V) (old V, replaced bool) {
	l, i, found := x.find(name)
	if found {
		item := &x.leaves[l].items[i]
		old, item.value = item.value, v
		return old, true
	}
	x.size++
	if len(x.leaves) == 0 {
		x.leaves = []*leaf[V]{{items: []named[V]{{name, v}}}}
		return old, false
	}
	if len(x.leaves[l].items) == leafSize {
		l, i = x.split(l, i)
	}
	leaf := x.leaves[l]
	leaf.items = slices.Insert(leaf.items, i, named[V]{name, v})
	return old, false
}

// split makes two leaves of the full leaf l. It returns where what belonged before item i of that leaf belongs now. A leaf
// to whose end is appended stays full, because names often come in order.
func (x *Names[V]) split(l, i int) (int, int) {
	full := x.leaves[l]
	half := leafSize / 2
	if i == leafSize {
		half = leafSize - 1
	}
	next := &leaf[V]{items: append(make([]named[V], 0, leafSize), full.items[half:]...)}
	clear(full.items[half:])
	full.items = full.items[:half]
	x.leaves = slices.Insert(x.leaves, l+1, next)
	if i > half {
		return l + 1, i - half
	}
	return l, i
}

// Delete removes name and returns the value that it had.
func (x *Names[V]) Delete(name string) (old V, ok bool) {
	l, i, found := x.find(name)
	if !found {
		return old, false
	}
	leaf := x.leaves[l]
	old = leaf.items[i].value
	leaf.items = slices.Delete(leaf.items, i, i+1)
	x.size--
	x.shrink(l)
	return old, true
}

// shrink removes leaf l if it is empty, or joins it with the next one if both together are half a leaf.
func (x *Names[V]) shrink(l int) {
	items := x.leaves[l].items
	switch {
	case len(items) == 0:
		x.leaves = slices.Delete(x.leaves, l, l+1)
	case l+1 < len(x.leaves) && len(items)+len(x.leaves[l+1].items) <= leafSize/2:
		x.leaves[l].items = append(items, x.leaves[l+1].items...)
		x.leaves = slices.Delete(x.leaves, l+1, l+2)
	}
	if len(x.leaves) == 0 {
		x.leaves = nil
	}
}

// find returns where name is, or otherwise where it belongs.
func (x *Names[V]) find(name string) (l, i int, found bool) {
	l, i = x.search(position{head: name})
	switch {
	case l < len(x.leaves) && i < len(x.leaves[l].items):
		found = x.leaves[l].items[i].name == name
	case l+1 < len(x.leaves) && x.leaves[l+1].items[0].name == name:
		return l + 1, 0, true
	}
	return l, i, found
}

// search returns the place of the first name that is not before p: in the leaf whose names surround p, and behind its last
// name if all are before p.
func (x *Names[V]) search(p position) (l, i int) {
	l = sort.Search(len(x.leaves), func(l int) bool { return !p.follows(x.leaves[l].items[0].name) })
	if l == 0 {
		return 0, 0
	}
	items := x.leaves[l-1].items
	return l - 1, sort.Search(len(items), func(i int) bool { return !p.follows(items[i].name) })
}

// Cursor is a walk over the names that match a filter. It stays good when names are added and removed: a walk visits every
// matching name that is there from its begin to its end, once, and perhaps names that come or go meanwhile. Its size does
// not depend on the number of names.
type Cursor struct {
	filter string
	next   position // where the walk goes on
	done   bool
}

// NewCursor returns a walk over the names that match filter, which must be valid and an inner one.
func NewCursor(filter string) Cursor { return Cursor{filter: filter} }

// Done reports whether the walk has come to its end.
func (c *Cursor) Done() bool { return c.done }

// Walk continues a walk and calls take for names that match, in order. It ends after looking at so many names, and before a
// name that take does not take, which comes again next time. It reports whether the walk has come to its end. take must
// not change the names.
func (x *Names[V]) Walk(c *Cursor, look int, take func(name string, v V) bool) (done bool) {
	l, i := x.search(c.next)
	for ; look > 0 && !c.done; look-- {
		if l < len(x.leaves) && i == len(x.leaves[l].items) {
			l, i = l+1, 0
		}
		if l >= len(x.leaves) {
			c.done = true
			break
		}
		item := &x.leaves[l].items[i]
		matches, next, more := compareWith(c.filter, item.name)
		if matches && !take(item.name, item.value) {
			return false
		}
		c.next, c.done = next, !more
		if i++; i == len(x.leaves[l].items) || next.follows(x.leaves[l].items[i].name) {
			l, i = x.search(next)
		}
	}
	return c.done
}

// position is a place between names: before head+tail, or behind it, or behind it and all names that begin with its levels.
type position struct {
	head, tail string // in two parts, because to join them would allocate
	behind     extent
}

type extent uint8

const (
	before extent = iota
	behindName
	behindLevels
)

// follows reports whether the position is behind a name.
func (p position) follows(name string) bool {
	n := common(name, p.head)
	if n < len(p.head) {
		return less(name[n:], p.head[n:])
	}
	rest := name[n:]
	switch p.behind {
	case behindName:
		return rest == ""
	case behindLevels:
		return rest == "" || rest[0] == '/'
	}
	n = common(rest, p.tail)
	return n < len(p.tail) && less(rest[n:], p.tail[n:])
}

// common returns the length of the common start of a and b.
func common(a, b string) int {
	n, most := 0, min(len(a), len(b))
	for n+8 <= most && word(a[n:]) == word(b[n:]) {
		n += 8
	}
	for n < most && a[n] == b[n] {
		n++
	}
	return n
}

// less orders two strings that have no common start and are not both empty: / comes first.
func less(a, b string) bool {
	switch {
	case a == "" || b == "":
		return a == ""
	case a[0] == '/' || b[0] == '/':
		return a[0] == '/'
	}
	return a[0] < b[0]
}

// compareWith reports whether name matches filter, and where the next name that could match can be; more is false if
// there is none. It looks at the levels of both from the left.
func compareWith(filter, name string) (matches bool, next position, more bool) {
	if name[0] == '$' && (filter[0] == '+' || filter[0] == '#') { // [MQTT-4.7.2-1]
		return false, position{head: "%"}, true // the character after $
	}
	plus := -1 // the end of the latest level for which a + stands
	for f, n := 0, 0; ; {
		fEnd, nEnd := levelEnd(filter, f), levelEnd(name, n)
		wanted, level := filter[f:fEnd], name[n:nEnd]
		switch {
		case wanted == "#":
			return true, position{head: name, behind: behindName}, true
		case wanted == "+":
			plus = nEnd
		case level < wanted:
			return false, position{head: name[:n], tail: wanted}, true
		case level > wanted && plus < 0:
			return false, position{}, false
		case level > wanted:
			return false, position{head: name[:plus], behind: behindLevels}, true
		}
		rest := filter[fEnd:]
		switch {
		case rest == "" && nEnd == len(name):
			return true, position{head: name, behind: behindLevels}, true
		case rest == "":
			return false, position{head: name[:nEnd], behind: behindLevels}, true
		case rest == "/#" && nEnd == len(name):
			return true, position{head: name, behind: behindName}, true
		case nEnd == len(name):
			return false, position{head: name, tail: leastStart(rest)}, true
		}
		f, n = fEnd+1, nEnd+1
	}
}

// levelEnd returns the end of the level that begins at i.
func levelEnd(s string, i int) int {
	if n := strings.IndexByte(s[i:], '/'); n >= 0 {
		return i + n
	}
	return len(s)
}

// leastStart returns what a name must go on with at least, to match what is left of a filter: / and the next level, if that
// is a literal one.
func leastStart(rest string) string {
	if next := rest[1:levelEnd(rest, 1)]; next == "+" || next == "#" {
		return "/"
	}
	return rest[:levelEnd(rest, 1)]
}
