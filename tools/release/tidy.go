package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// tidied runs go mod tidy in a stage, where siblings can be downloaded, and calls f with the files of each module.
func (t *tree) tidied(ctx context.Context, f func(name string, tidy []byte) error) (err error) {
	s, err := t.newStage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	s.env = append(s.env, "GOMODCACHE="+filepath.Join(s.scratch, "cache"), "GOFLAGS=-mod=mod -modcacherw")
	for _, m := range s.modules {
		folder := filepath.Join(s.folder, filepath.FromSlash(m.folder))
		if _, err := (command{folder: folder, env: s.env}).run(ctx, "go", "mod", "tidy"); err != nil {
			return fmt.Errorf("%s: %w", m.path(), err)
		}
		for _, name := range []string{"go.mod", "go.sum"} {
			text, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				return err
			}
			if err := f(filepath.Join(filepath.FromSlash(m.folder), name), t.withoutSiblings(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutSiblings leaves out the checksums of our own modules, which change with every commit.
func (t *tree) withoutSiblings(sums []byte) []byte {
	var kept strings.Builder
	for line := range strings.Lines(string(sums)) {
		if path, rest, _ := strings.Cut(line, " "); t.isOurs(path) && strings.Contains(rest, " h1:") {
			continue
		}
		kept.WriteString(line)
	}
	return []byte(kept.String())
}

// tidy writes the go.mod and go.sum files.
func (t *tree) tidy(ctx context.Context) error {
	return t.tidied(ctx, func(name string, tidy []byte) error {
		return os.WriteFile(filepath.Join(t.folder, name), tidy, 0o666)
	})
}

// checkTidy makes sure that they are tidy.
func (t *tree) checkTidy(ctx context.Context) error {
	var errs error
	err := t.tidied(ctx, func(name string, tidy []byte) error {
		text, err := os.ReadFile(filepath.Join(t.folder, name))
		if err == nil && string(text) != string(tidy) {
			errs = errors.Join(errs, fmt.Errorf("%s is not tidy: release -tidy writes it", name))
		}
		return err
	})
	return errors.Join(errs, err)
}
