package main

import (
	"context"
	"errors"
	"fmt"
	"go/constant"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
	"golang.org/x/tools/go/packages"
)

// The API is listed in text files, a line for each thing that a program can name: that of the tree in next.txt, that of a
// release in its version's file.
const nextAPI = "next.txt"

func (t *tree) apiFile(name string) string { return filepath.Join(t.folder, "api", name) }

// writeAPI writes next.txt.
func (t *tree) writeAPI(ctx context.Context) error {
	lines, err := t.api(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(t.apiFile(""), 0o777); err != nil {
		return err
	}
	return os.WriteFile(t.apiFile(nextAPI), []byte(strings.Join(lines, "\n")+"\n"), 0o666)
}

// checkAPI makes sure that next.txt is what the tree has, and tells what has changed since the latest release.
func (t *tree) checkAPI(ctx context.Context) error {
	lines, err := t.api(ctx)
	if err != nil {
		return err
	}
	listed, err := readLines(t.apiFile(nextAPI))
	if err != nil {
		return err
	}
	if gone, added := difference(listed, lines), difference(lines, listed); len(gone)+len(added) > 0 {
		return fmt.Errorf("api/%s is not what the packages have; release -api writes it:\n%s", nextAPI, changes(gone, added))
	}
	latest, err := t.latestAPI()
	if err != nil || latest == "" {
		return err
	}
	before, err := readLines(t.apiFile(latest))
	gone, added := difference(before, lines), difference(lines, before)
	fmt.Printf("since %s %d lines of the API are gone or changed, and %d are new:\n%s",
		strings.TrimSuffix(latest, ".txt"), len(gone), len(added), changes(gone, added))
	return err
}

// latestAPI returns the file of the latest release, "" before the first.
func (t *tree) latestAPI() (string, error) {
	files, err := os.ReadDir(t.apiFile(""))
	latest := ""
	for _, f := range files {
		version := strings.TrimSuffix(f.Name(), ".txt")
		if semver.IsValid(version) && (latest == "" || semver.Compare(version, strings.TrimSuffix(latest, ".txt")) > 0) {
			latest = f.Name()
		}
	}
	return latest, err
}

func readLines(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), err
}

// difference returns the lines of a that b has not; both are sorted.
func difference(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool {
		_, found := slices.BinarySearch(b, line)
		return found
	})
}

func changes(gone, added []string) string {
	var text strings.Builder
	for _, line := range gone {
		fmt.Fprintf(&text, "- %s\n", line)
	}
	for _, line := range added {
		fmt.Fprintf(&text, "+ %s\n", line)
	}
	return text.String()
}

// api lists the API of the modules that are released.
func (t *tree) api(ctx context.Context) ([]string, error) {
	var patterns []string
	for _, m := range t.released() {
		patterns = append(patterns, local(m.folder)+"/...")
	}
	loaded, err := packages.Load(&packages.Config{
		Context: ctx, Dir: t.folder, Env: append(os.Environ(), "GOWORK="+filepath.Join(t.folder, "go.work"), "GOOS=linux", "GOARCH=amd64"),
		Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps,
	}, patterns...)
	if err != nil {
		return nil, err
	}
	var errs error
	var lines []string
	for _, p := range loaded {
		for _, e := range p.Errors {
			errs = errors.Join(errs, e)
		}
		if p.Name != "main" && !strings.Contains(p.PkgPath, "/internal/") {
			lines = append(lines, listPackage(p.Types)...)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines), errs
}

// listPackage lists what a package exports.
func listPackage(p *types.Package) []string {
	l := listing{of: p}
	for _, name := range p.Scope().Names() {
		if o := p.Scope().Lookup(name); o.Exported() {
			l.object(o)
		}
	}
	return l.lines
}

// listing is the lines of a package.
type listing struct {
	of    *types.Package
	lines []string
}

func (l *listing) add(format string, args ...any) {
	l.lines = append(l.lines, l.of.Path()+": "+fmt.Sprintf(format, args...))
}

// text is a type with the names of other packages as a program writes them.
func (l *listing) text(t types.Type) string {
	return types.TypeString(t, func(p *types.Package) string {
		if p == l.of {
			return ""
		}
		return p.Name()
	})
}

// signature is a function's type without "func".
func (l *listing) signature(t types.Type) string { return strings.TrimPrefix(l.text(t), "func") }

func (l *listing) object(o types.Object) {
	switch o := o.(type) {
	case *types.Const:
		value := o.Val().ExactString()
		if o.Val().Kind() == constant.Float {
			value = o.Val().String()
		}
		l.add("const %s %s = %s", o.Name(), l.text(o.Type()), value)
	case *types.Var:
		l.add("var %s %s", o.Name(), l.text(o.Type()))
	case *types.Func:
		l.add("func %s%s", o.Name(), l.signature(o.Type()))
	case *types.TypeName:
		l.typeName(o)
	}
}

func (l *listing) typeName(o *types.TypeName) {
	if o.IsAlias() {
		l.add("type %s = %s", o.Name(), l.text(types.Unalias(o.Type())))
		return
	}
	named := o.Type().(*types.Named)
	parameters := ""
	if n := named.TypeParams(); n.Len() > 0 {
		parameters = strings.TrimPrefix(l.text(named), o.Name())
	}
	switch u := named.Underlying().(type) {
	case *types.Struct:
		l.add("type %s%s struct", o.Name(), parameters)
		for f := range u.Fields() {
			if f.Exported() {
				l.add("type %s struct, %s %s", o.Name(), f.Name(), l.text(f.Type()))
			}
		}
	case *types.Interface:
		l.interfaceType(o.Name(), parameters, u)
	default:
		l.add("type %s%s %s", o.Name(), parameters, l.text(u))
	}
	for _, f := range methods(named) {
		l.add("method (%s) %s%s", l.text(f.Signature().Recv().Type()), f.Name(), l.signature(f.Type()))
	}
}

// interfaceType lists an interface's methods. One that others cannot implement may get more.
func (l *listing) interfaceType(name, parameters string, i *types.Interface) {
	closed := ""
	for m := range i.Methods() {
		if !m.Exported() {
			closed = " that others cannot implement"
		}
	}
	l.add("type %s%s interface%s", name, parameters, closed)
	for m := range i.Methods() {
		if m.Exported() {
			l.add("type %s interface, %s%s", name, m.Name(), l.signature(m.Type()))
		}
	}
}

// methods returns the exported methods that are declared on a type.
func methods(named *types.Named) []*types.Func {
	var exported []*types.Func
	if !types.IsInterface(named) {
		for f := range named.Methods() {
			if f.Exported() {
				exported = append(exported, f)
			}
		}
	}
	return exported
}
