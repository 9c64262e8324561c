package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Annotations of flags.
const (
	inGroup  = "petrel-group"    // the heading under which help shows the flag
	mqtt5    = "petrel-mqtt5"    // MQTT 3.1.1 does not have it
	settable = "petrel-settable" // environment variables and configuration files may set it
)

// group collects the flags of a heading.
type group struct {
	*pflag.FlagSet
	marks map[string][]string
}

// newGroup begins a group; the flags are added to a command by addTo.
func newGroup(heading string) *group {
	g := &group{pflag.NewFlagSet(heading, pflag.ContinueOnError), map[string][]string{inGroup: {heading}}}
	g.SortFlags = false
	return g
}

// only5 marks flags that MQTT 3.1.1 does not have.
func (g *group) only5(names ...string) {
	for _, n := range names {
		annotate(g.Lookup(n), mqtt5, "")
	}
}

// addTo adds the group's flags to a command.
func (g *group) addTo(cmd *cobra.Command) {
	g.VisitAll(func(f *pflag.Flag) {
		for mark, values := range g.marks {
			annotate(f, mark, values...)
		}
	})
	cmd.Flags().AddFlagSet(g.FlagSet)
	g.VisitAll(func(f *pflag.Flag) {
		if c, ok := f.Value.(*choice); ok {
			cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(c.words, cobra.ShellCompDirectiveNoFileComp))
		}
	})
}

func annotate(f *pflag.Flag, mark string, values ...string) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[mark] = values
}

// aliases are other names of flags and keys: those of HBMQTT's, mosquitto's and other tools where ours differ.
var aliases = map[string]string{
	"uri": "url", "clean-session": "clean", "cleansession": "clean", "auto-reconnect": "reconnect",
	"cafile": "ca-file", "capath": "ca-path", "cadata": "ca-data", "certfile": "cert", "keyfile": "key",
	"max-in-flight": "max-inflight", "tls-alpn": "alpn", "tls-keylog": "keylog", "will-payload": "will-message", "pw": "password",
}

// normalise makes underscores dashes, and aliases the names that they stand for.
func normalise(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	name = strings.ReplaceAll(name, "_", "-")
	if a, ok := aliases[name]; ok {
		name = a
	}
	return pflag.NormalizedName(name)
}

var (
	unknownShort = regexp.MustCompile(`^unknown shorthand flag: '(.)' in `)
	noValue      = regexp.MustCompile(`^flag needs an argument: (?:'.' in )?(-+\S+)$`)
	unknownFlag  = regexp.MustCompile(`^unknown flag: --(.*)$`)
	invalidValue = regexp.MustCompile(`^invalid argument (".*") for "(?:-., )?(--[^"]*)" flag: (?:strconv\.\w+: parsing ".*": )?(.*)$`)
)

// flagError says what is wrong with the flags in our words.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return noSuchCommand(cmd, args)
	}
	if m := unknownFlag.FindStringSubmatch(err.Error()); m != nil {
		return usagef("there is no flag --%s%s; see \"%s --help\"", m[1], didYouMeanFlag("--", m[1], flagNames(cmd)), cmd.CommandPath())
	}
	if m := unknownShort.FindStringSubmatch(err.Error()); m != nil {
		return usagef("there is no flag -%s; see \"%s --help\"", m[1], cmd.CommandPath())
	}
	if m := noValue.FindStringSubmatch(err.Error()); m != nil {
		return usagef("%s needs a value; see \"%s --help\"", m[1], cmd.CommandPath())
	}
	if m := invalidValue.FindStringSubmatch(err.Error()); m != nil {
		f := cmd.Flags().Lookup(m[2][2:])
		return usagef("%s %s: %s", m[2], shown(f, m[1]), wrongValue(f, m[3]))
	}
	return usagef("%w; see \"%s --help\"", err, cmd.CommandPath())
}

// shown is a flag's value, quoted already, as an error may tell it: headers have secrets in them.
func shown(f *pflag.Flag, quoted string) string {
	switch f.Value.(type) {
	case *headers, *jsonHeaders:
		return "***"
	}
	return quoted
}

// wrongValue says what is wrong with a flag's value, where the standard library's words say too little.
func wrongValue(f *pflag.Flag, said string) string {
	switch {
	case f.Value.Type() == "bool":
		return "must be true or false"
	case said == "invalid syntax":
		return "not a number"
	case said == "value out of range":
		return "out of range"
	}
	return said
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// showUsage is what --help shows below the description.
func showUsage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	showCommand(w, cmd)
	for _, g := range groupsOf(cmd) {
		showGroup(w, g)
	}
	return nil
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

func showGroup(w io.Writer, g *pflag.FlagSet) {
	if text := g.FlagUsages(); text != "" {
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
		groups[i].AddFlag(f)
	})
	return groups
}
