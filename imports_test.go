package mqtt_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	modulePath      = "github.com/petrel-mqtt/mqtt"
	cmpModule       = "github.com/google/go-cmp"
	syncModule      = "golang.org/x/sync"
	websocketModule = "github.com/gorilla/websocket"
)

// importRule says what a package may import besides the standard library.
type importRule struct {
	petrel  []string // packages of this module, by their folders
	modules []string // other modules
}

// importRules is the layout: a rule for every package by its folder, which may be a pattern.
var importRules = map[string]importRule{
	".": {
		petrel:  []string{"codec", "transport", "internal/fifo", "internal/link", "internal/route", "internal/session", "internal/topic"},
		modules: []string{syncModule},
	},
	"codec":             {},
	"transport":         {modules: []string{websocketModule}},
	"internal/fifo":     {},
	"internal/freeport": {},
	"internal/link":     {petrel: []string{"codec", "internal/wire"}},
	"internal/release":  {},
	"internal/route":    {petrel: []string{"internal/topic"}},
	"internal/session":  {petrel: []string{"codec", "internal/fifo"}},
	"internal/simulate": {},
	"internal/topic":    {},
	"internal/wire":     {petrel: []string{"codec"}},
	"mqtttest":          {petrel: []string{"codec", "internal/topic"}, modules: []string{cmpModule, syncModule, websocketModule}},
	"storetest":         {petrel: []string{"."}},
	"examples/*":        {petrel: []string{".", "mqtttest"}},
}

// testRules is what the tests of a package may import besides the package and what it may import itself.
var testRules = map[string]importRule{
	".":                 {petrel: []string{"mqtttest", "storetest"}},
	"internal/simulate": {petrel: []string{".", "codec", "internal/topic", "mqtttest", "storetest"}}, // it is nothing but tests
	"mqtttest":          {petrel: []string{"."}},                                                     // its examples show a service that uses the client
	"transport":         {petrel: []string{"internal/freeport", "mqtttest"}},
}

// ruleFor returns the pattern of the rule for a folder; it is empty if there is none.
func ruleFor(folder string) string {
	for pattern := range importRules {
		if ok, _ := path.Match(pattern, folder); ok {
			return pattern
		}
	}
	return ""
}

// mayImport reports whether a file in folder, which has a rule, may import what.
func mayImport(folder, what string, test bool) bool {
	rules := []importRule{importRules[ruleFor(folder)]}
	if test {
		self := importRule{petrel: []string{folder}, modules: []string{cmpModule}}
		rules = append(rules, testRules[folder], self)
	}
	if first, _, _ := strings.Cut(what, "/"); !strings.Contains(first, ".") {
		return true // the standard library
	}
	return slices.ContainsFunc(rules, func(r importRule) bool {
		return slices.ContainsFunc(r.petrel, func(p string) bool { return what == path.Join(modulePath, p) }) ||
			slices.ContainsFunc(r.modules, func(m string) bool { return what == m || strings.HasPrefix(what, m+"/") })
	})
}

func TestImports(t *testing.T) {
	used := map[string]bool{}
	for _, file := range goFiles(t) {
		folder := path.Dir(file)
		rule := ruleFor(folder)
		if rule == "" {
			t.Errorf("%s is in a package that importRules does not name", file)
			continue
		}
		used[rule] = true
		for _, what := range importsOf(t, file) {
			if !mayImport(folder, what, strings.HasSuffix(file, "_test.go")) {
				t.Errorf("%s must not import %s", file, what)
			}
		}
	}
	for pattern := range importRules {
		if !used[pattern] {
			t.Errorf("importRules names %s, where there is no package", pattern)
		}
	}
}

// goFiles returns the Go files of this module, whatever they are built for.
func goFiles(t *testing.T) []string {
	var files []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !entry.IsDir():
			if strings.HasSuffix(name, ".go") {
				files = append(files, filepath.ToSlash(name))
			}
		case name != "." && notOurs(name):
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// notOurs reports whether the go command would not look for this module's packages in a folder.
func notOurs(folder string) bool {
	base := filepath.Base(folder)
	_, err := os.Stat(filepath.Join(folder, "go.mod"))
	return err == nil || base == "testdata" || base[0] == '.' || base[0] == '_'
}

func importsOf(t *testing.T, file string) []string {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, spec := range parsed.Imports {
		what, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		imports = append(imports, what)
	}
	return imports
}

// Who uses the library downloads what go.mod requires, so a new line in it is a decision.
func TestRequirements(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range requirements(string(text)) {
		if m != cmpModule && m != syncModule && m != websocketModule {
			t.Errorf("go.mod requires %s", m)
		}
	}
}

// requirements returns the modules that a go.mod requires, directly or not.
func requirements(text string) []string {
	var modules []string
	block := false
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "//")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == ")":
			block = false
		case len(fields) == 2 && fields[0] == "require" && fields[1] == "(":
			block = true
		case block:
			modules = append(modules, fields[0])
		case fields[0] == "require":
			modules = append(modules, fields[1])
		}
	}
	return modules
}

func TestImportRules(t *testing.T) {
	for _, c := range []struct {
		folder, what string
		code, test   bool // whether the package may import it, and whether its tests may
	}{
		{".", "net/http", true, true},
		{".", modulePath + "/codec", true, true},
		{".", modulePath + "/mqtttest", false, true},
		{".", "golang.org/x/sync/errgroup", true, true},
		{".", "golang.org/x/synchrony", false, false},
		{".", cmpModule + "/cmp", false, true},
		{".", "github.com/other/module", false, false},
		{"codec", "encoding/binary", true, true},
		{"codec", modulePath, false, false},
		{"codec", modulePath + "/codec", false, true},
		{"codec", modulePath + "/internal/topic", false, false},
		{"transport", modulePath + "/codec", false, false},
		{"transport", websocketModule, true, true},
		{"internal/topic", modulePath + "/codec", false, false},
		{"internal/session", modulePath + "/codec", true, true},
		{"internal/session", modulePath + "/internal/link", false, false},
		{"internal/link", modulePath + "/codec", true, true},
		{"internal/link", modulePath + "/internal/session", false, false},
		{"internal/simulate", modulePath, false, true},
		{"internal/simulate", modulePath + "/internal/session", false, false},
		{"mqtttest", modulePath, false, true},
		{"mqtttest", cmpModule + "/cmp", true, true},
		{"examples/quickstart", modulePath, true, true},
		{"examples/quickstart", modulePath + "/codec", false, false},
	} {
		if got := mayImport(c.folder, c.what, false); got != c.code {
			t.Errorf("%s may import %s: %v", c.folder, c.what, got)
		}
		if got := mayImport(c.folder, c.what, true); got != c.test {
			t.Errorf("tests of %s may import %s: %v", c.folder, c.what, got)
		}
	}
	for _, folder := range []string{"cmd", "codec/v2", "internal", "internal/util", "examples", "examples/a/b"} {
		if rule := ruleFor(folder); rule != "" {
			t.Errorf("%s has the rule of %s", folder, rule)
		}
	}
	text := "module m // require z v1\ngo 1.25\nrequire a v1\nrequire (\n\tb v1\n\tc v1 // indirect\n)\nreplace d => e v1\nrequire f v1"
	if got := requirements(text); !slices.Equal(got, []string{"a", "b", "c", "f"}) {
		t.Errorf("requirements %q", got)
	}
}
