package mqtt_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/CONFORMANCE.md")

const (
	statementsFile = "docs/conformance/statements.tsv"
	conformanceDoc = "docs/CONFORMANCE.md"
)

// statement is a row of statementsFile: what the specifications ask of a client, under at most one number in each.
// Numbers are written without MQTT- there, and as [MQTT-1.5.4-1] and, of 3.1.1, [MQTT311-1.5.3-1] everywhere else. What
// the specification does not number has the number of its section, with a letter where one section says several things.
type statement struct {
	chapter string
	ids     [2]string // in MQTT 5.0 and 3.1.1, with their prefix; "": that version does not say it
	rule    string    // in our words; "" if it is not for clients
	reason  string    // why it may do without a test
}

var prefixes = [2]string{"MQTT-", "MQTT311-"}

func readStatements(t *testing.T) (list []statement) {
	text, err := os.ReadFile(statementsFile)
	noErr(t, err)
	chapter := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if title, ok := strings.CutPrefix(line, "## "); ok {
			chapter = title
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, "\t")
		if len(cells) != 4 {
			t.Fatalf("%s: %q has %d columns, want 4", statementsFile, line, len(cells))
		}
		s := statement{chapter: chapter, rule: cells[2], reason: cells[3]}
		for i, number := range cells[:2] {
			if number != "" {
				s.ids[i] = prefixes[i] + number
			}
		}
		list = append(list, s)
	}
	return list
}

// mentions are where statements are named: by id the places, each once, in order.
type mentions map[string][]string

func (m mentions) add(id, place string) {
	if !slices.Contains(m[id], place) {
		m[id] = append(m[id], place)
	}
}

var bracketed = regexp.MustCompile(`\[(MQTT(?:311)?-[0-9][0-9.]*(?:-[0-9]+)?[a-z]?)\]`)

func (m mentions) addAll(text, place string) {
	for _, match := range bracketed.FindAllStringSubmatch(text, -1) {
		m.add(match[1], place)
	}
}

// source is a parsed Go file.
type source struct {
	name string
	text []byte
	file *ast.File
	set  *token.FileSet
}

func (s *source) of(n ast.Node) string {
	return string(s.text[s.set.Position(n.Pos()).Offset:s.set.Position(n.End()).Offset])
}

// sources parses the Go files of all modules.
func sources(t *testing.T) (list []*source) {
	noErr(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if base := entry.Name(); base == "testdata" || base != "." && base[0] == '.' {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(name, ".go"):
			return nil
		}
		s := &source{name: filepath.ToSlash(name), set: token.NewFileSet()}
		if s.text, err = os.ReadFile(name); err != nil {
			return err
		}
		s.file, err = parser.ParseFile(s.set, name, s.text, parser.ParseComments)
		list = append(list, s)
		return err
	}))
	return list
}

// forTests are folders whose code is not the client's: what they name is no proof that the client holds it.
func forTests(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return slices.Contains([]string{"mqtttest", "examples", "tools", "benchmarks"}, first)
}

// tested finds which tests name which statements: in the comment before the test, in its body, and in the tables at
// package level that it uses.
func tested(files []*source) mentions {
	found := mentions{}
	packages := map[string][]*source{}
	for _, s := range files {
		if strings.HasSuffix(s.name, "_test.go") && !forTests(s.name) {
			packages[path.Dir(s.name)] = append(packages[path.Dir(s.name)], s)
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(packages)) {
		tables := tablesOf(packages[folder])
		for _, s := range packages[folder] {
			for _, decl := range s.file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
					continue
				}
				place := fmt.Sprintf("[%s](../%s)", f.Name.Name, s.name)
				found.addAll(f.Doc.Text(), place)
				found.addAll(s.of(f), place)
				for _, text := range used(f, tables, map[string]bool{}) {
					found.addAll(text, place)
				}
			}
		}
	}
	return found
}

// table is a variable at package level.
type table struct {
	text string // with its comment
	node ast.Node
}

func tablesOf(files []*source) map[string]table {
	tables := map[string]table{}
	for _, s := range files {
		for _, decl := range s.file.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				for _, name := range v.Names {
					tables[name.Name] = table{g.Doc.Text() + v.Doc.Text() + s.of(v), v}
				}
			}
		}
	}
	return tables
}

// used returns the texts of the tables that a node names, and of those that they name.
func used(n ast.Node, tables map[string]table, seen map[string]bool) (texts []string) {
	ast.Inspect(n, func(n ast.Node) bool {
		name, ok := n.(*ast.Ident)
		if !ok || seen[name.Name] {
			return true
		}
		if v, ok := tables[name.Name]; ok {
			seen[name.Name] = true
			texts = append(texts, v.text)
			texts = append(texts, used(v.node, tables, seen)...)
		}
		return true
	})
	return texts
}

// enforced finds which files of the client name which statements: in comments, and in strings that are a rule of an error.
// Those are written as the specification of the connection's version has them, MQTT-1.5.3-1 or 2.1.2, and belong to 3.1.1
// if they are the argument for a parameter named v311, or a constant whose name ends so.
func enforced(files []*source, known map[string]bool) mentions {
	found := mentions{}
	parameters := versionParameters(files)
	for _, s := range files {
		if strings.HasSuffix(s.name, "_test.go") || forTests(s.name) {
			continue
		}
		place := fmt.Sprintf("[%s](../%s)", s.name, s.name)
		found.addAll(string(s.text), place)
		old := map[ast.Node]bool{} // literals of 3.1.1
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if after, ok := parameters[called(n)]; ok && after < len(n.Args) {
					old[n.Args[len(n.Args)-1-after]] = true
				}
			case *ast.ValueSpec:
				if len(n.Values) == 1 && strings.HasSuffix(n.Names[0].Name, "V311") {
					old[n.Values[0]] = true
				}
			case *ast.BasicLit:
				prefix := prefixes[0]
				if old[n] {
					prefix = prefixes[1]
				}
				rule, err := strconv.Unquote(n.Value)
				if err != nil || !isRule.MatchString(rule) {
					return true
				}
				if number, ok := strings.CutPrefix(rule, prefixes[0]); ok {
					found.add(prefix+number, place)
				} else {
					found.addSection(prefix+rule, known, place)
				}
			}
			return true
		})
	}
	return found
}

