package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, folder string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// sample is a repository of three modules, of which one is not released.
func sample(t *testing.T) string {
	folder := t.TempDir()
	write(t, folder, map[string]string{
		"go.work":                     "go 1.25\n\nuse (\n\t.\n\t./sub\n\t./bench\n)\n\nreplace example.com/m v0.1.0 => ./\n",
		"go.mod":                      "module example.com/m\n\ngo 1.25\n",
		"sub/go.mod":                  "module example.com/m/sub\n\ngo 1.25\n\nrequire example.com/m v0.1.0\n",
		"bench/go.mod":                "// Not released: a test.\nmodule example.com/m/bench\n\ngo 1.25\n\nrequire example.com/m v0.1.0\n",
		"internal/release/release.go": "package release\n\nconst V0_1_0 = true\n",
		"sub/sub.go":                  "package sub\n\nimport _ \"example.com/m/internal/x\"\n",
		"CHANGELOG.md":                "# Changelog\n\n## Unreleased, to be 0.1.0\n\n- a thing\n\n## 0.0.9 (2020-01-01)\n\n- old\n",
	})
	return folder
}

func read(t *testing.T, folder, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestVersions(t *testing.T) {
	folder := sample(t)
	tr, err := readTree(folder)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := tr.version(); err != nil || v != "v0.1.0" {
		t.Fatalf("%s, %v", v, err)
	}
	if got := tr.tags("v0.2.0"); !slices.Equal(got, []string{"v0.2.0", "sub/v0.2.0"}) {
		t.Errorf("tags %q", got)
	}
	if err := tr.setVersions("v0.1.0", "v0.2.0"); err != nil {
		t.Fatal(err)
	}
	if err := tr.setConstant("v0.1.0", "v0.2.0"); err != nil {
		t.Fatal(err)
	}
	if tr, err = readTree(folder); err != nil {
		t.Fatal(err)
	}
	if v, err := tr.version(); err != nil || v != "v0.2.0" {
		t.Errorf("%s, %v", v, err)
	}
	if text := read(t, folder, "internal/release/release.go"); !strings.Contains(text, "const V0_2_0 = true") {
		t.Errorf("%s", text)
	}
}

// What cannot be released is told.
func TestMistakes(t *testing.T) {
	for name, c := range map[string]struct{ file, text, want string }{
		"replace":        {"sub/go.mod", "module example.com/m/sub\n\nrequire example.com/m v0.1.0\n\nreplace example.com/m => ../\n", "cannot be installed"},
		"two versions":   {"sub/go.mod", "module example.com/m/sub\n\nrequire example.com/m v0.2.0\n", "others"},
		"no version":     {"go.work", "go 1.25\n\nuse .\n", "version \"\""},
		"no line":        {"go.work", "go 1.25\n\nuse (\n\t.\n\t./sub\n)\n", "there is no line"},
		"no root module": {"go.work", "go 1.25\n\nuse ./sub\n", "own folder"},
	} {
		folder := sample(t)
		write(t, folder, map[string]string{c.file: c.text})
		tr, err := readTree(folder)
		if err == nil {
			_, err = tr.version()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSkew(t *testing.T) {
	folder := sample(t)
	tr, err := readTree(folder)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{tree: tr, version: "v0.1.0"}
	if err := s.checkSkew(); err == nil || !strings.Contains(err.Error(), "example.com/m/sub uses internal packages") {
		t.Errorf("%v", err)
	}
	write(t, folder, map[string]string{"sub/release.go": "package sub\n\nconst _ = release.V0_1_0\n"})
	if err := s.checkSkew(); err != nil {
		t.Error(err)
	}
}

func TestChangelog(t *testing.T) {
	folder := sample(t)
	tr := &tree{folder: folder}
	day := time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC)
	if err := tr.closeChangelog("0.1.0", day); err != nil {
		t.Fatal(err)
	}
	want := "# Changelog\n\n## Unreleased\n\n## 0.1.0 (2026-02-03)\n\n- a thing\n\n## 0.0.9 (2020-01-01)\n\n- old\n"
	if got := read(t, folder, "CHANGELOG.md"); got != want {
		t.Errorf("%s", got)
	}
	if err := tr.closeChangelog("0.1.0", day); err == nil {
		t.Error("a section that is there is made again")
	}
	if err := tr.closeChangelog("0.2.0", day); err == nil {
		t.Error("a release of nothing")
	}
}

func TestWithoutDirect(t *testing.T) {
	for in, want := range map[string]string{
		"https://a,direct": "https://a", "https://a|https://b,direct": "https://a|https://b", "direct": "direct", "off": "off", "": "off",
	} {
		if got := withoutDirect(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestDifference(t *testing.T) {
	before, after := []string{"a", "b", "c"}, []string{"a", "c", "d"}
	if got, want := changes(difference(before, after), difference(after, before)), "- b\n+ d\n"; got != want {
		t.Errorf("%q", got)
	}
}
