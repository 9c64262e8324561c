package main

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// page is a page of the site.
type page struct {
	name     string // of the Markdown file, from the repository's root
	body     []byte
	headings []heading
	images   []string // files that it shows, from the repository's root
}

type heading struct{ id, text string }

// title is the page's first heading.
func (p *page) title() string {
	if len(p.headings) == 0 {
		return p.name
	}
	return p.headings[0].text
}

// url is where the page is, from the site's root.
func (p *page) url() string { return pageURL(p.name) }

func pageURL(name string) string {
	folder, file := path.Split(name)
	if file == "README.md" {
		return folder + "index.html"
	}
	return strings.TrimSuffix(name, ".md") + ".html"
}

// render makes HTML of the page. pages are the names of all pages of the site.
func (p *page) render(source []byte, pages []string) error {
	markdown := goldmark.New(
		goldmark.WithExtensions(extension.GFM),
		goldmark.WithParserOptions(parser.WithAutoHeadingID()),
		goldmark.WithRendererOptions(
			html.WithUnsafe(), // the pages are our own, and one has line breaks in its tables
			renderer.WithNodeRenderers(util.Prioritized(diagramRenderer{}, 0)),
		),
	)
	ids := parser.NewContext(parser.WithIDs(&anchors{seen: map[string]int{}}))
	document := markdown.Parser().Parse(text.NewReader(source), parser.WithContext(ids))
	err := ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			id, _ := n.AttributeString("id")
			p.headings = append(p.headings, heading{fmt.Sprintf("%s", id), plain(n, source)})
		case *ast.Link:
			n.Destination = []byte(p.target(string(n.Destination), pages))
		case *ast.Image:
			p.images = append(p.images, path.Join(path.Dir(p.name), string(n.Destination)))
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return err
	}
	if err := draw(document, source); err != nil {
		return err
	}
	var out bytes.Buffer
	err = markdown.Renderer().Render(&out, source, document)
	p.body = out.Bytes()
	return err
}

// target returns where a link of the page leads on the site.
func (p *page) target(link string, pages []string) string {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "#") || strings.HasPrefix(link, "mailto:") {
		return link
	}
	name, fragment, hasFragment := strings.Cut(link, "#")
	name = path.Join(path.Dir(p.name), name)
	if !slices.Contains(pages, name) {
		return published + name
	}
	if hasFragment {
		fragment = "#" + fragment
	}
	return relative(p.url(), pageURL(name)) + fragment
}

// plain returns the text below a node without its marks.
func plain(n ast.Node, source []byte) string {
	var b strings.Builder
	ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// anchors gives headings the names that GitHub gives them, so that links work in both places.
type anchors struct{ seen map[string]int }

var notAnchor = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)

func (a *anchors) Generate(value []byte, _ ast.NodeKind) []byte {
	id := strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(string(value)), ""), " ", "-")
	n := a.seen[id]
	a.seen[id]++
	if n > 0 {
		id = fmt.Sprintf("%s-%d", id, n)
	}
	return []byte(id)
}

func (a *anchors) Put(value []byte) { a.seen[string(value)]++ }
