package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// prepare makes a release of what is in the repository: it changes the files, rehearses, and with commit commits and tags.
// It pushes nothing.
func (t *tree) prepare(ctx context.Context, number string, commit bool) error {
	version := "v" + number
	old, err := t.version()
	git := command{folder: t.folder}
	switch {
	case err != nil:
		return err
	case !semver.IsValid(version) || semver.Compare(version, old) < 0:
		return fmt.Errorf("%s is no version, or before %s", number, old)
	}
	if changed, err := git.run(ctx, "git", "status", "--porcelain"); err != nil || changed != "" {
		return errors.Join(err, errors.New("commit or remove what is changed first:\n"+changed))
	}
	if err := errors.Join(t.setVersions(old, version), t.setConstant(old, version), t.closeChangelog(number, time.Now())); err != nil {
		return err
	}
	if t, err = readTree(t.folder); err != nil {
		return err
	}
	if err := t.writeAPI(ctx); err != nil {
		return err
	}
	if err := copyFile(t.apiFile(nextAPI), t.apiFile(version+".txt")); err != nil {
		return err
	}
	if err := errors.Join(t.checkTidy(ctx), t.rehearse(ctx)); err != nil {
		return fmt.Errorf("%w\nthe release is not good; git restore . takes the changes back", err)
	}
	return t.publishSteps(ctx, git, version, commit)
}

// tags are those of a release, one for each module that users get.
func (t *tree) tags(version string) []string {
	var tags []string
	for _, m := range t.released() {
		tags = append(tags, path.Join(strings.TrimPrefix(m.folder, "."), version))
	}
	return tags
}

// publishSteps commits and tags, or says how.
func (t *tree) publishSteps(ctx context.Context, git command, version string, commit bool) error {
	steps := [][]string{{"git", "add", "-A"}, {"git", "commit", "-m", "Release " + version}}
	for _, tag := range t.tags(version) {
		steps = append(steps, []string{"git", "tag", "-a", tag, "-m", "Release " + tag})
	}
	for _, s := range steps {
		if !commit {
			fmt.Printf("%s\n", quoted(s))
			continue
		}
		if _, err := git.run(ctx, s[0], s[1:]...); err != nil {
			return err
		}
	}
	fmt.Println("and when all is as it should be, all at once:")
	fmt.Printf("git push --atomic origin HEAD %s\n", strings.Join(t.tags(version), " "))
	return nil
}

func quoted(words []string) string {
	var text []string
	for _, w := range words {
		if strings.Contains(w, " ") {
			w = "'" + w + "'"
		}
		text = append(text, w)
	}
	return strings.Join(text, " ")
}

// setVersions has the modules require each other at the version, and go.work find them.
func (t *tree) setVersions(old, version string) error {
	for _, m := range t.modules {
		for _, r := range m.file.Require {
			if t.isOurs(r.Mod.Path) {
				if err := m.file.AddRequire(r.Mod.Path, version); err != nil {
					return err
				}
			}
		}
		text, err := m.file.Format()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(t.folder, filepath.FromSlash(m.folder), "go.mod"), text, 0o666); err != nil {
			return err
		}
	}
	for _, r := range t.work.Replace {
		if t.isOurs(r.Old.Path) && r.Old.Version == old {
			r.Syntax.Token[len(r.Syntax.Token)-3] = version // before the arrow and the folder
		}
	}
	return os.WriteFile(filepath.Join(t.folder, "go.work"), modfile.Format(t.work.Syntax), 0o666)
}

// setConstant gives the constant of package internal/release the version's name, wherever it is named.
func (t *tree) setConstant(old, version string) error {
	before := regexp.MustCompile(`\b` + constantName(old) + `\b`)
	return filepath.WalkDir(t.folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() != "release.go" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, before.ReplaceAll(text, []byte(constantName(version))), 0o666)
	})
}

var unreleased = regexp.MustCompile(`(?m)^## Unreleased.*\n`)

// closeChangelog begins the section of the release where that of what is not released begins.
func (t *tree) closeChangelog(number string, on time.Time) error {
	name := filepath.Join(t.folder, "CHANGELOG.md")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	heading := fmt.Sprintf("## %s", number)
	at := unreleased.FindIndex(text)
	if at == nil {
		return errors.New("CHANGELOG.md has no section \"## Unreleased\"")
	}
	before, after := string(text[:at[0]]), string(text[at[1]:])
	switch {
	case strings.Contains(string(text), heading+" "), strings.Contains(string(text), heading+"\n"):
		return fmt.Errorf("CHANGELOG.md has a section %q already", heading)
	case !strings.Contains(strings.SplitN(after, "\n## ", 2)[0], "\n- "):
		return errors.New("CHANGELOG.md says nothing of this release")
	}
	heading += " (" + on.Format(time.DateOnly) + ")\n"
	return os.WriteFile(name, []byte(before+"## Unreleased\n\n"+heading+after), 0o666)
}
