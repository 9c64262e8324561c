package topic

import (
	"slices"
	"strings"
)

// Index finds the values whose topic filters match a topic name. It is a trie with a node for each level of a filter.
// The zero value is an empty index. It is not safe for concurrent use: its owner locks.
//
// A look-up takes one step for each level of the name while the trie has a node for it, whatever the number of filters.
// It splits in two only at a node that has both a + child and the literal child for the name's level. No node is
// visited twice. So a name never costs more visits than the trie has nodes, however long it is, and no look-up goes deeper than
// the longest filter.
type Index[T comparable] struct {
	root  node[T]
	edges map[edge[T]]*node[T] // literal children of all nodes; nil when there are none
	size  int                  // values in the trie
}

// edge leads from a node to its child for a literal level. One map of all edges is much smaller than a map in each
// node, because most nodes have one child.
type edge[T comparable] struct {
	from  *node[T]
	level string
}

// node stands for the levels on the way from the root. Every node except the root has a value or a child.
type node[T comparable] struct {
	values   []T      // of the filter that ends here, in the order of adding
	plus     *node[T] // child for the level +
	hash     *node[T] // child for the level #, a leaf
	literals int      // children in Index.edges
}

func (n *node[T]) empty() bool {
	return len(n.values) == 0 && n.plus == nil && n.hash == nil && n.literals == 0
}

// Len returns how many values have been added and not removed.
func (x *Index[T]) Len() int { return x.size }

// Add adds v under filter, which must be valid and an inner one. The index keeps the string. Several values may have one
// filter, and a value that is added twice under the same filter is there twice.
func (x *Index[T]) Add(filter string, v T) {
	n := &x.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		next := x.child(n, level)
		if next == nil {
			next = new(node[T])
			x.attach(n, level, next)
		}
		n = next
	}
	n.values = append(n.values, v)
	x.size++
}

// Remove removes v from filter, once, and reports whether it was there.
func (x *Index[T]) Remove(filter string, v T) bool {
	return x.remove(&x.root, filter, v)
}

// remove removes v from the filter whose levels behind n are rest, and the nodes that nothing needs any more.
func (x *Index[T]) remove(n *node[T], rest string, v T) bool {
	level, rest, more := strings.Cut(rest, "/")
	next := x.child(n, level)
	if next == nil {
		return false
	}
	if more {
		if !x.remove(next, rest, v) {
			return false
		}
	} else {
		i := slices.Index(next.values, v)
		if i < 0 {
			return false
		}
		next.values = slices.Delete(next.values, i, i+1)
		x.size--
	}
	if next.empty() {
		x.detach(n, level)
	}
	return true
}

// AppendMatches appends to dst the values of all filters that match name, and returns it; a value under several of them
// comes several times. It allocates only what dst needs to grow. The order depends only on the filters in the
// index and, within a filter, on the order of adding.
func (x *Index[T]) AppendMatches(dst []T, name string) []T {
	if strings.HasPrefix(name, "$") { // wildcards at the root do not count [MQTT-4.7.2-1]
		level, rest, more := strings.Cut(name, "/")
		return x.match(dst, x.literal(&x.root, level), rest, more)
	}
	return x.match(dst, &x.root, name, true)
}

// match continues at n, which may be nil, with the levels of rest, if there are more.
func (x *Index[T]) match(dst []T, n *node[T], rest string, more bool) []T {
	for n != nil {
		if n.hash != nil { // with no more levels too: a/# matches a
			dst = append(dst, n.hash.values...)
		}
		if !more {
			return append(dst, n.values...)
		}
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if n.plus != nil {
			dst = x.match(dst, n.plus, rest, more)
		}
		n = x.literal(n, level)
	}
	return dst
}

func (x *Index[T]) literal(n *node[T], level string) *node[T] {
	if n.literals == 0 {
		return nil
	}
	return x.edges[edge[T]{n, level}]
}

// child returns the child of n for a level of a filter, or nil.
func (x *Index[T]) child(n *node[T], level string) *node[T] {
	switch level {
	case "+":
		return n.plus
	case "#":
		return n.hash
	}
	return x.literal(n, level)
}

func (x *Index[T]) attach(n *node[T], level string, child *node[T]) {
	switch level {
	case "+":
		n.plus = child
	case "#":
		n.hash = child
	default:
		if x.edges == nil {
			x.edges = make(map[edge[T]]*node[T])
		}
		x.edges[edge[T]{n, level}] = child
		n.literals++
	}
}

func (x *Index[T]) detach(n *node[T], level string) {
	switch level {
	case "+":
		n.plus = nil
	case "#":
		n.hash = nil
	default:
		delete(x.edges, edge[T]{n, level})
		n.literals--
		if len(x.edges) == 0 {
			x.edges = nil // because a map never shrinks
		}
	}
}
