// Package migration has tests only: of the pages in docs/migration, and of the programs in v3 and v5.
package migration

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are the pages with their tables, and where the names come from that need a row.
var pages = []struct {
	file   string
	module string // of Go; its packages have a section each
	root   string // the package whose section has no heading of its own
	list   string // of names, for the other languages
}{
	{file: "paho.mqtt.golang.md", module: "github.com/eclipse/paho.mqtt.golang", root: "."},
	{file: "paho.golang.md", module: "github.com/eclipse/paho.golang"},
	{file: "hbmqtt.md", list: "hbmqtt.txt"},
	{file: "zmqtt.md", list: "zmqtt.txt"},
	{file: "zerynth.md", list: "zerynth.txt"},
}

// Every name of the other libraries has a row, and every name in a first column exists.
func TestEveryNameHasARow(t *testing.T) {
	for _, p := range pages {
		t.Run(p.file, func(t *testing.T) {
			sections := readPage(t, p.file, p.root)
			want := map[string][]string{p.root: nil}
			if p.module != "" {
				want = moduleNames(t, p.module)
			} else {
				want[p.root] = listNames(t, p.list)
			}
			for name, api := range want {
				if len(api) == 0 {
					t.Errorf("package %s has no names", name)
				}
				compare(t, name, api, sections[name])
			}
			for name, rows := range sections {
				if want[name] == nil && len(rows) > 0 {
					t.Errorf("there is no package %s, and it has rows", name)
				}
			}
		})
	}
}

// compare compares a package's API with the first columns of its rows, which are patterns.
func compare(t *testing.T, in string, api []string, rows []row) {
	used := make(map[string]bool)
	for _, name := range api {
		found := slices.ContainsFunc(rows, func(r row) bool {
			return slices.ContainsFunc(r.theirs, func(pattern string) bool {
				ok, err := path.Match(pattern, name)
				if err != nil {
					t.Errorf("%s: %v", pattern, err)
				}
				used[pattern] = used[pattern] || ok
				return ok
			})
		})
		if !found {
			t.Errorf("%s: %s has no row", in, name)
		}
	}
	for _, r := range rows {
		for _, pattern := range r.theirs {
			if !used[pattern] && !slices.ContainsFunc(api, func(name string) bool { ok, _ := path.Match(pattern, name); return ok }) {
				t.Errorf("%s: there is no %s, which has a row", in, pattern)
			}
		}
	}
}

// Every row says what to use or, where there is nothing, what to do. What it names exists.
func TestEveryRowIsTrue(t *testing.T) {
	packages := map[string]map[string]bool{"mqtt": ourNames(t, ".")}
	for _, name := range []string{"codec", "mqtttest", "boltstore", "broker"} {
		packages[name] = ourNames(t, name)
	}
	for _, p := range pages {
		for _, rows := range readPage(t, p.file, p.root) {
			for _, r := range rows {
				if len(r.ours) == 0 && (r.second != "none" || r.remark == "") {
					t.Errorf("%s: %q says neither what to use nor what to do", p.file, r.theirs)
				}
				for _, name := range slices.Concat(r.ours, quoted(r.remark)) {
					if !exists(packages, name) {
						t.Errorf("%s: %q names %s, which does not exist", p.file, r.theirs, name)
					}
				}
			}
		}
	}
}

// exists reports whether a name exists in Petrel; what is not a name of Go, and commands, pass.
func exists(packages map[string]map[string]bool, name string) bool {
	if strings.HasPrefix(name, "petrel ") {
		return true
	}
	in, rest, qualified := strings.Cut(name, ".")
	if names := packages[in]; qualified && names != nil {
		return names[rest]
	}
	if !ast.IsExported(in) {
		return !token.IsIdentifier(name)
	}
	return packages["mqtt"][name]
}

// row is a row of a table.
type row struct {
	theirs, ours   []string
	second, remark string
}

