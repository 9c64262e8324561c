package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersion(t *testing.T) {
	system := []debug.BuildSetting{{Key: "GOOS", Value: "linux"}, {Key: "GOARCH", Value: "amd64"}}
	for _, c := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, "(devel)"},
		{&debug.BuildInfo{GoVersion: "go1.25", Settings: system}, "(devel), go1.25 linux/amd64"},
		{&debug.BuildInfo{GoVersion: "go1.25", Main: debug.Module{Version: "v0.1.0"}, Settings: system}, "v0.1.0, go1.25 linux/amd64"},
		{&debug.BuildInfo{GoVersion: "go1.25", Main: debug.Module{Version: "(devel)"}, Settings: append([]debug.BuildSetting{
			{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
		}, system...)}, "(devel), commit abc with changes of 2026-01-02T03:04:05Z, go1.25 linux/amd64"},
	} {
		if got := fullVersion(c.info); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if r := run(t.Context(), nil, "", "version"); r.code != exitOK || !strings.HasPrefix(r.out, "petrel ") || !strings.Contains(r.out, ", go1") {
		t.Errorf("%+v", r)
	}
}
