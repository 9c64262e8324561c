package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// showHelp is what --help shows.
func showHelp(cmd *cobra.Command, _ []string) {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s\n\n", description(cmd))
	showCommand(w, cmd)
	for _, g := range groupsOf(cmd) {
		showGroup(w, g)
	}
}

// description is a command's long description, or its short one as a sentence if it has none.
func description(cmd *cobra.Command) string {
	if cmd.Long == "" {
		return cmd.Short + "."
	}
	return filled(cmd.Long)
}

// filled breaks the lines of a text where the help ends. Lines that begin with a space, and empty ones, stay as they are.
func filled(text string) string {
	var lines []string
	open := false // the last line goes on with the next word
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == ' ' {
			lines, open = append(lines, line), false
			continue
		}
		for word := range strings.FieldsSeq(line) {
			last := len(lines) - 1
			if open && utf8.RuneCountInString(lines[last])+1+utf8.RuneCountInString(word) <= helpWidth {
				lines[last] += " " + word
				continue
			}
			lines, open = append(lines, word), true
		}
	}
	return strings.Join(lines, "\n")
}

func showCommand(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, "Usage:\n  %s\n", cmd.UseLine())
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nCommands:\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() || c.Name() == "help" {
				fmt.Fprintf(w, "  %-*s  %s\n", cmd.NamePadding(), c.Name(), c.Short)
			}
		}
	}
}

// helpWidth is how many columns the help has.
const helpWidth = 80

func showGroup(w io.Writer, g *pflag.FlagSet) {
	if text := g.FlagUsagesWrapped(helpWidth); text != "" {
		fmt.Fprintf(w, "\n%s:\n%s", g.Name(), text)
	}
}

// groupsOf returns a command's flags by their headings, in the order in which the groups were added.
func groupsOf(cmd *cobra.Command) []*pflag.FlagSet {
	var groups []*pflag.FlagSet
	flags := cmd.LocalFlags()
	flags.SortFlags = false
	flags.VisitAll(func(f *pflag.Flag) {
		heading := "Flags"
		if marks := f.Annotations[inGroup]; len(marks) > 0 {
			heading = marks[0]
		}
		i := slices.IndexFunc(groups, func(g *pflag.FlagSet) bool { return g.Name() == heading })
		if i < 0 {
			i = len(groups)
			groups = append(groups, newGroup(heading).FlagSet)
		}
		if f.Value.Type() == "bool" {
			shown := *f
			shown.Value = plainBool{f.Value}
			f = &shown
		}
		groups[i].AddFlag(f)
	})
	return groups
}

// plainBool is a bool that help shows without [=true|false].
type plainBool struct{ pflag.Value }
