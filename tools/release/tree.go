package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	modzip "golang.org/x/mod/zip"
)

// tree is a copy of the repository, or the repository itself.
type tree struct {
	folder  string
	work    *modfile.WorkFile
	modules []*mod
}

// mod is a module of go.work.
type mod struct {
	folder   string // below the tree's; "." for the root
	file     *modfile.File
	released bool
}

func (m *mod) path() string { return m.file.Module.Mod.Path }

func (t *tree) root() *mod { return t.modules[0] }

// readTree reads go.work and the go.mod files that it names, the root's first.
func readTree(folder string) (*tree, error) {
	name := filepath.Join(folder, "go.work")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	t := &tree{folder: folder}
	if t.work, err = modfile.ParseWork(name, text, nil); err != nil {
		return nil, err
	}
	for _, use := range t.work.Use {
		m, err := readModule(folder, path.Clean(use.Path))
		if err != nil {
			return nil, err
		}
		t.modules = append(t.modules, m)
	}
	slices.SortFunc(t.modules, func(a, b *mod) int { return strings.Compare(a.path(), b.path()) })
	if len(t.modules) == 0 || t.root().folder != "." {
		return nil, errors.New("go.work: the first module is not in the repository's own folder")
	}
	return t, nil
}

var notReleased = regexp.MustCompile(`(?m)^// Not released`)

func readModule(folder, in string) (*mod, error) {
	name := filepath.Join(folder, filepath.FromSlash(in), "go.mod")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	file, err := modfile.Parse(name, text, nil)
	if err != nil {
		return nil, err
	}
	if len(file.Replace) > 0 {
		return nil, fmt.Errorf("%s: a module with replace cannot be installed; go.work ties the modules", name)
	}
	return &mod{folder: in, file: file, released: !notReleased.Match(text)}, nil
}

// released returns the modules that users get.
func (t *tree) released() []*mod {
	return slices.DeleteFunc(slices.Clone(t.modules), func(m *mod) bool { return !m.released })
}

// isOurs reports whether a module is one of the tree.
func (t *tree) isOurs(path string) bool {
	return slices.ContainsFunc(t.modules, func(m *mod) bool { return m.path() == path })
}

// version returns the version at which the modules require each other.
func (t *tree) version() (string, error) {
	version := ""
	for _, m := range t.modules {
		for _, r := range m.file.Require {
			switch {
			case !t.isOurs(r.Mod.Path):
			case version == "":
				version = r.Mod.Version
			case r.Mod.Version != version:
				return "", fmt.Errorf("%s requires %s, others %s", m.path(), r.Mod, version)
			}
		}
	}
	if !semver.IsValid(version) || version == "v0.0.0" {
		return "", fmt.Errorf("the modules require each other at version %q", version)
	}
	return version, t.checkWork(version)
}

// checkWork makes sure that go.work has each module found at the version.
func (t *tree) checkWork(version string) error {
	var errs error
	for _, m := range t.modules {
		required := slices.ContainsFunc(t.modules, func(o *mod) bool {
			return slices.ContainsFunc(o.file.Require, func(r *modfile.Require) bool { return r.Mod.Path == m.path() })
		})
		found := slices.ContainsFunc(t.work.Replace, func(r *modfile.Replace) bool {
			return r.Old == module.Version{Path: m.path(), Version: version}
		})
		if required && !found {
			errs = errors.Join(errs, fmt.Errorf("go.work: there is no line \"%s %s => %s\" in replace", m.path(), version, local(m.folder)))
		}
	}
	return errs
}

// local is a folder as go.work has it.
func local(folder string) string {
	if folder == "." {
		return "./"
	}
	return "./" + folder
}

// copyTo copies what git knows, or would, to another folder.
func (t *tree) copyTo(ctx context.Context, folder string) (*tree, error) {
	listed, err := command{folder: t.folder}.run(ctx, "git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(listed, "\x00"), "\x00") {
		if err := copyFile(filepath.Join(t.folder, name), filepath.Join(folder, name)); err != nil {
			return nil, err
		}
	}
	return readTree(folder)
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil // deleted, and git has not been told
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode())
}

// publish writes the modules as a module proxy has them into a folder.
func (t *tree) publish(folder, version string) error {
	for _, m := range t.modules {
		if err := t.publishModule(m, folder, version); err != nil {
			return fmt.Errorf("%s: %w", m.path(), err)
		}
	}
	return nil
}

func (t *tree) publishModule(m *mod, folder, version string) error {
	escaped, err := module.EscapePath(m.path())
	if err != nil {
		return err
	}
	at := filepath.Join(folder, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(at, 0o777); err != nil {
		return err
	}
	text, err := m.file.Format()
	if err != nil {
		return err
	}
	info := fmt.Sprintf(`{"Version":%q,"Time":"2000-01-01T00:00:00Z"}`, version)
	for name, content := range map[string]string{"list": version + "\n", version + ".info": info, version + ".mod": string(text)} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(content), 0o666); err != nil {
			return err
		}
	}
	zip, err := os.Create(filepath.Join(at, version+".zip"))
	if err != nil {
		return err
	}
	err = modzip.CreateFromDir(zip, module.Version{Path: m.path(), Version: version}, filepath.Join(t.folder, filepath.FromSlash(m.folder)))
	return errors.Join(err, zip.Close())
}
