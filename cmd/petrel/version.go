package main

import (
	"cmp"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Write the version, the commit and what it was built with",
		Args:  noArguments,

		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := debug.ReadBuildInfo()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "petrel %s\n", fullVersion(info))
			return err
		},
	}
	return cmd
}

// version is that of the module, if it was built as one.
func version() string {
	info, _ := debug.ReadBuildInfo()
	return shortVersion(info)
}

func shortVersion(info *debug.BuildInfo) string {
	if info == nil {
		return "(devel)"
	}
	return cmp.Or(info.Main.Version, "(devel)")
}

// fullVersion is the version, and where they are known the commit and its time, and what it was built with.
func fullVersion(info *debug.BuildInfo) string {
	text := shortVersion(info)
	if info == nil {
		return text
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if commit := settings["vcs.revision"]; commit != "" {
		text += ", commit " + commit
		if settings["vcs.modified"] == "true" {
			text += " with changes"
		}
		text += " of " + settings["vcs.time"]
	}
	return fmt.Sprintf("%s, %s %s/%s", text, info.GoVersion, settings["GOOS"], settings["GOARCH"])
}
