package mqtt_test

import (
	"fmt"
	"go/ast"
	"go/types"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// No struct may have more fields, and no type more methods, than a new reader can keep in mind. A type that grows
// beyond that must be divided by who uses what.
const (
	mostFields  = 20
	mostMethods = 60
)

// wide names the struct that may have more fields: each option of a client has one in it.
const wide = "config"

// oversized says which types have too many fields or methods.
func oversized(s *sourceCode, fields, methods int) []string {
	var faults []string
	scope := s.pkg.Scope()
	for _, name := range scope.Names() {
		named, ok := scope.Lookup(name).Type().(*types.Named)
		if _, isType := scope.Lookup(name).(*types.TypeName); !ok || !isType {
			continue
		}
		if st, ok := named.Underlying().(*types.Struct); ok && st.NumFields() > fields && name != wide {
			faults = append(faults, fmt.Sprintf("%s has %d fields", name, st.NumFields()))
		}
		if n := named.NumMethods(); n >= methods && !types.IsInterface(named) {
			faults = append(faults, fmt.Sprintf("%s has %d methods", name, n))
		}
	}
	return faults
}

func TestSizes(t *testing.T) {
	for _, fault := range oversized(root(t), mostFields, mostMethods) {
		t.Error(fault)
	}
}

func TestOversized(t *testing.T) {
	s := parseText(t, map[string]string{"a.go": `
		type small struct{ a, b int }
		func (small) m() {}
		type large struct{ a, b, c int }
		type busy int
		func (busy) m() {}
		func (*busy) n() {}
		type config struct{ a, b, c, d int }
		type api interface{ m(); n(); o() }
		func f() { type inner struct{ a, b, c int } }`})
	want := []string{"busy has 2 methods", "large has 3 fields"}
	if got := oversized(s, 2, 2); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// holdsMu begins a line in the comment of every function that must be called with the client's mutex held, and guardedMu
// a line before those fields of a struct that need the mutex: all from there to the struct's end.
const (
	holdsMu   = "The caller holds mu."
	guardedMu = "Guarded by mu."
)

// mutexUse is what a function does with the mutex.
type mutexUse struct {
	*ast.FuncDecl
	held  bool // its comment says that the caller holds it
	locks bool // it takes it itself, or takes it again
}

// mutexUses looks at every function.
func mutexUses(s *sourceCode) map[*types.Func]mutexUse {
	uses := make(map[*types.Func]mutexUse)
	s.functions(func(d *ast.FuncDecl, f *types.Func) {
		u := mutexUse{FuncDecl: d, held: hasLine(d.Doc, holdsMu)}
		s.used(d.Body, func(_ *ast.Ident, f *types.Func) {
			u.locks = u.locks || strings.EqualFold(f.Name(), "lock")
		})
		uses[f] = u
	})
	return uses
}

// hasLine reports whether a line of a comment begins with these words, where a search finds them.
func hasLine(doc *ast.CommentGroup, words string) bool {
	for line := range strings.Lines(doc.Text()) {
		if strings.HasPrefix(line, words) {
			return true
		}
	}
	return false
}

// guardedFields returns the fields that need the mutex.
func guardedFields(s *sourceCode) map[types.Object]bool {
	fields := make(map[types.Object]bool)
	for _, file := range s.files {
		ast.Inspect(file, func(n ast.Node) bool {
			st, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			guarded := false
			for _, f := range st.Fields.List {
				guarded = guarded || hasLine(f.Doc, guardedMu)
				for _, name := range f.Names {
					if guarded {
						fields[s.info.Defs[name]] = true
					}
				}
			}
			return true
		})
	}
	return fields
}

// mutexFaults says where the comments about the mutex and the code disagree: where a function that needs it is called, or
// a field that needs it is used, by one that neither takes it nor says that its caller holds it, and where a function
// that takes it is called by one that holds it.
func mutexFaults(s *sourceCode) []string {
	uses := mutexUses(s)
	fields := guardedFields(s)
	var faults []string
	s.functions(func(d *ast.FuncDecl, f *types.Func) {
		caller := uses[f]
		if makes(f) {
			return
		}
		if !caller.held && !caller.locks {
			ast.Inspect(d.Body, func(n ast.Node) bool {
				id, ok := n.(*ast.Ident)
				if !ok {
					return true
				}
				switch o := s.info.Uses[id].(type) {
				case *types.Var:
					if fields[o.Origin()] {
						faults = append(faults, fmt.Sprintf("%s uses %s without the mutex", title(f), id.Name))
					}
				case *types.Func:
					if uses[o.Origin()].held {
						faults = append(faults, fmt.Sprintf("%s calls %s without the mutex", title(f), title(o)))
					}
				}
				return true
			})
		}
		if caller.held {
			ast.Inspect(d.Body, func(n ast.Node) bool {
				if _, later := n.(*ast.FuncLit); later {
					return false
				}
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if callee := s.called(call); callee != nil && uses[callee].locks && !uses[callee].held && callee.Name() != "lock" {
					faults = append(faults, fmt.Sprintf("%s calls %s, which takes the mutex again", title(f), title(callee)))
				}
				return true
			})
		}
	})
	slices.Sort(faults)
	return slices.Compact(faults)
}

// makes reports whether a function makes something that no other goroutine knows yet.
func makes(f *types.Func) bool {
	return f.Name() == "init" || strings.HasPrefix(strings.ToLower(f.Name()), "new")
}

// called returns the function that a call names, or nil.
func (s *sourceCode) called(call *ast.CallExpr) *types.Func {
	var id *ast.Ident
	switch f := ast.Unparen(call.Fun).(type) {
	case *ast.Ident:
		id = f
	case *ast.SelectorExpr:
		id = f.Sel
	default:
		return nil
	}
	if f, ok := s.info.Uses[id].(*types.Func); ok {
		return f.Origin()
	}
	return nil
}

func TestMutexComments(t *testing.T) {
	for _, fault := range mutexFaults(root(t)) {
		t.Error(fault)
	}
}

func TestMutexFaults(t *testing.T) {
	const types = `
		type mutex struct{}
		func (mutex) Lock() {}
		type core struct {
			mu mutex
			free int
			// Guarded by mu.
			n int
		}
		// add adds.
		// The caller holds mu.
		func (c *core) add() { c.n++ }
		func (c *core) lockedAdd() { c.mu.Lock(); c.add() }
		func newCore() *core { c := new(core); c.n = 1; return c }
	`
	for _, c := range []struct {
		text   string
		faults []string
	}{
		{"func (c *core) f() { c.free++; c.lockedAdd() }", nil},
		{"func (c *core) f() { c.n++ }", []string{"core.f uses n without the mutex"}},
		{"func (c *core) f() { c.add() }", []string{"core.f calls core.add without the mutex"}},
		{"func (c *core) f() { f := c.add; f() }", []string{"core.f calls core.add without the mutex"}},
		{"// The caller holds mu.\nfunc (c *core) f() { c.add(); c.n++ }", nil},
		{"// The\n// caller holds mu.\nfunc (c *core) f() { c.n++ }", []string{"core.f uses n without the mutex"}},
		{"// The caller holds mu.\nfunc (c *core) f() { c.lockedAdd() }", []string{"core.f calls core.lockedAdd, which takes the mutex again"}},
		{"// The caller holds mu.\nfunc (c *core) f() func() { return func() { c.lockedAdd() } }", nil},
	} {
		if got := mutexFaults(parseText(t, map[string]string{"a.go": types + c.text})); !slices.Equal(got, c.faults) {
			t.Errorf("%s: %q, want %q", c.text, got, c.faults)
		}
	}
}

// tableRow is a row of the table in CONTRIBUTING.md that says where the tests of a file are.
var tableRow = regexp.MustCompile("(?m)^\\| `([a-z_]+\\.go)` \\| (.*) \\|$")

// Whoever changes a file finds its tests: in the test file of its name, or by the table in CONTRIBUTING.md.
func TestTestFiles(t *testing.T) {
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]string)
	for _, row := range tableRow.FindAllStringSubmatch(string(text), -1) {
		tests[row[1]] = row[2]
		for name := range strings.SplitSeq(row[2], ", ") {
			name = strings.Trim(name, "`")
			if _, err := os.Stat(name); err != nil || !strings.HasSuffix(name, "_test.go") {
				t.Errorf("CONTRIBUTING.md: the tests of %s are not in %s", row[1], name)
			}
		}
	}
	s := root(t)
	for _, f := range s.files {
		name := s.file(f.Pos())
		_, err := os.Stat(strings.TrimSuffix(name, ".go") + "_test.go")
		if err != nil && tests[name] == "" {
			t.Errorf("CONTRIBUTING.md does not say where the tests of %s are", name)
		}
		delete(tests, name)
	}
	for name := range tests {
		t.Errorf("CONTRIBUTING.md has a row for %s, which does not exist", name)
	}
}
