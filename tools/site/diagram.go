package main

import (
	"embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/util"
)

// drawings are the diagrams of the pages, drawn by hand: one for each block marked as mermaid, which GitHub draws itself. The
// name of the file is that of the heading before the block. Their colours are those of the site, light and dark.
//
//go:embed diagrams
var drawings embed.FS

// diagram stands in a document for a block marked as mermaid.
type diagram struct {
	ast.BaseBlock
	svg []byte
}

var kindDiagram = ast.NewNodeKind("Diagram")

func (d *diagram) Kind() ast.NodeKind { return kindDiagram }

func (d *diagram) Dump(source []byte, level int) { ast.DumpHelper(d, source, level, nil, nil) }

// diagramRenderer writes diagrams.
type diagramRenderer struct{}

func (diagramRenderer) RegisterFuncs(r renderer.NodeRendererFuncRegisterer) {
	r.Register(kindDiagram, func(w util.BufWriter, _ []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			w.Write(n.(*diagram).svg)
		}
		return ast.WalkSkipChildren, nil
	})
}

// draw puts the drawings of a page in the place of its blocks.
func draw(document ast.Node, source []byte) error {
	heading := ""
	for n := document.FirstChild(); n != nil; n = n.NextSibling() {
		if h, ok := n.(*ast.Heading); ok {
			id, _ := h.AttributeString("id")
			heading = fmt.Sprintf("%s", id)
		}
		block, ok := n.(*ast.FencedCodeBlock)
		if !ok || string(block.Language(source)) != "mermaid" {
			continue
		}
		drawn, err := drawing(heading, string(block.Lines().Value(source)))
		if err != nil {
			return err
		}
		document.ReplaceChild(document, n, drawn)
		n = drawn
	}
	return nil
}

// drawing returns the drawing below a heading, which must show every word of the block.
func drawing(heading, block string) (*diagram, error) {
	name := "diagrams/" + heading + ".svg"
	svg, err := drawings.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("a diagram that nobody has drawn: %w", err)
	}
	shown := strings.Join(strings.Fields(tag.ReplaceAllString(string(svg), " ")), " ")
	for _, label := range labels(block) {
		if !strings.Contains(shown, label) {
			return nil, fmt.Errorf("%s does not show %q", name, label)
		}
	}
	return &diagram{svg: svg}, nil
}

var (
	tag   = regexp.MustCompile(`<[^>]*>`)
	label = regexp.MustCompile(`"([^"]+)"|-- (\w+) -->`)
)

// labels returns what a block of mermaid writes on its boxes and arrows.
func labels(block string) (all []string) {
	for _, l := range label.FindAllStringSubmatch(block, -1) {
		all = append(all, l[1]+l[2])
	}
	return all
}
