package topic

// Unused reports whether the index holds no node, edge or value.
func (x *Index[T]) Unused() bool {
	return x.root.empty() && x.edges == nil && x.size == 0
}

// Leaves returns how many leaves there are.
func (x *Names[V]) Leaves() int { return len(x.leaves) }
