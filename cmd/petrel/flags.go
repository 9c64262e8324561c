package main

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
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

// own is the value of settable for flags of a single command.
const own = "own"

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
)

// hostNeeded is pflag's word for a -h that ends the command line.
const hostNeeded = "flag needs an argument: 'h' in -h"

// flagError says what is wrong with the flags in our words.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return noSuchCommand(cmd, args)
	}
	if err.Error() == hostNeeded {
		return pflag.ErrHelp // -h and nothing behind it
	}
	if m := unknownFlag.FindStringSubmatch(err.Error()); m != nil {
		if text := instead[string(normalise(nil, m[1]))]; text != "" {
			return usagef("there is no flag --%s: %s", m[1], text)
		}
		return usagef("there is no flag --%s%s; see \"%s --help\"", m[1], didYouMeanFlag("--", m[1], flagNames(cmd)), cmd.CommandPath())
	}
	if m := unknownShort.FindStringSubmatch(err.Error()); m != nil {
		if text := instead[m[1]]; text != "" {
			return usagef("there is no flag -%s: %s", m[1], text)
		}
		return usagef("there is no flag -%s; see \"%s --help\"", m[1], cmd.CommandPath())
	}
	if m := noValue.FindStringSubmatch(err.Error()); m != nil {
		return usagef("%s needs a value; see \"%s --help\"", m[1], cmd.CommandPath())
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		f := invalid.GetFlag()
		return usagef("--%s %s: %s", f.Name, shown(f, strconv.Quote(invalid.GetValue())), wrongValue(invalid))
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

// wrongValue says what is wrong with a flag's value, where the library's words say too little.
func wrongValue(e *pflag.InvalidValueError) string {
	n, err := strconv.ParseFloat(e.GetValue(), 64)
	switch kind := e.GetFlag().Value.Type(); {
	case kind == "bool":
		return "must be true or false"
	case !slices.Contains([]string{"int", "uint16", "uint32", "float64"}, kind):
		return e.Unwrap().Error()
	case err != nil:
		return "not a number"
	case n != math.Trunc(n):
		return "not a whole number"
	}
	return "out of range"
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
