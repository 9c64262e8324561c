package mqtt_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What needs MQTT 5 does not compile with a 3.1.1 client.
func TestVersionsAreTypes(t *testing.T) {
	const file = "testdata/versions/versions.go"
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want []int
	for i, line := range strings.Split(string(source), "\n") {
		if strings.HasSuffix(line, "// must not compile") {
			want = append(want, i+1)
		}
	}
	out, err := exec.Command("go", "build", "-gcflags=-e", "./testdata/versions").CombinedOutput()
	if err == nil {
		t.Fatal("it compiles")
	}
	var got []int
	for _, m := range regexp.MustCompile(`versions\.go:(\d+):`).FindAllSubmatch(out, -1) {
		line, _ := strconv.Atoi(string(m[1]))
		got = append(got, line)
	}
	got = slices.Compact(got)
	if !slices.Equal(got, want) {
		t.Errorf("refused lines %v, want %v; the compiler said:\n%s", got, want, out)
	}
}
