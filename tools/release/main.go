// Command release prepares a release of all modules of this repository, and rehearses it. CONTRIBUTING.md says how to use
// it:
//
//	GOWORK=off go -C tools run ./release [-commit] 0.2.0   # change versions, changelog and API listing, and rehearse
//	GOWORK=off go -C tools run ./release -rehearse         # as CI does
//	GOWORK=off go -C tools run ./release -tidy             # go mod tidy, of modules whose siblings are not published
//	GOWORK=off go -C tools run ./release -api              # write the listing of the API
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	var (
		rehearsing = flags.Bool("rehearse", false, "only check, as CI does: listing, go.mod files, and a rehearsal")
		tidying    = flags.Bool("tidy", false, "only tidy the go.mod files")
		listing    = flags.Bool("api", false, "only write the listing of the API")
		commit     = flags.Bool("commit", false, "commit the release, and tag the modules")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	folder, err := repository()
	if err != nil {
		return err
	}
	t, err := readTree(folder)
	switch {
	case err != nil:
		return err
	case *listing:
		return t.writeAPI(ctx)
	case *tidying:
		return t.tidy(ctx)
	case *rehearsing:
		return errors.Join(t.checkAPI(ctx), t.checkTidy(ctx), t.rehearse(ctx))
	case flags.NArg() != 1:
		return errors.New("name the version, as in 0.2.0")
	}
	return t.prepare(ctx, strings.TrimPrefix(flags.Arg(0), "v"), *commit)
}

// repository returns the folder of go.work, which this program is below.
func repository() (string, error) {
	folder, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(folder, "go.work")); missing == nil {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", errors.New("no folder above has a go.work")
		}
		folder = parent
	}
	return "", err
}

// command is a program in a folder whose error has what it said.
type command struct {
	folder string
	env    []string // besides ours
}

func (c command) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = c.folder
	cmd.Env = append(os.Environ(), c.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