var isRule = regexp.MustCompile(`^(MQTT-)?[0-9]+(\.[0-9]+)+(-[0-9]+)?$`)

// addSection adds the statements of a section that have no number, if there are any.
func (m mentions) addSection(id string, known map[string]bool, place string) {
	for _, letter := range []string{"", "a", "b", "c"} {
		if known[id+letter] {
			m.add(id+letter, place)
		}
	}
}

// versionParameters returns, by the name of a function, how many parameters follow the one that is named v311.
func versionParameters(files []*source) map[string]int {
	parameters := map[string]int{}
	for _, s := range files {
		for _, decl := range s.file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			var names []string
			for _, field := range f.Type.Params.List {
				for _, name := range field.Names {
					names = append(names, name.Name)
				}
			}
			if i := slices.Index(names, "v311"); i >= 0 {
				parameters[f.Name.Name] = len(names) - 1 - i
			}
		}
	}
	return parameters
}

// called returns the name of the function or method that is called.
func called(c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// Every statement of the specifications that binds a client is named by a test and by the code that enforces it, or has a
// reason why not; every statement that is named exists; and docs/CONFORMANCE.md says so. -update writes it.
func TestConformance(t *testing.T) {
	statements := readStatements(t)
	files := sources(t)
	tests := tested(files)
	known := map[string]bool{}
	for _, s := range statements {
		for _, id := range s.ids {
			if known[id] && id != "" {
				t.Errorf("%s: %s is there twice", statementsFile, id)
			}
			known[id] = true
		}
	}
	code := enforced(files, known)
	for _, s := range statements {
		for _, id := range s.ids {
			if id == "" || s.reason != "" {
				continue
			}
			if len(tests[id]) == 0 {
				t.Errorf("no test holds [%s], and there is no reason why not: %s", id, s.rule)
			}
			if len(code[id]) == 0 {
				t.Errorf("no code names [%s]: %s", id, s.rule)
			}
		}
	}
	named := maps.Clone(code)
	for _, s := range files {
		named.addAll(string(s.text), s.name)
	}
	for _, id := range slices.Sorted(maps.Keys(named)) {
		if !known[id] {
			t.Errorf("[%s] is not in %s, but named in %v", id, statementsFile, named[id])
		}
	}
	doc := conformance(statements, tests, code)
	if *update {
		noErr(t, os.WriteFile(conformanceDoc, doc, 0o644))
		return
	}
	if now, err := os.ReadFile(conformanceDoc); err != nil || !bytes.Equal(now, doc) {
		t.Errorf("%s is not up to date: go test -run TestConformance -update . (%v)", conformanceDoc, err)
	}
}

// conformance writes the document.
func conformance(statements []statement, tests, code mentions) []byte {
	var b bytes.Buffer
	b.WriteString(`# Conformance

<!-- Written by TestConformance from docs/conformance/statements.tsv and the tests: go test -run TestConformance -update . -->

Every statement of MQTT 5.0 and 3.1.1 that binds a client, in our words and under its number in each specification, with the
tests that fail if the client breaks it, and the files of the client that name it. What is not numbered has the number of
its section, with a letter where one section says several things. Where a test holds a statement in one version only, it
says in which.
`)
	chapter := ""
	for _, s := range statements {
		if s.rule == "" {
			continue
		}
		if s.chapter != chapter {
			chapter = s.chapter
			fmt.Fprintf(&b, "\n## %s\n\n| 5.0 | 3.1.1 | Statement | Tests | Code |\n|---|---|---|---|---|\n", chapter)
		}
		held := s.places(tests)
		if s.reason != "" {
			held = strings.TrimPrefix(held+"<br>"+s.reason, "<br>")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s.number(0), s.number(1), s.rule, held, s.places(code))
	}
	b.WriteString("\n## Statements for servers\n\nA client may rely on them.\n")
	for i, version := range []string{"5.0", "3.1.1"} {
		var numbers []string
		for _, s := range statements {
			if s.rule == "" && s.ids[i] != "" {
				numbers = append(numbers, s.number(i))
			}
		}
		fmt.Fprintf(&b, "\nMQTT %s: %s.\n", version, strings.Join(numbers, ", "))
	}
	return b.Bytes()
}

func (s *statement) number(i int) string { return strings.TrimPrefix(s.ids[i], prefixes[i]) }

// places joins where a statement is named, and says in which version if it has numbers in both and is named under one.
func (s *statement) places(m mentions) string {
	var out []string
	both := append(slices.Clone(m[s.ids[0]]), m[s.ids[1]]...)
	slices.Sort(both)
	for _, place := range slices.Compact(both) {
		in5, in311 := slices.Contains(m[s.ids[0]], place), slices.Contains(m[s.ids[1]], place)
		switch {
		case s.ids[0] == "" || s.ids[1] == "" || in5 && in311:
		case in5:
			place += " (5.0)"
		default:
			place += " (3.1.1)"
		}
		out = append(out, place)
	}
	return strings.Join(out, ", ")
}