var code = regexp.MustCompile("`([^`]+)`")

// quoted returns what is in backticks.
func quoted(s string) (texts []string) {
	for _, m := range code.FindAllStringSubmatch(s, -1) {
		texts = append(texts, m[1])
	}
	return texts
}

// readPage returns the rows of a page by their section: the package that the heading before them names, or root.
func readPage(t *testing.T, file, root string) map[string][]row {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "migration", file))
	if err != nil {
		t.Fatal(err)
	}
	sections, section := make(map[string][]row), root
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "## Package "); ok {
			section = strings.Trim(name, "`")
		}
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), " | ")
		if len(cells) != 3 {
			t.Errorf("%s: this row has not three columns: %s", file, line)
			continue
		}
		sections[section] = append(sections[section], row{
			theirs: quoted(cells[0]),
			ours:   quoted(cells[1]),
			second: strings.TrimSpace(cells[1]),
			remark: strings.TrimSpace(cells[2]),
		})
	}
	return sections
}

// listNames returns the names in a file of testdata.
func listNames(t *testing.T, file string) (names []string) {
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			names = append(names, line)
		}
	}
	return names
}

// moduleNames returns the exported names of all packages of a module that others can import, by package.
func moduleNames(t *testing.T, module string) map[string][]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	names := make(map[string][]string)
	err = filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if slices.Contains([]string{"internal", "cmd", "examples", "testdata"}, entry.Name()) {
			return filepath.SkipDir
		}
		name, err := filepath.Rel(root, dir)
		if api := exported(t, dir); len(api) > 0 {
			names[filepath.ToSlash(name)] = api
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// ourNames returns the exported names of a package of Petrel. The methods of a client are also those of Client.
func ourNames(t *testing.T, folder string) map[string]bool {
	names := make(map[string]bool)
	for _, name := range exported(t, filepath.Join("..", "..", folder)) {
		names[name] = true
		if in, method, ok := strings.Cut(name, "."); ok && (in == "Lifecycle" || in == "ClientV5") {
			names["Client."+method] = true
		}
	}
	return names
}

// exported returns the exported names of the package in a folder: functions and values as they are, fields and methods with
// their type before them.
func exported(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	var parsed []*ast.File
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if file.Name.Name != "main" {
			parsed = append(parsed, file)
		}
	}
	if len(parsed) == 0 {
		return nil
	}
	p, err := doc.NewFromFiles(files, parsed, "example.com/package")
	if err != nil {
		t.Fatal(err)
	}
	names = append(valueNames(p.Consts, p.Vars), funcNames("", p.Funcs)...)
	for _, typ := range p.Types {
		names = append(names, typ.Name)
		names = append(names, valueNames(typ.Consts, typ.Vars)...)
		names = append(names, funcNames("", typ.Funcs)...)
		names = append(names, funcNames(typ.Name+".", typ.Methods)...)
		names = append(names, memberNames(typ)...)
	}
	return names
}

func valueNames(groups ...[]*doc.Value) (names []string) {
	for _, v := range slices.Concat(groups...) {
		for _, name := range v.Names {
			if ast.IsExported(name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func funcNames(prefix string, functions []*doc.Func) (names []string) {
	for _, f := range functions {
		names = append(names, prefix+f.Name)
	}
	return names
}

// memberNames returns the exported fields of a struct, or the methods of an interface.
func memberNames(typ *doc.Type) (names []string) {
	for _, spec := range typ.Decl.Specs {
		var members *ast.FieldList
		switch s := spec.(*ast.TypeSpec).Type.(type) {
		case *ast.StructType:
			members = s.Fields
		case *ast.InterfaceType:
			members = s.Methods
		default:
			continue
		}
		for _, m := range members.List {
			for _, name := range m.Names {
				if name.IsExported() {
					names = append(names, typ.Name+"."+name.Name)
				}
			}
		}
	}
	return names
}
