// Command site makes a static site of the documentation, for any web server:
//
//	GOWORK=off go -C tools run ./site FOLDER
//
// Every page of the README, of docs and of the notes for contributors becomes a page of HTML. Links between them stay links;
// those to other files of the repository lead to the place where it is published. A field finds pages by their headings.
package main

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// published is where files are that are not part of the site.
const published = "https://github.com/petrel-mqtt/mqtt/blob/main/"

//go:embed page.html style.css search.js
var assets embed.FS

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: site FOLDER")
		os.Exit(2)
	}
	if err := build("..", os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "site:", err)
		os.Exit(1)
	}
}

// found is an entry of the search: a heading and where it is.
type found struct {
	Title string `json:"title"`
	Page  string `json:"page"` // as the menu names it
	URL   string `json:"url"`  // relative to the site's root
}

// view is what the template of a page shows.
type view struct {
	Title string
	Root  string // the way from the page to the site's root: "" or "../"
	Menu  []entry
	Body  template.HTML
}

type entry struct {
	Title, URL string
	Current    bool
}

// build makes the site of a repository in a folder, which may exist.
func build(repository, folder string) error {
	pages, err := readPages(repository)
	if err != nil {
		return err
	}
	layout, err := template.ParseFS(assets, "page.html")
	if err != nil {
		return err
	}
	var index []found
	for _, p := range pages {
		v := view{Title: p.title(), Root: strings.Repeat("../", strings.Count(p.url(), "/")), Menu: menu(pages, p), Body: template.HTML(p.body)}
		var out bytes.Buffer
		if err := layout.Execute(&out, v); err != nil {
			return err
		}
		if err := write(folder, p.url(), out.Bytes()); err != nil {
			return err
		}
		for _, h := range p.headings {
			index = append(index, found{h.text, p.label(), p.url() + "#" + h.id})
		}
		for _, image := range p.images {
			if err := copyFile(repository, folder, image); err != nil {
				return err
			}
		}
	}
	return writeAssets(folder, index)
}

// writeAssets writes the style, and the search with its index.
func writeAssets(folder string, index []found) error {
	list, err := json.Marshal(index)
	if err != nil {
		return err
	}
	search, err := assets.ReadFile("search.js")
	if err != nil {
		return err
	}
	style, err := assets.ReadFile("style.css")
	if err != nil {
		return err
	}
	script := fmt.Appendf(nil, "const index = %s;\n%s", list, search)
	return errors.Join(write(folder, "search.js", script), write(folder, "style.css", style))
}

func write(folder, name string, text []byte) error {
	name = filepath.Join(folder, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

func copyFile(from, to, name string) error {
	text, err := os.ReadFile(filepath.Join(from, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	return write(to, name, text)
}

// order is that of the menu; pages that are not in it follow by name.
var order = []string{
	"README.md", "docs/getting-started.md", "docs/guarantees.md", "docs/reconnect.md", "docs/slow-consumers.md", "docs/requests.md",
	"docs/security.md", "docs/testing.md", "docs/operating.md", "docs/troubleshooting.md", "docs/clouds.md", "docs/store.md",
	"docs/outbox.md", "docs/bridge.md", "docs/broker.md", "docs/CLI.md", "docs/migration/README.md", "docs/migration/paho.golang.md",
	"docs/migration/paho.mqtt.golang.md", "docs/migration/hbmqtt.md", "docs/migration/zerynth.md", "docs/migration/zmqtt.md", "docs/flags.md",
	"docs/CONFORMANCE.md", "benchmarks/RESULTS.md",
}

// short are the names, in the menu and the search, of pages whose first heading says too little without its place.
var short = map[string]string{"docs/CLI.md": "The command line", "benchmarks/RESULTS.md": "Benchmarks"}

func (p *page) label() string { return cmp.Or(short[p.name], p.title()) }

// menu lists all pages as seen from one of them.
func menu(pages []*page, from *page) (list []entry) {
	for _, p := range pages {
		list = append(list, entry{p.label(), relative(from.url(), p.url()), p == from})
	}
	return list
}

// relative returns the way from one page of the site to another file of it.
func relative(from, to string) string { return strings.Repeat("../", strings.Count(from, "/")) + to }

// readPages reads all pages, in the order of the menu.
func readPages(repository string) ([]*page, error) {
	names := []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/RESULTS.md"}
	err := fs.WalkDir(os.DirFS(repository), "docs", func(name string, d fs.DirEntry, err error) error {
		if path.Ext(name) == ".md" {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(names, func(a, b string) int {
		if n := place(a) - place(b); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	pages := make([]*page, len(names))
	for i, name := range names {
		text, err := os.ReadFile(filepath.Join(repository, filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		pages[i] = &page{name: name}
		if err := pages[i].render(text, names); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return pages, nil
}

func place(name string) int {
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}
