package mqtt_test

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// sourceCode is a package's source text, parsed and with its types, for tests that hold how it is built.
type sourceCode struct {
	fset  *token.FileSet
	files []*ast.File
	info  *types.Info
	pkg   *types.Package
}

// checkSource finds the types of parsed files.
func checkSource(fset *token.FileSet, files []*ast.File, imports types.Importer) (*sourceCode, error) {
	s := &sourceCode{fset: fset, files: files, info: &types.Info{
		Defs:       make(map[*ast.Ident]types.Object),
		Uses:       make(map[*ast.Ident]types.Object),
		Selections: make(map[*ast.SelectorExpr]*types.Selection),
		Types:      make(map[ast.Expr]types.TypeAndValue),
	}}
	conf := types.Config{Importer: imports}
	var err error
	s.pkg, err = conf.Check("mqtt", fset, files, s.info)
	return s, err
}

// parseText makes a source of texts by their file names. They import nothing.
func parseText(t *testing.T, texts map[string]string) *sourceCode {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		file, err := parser.ParseFile(fset, name, "package mqtt\n"+texts[name], parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	s, err := checkSource(fset, files, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rootSource is the source of this folder's package.
var rootSource = sync.OnceValues(func() (*sourceCode, error) { return readSource(".") })

// readSource returns the source of a folder's package, without tests. What it imports comes from the build cache.
func readSource(folder string) (*sourceCode, error) {
	exports, err := exportFiles(folder)
	if err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return checkSource(fset, files, importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	}))
}

// exportFiles returns the compiled form of every package that a folder's package needs, by import path.
func exportFiles(folder string) (map[string]string, error) {
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./"+folder).Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	files := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[path] = file
	}
	return files, nil
}

func root(t *testing.T) *sourceCode {
	t.Helper()
	s, err := rootSource()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// file returns the name of the file that holds a position.
func (s *sourceCode) file(pos token.Pos) string { return filepath.Base(s.fset.Position(pos).Filename) }

// functions calls f with every function and method that has a body.
func (s *sourceCode) functions(f func(*ast.FuncDecl, *types.Func)) {
	for _, file := range s.files {
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Body != nil {
				f(d, s.info.Defs[d.Name].(*types.Func))
			}
		}
	}
}

// bodies returns the functions of the package that have a body; methods of interfaces have none.
func (s *sourceCode) bodies() map[*types.Func]*ast.FuncDecl {
	all := make(map[*types.Func]*ast.FuncDecl)
	s.functions(func(d *ast.FuncDecl, f *types.Func) { all[f] = d })
	return all
}

// used calls f with every function that a piece of source names: one that it calls, or passes on.
func (s *sourceCode) used(n ast.Node, f func(*ast.Ident, *types.Func)) {
	ast.Inspect(n, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			if fn, ok := s.info.Uses[id].(*types.Func); ok {
				f(id, fn.Origin())
			}
		}
		return true
	})
}

// title names a function as a reader looks for it: Delivery.settle, or wake.
func title(f *types.Func) string {
	recv := f.Signature().Recv()
	if recv == nil {
		return f.Name()
	}
	return baseName(recv.Type()) + "." + f.Name()
}

// baseName is the name of a type or of what it points to.
func baseName(t types.Type) string {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := t.(*types.Named); ok {
		return n.Obj().Name()
	}
	return t.String()
}
