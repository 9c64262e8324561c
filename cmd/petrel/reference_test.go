package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// docs/CLI.md is what --help says, of every command, with the flags that all have once.
func TestReference(t *testing.T) {
	r := reference{shown: map[string]bool{}}
	r.page.WriteString("# petrel\n\nWhat `--help` says. It is generated: `go test -run TestReference -update ./cmd/petrel` writes it.\n")
	r.command(newRoot())
	fmt.Fprintf(&r.page, "\n## Flags of all commands that connect\n\n```text%s```\n", r.common.String())
	compare(t, filepath.Join("..", "..", "docs", "CLI.md"), r.page.String())
}

// Help is read in terminals of 80 columns.
func TestHelpFits(t *testing.T) {
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		r := run(t.Context(), nil, "", append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		for line := range strings.Lines(r.out) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > helpWidth {
				t.Errorf("%s: %d columns: %s", cmd.CommandPath(), n, line)
			}
		}
		for _, c := range cmd.Commands() {
			check(c)
		}
	}
	check(newRoot())
}

// Help is what was asked for, so all of it goes to standard output.
func TestHelpGoesToStandardOutput(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "pub", "-h")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil || errors.Len() > 0 || !strings.Contains(string(out), "--retain") {
		t.Errorf("%v, standard error %q, standard output %q", err, errors.String(), out)
	}
}

type reference struct {
	page, common bytes.Buffer
	shown        map[string]bool // the groups in common
}

func (r *reference) command(cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	fmt.Fprintf(&r.page, "\n## %s\n\n```text\n%s\n\n", cmd.CommandPath(), description(cmd))
	showCommand(&r.page, cmd)
	for _, g := range groupsOf(cmd) {
		switch {
		case !isCommon(g):
			showGroup(&r.page, g)
		case !r.shown[g.Name()]:
			r.shown[g.Name()] = true
			showGroup(&r.common, g)
		}
	}
	r.page.WriteString("```\n")
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			r.command(c)
		}
	}
}

// isCommon reports whether all commands that connect have a group of flags.
func isCommon(g *pflag.FlagSet) bool {
	common := false
	g.VisitAll(func(f *pflag.Flag) {
		common = f.Annotations[settable] != nil && !slices.Contains(f.Annotations[settable], own)
	})
	return common
}
