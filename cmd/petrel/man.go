package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newMan is for those who pack the program.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write manual pages",
		Long:   "Write the manual page of each command into a folder, as petrel.1 and petrel-pub.1.",
		Hidden: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("name a folder")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return writePages(cmd.Root(), args[0]) },
	}
}

// writePages writes the page of a command, and those of its subcommands.
func writePages(cmd *cobra.Command, folder string) error {
	page := filepath.Join(folder, pageName(cmd)+".1")
	if err := os.WriteFile(page, []byte(manual(cmd)), 0o666); err != nil {
		return err
	}
	for _, c := range documented(cmd) {
		if err := writePages(c, folder); err != nil {
			return err
		}
	}
	return nil
}

// documented returns the subcommands that have a page: completion explains itself.
func documented(cmd *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(cmd.Commands()), func(c *cobra.Command) bool {
		return !c.IsAvailableCommand() || c.Name() == "completion"
	})
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manual is a manual page in the macros of man(7).
func manual(cmd *cobra.Command) string {
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	var p page
	p.macro(".TH", strings.ToUpper(pageName(cmd)), "1", "", "petrel "+version(), "Petrel")
	p.macro(".SH", "NAME")
	p.text(pageName(cmd) + " - " + cmd.Short)
	p.macro(".SH", "SYNOPSIS")
	p.text(cmd.UseLine())
	p.macro(".SH", "DESCRIPTION")
	p.paragraphs(description(cmd))
	if cmd.HasExample() {
		p.macro(".SH", "EXAMPLES")
		p.verbatim(cmd.Example)
	}
	for _, g := range groupsOf(cmd) {
		p.macro(".SH", strings.ToUpper(g.Name()))
		g.VisitAll(p.flag)
	}
	p.macro(".SH", "SEE ALSO")
	p.text(strings.Join(related(cmd), ", "))
	return p.String()
}

// related are the pages of the commands above and below.
func related(cmd *cobra.Command) []string {
	var pages []string
	if cmd.HasParent() {
		pages = append(pages, pageName(cmd.Parent())+"(1)")
	}
	for _, c := range documented(cmd) {
		pages = append(pages, pageName(c)+"(1)")
	}
	return pages
}

// page is a manual page that is being written.
type page struct{ strings.Builder }

// escaped is a text that has no meaning for troff.
var escaped = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\`", "~", `\(ti`, "^", `\(ha`, "…", `\[u2026]`)

func (p *page) macro(name string, words ...string) {
	p.WriteString(name)
	for _, w := range words {
		fmt.Fprintf(p, " \"%s\"", strings.ReplaceAll(escaped.Replace(w), `"`, `\(dq`))
	}
	p.WriteString("\n")
}

// text writes a line, which must not look like a macro.
func (p *page) text(line string) { fmt.Fprintf(p, "\\&%s\n", escaped.Replace(line)) }

func (p *page) paragraphs(text string) {
	for line := range strings.Lines(text) {
		switch line = strings.TrimSuffix(line, "\n"); {
		case line == "":
			p.macro(".PP")
		case line[0] == ' ':
			p.verbatim(line)
		default:
			p.text(line)
		}
	}
}

// verbatim writes lines as they are.
func (p *page) verbatim(text string) {
	p.macro(".nf")
	for line := range strings.Lines(text) {
		p.text(strings.TrimSuffix(line, "\n"))
	}
	p.macro(".fi")
}

func (p *page) flag(f *pflag.Flag) {
	if f.Hidden {
		return
	}
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	value, usage := pflag.UnquoteUsage(f)
	if value != "" {
		name += " " + value
	}
	p.macro(".TP")
	p.macro(".B", name)
	p.text(usage)
}
