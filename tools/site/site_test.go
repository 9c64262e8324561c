package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	reference = regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	name      = regexp.MustCompile(`id="([^"]*)"`)
)

// Every page of the repository is on the site, and every link leads to a file and a heading that are there.
func TestSite(t *testing.T) {
	folder := t.TempDir()
	if err := build("../..", folder); err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	err := fs.WalkDir(os.DirFS(folder), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			text, err := os.ReadFile(filepath.Join(folder, name))
			files[name] = string(text)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for from, text := range files {
		if path.Ext(from) != ".html" {
			continue
		}
		for _, l := range reference.FindAllStringSubmatch(text, -1) {
			if links++; strings.Contains(l[1], "://") || strings.HasPrefix(l[1], "mailto:") {
				continue
			}
			to, fragment, _ := strings.Cut(l[1], "#")
			target := from
			if to != "" {
				target = path.Join(path.Dir(from), to)
			}
			found, ok := files[target]
			if !ok {
				t.Errorf("%s: %s does not exist", from, l[1])
			} else if fragment != "" && !has(found, fragment) {
				t.Errorf("%s: %s has no heading of that name", from, l[1])
			}
		}
	}
	if len(files) < 20 || links < 200 {
		t.Errorf("%d files, %d links: is this the site?", len(files), links)
	}
	for _, want := range []string{`"url":"docs/reconnect.html#what-a-session-keeps"`, `"page":"Troubleshooting by symptom"`} {
		if !strings.Contains(files["search.js"], want) {
			t.Errorf("the search does not know %s", want)
		}
	}
}

// A block of mermaid becomes the drawing of its heading, and a drawing that does not show what the block says is an error.
func TestDrawings(t *testing.T) {
	const mermaid = "## How a message travels\n\n```mermaid\nP[\"Publish\"] -- PUBLISH --> S[(\"Server: sessions\")]\n```\n"
	for source, want := range map[string]string{
		mermaid: "",
		strings.Replace(mermaid, "Publish", "Publishing", 1):               `diagrams/how-a-message-travels.svg does not show "Publishing"`,
		strings.Replace(mermaid, "-- PUBLISH", "-- PUBREC", 1):             `diagrams/how-a-message-travels.svg does not show "PUBREC"`,
		strings.Replace(mermaid, "How a message", "How no message", 1):     "a diagram that nobody has drawn: open diagrams/how-no-message-travels.svg: file does not exist",
		strings.Replace(mermaid, "```mermaid", "```text\nno drawing\n", 1): "",
	} {
		p := &page{name: "README.md"}
		if err := p.render([]byte(source), nil); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%s\n%v, want %q", source, err, want)
		}
		if drawn := strings.Contains(string(p.body), `<svg class="diagram"`); drawn != (source == mermaid) {
			t.Errorf("%s\nis drawn: %v", source, drawn)
		}
	}
}

func has(text, id string) bool {
	for _, n := range name.FindAllStringSubmatch(text, -1) {
		if n[1] == id {
			return true
		}
	}
	return false
}

func TestTarget(t *testing.T) {
	pages := []string{"README.md", "docs/a.md", "docs/migration/README.md"}
	for _, c := range []struct{ from, link, want string }{
		{"README.md", "docs/a.md#x", "docs/a.html#x"},
		{"docs/a.md", "../README.md", "../index.html"},
		{"docs/migration/README.md", "../a.md", "../../docs/a.html"},
		{"docs/a.md", "../examples/rpc/main.go", published + "examples/rpc/main.go"},
		{"docs/a.md", "#x", "#x"},
		{"docs/a.md", "https://example.com", "https://example.com"},
	} {
		if got := (&page{name: c.from}).target(c.link, pages); got != c.want {
			t.Errorf("%s: %s leads to %s, want %s", c.from, c.link, got, c.want)
		}
	}
}
