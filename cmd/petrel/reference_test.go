package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// docs/CLI.md is what --help says, of every command.
func TestReference(t *testing.T) {
	var page bytes.Buffer
	page.WriteString("# petrel\n\nWhat `--help` says, of every command. It is generated: `go test -run TestReference -update ./cmd/petrel` writes it.\n")
	describe(&page, newRoot())
	compare(t, filepath.Join("..", "..", "docs", "CLI.md"), page.String())
}

func describe(page *bytes.Buffer, cmd *cobra.Command) {
	var help bytes.Buffer
	cmd.SetOut(&help)
	cmd.InitDefaultHelpFlag()
	cmd.Help()
	fmt.Fprintf(page, "\n## %s\n\n```text\n%s\n```\n", cmd.CommandPath(), strings.TrimSpace(help.String()))
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			describe(page, c)
		}
	}
}
