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

const conformanceDoc = "docs/CONFORMANCE.md"

// side is one of those whom the specifications ask for something.
type side struct {
	title, intro string
	file         string                 // of its statements
	tests, code  func(name string) bool // which files hold them, and enforce them
}

var sides = []side{
	{
		title: "The client",
		intro: "Every statement that binds a client, with the tests that fail if the client breaks it, and the files of the client that name\nit.",
		file:  "docs/conformance/statements.tsv",
		tests: func(name string) bool { return !forTests(name) && !ofBroker(name) },
		code:  func(name string) bool { return !forTests(name) && !ofBroker(name) },
	},
	{
		title: "The broker",
		intro: "Every statement that binds a server, with the tests that fail if the broker breaks it, and the files that name it, of the\nbroker and of what it has in common with the client.",
		file:  "docs/conformance/server.tsv",
		tests: ofBroker,
		code:  func(name string) bool { return ofBroker(name) || ofBoth(name) },
	},
}

func ofBroker(name string) bool { return strings.HasPrefix(name, "broker/") }

// ofBoth are folders whose code both the client and the broker use.
func ofBoth(name string) bool {
	return slices.ContainsFunc([]string{"codec/", "internal/session/", "internal/topic/", "internal/wire/"}, func(folder string) bool {
		return strings.HasPrefix(name, folder)
	})
}

// statement is a row of a file of statements: what the specifications ask of one side, under at most one number in each.
// Numbers are written without MQTT- there, and as [MQTT-1.5.4-1] and, of 3.1.1, [MQTT311-1.5.3-1] everywhere else. What
// the specification does not number has the number of its section, with a letter where one section says several things.
type statement struct {
	chapter string
	ids     [2]string // in MQTT 5.0 and 3.1.1, with their prefix; "": that version does not say it
	rule    string    // in our words; "" if it is not for this side
	reason  string    // why it may do without a test
}

var prefixes = [2]string{"MQTT-", "MQTT311-"}

func readStatements(t *testing.T, file string) (list []statement) {
	text, err := os.ReadFile(file)
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
			t.Fatalf("%s: %q has %d columns, want 4", file, line, len(cells))
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

// place is how the document names the file.
func (s *source) place() string { return fmt.Sprintf("[%s](../%[1]s)", s.name) }

// fileOf returns the file that a place names.
func fileOf(place string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(place, "["), "]")
	return name
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

// forTests are folders whose code is neither the client's nor the broker's: what they name is no proof that these hold it.
func forTests(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return slices.Contains([]string{"mqtttest", "examples", "tools", "benchmarks"}, first)
}

// tested finds which tests name which statements: in the comment before the test, in its body, and in the tables at
// package level that it uses.
func tested(files []*source, in func(name string) bool) mentions {
	found := mentions{}
	packages := map[string][]*source{}
	for _, s := range files {
		if strings.HasSuffix(s.name, "_test.go") && in(s.name) {
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

// enforced finds which files of a side name which statements: in comments, and in strings that are a rule of an error.
// Those are written as the specification of the connection's version has them, MQTT-1.5.3-1 or 2.1.2, and belong to 3.1.1
// if they are the argument for a parameter named v311, or a constant whose name ends so.
func enforced(files []*source, in func(name string) bool, known map[string]bool) mentions {
	found := mentions{}
	parameters := versionParameters(files)
	for _, s := range files {
		if strings.HasSuffix(s.name, "_test.go") || !in(s.name) {
			continue
		}
		place := s.place()
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

// Every statement of the specifications is named by a test of the side that it binds, and by the code that enforces it, or
// has a reason why not; every statement that is named exists; and docs/CONFORMANCE.md says so. -update writes it.
func TestConformance(t *testing.T) {
	files := sources(t)
	var doc bytes.Buffer
	doc.WriteString(`# Conformance

<!-- Written by TestConformance from docs/conformance and the tests: go test -run TestConformance -update . -->

Every statement of MQTT 5.0 and 3.1.1, in our words and under its number in each specification. What is not numbered has the
number of its section, with a letter where one section says several things. Where a test holds a statement in one version
only, it says in which.
`)
	knownTo := map[string]map[string]bool{} // by side
	for _, side := range sides {
		statements := readStatements(t, side.file)
		known := side.known(t, statements)
		tests, code := tested(files, side.tests), enforced(files, side.code, known)
		side.check(t, statements, tests, code)
		side.write(&doc, statements, tests, code)
		knownTo[side.title] = known
	}
	named := enforced(files, func(name string) bool { return !forTests(name) }, nil)
	for _, s := range files {
		named.addAll(string(s.text), s.place())
	}
	for id, places := range named {
		for _, place := range places {
			if !slices.ContainsFunc(sides, func(side side) bool { return side.names(fileOf(place)) && knownTo[side.title][id] }) {
				t.Errorf("[%s], which %s names, is in no file of statements for it", id, place)
			}
		}
	}
	if *update {
		noErr(t, os.WriteFile(conformanceDoc, doc.Bytes(), 0o644))
		return
	}
	if now, err := os.ReadFile(conformanceDoc); err != nil || !bytes.Equal(now, doc.Bytes()) {
		t.Errorf("%s is not up to date: go test -run TestConformance -update . (%v)", conformanceDoc, err)
	}
}

// names reports whether a file may name a side's statements.
func (s *side) names(file string) bool { return s.tests(file) || s.code(file) || forTests(file) }

// known returns the numbers of a side's statements.
func (s *side) known(t *testing.T, statements []statement) map[string]bool {
	known := map[string]bool{}
	for _, st := range statements {
		for _, id := range st.ids {
			if known[id] && id != "" {
				t.Errorf("%s: %s is there twice", s.file, id)
			}
			known[id] = true
		}
	}
	return known
}

// check looks for statements without a test and without a reason.
func (s *side) check(t *testing.T, statements []statement, tests, code mentions) {
	for _, st := range statements {
		for _, id := range st.ids {
			if id == "" || st.reason != "" {
				continue
			}
			if len(tests[id]) == 0 {
				t.Errorf("%s: no test holds [%s], and there is no reason why not: %s", s.title, id, st.rule)
			}
			if len(code[id]) == 0 {
				t.Errorf("%s: no code names [%s]: %s", s.title, id, st.rule)
			}
		}
	}
}

// write writes a side's half of the document.
func (s *side) write(b *bytes.Buffer, statements []statement, tests, code mentions) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n", s.title, s.intro)
	chapter := ""
	for _, st := range statements {
		if st.rule == "" {
			continue
		}
		if st.chapter != chapter {
			chapter = st.chapter
			fmt.Fprintf(b, "\n### %s\n\n| 5.0 | 3.1.1 | Statement | Tests | Code |\n|---|---|---|---|---|\n", chapter)
		}
		held := st.places(tests)
		if st.reason != "" {
			held = strings.TrimPrefix(held+"<br>"+st.reason, "<br>")
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", st.number(0), st.number(1), st.rule, held, st.places(code))
	}
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
