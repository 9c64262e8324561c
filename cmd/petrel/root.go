package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// newRoot returns the command with all its subcommands.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "petrel COMMAND",
		Short: "An MQTT 5.0 and 3.1.1 command line",
		Long: `petrel publishes, subscribes, asks, answers and measures with MQTT 5.0 and 3.1.1, and runs a broker.

Flags that connect may also come from the environment, as PETREL_URL or PETREL_PASSWORD_FILE, and from a YAML file named
by -c, as "url: mqtt://example.com" or "keep_alive: 30". A flag wins over the environment, and that over the file.
"petrel completion" writes the completions for a shell, and "petrel man FOLDER" the manual pages.

` + exitCodes,
		Example: `  petrel sub -t 'sensors/#' -v
  petrel pub -t sensors/7/temp -m 21.5 -q 1`,
		Version:       version(),
		Args:          noSuchCommand,
		SilenceErrors: true,
		SilenceUsage:  true,

		DisableFlagsInUseLine: true,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("petrel {{.Version}}\n") // of all commands
	root.SetFlagErrorFunc(flagError)
	root.SetHelpFunc(showHelp)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddCommand(
		newPub(),
		newSub(),
		newRequest(),
		newRespond(),
		newConn(),
		newBench(),
		newProbe(),
		newBridge(),
		newOutbox(),
		newBroker(),
		newPasswd(),
		newVersion(),
		newMan(),
	)
	root.SetGlobalNormalizationFunc(normalise)
	return root
}

// execute runs a command line and returns the exit code. An error is one line on standard error.
func execute(ctx context.Context, root *cobra.Command, args []string) int {
	cmd, args, err := accustomed(root, args)
	if err == nil {
		root.SetArgs(args)
		cmd, err = root.ExecuteContextC(ctx)
	}
	if isBrokenPipe(err) {
		err = nil // who reads our output has seen enough
	}
	code := exitCode(err)
	if code != exitOK && code != exitInterrupted {
		tell(cmd, err, code)
	}
	return code
}

// isBrokenPipe reports whether a file, which a connection is not, is a pipe that nobody reads any more.
func isBrokenPipe(err error) bool {
	var file *fs.PathError
	return errors.As(err, &file) && errors.Is(file, syscall.EPIPE)
}

// tell writes the error that ends a command, as the log is written.
func tell(cmd *cobra.Command, err error, code int) {
	w := cmd.ErrOrStderr()
	if f := cmd.Flag("log-format"); f != nil && f.Value.String() == "json" {
		slog.New(slog.NewJSONHandler(w, nil)).Error(oneLine(err), "exit_code", code)
		return
	}
	fmt.Fprintf(w, "%s: %s\n", cmd.CommandPath(), oneLine(err))
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
