package main

import (
	"slices"

	"github.com/spf13/cobra"
)

// otherCommands are commands of other tools that we have not.
var otherCommands = map[string]string{
	"simulate": `"petrel bench pub" publishes without end, and "petrel pub --repeat 0 --interval 1 --size 100" at a pace`,
	"init":     "a configuration file is a YAML file with the names of flags, for -c",
	"ls":       `"petrel bench --help" lists what can be measured`,
	"check":    "a package manager, or go install, brings a later version",
}

func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if text := otherCommands[args[0]]; text != "" {
		return usagef("there is no command %q: %s", args[0], text)
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usagef("there is no command %q%s; \"%s --help\" lists them", args[0], didYouMean(args[0], names), cmd.CommandPath())
}

func noArguments(_ *cobra.Command, args []string) error {
	switch {
	case len(args) > 0 && slices.Contains(schemes, args[0]):
		return usagef("%q is not expected: the scheme is given by --protocol, or as the beginning of --url", args[0])
	case len(args) > 0:
		return usagef("%q is not expected: everything is given by flags; does something need quotes?", args[0])
	}
	return nil
}
