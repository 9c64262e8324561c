package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every command has a page, in which no line is taken for a request of troff that is a text.
func TestManualPages(t *testing.T) {
	folder := t.TempDir()
	if r := run(t.Context(), nil, "", "man", folder); r != (result{}) {
		t.Fatalf("%+v", r)
	}
	for name, want := range map[string][]string{
		"petrel":        {`.TH "PETREL" "1"`, `petrel\-pub(1)`, `.SH "EXAMPLES"`},
		"petrel-pub":    {`.B "\-t, \-\-topic TOPIC"`, `.SH "CONNECTION"`, `\&tail \-f readings.log`},
		"petrel-sub":    {`\en, \er, \et`, `%p payload`, `.B "\-\-help"`},
		"petrel-broker": {"docs/broker.md"}, "petrel-bench-rpc": {`petrel\-bench(1)`},
	} {
		page, err := os.ReadFile(filepath.Join(folder, name+".1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(strings.ReplaceAll(string(page), `\&  tail`, `\&tail`), w) {
				t.Errorf("%s.1 does not contain %q:\n%s", name, w, page)
			}
		}
		if i := strings.IndexFunc(string(page), func(r rune) bool { return r >= 0x80 }); i >= 0 {
			t.Errorf("%s.1 has a character that is not ASCII: %.20s", name, page[i:])
		}
		for line := range strings.Lines(string(page)) {
			if !strings.HasPrefix(line, `\&`) && !strings.HasPrefix(line, ".") {
				t.Errorf("%s.1: %q", name, line)
			}
		}
	}
}
