package outbox

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	for _, bad := range []Table{"", "1a", "a.b.c", "a-b", "a;b", ".a", "a.", "ä", Table(strings.Repeat("a", 41))} {
		if _, err := bad.SQLiteMigration(); err == nil {
			t.Errorf("%q is a table", bad)
		}
		if _, err := bad.PostgreSQLMigration(); err == nil {
			t.Errorf("%q is a table", bad)
		}
		if err := bad.Publish(t.Context(), nil, "t", nil); err == nil {
			t.Errorf("published into %q", bad)
		}
	}
	for _, good := range []Table{"a", "_a1", "billing.Outbox"} {
		text, err := good.SQLiteMigration()
		if err != nil || strings.Contains(text, "{") || !strings.Contains(text, "CREATE TABLE "+string(good)+" (") {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestPairs(t *testing.T) {
	for _, bad := range []string{"", "{}", `["a"]`, `[["a"]]`, `[["a","b","c"]]`, `[["a",1]]`} {
		if _, err := unmarshalPairs(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	for _, good := range []string{`[]`, `[["a","b"],["",""],["a","\u0001"]]`} {
		p, err := unmarshalPairs(good)
		if err != nil || marshalPairs(p) != good {
			t.Errorf("%q: %v, %v", good, p, err)
		}
	}
}

func FuzzPairs(f *testing.F) {
	f.Add(`[["name","value"],["ä","\\"]]`)
	f.Add(`[["a"]]`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := unmarshalPairs(text)
		if err != nil {
			return
		}
		again, err := unmarshalPairs(marshalPairs(p))
		if err != nil || len(again) != len(p) {
			t.Fatalf("%q: %v, then %v, %v", text, p, again, err)
		}
		for i := range p {
			if p[i] != again[i] {
				t.Fatalf("%q: %v, then %v", text, p, again)
			}
		}
	})
}
