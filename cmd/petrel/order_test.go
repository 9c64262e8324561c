package main

import (
	"errors"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The functions of a file call those of others in one direction: there is no loop of files.
func TestNoLoopOfFiles(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]any{}
	for _, n := range names {
		if fits, err := build.Default.MatchFile(".", n); err != nil {
			t.Fatal(err)
		} else if fits && !strings.HasSuffix(n, "_test.go") {
			texts[n] = nil // read from the disk
		}
	}
	if loop := loopOf(callsAcross(t, texts)); loop != nil {
		t.Errorf("these files call each other in a loop: %s", strings.Join(loop, ", "))
	}
	if len(texts) < 30 {
		t.Errorf("only %d files were looked at", len(texts))
	}
	// And the test can fail.
	texts = map[string]any{
		"a.go": "package p; func a() { b() }", "b.go": "package p; type T struct{}; func b() { c(T{}) }",
		"c.go": "package p; func c(t T) { t.back() }", "d.go": "package p; func (t T) back() { b() }",
	}
	if loop := loopOf(callsAcross(t, texts)); !slices.Equal(loop, []string{"b.go", "c.go", "d.go"}) {
		t.Errorf("a loop is not found: %v", loop)
	}
}

// absent imports nothing: what other packages have does not matter here.
type absent struct{}

func (absent) Import(string) (*types.Package, error) { return nil, errors.New("not needed") }

// callsAcross returns which files' functions the functions of each file call.
func callsAcross(t *testing.T, texts map[string]any) map[string]map[string]bool {
	fset := token.NewFileSet()
	var files []*ast.File
	for name, text := range texts {
		f, err := parser.ParseFile(fset, name, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: absent{}, Error: func(error) {}}
	p, _ := config.Check("p", fset, files, &info) // what is imported is an error
	calls := map[string]map[string]bool{}
	for name := range texts {
		calls[name] = map[string]bool{}
	}
	for id, o := range info.Uses {
		if f, ok := o.(*types.Func); ok && f.Pkg() == p {
			from, to := fset.Position(id.Pos()).Filename, fset.Position(f.Pos()).Filename
			if from != to {
				calls[from][to] = true
			}
		}
	}
	return calls
}

// loopOf returns the files that are left when those are taken away, again and again, that call nothing or that nothing
// calls.
func loopOf(calls map[string]map[string]bool) []string {
	for taken := true; taken; {
		taken = false
		for name := range calls {
			called := slices.ContainsFunc(slices.Collect(maps.Values(calls)), func(c map[string]bool) bool { return c[name] })
			if len(calls[name]) > 0 && called {
				continue
			}
			delete(calls, name)
			for _, c := range calls {
				delete(c, name)
			}
			taken = true
		}
	}
	return slices.Sorted(maps.Keys(calls))
}
