package mqtt_test

import (
	"fmt"
	"go/ast"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// page is a Markdown file of the repository.
type page struct {
	name  string // with slashes, relative to the root
	lines []string
}

// pages returns every Markdown file of the repository.
func pages(t *testing.T) (all []page) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(name) != ".md" {
			return nil
		}
		text, err := os.ReadFile(name)
		all = append(all, page{filepath.ToSlash(name), strings.Split(string(text), "\n")})
		return err
	})
	if err != nil || len(all) < 10 {
		t.Fatalf("%d pages, %v", len(all), err)
	}
	return all
}

// block is the text between two fences.
type block struct {
	page, language string
	line           int // of the text's first line, from 1
	text           string
}

// blocks returns the fenced blocks of a page, also those that are indented because they belong to a list.
func (p page) blocks() (all []block) {
	var open *block
	indent := ""
	for i, line := range p.lines {
		fence := strings.TrimSpace(line)
		switch {
		case open == nil && strings.HasPrefix(fence, "```"):
			open = &block{page: p.name, language: strings.TrimPrefix(fence, "```"), line: i + 2}
			indent = line[:strings.Index(line, "`")]
		case open != nil && fence == "```":
			all, open = append(all, *open), nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	return all
}

// prose returns the lines of a page with those of its blocks empty.
func (p page) prose() []string {
	lines := slices.Clone(p.lines)
	inside := false
	for i, line := range lines {
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		if inside || fence {
			lines[i] = ""
		}
		inside = inside != fence
	}
	return lines
}

// usual are the imports that a block of the documentation may use without naming them. A block that is a whole file names
// its own.
var usual = []string{
	"context", "crypto/tls", "database/sql", "encoding/json", "errors", "expvar", "fmt", "log", "log/slog", "net", "net/http",
	"net/url", "os", "os/signal", "runtime", "strings", "syscall", "testing", "testing/synctest", "time",
	modulePath, modulePath + "/boltstore", modulePath + "/broker", modulePath + "/codec", modulePath + "/mqtttest",
	modulePath + "/outbox", modulePath + "/scram",
}

// elided stands on a line of its own for code that the reader does not need to see.
var elided = regexp.MustCompile(`(?m)^(\s*)…$`)

// readable returns the text with a comment for what is left out.
func (b block) readable() string { return elided.ReplaceAllString(b.text, "$1// …") }

// source makes a whole file of a block: it is one already, or it is declarations, or it is what stands in a function. rest
// are the files that the compiler needs besides.
func (b block) source(fset *token.FileSet) (whole bool, file *ast.File, rest []*ast.File, err error) {
	line := fmt.Sprintf("//line %s:%d\n", b.page, b.line)
	text := b.readable()
	if regexp.MustCompile(`(?m)^package \w+$`).MatchString(text) {
		file, err = parser.ParseFile(fset, b.page, line+text, 0)
		return true, file, nil, err
	}
	imports := "package words\n"
	for _, name := range usual {
		imports += "import " + strconv.Quote(name) + "\n"
	}
	file, err = parser.ParseFile(fset, b.page, imports+line+text, 0)
	if err != nil {
		file, err = parser.ParseFile(fset, b.page, imports+"func _() error {\n"+line+text+"\nreturn nil\n}\n", 0)
	}
	if err != nil {
		return false, nil, nil, err
	}
	words, err := wordsWithout(fset, file)
	return false, file, []*ast.File{words}, err
}

// wordsWithout returns the words that blocks use, without those that a file declares.
func wordsWithout(fset *token.FileSet, declares *ast.File) (*ast.File, error) {
	own := make(map[string]bool)
	for _, d := range declares.Decls {
		for _, name := range declared(d) {
			own[name] = true
		}
	}
	text, err := os.ReadFile("testdata/docs/words.txt")
	if err != nil {
		return nil, err
	}
	words, err := parser.ParseFile(fset, "testdata/docs/words.txt", text, 0)
	if err != nil {
		return nil, err
	}
	words.Decls = slices.DeleteFunc(words.Decls, func(d ast.Decl) bool {
		return slices.ContainsFunc(declared(d), func(name string) bool { return own[name] })
	})
	return words, nil
}

// declared returns the names that a declaration at package level declares.
func declared(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				names = append(names, s.Name.Name)
			case *ast.ValueSpec:
				for _, name := range s.Names {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}

// compile returns what the compiler says about a block. Only a whole file must use all of its variables and imports.
func (b block) compile(fset *token.FileSet, compiled types.Importer) (faults []string) {
	whole, file, rest, err := b.source(fset)
	if err != nil {
		return []string{err.Error()}
	}
	conf := types.Config{Importer: compiled, Error: func(err error) {
		if e := err.(types.Error); whole || !e.Soft {
			faults = append(faults, e.Error())
		}
	}}
	conf.Check("words", fset, append(rest, file), nil)
	return faults
}

// Every block of Go in every page compiles, with the packages as they are now, and is formatted.
func TestMarkdownGo(t *testing.T) {
	var all []block
	for _, p := range pages(t) {
		for _, b := range p.blocks() {
			if b.language == "go" {
				all = append(all, b)
			}
		}
	}
	if len(all) < 8 {
		t.Fatalf("only %d blocks: are they found?", len(all))
	}
	fset := token.NewFileSet()
	compiled := compiledPackages(t, fset, all)
	for _, b := range all {
		for _, fault := range b.compile(fset, compiled) {
			t.Error(fault)
		}
		text := b.readable()
		if formatted, err := format.Source([]byte(text)); err == nil && string(formatted) != text {
			t.Errorf("%s:%d: gofmt makes of it:\n%s", b.page, b.line, formatted)
		}
	}
}

// The test above finds what it is for.
func TestMarkdownGoFaults(t *testing.T) {
	fset := token.NewFileSet()
	compiled := compiledPackages(t, fset, nil)
	for text, want := range map[string]string{
		"err := client.Publish(ctx, \"a\", payload)\nreturn err\n": "",
		"x, err := client.Request(ctx, \"a\", nil)\n…\n":           "",
		"func billing(client mqtt.ClientV5) { client.Close() }\n":  "",
		"client.Publsh(ctx, \"a\", payload)\n":                     "p.md:7: client.Publsh undefined",
		"client.Publish(ctx, payload)\n":                           "p.md:7",
		"mqtt.WithNothing()\n":                                     "p.md:7",
		"if {\n":                                                   "p.md:7",
		"package main\n\nimport \"fmt\"\n\nfunc main() {}\n":       "p.md:9: \"fmt\" imported and not used",
		"package main\n\nfunc main() { undeclared() }\n":           "p.md:9",
		"func run(client mqtt.ClientV311) { client.ConnAck() }\n":  "p.md:7",
	} {
		got := strings.Join(block{"p.md", "go", 7, text}.compile(fset, compiled), "\n")
		if (want == "") != (got == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// compiledPackages is an importer of the packages that blocks import: one run of the go command compiles them all.
func compiledPackages(t *testing.T, fset *token.FileSet, blocks []block) types.Importer {
	t.Helper()
	names := slices.Clone(usual)
	for _, b := range blocks {
		file, err := parser.ParseFile(token.NewFileSet(), b.page, b.text, parser.ImportsOnly)
		if err != nil {
			continue // no whole file
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			names = append(names, name)
		}
	}
	slices.Sort(names)
	cmd := exec.Command("go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}, slices.Compact(names)...)...)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[name] = file
	}
	return importer.ForCompiler(fset, "gc", func(name string) (io.ReadCloser, error) { return os.Open(exports[name]) })
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`^#+ (.*)$`)
	inCode  = regexp.MustCompile("`[^`]*`")
)

// anchors returns the names under which GitHub knows a page's headings.
func (p page) anchors() map[string]bool {
	seen := make(map[string]int)
	all := make(map[string]bool)
	for _, line := range p.prose() {
		h := heading.FindStringSubmatch(line)
		if h == nil {
			continue
		}
		name := anchor(h[1])
		if n := seen[name]; n > 0 {
			all[fmt.Sprintf("%s-%d", name, n)] = true
		}
		seen[name]++
		all[name] = true
	}
	return all
}

var (
	linkText  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	notAnchor = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
)

// anchor returns the name that GitHub gives a heading.
func anchor(text string) string {
	text = linkText.ReplaceAllString(text, "$1")
	return strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(text), ""), " ", "-")
}

// The page of symptoms is found by the texts of errors and log lines, so these are those of the code.
func TestMarkdownErrorTexts(t *testing.T) {
	const name = "docs/troubleshooting.md"
	code := literals(t)
	checked := 0
	for _, p := range pages(t) {
		if p.name != name {
			continue
		}
		for i, line := range p.prose() {
			if !heading.MatchString(line) {
				continue
			}
			for _, q := range inCode.FindAllString(line, -1) {
				for piece := range strings.SplitSeq(strings.Trim(q, "`"), "…") { // which stands for what differs
					if checked++; !strings.Contains(code, strings.TrimSpace(piece)) {
						t.Errorf("%s:%d: no error and no log line has the text %q", name, i+1, piece)
					}
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d texts: are they found?", checked)
	}
}

// literals returns all texts of the code that a user of the library may see, one after another.
func literals(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, folder := range []string{".", "codec", "transport", "internal/link", "internal/session"} {
		names, _ := filepath.Glob(filepath.Join(folder, "*.go"))
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					text, _ := strconv.Unquote(l.Value)
					fmt.Fprintln(&all, text)
				}
				return true
			})
		}
	}
	return all.String()
}

// Every link inside the repository leads to a file and, where it names one, to a heading.
func TestMarkdownLinks(t *testing.T) {
	all := pages(t)
	anchors := make(map[string]map[string]bool)
	for _, p := range all {
		anchors[p.name] = p.anchors()
	}
	checked := 0
	for _, p := range all {
		for i, line := range p.prose() {
			for _, l := range link.FindAllStringSubmatch(inCode.ReplaceAllString(line, ""), -1) {
				if checked++; strings.Contains(l[1], "://") {
					continue
				}
				if err := follow(p.name, l[1], anchors); err != nil {
					t.Errorf("%s:%d: %v", p.name, i+1, err)
				}
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d links: are they found?", checked)
	}
}

func follow(from, to string, anchors map[string]map[string]bool) error {
	name, fragment, _ := strings.Cut(to, "#")
	target := from
	if name != "" {
		target = path.Join(path.Dir(from), name)
	}
	if _, err := os.Stat(target); err != nil {
		return err
	}
	if fragment != "" && !anchors[target][fragment] {
		return fmt.Errorf("%s has no heading #%s", target, fragment)
	}
	return nil
}

var (
	testName     = regexp.MustCompile("`((?:Test|Fuzz|Example)[A-Z]\\w*)`")
	apiName      = regexp.MustCompile("`(?:mqtt\\.)?((?:With|Err|State)[A-Z]\\w*)")
	qualified    = regexp.MustCompile("`mqtt\\.([A-Z]\\w*)")
	member       = regexp.MustCompile(`(\w+|\))\.([A-Z]\w*)`)
	declaredTest = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w*)\(`)
)

// A page that names a test as its proof, or something of the API, names what exists.
func TestMarkdownNames(t *testing.T) {
	tests, names := goNames(t)
	for _, p := range pages(t) {
		if p.name == "CHANGELOG.md" || p.name == "CONTRIBUTING.md" || strings.HasPrefix(p.name, "docs/migration") {
			continue // they tell of what was, of what may be, and of other libraries
		}
		for i, line := range p.prose() {
			for _, name := range testName.FindAllStringSubmatch(line, -1) {
				if !tests[name[1]] {
					t.Errorf("%s:%d: there is no test %s", p.name, i+1, name[1])
				}
			}
			for _, code := range inCode.FindAllString(line, -1) {
				for _, name := range member.FindAllStringSubmatch(code, -1) {
					if !names[name[2]] && !slices.ContainsFunc(usual, func(p string) bool { return !strings.HasPrefix(p, modulePath) && path.Base(p) == name[1] }) {
						t.Errorf("%s:%d: %s: nothing has a member of this name", p.name, i+1, name[0])
					}
				}
			}
			for _, name := range slices.Concat(apiName.FindAllStringSubmatch(line, -1), qualified.FindAllStringSubmatch(line, -1)) {
				if !names[name[1]] {
					t.Errorf("%s:%d: nothing exported has the name %s", p.name, i+1, name[1])
				}
			}
		}
	}
}

// goNames returns the names of all tests of the repository, and those of all other declarations, methods and fields.
func goNames(t *testing.T) (tests, names map[string]bool) {
	t.Helper()
	tests, names = make(map[string]bool), make(map[string]bool)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".go" {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, "_test.go") {
			for _, f := range declaredTest.FindAllStringSubmatch(string(text), -1) {
				tests[f[1]] = true
			}
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			return nil // testdata
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				names[n.Name.Name] = true
				return false // what is inside of a function nobody can name
			case *ast.GenDecl:
				for _, name := range declared(n) {
					names[name] = true
				}
			case *ast.Field:
				for _, name := range n.Names {
					names[name.Name] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil || len(tests) < 500 {
		t.Fatalf("%d tests, %v", len(tests), err)
	}
	return tests, names
}

// Each row of the tables of guarantees has a row of the same name with the tests that show it.
func TestMarkdownGuarantees(t *testing.T) {
	text, err := os.ReadFile("docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	promises, proofs, _ := strings.Cut(string(text), "## What shows it")
	for _, half := range []string{"Publishing", "Receiving"} {
		_, promised, _ := strings.Cut(promises, "## "+half)
		promised, _, _ = strings.Cut(promised, "\n## ")
		_, shown, _ := strings.Cut(proofs, "| "+half+" | Tests |")
		shown, _, _ = strings.Cut(shown, "\n\n")
		if want, got := rows(promised), rows(shown); len(want) < 7 || !slices.Equal(want, got) {
			t.Errorf("%s: the rows are %q, those of the tests %q", half, want, got)
		}
	}
}

// rows returns the first cells of a table's rows below its head.
func rows(text string) (first []string) {
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if name := ""; len(cells) > 2 {
			if name = strings.TrimSpace(cells[1]); name != "" && !strings.HasPrefix(name, "---") {
				first = append(first, name)
			}
		}
	}
	return first
}
